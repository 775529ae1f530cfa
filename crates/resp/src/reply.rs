//! [`Reply`]: what a command answers, before a protocol version has been chosen.

use bytes::Bytes;

/// The answer to one command. RESP3 has a type for each of these; RESP2 folds several into one, exactly as Redis does
/// (`Map` becomes a flat array, `Null` a null bulk string, `Double` a bulk string, `Boolean` an integer, ...).
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A short status such as `OK`.
    Simple(&'static str),
    /// A status line made at run time. Never contains CR or LF once encoded.
    Status(Bytes),
    /// An error line, its code first: `ERR syntax error`. Never contains CR or LF once encoded.
    Error(Bytes),
    /// A signed 64-bit integer.
    Integer(i64),
    /// A binary-safe string.
    Bulk(Bytes),
    /// Nothing: `$-1` in RESP2, `_` in RESP3.
    Null,
    /// No array: `*-1` in RESP2 (an EXEC whose WATCH failed), `_` in RESP3.
    NullArray,
    /// An integer of any size, in decimal; a bulk string in RESP2.
    BigNumber(Bytes),
    /// A floating-point number.
    Double(f64),
    /// True or false; `1` or `0` in RESP2.
    Boolean(bool),
    /// Replies in order.
    Array(Vec<Reply>),
    /// Pairs in order.
    Map(Vec<(Reply, Reply)>),
    /// Members, unordered.
    Set(Vec<Reply>),
    /// What nobody asked for at this moment (RESP3); an array in RESP2.
    Push(Vec<Reply>),
    /// Text with a three-letter format, such as `txt`.
    Verbatim(&'static str, Bytes),
    /// One whole reply that is encoded already, in the version its reader speaks: written as it is. For what another
    /// node has answered. Nothing checks it: whoever makes one vouches that it is exactly one reply, and in that version.
    Encoded(Bytes),
    /// The same of one that is long, in pieces that are written one behind the other.
    Pieces(Vec<Bytes>),
}

impl Reply {
    /// The status `OK`.
    pub const OK: Reply = Reply::Simple("OK");

    /// An error reply from its whole text, code included.
    pub fn error(text: impl Into<String>) -> Reply {
        Reply::Error(Bytes::from(text.into()))
    }

    /// About how much memory the reply takes: its text, and the value itself for every element.
    pub fn bytes_len(&self) -> usize {
        size_of::<Reply>()
            + match self {
                Reply::Status(text) | Reply::Error(text) | Reply::Bulk(text) | Reply::Verbatim(_, text) => text.len(),
                Reply::BigNumber(bytes) | Reply::Encoded(bytes) => bytes.len(),
                Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => {
                    items.iter().map(Reply::bytes_len).sum()
                }
                Reply::Map(pairs) => pairs.iter().map(|(key, value)| key.bytes_len() + value.bytes_len()).sum(),
                Reply::Pieces(pieces) => pieces.iter().map(Bytes::len).sum(),
                Reply::Simple(_)
                | Reply::Integer(_)
                | Reply::Null
                | Reply::NullArray
                | Reply::Double(_)
                | Reply::Boolean(_) => 0,
            }
    }

    /// A bulk string from bytes that live for ever.
    pub fn bulk_static(text: &'static str) -> Reply {
        Reply::Bulk(Bytes::from_static(text.as_bytes()))
    }
}
