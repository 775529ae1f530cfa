//! What members say to each other.
//!
//! Plain structs: how they become bytes is the transport's affair. The network may lose, duplicate, delay and reorder them;
//! nothing here relies on more than that a message, if it arrives, arrives whole and from who it says.

use std::fmt;

use crate::{Configuration, Entry, EntryId, LogIndex, NodeId, Term};

/// One message of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sends it.
    pub from: NodeId,
    /// Who is to have it.
    pub to: NodeId,
    /// The sender's term; in a pre-vote and in its granted answer, the term the candidate *would* enter.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// "Would you vote for me?" Changes nothing at the voter (dissertation, section 9.6).
    PreVote {
        /// Last entry of the asker's log.
        last: EntryId,
    },
    /// The answer to [`Body::PreVote`].
    PreVoteReply {
        /// Whether the voter would.
        granted: bool,
    },
    /// "Vote for me" (paper, section 5.2).
    Vote {
        /// Last entry of the candidate's log, durable at the candidate.
        last: EntryId,
        /// Present if the old leader asked for this election; it releases voters from their lease.
        handover: Option<Handover>,
    },
    /// The answer to [`Body::Vote`].
    VoteReply {
        /// Whether the vote is the candidate's; if so it is durable.
        granted: bool,
    },
    /// Entries that follow `prev` (paper, section 5.3). None of them is a probe.
    Append {
        /// The entry just before the first of `entries`.
        prev: EntryId,
        /// Contiguous, from `prev.index + 1`.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: LogIndex,
    },
    /// The log up to `matched` is durable here and equals the leader's.
    AppendAccepted {
        /// How far.
        matched: LogIndex,
    },
    /// The entry before those sent is not in this log.
    AppendRejected {
        /// Index of the `prev` that was not found.
        rejected: LogIndex,
        /// The last entry that could be common: everything above it is longer, or of a later term, than the leader's log
        /// can agree with. Lets the leader skip a whole term at once.
        hint: EntryId,
    },
    /// The leader's commit index has moved. One-way.
    Commit {
        /// Where to. The receiver goes no further than it knows its log to equal the leader's.
        commit: LogIndex,
    },
    /// "I am still the leader."
    Heartbeat {
        /// Number of this round of heartbeats, growing within a term. Leases and read indexes count answers by it.
        round: u64,
        /// The leader's commit index, as far as the receiver is known to have the leader's log. So one that restarted
        /// learns what is committed without being sent an entry.
        commit: LogIndex,
    },
    /// The answer to [`Body::Heartbeat`].
    HeartbeatReply {
        /// The round answered.
        round: u64,
    },
    /// The sender has produced a snapshot for the receiver; the transport carries its data along and hands this over only
    /// once all of it has arrived.
    Snapshot(Box<SnapshotMeta>),
    /// "I am at a later term than you." The answer to a leader who does not know it is one no more.
    Outdated,
    /// "Stand for election now": the last step of a leadership transfer.
    TimeoutNow {
        /// The leader's newest heartbeat round when it gave up its lease.
        round: u64,
    },
    /// A follower asks from which index its waiting reads may be served.
    ReadIndex {
        /// Names the follower's incarnation and batch of reads; echoed.
        context: ReadContext,
    },
    /// The answer to [`Body::ReadIndex`].
    ReadIndexReply {
        /// As asked.
        context: ReadContext,
        /// The reads may be served by whoever has applied this far.
        index: LogIndex,
    },
}

/// Permission to stand against a living leader, given by that leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handover {
    /// The term of the leader who gave it.
    pub term: Term,
    /// Its newest heartbeat round when it gave up its lease. A voter that has heard a later one, from this leader or from a
    /// later term, is bound by it: the leader has changed its mind since.
    pub round: u64,
}

/// Names a batch of a follower's reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadContext {
    /// Drawn from the seed at start, so an answer to an earlier life of the follower is not taken for one to this.
    pub incarnation: u64,
    /// Number of the batch.
    pub batch: u64,
}

/// What a snapshot stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry contained.
    pub last: EntryId,
    /// The configuration in force at that entry.
    pub configuration: Configuration,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{} t{} {}", self.from, self.to, self.term, self.body)
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::PreVote { last } => write!(f, "PreVote last={last}"),
            Body::PreVoteReply { granted } => write!(f, "PreVoteReply {}", yes(*granted)),
            Body::Vote { last, handover: None } => write!(f, "Vote last={last}"),
            Body::Vote { last, handover: Some(h) } => write!(f, "Vote last={last} handover={}/{}", h.term, h.round),
            Body::VoteReply { granted } => write!(f, "VoteReply {}", yes(*granted)),
            Body::Append { prev, entries, commit } => {
                write!(f, "Append prev={prev} entries=[")?;
                for (i, e) in entries.iter().enumerate() {
                    write!(f, "{}{}", if i > 0 { " " } else { "" }, e.id())?;
                }
                write!(f, "] commit={commit}")
            }
            Body::AppendAccepted { matched } => write!(f, "AppendAccepted matched={matched}"),
            Body::AppendRejected { rejected, hint } => write!(f, "AppendRejected rejected={rejected} hint={hint}"),
            Body::Commit { commit } => write!(f, "Commit {commit}"),
            Body::Heartbeat { round, commit } => write!(f, "Heartbeat round={round} commit={commit}"),
            Body::HeartbeatReply { round } => write!(f, "HeartbeatReply round={round}"),
            Body::Snapshot(meta) => write!(f, "Snapshot last={} {}", meta.last, meta.configuration),
            Body::Outdated => write!(f, "Outdated"),
            Body::TimeoutNow { round } => write!(f, "TimeoutNow round={round}"),
            Body::ReadIndex { context } => write!(f, "ReadIndex batch={}", context.batch),
            Body::ReadIndexReply { context, index } => {
                write!(f, "ReadIndexReply batch={} index={index}", context.batch)
            }
        }
    }
}

fn yes(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}
