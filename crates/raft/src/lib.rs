//! Raft consensus as a pure state machine.

mod config;
mod configuration;
mod log;
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
