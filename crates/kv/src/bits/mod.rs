//! Strings as bits: SETBIT, GETBIT, BITCOUNT, BITPOS here; BITOP and BITFIELD in modules of their own. Bit 0 is the highest
//! bit of the first byte.

mod combine;
mod field;

use std::ops::Range;

use bytes::Bytes;
use dstore_resp::Reply;

pub(crate) use self::combine::bitop;
pub(crate) use self::field::bitfield;
use crate::context::errors;
use crate::draft::Draft;
use crate::evaluation::{Command, Evaluation, Stop};
use crate::number::parse_i64;

const BAD_OFFSET: &str = "ERR bit offset is not an integer or out of range";

/// The bit offset that a client gives; `#n` stands for `n` times `width` if a width is given.
fn bit_offset(evaluation: &Evaluation<'_>, text: &[u8], width: Option<u8>) -> Result<usize, Stop> {
    let bad = || Stop::error(BAD_OFFSET);
    let offset = match (width, text.strip_prefix(b"#")) {
        // Redis's multiplication wraps around, and so does this one.
        (Some(width), Some(number)) => parse_i64(number).ok_or_else(bad)?.wrapping_mul(width.into()),
        _ => parse_i64(text).ok_or_else(bad)?,
    };
    let offset = usize::try_from(offset).map_err(|_| bad())?;
    if offset / 8 >= evaluation.context.limits.value_bytes_max { Err(bad()) } else { Ok(offset) }
}

/// `SETBIT key offset 0|1`: answers with the bit before.
pub(crate) fn setbit(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let offset = bit_offset(evaluation, &command.args[2], None)?;
    let bit = match parse_i64(&command.args[3]) {
        Some(0) => 0,
        Some(1) => 1,
        _ => return Err(Stop::error("ERR bit is not an integer or out of range")),
    };
    let (at, shift) = (offset / 8, 7 - offset % 8);
    let slot = evaluation.open(&command.args[1])?;
    let mut draft = Draft::new(evaluation.view, slot)?;
    let mut byte = [0];
    draft.read(evaluation.view, at, &mut byte)?;
    let before = byte[0] >> shift & 1;
    // A bit that is so already is no write: who watches the key need not hear of it. Growing the string is.
    if before != bit || draft.len() <= at {
        byte[0] = byte[0] & !(1 << shift) | bit << shift;
        draft.write(evaluation.view, at, &byte)?;
        draft.store(evaluation)?;
    }
    Ok(Reply::Integer(before.into()))
}

/// `GETBIT key offset`
pub(crate) fn getbit(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let offset = bit_offset(evaluation, &command.args[2], None)?;
    let at = offset / 8;
    let bit = match evaluation.read(&command.args[1])? {
        Some(record) if at < record.len() => record.part(evaluation.view, at..at + 1)?[0] >> (7 - offset % 8) & 1,
        _ => 0,
    };
    Ok(Reply::Integer(bit.into()))
}

/// Whether a range counts bits, not bytes.
fn counts_bits(unit: Option<&Bytes>) -> Result<bool, Stop> {
    match unit {
        None => Ok(false),
        Some(unit) if unit.eq_ignore_ascii_case(b"BIT") => Ok(true),
        Some(unit) if unit.eq_ignore_ascii_case(b"BYTE") => Ok(false),
        Some(_) => Err(Stop::error(errors::SYNTAX)),
    }
}

/// The bits from `start` to `end`, both included and both from the end if negative, in a string of `len` bytes.
fn bit_range(len: usize, start: i64, end: i64, of_bits: bool) -> Range<usize> {
    let units = if of_bits { 8 * len } else { len };
    let from_front = |at: i64| {
        let at = if at < 0 { at.saturating_add_unsigned(units as u64) } else { at };
        usize::try_from(at.max(0)).expect("not negative")
    };
    let (start, end) = (from_front(start), from_front(end).saturating_add(1).min(units));
    if start >= end {
        return 0..0;
    }
    if of_bits { start..end } else { 8 * start..8 * end }
}

/// `BITCOUNT key [start end [BYTE | BIT]]`
pub(crate) fn bitcount(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let Some(record) = evaluation.read(&command.args[1])? else {
        return Ok(Reply::Integer(0));
    };
    let position = |text: &[u8]| parse_i64(text).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER));
    let range = match &command.args[2..] {
        [] => 0..8 * record.len(),
        [start, end, unit @ ..] if unit.len() <= 1 => {
            let (start, end) = (position(start)?, position(end)?);
            if start < 0 && end < 0 && start > end {
                return Ok(Reply::Integer(0));
            }
            bit_range(record.len(), start, end, counts_bits(unit.first())?)
        }
        _ => return Err(Stop::error(errors::SYNTAX)),
    };
    let bytes = record.part(evaluation.view, range.start / 8..range.end.div_ceil(8))?;
    let mut count = ones(&bytes);
    if let (Some(first), Some(last)) = (bytes.first(), bytes.last()) {
        count -= u64::from((first & !head_mask(range.start)).count_ones());
        count -= u64::from((last & !tail_mask(range.end)).count_ones());
    }
    Ok(Reply::Integer(count.cast_signed()))
}

fn ones(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let in_words: u64 = words.iter().map(|word| u64::from(u64::from_ne_bytes(*word).count_ones())).sum();
    in_words + rest.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>()
}

/// The bits of a byte from bit `start` on.
fn head_mask(start: usize) -> u8 {
    0xFF >> (start % 8)
}

/// The bits of a byte before bit `end`; all of them if `end` is at a byte's end.
fn tail_mask(end: usize) -> u8 {
    0xFF << ((8 - end % 8) % 8)
}

/// `BITPOS key bit [start [end [BYTE | BIT]]]`
pub(crate) fn bitpos(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let position = |text: &[u8]| parse_i64(text).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER));
    let bit = match position(&command.args[2])? {
        0 => false,
        1 => true,
        _ => return Err(Stop::error("ERR The bit argument must be 1 or 0.")),
    };
    let Some(record) = evaluation.read(&command.args[1])? else {
        return Ok(Reply::Integer(if bit { -1 } else { 0 }));
    };
    let (range, end_given) = match &command.args[3..] {
        [] => (0..8 * record.len(), false),
        [start] => (bit_range(record.len(), position(start)?, -1, false), false),
        [start, end, unit @ ..] if unit.len() <= 1 => {
            let start = position(start)?;
            let of_bits = counts_bits(unit.first())?;
            (bit_range(record.len(), start, position(end)?, of_bits), true)
        }
        _ => return Err(Stop::error(errors::SYNTAX)),
    };
    if range.is_empty() {
        return Ok(Reply::Integer(-1));
    }
    let bytes = record.part(evaluation.view, range.start / 8..range.end.div_ceil(8))?;
    let found = match first_bit(&bytes, bit, range.start % 8) {
        Some(at) if range.start / 8 * 8 + at < range.end => (range.start / 8 * 8 + at) as i64,
        // Without an end, a string goes on with zeros for ever.
        _ if !bit && !end_given => range.end as i64,
        _ => -1,
    };
    Ok(Reply::Integer(found))
}

/// The first bit like this, from bit `from` of the first byte on.
fn first_bit(bytes: &[u8], bit: bool, from: usize) -> Option<usize> {
    let flip = if bit { 0 } else { 0xFF };
    let first = (bytes.first()? ^ flip) & head_mask(from);
    if first != 0 {
        return Some(first.leading_zeros() as usize);
    }
    let at = bytes.iter().skip(1).position(|byte| byte ^ flip != 0)? + 1;
    Some(8 * at + (bytes[at] ^ flip).leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_cut_a_range_out_of_its_bytes() {
        assert_eq!((head_mask(0), head_mask(3), head_mask(15)), (0xFF, 0b0001_1111, 1));
        assert_eq!((tail_mask(8), tail_mask(3), tail_mask(15)), (0xFF, 0b1110_0000, 0b1111_1110));
        assert_eq!(first_bit(&[0b1110_1111, 0xFF], false, 0), Some(3));
        assert_eq!(first_bit(&[0b1110_1111, 0xFF, 0x7F], false, 4), Some(16));
        assert_eq!(first_bit(&[0xFF], false, 0), None);
        assert_eq!(first_bit(&[], true, 0), None);
    }
}
