//! The bytes of a segment: header, frames, records. Pure; `docs/storage.md` draws them.
//!
//! All numbers are little-endian. A **record** is one thing said about one range. A **frame** is what one write and one
//! sync put on disk: a header and records, whole or not there. The **life** of a segment is its number and a random salt;
//! every checksum starts from it, so nothing that an earlier life left in a recycled file can pass for new.

use bytes::Bytes;

use super::super::{Entry, HardState};
use crate::ids::{LogIndex, Position, RangeId, Term};

/// Bytes of the segment header: a block of its own, so that no frame is ever written into the block that holds it.
pub(crate) const HEADER_BYTES: u32 = 4096;
/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER_BYTES: u32 = 32;
/// Bytes of a record's header.
pub(crate) const RECORD_HEADER_BYTES: u32 = 40;
/// Frames and records start at multiples of this.
pub(crate) const ALIGN: u32 = 8;
/// Bytes of a record that carries a range's state at the head of a segment.
pub(crate) const RANGE_STATE_BYTES: u32 = RECORD_HEADER_BYTES + 32;

const MAGIC: &[u8; 8] = b"DSTORLOG";
const VERSION: u32 = 1;

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_TRUNCATE_PREFIX: u8 = 3;
const KIND_RESET: u8 = 4;
const KIND_REMOVE_RANGE: u8 = 5;
const KIND_RANGE_STATE: u8 = 6;

/// One use of a segment file, from its header to its recycling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// The segment's number, one above the segment before it. Never used twice.
    pub(crate) segment: u64,
    /// Random, so that bytes a client chose cannot be made to look like a frame.
    pub(crate) salt: u64,
}

impl Life {
    /// What every checksum of this life starts from. CRC32C maps different starts to different sums for the same bytes,
    /// so a record of another life is never taken for one of this.
    fn crc_start(self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.segment.to_le_bytes()), &self.salt.to_le_bytes())
    }

    fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.crc_start(), bytes)
    }
}

/// The header of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) life: Life,
    /// The length of the file, all of it allocated.
    pub(crate) file_bytes: u32,
    /// Where the frames of the segment before end; 0 in the first segment of a log.
    pub(crate) previous_end: u32,
    /// The salt of the segment before.
    pub(crate) previous_salt: u64,
}

/// Why a header was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// It is a segment of another version, or of another program.
    Unknown(String),
    /// It is not what was written.
    Damaged(String),
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.life.segment.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.life.salt.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.file_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.previous_salt.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The length of the file as its header has it, whatever else the header is.
    pub(crate) fn file_bytes_told(bytes: &[u8]) -> Option<u32> {
        bytes.get(32..36).map(|field| u32_at(field, 0))
    }

    /// Reads the header of the file that is named for segment `number` and has `file_len` bytes.
    pub(crate) fn decode(bytes: &[u8], number: u64, file_len: u64) -> Result<Header, HeaderError> {
        if bytes.len() < HEADER_BYTES as usize {
            return Err(HeaderError::Damaged(format!("the file has {} bytes, too few for a header", bytes.len())));
        }
        let mut bytes = bytes[..HEADER_BYTES as usize].to_vec();
        let crc = u32_at(&bytes, 12);
        bytes[12..16].fill(0);
        if crc32c::crc32c(&bytes) != crc {
            // The checksum of another version may be elsewhere, so the version decides what kind of wrong this is.
            if &bytes[..8] == MAGIC && u32_at(&bytes, 8) != VERSION && u32_at(&bytes, 8) < 1000 {
                return Err(HeaderError::Unknown(format!("version {}, expected {VERSION}", u32_at(&bytes, 8))));
            }
            return Err(HeaderError::Damaged("the header's checksum is wrong".to_owned()));
        }
        if &bytes[..8] != MAGIC {
            return Err(HeaderError::Unknown("it does not start with the magic of a log segment".to_owned()));
        }
        if u32_at(&bytes, 8) != VERSION {
            return Err(HeaderError::Unknown(format!("version {}, expected {VERSION}", u32_at(&bytes, 8))));
        }
        let header = Header {
            life: Life { segment: u64_at(&bytes, 16), salt: u64_at(&bytes, 24) },
            file_bytes: u32_at(&bytes, 32),
            previous_end: u32_at(&bytes, 36),
            previous_salt: u64_at(&bytes, 40),
        };
        if header.life.segment != number {
            return Err(HeaderError::Damaged(format!("the header is that of segment {}", header.life.segment)));
        }
        if u64::from(header.file_bytes) != file_len {
            let what = format!("the file has {file_len} bytes, its header says {}", header.file_bytes);
            return Err(HeaderError::Damaged(what));
        }
        Ok(header)
    }
}

/// The records of a frame, each with its place in the segment.
pub(crate) type Records = Vec<(u32, Record)>;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    body_crc: u32,
    body_bytes: u32,
    records: u32,
}

/// Closes a frame: `frame` holds room for the header, then the records.
pub(crate) fn seal_frame(frame: &mut [u8], life: Life, offset: u32, records: u32) {
    let (header, body) = frame.split_at_mut(FRAME_HEADER_BYTES as usize);
    let body_bytes = u32::try_from(body.len()).expect("a frame fits its segment");
    header[4..8].copy_from_slice(&life.crc(body).to_le_bytes());
    header[8..16].copy_from_slice(&life.segment.to_le_bytes());
    header[16..20].copy_from_slice(&offset.to_le_bytes());
    header[20..24].copy_from_slice(&body_bytes.to_le_bytes());
    header[24..28].copy_from_slice(&records.to_le_bytes());
    header[28..32].fill(0);
    let crc = life.crc(&header[4..]);
    header[..4].copy_from_slice(&crc.to_le_bytes());
}

impl FrameHeader {
    /// The header at `offset` of the segment `file`, if there is one of this life.
    pub(crate) fn at(file: &[u8], life: Life, offset: u32) -> Option<FrameHeader> {
        FrameHeader::decode(file.get(offset as usize..)?, life, offset, file.len() as u64)
    }

    /// The header that `bytes` begin with, if it is one of this life, made for this place of a segment of so many bytes.
    pub(crate) fn decode(bytes: &[u8], life: Life, offset: u32, file_bytes: u64) -> Option<FrameHeader> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES as usize)?;
        let ours = u64_at(bytes, 8) == life.segment && u32_at(bytes, 16) == offset;
        if !ours || life.crc(&bytes[4..]) != u32_at(bytes, 0) {
            return None;
        }
        let header =
            FrameHeader { body_crc: u32_at(bytes, 4), body_bytes: u32_at(bytes, 20), records: u32_at(bytes, 24) };
        let end = u64::from(offset) + u64::from(FRAME_HEADER_BYTES) + u64::from(header.body_bytes);
        (end <= file_bytes).then_some(header)
    }

    /// Where the frame that starts at `offset` ends.
    pub(crate) fn end(&self, offset: u32) -> u32 {
        offset + FRAME_HEADER_BYTES + self.body_bytes
    }

    /// The records of the frame at `offset` of the segment `file`, as [`FrameHeader::records_in`].
    pub(crate) fn records(&self, file: &[u8], life: Life, offset: u32) -> Option<Records> {
        let start = offset + FRAME_HEADER_BYTES;
        self.records_in(file.get(start as usize..self.end(offset) as usize)?, life, offset)
    }

    /// The records of the whole frame at `offset`, each with its own offset; `None` when the body is not what was sealed.
    pub(crate) fn records_in(&self, body: &[u8], life: Life, offset: u32) -> Option<Records> {
        let start = offset + FRAME_HEADER_BYTES;
        if life.crc(body) != self.body_crc {
            return None;
        }
        let mut records = Vec::new();
        let mut at = 0;
        while at < body.len() {
            let (record, bytes) = Record::decode(&body[at..], life)?;
            records.push((start + at as u32, record));
            at += bytes;
        }
        (records.len() == self.records as usize).then_some(records)
    }
}

/// One thing said about one range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// An entry; what was at or above its index is forgotten.
    Entry { range: RangeId, entry: Entry },
    /// The hard state.
    HardState { range: RangeId, state: HardState },
    /// Entries up to `begin` are forgotten.
    TruncatePrefix { range: RangeId, begin: Position },
    /// All entries are forgotten, the log begins at `begin`.
    Reset { range: RangeId, begin: Position },
    /// The range is forgotten.
    RemoveRange { range: RangeId },
    /// What was true of the range when the segment was begun. At the head of a segment's first frame, one for each range.
    RangeState { range: RangeId, state: RangeState },
}

/// A range as the head of a segment tells it, so that no older segment is needed to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RangeState {
    pub(crate) begin: Position,
    pub(crate) last: LogIndex,
    pub(crate) hard_state: HardState,
}

impl Record {
    pub(crate) fn range(&self) -> RangeId {
        match self {
            Record::Entry { range, .. }
            | Record::HardState { range, .. }
            | Record::TruncatePrefix { range, .. }
            | Record::Reset { range, .. }
            | Record::RemoveRange { range }
            | Record::RangeState { range, .. } => *range,
        }
    }

    /// Bytes it takes in a frame, padding included.
    pub(crate) fn encoded_bytes(&self) -> u64 {
        let payload = match self {
            Record::Entry { entry, .. } => entry.payload.len() as u64,
            Record::HardState { .. } => 8,
            Record::RangeState { .. } => 32,
            Record::TruncatePrefix { .. } | Record::Reset { .. } | Record::RemoveRange { .. } => 0,
        };
        (u64::from(RECORD_HEADER_BYTES) + payload).next_multiple_of(u64::from(ALIGN))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>, life: Life) {
        let mut fixed = [0; 32];
        let (kind, entry_kind, index, term, payload): (u8, u8, LogIndex, Term, &[u8]) = match self {
            Record::Entry { entry, .. } => (KIND_ENTRY, entry.kind, entry.index, entry.term, &entry.payload),
            Record::HardState { state, .. } => {
                fixed[..8].copy_from_slice(&state.vote.to_le_bytes());
                (KIND_HARD_STATE, 0, state.commit, state.term, &fixed[..8])
            }
            Record::TruncatePrefix { begin, .. } => (KIND_TRUNCATE_PREFIX, 0, begin.index, begin.term, &[]),
            Record::Reset { begin, .. } => (KIND_RESET, 0, begin.index, begin.term, &[]),
            Record::RemoveRange { .. } => (KIND_REMOVE_RANGE, 0, LogIndex(0), Term(0), &[]),
            Record::RangeState { state, .. } => {
                let hard = state.hard_state;
                let words = [state.last.0, hard.term.0, hard.vote, hard.commit.0];
                for (bytes, word) in fixed.chunks_exact_mut(8).zip(words) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
                (KIND_RANGE_STATE, 0, state.begin.index, state.begin.term, &fixed)
            }
        };
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&u32::try_from(payload.len()).expect("bounded by the segment").to_le_bytes());
        out.extend_from_slice(&[kind, entry_kind, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&self.range().0.to_le_bytes());
        out.extend_from_slice(&index.0.to_le_bytes());
        out.extend_from_slice(&term.0.to_le_bytes());
        out.extend_from_slice(payload);
        let crc = life.crc(&out[start + 4..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        out.resize(out.len().next_multiple_of(ALIGN as usize), 0);
    }

    /// The record at the start of `bytes` and how many bytes it takes, padding included; `None` when it is not one.
    pub(crate) fn decode(bytes: &[u8], life: Life) -> Option<(Record, usize)> {
        let header = RECORD_HEADER_BYTES as usize;
        if bytes.len() < header {
            return None;
        }
        let payload_bytes = u32_at(bytes, 4) as usize;
        let checked = bytes.get(4..header.checked_add(payload_bytes)?)?;
        if life.crc(checked) != u32_at(bytes, 0) {
            return None;
        }
        let payload = &bytes[header..header + payload_bytes];
        let range = RangeId(u64_at(bytes, 16));
        let index = LogIndex(u64_at(bytes, 24));
        let term = Term(u64_at(bytes, 32));
        let begin = Position { index, term };
        let record = match (bytes[8], payload_bytes) {
            (KIND_ENTRY, _) => {
                let payload = Bytes::copy_from_slice(payload);
                Record::Entry { range, entry: Entry { index, term, kind: bytes[9], payload } }
            }
            (KIND_HARD_STATE, 8) => {
                Record::HardState { range, state: HardState { term, vote: u64_at(payload, 0), commit: index } }
            }
            (KIND_TRUNCATE_PREFIX, 0) => Record::TruncatePrefix { range, begin },
            (KIND_RESET, 0) => Record::Reset { range, begin },
            (KIND_REMOVE_RANGE, 0) => Record::RemoveRange { range },
            (KIND_RANGE_STATE, 32) => {
                let hard_state = HardState {
                    term: Term(u64_at(payload, 8)),
                    vote: u64_at(payload, 16),
                    commit: LogIndex(u64_at(payload, 24)),
                };
                Record::RangeState {
                    range,
                    state: RangeState { begin, last: LogIndex(u64_at(payload, 0)), hard_state },
                }
            }
            _ => return None,
        };
        Some((record, (header + payload_bytes).next_multiple_of(ALIGN as usize)))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Life = Life { segment: 7, salt: 0x1234_5678_9abc_def0 };

    fn entry(index: u64, payload: &'static [u8]) -> Record {
        let entry = Entry { index: LogIndex(index), term: Term(3), kind: 9, payload: Bytes::from_static(payload) };
        Record::Entry { range: RangeId(5), entry }
    }

    fn one_of_each() -> Vec<Record> {
        let range = RangeId(u64::MAX);
        let begin = Position::new(11, 4);
        let hard_state = HardState { term: Term(8), vote: 2, commit: LogIndex(10) };
        vec![
            entry(12, b"hello"),
            entry(13, b""),
            Record::HardState { range, state: hard_state },
            Record::TruncatePrefix { range, begin },
            Record::Reset { range, begin },
            Record::RemoveRange { range },
            Record::RangeState { range, state: RangeState { begin, last: LogIndex(99), hard_state } },
        ]
    }

    fn frame_of(records: &[Record], life: Life, offset: u32) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEADER_BYTES as usize];
        for record in records {
            record.encode(&mut frame, life);
        }
        seal_frame(&mut frame, life, offset, records.len() as u32);
        frame
    }

    #[test]
    fn every_record_comes_back_and_takes_the_bytes_it_says() {
        for record in one_of_each() {
            let mut bytes = Vec::new();
            record.encode(&mut bytes, LIFE);
            assert_eq!(bytes.len() as u64, record.encoded_bytes());
            assert_eq!(Record::decode(&bytes, LIFE), Some((record, bytes.len())));
        }
    }

    #[test]
    fn a_record_of_another_life_is_not_taken() {
        let mut bytes = Vec::new();
        entry(1, b"payload").encode(&mut bytes, LIFE);
        for other in [Life { segment: 8, ..LIFE }, Life { salt: 1, ..LIFE }] {
            assert_eq!(Record::decode(&bytes, other), None);
        }
    }

    #[test]
    fn no_flipped_bit_of_a_frame_goes_unseen() {
        let frame = frame_of(&one_of_each(), LIFE, 0);
        let good = FrameHeader::at(&frame, LIFE, 0).unwrap();
        assert_eq!(good.records(&frame, LIFE, 0).unwrap().len(), one_of_each().len());
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let records = FrameHeader::at(&bad, LIFE, 0).and_then(|header| header.records(&bad, LIFE, 0));
            assert_eq!(records, None, "bit {bit}");
        }
    }

    #[test]
    fn a_frame_is_bound_to_its_place() {
        let mut file = vec![0; 64];
        file.extend(frame_of(&[entry(1, b"x")], LIFE, 64));
        assert!(FrameHeader::at(&file, LIFE, 64).is_some());
        assert!(FrameHeader::at(&file[8..], LIFE, 56).is_none());
        assert!(FrameHeader::at(&file[..file.len() - 8], LIFE, 64).is_none(), "it does not fit the file");
    }

    #[test]
    fn a_header_tells_another_version_from_damage() {
        let header = Header { life: LIFE, file_bytes: 8192, previous_end: 5000, previous_salt: 3 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes, 7, 8192), Ok(header));
        assert!(matches!(Header::decode(&bytes, 8, 8192), Err(HeaderError::Damaged(_))));
        assert!(matches!(Header::decode(&bytes, 7, 8191), Err(HeaderError::Damaged(_))));
        let mut later = bytes.clone();
        later[8] = 2;
        assert_eq!(Header::decode(&later, 7, 8192), Err(HeaderError::Unknown("version 2, expected 1".to_owned())));
        for at in [0, 13, 20, 4095] {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(matches!(Header::decode(&bad, 7, 8192), Err(HeaderError::Damaged(_))), "byte {at}");
        }
    }
}
