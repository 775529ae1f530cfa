//! Who belongs to the ranges: nodes that join, are promoted, and leave.
//!
//! The records of the system range say which nodes there are; an operator's word puts one there or marks one as removed.
//! The leader of each range brings its range's members in line with them, one step at a time, once a second:
//!
//! ```text
//!  (no member) ──has a record──> learner ──has caught up, room among the voters──> voter ──marked as removed──> (no member)
//! ```
//!
//! A leader that is to leave hands its leadership over first. Where a voter leaves and a learner stands by, the one takes the
//! other's place in a single (joint) change, so that never fewer copies vote than before.

use std::time::Duration;

use dstore_raft::{Change, NodeId, ProgressState, Status as RaftStatus, Time};
use dstore_storage::layout::{local, system};
use dstore_storage::{Direction, Engine, LogIndex, Position, RangeId, Reader, WriteOp};
use prost::Message as _;

use crate::node::RANGES;
use crate::wire::{Administered, Join, MemberAddress, NodeRecord, Remove};
use crate::{Node, NodeError, Now, SYSTEM_RANGE};

/// A member that was silent for longer does not count as one that could take over.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// What a removed node had executed is remembered for so long: far longer than the longest request timeout.
const REMEMBERED_MS: u64 = 3_600_000;

/// The next step towards the members that a range should have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// They are as they should be, or nothing can be done now.
    Nothing,
    /// Give leadership to another, who goes on.
    HandOver(NodeId),
    /// Change the members.
    Change(Vec<Change>),
}

/// What the next step is judged by.
struct Scene<'a> {
    status: &'a RaftStatus,
    records: &'a [NodeRecord],
    voters_max: usize,
    /// Removed nodes that have to stay for now.
    kept: &'a [NodeId],
    /// A learner with everything up to here has caught up.
    caught_up_at: LogIndex,
    now: Time,
}

impl Scene<'_> {
    fn is_removed(&self, node: NodeId) -> bool {
        self.records.iter().any(|record| record.node == node.0 && record.is_removed())
    }

    /// A node that has to go now.
    fn must_go(&self, node: NodeId) -> bool {
        self.is_removed(node) && !self.kept.contains(&node)
    }

    /// Learners that could vote: they answer and have caught up.
    fn ready_learners(&self) -> Vec<NodeId> {
        let configuration = &self.status.configuration;
        let peers = self.status.peers.iter().filter(|peer| {
            configuration.learners().contains(&peer.id)
                && !self.is_removed(peer.id)
                && peer.state == ProgressState::Replicate
                && peer.matched.0 >= self.caught_up_at.0
                && self.now.since(peer.heard_at) < SILENT_AFTER
        });
        peers.map(|peer| peer.id).collect()
    }

    /// The voter that could lead in this node's place.
    fn successor(&self) -> Option<NodeId> {
        let peers =
            self.status.peers.iter().filter(|peer| {
                peer.is_voter && !self.is_removed(peer.id) && self.now.since(peer.heard_at) < SILENT_AFTER
            });
        peers.max_by_key(|peer| peer.matched).map(|peer| peer.id)
    }

    fn next_step(&self) -> Step {
        let configuration = &self.status.configuration;
        let members = configuration.members();
        let mut ready = self.ready_learners().into_iter();
        let leaving = members.iter().copied().filter(|node| self.must_go(*node));
        let mut others = leaving.filter(|node| *node != self.status.id);
        if let Some(node) = others.next() {
            let replaces = configuration.is_voter(node) && configuration.voters().len() <= self.voters_max;
            let stand_in = ready.next().filter(|_| replaces).map(Change::AddVoter);
            return Step::Change(std::iter::once(Change::Remove(node)).chain(stand_in).collect());
        }
        if self.must_go(self.status.id) {
            match (self.successor(), ready.next()) {
                (Some(to), _) => return Step::HandOver(to),
                // It is the only one that votes: another must first.
                (None, Some(learner)) => return Step::Change(vec![Change::AddVoter(learner)]),
                // Nor does anybody learn yet: see below.
                (None, None) => {}
            }
        }
        let strangers = self.records.iter().filter(|record| !record.is_removed());
        let strangers = strangers.map(|record| NodeId(record.node)).filter(|node| !members.contains(node));
        let new: Vec<Change> = strangers.map(Change::AddLearner).collect();
        if !new.is_empty() {
            return Step::Change(new);
        }
        let room = self.voters_max.saturating_sub(configuration.voters().len());
        let promoted: Vec<Change> = ready.take(room).map(Change::AddVoter).collect();
        if promoted.is_empty() { Step::Nothing } else { Step::Change(promoted) }
    }
}

impl<E: Engine> Node<E> {
    /// Brings the members of the ranges that this node leads a step nearer to what the system range says. True while they are
    /// on the way.
    pub(crate) fn govern(&mut self, now: Now) -> Result<bool, NodeError> {
        let led = self.groups.iter().filter(|(_, group)| group.serving().is_some());
        let led: Vec<RangeId> = led.map(|(range, _)| *range).collect();
        if led.is_empty() {
            return Ok(false);
        }
        if !self.knows_nodes() {
            return Ok(self.lead_no_more(now, &led));
        }
        let records = Self::node_records(&self.engine)?;
        let mut busy = false;
        for range in led {
            let kept = if range == SYSTEM_RANGE { self.not_gone_elsewhere(now, &records)? } else { Vec::new() };
            busy |= self.govern_range(now, range, &records, &kept) || !kept.is_empty();
            self.forget_removed(now, range, &records)?;
        }
        Ok(busy)
    }

    /// Whether this node has the system range, which says which nodes there are. One that joined gets it some time, unless it is
    /// removed before that.
    fn knows_nodes(&self) -> bool {
        let group = self.groups.get(&SYSTEM_RANGE);
        group.is_some_and(|group| group.replica.applied().position != Position::default())
    }

    /// A leader that does not see which nodes there are cannot let any in or go, itself included: others should lead.
    fn lead_no_more(&mut self, now: Now, led: &[RangeId]) -> bool {
        mark!(LeadsUninformed);
        for range in led {
            match self.hand_over_range(now, *range, None) {
                Ok(to) => tracing::info!("range {range}: leadership goes to node {to:016x}, which knows the nodes"),
                Err(error) => tracing::debug!("range {range}: keeping leadership: {error}"),
            }
        }
        true
    }

    /// Nobody asks again for what a removed gateway had executed, once its requests have timed out everywhere.
    fn forget_removed(&mut self, now: Now, range: RangeId, records: &[NodeRecord]) -> Result<(), NodeError> {
        let long_gone = |record: &&NodeRecord| {
            record.is_removed() && now.wall_ms() > record.removed_at_ms.saturating_add(REMEMBERED_MS)
        };
        for record in records.iter().filter(long_gone) {
            let start = local::request_bound(range, record.node, 0);
            let end = local::request_bound(range, record.node, u64::MAX);
            let remembers = self.engine.scan(&start..&end, Direction::Forward)?.entry().is_some();
            if let Some(group) = self.groups.get_mut(&range).filter(|_| remembers) {
                group.replica.put(now, WriteOp::DeleteRange { start: start.into(), end: end.into() });
            }
        }
        Ok(())
    }

    /// Removed nodes that belong to another range yet, as far as is known here. They leave the system range last: whoever leads
    /// a range has to see which nodes there are.
    fn not_gone_elsewhere(&mut self, now: Now, records: &[NodeRecord]) -> Result<Vec<NodeId>, NodeError> {
        let members = self.groups.get(&SYSTEM_RANGE).map(|group| group.raft.configuration().members());
        let members = members.unwrap_or_default();
        let mut kept = Vec::new();
        for record in records.iter().filter(|record| record.is_removed() && members.contains(&NodeId(record.node))) {
            for range in RANGES.into_iter().filter(|range| *range != SYSTEM_RANGE) {
                if !self.is_gone(now, range, record.node)? {
                    kept.push(NodeId(record.node));
                }
            }
        }
        Ok(kept)
    }

    /// True if the range's members change, or should.
    fn govern_range(&mut self, now: Now, range: RangeId, records: &[NodeRecord], kept: &[NodeId]) -> bool {
        let Some(group) = self.groups.get_mut(&range) else { return false };
        let status = group.status();
        let commit = LogIndex(status.commit.0);
        let caught_up_at = std::mem::replace(&mut group.governed_at, commit);
        if status.configuration.is_joint() {
            return true;
        }
        let voters_max = self.limits.voters_max;
        let scene = Scene { status: &status, records, voters_max, kept, caught_up_at, now: now.mono };
        let step = scene.next_step();
        let busy = step != Step::Nothing;
        match step {
            Step::Nothing => {}
            Step::HandOver(to) => match self.hand_over_range(now, range, Some(to.0)) {
                Ok(to) => tracing::info!("range {range}: this node is to leave and hands leadership to node {to:016x}"),
                Err(error) => tracing::debug!("range {range}: keeping leadership: {error}"),
            },
            Step::Change(changes) => self.change_members(range, &changes),
        }
        busy
    }

    /// Whether a removed node has no part in a range any more, as far as this node knows.
    pub(crate) fn is_out(&self, node: u64, range: RangeId) -> bool {
        let group = self.groups.get(&range);
        let is_member = group.is_some_and(|group| group.raft.configuration().is_member(NodeId(node)));
        self.roster.is_removed(node) && !is_member
    }

    fn change_members(&mut self, range: RangeId, changes: &[Change]) {
        self.seal(range);
        let Some(group) = self.groups.get_mut(&range) else { return };
        match group.raft.propose_change(changes) {
            Ok(_) => {
                tracing::info!("range {range}: members change: {}", describe(changes));
                self.tell_peers();
            }
            Err(refused) => tracing::debug!("range {range}: members do not change yet: {refused}"),
        }
    }

    /// A node wants to be a member.
    pub(crate) fn administer_join(&mut self, now: Now, join: &Join) -> Result<Administered, NodeError> {
        if let Some(elsewhere) = self.elsewhere(SYSTEM_RANGE) {
            return Ok(elsewhere);
        }
        let refused = |error: String| Ok(Administered { error, ..Administered::default() });
        let Join { node, incarnation, peer_address, version } = join.clone();
        if node == 0 || peer_address.is_empty() {
            return refused("a node that joins has an id and an address for its peers".to_owned());
        }
        if self.roster.is_removed(node) {
            return refused(format!("node {node:016x} was removed from this cluster: it needs a new data directory"));
        }
        if self.peer_address.is_empty() {
            return refused(
                "this node has no address for peers: start it with --peer-listen and --cluster-secret-file".to_owned(),
            );
        }
        let taken = self
            .roster
            .all()
            .find(|known| known.peer_address == peer_address && known.node != node && !known.is_removed());
        if let Some(taken) = taken {
            return refused(format!(
                "{peer_address} is the address of node {:016x}: if that has lost its disk, remove it first (dstore cluster \
                 remove {:016x})",
                taken.node, taken.node
            ));
        }
        if self.node_record(node)?.is_some() {
            return Ok(Administered {
                done: format!("node {node:016x} is a member"),
                members: self.member_addresses(),
                ..Administered::default()
            });
        }
        let record = NodeRecord { node, incarnation, peer_address, version, ..NodeRecord::default() };
        self.put_node(now, &record)?;
        Ok(Administered { pending: true, done: format!("node {node:016x} joins"), ..Administered::default() })
    }

    /// A node is to be a member no more.
    pub(crate) fn administer_remove(&mut self, now: Now, remove: &Remove) -> Result<Administered, NodeError> {
        if let Some(elsewhere) = self.elsewhere(SYSTEM_RANGE) {
            return Ok(elsewhere);
        }
        let refused = |error: String| Ok(Administered { error, ..Administered::default() });
        let node = remove.node;
        let group = self.groups.get(&SYSTEM_RANGE);
        let belongs = group.is_some_and(|group| group.raft.configuration().is_member(NodeId(node)));
        let record = self.node_record(node)?;
        if record.is_none() && !belongs {
            return refused(format!("there is no node {node:016x} in this cluster"));
        }
        if record.as_ref().is_some_and(NodeRecord::is_removed) {
            let mut ranges = 0;
            for range in RANGES {
                ranges += usize::from(!self.is_gone(now, range, node)?);
            }
            let done = match ranges {
                0 => format!("node {node:016x} is removed"),
                left => format!("node {node:016x} leaves, {left} of {} ranges to go", self.groups.len()),
            };
            let members = self.member_addresses();
            return Ok(Administered { done, pending: ranges > 0, members, ..Administered::default() });
        }
        if let Some(error) = self.cannot_spare(now, NodeId(node)).filter(|_| !remove.force) {
            mark!(RemovalRefused);
            return refused(error);
        }
        let known = record.or_else(|| self.roster.get(node).cloned()).unwrap_or_default();
        let removed = NodeRecord { node, removed_at_ms: now.wall_ms().max(1), ..known };
        self.put_node(now, &removed)?;
        let (done, members) = (format!("node {node:016x} leaves"), self.member_addresses());
        Ok(Administered { pending: true, done, members, ..Administered::default() })
    }

    /// Why the cluster cannot go on without a node, if so, as this leader of the system range sees it.
    fn cannot_spare(&self, now: Now, node: NodeId) -> Option<String> {
        let status = self.groups.get(&SYSTEM_RANGE)?.status();
        let answers = |id: NodeId| {
            let peer = status.peers.iter().find(|peer| peer.id == id);
            id == status.id || peer.is_some_and(|peer| now.mono.since(peer.heard_at) < SILENT_AFTER)
        };
        let configuration = &status.configuration;
        let rest = |ids: &[NodeId]| ids.iter().copied().filter(|id| *id != node).collect::<Vec<_>>();
        let (voters, learners) = (rest(configuration.voters()), rest(configuration.learners()));
        let alive = voters.iter().filter(|id| answers(**id)).count();
        let follows = |id: NodeId| {
            let peer = status.peers.iter().find(|peer| peer.id == id);
            answers(id) && peer.is_some_and(|peer| peer.state == ProgressState::Replicate)
        };
        if voters.is_empty() && !learners.iter().any(|id| answers(*id)) {
            return Some(format!("node {:016x} is the only one with the data", node.0));
        }
        // A learner takes its vote in the same step.
        let replaced =
            voters.len() < configuration.voters().len() && configuration.voters().len() <= self.limits.voters_max;
        let stands_in = usize::from(replaced && learners.iter().any(|id| follows(*id)));
        let (alive, voting) = (alive + stands_in, voters.len() + stands_in);
        let needed = voting / 2 + 1;
        (alive < needed && !voters.is_empty()).then(|| {
            format!(
                "without node {:016x} only {alive} of {voting} voters answer, and {needed} are needed: bring others back \
                 first, or say --force",
                node.0
            )
        })
    }

    /// Where to ask, if this node does not lead a range.
    pub(crate) fn elsewhere(&self, range: RangeId) -> Option<Administered> {
        let group = self.groups.get(&range)?;
        if group.serving().is_some() {
            return None;
        }
        let leader = group.leader().map(|(leader, _)| leader.0).filter(|leader| *leader != self.identity.node.0);
        let pending = |done: &str| Administered { pending: true, done: done.to_owned(), ..Administered::default() };
        Some(match leader.map(|leader| self.roster.address(leader)) {
            Some("") => pending("another node leads, and has not said where it is"),
            Some(address) => Administered {
                error: "another node leads".to_owned(),
                peer_address: address.to_owned(),
                ..Administered::default()
            },
            None => pending("nobody leads at the moment"),
        })
    }

    fn member_addresses(&self) -> Vec<MemberAddress> {
        let members = self.roster.all().filter(|record| !record.is_removed());
        let address =
            |record: &NodeRecord| MemberAddress { node: record.node, peer_address: record.peer_address.clone() };
        members.map(address).collect()
    }

    /// Writes a node's record, unless that is under way.
    fn put_node(&mut self, now: Now, record: &NodeRecord) -> Result<(), NodeError> {
        let Some(group) = self.groups.get_mut(&SYSTEM_RANGE).filter(|group| group.serving().is_some()) else {
            return Ok(());
        };
        let key = system::node_key(record.node);
        let logged = group.replica.get(&key, &self.engine)?.and_then(|stored| NodeRecord::decode(stored).ok());
        if logged.is_none_or(|logged| record.is_removed() && !logged.is_removed()) {
            group.replica.put(now, WriteOp::Put { key, value: record.encode_to_vec().into() });
        }
        Ok(())
    }
}

fn describe(changes: &[Change]) -> String {
    let words: Vec<String> = changes
        .iter()
        .map(|change| match change {
            Change::AddVoter(node) => format!("node {:016x} votes", node.0),
            Change::AddLearner(node) => format!("node {:016x} learns", node.0),
            Change::Remove(node) => format!("node {:016x} leaves", node.0),
        })
        .collect();
    words.join(", ")
}
