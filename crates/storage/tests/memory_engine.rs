//! The memory engine keeps the contract of engines, and does on demand what only it can do.

#![allow(clippy::unwrap_used)] // In helpers of tests, too.

use dstore_storage::suite::engine::{Harness, all};
use dstore_storage::{Bytes, Engine, EngineError, MemoryEngine, Reader, WriteOp};

struct Memory;

impl Harness for Memory {
    type Engine = MemoryEngine;

    fn create(&mut self) -> MemoryEngine {
        MemoryEngine::new()
    }

    fn lose_power(&mut self, engine: MemoryEngine, seed: u64) -> MemoryEngine {
        engine.lose_power(seed);
        engine
    }
}

fn put(value: &'static str) -> [WriteOp; 1] {
    [WriteOp::Put { key: Bytes::from("a"), value: Bytes::from(value) }]
}

#[test]
fn the_suite_passes() {
    all(&mut Memory);
}

#[test]
fn a_power_loss_forgets_different_amounts_by_seed() {
    let mut survivors = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let engine = MemoryEngine::new();
        for value in ["1", "2", "3"] {
            engine.write(&put(value)).unwrap();
        }
        engine.lose_power(seed);
        survivors.insert(engine.get(b"a").unwrap());
    }
    assert_eq!(survivors.len(), 4, "nothing, or the first, second or third write: {survivors:?}");
}

#[test]
fn a_refused_write_changes_nothing_and_the_next_one_passes() {
    let engine = MemoryEngine::new();
    engine.refuse_writes(1);
    assert!(matches!(engine.write(&put("1")), Err(EngineError::Busy(_))));
    assert_eq!(engine.get(b"a").unwrap(), None);
    engine.write(&put("2")).unwrap();
    assert_eq!(engine.stats().busy_total, 1);
}

#[test]
fn a_failure_is_sticky_for_writes_and_flushes_and_spares_reads() {
    let engine = MemoryEngine::new();
    engine.write(&put("1")).unwrap();
    engine.fail_writes("disk on fire");
    for _ in 0..2 {
        assert_eq!(
            engine.write(&put("2")).unwrap_err().to_string(),
            "storage engine stopped at an earlier failure: disk on fire"
        );
        assert!(matches!(engine.flush(), Err(EngineError::Failed(_))));
    }
    assert_eq!(engine.get(b"a").unwrap(), Some(Bytes::from("1")));
}
