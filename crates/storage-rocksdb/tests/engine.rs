//! The RocksDB engine keeps the contract of engines, refuses what is not its own, and stays failed.

#![allow(clippy::unwrap_used)] // In helpers of tests, too.

use std::path::{Path, PathBuf};

use dstore_storage::suite::engine::{Harness, all};
use dstore_storage::suite::snapshot;
use dstore_storage::{Bytes, Direction, Engine, EngineError, Reader, WriteOp};
use dstore_storage_rocksdb::{Reclaimed, RocksEngine, RocksOptions, RocksView};
use tempfile::TempDir;

fn options() -> RocksOptions {
    RocksOptions { memory_bytes: 16 << 20, ..RocksOptions::default() }
}

fn open(path: &Path) -> Result<RocksEngine, EngineError> {
    RocksEngine::open(path, &options())
}

fn put(key: &str, value: &[u8]) -> WriteOp {
    WriteOp::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::copy_from_slice(value) }
}

/// Dropping the engine forgets its memtables, as a power loss would: it does not flush when it closes.
#[derive(Default)]
struct Rocks {
    /// Each engine made, by its place; only the newest one may lose power.
    places: Vec<TempDir>,
}

impl Harness for Rocks {
    type Engine = RocksEngine;

    fn create(&mut self) -> RocksEngine {
        self.places.push(TempDir::new().unwrap());
        self.reopen()
    }

    fn lose_power(&mut self, engine: RocksEngine, _seed: u64) -> RocksEngine {
        drop(engine);
        self.reopen()
    }
}

impl Rocks {
    fn reopen(&self) -> RocksEngine {
        open(&self.places.last().unwrap().path().join("data")).unwrap()
    }
}

#[test]
fn the_suite_passes() {
    all(&mut Rocks::default());
}

#[test]
fn the_suite_of_snapshots_passes() {
    snapshot::all(&mut Rocks::default());
}

#[test]
fn closing_without_a_flush_loses_what_was_not_flushed() {
    let place = TempDir::new().unwrap();
    let engine = open(place.path()).unwrap();
    engine.write(&[put("a", b"1")]).unwrap();
    engine.flush().unwrap();
    engine.write(&[put("a", b"2")]).unwrap();
    drop(engine);
    assert_eq!(open(place.path()).unwrap().get(b"a").unwrap(), Some(Bytes::from("1")));
}

/// Memtables fill and are flushed by RocksDB itself, in the midst of the writing. What a copy of the files holds at any
/// moment is some whole batch, and not older than what `get_persisted` had said before the copy was taken.
#[test]
fn a_copy_of_the_files_under_load_opens_at_a_whole_batch() {
    let place = TempDir::new().unwrap();
    let engine = open(&place.path().join("data")).unwrap();
    let mut spontaneous = 0;
    let mut number = 0_u64;
    for round in 0..6 {
        for _ in 0..120 {
            number += 1;
            let text = number.to_string();
            let filler = vec![number as u8; 20_000];
            let ops = [
                put(&format!("x{}", number % 50), text.as_bytes()),
                put(&format!("y{}", number % 50), text.as_bytes()),
                put(&format!("filler{number}"), &filler),
                put("applied", text.as_bytes()),
            ];
            while let Err(error) = engine.write(&ops) {
                assert!(matches!(error, EngineError::Busy(_)), "{error}");
                std::thread::yield_now();
            }
        }
        let persisted = number_of(engine.get_persisted(b"applied").unwrap());
        let copy = place.path().join(format!("copy{round}"));
        copy_files(&place.path().join("data"), &copy);
        let restored = match open(&copy) {
            Ok(restored) => restored,
            // A manifest copied before and a table removed after: the copy is not of one moment. Take the next.
            Err(EngineError::Io(_) | EngineError::Corrupt(_)) => continue,
            Err(other) => panic!("{other}"),
        };
        let applied = number_of(restored.get(b"applied").unwrap());
        assert!(applied >= persisted, "{applied} is in the copy, {persisted} was persisted before");
        assert!(applied <= number);
        spontaneous += u64::from(applied > 0 && applied < number);
        for slot in 0..50 {
            let newest = (1..=applied).rev().find(|number| number % 50 == slot).unwrap_or(0);
            for letter in ["x", "y"] {
                let value = number_of(restored.get(format!("{letter}{slot}").as_bytes()).unwrap());
                assert_eq!(value, newest, "{letter}{slot} beside applied {applied}");
            }
        }
    }
    assert!(spontaneous > 0, "no copy held a part of the data, so nothing was shown");
}

fn number_of(value: Option<Bytes>) -> u64 {
    value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap())
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    // The manifest first: it names only tables that are there already.
    names.sort_by_key(|name| (name != "CURRENT", !name.to_string_lossy().starts_with("MANIFEST"), name.clone()));
    for name in names {
        if name != "LOCK" {
            // A file may be gone by now; opening the copy tells whether it mattered.
            let _gone = std::fs::copy(from.join(&name), to.join(&name));
        }
    }
}

#[test]
fn a_second_engine_on_the_same_directory_is_refused_as_locked() {
    let place = TempDir::new().unwrap();
    let _first = open(place.path()).unwrap();
    let error = open(place.path()).unwrap_err();
    assert!(matches!(error, EngineError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
}

#[test]
fn a_foreign_directory_is_refused_and_left_alone() {
    let place = TempDir::new().unwrap();
    std::fs::write(place.path().join("thesis.tex"), "chapter 1").unwrap();
    let error = open(place.path()).unwrap_err();
    assert!(matches!(error, EngineError::UnknownFormat { .. }), "{error}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);

    let file = place.path().join("thesis.tex");
    assert!(matches!(open(&file).unwrap_err(), EngineError::UnknownFormat { .. }));
}

#[test]
fn a_later_format_is_refused_with_what_it_says() {
    let place = TempDir::new().unwrap();
    drop(open(place.path()).unwrap());
    std::fs::write(place.path().join("FORMAT"), "dstore data 9\n").unwrap();
    let error = open(place.path()).unwrap_err();
    assert!(error.to_string().contains("\"dstore data 9\""), "{error}");
}

#[test]
fn lost_files_are_an_error_and_not_an_empty_store() {
    let place = TempDir::new().unwrap();
    let engine = open(place.path()).unwrap();
    engine.write(&[put("a", b"1")]).unwrap();
    engine.flush().unwrap();
    drop(engine);
    std::fs::remove_file(place.path().join("CURRENT")).unwrap();
    assert!(open(place.path()).is_err());
}

fn manifest_of(path: &Path) -> PathBuf {
    path.join(std::fs::read_to_string(path.join("CURRENT")).unwrap().trim_end())
}

/// A power loss may leave of the record of a flush what it likes: the state before it is opened.
#[test]
fn a_torn_record_at_the_end_of_the_manifest_is_cut_off() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("data");
    let engine = open(&path).unwrap();
    engine.write(&[put("a", b"1")]).unwrap();
    engine.flush().unwrap();
    let before = std::fs::metadata(manifest_of(&path)).unwrap().len();
    engine.write(&[put("a", b"2")]).unwrap();
    engine.flush().unwrap();
    drop(engine);
    let whole = std::fs::read(manifest_of(&path)).unwrap();
    let first = usize::try_from(before).unwrap();
    for at in (first..whole.len()).step_by(7) {
        let copy = place.path().join(format!("copy{at}"));
        copy_files(&path, &copy);
        let mut torn = whole.clone();
        torn[first..=at].fill(0);
        std::fs::write(manifest_of(&copy), torn).unwrap();
        let engine = open(&copy).unwrap_or_else(|error| panic!("{at} of {}: {error}", whole.len()));
        assert_eq!(engine.get(b"a").unwrap(), Some(Bytes::from("1")), "{at}");
        engine.write(&[put("a", b"3")]).unwrap();
        engine.flush().unwrap();
        drop(engine);
        assert_eq!(open(&copy).unwrap().get(b"a").unwrap(), Some(Bytes::from("3")), "{at}");
    }
}

/// What nothing is whole of, and what a power loss cannot have done, is refused as it is.
#[test]
fn a_damaged_manifest_is_an_error() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("data");
    let engine = open(&path).unwrap();
    engine.write(&[put("a", b"1")]).unwrap();
    engine.flush().unwrap();
    drop(engine);
    let sound = std::fs::read(manifest_of(&path)).unwrap();
    let long = [&sound[..], &vec![0xff; 2 << 20]].concat();
    for (at, bytes) in [(10, &sound), (sound.len(), &long)] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(manifest_of(&path), &damaged).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(&error, EngineError::Corrupt(text) if text.contains("MANIFEST")), "{error}");
        assert_eq!(std::fs::read(manifest_of(&path)).unwrap(), damaged, "what is refused is left alone");
    }
}

#[test]
fn a_creation_cut_short_is_begun_again() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("data");
    let leftover = place.path().join("data.making");
    std::fs::create_dir(&leftover).unwrap();
    std::fs::write(leftover.join("CURRENT"), "MANIFEST-0000").unwrap();
    let engine = open(&path).unwrap();
    assert!(!leftover.exists());
    assert_eq!(engine.get(b"a").unwrap(), None);
}

#[test]
fn a_damaged_table_is_reported_as_corrupt() {
    let place = TempDir::new().unwrap();
    let engine = open(place.path()).unwrap();
    for i in 0..2000 {
        engine.write(&[put(&format!("key{i:05}"), format!("value {i}").repeat(8).as_bytes())]).unwrap();
    }
    engine.flush().unwrap();
    drop(engine);
    let table = std::fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    for byte in &mut bytes[100..200] {
        *byte ^= 0x55;
    }
    std::fs::write(&table, bytes).unwrap();
    let engine = open(place.path()).unwrap();
    let error = engine.get(b"key00000").unwrap_err();
    assert!(matches!(error, EngineError::Corrupt(_)), "{error}");
}

/// Memtables fill faster than they can be flushed, whatever the disk: a write is a copy in memory.
#[test]
fn an_engine_that_is_behind_refuses_writes_whole_and_takes_them_later() {
    let place = TempDir::new().unwrap();
    let engine = open(place.path()).unwrap();
    let value = vec![7; 1 << 20];
    let mut number = 0;
    let busy = loop {
        number += 1;
        assert!(number < 20_000, "never behind");
        let key = number.to_string();
        if let Err(error) = engine.write(&[put(&key, &value), put("applied", key.as_bytes())]) {
            break error;
        }
    };
    assert!(matches!(busy, EngineError::Busy(_)), "{busy}");
    assert_eq!(engine.stats().busy_total, 1);
    assert_eq!(number_of(engine.get(b"applied").unwrap()), number - 1);
    assert_eq!(engine.get(number.to_string().as_bytes()).unwrap(), None);
    engine.flush().unwrap();
    while let Err(error) = engine.write(&[put("applied", number.to_string().as_bytes())]) {
        assert!(matches!(error, EngineError::Busy(_)), "{error}");
        std::thread::yield_now();
    }
    assert_eq!(number_of(engine.get(b"applied").unwrap()), number);
}

/// The table of the next flush cannot be made, because its directory is gone.
#[test]
fn a_failed_flush_is_sticky() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("data");
    let engine = open(&path).unwrap();
    engine.write(&[put("a", b"1")]).unwrap();
    std::fs::rename(&path, place.path().join("away")).unwrap();
    let first = engine.flush().unwrap_err();
    assert!(matches!(first, EngineError::Io(_)), "{first}");
    std::fs::rename(place.path().join("away"), &path).unwrap();
    assert!(matches!(engine.flush().unwrap_err(), EngineError::Failed(_)), "the disk is well again, the engine is not");
    assert!(matches!(engine.write(&[put("b", b"1")]).unwrap_err(), EngineError::Failed(_)));
    assert!(engine.stats().background_errors > 0);
    drop(engine);
    let engine = open(&path).unwrap();
    assert_eq!(engine.get(b"a").unwrap(), None, "what was not flushed is the log's to bring back");
}

#[test]
fn figures_are_told() {
    let place = TempDir::new().unwrap();
    let engine = open(place.path()).unwrap();
    assert_eq!(engine.stats().keys_estimate, 0);
    for i in 0..1000 {
        engine.write(&[put(&format!("key{i:05}"), &[7; 500])]).unwrap();
    }
    let before = engine.stats();
    assert!(before.unflushed_bytes > 500_000, "{before:?}");
    engine.flush().unwrap();
    let after = engine.stats();
    assert_eq!(after.keys_estimate, 1000);
    assert!(after.disk_bytes > 0 && after.unflushed_bytes < before.unflushed_bytes, "{after:?}");
    assert!(!after.stalled && after.background_errors == 0, "{after:?}");
}

/// Every file below `path`, with its content.
fn contents(path: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| (file.clone(), std::fs::read(file).unwrap())).collect()
}

#[test]
fn a_view_shows_what_was_persisted_and_changes_nothing() {
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().join("data");
    let engine = open(&path).unwrap();
    engine.write(&[put("a", b"1"), put("b", b"2")]).unwrap();
    engine.flush().unwrap();
    engine.write(&[put("c", b"3")]).unwrap();
    drop(engine);
    let before = contents(&path);
    let view = RocksView::open(&path, &options()).unwrap();
    assert_eq!(view.get(b"b").unwrap(), Some(Bytes::from("2")));
    assert_eq!(view.get(b"c").unwrap(), None, "it was not flushed");
    let mut cursor = view.scan(b"a"..b"z", Direction::Backward).unwrap();
    assert_eq!(cursor.entry(), Some((b"b".as_slice(), b"2".as_slice())));
    cursor.advance().unwrap();
    cursor.advance().unwrap();
    assert_eq!(cursor.entry(), None);
    drop(cursor);
    assert!(view.files().0 > 0);
    drop(view);
    assert_eq!(contents(&path), before);
    assert!(matches!(
        RocksView::open(&scratch.path().join("none"), &options()),
        Err(EngineError::UnknownFormat { .. })
    ));
    assert!(!scratch.path().join("none").exists());
}

#[test]
fn what_was_removed_is_taken_back_only_if_what_is_left_fits_beside_it() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir.path().join("data")).unwrap();
    let mut state = 1_u64;
    let mut value = || -> Vec<u8> {
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..100_000).map(next).collect()
    };
    let fill = |value: &mut dyn FnMut() -> Vec<u8>| {
        for n in 0..200 {
            while let Err(EngineError::Busy(_)) = engine.write(&[put(&format!("k{n:04}"), &value())]) {
                engine.flush().unwrap();
            }
        }
        engine.flush().unwrap();
    };
    let plenty = 1 << 30;
    fill(&mut value);
    let before = engine.stats().disk_bytes;
    assert!(before > 19_000_000, "{before}");
    assert!(engine.may_compact(plenty).unwrap() && engine.may_compact(before + (4 << 20)).unwrap());
    assert!(!engine.may_compact(8 << 20).unwrap());
    assert!(matches!(engine.reclaim(plenty).unwrap(), Reclaimed::Nothing));
    engine.hold_compactions(true).unwrap();
    // All but the first few are removed: one by one, then by a range.
    for round in 0..2 {
        match round {
            0 => (5..200).for_each(|n| {
                engine.write(&[WriteOp::Delete { key: Bytes::from(format!("k{n:04}")) }]).unwrap();
            }),
            _ => engine.write(&[WriteOp::DeleteRange { start: "k0005".into(), end: "l".into() }]).unwrap(),
        }
        engine.flush().unwrap();
        assert!(matches!(engine.reclaim(1 << 20).unwrap(), Reclaimed::NoRoom { .. }), "round {round}");
        let reclaimed = engine.reclaim(plenty).unwrap();
        assert!(matches!(reclaimed, Reclaimed::Bytes(bytes) if bytes > 10_000_000), "round {round}: {reclaimed:?}");
        assert!(engine.stats().disk_bytes < 4_000_000, "round {round}: {}", engine.stats().disk_bytes);
        assert!(engine.get(b"k0004").unwrap().is_some() && engine.get(b"k0005").unwrap().is_none());
        fill(&mut value);
    }
    // With so many tables in level 0 that writes are near to being refused, it is to be risked.
    for n in 0..30 {
        engine.write(&[put(&format!("n{n}"), &value())]).unwrap();
        engine.flush().unwrap();
    }
    assert!(engine.may_compact(8 << 20).unwrap());
    engine.hold_compactions(false).unwrap();
}
