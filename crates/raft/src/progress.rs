//! What a leader knows of each follower, and how much it may send it.
//!
//! ```text
//!            accepted                       the entry it needs is compacted away
//!   Probe ------------> Replicate      Probe, Replicate --------------------> SnapshotWanted
//!     ^                     |                                                      | produced
//!     +---------------------+                                                      v
//!     ^  rejected, connection lost                                            SnapshotSent
//!     +--------- failed, or sent and not answered yet ----------------------------+
//! ```
//!
//! A follower in `Probe` is sent one append at a time until the place where the logs agree is found; in `Replicate` appends
//! are sent without waiting, up to a window in messages and bytes. Each follower has its own window, so a slow one is left
//! behind and slows nobody.

use std::collections::VecDeque;

use crate::{LogIndex, NodeId, Time};

/// How a follower is being fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// Looking for where the logs agree. If `waiting`, a probe is out; an answer to it or to a heartbeat frees the next.
    Probe {
        /// Whether a probe is out.
        waiting: bool,
    },
    /// The logs agree; appends are pipelined.
    Replicate,
    /// Needs entries that are gone. The driver was asked for a snapshot.
    SnapshotWanted,
    /// A snapshot is on its way.
    SnapshotSent {
        /// Its last entry.
        last: LogIndex,
    },
}

/// Appends sent and not answered.
#[derive(Debug, Default)]
struct Inflight {
    /// Last index and bytes of each, in order.
    appends: VecDeque<(LogIndex, u64)>,
    bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) id: NodeId,
    /// The follower's log equals the leader's up to here, durably. `matched < next`.
    pub(crate) matched: LogIndex,
    /// First entry of the next append.
    pub(crate) next: LogIndex,
    pub(crate) state: ProgressState,
    inflight: Inflight,
    /// Highest commit index this follower was sent.
    pub(crate) commit_sent: LogIndex,
    /// `matched` when it last answered a heartbeat: no progress between two answers means something was lost.
    matched_at_heartbeat: LogIndex,
    /// The newest heartbeat round when the last probe was sent; an answer to a later one frees the next probe.
    probe_round: u64,
    /// Something may have been lost: send an append even if there is nothing new or no room.
    pub(crate) nudge: bool,
    /// Last time anything came from it.
    pub(crate) heard_at: Time,
    /// Latest heartbeat round it has answered, and when that round was sent.
    pub(crate) round: u64,
    pub(crate) round_sent_at: Option<Time>,
}

impl Progress {
    pub(crate) fn new(id: NodeId, next: LogIndex, now: Time) -> Progress {
        Progress {
            id,
            matched: LogIndex::ZERO,
            next,
            state: ProgressState::Probe { waiting: false },
            inflight: Inflight::default(),
            commit_sent: LogIndex::ZERO,
            matched_at_heartbeat: LogIndex::ZERO,
            probe_round: 0,
            nudge: false,
            heard_at: now,
            round: 0,
            round_sent_at: None,
        }
    }

    fn become_state(&mut self, state: ProgressState) {
        self.state = state;
        self.nudge = false;
        self.inflight = Inflight::default();
    }

    /// Start over from what is certain.
    pub(crate) fn become_probe(&mut self) {
        let sent = match self.state {
            ProgressState::SnapshotSent { last } => last,
            _ => LogIndex::ZERO,
        };
        self.become_state(ProgressState::Probe { waiting: false });
        self.next = self.matched.max(sent).next();
    }

    pub(crate) fn become_snapshot_wanted(&mut self) {
        self.become_state(ProgressState::SnapshotWanted);
    }

    pub(crate) fn become_snapshot_sent(&mut self, last: LogIndex) {
        self.become_state(ProgressState::SnapshotSent { last });
    }

    /// The follower's log is durable and equal up to `matched`. True if that is news.
    #[inline]
    pub(crate) fn accepted(&mut self, matched: LogIndex, base: LogIndex) -> bool {
        let news = matched > self.matched;
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched.next());
        match self.state {
            ProgressState::Probe { .. } => self.become_replicate(),
            ProgressState::Replicate => self.inflight.free_to(matched),
            // However it came by them, it has what it needs.
            ProgressState::SnapshotWanted | ProgressState::SnapshotSent { .. } if self.matched >= base => {
                self.become_replicate();
            }
            ProgressState::SnapshotWanted | ProgressState::SnapshotSent { .. } => {}
        }
        news
    }

    fn become_replicate(&mut self) {
        self.become_state(ProgressState::Replicate);
        self.next = self.matched.next();
    }

    /// The follower lacks the entry before those sent; the logs may agree at `common`. Answers that come late, to questions
    /// no longer open, are ignored.
    pub(crate) fn rejected(&mut self, rejected: LogIndex, common: LogIndex) {
        match self.state {
            ProgressState::Replicate if rejected > self.matched => self.become_probe(),
            ProgressState::Probe { .. } if rejected == self.next.prev() => {
                self.next = rejected.min(common.next()).max(self.matched.next());
                self.state = ProgressState::Probe { waiting: false };
            }
            _ => {}
        }
    }

    #[inline]
    pub(crate) fn heartbeat_answered(&mut self, round: u64, last: LogIndex) {
        if let ProgressState::Probe { waiting } = &mut self.state
            && round > self.probe_round
        {
            *waiting = false;
        }
        let stuck = self.matched == self.matched_at_heartbeat && self.matched < last;
        self.nudge = stuck && self.state == ProgressState::Replicate;
        self.matched_at_heartbeat = self.matched;
    }

    /// Whether an append may be sent now.
    #[inline]
    pub(crate) fn may_send(&self, appends_max: usize, bytes_max: u64) -> bool {
        match self.state {
            ProgressState::Probe { waiting } => !waiting,
            ProgressState::Replicate => self.inflight.appends.len() < appends_max && self.inflight.bytes < bytes_max,
            ProgressState::SnapshotWanted | ProgressState::SnapshotSent { .. } => false,
        }
    }

    /// An append with entries up to `last`, of so many bytes, has been sent; `round` is the newest heartbeat round.
    #[inline]
    pub(crate) fn sent(&mut self, last: LogIndex, bytes: u64, round: u64) {
        match &mut self.state {
            ProgressState::Probe { waiting } => {
                *waiting = true;
                self.probe_round = round;
            }
            ProgressState::Replicate if bytes > 0 => {
                self.next = last.next();
                self.inflight.appends.push_back((last, bytes));
                self.inflight.bytes += bytes;
            }
            _ => {}
        }
    }

    pub(crate) fn inflight_appends(&self) -> usize {
        self.inflight.appends.len()
    }
}

impl Inflight {
    #[inline]
    fn free_to(&mut self, matched: LogIndex) {
        while let Some((_, bytes)) = self.appends.pop_front_if(|(last, _)| *last <= matched) {
            self.bytes -= bytes;
        }
    }
}
