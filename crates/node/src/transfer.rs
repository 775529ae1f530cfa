//! Snapshots: a follower that needs what no log holds any more gets the data itself.
//!
//! ```text
//!  leader                                                    follower
//!  Ready::snapshots_wanted                                   offer_snapshot ──> Install, taken in beside the data
//!  freeze, read what is applied in it                        handle_snapshot ──> Raft::step
//!  Raft::snapshot_produced ──> Output::SendSnapshot ═chunks═>  └─ accepted: Output::Install, log writes held back
//!  handle_snapshot_sent                                      handle_installed ──> replica as the data has it, writes go on
//! ```
//!
//! What must hold:
//!
//! 1. The position that a snapshot is said to have is read from the very state that is sent.
//! 2. Nothing is applied to the range, and nothing of it logged, between the moment consensus accepts the snapshot and the
//!    moment the data is in. The log begins anew behind the data, never before: a crash in between finds data that is
//!    ahead of the log, which is an ordinary start.
//! 3. One snapshot at a time leaves a node, and one at a time comes into a range.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use dstore_raft::{Body, Configuration, EntryId, NodeId, SnapshotMeta, Time};
use dstore_rpc::{Code, Execution, Status};
use dstore_storage::layout::{local, tag};
use dstore_storage::snapshot::{Export, Install, Spans};
use dstore_storage::{Engine, EngineError, LogOp, RangeId};
use prost::Message as _;

use crate::group::Group;
use crate::range_log::entry_id;
use crate::replica::Applied;
use crate::wire::{RaftBody, SnapshotOpening};
use crate::writes::Waiting;
use crate::{Node, NodeError, Now, Output, SYSTEM_RANGE};

/// How soon a snapshot that could not be sent is sent again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A snapshot on its way into the data of a range.
#[derive(Debug, Default)]
pub(crate) enum Installation {
    /// There is none.
    #[default]
    None,
    /// All of it has come; consensus has not said yet whether it wants it.
    Staged {
        /// The last entry in it.
        last: EntryId,
        /// The records.
        install: Install,
    },
    /// It replaces the data.
    Running,
}

/// Snapshots that leave this node.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    /// Followers that wait for one, in order.
    wanted: VecDeque<(RangeId, NodeId)>,
    current: Option<Transfer>,
    last_id: u64,
    /// No other attempt before this time.
    not_before: Option<Time>,
}

/// The snapshot under way.
#[derive(Debug)]
struct Transfer {
    id: u64,
    range: RangeId,
    to: NodeId,
    /// Gone once the driver has it.
    export: Option<Export>,
}

/// The keys that make up a range.
pub fn spans_of(range: RangeId) -> Spans {
    let local = local::span(range);
    let mut spans = vec![Bytes::from(local.start)..Bytes::from(local.end)];
    let whole = |tag: u8| Bytes::from(vec![tag])..Bytes::from(vec![tag + 1]);
    if range == SYSTEM_RANGE {
        spans.push(whole(tag::SYSTEM));
    } else {
        spans.extend([whole(tag::USER), whole(tag::TRANSACTION)]);
    }
    Spans::new(spans).expect("tags ascend")
}

impl Group {
    /// Consensus has accepted the snapshot that came: it replaces the data, and only then the log begins anew.
    pub(crate) fn install(
        &mut self,
        now: Time,
        snapshot: &SnapshotMeta,
        waiting: Waiting,
        ops: Vec<LogOp>,
        outputs: &mut VecDeque<Output>,
    ) {
        let range = self.replica.range();
        let Installation::Staged { last, install } = std::mem::replace(&mut self.installation, Installation::Running)
        else {
            panic!("range {range}: consensus accepts a snapshot that did not come");
        };
        assert_eq!(last, snapshot.last, "range {range}: consensus accepts the snapshot that came");
        tracing::info!("range {range}: the data is replaced by a snapshot at entry {last}");
        if !planted!(self.replica, LogBeforeData) {
            self.writes.hold();
        }
        outputs.push_back(Output::Install { range, install, ops: Vec::new() });
        self.writes.submit(now, waiting, ops, outputs);
    }

    /// The snapshot's data is in.
    fn installed<E: Engine>(&mut self, engine: &E, outputs: &mut VecDeque<Output>) -> Result<(), NodeError> {
        let range = self.replica.range();
        let applied = Applied::decode(engine.get(&Applied::key(range))?.as_deref())?;
        if !planted!(self.replica, KeepReplica) {
            self.replica.begin_again(applied);
        }
        mark!(SnapshotInstalled);
        self.installation = Installation::None;
        self.writes.let_go(outputs);
        Ok(())
    }
}

impl<E: Engine> Node<E> {
    /// A follower needs what the log does not hold any more.
    pub(crate) fn snapshot_wanted(&mut self, now: Now, range: RangeId, to: NodeId) -> Result<(), NodeError> {
        if !self.transfers.wanted.contains(&(range, to)) {
            self.transfers.wanted.push_back((range, to));
        }
        self.next_snapshot(now)
    }

    /// Begins to send the next snapshot that somebody waits for.
    pub(crate) fn next_snapshot(&mut self, now: Now) -> Result<(), NodeError> {
        if self.transfers.not_before.is_some_and(|time| now.mono < time) {
            return Ok(());
        }
        while self.transfers.current.is_none()
            && let Some((range, to)) = self.transfers.wanted.pop_front()
        {
            if self.disk.has_room(now.mono, to.0) {
                self.produce_snapshot(range, to)?;
            } else if let Some(group) = self.groups.get_mut(&range) {
                // It would refuse; it asks again.
                group.raft.snapshot_failed(to);
            }
        }
        Ok(())
    }

    #[cfg_attr(not(feature = "planted"), allow(clippy::unused_self))]
    fn spans_to_send(&self, range: RangeId) -> Spans {
        if planted!(self, RequestsStayBehind) {
            let requests = [0, u64::MAX].map(|bound| Bytes::from(local::request_bound(range, bound, bound)));
            let spans = spans_of(range);
            let [before, behind] = requests;
            let around = spans.iter().flat_map(|span| {
                let halves = [span.start.clone()..before.clone(), behind.clone()..span.end.clone()];
                if span.contains(&before) { halves.to_vec() } else { vec![span.clone()] }
            });
            return Spans::new(around.collect()).expect("they ascend");
        }
        spans_of(range)
    }

    fn produce_snapshot(&mut self, range: RangeId, to: NodeId) -> Result<(), NodeError> {
        // What is applied is committed, so a leader that does not serve yet may send it too; and one that leads no more is
        // not taken up on it.
        let spans = self.spans_to_send(range);
        let Some(group) = self.groups.get_mut(&range) else { return Ok(()) };
        if planted!(self, DropSnapshotWish) && group.serving().is_none() {
            return Ok(());
        }
        self.transfers.last_id += 1;
        let id = self.transfers.last_id;
        let export = Export::begin(&self.engine, id, spans);
        let mut applied = Applied::decode(export.reader().get(&Applied::key(range))?.as_deref())?;
        if planted!(self, SnapshotAtFlushed) {
            applied = Applied::decode(self.engine.get_persisted(&Applied::key(range))?.as_deref())?;
        }
        let members = export.reader().get(&local::members_key(range))?;
        let configuration = members.and_then(|stored| Configuration::decode(&stored).ok());
        let meta = SnapshotMeta {
            last: entry_id(applied.position),
            configuration: configuration.ok_or(NodeError::Members { range })?,
        };
        if group.raft.snapshot_produced(to, meta) {
            tracing::info!("range {range}: sending node {:016x} a snapshot at entry {}", to.0, applied.position);
            self.transfers.current = Some(Transfer { id, range, to, export: Some(export) });
        }
        Ok(())
    }

    /// Consensus has the message that goes with the snapshot.
    pub(crate) fn snapshot_ready(&mut self, range: RangeId, to: NodeId, raft: Bytes) {
        let current = self.transfers.current.as_mut().filter(|current| current.range == range && current.to == to);
        let Some((id, export)) = current.and_then(|current| Some((current.id, current.export.take()?))) else {
            return;
        };
        let body = SnapshotOpening { raft, id }.encode_to_vec().into();
        let to = dstore_rpc::NodeId(to.0);
        self.outputs.push_back(Output::SendSnapshot { to, transfer: id, body, export });
    }

    /// A snapshot was carried over whole, taken in by its receiver; or it was not.
    ///
    /// # Errors
    ///
    /// The engine failed: the node must stop.
    pub fn handle_snapshot_sent(
        &mut self,
        now: Now,
        transfer: u64,
        result: Result<(), String>,
    ) -> Result<(), NodeError> {
        let Some(Transfer { range, to, .. }) = self.transfers.current.take_if(|current| current.id == transfer) else {
            return Ok(());
        };
        if let Some(group) = self.groups.get_mut(&range) {
            match result {
                Ok(()) => {
                    tracing::info!("range {range}: node {:016x} has the snapshot", to.0);
                    group.raft.snapshot_sent(to);
                }
                Err(why) => {
                    tracing::warn!("range {range}: node {:016x} did not get the snapshot: {why}", to.0);
                    group.raft.snapshot_failed(to);
                    self.transfers.not_before = Some(now.mono + AGAIN_AFTER);
                }
            }
        }
        self.next_snapshot(now)
    }

    /// A peer wants to send a snapshot, whose stream begins with `body`: its chunks go, off the loop, into what this gives.
    ///
    /// # Errors
    ///
    /// It is not wanted now, or makes no sense, or there is no room for it.
    pub fn offer_snapshot(&mut self, from: dstore_rpc::NodeId, body: &Bytes) -> Result<(RangeId, Install), Status> {
        let refuse = |code, message: String| Status::new(code, Execution::NotExecuted, message);
        let Some((opening, range, _)) = self.snapshot_message(from, body) else {
            return Err(refuse(Code::InvalidRequest, "a snapshot's opening cannot be read".to_owned()));
        };
        let Some(group) = self.groups.get(&range) else {
            return Err(refuse(Code::InvalidRequest, format!("there is no range {range} here")));
        };
        if !matches!(group.installation, Installation::None) {
            mark!(SnapshotRefusedBusy);
            return Err(refuse(Code::Overloaded, format!("range {range} is being replaced by a snapshot already")));
        }
        if !self.takes_snapshots() {
            mark!(SnapshotRefusedFull);
            return Err(refuse(Code::Overloaded, "the disk of this node is nearly full".to_owned()));
        }
        let install = Install::begin(&self.engine, opening.id, self.spans_to_send(range));
        install.map(|install| (range, install)).map_err(|error| refuse(Code::Overloaded, error.to_string()))
    }

    /// All of a snapshot has come: `body` is what its stream began with, `install` what was made of the rest.
    pub fn handle_snapshot(&mut self, now: Now, from: dstore_rpc::NodeId, body: &Bytes, install: Install) {
        let Some((_, range, (last, message))) = self.snapshot_message(from, body) else { return };
        let Some(group) = self.groups.get_mut(&range) else { return };
        if !matches!(group.installation, Installation::None) {
            return;
        }
        group.installation = Installation::Staged { last, install };
        if let Err(error) = group.step(now.mono, message) {
            tracing::warn!("range {range}: {error}");
        }
    }

    fn snapshot_message(
        &self,
        from: dstore_rpc::NodeId,
        body: &Bytes,
    ) -> Option<(SnapshotOpening, RangeId, (EntryId, dstore_raft::Message))> {
        let opening = SnapshotOpening::decode(body.clone()).ok()?;
        let raft = RaftBody::decode(opening.raft.clone()).ok()?;
        let range = RangeId(raft.range);
        let message = raft.message(NodeId(from.0), NodeId(self.identity.node.0))?;
        let Body::Snapshot(meta) = &message.body else { return None };
        let last = meta.last;
        Some((opening, range, (last, message)))
    }

    /// What consensus did not want of what came is dropped.
    pub(crate) fn drop_unwanted_snapshot(&mut self, range: RangeId) {
        if let Some(group) = self.groups.get_mut(&range)
            && let Installation::Staged { last, .. } = &group.installation
        {
            mark!(SnapshotUnwanted);
            tracing::debug!("range {range}: a snapshot at entry {last} is out of date");
            group.installation = Installation::None;
        }
    }

    /// What was staged has replaced the data of a range.
    ///
    /// # Errors
    ///
    /// It has not, or the data cannot be read: the node must stop.
    pub fn handle_installed(
        &mut self,
        _now: Now,
        range: RangeId,
        result: Result<(), EngineError>,
    ) -> Result<(), NodeError> {
        // Consensus has accepted it already and cannot go back.
        result?;
        if let Some(group) = self.groups.get_mut(&range) {
            group.installed(&self.engine, &mut self.outputs)?;
            tracing::info!("range {range}: the snapshot is in, at entry {}", group.replica.applied().position);
        }
        Ok(())
    }

    /// Whether a snapshot is on its way out of this node.
    pub(crate) fn sends_snapshot_to(&self, range: RangeId, node: u64) -> bool {
        self.transfers.current.as_ref().is_some_and(|current| current.range == range && current.to.0 == node)
    }
}
