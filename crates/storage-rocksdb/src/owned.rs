//! A snapshot and a table writer that own what they borrow, so that they can move to another thread.

#![allow(unsafe_code)]

use std::mem;
use std::path::Path;
use std::sync::Arc;

use rocksdb::{DB, SnapshotWithThreadMode, SstFileWriter};

use crate::database::Database;

type Snapshot<'a> = SnapshotWithThreadMode<'a, DB>;

/// A snapshot that keeps its database open.
pub(crate) struct OwnedSnapshot {
    /// Borrows `database`. Fields are dropped in the order they stand here, so it is released before the database may close.
    snapshot: Snapshot<'static>,
    database: Arc<Database>,
}

impl OwnedSnapshot {
    pub(crate) fn new(database: Arc<Database>) -> OwnedSnapshot {
        let snapshot = database.db.snapshot();
        // SAFETY: only the lifetime changes. The reference in the snapshot is to the `DB` inside the `Arc`'s allocation,
        // which does not move, is never borrowed mutably, and lives until `database` is dropped, after the snapshot. The
        // 'static snapshot never leaves this struct: `snapshot()` gives it out with the lifetime of the borrow of `self`.
        let snapshot = unsafe { mem::transmute::<Snapshot<'_>, Snapshot<'static>>(snapshot) };
        OwnedSnapshot { snapshot, database }
    }

    pub(crate) fn snapshot(&self) -> &Snapshot<'_> {
        &self.snapshot
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }
}

/// A writer of one table file, made with the options of a database that it keeps open.
pub(crate) struct OwnedTableWriter {
    /// Borrows the options in `_database`; dropped before it, as fields are dropped in the order they stand here.
    writer: SstFileWriter<'static>,
    _database: Arc<Database>,
}

impl OwnedTableWriter {
    pub(crate) fn open(database: Arc<Database>, path: &Path) -> Result<OwnedTableWriter, rocksdb::Error> {
        let writer = SstFileWriter::create(&database.options);
        writer.open(path)?;
        // SAFETY: only the lifetime changes. The options are inside the `Arc`'s allocation, which does not move, are never
        // borrowed mutably, and live until `_database` is dropped, after the writer. The 'static writer never leaves this
        // struct.
        let writer = unsafe { mem::transmute::<SstFileWriter<'_>, SstFileWriter<'static>>(writer) };
        Ok(OwnedTableWriter { writer, _database: database })
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), rocksdb::Error> {
        self.writer.put(key, value)
    }

    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<(), rocksdb::Error> {
        self.writer.delete(key)
    }

    pub(crate) fn delete_range(&mut self, start: &[u8], end: &[u8]) -> Result<(), rocksdb::Error> {
        self.writer.delete_range(start, end)
    }

    /// Bytes of the blocks written so far.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.writer.file_size()
    }

    /// Completes, syncs and closes the file.
    pub(crate) fn finish(&mut self) -> Result<(), rocksdb::Error> {
        self.writer.finish()
    }
}
