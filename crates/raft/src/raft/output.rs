//! What the driver is to do, and what it reports back.

use super::*;
use crate::ready::{Leadership, Persist, Ready};

/// What has gathered since the last [`Ready`].
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) now: Vec<Message>,
    pub(super) after: Vec<Message>,
    pub(super) snapshots_wanted: Vec<NodeId>,
    /// What the driver was last told.
    leadership: Leadership,
    /// Number of the last write handed out.
    number: u64,
    /// Every write up to here is durable.
    pub(super) durable_number: u64,
}

impl Outbox {
    pub(super) fn new(leadership: Leadership) -> Outbox {
        Outbox {
            now: Vec::new(),
            after: Vec::new(),
            snapshots_wanted: Vec::new(),
            leadership,
            number: 0,
            durable_number: 0,
        }
    }
}

impl<S: LogStorage> Raft<S> {
    /// What is to be done, or `None`. Call it after every input, or every few, until it returns `None`.
    ///
    /// `now` must have been sampled after the last input was read: reads are released by it.
    pub fn ready(&mut self, now: Time) -> Option<Ready> {
        self.observe(now);
        let mut reads = Vec::new();
        if self.role == Role::Leader {
            reads = self.serve_reads();
            self.replicate();
        } else {
            self.ask_leader();
        }
        let leadership = Leadership { term: self.hard.term, role: self.role, leader: self.leader };
        let changed = leadership != self.out.leadership;
        if !changed && reads.is_empty() && !self.has_output() {
            return None;
        }
        let persist = self.take_persist();
        let committed = self.log.take_committed(self.config.apply_bytes_max, self.all_have());
        reads.extend(self.reads.take_ready(self.log.applied()));
        self.out.leadership = leadership;
        let messages = std::mem::take(&mut self.out.now);
        let reads_dropped = self.reads.take_dropped();
        let snapshots_wanted = std::mem::take(&mut self.out.snapshots_wanted);
        if !changed
            && messages.is_empty()
            && persist.is_none()
            && committed.is_empty()
            && reads.is_empty()
            && reads_dropped.is_empty()
            && snapshots_wanted.is_empty()
        {
            // What gathered has to wait: entries that the store has yet to fetch, reads that nothing confirms.
            return None;
        }
        let leadership = changed.then_some(leadership);
        Some(Ready { leadership, messages, persist, committed, reads, reads_dropped, snapshots_wanted })
    }

    /// Whether anything may have gathered; an idle group is asked often, so this is cheap.
    fn has_output(&self) -> bool {
        !self.out.now.is_empty()
            || !self.out.after.is_empty()
            || !self.out.snapshots_wanted.is_empty()
            || self.hard != self.hard_handed
            || self.log.has_unhanded()
            || self.log.has_committed(self.config.apply_bytes_max)
            || self.reads.has_output()
    }

    fn take_persist(&mut self) -> Option<Persist> {
        let hard_state = (self.hard != self.hard_handed).then_some(self.hard);
        let (restart_log, entries) = self.log.take_unhanded();
        let nothing = hard_state.is_none() && restart_log.is_none() && entries.is_empty();
        if nothing && self.out.durable_number == self.out.number {
            // Nothing to wait for.
            self.out.now.append(&mut self.out.after);
            return None;
        }
        if nothing && self.out.after.is_empty() {
            return None;
        }
        self.out.number += 1;
        let number = self.out.number;
        if hard_state.is_some() {
            self.hard_handed = self.hard;
            self.hard_number = number;
        }
        self.log.wrote(number, restart_log.is_some());
        let messages = std::mem::take(&mut self.out.after);
        Some(Persist { number, snapshot: self.installing.take(), restart_log, hard_state, entries, messages })
    }

    /// The writes up to this number are durable, and the messages that waited for them are on their way.
    ///
    /// # Panics
    /// If no such write was handed out.
    pub fn persisted(&mut self, now: Time, number: u64) {
        assert!(number <= self.out.number, "write {number} was never asked for");
        self.observe(now);
        self.out.durable_number = self.out.durable_number.max(number);
        self.log.persisted(number);
        match self.role {
            Role::Leader => {
                self.maybe_commit();
                self.maybe_finish_any_transfer();
            }
            Role::Candidate => self.record_own_vote_if_durable(),
            Role::Follower | Role::PreCandidate => {}
        }
        self.evict();
    }

    /// The state contains every entry up to here.
    ///
    /// # Panics
    /// If they were never handed out to be applied.
    pub fn applied(&mut self, index: LogIndex) {
        self.log.applied_to(index);
        self.configurations.prune(index);
        self.evict();
    }

    /// Up to here nobody needs entries of this node: all its followers have them, or it has none.
    fn all_have(&self) -> LogIndex {
        self.peers.iter().map(|p| p.matched).min().unwrap_or(self.log.last_index())
    }

    fn evict(&mut self) {
        self.log.evict(self.all_have(), self.config.log_cache_bytes_max);
    }
}
