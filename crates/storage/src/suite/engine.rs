//! What every [`Engine`] must do. Run [`all`] with a harness.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Choices, for_each_seed};
use crate::{Direction, Engine, EngineError, Reader, WriteOp};

/// Opens an engine, cuts its power, opens it again.
pub trait Harness {
    /// The engine under test.
    type Engine: Engine;

    /// A new, empty engine.
    fn create(&mut self) -> Self::Engine;

    /// The machine loses power and comes back. `seed` chooses what survives of what was not flushed, where the
    /// implementation can choose.
    fn lose_power(&mut self, engine: Self::Engine, seed: u64) -> Self::Engine;
}

/// Runs the whole suite.
///
/// # Panics
/// When the engine breaks the contract.
pub fn all<H: Harness>(harness: &mut H) {
    what_is_written_is_read_at_once(harness);
    a_batch_is_applied_in_order(harness);
    scans_honour_their_bounds_in_both_directions(harness);
    a_cursor_does_not_see_later_writes(harness);
    a_snapshot_does_not_see_later_writes(harness);
    persisted_reads_see_flushed_data_only(harness);
    a_removal_is_not_persisted_before_the_flush(harness);
    a_flush_from_another_thread_covers_what_was_written_before(harness);
    for_each_seed(6, |seed| random_work_matches_a_model(harness, seed));
    for_each_seed(6, |seed| a_crash_leaves_a_prefix_of_whole_batches(harness, seed));
}

const APPLIED: &[u8] = b"\x01applied";

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(super) fn put(key: &str, value: &str) -> WriteOp {
    WriteOp::Put { key: bytes(key), value: bytes(value) }
}

pub(super) fn delete(key: &str) -> WriteOp {
    WriteOp::Delete { key: bytes(key) }
}

pub(super) fn delete_range(start: &str, end: &str) -> WriteOp {
    WriteOp::DeleteRange { start: bytes(start), end: bytes(end) }
}

pub(super) fn get(reader: &(impl Reader + ?Sized), key: &str) -> Option<Bytes> {
    reader.get(key.as_bytes()).expect("get")
}

/// Writes, waiting for an engine that is busy to become free: a flush makes room.
pub(super) fn write(engine: &impl Engine, ops: &[WriteOp]) {
    loop {
        match engine.write(ops) {
            Err(EngineError::Busy(_)) => engine.flush().expect("flush"),
            result => return result.expect("write"),
        }
    }
}

/// All entries of a scan, in the order it gave them.
pub(super) fn collect(
    reader: &(impl Reader + ?Sized),
    start: &[u8],
    end: &[u8],
    direction: Direction,
) -> Vec<(Bytes, Bytes)> {
    let mut cursor = reader.scan(start..end, direction).expect("scan");
    let mut entries = Vec::new();
    while let Some((key, value)) = cursor.entry() {
        entries.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        cursor.advance().expect("advance");
    }
    cursor.advance().expect("advance past the end does nothing");
    assert!(cursor.entry().is_none(), "a cursor past its end stays there");
    entries
}

fn keys(reader: &(impl Reader + ?Sized), start: &str, end: &str, direction: Direction) -> String {
    let entries = collect(reader, start.as_bytes(), end.as_bytes(), direction);
    let names: Vec<_> = entries.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
    names.join(" ")
}

fn what_is_written_is_read_at_once<H: Harness>(harness: &mut H) {
    let engine = harness.create();
    assert_eq!(get(&engine, "a"), None);
    write(&engine, &[put("a", "1"), put("empty", "")]);
    assert_eq!(get(&engine, "a"), Some(bytes("1")));
    assert_eq!(get(&engine, "empty"), Some(bytes("")), "an empty value is a value");
    write(&engine, &[put("a", "2"), delete("never there")]);
    assert_eq!(get(&engine, "a"), Some(bytes("2")));
    write(&engine, &[delete("a")]);
    assert_eq!(get(&engine, "a"), None);
    let large = Bytes::from(vec![7_u8; 1 << 20]);
    write(&engine, &[WriteOp::Put { key: bytes("large"), value: large.clone() }]);
    assert_eq!(get(&engine, "large"), Some(large));
}

fn a_batch_is_applied_in_order<H: Harness>(harness: &mut H) {
    let engine = harness.create();
    write(&engine, &[put("a", "1"), delete("a"), put("a", "2"), put("b", "1"), delete_range("b", "c"), put("b2", "3")]);
    assert_eq!(get(&engine, "a"), Some(bytes("2")));
    assert_eq!(get(&engine, "b"), None, "a range removal covers what the batch wrote before it");
    assert_eq!(get(&engine, "b2"), Some(bytes("3")), "and not what it wrote after");
    write(&engine, &[]);
    write(&engine, &[delete_range("z", "a")]);
    assert_eq!(get(&engine, "a"), Some(bytes("2")), "an inverted range removes nothing");
}

fn scans_honour_their_bounds_in_both_directions<H: Harness>(harness: &mut H) {
    use Direction::{Backward, Forward};
    let engine = harness.create();
    write(&engine, &[put("b", "1"), put("d", "2"), put("d\0", "3"), put("f", "4"), put("h", "5"), delete("h")]);
    assert_eq!(keys(&engine, "a", "z", Forward), "b d d\0 f");
    assert_eq!(keys(&engine, "a", "z", Backward), "f d\0 d b");
    assert_eq!(keys(&engine, "b", "f", Forward), "b d d\0", "start included, end not");
    assert_eq!(keys(&engine, "b", "f", Backward), "d\0 d b");
    assert_eq!(keys(&engine, "c", "d\0", Backward), "d");
    assert_eq!(keys(&engine, "g", "z", Forward), "");
    assert_eq!(keys(&engine, "d", "d", Forward), "", "an empty range");
    assert_eq!(keys(&engine, "f", "b", Backward), "", "an inverted range");
    write(&engine, &[delete_range("c", "e")]);
    assert_eq!(keys(&engine, "a", "z", Forward), "b f");
    engine.flush().expect("flush");
    assert_eq!(keys(&engine, "a", "z", Backward), "f b", "the same after a flush");
}

fn a_cursor_does_not_see_later_writes<H: Harness>(harness: &mut H) {
    let engine = harness.create();
    write(&engine, &[put("a", "1"), put("b", "1"), put("c", "1")]);
    let mut cursor = engine.scan(b"a"..b"z", Direction::Forward).expect("scan");
    write(&engine, &[put("a", "2"), delete("b"), put("bb", "2"), put("c", "2"), put("d", "2")]);
    engine.flush().expect("flush");
    let mut seen = Vec::new();
    while let Some((key, value)) = cursor.entry() {
        seen.push(format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value)));
        cursor.advance().expect("advance");
    }
    assert_eq!(seen.join(" "), "a=1 b=1 c=1");
}

fn a_snapshot_does_not_see_later_writes<H: Harness>(harness: &mut H) {
    let engine = harness.create();
    write(&engine, &[put("a", "1"), put("b", "1")]);
    let snapshot = engine.snapshot();
    write(&engine, &[put("a", "2"), delete("b"), put("c", "2")]);
    assert_eq!(get(snapshot.as_ref(), "a"), Some(bytes("1")));
    assert_eq!(get(snapshot.as_ref(), "c"), None);
    assert_eq!(keys(snapshot.as_ref(), "a", "z", Direction::Forward), "a b");
    assert_eq!(keys(snapshot.as_ref(), "a", "z", Direction::Backward), "b a");
    assert_eq!(keys(&engine, "a", "z", Direction::Forward), "a c");
}

fn persisted_reads_see_flushed_data_only<H: Harness>(harness: &mut H) {
    let engine = harness.create();
    let persisted = |engine: &H::Engine| engine.get_persisted(b"a").expect("get_persisted");
    assert_eq!(persisted(&engine), None);
    write(&engine, &[put("a", "1")]);
    assert_eq!(persisted(&engine), None);
    engine.flush().expect("flush");
    assert_eq!(persisted(&engine), Some(bytes("1")));
    write(&engine, &[put("a", "2")]);
    assert_eq!(get(&engine, "a"), Some(bytes("2")));
    assert_eq!(persisted(&engine), Some(bytes("1")), "the newer value is not on disk");
    engine.flush().expect("flush");
    assert_eq!(persisted(&engine), Some(bytes("2")));
    engine.flush().expect("a flush of nothing");
    let engine = harness.lose_power(engine, 0);
    assert_eq!(persisted(&engine), Some(bytes("2")));
    assert_eq!(get(&engine, "a"), Some(bytes("2")));
}

fn a_removal_is_not_persisted_before_the_flush<H: Harness>(harness: &mut H) {
    let engine = harness.create();
    write(&engine, &[put("a", "1"), put("b", "1")]);
    engine.flush().expect("flush");
    write(&engine, &[delete("a"), delete_range("b", "c")]);
    for key in [b"a", b"b"] {
        assert_eq!(engine.get(key).expect("get"), None);
        assert_eq!(engine.get_persisted(key).expect("get_persisted"), Some(bytes("1")));
    }
    engine.flush().expect("flush");
    for key in [b"a", b"b"] {
        assert_eq!(engine.get_persisted(key).expect("get_persisted"), None);
    }
}

fn a_flush_from_another_thread_covers_what_was_written_before<H: Harness>(harness: &mut H) {
    let engine = harness.create();
    for round in 0..20 {
        let value = round.to_string();
        write(&engine, &[put("a", &value)]);
        std::thread::scope(|scope| {
            let flushed = scope.spawn(|| engine.flush());
            write(&engine, &[put("b", &value)]);
            flushed.join().expect("flush thread").expect("flush");
        });
        assert_eq!(engine.get_persisted(b"a").expect("get_persisted"), Some(bytes(&value)));
    }
}

/// A batch of random changes to few keys, so that they meet often; with its number under [`APPLIED`].
fn random_batch(choices: &mut Choices, number: u64) -> Vec<WriteOp> {
    let key = |choices: &mut Choices| Bytes::from(format!("k{:02}", choices.below(40)));
    let mut ops = Vec::new();
    for _ in 0..choices.below(8) {
        ops.push(match choices.below(8) {
            0..=4 => {
                let value = vec![b'0' + (number % 10) as u8; choices.below(2000) as usize];
                WriteOp::Put { key: key(choices), value: Bytes::from(value) }
            }
            5 | 6 => WriteOp::Delete { key: key(choices) },
            _ => {
                let (a, b) = (key(choices), key(choices));
                WriteOp::DeleteRange { start: a.clone().min(b.clone()), end: a.max(b) }
            }
        });
    }
    ops.push(WriteOp::Put { key: Bytes::from_static(APPLIED), value: Bytes::from(number.to_string()) });
    ops
}

pub(super) fn apply(model: &mut BTreeMap<Bytes, Bytes>, ops: &[WriteOp]) {
    for op in ops {
        match op {
            WriteOp::Put { key, value } => {
                model.insert(key.clone(), value.clone());
            }
            WriteOp::Delete { key } => {
                model.remove(key);
            }
            WriteOp::DeleteRange { start, end } => model.retain(|key, _| key < start || key >= end),
        }
    }
}

fn contents(engine: &impl Engine) -> BTreeMap<Bytes, Bytes> {
    collect(engine, b"", b"\xff", Direction::Forward).into_iter().collect()
}

fn random_work_matches_a_model<H: Harness>(harness: &mut H, seed: u64) {
    let choices = &mut Choices::new(seed);
    let engine = harness.create();
    let mut model = BTreeMap::new();
    for number in 0..300 {
        let batch = random_batch(choices, number);
        write(&engine, &batch);
        apply(&mut model, &batch);
        if choices.one_in(20) {
            engine.flush().expect("flush");
        }
        let (a, b) = (format!("k{:02}", choices.below(40)), format!("k{:02}", choices.below(40)));
        let within = |(key, _): &(&Bytes, &Bytes)| **key >= a && **key < b;
        let wanted: Vec<_> = model.iter().filter(within).map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(collect(&engine, a.as_bytes(), b.as_bytes(), Direction::Forward), wanted, "batch {number}");
        let backward = collect(&engine, a.as_bytes(), b.as_bytes(), Direction::Backward);
        assert!(backward.iter().rev().eq(wanted.iter()), "batch {number}");
        assert_eq!(get(&engine, &a).as_ref(), model.get(a.as_bytes()), "batch {number}");
    }
    assert_eq!(contents(&engine), model);
}

/// The heart of it: whatever survives a crash is the state after some whole batch, not before the last flush, and the
/// applied position beside the data tells which.
fn a_crash_leaves_a_prefix_of_whole_batches<H: Harness>(harness: &mut H, seed: u64) {
    let choices = &mut Choices::new(seed);
    let mut engine = harness.create();
    // `states[n]` is the model after batch n; batch 0 is the empty engine.
    let mut states = vec![BTreeMap::new()];
    for _ in 0..4 {
        let mut flushed = states.len() - 1;
        for _ in 0..choices.below(60) {
            let number = states.len();
            let batch = random_batch(choices, number as u64);
            write(&engine, &batch);
            let mut state = states[number - 1].clone();
            apply(&mut state, &batch);
            states.push(state);
            if choices.one_in(25) {
                engine.flush().expect("flush");
                flushed = number;
            }
        }
        let persisted = applied(&engine.get_persisted(APPLIED).expect("get_persisted"));
        assert!(persisted >= flushed, "batch {persisted} is persisted, but {flushed} was flushed");
        engine = harness.lose_power(engine, choices.any());
        let survived = applied(&engine.get(APPLIED).expect("get"));
        assert!(survived >= persisted, "batch {survived} survived, but {persisted} was persisted");
        assert_eq!(contents(&engine), states[survived], "the data is not that of batch {survived}");
        assert_eq!(applied(&engine.get_persisted(APPLIED).expect("get_persisted")), survived);
        states.truncate(survived + 1);
    }
}

fn applied(value: &Option<Bytes>) -> usize {
    let Some(value) = value else { return 0 };
    let text = std::str::from_utf8(value).expect("the suite wrote digits");
    text.parse().expect("the suite wrote a number")
}
