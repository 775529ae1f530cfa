//! [`Gathered`]: effects that are applied but that the engine has not been given yet; and [`Merged`], a view of an engine
//! with them on top.

use std::cmp::Ordering;
use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;
use dstore_storage::{Cursor, Direction, EngineError, Reader, WriteOp};

use crate::keyed::{Bounds, Keyed};

/// The newest effect on each key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gathered {
    /// `None`: deleted.
    records: Keyed<Option<Bytes>>,
    /// Bytes of all that was added, what was replaced since included.
    bytes: usize,
}

impl Gathered {
    /// Empty, with room for so many records.
    pub(crate) fn with_capacity(records: usize) -> Gathered {
        Gathered { records: Keyed::with_capacity(records), bytes: 0 }
    }

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
        *self.records.get_or_insert(&key, None) = value;
    }

    /// All of it, in the order of the keys.
    pub(crate) fn ops(&self) -> Vec<WriteOp> {
        let op = |(key, value): (&Bytes, &Option<Bytes>)| match value.clone() {
            Some(value) => WriteOp::Put { key: key.clone(), value },
            None => WriteOp::Delete { key: key.clone() },
        };
        self.records.sorted().into_iter().map(op).collect()
    }

    /// Forgets all others.
    pub(crate) fn retain(&mut self, keeps: impl Fn(&[u8]) -> bool) {
        self.records.retain(keeps);
    }

    /// Forgets what an operation replaces that has reached the engine by another way.
    pub(crate) fn forget(&mut self, op: &WriteOp) {
        match op {
            WriteOp::Put { key, .. } | WriteOp::Delete { key } => drop(self.records.remove(key)),
            WriteOp::DeleteRange { start, end } => self.records.retain(|key| key < &start[..] || key >= &end[..]),
        }
    }

    /// Whether there is anything in a range of keys.
    pub(crate) fn has_any_in(&self, range: &Range<&[u8]>) -> bool {
        let bounds = (Bound::Included(range.start), Bound::Excluded(range.end));
        range.start < range.end && self.nearest(bounds, Direction::Forward).is_some()
    }

    /// The nearest effect within these bounds: the first of them, or the last for a scan backwards.
    fn nearest(&self, bounds: Bounds<'_>, direction: Direction) -> Option<(&Bytes, &Option<Bytes>)> {
        self.records.nearest(bounds, direction)
    }
}

/// What lies above an engine, newest first.
pub(crate) type Layers = Vec<Arc<Gathered>>;

/// A view with gathered effects on top.
pub(crate) struct Merged<R: ?Sized> {
    pub(crate) layers: Layers,
    pub(crate) below: R,
}

impl Merged<dyn Reader> {
    /// A scan with `layers` on top of what a scan of the same range gives `below`.
    pub(crate) fn scan<'a>(
        below: Box<dyn Cursor + 'a>,
        layers: Layers,
        range: Range<&[u8]>,
        direction: Direction,
    ) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        if range.start >= range.end {
            return Ok(below);
        }
        let whole =
            (Bound::Included(Bytes::copy_from_slice(range.start)), Bound::Excluded(Bytes::copy_from_slice(range.end)));
        let mut above = Above { layers, direction, left: whole, effect: None };
        above.find();
        let mut cursor = MergedCursor { below, above, shows_above: false };
        cursor.find()?;
        Ok(Box::new(cursor))
    }
}

impl Reader for Merged<Box<dyn Reader + Send + Sync + '_>> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.layers.iter().find_map(|layer| layer.get(key)) {
            Some(value) => Ok(value.clone()),
            None => self.below.get(key),
        }
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        Merged::scan(self.below.scan(range.clone(), direction)?, self.layers.clone(), range, direction)
    }
}

/// The effects of some layers, one key after the other, as the newest layer has it.
struct Above {
    layers: Layers,
    direction: Direction,
    /// Where the next effects are.
    left: (Bound<Bytes>, Bound<Bytes>),
    /// The one at hand.
    effect: Option<(Bytes, Option<Bytes>)>,
}

impl Above {
    /// Takes the nearest effect of what is left.
    fn find(&mut self) {
        let left = (self.left.0.as_ref().map(|key| &key[..]), self.left.1.as_ref().map(|key| &key[..]));
        let found = self.layers.iter().filter_map(|layer| layer.nearest(left, self.direction));
        // Of the same key in two layers the first is taken, which is the newer one.
        let nearest = found.reduce(|best, other| match self.direction {
            Direction::Forward if other.0 < best.0 => other,
            Direction::Backward if other.0 > best.0 => other,
            _ => best,
        });
        self.effect = nearest.map(|(key, value)| (key.clone(), value.clone()));
    }

    fn advance(&mut self) {
        let Some((key, _)) = self.effect.take() else { return };
        match self.direction {
            Direction::Forward => self.left.0 = Bound::Excluded(key),
            Direction::Backward => self.left.1 = Bound::Excluded(key),
        }
        if !self.is_over() {
            self.find();
        }
    }

    /// Whether nothing can be left; bounds that exclude one and the same key are none that a map may be asked for.
    fn is_over(&self) -> bool {
        match (&self.left.0, &self.left.1) {
            (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
                start >= end
            }
            _ => false,
        }
    }
}

struct MergedCursor<'a> {
    below: Box<dyn Cursor + 'a>,
    above: Above,
    /// The entry is the effect above, and what is below comes behind it or is the same key; otherwise it is the one below.
    shows_above: bool,
}

impl MergedCursor<'_> {
    /// Where the next effect above stands to the next entry below, in the direction of the scan.
    fn order(&self) -> Ordering {
        match (&self.above.effect, self.below.entry()) {
            (None, _) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some((above, _)), Some((below, _))) => match self.above.direction {
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
            let is_deleted = matches!(self.above.effect, Some((_, None)));
            if !self.shows_above || !is_deleted {
                return Ok(());
            }
            self.pass_above(order)?;
        }
    }

    fn pass_above(&mut self, order: Ordering) -> Result<(), EngineError> {
        self.above.advance();
        if order.is_eq() { self.below.advance() } else { Ok(()) }
    }
}

impl Cursor for MergedCursor<'_> {
    fn entry(&self) -> Option<(&[u8], &[u8])> {
        if !self.shows_above {
            return self.below.entry();
        }
        let (key, value) = self.above.effect.as_ref().expect("it is shown");
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
