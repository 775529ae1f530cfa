//! [`RocksEngine`] itself: each method of the trait.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dstore_storage::snapshot::{Spans, Stage};
use dstore_storage::{Caching, Cursor, Direction, Engine, EngineStats, Reader, WriteOp};
use rocksdb::properties;
use rocksdb::{DB, DBPinnableSlice, DBRawIterator, ReadOptions, ReadTier, SnapshotWithThreadMode, WriteBatch};

use crate::database::{Database, data};
use crate::options::RocksOptions;
use crate::owned::OwnedSnapshot;
use crate::pace::Pace;
use crate::stage::RocksStage;
use crate::{EngineError, classify, classify_read};

/// What a frozen view reads ahead whose blocks pass by: a chunk of an export in one go instead of a block at a time.
const READAHEAD_BYTES: usize = 1 << 20;

/// An [`Engine`] on RocksDB. See the [crate](crate) for what must hold.
pub struct RocksEngine {
    database: Arc<Database>,
}

impl std::fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Database { path, failed, .. } = &*self.database;
        f.debug_struct("RocksEngine").field("path", path).field("failed", failed).finish_non_exhaustive()
    }
}

impl RocksEngine {
    /// Opens the database at `path`, and makes one where there is nothing. The directory is the engine's alone. What a
    /// crash left of a snapshot that was not let in is removed.
    ///
    /// It stays open, and locked, until the engine and all that it gave away (frozen views, stages) are dropped.
    ///
    /// # Errors
    /// [`EngineError::Locked`] when it is open elsewhere, [`EngineError::UnknownFormat`] when it is not empty and not
    /// ours, [`EngineError::Corrupt`], [`EngineError::Io`] and [`EngineError::Full`] as they say.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<RocksEngine, EngineError> {
        Ok(RocksEngine { database: Arc::new(Database::open(path, options)?) })
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    fn cursor<'a>(
        &'a self,
        options: ReadOptions,
        range: &Range<&[u8]>,
        direction: Direction,
    ) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        let options = scan_options(options, range);
        RocksCursor::start(self.database.db.raw_iterator_cf_opt(self.database.data(), options), direction)
    }
}

pub(crate) fn found(value: Option<DBPinnableSlice<'_>>) -> Option<Bytes> {
    value.map(|value| Bytes::copy_from_slice(&value))
}

impl Reader for RocksEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.database.db.get_pinned_cf(self.database.data(), key).map(found).map_err(|error| classify(&error))
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        if range.start >= range.end {
            return Ok(Box::new(EmptyCursor));
        }
        self.cursor(ReadOptions::default(), &range, direction)
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(found) = self.database.pace.read(|| self.get(key)) {
            return found;
        }
        let options = &self.database.cached_reads;
        let value = self.database.db.get_pinned_cf_opt(self.database.data(), key, options);
        value.map(found).map_err(|error| classify_read(&error))
    }

    fn try_scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        if range.start >= range.end {
            return Ok(Box::new(EmptyCursor));
        }
        let mut options = ReadOptions::default();
        let Some(begun) = self.database.pace.begin() else {
            options.set_read_tier(ReadTier::BlockCache);
            return self.cursor(options, &range, direction);
        };
        let (pace, cursor) = (&self.database.pace, self.cursor(options, &range, direction)?);
        Ok(Box::new(TimedCursor { cursor, pace, begun }))
    }
}

impl Engine for RocksEngine {
    fn write(&self, ops: &[WriteOp]) -> Result<(), EngineError> {
        self.database.check()?;
        let mut batch = WriteBatch::default();
        let data = self.database.data();
        for op in ops {
            match op {
                WriteOp::Put { key, value } => batch.put_cf(data, key, value),
                WriteOp::Delete { key } => batch.delete_cf(data, key),
                WriteOp::DeleteRange { start, end } if start < end => batch.delete_range_cf(data, start, end),
                WriteOp::DeleteRange { .. } => {}
            }
        }
        self.database.db.write_opt(batch, &self.database.writes).map_err(|error| {
            let error = self.database.stick(classify(&error));
            if matches!(error, EngineError::Busy(_)) {
                self.database.busy_total.fetch_add(1, Ordering::Relaxed);
            }
            error
        })
    }

    fn snapshot(&self) -> Box<dyn Reader + Send + Sync + '_> {
        Box::new(RocksSnapshot { db: &self.database.db, snapshot: self.database.db.snapshot() })
    }

    fn freeze(&self, caching: Caching) -> Box<dyn Reader + Send + Sync> {
        Box::new(RocksFrozen { snapshot: OwnedSnapshot::new(Arc::clone(&self.database)), caching })
    }

    fn stage(&self, spans: &Spans) -> Result<Box<dyn Stage>, EngineError> {
        Ok(Box::new(RocksStage::new(&self.database, spans)?))
    }

    fn get_persisted(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.database.check_background()?;
        self.database
            .db
            .get_pinned_cf_opt(self.database.data(), key, &self.database.persisted_reads)
            .map(found)
            .map_err(|error| classify(&error))
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.database.flush()
    }

    fn stats(&self) -> EngineStats {
        let _sticks = self.database.check_background();
        let cache_bytes = self.database.cache.get_usage() as u64;
        let unflushed_bytes = self.database.property(properties::CUR_SIZE_ALL_MEM_TABLES);
        EngineStats {
            keys_estimate: self.database.property(properties::ESTIMATE_NUM_KEYS),
            disk_bytes: self.database.property(properties::LIVE_SST_FILES_SIZE),
            unflushed_bytes,
            // Memtables are charged to the cache; only table readers stand beside it.
            memory_bytes: cache_bytes + self.database.property(properties::ESTIMATE_TABLE_READERS_MEM),
            cache_bytes: cache_bytes.saturating_sub(unflushed_bytes),
            compaction_pending_bytes: self.database.property(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            stalled: self.database.property(properties::IS_WRITE_STOPPED) > 0
                || self.database.property(properties::ACTUAL_DELAYED_WRITE_RATE) > 0,
            busy_total: self.database.busy_total.load(Ordering::Relaxed),
            background_errors: self.database.background_errors(),
            free_bytes: self.database.free_bytes(),
        }
    }
}

struct RocksSnapshot<'a> {
    db: &'a DB,
    snapshot: SnapshotWithThreadMode<'a, DB>,
}

impl Reader for RocksSnapshot<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.snapshot.get_pinned_cf(data(self.db), key).map(found).map_err(|error| classify(&error))
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        if range.start >= range.end {
            return Ok(Box::new(EmptyCursor));
        }
        let options = scan_options(ReadOptions::default(), &range);
        RocksCursor::start(self.snapshot.raw_iterator_cf_opt(data(self.db), options), direction)
    }
}

/// A view that stands on its own.
struct RocksFrozen {
    snapshot: OwnedSnapshot,
    caching: Caching,
}

impl Reader for RocksFrozen {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.snapshot.snapshot().get_pinned_cf(self.snapshot.database().data(), key);
        value.map(found).map_err(|error| classify(&error))
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        if range.start >= range.end {
            return Ok(Box::new(EmptyCursor));
        }
        let mut options = scan_options(ReadOptions::default(), &range);
        if self.caching == Caching::Pass {
            options.fill_cache(false);
            options.set_readahead_size(READAHEAD_BYTES);
        }
        let iterator = self.snapshot.snapshot().raw_iterator_cf_opt(self.snapshot.database().data(), options);
        RocksCursor::start(iterator, direction)
    }
}

pub(crate) fn scan_options(mut options: ReadOptions, range: &Range<&[u8]>) -> ReadOptions {
    options.set_iterate_lower_bound(range.start);
    options.set_iterate_upper_bound(range.end);
    options
}

/// A scan over nothing: RocksDB must not be asked for a range that ends before it starts.
pub(crate) struct EmptyCursor;

impl Cursor for EmptyCursor {
    fn entry(&self) -> Option<(&[u8], &[u8])> {
        None
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
}

pub(crate) struct RocksCursor<'a> {
    iterator: DBRawIterator<'a>,
    direction: Direction,
}

/// A cursor of one who must not wait, and has not had to so far.
struct TimedCursor<'a> {
    cursor: Box<dyn Cursor + 'a>,
    pace: &'a Pace,
    begun: Instant,
}

impl Cursor for TimedCursor<'_> {
    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.cursor.entry()
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        self.cursor.advance()
    }
}

impl Drop for TimedCursor<'_> {
    fn drop(&mut self) {
        // It may have been much work, too.
        self.pace.end(self.begun, Duration::MAX);
    }
}

impl<'a> RocksCursor<'a> {
    pub(crate) fn start(
        iterator: DBRawIterator<'a>,
        direction: Direction,
    ) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        let mut cursor = RocksCursor { iterator, direction };
        match direction {
            Direction::Forward => cursor.iterator.seek_to_first(),
            Direction::Backward => cursor.iterator.seek_to_last(),
        }
        cursor.check()?;
        Ok(Box::new(cursor))
    }

    /// An iterator that is not valid is at its end or has failed.
    fn check(&self) -> Result<(), EngineError> {
        if self.iterator.valid() { Ok(()) } else { self.iterator.status().map_err(|error| classify_read(&error)) }
    }
}

impl Cursor for RocksCursor<'_> {
    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.iterator.item()
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        if self.iterator.valid() {
            match self.direction {
                Direction::Forward => self.iterator.next(),
                Direction::Backward => self.iterator.prev(),
            }
        }
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(number: u32) -> WriteOp {
        WriteOp::Put { key: Bytes::from(format!("key:{number:06}")), value: Bytes::from(vec![b'v'; 500]) }
    }

    #[test]
    fn after_a_read_that_waited_what_is_not_in_memory_is_refused_until_another_thread_has_read_it() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("data");
        {
            let engine = RocksEngine::open(&path, &RocksOptions::default()).expect("a new engine");
            engine.write(&(0..2_000).map(put).collect::<Vec<_>>()).expect("write");
            engine.flush().expect("flush");
        }
        let engine = Arc::new(RocksEngine::open(&path, &RocksOptions::default()).expect("the same again"));
        let (key, absent) = (&b"key:001000"[..], &b"key:001000x"[..]);
        engine.database.pace.rest(1 << 40);
        assert!(matches!(engine.try_get(key), Err(EngineError::WouldBlock)));
        let begun = engine.try_scan(key..&b"key:001100"[..], Direction::Forward);
        assert!(matches!(begun.map(drop), Err(EngineError::WouldBlock)));

        // What is only written is in memory.
        engine.write(&[put(5_000)]).expect("write");
        assert!(engine.try_get(b"key:005000").expect("in the memtable").is_some());

        let other = engine.clone();
        let read = move || {
            for key in [key, absent] {
                other.get(key).expect("get");
            }
            let mut cursor = other.scan(key..&b"key:001100"[..], Direction::Forward).expect("scan");
            while cursor.entry().is_some() {
                cursor.advance().expect("advance");
            }
        };
        std::thread::spawn(read).join().expect("no panic");
        assert!(engine.try_get(key).expect("in the cache").is_some());
        assert_eq!(engine.try_get(absent).expect("in the cache"), None);
        let mut cursor = engine.try_scan(key..&b"key:001100"[..], Direction::Forward).expect("in the cache");
        let mut seen = 0;
        while cursor.entry().is_some() {
            seen += 1;
            cursor.advance().expect("in the cache");
        }
        assert_eq!(seen, 100);
    }
}
