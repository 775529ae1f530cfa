//! [`RocksEngine`]: the engine for real data, and the only crate that links RocksDB's C++.
//!
//! For the server, which opens one per node and hands it around as [`dstore_storage::Engine`].
//!
//! # What must hold
//!
//! - **No write-ahead log.** Every write disables it: the replicated log is the write-ahead log. What is in memtables is
//!   lost in a crash, and the node applies it again from its log.
//! - **What survives is a prefix of the batches.** There is one column family, `data` (the one named `default` must exist
//!   and stays empty). A batch goes into one memtable whole; memtables are flushed oldest first, and a flush enters the
//!   manifest only when its table file is synced. So no batch can be on disk without every batch before it, and the
//!   applied position that each batch carries is true of the data beside it. With several column families this would
//!   need atomic flushes.
//! - **Nothing blocks the loop in a write.** Writes ask for no slowdown; when compaction or flushes are behind they are
//!   refused with [`EngineError::Busy`] and change nothing.
//! - **Failures are sticky.** The first failed write or flush, and any background error, fails the engine for good.
//!   RocksDB's own retries are turned off.
//! - **A snapshot enters in one manifest record.** Its table files are made and synced beside the data; one ingestion links
//!   them in. Until its record is synced to the manifest none of them counts, from then on all do. See `stage`.
//!
//! # Caveats
//!
//! Reads may go to the disk. Those that must not wait (`try_get`, `try_scan`) do so too, as long as the kernel has what they look
//! for in memory; see `pace`. Scans over many range removals are slow until compaction has passed. The memory budget
//! bounds block cache and memtables, not the table readers' own small structures, nor what cursors pin.

mod database;
mod engine;
mod manifest;
mod options;
mod owned;
mod pace;
mod place;
mod reclaim;
mod stage;
mod view;

pub use engine::RocksEngine;
pub use options::RocksOptions;
pub use reclaim::Reclaimed;
pub use view::RocksView;

pub(crate) use dstore_storage::EngineError;

/// Sorts RocksDB's error into what a caller can do about it. The library tells errors apart by text alone.
pub(crate) fn classify(error: &rocksdb::Error) -> EngineError {
    use rocksdb::ErrorKind;
    let text = error.as_ref().to_owned();
    if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
        return EngineError::Full(text);
    }
    match error.kind() {
        ErrorKind::Incomplete | ErrorKind::Busy | ErrorKind::TimedOut | ErrorKind::TryAgain => EngineError::Busy(text),
        ErrorKind::Corruption => EngineError::Corrupt(text),
        _ => EngineError::Io(text),
    }
}

/// The same for reads, which RocksDB calls incomplete where they would have had to go to the disk and must not.
pub(crate) fn classify_read(error: &rocksdb::Error) -> EngineError {
    if error.kind() == rocksdb::ErrorKind::Incomplete { EngineError::WouldBlock } else { classify(error) }
}
