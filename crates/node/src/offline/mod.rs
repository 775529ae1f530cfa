//! What a node's log and data mean, for tools that look at them while no node runs on them; and [`Recovery`], the way
//! back after the permanent loss of a majority.
//!
//! Nothing here does I/O of its own or needs a [`Node`](crate::Node): it reads through [`Reader`] and
//! [`Log`](dstore_storage::Log), whatever is behind them, and never changes anything.

mod recovery;

pub use recovery::{RangeRecovery, Recovery, RecoveryError};

use bytes::Bytes;
use dstore_raft::{Configuration, EntryKind};
use dstore_storage::layout::{local, system};
use dstore_storage::{Direction, RangeId, Reader};
use prost::Message as _;

use crate::wire::{NodeRecord, kind_of};
use crate::{Applied, Entry, NodeError, SYSTEM_RANGE, USER_RANGE};

/// What an entry of the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Opens a leader's term.
    Blank,
    /// Who belongs to the group from here on.
    Configuration(Configuration),
    /// The effects of commands.
    Effects(Entry),
    /// This version cannot read it, because of this.
    Unreadable(String),
}

impl Content {
    /// Reads the payload of an entry of `kind`.
    #[must_use]
    pub fn of(kind: u8, payload: &Bytes) -> Content {
        match kind_of(kind.into()) {
            Some(EntryKind::Blank) => Content::Blank,
            Some(EntryKind::Config) => match Configuration::decode(payload) {
                Ok(configuration) => Content::Configuration(configuration),
                Err(error) => Content::Unreadable(error.to_string()),
            },
            Some(EntryKind::Normal) => match Entry::decode(payload) {
                Ok(entry) => Content::Effects(entry),
                Err(error) => Content::Unreadable(error.to_string()),
            },
            None => Content::Unreadable(format!("unknown kind {kind}")),
        }
    }

    /// What its kind is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Content::Blank => "blank",
            Content::Configuration(_) => "members",
            Content::Effects(_) => "effects",
            Content::Unreadable(_) => "unreadable",
        }
    }
}

/// The ranges a node has.
pub const RANGES: [RangeId; 2] = [SYSTEM_RANGE, USER_RANGE];

/// What the data says of a range itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeState {
    /// How far it is applied.
    pub applied: Applied,
    /// Its members at that point; none before anything was applied.
    pub members: Option<Configuration>,
}

impl RangeState {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// The data cannot be read, or says something that this version does not know.
    pub fn read(reader: &dyn Reader, range: RangeId) -> Result<RangeState, NodeError> {
        let applied = Applied::decode(reader.get(&Applied::key(range))?.as_deref())?;
        let members = reader.get(&local::members_key(range))?;
        let members = members.map(|stored| Configuration::decode(&stored));
        let members = members.transpose().map_err(|_| NodeError::Members { range })?;
        Ok(RangeState { applied, members })
    }
}

/// What the cluster knows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Which.
    pub node: u64,
    /// Its latest start that the cluster knows of.
    pub incarnation: u64,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
    /// Its version.
    pub version: String,
    /// When it was removed from the cluster, in milliseconds since the Unix epoch; none while it is a member.
    pub removed_at_ms: Option<u64>,
}

impl NodeInfo {
    /// Reads the value of a node's record; none if this is not one.
    #[must_use]
    pub fn of(stored: &Bytes) -> Option<NodeInfo> {
        NodeRecord::decode(stored.clone()).ok().map(NodeInfo::from)
    }

    /// All nodes that the data knows.
    ///
    /// # Errors
    ///
    /// The data cannot be read.
    pub fn all(reader: &dyn Reader) -> Result<Vec<NodeInfo>, NodeError> {
        Ok(node_records(reader)?.into_iter().map(NodeInfo::from).collect())
    }
}

impl From<NodeRecord> for NodeInfo {
    fn from(record: NodeRecord) -> NodeInfo {
        let NodeRecord { node, incarnation, peer_address, client_address, version, removed_at_ms } = record;
        let removed_at_ms = (removed_at_ms != 0).then_some(removed_at_ms);
        NodeInfo { node, incarnation, peer_address, client_address, version, removed_at_ms }
    }
}

fn node_records(reader: &dyn Reader) -> Result<Vec<NodeRecord>, NodeError> {
    let span = system::nodes_span();
    let mut cursor = reader.scan(&span.start..&span.end, Direction::Forward)?;
    let mut records = Vec::new();
    while let Some((_, value)) = cursor.entry() {
        records.extend(NodeRecord::decode(value).ok());
        cursor.advance()?;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_entry_is_told_and_garbage_is_unreadable() {
        let members = Configuration::new([dstore_raft::NodeId(1)], []);
        assert_eq!(Content::of(2, &Bytes::new()), Content::Blank);
        assert_eq!(Content::of(3, &members.encode()), Content::Configuration(members));
        let garbage = Bytes::from_static(b"\x07garbage");
        for kind in [0, 1, 3, 4, 255] {
            assert_eq!(Content::of(kind, &garbage).name(), "unreadable", "{kind}");
        }
    }
}
