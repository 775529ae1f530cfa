//! [`Roster`]: which nodes there are and where their peers reach them, as far as this node knows.
//!
//! The records of the system range are the truth, but this node's copy of them may be old; what a node says of itself in a
//! later start is newer than what the range says of an earlier one. A removed node stays removed.

use std::collections::{BTreeMap, BTreeSet};

use dstore_raft::Configuration;
use dstore_rpc::NodeId;
use dstore_storage::layout::{local, system};
use dstore_storage::{Direction, Engine, Log, LogIndex, RangeId, Reader};
use prost::Message as _;

use crate::group::Group;
use crate::node::RANGES;
use crate::replica::Applied;
use crate::whereabouts::logged_records;
use crate::wire::{GREET, Greeted, NodeRecord};
use crate::{Member, Node, NodeError, Now, Output, SYSTEM_RANGE};

/// All nodes that this one knows.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    nodes: BTreeMap<u64, NodeRecord>,
    /// Nodes that have moved, by what this node's user says, and the start of which the last was known then.
    moved: BTreeMap<u64, u64>,
    /// What the driver was told: where each peer is.
    told: BTreeMap<u64, String>,
    /// How much of the system range has gone into it.
    read_at: Option<LogIndex>,
}

impl Roster {
    /// The nodes that a start begins with. Where one has moved, by what its user says, that holds until the node itself
    /// says otherwise in a later start.
    pub(crate) fn new(records: Vec<NodeRecord>, members: &[Member]) -> Roster {
        let mut roster = Roster::default();
        records.iter().for_each(|record| roster.note(record));
        for Member { node, peer_address, moved } in members {
            let known = roster.nodes.entry(node.0).or_insert_with(|| NodeRecord {
                node: node.0,
                peer_address: peer_address.clone(),
                ..NodeRecord::default()
            });
            if *moved {
                known.peer_address.clone_from(peer_address);
                roster.moved.insert(node.0, known.incarnation);
            }
        }
        roster
    }

    /// Takes in what is said of a node, unless later things are known. One that was removed stays so; until nobody needs it
    /// any more, where it is still matters.
    pub(crate) fn note(&mut self, record: &NodeRecord) {
        let known = self.nodes.entry(record.node).or_insert_with(|| record.clone());
        let removed_at_ms = if known.is_removed() { known.removed_at_ms } else { record.removed_at_ms };
        if record.incarnation >= known.incarnation {
            let place = std::mem::take(&mut known.peer_address);
            if place != record.peer_address {
                mark!(MovedNodeHeard);
            }
            known.clone_from(record);
            if self.moved.get(&record.node).is_some_and(|start| record.incarnation <= *start) {
                known.peer_address = place;
            }
        }
        known.removed_at_ms = removed_at_ms;
    }

    pub(crate) fn get(&self, node: u64) -> Option<&NodeRecord> {
        self.nodes.get(&node)
    }

    pub(crate) fn is_removed(&self, node: u64) -> bool {
        self.nodes.get(&node).is_some_and(NodeRecord::is_removed)
    }

    /// All of them, removed ones too.
    pub(crate) fn all(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// Where a node's peers reach it; empty if that is not known.
    pub(crate) fn address(&self, node: u64) -> &str {
        self.nodes.get(&node).map_or("", |record| &record.peer_address)
    }

    /// What the driver has to be told: peers that are somewhere else now, or no peers any more. `needed` are those that
    /// still belong to some range, removed or not.
    fn changes(&mut self, me: u64, needed: &BTreeSet<u64>) -> Vec<(u64, Option<String>)> {
        let is_peer = |record: &&NodeRecord| {
            let wanted = !record.is_removed() || needed.contains(&record.node);
            wanted && record.node != me && !record.peer_address.is_empty()
        };
        let peers = self.nodes.values().filter(is_peer);
        let wanted: BTreeMap<u64, String> = peers.map(|record| (record.node, record.peer_address.clone())).collect();
        let gone = self.told.keys().filter(|node| !wanted.contains_key(node)).map(|node| (*node, None));
        let new = wanted.iter().filter(|(node, address)| self.told.get(node) != Some(address));
        let changes = gone.chain(new.map(|(node, address)| (*node, Some(address.clone())))).collect();
        self.told = wanted;
        changes
    }

    /// The peer after `node`, round and round.
    fn peer_after(&self, node: u64) -> Option<u64> {
        self.told.range(node + 1..).chain(self.told.iter()).map(|(node, _)| *node).next()
    }
}

impl<E: Engine> Node<E> {
    /// The records of all nodes, as this node's copy of the system range has them.
    pub(crate) fn node_records(engine: &impl Reader) -> Result<Vec<NodeRecord>, NodeError> {
        let span = system::nodes_span();
        let mut cursor = engine.scan(&span.start..&span.end, Direction::Forward)?;
        let mut records = Vec::new();
        while let Some((_, value)) = cursor.entry() {
            // One that a later version has written differently is left to that version.
            records.extend(NodeRecord::decode(value).ok());
            cursor.advance()?;
        }
        Ok(records)
    }

    /// The same, and what the log says besides.
    pub(crate) fn first_records(engine: &impl Reader, log: &dyn Log) -> Result<Vec<NodeRecord>, NodeError> {
        let applied = Applied::decode(engine.get(&Applied::key(SYSTEM_RANGE))?.as_deref())?;
        let mut records = Self::node_records(engine)?;
        records.extend(logged_records(log, SYSTEM_RANGE, applied.position.index)?);
        Ok(records)
    }

    /// This node, as it is now.
    pub(crate) fn own_record(&self) -> NodeRecord {
        NodeRecord {
            node: self.identity.node.0,
            incarnation: self.identity.incarnation.0,
            peer_address: self.peer_address.clone(),
            client_address: self.facts.client_address.clone(),
            version: self.facts.version.to_owned(),
            removed_at_ms: 0,
        }
    }

    /// Takes in what the system range has been told since it was last looked at.
    pub(crate) fn refresh_roster(&mut self) -> Result<(), NodeError> {
        let applied = self.groups.get(&SYSTEM_RANGE).map(|group| group.replica.applied().position.index);
        if self.roster.read_at != applied {
            for record in Self::node_records(&self.engine)? {
                self.roster.note(&record);
            }
            self.roster.read_at = applied;
            self.tell_peers();
        }
        Ok(())
    }

    /// Tells the driver of peers that have moved, come or gone.
    pub(crate) fn tell_peers(&mut self) {
        let me = self.identity.node.0;
        if self.roster.is_removed(me) {
            self.begin_to_leave();
        }
        if self.has_left() {
            self.note_own_removal();
        }
        let groups = || self.groups.values();
        let members = groups().flat_map(|group| group.raft.configuration().members());
        let leaders = groups().filter_map(|group| group.leader().map(|(leader, _)| leader));
        let mut needed: BTreeSet<u64> = members.chain(leaders).map(|node| node.0).collect();
        if groups().any(|group| !group.raft.configuration().is_member(dstore_raft::NodeId(me))) {
            // This copy is from before this node came, so it does not tell on whom the range counts.
            needed.extend(self.roster.all().map(|record| record.node));
        }
        for (node, address) in self.roster.changes(me, &needed) {
            self.outputs.push_back(Output::Peer { node: NodeId(node), address });
        }
    }

    /// Whether this node was removed, and no range counts on it any more, as their leaders have told. Before that it must not
    /// go: its vote may be needed for the change that lets it go.
    fn has_left(&self) -> bool {
        let told = self.groups.keys().all(|range| self.left.contains(range));
        told || (planted!(self, LeaveAtOnce) && self.roster.is_removed(self.identity.node.0))
    }

    /// Whether a removed node has left a range that this node leads, for good: the members that are applied, and so
    /// committed, do not name it. Nobody else could say so: an old copy may be one from before it joined.
    fn has_let_go(&self, now: Now, range: RangeId, node: u64) -> Result<bool, NodeError> {
        let leads = |group: &&Group| group.serving().is_some() && group.raft.holds_lease(now.mono);
        if !self.roster.is_removed(node) || self.groups.get(&range).filter(leads).is_none() {
            return Ok(false);
        }
        let stored = self.engine.get(&local::members_key(range))?;
        let members = stored.and_then(|stored| Configuration::decode(&stored).ok());
        Ok(!members.ok_or(NodeError::Members { range })?.is_member(dstore_raft::NodeId(node)))
    }

    /// Whether a removed node has left a range for good. Where another leads the range it is asked, and what it says counts
    /// when it has come.
    pub(crate) fn is_gone(&mut self, now: Now, range: RangeId, node: u64) -> Result<bool, NodeError> {
        if self.gone.contains(&(node, range)) || (node == self.identity.node.0 && self.left.contains(&range)) {
            return Ok(true);
        }
        if self.has_let_go(now, range, node)? {
            self.gone.insert((node, range));
            return Ok(true);
        }
        let Some(record) = self.roster.get(node).filter(|record| record.is_removed()).cloned() else {
            return Ok(false);
        };
        match self.groups.get(&range).and_then(Group::leader) {
            Some((leader, _)) if leader.0 == self.identity.node.0 => {}
            Some((leader, _)) => self.greet_about(NodeId(leader.0), &record),
            // This node may have left the range itself, and hears nothing of it any more.
            None => {
                let peers: Vec<u64> = self.roster.told.keys().copied().collect();
                peers.into_iter().for_each(|peer| self.greet_about(NodeId(peer), &record));
            }
        }
        Ok(false)
    }

    /// This node is removed. Its clients go while it can still answer them: once it has left the ranges, nobody tells it who
    /// leads them.
    fn begin_to_leave(&mut self) {
        if !std::mem::replace(&mut self.is_leaving, true) {
            tracing::warn!("this node is being removed from its cluster, and takes no clients any more");
            self.hang_up_all();
        }
    }

    /// This node was removed, and no range counts on it any more. The driver is told once.
    fn note_own_removal(&mut self) {
        if !std::mem::replace(&mut self.was_removed, true) {
            mark!(ToldOfOwnRemoval);
            self.outputs.push_back(Output::Removed);
        }
    }

    /// Says to a peer who this node is, and asks who else there is.
    pub(crate) fn greet(&mut self, peer: NodeId) {
        self.greet_about(peer, &self.own_record());
    }

    /// Says who this node is, or that another was removed.
    fn greet_about(&mut self, peer: NodeId, record: &NodeRecord) {
        self.last_token += 1;
        let token = self.last_token;
        self.greeting.insert(token, record.node);
        let body = GREET.encode(record);
        let timeout = self.limits.request_timeout;
        self.outputs.push_back(Output::Call { to: peer, token, method: GREET.number, body, timeout });
    }

    /// One that hears of no leader may have been removed, or its peers do not know where it is. One that knows that it was
    /// removed waits for the leaders to say that they do without it, whoever they are.
    pub(crate) fn greet_somebody(&mut self) {
        if self.is_leaving {
            let peers: Vec<u64> = self.roster.told.keys().copied().collect();
            peers.into_iter().for_each(|peer| self.greet(NodeId(peer)));
            return;
        }
        if self.groups.get(&SYSTEM_RANGE).is_some_and(|group| group.leader().is_some()) {
            return;
        }
        if let Some(peer) = self.roster.peer_after(self.last_greeted) {
            self.last_greeted = peer;
            self.greet(NodeId(peer));
        }
    }

    /// Whether a range counts on a node. After a crash the data may be from before that node came, while the log has the change
    /// already, and waits for its vote.
    pub(crate) fn is_counted_on(&self, node: u64) -> bool {
        let id = dstore_raft::NodeId(node);
        self.groups.values().any(|group| group.raft.configuration().is_member(id))
    }

    /// A peer says who it is, or that another was removed. One that is unknown here has come while this node was away, perhaps
    /// in place of all that it knows, and may lead it: it is heard, and told where this node is.
    pub(crate) fn greeted_by(&mut self, now: Now, from: NodeId, record: &NodeRecord) -> Result<Greeted, NodeError> {
        if record.is_removed() {
            self.roster.note(record);
        } else if record.node == from.0 {
            self.roster.note(record);
            self.note_node(now, record)?;
        }
        self.tell_peers();
        let mut left = Vec::new();
        for range in RANGES {
            if self.has_let_go(now, range, record.node)? {
                left.push(range.0);
            }
        }
        Ok(Greeted { left, nodes: self.roster.all().cloned().collect() })
    }

    /// A peer says who else there is, and whether a node has left.
    pub(crate) fn greeted(&mut self, about: u64, greeted: &Greeted) {
        greeted.nodes.iter().for_each(|record| self.roster.note(record));
        let left = greeted.left.iter().map(|range| RangeId(*range));
        if about == self.identity.node.0 {
            self.left.extend(left);
        } else {
            self.gone.extend(left.map(|range| (about, range)));
        }
        self.tell_peers();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(node: u64, incarnation: u64, address: &str) -> NodeRecord {
        NodeRecord { node, incarnation, peer_address: address.to_owned(), ..NodeRecord::default() }
    }

    fn founder(node: u64, address: &str, moved: bool) -> Member {
        Member { node: NodeId(node), peer_address: address.to_owned(), moved }
    }

    #[test]
    fn a_later_start_is_believed_and_an_earlier_is_not() {
        let mut roster =
            Roster::new(vec![record(1, 5, "a:1")], &[founder(1, "old:1", false), founder(2, "b:1", false)]);
        assert_eq!((roster.address(1), roster.address(2), roster.address(3)), ("a:1", "b:1", ""));
        roster.note(&record(1, 4, "before:1"));
        assert_eq!(roster.address(1), "a:1");
        roster.note(&record(1, 6, "c:1"));
        assert_eq!(roster.address(1), "c:1");
    }

    #[test]
    fn what_the_user_says_of_a_move_holds_until_the_node_says_otherwise() {
        let mut roster = Roster::new(vec![record(1, 5, "a:1")], &[founder(1, "moved:1", true)]);
        assert_eq!(roster.address(1), "moved:1");
        roster.note(&record(1, 5, "a:1"));
        assert_eq!(roster.address(1), "moved:1", "that is what was out of date");
        roster.note(&record(1, 6, "again:1"));
        assert_eq!(roster.address(1), "again:1");
    }

    #[test]
    fn a_removed_node_stays_removed() {
        let mut roster = Roster::new(vec![record(1, 5, "a:1")], &[]);
        roster.note(&NodeRecord { removed_at_ms: 9, ..record(1, 5, "a:1") });
        roster.note(&record(1, 7, "b:1"));
        assert!(roster.is_removed(1));
        assert_eq!(roster.address(1), "b:1", "who still needs it finds it");
    }

    #[test]
    fn the_driver_is_told_of_changes_once_and_of_a_removed_peer_when_no_range_needs_it() {
        let mut roster = Roster::new(vec![record(1, 1, "a:1"), record(2, 1, "b:1")], &[]);
        let both = BTreeSet::from([1, 2]);
        assert_eq!(roster.changes(1, &both), [(2, Some("b:1".to_owned()))]);
        assert_eq!(roster.changes(1, &both), []);
        roster.note(&NodeRecord { removed_at_ms: 9, ..record(2, 1, "b:1") });
        assert_eq!(roster.changes(1, &both), [], "it is still in a configuration");
        assert_eq!(roster.changes(1, &BTreeSet::from([1])), [(2, None)]);
    }
}
