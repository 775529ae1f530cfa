//! Rules that a test can have broken, to see that breaking them is noticed. Compiled into tests alone.

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A voter grants its vote to everyone who asks in a term.
    VoteTwice,
    /// A voter does not compare logs.
    VoteForShorterLog,
    /// A granted vote leaves before it is durable.
    VoteBeforePersist,
    /// A follower acknowledges entries before they are durable.
    AckBeforePersist,
    /// A leader counts itself before its own write is durable.
    CountSelfBeforePersist,
    /// A late completion counts for entries that overwrote those it wrote.
    LateWriteCounts,
    /// A leader commits entries of earlier terms by counting.
    CommitOldTerm,
    /// A leader's heartbeat tells its whole commit index, whether or not the follower's log is known to equal its own so far.
    CommitUnverified,
    /// A follower takes entries without looking at the one before them.
    SkipPrevCheck,
    /// A follower cuts its log after the entries of every append, old ones too.
    TruncateAlways,
    /// A joint configuration decides by the new voters alone.
    IgnoreOutgoing,
    /// A joint configuration decides by the old voters alone.
    IgnoreIncoming,
    /// A change of membership starts while another is under way.
    ChangeDuringChange,
    /// A configuration stays in force when its entry is overwritten.
    KeepOverwrittenConfiguration,
    /// A leader serves reads under a lease that has ended.
    ReadAfterLease,
    /// A leader takes its lease as long as the voters' promise, clocks be as they may.
    LeaseWithoutDrift,
    /// A leader keeps its lease while it hands leadership over.
    LeaseDuringTransfer,
    /// A voter lets itself be released by a handover the leader has taken back.
    StaleHandover,
    /// A voter that hears from a leader votes for others anyway.
    VoteDuringPromise,
    /// A voter that restarted votes at once.
    VoteAfterRestart,
    /// A leader serves reads before an entry of its term is committed.
    ReadBeforeTermEntry,
    /// A leader confirms a read by answers to a round that began before the read came.
    ReadByOldRound,
    /// A follower takes any answer to a read for one to its own.
    ReadByOldContext,
}

impl Bug {
    pub(crate) const ALL: [Bug; 23] = [
        Bug::VoteTwice,
        Bug::VoteForShorterLog,
        Bug::VoteBeforePersist,
        Bug::AckBeforePersist,
        Bug::CountSelfBeforePersist,
        Bug::LateWriteCounts,
        Bug::CommitOldTerm,
        Bug::CommitUnverified,
        Bug::SkipPrevCheck,
        Bug::TruncateAlways,
        Bug::IgnoreOutgoing,
        Bug::IgnoreIncoming,
        Bug::ChangeDuringChange,
        Bug::KeepOverwrittenConfiguration,
        Bug::ReadAfterLease,
        Bug::LeaseWithoutDrift,
        Bug::LeaseDuringTransfer,
        Bug::StaleHandover,
        Bug::VoteDuringPromise,
        Bug::VoteAfterRestart,
        Bug::ReadBeforeTermEntry,
        Bug::ReadByOldRound,
        Bug::ReadByOldContext,
    ];

    /// A seed at, or soon after, which the explorer catches it. When the explorer changes, other seeds do.
    pub(crate) fn seed(self) -> u64 {
        match self {
            Bug::VoteBeforePersist => 6380,
            Bug::CommitOldTerm => 25315,
            Bug::ChangeDuringChange => 2936,
            Bug::KeepOverwrittenConfiguration => 145,
            Bug::LeaseWithoutDrift => 2346,
            Bug::StaleHandover => 4528,
            Bug::VoteDuringPromise => 385,
            Bug::VoteAfterRestart => 2144,
            _ => 0,
        }
    }
}
