//! What an operator sees.

use super::*;
use crate::progress::ProgressState;

/// A node at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its part in its term.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Its vote in the term.
    pub vote: Option<NodeId>,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// The entry after which its log begins.
    pub base: EntryId,
    /// The last entry of its log.
    pub last: EntryId,
    /// Its log is durable up to here.
    pub durable: LogIndex,
    /// Decided up to here.
    pub commit: LogIndex,
    /// Applied up to here.
    pub applied: LogIndex,
    /// The configuration in force.
    pub configuration: Configuration,
    /// Leader: until when it may read from its own state.
    pub lease_until: Option<Time>,
    /// Leader: to whom it is handing over.
    pub transferring_to: Option<NodeId>,
    /// Leader: bytes that wait for a quorum.
    pub uncommitted_bytes: u64,
    /// Leader: the other members.
    pub peers: Vec<PeerStatus>,
}

/// Another member, as its leader sees it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Which.
    pub id: NodeId,
    /// Whether it votes.
    pub is_voter: bool,
    /// How it is being fed.
    pub state: ProgressState,
    /// It has the log durably up to here.
    pub matched: LogIndex,
    /// The next entry to send it.
    pub next: LogIndex,
    /// Appends it has not answered.
    pub inflight_appends: usize,
    /// When it was last heard.
    pub heard_at: Time,
}

impl<S: LogStorage> Raft<S> {
    /// A picture of this node.
    pub fn status(&self) -> Status {
        Status {
            id: self.id,
            role: self.role,
            term: self.hard.term,
            vote: self.hard.vote,
            leader: self.leader,
            base: self.log.base(),
            last: self.log.last(),
            durable: self.log.durable(),
            commit: self.log.commit(),
            applied: self.log.applied(),
            configuration: self.configuration().clone(),
            lease_until: self.lease_until(),
            transferring_to: self.transfer.as_ref().map(|t| t.to),
            uncommitted_bytes: self.uncommitted_bytes,
            peers: self.peers.iter().map(|p| self.peer_status(p)).collect(),
        }
    }

    /// The term of an entry of the log, committed or not; `None` where the log has none, or has been shortened beyond it.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index)
    }

    fn peer_status(&self, p: &Progress) -> PeerStatus {
        PeerStatus {
            id: p.id,
            is_voter: self.configuration().is_voter(p.id),
            state: p.state,
            matched: p.matched,
            next: p.next,
            inflight_appends: p.inflight_appends(),
            heard_at: p.heard_at,
        }
    }
}

/// What an observer in a test looks at.
#[cfg(test)]
impl<S: LogStorage> Raft<S> {
    pub(crate) fn log_base(&self) -> EntryId {
        self.log.base()
    }

    pub(crate) fn entry(&self, index: LogIndex) -> Option<Entry> {
        self.log.read(index, index, u64::MAX).ok()?.pop()
    }
}
