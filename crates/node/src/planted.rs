//! Bugs that a test can plant, to see whether the simulator finds them. Compiled in only with the feature `planted`,
//! which nothing but the simulator's own turns on.

use bytes::Bytes;
use dstore_resp::CommandSpec;
use dstore_storage::layout::{Head, Stamp, chunk, key, local, tag};
use dstore_storage::{RangeId, WriteOp};

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
    /// A write whose sync failed counts as durable. The driver's bug, not the core's; the simulator has it in its own.
    IgnoreFailedSync,
    /// The log is cut up to where it is durable, whether the data is or not.
    CutAheadOfData,
    /// The log begins anew behind a snapshot without waiting for the data to be in.
    LogBeforeData,
    /// What a replica remembers of its state is kept although a snapshot has replaced that.
    KeepReplica,
    /// Records that were read before are not read again although a snapshot has replaced them.
    KeepCache,
    /// A snapshot is said to be as far as the data is on disk, and not as far as what is sent.
    SnapshotAtFlushed,
    /// What a range remembers of requests is not sent along with a snapshot.
    RequestsStayBehind,
    /// A follower's wish for a snapshot is dropped if its leader does not serve yet.
    DropSnapshotWish,
    /// The effects of the open entry stay where they were when consensus logs an entry of its own before it.
    KeepPlaceOfOpenEntry,
    /// A removed node goes when it hears of it, needed or not.
    LeaveAtOnce,
    /// A key is told to have expired by the clock alone: the log does not get the time.
    ExpiredByClockAlone,
    /// What a block has done before it met something that is not in memory stays in the open entry.
    KeepHalfBlock,
    /// Reads over frozen data miss what has gathered on its way into the engine.
    FreezeWithoutGathered,
    /// INCR evaluates over the applied state, and so misses what is logged and not applied.
    StaleIncrement,
    /// KV.RANGE within a block misses what is logged and not applied.
    StaleRange,
    /// The overlay does not hide what a range that is removed held.
    MissDeletedRange,
    /// Records that were read are not read again although a range that held them was removed.
    KeepDeletedRange,
    /// WATCH does not see that a key expires.
    WatchMissesExpiry,
    /// A block's commands get an entry each.
    SplitBlock,
    /// The term and the vote are not written to the log.
    ForgetTerm,
    /// What expires is removed a second early.
    SweepEarly,
    /// A long value that is changed in part keeps its chunks, and gives them to the sweep all the same.
    SweepLiving,
    /// The chunks that a command leaves behind are not named to the sweep.
    OrphansUnnamed,
    /// A key that is to get another deadline, or none, keeps the one that it has.
    KeepDeadline,
    /// A frame of the log that a power loss tore is taken for whole. The log's bug; the simulator has it in its own.
    TrustTornFrame,
    /// A block of the data is not checked when it is read. The engine's bug; the simulator has it in its own.
    TrustRottenBlock,
    /// A node whose disk was lost comes back under its old id. Its user's bug; the simulator's operator has it.
    SameIdOnNewDisk,
}

impl Planted {
    /// Every bug.
    pub const ALL: [Planted; 41] = [
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
        Planted::IgnoreFailedSync,
        Planted::CutAheadOfData,
        Planted::LogBeforeData,
        Planted::KeepReplica,
        Planted::KeepCache,
        Planted::SnapshotAtFlushed,
        Planted::RequestsStayBehind,
        Planted::DropSnapshotWish,
        Planted::KeepPlaceOfOpenEntry,
        Planted::LeaveAtOnce,
        Planted::SameIdOnNewDisk,
        Planted::ExpiredByClockAlone,
        Planted::KeepHalfBlock,
        Planted::FreezeWithoutGathered,
        Planted::StaleIncrement,
        Planted::StaleRange,
        Planted::MissDeletedRange,
        Planted::KeepDeletedRange,
        Planted::WatchMissesExpiry,
        Planted::SplitBlock,
        Planted::ForgetTerm,
        Planted::SweepEarly,
        Planted::SweepLiving,
        Planted::OrphansUnnamed,
        Planted::KeepDeadline,
        Planted::TrustTornFrame,
        Planted::TrustRottenBlock,
    ];
    /// Breaks what it is about in the effects of a command.
    pub(crate) fn spoil(self, range: RangeId, stamp: Stamp, spec: &CommandSpec, effects: &mut Vec<WriteOp>) {
        match self {
            Planted::SweepLiving => {
                let wrong: Vec<WriteOp> = effects.iter().filter_map(|op| living(range, stamp, op)).collect();
                effects.extend(wrong);
            }
            Planted::OrphansUnnamed => effects.retain(|op| !names_orphans(op)),
            Planted::KeepDeadline if matches!(spec.full_name, "persist" | "pexpire" | "pexpireat" | "getex") => {
                effects.clear();
            }
            _ => {}
        }
    }
}

/// Gives the chunks of a value that was changed in part to the sweep.
fn living(range: RangeId, stamp: Stamp, op: &WriteOp) -> Option<WriteOp> {
    let WriteOp::Put { key, value } = op else { return None };
    let head =
        Some(key).filter(|key| key.first() == Some(&tag::USER) && key::decode(key).is_ok_and(|k| k.sub.is_empty()));
    let head = head.and_then(|_| Head::decode(value).ok()).filter(|head| head.chunked.is_some())?;
    let generation = head.generation.filter(|generation| *generation != head.version)?;
    let key = local::expiry_key(range, stamp.ms() + 1, &chunk::orphans(key, generation));
    Some(WriteOp::Put { key, value: Bytes::new() })
}

fn names_orphans(op: &WriteOp) -> bool {
    let WriteOp::Put { key, .. } = op else { return false };
    let named = local::decode_expiry(key).and_then(|(_, data_key)| key::decode(data_key).ok());
    named.is_some_and(|decoded| !decoded.sub.is_empty())
}
