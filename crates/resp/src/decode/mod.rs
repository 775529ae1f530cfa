//! Bytes to requests: multibulk (RESP2 and RESP3 alike) and inline commands, as Redis 7.0 reads them.
//!
//! [`RequestDecoder`] is given the unprocessed input of a connection and tells what it found at its start. A small
//! request is taken in one go. Of a large one the decoder takes each piece as it comes and keeps it, so that
//! the input buffer of the connection stays small, no byte is looked at twice, and a value is copied once.
//!
//! The arguments that come out own their bytes and nothing else: a key that is kept keeps neither the input buffer nor
//! the value that came with it.
//!
//! Bounds: one request, with the memory that holds its arguments together, stays below
//! [`Limits::request_bytes_max`], however many arguments it announces.

mod inline;
mod multibulk;
mod number;

use bytes::Bytes;

use self::multibulk::Multibulk;
pub(crate) use self::number::parse_i64;

/// What a decoder found at the start of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<M> {
    /// A whole message, with which the first so many bytes (at least one) end.
    Message(M, usize),
    /// No message yet, but the first so many bytes (at least one) are done with: drop them and call again with the rest.
    Skip(usize),
    /// The input has to grow. Nothing is lost by calling earlier, but nothing gained before it is this long in all; 0 if
    /// that is not known.
    Incomplete {
        /// Length of the whole input at which to call again.
        needed: usize,
    },
}

/// Bounds on one request.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest argument: `proto-max-bulk-len`. Redis's own default is 512 MiB.
    pub bulk_bytes_max: usize,
    /// Most memory one request may take: its bytes, and [`ARG_OVERHEAD_BYTES`] for each argument. Redis bounds this
    /// with `client-query-buffer-limit`, 1 GiB by default.
    pub request_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bulk_bytes_max: 512 << 20, request_bytes_max: 1 << 30 }
    }
}

/// What an argument costs beside its bytes: its handle, and what the allocator adds to a small piece of memory.
pub const ARG_OVERHEAD_BYTES: usize = size_of::<Bytes>() + 16;

/// Longest inline command, and longest line that announces a length, in bytes.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Most arguments of a request before authentication, so that a stranger cannot make us hold much.
pub const UNAUTHENTICATED_ARGS_MAX: usize = 10;

/// Longest argument before authentication.
pub const UNAUTHENTICATED_BULK_BYTES_MAX: usize = 16 * 1024;

/// An argument up to this length is taken when it is whole, a longer one piece by piece.
pub const SMALL_ARG_BYTES_MAX: usize = 4 * 1024;

/// Why the bytes of a client are no request. The connection cannot go on: what follows has no known meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// `*` and then no number, or one too large.
    #[error("invalid multibulk length")]
    InvalidMultibulkLength,
    /// `$` and then no number, a negative one, or one above the limit.
    #[error("invalid bulk length")]
    InvalidBulkLength,
    /// Something else where an argument should begin.
    #[error("expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    /// The line after `*` does not end.
    #[error("too big mbulk count string")]
    MultibulkLineTooLong,
    /// The line after `$` does not end.
    #[error("too big bulk count string")]
    BulkLineTooLong,
    /// An inline command does not end.
    #[error("too big inline request")]
    InlineTooLong,
    /// An inline command opens a quote and does not close it, or closes it within a word.
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    /// Too many arguments for a connection that has not authenticated.
    #[error("unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// Too long an argument for a connection that has not authenticated.
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// The request as a whole exceeds [`Limits::request_bytes_max`].
    #[error("too big request")]
    RequestTooBig,
}

impl ProtocolError {
    /// What Redis answers before it closes the connection, byte for byte.
    pub fn reply(&self) -> crate::Reply {
        let text = match self {
            // The message shows the byte as a character; on the wire it is the byte itself.
            ProtocolError::ExpectedBulk(byte) => {
                [b"ERR Protocol error: expected '$', got '", &[*byte][..], b"'"].concat()
            }
            other => format!("ERR Protocol error: {other}").into_bytes(),
        };
        crate::Reply::Error(Bytes::from(text))
    }
}

/// Decodes the requests of one connection, one after the other.
///
/// ```
/// use dstore_resp::{Decoded, Limits, RequestDecoder};
///
/// let mut decoder = RequestDecoder::new(Limits::default());
/// let input = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n";
/// let Ok(Decoded::Message(args, used)) = decoder.decode(input) else { panic!() };
/// assert_eq!(args, ["GET", "k"]);
/// assert_eq!(&input[used..], b"PING\r\n");
/// ```
#[derive(Debug)]
pub struct RequestDecoder {
    limits: Limits,
    unauthenticated: bool,
    /// The multibulk request under way: some of its bytes are already taken from the input.
    partial: Option<Multibulk>,
    /// How much of the line at the start of the input is known not to hold its end.
    scanned: usize,
    /// Set by the first error: there is no way to tell where the next request begins.
    failed: Option<ProtocolError>,
}

impl RequestDecoder {
    /// A decoder at the start of a connection that needs no authentication.
    pub fn new(limits: Limits) -> RequestDecoder {
        RequestDecoder { limits, unauthenticated: false, partial: None, scanned: 0, failed: None }
    }

    /// Sets whether the connection has still to authenticate, which lowers the limits.
    pub fn set_unauthenticated(&mut self, unauthenticated: bool) {
        self.unauthenticated = unauthenticated;
    }

    /// Memory held for the request under way, of which part was taken from the input: at most
    /// [`Limits::request_bytes_max`], and at most a small multiple of what came. 0 between requests.
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, Multibulk::held_bytes)
    }

    /// Takes what it can from the start of `input`: all bytes received and neither skipped nor part of a message so far.
    /// A message has at least one argument.
    ///
    /// # Errors
    /// When the bytes are no request or exceed a limit, and from then on.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded<Vec<Bytes>>, ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let decoded = match (&self.partial, input.first()) {
            (None, None) => Ok(Decoded::Incomplete { needed: 1 }),
            (None, Some(byte)) if *byte != b'*' => self.decode_inline(input),
            _ => self.decode_multibulk(input),
        };
        if let Err(error) = &decoded {
            self.failed = Some(error.clone());
            self.partial = None;
        }
        decoded
    }
}
