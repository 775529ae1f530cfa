//! What the process knows of itself, from `/proc`.

use std::sync::Arc;

use dstore_node::{Host, LogUse, Usage};
use dstore_storage::Log;

/// This process.
pub struct Process {
    ticks_per_second: u64,
    page_bytes: u64,
    log: Arc<dyn Log>,
    segment_bytes: u64,
}

impl Process {
    /// This process, whose log is in files of `segment_bytes`.
    pub fn new(log: Arc<dyn Log>, segment_bytes: u64) -> Process {
        Process {
            ticks_per_second: rustix::param::clock_ticks_per_second(),
            page_bytes: rustix::param::page_size() as u64,
            log,
            segment_bytes,
        }
    }

    fn read(&self) -> Option<Usage> {
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let resident_pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the program's name in parentheses and may hold spaces; the 14th and 15th are the times.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let mut time_us = || Some(fields.next()?.parse::<u64>().ok()? * 1_000_000 / self.ticks_per_second);
        let (user_us, system_us) = (time_us()?, time_us()?);
        Some(Usage { resident_bytes: resident_pages * self.page_bytes, user_us, system_us })
    }
}

impl Host for Process {
    fn usage(&self) -> Usage {
        self.read().unwrap_or_default()
    }

    fn log(&self) -> LogUse {
        let stats = self.log.stats();
        LogUse { bytes: stats.segments * self.segment_bytes, entries: stats.entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_memory() {
        let log = Arc::new(dstore_storage::MemoryLog::new());
        let usage = Process::new(log, 0).read().unwrap();
        assert!(usage.resident_bytes > 64 << 10, "{usage:?}");
    }
}
