//! Deadlines of many requests, cheapest for what happens nearly always: the request ends long before its deadline.
//!
//! A binary heap of (deadline, id) in which entries are not removed when their request ends, only skipped when they
//! surface. So that dead entries cannot pile up behind distant deadlines, the heap is rebuilt from the live ones
//! when it has doubled: a constant cost per request.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// The heap is rebuilt only above this size, so that a few requests in flight do not rebuild at every turn.
const REBUILD_MIN: usize = 64;

/// A queue of deadlines whose owner says which ids are still alive.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The heap is rebuilt when it would grow beyond this. At least twice what was alive at the last rebuild.
    rebuild_at: usize,
}

impl Deadlines {
    /// Adds `id`; `alive` tells which ids still matter, in case the heap is rebuilt.
    pub(crate) fn insert(&mut self, deadline: Instant, id: u64, alive: impl Fn(u64) -> bool) {
        if self.heap.len() >= self.rebuild_at.max(REBUILD_MIN) {
            self.heap.retain(|Reverse((_, id))| alive(*id));
            self.rebuild_at = self.heap.len() * 2;
        }
        self.heap.push(Reverse((deadline, id)));
    }

    /// The earliest deadline of a live id.
    pub(crate) fn next(&mut self, alive: impl Fn(u64) -> bool) -> Option<Instant> {
        while let Some(Reverse((deadline, id))) = self.heap.peek() {
            if alive(*id) {
                return Some(*deadline);
            }
            self.heap.pop();
        }
        None
    }

    /// Removes and returns a live id whose deadline is `now` or earlier; earliest first.
    pub(crate) fn pop_due(&mut self, now: Instant, alive: impl Fn(u64) -> bool) -> Option<u64> {
        if self.next(alive)? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, id))| id)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn live_ids_come_in_order_and_dead_ones_do_not_pile_up() {
        let start = Instant::now();
        let mut queue = Deadlines::default();
        let mut live = BTreeSet::new();
        for id in 0..100_000u64 {
            live.insert(id);
            queue.insert(start + Duration::from_millis(id), id, |id| live.contains(&id));
            if id >= 10 {
                live.remove(&(id - 10));
            }
            assert!(queue.len() <= REBUILD_MIN, "{} entries for {} live ids", queue.len(), live.len());
        }
        assert_eq!(queue.next(|id| live.contains(&id)), Some(start + Duration::from_millis(99_990)));
        let now = start + Duration::from_millis(99_992);
        let due: Vec<u64> = std::iter::from_fn(|| queue.pop_due(now, |id| live.contains(&id))).collect();
        assert_eq!(due, [99_990, 99_991, 99_992]);
    }
}
