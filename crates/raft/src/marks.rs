//! Marks: places in the code of which the simulator wants to know whether any of its runs comes by. Compiled in only with the
//! feature `marks`; otherwise a mark is nothing.
//!
//! A place is marked by `mark!(Name)`, and named in its crate's list with what happens there. Whoever runs a seed takes what was
//! reached by [`take`]; what is reached is noted by thread, for a seed is one thread's.

use std::cell::RefCell;
use std::collections::BTreeSet;

thread_local! {
    static REACHED: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
}

/// A marked place was reached.
pub fn reach(name: &'static str) {
    REACHED.with(|reached| {
        reached.borrow_mut().insert(name);
    });
}

/// What this thread has reached since this was last asked.
#[must_use]
pub fn take() -> BTreeSet<&'static str> {
    REACHED.with(|reached| std::mem::take(&mut *reached.borrow_mut()))
}

/// Makes a crate's list of marks: the enumeration `Mark`, and `MARKS` with what happens at each.
#[macro_export]
macro_rules! list_marks {
    ($($name:ident => $what:literal,)*) => {
        /// A marked place.
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Mark {
            $(#[doc = $what] $name,)*
        }

        /// All marked places of this crate, and what happens there.
        pub const MARKS: &[(&str, &str)] = &[$((stringify!($name), $what),)*];

        impl Mark {
            /// It was reached.
            pub(crate) fn reach(self) {
                $crate::marks::reach(MARKS[self as usize].0);
            }
        }
    };
}

list_marks! {
    PreVoteLost => "a candidate gives up, because a quorum says no",
    PreVoteRefusedForLog => "a vote is refused to one whose log is behind",
    VoteBoundByLease => "a vote is refused because a leader may be alive",
    VoteBoundAfterRestart => "a vote is refused because this node has just restarted",
    VoteAlreadyGiven => "a vote is refused because it was given to another",
    HandoverTakenBack => "a handover is not followed, because it was taken back",
    HandoverAborted => "a leader gives up handing over, and leads on",
    LeaderLosesQuorum => "a leader steps down because it hears of no quorum",
    LeaderDeposed => "a leader hears of a later term",
    LeaderLinkLost => "the connection to the leader is lost, and the follower does not wait for its timeout",
    AppendBehindCommit => "an append begins before what is committed",
    AppendRejected => "an append does not fit the log",
    ConflictTruncated => "entries that contradict the leader's are dropped",
    ConfigurationTruncated => "a configuration is dropped with its entry",
    OldTermNotCounted => "entries of an earlier term are with a quorum, and not committed for that",
    JointLeft => "a joint configuration is committed, and left",
    LeaderRetires => "a leader has committed a configuration without itself",
    ElectableByUncommitted => "one stands for election by a configuration that is not committed",
    SnapshotWanted => "a follower needs what the log does not hold any more",
    SnapshotFailed => "a snapshot could not be sent",
    SnapshotOutOfDate => "a snapshot that came is behind what is committed",
    SnapshotAccepted => "a snapshot that came is taken",
    LogNotReadable => "entries have to be read from the disk first",
    ReadWaitsForTerm => "a read waits until an entry of the leader's term is committed",
    ReadByRound => "a read is confirmed by a round of heartbeats",
    ReadOfFollower => "a follower asks for the index to read at",
    ReadsDropped => "reads are dropped because the leader has changed",
}
