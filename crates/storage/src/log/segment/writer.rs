//! [`Writer`]: puts submissions on disk, one frame and one sync at a time.
//!
//! Whatever was submitted while the last frame was being synced goes into the next one together, up to
//! [`FRAME_BYTES_MAX`]. The writer alone touches the newest segment. It must never write a frame before the one before it
//! is synced, nor begin a segment before the one before it is complete: recovery rests on it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::format::{FRAME_HEADER_BYTES, HEADER_BYTES, Header, Life, Record, seal_frame};
use super::keeper::Keeper;
use super::ledger::Ledger;
use super::{SegmentFile, Shared, Submission, segment_name};
use crate::ids::{LogIndex, RangeId};
use crate::log::disk::Disk;
use crate::log::{Completion, LogError, micros};
use crate::mix::Mix;

/// A frame takes no further record beyond this, so that one sync stays short and its buffer small. A single larger
/// record makes a frame of its own.
pub(crate) const FRAME_BYTES_MAX: usize = 1 << 20;

/// The log warns when this many segments are held back, at every segment it begins.
const SEGMENTS_WARN: u64 = 16;

/// See the [module](self).
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) ledger: Ledger,
    pub(crate) salts: Mix,
    /// The newest segment.
    pub(crate) segment: Arc<SegmentFile>,
    /// Where its next frame goes.
    pub(crate) end: u32,
    /// The oldest segment that is not retired.
    pub(crate) oldest: u64,
    frame: Frame,
    /// Completions of submissions whose last record is in the frame, or on disk.
    finished: Vec<Completion>,
    finished_bytes: u64,
}

/// The frame in the making.
#[derive(Default)]
struct Frame {
    /// Room for the header, then records; empty when there is no record.
    bytes: Vec<u8>,
    records: u32,
    /// Entries in it: range, index, number of the append, offset in the segment.
    placed: Vec<(RangeId, LogIndex, u64, u32)>,
}

/// A record on its way to the disk, with the number of its append if it is an entry.
pub(crate) type Numbered = (Record, u64);

impl Writer {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        shared: Arc<Shared>,
        keeper: Arc<Keeper>,
        ledger: Ledger,
        salts: Mix,
        (segment, end): (Arc<SegmentFile>, u32),
        oldest: u64,
    ) -> Writer {
        let (frame, finished) = (Frame::default(), Vec::new());
        Writer { disk, shared, keeper, ledger, salts, segment, end, oldest, frame, finished, finished_bytes: 0 }
    }

    /// Works until the log is closed and everything submitted is on disk, or until something fails. The body of the
    /// writer's thread.
    pub(crate) fn run(mut self) {
        let _told = TellPanic(Arc::clone(&self.shared));
        while let Some(batch) = self.shared.wait_for_submissions(FRAME_BYTES_MAX as u64) {
            if !self.write(batch) {
                return;
            }
        }
    }

    /// Puts `batch` on disk and calls the completions. False when the log has failed: then nothing may be written again.
    pub(crate) fn write(&mut self, batch: VecDeque<Submission>) -> bool {
        let mut batch = batch.into_iter();
        let result = self.write_submissions(&mut batch);
        let Err(error) = result else { return true };
        tracing::error!(%error, "the log failed");
        let unwritten = self.shared.fail(&error);
        let doomed = batch.chain(unwritten).map(|submission| submission.done);
        for done in std::mem::take(&mut self.finished).into_iter().chain(doomed) {
            done(Err(error.clone()));
        }
        false
    }

    fn write_submissions(&mut self, batch: &mut impl Iterator<Item = Submission>) -> Result<(), LogError> {
        for submission in batch {
            // Before its records: if one of them fails, this completion is told with the others.
            let Submission { records, bytes, done } = submission;
            self.finished.push(done);
            for record in records {
                self.push(record)?;
            }
            self.finished_bytes += bytes;
        }
        self.commit()
    }

    /// Puts a record into the frame. Commits the frame first when it is full, and begins a segment when that is full.
    fn push(&mut self, (record, number): Numbered) -> Result<(), LogError> {
        let bytes = record.encoded_bytes();
        if self.frame.records > 0 && self.frame.bytes.len() as u64 + bytes > FRAME_BYTES_MAX as u64 {
            self.commit_unfinished()?;
        }
        if !self.fits(bytes) {
            if self.frame.records > 0 {
                self.commit_unfinished()?;
            }
            self.begin_segment()?;
            assert!(self.fits(bytes), "a record of {bytes} bytes does not fit an empty segment");
        }
        if self.end == HEADER_BYTES && self.frame.records == 0 {
            self.write_head();
        }
        self.ledger.apply(&record, self.segment.life.segment).expect("checked when it was submitted");
        let offset = self.encode(&record);
        if let Record::Entry { range, entry } = &record {
            self.frame.placed.push((*range, entry.index, number, offset));
        }
        Ok(())
    }

    /// Whether a record of `bytes` has room in the segment, behind what is in the frame.
    fn fits(&self, bytes: u64) -> bool {
        let frame = (self.frame.bytes.len() as u64).max(FRAME_HEADER_BYTES.into());
        let head = if self.end == HEADER_BYTES && self.frame.records == 0 { self.head_bytes() } else { 0 };
        u64::from(self.end) + frame + head + bytes <= u64::from(self.segment.bytes)
    }

    fn head_bytes(&self) -> u64 {
        self.ledger.ranges_len() as u64 * u64::from(super::format::RANGE_STATE_BYTES)
    }

    /// The head of a segment: the state of every range, as the segments before have it.
    fn write_head(&mut self) {
        let states: Vec<_> = self.ledger.states().map(|(range, state)| Record::RangeState { range, state }).collect();
        for record in &states {
            self.encode(record);
        }
    }

    /// Appends a record to the frame and returns its offset in the segment.
    fn encode(&mut self, record: &Record) -> u32 {
        if self.frame.bytes.is_empty() {
            self.frame.bytes.resize(FRAME_HEADER_BYTES as usize, 0);
        }
        let offset = self.end + self.frame.bytes.len() as u32;
        record.encode(&mut self.frame.bytes, self.segment.life);
        self.frame.records += 1;
        offset
    }

    /// Commits in the midst of a submission, whose completion must wait for the rest of it.
    fn commit_unfinished(&mut self) -> Result<(), LogError> {
        let unfinished = self.finished.pop();
        let result = self.commit();
        self.finished.extend(unfinished);
        result
    }

    /// Writes the frame, syncs it, and calls the completions of all that is finished by it.
    fn commit(&mut self) -> Result<(), LogError> {
        let mut frame = std::mem::take(&mut self.frame);
        let sync_us = if frame.records > 0 { Some(self.write_frame(&mut frame)?) } else { None };
        let finished = std::mem::take(&mut self.finished);
        let bytes = std::mem::take(&mut self.finished_bytes);
        {
            let mut state = self.shared.lock();
            for (range, index, number, offset) in &frame.placed {
                state.logs.place(*range, *index, *number, self.segment.life.segment, *offset);
            }
            state.logs.evict();
            state.backlog_bytes -= bytes;
            if let Some(sync_us) = sync_us {
                let stats = &mut state.stats;
                stats.records_total += u64::from(frame.records);
                stats.bytes_total += frame.bytes.len() as u64;
                stats.sync_us.record(sync_us);
                stats.bytes_per_sync.record(frame.bytes.len() as u64);
                stats.submissions_per_sync.record(finished.len() as u64);
            }
        }
        for done in finished {
            done(Ok(()));
        }
        self.reuse(frame);
        self.retire();
        Ok(())
    }

    /// Returns how long the sync took, in microseconds.
    fn write_frame(&mut self, frame: &mut Frame) -> Result<u64, LogError> {
        seal_frame(&mut frame.bytes, self.segment.life, self.end, frame.records);
        let segment = &self.segment;
        segment
            .file
            .write_at(&frame.bytes, self.end.into())
            .map_err(|error| LogError::io("write", &segment.path, error))?;
        let begun = Instant::now();
        segment.file.sync_data().map_err(|error| LogError::io("fdatasync", &segment.path, error))?;
        self.end += frame.bytes.len() as u32;
        Ok(micros(begun.elapsed()))
    }

    /// Keeps the frame's buffers for the next one, unless they grew out of measure.
    fn reuse(&mut self, mut frame: Frame) {
        frame.bytes.clear();
        frame.bytes.shrink_to(2 * FRAME_BYTES_MAX);
        frame.placed.clear();
        self.frame = Frame { bytes: frame.bytes, records: 0, placed: frame.placed };
    }

    /// Begins the next segment. The one at hand is complete and synced. The header is synced before the file gets its
    /// name, and the name before anything is written behind the header.
    fn begin_segment(&mut self) -> Result<(), LogError> {
        let spare = self.keeper.take()?;
        let life = Life { segment: self.segment.life.segment + 1, salt: self.salts.next() };
        let name = segment_name(life.segment);
        let (from, path) = (self.disk.path(&spare.name), self.disk.path(&name));
        let bytes = spare.file.bytes_len().map_err(|error| LogError::io("look at", &from, error))?;
        let file_bytes = u32::try_from(bytes).expect("a spare has the length of a segment");
        let (previous_end, previous_salt) = (self.end, self.segment.life.salt);
        let header = Header { life, file_bytes, previous_end, previous_salt };
        spare.file.write_at(&header.encode(), 0).map_err(|error| LogError::io("write", &from, error))?;
        spare.file.sync_data().map_err(|error| LogError::io("fdatasync", &from, error))?;
        self.disk.rename(&spare.name, &name).map_err(|error| LogError::io("rename", &from, error))?;
        self.disk.sync().map_err(|error| LogError::io("fsync the directory of", &path, error))?;
        let segment = SegmentFile { life, bytes: file_bytes, name, path, file: spare.file };
        self.segment = Arc::new(segment);
        self.end = HEADER_BYTES;
        let pinned_by = self.ledger.pinned_by(life.segment);
        let mut state = self.shared.lock();
        state.segments.insert(life.segment, Arc::clone(&self.segment));
        state.stats.pinned_by = pinned_by;
        let segments = state.segments.len() as u64;
        drop(state);
        if let Some((range, held)) = pinned_by
            && segments >= SEGMENTS_WARN
        {
            tracing::warn!(segments, held, %range, "a range that is not truncated holds back log segments");
        }
        Ok(())
    }

    /// Hands segments that nobody needs to the keeper. Only after a commit: everything in the ledger is on disk then.
    fn retire(&mut self) {
        if self.end == HEADER_BYTES {
            // The ranges' states are in the head of the segment before, until this one has a head.
            return;
        }
        let newest = self.segment.life.segment;
        let needed = self.ledger.oldest_segment().unwrap_or(newest).min(newest);
        while self.oldest < needed {
            let mut state = self.shared.lock();
            let segment = state.segments.remove(&self.oldest);
            if self.oldest + 1 == needed {
                state.stats.pinned_by = self.ledger.pinned_by(newest);
            }
            drop(state);
            self.keeper.retire(segment.expect("segments have no gap"));
            self.oldest += 1;
        }
    }
}

/// A writer that panics (a completion of the caller's may) must not leave the log taking what nobody writes.
struct TellPanic(Arc<Shared>);

impl Drop for TellPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let source = std::io::Error::other("the log writer panicked");
            let unwritten = self.0.fail(&LogError::io("write", std::path::Path::new("the log"), source));
            drop(unwritten);
        }
    }
}
