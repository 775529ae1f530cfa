//! [`Cached`]: an engine with a cache of small records in front of point reads, and a place where writes gather.
//!
//! A read of a record that was read before costs a look into a hash table instead of a search through the engine's
//! memtable and files, and a write reads the record it replaces.
//!
//! What is applied *gathers* until there is enough of it; then it *settles*: the engine gets all of it as one batch, in the
//! order of the keys, of which it makes much less work than of as many keys at random, and each key once, however often it
//! was written meanwhile. Another thread does that ([`Settlement`]), while new effects gather.
//!
//! ```text
//!  apply ──> gathered ──full──> settling ──Settlement::run──> engine
//!    └─────> cache, where it has the key
//!  read  ──> cache ──> gathered ──> settling ──> engine
//! ```
//!
//! Nothing is lost by that: the engine forgets what it has not flushed anyway when the power fails, and the log
//! has it. The batch carries the applied state of each range, so the engine stands at an entry of each, as always.
//!
//! Everything this node reads and writes of its engine goes through here, and sees what has gathered. Who looks past it
//! (a flush, what a power loss would leave) finds an earlier state.
//!
//! Invariants: a record that gathers is newer than one that settles, and that is newer than the engine's, or the same. What
//! the cache has of a key is the newest of them. The engine gets effects in the order in which they were
//! applied: nothing is written past what settles. A write that is refused changes nothing.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dstore_storage::snapshot::{Spans, Stage};
use dstore_storage::{Caching, Cursor, Direction, Engine, EngineError, EngineStats, Reader, WriteOp};

use crate::gathered::{Gathered, Layers, Merged};
use crate::records::Records;

/// Larger values are not kept: the engine's own cache of blocks serves them as well.
const VALUE_BYTES_MAX: usize = 4 << 10;

/// Bytes that may gather, and as many that may settle.
const GATHERED_BYTES_MAX: usize = 2 << 20;

/// An engine and a cache. See the [module](self).
pub(crate) struct Cached<E> {
    shared: Arc<Shared<E>>,
    /// Records that may gather.
    gathered_max: usize,
    #[cfg(feature = "planted")]
    pub(crate) planted: Option<crate::Planted>,
}

/// What the loop uses, a thread that settles, and one that lets a snapshot in.
struct Shared<E> {
    engine: E,
    /// Held by whoever writes to the engine off the loop; taken before `state`.
    writing: Mutex<()>,
    state: Mutex<State>,
}

struct State {
    /// What was read, and that the engine has no such record.
    records: Records,
    gathered: Arc<Gathered>,
    /// On its way into the engine, or already there and not yet known to be.
    settling: Arc<Gathered>,
    /// A settlement was given out, and nobody has said what came of it.
    asked: bool,
    /// A snapshot is being let in: nothing may get past it into the engine.
    installing: bool,
}

/// Gathered effects that are to be given to the engine, on another thread than the loop's.
pub struct Settlement {
    work: Arc<dyn Settle>,
}

impl Settlement {
    /// Gives them to the engine. Afterwards the node must hear what came of it: [`crate::Node::handle_settled`].
    ///
    /// # Errors
    ///
    /// As [`Engine::write`]. Nothing was written then.
    pub fn run(self) -> Result<(), EngineError> {
        self.work.settle()
    }
}

impl std::fmt::Debug for Settlement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Settlement")
    }
}

trait Settle: Send + Sync {
    fn settle(&self) -> Result<(), EngineError>;
}

impl<E: Engine> Settle for Shared<E> {
    fn settle(&self) -> Result<(), EngineError> {
        let _writing = lock(&self.writing);
        self.write_settling()
    }
}

impl<E: Engine> Shared<E> {
    /// The caller holds `writing`.
    fn write_settling(&self) -> Result<(), EngineError> {
        // Not what it was when the settlement was given out: a snapshot may have replaced parts of it.
        let settling = lock(&self.state).settling.clone();
        if settling.is_empty() {
            return Ok(());
        }
        let batch = settling.ops();
        self.engine.write(&batch)?;
        let settled = std::mem::take(&mut lock(&self.state).settling);
        // Their memory is freed here, and not on the loop.
        drop((batch, settling, settled));
        Ok(())
    }
}

impl State {
    /// What is not in the engine, or may not be, newest first.
    fn layers(&self) -> Layers {
        [&self.gathered, &self.settling].into_iter().filter(|layer| !layer.is_empty()).cloned().collect()
    }

    /// Makes room where effects gather, if what gathered before has settled.
    fn begin_to_settle(&mut self) -> Result<(), EngineError> {
        if !self.settling.is_empty() {
            return Err(EngineError::Busy("what gathered before is on its way into the engine".to_owned()));
        }
        // As many more may gather; a table that grows is filled again and again.
        let next = Arc::new(Gathered::with_capacity(self.gathered.len()));
        self.settling = std::mem::replace(&mut self.gathered, next);
        Ok(())
    }
}

impl<E: Engine> Cached<E> {
    /// `engine`, with a cache of at most `bytes_max`, and up to `gathered_max` records that gather.
    pub(crate) fn new(engine: E, bytes_max: usize, gathered_max: usize) -> Cached<E> {
        let records = Records::new(bytes_max);
        let state =
            State { records, gathered: Arc::default(), settling: Arc::default(), asked: false, installing: false };
        Cached {
            shared: Arc::new(Shared { engine, writing: Mutex::new(()), state: Mutex::new(state) }),
            gathered_max,
            #[cfg(feature = "planted")]
            planted: None,
        }
    }

    /// The engine itself, past the cache and what has gathered: to be looked at, not written.
    pub(crate) fn inner(&self) -> &E {
        &self.shared.engine
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// Makes room for so many more records, of so many bytes in all. If it says no, they are too many to gather: they go to
    /// [`Engine::write`].
    ///
    /// # Errors
    ///
    /// [`EngineError::Busy`]: what gathered before has not settled yet.
    pub(crate) fn make_room(&self, records: usize, bytes: usize) -> Result<bool, EngineError> {
        if records > self.gathered_max || bytes > GATHERED_BYTES_MAX {
            return Ok(false);
        }
        let mut state = self.state();
        let (len, gathered_bytes) = (state.gathered.len(), state.gathered.bytes());
        if len + records > self.gathered_max || gathered_bytes + bytes > GATHERED_BYTES_MAX {
            state.begin_to_settle()?;
        }
        Ok(true)
    }

    /// Takes operations that there is room for, all of them visible at once. None of them is on a range of keys.
    pub(crate) fn gather(&self, ops: impl Iterator<Item = WriteOp>) {
        let mut state = self.state();
        let State { records, gathered, .. } = &mut *state;
        let gathered = Arc::make_mut(gathered);
        for op in ops {
            note(records, &op);
            gathered.add(op);
        }
    }

    /// What has gathered shall settle, if what gathered before has.
    pub(crate) fn settle_soon(&self) {
        // Otherwise there will be another time.
        let _busy = self.state().begin_to_settle();
    }

    /// What is to be done for what settles, if nobody does it yet.
    pub(crate) fn settlement(&self) -> Option<Settlement> {
        let mut state = self.state();
        if state.asked || state.settling.is_empty() {
            return None;
        }
        state.asked = true;
        Some(Settlement { work: self.shared.clone() })
    }

    /// Somebody has done it, or could not.
    pub(crate) fn settled(&self) {
        self.state().asked = false;
    }

    /// Gives the engine all that it has not been given yet, and waits for it.
    ///
    /// # Errors
    ///
    /// As [`Engine::write`].
    pub(crate) fn settle(&self) -> Result<(), EngineError> {
        let _writing = lock(&self.shared.writing);
        self.shared.write_settling()?;
        if self.state().gathered.is_empty() { Ok(()) } else { self.write(&[]) }
    }
}

fn note(records: &mut Records, op: &WriteOp) {
    match op {
        WriteOp::Put { key, value } if value.len() > VALUE_BYTES_MAX => records.remove(key),
        WriteOp::Put { key, value } => records.update(key, value),
        WriteOp::Delete { key } => records.remove(key),
        // Of a whole database mostly, and rare: to look which records are in the range takes longer than to read again those
        // that are not.
        WriteOp::DeleteRange { .. } => records.clear(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that come in past the cache: once they are in, it knows nothing any more. What is in the spans is neither read
/// nor written between; what gathers of it before is replaced.
struct CachedStage<E> {
    stage: Box<dyn Stage>,
    spans: Spans,
    shared: Arc<Shared<E>>,
}

impl<E: Engine> Stage for CachedStage<E> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.stage.put(key, value)
    }

    fn commit(self: Box<Self>, ops: &[WriteOp]) -> Result<(), EngineError> {
        let CachedStage { stage, spans, shared } = *self;
        let _writing = lock(&shared.writing);
        lock(&shared.state).installing = true;
        let result = stage.commit(ops);
        let mut state = lock(&shared.state);
        state.installing = false;
        state.records.clear();
        if result.is_ok() {
            let State { gathered, settling, .. } = &mut *state;
            for layer in [gathered, settling].map(Arc::make_mut) {
                layer.retain(|key| !spans.contain(key));
                ops.iter().for_each(|op| layer.forget(op));
            }
        }
        result
    }
}

/// A value as an engine gives it.
type Found = Result<Option<Bytes>, EngineError>;

/// A scan of an engine, begun.
type Begun<'a> = Result<Box<dyn Cursor + 'a>, EngineError>;

impl<E: Engine> Cached<E> {
    /// What is known of a key, or else what `read` finds in the engine.
    fn get_with(&self, key: &[u8], read: impl FnOnce(&E) -> Found) -> Found {
        {
            let state = self.state();
            if let Some(known) = state.records.get(key) {
                return Ok(known);
            }
            if let Some(known) = state.gathered.get(key).or_else(|| state.settling.get(key)) {
                return Ok(known.clone());
            }
        }
        let value = read(&self.shared.engine)?;
        if value.as_ref().is_none_or(|value| value.len() <= VALUE_BYTES_MAX) {
            self.state().records.insert(key, value.as_deref());
        }
        Ok(value)
    }

    /// What `below` scans of the engine, with what has not settled on top.
    fn scan_with<'a>(
        &'a self,
        range: Range<&[u8]>,
        direction: Direction,
        below: impl FnOnce(&'a E) -> Begun<'a>,
    ) -> Begun<'a> {
        let mut layers = self.state().layers();
        layers.retain(|layer| layer.has_any_in(&range));
        let below = below(&self.shared.engine)?;
        if layers.is_empty() { Ok(below) } else { Merged::scan(below, layers, range, direction) }
    }
}

impl<E: Engine> Reader for Cached<E> {
    fn get(&self, key: &[u8]) -> Found {
        self.get_with(key, |engine| engine.get(key))
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Begun<'a> {
        self.scan_with(range.clone(), direction, |engine| engine.scan(range, direction))
    }

    fn try_get(&self, key: &[u8]) -> Found {
        self.get_with(key, |engine| engine.try_get(key))
    }

    fn try_scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Begun<'a> {
        self.scan_with(range.clone(), direction, |engine| engine.try_scan(range, direction))
    }
}

impl<E: Engine> Engine for Cached<E> {
    /// Goes to the engine at once, in one batch with what has gathered.
    fn write(&self, ops: &[WriteOp]) -> Result<(), EngineError> {
        let mut state = self.state();
        if state.installing {
            return Err(EngineError::Busy("a snapshot is being let in".to_owned()));
        }
        if !state.settling.is_empty() {
            return Err(EngineError::Busy("what gathered before is on its way into the engine".to_owned()));
        }
        let mut batch = state.gathered.ops();
        batch.extend_from_slice(ops);
        self.shared.engine.write(&batch)?;
        state.gathered = Arc::default();
        #[cfg(feature = "planted")]
        batch.retain(|op| !(planted!(self, KeepDeletedRange) && matches!(op, WriteOp::DeleteRange { .. })));
        batch.iter().for_each(|op| note(&mut state.records, op));
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Reader + Send + Sync + '_> {
        // Before the engine is asked: what settles between is in both then, and not in none.
        let layers = self.state().layers();
        let below = self.shared.engine.snapshot();
        if layers.is_empty() { below } else { Box::new(Merged { below, layers }) }
    }

    fn freeze(&self, caching: Caching) -> Box<dyn Reader + Send + Sync> {
        let layers = self.state().layers();
        let below = self.shared.engine.freeze(caching);
        if planted!(self, FreezeWithoutGathered) {
            return below;
        }
        if layers.is_empty() { below } else { Box::new(Merged { below, layers }) }
    }

    fn stage(&self, spans: &Spans) -> Result<Box<dyn Stage>, EngineError> {
        let stage = self.shared.engine.stage(spans)?;
        if planted!(self, KeepCache) {
            return Ok(stage);
        }
        Ok(Box::new(CachedStage { stage, spans: spans.clone(), shared: self.shared.clone() }))
    }

    fn get_persisted(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.shared.engine.get_persisted(key)
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.settle()?;
        self.shared.engine.flush()
    }

    fn stats(&self) -> EngineStats {
        self.shared.engine.stats()
    }
}

#[cfg(test)]
mod tests {
    use dstore_storage::MemoryEngine;

    use super::*;

    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    fn key(state: &mut u64) -> Bytes {
        Bytes::from(format!("k{:02}", random(state) % 60))
    }

    fn random_op(state: &mut u64) -> WriteOp {
        match random(state) % 8 {
            0 => WriteOp::Delete { key: key(state) },
            1 if random(state).is_multiple_of(8) => {
                let (start, end) = (key(state), key(state));
                WriteOp::DeleteRange { start: start.clone().min(end.clone()), end: end.max(start) }
            }
            _ => {
                let length = [0, 3, 100, VALUE_BYTES_MAX, VALUE_BYTES_MAX + 1][(random(state) % 5) as usize];
                let value = vec![b'a' + (random(state) % 26) as u8; length];
                WriteOp::Put { key: key(state), value: Bytes::from(value) }
            }
        }
    }

    /// As the settler does it.
    fn run_settlement(cached: &Cached<MemoryEngine>) -> Option<Result<(), EngineError>> {
        let settlement = cached.settlement()?;
        assert!(cached.settlement().is_none(), "one at a time");
        let result = settlement.run();
        cached.settled();
        Some(result)
    }

    /// As a replica does it.
    fn apply(cached: &Cached<MemoryEngine>, op: WriteOp) -> Result<(), EngineError> {
        if !matches!(op, WriteOp::DeleteRange { .. }) && cached.make_room(1, 100)? {
            cached.gather(std::iter::once(op));
            return Ok(());
        }
        cached.write(&[op])
    }

    fn seen(reader: &(impl Reader + ?Sized), direction: Direction) -> Vec<(Bytes, Bytes)> {
        let mut cursor = reader.scan(b"k05"..b"k50", direction).unwrap();
        let mut seen = Vec::new();
        while let Some((key, value)) = cursor.entry() {
            seen.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            cursor.advance().unwrap();
        }
        seen
    }

    #[test]
    fn the_cache_never_differs_from_the_engine() {
        for seed in 0..20 {
            let mut state = seed;
            let cached = Cached::new(MemoryEngine::new(), 8 << 10, 0);
            for _ in 0..2000 {
                let op = random_op(&mut state);
                if random(&mut state).is_multiple_of(10) {
                    cached.inner().refuse_writes(1);
                }
                let _ = cached.write(std::slice::from_ref(&op));
                let key = key(&mut state);
                assert_eq!(cached.get(&key).unwrap(), cached.inner().get(&key).unwrap(), "seed {seed}");
            }
        }
    }

    #[test]
    fn what_gathers_is_seen_as_if_the_engine_had_it() {
        for seed in 0..60 {
            let mut state = seed;
            let cached = Cached::new(MemoryEngine::new(), 8 << 10, [0, 1, 10, 50][(seed % 4) as usize]);
            let plain = MemoryEngine::new();
            let mut frozen = None;
            for _ in 0..1000 {
                let op = random_op(&mut state);
                if random(&mut state).is_multiple_of(10) {
                    cached.inner().refuse_writes(1 + random(&mut state) % 3);
                }
                let settlement = if random(&mut state).is_multiple_of(5) { cached.settlement() } else { None };
                if apply(&cached, op.clone()).is_ok() {
                    plain.write(&[op]).unwrap();
                }
                if let Some(settlement) = settlement {
                    let _busy = settlement.run();
                    cached.settled();
                }
                if random(&mut state).is_multiple_of(50) {
                    cached.settle_soon();
                }
                let key = key(&mut state);
                assert_eq!(cached.get(&key).unwrap(), plain.get(&key).unwrap(), "seed {seed}");
                let direction =
                    if random(&mut state).is_multiple_of(2) { Direction::Forward } else { Direction::Backward };
                match random(&mut state) % 10 {
                    0 => assert_eq!(seen(&cached, direction), seen(&plain, direction), "seed {seed}"),
                    1 => assert_eq!(seen(&*cached.snapshot(), direction), seen(&plain, direction), "seed {seed}"),
                    2 => {
                        frozen = Some((
                            cached.freeze(Caching::Pass),
                            seen(&plain, Direction::Forward),
                            plain.get(&key).unwrap(),
                            key,
                        ))
                    }
                    _ => {}
                }
                if let Some((view, all, value, key)) = &frozen {
                    assert_eq!(view.get(key).unwrap(), *value, "seed {seed}");
                    assert_eq!(seen(&**view, Direction::Forward), *all, "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn each_key_that_gathers_reaches_the_engine_once_and_with_all_others() {
        let cached = Cached::new(MemoryEngine::new(), 8 << 10, 3);
        let put = |key: &'static str, value: &'static str| {
            apply(&cached, WriteOp::Put { key: key.into(), value: value.into() }).unwrap();
        };
        put("k10", "1");
        put("k11", "1");
        put("k10", "2");
        put("k12", "1");
        assert!(cached.settlement().is_none(), "it is not full");
        put("k13", "1");
        assert_eq!(cached.inner().get(b"k10").unwrap(), None);
        run_settlement(&cached).unwrap().unwrap();
        assert_eq!(cached.inner().get(b"k10").unwrap(), Some("2".into()));
        assert_eq!(cached.inner().get(b"k12").unwrap(), Some("1".into()));
        assert_eq!(cached.inner().get(b"k13").unwrap(), None);
    }

    #[test]
    fn nothing_is_written_past_what_settles() {
        let cached = Cached::new(MemoryEngine::new(), 8 << 10, 1);
        let put = |key: &'static str| WriteOp::Put { key: key.into(), value: "1".into() };
        let range = WriteOp::DeleteRange { start: "k10".into(), end: "k11".into() };
        apply(&cached, put("k10")).unwrap();
        apply(&cached, put("k20")).unwrap();
        // The first settles, the second gathers.
        assert!(matches!(cached.write(std::slice::from_ref(&range)), Err(EngineError::Busy(_))));
        assert!(matches!(apply(&cached, put("k30")), Err(EngineError::Busy(_))));
        cached.inner().refuse_writes(1);
        assert!(matches!(run_settlement(&cached), Some(Err(EngineError::Busy(_)))));
        assert_eq!(cached.get(b"k10").unwrap(), Some("1".into()), "it still settles");
        run_settlement(&cached).unwrap().unwrap();
        assert!(run_settlement(&cached).is_none());
        cached.write(&[range]).unwrap();
        assert_eq!(cached.get(b"k10").unwrap(), None);
        assert_eq!(cached.inner().get(b"k20").unwrap(), Some("1".into()));
    }

    #[test]
    fn a_snapshot_replaces_what_has_gathered_in_its_spans_and_nothing_else() {
        let cached = Cached::new(MemoryEngine::new(), 8 << 10, 100);
        let put = |key: &'static str| WriteOp::Put { key: key.into(), value: "old".into() };
        for settles in [["k10", "k11", "k41"], ["k10", "k20", "k40"]] {
            cached.settle_soon();
            settles.into_iter().for_each(|key| apply(&cached, put(key)).unwrap());
        }
        let settlement = cached.settlement().unwrap();
        let spans = Spans::new(vec![Bytes::from("k10")..Bytes::from("k30")]).unwrap();
        let mut stage = cached.stage(&spans).unwrap();
        stage.put(b"k20", b"new").unwrap();
        stage.commit(&[WriteOp::Put { key: "k10".into(), value: "new".into() }]).unwrap();
        settlement.run().unwrap();
        cached.settled();
        cached.settle().unwrap();
        let read = |key: &str| cached.get(key.as_bytes()).unwrap().map(|value| value.to_vec());
        let written = [b"new", b"new", b"old", b"old"].map(|value| Some(value.to_vec()));
        assert_eq!(["k10", "k20", "k40", "k41"].map(read), written);
        assert_eq!(read("k11"), None);
    }

    #[test]
    fn what_gathers_is_not_persisted_by_a_flush_of_the_engine_alone() {
        let cached = Cached::new(MemoryEngine::new(), 8 << 10, 100);
        let put = |value: &'static str| WriteOp::Put { key: "applied".into(), value: value.into() };
        apply(&cached, put("1")).unwrap();
        cached.settle().unwrap();
        apply(&cached, put("2")).unwrap();
        // As the flusher does it, who knows nothing of what gathers.
        cached.inner().flush().unwrap();
        assert_eq!(cached.get(b"applied").unwrap(), Some("2".into()));
        assert_eq!(cached.get_persisted(b"applied").unwrap(), Some("1".into()));
        cached.flush().unwrap();
        assert_eq!(cached.get_persisted(b"applied").unwrap(), Some("2".into()));
    }

    #[test]
    fn what_gathers_is_bounded_in_records_and_in_bytes_however_busy_the_engine_is() {
        let cached = Cached::new(MemoryEngine::new(), 8 << 10, 10);
        let put = |key: usize, bytes: usize| WriteOp::Put { key: key.to_string().into(), value: vec![7; bytes].into() };
        cached.inner().refuse_writes(1000);
        let taken = (0..30).filter(|key| apply(&cached, put(*key, 10)).is_ok()).count();
        assert_eq!(taken, 20, "as many settle as gather");
        let many = Cached::new(MemoryEngine::new(), 8 << 10, usize::MAX);
        many.inner().refuse_writes(1000);
        let (half, key_bytes) = (GATHERED_BYTES_MAX / 2, 1);
        for key in 0..5 {
            let fits = match many.make_room(1, half) {
                Ok(fits) => fits,
                Err(EngineError::Busy(_)) => false,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(fits, key < 4);
            if fits {
                many.gather(std::iter::once(put(key, half - key_bytes)));
            }
        }
        assert!(!many.make_room(1, GATHERED_BYTES_MAX + 1).unwrap(), "it never fits");
    }
}
