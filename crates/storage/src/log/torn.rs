//! What a power loss leaves of frames that were being written, by the bytes: frames are encoded as a segment holds them, some
//! sectors reach the disk and some do not, and what is there is read as recovery reads it. For
//! [`MemoryLog`](super::MemoryLog), whose logs have no bytes otherwise.

use super::segment::format::{FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, Life, Record, seal_frame};
use super::{Entry, LogOp};
use crate::ids::Position;
use crate::mix::Mix;

const SECTOR_BYTES: usize = 512;

/// What is read again of operations that were being written. With `trusting`, checksums are made right first, as if nobody
/// looked at them: a planted bug.
pub(super) fn survivors(ops: &[LogOp], mix: &mut Mix, trusting: bool) -> Vec<LogOp> {
    let life = Life { segment: 1, salt: mix.next() };
    let mut image = vec![0; HEADER_BYTES as usize];
    let (mut rest, mut frames) = (ops, Vec::new());
    while !rest.is_empty() {
        let (some, behind) = rest.split_at(1 + mix.up_to(rest.len() as u64 - 1) as usize);
        rest = behind;
        frames.push((image.len(), some));
        image.extend(frame(some, life, image.len()));
    }
    // One frame is written at a time: those before it are synced, those behind are not begun.
    let (at, torn) = frames[mix.up_to(frames.len() as u64 - 1) as usize];
    let end = at + frame(torn, life, at).len();
    image.truncate(end);
    for sector in at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
        let (from, to) = ((sector * SECTOR_BYTES).max(at), ((sector + 1) * SECTOR_BYTES).min(end));
        if mix.up_to(2) == 0 {
            image[from..to].fill(0);
        }
    }
    let mut found = read(&image, life);
    if trusting && frames.iter().any(|(start, _)| *start == at) && found.len() < ops.len() {
        found.extend(torn.iter().map(blanked));
    }
    found
}

/// What a frame says whose payloads did not reach the disk.
fn blanked(op: &LogOp) -> LogOp {
    match op {
        LogOp::Append { range, entries } => {
            let blank = |entry: &Entry| Entry { payload: vec![0; entry.payload.len()].into(), ..entry.clone() };
            LogOp::Append { range: *range, entries: entries.iter().map(blank).collect() }
        }
        other => other.clone(),
    }
}

fn frame(ops: &[LogOp], life: Life, offset: usize) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_HEADER_BYTES as usize];
    let records: Vec<Record> = ops.iter().flat_map(records).collect();
    records.iter().for_each(|record| record.encode(&mut bytes, life));
    seal_frame(&mut bytes, life, u32::try_from(offset).expect("tests write little"), records.len() as u32);
    bytes
}

fn records(op: &LogOp) -> Vec<Record> {
    match op {
        LogOp::Append { range, entries } => {
            entries.iter().map(|entry| Record::Entry { range: *range, entry: entry.clone() }).collect()
        }
        LogOp::SetHardState { range, state } => vec![Record::HardState { range: *range, state: *state }],
        LogOp::TruncatePrefix { range, index } => {
            vec![Record::TruncatePrefix { range: *range, begin: Position::new(index.0, 0) }]
        }
        LogOp::Reset { range, begin } => vec![Record::Reset { range: *range, begin: *begin }],
        LogOp::RemoveRange { range } => vec![Record::RemoveRange { range: *range }],
    }
}

/// Frames up to the first that is not whole, as recovery takes them.
fn read(image: &[u8], life: Life) -> Vec<LogOp> {
    let mut ops = Vec::new();
    let mut offset = HEADER_BYTES;
    while let Some(frame) = FrameHeader::at(image, life, offset)
        && let Some(records) = frame.records(image, life, offset)
    {
        ops.extend(records.into_iter().filter_map(|(_, record)| op(record)));
        offset = frame.end(offset);
    }
    ops
}

fn op(record: Record) -> Option<LogOp> {
    Some(match record {
        Record::Entry { range, entry } => LogOp::Append { range, entries: vec![entry] },
        Record::HardState { range, state } => LogOp::SetHardState { range, state },
        Record::TruncatePrefix { range, begin } => LogOp::TruncatePrefix { range, index: begin.index },
        Record::Reset { range, begin } => LogOp::Reset { range, begin },
        Record::RemoveRange { range } => LogOp::RemoveRange { range },
        // Stands at the head of a segment alone.
        Record::RangeState { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LogIndex, RangeId, Term};

    #[test]
    fn a_prefix_of_whole_frames_is_left_and_every_length_of_it_occurs() {
        let entry = |index| Entry { index: LogIndex(index), term: Term(1), kind: 1, payload: vec![7; 900].into() };
        let ops: Vec<LogOp> =
            (1..=4).map(|index| LogOp::Append { range: RangeId(1), entries: vec![entry(index)] }).collect();
        let mut lengths = [0; 5];
        for seed in 0..500 {
            let found = survivors(&ops, &mut Mix::new(seed), false);
            assert_eq!(found, ops[..found.len()], "seed {seed}");
            lengths[found.len()] += 1;
        }
        assert!(lengths.iter().all(|times| *times > 0), "{lengths:?}");
        let trusting = (0..500).map(|seed| survivors(&ops, &mut Mix::new(seed), true));
        assert!(trusting.into_iter().any(|found| found != ops[..found.len().min(4)]), "a trusting reader takes zeros");
    }
}
