//! What every [`Engine`] must do with [snapshots](crate::snapshot). Run [`all`] with the harness of engines.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::{Harness, apply, collect, delete, delete_range, get, put, write};
use super::{Choices, for_each_seed};
use crate::snapshot::{CHUNK_BYTES, Checksum, ChunkError, Export, Install, InstallError, SpanSum, Spans, checksum};
use crate::{Caching, Direction, Engine, Reader, WriteOp};

/// Runs the whole suite.
///
/// # Panics
/// When the engine breaks the contract.
pub fn all<H: Harness>(harness: &mut H)
where
    H::Engine: 'static,
{
    an_empty_snapshot_empties_the_spans(harness);
    writes_after_the_beginning_are_not_in_an_export(harness);
    chunks_are_bounded_and_a_large_record_has_its_own(harness);
    a_chunk_that_is_not_the_next_is_refused_and_changes_nothing(harness);
    nothing_is_seen_before_the_finish(harness);
    a_dropped_install_leaves_the_old_state_and_a_finished_one_survives(harness);
    a_finish_makes_what_was_written_before_durable(harness);
    extra_changes_come_on_top_in_order(harness);
    writes_go_on_while_a_snapshot_comes_in(harness);
    two_snapshots_may_come_in_side_by_side(harness);
    checksums_depend_on_the_records_alone(harness);
    for_each_seed(6, |seed| a_random_export_goes_into_a_dirty_engine(harness, seed));
    for_each_seed(4, |seed| installs_and_batches_and_crashes_match_a_model(harness, seed));
}

type Model = BTreeMap<Bytes, Bytes>;

fn spans(pairs: &[(&'static str, &'static str)]) -> Spans {
    let list = pairs.iter().map(|(start, end)| Bytes::from(*start)..Bytes::from(*end)).collect();
    Spans::new(list).expect("good spans")
}

fn chunks(mut export: Export) -> Vec<Bytes> {
    std::iter::from_fn(|| export.next_chunk().expect("export")).collect()
}

fn install(engine: &impl Engine, id: u64, spans: &Spans, chunks: &[Bytes]) -> Install {
    let mut install = Install::begin(engine, id, spans.clone()).expect("begin");
    for (number, chunk) in chunks.iter().enumerate() {
        let last = install.add(chunk).unwrap_or_else(|error| panic!("chunk {number}: {error}"));
        assert_eq!(last, number + 1 == chunks.len());
    }
    install
}

fn everything(reader: &(impl Reader + ?Sized)) -> Model {
    collect(reader, b"", b"\xff", Direction::Forward).into_iter().collect()
}

fn refusal(result: Result<bool, InstallError>) -> ChunkError {
    match result {
        Err(InstallError::Chunk(error)) => error,
        other => panic!("{other:?} where a chunk should have been refused"),
    }
}

/// Values that do not shrink when compressed, so that sizes on disk are what they seem.
fn noise(choices: &mut Choices, bytes: usize) -> Bytes {
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        out.extend_from_slice(&choices.any().to_le_bytes());
    }
    out.truncate(bytes);
    Bytes::from(out)
}

fn an_empty_snapshot_empties_the_spans<H: Harness>(harness: &mut H) {
    let (from, to) = (harness.create(), harness.create());
    let spans = spans(&[("b", "d"), ("f", "h")]);
    write(&to, &[put("a", "1"), put("b", "1"), put("c", "1"), put("d", "1"), put("g", "1"), put("h", "1")]);
    to.flush().expect("flush");
    write(&to, &[put("bb", "1"), put("g", "2")]);
    let sent = chunks(Export::begin(&from, 1, spans.clone()));
    assert_eq!(sent.len(), 2, "the spans and the end");
    let sum = install(&to, 1, &spans, &sent).finish(&[]).expect("finish");
    assert_eq!(sum, SpanSum::default());
    for _ in 0..2 {
        assert_eq!(everything(&to).keys().cloned().collect::<Vec<_>>(), ["a", "d", "h"]);
        to.flush().expect("flush");
    }
    let to = harness.lose_power(to, 1);
    assert_eq!(everything(&to).keys().cloned().collect::<Vec<_>>(), ["a", "d", "h"]);
}

fn writes_after_the_beginning_are_not_in_an_export<H: Harness>(harness: &mut H)
where
    H::Engine: 'static,
{
    let engine = Arc::new(harness.create());
    let choices = &mut Choices::new(1);
    for number in 0..300 {
        write(&*engine, &[WriteOp::Put { key: Bytes::from(format!("k{number:03}")), value: noise(choices, 10_000) }]);
    }
    let spans = spans(&[("k", "l")]);
    let before = everything(&*engine);
    let sum = checksum(&*engine, &spans).expect("checksum");
    let export = Export::begin(&engine, 9, spans.clone());
    // On another thread, as in a node, while writes and flushes go on here.
    let exporter = std::thread::spawn(move || {
        let state = export.reader().get(b"k000").expect("get");
        (state, chunks(export))
    });
    for number in 0..300 {
        let key = Bytes::from(format!("k{:03}x", number));
        write(&*engine, &[put(&format!("k{number:03}"), "later"), WriteOp::Put { key, value: Bytes::from("new") }]);
        if number % 100 == 0 {
            engine.flush().expect("flush");
        }
    }
    write(&*engine, &[delete_range("k2", "k3")]);
    let (state, sent) = exporter.join().expect("exporter");
    assert_eq!(state.as_ref(), before.get(b"k000".as_slice()));
    assert!(sent.len() > 4, "{} chunks", sent.len());
    let to = harness.create();
    assert_eq!(install(&to, 9, &spans, &sent).finish(&[]).expect("finish"), sum);
    assert!(everything(&to) == before, "not what was there when the export began");
}

fn chunks_are_bounded_and_a_large_record_has_its_own<H: Harness>(harness: &mut H) {
    let (from, to) = (harness.create(), harness.create());
    let choices = &mut Choices::new(2);
    let sizes = [400_000, 400_000, 400_000, 3 * CHUNK_BYTES, 10, 10];
    for (number, size) in sizes.into_iter().enumerate() {
        write(&from, &[WriteOp::Put { key: Bytes::from(format!("k{number}")), value: noise(choices, size) }]);
    }
    let spans = spans(&[("k", "l")]);
    let sent = chunks(Export::begin(&from, 0, spans.clone()));
    let sizes: Vec<usize> = sent.iter().map(|chunk| chunk.len() / 100_000).collect();
    assert_eq!(sizes, [0, 8, 4, 31, 0, 0]);
    install(&to, 0, &spans, &sent).finish(&[]).expect("finish");
    assert!(everything(&to) == everything(&from));
}

fn a_chunk_that_is_not_the_next_is_refused_and_changes_nothing<H: Harness>(harness: &mut H) {
    let (from, to) = (harness.create(), harness.create());
    let choices = &mut Choices::new(3);
    for number in 0..30 {
        write(&from, &[WriteOp::Put { key: Bytes::from(format!("k{number:02}")), value: noise(choices, 100_000) }]);
    }
    let list = spans(&[("k", "l")]);
    let sent = chunks(Export::begin(&from, 5, list.clone()));
    let foreign = chunks(Export::begin(&from, 6, list.clone()));
    let elsewhere = chunks(Export::begin(&from, 5, spans(&[("k", "m")])));
    let mut install = Install::begin(&to, 5, list).expect("begin");
    assert_eq!(refusal(install.add(&elsewhere[0])), ChunkError::OtherSpans);
    for number in 0..sent.len() {
        let next = number as u64;
        assert_eq!(refusal(install.add(&foreign[number])), ChunkError::OtherSnapshot { expected: 5, found: 6 });
        for other in (0..sent.len()).filter(|other| *other != number) {
            let wanted = ChunkError::OutOfTurn { expected: next, found: other as u64 };
            assert_eq!(refusal(install.add(&sent[other])), wanted);
        }
        let mut damaged = sent[number].to_vec();
        let at = choices.below(damaged.len() as u64 - 16) as usize + 16;
        damaged[at] ^= 1 << choices.below(8);
        assert!(matches!(refusal(install.add(&damaged)), ChunkError::Damaged { .. }), "byte {at}");
        let half = sent[number].len() / 2;
        let cut = refusal(install.add(&sent[number][..half]));
        assert!(matches!(cut, ChunkError::Length { .. } | ChunkError::NotAChunk { .. }), "{cut}");
        assert_eq!(install.next_number(), next);
        assert!(!install.is_complete());
        install.add(&sent[number]).expect("the right one");
    }
    assert!(matches!(refusal(install.add(&sent[1])), ChunkError::OutOfTurn { found: 1, .. }));
    install.finish(&[]).expect("finish");
    assert!(everything(&to) == everything(&from));
}

fn nothing_is_seen_before_the_finish<H: Harness>(harness: &mut H) {
    let (from, to) = (harness.create(), harness.create());
    write(&from, &[put("a", "new"), put("b", "new")]);
    write(&to, &[put("a", "old"), put("c", "old")]);
    let spans = spans(&[("a", "z")]);
    let old = everything(&to);
    let frozen = to.freeze(Caching::Pass);
    let install = install(&to, 1, &spans, &chunks(Export::begin(&from, 1, spans.clone())));
    assert_eq!(everything(&to), old);
    let snapshot = to.snapshot();
    install.finish(&[]).expect("finish");
    assert_eq!(everything(snapshot.as_ref()), old, "a snapshot from before does not see it");
    assert_eq!(everything(frozen.as_ref()), old, "nor a frozen view");
    assert_eq!(everything(&to), everything(&from));
    assert_eq!(to.get_persisted(b"a").expect("get_persisted"), Some(Bytes::from("new")));
    assert_eq!(to.get_persisted(b"c").expect("get_persisted"), None);
}

fn a_dropped_install_leaves_the_old_state_and_a_finished_one_survives<H: Harness>(harness: &mut H) {
    let (from, to) = (harness.create(), harness.create());
    write(&from, &[put("a", "new")]);
    write(&to, &[put("a", "old")]);
    to.flush().expect("flush");
    let spans = spans(&[("a", "z")]);
    let sent = chunks(Export::begin(&from, 1, spans.clone()));

    let mut half = Install::begin(&to, 1, spans.clone()).expect("begin");
    half.add(&sent[0]).expect("add");
    half.add(&sent[1]).expect("add");
    let error = half.finish(&[put("applied", "7")]).expect_err("it is not complete");
    assert!(matches!(error, InstallError::Chunk(ChunkError::Incomplete { next: 2 })), "{error}");
    drop(install(&to, 1, &spans, &sent));
    let to = harness.lose_power(to, 3);
    assert_eq!(everything(&to), Model::from([(Bytes::from("a"), Bytes::from("old"))]));

    install(&to, 1, &spans, &sent).finish(&[put("applied", "7")]).expect("finish");
    let to = harness.lose_power(to, 3);
    let new = [("a", "new"), ("applied", "7")].map(|(key, value)| (Bytes::from(key), Bytes::from(value)));
    assert_eq!(everything(&to), Model::from(new));
}

fn a_finish_makes_what_was_written_before_durable<H: Harness>(harness: &mut H) {
    let (from, to) = (harness.create(), harness.create());
    let spans = spans(&[("k", "l")]);
    let install = install(&to, 1, &spans, &chunks(Export::begin(&from, 1, spans.clone())));
    write(&to, &[put("a", "1")]);
    install.finish(&[put("applied", "2")]).expect("finish");
    assert_eq!(to.get_persisted(b"a").expect("get_persisted"), Some(Bytes::from("1")));
    assert_eq!(to.get_persisted(b"applied").expect("get_persisted"), Some(Bytes::from("2")));
}

fn extra_changes_come_on_top_in_order<H: Harness>(harness: &mut H) {
    let (from, to) = (harness.create(), harness.create());
    write(&from, &[put("k1", "sent"), put("k2", "sent"), put("k3", "sent"), put("k4", "sent")]);
    write(&to, &[put("k5", "old"), put("out", "old"), put("range1", "old"), put("range3", "old")]);
    let spans = spans(&[("k", "l")]);
    let sent = chunks(Export::begin(&from, 1, spans.clone()));
    let ops = [
        put("k1", "gone again"),
        delete_range("k1", "k3"),
        put("k2", "extra"),
        delete("k3"),
        delete("out"),
        put("range2", "gone too"),
        delete_range("range", "range9"),
        put("range3", "extra"),
        delete_range("z", "a"),
    ];
    install(&to, 1, &spans, &sent).finish(&ops).expect("finish");
    let wanted = [("k2", "extra"), ("k4", "sent"), ("range3", "extra")];
    let wanted = Model::from(wanted.map(|(key, value)| (Bytes::from(key), Bytes::from(value))));
    assert_eq!(everything(&to), wanted);
    write(&to, &[put("k1", "later"), delete("range3")]);
    assert_eq!((get(&to, "k1"), get(&to, "range3")), (Some(Bytes::from("later")), None));
    to.flush().expect("flush");
    let to = harness.lose_power(to, 1);
    assert_eq!((get(&to, "k1"), get(&to, "range3")), (Some(Bytes::from("later")), None));
}

fn writes_go_on_while_a_snapshot_comes_in<H: Harness>(harness: &mut H) {
    let (from, to) = (harness.create(), harness.create());
    let choices = &mut Choices::new(4);
    for number in 0..40 {
        write(&from, &[WriteOp::Put { key: Bytes::from(format!("k{number:02}")), value: noise(choices, 100_000) }]);
    }
    let spans = spans(&[("k", "l")]);
    let sent = chunks(Export::begin(&from, 1, spans.clone()));
    let written = std::thread::scope(|scope| {
        let installer = scope.spawn(|| install(&to, 1, &spans, &sent).finish(&[put("applied", "1")]));
        let mut number = 0_u32;
        while !installer.is_finished() {
            number += 1;
            write(&to, &[put(&format!("a{number}"), "x"), put("z", &number.to_string())]);
        }
        installer.join().expect("installer").expect("finish");
        number
    });
    assert_eq!(get(&to, "z"), (written > 0).then(|| Bytes::from(written.to_string())));
    for number in 1..=written {
        assert_eq!(get(&to, &format!("a{number}")), Some(Bytes::from("x")), "write {number} of {written}");
    }
    assert_eq!(checksum(&to, &spans).expect("checksum"), checksum(&from, &spans).expect("checksum"));
    assert_eq!(get(&to, "applied"), Some(Bytes::from("1")));
}

fn two_snapshots_may_come_in_side_by_side<H: Harness>(harness: &mut H) {
    let (from, to) = (harness.create(), harness.create());
    write(&from, &[put("a1", "1"), put("b1", "1")]);
    write(&to, &[put("a2", "1"), put("b2", "1")]);
    let (one, other) = (spans(&[("a", "b")]), spans(&[("b", "c")]));
    let first = install(&to, 1, &one, &chunks(Export::begin(&from, 1, one.clone())));
    let second = install(&to, 2, &other, &chunks(Export::begin(&from, 2, other.clone())));
    second.finish(&[]).expect("finish");
    assert_eq!(everything(&to).keys().cloned().collect::<Vec<_>>(), ["a2", "b1"]);
    first.finish(&[]).expect("finish");
    assert_eq!(everything(&to), everything(&from));
}

fn checksums_depend_on_the_records_alone<H: Harness>(harness: &mut H) {
    let (one, other) = (harness.create(), harness.create());
    let list = spans(&[("a", "c"), ("d", "f")]);
    write(&one, &[put("a", "1"), put("b", "2"), put("c", "outside"), put("e", "3")]);
    write(&other, &[put("e", "3"), put("b", "old"), put("bb", "old")]);
    other.flush().expect("flush");
    write(&other, &[put("a", "1"), put("b", "2"), delete_range("bb", "bc"), put("f", "outside")]);
    let sum = checksum(&one, &list).expect("checksum");
    assert_eq!((sum.records, sum.bytes), (3, 6));
    assert_eq!(checksum(&other, &list).expect("checksum"), sum);
    assert_eq!(checksum(&one, &spans(&[("a", "c"), ("e", "f")])).expect("checksum"), sum);

    let mut steps = Checksum::begin(&other, list.clone());
    write(&other, &[put("a", "2")]);
    assert_eq!(steps.reader().get(b"a").expect("get"), Some(Bytes::from("1")));
    let mut count = 0;
    let stepped = loop {
        count += 1;
        if let Some(sum) = steps.step(1).expect("step") {
            break sum;
        }
    };
    assert_eq!(stepped, sum, "of the moment when it began");
    assert_eq!(count, 3, "a record at a time, the last one with the end");
    let changed = checksum(&other, &list).expect("checksum");
    assert_ne!(changed, sum);
    assert_eq!((changed.records, changed.bytes), (3, 6));
}

const KEYS: u64 = 60;

fn random_key(choices: &mut Choices) -> Bytes {
    Bytes::from(format!("k{:02}", choices.below(KEYS)))
}

fn random_ops(choices: &mut Choices, value_bytes_max: u64) -> Vec<WriteOp> {
    let one = |choices: &mut Choices| match choices.below(10) {
        0..=6 => {
            let bytes = choices.below(value_bytes_max) as usize;
            WriteOp::Put { key: random_key(choices), value: noise(choices, bytes) }
        }
        7 | 8 => WriteOp::Delete { key: random_key(choices) },
        _ => {
            let (a, b) = (random_key(choices), random_key(choices));
            WriteOp::DeleteRange { start: a.clone().min(b.clone()), end: a.max(b) }
        }
    };
    (0..choices.below(6)).map(|_| one(choices)).collect()
}

/// One to four spans between random keys.
fn random_spans(choices: &mut Choices) -> Spans {
    let mut bounds: Vec<Bytes> = (0..8).map(|_| random_key(choices)).collect();
    bounds.sort();
    bounds.dedup();
    let pairs = bounds.chunks_exact(2).take(choices.below(4) as usize + 1);
    let list: Vec<Range<Bytes>> = pairs.map(|pair| pair[0].clone()..pair[1].clone()).collect();
    Spans::new(list).unwrap_or_else(|_| spans(&[("k", "l")]))
}

fn random_history(engine: &impl Engine, choices: &mut Choices, batches: u64) -> Model {
    let mut model = Model::new();
    for _ in 0..batches {
        let ops = random_ops(choices, 60_000);
        write(engine, &ops);
        apply(&mut model, &ops);
        if choices.one_in(20) {
            engine.flush().expect("flush");
        }
    }
    model
}

/// What an install does to a model.
fn replace(model: &mut Model, spans: &Spans, from: &Model, ops: &[WriteOp]) {
    model.retain(|key, _| !spans.contain(key));
    let within = from.iter().filter(|(key, _)| spans.contain(key));
    model.extend(within.map(|(key, value)| (key.clone(), value.clone())));
    apply(model, ops);
}

fn a_random_export_goes_into_a_dirty_engine<H: Harness>(harness: &mut H, seed: u64) {
    let choices = &mut Choices::new(seed);
    let (from, mut to) = (harness.create(), harness.create());
    let source = random_history(&from, choices, 120);
    let mut model = random_history(&to, choices, 120);
    for round in 0..3 {
        let spans = random_spans(choices);
        let sent = chunks(Export::begin(&from, seed, spans.clone()));
        let ops = if choices.one_in(2) { random_ops(choices, 100) } else { Vec::new() };
        let sum = install(&to, seed, &spans, &sent).finish(&ops).expect("finish");
        assert_eq!(sum, checksum(&from, &spans).expect("checksum"), "round {round}");
        if ops.is_empty() {
            assert_eq!(sum, checksum(&to, &spans).expect("checksum"), "round {round}");
        }
        replace(&mut model, &spans, &source, &ops);
        assert!(everything(&to) == model, "round {round}: spans {spans:?}, ops {ops:?}");
        to = harness.lose_power(to, choices.any());
        assert!(everything(&to) == model, "round {round}, after a power loss");
    }
}

/// An install stands in the order of batches like one of them, and makes those before it durable.
fn installs_and_batches_and_crashes_match_a_model<H: Harness>(harness: &mut H, seed: u64) {
    const APPLIED: &str = "\x01applied";
    let choices = &mut Choices::new(seed);
    let from = harness.create();
    let source = random_history(&from, choices, 40);
    let mut to = harness.create();
    let mut states = vec![Model::new()];
    for _ in 0..3 {
        let mut durable = states.len() - 1;
        for _ in 0..choices.below(40) {
            let number = states.len();
            let mut state = states[number - 1].clone();
            let applied = put(APPLIED, &number.to_string());
            if choices.one_in(10) {
                let spans = random_spans(choices);
                let sent = chunks(Export::begin(&from, seed, spans.clone()));
                let ops = [applied];
                install(&to, seed, &spans, &sent).finish(&ops).expect("finish");
                replace(&mut state, &spans, &source, &ops);
                durable = number;
            } else {
                let mut ops = random_ops(choices, 2_000);
                ops.push(applied);
                write(&to, &ops);
                apply(&mut state, &ops);
            }
            states.push(state);
        }
        to = harness.lose_power(to, choices.any());
        let text = get(&to, APPLIED).map_or("0".to_owned(), |value| String::from_utf8_lossy(&value).into_owned());
        let survived: usize = text.parse().expect("a number");
        assert!(survived >= durable && survived < states.len(), "{survived} is left, {durable} was durable");
        assert!(everything(&to) == states[survived], "not the state after batch {survived}");
        states.truncate(survived + 1);
    }
}
