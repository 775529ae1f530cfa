//! What a start takes: how long each phase of it, and [`Replay`], the part of the log that is not in the data yet.
//!
//! `log_bytes_max` bounds that part: the data is flushed when half of it has been logged, and what a restart finds counts
//! towards the next flush. It is applied as soon as it is known to be decided, on the loop, while clients already wait.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use dstore_node::offline::RANGES;
use dstore_node::{Applied, NodeError};
use dstore_storage::{Log, LogIndex, RangeId, Reader, SegmentLog};

/// How often it is looked at how far the replay is.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often that is said, at most; and how long a replay takes that is worth saying anything of.
const SAY_INTERVAL: Duration = Duration::from_secs(1);

/// How long each phase of a start took.
pub struct Phases {
    started: Instant,
    last: Instant,
    text: String,
}

impl Phases {
    /// Starts now.
    pub fn begin() -> Phases {
        let now = Instant::now();
        Phases { started: now, last: now, text: String::new() }
    }

    /// A phase that began where the one before ended is over.
    pub fn end(&mut self, name: &str) {
        let now = Instant::now();
        // Strings take everything.
        let comma = if self.text.is_empty() { "" } else { ", " };
        let _ = write!(self.text, "{comma}{name} {} ms", (now - self.last).as_millis());
        self.last = now;
    }

    /// All of them.
    pub fn text(&self) -> String {
        format!("{} ms ({})", (self.last - self.started).as_millis(), self.text)
    }
}

/// What of the log is not in the data when a node starts.
#[derive(Debug)]
pub struct Replay {
    started: Instant,
    ranges: Vec<Behind>,
    entries: u64,
    bytes: u64,
    /// Entries that were applied when it was last looked, and when that was.
    seen: (u64, Instant),
    /// The same of when it was last said.
    said: (u64, Instant),
}

/// A range whose data is behind its log.
#[derive(Debug)]
struct Behind {
    range: RangeId,
    applied: LogIndex,
    last: LogIndex,
    bytes: u64,
}

impl Replay {
    /// What `log` has beyond `data`.
    ///
    /// # Errors
    ///
    /// The data cannot be read.
    pub fn find(data: &dyn Reader, log: &SegmentLog, now: Instant) -> Result<Replay, NodeError> {
        let mut ranges = Vec::new();
        for range in RANGES {
            let applied = Applied::decode(data.get(&Applied::key(range))?.as_deref())?.position.index;
            let last = log.status(range).map_or(applied, |status| status.last.index);
            let bytes = log.payload_bytes_behind(range, applied);
            ranges.push(Behind { range, applied, last, bytes });
        }
        let entries = ranges.iter().map(Behind::entries).sum();
        let bytes = ranges.iter().map(|behind| behind.bytes).sum();
        Ok(Replay { started: now, ranges, entries, bytes, seen: (0, now), said: (0, now) })
    }

    /// Bytes of the entries.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is to be done, in words.
    pub fn text(&self) -> String {
        if self.entries == 0 {
            return "nothing to replay".to_owned();
        }
        let text = |behind: &Behind| {
            let Behind { range, bytes, .. } = behind;
            format!("{} entries of {bytes} bytes in range {range}", behind.entries())
        };
        let ranges: Vec<String> = self.ranges.iter().filter(|behind| behind.entries() > 0).map(text).collect();
        format!("to replay: {}", ranges.join(", "))
    }

    /// Looks how far it is, where `reach` tells a range's applied entry and the last one of its log. The result is a line
    /// worth saying, and whether all is done.
    pub fn look(
        &mut self,
        now: Instant,
        reach: impl Fn(RangeId) -> Option<(LogIndex, LogIndex)>,
    ) -> (Option<String>, bool) {
        if now.saturating_duration_since(self.seen.1) < LOOK_INTERVAL {
            return (None, false);
        }
        let (mut done, mut left) = (0, 0);
        for behind in &self.ranges {
            let (applied, last) = reach(behind.range).unwrap_or((behind.applied, behind.last));
            // Another leader may have cut off what was never decided.
            let last = behind.last.min(last);
            done += applied.min(last).0.saturating_sub(behind.applied.0);
            left += last.0.saturating_sub(applied.0);
        }
        self.seen = (done, now);
        let took = now.saturating_duration_since(self.started);
        if left == 0 {
            let line = format!("replayed {done} entries, {} bytes at most, in {} ms", self.bytes, took.as_millis());
            return ((done > 0).then_some(line), true);
        }
        if now.saturating_duration_since(self.said.1) < SAY_INTERVAL || (self.said.0 == done && done > 0) {
            return (None, false);
        }
        let is_stuck = self.said == (0, self.started) && done == 0;
        if done == 0 && !is_stuck {
            return (None, false);
        }
        self.said = (done, now);
        let line = if is_stuck {
            format!("{left} entries wait until a leader says that they are decided")
        } else {
            format!("replaying: {done} of {} entries", done + left)
        };
        (Some(line), false)
    }
}

impl Behind {
    fn entries(&self) -> u64 {
        self.last.0.saturating_sub(self.applied.0)
    }
}

#[cfg(test)]
mod tests {
    use dstore_node::USER_RANGE;
    use dstore_storage::log::{Entry, LogOp};
    use dstore_storage::{Bytes, MemoryEngine, Position, SegmentOptions, Term, WriteOp};

    use super::*;

    fn replay(now: Instant) -> Replay {
        let scratch = tempfile::tempdir().unwrap();
        let options = SegmentOptions { segment_bytes: 64 << 10, ..SegmentOptions::new(1) };
        let log = SegmentLog::open(scratch.path(), &options).unwrap();
        let entry =
            |index| Entry { index: LogIndex(index), term: Term(1), kind: 1, payload: Bytes::from_static(b"12345") };
        let ops = vec![LogOp::Append { range: USER_RANGE, entries: (1..=100).map(entry).collect() }];
        log.submit(ops, Box::new(|result| result.unwrap())).unwrap();
        let engine = MemoryEngine::new();
        let applied = Applied { position: Position::new(40, 1), ..Applied::default() };
        let op = WriteOp::Put { key: Applied::key(USER_RANGE), value: applied.encode() };
        dstore_storage::Engine::write(&engine, &[op]).unwrap();
        Replay::find(&engine, &log, now).unwrap()
    }

    #[test]
    fn what_is_to_be_replayed_is_what_the_log_has_beyond_the_data() {
        let replay = replay(Instant::now());
        assert_eq!(replay.bytes(), 300);
        assert_eq!(replay.text(), "to replay: 60 entries of 300 bytes in range 1");
    }

    #[test]
    fn a_long_replay_says_how_far_it_is_and_a_short_one_only_its_end() {
        let started = Instant::now();
        let at = |applied, last: u64| {
            move |range: RangeId| (range == USER_RANGE).then_some((LogIndex(applied), LogIndex(last)))
        };
        let after = |ms| started + Duration::from_millis(ms);
        let mut short = replay(started);
        let (line, done) = short.look(after(300), at(105, 110));
        assert_eq!((line.as_deref(), done), (Some("replayed 60 entries, 300 bytes at most, in 300 ms"), true));

        let mut long = replay(started);
        assert_eq!(long.look(after(500), at(50, 100)), (None, false));
        assert_eq!(long.look(after(1100), at(60, 100)), (Some("replaying: 20 of 60 entries".to_owned()), false));
        assert_eq!(long.look(after(1900), at(70, 100)), (None, false), "once a second at most");
        assert_eq!(long.look(after(2200), at(70, 100)), (Some("replaying: 30 of 60 entries".to_owned()), false));
        assert_eq!(long.look(after(3300), at(70, 100)), (None, false), "nothing new");
        // A new leader cut the log.
        assert!(long.look(after(4400), at(80, 80)).1);
    }

    #[test]
    fn a_node_without_a_leader_says_so_once() {
        let started = Instant::now();
        let mut replay = replay(started);
        let waiting = |_| Some((LogIndex(40), LogIndex(100)));
        let line = replay.look(started + Duration::from_secs(2), waiting).0;
        assert_eq!(line.as_deref(), Some("60 entries wait until a leader says that they are decided"));
        assert_eq!(replay.look(started + Duration::from_secs(4), waiting).0, None);
    }
}
