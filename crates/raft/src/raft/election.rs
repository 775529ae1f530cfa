//! Who leads: elections, and the promises that keep them rare.
//!
//! # Rules
//! - A node that times out first asks whether it *would* be elected (pre-vote, dissertation section 9.6). Nobody's term
//!   changes by that, so a node that comes back from a partition, or was removed, disturbs nobody.
//! - A request for votes leaves only when term, own vote and *log* are durable. The log too: a candidate that crashed could
//!   come back with a shorter log, stand again in the same term, and win by votes that were given to the longer one.
//! - A vote leaves only when it is durable, and counts for the candidate itself only then.
//! - A voter that hears from a leader grants nothing for one lease. That is a promise the leader's reads rest on. Beyond the
//!   lease, until the election timeout, it still refuses, but only out of politeness: if the driver reports the connection
//!   to the leader lost, it need not.
//! - A node that restarted has forgotten when it last heard from a leader, so it grants nothing for one lease either.

use super::*;
use crate::quorum::Tally;

impl<S: LogStorage> Raft<S> {
    pub(super) fn tick_election(&mut self) {
        if self.is_electable() && !self.abstains {
            self.become_pre_candidate();
        } else {
            self.reset_election_deadline();
        }
    }

    /// Stands for election as soon as this node may, rather than at the timeout: at once, unless it has heard from a leader
    /// within a lease, or restarted within one. Its own vote is bound like any other. For a group's first election, or when
    /// the driver knows that there is no leader.
    pub fn campaign(&mut self, now: Time) {
        self.observe(now);
        if self.role != Role::Leader && self.is_electable() {
            self.deadline = self.deadline.min(self.promise_ends());
            self.tick(now);
        }
    }

    /// Whether this node leaves it to others to stand for election, and to succeed a leader: its disk is too slow for
    /// anybody to gain by it. It votes as ever. What it stands for already goes on.
    pub fn abstain(&mut self, abstains: bool) {
        self.abstains = abstains;
    }

    /// When this node is free to vote, for itself as for others.
    fn promise_ends(&self) -> Time {
        let heard = self.heard_at.map_or(self.now, |at| at + self.config.lease);
        self.now.max(heard).max(self.grace_until)
    }

    /// The connection to a peer is lost, and the peer with it perhaps. What was on its way to it may be lost as well; and if
    /// it led, this node stands for election as soon as it may, not when it would have noticed.
    pub fn peer_lost(&mut self, now: Time, peer: NodeId) {
        self.observe(now);
        let sent_to = |p: &&mut Progress| p.id == peer && p.state == crate::ProgressState::Replicate;
        if let Some(p) = self.peers.iter_mut().find(sent_to) {
            p.become_probe();
        }
        if self.role == Role::Follower && self.leader == Some(peer) {
            mark!(LeaderLinkLost);
            self.leader_lost = true;
            // Spread, so that the followers do not all stand at once.
            let spread = self.config.heartbeat_interval.as_nanos() as u64 * 2;
            let wait = Time::from_nanos(self.random.below(spread)).since(Time::default());
            self.deadline = self.deadline.min(self.promise_ends() + wait);
        }
    }

    /// Whether this node may lead: it votes in its configuration, or in one that is not known to be superseded. Until the
    /// configuration that removes a node is committed, that node may be the only one with enough of the log to be elected,
    /// so it must stand, though not vote, for itself (dissertation, section 4.2.2).
    fn is_electable(&self) -> bool {
        self.configurations.since(self.log.commit()).any(|c| c.is_voter(self.id))
    }

    pub(super) fn reset_election_deadline(&mut self) {
        let base = self.config.election_timeout.as_nanos() as u64;
        self.timeout_nanos = base + self.random.below(base.max(1));
        self.postpone_election();
    }

    pub(super) fn postpone_election(&mut self) {
        self.deadline = Time::from_nanos(self.now.as_nanos().saturating_add(self.timeout_nanos));
    }

    /// Enters a term, or stays in it, without leading it.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        if term > self.hard.term {
            if self.role == Role::Leader {
                mark!(LeaderDeposed);
            }
            self.hard = HardState { term, vote: None };
            self.verified = self.log.commit();
        }
        if self.leader != leader || self.role == Role::Leader {
            if self.reads.len() > 0 {
                mark!(ReadsDropped);
            }
            self.reads.drop_unanswered();
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.leader_lost = false;
        self.votes.clear();
        self.handover = None;
        self.peers.clear();
        self.transfer = None;
        self.retiring = false;
        self.reset_election_deadline();
    }

    fn become_pre_candidate(&mut self) {
        assert!(self.promise_ends() <= self.now, "nobody stands while its vote is promised");
        if !self.configurations.current().is_voter(self.id) {
            mark!(ElectableByUncommitted);
        }
        self.become_follower(self.hard.term, None);
        self.role = Role::PreCandidate;
        let body = Body::PreVote { last: self.log.last() };
        let term = self.hard.term.next();
        for to in self.configuration().members() {
            if to != self.id && self.configuration().is_voter(to) {
                self.out.now.push(Message { from: self.id, to, term, body: body.clone() });
            }
        }
        self.record_vote(self.id, true);
    }

    /// Stands for election, by permission of the old leader or because a pre-vote was won.
    pub(super) fn become_candidate(&mut self, handover: Option<Handover>) {
        self.become_follower(self.hard.term.next(), None);
        self.role = Role::Candidate;
        self.hard.vote = Some(self.id);
        self.handover = handover;
        let body = Body::Vote { last: self.log.last(), handover };
        for to in self.configuration().members() {
            if to != self.id && self.configuration().is_voter(to) {
                self.send_after_persist(to, body.clone());
            }
        }
        // Its own vote is recorded when it is durable: see `Raft::persisted`.
    }

    pub(super) fn record_own_vote_if_durable(&mut self) {
        if self.role == Role::Candidate && self.is_term_durable() && !self.votes.iter().any(|v| v.0 == self.id) {
            self.record_vote(self.id, true);
        }
    }

    fn record_vote(&mut self, from: NodeId, granted: bool) {
        if !self.votes.iter().any(|v| v.0 == from) {
            self.votes.push((from, granted));
        }
        let votes = &self.votes;
        let vote = |id| votes.iter().find(|v| v.0 == id).map(|v| v.1);
        match (self.tally(vote), self.role) {
            (Tally::Won, Role::PreCandidate) => self.become_candidate(None),
            (Tally::Won, Role::Candidate) => self.become_leader(),
            (Tally::Lost, _) => {
                mark!(PreVoteLost);
                self.become_follower(self.hard.term, None);
            }
            _ => {}
        }
    }

    fn tally(&self, vote: impl FnMut(NodeId) -> Option<bool>) -> Tally {
        #[cfg(test)]
        if let Some(half) = self.planted_half() {
            return crate::quorum::majority_vote(half, vote);
        }
        self.configuration().quorum_vote(vote)
    }

    /// Whether this node owes its vote to a leader that may be alive, or does not know.
    fn is_bound(&self, from: NodeId, handover: Option<Handover>) -> bool {
        if self.now < self.grace_until {
            mark!(VoteBoundAfterRestart);
            return true;
        }
        if let Some(h) = handover {
            let taken_back = if self.role == Role::Leader && h.term == self.hard.term {
                !self.transfer.as_ref().is_some_and(|t| t.to == from && t.sent)
            } else {
                h < self.heard_round
            };
            if !taken_back || planted!(self, StaleHandover) {
                return false;
            }
            mark!(HandoverTakenBack);
        }
        if self.role == Role::Leader {
            return self.has_quorum_contact();
        }
        let Some(heard_at) = self.heard_at else { return false };
        let promised = self.now < heard_at + self.config.lease && !planted!(self, VoteDuringPromise);
        let polite = self.leader.is_some()
            && !self.leader_lost
            && self.now < heard_at + self.config.election_timeout
            && !planted!(self, VoteDuringPromise);
        if promised {
            mark!(VoteBoundByLease);
        }
        promised || polite
    }

    pub(super) fn step_pre_vote(&mut self, from: NodeId, term: Term, last: EntryId) {
        let up_to_date = last >= self.log.last() || planted!(self, VoteForShorterLog);
        let granted = term > self.hard.term && up_to_date && !self.is_bound(from, None);
        if granted {
            // The answer is about the term that would be entered.
            self.out.now.push(Message { from: self.id, to: from, term, body: Body::PreVoteReply { granted } });
        } else {
            self.send_bound_to_term(from, Body::PreVoteReply { granted });
        }
    }

    pub(super) fn step_pre_vote_reply(&mut self, from: NodeId, term: Term, granted: bool) {
        if granted {
            if self.role == Role::PreCandidate && term == self.hard.term.next() {
                self.record_vote(from, true);
            }
        } else if term > self.hard.term {
            self.become_follower(term, None);
        } else if self.role == Role::PreCandidate {
            self.record_vote(from, false);
        }
    }

    pub(super) fn step_vote(&mut self, from: NodeId, term: Term, last: EntryId, handover: Option<Handover>) {
        if self.is_bound(from, handover) {
            // Its term, if later, is not taken over: that alone would depose the leader.
            if term == self.hard.term {
                self.send_bound_to_term(from, Body::VoteReply { granted: false });
            }
            return;
        }
        if term > self.hard.term {
            self.become_follower(term, None);
        }
        let free = match self.hard.vote {
            Some(voted) => voted == from,
            None => self.leader.is_none(),
        };
        let up_to_date = last >= self.log.last() || planted!(self, VoteForShorterLog);
        if !up_to_date {
            mark!(PreVoteRefusedForLog);
        } else if !free {
            mark!(VoteAlreadyGiven);
        }
        let granted = up_to_date && (free || planted!(self, VoteTwice));
        if granted {
            self.hard.vote = Some(from);
            self.reset_election_deadline();
        }
        if planted!(self, VoteBeforePersist) {
            self.send(from, Body::VoteReply { granted });
        } else {
            self.send_after_persist(from, Body::VoteReply { granted });
        }
    }

    pub(super) fn step_vote_reply(&mut self, from: NodeId, granted: bool) {
        if self.role == Role::Candidate {
            self.record_vote(from, granted);
        }
    }

    /// The half of a joint configuration that a planted bug lets decide alone.
    #[cfg(test)]
    pub(super) fn planted_half(&self) -> Option<&[NodeId]> {
        let c = self.configuration();
        match self.config.planted_bug {
            Some(crate::planted::Bug::IgnoreOutgoing) if c.is_joint() => Some(c.voters()),
            Some(crate::planted::Bug::IgnoreIncoming) if c.is_joint() => Some(c.outgoing()),
            _ => None,
        }
    }
}
