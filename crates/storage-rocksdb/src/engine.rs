//! [`RocksEngine`] itself: each method of the trait, and the stickiness of failures.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dstore_storage::{Cursor, Direction, Engine, EngineStats, Reader, WriteOp};
use rocksdb::properties;
use rocksdb::{
    Cache, ColumnFamily, DB, DBPinnableSlice, DBRawIterator, FlushOptions, ReadOptions, ReadTier,
    SnapshotWithThreadMode, WriteBatch, WriteOptions,
};

use crate::options::{RocksOptions, rocksdb_options};
use crate::{EngineError, classify, place};

/// The column family of everything.
const DATA: &str = "data";

/// An [`Engine`] on RocksDB. See the [crate](crate) for what must hold.
pub struct RocksEngine {
    db: DB,
    cache: Cache,
    path: PathBuf,
    writes: WriteOptions,
    persisted_reads: ReadOptions,
    /// The first failure. Set once; every later write and flush is refused with it.
    failed: OnceLock<String>,
    busy_total: AtomicU64,
}

impl std::fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksEngine").field("path", &self.path).field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl RocksEngine {
    /// Opens the database at `path`, and makes one where there is nothing. The directory is the engine's alone.
    ///
    /// # Errors
    /// [`EngineError::Locked`] when it is open elsewhere, [`EngineError::UnknownFormat`] when it is not empty and not
    /// ours, [`EngineError::Corrupt`], [`EngineError::Io`] and [`EngineError::Full`] as they say.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<RocksEngine, EngineError> {
        if place::inspect(path)? == place::Found::Nothing {
            place::create(path, |making| {
                let (mut db_options, _cache) = rocksdb_options(options)?;
                db_options.create_if_missing(true);
                db_options.create_missing_column_families(true);
                open_db(&db_options, making).map(drop)
            })?;
        }
        let (db_options, cache) = rocksdb_options(options)?;
        let db = open_db(&db_options, path)?;
        let mut writes = WriteOptions::default();
        writes.disable_wal(true);
        writes.set_no_slowdown(true);
        let mut persisted_reads = ReadOptions::default();
        persisted_reads.set_read_tier(ReadTier::Persisted);
        tracing::info!(path = %path.display(), memory_bytes = options.memory_bytes, "data opened");
        Ok(RocksEngine {
            db,
            cache,
            path: path.to_owned(),
            writes,
            persisted_reads,
            failed: OnceLock::new(),
            busy_total: AtomicU64::new(0),
        })
    }

    fn data(&self) -> &ColumnFamily {
        data(&self.db)
    }

    fn check(&self) -> Result<(), EngineError> {
        match self.failed.get() {
            Some(first) => Err(EngineError::Failed(first.clone())),
            None => Ok(()),
        }
    }

    /// Remembers the first failure; passes on any error.
    fn stick(&self, error: EngineError) -> EngineError {
        if !matches!(error, EngineError::Busy(_)) && self.failed.set(error.to_string()).is_ok() {
            tracing::error!(path = %self.path.display(), %error, "data failed");
        }
        error
    }

    fn property(&self, name: &properties::PropName) -> u64 {
        // A property that cannot be read is a figure that is not shown.
        self.db.property_int_value_cf(self.data(), name).ok().flatten().unwrap_or(0)
    }

    /// RocksDB counts the database's background errors with the default column family alone.
    fn background_errors(&self) -> u64 {
        self.db.property_int_value(properties::BACKGROUND_ERRORS).ok().flatten().unwrap_or(0)
    }

    /// RocksDB may have failed in the background without a caller to tell. A background error counts even if RocksDB
    /// thinks it recovered from it (it does so by itself when a full disk has room again).
    fn check_background(&self) -> Result<(), EngineError> {
        let errors = self.background_errors();
        if errors > 0 {
            return Err(
                self.stick(EngineError::Io(format!("{errors} failed flushes or compactions in the background")))
            );
        }
        Ok(())
    }
}

fn open_db(options: &rocksdb::Options, path: &Path) -> Result<DB, EngineError> {
    DB::open_cf_with_opts(options, path, [("default", options.clone()), (DATA, options.clone())]).map_err(|error| {
        match classify(&error) {
            EngineError::Io(detail) if detail.contains("lock") => EngineError::Locked { path: path.to_owned(), detail },
            other => other,
        }
    })
}

fn data(db: &DB) -> &ColumnFamily {
    db.cf_handle(DATA).expect("opening would have failed without the column family")
}

fn found(value: Option<DBPinnableSlice<'_>>) -> Option<Bytes> {
    value.map(|value| Bytes::copy_from_slice(&value))
}

impl Reader for RocksEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.db.get_pinned_cf(self.data(), key).map(found).map_err(|error| classify(&error))
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        if range.start >= range.end {
            return Ok(Box::new(EmptyCursor));
        }
        let options = scan_options(ReadOptions::default(), &range);
        RocksCursor::start(self.db.raw_iterator_cf_opt(self.data(), options), direction)
    }
}

impl Engine for RocksEngine {
    fn write(&self, ops: &[WriteOp]) -> Result<(), EngineError> {
        self.check()?;
        let mut batch = WriteBatch::default();
        for op in ops {
            match op {
                WriteOp::Put { key, value } => batch.put_cf(self.data(), key, value),
                WriteOp::Delete { key } => batch.delete_cf(self.data(), key),
                WriteOp::DeleteRange { start, end } if start < end => batch.delete_range_cf(self.data(), start, end),
                WriteOp::DeleteRange { .. } => {}
            }
        }
        self.db.write_opt(batch, &self.writes).map_err(|error| {
            let error = self.stick(classify(&error));
            if matches!(error, EngineError::Busy(_)) {
                self.busy_total.fetch_add(1, Ordering::Relaxed);
            }
            error
        })
    }

    fn snapshot(&self) -> Box<dyn Reader + Send + Sync + '_> {
        Box::new(RocksSnapshot { db: &self.db, snapshot: self.db.snapshot() })
    }

    fn get_persisted(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.check_background()?;
        self.db.get_pinned_cf_opt(self.data(), key, &self.persisted_reads).map(found).map_err(|error| classify(&error))
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.check()?;
        self.check_background()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cf_opt(self.data(), &options).map_err(|error| match classify(&error) {
            // A flush is not refused for being busy; whatever this is, the data is not durable.
            EngineError::Busy(detail) => self.stick(EngineError::Io(detail)),
            other => self.stick(other),
        })?;
        self.check_background()
    }

    fn stats(&self) -> EngineStats {
        let _sticks = self.check_background();
        let cache_bytes = self.cache.get_usage() as u64;
        let unflushed_bytes = self.property(properties::CUR_SIZE_ALL_MEM_TABLES);
        EngineStats {
            keys_estimate: self.property(properties::ESTIMATE_NUM_KEYS),
            disk_bytes: self.property(properties::LIVE_SST_FILES_SIZE),
            unflushed_bytes,
            // Memtables are charged to the cache; only table readers stand beside it.
            memory_bytes: cache_bytes + self.property(properties::ESTIMATE_TABLE_READERS_MEM),
            cache_bytes: cache_bytes.saturating_sub(unflushed_bytes),
            compaction_pending_bytes: self.property(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            stalled: self.property(properties::IS_WRITE_STOPPED) > 0
                || self.property(properties::ACTUAL_DELAYED_WRITE_RATE) > 0,
            busy_total: self.busy_total.load(Ordering::Relaxed),
            background_errors: self.background_errors(),
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

fn scan_options(mut options: ReadOptions, range: &Range<&[u8]>) -> ReadOptions {
    options.set_iterate_lower_bound(range.start);
    options.set_iterate_upper_bound(range.end);
    options
}

/// A scan over nothing: RocksDB must not be asked for a range that ends before it starts.
struct EmptyCursor;

impl Cursor for EmptyCursor {
    fn entry(&self) -> Option<(&[u8], &[u8])> {
        None
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
}

struct RocksCursor<'a> {
    iterator: DBRawIterator<'a>,
    direction: Direction,
}

impl<'a> RocksCursor<'a> {
    fn start(iterator: DBRawIterator<'a>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
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
