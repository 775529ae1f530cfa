//! Multibulk requests: `*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n`.
//!
//! A call looks for as many whole arguments as the input holds, copies them together, and gives the input back; only an
//! argument that is not whole stays there. A large argument is copied piece by piece into its own place instead. So
//! each byte is copied once, and at most one short line and one small argument are ever looked at again.

use bytes::Bytes;

use super::{
    ARG_OVERHEAD_BYTES, Decoded, LINE_BYTES_MAX, ProtocolError, RequestDecoder, SHARED_BYTES_MAX,
    UNAUTHENTICATED_ARGS_MAX, UNAUTHENTICATED_BULK_BYTES_MAX, parse_i64,
};

/// The end of a line and of an argument. As in Redis, only the CR of a line is looked for, and what ends an argument is
/// not looked at.
const LINE_END_BYTES: usize = 2;

/// First allocation for a large argument of which little has come yet: its announced length is only a promise.
const LARGE_FIRST_BYTES: usize = 64 * 1024;

/// Spans kept allocated between calls; a request of more arguments than that is rare.
const SPANS_KEPT_MAX: usize = 1024;

/// An argument within the input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: usize,
    length: usize,
}

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

/// What stands at some place of the input where an argument should begin.
enum Argument {
    Small(Span),
    Large(Span),
    /// Not whole: the length the input should have, 0 if unknown.
    Open(usize),
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
        let Line::Whole(text, after) = self.line(input, 0, &ProtocolError::MultibulkLineTooLong)? else {
            return Ok(None);
        };
        let announced = parse_i64(text)
            .filter(|count| *count <= i64::from(i32::MAX))
            .ok_or(ProtocolError::InvalidMultibulkLength)?;
        *at = after;
        // Like Redis, take no or a negative number of arguments for no request at all.
        let count = usize::try_from(announced).unwrap_or(0);
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
    /// then, gives the length the input should have if nothing of it is dropped.
    fn take_args(&mut self, request: &mut Multibulk, input: &[u8], at: &mut usize) -> Result<usize, ProtocolError> {
        self.found.clear();
        self.found.shrink_to(SPANS_KEPT_MAX);
        let mut needed = 0;
        while request.missing > self.found.len() {
            match self.argument(request, input, *at)? {
                Argument::Small(span) => {
                    *at = span.start + span.length + LINE_END_BYTES;
                    self.found.push(span);
                }
                Argument::Large(span) => {
                    request.copy_small(input, &mut self.found);
                    let mut large = Large { bytes: Vec::new(), length: span.length, end_bytes: 0 };
                    *at = span.start + large.fill(&input[span.start..]);
                    let whole = large.is_whole();
                    request.large = Some(large);
                    if !whole {
                        return Ok(0);
                    }
                    request.finish_large();
                }
                Argument::Open(length) => {
                    needed = length;
                    break;
                }
            }
        }
        request.copy_small(input, &mut self.found);
        Ok(needed)
    }

    /// Looks at the argument at `at`, and charges the request for it if it is whole or large.
    fn argument(&mut self, request: &mut Multibulk, input: &[u8], at: usize) -> Result<Argument, ProtocolError> {
        let Line::Whole(text, start) = self.line(input, at, &ProtocolError::BulkLineTooLong)? else {
            return Ok(Argument::Open(0));
        };
        if input[at] != b'$' {
            let got = if matches!(input[at], b'\r' | b'\n') { b' ' } else { input[at] };
            return Err(ProtocolError::ExpectedBulk(got));
        }
        let length = parse_i64(text)
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length <= self.limits.bulk_bytes_max)
            .ok_or(ProtocolError::InvalidBulkLength)?;
        if self.unauthenticated && length > UNAUTHENTICATED_BULK_BYTES_MAX {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        if length > self.limits.request_bytes_max - request.cost {
            return Err(ProtocolError::RequestTooBig);
        }
        let span = Span { start, length };
        if length > SHARED_BYTES_MAX {
            request.cost += length;
            return Ok(Argument::Large(span));
        }
        let end = start + length + LINE_END_BYTES;
        if end > input.len() {
            return Ok(Argument::Open(end));
        }
        request.cost += length;
        Ok(Argument::Small(span))
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

impl Multibulk {
    /// Copies the small arguments that were found in the input, all into one allocation.
    fn copy_small(&mut self, input: &[u8], found: &mut Vec<Span>) {
        if found.is_empty() {
            return;
        }
        self.grow_args(found.len());
        let total = found.iter().map(|span| span.length).sum();
        let mut copy = Vec::with_capacity(total);
        for span in &*found {
            copy.extend_from_slice(&input[span.start..span.start + span.length]);
        }
        let mut copy = Bytes::from(copy);
        for span in found.drain(..) {
            self.missing -= 1;
            self.args.push(copy.split_to(span.length));
        }
    }

    /// Moves the large argument, which is whole, to the others.
    fn finish_large(&mut self) {
        let large = self.large.take().expect("the caller has seen it");
        self.grow_args(1);
        self.missing -= 1;
        self.args.push(Bytes::from(large.bytes));
    }

    /// Makes room for `more` arguments: by doubling, but never for more than the request announced.
    fn grow_args(&mut self, more: usize) {
        if self.args.capacity() - self.args.len() < more {
            self.args.reserve_exact(more.max(self.args.len()).min(self.missing));
        }
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
