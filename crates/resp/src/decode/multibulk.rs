//! Multibulk requests: `*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n`.
//!
//! A call takes as many whole arguments as the input holds and gives the input back; only a small argument that is not
//! whole stays there. A large argument is taken piece by piece. So each byte is copied once, and at most one short
//! line is ever looked at again.

use bytes::Bytes;

use super::{
    ARG_OVERHEAD_BYTES, Decoded, LINE_BYTES_MAX, ProtocolError, RequestDecoder, SMALL_ARG_BYTES_MAX,
    UNAUTHENTICATED_ARGS_MAX, UNAUTHENTICATED_BULK_BYTES_MAX, parse_i64,
};

/// The end of a line and of an argument. As in Redis, only the CR of a line is looked for, and what ends an argument is
/// not looked at.
const LINE_END_BYTES: usize = 2;

/// First allocation for a large argument of which little has come yet: its announced length is only a promise.
const LARGE_FIRST_BYTES: usize = 64 * 1024;

/// Fewest bytes of an argument: `$0\r\n\r\n`.
const ARG_BYTES_MIN: usize = 6;

/// A request of which some bytes were taken from the input.
#[derive(Debug)]
pub(super) struct Multibulk {
    /// Arguments that are whole. `args.len() + missing` is what the request announced.
    args: Vec<Bytes>,
    /// Arguments still to come, the one in `large` included.
    missing: usize,
    /// The large argument under way.
    large: Option<Large>,
    /// What the request costs so far; `<= Limits::request_bytes_max`.
    cost: usize,
}

/// A large argument that arrives in pieces.
#[derive(Debug)]
struct Large {
    /// What came of it. Its capacity never exceeds `length`.
    bytes: Vec<u8>,
    /// What it announced.
    length: usize,
    /// Bytes of its end that came.
    end_bytes: usize,
}

/// A line at some place of the input.
enum Line<'a> {
    /// Its text behind the type byte, and where the next thing starts.
    Whole(&'a [u8], usize),
    /// The input ends before the line.
    Open,
}

impl RequestDecoder {
    pub(super) fn decode_multibulk(&mut self, input: &[u8]) -> Result<Decoded<Vec<Bytes>>, ProtocolError> {
        let mut at = 0;
        let mut request = match self.partial.take() {
            Some(mut request) => {
                if let Some(large) = &mut request.large {
                    at = large.fill(input);
                    if !large.is_whole() {
                        self.partial = Some(request);
                        return Ok(if at == 0 { Decoded::Incomplete { needed: 1 } } else { Decoded::Skip(at) });
                    }
                    request.finish_large();
                }
                request
            }
            None => match self.begin(input, &mut at)? {
                Some(request) => request,
                None if at == 0 => return Ok(Decoded::Incomplete { needed: 0 }),
                None => return Ok(Decoded::Skip(at)),
            },
        };
        let needed = self.take_args(&mut request, input, &mut at)?;
        if request.missing == 0 {
            return Ok(Decoded::Message(request.args, at));
        }
        self.partial = Some(request);
        Ok(if at == 0 { Decoded::Incomplete { needed } } else { Decoded::Skip(at) })
    }

    /// Reads the line that begins a request. `None` if there is no request: `at` tells whether the line was whole.
    fn begin(&mut self, input: &[u8], at: &mut usize) -> Result<Option<Multibulk>, ProtocolError> {
        let (count, after) = match common_line(b'*', input) {
            Some(line) => {
                self.scanned = 0;
                line
            }
            None => {
                let Line::Whole(text, after) = self.line(input, 0, &ProtocolError::MultibulkLineTooLong)? else {
                    return Ok(None);
                };
                let announced = parse_i64(text).filter(|count| *count <= i64::from(i32::MAX));
                // Like Redis, take a negative number of arguments for no request at all.
                (announced.ok_or(ProtocolError::InvalidMultibulkLength)?.max(0) as usize, after)
            }
        };
        *at = after;
        if count == 0 {
            return Ok(None);
        }
        if self.unauthenticated && count > UNAUTHENTICATED_ARGS_MAX {
            return Err(ProtocolError::UnauthenticatedMultibulkLength);
        }
        let cost = count * ARG_OVERHEAD_BYTES;
        if cost > self.limits.request_bytes_max {
            return Err(ProtocolError::InvalidMultibulkLength);
        }
        Ok(Some(Multibulk { args: Vec::new(), missing: count, large: None, cost }))
    }

    /// Takes the arguments from `at` on that are whole, and the beginning of a large one. If the request is not whole
    /// then, gives the length the input should have if nothing of it is dropped, 0 if unknown.
    fn take_args(&mut self, request: &mut Multibulk, input: &[u8], at: &mut usize) -> Result<usize, ProtocolError> {
        while request.missing > 0 {
            let Some((length, start)) = self.begin_arg(request, input, *at)? else {
                return Ok(0);
            };
            let end = start + length + LINE_END_BYTES;
            if length > SMALL_ARG_BYTES_MAX {
                request.cost += length;
                let mut large = Large { bytes: Vec::new(), length, end_bytes: 0 };
                *at = start + large.fill(&input[start..]);
                let whole = large.is_whole();
                request.large = Some(large);
                if !whole {
                    return Ok(0);
                }
                request.finish_large();
            } else if end <= input.len() {
                request.cost += length;
                let bytes = &input[start..start + length];
                let name = if request.args.is_empty() { common_name(bytes) } else { None };
                let arg = name.map_or_else(|| Bytes::copy_from_slice(bytes), Bytes::from_static);
                request.push(arg, input.len() - start);
                *at = end;
            } else {
                return Ok(end);
            }
        }
        Ok(0)
    }

    /// Reads the line at `at` that begins an argument: its length, within all limits, and where it starts. `None` if the
    /// line is not whole.
    fn begin_arg(
        &mut self,
        request: &Multibulk,
        input: &[u8],
        at: usize,
    ) -> Result<Option<(usize, usize)>, ProtocolError> {
        let (length, start) = match common_line(b'$', &input[at..]) {
            Some((length, after)) => {
                self.scanned = 0;
                (length, at + after)
            }
            None => match self.bulk_line(input, at)? {
                Some(line) => line,
                None => return Ok(None),
            },
        };
        if length > self.limits.bulk_bytes_max {
            return Err(ProtocolError::InvalidBulkLength);
        }
        if self.unauthenticated && length > UNAUTHENTICATED_BULK_BYTES_MAX {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        if length > self.limits.request_bytes_max - request.cost {
            return Err(ProtocolError::RequestTooBig);
        }
        Ok(Some((length, start)))
    }

    /// Reads the line that begins an argument: the announced length, and where the argument starts. `None` if the line
    /// is not whole.
    fn bulk_line(&mut self, input: &[u8], at: usize) -> Result<Option<(usize, usize)>, ProtocolError> {
        let Line::Whole(text, start) = self.line(input, at, &ProtocolError::BulkLineTooLong)? else {
            return Ok(None);
        };
        if input[at] != b'$' {
            let got = if matches!(input[at], b'\r' | b'\n') { b' ' } else { input[at] };
            return Err(ProtocolError::ExpectedBulk(got));
        }
        let length = parse_i64(text).and_then(|length| usize::try_from(length).ok());
        Ok(Some((length.ok_or(ProtocolError::InvalidBulkLength)?, start)))
    }

    /// Finds the end of the line that starts at `at`.
    fn line<'a>(&mut self, input: &'a [u8], at: usize, too_long: &ProtocolError) -> Result<Line<'a>, ProtocolError> {
        let from = if at == 0 { std::mem::take(&mut self.scanned) } else { at };
        let found = input[from..].iter().position(|byte| *byte == b'\r');
        let end = found.map_or(input.len(), |found| from + found);
        if end - at > LINE_BYTES_MAX {
            return Err(too_long.clone());
        }
        if end + LINE_END_BYTES > input.len() {
            if at == 0 {
                self.scanned = end;
            }
            return Ok(Line::Open);
        }
        // A line of its end alone has no type byte; the caller sees the CR in its place.
        Ok(Line::Whole(&input[end.min(at + 1)..end], end + LINE_END_BYTES))
    }
}

/// Reads the line at the start of `input` if it is of the common kind: the type byte expected, a number of up to eight
/// digits, CR and one byte more. Gives the number and where the next thing starts. The slower [`RequestDecoder::line`]
/// judges any other.
#[inline]
fn common_line(kind: u8, input: &[u8]) -> Option<(usize, usize)> {
    let [first, rest @ ..] = input else {
        return None;
    };
    let mut number = 0;
    for (at, byte) in rest.iter().enumerate().take(9) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let is_number = at > 0 && (rest[0] != b'0' || at == 1);
            let is_whole = *first == kind && *byte == b'\r' && rest.len() > at + 1;
            return (is_number && is_whole).then_some((number, at + 3));
        }
        number = number * 10 + usize::from(digit);
    }
    None
}

/// The name of a command that comes often, as clients write it: it needs no memory of its own.
fn common_name(bytes: &[u8]) -> Option<&'static [u8]> {
    const NAMES: [&[u8]; 10] =
        [b"GET", b"SET", b"get", b"set", b"DEL", b"MGET", b"INCR", b"EXISTS", b"EXPIRE", b"PING"];
    NAMES.into_iter().find(|name| *name == bytes)
}

impl Multibulk {
    /// Adds an argument that is whole. `input_left` bytes of input tell how many more may come at once.
    fn push(&mut self, arg: Bytes, input_left: usize) {
        if self.args.len() == self.args.capacity() {
            // By doubling, but never for more than the request announced.
            let room = self.args.len().max(input_left / ARG_BYTES_MIN + 1);
            self.args.reserve_exact(room.min(self.missing));
        }
        self.missing -= 1;
        self.args.push(arg);
    }

    /// Memory held for the arguments so far.
    pub(super) fn held_bytes(&self) -> usize {
        let announced = self.args.len() + self.missing;
        let arg_bytes = self.cost - announced * ARG_OVERHEAD_BYTES;
        let (promised, held) = self.large.as_ref().map_or((0, 0), |large| (large.length, large.bytes.capacity()));
        self.args.capacity() * ARG_OVERHEAD_BYTES + arg_bytes - promised + held
    }

    /// Moves the large argument, which is whole, to the others.
    fn finish_large(&mut self) {
        let large = self.large.take().expect("the caller has seen it");
        self.push(Bytes::from(large.bytes), 0);
    }
}

impl Large {
    /// Takes what belongs to it from the start of `input`; how much that was.
    fn fill(&mut self, input: &[u8]) -> usize {
        let taken = input.len().min(self.length - self.bytes.len());
        if self.bytes.capacity() - self.bytes.len() < taken {
            // By doubling, but never beyond its length: the last step is exact.
            let room = taken.max(self.bytes.len()).max(LARGE_FIRST_BYTES);
            self.bytes.reserve_exact(room.min(self.length - self.bytes.len()));
        }
        self.bytes.extend_from_slice(&input[..taken]);
        if self.bytes.len() < self.length {
            return taken;
        }
        let end_taken = (input.len() - taken).min(LINE_END_BYTES - self.end_bytes);
        self.end_bytes += end_taken;
        taken + end_taken
    }

    fn is_whole(&self) -> bool {
        self.end_bytes == LINE_END_BYTES
    }
}
