//! The memory log keeps the contract of logs, and does on demand what only it can do.

#![allow(clippy::unwrap_used)] // In helpers of tests, too.

use std::collections::BTreeSet;

use dstore_storage::suite::log::{Harness, all, append};
use dstore_storage::{Log, LogError, MemoryLog, RangeId};

struct Memory;

impl Harness for Memory {
    type Log = MemoryLog;

    fn create(&mut self) -> MemoryLog {
        MemoryLog::new()
    }

    fn settle(&mut self, log: &MemoryLog) {
        log.sync();
    }

    fn lose_power(&mut self, log: MemoryLog, seed: u64) -> MemoryLog {
        log.lose_power(seed);
        log
    }
}

const R: RangeId = RangeId(1);

#[test]
fn the_suite_passes() {
    all(&mut Memory);
}

#[test]
fn nothing_is_durable_before_the_sync_and_a_power_loss_may_tear_a_submission() {
    let mut survivors = BTreeSet::new();
    for seed in 0..100 {
        let log = MemoryLog::new();
        log.submit(vec![append(R, 1, 3, 1)], Box::new(|_| panic!("it was never synced"))).unwrap();
        assert_eq!(log.waiting(), 1);
        log.lose_power(seed);
        assert_eq!(log.waiting(), 0);
        survivors.insert(log.status(R).map_or(0, |status| status.last.index.0));
    }
    assert_eq!(survivors, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn a_failure_is_told_to_what_waits_and_sticks() {
    let log = MemoryLog::new();
    let (told, telling) = std::sync::mpsc::channel();
    log.submit(vec![append(R, 1, 1, 1)], Box::new(move |result| told.send(result).unwrap())).unwrap();
    log.fail("disk on fire");
    log.sync();
    assert!(matches!(telling.recv().unwrap(), Err(LogError::Failed(_))));
    let error = log.submit(vec![append(R, 2, 2, 1)], Box::new(|_| {})).unwrap_err();
    assert_eq!(error.to_string(), "log stopped at an earlier failure: log I/O failed: sync memory: disk on fire");
}
