//! Reading the log when a node starts: what is taken, what is dropped, and what is refused.
//!
//! # The rule
//!
//! A crash can leave exactly one thing incomplete: the **last frame** of the **newest segment**, because a frame is
//! written only when the one before it is synced, and a segment is begun only when the one before it is complete. So:
//!
//! - In every segment but the newest, frames must follow each other exactly to the end that the next segment's header
//!   tells. Anything else is damage.
//! - In the newest, the first frame that cannot be read ends the log, *unless* a frame header of the same life lies
//!   anywhere behind it. Such a frame was written after the unreadable one had been synced, so the unreadable one is
//!   damaged, not incomplete.
//! - Headers are synced before their file gets a segment's name, so a bad header is damage wherever it is.
//!
//! What was in the dropped frame was never acknowledged. One case remains that no log can tell apart without writing
//! everything twice: damage to the very last frame, after it was acknowledged, looks like a write cut short.
//!
//! # What was read may not be on disk
//!
//! When only the process died, the last frame may be in the page cache and not on the disk; and after a failed sync the
//! kernel may call its pages clean. So the last frame is written once more, and synced, before anything is built on it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::format::{
    ALIGN, FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, Header, HeaderError, Life, RANGE_STATE_BYTES, Record, Records,
};
use super::ledger::Ledger;
use super::{SegmentFile, SegmentOptions};
use crate::ids::RangeId;
use crate::log::LogError;
use crate::log::disk::{Disk, DiskFile};
use crate::log::index::{Place, RangeLogs, Slot};

/// Bytes of a segment that are read at once, unless a frame is larger.
const PIECE_BYTES: u32 = 1 << 20;

/// What recovery found. `segments` is never empty and has no gap; the last one is where writing goes on, at `end`.
pub(crate) struct Recovered {
    pub(crate) segments: BTreeMap<u64, Arc<SegmentFile>>,
    pub(crate) end: u32,
    pub(crate) ledger: Ledger,
    pub(crate) logs: RangeLogs,
    /// The last frame of the newest segment, where it is and what it says, until [`Recovered::settle`].
    last_frame: Option<(u32, Vec<u8>)>,
}

impl Recovered {
    /// Writes the last frame once more and syncs it. See the [module](self).
    pub(crate) fn settle(&mut self) -> Result<(), LogError> {
        let Some((offset, frame)) = self.last_frame.take() else { return Ok(()) };
        let newest = self.segments.values().next_back().expect("there is at least one segment");
        newest
            .file
            .write_at(&frame, offset.into())
            .map_err(|error| LogError::io("write again the last frame of", &newest.path, error))?;
        newest.file.sync_data().map_err(|error| LogError::io("fdatasync", &newest.path, error))
    }
}

/// Reads all segments, oldest first, and changes none. `numbers` rise by one and are not empty.
pub(crate) fn recover(disk: &dyn Disk, numbers: &[u64], options: &SegmentOptions) -> Result<Recovered, LogError> {
    let mut found = Vec::new();
    for &number in numbers {
        found.push(open_segment(disk, number)?);
    }
    for pair in found.windows(2) {
        let (segment, next) = (&pair[0], &pair[1]);
        if next.header.previous_salt != segment.header.life.salt {
            return Err(next.damaged(0, format!("it does not follow the segment {} that is there", segment.number())));
        }
        if next.header.previous_end < HEADER_BYTES || next.header.previous_end > segment.header.file_bytes {
            return Err(next.damaged(0, format!("it says that the one before ends at {}", next.header.previous_end)));
        }
    }
    let mut replay = Replay::default();
    let mut end = HEADER_BYTES;
    let mut progress = Progress::begin();
    for (i, segment) in found.iter().enumerate() {
        progress.tell(|| format!("reading the log: segment {} of {}", i + 1, found.len()));
        let stated_end = found.get(i + 1).map(|next| next.header.previous_end);
        let oldest = i == 0 && segment.header.previous_end != 0;
        end = replay.read_segment(segment, stated_end, oldest)?;
    }
    let newest = found.last().expect("there is at least one segment");
    let last_frame = replay.last_frame.take();
    let (ledger, logs) = replay.finish(options.cache_bytes_max).map_err(|what| newest.damaged(end.into(), what))?;
    let segments = found.into_iter().map(|segment| (segment.number(), Arc::new(segment.into_file()))).collect();
    Ok(Recovered { segments, end, ledger, logs, last_frame })
}

/// Says how far it is, at most once a second.
struct Progress {
    said: Instant,
}

impl Progress {
    fn begin() -> Progress {
        Progress { said: Instant::now() }
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.said.elapsed() >= Duration::from_secs(1) {
            tracing::info!("{}", what());
            self.said = Instant::now();
        }
    }
}

struct Found {
    header: Header,
    name: String,
    path: std::path::PathBuf,
    file: Box<dyn DiskFile>,
}

fn open_segment(disk: &dyn Disk, number: u64) -> Result<Found, LogError> {
    let name = super::segment_name(number);
    let path = disk.path(&name);
    let file = disk.open(&name).map_err(|error| LogError::io("open", &path, error))?;
    let bytes_len = file.bytes_len().map_err(|error| LogError::io("look at", &path, error))?;
    let mut bytes = vec![0; bytes_len.min(u64::from(HEADER_BYTES)) as usize];
    file.read_at(&mut bytes, 0).map_err(|error| LogError::io("read", &path, error))?;
    match Header::decode(&bytes, number, bytes_len) {
        Ok(header) => Ok(Found { header, name, path, file }),
        Err(HeaderError::Unknown(what)) => Err(LogError::UnknownFormat { path, what }),
        Err(HeaderError::Damaged(what)) => Err(LogError::Damaged { path, offset: 0, what }),
    }
}

impl Found {
    fn number(&self) -> u64 {
        self.header.life.segment
    }

    fn life(&self) -> Life {
        self.header.life
    }

    fn damaged(&self, offset: u64, what: String) -> LogError {
        LogError::Damaged { path: self.path.clone(), offset, what }
    }

    fn into_file(self) -> SegmentFile {
        SegmentFile {
            life: self.header.life,
            bytes: self.header.file_bytes,
            name: self.name,
            path: self.path,
            file: self.file,
        }
    }
}

/// A piece of a segment's file: a start must not take as much memory as a segment is large.
struct Window<'a> {
    segment: &'a Found,
    /// Where in the file `bytes` begin.
    begin: u32,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// So many bytes from `offset` on, or as many as the file has there.
    fn bytes(&mut self, offset: u32, len: u32) -> Result<&[u8], LogError> {
        let file_bytes = self.segment.header.file_bytes;
        let end = offset.saturating_add(len).min(file_bytes);
        let offset = offset.min(end);
        if offset < self.begin || (end - self.begin) as usize > self.bytes.len() {
            let piece = (end - offset).max(PIECE_BYTES.min(file_bytes - offset));
            self.begin = offset;
            self.bytes.resize(piece as usize, 0);
            let read = self.segment.file.read_at(&mut self.bytes, offset.into());
            read.map_err(|error| LogError::io("read", &self.segment.path, error))?;
        }
        let from = (offset - self.begin) as usize;
        Ok(&self.bytes[from..from + (end - offset) as usize])
    }

    /// The header of a frame at `offset`, if there is one of this segment's life.
    fn header(&mut self, offset: u32) -> Result<Option<FrameHeader>, LogError> {
        let Header { life, file_bytes, .. } = self.segment.header;
        let bytes = self.bytes(offset, FRAME_HEADER_BYTES)?;
        Ok(FrameHeader::decode(bytes, life, offset, file_bytes.into()))
    }

    /// The frame at `offset` with its records, if it is whole.
    fn frame(&mut self, offset: u32) -> Result<Option<(FrameHeader, Records)>, LogError> {
        let Some(header) = self.header(offset)? else { return Ok(None) };
        let (life, start) = (self.segment.life(), offset + FRAME_HEADER_BYTES);
        let records = header.records_in(self.bytes(start, header.end(offset) - start)?, life, offset);
        Ok(records.map(|records| (header, records)))
    }
}

#[derive(Default)]
struct Replay {
    ledger: Ledger,
    /// The entries of each range that are in segments that are there, by index. Those that the ledger has and this has
    /// not must be truncated before the end.
    slots: BTreeMap<RangeId, VecDeque<(u64, Slot)>>,
    /// The last frame of the newest segment.
    last_frame: Option<(u32, Vec<u8>)>,
}

impl Replay {
    /// Reads one segment and returns where its frames end. `stated_end` is where they must end; `None` in the newest.
    /// `oldest`: the segments before it are gone, so its head must tell the ranges.
    fn read_segment(&mut self, segment: &Found, stated_end: Option<u32>, oldest: bool) -> Result<u32, LogError> {
        let mut window = Window { segment, begin: 0, bytes: Vec::new() };
        let (mut offset, mut last_frame) = (HEADER_BYTES, None);
        while stated_end.is_none_or(|end| offset < end) {
            let Some((frame, records)) = window.frame(offset)? else {
                match stated_end {
                    Some(end) => {
                        let what = format!("a frame cannot be read, but the segment is complete up to {end}");
                        return Err(segment.damaged(offset.into(), what));
                    }
                    None => refuse_frames_behind(&mut window, offset)?,
                }
                break;
            };
            let first = offset == HEADER_BYTES;
            self.read_frame(segment, &records, first, first && oldest)
                .map_err(|(at, what)| segment.damaged(at.into(), what))?;
            last_frame = Some(offset);
            offset = frame.end(offset);
        }
        match (stated_end, last_frame) {
            (Some(end), _) if offset != end => {
                Err(segment.damaged(offset.into(), format!("frames run beyond {end}, where the segment ends")))
            }
            (None, None) if oldest => {
                let what = "its first frame cannot be read, and the segments before it are gone".to_owned();
                Err(segment.damaged(offset.into(), what))
            }
            (None, Some(last_frame)) => {
                self.last_frame = Some((last_frame, window.bytes(last_frame, offset - last_frame)?.to_vec()));
                Ok(offset)
            }
            _ => Ok(offset),
        }
    }

    /// Takes the records of a frame. The head of the first frame of a segment tells the ranges: in the oldest segment to
    /// learn them, in others to check them.
    fn read_frame(
        &mut self,
        segment: &Found,
        records: &[(u32, Record)],
        first: bool,
        learn: bool,
    ) -> Result<(), (u32, String)> {
        let mut told = 0;
        for (at, record) in records {
            let Record::RangeState { range, state } = record else { break };
            told += 1;
            if !first {
                return Err((*at, "a range's state is not at the head of its segment".to_owned()));
            }
            if learn {
                self.ledger.seed(*range, *state).map_err(|what| (*at, what))?;
                self.slots.insert(*range, VecDeque::new());
            } else if self.ledger.state(*range) != Some(*state) {
                let known = self.ledger.state(*range);
                return Err((*at, format!("it tells range {range} as {state:?}, but before it was {known:?}")));
            }
        }
        if first && told != self.ledger.ranges_len() {
            let what = format!("its head tells {told} ranges, but there are {}", self.ledger.ranges_len());
            return Err((HEADER_BYTES, what));
        }
        for (at, record) in &records[told..] {
            self.ledger.apply(record, segment.number()).map_err(|what| (*at, what))?;
            self.note(record, segment.number(), *at);
        }
        Ok(())
    }

    /// Notes what the record does to the entries.
    fn note(&mut self, record: &Record, segment: u64, offset: u32) {
        let slots = self.slots.entry(record.range()).or_default();
        match record {
            Record::Entry { entry, .. } => {
                while slots.back().is_some_and(|(index, _)| *index >= entry.index.0) {
                    slots.pop_back();
                }
                let payload_len = u32::try_from(entry.payload.len()).expect("it was inside a segment");
                let place = Place::At { segment, offset };
                slots.push_back((entry.index.0, Slot { term: entry.term, place, payload_len, kind: entry.kind }));
            }
            Record::TruncatePrefix { begin, .. } => {
                while slots.front().is_some_and(|(index, _)| *index <= begin.index.0) {
                    slots.pop_front();
                }
            }
            Record::Reset { .. } => slots.clear(),
            Record::RemoveRange { range } => {
                self.slots.remove(range);
            }
            Record::HardState { .. } | Record::RangeState { .. } => {}
        }
    }

    /// Checks that every entry that should be there is, and makes the index of them.
    fn finish(mut self, cache_bytes_max: usize) -> Result<(Ledger, RangeLogs), String> {
        let mut logs = RangeLogs::new(cache_bytes_max);
        for (range, state) in self.ledger.states() {
            let slots = self.slots.remove(&range).unwrap_or_default();
            let wanted = state.last.0 - state.begin.index.0;
            let contiguous = slots.iter().zip(state.begin.index.0 + 1..).all(|((index, _), wanted)| *index == wanted);
            if slots.len() as u64 != wanted || !contiguous {
                let (begin, last) = (state.begin, state.last);
                return Err(format!(
                    "the log of range {range} begins at {begin} and ends at {last}, but only {} of its entries are in \
                     the segments that are there",
                    slots.len()
                ));
            }
            logs.restore(range, state.begin, state.hard_state, slots.into_iter().map(|(_, slot)| slot).collect());
        }
        Ok((self.ledger, logs))
    }
}

/// Refuses when a frame header of this life lies behind the frame at `bad`, which cannot be read.
fn refuse_frames_behind(window: &mut Window<'_>, bad: u32) -> Result<(), LogError> {
    let segment = window.segment;
    let mut offset = bad + ALIGN;
    while u64::from(offset) + u64::from(FRAME_HEADER_BYTES) <= u64::from(segment.header.file_bytes) {
        if window.header(offset)?.is_some() {
            let what = format!("a frame cannot be read, but one at {offset} was written after it was synced");
            return Err(segment.damaged(bad.into(), what));
        }
        offset += ALIGN;
    }
    if window.header(bad)?.is_some() {
        tracing::warn!(path = %segment.path.display(), offset = bad, "dropped an incomplete frame at the end of the log");
    }
    Ok(())
}

/// How many ranges fit the head of a segment, which gets a quarter of it.
pub(crate) fn ranges_max(segment_bytes: u32) -> usize {
    (segment_bytes / 4 / RANGE_STATE_BYTES) as usize
}
