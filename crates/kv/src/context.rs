//! What evaluation is told ([`Context`]) and what it answers ([`Outcome`]).

use bytes::Bytes;
use dstore_resp::Reply;
use dstore_storage::layout::Stamp;
use dstore_storage::{RangeId, WriteOp};

use crate::cursors::CursorTable;

/// All that a command's meaning depends on besides its arguments and the data.
pub struct Context<'a> {
    /// The selected database.
    pub db: u8,
    /// The range whose key counts and expiry index the command reads and writes.
    pub range: RangeId,
    /// Whether the command is part of a log entry.
    pub mode: Mode,
    /// The node's wall clock, milliseconds since the Unix epoch. Only reads outside the log look at it.
    pub now_ms: u64,
    /// What is too much.
    pub limits: &'a Limits,
    /// Where SCAN cursors stand; the one thing that evaluation changes, and it is not data.
    pub cursors: &'a mut dyn CursorTable,
}

/// The place of a command in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Part of a log entry: may write, and goes by the entry's stamp.
    Write {
        /// The entry's stamp. Everything in the entry happens at this time.
        stamp: Stamp,
        /// Versions that earlier commands of the same entry used. This command's n-th written key (from 0) gets version
        /// `stamp + ordinal + n`.
        ordinal: u64,
    },
    /// Answered without the log: writes nothing.
    Read {
        /// Stamp of the last applied entry.
        applied: Stamp,
    },
}

/// Bounds on what one command may store, do or answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key that can be written: a key is in memory many times over, in indexes, filters and requests.
    pub key_bytes_max: usize,
    /// Longest value: it is copied whole into a log entry. Redis calls this `proto-max-bulk-len`.
    pub value_bytes_max: usize,
    /// Most that BITOP may read: its sources may be many, and one value many of them.
    pub read_bytes_max: usize,
    /// Most that one reply may hold, since it is in memory whole. KEYS on a store larger than memory meets it.
    pub reply_bytes_max: usize,
    /// Longest pattern of KEYS and SCAN: matching takes at most (pattern length x key length) steps a key.
    pub pattern_bytes_max: usize,
    /// Most keys that KEYS or KV.RANGE walks over: it is work that everybody pays for, though others go on meanwhile.
    pub walk_keys_max: u64,
    /// Most keys that one SCAN looks at, whatever its COUNT, so that it stays short.
    pub scan_count_max: u64,
    /// How many databases there are: COPY and MOVE refuse others, as SELECT does.
    pub databases: u8,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            key_bytes_max: 64 << 10,
            value_bytes_max: 64 << 20,
            read_bytes_max: 1 << 30,
            reply_bytes_max: 256 << 20,
            pattern_bytes_max: 1 << 10,
            walk_keys_max: 10_000_000,
            scan_count_max: 10_000,
            databases: 16,
        }
    }
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Outcome {
    /// The answer. It may leave once the effects are committed.
    pub reply: Reply,
    /// What changes, in order; empty for a read and for an error.
    pub effects: Vec<WriteOp>,
    /// How many versions the effects used up: the next command of the entry starts that much later.
    pub versions_used: u64,
    /// The outcome depends on a time that the log may not have yet.
    ///
    /// Of a read outside the log: it met a key whose deadline has passed on the wall clock but not yet on the last
    /// applied stamp, so it can say neither "there" (too late) nor "gone" (an older clock could bring it back). The
    /// reply is void; evaluate again with a fresh stamp, through the log.
    ///
    /// Of a command in the log: it found a key expired by the entry's stamp. The entry must be logged even if it changes
    /// nothing, or an older clock could bring the key back.
    pub needs_time: bool,
}

/// What is wrong with a command is said in Redis's words wherever Redis has them.
pub(crate) mod errors {
    use super::{Bytes, Reply};

    pub(crate) const SYNTAX: &str = "ERR syntax error";
    pub(crate) const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
    pub(crate) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
    pub(crate) const INT_OUT_OF_RANGE: &str =
        "ERR value is out of range, value must between -2147483648 and 2147483647";
    pub(crate) const NO_SUCH_KEY: &str = "ERR no such key";
    pub(crate) const SAME_OBJECT: &str = "ERR source and destination objects are the same";
    pub(crate) const LCS_TOO_LONG: &str =
        "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len";
    pub(crate) const NOT_A_FLOAT: &str = "ERR value is not a valid float";
    pub(crate) const OVERFLOW: &str = "ERR increment or decrement would overflow";
    pub(crate) const DECREMENT_OVERFLOW: &str = "ERR decrement would overflow";
    pub(crate) const NAN_OR_INFINITY: &str = "ERR increment would produce NaN or Infinity";
    pub(crate) const STRING_TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    pub(crate) const KEY_TOO_LONG: &str = "ERR key exceeds maximum allowed size (key-bytes-max)";
    pub(crate) const PATTERN_TOO_LONG: &str = "ERR pattern exceeds maximum allowed size (pattern-bytes-max)";
    pub(crate) const WALK_TOO_LONG: &str = "ERR too many keys to walk over at once (walk-keys-max), use SCAN";
    pub(crate) const READ_TOO_LONG: &str = "ERR values exceed what may be read at once (read-bytes-max)";
    pub(crate) const REPLY_TOO_LONG: &str = "ERR reply exceeds maximum allowed size (reply-bytes-max)";

    /// An error reply from a constant text.
    pub(crate) fn constant(text: &'static str) -> Reply {
        Reply::Error(Bytes::from_static(text.as_bytes()))
    }
}
