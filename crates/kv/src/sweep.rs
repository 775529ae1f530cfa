//! The sweep: how the space of expired keys, and of chunks that nobody needs any more, comes back unasked.
//!
//! The leader asks [`next_deadline`] when to sweep, and at that time evaluates [`sweep`] and logs its effects, as it
//! does with any command's. Nothing else removes expired keys: they are invisible at once, and gone soon after.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use dstore_storage::layout::{Stamp, chunk, key, local};
use dstore_storage::{Direction, RangeId, WriteOp};

use crate::evaluation::{changed_count, orphaned};
use crate::value::Record;
use crate::view::{CorruptReason, View, ViewError};

/// What a sweep came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Sweep {
    /// Removes due index records, the keys among them that have expired, and the chunks that they name as orphans. Empty
    /// if nothing was due.
    pub effects: Vec<WriteOp>,
    /// How many keys that removes.
    pub keys_removed: u64,
    /// Where the next sweep may begin: no index record is due before. See [`sweep`].
    pub resume_ms: u64,
    /// The bound was met: there may be more that is due. Sweep again.
    pub more: bool,
}

/// Finds up to `index_records_max` due records of the expiry index, and what must go with them, as of an entry at
/// `stamp`. An orphaned chunk counts as much as an index record: a long string is removed in several sweeps.
///
/// `from_ms` spares the walk over the engine's tombstones of earlier sweeps; 0 is always right. So is the `resume_ms` of
/// the sweep before, once its effects are in an entry with this stamp: a command only sets deadlines beyond its own
/// stamp, and no stamp after this one is lower. A leader that steps down forgets it, for its entry may be lost.
///
/// # Errors
/// If the view fails.
pub fn sweep(
    view: &dyn View,
    range: RangeId,
    stamp: Stamp,
    from_ms: u64,
    index_records_max: usize,
) -> Result<Sweep, ViewError> {
    let now_ms = stamp.ms();
    let mut due: Vec<(u64, Bytes)> = Vec::new();
    let mut more = false;
    walk_index(view, range, from_ms, now_ms + 1, &mut |deadline_ms, data_key| {
        if due.len() == index_records_max {
            more = true;
            return ControlFlow::Break(());
        }
        due.push((deadline_ms, Bytes::copy_from_slice(data_key)));
        ControlFlow::Continue(())
    })?;

    let nothing_due = due.is_empty();
    let mut removal =
        Removal { view, range, stamp, effects: Vec::new(), removed: BTreeMap::new(), room: index_records_max };
    // Nothing to log, so nothing that keeps the next stamp, and a deadline it sets, above this one.
    let mut resume_ms = if nothing_due { from_ms } else { now_ms + 1 };
    for (deadline_ms, data_key) in due {
        if more {
            resume_ms = deadline_ms;
        }
        if !removal.remove(deadline_ms, data_key)? {
            (more, resume_ms) = (true, deadline_ms);
            break;
        }
    }
    let Removal { mut effects, removed, .. } = removal;
    for (db, keys) in &removed {
        effects.push(changed_count(view, local::count_key(range, *db), -keys)?);
    }
    let keys_removed = removed.values().sum::<i64>().unsigned_abs();
    Ok(Sweep { effects, keys_removed, resume_ms, more })
}

/// What a sweep removes.
struct Removal<'a> {
    view: &'a dyn View,
    range: RangeId,
    stamp: Stamp,
    effects: Vec<WriteOp>,
    /// Databases, and the keys that go.
    removed: BTreeMap<u8, i64>,
    /// How many more index records and chunks may go.
    room: usize,
}

impl Removal<'_> {
    /// Removes an index record that is due, and what it names. False if there was no room for all of that: then the index
    /// record stays.
    fn remove(&mut self, deadline_ms: u64, data_key: Bytes) -> Result<bool, ViewError> {
        let index_key = local::expiry_key(self.range, deadline_ms, &data_key);
        let decoded = key::decode(&data_key).map_err(|error| ViewError::corrupt(&data_key, error))?;
        if !decoded.sub.is_empty() {
            if chunk::decode_orphans(decoded.sub).is_none() {
                return Err(ViewError::corrupt(&index_key, CorruptReason::ExpiryIndex));
            }
            self.remove_chunks(&data_key)?;
        }
        let Some(room) = self.room.checked_sub(1) else {
            return Ok(false);
        };
        self.room = room;
        self.effects.push(WriteOp::Delete { key: index_key });
        if !decoded.sub.is_empty() {
            return Ok(true);
        }
        // The index is advisory, the head decides. One with another deadline has another record in the index, and if
        // that is due too, it removes the key: no key is removed twice in one sweep.
        if let Some(record) = Record::get(self.view, &data_key)?
            && record.head.expires_at_ms == Some(deadline_ms)
        {
            *self.removed.entry(decoded.db).or_default() += 1;
            self.effects.extend(orphaned(self.range, self.stamp, &data_key, &record.head));
            self.effects.push(WriteOp::Delete { key: data_key });
        }
        Ok(true)
    }

    /// Removes the chunks that `orphans` names, as far as there is room. If that is all of them, some room is left.
    fn remove_chunks(&mut self, orphans: &[u8]) -> Result<(), ViewError> {
        let span = chunk::whole_span(orphans);
        let (room, effects) = (&mut self.room, &mut self.effects);
        self.view.scan(&span.start..&span.end, Direction::Forward, &mut |chunk_key, _| {
            if *room == 0 {
                return ControlFlow::Break(());
            }
            *room -= 1;
            effects.push(WriteOp::Delete { key: Bytes::copy_from_slice(chunk_key) });
            ControlFlow::Continue(())
        })
    }
}

/// The earliest deadline in the expiry index at or after `from_ms` (see [`sweep`]), if there is any.
///
/// # Errors
/// If the view fails.
pub fn next_deadline(view: &dyn View, range: RangeId, from_ms: u64) -> Result<Option<u64>, ViewError> {
    let mut first = None;
    walk_index(view, range, from_ms, u64::MAX, &mut |deadline_ms, _| {
        first = Some(deadline_ms);
        ControlFlow::Break(())
    })?;
    Ok(first)
}

/// Visits the index records with deadlines in `from_ms..to_ms`, in order of time. (Deadlines are signed integers, so
/// none is `u64::MAX`.)
fn walk_index(
    view: &dyn View,
    range: RangeId,
    from_ms: u64,
    to_ms: u64,
    visit: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> Result<(), ViewError> {
    let start = local::expiry_bound(range, from_ms);
    let end = local::expiry_bound(range, to_ms);
    if start >= end {
        return Ok(());
    }
    let mut bad = None;
    view.scan(&start..&end, Direction::Forward, &mut |key, _| match local::decode_expiry(key) {
        Some((deadline_ms, data_key)) => visit(deadline_ms, data_key),
        None => {
            bad = Some(ViewError::corrupt(key, CorruptReason::ExpiryIndex));
            ControlFlow::Break(())
        }
    })?;
    bad.map_or(Ok(()), Err)
}
