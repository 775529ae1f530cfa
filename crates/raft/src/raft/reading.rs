//! Reads without the log: the leader's side, the follower's side, and the lease. What makes them right is told in
//! [`crate::reads`].

use super::*;
use crate::message::ReadContext;
use crate::reads::Waiting;
use crate::ready::{ReadDropped, ReadId, ReadReady};

impl<S: LogStorage> Raft<S> {
    /// Asks for a read to be served. Its id comes out of [`Raft::ready`], among those that may be answered or among those
    /// that will not be.
    ///
    /// # Errors
    /// If it cannot even wait.
    pub fn read(&mut self, id: ReadId) -> Result<(), ReadDropped> {
        if self.reads.len() >= self.config.reads_pending_max {
            return Err(ReadDropped::Full(self.reads.len()));
        }
        if self.role == Role::Leader {
            let waiting = self.waiting(id);
            self.reads.local.push_back(waiting);
        } else if self.leader.is_some() {
            self.reads.ask_for(id);
        } else {
            return Err(ReadDropped::NoLeader);
        }
        Ok(())
    }

    /// Until when this leader may answer reads from its own state, if at all. Compare it with a time sampled after the read
    /// arrived, at the moment it is answered: [`Raft::ready`] does that for reads that were given to [`Raft::read`].
    pub fn lease_until(&self) -> Option<Time> {
        let giving_away = self.transfer.is_some() && !planted!(self, LeaseDuringTransfer);
        if self.role != Role::Leader || giving_away || !self.has_opened_term() {
            return None;
        }
        let floor = if planted!(self, LeaseDuringTransfer) { 0 } else { self.rounds.lease_floor };
        // Zero stands for "never", so moments are counted from one.
        let moment = |at: Option<Time>| at.map_or(0, |at| at.as_nanos().saturating_add(1));
        let since = self.quorum_value(|id| match self.peer(id) {
            _ if id == self.id => moment(Some(self.now)),
            Some(p) if p.round > floor => moment(p.round_sent_at),
            _ => 0,
        });
        let lease = if planted!(self, LeaseWithoutDrift) { self.config.lease } else { self.config.leader_lease() };
        (since > 0).then(|| Time::from_nanos(since - 1) + lease)
    }

    /// Whether this node leads and its lease holds at `now`, so that state applied up to [`Raft::commit`] is the latest
    /// there is.
    pub fn holds_lease(&self, now: Time) -> bool {
        self.lease_until().is_some_and(|until| now < until || planted!(self, ReadAfterLease))
    }

    fn has_opened_term(&self) -> bool {
        self.log.commit() >= self.term_start || planted!(self, ReadBeforeTermEntry)
    }

    fn waiting<W>(&self, who: W) -> Waiting<W> {
        let after = if planted!(self, ReadByOldRound) { 0 } else { 1 };
        let index = self.has_opened_term().then(|| self.log.commit());
        Waiting { who, index, round: self.rounds.current + after }
    }

    pub(super) fn step_read_index(&mut self, from: NodeId, context: ReadContext) {
        if self.role != Role::Leader || self.reads.len() >= self.config.reads_pending_max {
            return;
        }
        let waiting = self.waiting((from, context));
        self.reads.remote.push_back(waiting);
    }

    pub(super) fn step_read_index_reply(&mut self, context: ReadContext, index: LogIndex) {
        self.reads.answered(context, index, planted!(self, ReadByOldContext));
    }

    /// A follower's question, if there is one to ask.
    pub(super) fn ask_leader(&mut self) {
        if let Some(leader) = self.leader
            && let Some(context) = self.reads.take_question(self.now)
        {
            mark!(ReadOfFollower);
            self.send_bound_to_term(leader, Body::ReadIndex { context });
        }
    }

    /// Serves what the leader may serve; begins a round for what needs one. Returns its own reads that the lease lets it
    /// answer now; those that a round confirmed come out with [`Reads::take_ready`].
    pub(super) fn serve_reads(&mut self) -> Vec<ReadReady> {
        let mut ready = Vec::new();
        if (self.reads.local.is_empty() && self.reads.remote.is_empty()) || !self.has_opened_term() {
            if !self.has_opened_term() {
                mark!(ReadWaitsForTerm);
            }
            return ready;
        }
        self.begin_round_for_reads();
        let commit = self.log.commit();
        let leased = self.config.lease_reads && self.holds_lease(self.now);
        let proven = self.proven_round();
        while let Some(w) = self.reads.remote.front() {
            if !leased && w.round > proven {
                break;
            }
            let (to, context) = w.who;
            let index = w.index.unwrap_or(commit);
            self.reads.remote.pop_front();
            self.send(to, Body::ReadIndexReply { context, index });
        }
        while let Some(w) = self.reads.local.front_mut() {
            let index = *w.index.get_or_insert(commit);
            let id = w.who;
            if w.round <= proven {
                mark!(ReadByRound);
                self.reads.confirm(id, index);
            } else if leased && index <= self.log.applied() {
                ready.push(ReadReady { id, index });
            } else {
                break;
            }
            self.reads.local.pop_front();
        }
        ready
    }

    /// The latest round that a quorum has answered.
    fn proven_round(&self) -> u64 {
        let current = self.rounds.current;
        self.quorum_value(|id| if id == self.id { current } else { self.peer(id).map_or(0, |p| p.round) })
    }

    /// Reads that no lease covers wait for the next round. While one is under way they gather, to share the one after it;
    /// if it gets lost, the next heartbeat is that one.
    fn begin_round_for_reads(&mut self) {
        if self.config.lease_reads && self.holds_lease(self.now) {
            return;
        }
        let current = self.rounds.current;
        let newest = self.reads.local.back().map(|w| w.round).max(self.reads.remote.back().map(|w| w.round));
        if newest.is_some_and(|round| round > current) && self.proven_round() >= current {
            self.begin_round();
        }
    }
}
