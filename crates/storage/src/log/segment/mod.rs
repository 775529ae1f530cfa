//! [`SegmentLog`]: the log on disk, in preallocated segment files that are used again.
//!
//! For the server, which opens one for a node; its loops submit and read, its log-writer thread writes. How it works:
//!
//! 1. [`SegmentLog::submit`](Log::submit) checks the operations, makes them readable in the index, and queues them.
//! 2. The writer takes what is queued, encodes it into one *frame* and syncs it. What comes meanwhile shares the next.
//! 3. Then it notes in the index where each entry lies, and calls the completions.
//! 4. A full segment is followed by one that the keeper prepared ahead of need. Every segment begins with the state of
//!    all ranges, so older ones can go as soon as no range has an entry in them.
//!
//! Read the module `format` for the bytes, `recovery` for what a crash may leave, `writer` for the order of things.
//!
//! # Caveats
//!
//! A write into the block that also holds the end of the frame before must not harm what is there already. Disks keep
//! this even in a power loss (a sector is written or not); the log relies on it, and finds it out when it does not hold.

pub(crate) mod format;
pub mod inspect;
mod keeper;
mod ledger;
mod recovery;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use self::format::{Header, Life, RECORD_HEADER_BYTES, Record};
use self::keeper::Keeper;
use self::writer::{Numbered, Writer};
use super::disk::{Directory, Disk, DiskFile};
use super::index::{Found, Place, RangeLogs, Slot};
use super::{Completion, Entry, Log, LogError, LogOp, LogStats, RangeStatus};
use crate::ids::{LogIndex, Position, RangeId, Term};
use crate::mix::Mix;

/// What the server decides about the log.
#[derive(Clone, Debug)]
pub struct SegmentOptions {
    /// Length of a segment file. An entry's payload may be half of it. At least [`SEGMENT_BYTES_MIN`].
    pub segment_bytes: u32,
    /// Payloads kept in memory after they are written.
    pub cache_bytes_max: usize,
    /// Submissions are refused as busy while this much waits for the disk.
    pub backlog_bytes_max: u64,
    /// A random number, another one at every start; segments are salted from it.
    pub salt: u64,
}

/// The smallest segment: one that holds its header, a head and an entry.
pub const SEGMENT_BYTES_MIN: u32 = 32 << 10;

impl SegmentOptions {
    /// Segments of 64 MiB, so that beginning one is rare and losing one's worth of room to a slow range is bearable; as
    /// much memory for what waits; and little for recent entries, of which consensus keeps its own.
    #[must_use]
    pub fn new(salt: u64) -> SegmentOptions {
        SegmentOptions { segment_bytes: 64 << 20, cache_bytes_max: 8 << 20, backlog_bytes_max: 64 << 20, salt }
    }
}

/// The log of a node on disk. See the [module](self). Dropping it writes what was submitted and joins its threads.
pub struct SegmentLog {
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    payload_bytes_max: usize,
    ranges_max: usize,
    backlog_bytes_max: u64,
    created: bool,
    drive: Drive,
}

/// Who does the work.
enum Drive {
    /// Threads of the log's own.
    Threads(Vec<JoinHandle<()>>),
    /// The caller, in [`SegmentLog::step`].
    Steps(Mutex<Option<Box<Writer>>>),
}

/// A segment in use.
struct SegmentFile {
    life: Life,
    bytes: u32,
    name: String,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

/// What the callers of the log and its writer share.
struct Shared {
    state: Mutex<State>,
    /// Told when something is submitted or the log is closed.
    wake: Condvar,
}

struct State {
    logs: RangeLogs,
    /// Without a gap; the last one is being written.
    segments: BTreeMap<u64, Arc<SegmentFile>>,
    queue: VecDeque<Submission>,
    backlog_bytes: u64,
    closed: bool,
    failed: Option<LogError>,
    stats: LogStats,
}

struct Submission {
    records: Vec<Numbered>,
    bytes: u64,
    done: Completion,
}

fn segment_name(number: u64) -> String {
    format!("{number:020}.log")
}

fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".log")?;
    (number.len() == 20).then(|| number.parse().ok()).flatten()
}

impl SegmentLog {
    /// Opens the log in the directory `path`, and makes it where there is nothing. Starts its threads.
    ///
    /// # Errors
    /// [`LogError::Damaged`] and [`LogError::UnknownFormat`] when the files are not what was written;
    /// [`LogError::Io`] and [`LogError::Full`].
    pub fn open(path: &Path, options: &SegmentOptions) -> Result<SegmentLog, LogError> {
        let disk = Directory::open(path).map_err(|error| LogError::io("open", path, error))?;
        SegmentLog::open_on(Arc::new(disk), options)
    }

    /// As [`SegmentLog::open`], on any disk.
    ///
    /// # Errors
    /// As [`SegmentLog::open`].
    pub fn open_on(disk: Arc<dyn Disk>, options: &SegmentOptions) -> Result<SegmentLog, LogError> {
        let (mut log, writer) = SegmentLog::recover(disk, options, true)?;
        let keeper = Arc::clone(&log.keeper);
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
            thread.map_err(|error| LogError::io("start a thread for", Path::new("the log"), error))
        };
        log.drive = Drive::Threads(vec![spawn("log-keeper", Box::new(move || keeper.run()))?]);
        let writer = spawn("log-writer", Box::new(move || writer.run()))?;
        if let Drive::Threads(threads) = &mut log.drive {
            threads.push(writer);
        }
        Ok(log)
    }

    /// As [`SegmentLog::open_on`], but without threads: nothing is written until [`SegmentLog::step`]. So that a test or
    /// a simulator decides what shares a frame, and the same seed does the same.
    ///
    /// # Errors
    /// As [`SegmentLog::open`].
    pub fn open_stepped(disk: Arc<dyn Disk>, options: &SegmentOptions) -> Result<SegmentLog, LogError> {
        let (mut log, writer) = SegmentLog::recover(disk, options, false)?;
        log.drive = Drive::Steps(Mutex::new(Some(Box::new(writer))));
        Ok(log)
    }

    /// Writes and syncs what was submitted, as much as goes into one frame, and calls the completions. Returns whether
    /// there was anything. Only for a log opened with [`SegmentLog::open_stepped`].
    ///
    /// # Panics
    /// When the log has threads.
    pub fn step(&self) -> bool {
        let Drive::Steps(writer) = &self.drive else { panic!("this log steps by itself") };
        let mut slot = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = self.shared.lock().take_submissions(writer::FRAME_BYTES_MAX as u64);
        if batch.is_empty() {
            return false;
        }
        if let Some(mut writer) = slot.take()
            && writer.write(batch)
        {
            *slot = Some(writer);
        }
        self.keeper.work();
        true
    }

    /// Whether opening it made it: there was nothing. A node that has data or an identity should wonder where its log is.
    #[must_use]
    pub fn created(&self) -> bool {
        self.created
    }

    /// Bytes of payload in the entries of `range` behind `index`: what a restart replays when the data stands there.
    #[must_use]
    pub fn payload_bytes_behind(&self, range: RangeId, index: LogIndex) -> u64 {
        self.shared.lock().logs.payload_bytes_behind(range, index)
    }

    fn recover(
        disk: Arc<dyn Disk>,
        options: &SegmentOptions,
        threaded: bool,
    ) -> Result<(SegmentLog, Writer), LogError> {
        assert!(options.segment_bytes >= SEGMENT_BYTES_MIN, "segments of {} bytes", options.segment_bytes);
        let here = disk.path("");
        let names = disk.list().map_err(|error| LogError::io("list", &here, error))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
        let spares: Vec<String> = names.into_iter().filter(|name| keeper::is_spare_name(name)).collect();
        numbers.sort_unstable();
        check_numbers(&here, &numbers, &spares)?;
        let mut salts = Mix::new(options.salt);
        let created = numbers.is_empty();
        if created {
            create_first(&*disk, options, salts.next())?;
            numbers.push(1);
        }
        // Names that a process which died has not made durable.
        disk.sync().map_err(|error| LogError::io("fsync", &here, error))?;
        let mut recovered = recovery::recover(&*disk, &numbers, options)?;
        recovered.settle()?;
        if recovered.ledger.ranges_len() > recovery::ranges_max(options.segment_bytes) {
            let what = format!("segments of {} bytes are too small for its ranges", options.segment_bytes);
            return Err(LogError::Refused { range: RangeId(0), what });
        }
        tracing::info!(
            path = %here.display(),
            segments = numbers.len(),
            ranges = recovered.logs.ranges_len(),
            entries = recovered.logs.entries_len(),
            "log opened"
        );
        let keeper = Arc::new(Keeper::new(Arc::clone(&disk), options.segment_bytes, spares, threaded)?);
        let newest = recovered.segments.values().next_back().expect("there is at least one segment");
        let newest = (Arc::clone(newest), recovered.end);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                logs: recovered.logs,
                segments: recovered.segments,
                queue: VecDeque::new(),
                backlog_bytes: 0,
                closed: false,
                failed: None,
                stats: LogStats::default(),
            }),
            wake: Condvar::new(),
        });
        let writer =
            Writer::new(disk, Arc::clone(&shared), Arc::clone(&keeper), recovered.ledger, salts, newest, numbers[0]);
        let log = SegmentLog {
            shared,
            keeper,
            payload_bytes_max: options.segment_bytes as usize / 2,
            ranges_max: recovery::ranges_max(options.segment_bytes),
            backlog_bytes_max: options.backlog_bytes_max,
            created,
            drive: Drive::Steps(Mutex::new(None)),
        };
        Ok((log, writer))
    }
}

/// Segments must follow each other, and there must be one if there ever was.
fn check_numbers(path: &Path, numbers: &[u64], spares: &[String]) -> Result<(), LogError> {
    let damaged = |what: String| Err(LogError::Damaged { path: path.to_owned(), offset: 0, what });
    if let Some(pair) = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        return damaged(format!("segments {} and {} are there, but none between them", pair[0], pair[1]));
    }
    // The first segment is made before any spare has its name.
    if numbers.is_empty() && spares.iter().any(|name| !name.ends_with(".making")) {
        return damaged("there are spare segments, but the log itself is gone".to_owned());
    }
    Ok(())
}

fn create_first(disk: &dyn Disk, options: &SegmentOptions, salt: u64) -> Result<(), LogError> {
    let making = "spare-0.making";
    let path = disk.path(making);
    let file = disk.create(making, options.segment_bytes).map_err(|error| LogError::io("allocate", &path, error))?;
    let life = Life { segment: 1, salt };
    let header = Header { life, file_bytes: options.segment_bytes, previous_end: 0, previous_salt: 0 };
    file.write_at(&header.encode(), 0).map_err(|error| LogError::io("write", &path, error))?;
    file.sync_data().map_err(|error| LogError::io("fdatasync", &path, error))?;
    disk.rename(making, &segment_name(1)).map_err(|error| LogError::io("rename", &path, error))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock can leave the state half changed, so a panic elsewhere does not make it unusable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was submitted, up to `bytes_max` but at least one; waits for it. `None` when the log is closed and empty.
    fn wait_for_submissions(&self, bytes_max: u64) -> Option<VecDeque<Submission>> {
        let mut state = self.lock();
        loop {
            let batch = state.take_submissions(bytes_max);
            if !batch.is_empty() {
                return Some(batch);
            }
            if state.closed {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// From now on nothing is taken. Returns what was and is not being written.
    fn fail(&self, error: &LogError) -> VecDeque<Submission> {
        let mut state = self.lock();
        state.failed = Some(error.clone());
        std::mem::take(&mut state.queue)
    }
}

impl State {
    fn take_submissions(&mut self, bytes_max: u64) -> VecDeque<Submission> {
        let mut bytes = 0;
        let mut count = 0;
        for submission in &self.queue {
            bytes += submission.bytes;
            if count > 0 && bytes > bytes_max {
                break;
            }
            count += 1;
        }
        let rest = self.queue.split_off(count);
        std::mem::replace(&mut self.queue, rest)
    }

    /// Makes a checked operation readable and turns it into records.
    fn take(&mut self, op: LogOp, records: &mut Vec<Numbered>) {
        let truncated = match &op {
            LogOp::TruncatePrefix { range, index } => {
                let begin = self.logs.status(*range).map_or(LogIndex(0), |status| status.begin.index);
                let term = self.logs.term(*range, *index).filter(|_| *index > begin);
                term.map(|term| Position { index: *index, term })
            }
            _ => None,
        };
        let first_number = self.logs.apply(&op);
        match op {
            LogOp::Append { range, entries } => {
                let numbered = entries.into_iter().zip(first_number..);
                records.extend(numbered.map(|(entry, number)| (Record::Entry { range, entry }, number)));
            }
            LogOp::SetHardState { range, state } => records.push((Record::HardState { range, state }, 0)),
            LogOp::TruncatePrefix { range, .. } => {
                records.extend(truncated.map(|begin| (Record::TruncatePrefix { range, begin }, 0)));
            }
            LogOp::Reset { range, begin } => records.push((Record::Reset { range, begin }, 0)),
            LogOp::RemoveRange { range } => records.push((Record::RemoveRange { range }, 0)),
        }
    }
}

impl Log for SegmentLog {
    fn submit(&self, ops: Vec<LogOp>, done: Completion) -> Result<(), LogError> {
        let mut state = self.shared.lock();
        if let Some(failed) = &state.failed {
            return Err(failed.sticky());
        }
        if state.backlog_bytes >= self.backlog_bytes_max {
            return Err(LogError::Busy { backlog_bytes: state.backlog_bytes });
        }
        state.logs.check(&ops, self.payload_bytes_max, self.ranges_max)?;
        let mut records = Vec::new();
        for op in ops {
            state.take(op, &mut records);
        }
        let bytes = records.iter().map(|(record, _)| record.encoded_bytes()).sum();
        state.backlog_bytes += bytes;
        state.queue.push_back(Submission { records, bytes, done });
        drop(state);
        self.shared.wake.notify_one();
        Ok(())
    }

    fn entries(
        &self,
        range: RangeId,
        lo: LogIndex,
        hi: LogIndex,
        payload_bytes_max: usize,
    ) -> Result<Vec<Entry>, LogError> {
        let state = self.shared.lock();
        let found: Vec<Found> = state.logs.entries(range, lo, hi, payload_bytes_max)?.collect();
        // The segments are held while they are read, so that none of them is used again under the reader's hands.
        let mut segments = BTreeMap::new();
        for slot in &found {
            if let Found::OnDisk { slot: Slot { place: Place::At { segment, .. }, .. }, .. } = slot {
                let file = state.segments.get(segment).expect("an entry keeps its segment");
                segments.entry(*segment).or_insert_with(|| Arc::clone(file));
            }
        }
        drop(state);
        let read = |found| match found {
            Found::Whole(entry) => Ok(entry),
            Found::OnDisk { index, slot } => {
                let Place::At { segment, offset } = slot.place else {
                    unreachable!("entry {index} of range {range} left memory before it was written")
                };
                segments[&segment].read_entry(range, index, slot, offset)
            }
        };
        found.into_iter().map(read).collect()
    }

    fn entries_in_memory(
        &self,
        range: RangeId,
        lo: LogIndex,
        hi: LogIndex,
        payload_bytes_max: usize,
    ) -> Result<Vec<Entry>, LogError> {
        self.shared.lock().logs.entries_in_memory(range, lo, hi, payload_bytes_max)
    }

    fn term(&self, range: RangeId, index: LogIndex) -> Option<Term> {
        self.shared.lock().logs.term(range, index)
    }

    fn status(&self, range: RangeId) -> Option<RangeStatus> {
        self.shared.lock().logs.status(range)
    }

    fn ranges(&self) -> Vec<RangeId> {
        self.shared.lock().logs.ranges()
    }

    fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    fn prepare_again(&self) {
        self.keeper.prepare_again();
    }

    fn stats(&self) -> LogStats {
        let (segments_spare, prepare_error) = self.keeper.stats();
        let state = self.shared.lock();
        LogStats {
            ranges: state.logs.ranges_len(),
            entries: state.logs.entries_len(),
            cache_bytes: state.logs.cache_bytes(),
            backlog_bytes: state.backlog_bytes,
            segments: state.segments.len() as u64,
            segments_spare,
            prepare_error,
            failed: state.failed.as_ref().map(ToString::to_string),
            ..state.stats.clone()
        }
    }
}

impl SegmentFile {
    /// Reads the record of an entry, and checks that it is that entry's.
    fn read_entry(&self, range: RangeId, index: LogIndex, slot: Slot, offset: u32) -> Result<Entry, LogError> {
        let mut bytes = vec![0; RECORD_HEADER_BYTES as usize + slot.payload_len as usize];
        self.file.read_at(&mut bytes, offset.into()).map_err(|error| LogError::io("read", &self.path, error))?;
        match Record::decode(&bytes, self.life) {
            Some((Record::Entry { range: found, entry }, _))
                if found == range && entry.index == index && entry.term == slot.term =>
            {
                Ok(entry)
            }
            other => {
                let found = other.map_or("what is there cannot be read".to_owned(), |(record, _)| {
                    format!("there is a record of range {}", record.range())
                });
                let what = format!("entry {index} of range {range} should be there, but {found}");
                Err(LogError::Damaged { path: self.path.clone(), offset: offset.into(), what })
            }
        }
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        if let Drive::Threads(threads) = &mut self.drive {
            // The writer, started last, goes first: it may still need the keeper. A completion may own the log, so this
            // may run on the writer's own thread, which ends by itself.
            while let Some(thread) = threads.pop() {
                if threads.is_empty() {
                    self.keeper.close();
                }
                if thread.thread().id() != std::thread::current().id() {
                    // It cannot panic in normal work; and if it did, that was told already.
                    let _panicked = thread.join();
                }
            }
        }
    }
}

impl std::fmt::Debug for SegmentLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentLog").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
