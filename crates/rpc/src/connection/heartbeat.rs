//! Noticing a silent peer: after an interval without a byte from it, a ping; after a further timeout without a
//! byte, it is given up.
//!
//! A peer that sends is never pinged, so a busy connection carries no heartbeats. Because a ping has to go
//! unanswered before the peer is given up, a pause of our own process (stopped, swapped out) alone kills no
//! connection, as long as the driver reads what has arrived before it tells the time.

use std::time::{Duration, Instant};

use crate::config::Timeouts;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing yet.
    Nothing,
    /// Send a ping with this id.
    Ping(u64),
    /// The peer has been silent for this long.
    Silent(Duration),
}

#[derive(Debug)]
pub(super) struct Heartbeat {
    received_at: Instant,
    pinged_at: Option<Instant>,
    /// Of the latest ping.
    id: u64,
    round_trip: Option<Duration>,
}

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Heartbeat {
        Heartbeat { received_at: now, pinged_at: None, id: 0, round_trip: None }
    }

    /// Bytes came from the peer.
    pub(super) fn received(&mut self, now: Instant) {
        self.received_at = now;
    }

    /// The ping `id` was answered. False if it was never sent.
    pub(super) fn pong(&mut self, now: Instant, id: u64) -> bool {
        if id == self.id
            && let Some(pinged_at) = self.pinged_at.take()
        {
            self.round_trip = Some(now.saturating_duration_since(pinged_at));
        }
        (1..=self.id).contains(&id)
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    pub(super) fn next_deadline(&self, timeouts: &Timeouts) -> Instant {
        match self.unanswered() {
            Some(pinged_at) => pinged_at + timeouts.heartbeat_timeout,
            None => self.received_at + timeouts.heartbeat_interval,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, timeouts: &Timeouts) -> Beat {
        if now < self.next_deadline(timeouts) {
            return Beat::Nothing;
        }
        if self.unanswered().is_some() {
            return Beat::Silent(now.saturating_duration_since(self.received_at));
        }
        self.pinged_at = Some(now);
        self.id += 1;
        Beat::Ping(self.id)
    }

    /// When the latest ping was sent, if nothing at all has come since.
    fn unanswered(&self) -> Option<Instant> {
        self.pinged_at.filter(|pinged_at| *pinged_at > self.received_at)
    }
}
