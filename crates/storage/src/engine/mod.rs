//! [`Engine`]: the ordered key-value store that holds a node's applied data.
//!
//! For the node, which applies committed log entries to it and evaluates commands over it; implemented by RocksDB
//! (`dstore-storage-rocksdb`) and in memory ([`MemoryEngine`]), and tested by one suite.
//!
//! # The contract
//!
//! - [`Engine::write`] is atomic and visible at once, but **not durable**: there is no write-ahead log below this
//!   trait, because the replicated log is it. After a crash an engine holds the effect of a *prefix* of the batches
//!   written: everything up to some batch, whole, and nothing of any later one.
//! - Therefore every applied batch must carry its applied (index, term) as a key of the same batch. Whatever prefix
//!   survives, the position it names is the truth about the data beside it.
//! - [`Engine::flush`] makes everything written before the call durable. It blocks on the disk: call it off the loop.
//! - [`Engine::get_persisted`] reads what a power loss right now would leave. The log may be truncated up to the
//!   applied index read this way, and no further.
//! - [`Engine::stage`] is the other way in: many records become visible and durable together, in one step that also makes
//!   everything before it durable. So what survives a crash is still a prefix. See [`crate::snapshot`].
//! - A failure other than [`EngineError::Busy`] on a write or flush is sticky: every later write and flush fails with
//!   [`EngineError::Failed`]. Nothing resumes by itself; the node stops and is started again.
//!
//! # Example
//!
//! ```
//! use dstore_storage::{Bytes, Direction, Engine, MemoryEngine, Reader, WriteOp};
//!
//! let engine = MemoryEngine::new();
//! engine.write(&[WriteOp::Put { key: Bytes::from("a"), value: Bytes::from("1") }])?;
//! assert_eq!(engine.get(b"a")?, Some(Bytes::from("1")));
//! assert_eq!(engine.get_persisted(b"a")?, None);
//! engine.flush()?;
//! assert_eq!(engine.get_persisted(b"a")?, Some(Bytes::from("1")));
//!
//! let mut cursor = engine.scan(b"a"..b"b", Direction::Forward)?;
//! while let Some((key, value)) = cursor.entry() {
//!     assert_eq!((key, value), (b"a".as_slice(), b"1".as_slice()));
//!     cursor.advance()?;
//! }
//! # Ok::<(), dstore_storage::EngineError>(())
//! ```

pub mod memory;
mod shared;

pub use memory::MemoryEngine;

use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;

use crate::WriteOp;
use crate::snapshot::{Spans, Stage};

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first key of the range up.
    Forward,
    /// From the last key of the range down.
    Backward,
}

/// Reads of a consistent state: the engine itself (its newest state at each call) or a snapshot of it.
pub trait Reader {
    /// The value of `key`, or `None` where there is none.
    ///
    /// # Errors
    /// [`EngineError::Io`] and [`EngineError::Corrupt`] when the disk does not give back what was written.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// A cursor over the keys in `range` (start included, end not), already at the first entry in `direction`.
    ///
    /// The cursor sees the data as of this call, whatever is written while it lives. It pins memory and files until it
    /// is dropped, so it should not outlive the work at hand. An empty or inverted range gives an empty cursor.
    ///
    /// # Errors
    /// As [`Reader::get`].
    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError>;

    /// As [`Reader::get`], for a caller that must not wait for a disk. By itself it does wait: a reader that is used on a
    /// loop has something better.
    ///
    /// # Errors
    /// As [`Reader::get`]; and [`EngineError::WouldBlock`] where the answer is not in memory. After a [`Reader::get`] of the
    /// same key, on any thread, it most likely is.
    fn try_get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.get(key)
    }

    /// As [`Reader::scan`], for a caller that must not wait for a disk; see [`Reader::try_get`].
    ///
    /// # Errors
    /// As [`Reader::scan`]; and [`EngineError::WouldBlock`], now or as the cursor advances.
    fn try_scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        self.scan(range, direction)
    }
}

/// A position in a scan. Made by [`Reader::scan`]; looks at one entry at a time, so that a caller can merge it with an
/// overlay of its own without copying what it skips.
pub trait Cursor {
    /// The entry under the cursor, or `None` past the last one. Costs nothing and may be asked repeatedly.
    fn entry(&self) -> Option<(&[u8], &[u8])>;

    /// Moves to the next entry in the scan's direction. Past the end it does nothing.
    ///
    /// # Errors
    /// As [`Reader::get`]. After an error the cursor is at its end.
    fn advance(&mut self) -> Result<(), EngineError>;
}

/// What becomes of the blocks that scans of a frozen view read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// They are kept, as those of any other read.
    Keep,
    /// They pass by, many at a time: for reading much, once (an export, a checksum), without pushing other things out of
    /// the cache.
    Pass,
}

/// A node's applied data. See the [module](self) for the contract; `Send + Sync`, so that a flush can wait for the disk
/// on another thread while a loop reads and writes.
pub trait Engine: Reader + Send + Sync + 'static {
    /// Applies `ops` in order, all or nothing. Visible to every later read; durable only after a flush.
    ///
    /// # Errors
    /// [`EngineError::Busy`]: nothing was written, the engine is behind with its background work; hold the batch and
    /// try again later. Anything else is sticky: stop the node.
    fn write(&self, ops: &[WriteOp]) -> Result<(), EngineError>;

    /// A consistent view of the data as of now, untouched by later writes. It pins old data until dropped.
    fn snapshot(&self) -> Box<dyn Reader + Send + Sync + '_>;

    /// A consistent view as of now that stands on its own: it may go to another thread and outlive the caller. It pins old
    /// data until dropped, and keeps the engine open.
    fn freeze(&self, caching: Caching) -> Box<dyn Reader + Send + Sync>;

    /// A place for records that shall replace all that is in `spans`, in one step. Keeps the engine open until dropped.
    ///
    /// # Errors
    /// [`EngineError::Full`], [`EngineError::Io`]: there is no room for it. [`EngineError::Failed`] as always.
    fn stage(&self, spans: &Spans) -> Result<Box<dyn Stage>, EngineError>;

    /// The value of `key` that would survive a power loss right now.
    ///
    /// # Errors
    /// As [`Reader::get`].
    fn get_persisted(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Makes every batch written before this call durable, and returns when it is. Blocks on the disk.
    ///
    /// # Errors
    /// All are sticky: stop the node.
    fn flush(&self) -> Result<(), EngineError>;

    /// Figures for INFO and metrics. Cheap enough for once a second.
    fn stats(&self) -> EngineStats;
}

/// What an engine tells of itself. A figure that an implementation does not have is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// An estimate of how many keys there are.
    pub keys_estimate: u64,
    /// Bytes of live table files on disk.
    pub disk_bytes: u64,
    /// Bytes of written data that is not flushed yet.
    pub unflushed_bytes: u64,
    /// Bytes of memory in use for unflushed data and cached blocks together.
    pub memory_bytes: u64,
    /// Bytes of memory in use by the block cache.
    pub cache_bytes: u64,
    /// Bytes that compaction still has to rewrite.
    pub compaction_pending_bytes: u64,
    /// Writes are being slowed down or refused because background work is behind.
    pub stalled: bool,
    /// Writes refused with [`EngineError::Busy`] since the engine was opened.
    pub busy_total: u64,
    /// Background errors since the engine was opened. Above 0 the engine is failed.
    pub background_errors: u64,
    /// Bytes that may still be written to the filesystem that the data is on; none if that is not known.
    pub free_bytes: Option<u64>,
}

/// Why an engine could not do what it was asked; one variant for each thing a caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Background work is behind and the write was refused, whole. Push back upstream and try again.
    #[error("storage engine is busy, the write was not applied: {0}")]
    Busy(String),
    /// What was to be read without waiting is not in memory. Have another thread read it, and try again.
    #[error("not in memory")]
    WouldBlock,
    /// The disk is full. Stop the node.
    #[error("no space left for the data: {0}")]
    Full(String),
    /// The operating system failed a read, write or sync. Stop the node.
    #[error("data I/O failed: {0}")]
    Io(String),
    /// What is on disk is not what was written. Stop the node; the data must come from another replica.
    #[error("data is corrupt: {0}")]
    Corrupt(String),
    /// Another process, or another engine of this process, has the directory open. Nothing was touched.
    #[error("data directory {path} is in use by another process: {detail}", path = .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the lock said.
        detail: String,
    },
    /// The directory was written by something this version does not know. Nothing was touched.
    #[error("data directory {path} has a format this version does not know: {detail}", path = .path.display())]
    UnknownFormat {
        /// The directory.
        path: PathBuf,
        /// What was found there.
        detail: String,
    },
    /// An earlier write or flush failed, so nothing is written any more. Carries the first failure.
    #[error("storage engine stopped at an earlier failure: {0}")]
    Failed(String),
}
