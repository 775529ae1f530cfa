//! The Redis protocol: codec and command table.
//!
//! Pure: bytes in, requests out; replies in, bytes out. No socket, thread or clock.
//!
//! The way of a command: [`RequestDecoder`] turns the input of a connection into requests, [`resolve`] finds a request's
//! row in the command table ([`CommandSpec`]), the key-value layer or the server answers with a [`Reply`], and
//! [`encode`] turns that into bytes. [`ReplyDecoder`] is the other end, for tests and tools.

mod command;
mod decode;
mod decode_reply;
mod encode;
mod glob;
mod reply;

pub use command::{
    COMMAND_COUNT, Categories, CommandFlags, CommandId, CommandSpec, Group, KeyFlags, KeyPositions, answer_command,
    help, resolve,
};
pub use decode::{
    ARG_OVERHEAD_BYTES, Decoded, LINE_BYTES_MAX, Limits, ProtocolError, RequestDecoder, SMALL_ARG_BYTES_MAX,
    UNAUTHENTICATED_ARGS_MAX, UNAUTHENTICATED_BULK_BYTES_MAX,
};
pub use decode_reply::{ReplyDecoder, ReplyError, ReplyLimits};
pub use encode::{ArrayEncoder, HAND_OVER_BYTES_MIN, ProtocolVersion, ReplySink, encode, format_double};
pub use glob::{glob_matches, glob_matches_nocase};
pub use reply::Reply;
