//! What a connection has done, counted: per method, as caller and as server, and for the connection as a whole.
//!
//! Plain values owned by the connection, read and merged by whoever owns connections. Methods are numbers that a
//! peer chooses, so only [`METHODS_MAX`] of them are told apart; the rest share one entry.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::status::Code;

/// Methods counted one by one, for each direction.
pub const METHODS_MAX: usize = 128;

/// The entry that methods beyond [`METHODS_MAX`] share.
pub const METHOD_OTHER: u32 = u32::MAX;

/// Buckets of a latency histogram: the last one takes everything from about 36 minutes.
const BUCKETS: usize = 32;

/// Counters of one connection, or the sum of several.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Methods we called and one-way messages we sent.
    pub called: Methods,
    /// Methods and messages the peer sent us.
    pub served: Methods,
    /// Frames received, whole and sound.
    pub frames_received: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Frames handed to the transport.
    pub frames_sent: u64,
    /// Bytes handed to the transport.
    pub bytes_sent: u64,
    /// One-way messages dropped, because the peer is slow or not there.
    pub oneway_dropped: u64,
    /// Replies for calls that had already ended here.
    pub replies_late: u64,
    /// Answers for requests that had already ended here.
    pub answers_late: u64,
    /// Streams opened, by either end.
    pub streams_opened: u64,
    /// The latest measured round trip.
    pub round_trip: Option<Duration>,
}

impl Metrics {
    /// Adds another connection's counters; gauges (in flight) add up too.
    pub fn merge(&mut self, other: &Metrics) {
        self.called.merge(&other.called);
        self.served.merge(&other.served);
        self.frames_received += other.frames_received;
        self.bytes_received += other.bytes_received;
        self.frames_sent += other.frames_sent;
        self.bytes_sent += other.bytes_sent;
        self.oneway_dropped += other.oneway_dropped;
        self.replies_late += other.replies_late;
        self.answers_late += other.answers_late;
        self.streams_opened += other.streams_opened;
        self.round_trip = other.round_trip.or(self.round_trip);
    }
}

/// Counters by method number.
#[derive(Clone, Debug, Default)]
pub struct Methods(BTreeMap<u32, MethodMetrics>);

impl Methods {
    /// A method's counters, if it was ever used.
    pub fn get(&self, method: u32) -> Option<&MethodMetrics> {
        self.0.get(&method)
    }

    /// All methods in order of their number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &MethodMetrics)> {
        self.0.iter().map(|(method, metrics)| (*method, metrics))
    }

    pub(crate) fn of(&mut self, method: u32) -> &mut MethodMetrics {
        let known = self.0.len() < METHODS_MAX || self.0.contains_key(&method);
        self.0.entry(if known { method } else { METHOD_OTHER }).or_default()
    }

    fn merge(&mut self, other: &Methods) {
        for (method, metrics) in &other.0 {
            self.of(*method).merge(metrics);
        }
    }
}

/// Counters of one method.
#[derive(Clone, Debug, Default)]
pub struct MethodMetrics {
    /// Calls or messages begun.
    pub started: u64,
    /// Calls begun and not ended.
    pub inflight: u64,
    /// Calls that ended in a reply.
    pub succeeded: u64,
    /// Calls that ended otherwise, by [`Code`] in the order of [`Code::ALL`].
    failed: [u64; Code::ALL.len()],
    /// Bytes of request and message bodies.
    pub request_bytes: u64,
    /// Bytes of reply bodies.
    pub reply_bytes: u64,
    /// How long calls took, whatever their end.
    pub latency: Histogram,
}

impl MethodMetrics {
    /// Calls that ended with `code`.
    pub fn failed(&self, code: Code) -> u64 {
        self.failed[code as usize - 1]
    }

    pub(crate) fn start_call(&mut self, request_bytes: usize) {
        self.started += 1;
        self.inflight += 1;
        self.request_bytes += request_bytes as u64;
    }

    pub(crate) fn end_call(&mut self, result: Result<usize, Code>, took: Duration) {
        self.inflight = self.inflight.checked_sub(1).expect("a call ends once, after it began");
        match result {
            Ok(reply_bytes) => {
                self.succeeded += 1;
                self.reply_bytes += reply_bytes as u64;
            }
            Err(code) => self.failed[code as usize - 1] += 1,
        }
        self.latency.record(took);
    }

    pub(crate) fn message(&mut self, bytes: usize) {
        self.started += 1;
        self.request_bytes += bytes as u64;
    }

    fn merge(&mut self, other: &MethodMetrics) {
        self.started += other.started;
        self.inflight += other.inflight;
        self.succeeded += other.succeeded;
        for (sum, failed) in self.failed.iter_mut().zip(other.failed) {
            *sum += failed;
        }
        self.request_bytes += other.request_bytes;
        self.reply_bytes += other.reply_bytes;
        self.latency.merge(&other.latency);
    }
}

/// Latencies in buckets that double: bucket `n` counts those below `2^n` microseconds, and not below half of that.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
}

impl Histogram {
    pub(crate) fn record(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
    }

    /// How many latencies were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Each bucket's upper bound (exclusive) and count.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.buckets.iter().enumerate().map(|(n, count)| (Duration::from_micros(1 << n), *count))
    }

    /// An upper bound of the `quantile` (0 to 1) of what was recorded; `None` of nothing.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = (self.count() as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.buckets().find_map(|(bound, count)| {
            seen += count;
            (seen >= rank && seen > 0).then_some(bound)
        })
    }

    fn merge(&mut self, other: &Histogram) {
        for (sum, count) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_bounded_from_above_within_a_factor_of_two() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for us in 1..=1000 {
            histogram.record(Duration::from_micros(us));
        }
        histogram.record(Duration::from_secs(1 << 40));
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(512)));
        assert_eq!(histogram.quantile(0.99), Some(Duration::from_micros(1024)));
        assert_eq!(histogram.count(), 1001);
    }

    #[test]
    fn a_peer_that_invents_methods_does_not_grow_the_table() {
        let mut methods = Methods::default();
        for method in 0..10_000 {
            methods.of(method).message(1);
        }
        assert_eq!(methods.iter().count(), METHODS_MAX + 1);
        assert_eq!(methods.get(METHOD_OTHER).unwrap().started, 10_000 - METHODS_MAX as u64);
    }
}
