//! Raft consensus as a pure state machine.
//!
//! Raft keeps a log of commands the same on several nodes, as long as a majority of them works (Ongaro and Ousterhout, "In
//! Search of an Understandable Consensus Algorithm", 2014; Ongaro's dissertation of the same year goes further, and is what
//! "section" means here when it is not said to be the paper's). One node leads for a *term*. It puts commands into its log and sends
//! them to the others; what a majority has durably is *committed*, can never be lost, and is applied by everyone in the same
//! order.
//!
//! This crate is the part that decides, and nothing else: no sockets, no disk, no threads, no clock, no source of
//! randomness. What happens comes in by method calls; what is to be done comes out of [`Raft::ready`]. The same code runs in a
//! server, in a simulator and in a golden script, and gives the same answers.
//!
//! Read [`Raft`] and [`Ready`] first.
//!
//! # Contract
//!
//! ```text
//!   Raft::step      a message came              Ready::messages         send now
//!   Raft::tick      time passed                 Ready::persist          write, then send its messages,
//!   Raft::propose   a client wants something                            then call Raft::persisted
//!   Raft::read      a client asks something     Ready::committed        apply, then call Raft::applied
//!   Raft::persisted a write is durable          Ready::reads            answer now
//!   Raft::applied   entries are applied         Ready::snapshots_wanted produce, then call Raft::snapshot_produced
//! ```
//!
//! - Writes complete in the order of their numbers; any number may be in flight. Nothing else waits for them.
//! - Committed entries may be applied before they are durable *here*: a majority elsewhere has them. So after a crash the
//!   applied state may be ahead of the log; the log then begins at the applied entry, and [`Raft::new`] sees to it.
//! - Times handed in come from one monotonic clock that runs while the machine sleeps, sampled after the input was read.
//!   Leases are compared with the time given to [`Raft::ready`], at the moment a read is let go.
//! - A snapshot's data travels outside. Its [`Body::Snapshot`] is stepped when all of the data has arrived; [`Persist`] says
//!   when to install it.
//! - An idle group costs its leader one heartbeat an interval and its followers nothing but the answer:
//!   [`Raft::deadline`] says when a node next needs to be woken, so thousands of groups share one timer heap.
//!
//! # What holds
//!
//! - *Election safety*: one leader a term, at most. *Log matching*: two logs with an entry of the same index and term are
//!   equal up to it. *Leader completeness*: a leader has everything committed in earlier terms. *State machine safety*: no
//!   two nodes apply different entries at an index. (Figure 3 of the paper.)
//! - A read sees everything that was committed, anywhere, before it was asked.
//! - Nothing a peer sends panics a node; [`StepError`] says what was wrong with it. What only a bug, here or in the driver,
//!   could cause is asserted, in release builds too.
//!
//! # Caveats
//!
//! - Members are taken at their word: Raft survives crashes, not lies. What is checked is that a message makes sense.
//! - Reads under a lease rest on clocks whose *rates* differ by no more than [`Config::clock_drift_ppm_max`].
//! - A node that lost its disk must not come back under its old [`NodeId`].
//! - A follower that installs a snapshot acknowledges nothing else until it is done, since writes complete in order.
//!
//! # Example
//!
//! One node, which elects itself as soon as its vote is durable.
//!
//! ```
//! use dstore_raft::*;
//!
//! let now = Time::from_millis(0);
//! let first = Restored::bootstrap(Configuration::new([NodeId(1)], []));
//! let mut raft = Raft::new(NodeId(1), Config::default(), first, MemLog::default(), now, 7)?;
//! raft.campaign(now);
//! let mut applied = Vec::new();
//! let mut work = |raft: &mut Raft<MemLog>| {
//!     while let Some(ready) = raft.ready(now) {
//!         if let Some(write) = ready.persist {
//!             if let Some(base) = write.restart_log {
//!                 raft.storage_mut().restart(base);
//!             }
//!             raft.storage_mut().append(write.entries);
//!             raft.persisted(now, write.number);
//!         }
//!         for entry in ready.committed {
//!             raft.applied(entry.index);
//!             applied.push(entry.data);
//!         }
//!     }
//! };
//! work(&mut raft);
//! assert_eq!(raft.role(), Role::Leader);
//! raft.propose(["hello".into()])?;
//! work(&mut raft);
//! // The blank entry that opens a leader's term, then ours.
//! assert_eq!(applied, ["", "hello"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

/// Notes that a place was reached. Without the feature it is nothing.
macro_rules! mark {
    ($name:ident) => {
        #[cfg(feature = "marks")]
        crate::marks::Mark::$name.reach();
    };
}

mod config;
mod configuration;
mod log;
#[cfg(feature = "marks")]
pub mod marks;
mod message;
#[cfg(test)]
mod planted;
mod progress;
mod quorum;
mod raft;
mod random;
mod reads;
mod ready;
mod rounds;
mod storage;
#[cfg(test)]
mod testing;
mod types;

pub use config::{Config, ConfigError};
pub use configuration::{Change, Configuration, ConfigurationError, MEMBERS_MAX};
pub use message::{Body, Handover, Message, ReadContext, SnapshotMeta};
pub use progress::ProgressState;
pub use raft::{PeerStatus, Raft, Restored, Status};
pub use ready::{
    Leadership, Persist, ProposalDropped, Proposed, ReadDropped, ReadId, ReadReady, Ready, Role, StartError, StepError,
    TransferRefused,
};
pub use storage::{LogStorage, MemLog, ReadLogError};
pub use types::{Entry, EntryId, EntryKind, HardState, LogIndex, NodeId, Term, Time};
