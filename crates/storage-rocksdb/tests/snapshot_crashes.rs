//! A process that takes snapshots is killed and its directory put into a state that a power loss leaves, again and again:
//! each time the old state or the new one is there, whole, and no trace of the way between.
//!
//! The process is this test itself, started again ([`the_process_that_is_killed`]) under the library of
//! `dstore_testkit::powerloss`. `SNAPSHOT_CUTS=50` makes that many cuts; a normal run makes a few.
//!
//! The library also makes disks that no common file system makes: an append whose length is on the disk and some of whose middle
//! sectors are not. RocksDB refuses a manifest whose last record looks so, as damaged; the engine cuts that record off. Where such a disk
//! was made, the check lets the engine open first, before it looks at RocksDB's files by itself.

#![allow(clippy::unwrap_used)] // In helpers of tests, too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use dstore_storage::snapshot::{Export, Install, InstallError, Spans};
use dstore_storage::suite::Choices;
use dstore_storage::{Bytes, Direction, Engine, EngineError, MemoryEngine, Reader, WriteOp};
use dstore_storage_rocksdb::{RocksEngine, RocksOptions};
use dstore_testkit::powerloss::{Fault, PowerLoss, Style};
use tempfile::TempDir;

type Model = BTreeMap<Bytes, Bytes>;

/// Which number the state has: written with each install.
const APPLIED: &str = "d-applied";
/// Outside of the spans: written, unflushed, before each install.
const BESIDE: &str = "x-beside";
const DIRECTORY: &str = "SNAPSHOT_CRASH_DIRECTORY";

fn open(path: &Path) -> Result<RocksEngine, EngineError> {
    RocksEngine::open(path, &RocksOptions { memory_bytes: 16 << 20, ..RocksOptions::default() })
}

fn put(key: &str, value: u64) -> WriteOp {
    WriteOp::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::from(value.to_string()) }
}

/// One as a range's own records, one as its user data.
fn spans() -> Spans {
    Spans::new(vec![Bytes::from("d")..Bytes::from("e"), Bytes::from("u")..Bytes::from("v")]).unwrap()
}

/// What the spans hold in state `number`, without [`APPLIED`]. Some megabytes that hardly compress.
fn state(number: u64) -> Model {
    let choices = &mut Choices::new(number);
    let mut model = Model::new();
    for _ in 0..choices.below(120) * 8 {
        let prefix = if choices.one_in(10) { 'd' } else { 'u' };
        let value: Vec<u8> = (0..choices.below(1500)).flat_map(|_| choices.any().to_le_bytes()).collect();
        model.insert(Bytes::from(format!("{prefix}{:05}", choices.below(2000))), Bytes::from(value));
    }
    model
}

fn number_of(reader: &impl Reader, key: &str) -> u64 {
    let value = reader.get(key.as_bytes()).unwrap();
    value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap())
}

/// Not a test of its own: takes one snapshot after the other and tells how far it is, until it is killed.
#[test]
fn the_process_that_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let mut out = std::io::stdout();
    let mut say = |text: String| writeln!(out, "{text}").and_then(|()| out.flush()).unwrap();
    let failed = take_snapshots(&PathBuf::from(directory), &mut say).unwrap_err();
    say(format!("failed {failed}"));
}

fn take_snapshots(directory: &Path, say: &mut impl FnMut(String)) -> Result<(), Box<dyn std::error::Error>> {
    let engine = open(directory)?;
    loop {
        let number = number_of(&engine, APPLIED) + 1;
        let source = MemoryEngine::new();
        source.write(&state(number).into_iter().map(|(key, value)| WriteOp::Put { key, value }).collect::<Vec<_>>())?;
        engine.write(&[put(BESIDE, number)])?;
        say(format!("begun {number}"));
        let mut export = Export::begin(&source, number, spans());
        let mut taken =
            Install::begin(&engine, number, spans()).map_err(InstallError::Engine).and_then(|mut install| {
                while let Some(chunk) = export.next_chunk()? {
                    install.add(&chunk)?;
                }
                install.finish(&[put(APPLIED, number)])
            });
        if let Err(InstallError::Engine(EngineError::Full(why))) = &mut taken {
            engine.write(&[put(BESIDE, number + 1)])?;
            engine.flush()?;
            why.insert_str(0, "goes on: ");
        }
        taken?;
        say(format!("finished {number}"));
    }
}

struct Taker {
    scratch: TempDir,
    power: PowerLoss,
}

/// What the process said before it ended.
#[derive(Debug, Default)]
struct Said {
    begun: u64,
    finished: u64,
    failed: Option<String>,
}

impl Taker {
    fn new() -> Taker {
        let scratch = TempDir::new().unwrap();
        let watched = scratch.path().join("watched");
        std::fs::create_dir(&watched).unwrap();
        // RocksDB's text log goes through stdio, which the library does not see; nobody reads it back.
        let power = PowerLoss::watch(&watched, &scratch.path().join("journal")).unwrap().tolerate("LOG");
        Taker { scratch, power }
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("watched/data")
    }

    fn start(&self) -> (Child, BufReader<ChildStdout>) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_process_that_is_killed", "--nocapture"]).env(DIRECTORY, self.data());
        self.power.attach(&mut command);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        (child, out)
    }

    /// Lets the process run until `enough`, kills it, and gives what it said by then.
    fn run_until(&self, mut enough: impl FnMut(&mut Child, &mut dyn BufRead, &mut Said) -> bool) -> Said {
        let (mut child, mut out) = self.start();
        let mut said = Said::default();
        while !enough(&mut child, &mut out, &mut said) {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while said.hear(&mut out) {}
        said
    }

    /// Opens a copy of what is on the disk and compares it with the state that it says it is, which it gives. `torn` allows that RocksDB
    /// alone would refuse the manifest as damaged.
    fn check(&self, least: u64, most: u64, torn: bool, context: &str) -> u64 {
        let copy = TempDir::new_in(self.scratch.path()).unwrap();
        let place = copy.path().join("data");
        copy_tree(&self.data(), &place);
        if let Err(error) = only_named_tables_are_left(&place, context) {
            assert!(torn && error.as_ref().contains("MANIFEST"), "{context}: {error}");
            drop(open(&place).unwrap_or_else(|error| panic!("{context}: {error}")));
            only_named_tables_are_left(&place, context).unwrap();
        }
        let engine = open(&place).unwrap_or_else(|error| panic!("{context}: {error}"));
        let survived = number_of(&engine, APPLIED);
        assert!((least..=most).contains(&survived), "{context}: state {survived} is not in {least}..={most}");
        let mut wanted = if survived == 0 { Model::new() } else { state(survived) };
        if survived > 0 {
            wanted.insert(Bytes::from(APPLIED), Bytes::from(survived.to_string()));
        }
        let mut found = everything(&engine);
        let beside = number_of(&engine, BESIDE);
        assert!(beside >= survived, "{context}: {beside} beside {survived}, but it was written before");
        found.remove(BESIDE.as_bytes());
        assert!(found == wanted, "{context}: {} records, not the {} of state {survived}", found.len(), wanted.len());
        assert!(!place.join("staging").exists(), "{context}: something staged is left");
        survived
    }
}

impl Said {
    /// Takes in one line; false at the end.
    fn hear(&mut self, out: &mut dyn BufRead) -> bool {
        let mut line = String::new();
        if out.read_line(&mut line).unwrap() == 0 {
            return false;
        }
        match line.trim_end().split_once(' ') {
            Some(("begun", number)) => self.begun = number.parse().unwrap(),
            Some(("finished", number)) => self.finished = number.parse().unwrap(),
            Some(("failed", why)) => self.failed = Some(why.to_owned()),
            _ => {} // what the test runner says
        }
        true
    }
}

fn everything(reader: &impl Reader) -> Model {
    let mut cursor = reader.scan(b""..b"\xff", Direction::Forward).unwrap();
    let mut found = Model::new();
    while let Some((key, value)) = cursor.entry() {
        found.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        cursor.advance().unwrap();
    }
    found
}

/// Opens the database as it is, without compactions, and compares the table files there are with those that it names.
fn only_named_tables_are_left(place: &Path, context: &str) -> Result<(), rocksdb::Error> {
    if !place.join("FORMAT").exists() {
        return Ok(()); // The power went before there was a database.
    }
    let mut options = rocksdb::Options::default();
    options.set_disable_auto_compactions(true);
    let families = [("default", options.clone()), ("data", options.clone())];
    let db = rocksdb::DB::open_cf_with_opts(&options, place, families)?;
    let named: BTreeSet<String> =
        db.live_files()?.into_iter().map(|file| file.name.trim_start_matches('/').to_owned()).collect();
    let names = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: BTreeSet<String> = names.filter(|name| name.ends_with(".sst")).collect();
    assert_eq!(found, named, "{context}: table files on disk, and those that the database names");
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) {
    if !from.exists() {
        return;
    }
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn cuts_wanted() -> u64 {
    std::env::var("SNAPSHOT_CUTS").map_or(8, |text| text.parse().expect("SNAPSHOT_CUTS is a number"))
}

#[test]
fn a_power_loss_while_snapshots_are_taken_leaves_the_old_state_or_the_new() {
    let seed = dstore_storage::suite::seeds(1)[0];
    let choices = &mut Choices::new(seed);
    let mut taker = Taker::new();
    let mut durable = 0;
    let (mut old, mut new, mut staged, mut most) = (0, 0, 0, 0);
    for round in 0..cuts_wanted() {
        // A kill near any sync: of a staged file, of a flush, of the ingestion, of the manifest. With slow syncs it falls
        // into one, with fast ones mostly between two.
        let syncs = 12 + choices.below(50);
        taker.power.inject(Fault::SyncsStallMs(if choices.one_in(4) { 0 } else { 10 })).unwrap();
        let before = taker.power.syncs().unwrap();
        let said = taker.run_until(|_, _, _| taker.power.syncs().unwrap() >= before + syncs);
        staged += u64::from(taker.data().join("staging").exists_with_files());
        let style = Style::ALL[(round % 4) as usize];
        let cut = taker.power.cut(style, choices.any()).unwrap();
        let context = format!("seed {seed}, round {round}, {said:?}, {style:?}, {} calls", cut.events);
        assert_eq!(said.failed, None, "{context}");
        let least = durable.max(said.finished);
        let torn = matches!(style, Style::InOrder | Style::Scattered);
        durable = taker.check(least, least.max(said.begun), torn, &context);
        most = most.max(durable);
        if said.begun > said.finished && durable == said.begun {
            new += 1;
        } else {
            old += 1;
        }
        println!("{context}: state {durable}");
    }
    println!("{old} times the old state, {new} times the new one; {staged} times something was staged at the kill");
    assert!(most > 2 && staged > 0, "the kills came too early to show anything");
}

trait ExistsWithFiles {
    fn exists_with_files(&self) -> bool;
}

impl ExistsWithFiles for PathBuf {
    fn exists_with_files(&self) -> bool {
        let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().collect::<Vec<_>>();
        entries(self).iter().any(|entry| !entries(&entry.path()).is_empty())
    }
}

/// The same check must fail when syncs are lies, or it would prove nothing.
#[test]
fn a_finished_snapshot_is_lost_when_syncs_lie() {
    let mut taker = Taker::new();
    let said = taker.run_until(|_, out, said| {
        said.hear(out);
        said.finished >= 1
    });
    taker.power.cut(Style::Worst, 1).unwrap();
    taker.check(said.finished, said.begun, false, "honest syncs");
    taker.power.inject(Fault::SyncsLie).unwrap();
    let first = said.finished;
    let said = taker.run_until(|_, out, said| {
        said.hear(out);
        said.finished >= first + 2
    });
    taker.power.cut(Style::Worst, 2).unwrap();
    let copy = taker.scratch.path().join("copy");
    copy_tree(&taker.data(), &copy);
    // It may notice and refuse to open; to hold what it had said is what it cannot.
    match open(&copy) {
        Err(error) => println!("as it should be: {error}"),
        Ok(engine) => {
            let survived = number_of(&engine, APPLIED);
            println!("as it should be: state {survived} after {said:?}");
            assert!(survived < said.finished, "what was never synced survived");
        }
    }
}

/// Whichever sync fails, the install says so or is durable, and a restart finds the old state or the new one.
#[test]
fn a_sync_that_fails_during_a_snapshot_is_told_and_leaves_one_state() {
    let step = 5;
    let first = dstore_storage::suite::seeds(1)[0] % step;
    let mut told = 0;
    for nth in (first + 1..60).step_by(step as usize) {
        let mut taker = Taker::new();
        taker.power.inject(Fault::SyncFails { nth, errno: 5 }).unwrap();
        let said = taker.run_until(|child, out, said| {
            !said.hear(out) || said.failed.is_some() || said.finished >= 6 || child.try_wait().unwrap().is_some()
        });
        let struck = taker.power.syncs().unwrap() >= nth;
        taker.power.clear_faults().unwrap();
        let cut = taker.power.cut(Style::Scattered, nth).unwrap();
        let context = format!("sync {nth}, {said:?}, {} calls", cut.events);
        told += u64::from(said.failed.is_some());
        assert!(!struck || said.failed.is_some(), "{context}: nobody told of it");
        let survived = taker.check(said.finished, said.begun, true, &context);
        println!("{context}: state {survived}");
    }
    assert!(told > 4, "only {told} failures struck");
}

/// Only the snapshot is given up: the data is as it was, and takes writes.
#[test]
fn a_disk_that_fills_up_with_staged_files_fails_the_snapshot_alone() {
    let mut taker = Taker::new();
    taker.power.only_in("/staging/").unwrap();
    taker.power.inject(Fault::WriteFails { nth: 9, errno: 28 }).unwrap();
    let said = taker.run_until(|child, out, said| {
        !said.hear(out) || said.failed.is_some() || said.finished >= 20 || child.try_wait().unwrap().is_some()
    });
    let why = said.failed.as_deref().unwrap_or_else(|| panic!("{said:?}"));
    assert!(why.contains("goes on: ") && why.contains("No space left"), "{why}");
    taker.power.clear_faults().unwrap();
    taker.power.cut(Style::Worst, 1).unwrap();
    taker.check(said.finished, said.finished, false, why);
    let engine = open(&taker.data()).unwrap();
    assert_eq!(number_of(&engine, BESIDE), said.begun + 1, "what was written and flushed after the failure");
}
