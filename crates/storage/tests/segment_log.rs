//! The segment log keeps the contract of logs, on the simulated disk and on the real one.

#![allow(clippy::unwrap_used)] // In helpers of tests, too.

use std::sync::Arc;
use std::sync::mpsc;

use dstore_storage::log::SEGMENT_BYTES_MIN;
use dstore_storage::suite::log::{Harness, all};
use dstore_storage::suite::sim_disk::SimDisk;
use dstore_storage::{Log, SegmentLog, SegmentOptions};
use tempfile::TempDir;

/// Small segments, so that the suite goes through many, and a small cache, so that it reads from them.
fn options() -> SegmentOptions {
    SegmentOptions { segment_bytes: SEGMENT_BYTES_MIN, cache_bytes_max: 2000, ..SegmentOptions::new(7) }
}

/// On a simulated disk, stepped: deterministic, and a power loss tears what is being written.
#[derive(Default)]
struct Simulated {
    disk: SimDisk,
}

impl Harness for Simulated {
    type Log = SegmentLog;

    fn create(&mut self) -> SegmentLog {
        self.disk = SimDisk::new();
        SegmentLog::open_stepped(Arc::new(self.disk.clone()), &options()).unwrap()
    }

    fn settle(&mut self, log: &SegmentLog) {
        while log.step() {}
    }

    fn lose_power(&mut self, log: SegmentLog, seed: u64) -> SegmentLog {
        // The power goes at one of the next operations; the completions of what failed then must not panic.
        drop(log);
        self.disk = self.disk.lose_power(seed);
        SegmentLog::open_stepped(Arc::new(self.disk.clone()), &options()).unwrap()
    }
}

/// On the real disk, with the log's own threads. Closing it writes everything, so nothing is lost.
#[derive(Default)]
struct Real {
    places: Vec<TempDir>,
}

impl Harness for Real {
    type Log = SegmentLog;

    fn create(&mut self) -> SegmentLog {
        self.places.push(TempDir::new().unwrap());
        self.open()
    }

    fn settle(&mut self, log: &SegmentLog) {
        let (done, settled) = mpsc::channel();
        log.submit(vec![], Box::new(move |result| done.send(result).unwrap())).unwrap();
        settled.recv().unwrap().unwrap();
    }

    fn lose_power(&mut self, log: SegmentLog, _seed: u64) -> SegmentLog {
        drop(log);
        self.open()
    }
}

impl Real {
    fn open(&self) -> SegmentLog {
        SegmentLog::open(&self.places.last().unwrap().path().join("log"), &options()).unwrap()
    }
}

#[test]
fn the_suite_passes_on_a_simulated_disk() {
    all(&mut Simulated::default());
}

#[test]
fn the_suite_passes_on_the_real_disk() {
    all(&mut Real::default());
}
