//! What the state machine wants done.
//!
//! The driver calls [`Raft::ready`](crate::Raft::ready) after every input or batch of inputs, until it returns `None`, and
//! does what it says. The one rule about order: `messages` may leave at once; what `persist` holds must be durable before
//! *its* messages leave and before [`Raft::persisted`](crate::Raft::persisted) is called with its number.

use crate::{Entry, EntryId, HardState, LogIndex, Message, NodeId, SnapshotMeta, Term};

/// One batch of work.
#[derive(Debug, Default)]
pub struct Ready {
    /// Set when the role, the term or the known leader changed.
    pub leadership: Option<Leadership>,
    /// To be sent now, whatever the disk is doing.
    pub messages: Vec<Message>,
    /// To be written.
    pub persist: Option<Persist>,
    /// Committed entries, to be applied in order. Report them with [`Raft::applied`](crate::Raft::applied). They may be
    /// applied before they are durable here.
    pub committed: Vec<Entry>,
    /// Reads that may be answered now, from the state as it is now: nothing further needs to be waited for.
    pub reads: Vec<ReadReady>,
    /// Reads that will not be answered: leadership moved. They may be asked again.
    pub reads_dropped: Vec<ReadId>,
    /// Followers that need a snapshot: answer with [`Raft::snapshot_produced`](crate::Raft::snapshot_produced) or
    /// [`Raft::snapshot_failed`](crate::Raft::snapshot_failed).
    pub snapshots_wanted: Vec<NodeId>,
}

/// A write. Writes complete in the order of their numbers; several may be in flight.
///
/// In one durable step, or in this order: install the snapshot, begin the log anew, write the hard state, write the
/// entries. A crash may leave any prefix of it.
#[derive(Debug)]
pub struct Persist {
    /// Counts from 1.
    pub number: u64,
    /// Make the data that came with this snapshot the applied state. `restart_log` is set too.
    pub snapshot: Option<Box<SnapshotMeta>>,
    /// Drop the whole log; it begins after this entry.
    pub restart_log: Option<EntryId>,
    /// Replace the hard state.
    pub hard_state: Option<HardState>,
    /// Append these; if the first is not after the last entry of the log, everything from there on is replaced.
    pub entries: Vec<Entry>,
    /// To be sent once all of the above, and every write of a lower number, is durable.
    pub messages: Vec<Message>,
}

/// What a node is in its term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows the leader, if it knows one.
    #[default]
    Follower,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Asks to be elected.
    Candidate,
    /// Leads.
    Leader,
}

/// Who leads, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// This node's term.
    pub term: Term,
    /// This node's part in it.
    pub role: Role,
    /// The leader of the term.
    pub leader: Option<NodeId>,
}

/// A read, named by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// A read that may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// Which.
    pub id: ReadId,
    /// The state must contain at least this entry; it does, as far as [`Raft::applied`](crate::Raft::applied) told.
    pub index: LogIndex,
}

/// Where proposals have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The term they were proposed in. If another entry commits at their index, they are lost.
    pub term: Term,
    /// Index of the first.
    pub first: LogIndex,
    /// Index of the last.
    pub last: LogIndex,
}

/// Why nothing was proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalDropped {
    /// This node does not lead.
    #[error("not the leader")]
    NotLeader {
        /// Who may.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over; the next leader will take it.
    #[error("leadership is being transferred to node {to}")]
    Transferring {
        /// To whom.
        to: NodeId,
    },
    /// No single entry may be so large.
    #[error("an entry of {bytes} bytes is over the limit of {max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Too much waits for a quorum.
    #[error("{bytes} bytes of entries wait to be committed")]
    UncommittedFull {
        /// How much.
        bytes: u64,
    },
    /// One change of membership at a time.
    #[error("the configuration at index {index} is not committed and left yet")]
    ChangeInProgress {
        /// Where the change stands.
        index: LogIndex,
    },
    /// The change of membership makes no sense.
    #[error(transparent)]
    BadChange(#[from] crate::ConfigurationError),
}

/// Why a read was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadDropped {
    /// Nobody is known to ask.
    #[error("no leader is known")]
    NoLeader,
    /// Too many reads wait.
    #[error("{0} reads wait already")]
    Full(usize),
}

/// Why leadership is not being transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferRefused {
    /// This node has none to give.
    #[error("not the leader")]
    NotLeader,
    /// Only another voter can take it.
    #[error("node {0} is not another voter")]
    NotAVoter(NodeId),
    /// One at a time.
    #[error("leadership is already being transferred to node {0}")]
    Transferring(NodeId),
}

/// What is wrong with a message. Log, vote and commit index are as they were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It was addressed to another.
    #[error("a message for node {0}")]
    NotForMe(NodeId),
    /// No correct member sends this.
    #[error("a malformed message from node {from}: {what}")]
    Malformed {
        /// Who sent it.
        from: NodeId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It would undo what is committed: sender and receiver are not of one history.
    #[error("node {from} contradicts committed entry {index}")]
    ContradictsCommitted {
        /// Who sent it.
        from: NodeId,
        /// Which entry.
        index: LogIndex,
    },
    /// Two nodes claim one term.
    #[error("node {from} claims to lead term {term}, which another leads")]
    TwoLeaders {
        /// Who claims it too.
        from: NodeId,
        /// The term.
        term: Term,
    },
}

/// The state handed to a node at its start does not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// See [`Config`](crate::Config).
    #[error(transparent)]
    Config(#[from] crate::ConfigError),
    /// Entries between the applied one and the log are nowhere.
    #[error("the log begins after {base}, but the state is applied only up to {applied}")]
    Gap {
        /// Where the log begins.
        base: EntryId,
        /// What is applied.
        applied: EntryId,
    },
    /// A configuration entry of the log cannot be read.
    #[error("the configuration entry at {index}: {error}")]
    BadConfiguration {
        /// Which.
        index: LogIndex,
        /// What is wrong with it.
        error: crate::ConfigurationError,
    },
    /// The store cannot return its own entries.
    #[error("the log cannot be read: {0}")]
    Log(#[from] crate::ReadLogError),
}
