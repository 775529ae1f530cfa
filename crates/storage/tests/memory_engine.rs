//! The memory engine keeps the contract of engines, and does on demand what only it can do.

#![allow(clippy::unwrap_used)] // In helpers of tests, too.

use dstore_storage::snapshot::{Export, Install, Spans};
use dstore_storage::suite::engine::{Harness, all};
use dstore_storage::suite::snapshot;
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
fn the_suite_of_snapshots_passes() {
    snapshot::all(&mut Memory);
}

#[test]
fn a_power_loss_forgets_what_was_staged_and_the_install_says_so() {
    let spans = Spans::new(vec![Bytes::from("a")..Bytes::from("b")]).unwrap();
    let (from, to) = (MemoryEngine::new(), MemoryEngine::new());
    from.write(&put("new")).unwrap();
    to.write(&put("old")).unwrap();
    to.flush().unwrap();
    let mut export = Export::begin(&from, 1, spans.clone());
    let mut install = Install::begin(&to, 1, spans).unwrap();
    while let Some(chunk) = export.next_chunk().unwrap() {
        install.add(&chunk).unwrap();
    }
    to.lose_power(0);
    let error = install.finish(&[]).unwrap_err();
    assert!(error.to_string().contains("the power was lost"), "{error}");
    assert_eq!(to.get(b"a").unwrap(), Some(Bytes::from("old")));
    to.write(&put("the engine goes on")).unwrap();
}

#[test]
fn free_space_is_what_was_set() {
    let engine = MemoryEngine::new();
    assert_eq!(engine.stats().free_bytes, None);
    engine.set_free_bytes(Some(7));
    assert_eq!(engine.stats().free_bytes, Some(7));
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
