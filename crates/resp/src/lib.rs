//! The Redis protocol: codec and command table.
//!
//! Pure: bytes in, requests out; replies in, bytes out. No socket, thread or clock.
//!
//! Read [`CommandSpec`] first (what commands exist), then [`Reply`] (what they answer).

mod command;
mod glob;
mod reply;

pub use command::{
    COMMAND_COUNT, Categories, CommandFlags, CommandId, CommandSpec, Group, KeyFlags, KeyPositions, answer_command,
    help, resolve,
};
pub use glob::{glob_matches, glob_matches_nocase};
pub use reply::Reply;
