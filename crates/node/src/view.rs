//! [`OverlayView`]: the data as evaluation sees it, the engine with the overlay of unapplied effects on top.

use std::ops::{Bound, ControlFlow, Range};

use bytes::Bytes;
use dstore_kv::{View, ViewError, Visitor};
use dstore_storage::{Direction, EngineError, Reader};

use crate::overlay::{Covered, Overlay};

/// The engine, and on top of it the overlay if there is one to be seen.
pub(crate) struct OverlayView<'a, E: ?Sized> {
    pub(crate) engine: &'a E,
    pub(crate) overlay: Option<&'a Overlay>,
    pub(crate) patience: Patience,
}

/// What a reader does about records that are not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// He waits for the disk.
    Waits,
    /// He says so, by [`ViewError::NotInMemory`].
    MustNotWait,
}

impl<E: Reader + ?Sized> View for OverlayView<'_, E> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        match self.overlay.map_or(Covered::Open, |overlay| overlay.get(key)) {
            Covered::Value(value) => Ok(Some(value.clone())),
            Covered::Deleted => Ok(None),
            Covered::Open => match self.patience {
                Patience::Waits => self.engine.get(key),
                Patience::MustNotWait => self.engine.try_get(key),
            }
            .map_err(unreadable),
        }
    }

    fn scan(&self, span: Range<&[u8]>, direction: Direction, visit: &mut Visitor<'_>) -> Result<(), ViewError> {
        if span.start >= span.end {
            return Ok(());
        }
        let empty = Overlay::default();
        let overlay = self.overlay.unwrap_or(&empty);
        let below = match self.patience {
            Patience::Waits => self.engine.scan(span.clone(), direction),
            Patience::MustNotWait => self.engine.try_scan(span.clone(), direction),
        };
        let mut below = below.map_err(unreadable)?;
        let mut above =
            Above { overlay, direction, start: Bound::Included(span.start), end: Bound::Excluded(span.end) };
        let mut upper = above.next();
        loop {
            let lower = below.entry();
            let ordering = match (lower, upper) {
                (None, None) => return Ok(()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((below, _)), Some((above, _))) => match direction {
                    Direction::Forward => below.cmp(above),
                    Direction::Backward => above[..].cmp(below),
                },
            };
            let flow = match (ordering, lower, upper) {
                (std::cmp::Ordering::Less, Some((key, value)), _) if !overlay.hides(key) => visit(key, value),
                (std::cmp::Ordering::Equal | std::cmp::Ordering::Greater, _, Some((key, Some(value)))) => {
                    visit(key, value)
                }
                _ => ControlFlow::Continue(()),
            };
            if flow.is_break() {
                return Ok(());
            }
            if ordering.is_le() {
                below.advance().map_err(unreadable)?;
            }
            if ordering.is_ge() {
                upper = above.next();
            }
        }
    }
}

/// The overlay's effects in a span, one after the other.
struct Above<'a> {
    overlay: &'a Overlay,
    direction: Direction,
    start: Bound<&'a [u8]>,
    end: Bound<&'a [u8]>,
}

impl<'a> Above<'a> {
    fn next(&mut self) -> Option<(&'a Bytes, Option<&'a Bytes>)> {
        let next = self.overlay.nearest((self.start, self.end), self.direction)?;
        match self.direction {
            Direction::Forward => self.start = Bound::Excluded(next.0),
            Direction::Backward => self.end = Bound::Excluded(next.0),
        }
        Some(next)
    }
}

fn unreadable(error: EngineError) -> ViewError {
    match error {
        EngineError::WouldBlock => ViewError::NotInMemory,
        error => ViewError::Unreadable(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use dstore_storage::{Engine as _, LogIndex, MemoryEngine, WriteOp};

    use super::*;

    fn put(key: &'static str, value: &'static str) -> WriteOp {
        WriteOp::Put { key: Bytes::from(key), value: Bytes::from(value) }
    }

    fn delete(key: &'static str) -> WriteOp {
        WriteOp::Delete { key: Bytes::from(key) }
    }

    fn seen(engine: &MemoryEngine, overlay: &Overlay, direction: Direction) -> String {
        let view = OverlayView { engine, overlay: Some(overlay), patience: Patience::Waits };
        let mut out = Vec::new();
        view.scan(b"a"..b"z", direction, &mut |key, value| {
            let value = String::from_utf8_lossy(value).into_owned();
            assert_eq!(view.get(key).unwrap().unwrap(), value.as_bytes());
            out.push(format!("{}={value}", String::from_utf8_lossy(key)));
            ControlFlow::Continue(())
        })
        .unwrap();
        out.join(" ")
    }

    #[test]
    fn a_scan_merges_the_overlay_into_the_engine_in_both_directions() {
        let engine = MemoryEngine::new();
        engine.write(&[put("b", "1"), put("d", "1"), put("f", "1"), put("h", "1")]).unwrap();
        let mut overlay = Overlay::default();
        for (at, op) in [put("a", "2"), delete("b"), put("d", "2"), put("e", "2"), delete("g")].iter().enumerate() {
            overlay.add(op, LogIndex(1), at);
        }
        assert_eq!(seen(&engine, &overlay, Direction::Forward), "a=2 d=2 e=2 f=1 h=1");
        assert_eq!(seen(&engine, &overlay, Direction::Backward), "h=1 f=1 e=2 d=2 a=2");
    }

    #[test]
    fn a_deleted_range_hides_what_was_there_and_not_what_came_after() {
        let engine = MemoryEngine::new();
        engine.write(&[put("b", "1"), put("d", "1"), put("f", "1")]).unwrap();
        let mut overlay = Overlay::default();
        let range = WriteOp::DeleteRange { start: Bytes::from("a"), end: Bytes::from("e") };
        overlay.add(&put("c", "2"), LogIndex(1), 0);
        overlay.add(&range, LogIndex(2), 0);
        overlay.add(&put("d", "3"), LogIndex(3), 0);
        assert_eq!(seen(&engine, &overlay, Direction::Forward), "d=3 f=1");

        engine.write(&[put("c", "2")]).unwrap();
        overlay.applied(LogIndex(1), &[put("c", "2")]);
        assert_eq!(seen(&engine, &overlay, Direction::Forward), "d=3 f=1");
        engine.write(std::slice::from_ref(&range)).unwrap();
        overlay.applied(LogIndex(2), &[range]);
        assert_eq!(seen(&engine, &overlay, Direction::Forward), "d=3 f=1");
        overlay.applied(LogIndex(3), &[put("d", "3")]);
        assert!(overlay.is_empty());
        assert_eq!(seen(&engine, &overlay, Direction::Forward), "f=1");
    }

    #[test]
    fn an_operation_takes_the_place_of_one_on_the_same_key_in_the_same_entry() {
        let mut overlay = Overlay::default();
        assert_eq!(overlay.add(&put("k", "1"), LogIndex(1), 0), None);
        assert_eq!(overlay.add(&put("other", "1"), LogIndex(1), 1), None);
        assert_eq!(overlay.add(&put("k", "2"), LogIndex(1), 2), Some(0));
        assert_eq!(overlay.add(&put("k", "3"), LogIndex(1), 2), Some(0), "its place is still the first");
        let range = WriteOp::DeleteRange { start: Bytes::from("a"), end: Bytes::from("z") };
        assert_eq!(overlay.add(&range, LogIndex(1), 2), None);
        assert_eq!(overlay.add(&put("k", "4"), LogIndex(1), 3), None, "a deleted range lies between");
        assert_eq!(overlay.add(&put("k", "5"), LogIndex(2), 0), None, "another entry");
        assert_eq!(overlay.get(b"k"), Covered::Value(&Bytes::from("5")));
    }
}
