//! Bugs that a test can plant, to see whether the simulator finds them. Compiled in only with the feature `planted`,
//! which nothing but the simulator's own turns on.

/// A rule to be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Outcomes leave as soon as they are known, not when their entry is committed.
    AnswerBeforeCommit,
    /// Outcomes leave when anything is applied, whatever they wait for.
    AnswerBeforeDurable,
    /// Reads are answered from the applied state by whoever believes to lead, lease or not.
    ReadWithoutLease,
    /// A batch that comes again is executed again.
    ForgetRequests,
    /// A local batch whose entry was committed after leadership was lost is executed again.
    RetryCommitted,
    /// The clock is read before the input is waited for, and not after: so it may be from before a pause. The driver's
    /// bug, not the core's; the simulator has it in its own.
    ReadByOldClock,
    /// Reads see what is logged and not committed.
    ReadUncommitted,
    /// A leader that steps down keeps its overlay.
    KeepOverlay,
    /// The commands of a batch take effect last to first.
    ReorderConnection,
    /// A batch that may have been executed elsewhere is said not to have been.
    CallUncertainNotExecuted,
    /// A copy of a request that a newer one has overtaken is executed.
    AcceptStale,
    /// A batch that is given up leaves its numbers to the next one.
    ReuseNumbers,
    /// WATCH remembers what is logged, also where a read beside it sees what is applied.
    WatchAhead,
    /// A write is reported durable to consensus when it is submitted.
    DurableWhenSubmitted,
}

impl Planted {
    /// Every bug.
    pub const ALL: [Planted; 14] = [
        Planted::AnswerBeforeCommit,
        Planted::AnswerBeforeDurable,
        Planted::ReadWithoutLease,
        Planted::ForgetRequests,
        Planted::RetryCommitted,
        Planted::ReadByOldClock,
        Planted::ReadUncommitted,
        Planted::KeepOverlay,
        Planted::ReorderConnection,
        Planted::CallUncertainNotExecuted,
        Planted::AcceptStale,
        Planted::ReuseNumbers,
        Planted::WatchAhead,
        Planted::DurableWhenSubmitted,
    ];
}
