//! [`RocksOptions`] and what RocksDB is told because of them.
//!
//! The budgets are for a node that shares a small machine with its clients (two cores, a few GiB) and scale up from
//! there. Each figure that is not RocksDB's default has its reason beside it.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, LogLevel, Options, WriteBufferManager,
};

use crate::{EngineError, classify};

/// What the server decides about the engine.
#[derive(Clone, Debug)]
pub struct RocksOptions {
    /// Memory for cached blocks, index and filter blocks and memtables together.
    pub memory_bytes: usize,
    /// Threads for flushes and compactions; at least 2, so that a long compaction never holds up a flush.
    pub background_threads: usize,
    /// Table files kept open. Above it files are closed and opened again as needed.
    pub open_files_max: usize,
}

impl Default for RocksOptions {
    fn default() -> RocksOptions {
        RocksOptions { memory_bytes: 256 << 20, background_threads: 2, open_files_max: 512 }
    }
}

/// Memtables, the one written to included. Four let a burst go on while two are being flushed.
const MEMTABLES_MAX: usize = 4;

impl RocksOptions {
    /// The size of one memtable: all of them may fill at most half the budget. 32 MiB keeps the number of small files down
    /// where there is memory, and what is resident after a burst small; 1 MiB still makes progress where there is none.
    fn memtable_bytes(&self) -> usize {
        (self.memory_bytes / 2 / MEMTABLES_MAX).clamp(1 << 20, 32 << 20)
    }
}

/// Options of the database with its one column family, and the cache whose use [`dstore_storage::EngineStats`] reports.
pub(crate) fn rocksdb_options(options: &RocksOptions) -> Result<(Options, Cache), EngineError> {
    // Three things the binding has no function for. A failed background job must stay failed until the node is started
    // again. Closing must not flush: the node flushes when it stops in order, and after a failure it must not write.
    // A memtable with very many range removals makes every read slow; flushing it early bounds that.
    let text = "max_bgerror_resume_count=0;avoid_flush_during_shutdown=true;memtable_max_range_deletions=1000";
    let mut db = Options::default().get_options_from_string(text).map_err(|error| classify(&error))?;

    let cache = Cache::new_lru_cache(options.memory_bytes.max(8 << 20));
    let memtable_bytes = options.memtable_bytes();
    // Charged to the cache, so that the budget is one. It never stalls a writer: the memtable count does, by refusal.
    let memtables =
        WriteBufferManager::new_write_buffer_manager_with_cache(memtable_bytes * MEMTABLES_MAX, false, cache.clone());
    db.set_write_buffer_manager(&memtables);
    db.set_write_buffer_size(memtable_bytes);
    db.set_max_write_buffer_number(MEMTABLES_MAX as i32);

    // The engine's first level is as large as the memtables that fall into it together, so that it is rewritten seldom.
    db.set_max_bytes_for_level_base((memtable_bytes * MEMTABLES_MAX) as u64);
    db.set_target_file_size_base(memtable_bytes.max(8 << 20) as u64);
    db.set_level_compaction_dynamic_level_bytes(true);
    // Twice the default. A snapshot may put some 30 files into level 0 at once (see `stage`), which do not overlap and so cost
    // readers little; writes must not be refused until they are compacted.
    db.set_level_zero_slowdown_writes_trigger(40);
    db.set_level_zero_stop_writes_trigger(56);
    // The bottom level holds nine tenths of the data and is written once for many reads: worth the better compression.
    db.set_compression_type(DBCompressionType::Lz4);
    db.set_bottommost_compression_type(DBCompressionType::Zstd);

    db.set_max_background_jobs(i32::try_from(options.background_threads.max(2)).unwrap_or(i32::MAX));
    // Written out as it comes, instead of a megabyte flood at the final sync that the log's sync would wait behind.
    db.set_bytes_per_sync(1 << 20);
    db.set_max_open_files(i32::try_from(options.open_files_max.max(64)).unwrap_or(i32::MAX));

    // Already RocksDB's default; here because correctness leans on it.
    db.set_paranoid_checks(true);

    // Its own text log is for post-mortems only; keep it small.
    db.set_log_level(LogLevel::Warn);
    db.set_max_log_file_size(4 << 20);
    db.set_keep_log_file_num(4);
    db.set_stats_dump_period_sec(0);

    db.set_block_based_table_factory(&table_options(&cache));
    Ok((db, cache))
}

fn table_options(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // 10 bits a key: one needless table read in a hundred look-ups of an absent key.
    table.set_bloom_filter(10.0, false);
    table.set_optimize_filters_for_memory(true);
    // Index and filters in pieces inside the budget, only their small top level pinned: the data is larger than memory.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4 << 10);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // Between RocksDB's 4 KiB (point reads) and the 16 to 32 KiB that compress better.
    table.set_block_size(8 << 10);
    table
}
