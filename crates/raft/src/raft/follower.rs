//! Taking the leader's log in.
//!
//! # Rules
//! - Entries are taken only after one that both logs hold (paper, section 5.3), so whatever was taken makes the logs equal
//!   up to there: `verified`. A commit index of the leader counts only that far. What lies beyond in this log may be what an
//!   earlier leader left, and the leader of now knows nothing of it.
//! - Only a conflict truncates. An old append that comes late must not cut off what a later one brought.
//! - An append is acknowledged when it is durable, and only as far as it reached.

use super::*;

impl<S: LogStorage> Raft<S> {
    /// A leader speaks: in a later term, or in this one.
    pub(super) fn follow(&mut self, from: NodeId, term: Term) -> Result<(), StepError> {
        if term == self.hard.term && (self.role == Role::Leader || self.leader.is_some_and(|l| l != from)) {
            return Err(StepError::TwoLeaders { from, term });
        }
        if term > self.hard.term || self.role != Role::Follower || self.leader != Some(from) {
            self.become_follower(term, Some(from));
        }
        self.heard_at = Some(self.now);
        self.leader_lost = false;
        self.postpone_election();
        Ok(())
    }

    pub(super) fn step_append(
        &mut self,
        from: NodeId,
        prev: EntryId,
        mut entries: Vec<Entry>,
        commit: LogIndex,
    ) -> Result<(), StepError> {
        let committed = std::iter::once(prev).chain(entries.iter().map(Entry::id));
        for id in committed.take_while(|id| id.index <= self.log.commit()) {
            if self.log.term(id.index).is_some_and(|term| term != id.term) {
                return Err(StepError::ContradictsCommitted { from, index: id.index });
            }
        }
        if prev.index < self.log.commit() {
            // What is committed is equal everywhere; the leader may go on from there.
            mark!(AppendBehindCommit);
            self.acknowledge(from, self.log.commit());
            return Ok(());
        }
        let skip = planted!(self, SkipPrevCheck) && prev.index <= self.log.last_index();
        if !skip && !self.log.holds(prev) {
            mark!(AppendRejected);
            let hint = self.log.last_not_after(prev.term, prev.index);
            self.send_bound_to_term(from, Body::AppendRejected { rejected: prev.index, hint });
            return Ok(());
        }
        let last = prev.index + entries.len() as u64;
        let new = entries.iter().position(|e| !self.log.holds(e.id()));
        if let Some(new) = new {
            entries.drain(..new);
            let first = prev.index + new as u64 + 1;
            if first <= self.log.last_index() {
                mark!(ConflictTruncated);
                self.truncate_from(first);
            }
            entries.iter().for_each(|e| self.adopt(e));
            self.log.extend(entries);
        } else if planted!(self, TruncateAlways) && last < self.log.last_index() && last >= self.log.commit() {
            self.truncate_from(last.next());
        }
        self.verified = self.verified.max(last);
        self.commit_verified(commit);
        self.acknowledge(from, last);
        Ok(())
    }

    fn truncate_from(&mut self, index: LogIndex) {
        #[cfg(test)]
        let claims = planted!(self, LateWriteCounts).then(|| self.log.claims());
        self.log.truncate_from(index);
        #[cfg(test)]
        if let Some(claims) = claims {
            self.log.restore_claims(claims);
        }
        if self.configurations.current_index() >= index {
            mark!(ConfigurationTruncated);
        }
        if !planted!(self, KeepOverwrittenConfiguration) {
            self.configurations.truncate_from(index);
        }
    }

    /// Puts the configuration of an entry that is about to be added in force.
    pub(super) fn adopt(&mut self, entry: &Entry) {
        if entry.kind == EntryKind::Config {
            let decoded = Configuration::decode(&entry.data);
            self.configurations.push(entry.index, decoded.expect("configurations are decoded before they are taken"));
        }
    }

    /// Follows the leader's commit index, as far as this log is known to be the leader's.
    pub(super) fn commit_verified(&mut self, commit: LogIndex) {
        self.log.commit_to(commit.min(self.verified));
    }

    /// Tells the leader how far this log is its own, once that is durable. One word for all the appends of one write.
    fn acknowledge(&mut self, to: NodeId, matched: LogIndex) {
        if planted!(self, AckBeforePersist) {
            return self.send(to, Body::AppendAccepted { matched });
        }
        let term = self.hard.term;
        if let Some(Message { to: t, term: m, body: Body::AppendAccepted { matched: said }, .. }) =
            self.out.after.last_mut()
            && *t == to
            && *m == term
        {
            *said = matched.max(*said);
            return;
        }
        self.send_after_persist(to, Body::AppendAccepted { matched });
    }

    pub(super) fn step_heartbeat(&mut self, from: NodeId, round: u64, commit: LogIndex) {
        self.heard_round = self.heard_round.max(Handover { term: self.hard.term, round });
        // The leader says that this log equals its own so far; it knows from an acknowledgement.
        self.verified = self.verified.max(commit.min(self.log.last_index()));
        self.commit_verified(commit);
        self.send_bound_to_term(from, Body::HeartbeatReply { round });
        let interval = self.config.heartbeat_interval.as_nanos() as u64;
        self.reads.ask_again_if_before(Time::from_nanos(self.now.as_nanos().saturating_sub(interval)));
    }

    /// A snapshot has arrived, whole. Taken only if it is ahead of what is committed here.
    pub(super) fn step_snapshot(&mut self, from: NodeId, meta: Box<SnapshotMeta>) {
        if meta.last.index <= self.log.commit() {
            mark!(SnapshotOutOfDate);
            return self.acknowledge(from, self.log.commit());
        }
        if self.log.holds(meta.last) {
            // The log has it all, and what a snapshot holds is committed.
            self.verified = self.verified.max(meta.last.index);
            self.log.commit_to(meta.last.index);
            return self.acknowledge(from, meta.last.index);
        }
        mark!(SnapshotAccepted);
        self.log.restart_at(meta.last);
        self.configurations = History::new(meta.last.index, meta.configuration.clone());
        self.verified = meta.last.index;
        self.acknowledge(from, meta.last.index);
        self.installing = Some(meta);
    }
}
