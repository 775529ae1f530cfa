//! The server's half: requests of the peer that hold a place.
//!
//! A request holds its place, here and in the server's [`Admission`], from its arrival until its answer was handed
//! to the transport; also when the caller cancelled or its deadline passed, because the application is still at
//! work on it. So neither a caller that cancels at once, nor one that never reads its replies, gets more work or
//! memory out of this end than the limits say. Only the end of the connection frees places under work that goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::{Admission, Limits};
use crate::deadline::Deadlines;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The application works on it, and the caller waits.
    Open,
    /// The application works on it, and nobody waits.
    Abandoned,
    /// Its answer is queued.
    Answered,
}

/// A request that holds a place.
#[derive(Debug)]
struct Request {
    method: u32,
    started: Instant,
    bytes: usize,
    state: State,
}

/// What an answer meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answering {
    /// The caller waits for it.
    Wanted {
        /// The method called.
        method: u32,
        /// When the request arrived.
        started: Instant,
    },
    /// The request ended before: cancelled, too late, or never there.
    Unwanted,
}

/// All of them, by the peer's id.
#[derive(Debug)]
pub(super) struct Requests {
    places: BTreeMap<u64, Request>,
    /// Bytes of all bodies in `places`.
    bytes: usize,
    deadlines: Deadlines,
    /// The peer's ids only grow; anything else is a violation.
    last_id: u64,
    admission: Admission,
}

impl Requests {
    pub(super) fn new(admission: Admission) -> Requests {
        Requests { places: BTreeMap::new(), bytes: 0, deadlines: Deadlines::default(), last_id: 0, admission }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// True if `id` is new, as it has to be.
    pub(super) fn is_new(&mut self, id: u64) -> bool {
        let new = id > self.last_id;
        self.last_id = self.last_id.max(id);
        new
    }

    /// True if the peer once sent a request with this id.
    pub(super) fn was_seen(&self, id: u64) -> bool {
        id != 0 && id <= self.last_id
    }

    /// Takes a place, if there is one.
    pub(super) fn admit(
        &mut self,
        limits: &Limits,
        now: Instant,
        (id, method, bytes): (u64, u32, usize),
        deadline: Option<Instant>,
    ) -> Result<(), &'static str> {
        if self.places.len() >= limits.requests_inflight_max {
            return Err("too many requests in flight on this connection");
        }
        if self.bytes + bytes > limits.request_bytes_inflight_max {
            return Err("too many request bytes in flight on this connection");
        }
        if !self.admission.admit(bytes) {
            return Err("too many requests in flight on this server");
        }
        self.bytes += bytes;
        self.places.insert(id, Request { method, started: now, bytes, state: State::Open });
        if let Some(deadline) = deadline {
            let places = &self.places;
            self.deadlines.insert(deadline, id, |id| is_open(places, id));
        }
        Ok(())
    }

    /// The application answers.
    pub(super) fn answer(&mut self, id: u64) -> Answering {
        match self.places.get_mut(&id) {
            Some(request) if request.state == State::Open => {
                request.state = State::Answered;
                Answering::Wanted { method: request.method, started: request.started }
            }
            Some(request) if request.state == State::Abandoned => {
                self.release(id);
                Answering::Unwanted
            }
            _ => Answering::Unwanted,
        }
    }

    /// The answer was handed to the transport.
    pub(super) fn answer_sent(&mut self, id: u64) {
        self.release(id);
    }

    /// The caller no longer waits. The method and how long it took, if somebody still works on it.
    pub(super) fn abandon(&mut self, id: u64, now: Instant) -> Option<(u32, Duration)> {
        let request = self.places.get_mut(&id).filter(|request| request.state == State::Open)?;
        request.state = State::Abandoned;
        Some((request.method, now.saturating_duration_since(request.started)))
    }

    /// The next request whose deadline has passed while the application works on it.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u64> {
        let places = &self.places;
        self.deadlines.pop_due(now, |id| is_open(places, id))
    }

    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        let places = &self.places;
        self.deadlines.next(|id| is_open(places, id))
    }

    /// Ids of requests somebody works on and waits for.
    pub(super) fn open_ids(&self) -> Vec<u64> {
        self.places.iter().filter(|(_, request)| request.state == State::Open).map(|(id, _)| *id).collect()
    }

    /// Frees every place: the connection is over.
    pub(super) fn clear(&mut self) {
        while let Some((_, request)) = self.places.pop_first() {
            self.admission.release(request.bytes);
        }
        self.bytes = 0;
    }

    fn release(&mut self, id: u64) {
        if let Some(request) = self.places.remove(&id) {
            self.bytes -= request.bytes;
            self.admission.release(request.bytes);
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.clear();
    }
}

fn is_open(places: &BTreeMap<u64, Request>, id: u64) -> bool {
    places.get(&id).is_some_and(|request| request.state == State::Open)
}
