//! BITFIELD and BITFIELD_RO: integers of any width at any bit of a value.

use bytes::Bytes;
use dstore_resp::{CommandId, Reply};

use super::bit_offset;
use crate::context::errors;
use crate::draft::Draft;
use crate::evaluation::{Command, Evaluation, Stop};
use crate::number::parse_i64;

const BAD_TYPE: &str =
    "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";

/// The type of an integer in a value: `i1` to `i64`, `u1` to `u63`.
#[derive(Clone, Copy)]
struct Width {
    signed: bool,
    bits: u8,
}

impl Width {
    fn parse(text: &[u8]) -> Result<Width, Stop> {
        let bad = || Stop::error(BAD_TYPE);
        let (signed, digits) = match text {
            [b'i', digits @ ..] => (true, digits),
            [b'u', digits @ ..] => (false, digits),
            _ => return Err(bad()),
        };
        let bits = parse_i64(digits).and_then(|bits| u8::try_from(bits).ok()).ok_or_else(bad)?;
        if bits == 0 || bits > if signed { 64 } else { 63 } { Err(bad()) } else { Ok(Width { signed, bits }) }
    }

    /// The smallest and the largest integer of this width.
    fn bounds(self) -> (i128, i128) {
        match self.signed {
            true => (-1i128 << (self.bits - 1), (1i128 << (self.bits - 1)) - 1),
            false => (0, (1i128 << self.bits) - 1),
        }
    }

    /// The integer with these low bits.
    fn read(self, raw: u64) -> i128 {
        let value = i128::from(raw) & ((1i128 << self.bits) - 1);
        let (_, max) = self.bounds();
        if value > max { value - (1i128 << self.bits) } else { value }
    }
}

/// What becomes of an integer that does not fit.
#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

impl Overflow {
    /// The integer that is stored instead of one that may not fit; none if nothing is to be.
    fn fit(self, value: i128, width: Width) -> Option<i128> {
        let (min, max) = width.bounds();
        match self {
            _ if (min..=max).contains(&value) => Some(value),
            Overflow::Wrap => Some(width.read(value as u64)),
            Overflow::Saturate => Some(value.clamp(min, max)),
            Overflow::Fail => None,
        }
    }
}

#[derive(Clone, Copy)]
enum Action {
    Get,
    Set(i64),
    IncrBy(i64),
}

/// One operation of a BITFIELD.
struct Operation {
    action: Action,
    width: Width,
    offset: usize,
    overflow: Overflow,
}

/// `BITFIELD key [GET type offset | [OVERFLOW WRAP|SAT|FAIL] SET|INCRBY type offset value ...]` and `BITFIELD_RO key [GET ...]`.
pub(crate) fn bitfield(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let operations = parse(evaluation, &command.args[2..])?;
    let writes = operations.iter().filter(|operation| !matches!(operation.action, Action::Get));
    let Some(last_bit) = writes.map(|write| write.offset + usize::from(write.width.bits) - 1).max() else {
        return read_only(evaluation, command, &operations);
    };
    if command.spec.id == CommandId::BitFieldRo {
        return Err(Stop::error("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    let slot = evaluation.open(&command.args[1])?;
    let mut draft = Draft::new(evaluation.view, slot)?;
    let mut changed = draft.len() <= last_bit / 8;
    draft.grow(last_bit / 8 + 1);
    let mut replies = Vec::with_capacity(operations.len());
    for operation in &operations {
        let (reply, wrote) = run(evaluation, &mut draft, operation)?;
        changed |= wrote;
        replies.push(reply);
    }
    // Who watches the key need not hear of a write that changed nothing.
    if changed {
        draft.store(evaluation)?;
    }
    Ok(Reply::Array(replies))
}

fn read_only(evaluation: &mut Evaluation<'_>, command: Command<'_>, operations: &[Operation]) -> Result<Reply, Stop> {
    let record = evaluation.read(&command.args[1])?;
    let len = record.as_ref().map_or(0, |record| record.len());
    let mut replies = Vec::with_capacity(operations.len());
    for Operation { offset, width, .. } in operations {
        let window = Window::of(*offset, *width);
        let mut bytes = [0; Window::BYTES];
        if let Some(record) = &record {
            let (from, to) = (window.at.min(len), (window.at + window.len).min(len));
            bytes[..to - from].copy_from_slice(&record.part(evaluation.view, from..to)?);
        }
        replies.push(Reply::Integer(as_reply(window.get(&bytes, *width))));
    }
    Ok(Reply::Array(replies))
}

/// The reply, and whether anything changed.
fn run(evaluation: &Evaluation<'_>, draft: &mut Draft, operation: &Operation) -> Result<(Reply, bool), Stop> {
    let Operation { action, width, offset, overflow } = *operation;
    let window = Window::of(offset, width);
    let mut bytes = [0; Window::BYTES];
    draft.read(evaluation.view, window.at, &mut bytes[..window.len])?;
    let old = window.get(&bytes, width);
    let wanted = match action {
        Action::Get => return Ok((Reply::Integer(as_reply(old)), false)),
        // Redis takes a negative number for an unsigned field as one that is far too large.
        Action::Set(value) if width.signed => i128::from(value),
        Action::Set(value) => i128::from(value.cast_unsigned()),
        Action::IncrBy(increment) => old + i128::from(increment),
    };
    let fitting = match (action, overflow) {
        (Action::Set(value), Overflow::Saturate) if wraps_around(value, width) => Some(width.bounds().1),
        _ => overflow.fit(wanted, width),
    };
    let Some(new) = fitting else {
        return Ok((Reply::Null, false));
    };
    if new != old {
        window.set(&mut bytes, width, new);
        draft.write(evaluation.view, window.at, &bytes[..window.len])?;
    }
    let told = if matches!(action, Action::Set(_)) { old } else { new };
    Ok((Reply::Integer(as_reply(told)), new != old))
}

/// Redis finds out whether a number is too large by subtracting it from the largest. Of one far below the smallest that
/// wraps around, and SAT makes it the largest.
fn wraps_around(value: i64, width: Width) -> bool {
    let (_, max) = width.bounds();
    width.signed && width.bits < 64 && max - i128::from(value) > i128::from(i64::MAX)
}

fn as_reply(value: i128) -> i64 {
    i64::try_from(value).expect("an integer of at most 64 bits with sign, 63 without")
}

/// The bytes that an integer touches.
struct Window {
    at: usize,
    len: usize,
    /// Bits below the integer in the last byte.
    below: u32,
}

impl Window {
    /// 64 bits that begin anywhere in a byte.
    const BYTES: usize = 9;

    fn of(offset: usize, width: Width) -> Window {
        let (at, end) = (offset / 8, offset + usize::from(width.bits));
        let len = end.div_ceil(8) - at;
        Window { at, len, below: (8 * (at + len) - end) as u32 }
    }

    fn number(&self, bytes: &[u8; Window::BYTES]) -> u128 {
        bytes[..self.len].iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
    }

    fn get(&self, bytes: &[u8; Window::BYTES], width: Width) -> i128 {
        width.read((self.number(bytes) >> self.below) as u64)
    }

    fn set(&self, bytes: &mut [u8; Window::BYTES], width: Width, value: i128) {
        let mask = ((1u128 << width.bits) - 1) << self.below;
        let value = (value as u128) << self.below & mask;
        let number = self.number(bytes) & !mask | value;
        bytes[..self.len].copy_from_slice(&number.to_be_bytes()[16 - self.len..]);
    }
}

fn parse(evaluation: &Evaluation<'_>, args: &[Bytes]) -> Result<Vec<Operation>, Stop> {
    let mut operations = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut rest = args;
    while let [name, parts @ ..] = rest {
        rest = match (name.to_ascii_uppercase().as_slice(), parts) {
            (b"OVERFLOW", [kind, rest @ ..]) => {
                overflow = parse_overflow(kind)?;
                rest
            }
            (b"GET", [width, offset, rest @ ..]) => {
                let (width, offset) = place(evaluation, width, offset)?;
                operations.push(Operation { action: Action::Get, width, offset, overflow });
                rest
            }
            (name @ (b"SET" | b"INCRBY"), [width, offset, value, rest @ ..]) => {
                let (width, offset) = place(evaluation, width, offset)?;
                let value = parse_i64(value).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))?;
                let action = if name == b"SET" { Action::Set(value) } else { Action::IncrBy(value) };
                operations.push(Operation { action, width, offset, overflow });
                rest
            }
            _ => return Err(Stop::error(errors::SYNTAX)),
        };
    }
    Ok(operations)
}

fn place(evaluation: &Evaluation<'_>, width: &[u8], offset: &[u8]) -> Result<(Width, usize), Stop> {
    let width = Width::parse(width)?;
    Ok((width, bit_offset(evaluation, offset, Some(width.bits))?))
}

fn parse_overflow(kind: &[u8]) -> Result<Overflow, Stop> {
    match kind.to_ascii_uppercase().as_slice() {
        b"WRAP" => Ok(Overflow::Wrap),
        b"SAT" => Ok(Overflow::Saturate),
        b"FAIL" => Ok(Overflow::Fail),
        _ => Err(Stop::error("ERR Invalid OVERFLOW type specified")),
    }
}
