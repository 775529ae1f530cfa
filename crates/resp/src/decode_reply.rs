//! Bytes to replies: the client's end of the protocol, for tests and tools.
//!
//! Large aggregates are taken piece by piece like requests are, so a reply of a million items costs linear time however
//! it arrives. What a server sends is checked more strictly than what a client sends: any deviation is an error.
//!
//! Caveats: a status decodes to [`Reply::Status`] whatever it says; attributes are read and dropped; a verbatim string of
//! a format other than `txt` and `mkd` decodes to a bulk string.

use bytes::Bytes;

use crate::Reply;
use crate::decode::{Decoded, LINE_BYTES_MAX, parse_i64};

/// Aggregates within aggregates. Redis's deepest reply, that of COMMAND, has a dozen.
const DEPTH_MAX: usize = 64;

/// Bounds on one reply.
#[derive(Clone, Debug)]
pub struct ReplyLimits {
    /// Most memory one reply may take, roughly: its bytes, and the size of a [`Reply`] for each part.
    pub reply_bytes_max: usize,
}

impl Default for ReplyLimits {
    fn default() -> ReplyLimits {
        ReplyLimits { reply_bytes_max: 1 << 30 }
    }
}

/// Why bytes are no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No reply begins with this byte.
    #[error("no reply begins with byte 0x{0:02x}")]
    UnknownType(u8),
    /// A number, boolean or length that is none.
    #[error("malformed line {0:?}")]
    MalformedLine(String),
    /// A line without an end.
    #[error("a line is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// A line or string ends with something other than CR LF.
    #[error("CR LF is missing")]
    MissingLineEnd,
    /// Aggregates nest too deeply.
    #[error("aggregates nest more than {DEPTH_MAX} deep")]
    TooDeep,
    /// The reply exceeds [`ReplyLimits::reply_bytes_max`].
    #[error("the reply is too big")]
    TooBig,
}

/// Decodes the replies of one connection, one after the other. The contract is that of
/// [`RequestDecoder`](crate::RequestDecoder).
#[derive(Debug)]
pub struct ReplyDecoder {
    limits: ReplyLimits,
    /// The aggregates that are open, outermost first. Each misses at least one item. `len() <= DEPTH_MAX`.
    open: Vec<Aggregate>,
    /// What the reply under way costs so far; `<= reply_bytes_max`.
    cost: usize,
    failed: Option<ReplyError>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Array,
    Set,
    Push,
    Map,
    Attribute,
}

#[derive(Debug)]
struct Aggregate {
    kind: Kind,
    items: Vec<Reply>,
    missing: usize,
}

/// What begins at some place of the input.
enum Part {
    Value(Reply),
    Opened(Aggregate),
}

/// Why a part cannot be had.
enum Stop {
    /// Not whole: the length the input should have, 0 if unknown.
    Open(usize),
    Bad(ReplyError),
}

impl From<ReplyError> for Stop {
    fn from(error: ReplyError) -> Stop {
        Stop::Bad(error)
    }
}

impl ReplyDecoder {
    /// A decoder at the start of a connection.
    pub fn new(limits: ReplyLimits) -> ReplyDecoder {
        ReplyDecoder { limits, open: Vec::new(), cost: 0, failed: None }
    }

    /// Takes what it can from the start of `input`: all bytes received and neither skipped nor part of a message so far.
    ///
    /// # Errors
    /// When the bytes are no reply or exceed the limit, and from then on.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded<Reply>, ReplyError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut at = 0;
        loop {
            let value = match self.part(input, &mut at) {
                Ok(Part::Value(value)) => value,
                Ok(Part::Opened(aggregate)) => match (aggregate.missing, aggregate.kind) {
                    (0, Kind::Attribute) => continue,
                    (0, _) => aggregate.close(),
                    _ => {
                        self.open.push(aggregate);
                        continue;
                    }
                },
                Err(Stop::Open(needed)) => {
                    return Ok(if at == 0 { Decoded::Incomplete { needed } } else { Decoded::Skip(at) });
                }
                Err(Stop::Bad(error)) => {
                    self.open.clear();
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            };
            if let Some(reply) = self.place(value) {
                self.cost = 0;
                return Ok(Decoded::Message(reply, at));
            }
        }
    }

    /// Puts a whole value where it belongs. If that makes the reply whole, gives it.
    fn place(&mut self, mut value: Reply) -> Option<Reply> {
        while let Some(mut aggregate) = self.open.pop() {
            aggregate.items.push(value);
            aggregate.missing -= 1;
            if aggregate.missing > 0 {
                self.open.push(aggregate);
                return None;
            }
            if matches!(aggregate.kind, Kind::Attribute) {
                // It belongs to the value that follows, which takes its place.
                return None;
            }
            value = aggregate.close();
        }
        Some(value)
    }

    fn part(&mut self, input: &[u8], at: &mut usize) -> Result<Part, Stop> {
        let (kind, text, after) = line(&input[*at..])?;
        let start = *at + after;
        let value = match kind {
            b'$' | b'!' | b'=' => return self.string(input, at, kind, text, start),
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let part = self.aggregate(kind, text)?;
                *at = start;
                return Ok(part);
            }
            b'+' => Reply::Status(Bytes::copy_from_slice(text)),
            b'-' => Reply::Error(Bytes::copy_from_slice(text)),
            b':' => Reply::Integer(number(text)?),
            b'_' if text.is_empty() => Reply::Null,
            b',' => Reply::Double(double(text)?),
            b'#' => Reply::Boolean(match text {
                b"t" => true,
                b"f" => false,
                _ => return Err(malformed(text).into()),
            }),
            b'(' => Reply::BigNumber(Bytes::copy_from_slice(text)),
            b'_' => return Err(malformed(text).into()),
            unknown => return Err(ReplyError::UnknownType(unknown).into()),
        };
        self.charge(text.len(), 1)?;
        *at = start;
        Ok(Part::Value(value))
    }

    fn string(&mut self, input: &[u8], at: &mut usize, kind: u8, text: &[u8], start: usize) -> Result<Part, Stop> {
        let Some(length) = length(kind == b'$', text)? else {
            self.charge(0, 1)?;
            *at = start;
            return Ok(Part::Value(Reply::Null));
        };
        if length > self.limits.reply_bytes_max {
            return Err(ReplyError::TooBig.into());
        }
        let end = start + length;
        if end + 2 > input.len() {
            return Err(Stop::Open(end + 2));
        }
        if &input[end..end + 2] != b"\r\n" {
            return Err(ReplyError::MissingLineEnd.into());
        }
        self.charge(length, 1)?;
        let bytes = &input[start..end];
        let value = match (kind, bytes) {
            (b'!', _) => Reply::Error(Bytes::copy_from_slice(bytes)),
            (b'=', [b't', b'x', b't', b':', text @ ..]) => Reply::Verbatim("txt", Bytes::copy_from_slice(text)),
            (b'=', [b'm', b'k', b'd', b':', text @ ..]) => Reply::Verbatim("mkd", Bytes::copy_from_slice(text)),
            (b'=', [_, _, _, b':', text @ ..]) => Reply::Bulk(Bytes::copy_from_slice(text)),
            (b'=', _) => return Err(malformed(bytes).into()),
            _ => Reply::Bulk(Bytes::copy_from_slice(bytes)),
        };
        *at = end + 2;
        Ok(Part::Value(value))
    }

    fn aggregate(&mut self, kind: u8, text: &[u8]) -> Result<Part, Stop> {
        let Some(count) = length(kind == b'*', text)? else {
            self.charge(0, 1)?;
            return Ok(Part::Value(Reply::NullArray));
        };
        let (kind, missing) = match kind {
            b'%' => (Kind::Map, count.checked_mul(2)),
            b'|' => (Kind::Attribute, count.checked_mul(2)),
            b'~' => (Kind::Set, Some(count)),
            b'>' => (Kind::Push, Some(count)),
            _ => (Kind::Array, Some(count)),
        };
        let missing = missing.filter(|missing| *missing <= self.limits.reply_bytes_max / size_of::<Reply>());
        let missing = missing.ok_or(ReplyError::TooBig)?;
        if self.open.len() == DEPTH_MAX {
            return Err(ReplyError::TooDeep.into());
        }
        self.charge(0, 1)?;
        Ok(Part::Opened(Aggregate { kind, items: Vec::new(), missing }))
    }

    fn charge(&mut self, bytes: usize, parts: usize) -> Result<(), ReplyError> {
        self.cost += bytes + parts * size_of::<Reply>();
        if self.cost > self.limits.reply_bytes_max { Err(ReplyError::TooBig) } else { Ok(()) }
    }
}

impl Aggregate {
    fn close(self) -> Reply {
        match self.kind {
            Kind::Array => Reply::Array(self.items),
            Kind::Set => Reply::Set(self.items),
            Kind::Push => Reply::Push(self.items),
            Kind::Map | Kind::Attribute => {
                let mut items = self.items.into_iter();
                let mut pairs = Vec::with_capacity(items.len() / 2);
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    pairs.push((key, value));
                }
                Reply::Map(pairs)
            }
        }
    }
}

/// The line at the start of `input`: its type byte, its text, and where the next thing starts.
fn line(input: &[u8]) -> Result<(u8, &[u8], usize), Stop> {
    let end = input.iter().take(LINE_BYTES_MAX + 1).position(|byte| *byte == b'\r');
    let Some(end) = end else {
        return Err(if input.len() > LINE_BYTES_MAX { ReplyError::LineTooLong.into() } else { Stop::Open(0) });
    };
    match input.get(end + 1) {
        None => Err(Stop::Open(0)),
        Some(b'\n') if end > 0 => Ok((input[0], &input[1..end], end + 2)),
        Some(b'\n') => Err(ReplyError::UnknownType(b'\r').into()),
        Some(_) => Err(ReplyError::MissingLineEnd.into()),
    }
}

fn malformed(text: &[u8]) -> ReplyError {
    ReplyError::MalformedLine(text.escape_ascii().to_string())
}

fn number(text: &[u8]) -> Result<i64, ReplyError> {
    parse_i64(text).ok_or_else(|| malformed(text))
}

fn double(text: &[u8]) -> Result<f64, ReplyError> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| malformed(text))
}

/// A length; `None` for the -1 of RESP2's nulls, where `nullable`.
fn length(nullable: bool, text: &[u8]) -> Result<Option<usize>, ReplyError> {
    match number(text)? {
        -1 if nullable => Ok(None),
        length => usize::try_from(length).map(Some).map_err(|_| malformed(text)),
    }
}
