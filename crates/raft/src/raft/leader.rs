//! Giving entries out, and committing them.
//!
//! # Rules
//! - A leader opens its term with a blank entry. Only entries of its own term are committed by counting; what is before them
//!   is committed along with them (paper, section 5.4.2 and figure 8: an entry of an earlier term that a majority holds can
//!   still be overwritten).
//! - It counts itself only as far as its own writes are durable, but does not wait for them to send.
//! - A configuration is in force at the leader when it appends it. One change at a time: none begins before the last is
//!   committed and, if it was joint, left.
//! - A leader that is not in the configuration it has committed steps down, and wakes a successor.
//!
//! Sending happens in [`Raft::ready`], once for everything that came in since the last: all proposals of one turn of the
//! driver's loop travel in one append.

use bytes::Bytes;

use super::*;
use crate::configuration::Change;
use crate::progress::ProgressState;
use crate::ready::{ProposalDropped, Proposed};
use crate::storage::ReadLogError;

impl<S: LogStorage> Raft<S> {
    pub(super) fn become_leader(&mut self) {
        assert!(self.role == Role::Candidate, "only a candidate becomes leader");
        assert!(!self.log.is_restarting(), "votes are asked for after the log has begun");
        self.role = Role::Leader;
        self.leader = Some(self.id);
        self.votes.clear();
        self.rounds = Rounds::default();
        self.uncommitted_bytes = 0;
        self.retiring = false;
        self.verified = self.log.last_index();
        self.term_start = self.log.last_index().next();
        self.track_members();
        self.append(EntryKind::Blank, Bytes::new());
        // The first heartbeat goes out at once: it gets the lease, and tells everybody.
        self.begin_round();
    }

    /// Proposes entries, all or none. They are appended here and on their way after the next [`Raft::ready`]; whether they
    /// commit shows when an entry is handed out to be applied at their index: theirs if it is of their term.
    ///
    /// # Errors
    /// Says why nothing was proposed.
    pub fn propose(&mut self, entries: impl IntoIterator<Item = Bytes>) -> Result<Proposed, ProposalDropped> {
        self.check_may_propose()?;
        let first = self.log.last_index().next();
        let (uncommitted, max) = (self.uncommitted_bytes, self.config.uncommitted_bytes_max);
        for data in entries {
            let bytes = data.len() as u64;
            let problem = if bytes > self.config.entry_bytes_max {
                Some(ProposalDropped::TooLarge { bytes, max: self.config.entry_bytes_max })
            } else if self.uncommitted_bytes > 0 && self.uncommitted_bytes.saturating_add(bytes) > max {
                Some(ProposalDropped::UncommittedFull { bytes: uncommitted })
            } else {
                None
            };
            if let Some(dropped) = problem {
                self.log.unpush_from(first);
                self.uncommitted_bytes = uncommitted;
                return Err(dropped);
            }
            self.append(EntryKind::Normal, data);
        }
        Ok(Proposed { term: self.hard.term, first, last: self.log.last_index() })
    }

    /// Proposes a change of membership; see [`Configuration::change`]. The end of the joint phase follows by itself.
    ///
    /// # Errors
    /// Says why nothing was proposed.
    pub fn propose_change(&mut self, changes: &[Change]) -> Result<Proposed, ProposalDropped> {
        self.check_may_propose()?;
        let index = self.configurations.current_index();
        let settled = self.log.commit() >= index && !self.configuration().is_joint();
        // Before the first entry of its term is committed, a leader does not know that the change before is.
        let opened = self.log.commit() >= self.term_start;
        let free = (settled && opened) || planted!(self, ChangeDuringChange);
        if !free {
            return Err(ProposalDropped::ChangeInProgress { index });
        }
        let mut current = self.configuration().clone();
        if planted!(self, ChangeDuringChange) {
            current = current.leave();
        }
        let next = current.change(changes)?;
        let at = self.append_configuration(&next);
        Ok(Proposed { term: self.hard.term, first: at, last: at })
    }

    fn check_may_propose(&self) -> Result<(), ProposalDropped> {
        if self.role != Role::Leader {
            return Err(ProposalDropped::NotLeader { leader: self.leader });
        }
        match &self.transfer {
            Some(t) => Err(ProposalDropped::Transferring { to: t.to }),
            None => Ok(()),
        }
    }

    fn append(&mut self, kind: EntryKind, data: Bytes) {
        let entry = Entry { term: self.hard.term, index: self.log.last_index().next(), kind, data };
        self.uncommitted_bytes += entry.cost_bytes();
        self.adopt(&entry);
        self.log.push(entry);
    }

    fn append_configuration(&mut self, configuration: &Configuration) -> LogIndex {
        self.append(EntryKind::Config, configuration.encode());
        self.track_members();
        self.log.last_index()
    }

    /// Keeps a progress for every member but itself, and for nobody else.
    fn track_members(&mut self) {
        let members = self.configuration().members();
        let opening = self.log.last_index() < self.term_start;
        let mut old = std::mem::take(&mut self.peers);
        if opening {
            old.clear();
        }
        for id in members.into_iter().filter(|id| *id != self.id) {
            let known = old.iter().position(|p| p.id == id).map(|at| old.swap_remove(at));
            self.peers.push(known.unwrap_or_else(|| Progress::new(id, self.log.last_index().next(), self.now)));
        }
    }

    pub(super) fn tick_leader(&mut self) {
        if !self.has_quorum_contact() {
            // It may be deposed already, behind a partition. Clients should not wait for it.
            mark!(LeaderLosesQuorum);
            return self.become_follower(self.hard.term, None);
        }
        self.maybe_abort_transfer();
        if self.now >= self.deadline {
            self.begin_round();
        }
    }

    /// Whether a quorum has been heard from within the election timeout.
    pub(super) fn has_quorum_contact(&self) -> bool {
        let now = self.now;
        let heard = |id| self.peer(id).map_or(now.as_nanos(), |p| p.heard_at.as_nanos());
        let since = self.quorum_value(|id| if id == self.id { now.as_nanos() } else { heard(id) });
        now < Time::from_nanos(since) + self.config.election_timeout
    }

    /// Sends heartbeats to everybody.
    pub(super) fn begin_round(&mut self) {
        let round = self.rounds.begin(self.now);
        self.deadline = self.now + self.config.heartbeat_interval;
        for i in 0..self.peers.len() {
            let Progress { id, matched, .. } = self.peers[i];
            let known = if planted!(self, CommitUnverified) { self.log.commit() } else { matched };
            let commit = self.log.commit().min(known);
            self.send(id, Body::Heartbeat { round, commit });
        }
    }

    pub(super) fn peer(&self, id: NodeId) -> Option<&Progress> {
        self.peers.iter().find(|p| p.id == id)
    }

    /// The progress of a sender, if this node leads and the sender is a member.
    pub(super) fn peer_mut(&mut self, id: NodeId) -> Option<&mut Progress> {
        let now = self.now;
        let peer = self.peers.iter_mut().find(|p| p.id == id)?;
        peer.heard_at = now;
        Some(peer)
    }

    pub(super) fn quorum_value(&self, value: impl FnMut(NodeId) -> u64) -> u64 {
        #[cfg(test)]
        if let Some(half) = self.planted_half() {
            return crate::quorum::majority_value(half, value);
        }
        self.configuration().quorum_value(value)
    }

    pub(super) fn step_accepted(&mut self, from: NodeId, matched: LogIndex) -> Result<(), StepError> {
        if self.role != Role::Leader {
            return Ok(());
        }
        if matched > self.log.last_index() {
            return Err(StepError::Malformed { from, what: "an acknowledgement beyond the log" });
        }
        let base = self.log.base().index;
        let Some(peer) = self.peer_mut(from) else { return Ok(()) };
        if peer.accepted(matched, base) {
            self.maybe_commit();
            self.maybe_finish_any_transfer();
        }
        Ok(())
    }

    pub(super) fn step_rejected(&mut self, from: NodeId, rejected: LogIndex, hint: EntryId) {
        if self.role != Role::Leader {
            return;
        }
        // What of this log could the follower have? Nothing after the hint, nothing of a later term than the hint's.
        // Where this log begins behind the hint, that is not in it: entries before its base may still be at hand, but to look
        // through them one by one for what is not there would take as many appends.
        let common = self.log.last_not_after(hint.term, hint.index).index.min(hint.index);
        if let Some(peer) = self.peer_mut(from) {
            peer.rejected(rejected, common);
        }
    }

    pub(super) fn step_heartbeat_reply(&mut self, from: NodeId, round: u64) {
        if self.role != Role::Leader || round > self.rounds.current {
            return;
        }
        let (last, sent_at) = (self.log.last_index(), self.rounds.sent_at(round));
        let Some(peer) = self.peer_mut(from) else { return };
        peer.heartbeat_answered(round, last);
        if round > peer.round && sent_at.is_some() {
            peer.round = round;
            peer.round_sent_at = sent_at;
        }
        self.maybe_finish_transfer(from);
    }

    /// Commits what a quorum holds durably, if it is of this term.
    pub(super) fn maybe_commit(&mut self) {
        let own = if planted!(self, CountSelfBeforePersist) { self.log.last_index() } else { self.log.durable() };
        let reached = |id| if id == self.id { own.0 } else { self.peer(id).map_or(0, |p| p.matched.0) };
        let index = LogIndex(self.quorum_value(reached));
        let old = self.log.commit();
        let of_this_term = self.log.term(index) == Some(self.hard.term) || planted!(self, CommitOldTerm);
        if index > old && !of_this_term {
            mark!(OldTermNotCounted);
        }
        if index <= old || !of_this_term {
            return;
        }
        self.log.commit_to(index);
        let bytes = self.log.cost_bytes(old, index, self.hard.term);
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(bytes);
        self.end_change();
    }

    /// Takes the step that a committed configuration calls for.
    fn end_change(&mut self) {
        if self.configurations.current_index() > self.log.commit() {
            return;
        }
        if self.configuration().is_joint() {
            mark!(JointLeft);
            let left = self.configuration().leave();
            self.append_configuration(&left);
        } else if !self.configuration().is_voter(self.id) {
            self.retiring = true;
        }
    }

    /// Sends every follower what it may be sent.
    pub(super) fn replicate(&mut self) {
        for i in 0..self.peers.len() {
            while self.replicate_to(i) {}
            self.peers[i].nudge = false;
            self.send_commit_to(i);
        }
        if self.retiring {
            self.retire();
        }
    }

    /// Sends one append. True if there may be another.
    fn replicate_to(&mut self, i: usize) -> bool {
        let last = self.log.last_index();
        let peer = &self.peers[i];
        if peer.next > last && !peer.nudge && peer.state == ProgressState::Replicate {
            return false;
        }
        let probing = peer.state == ProgressState::Probe { waiting: false };
        let room = peer.may_send(self.config.inflight_appends_max, self.config.inflight_bytes_max);
        if !(probing || peer.nudge || (room && peer.next <= last)) {
            return false;
        }
        let (to, next) = (peer.id, peer.next);
        let prev = next.prev();
        let entries = if room { self.log.read(next, last, self.config.append_bytes_max) } else { Ok(Vec::new()) };
        let (prev, entries) = match (self.log.term(prev), entries) {
            (Some(term), Ok(entries)) => (EntryId::new(term, prev), entries),
            (Some(_), Err(ReadLogError::NotNow)) => {
                mark!(LogNotReadable);
                return false;
            }
            _ => {
                mark!(SnapshotWanted);
                self.peers[i].become_snapshot_wanted();
                self.out.snapshots_wanted.push(to);
                return false;
            }
        };
        let bytes = entries.iter().map(Entry::cost_bytes).sum();
        let (commit, round) = (self.log.commit(), self.rounds.current);
        let peer = &mut self.peers[i];
        peer.sent(prev.index + entries.len() as u64, bytes, round);
        peer.commit_sent = peer.commit_sent.max(commit);
        peer.nudge = false;
        self.send(to, Body::Append { prev, entries, commit });
        true
    }

    /// Lets a follower know at once what has been committed, if no entries told it.
    fn send_commit_to(&mut self, i: usize) {
        let commit = self.log.commit();
        let peer = &mut self.peers[i];
        if peer.state == ProgressState::Replicate && peer.commit_sent < commit {
            peer.commit_sent = commit;
            let to = peer.id;
            self.send(to, Body::Commit { commit });
        }
    }

    /// Leaves, having committed a configuration without itself (dissertation, section 4.2.2). The follower that has most of
    /// the log is asked to stand at once, rather than after a timeout.
    fn retire(&mut self) {
        mark!(LeaderRetires);
        let voters = self.configuration().voters();
        let best = self.peers.iter().filter(|p| voters.contains(&p.id)).max_by_key(|p| p.matched).map(|p| p.id);
        if let Some(to) = best {
            let round = self.rounds.current;
            self.send(to, Body::TimeoutNow { round });
        }
        self.become_follower(self.hard.term, None);
    }

    /// The driver has a snapshot for a follower; it will carry the data along with the message that follows. One that the
    /// follower no longer needs is ignored: no message follows then, and the answer is false.
    ///
    /// # Panics
    /// If the snapshot is of something that is not committed.
    pub fn snapshot_produced(&mut self, to: NodeId, meta: SnapshotMeta) -> bool {
        assert!(meta.last.index <= self.log.commit(), "a snapshot at {} is not committed", meta.last);
        let base = self.log.base().index;
        let Some(peer) = self.peers.iter_mut().find(|p| p.id == to) else { return false };
        if peer.state != ProgressState::SnapshotWanted {
            return false;
        }
        if meta.last.index < base {
            // The log was shortened past it meanwhile: it would not help. That happens to a driver that sends what it made
            // before; not to one that makes it when it is asked to, of the very data up to which its log may be cut at most
            // (`dstore-node`: `transfer`, `retention`). So no simulation comes by; the script `snapshot.txt` does.
            self.snapshot_failed(to);
            return false;
        }
        peer.become_snapshot_sent(meta.last.index);
        self.send(to, Body::Snapshot(Box::new(meta)));
        true
    }

    /// A snapshot could not be produced, or sent. It is asked for again when the follower next answers a heartbeat.
    pub fn snapshot_failed(&mut self, to: NodeId) {
        let Some(peer) = self.peers.iter_mut().find(|p| p.id == to) else { return };
        if matches!(peer.state, ProgressState::SnapshotWanted | ProgressState::SnapshotSent { .. }) {
            mark!(SnapshotFailed);
            peer.become_probe();
            peer.next = peer.matched.next();
            peer.state = ProgressState::Probe { waiting: true };
        }
    }

    /// A snapshot has been carried over whole. The follower says for itself when it is installed; should that word be lost,
    /// a probe after the next heartbeat finds out.
    pub fn snapshot_sent(&mut self, to: NodeId) {
        let Some(peer) = self.peers.iter_mut().find(|p| p.id == to) else { return };
        if matches!(peer.state, ProgressState::SnapshotSent { .. }) {
            peer.become_probe();
            peer.state = ProgressState::Probe { waiting: true };
        }
    }
}
