//! [`Cached`]: an engine with a cache of small records in front of point reads.
//!
//! A read of a record that was read before costs a look into a hash table instead of a search through the engine's
//! memtable and files, and a write reads the record it replaces. Everything this node reads and writes of its engine goes
//! through here, so the cache never differs from the engine: a write that succeeds changes both, one that is refused
//! neither. Scans go to the engine.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dstore_storage::snapshot::{Spans, Stage};
use dstore_storage::{Cursor, Direction, Engine, EngineError, EngineStats, Reader, WriteOp};
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

/// Larger values are not kept: the engine's own cache of blocks serves them as well.
const VALUE_BYTES_MAX: usize = 4 << 10;

/// Memory of an entry beside key and value: two shared buffers, a slot, its place in the table.
const ENTRY_OVERHEAD_BYTES: u64 = 160;

/// About how large an entry is; the table is laid out for so many.
const ENTRY_BYTES_TYPICAL: u64 = 256;

/// An engine and a cache. See the [module](self).
pub(crate) struct Cached<E> {
    engine: E,
    /// `None` of a key: the engine has no such record. One thread uses it; the lock is there for the type.
    records: Arc<Mutex<Records>>,
    #[cfg(feature = "planted")]
    pub(crate) planted: Option<crate::Planted>,
}

type Records = Cache<Bytes, Option<Bytes>, Weight>;

#[derive(Clone)]
struct Weight;

impl Weighter<Bytes, Option<Bytes>> for Weight {
    fn weight(&self, key: &Bytes, value: &Option<Bytes>) -> u64 {
        key.len() as u64 + value.as_ref().map_or(0, |value| value.len() as u64) + ENTRY_OVERHEAD_BYTES
    }
}

impl<E: Engine> Cached<E> {
    /// `engine`, with a cache of at most `bytes_max`.
    pub(crate) fn new(engine: E, bytes_max: usize) -> Cached<E> {
        let bytes_max = bytes_max as u64;
        let entries = usize::try_from(bytes_max / ENTRY_BYTES_TYPICAL).unwrap_or(usize::MAX);
        Cached {
            engine,
            records: Arc::new(Mutex::new(Cache::with_weighter(entries, bytes_max, Weight))),
            #[cfg(feature = "planted")]
            planted: None,
        }
    }

    /// The engine itself, past the cache: to be looked at, not written.
    pub(crate) fn inner(&self) -> &E {
        &self.engine
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        lock(&self.records)
    }

    fn note(records: &mut Records, op: &WriteOp) {
        match op {
            WriteOp::Put { key, value } if value.len() > VALUE_BYTES_MAX => drop(records.remove(&key[..])),
            WriteOp::Put { key, value } => {
                if records.contains_key(&key[..]) {
                    // The operation's bytes are parts of a whole entry, which must not live as long as its parts.
                    records.insert(Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value)));
                }
            }
            WriteOp::Delete { key } => drop(records.remove(&key[..])),
            // Of a whole database mostly, and rare: to look which records are in the range takes longer than to read again
            // those that are not.
            WriteOp::DeleteRange { .. } => records.clear(),
        }
    }
}

fn lock(records: &Mutex<Records>) -> MutexGuard<'_, Records> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that come in past the cache: once they are in, it knows nothing any more. What is in the spans is not to be
/// read between.
struct CachedStage {
    stage: Box<dyn Stage>,
    records: Arc<Mutex<Records>>,
}

impl Stage for CachedStage {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.stage.put(key, value)
    }

    fn commit(self: Box<Self>, ops: &[WriteOp]) -> Result<(), EngineError> {
        let CachedStage { stage, records } = *self;
        let result = stage.commit(ops);
        lock(&records).clear();
        result
    }
}

impl<E: Engine> Reader for Cached<E> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(known) = self.records().get(key) {
            return Ok(known.clone());
        }
        let value = self.engine.get(key)?;
        if value.as_ref().is_none_or(|value| value.len() <= VALUE_BYTES_MAX) {
            self.records().insert(Bytes::copy_from_slice(key), value.clone());
        }
        Ok(value)
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        self.engine.scan(range, direction)
    }
}

impl<E: Engine> Engine for Cached<E> {
    fn write(&self, ops: &[WriteOp]) -> Result<(), EngineError> {
        self.engine.write(ops)?;
        let mut records = self.records();
        ops.iter().for_each(|op| Self::note(&mut records, op));
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Reader + Send + Sync + '_> {
        self.engine.snapshot()
    }

    fn freeze(&self) -> Box<dyn Reader + Send + Sync> {
        self.engine.freeze()
    }

    fn stage(&self, spans: &Spans) -> Result<Box<dyn Stage>, EngineError> {
        let stage = self.engine.stage(spans)?;
        if planted!(self, KeepCache) {
            return Ok(stage);
        }
        Ok(Box::new(CachedStage { stage, records: self.records.clone() }))
    }

    fn get_persisted(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get_persisted(key)
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.engine.flush()
    }

    fn stats(&self) -> EngineStats {
        self.engine.stats()
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

    #[test]
    fn the_cache_never_differs_from_the_engine() {
        for seed in 0..20 {
            let mut state = seed;
            let cached = Cached::new(MemoryEngine::new(), 8 << 10);
            for _ in 0..2000 {
                let key = |state: &mut u64| Bytes::from(format!("k{:02}", random(state) % 60));
                let op = match random(&mut state) % 8 {
                    0 => WriteOp::Delete { key: key(&mut state) },
                    1 if random(&mut state).is_multiple_of(8) => {
                        let (start, end) = (key(&mut state), key(&mut state));
                        WriteOp::DeleteRange { start: start.clone().min(end.clone()), end: end.max(start) }
                    }
                    _ => {
                        let length =
                            [0, 3, 100, VALUE_BYTES_MAX, VALUE_BYTES_MAX + 1][(random(&mut state) % 5) as usize];
                        WriteOp::Put { key: key(&mut state), value: Bytes::from(vec![b'x'; length]) }
                    }
                };
                if random(&mut state).is_multiple_of(10) {
                    cached.inner().refuse_writes(1);
                }
                let _ = cached.write(std::slice::from_ref(&op));
                let key = key(&mut state);
                assert_eq!(cached.get(&key).unwrap(), cached.inner().get(&key).unwrap(), "seed {seed}");
            }
        }
    }
}
