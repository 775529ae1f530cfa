//! [`Overlay`]: the effects that are logged, or about to be, but not yet applied to the engine.
//!
//! Commands are evaluated over the engine *and* the overlay, so that a command sees the ones logged before it although
//! none of them is on disk yet. Once an entry is applied, its effects are in the engine and leave the overlay.

use bytes::Bytes;
use dstore_storage::{Direction, LogIndex, WriteOp};

use crate::keyed::{Bounds, Keyed};

/// Effects on top of an engine, newest per key.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    /// Newest effect on each key. Always newer than every tombstone in `ranges` that covers the key.
    keys: Keyed<Slot>,
    /// Ranges that were deleted: nothing of the engine shows through.
    ranges: Vec<Tombstone>,
}

#[derive(Debug)]
struct Slot {
    /// `None`: deleted.
    value: Option<Bytes>,
    /// The entry that did it.
    index: LogIndex,
    /// Where among the operations of that entry.
    position: usize,
}

#[derive(Debug)]
struct Tombstone {
    start: Bytes,
    end: Bytes,
    index: LogIndex,
}

/// What the overlay says of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Covered<'a> {
    /// This is its value.
    Value(&'a Bytes),
    /// It is deleted.
    Deleted,
    /// Nothing: the engine's value counts.
    Open,
}

impl Overlay {
    /// Whether nothing is waiting to be applied.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }

    /// What is known of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Covered<'_> {
        match self.keys.get(key) {
            Some(Slot { value: Some(value), .. }) => Covered::Value(value),
            Some(Slot { value: None, .. }) => Covered::Deleted,
            None if self.hides(key) => Covered::Deleted,
            None => Covered::Open,
        }
    }

    /// Whether a deleted range hides the engine's value of `key`.
    pub(crate) fn hides(&self, key: &[u8]) -> bool {
        self.ranges.iter().any(|range| range.start <= key && key < &range.end[..])
    }

    /// The first effect on a key within these bounds, or the last for a scan backwards.
    pub(crate) fn nearest(&self, bounds: Bounds<'_>, direction: Direction) -> Option<(&Bytes, Option<&Bytes>)> {
        let (key, slot) = self.keys.nearest(bounds, direction)?;
        Some((key, slot.value.as_ref()))
    }

    /// Adds `op` as operation `position` of entry `index`; or, where an earlier operation of the same entry is on the
    /// same key, with nothing in between that their order could matter to, says that it stands in that one's place.
    pub(crate) fn add(&mut self, op: &WriteOp, index: LogIndex, position: usize) -> Option<usize> {
        let (key, value) = match op {
            WriteOp::Put { key, value } => (key, Some(value.clone())),
            WriteOp::Delete { key } => (key, None),
            WriteOp::DeleteRange { start, end } => {
                self.keys.retain(|key| key < &start[..] || key >= &end[..]);
                self.ranges.push(Tombstone { start: start.clone(), end: end.clone(), index });
                return None;
            }
        };
        let slot = self.keys.get_or_insert(key, Slot { value: None, index, position });
        slot.value = value;
        if slot.index != index {
            (slot.index, slot.position) = (index, position);
        }
        // A key that a range delete covers has left `keys`, so no range delete lies between the two operations.
        (slot.position != position).then_some(slot.position)
    }

    /// What entry `from` was to do, entry `to` does: another took its place in the log before it was there.
    pub(crate) fn move_entry(&mut self, from: LogIndex, to: LogIndex) {
        let slots = self.keys.values_mut().map(|slot| &mut slot.index);
        let all = slots.chain(self.ranges.iter_mut().map(|range| &mut range.index));
        all.filter(|index| **index == from).for_each(|index| *index = to);
    }

    /// Forgets entry `index`, whose operations were `ops`: the engine has them now.
    pub(crate) fn applied(&mut self, index: LogIndex, ops: &[WriteOp]) {
        for op in ops {
            match op {
                WriteOp::Put { key, .. } | WriteOp::Delete { key } => {
                    self.keys.remove_if(key, |slot| slot.index == index);
                }
                WriteOp::DeleteRange { .. } => self.ranges.retain(|range| range.index != index),
            }
        }
    }
}
