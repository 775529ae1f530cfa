//! What clients do: append tokens to lists and read them, alone, in bursts, in blocks, under WATCH; over the real protocol,
//! at whatever node they happen to be connected to. They add to counters, and put tokens into registers, which expire; and they
//! read ranges of keys, scan all of them, and remove whole databases.
//!
//! [`Client`] is a state machine like any other: bytes, the end of its connection and the time go in; connecting,
//! sending and closing come out. What it asked and heard goes into the [`Recorder`], whose history the checker judges.
//!
//! A client is honest about what it knows: a command without a reply has an unknown outcome, `-UNCERTAIN` too; after
//! `-NOQUORUM not executed` a command certainly had no effect, and the checker holds the store to that.

mod answers;
mod client;
mod recorder;
mod request;
mod scan;
mod values;

pub use client::{Client, ClientAction, Habits};
pub use recorder::Recorder;
pub use values::Values;
