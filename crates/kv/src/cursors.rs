//! SCAN cursors that a node remembers, for the few positions that a cursor cannot say itself.
//!
//! A cursor is a number and a position is a key. Mostly the number says enough of the key (`position.rs`). Where more than
//! some thousand keys are alike in all that a number can say, the node remembers the position, within bounds. A cursor
//! it has forgotten (a restart, another leader, too many scans at once) begins again at the first key: a full scan still
//! gives every key that was there all the time, only some of them twice, which is what SCAN promises.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

/// What a node lends to evaluation: it remembers where SCAN cursors stand, and draws numbers for RANDOMKEY.
pub trait CursorTable {
    /// Where a scan of this database with this cursor goes on, if the cursor is known.
    fn position(&self, db: u8, cursor: u64) -> Option<Bytes>;

    /// Gives a new cursor, of bit 62 and below, for a scan that came from `cursor` (0: a new one) and goes on at `position`.
    fn advance(&mut self, db: u8, cursor: u64, position: Bytes) -> u64;

    /// The scan with this cursor has come to its end.
    fn finish(&mut self, cursor: u64);

    /// A number at random, out of the table's seed.
    fn draw(&mut self) -> u64;
}

/// Every cursor of a table has this bit, and none of those that say where they stand.
const TABLE_BIT: u64 = 1 << 62;

/// A bounded [`CursorTable`].
///
/// A scan under way takes up two entries: the cursor its client holds, and the one before, in case the client did not
/// get the last answer and asks again. Beyond the bound the entry that was made first goes, which is a scan that was
/// abandoned, or one much slower than all others.
///
/// The numbers are a seeded permutation of a counter, so a cursor from before a restart is not by accident one of
/// another scan now (that scan would miss keys). They fit a signed 64-bit integer, which is what some clients use.
#[derive(Debug)]
pub struct Cursors {
    entries: BTreeMap<u64, Entry>,
    /// Cursors as they were made; some are forgotten already. At most `2 * entries_max` long.
    oldest: VecDeque<u64>,
    /// Bytes of all positions together.
    bytes: usize,
    entries_max: usize,
    bytes_max: usize,
    seed: u64,
    issued: u64,
    drawn: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    db: u8,
    position: Bytes,
    /// The cursor this one was made from; 0 for the first.
    previous: u64,
}

impl Cursors {
    /// Most cursors that are remembered: thousands of scans at once.
    pub const ENTRIES_MAX: usize = 16_384;

    /// Most bytes of positions that are remembered. A thousand for each cursor; only very long keys meet this first.
    pub const BYTES_MAX: usize = 16 << 20;

    /// An empty table. The seed should be drawn at random at every start.
    pub fn new(seed: u64) -> Cursors {
        Cursors::with_bounds(seed, Self::ENTRIES_MAX, Self::BYTES_MAX)
    }

    /// An empty table that remembers at most `entries_max` cursors, and at most `bytes_max` bytes of positions unless
    /// the last position alone is longer.
    ///
    /// # Panics
    /// If there is no room for even one scan.
    pub fn with_bounds(seed: u64, entries_max: usize, bytes_max: usize) -> Cursors {
        assert!(entries_max >= 2, "one scan needs two entries");
        let (entries, oldest) = (BTreeMap::new(), VecDeque::new());
        Cursors { entries, oldest, bytes: 0, entries_max, bytes_max, seed, issued: 0, drawn: 0 }
    }

    /// A table that will give and draw the same numbers as this one, and knows of its cursors these alone: for an evaluation
    /// that is to go the same way, elsewhere.
    #[must_use]
    pub fn twin(&self, cursors: &[u64]) -> Cursors {
        let mut twin = Cursors { issued: self.issued, drawn: self.drawn, ..Cursors::new(self.seed) };
        for cursor in cursors {
            if let Some(entry) = self.entries.get(cursor) {
                twin.oldest.push_back(*cursor);
                twin.bytes += entry.position.len();
                let replaced = twin.entries.insert(*cursor, entry.clone());
                twin.bytes -= replaced.map_or(0, |replaced| replaced.position.len());
            }
        }
        twin
    }

    /// How many cursors are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no cursor is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn next_cursor(&mut self) -> u64 {
        loop {
            self.issued = self.issued.wrapping_add(1);
            let cursor = scramble(self.seed, self.issued) >> 2 | TABLE_BIT;
            if !self.entries.contains_key(&cursor) {
                return cursor;
            }
        }
    }

    fn remove(&mut self, cursor: u64) -> Option<Entry> {
        let entry = self.entries.remove(&cursor)?;
        self.bytes -= entry.position.len();
        Some(entry)
    }

    /// Makes room for one entry, and drops what `oldest` remembers in vain.
    fn make_room(&mut self, bytes: usize) {
        while self.entries.len() >= self.entries_max || (self.bytes + bytes > self.bytes_max && self.bytes > 0) {
            let first = self.oldest.pop_front().expect("every entry is in the queue");
            self.remove(first);
        }
        if self.oldest.len() >= 2 * self.entries_max {
            let entries = &self.entries;
            self.oldest.retain(|cursor| entries.contains_key(cursor));
        }
    }
}

impl CursorTable for Cursors {
    fn position(&self, db: u8, cursor: u64) -> Option<Bytes> {
        self.entries.get(&cursor).filter(|entry| entry.db == db).map(|entry| entry.position.clone())
    }

    fn advance(&mut self, db: u8, cursor: u64, position: Bytes) -> u64 {
        // Whoever uses a cursor has got it, so the one before is of no more use.
        if let Some(entry) = self.entries.get_mut(&cursor) {
            let previous = std::mem::take(&mut entry.previous);
            self.remove(previous);
        }
        self.make_room(position.len());
        let next = self.next_cursor();
        self.bytes += position.len();
        self.entries.insert(next, Entry { db, position, previous: cursor });
        self.oldest.push_back(next);
        next
    }

    fn finish(&mut self, cursor: u64) {
        if let Some(entry) = self.remove(cursor) {
            self.remove(entry.previous);
        }
    }

    fn draw(&mut self) -> u64 {
        self.drawn = self.drawn.wrapping_add(1);
        // Another sequence than that of the cursors, which clients see.
        scramble(!self.seed, self.drawn)
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a permutation of the counter for every seed.
fn scramble(seed: u64, counter: u64) -> u64 {
    let mut z = seed.wrapping_add(counter.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(key: &'static str) -> Bytes {
        Bytes::from_static(key.as_bytes())
    }

    #[test]
    fn a_twin_goes_the_same_way() {
        let mut table = Cursors::new(7);
        let first = table.advance(0, 0, Bytes::from("a"));
        let other = table.advance(1, 0, Bytes::from("b"));
        let mut twin = table.twin(&[first, 99]);
        assert_eq!((twin.position(0, first), twin.position(1, other)), (Some(Bytes::from("a")), None));
        assert_eq!(twin.draw(), table.draw());
        assert_eq!(twin.advance(0, first, Bytes::from("c")), table.advance(0, first, Bytes::from("c")));
    }

    #[test]
    fn a_scan_takes_up_two_entries_however_long_it_is() {
        let mut cursors = Cursors::with_bounds(1, 8, 1_000);
        let mut cursor = 0;
        for _ in 0..1_000 {
            let next = cursors.advance(0, cursor, at("k"));
            assert!(next != 0 && next != cursor && i64::try_from(next).is_ok());
            assert!(cursor == 0 || cursors.position(0, cursor).is_some(), "the one before may be asked again");
            assert!(cursors.len() <= 2 && cursors.oldest.len() <= 16);
            cursor = next;
        }
        cursors.finish(cursor);
        assert!(cursors.is_empty() && cursors.bytes == 0);
    }

    #[test]
    fn beyond_the_bound_the_oldest_is_forgotten() {
        let mut cursors = Cursors::with_bounds(1, 3, 1_000);
        let abandoned: Vec<u64> = (0..5).map(|_| cursors.advance(0, 0, at("k"))).collect();
        let known: Vec<bool> = abandoned.iter().map(|cursor| cursors.position(0, *cursor).is_some()).collect();
        assert_eq!(known, [false, false, true, true, true]);
        assert_eq!((cursors.len(), cursors.bytes), (3, 3));

        let mut cursors = Cursors::with_bounds(1, 100, 10);
        for _ in 0..5 {
            cursors.advance(0, 0, at("four"));
        }
        assert_eq!((cursors.len(), cursors.bytes), (2, 8));
        let long = cursors.advance(0, 0, at("longer than all"));
        assert_eq!((cursors.len(), cursors.position(0, long)), (1, Some(at("longer than all"))));
    }

    #[test]
    fn a_cursor_is_good_for_its_own_database_and_table() {
        let mut cursors = Cursors::new(1);
        let cursor = cursors.advance(3, 0, at("k"));
        assert_eq!(cursors.position(3, cursor), Some(at("k")));
        assert_eq!(cursors.position(4, cursor), None);
        assert_eq!(cursors.position(3, 0), None);
        let mut after_restart = Cursors::new(2);
        assert_ne!(after_restart.advance(3, 0, at("k")), cursor);
    }
}
