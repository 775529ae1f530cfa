//! The core of a node, sans-IO: clients' sessions, the way of their commands to the leader of the data, evaluation, and
//! the replicated log of each range.
//!
//! A driver feeds it: requests of clients, messages and calls of peers, "this write is durable", the time. It answers with
//! [`Output`]s: send this reply, call that peer, write this. It knows no socket, no file, no thread and no clock, so the
//! server runs it on real ones and the simulator on a seed.
//!
//! ```text
//! handle_request ──> gateway: order of replies, MULTI, WATCH ──> batch
//! end_turn ──> batch ──> this node leads:    evaluate ──> open entry ──> seal ──> Raft ──> Output::Write, Output::Send
//!                   └──> another node leads: Output::Call ... handle_reply ──> Output::Reply
//! handle_durable, handle_message ──> Raft ──> end_turn ──> committed ──> apply ──> Output::Reply, Output::Answer
//! ```
//!
//! Read [`Node`] first; then `gateway` (sessions, and the way to the leader), `serve` (what a leader does with a batch), `cold`
//! (what it does with one whose data is not in memory),
//! `group` (consensus and state machine joined), `replica` (how effects become entries and data); for a cluster that changes,
//! `membership` (who belongs to it), `roster` (where everybody is), `transfer` (data instead of log), `retention` (how much
//! log).
//!
//! Caveat: one range holds all user keys.

/// Whether a test wants this rule broken. Without the feature it is the constant `false`.
macro_rules! planted {
    ($node:expr, $bug:ident) => {{
        #[cfg(feature = "planted")]
        {
            $node.planted == Some(crate::Planted::$bug)
        }
        #[cfg(not(feature = "planted"))]
        {
            false
        }
    }};
}

/// Notes that a place was reached. Without the feature it is nothing.
macro_rules! mark {
    ($name:ident) => {
        #[cfg(feature = "marks")]
        crate::marks::Mark::$name.reach();
    };
}

mod administer;
mod batch;
mod cached;
mod check;
mod cold;
mod disk;
mod entry;
mod gateway;
mod gathered;
mod group;
mod keyed;
mod long_reads;
#[cfg(feature = "marks")]
pub mod marks;
mod membership;
mod node;
pub mod offline;
mod overlay;
#[cfg(feature = "planted")]
mod planted;
mod range_log;
mod record;
mod records;
mod replica;
mod retention;
mod roster;
mod serve;
mod status;
mod system;
mod transfer;
mod view;
mod whereabouts;
mod wire;
mod writes;

pub use cached::Settlement;
pub use check::CheckStatus;
pub use cold::{ReadDone, Reading};
pub use disk::{DiskStatus, Space};
pub use entry::{Entry, EntryError};
pub use gateway::{ClientAddress, Facts, Host, LogUse, SessionId, Stats, Usage};
pub use node::{Member, Node, NodeError, NodeLimits, NodeParts, Now, Output, SYSTEM_RANGE, USER_RANGE};
#[cfg(feature = "planted")]
pub use planted::Planted;
pub use replica::Applied;
pub use status::{MemberStatus, NodeStatus, Part, RangeStatus};
pub use transfer::spans_of;
/// The number of the messages of consensus: for whoever looks at what nodes say.
pub const RAFT_METHOD: u32 = wire::RAFT.number;

pub use wire::{
    ADMINISTER, Administer, Administered, Check, HandOver, Join, MemberAddress, Remove, SNAPSHOT, SnapshotOpening,
};
