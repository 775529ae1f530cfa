//! [`RocksView`]: the data of a node that is down, to look at.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use dstore_storage::{Cursor, Direction, Reader};
use rocksdb::properties;
use rocksdb::{DB, ReadOptions};

use crate::database::{data, open_to_read};
use crate::engine::{EmptyCursor, RocksCursor, found, scan_options};
use crate::{EngineError, RocksOptions, classify, place};

/// A database that nobody has open, read-only: nothing on disk is changed. Clones are the same database.
///
/// What it shows is what was persisted: what a node would find after a power loss, before it replays its log.
#[derive(Clone)]
pub struct RocksView {
    db: Arc<DB>,
}

impl std::fmt::Debug for RocksView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksView").field("path", &self.db.path()).finish()
    }
}

impl RocksView {
    /// Opens the database at `path`.
    ///
    /// # Errors
    /// [`EngineError::UnknownFormat`] when there is none or it is not ours; [`EngineError::Corrupt`] and
    /// [`EngineError::Io`] as they say.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<RocksView, EngineError> {
        if place::inspect(path)? == place::Found::Nothing {
            let detail = "there is nothing".to_owned();
            return Err(EngineError::UnknownFormat { path: path.to_owned(), detail });
        }
        Ok(RocksView { db: Arc::new(open_to_read(path, options)?) })
    }

    /// Table files, and the bytes in them.
    #[must_use]
    pub fn files(&self) -> (usize, u64) {
        let files = self.db.live_files().map_or(0, |files| files.len());
        let bytes = self.db.property_int_value_cf(data(&self.db), properties::LIVE_SST_FILES_SIZE);
        (files, bytes.ok().flatten().unwrap_or(0))
    }
}

impl Reader for RocksView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.db.get_pinned_cf(data(&self.db), key).map(found).map_err(|error| classify(&error))
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        if range.start >= range.end {
            return Ok(Box::new(EmptyCursor));
        }
        let options = scan_options(ReadOptions::default(), &range);
        RocksCursor::start(self.db.raw_iterator_cf_opt(data(&self.db), options), direction)
    }
}
