//! [`RocksEngine`] itself: each method of the trait.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dstore_storage::snapshot::{Spans, Stage};
use dstore_storage::{Cursor, Direction, Engine, EngineStats, Reader, WriteOp};
use rocksdb::properties;
use rocksdb::{DB, DBPinnableSlice, DBRawIterator, ReadOptions, SnapshotWithThreadMode, WriteBatch};

use crate::database::{Database, data};
use crate::options::RocksOptions;
use crate::owned::OwnedSnapshot;
use crate::stage::RocksStage;
use crate::{EngineError, classify};

/// What a frozen view reads ahead: a chunk of an export in one go instead of a block at a time.
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
        let options = scan_options(ReadOptions::default(), &range);
        RocksCursor::start(self.database.db.raw_iterator_cf_opt(self.database.data(), options), direction)
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

    fn freeze(&self) -> Box<dyn Reader + Send + Sync> {
        Box::new(RocksFrozen(OwnedSnapshot::new(Arc::clone(&self.database))))
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

/// A view for reading much, once.
struct RocksFrozen(OwnedSnapshot);

impl Reader for RocksFrozen {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.0.snapshot().get_pinned_cf(self.0.database().data(), key);
        value.map(found).map_err(|error| classify(&error))
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        if range.start >= range.end {
            return Ok(Box::new(EmptyCursor));
        }
        let mut options = scan_options(ReadOptions::default(), &range);
        options.fill_cache(false);
        options.set_readahead_size(READAHEAD_BYTES);
        let iterator = self.0.snapshot().raw_iterator_cf_opt(self.0.database().data(), options);
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
        if self.iterator.valid() { Ok(()) } else { self.iterator.status().map_err(|error| classify(&error)) }
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
