//! The words of the protocol: who, when, where in the log.
//!
//! Everything here is a small plain value. Numbers are newtypes so that a term is never passed for an index; their inner
//! value is public, because a wire codec or a log file has to write it.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use bytes::Bytes;

/// One member of a group. Never reused: a node that lost its disk comes back under another id, since the old one may have
/// voted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// Raft's logical clock. At most one leader exists in each term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A position in the log. The first entry has index 1; 0 stands before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

impl Term {
    /// The term after this one. Terms come from peers; one that cannot grow is refused at the door, so this never wraps.
    pub(crate) fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl LogIndex {
    /// Before the first entry.
    pub const ZERO: LogIndex = LogIndex(0);

    /// The position after this one.
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }

    /// The position before this one; that of 0 is 0.
    pub fn prev(self) -> LogIndex {
        LogIndex(self.0.saturating_sub(1))
    }
}

impl Add<u64> for LogIndex {
    type Output = LogIndex;
    fn add(self, n: u64) -> LogIndex {
        LogIndex(self.0 + n)
    }
}

impl Sub for LogIndex {
    type Output = u64;
    fn sub(self, other: LogIndex) -> u64 {
        self.0 - other.0
    }
}

macro_rules! display_inner {
    ($($name:ident),*) => { $(impl fmt::Display for $name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    })* };
}
display_inner!(NodeId, Term, LogIndex);

/// A place in the log and the term written there: by the log matching property it names the whole prefix that ends there.
///
/// The derived order is (term, index), which is the order "at least as up to date" of an election (paper, section 5.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Term of the entry.
    pub term: Term,
    /// Index of the entry.
    pub index: LogIndex,
}

impl EntryId {
    /// The id of an entry.
    pub fn new(term: Term, index: LogIndex) -> EntryId {
        EntryId { term, index }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A proposal of the application.
    Normal,
    /// The empty entry with which a leader opens its term, so that something of its own term can commit.
    Blank,
    /// A [`Configuration`](crate::Configuration), whole, in its own encoding. In force from the moment it is appended.
    Config,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term of the leader that created it.
    pub term: Term,
    /// Its place.
    pub index: LogIndex,
    /// What it is for.
    pub kind: EntryKind,
    /// The payload: a shared slice, so sending to many followers copies nothing.
    pub data: Bytes,
}

/// Bytes charged for an entry beyond its payload, so that empty entries are not free.
const ENTRY_OVERHEAD_BYTES: u64 = 32;

impl Entry {
    /// Term and index together.
    pub fn id(&self) -> EntryId {
        EntryId::new(self.term, self.index)
    }

    /// What the entry counts for against every limit in bytes.
    pub fn cost_bytes(&self) -> u64 {
        self.data.len() as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// What must survive a crash beside the log itself. The commit index is not part of it: the paper does not need it, and
/// writing it would double the records of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term this node has seen.
    pub term: Term,
    /// Who got this node's vote in that term.
    pub vote: Option<NodeId>,
}

/// A moment on the driver's clock: nanoseconds since an arbitrary epoch.
///
/// The clock must be monotonic and must keep running while the machine sleeps or the process is stopped
/// (`CLOCK_BOOTTIME`), because leases end on it. Sample it *after* reading the input it is handed in with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// Later than any moment.
    pub const FAR_FUTURE: Time = Time(u64::MAX);

    /// A moment, in nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// A moment, in milliseconds.
    pub const fn from_millis(millis: u64) -> Time {
        Time(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}
