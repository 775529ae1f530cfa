//! [`NodeStatus`]: a node as its operators see it.

use dstore_raft::Role;
use dstore_rpc::ClusterId;
use dstore_storage::{Engine, LogIndex, RangeId};

use crate::check::CheckStatus;
use crate::gateway::{DATABASES, LogUse, Stats, Usage};
use crate::wire::NodeRecord;
use crate::{DiskStatus, Node, NodeError, SYSTEM_RANGE, USER_RANGE};

/// A node at one moment.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The cluster's id.
    pub cluster: ClusterId,
    /// This node's id.
    pub node: u64,
    /// Its ranges.
    pub ranges: Vec<RangeStatus>,
    /// The members of the cluster, those that are leaving included.
    pub members: Vec<MemberStatus>,
    /// Nodes that were members.
    pub removed: Vec<u64>,
    /// Clients' requests that wait for a leader to take them.
    pub requests_held: usize,
    /// It was removed from the cluster, and sends its clients away.
    pub is_leaving: bool,
    /// Clients connected.
    pub clients: usize,
    /// Keys per database, expired ones that are still there included.
    pub keys: [u64; DATABASES as usize],
    /// Counters since the start.
    pub stats: Stats,
    /// What the process uses.
    pub usage: Usage,
    /// How its disk is.
    pub disk: DiskStatus,
    /// What the log uses.
    pub log: LogUse,
}

/// A range at this node.
#[derive(Clone, Debug)]
pub struct RangeStatus {
    /// Which.
    pub range: RangeId,
    /// This node's part in it: `leader`, `follower`, `candidate`.
    pub role: &'static str,
    /// Its term.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<u64>,
    /// Whether this node leads and takes commands.
    pub is_serving: bool,
    /// Everything up to here is decided.
    pub commit: u64,
    /// Everything up to here is in the data.
    pub applied: u64,
    /// The last entry of the log.
    pub last: u64,
    /// The last entry of the log that is durable here.
    pub durable: u64,
    /// The entry before the first of the log.
    pub begin: u64,
    /// As its leader, how far each other member has the log durably.
    pub matched: Vec<(u64, u64)>,
    /// As its leader, the last comparison of replicas.
    pub check: Option<CheckStatus>,
}

/// A member of the cluster.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its id.
    pub node: u64,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where clients reach it; empty until it has said so.
    pub client_address: String,
    /// Its version; empty until it has said so.
    pub version: String,
    /// Its part in the range of user data, as far as this node knows.
    pub part: Part,
    /// This node is sending it a snapshot.
    pub is_receiving_snapshot: bool,
    /// It was removed, and some range counts on it still.
    pub is_leaving: bool,
}

/// A node's part in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It votes.
    Voter,
    /// It has a copy, or is on its way to one, and does not vote.
    Learner,
    /// It does not belong to the range, yet or any more.
    None,
}

impl Part {
    /// Its name in INFO.
    pub fn name(self) -> &'static str {
        match self {
            Part::Voter => "voter",
            Part::Learner => "learner",
            Part::None => "none",
        }
    }
}

impl NodeStatus {
    /// The range of user data.
    pub fn user_range(&self) -> Option<&RangeStatus> {
        self.ranges.iter().find(|range| range.range == USER_RANGE)
    }
}

impl<E: Engine> Node<E> {
    /// This node at this moment.
    ///
    /// # Errors
    ///
    /// The engine failed.
    pub fn status(&self) -> Result<NodeStatus, NodeError> {
        let belongs = |record: &&NodeRecord| {
            let id = dstore_raft::NodeId(record.node);
            !record.is_removed() || self.groups.values().any(|group| group.raft.configuration().is_member(id))
        };
        let members = self.roster.all().filter(belongs).map(|record| self.member_status(record)).collect();
        let removed = self.roster.all().filter(|record| !belongs(record)).map(|record| record.node).collect();
        let mut keys = [0; DATABASES as usize];
        if let Some(group) = self.groups.get(&USER_RANGE) {
            for (db, keys) in (0..).zip(&mut keys) {
                *keys = group.replica.key_count(db, &self.engine)?;
            }
        }
        Ok(NodeStatus {
            cluster: self.identity.cluster,
            node: self.identity.node.0,
            ranges: [SYSTEM_RANGE, USER_RANGE].into_iter().filter_map(|range| self.range_status(range)).collect(),
            members,
            removed,
            requests_held: self.held.len(),
            clients: self.sessions.len(),
            is_leaving: self.is_leaving,
            keys,
            stats: self.stats,
            usage: self.host.usage(),
            disk: self.disk_status(),
            log: self.host.log(),
        })
    }

    /// The entry up to which a range's data is applied, and the last one of its log.
    pub fn reach(&self, range: RangeId) -> Option<(LogIndex, LogIndex)> {
        let group = self.groups.get(&range)?;
        Some((group.replica.applied().position.index, LogIndex(group.status().last.index.0)))
    }

    fn member_status(&self, record: &NodeRecord) -> MemberStatus {
        let id = dstore_raft::NodeId(record.node);
        let configuration = self.groups.get(&USER_RANGE).map(|group| group.raft.configuration());
        let part = match configuration {
            Some(configuration) if configuration.is_voter(id) => Part::Voter,
            Some(configuration) if configuration.is_member(id) => Part::Learner,
            _ => Part::None,
        };
        MemberStatus {
            node: record.node,
            peer_address: record.peer_address.clone(),
            client_address: record.client_address.clone(),
            version: record.version.clone(),
            part,
            is_receiving_snapshot: self.sends_snapshot_to(USER_RANGE, record.node),
            is_leaving: record.is_removed(),
        }
    }

    fn range_status(&self, range: RangeId) -> Option<RangeStatus> {
        let group = self.groups.get(&range)?;
        let status = group.status();
        Some(RangeStatus {
            range,
            role: match status.role {
                Role::Leader => "leader",
                Role::Follower => "follower",
                Role::PreCandidate | Role::Candidate => "candidate",
            },
            term: status.term.0,
            leader: status.leader.map(|leader| leader.0),
            is_serving: group.serving().is_some(),
            commit: status.commit.0,
            applied: group.replica.applied().position.index.0,
            last: status.last.index.0,
            durable: status.durable.0,
            begin: status.base.index.0,
            matched: status.peers.iter().map(|peer| (peer.id.0, peer.matched.0)).collect(),
            check: group.check.clone(),
        })
    }
}
