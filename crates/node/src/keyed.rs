//! [`Keyed`]: a small table of encoded keys, as fast as a hash table where each key is looked up by itself, and in order for
//! those who scan.
//!
//! Users' keys are many, long and alike, so that a search through an ordered tree compares most of their bytes a dozen times.
//! They lie in a hash table. Their order is made when somebody first scans them, kept from then on, and forgotten when the
//! table is empty. All other keys are few, and in order always: some of them are scanned many times a second.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::OnceLock;

use bytes::Bytes;
use dstore_storage::Direction;
use dstore_storage::layout::tag;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use quick_cache::DefaultHashBuilder;

/// Bounds of a range of keys. The first is not above the second.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Values by key. See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct Keyed<V> {
    /// Of keys with the tag of user data.
    users: HashMap<Bytes, V, DefaultHashBuilder>,
    /// The keys in `users`, if anybody has asked for them.
    order: OnceLock<BTreeSet<Bytes>>,
    others: BTreeMap<Bytes, V>,
}

impl<V> Default for Keyed<V> {
    fn default() -> Self {
        Keyed { users: HashMap::default(), order: OnceLock::new(), others: BTreeMap::new() }
    }
}

fn is_users(key: &[u8]) -> bool {
    key.first() == Some(&tag::USER)
}

impl<V> Keyed<V> {
    /// Empty, with room for so many of users' keys.
    pub(crate) fn with_capacity(users: usize) -> Keyed<V> {
        Keyed { users: HashMap::with_capacity_and_hasher(users, DefaultHashBuilder::default()), ..Keyed::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.others.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.users.len() + self.others.len()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&V> {
        if is_users(key) { self.users.get(key) } else { self.others.get(key) }
    }

    /// The value of `key`, which is `new` where there is none yet.
    pub(crate) fn get_or_insert(&mut self, key: &Bytes, new: V) -> &mut V {
        if !is_users(key) {
            return self.others.entry(key.clone()).or_insert(new);
        }
        if let Some(order) = self.order.get_mut()
            && !order.contains(key)
        {
            order.insert(key.clone());
        }
        self.users.entry(key.clone()).or_insert(new)
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<V> {
        self.remove_if(key, |_| true)
    }

    /// Removes `key` if its value is one that goes.
    pub(crate) fn remove_if(&mut self, key: &[u8], goes: impl FnOnce(&V) -> bool) -> Option<V> {
        if !is_users(key) {
            return self.others.get(key).is_some_and(goes).then(|| self.others.remove(key)).flatten();
        }
        let removed = match self.users.entry_ref(key) {
            EntryRef::Occupied(entry) if goes(entry.get()) => entry.remove(),
            _ => return None,
        };
        match self.order.get_mut() {
            Some(_) if self.users.is_empty() => self.order = OnceLock::new(),
            Some(order) => _ = order.remove(key),
            None => {}
        }
        Some(removed)
    }

    /// Forgets all others.
    pub(crate) fn retain(&mut self, keeps: impl Fn(&[u8]) -> bool) {
        self.users.retain(|key, _| keeps(key));
        self.others.retain(|key, _| keeps(key));
        self.order = OnceLock::new();
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.users.values_mut().chain(self.others.values_mut())
    }

    /// The first entry within these bounds, or the last for a scan backwards.
    pub(crate) fn nearest(&self, bounds: Bounds<'_>, direction: Direction) -> Option<(&Bytes, &V)> {
        let other = pick(self.others.range::<[u8], _>(bounds), direction);
        let user = if self.may_have_users(bounds) {
            let order = self.order.get_or_init(|| self.users.keys().cloned().collect());
            pick(order.range::<[u8], _>(bounds), direction)
        } else {
            None
        };
        let user = user.and_then(|key| self.users.get_key_value(key));
        match (user, other) {
            (Some(user), Some(other)) => {
                let is_user = (user.0 < other.0) == (direction == Direction::Forward);
                Some(if is_user { user } else { other })
            }
            (user, other) => user.or(other),
        }
    }

    fn may_have_users(&self, (start, end): Bounds<'_>) -> bool {
        let begins_within = match start {
            Bound::Included(key) | Bound::Excluded(key) => key < &[tag::USER + 1][..],
            Bound::Unbounded => true,
        };
        let ends_within = match end {
            Bound::Included(key) => key >= &[tag::USER][..],
            Bound::Excluded(key) => key > &[tag::USER][..],
            Bound::Unbounded => true,
        };
        begins_within && ends_within && !self.users.is_empty()
    }

    /// All of it, in the order of the keys.
    pub(crate) fn sorted(&self) -> Vec<(&Bytes, &V)> {
        let (above, below) = (Bound::Included(&[tag::USER][..]), Bound::Excluded(&[tag::USER][..]));
        let mut all = Vec::with_capacity(self.len());
        all.extend(self.others.range::<[u8], _>((Bound::Unbounded, below)));
        all.extend(self.sorted_users());
        all.extend(self.others.range::<[u8], _>((above, Bound::Unbounded)));
        all
    }

    fn sorted_users(&self) -> impl Iterator<Item = (&Bytes, &V)> {
        // What all keys begin with need not be compared, and what comes behind it mostly tells them apart at once.
        let mut keys = self.users.keys();
        let first = keys.next().map_or(&[][..], |key| &key[..]);
        let common = keys.fold(first.len(), |common, key| common_prefix(&first[..common], key));
        let word = |key: &[u8]| {
            let mut word = [0; 8];
            let rest = &key[common..];
            let length = rest.len().min(word.len());
            word[..length].copy_from_slice(&rest[..length]);
            u64::from_be_bytes(word)
        };
        let mut users: Vec<_> = self.users.iter().map(|(key, value)| (word(key), key, value)).collect();
        users.sort_unstable_by(|one, other| one.0.cmp(&other.0).then_with(|| one.1.cmp(other.1)));
        users.into_iter().map(|(_, key, value)| (key, value))
    }
}

fn pick<T>(mut range: impl DoubleEndedIterator<Item = T>, direction: Direction) -> Option<T> {
    match direction {
        Direction::Forward => range.next(),
        Direction::Backward => range.next_back(),
    }
}

fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    fn random_key(state: &mut u64) -> Bytes {
        let tag = [tag::RANGE_LOCAL, tag::USER, tag::USER, tag::USER, tag::TRANSACTION][(random(state) % 5) as usize];
        let mut key = vec![tag, 0];
        key.extend_from_slice(&b"the same for all"[..(random(state) % 2 * 16) as usize]);
        key.extend((0..random(state) % 11).map(|_| [0, b'a', b'b'][(random(state) % 3) as usize]));
        key.truncate(1 + (random(state) % 40) as usize);
        Bytes::from(key)
    }

    #[test]
    fn it_holds_what_an_ordered_tree_would() {
        for seed in 0..50 {
            let mut state = seed;
            let (mut keyed, mut tree) = (Keyed::default(), BTreeMap::new());
            for step in 0..2000 {
                let key = random_key(&mut state);
                match random(&mut state) % 100 {
                    0 => {
                        keyed.retain(|known| known < &key[..]);
                        tree.retain(|known, _| known < &key);
                    }
                    1..20 => assert_eq!(keyed.remove(&key), tree.remove(&key), "seed {seed}"),
                    20..40 => {
                        let (mut start, mut end) = (key, random_key(&mut state));
                        if start > end {
                            std::mem::swap(&mut start, &mut end);
                        }
                        let bounds = if start == end || random(&mut state).is_multiple_of(2) {
                            (Bound::Included(&start[..]), Bound::Excluded(&end[..]))
                        } else {
                            (Bound::Excluded(&start[..]), Bound::Unbounded)
                        };
                        for direction in [Direction::Forward, Direction::Backward] {
                            let expected = pick(tree.range::<[u8], _>(bounds), direction);
                            assert_eq!(keyed.nearest(bounds, direction), expected, "seed {seed}");
                        }
                    }
                    _ => {
                        *keyed.get_or_insert(&key, 0) = step;
                        tree.insert(key.clone(), step);
                        assert_eq!(keyed.get(&key), Some(&step), "seed {seed}");
                    }
                }
                assert_eq!((keyed.len(), keyed.is_empty()), (tree.len(), tree.is_empty()), "seed {seed}");
                if random(&mut state).is_multiple_of(20) {
                    assert_eq!(keyed.sorted(), tree.iter().collect::<Vec<_>>(), "seed {seed}");
                }
            }
        }
    }
}
