//! [`RocksStage`]: a snapshot on its way in, as table files beside the data, and the one step that lets them in.
//!
//! ```text
//!  data/staging/<n>/  1.sst   delete_range [span start .. k)    records below k
//!                     2.sst   delete_range [k .. span end)      the other records of the span
//!                     3.sst   delete_range of another span      its records
//!                     4.sst   the extra changes of the commit
//! ```
//!
//! All entries of an ingested file get one sequence number, and a range removal hides only what is older. So the removal
//! that each file carries makes everything vanish that was in its piece of the span before, and nothing of the file's own.
//! The pieces do not overlap; the extra changes may overlap them, and as the last file they get the highest number.
//!
//! # Why it is atomic and durable
//!
//! `IngestExternalFile` links each file into the data directory, syncs the file and the directory, and then writes one
//! version edit that names all files as one manifest record, which it syncs. The record is found whole or not at all when the
//! database is opened. Files that were linked and are not named are removed at that time, and the staging directory is removed by
//! [`remove_leftovers`]. It stops writers from its check for overlapping memtables until the record is synced, so
//! the files' sequence numbers lie between the batches before and after.
//!
//! The memtables are flushed *before* it, off the loop and with writers running: so everything written before the commit is
//! durable when the snapshot is, and the ingestion need not flush while it holds writers up.
//!
//! # How many files
//!
//! Where the old data reaches down to the base level, ingested files land in level 0, whose number of files RocksDB bounds
//! by refusing writes. So files grow with the snapshot: [`FILES_EACH_SIZE`] of each size, then twice the size. A snapshot of
//! 1 GiB has about 16, of 16 GiB 32.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use dstore_storage::WriteOp;
use dstore_storage::snapshot::{Spans, Stage};
use rocksdb::IngestExternalFileOptions;

use crate::database::Database;
use crate::owned::OwnedTableWriter;
use crate::place::io_error;
use crate::{EngineError, classify};

/// The directory, inside the database's, in which snapshots are staged.
const STAGING: &str = "staging";
/// Size of the first table files of a snapshot.
const FILE_BYTES_MIN: u64 = 32 << 20;
/// So many files are made of one size before the next is twice that.
const FILES_EACH_SIZE: usize = 4;
/// A table file is synced whenever it has grown by this much, so that the log's syncs never wait behind a flood.
const SYNC_BYTES: u64 = 4 << 20;
/// Flushes and tries to ingest without one, before the ingestion may flush while it holds writers up. More than one is
/// needed only when a batch touched the spans meanwhile, which it must not.
const QUIET_TRIES: usize = 3;

/// Removes what a crash left of snapshots that were not let in.
pub(crate) fn remove_leftovers(data: &Path) -> Result<(), EngineError> {
    let staging = data.join(STAGING);
    match fs::remove_dir_all(&staging) {
        Ok(()) => {
            tracing::info!(path = %staging.display(), "removed a snapshot that was not let in before the last stop")
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("remove", &staging, &error)),
    }
    Ok(())
}

/// See the [module](self).
pub(crate) struct RocksStage {
    /// The table file being written. Dropped before its directory is removed.
    writer: Option<Table>,
    place: StagingDirectory,
    database: Arc<Database>,
    spans: Spans,
    /// The span that the next record is looked for in; all before are complete.
    span: usize,
    /// Complete table files, in the order in which they are let in.
    files: Vec<PathBuf>,
}

impl RocksStage {
    pub(crate) fn new(database: &Arc<Database>, spans: &Spans) -> Result<RocksStage, EngineError> {
        database.check()?;
        let number = database.stages.fetch_add(1, Ordering::Relaxed);
        let place = StagingDirectory(database.path.join(STAGING).join(number.to_string()));
        fs::create_dir_all(&place.0).map_err(|error| io_error("create", &place.0, &error))?;
        Ok(RocksStage {
            writer: None,
            place,
            database: Arc::clone(database),
            spans: spans.clone(),
            span: 0,
            files: Vec::new(),
        })
    }

    /// Begins the file for the piece of a span that starts at `start`.
    fn begin(&self, start: &[u8]) -> Result<Table, EngineError> {
        let path = self.place.0.join(format!("{}.sst", self.files.len() + 1));
        Table::begin(&self.database, path, Bytes::copy_from_slice(start))
    }

    /// Completes the file at hand, whose piece of the span ends at `end`.
    fn complete(&mut self, table: Table, end: &[u8]) -> Result<(), EngineError> {
        self.files.push(table.complete(end)?);
        Ok(())
    }

    /// Completes the spans before the one that holds `key`; all of them if there is none. A span without a record has a file
    /// too, for its removal.
    fn complete_spans_before(&mut self, key: Option<&[u8]>) -> Result<(), EngineError> {
        while let Some(span) = self.spans.get(self.span).cloned() {
            if key.is_some_and(|key| key < span.end.as_ref()) {
                return Ok(());
            }
            let table = match self.writer.take() {
                Some(table) => table,
                None => self.begin(&span.start)?,
            };
            self.complete(table, &span.end)?;
            self.span += 1;
        }
        assert!(key.is_none(), "a record lies beyond the spans");
        Ok(())
    }

    fn bytes_max(&self) -> u64 {
        FILE_BYTES_MIN << (self.files.len() / FILES_EACH_SIZE).min(10)
    }

    /// The file of the changes that come on top.
    fn extra(&mut self, ops: &[WriteOp]) -> Result<(), EngineError> {
        let Changes { points, removals } = Changes::of(ops);
        if points.is_empty() && removals.is_empty() {
            return Ok(());
        }
        let mut table = self.begin(&[])?;
        for (start, end) in removals {
            table.writer.delete_range(start, end).map_err(|error| classify(&error))?;
        }
        for (key, value) in points {
            match value {
                Some(value) => table.writer.put(key, value),
                None => table.writer.delete(key),
            }
            .map_err(|error| classify(&error))?;
        }
        self.files.push(table.finish()?);
        Ok(())
    }

    fn ingest(&self, may_flush: bool) -> Result<(), rocksdb::Error> {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        options.set_allow_blocking_flush(may_flush);
        let database = &self.database;
        database.db.ingest_external_file_cf_opts(database.data(), &options, self.files.clone())
    }

    /// Whether the ingestion was refused, with nothing changed, because a memtable has keys in the spans.
    fn needs_flush(error: &rocksdb::Error) -> bool {
        error.kind() == rocksdb::ErrorKind::InvalidArgument && error.as_ref().contains("requires flush")
    }
}

impl Stage for RocksStage {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.complete_spans_before(Some(key))?;
        let bytes_max = self.bytes_max();
        let mut table = match self.writer.take() {
            Some(table) if table.writer.file_bytes() < bytes_max => table,
            Some(full) => {
                self.complete(full, key)?;
                self.begin(key)?
            }
            None => {
                let span = self.spans.get(self.span).expect("a record lies in a span");
                self.begin(&span.start)?
            }
        };
        table.put(key, value)?;
        self.writer = Some(table);
        Ok(())
    }

    fn commit(mut self: Box<Self>, ops: &[WriteOp]) -> Result<(), EngineError> {
        self.complete_spans_before(None)?;
        self.extra(ops)?;
        for attempt in 0.. {
            self.database.flush().map_err(failed)?;
            match self.ingest(attempt >= QUIET_TRIES) {
                Ok(()) => break,
                Err(error) if attempt < QUIET_TRIES && Self::needs_flush(&error) => {}
                Err(error) => {
                    // Nobody can tell here how far it came.
                    let detail = format!("a snapshot could not be let in: {}", error.as_ref());
                    return Err(failed(self.database.stick(EngineError::Io(detail))));
                }
            }
        }
        self.database.check_background().map_err(failed)
    }
}

/// What an error of the engine itself is to the caller, who must tell it from one of the staged files.
fn failed(error: EngineError) -> EngineError {
    match error {
        EngineError::Failed(_) => error,
        other => EngineError::Failed(other.to_string()),
    }
}

/// A table file being written.
struct Table {
    writer: OwnedTableWriter,
    path: PathBuf,
    /// The same file, for syncing what was written.
    file: File,
    synced_bytes: u64,
    /// Where the piece of the span begins that it covers.
    start: Bytes,
}

impl Table {
    fn begin(database: &Arc<Database>, path: PathBuf, start: Bytes) -> Result<Table, EngineError> {
        let writer = OwnedTableWriter::open(Arc::clone(database), &path).map_err(|error| classify(&error))?;
        let file = File::open(&path).map_err(|error| io_error("open", &path, &error))?;
        Ok(Table { writer, path, file, synced_bytes: 0, start })
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.writer.put(key, value).map_err(|error| classify(&error))?;
        let bytes = self.writer.file_bytes();
        if bytes >= self.synced_bytes + SYNC_BYTES {
            self.file.sync_data().map_err(|error| io_error("sync", &self.path, &error))?;
            self.synced_bytes = bytes;
        }
        Ok(())
    }

    fn complete(mut self, end: &[u8]) -> Result<PathBuf, EngineError> {
        self.writer.delete_range(&self.start, end).map_err(|error| classify(&error))?;
        self.finish()
    }

    fn finish(mut self) -> Result<PathBuf, EngineError> {
        self.writer.finish().map_err(|error| classify(&error))?;
        Ok(self.path)
    }
}

/// A directory of staged files, removed with what is left in it.
struct StagingDirectory(PathBuf);

impl Drop for StagingDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            // It takes space until the next open removes it, nothing else.
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a staged snapshot");
        }
    }
}

/// What a list of changes comes to, as one table file can say it: removals of ranges, and over them the last word on each
/// key.
#[derive(Default)]
struct Changes<'a> {
    points: BTreeMap<&'a [u8], Option<&'a [u8]>>,
    removals: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Changes<'a> {
    fn of(ops: &'a [WriteOp]) -> Changes<'a> {
        let mut changes = Changes::default();
        for op in ops {
            match op {
                WriteOp::Put { key, value } => {
                    changes.points.insert(key, Some(value));
                }
                WriteOp::Delete { key } => {
                    changes.points.insert(key, None);
                }
                WriteOp::DeleteRange { start, end } if start < end => {
                    changes.points.retain(|key, _| *key < start.as_ref() || *key >= end.as_ref());
                    changes.removals.push((start, end));
                }
                WriteOp::DeleteRange { .. } => {}
            }
        }
        changes
    }
}
