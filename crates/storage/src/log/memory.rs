//! [`MemoryLog`]: the log of the simulator and of tests, with the crash model of the real one.
//!
//! Nothing becomes durable by itself: the driver says when the imagined disk has synced ([`MemoryLog::sync_one`],
//! [`MemoryLog::sync`]), and the completions are called inside that call. [`MemoryLog::lose_power`] keeps what was
//! synced, and of the rest a prefix of records that the seed chooses: a write cut short may have reached the disk in
//! part, but never a later record without an earlier one. [`MemoryLog::tear`] does the same by the bytes of a segment.
//! [`MemoryLog::rot`] lets an entry come back damaged.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::index::{Found, RangeLogs};
use super::{Completion, Entry, Log, LogError, LogIndex, LogOp, LogStats, RangeStatus};
use crate::ids::{RangeId, Term};
use crate::mix::Mix;

/// The bound on payloads, as small as that of a segment log of ordinary size.
const PAYLOAD_BYTES_MAX: usize = 32 << 20;

/// The bound on ranges: far above what a node has, and what a test could reach.
const RANGES_MAX: usize = 100_000;

/// A [`Log`] in memory that can lose power and fail on demand. See the [module](self).
#[derive(Debug)]
pub struct MemoryLog {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What readers see.
    current: RangeLogs,
    /// What is on the imagined disk.
    durable: RangeLogs,
    /// Operations of submissions whose sync failed: nobody knows what of them is on the disk.
    doubtful: Vec<LogOp>,
    /// Submissions in `current` and not in `durable`, oldest first.
    waiting: VecDeque<Waiting>,
    failed: Option<LogError>,
    /// An entry that the disk does not give back.
    rotten: Option<(RangeId, LogIndex)>,
    /// How many of each range's last entries are taken to be in memory.
    remembered: u64,
    records_total: u64,
}

struct Waiting {
    ops: Vec<LogOp>,
    done: Completion,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("ops", &self.ops).finish_non_exhaustive()
    }
}

impl Default for MemoryLog {
    fn default() -> MemoryLog {
        MemoryLog::new()
    }
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> MemoryLog {
        let empty = || RangeLogs::new(usize::MAX);
        MemoryLog {
            state: Mutex::new(State {
                current: empty(),
                durable: empty(),
                doubtful: Vec::new(),
                waiting: VecDeque::new(),
                failed: None,
                rotten: None,
                remembered: u64::MAX,
                records_total: 0,
            }),
        }
    }

    /// Makes the oldest waiting submission durable and calls its completion. False when nothing waits.
    pub fn sync_one(&self) -> bool {
        let mut state = self.lock();
        let Some(next) = state.waiting.pop_front() else { return false };
        let result = match state.failed.as_ref().map(LogError::sticky) {
            Some(failed) => {
                state.doubtful.extend(next.ops);
                Err(failed)
            }
            None => {
                state.records_total += record_count(&next.ops);
                for op in &next.ops {
                    state.durable.apply(op);
                }
                Ok(())
            }
        };
        drop(state);
        (next.done)(result);
        true
    }

    /// Makes everything that waits durable and calls the completions.
    pub fn sync(&self) {
        while self.sync_one() {}
    }

    /// Submissions that wait to be synced.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// The machine loses power and comes back: of what was not synced a prefix of records survives, as long as `seed`
    /// says. Completions of the rest are dropped uncalled. An injected failure is over.
    pub fn lose_power(&self, seed: u64) {
        let mut state = self.lock();
        let mut unsynced = std::mem::take(&mut state.doubtful);
        unsynced.extend(std::mem::take(&mut state.waiting).into_iter().flat_map(|waiting| waiting.ops));
        let mut survivors = Mix::new(seed).up_to(record_count(&unsynced));
        for op in &unsynced {
            if survivors == 0 {
                break;
            }
            let count = record_count(std::slice::from_ref(op)).min(survivors);
            survivors -= count;
            match op {
                LogOp::Append { range, entries } => {
                    let entries = entries[..count as usize].to_vec();
                    state.durable.apply(&LogOp::Append { range: *range, entries });
                }
                whole => {
                    state.durable.apply(whole);
                }
            }
        }
        state.current = state.durable.clone();
        state.failed = None;
    }

    /// As [`MemoryLog::lose_power`], but what was being written is torn as its sectors are, and read again by what its
    /// bytes say. A log that is `trusting` does not look at checksums: a planted bug.
    pub fn tear(&self, seed: u64, trusting: bool) {
        let mut state = self.lock();
        let mut unsynced = std::mem::take(&mut state.doubtful);
        unsynced.extend(std::mem::take(&mut state.waiting).into_iter().flat_map(|waiting| waiting.ops));
        if !unsynced.is_empty() {
            for op in super::torn::survivors(&unsynced, &mut Mix::new(seed), trusting) {
                state.durable.apply(&op);
            }
        }
        state.current = state.durable.clone();
        state.failed = None;
    }

    /// From now on the disk does not give back one of the entries that are on it, whatever else happens. False if there is
    /// none.
    pub fn rot(&self, seed: u64) -> bool {
        let mut state = self.lock();
        let mut mix = Mix::new(seed);
        let ranges = state.durable.ranges();
        let Some(range) = ranges.get(mix.up_to(ranges.len().saturating_sub(1) as u64) as usize) else { return false };
        let Some(status) = state.durable.status(*range) else { return false };
        let entries = status.last.index.0 - status.begin.index.0;
        if entries == 0 {
            return false;
        }
        state.rotten = Some((*range, LogIndex(status.last.index.0 - mix.up_to(entries - 1))));
        true
    }

    /// From now on no more than so many of each range's last entries are taken to be in memory: others have to be read.
    pub fn set_remembered(&self, entries: u64) {
        self.lock().remembered = entries;
    }

    /// Why a log on this disk cannot be opened, if it cannot: opening reads everything.
    #[must_use]
    pub fn damage(&self) -> Option<LogError> {
        let state = self.lock();
        let (range, index) = state.rotten?;
        let status = state.durable.status(range)?;
        (status.begin.index < index && index <= status.last.index).then(|| damaged(range, index))
    }

    /// From now on every sync fails and every submission is refused, as after an error of the disk.
    pub fn fail(&self, reason: &str) {
        let source = std::io::Error::other(reason.to_owned());
        self.lock().failed = Some(LogError::io("sync", std::path::Path::new("memory"), source));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock can leave the state half changed, so a panic elsewhere does not make it unusable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn damaged(range: RangeId, index: LogIndex) -> LogError {
    let what = format!("the checksum of entry {index} of range {range} is wrong");
    LogError::Damaged { path: "memory".into(), offset: index.0, what }
}

fn record_count(ops: &[LogOp]) -> u64 {
    let count = |op: &LogOp| if let LogOp::Append { entries, .. } = op { entries.len() as u64 } else { 1 };
    ops.iter().map(count).sum()
}

impl Log for MemoryLog {
    fn submit(&self, ops: Vec<LogOp>, done: Completion) -> Result<(), LogError> {
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            return Err(failed.sticky());
        }
        state.current.check(&ops, PAYLOAD_BYTES_MAX, RANGES_MAX)?;
        for op in &ops {
            state.current.apply(op);
        }
        state.waiting.push_back(Waiting { ops, done });
        Ok(())
    }

    fn entries(
        &self,
        range: RangeId,
        lo: LogIndex,
        hi: LogIndex,
        payload_bytes_max: usize,
    ) -> Result<Vec<Entry>, LogError> {
        let state = self.lock();
        if let Some((rotten, index)) =
            state.rotten.filter(|(rotten, index)| *rotten == range && (lo..hi).contains(index))
        {
            return Err(damaged(rotten, index));
        }
        let found = state.current.entries(range, lo, hi, payload_bytes_max)?;
        let whole = |found| match found {
            Found::Whole(entry) => entry,
            Found::OnDisk { index, .. } => unreachable!("entry {index} left the memory of a log without a disk"),
        };
        Ok(found.map(whole).collect())
    }

    fn entries_in_memory(
        &self,
        range: RangeId,
        lo: LogIndex,
        hi: LogIndex,
        payload_bytes_max: usize,
    ) -> Result<Vec<Entry>, LogError> {
        let state = self.lock();
        let mut found = state.current.entries_in_memory(range, lo, hi, payload_bytes_max)?;
        let last = state.current.status(range).map_or(0, |status| status.last.index.0);
        let is_read = |entry: &Entry| last - entry.index.0 >= state.remembered;
        if found.first().is_some_and(is_read) {
            found.clear();
        }
        if let Some(at) = found.iter().position(|entry| state.rotten == Some((range, entry.index))) {
            found.truncate(at);
        }
        Ok(found)
    }

    fn term(&self, range: RangeId, index: LogIndex) -> Option<Term> {
        self.lock().current.term(range, index)
    }

    fn status(&self, range: RangeId) -> Option<RangeStatus> {
        self.lock().current.status(range)
    }

    fn ranges(&self) -> Vec<RangeId> {
        self.lock().current.ranges()
    }

    fn payload_bytes_max(&self) -> usize {
        PAYLOAD_BYTES_MAX
    }

    fn stats(&self) -> LogStats {
        let state = self.lock();
        LogStats {
            ranges: state.current.ranges_len(),
            entries: state.current.entries_len(),
            cache_bytes: state.current.cache_bytes(),
            records_total: state.records_total,
            failed: state.failed.as_ref().map(ToString::to_string),
            ..LogStats::default()
        }
    }
}
