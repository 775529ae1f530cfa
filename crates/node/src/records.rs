//! [`Records`]: a cache of small records, each in one piece of memory with its key.
//!
//! Of many records none is in the processor's caches when it is wanted, so a look-up costs as much as it touches places in
//! memory. Here they are three: the table, an entry, and what that points to. The entry is found by the key's hash alone; the
//! key stands in front of the record and is compared there. Of two keys with one hash the cache has one, and a miss for the
//! other.

use std::hash::{BuildHasher, Hasher};

use bytes::Bytes;
use dstore_storage::join;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Weighter};

/// Memory of an entry beside key and value: what the allocator rounds up, a slot, its place in the table.
const ENTRY_OVERHEAD_BYTES: u64 = 112;

/// About how large an entry is; the table is laid out for so many.
const ENTRY_BYTES_TYPICAL: usize = 256;

/// See the [module](self).
pub(crate) struct Records {
    hasher: DefaultHashBuilder,
    known: Cache<u64, Known, Weight, Hashed>,
}

/// What is known of a key.
#[derive(Clone)]
struct Known {
    /// The key, and behind it its value.
    block: Bytes,
    key_len: u32,
    /// Otherwise it is known that there is no such record.
    is_there: bool,
}

impl Known {
    fn new(key: &[u8], value: Option<&[u8]>) -> Known {
        let key_len = u32::try_from(key.len()).expect("keys are bounded far below 4 GiB");
        Known { block: join(&[key, value.unwrap_or_default()]), key_len, is_there: value.is_some() }
    }

    fn is_of(&self, key: &[u8]) -> bool {
        self.block[..self.key_len as usize] == *key
    }

    fn value(&self) -> Option<Bytes> {
        self.is_there.then(|| self.block.slice(self.key_len as usize..))
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<u64, Known> for Weight {
    fn weight(&self, _: &u64, known: &Known) -> u64 {
        known.block.len() as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// The hash of what is a hash already.
#[derive(Clone, Default)]
struct Hashed(u64);

impl BuildHasher for Hashed {
    type Hasher = Hashed;

    fn build_hasher(&self) -> Hashed {
        Hashed(0)
    }
}

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("entries are found by number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Records {
    /// Room for about `bytes_max`, with all that entries take.
    pub(crate) fn new(bytes_max: usize) -> Records {
        let (entries, weight) = (bytes_max / ENTRY_BYTES_TYPICAL, bytes_max as u64);
        let known = Cache::with(entries, weight, Weight, Hashed::default(), DefaultLifecycle::default());
        Records { hasher: DefaultHashBuilder::default(), known }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    /// The value of a key, or that there is none, if either is known.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.known.get(&self.hash(key)).filter(|known| known.is_of(key)).map(Known::value)
    }

    /// Notes a value, or that there is none. It is copied: the caller's may be a part of something large.
    pub(crate) fn insert(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.known.insert(self.hash(key), Known::new(key, value));
    }

    /// Notes a key's new value, if anything was known of it.
    pub(crate) fn update(&mut self, key: &[u8], value: &[u8]) {
        let hash = self.hash(key);
        if let Some(mut known) = self.known.get_mut(&hash)
            && known.is_of(key)
        {
            *known = Known::new(key, Some(value));
        }
    }

    /// Forgets a key.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        let hash = self.hash(key);
        if self.known.peek(&hash).is_some_and(|known| known.is_of(key)) {
            self.known.remove(&hash);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_length_come_back_as_they_were_noted() {
        let mut records = Records::new(1 << 20);
        for length in 0..600 {
            let (key, value) = (format!("key {length}"), vec![length as u8; length]);
            records.insert(key.as_bytes(), Some(&value));
            assert_eq!(records.get(key.as_bytes()), Some(Some(Bytes::from(value))));
        }
        records.insert(b"absent", None);
        assert_eq!(records.get(b"absent"), Some(None));
        assert_eq!(records.get(b"unknown"), None);
        records.insert(b"empty", Some(b""));
        assert_eq!(records.get(b"empty"), Some(Some(Bytes::new())));
    }

    #[test]
    fn only_what_is_known_is_updated() {
        let mut records = Records::new(1 << 20);
        records.update(b"key", b"1");
        assert_eq!(records.get(b"key"), None);
        records.insert(b"key", None);
        records.update(b"key", b"2");
        assert_eq!(records.get(b"key"), Some(Some(Bytes::from("2"))));
        records.remove(b"key");
        assert_eq!(records.get(b"key"), None);
    }

    #[test]
    fn of_two_keys_with_one_hash_neither_is_taken_for_the_other() {
        let mut records = Records::new(1 << 20);
        let hash = records.hash(b"one");
        records.known.insert(hash, Known::new(b"other", Some(b"value")));
        assert_eq!(records.get(b"one"), None);
        records.update(b"one", b"new");
        records.remove(b"one");
        assert!(records.known.peek(&hash).is_some_and(|known| known.is_of(b"other")));
    }

    #[test]
    fn what_it_holds_is_bounded() {
        let mut records = Records::new(64 << 10);
        (0..10_000).for_each(|number: u32| records.insert(&number.to_be_bytes(), Some(&[7; 100])));
        assert!((100..400).contains(&records.known.len()), "{}", records.known.len());
    }
}
