//! The core of a node, sans-IO: sessions, evaluation, the log's entries, and when a reply may leave.
//!
//! A driver feeds it: requests of clients, "this entry is durable", the time. It answers with [`Output`]s: send this
//! reply, append that entry. It knows no socket, no file, no thread and no clock, so the server runs it on real ones and
//! a simulator on a seed.
//!
//! ```text
//! handle_request ──> evaluate ──> open entry                (replies to reads leave at once)
//! end_turn       ──> seal     ──> Output::Append
//! handle_durable ──> apply    ──> Output::Reply
//! ```
//!
//! Read [`Node`] first, then the `replica` module (how effects become entries and data), then `gateway` (sessions,
//! MULTI, WATCH).
//!
//! Caveat: one replica of one range, without peers: an entry is committed once it is durable here.

mod entry;
mod gateway;
mod node;
mod overlay;
mod replica;
mod view;

pub use entry::{ENTRY_KIND, Entry, EntryError};
pub use gateway::{ClientAddress, Facts, Host, SessionId, Stats, Usage};
pub use node::{Node, NodeError, NodeLimits, Now, Output, USER_RANGE};
pub use replica::{Append, Applied};
