//! Room taken back on a disk that is nearly full.
//!
//! What was removed still lies on the disk until a compaction has passed, and a compaction needs room for what it writes
//! before it gives up what it read. On a disk that is nearly full, one that fails for want of room would stop the node. So
//! [`RocksEngine::reclaim`] first finds out how much is still alive, and compacts only if there is room for all of that;
//! and [`RocksEngine::hold_compactions`] keeps those away that RocksDB would begin by itself.
//!
//! A table counts as dead if not one key in its span is alive. So this helps after much was removed, not where every second
//! key is left; there only more room helps.

use dstore_storage::{Engine, EngineError};
use rocksdb::{CompactOptions, LiveFile, ReadOptions};

use crate::classify;
use crate::database::Database;
use crate::engine::RocksEngine;

/// Room that a compaction leaves for others.
const SPARE_BYTES: u64 = 4 << 20;
/// Removed records that a look for one that is alive passes over. Beyond, the table counts as alive.
const SKIPPED_MAX: u64 = 2_000_000;

/// Beyond what any compaction writes by these options: four memtables in level 0 or, after snapshots and bursts, up to 56,
/// with the level below, and in the levels below that 25 files.
const COMPACTION_BYTES_MAX: u64 = 4 << 30;
/// Tables of a level that one from above may overlap, and that one with them: what is compacted together further down.
const TABLES_TOGETHER: u64 = 12;
/// So many tables in level 0 are near the number where writes are refused.
const LEVEL_0_TABLES: usize = 30;

/// What came of an attempt to take room back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaimed {
    /// There is nothing worth it.
    Nothing,
    /// A compaction would need more room than there is, in bytes.
    NoRoom {
        /// What it might write.
        needs: u64,
    },
    /// So many bytes of tables went away.
    Bytes(u64),
}

impl RocksEngine {
    /// Compacts what was removed out of the data, if that fits into `free_bytes`. Flush before: what is in memory does not
    /// count. Blocks on the disk, for as long as it takes to read and write what is alive.
    ///
    /// # Errors
    /// As [`dstore_storage::Engine::flush`].
    pub fn reclaim(&self, free_bytes: u64) -> Result<Reclaimed, EngineError> {
        let database = self.database();
        database.check()?;
        let tables = database.tables()?;
        let total: u64 = tables.iter().map(|table| table.size as u64).sum();
        let mut alive = 0;
        for table in &tables {
            if database.is_alive(table)? {
                alive += table.size as u64;
            }
        }
        if alive == total {
            return Ok(Reclaimed::Nothing);
        }
        let needs = alive + SPARE_BYTES;
        if needs > free_bytes {
            return Ok(Reclaimed::NoRoom { needs });
        }
        let mut options = CompactOptions::default();
        // Flushes go on beside it.
        options.set_exclusive_manual_compaction(false);
        database.db.compact_range_cf_opt(database.data(), None::<&[u8]>, None::<&[u8]>, &options);
        database.check_background()?;
        let left: u64 = database.tables()?.iter().map(|table| table.size as u64).sum();
        Ok(match total.saturating_sub(left) {
            0 => Reclaimed::Nothing,
            bytes => Reclaimed::Bytes(bytes),
        })
    }

    /// Whether whatever compaction RocksDB may begin by itself fits into `free_bytes`, or must be risked because writes would
    /// be refused for good without it.
    ///
    /// # Errors
    /// The tables could not be listed.
    pub fn may_compact(&self, free_bytes: u64) -> Result<bool, EngineError> {
        if free_bytes >= COMPACTION_BYTES_MAX.min(self.stats().disk_bytes + SPARE_BYTES) {
            return Ok(true);
        }
        let tables = self.database().tables()?;
        let largest = tables.iter().map(|table| table.size as u64).max().unwrap_or(0);
        let base = tables.iter().map(|table| table.level).filter(|level| *level > 0).min();
        let is_upper = |table: &&LiveFile| table.level == 0 || Some(table.level) == base;
        let upper: u64 = tables.iter().filter(is_upper).map(|table| table.size as u64).sum();
        let level_0 = tables.iter().filter(|table| table.level == 0).count();
        Ok(level_0 >= LEVEL_0_TABLES || free_bytes >= upper + TABLES_TOGETHER * largest + SPARE_BYTES)
    }

    /// Keeps RocksDB from beginning compactions by itself, or lets it.
    ///
    /// # Errors
    /// The setting could not be noted; it may hold all the same.
    pub fn hold_compactions(&self, hold: bool) -> Result<(), EngineError> {
        let database = self.database();
        let value = if hold { "true" } else { "false" };
        let options = [("disable_auto_compactions", value)];
        database.db.set_options_cf(database.data(), &options).map_err(|error| classify(&error))
    }
}

impl Database {
    fn tables(&self) -> Result<Vec<LiveFile>, EngineError> {
        let mut tables = self.db.live_files().map_err(|error| classify(&error))?;
        tables.retain(|table| table.column_family_name == crate::database::DATA);
        Ok(tables)
    }

    /// Whether there is a key in the span of a table.
    fn is_alive(&self, table: &LiveFile) -> Result<bool, EngineError> {
        let (Some(start), Some(end)) = (&table.start_key, &table.end_key) else { return Ok(true) };
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_max_skippable_internal_keys(SKIPPED_MAX);
        // An iterator beyond its bound is not valid. The last key itself belongs to the table.
        let bound: Vec<u8> = end.iter().copied().chain([0]).collect();
        options.set_iterate_upper_bound(bound);
        let mut iterator = self.db.raw_iterator_cf_opt(self.data(), options);
        iterator.seek(start);
        if iterator.valid() {
            return Ok(true);
        }
        match iterator.status().map_err(|error| classify(&error)) {
            Ok(()) => Ok(false),
            Err(EngineError::Busy(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }
}
