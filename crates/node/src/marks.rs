//! The marked places of this crate; see [`dstore_raft::marks`].

pub use dstore_raft::marks::take;

dstore_raft::list_marks! {
    BatchToldUncertain => "a batch's time is up, and nobody knows whether it was executed",
    BatchToldNotExecuted => "a batch's time is up, and it certainly was not executed",
    BatchInDoubtAtOnce => "a batch is known to be of unknown outcome before its time is up",
    BatchRerouted => "a batch goes to another leader because there is one",
    BatchRemembered => "a batch comes again, and is answered from what is remembered",
    BatchForgotten => "a batch comes again, and its replies were too large to be remembered",
    BatchOvertaken => "a batch comes behind one of its connection that is newer",
    GatewayOvertaken => "a request comes from an earlier life of its gateway",
    GatewayRestarted => "a gateway is in a new life, and what its last one had executed is forgotten",
    ForgottenConnections => "what closed connections had executed is forgotten",
    ReadWithoutLease => "a read finds that the lease does not hold, and is confirmed by others",
    ReadNeedsTime => "a read finds a deadline passed by the clock alone, and goes through the log",
    ReadHandedBack => "a read is dropped by consensus, and tried elsewhere",
    WatchedKeyChanged => "EXEC finds a watched key changed",
    WatchedKeyExpired => "EXEC finds a watched key gone",
    ResolvedCommitted => "what was logged before leadership was lost turns out to be committed",
    ResolvedGone => "what was logged before leadership was lost turns out to be gone",
    ResolvedUnknown => "what was logged before leadership was lost is cut off, and nobody can tell",
    StepDownDropsEntries => "a leader steps down with entries that were never committed",
    OwnEntryBeforeOpen => "consensus logs an entry of its own while commands have one open",
    EngineBusy => "a busy engine puts off what is committed",
    SweepRemoves => "keys are removed because they have expired",
    CheckOfReplicas => "replicas are compared at an entry",
    LogCut => "the log is cut",
    LogCutPastFollower => "the log is cut although a follower has not got it",
    LogJoinsData => "after a crash the log begins anew where the data is",
    SnapshotRefusedBusy => "a snapshot is refused while another is let in",
    SnapshotRefusedFull => "a snapshot is refused for want of room",
    SnapshotUnwanted => "a snapshot has come whole, and consensus does not want it any more",
    SnapshotInstalled => "a snapshot has replaced the data",
    WritesHeldBack => "writes to the log wait until a snapshot is in",
    DiskStalled => "the disk stands still",
    GivenAwayForDisk => "leadership is handed away because of the disk",
    GrowthRefused => "growth is refused",
    RemovalsAloneTaken => "everything but removals is refused",
    AppendNotTakenIn => "a follower with a full disk does not take entries in",
    LogDamaged => "the log does not give back what was written",
    RemovalRefused => "the removal of a node that cannot be spared is refused",
    MovedNodeHeard => "a node says that it is somewhere else",
    ToldOfOwnRemoval => "a node hears that all ranges have let it go",
    UnknownMessage => "a message comes that this version does not know",
    UnknownCall => "a call comes that this version does not know",
}

/// The marked places of the core and of consensus, and what happens there.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    MARKS.iter().chain(dstore_raft::marks::MARKS).copied()
}
