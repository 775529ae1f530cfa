//! Timers on an indexed 4-ary heap.
//!
//! For the event loop, and for anyone who needs many deadlines and the earliest of them. Every live timer knows its own
//! place in the heap, so moving or removing *any* timer is O(log n) and no dead entries pile up.
//!
//! Four children instead of two: half the levels, and the four siblings that a step down compares share a cache line
//! (an entry is 16 bytes). Inserting a deadline later than most (the usual timeout) compares once or twice and stops.
//!
//! Invariants: `heap[slots[s].place].slot == s` for every live slot `s`; no entry fires before its parent. Ties fire in
//! the order in which the timers were last armed ([`Timers::insert`] or [`Timers::update`]).
//!
//! Pure: the clock is the caller's. Deadlines are kept as nanoseconds since the `origin` given at the start (584 years
//! fit). Time never goes back: a deadline before the latest `now` that [`Timers::pop_due`] saw counts as that `now`, so
//! it is due, but behind everything that was due already.

use std::time::{Duration, Instant};

const ARITY: usize = 4;
/// `Slot::place` of a slot that holds no timer.
const FREE: u32 = u32::MAX;

/// Names one timer for as long as it is armed. Once the timer has fired or was removed the id is stale, and every
/// operation with it answers `false` or `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId {
    slot: u32,
    generation: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    deadline_ns: u64,
    slot: u32,
}

struct Slot<T> {
    /// Order of arming; decides between equal deadlines.
    sequence: u64,
    /// Index in `heap`, or `FREE`.
    place: u32,
    /// Grows each time the slot is emptied, so that old ids go stale.
    generation: u32,
    payload: Option<T>,
}

/// A set of deadlines, each with a payload that comes out when it is due.
pub struct Timers<T> {
    origin: Instant,
    heap: Vec<Entry>,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    sequence: u64,
    /// The latest `now` seen. No armed timer has an earlier deadline unless it was armed before.
    floor_ns: u64,
}

impl<T> Timers<T> {
    /// An empty set; `origin` is any instant at or before the first deadline.
    pub fn new(origin: Instant) -> Self {
        Timers { origin, heap: Vec::new(), slots: Vec::new(), free: Vec::new(), sequence: 0, floor_ns: 0 }
    }

    /// Number of armed timers.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Arms a timer.
    ///
    /// # Panics
    /// If four billion timers are armed at once.
    pub fn insert(&mut self, deadline: Instant, payload: T) -> TimerId {
        let sequence = self.next_sequence();
        let place = u32::try_from(self.heap.len()).expect("fewer than 2^32 timers");
        let slot = match self.free.pop() {
            Some(slot) => {
                let entry = &mut self.slots[slot as usize];
                entry.sequence = sequence;
                entry.place = place;
                entry.payload = Some(payload);
                slot
            }
            None => {
                let slot = u32::try_from(self.slots.len()).expect("fewer than 2^32 timers");
                assert!(slot != FREE, "fewer than 2^32 - 1 timers");
                self.slots.push(Slot { sequence, place, generation: 0, payload: Some(payload) });
                slot
            }
        };
        let entry = Entry { deadline_ns: self.nanoseconds(deadline).max(self.floor_ns), slot };
        self.heap.push(entry);
        self.sift_up(place as usize, entry);
        TimerId { slot, generation: self.slots[slot as usize].generation }
    }

    /// Moves an armed timer to another deadline. `false` if the id is stale.
    pub fn update(&mut self, id: TimerId, deadline: Instant) -> bool {
        let Some(place) = self.place(id) else { return false };
        self.slots[id.slot as usize].sequence = self.next_sequence();
        let entry = Entry { deadline_ns: self.nanoseconds(deadline).max(self.floor_ns), slot: id.slot };
        self.settle(place, entry);
        true
    }

    /// Disarms a timer and hands its payload back. `None` if the id is stale.
    pub fn remove(&mut self, id: TimerId) -> Option<T> {
        let place = self.place(id)?;
        self.remove_at(place)
    }

    /// The payload of an armed timer.
    pub fn get(&self, id: TimerId) -> Option<&T> {
        self.place(id)?;
        self.slots[id.slot as usize].payload.as_ref()
    }

    /// The deadline of an armed timer.
    pub fn deadline(&self, id: TimerId) -> Option<Instant> {
        self.place(id).map(|place| self.instant(self.heap[place].deadline_ns))
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.heap.first().map(|entry| self.instant(entry.deadline_ns))
    }

    /// A mark for [`Timers::pop_due`]: timers armed from here on are not among the ones due "before the mark".
    pub fn mark(&self) -> u64 {
        self.sequence
    }

    /// Takes out the earliest timer that is due at `now` and was armed before `mark`. Timers that callbacks arm while
    /// a batch fires thus wait for the next batch, so a timer that re-arms itself at `now` cannot hold the loop.
    pub fn pop_due(&mut self, now: Instant, mark: u64) -> Option<(TimerId, T)> {
        self.floor_ns = self.floor_ns.max(self.nanoseconds(now));
        let first = *self.heap.first()?;
        let slot = &self.slots[first.slot as usize];
        // What is armed during a batch lies at or above the floor, so it never hides an older one that is due.
        if first.deadline_ns > self.floor_ns || slot.sequence >= mark {
            return None;
        }
        let id = TimerId { slot: first.slot, generation: slot.generation };
        let payload = self.remove_at(0)?;
        Some((id, payload))
    }

    fn next_sequence(&mut self) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        sequence
    }

    fn nanoseconds(&self, deadline: Instant) -> u64 {
        u64::try_from(deadline.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }

    fn instant(&self, deadline_ns: u64) -> Instant {
        self.origin + Duration::from_nanos(deadline_ns)
    }

    fn place(&self, id: TimerId) -> Option<usize> {
        let slot = self.slots.get(id.slot as usize)?;
        (slot.generation == id.generation && slot.place != FREE).then_some(slot.place as usize)
    }

    /// Whether `left` fires before `right`.
    fn before(&self, left: Entry, right: Entry) -> bool {
        if left.deadline_ns != right.deadline_ns {
            return left.deadline_ns < right.deadline_ns;
        }
        self.slots[left.slot as usize].sequence < self.slots[right.slot as usize].sequence
    }

    fn remove_at(&mut self, place: usize) -> Option<T> {
        let removed = self.heap[place];
        let last = self.heap.pop().expect("a place in the heap means it is not empty");
        if place < self.heap.len() {
            self.settle(place, last);
        }
        let slot = &mut self.slots[removed.slot as usize];
        slot.place = FREE;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(removed.slot);
        slot.payload.take()
    }

    /// Puts `entry` at `place`, or where it belongs above or below.
    fn settle(&mut self, place: usize, entry: Entry) {
        if place > 0 && self.before(entry, self.heap[(place - 1) / ARITY]) {
            self.sift_up(place, entry);
        } else {
            self.sift_down(place, entry);
        }
    }

    fn sift_up(&mut self, mut place: usize, entry: Entry) {
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if !self.before(entry, self.heap[parent]) {
                break;
            }
            self.set(place, self.heap[parent]);
            place = parent;
        }
        self.set(place, entry);
    }

    fn sift_down(&mut self, mut place: usize, entry: Entry) {
        loop {
            let first = place * ARITY + 1;
            if first >= self.heap.len() {
                break;
            }
            let end = (first + ARITY).min(self.heap.len());
            let mut least = first;
            for child in first + 1..end {
                if self.before(self.heap[child], self.heap[least]) {
                    least = child;
                }
            }
            if !self.before(self.heap[least], entry) {
                break;
            }
            self.set(place, self.heap[least]);
            place = least;
        }
        self.set(place, entry);
    }

    fn set(&mut self, place: usize, entry: Entry) {
        self.heap[place] = entry;
        // Fits: `insert` checked the length.
        self.slots[entry.slot as usize].place = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(origin: Instant, n: u64) -> Instant {
        origin + Duration::from_millis(n)
    }

    #[test]
    fn equal_deadlines_fire_in_the_order_they_were_armed() {
        let origin = Instant::now();
        let mut timers = Timers::new(origin);
        let first = timers.insert(millis(origin, 5), "first");
        timers.insert(millis(origin, 5), "second");
        timers.insert(millis(origin, 4), "early");
        assert!(timers.update(first, millis(origin, 5)), "armed again, so now it is the last");
        let mark = timers.mark();
        let order: Vec<_> = std::iter::from_fn(|| timers.pop_due(millis(origin, 5), mark).map(|(_, t)| t)).collect();
        assert_eq!(order, ["early", "second", "first"]);
    }

    #[test]
    fn a_stale_id_is_harmless() {
        let origin = Instant::now();
        let mut timers = Timers::new(origin);
        let old = timers.insert(millis(origin, 1), 1);
        assert_eq!(timers.remove(old), Some(1));
        let new = timers.insert(millis(origin, 2), 2);
        assert_eq!(timers.remove(old), None);
        assert!(!timers.update(old, millis(origin, 9)));
        assert_eq!(timers.get(new), Some(&2));
        assert_eq!(timers.deadline(new), Some(millis(origin, 2)));
        assert_eq!(timers.len(), 1);
    }

    #[test]
    fn a_timer_armed_during_a_batch_waits_for_the_next() {
        let origin = Instant::now();
        let mut timers = Timers::new(origin);
        timers.insert(origin, 0);
        let mark = timers.mark();
        assert!(timers.pop_due(origin, mark).is_some());
        timers.insert(origin, 1);
        assert!(timers.pop_due(origin, mark).is_none(), "not in the batch that armed it");
        assert!(timers.pop_due(origin, timers.mark()).is_some());
    }

    /// Random operations beside a sorted map, whose first entry is by definition the next timer.
    #[test]
    fn a_heap_of_timers_behaves_as_a_sorted_map() {
        use std::collections::BTreeMap;
        let seed = std::env::var("NET_TIMERS_SEED").map_or(1, |text| text.parse::<u64>().expect("a number"));
        println!("timers: seed {seed} (NET_TIMERS_SEED)");
        let mut random = seed;
        let mut below = |end: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % end
        };
        let origin = Instant::now();
        let mut timers = Timers::new(origin);
        // (deadline, order of arming) -> value; and per value its id and its place in the map.
        let mut sorted = BTreeMap::new();
        let mut live: Vec<(u64, TimerId, (u64, u64))> = Vec::new();
        let mut gone = Vec::new();
        let mut now_ms = 0;
        for order in 0..200_000_u64 {
            let deadline_ms = (now_ms + below(60)).max(now_ms);
            match below(10) {
                0..=3 => {
                    let id = timers.insert(millis(origin, deadline_ms), order);
                    sorted.insert((deadline_ms, order), order);
                    live.push((order, id, (deadline_ms, order)));
                }
                4..=5 if !live.is_empty() => {
                    let chosen = below(live.len() as u64) as usize;
                    let (value, id, place) = live[chosen];
                    assert!(timers.update(id, millis(origin, deadline_ms)));
                    sorted.remove(&place);
                    sorted.insert((deadline_ms, order), value);
                    live[chosen].2 = (deadline_ms, order);
                }
                6..=7 if !live.is_empty() => {
                    let (value, id, place) = live.swap_remove(below(live.len() as u64) as usize);
                    assert_eq!(timers.get(id), Some(&value));
                    assert_eq!(timers.deadline(id), Some(millis(origin, place.0)));
                    assert_eq!(timers.remove(id), Some(value));
                    sorted.remove(&place);
                    gone.push(id);
                }
                8 => {
                    now_ms += below(4);
                    let mark = timers.mark();
                    while let Some((id, value)) = timers.pop_due(millis(origin, now_ms), mark) {
                        let (place, expected) = sorted.pop_first().expect("a due timer is in the map");
                        assert!(value == expected && place.0 <= now_ms, "{value} fired, {expected} was due");
                        live.retain(|(value, ..)| *value != expected);
                        gone.push(id);
                    }
                }
                _ => {
                    if let Some(id) = gone.pop() {
                        assert!(timers.remove(id).is_none() && !timers.update(id, origin) && timers.get(id).is_none());
                    }
                }
            }
            assert_eq!(timers.len(), sorted.len());
            let first = sorted.first_key_value().map(|((deadline_ms, _), _)| millis(origin, *deadline_ms));
            assert_eq!(timers.next_deadline(), first);
        }
    }
}
