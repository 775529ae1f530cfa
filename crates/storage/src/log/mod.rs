//! [`Log`]: the replicated log on disk, entries and hard states of every range of a node in one place.
//!
//! For the node, which submits what Raft wants persisted and reads back what Raft wants sent or applied. Implemented by
//! the segment log on disk and by [`MemoryLog`] for the simulator, and tested by one suite.
//!
//! # The contract
//!
//! - [`Log::submit`] never blocks on the disk. What it takes is **readable at once** and **durable when its completion is
//!   called with `Ok`**. Completions are called in the order of submission, on a thread of the log's own; they must be
//!   short and must not call back into the log's `submit` and wait for it.
//! - Submissions become durable in order. After a crash the log holds a *prefix* of all operations submitted, entry by
//!   entry: every completed submission whole, perhaps a part of later ones, never a later one without an earlier one.
//! - Inside one submission put the hard state before the entries of its term, so that any prefix is a state Raft allows.
//! - A failed write or sync is sticky: that completion and all after it get the error, and every later `submit` is
//!   refused with [`LogError::Failed`]. Nothing is ever synced again by trying once more. Stop the node.
//!
//! A range's log begins at a [`Position`], its *begin*: nothing at or below that index is there any more, and the term at
//! the begin is still known for the log matching check. `begin.index < first entry`, and `(0, 0)` for a new range.
//!
//! # When the data is ahead of the log
//!
//! A majority may commit an entry that this node applied, and the engine flushed by itself, before its own log was synced.
//! After a crash the data then stands at a position that the log does not reach. [`begin_at_applied`] tells the
//! operation that mends it: the log begins at the applied position.

pub mod disk;
mod index;
pub mod memory;
pub mod segment;
mod torn;

pub use memory::MemoryLog;
pub use segment::inspect;
pub use segment::{SEGMENT_BYTES_MIN, SegmentLog, SegmentOptions};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::ids::{LogIndex, Position, RangeId, Term};

/// One entry of a range's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place: one above the entry before it.
    pub index: LogIndex,
    /// The term of the leader that made it; never below the term of the entry before it.
    pub term: Term,
    /// What the payload is. The log keeps it and does not look at it.
    pub kind: u8,
    /// The content, owned by whoever proposed it. Opaque here.
    pub payload: Bytes,
}

impl Entry {
    /// Where this entry is.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { index: self.index, term: self.term }
    }
}

/// What a Raft member must not forget beside its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term it has seen.
    pub term: Term,
    /// The node it voted for in that term; 0 for none.
    pub vote: u64,
    /// The highest index it knows to be committed. May lag behind the truth.
    pub commit: LogIndex,
}

/// One operation on a range's log. A range comes to be with the first operation that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOp {
    /// Appends `entries`. The first may overwrite: everything at or above its index is forgotten first. It must not be at
    /// or below the log's begin, nor leave a gap.
    Append {
        /// Whose log.
        range: RangeId,
        /// At least one entry, indexes rising by one, terms never falling.
        entries: Vec<Entry>,
    },
    /// Replaces the hard state.
    SetHardState {
        /// Whose log.
        range: RangeId,
        /// The new state.
        state: HardState,
    },
    /// Forgets all entries up to and including `index`, which becomes the begin. At or below the begin it does nothing.
    TruncatePrefix {
        /// Whose log.
        range: RangeId,
        /// The last entry forgotten; at most the last entry there is.
        index: LogIndex,
    },
    /// Forgets all entries; the log begins at `begin`. The hard state stays.
    Reset {
        /// Whose log.
        range: RangeId,
        /// The position before the next entry.
        begin: Position,
    },
    /// Forgets the range altogether, hard state too. Whoever removes a replica that may have voted must remember that
    /// elsewhere.
    RemoveRange {
        /// Whose log.
        range: RangeId,
    },
}

impl LogOp {
    /// The range this operation is about.
    #[must_use]
    pub fn range(&self) -> RangeId {
        match self {
            LogOp::Append { range, .. }
            | LogOp::SetHardState { range, .. }
            | LogOp::TruncatePrefix { range, .. }
            | LogOp::Reset { range, .. }
            | LogOp::RemoveRange { range } => *range,
        }
    }
}

/// What a range's log holds, submitted operations included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeStatus {
    /// The position before the first entry.
    pub begin: Position,
    /// The position of the last entry; the begin when there is none.
    pub last: Position,
    /// The hard state, all zero before the first one was set.
    pub hard_state: HardState,
}

impl RangeStatus {
    /// The index of the first entry that is or will be there.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.begin.index.next()
    }
}

/// Called once when a submission is durable, or with the error that made it fail. Dropped uncalled only when the log
/// refuses the submission, or when the imagined machine of a [`MemoryLog`] loses power.
pub type Completion = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// The log of all ranges of a node. See the [module](self) for the contract.
pub trait Log: Send + Sync {
    /// Takes `ops` in order: readable from now, durable when `done` is called.
    ///
    /// # Errors
    /// Refused whole, nothing taken and `done` never called: [`LogError::Busy`] (try again later),
    /// [`LogError::EntryTooLarge`], [`LogError::Refused`] (the operations do not fit the log, a bug of the caller),
    /// [`LogError::Failed`] (stop the node).
    fn submit(&self, ops: Vec<LogOp>, done: Completion) -> Result<(), LogError>;

    /// The entries `lo..hi` of `range`, or as many of the first of them as `payload_bytes_max` allows, but at least one
    /// where `lo < hi`. Recent entries come from memory; older ones are read from the disk, which may block.
    ///
    /// # Errors
    /// [`LogError::Compacted`] when `lo` is at or below the begin, [`LogError::Unavailable`] when `hi` is beyond the last
    /// entry or there is no such range, [`LogError::Damaged`] and [`LogError::Io`] when the disk does not give it back.
    fn entries(
        &self,
        range: RangeId,
        lo: LogIndex,
        hi: LogIndex,
        payload_bytes_max: usize,
    ) -> Result<Vec<Entry>, LogError>;

    /// The same, as far as the entries are in memory: none where the first of them would have to be read. Never touches the disk.
    ///
    /// # Errors
    /// As [`Log::entries`], but for those of the disk.
    fn entries_in_memory(
        &self,
        _range: RangeId,
        _lo: LogIndex,
        _hi: LogIndex,
        _payload_bytes_max: usize,
    ) -> Result<Vec<Entry>, LogError> {
        Ok(Vec::new())
    }

    /// The term of the entry at `index`, or at the begin; `None` where the log does not know. Never touches the disk.
    fn term(&self, range: RangeId, index: LogIndex) -> Option<Term>;

    /// What `range`'s log holds; `None` when there is no such range. Never touches the disk.
    fn status(&self, range: RangeId) -> Option<RangeStatus>;

    /// All ranges, in order.
    fn ranges(&self) -> Vec<RangeId>;

    /// The largest payload that an entry may have.
    fn payload_bytes_max(&self) -> usize;

    /// Figures for INFO and metrics.
    fn stats(&self) -> LogStats;

    /// There is room again: what [`LogStats::prepare_error`] tells of is tried once more, without waiting for it.
    fn prepare_again(&self) {}
}

/// The operation that lets the log of `range` begin at `applied` when, after a crash, the data is ahead of the log, or
/// `None` when the log reaches `applied` and agrees with it. To be submitted before anything else of that range.
///
/// # Panics
/// When the log begins above `applied`: entries are missing that the data needs, because the log was truncated beyond
/// what was persisted. A caller that keeps the rule of [`Engine::get_persisted`](crate::Engine::get_persisted) never
/// sees it; check [`Log::status`] first to turn it into a message.
#[must_use]
pub fn begin_at_applied(log: &dyn Log, range: RangeId, applied: Position) -> Option<LogOp> {
    let status = log.status(range)?;
    assert!(
        status.begin.index <= applied.index,
        "log of range {range} begins at {} but the data stands at {applied}",
        status.begin
    );
    let agrees = log.term(range, applied.index) == Some(applied.term);
    (!agrees).then_some(LogOp::Reset { range, begin: applied })
}

/// How often something took or measured how much: bucket `i` counts values in `2^(i-1)..2^i`, bucket 0 the value 0, the
/// last one everything above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerHistogram {
    /// Counts by bucket.
    pub buckets: [u64; 32],
    /// The sum of all values.
    pub sum: u64,
    /// How many values.
    pub count: u64,
    /// The largest value.
    pub max: u64,
}

impl PowerHistogram {
    /// Counts `value`.
    pub fn record(&mut self, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[bucket.min(self.buckets.len() - 1)] += 1;
        self.sum = self.sum.saturating_add(value);
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// The mean, 0 when nothing was counted.
    #[must_use]
    pub fn mean(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }

    /// An upper bound of the value below which `percent` of the values lie: the end of that bucket.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> u64 {
        let wanted = (self.count * percent.min(100)).div_ceil(100).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return (1_u64 << bucket).saturating_sub(1).min(self.max);
            }
        }
        self.max
    }
}

/// What a log tells of itself. A figure that an implementation does not have is 0 or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Ranges with a log.
    pub ranges: u64,
    /// Entries in all of them.
    pub entries: u64,
    /// Bytes of payload served from memory.
    pub cache_bytes: u64,
    /// Bytes submitted and not durable yet.
    pub backlog_bytes: u64,
    /// Records made durable.
    pub records_total: u64,
    /// Bytes written to segments.
    pub bytes_total: u64,
    /// How long each sync took, microseconds. Its count is the number of frames written.
    pub sync_us: PowerHistogram,
    /// How many submissions shared each sync.
    pub submissions_per_sync: PowerHistogram,
    /// How many bytes each sync made durable.
    pub bytes_per_sync: PowerHistogram,
    /// Segments in use, the one being written included.
    pub segments: u64,
    /// Prepared segments that wait for use.
    pub segments_spare: u64,
    /// The range whose oldest entry keeps the oldest segment from being reused, and how many segments it holds back.
    pub pinned_by: Option<(RangeId, u64)>,
    /// Why the next segment could not be prepared ahead of need. While this is set the log still takes what fits in the
    /// segment at hand; refuse growth now.
    pub prepare_error: Option<String>,
    /// The failure that stopped the log.
    pub failed: Option<String>,
}

/// Why the log could not do what it was asked; one variant for each thing a caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Too much is submitted and not durable yet. Nothing was taken; push back upstream and try again later.
    #[error("log is busy: {backlog_bytes} bytes wait for the disk")]
    Busy {
        /// How much waits.
        backlog_bytes: u64,
    },
    /// An entry's payload is above [`Log::payload_bytes_max`]. Refuse the command that made it.
    #[error("log entry of {bytes} bytes is larger than {bytes_max}")]
    EntryTooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The operation does not fit what the log holds. A bug of the caller.
    #[error("log of range {range} refuses: {what}")]
    Refused {
        /// Whose log.
        range: RangeId,
        /// What does not fit.
        what: String,
    },
    /// The entry asked for is at or below the begin. Send a snapshot instead.
    #[error("log of range {range} begins at {begin}")]
    Compacted {
        /// Whose log.
        range: RangeId,
        /// Where it begins.
        begin: Position,
    },
    /// The entry asked for is beyond the end.
    #[error("log of range {range} has no entry {index}, it ends at {last}")]
    Unavailable {
        /// Whose log.
        range: RangeId,
        /// What was asked for.
        index: LogIndex,
        /// The last index there is.
        last: LogIndex,
    },
    /// The disk is full. Stop the node.
    #[error("no space left for the log: {action} {path}: {error}", path = .path.display())]
    Full {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// The operating system failed. Stop the node.
    #[error("log I/O failed: {action} {path}: {error}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// What is on disk is not what was written, and it is not a write cut short by a crash. Refuse to start; the range's
    /// entries must come from another replica.
    #[error("log is damaged: {path} at offset {offset}: {what}", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file was written by something this version does not know. Nothing was touched.
    #[error("log file {path} has a format this version does not know: {what}", path = .path.display())]
    UnknownFormat {
        /// Which file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// An earlier write or sync failed, so nothing is written any more. Carries the first failure.
    #[error("log stopped at an earlier failure: {0}")]
    Failed(Arc<LogError>),
}

impl LogError {
    /// The error of a system call: [`LogError::Full`] or [`LogError::Io`].
    pub(crate) fn io(action: &'static str, path: &Path, error: io::Error) -> LogError {
        let path = path.to_owned();
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let error = Arc::new(error);
        if full { LogError::Full { action, path, error } } else { LogError::Io { action, path, error } }
    }

    /// What operations after this failure get.
    pub(crate) fn sticky(&self) -> LogError {
        match self {
            LogError::Failed(first) => LogError::Failed(Arc::clone(first)),
            first => LogError::Failed(Arc::new(first.clone())),
        }
    }
}

/// A duration in whole microseconds, for the histograms.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::PowerHistogram;

    #[test]
    fn a_histogram_tells_mean_maximum_and_where_most_values_lie() {
        let mut histogram = PowerHistogram::default();
        assert_eq!((histogram.mean(), histogram.percentile(99)), (0, 0));
        (0..99).for_each(|_| histogram.record(100));
        histogram.record(5000);
        assert_eq!((histogram.mean(), histogram.max, histogram.count), (149, 5000, 100));
        assert_eq!((histogram.percentile(50), histogram.percentile(99), histogram.percentile(100)), (127, 127, 5000));
        histogram.record(u64::MAX);
        assert_eq!(histogram.buckets[31], 1, "the last bucket takes what is beyond");
        histogram.record(0);
        assert_eq!(histogram.buckets[0], 1);
    }
}
