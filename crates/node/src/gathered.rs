//! [`Gathered`]: effects that are applied but that the engine has not been given yet; and [`Merged`], a view of an engine
//! with them on top, for when the engine is too busy to take them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;
use dstore_storage::{Cursor, Direction, EngineError, Reader, WriteOp};

/// The newest effect on each key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gathered {
    /// `None`: deleted.
    records: BTreeMap<Bytes, Option<Bytes>>,
    /// Bytes of all that was added, what was replaced since included.
    bytes: usize,
}

impl Gathered {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.records.get(key)
    }

    pub(crate) fn add(&mut self, op: WriteOp) {
        let (key, value) = match op {
            WriteOp::Put { key, value } => (key, Some(value)),
            WriteOp::Delete { key } => (key, None),
            WriteOp::DeleteRange { .. } => panic!("what is removed by range goes to the engine at once"),
        };
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.records.insert(key, value);
    }

    /// All of it, in the order of the keys.
    pub(crate) fn ops(&self) -> Vec<WriteOp> {
        let op = |(key, value): (&Bytes, &Option<Bytes>)| match value.clone() {
            Some(value) => WriteOp::Put { key: key.clone(), value },
            None => WriteOp::Delete { key: key.clone() },
        };
        self.records.iter().map(op).collect()
    }

    /// Forgets all others.
    pub(crate) fn retain(&mut self, keeps: impl Fn(&[u8]) -> bool) {
        self.records.retain(|key, _| keeps(key));
    }

    /// Forgets what an operation replaces that has reached the engine by another way.
    pub(crate) fn forget(&mut self, op: &WriteOp) {
        match op {
            WriteOp::Put { key, .. } | WriteOp::Delete { key } => drop(self.records.remove(key)),
            WriteOp::DeleteRange { start, end } => self.records.retain(|key, _| key < start || key >= end),
        }
    }

    /// Whether there is anything in a range of keys.
    pub(crate) fn has_any_in(&self, range: &Range<&[u8]>) -> bool {
        let bounds = (Bound::Included(range.start), Bound::Excluded(range.end));
        range.start < range.end && self.records.range::<[u8], _>(bounds).next().is_some()
    }

    fn within(&self, range: &Range<&[u8]>, direction: Direction) -> Vec<(Bytes, Option<Bytes>)> {
        if range.start >= range.end {
            return Vec::new();
        }
        let bounds = (Bound::Included(range.start), Bound::Excluded(range.end));
        let records = self.records.range::<[u8], _>(bounds).map(|(key, value)| (key.clone(), value.clone()));
        match direction {
            Direction::Forward => records.collect(),
            Direction::Backward => records.rev().collect(),
        }
    }
}

/// A view with gathered effects on top.
pub(crate) struct Merged<R: ?Sized> {
    pub(crate) gathered: Arc<Gathered>,
    pub(crate) below: R,
}

impl Merged<dyn Reader> {
    /// A scan of `below` with `gathered` on top.
    pub(crate) fn scan<'a, R: Reader + ?Sized>(
        below: &'a R,
        gathered: &Gathered,
        range: Range<&[u8]>,
        direction: Direction,
    ) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        let above = gathered.within(&range, direction);
        let below = below.scan(range, direction)?;
        let mut cursor = MergedCursor { below, above, at: 0, direction, shows_above: false };
        cursor.find()?;
        Ok(Box::new(cursor))
    }
}

impl Reader for Merged<Box<dyn Reader + Send + Sync + '_>> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.gathered.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.below.get(key),
        }
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        Merged::scan(&*self.below, &self.gathered, range, direction)
    }
}

struct MergedCursor<'a> {
    below: Box<dyn Cursor + 'a>,
    /// In the direction of the scan.
    above: Vec<(Bytes, Option<Bytes>)>,
    /// The first of `above` that is not passed.
    at: usize,
    direction: Direction,
    /// The entry is `above[at]`, and what is below comes behind it or is the same key; otherwise it is the one below.
    shows_above: bool,
}

impl MergedCursor<'_> {
    /// Where the next of `above` stands to the next below, in the direction of the scan.
    fn order(&self) -> Ordering {
        match (self.above.get(self.at), self.below.entry()) {
            (None, _) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some((above, _)), Some((below, _))) => match self.direction {
                Direction::Forward => above[..].cmp(below),
                Direction::Backward => below.cmp(&above[..]),
            },
        }
    }

    /// Passes over what is deleted.
    fn find(&mut self) -> Result<(), EngineError> {
        loop {
            let order = self.order();
            self.shows_above = order.is_le();
            if !self.shows_above || self.above[self.at].1.is_some() {
                return Ok(());
            }
            self.pass_above(order)?;
        }
    }

    fn pass_above(&mut self, order: Ordering) -> Result<(), EngineError> {
        self.at += 1;
        if order.is_eq() { self.below.advance() } else { Ok(()) }
    }
}

impl Cursor for MergedCursor<'_> {
    fn entry(&self) -> Option<(&[u8], &[u8])> {
        if !self.shows_above {
            return self.below.entry();
        }
        let (key, value) = &self.above[self.at];
        Some((key, value.as_ref().expect("what is deleted was passed over")))
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        if self.shows_above {
            let order = self.order();
            self.pass_above(order)?;
        } else {
            self.below.advance()?;
        }
        self.find()
    }
}
