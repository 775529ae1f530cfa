//! Leadership given away (dissertation, section 3.10).
//!
//! The leader stops taking proposals, waits until its successor has the whole log and all of it is committed, so that it
//! leaves nobody in doubt about what was proposed, and tells it to stand for election. Such a candidate must be able to win
//! while the leader lives, so voters are released from their promise; therefore the leader gives its lease up *first*, and
//! if the transfer does not come about, gets a new one only from heartbeats it sends after that. The permission it gave may
//! still be on its way, though, for any length of time. So it names the last heartbeat round before it, and a voter that has
//! heard a later round takes it as withdrawn: a quorum that gives the leader its lease back is a quorum that will not honour
//! the old permission.

use super::*;
use crate::ready::TransferRefused;

/// A transfer under way.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    /// When it is given up.
    pub(super) deadline: Time,
    /// Whether the successor has been told.
    pub(super) sent: bool,
}

impl<S: LogStorage> Raft<S> {
    /// Hands leadership to another voter, once that has the whole log; given up after an election timeout.
    ///
    /// # Errors
    /// If it cannot begin.
    pub fn transfer_leadership(&mut self, now: Time, to: NodeId) -> Result<(), TransferRefused> {
        self.observe(now);
        if self.role != Role::Leader {
            return Err(TransferRefused::NotLeader);
        }
        if let Some(t) = &self.transfer {
            return Err(TransferRefused::Transferring(t.to));
        }
        if to == self.id || !self.configuration().voters().contains(&to) {
            return Err(TransferRefused::NotAVoter(to));
        }
        self.rounds.lease_floor = self.rounds.current;
        self.transfer = Some(Transfer { to, deadline: self.now + self.config.election_timeout, sent: false });
        self.maybe_finish_transfer(to);
        Ok(())
    }

    /// Whether leadership is being handed over: nothing can be proposed, and reads are not served by lease.
    pub fn is_transferring(&self) -> bool {
        self.transfer.is_some()
    }

    /// Something was committed, perhaps the last thing that a transfer waits for.
    pub(super) fn maybe_finish_any_transfer(&mut self) {
        if let Some(to) = self.transfer.as_ref().map(|transfer| transfer.to) {
            self.maybe_finish_transfer(to);
        }
    }

    /// Tells the successor to stand, if it is ready.
    pub(super) fn maybe_finish_transfer(&mut self, from: NodeId) {
        let last = self.log.last_index();
        let ready = self.log.commit() == last && self.peer(from).is_some_and(|p| p.matched == last);
        let Some(transfer) = self.transfer.as_mut().filter(|t| t.to == from && ready) else { return };
        // Said again whenever the successor answers something, in case it was lost.
        transfer.sent = true;
        // Rounds sent while leadership is being handed over prove nothing about afterwards.
        let round = self.rounds.current;
        self.rounds.lease_floor = round;
        self.send(from, Body::TimeoutNow { round });
    }

    pub(super) fn maybe_abort_transfer(&mut self) {
        if self.transfer.as_ref().is_some_and(|t| self.now >= t.deadline) {
            mark!(HandoverAborted);
            self.transfer = None;
            self.rounds.lease_floor = self.rounds.current;
            self.begin_round();
        }
    }

    /// The leader wants this node to succeed it.
    pub(super) fn step_timeout_now(&mut self, from: NodeId, round: u64) {
        let handover = Handover { term: self.hard.term, round };
        let withdrawn = handover < self.heard_round && !planted!(self, StaleHandover);
        let follows = self.role == Role::Follower && self.leader.is_none_or(|l| l == from);
        let free = self.now >= self.grace_until;
        if follows && free && !withdrawn && !self.abstains && self.configuration().is_voter(self.id) {
            self.become_candidate(Some(handover));
        }
    }
}
