//! [`Calls`]: how often each command was called and how long it took, for INFO and LATENCY HISTOGRAM.
//!
//! The time of a command is that from its arrival to its reply: it contains the way to the leader and the wait for the
//! disks of a majority, which is what a client feels. What is answered without data takes no time in these figures, and the
//! commands of a block are counted with their EXEC, which takes the time.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use dstore_resp::{COMMAND_COUNT, CommandId, CommandSpec, Reply};

/// Parts of each power of two.
const PARTS: usize = 4;
/// Enough for 2^40 microseconds, thirteen days.
const BUCKETS: usize = 40 * PARTS;
/// Kinds of errors that are told apart.
const ERRORS_MAX: usize = 128;

/// One command.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) calls: u64,
    pub(crate) usec: u64,
    pub(crate) rejected: u64,
    pub(crate) failed: u64,
    histogram: [u64; BUCKETS],
}

/// All commands of a node.
#[derive(Debug)]
pub(crate) struct Calls {
    rows: Vec<Option<Box<Row>>>,
    errors: BTreeMap<String, u64>,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Default for Calls {
    fn default() -> Calls {
        let rows = std::iter::repeat_with(|| None).take(COMMAND_COUNT).collect();
        Calls { rows, errors: BTreeMap::new(), hits: 0, misses: 0 }
    }
}

impl Calls {
    fn row(&mut self, id: CommandId) -> &mut Row {
        self.rows[id as usize]
            .get_or_insert_with(|| Box::new(Row { calls: 0, usec: 0, rejected: 0, failed: 0, histogram: [0; BUCKETS] }))
    }

    /// A command was answered. `took` is none where its time is another's.
    pub(crate) fn note(&mut self, id: CommandId, took: Option<Duration>, failed: bool) {
        let row = self.row(id);
        row.calls += 1;
        row.failed += u64::from(failed);
        if let Some(took) = took {
            let usec = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            row.usec = row.usec.saturating_add(usec);
            row.histogram[bucket(usec)] += 1;
        }
    }

    /// A command was refused before it began.
    pub(crate) fn reject(&mut self, id: CommandId) {
        self.row(id).rejected += 1;
    }

    /// Counts an error reply under its code.
    pub(crate) fn note_error(&mut self, text: &[u8]) {
        let code = text.split(|byte| matches!(byte, b' ' | b'\r')).next().unwrap_or(text);
        let code = String::from_utf8_lossy(code);
        if let Some(count) = self.errors.get_mut(&*code) {
            *count += 1;
        } else if self.errors.len() < ERRORS_MAX {
            self.errors.insert(code.into_owned(), 1);
        }
    }

    /// Commands that were called.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static CommandSpec, &Row)> {
        CommandSpec::all().iter().zip(&self.rows).filter_map(|(spec, row)| Some((spec, row.as_deref()?)))
    }

    pub(crate) fn errors(&self) -> impl Iterator<Item = (&str, u64)> {
        self.errors.iter().map(|(code, count)| (code.as_str(), *count))
    }
}

impl Row {
    pub(crate) fn is_timed(&self) -> bool {
        self.histogram.iter().any(|count| *count > 0)
    }

    /// The time that `percent` of the calls did not exceed, in microseconds.
    pub(crate) fn percentile(&self, percent: f64) -> u64 {
        let total: u64 = self.histogram.iter().sum();
        let mut wanted = (total as f64 * percent / 100.0).ceil().max(1.0) as u64;
        for (at, count) in self.histogram.iter().enumerate() {
            if wanted <= *count {
                return bucket_end(at);
            }
            wanted -= count;
        }
        0
    }

    /// What LATENCY HISTOGRAM answers: for powers of two, how many calls took no longer.
    pub(crate) fn describe(&self) -> Reply {
        let text = Reply::bulk_static;
        let total: u64 = self.histogram.iter().sum();
        let mut steps = Vec::new();
        let (mut sum, mut limit) = (0, 1);
        for (at, count) in self.histogram.iter().enumerate() {
            while bucket_end(at) > limit {
                limit *= 2;
            }
            sum += count;
            if *count > 0 {
                steps.retain(|(known, _)| *known != Reply::Integer(limit.cast_signed()));
                steps.push((Reply::Integer(limit.cast_signed()), Reply::Integer(sum.cast_signed())));
            }
        }
        Reply::Map(vec![
            (text("calls"), Reply::Integer(total.cast_signed())),
            (text("histogram_usec"), Reply::Map(steps)),
        ])
    }
}

fn bucket(usec: u64) -> usize {
    let usec = usec.max(1);
    let power = usec.ilog2() as usize;
    let part = ((u128::from(usec) * PARTS as u128) >> power) as usize - PARTS;
    (power * PARTS + part).min(BUCKETS - 1)
}

/// The largest time that falls into a bucket.
fn bucket_end(at: usize) -> u64 {
    let (power, part) = (at / PARTS, (at % PARTS) as u128);
    let end = ((1_u128 << power) * (PARTS as u128 + part + 1)).div_ceil(PARTS as u128) - 1;
    u64::try_from(end).unwrap_or(u64::MAX).max(1)
}

/// The text of an error reply, if it is one.
pub(crate) fn error_text(reply: &Reply) -> Option<Bytes> {
    match reply {
        Reply::Error(text) => Some(text.clone()),
        Reply::Encoded(bytes) if bytes.first() == Some(&b'-') => Some(bytes.slice(1..)),
        _ => None,
    }
}

/// Whether a reply says that there is nothing.
pub(crate) fn is_nothing(reply: &Reply) -> bool {
    match reply {
        Reply::Null => true,
        Reply::Encoded(bytes) => matches!(&bytes[..], b"$-1\r\n" | b"_\r\n"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_falls_into_a_bucket_that_holds_it() {
        let mut last = 0;
        for usec in (1..5000).chain([1 << 20, (1 << 20) + 1, 1 << 39]) {
            let at = bucket(usec);
            assert!(at >= last && bucket_end(at) >= usec, "{usec} in {at}, which ends at {}", bucket_end(at));
            assert!(usec < 8 || bucket_end(at) <= usec + usec / 3, "{usec} in a bucket up to {}", bucket_end(at));
            last = at;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_and_the_histogram_follow_from_the_calls() {
        let mut calls = Calls::default();
        for usec in [1, 2, 3, 100, 1000] {
            calls.note(CommandId::Get, Some(Duration::from_micros(usec)), false);
        }
        calls.note(CommandId::Get, None, true);
        let (_, row) = calls.rows().next().unwrap();
        assert_eq!((row.calls, row.failed, row.usec), (6, 1, 1106));
        assert!((100..128).contains(&row.percentile(80.0)), "{}", row.percentile(80.0));
        assert!((1000..1280).contains(&row.percentile(100.0)));
        let Reply::Map(fields) = row.describe() else { panic!("no map") };
        assert_eq!(fields[0].1, Reply::Integer(5));
        let step = |limit, count| (Reply::Integer(limit), Reply::Integer(count));
        assert_eq!(fields[1].1, Reply::Map(vec![step(1, 1), step(2, 2), step(4, 3), step(128, 4), step(1024, 5)]));
    }
}
