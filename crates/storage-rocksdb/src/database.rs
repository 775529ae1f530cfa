//! [`Database`]: the open database that the engine, its frozen views and its stages share, and the stickiness of failures.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use rocksdb::properties;
use rocksdb::{Cache, ColumnFamily, DB, FlushOptions, Options, ReadOptions, ReadTier, WriteOptions};

use crate::options::{RocksOptions, rocksdb_options};
use crate::pace::Pace;
use crate::{EngineError, classify, manifest, place, stage};

/// The column family of everything.
pub(crate) const DATA: &str = "data";

/// An open database. It is closed when the last who shares it is gone.
pub(crate) struct Database {
    pub(crate) db: DB,
    pub(crate) cache: Cache,
    pub(crate) path: PathBuf,
    /// What the database was opened with; table files made beside it are made alike.
    pub(crate) options: Options,
    pub(crate) writes: WriteOptions,
    pub(crate) persisted_reads: ReadOptions,
    /// Of what is in memory alone.
    pub(crate) cached_reads: ReadOptions,
    /// Whether more than that may be read by who must not wait.
    pub(crate) pace: Pace,
    /// The first failure. Set once; every later write and flush is refused with it.
    pub(crate) failed: OnceLock<String>,
    pub(crate) busy_total: AtomicU64,
    /// Snapshots staged since the database was opened.
    pub(crate) stages: AtomicU64,
}

impl Database {
    pub(crate) fn open(path: &Path, options: &RocksOptions) -> Result<Database, EngineError> {
        if place::inspect(path)? == place::Found::Nothing {
            place::create(path, |making| {
                let (mut db_options, _cache) = rocksdb_options(options)?;
                db_options.create_if_missing(true);
                db_options.create_missing_column_families(true);
                open_db(&db_options, making).map(drop)
            })?;
        }
        let (db_options, cache) = rocksdb_options(options)?;
        let db = match open_db(&db_options, path) {
            Err(EngineError::Corrupt(detail)) if detail.contains("/MANIFEST-") && manifest::cut_torn_tail(path)? => {
                open_db(&db_options, path)?
            }
            other => other?,
        };
        // The database's lock is held now, so nobody else is staging anything here.
        stage::remove_leftovers(path)?;
        let mut writes = WriteOptions::default();
        writes.disable_wal(true);
        writes.set_no_slowdown(true);
        // A large batch comes in the order of its keys: each search in the memtable begins where the one before ended.
        writes.set_memtable_insert_hint_per_batch(true);
        let mut persisted_reads = ReadOptions::default();
        persisted_reads.set_read_tier(ReadTier::Persisted);
        let mut cached_reads = ReadOptions::default();
        cached_reads.set_read_tier(ReadTier::BlockCache);
        tracing::info!(path = %path.display(), memory_bytes = options.memory_bytes, "data opened");
        Ok(Database {
            db,
            cache,
            path: path.to_owned(),
            options: db_options,
            writes,
            persisted_reads,
            cached_reads,
            pace: Pace::new(),
            failed: OnceLock::new(),
            busy_total: AtomicU64::new(0),
            stages: AtomicU64::new(0),
        })
    }

    pub(crate) fn data(&self) -> &ColumnFamily {
        data(&self.db)
    }

    pub(crate) fn check(&self) -> Result<(), EngineError> {
        match self.failed.get() {
            Some(first) => Err(EngineError::Failed(first.clone())),
            None => Ok(()),
        }
    }

    /// Remembers the first failure; passes on any error.
    pub(crate) fn stick(&self, error: EngineError) -> EngineError {
        if !matches!(error, EngineError::Busy(_)) && self.failed.set(error.to_string()).is_ok() {
            tracing::error!(path = %self.path.display(), %error, "data failed");
        }
        error
    }

    pub(crate) fn property(&self, name: &properties::PropName) -> u64 {
        // A property that cannot be read is a figure that is not shown.
        self.db.property_int_value_cf(self.data(), name).ok().flatten().unwrap_or(0)
    }

    /// RocksDB counts the database's background errors with the default column family alone.
    pub(crate) fn background_errors(&self) -> u64 {
        self.db.property_int_value(properties::BACKGROUND_ERRORS).ok().flatten().unwrap_or(0)
    }

    /// RocksDB may have failed in the background without a caller to tell. A background error counts even if RocksDB
    /// thinks it recovered from it (it does so by itself when a full disk has room again).
    pub(crate) fn check_background(&self) -> Result<(), EngineError> {
        let errors = self.background_errors();
        if errors > 0 {
            return Err(
                self.stick(EngineError::Io(format!("{errors} failed flushes or compactions in the background")))
            );
        }
        Ok(())
    }

    pub(crate) fn flush(&self) -> Result<(), EngineError> {
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

    /// Bytes that may still be written to the filesystem; none if it does not tell.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let figures = rustix::fs::statvfs(&self.path).ok()?;
        Some(figures.f_bavail.saturating_mul(figures.f_frsize))
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

/// As [`Database::open`] opens it, but changing nothing on disk, its lock included.
pub(crate) fn open_to_read(path: &Path, options: &RocksOptions) -> Result<DB, EngineError> {
    let (options, _cache) = rocksdb_options(options)?;
    let families = [("default", options.clone()), (DATA, options.clone())];
    DB::open_cf_with_opts_for_read_only(&options, path, families, false).map_err(|error| classify(&error))
}

pub(crate) fn data(db: &DB) -> &ColumnFamily {
    db.cf_handle(DATA).expect("opening would have failed without the column family")
}
