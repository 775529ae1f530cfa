//! [`Inspection`]: what is in the files of a log that nobody has open, however damaged, without changing any of them.
//!
//! For tools. Recovery takes the log whole or refuses it; this takes every frame whose checksum is right, goes on behind
//! what cannot be read, and tells all that it finds wrong, with file and offset. [`Inspection::refusal`] is what recovery
//! itself says, so that nobody mistakes a log that can be looked at for one that a node would start on.
//!
//! Caveats: one segment is in memory at a time, but a few dozen bytes for each entry stay. Of a range whose records are
//! damaged what is told is a best guess. A file is looked at up to [`SEGMENT_BYTES_READ_MAX`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::format::{ALIGN, FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, Header, HeaderError, Life, Record};
use super::{SegmentFile, SegmentOptions, check_numbers, keeper, recovery, segment_name, segment_number};
use crate::ids::{LogIndex, Position, RangeId, Term};
use crate::log::disk::{Disk, DiskFile, ReadOnly};
use crate::log::index::{Place, Slot};
use crate::log::{Completion, Entry, HardState, Log, LogError, LogOp, LogStats, RangeStatus};

/// How much of one file is looked at: no sane setting makes a larger segment, and a file of another kind that has a
/// segment's name may be of any size.
pub const SEGMENT_BYTES_READ_MAX: u64 = 1 << 30;

/// Findings kept; garbage can make one for each of its records.
const FINDINGS_MAX: usize = 1000;

/// Bytes read in one go. What cannot be read is zeros.
const READ_BYTES: usize = 1 << 20;

/// What the files of a log hold. See the [module](self).
pub struct Inspection {
    /// The segments, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Names of the files that are prepared for later segments.
    pub spares: Vec<String>,
    /// What is told of each range, as it is at the end of the log.
    pub ranges: BTreeMap<RangeId, RangeReport>,
    /// What is wrong, in the order it was met.
    pub findings: Vec<Finding>,
    /// Why a node would not start on this log; none if it would.
    pub refusal: Option<LogError>,
    files: BTreeMap<u64, SegmentFile>,
}

/// A segment file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its number.
    pub number: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// How many of its frames can be read.
    pub frames: u64,
    /// How many records are in them.
    pub records: u64,
    /// Where the last of them ends.
    pub end: u32,
}

/// A range as the log tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReport {
    /// The position before the first entry.
    pub begin: Position,
    /// The index of the last entry, whether or not it can be read.
    pub last: LogIndex,
    /// The hard state.
    pub hard_state: HardState,
    /// The entries that can be read and are neither overwritten nor truncated, by index.
    pub entries: BTreeMap<LogIndex, EntryReport>,
}

/// Where an entry is, and what it is without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryReport {
    /// Its term.
    pub term: Term,
    /// What its payload is; the log does not know the meaning.
    pub kind: u8,
    /// Length of its payload.
    pub payload_bytes: u32,
    /// The segment it is in.
    pub segment: u64,
    /// Where in it.
    pub offset: u32,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
    /// Whether a crash may leave it so; otherwise it is damage.
    pub is_expected: bool,
}

impl RangeReport {
    /// The position of the last entry, as far as its term is known.
    #[must_use]
    pub fn last_position(&self) -> Position {
        let term = match self.entries.get(&self.last) {
            Some(entry) => entry.term,
            None if self.last == self.begin.index => self.begin.term,
            None => Term(0),
        };
        Position { index: self.last, term }
    }
}

/// Looks at the log in the directory `path`.
///
/// # Errors
/// The directory cannot be listed. Whatever else is wrong is told in the result.
pub fn inspect(path: &Path) -> Result<Inspection, LogError> {
    inspect_on(&ReadOnly::new(path))
}

/// As [`inspect`], on any disk. Only reads.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_on(disk: &dyn Disk) -> Result<Inspection, LogError> {
    let here = disk.path("");
    let names = disk.list().map_err(|error| LogError::io("list", &here, error))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    let mut spares: Vec<String> = names.into_iter().filter(|name| keeper::is_spare_name(name)).collect();
    spares.sort_unstable();
    let refusal = refusal(disk, &here, &numbers, &spares);
    let mut inspection = Inspection {
        segments: Vec::new(),
        spares,
        ranges: BTreeMap::new(),
        findings: Vec::new(),
        refusal,
        files: BTreeMap::new(),
    };
    let opened: Vec<Opened> = numbers.iter().map(|number| inspection.open(disk, *number)).collect();
    for (at, segment) in opened.iter().enumerate() {
        let next = opened.get(at + 1).filter(|next| next.number == segment.number + 1);
        inspection.read(segment, next.and_then(|next| next.header));
    }
    inspection.files = opened.into_iter().filter_map(|segment| Some((segment.number, segment.into_file()?))).collect();
    inspection.find_gaps(&here);
    Ok(inspection)
}

/// What recovery says.
fn refusal(disk: &dyn Disk, here: &Path, numbers: &[u64], spares: &[String]) -> Option<LogError> {
    if let Err(error) = check_numbers(here, numbers, spares) {
        return Some(error);
    }
    if numbers.is_empty() {
        return None;
    }
    let options = SegmentOptions { cache_bytes_max: 0, ..SegmentOptions::new(0) };
    recovery::recover(disk, numbers, &options).err()
}

/// A segment file and its header, as far as there is one.
struct Opened {
    number: u64,
    name: String,
    path: PathBuf,
    bytes: u64,
    file: Option<Box<dyn DiskFile>>,
    header: Option<Header>,
    /// From the header; or, where that is damaged, from the next segment's, which tells it too.
    life: Cell<Option<Life>>,
}

impl Opened {
    fn into_file(self) -> Option<SegmentFile> {
        let bytes = u32::try_from(self.bytes).unwrap_or(u32::MAX);
        Some(SegmentFile { life: self.life.get()?, bytes, name: self.name, path: self.path, file: self.file? })
    }
}

impl Inspection {
    /// The whole entry, read from its segment.
    ///
    /// # Errors
    /// The disk does not give it back.
    pub fn entry(&self, range: RangeId, index: LogIndex) -> Result<Entry, LogError> {
        let begin = self.ranges.get(&range).map_or(Position::default(), |range| range.begin);
        let found = self.ranges.get(&range).and_then(|range| range.entries.get(&index));
        let found = found.and_then(|entry| Some((entry, self.files.get(&entry.segment)?)));
        let Some((entry, file)) = found else { return Err(LogError::Compacted { range, begin }) };
        let place = Place::At { segment: entry.segment, offset: entry.offset };
        let slot = Slot { term: entry.term, place, payload_len: entry.payload_bytes, kind: entry.kind };
        file.read_entry(range, index, slot, entry.offset)
    }

    /// Whether something is wrong that no crash leaves behind.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| !finding.is_expected)
    }

    fn note(&mut self, path: &Path, offset: impl Into<u64>, what: String, is_expected: bool) {
        let offset = offset.into();
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { path: path.to_owned(), offset, what, is_expected });
        } else if self.findings.len() == FINDINGS_MAX {
            let what = "there is more, which is not told".to_owned();
            self.findings.push(Finding { path: path.to_owned(), offset, what, is_expected: false });
        }
    }

    fn damage(&mut self, path: &Path, offset: impl Into<u64>, what: String) {
        self.note(path, offset, what, false);
    }

    fn open(&mut self, disk: &dyn Disk, number: u64) -> Opened {
        let name = segment_name(number);
        let path = disk.path(&name);
        let mut opened = Opened { number, name, path, bytes: 0, file: None, header: None, life: Cell::default() };
        let file = match disk.open(&opened.name).and_then(|file| Ok((file.bytes_len()?, file))) {
            Ok((bytes, file)) => {
                opened.bytes = bytes;
                file
            }
            Err(error) => {
                self.damage(&opened.path, 0_u64, format!("it cannot be opened: {error}"));
                return opened;
            }
        };
        let mut head = vec![0; opened.bytes.min(u64::from(HEADER_BYTES)) as usize];
        if let Err(error) = file.read_at(&mut head, 0) {
            self.damage(&opened.path, 0_u64, format!("the header cannot be read: {error}"));
        }
        opened.file = Some(file);
        // The header is judged by itself: a file that was cut short still holds what is in front of the cut.
        let told = Header::file_bytes_told(&head).map_or(opened.bytes, u64::from);
        match Header::decode(&head, number, told) {
            Ok(header) => {
                if told != opened.bytes {
                    let what = format!("the file has {} bytes, its header says {told}", opened.bytes);
                    self.damage(&opened.path, 0_u64, what);
                }
                opened.header = Some(header);
            }
            Err(HeaderError::Unknown(what) | HeaderError::Damaged(what)) => self.damage(&opened.path, 0_u64, what),
        }
        opened
    }

    /// Takes every frame of a segment that can be read. `next` is the header of the segment after it.
    fn read(&mut self, segment: &Opened, next: Option<Header>) {
        let mut report = SegmentReport {
            number: segment.number,
            path: segment.path.clone(),
            bytes: segment.bytes,
            ..Default::default()
        };
        report.end = HEADER_BYTES;
        let told = next.map(|next| Life { segment: segment.number, salt: next.previous_salt });
        segment.life.set(segment.header.map(|header| header.life).or(told));
        if let (Some(header), Some(next)) = (segment.header, next)
            && header.life.salt != next.previous_salt
        {
            let what = format!("the segment {} does not follow this one: it is of another log", segment.number + 1);
            self.damage(&segment.path, 0_u64, what);
        }
        if let (Some(life), Some(file)) = (segment.life.get(), &segment.file) {
            let bytes = self.load(segment, &**file);
            self.read_frames(&mut report, &bytes, life, next.map(|next| next.previous_end));
        }
        self.segments.push(report);
    }

    /// All that can be read of a file.
    fn load(&mut self, segment: &Opened, file: &dyn DiskFile) -> Vec<u8> {
        if segment.bytes > SEGMENT_BYTES_READ_MAX {
            let what =
                format!("the file has {} bytes; only the first {SEGMENT_BYTES_READ_MAX} are looked at", segment.bytes);
            self.damage(&segment.path, SEGMENT_BYTES_READ_MAX, what);
        }
        let mut bytes = vec![0; segment.bytes.min(SEGMENT_BYTES_READ_MAX) as usize];
        for (piece, offset) in bytes.chunks_mut(READ_BYTES).zip((0_u64..).step_by(READ_BYTES)) {
            if let Err(error) = file.read_at(piece, offset) {
                piece.fill(0);
                self.damage(&segment.path, offset, format!("{} bytes cannot be read: {error}", piece.len()));
            }
        }
        bytes
    }

    fn read_frames(&mut self, report: &mut SegmentReport, bytes: &[u8], life: Life, stated_end: Option<u32>) {
        let path = report.path.clone();
        let mut offset = HEADER_BYTES;
        loop {
            let header = FrameHeader::at(bytes, life, offset);
            let frame = header.and_then(|header| Some((header, header.records(bytes, life, offset)?)));
            if let Some((header, records)) = frame {
                report.frames += 1;
                report.records += records.len() as u64;
                for (at, record) in &records {
                    if let Some(what) = self.take(record, report.number, *at) {
                        self.damage(&path, *at, what);
                    }
                }
                offset = header.end(offset);
                report.end = offset;
                continue;
            }
            let next = next_frame(bytes, life, offset);
            match (next, stated_end) {
                (Some(next), _) => {
                    let what = format!("{} bytes cannot be read; a frame at {next}, written later, can", next - offset);
                    self.damage(&path, offset, what);
                    offset = next;
                    continue;
                }
                (None, Some(end)) if offset < end => {
                    let what = format!("nothing can be read from here on, but the segment is complete up to {end}");
                    self.damage(&path, offset, what);
                }
                (None, Some(end)) if offset > end => {
                    self.damage(&path, end, format!("frames run beyond {end}, where the segment ends"));
                }
                (None, None) if header.is_some() => {
                    let what =
                        "the last frame is incomplete: a write that a crash cut short, or damage to it".to_owned();
                    self.note(&path, offset, what, true);
                }
                (None, _) => {}
            }
            return;
        }
    }

    /// Does what a record says. The result is what does not fit.
    fn take(&mut self, record: &Record, segment: u64, offset: u32) -> Option<String> {
        let id = record.range();
        if let Record::RemoveRange { .. } = record {
            self.ranges.remove(&id);
            return None;
        }
        if let Record::RangeState { state, .. } = record {
            let told = RangeReport {
                begin: state.begin,
                last: state.last,
                hard_state: state.hard_state,
                ..Default::default()
            };
            let Some(range) = self.ranges.get_mut(&id) else {
                self.ranges.insert(id, told);
                return None;
            };
            let known = (range.begin, range.last, range.hard_state);
            (range.begin, range.last, range.hard_state) = (told.begin, told.last, told.hard_state);
            range.entries.retain(|index, _| *index > told.begin.index && *index <= told.last);
            return (known != (told.begin, told.last, told.hard_state))
                .then(|| format!("range {id} is told as {state:?}, but what is before it makes it {known:?}"));
        }
        let range = self.ranges.entry(id).or_default();
        match record {
            Record::Entry { entry, .. } => {
                let fits = entry.index > range.begin.index && entry.index.0 <= range.last.0.saturating_add(1);
                let what = (!fits).then(|| {
                    let (begin, last) = (range.begin, range.last);
                    format!(
                        "entry {} of range {id} does not follow: the log begins at {begin} and ends at {last}",
                        entry.index
                    )
                });
                drop(range.entries.split_off(&entry.index));
                let payload_bytes = u32::try_from(entry.payload.len()).unwrap_or(u32::MAX);
                let report = EntryReport { term: entry.term, kind: entry.kind, payload_bytes, segment, offset };
                range.entries.insert(entry.index, report);
                range.last = entry.index;
                what
            }
            Record::HardState { state, .. } => {
                range.hard_state = *state;
                None
            }
            Record::TruncatePrefix { begin, .. } => {
                let fits = begin.index >= range.begin.index && begin.index <= range.last;
                let what = (!fits).then(|| {
                    let (from, last) = (range.begin, range.last);
                    format!("range {id} is cut at {begin}, but begins at {from} and ends at {last}")
                });
                range.begin = *begin;
                range.last = range.last.max(begin.index);
                range.entries.retain(|index, _| *index > begin.index);
                what
            }
            Record::Reset { begin, .. } => {
                (range.begin, range.last) = (*begin, begin.index);
                range.entries.clear();
                None
            }
            Record::RemoveRange { .. } | Record::RangeState { .. } => None,
        }
    }

    /// Tells which entries should be there and are in no segment.
    fn find_gaps(&mut self, here: &Path) {
        let mut gaps = Vec::new();
        for (id, range) in &self.ranges {
            let mut wanted = range.begin.index.0.saturating_add(1);
            let ends = range.entries.keys().map(|index| index.0).chain([range.last.0.saturating_add(1)]);
            for index in ends {
                if index > wanted {
                    let last = index - 1;
                    gaps.push(format!("entries {wanted} to {last} of range {id} are in no segment that can be read"));
                }
                wanted = wanted.max(index.saturating_add(1));
            }
        }
        for gap in gaps {
            self.damage(here, 0_u64, gap);
        }
    }
}

/// Read-only: everything but [`Log::submit`] is as it would be if the log were open.
impl Log for Inspection {
    fn submit(&self, ops: Vec<LogOp>, _: Completion) -> Result<(), LogError> {
        let range = ops.first().map_or(RangeId(0), LogOp::range);
        Err(LogError::Refused { range, what: "the log is only looked at".to_owned() })
    }

    fn entries(
        &self,
        range: RangeId,
        lo: LogIndex,
        hi: LogIndex,
        payload_bytes_max: usize,
    ) -> Result<Vec<Entry>, LogError> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut index = lo;
        while index < hi && (entries.is_empty() || bytes < payload_bytes_max) {
            let entry = self.entry(range, index)?;
            bytes += entry.payload.len();
            if entries.is_empty() || bytes <= payload_bytes_max {
                entries.push(entry);
            }
            index = index.next();
        }
        Ok(entries)
    }

    fn term(&self, range: RangeId, index: LogIndex) -> Option<Term> {
        let range = self.ranges.get(&range)?;
        let begin = (index == range.begin.index).then_some(range.begin.term);
        begin.or_else(|| range.entries.get(&index).map(|entry| entry.term))
    }

    fn status(&self, range: RangeId) -> Option<RangeStatus> {
        let range = self.ranges.get(&range)?;
        Some(RangeStatus { begin: range.begin, last: range.last_position(), hard_state: range.hard_state })
    }

    fn ranges(&self) -> Vec<RangeId> {
        self.ranges.keys().copied().collect()
    }

    fn payload_bytes_max(&self) -> usize {
        self.segments.last().map_or(0, |segment| usize::try_from(segment.bytes / 2).unwrap_or(usize::MAX))
    }

    fn stats(&self) -> LogStats {
        let entries = self.ranges.values().map(|range| range.entries.len() as u64).sum();
        let (ranges, segments) = (self.ranges.len() as u64, self.segments.len() as u64);
        LogStats { ranges, entries, segments, segments_spare: self.spares.len() as u64, ..LogStats::default() }
    }
}

/// The next frame header of this life behind `offset`, whose frame can be read.
fn next_frame(bytes: &[u8], life: Life, offset: u32) -> Option<u32> {
    let mut at = offset.next_multiple_of(ALIGN).checked_add(ALIGN)?;
    while at as usize + FRAME_HEADER_BYTES as usize <= bytes.len() {
        if FrameHeader::at(bytes, life, at).is_some_and(|header| header.records(bytes, life, at).is_some()) {
            return Some(at);
        }
        at = at.checked_add(ALIGN)?;
    }
    None
}
