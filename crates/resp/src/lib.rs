//! The Redis protocol: codec and command table.
//!
//! Pure: bytes in, requests out; replies in, bytes out. No socket, thread or clock.
//!
//! Read [`CommandSpec`] first (what commands exist), then [`Reply`] (what they answer).

mod command;
mod reply;

pub use command::{
    COMMAND_COUNT, Categories, CommandFlags, CommandId, CommandSpec, Group, KeyFlags, KeyPositions, resolve,
};
pub use reply::Reply;
