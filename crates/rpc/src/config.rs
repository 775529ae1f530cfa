//! What a connection needs to know from outside: who it is, its limits, its timeouts; and the bound that all
//! connections of a server share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::identity::{Identity, Secret};

/// Settings of one end, the same for all its connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this end is.
    pub identity: Identity,
    /// What proves that it belongs to the cluster.
    pub secret: Secret,
    /// Bounds on memory and work.
    pub limits: Limits,
    /// How long to wait for what.
    pub timeouts: Timeouts,
}

impl Config {
    /// Default limits and timeouts.
    pub fn new(identity: Identity, secret: Secret) -> Config {
        Config { identity, secret, limits: Limits::default(), timeouts: Timeouts::default() }
    }
}

/// Bounds per connection. Together they bound the memory a peer can make this end spend.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest body of a frame. Announced to the peer, which then refuses larger ones by itself.
    pub body_bytes_max: usize,
    /// Calls of ours without a result; the next one is `Overloaded` at once.
    pub calls_inflight_max: usize,
    /// Requests of the peer not answered yet; the next one is answered `Overloaded` at once.
    pub requests_inflight_max: usize,
    /// Bytes of those requests.
    pub request_bytes_inflight_max: usize,
    /// Bytes queued for the peer above which calls and replies become `Overloaded`.
    pub output_bytes_max: usize,
    /// Bytes queued for the peer above which one-way messages are dropped. Below `output_bytes_max`, because a
    /// message that waits behind megabytes is stale.
    pub oneway_backlog_bytes_max: usize,
    /// Streams open at a time; the next one is reset with `Overloaded`.
    pub streams_max: usize,
    /// Bytes of one stream that may be on their way or unread, for each direction.
    pub stream_window_bytes: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes_max: 16 << 20,
            calls_inflight_max: 8192,
            requests_inflight_max: 4096,
            request_bytes_inflight_max: 64 << 20,
            output_bytes_max: 32 << 20,
            oneway_backlog_bytes_max: 8 << 20,
            streams_max: 16,
            stream_window_bytes: 1 << 20,
        }
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the beginning of a dial, or of an accepted connection, until the handshake is done.
    pub handshake: Duration,
    /// After so long without a byte from the peer it is asked for a sign of life.
    pub heartbeat_interval: Duration,
    /// After so long without an answer to that the connection is dead.
    pub heartbeat_timeout: Duration,
    /// Reconnecting waits between half of and the whole of this after the first failure, and twice as long after
    /// each further one ...
    pub backoff_min: Duration,
    /// ... but no longer than this.
    pub backoff_max: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            handshake: Duration::from_secs(3),
            heartbeat_interval: Duration::from_secs(1),
            heartbeat_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
        }
    }
}

/// The bound on requests that all connections of a server share, whatever threads they live on.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    requests_max: AtomicUsize,
    bytes_max: AtomicUsize,
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

impl Admission {
    /// At most `requests_max` requests with at most `bytes_max` bytes of bodies at a time.
    pub fn new(requests_max: usize, bytes_max: usize) -> Admission {
        let (requests, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (requests_max, bytes_max) = (requests_max.into(), bytes_max.into());
        Admission(Arc::new(Shared { requests_max, bytes_max, requests, bytes }))
    }

    /// Other bounds from now on: there are more peers than before, or fewer. What was admitted stays so.
    pub fn resize(&self, requests_max: usize, bytes_max: usize) {
        self.0.requests_max.store(requests_max, Ordering::Relaxed);
        self.0.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Requests admitted and not released yet.
    pub fn requests_inflight(&self) -> usize {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Bytes of those requests.
    pub fn bytes_inflight(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Takes a place, to be given back with [`Admission::release`]. The counters only bound a quantity; they order
    /// no other memory, so relaxed is enough.
    pub(crate) fn admit(&self, bytes: usize) -> bool {
        if self.0.requests.fetch_add(1, Ordering::Relaxed) >= self.0.requests_max.load(Ordering::Relaxed) {
            self.0.requests.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        if self.0.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.0.bytes_max.load(Ordering::Relaxed) {
            self.release(bytes);
            return false;
        }
        true
    }

    pub(crate) fn release(&self, bytes: usize) {
        let requests = self.0.requests.fetch_sub(1, Ordering::Relaxed);
        let held = self.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
        assert!(requests >= 1 && held >= bytes, "released {bytes} bytes of {held} held by {requests} requests");
    }
}

impl Default for Admission {
    fn default() -> Admission {
        Admission::new(16_384, 256 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admission_is_bounded_in_requests_and_in_bytes() {
        let admission = Admission::new(2, 10);
        assert!(admission.admit(4));
        assert!(!admission.admit(7), "bytes");
        assert!(admission.admit(6));
        assert!(!admission.admit(0), "requests");
        admission.release(6);
        assert!(admission.admit(0));
        assert_eq!((admission.requests_inflight(), admission.bytes_inflight()), (2, 4));
        admission.resize(3, 9);
        assert!(!admission.admit(6), "bytes");
        assert!(admission.admit(5));
        admission.resize(1, 1);
        admission.release(5);
        assert!(!admission.admit(0), "what was admitted stays, and counts");
    }
}
