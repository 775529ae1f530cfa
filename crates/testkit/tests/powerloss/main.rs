//! The power-loss library around a real process: a Python interpreter that does what each test tells it, and is killed.
//!
//! The model behind it is tested where it is written; here it is shown that the library sees what a process does.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use dstore_testkit::powerloss::{Fault, PowerLoss, PowerLossError, Style, Tree};

/// A watched directory and the process that works in it.
struct Toy {
    scratch: tempfile::TempDir,
    power: PowerLoss,
}

/// A process that runs lines of Python in the watched directory.
struct Life {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Toy {
    fn new(files: &[(&str, &str)]) -> Toy {
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for (path, text) in files {
            std::fs::write(data.join(path), text).unwrap();
        }
        let power = PowerLoss::watch(&data, &scratch.path().join("journal")).unwrap();
        Toy { scratch, power }
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn start(&self) -> Life {
        let mut command = Command::new("python3");
        command.arg("-S").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/powerloss/toy.py"));
        command.current_dir(self.data()).stdin(Stdio::piped()).stdout(Stdio::piped());
        self.power.attach(&mut command);
        let mut child = command.spawn().expect("python3 is installed");
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Life { child, input, output }
    }

    /// Runs the lines, each of which must succeed, in one process, and kills it.
    fn live(&self, lines: &[&str]) {
        let mut life = self.start();
        for line in lines {
            assert_eq!(life.run(line), "ok", "{line}");
        }
        life.kill();
    }

    /// Every state that a power loss could leave, each as `name=bytes` in order of name; zero bytes are shown as dots.
    fn outcomes(&mut self) -> BTreeSet<String> {
        self.power.outcomes().unwrap().iter().map(shown).collect()
    }
}

impl Life {
    fn run(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.trim_end().to_string()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn shown(tree: &Tree) -> String {
    let files =
        tree.files.iter().map(|(path, bytes)| format!("{path}={}", String::from_utf8_lossy(bytes).replace('\0', ".")));
    tree.directories.iter().map(|path| format!("{path}/")).chain(files).collect::<Vec<_>>().join(" ")
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

const SYNC_NAMES: &str = "d = os.open('.', os.O_RDONLY); os.fsync(d); os.close(d)";

#[test]
fn appended_bytes_are_safe_once_synced_and_not_before() {
    let mut toy = Toy::new(&[]);
    toy.live(&["f = os.open('f', NEW)", SYNC_NAMES, "os.write(f, b'ab')", "os.fdatasync(f)", "os.write(f, b'cd')"]);
    assert_eq!(toy.outcomes(), set(&["f=ab", "f=abc", "f=abcd"]));
}

#[test]
fn an_overwrite_brings_the_old_bytes_back_until_it_is_synced() {
    let mut toy = Toy::new(&[("f", "abcd")]);
    toy.live(&["f = os.open('f', os.O_RDWR)", "os.pwrite(f, b'XY', 1)"]);
    assert_eq!(toy.outcomes(), set(&["f=abcd", "f=aXcd", "f=aXYd"]));
    let mut toy = Toy::new(&[("f", "abcd")]);
    toy.live(&["f = os.open('f', os.O_RDWR)", "os.pwrite(f, b'XY', 1)", "os.fsync(f)"]);
    assert_eq!(toy.outcomes(), set(&["f=aXYd"]));
}

#[test]
fn each_way_to_write_is_seen() {
    for (how, bytes) in [
        ("os.write(f, b'x')", "x"),
        ("os.writev(f, [b'x', b'', b'yz'])", "xyz"),
        ("os.pwrite(f, b'x', 2)", "..x"),
        ("os.pwritev(f, [b'x', b'y'], 1)", ".xy"),
        ("g = os.dup(f); os.write(g, b'x')", "x"),
        ("os.dup2(f, 77); os.write(77, b'x')", "x"),
        ("import fcntl; g = fcntl.fcntl(f, fcntl.F_DUPFD, 50); os.write(g, b'x')", "x"),
        ("os.lseek(f, 2, 0); os.write(f, b'x')", "..x"),
        ("open('f', 'ab').write(b'x')", "x"),
        ("os.ftruncate(f, 2)", ".."),
        ("os.truncate('f', 2)", ".."),
        ("os.posix_fallocate(f, 1, 2)", "..."),
        (
            "import shutil; os.write(os.open('f', os.O_WRONLY), b'xy'); shutil.copyfile('f', 'f2'); os.remove('f2')",
            "xy",
        ),
    ] {
        let mut toy = Toy::new(&[("f", "")]);
        toy.live(&["f = os.open('f', os.O_RDWR)", how, "os.fsync(f)"]);
        let outcomes = toy.outcomes();
        let settled = outcomes.iter().all(|state| state.starts_with(&format!("f={bytes}")));
        assert!(settled, "{how}: {outcomes:?}");
    }
}

#[test]
fn a_file_opened_for_synchronous_writes_needs_no_sync() {
    let mut toy = Toy::new(&[("f", "")]);
    toy.live(&["f = os.open('f', os.O_RDWR | os.O_DSYNC)", "os.write(f, b'x')"]);
    assert_eq!(toy.outcomes(), set(&["f=x"]));
}

#[test]
fn truncation_on_opening_is_a_change_like_any_other() {
    let mut toy = Toy::new(&[("f", "old")]);
    toy.live(&["f = open('f', 'w')"]);
    assert_eq!(toy.outcomes(), set(&["f=", "f=old"]));
}

#[test]
fn names_are_durable_with_their_directory() {
    let replace = ["f = os.open('new', NEW)", "os.write(f, b'2')", "os.fsync(f)", "os.rename('new', 'f')"];
    let mut toy = Toy::new(&[("f", "1")]);
    toy.live(&replace);
    assert_eq!(toy.outcomes(), set(&["f=1", "f=1 new=2", "f=2"]));
    let mut toy = Toy::new(&[("f", "1")]);
    toy.live(&[&replace[..], &[SYNC_NAMES]].concat());
    assert_eq!(toy.outcomes(), set(&["f=2"]));
}

#[test]
fn directories_links_and_removals_are_seen() {
    let mut toy = Toy::new(&[("f", "1"), ("g", "2")]);
    toy.live(&[
        "os.mkdir('d')",
        "os.link('f', 'd/h')",
        "d = os.open('d', os.O_RDONLY); os.fsync(d)",
        "os.unlink('g')",
        "os.mkdir('e'); os.rmdir('e')",
        SYNC_NAMES,
    ]);
    assert_eq!(toy.outcomes(), set(&["d/ d/h=1 f=1"]));
}

#[test]
fn a_cut_is_carried_out_on_the_files_and_the_next_life_begins_from_there() {
    let mut toy = Toy::new(&[("old", "1"), ("kept", "k")]);
    toy.live(&[
        "os.mkdir('d')",
        "f = os.open('d/f', NEW); os.write(f, b'x')",
        "os.unlink('old')",
        "os.write(os.open('kept', os.O_WRONLY), b'K')",
    ]);
    let read = |name: &str| std::fs::read_to_string(toy.scratch.path().join("data").join(name)).ok();
    assert_eq!((read("d/f").as_deref(), read("old"), read("kept").as_deref()), (Some("x"), None, Some("K")));
    let cut = toy.power.cut(Style::Worst, 1).unwrap();
    assert_eq!(cut.changed, ["d", "d/f", "kept", "old"]);
    let read = |name: &str| std::fs::read_to_string(toy.scratch.path().join("data").join(name)).ok();
    assert_eq!((read("d/f"), read("old").as_deref(), read("kept").as_deref()), (None, Some("1"), Some("k")));
    assert!(!toy.data().join("d").exists());

    toy.live(&["f = os.open('kept', os.O_RDWR | os.O_APPEND); os.write(f, b'2'); os.fsync(f); os.write(f, b'3')"]);
    assert_eq!(toy.outcomes(), set(&["kept=k2 old=1", "kept=k23 old=1"]));
}

#[test]
fn the_same_seed_leaves_the_same_files() {
    let leave = |seed| {
        let mut toy = Toy::new(&[("f", "")]);
        toy.live(&["f = os.open('f', os.O_RDWR)", "[os.pwrite(f, b'0123456789', 10 * n) for n in range(20)]"]);
        toy.power.cut(Style::Scattered, seed).unwrap();
        std::fs::read(toy.data().join("f")).unwrap()
    };
    assert_eq!(leave(1), leave(1));
    assert!((2..12).any(|seed| leave(seed) != leave(1)));
}

#[test]
fn a_sync_that_lies_saves_nothing() {
    let mut toy = Toy::new(&[("f", "")]);
    toy.power.inject(Fault::SyncsLie).unwrap();
    toy.live(&["f = os.open('f', os.O_RDWR)", "os.write(f, b'x')", "os.fsync(f)", "os.fdatasync(f)"]);
    assert_eq!(toy.outcomes(), set(&["f=", "f=x"]));
}

#[test]
fn the_nth_sync_fails_and_what_it_should_have_saved_stays_in_doubt() {
    let mut toy = Toy::new(&[("f", "")]);
    let mut life = toy.start();
    life.run("f = os.open('f', os.O_RDWR)");
    life.run("os.write(f, b'a'); os.fsync(f)");
    toy.power.inject(Fault::SyncFails { nth: 2, errno: libc::EIO }).unwrap();
    assert_eq!(life.run("os.write(f, b'b'); os.fsync(f)"), "ok");
    assert!(!toy.power.take_failed_sync().unwrap());
    assert_eq!(life.run("os.write(f, b'c'); os.fsync(f)"), libc::EIO.to_string());
    assert!(toy.power.take_failed_sync().unwrap());
    assert!(!toy.power.take_failed_sync().unwrap());
    assert_eq!(life.run("os.write(f, b'd'); os.fsync(f)"), "ok");
    life.kill();
    assert_eq!(toy.power.syncs().unwrap(), 4);
    assert_eq!(toy.outcomes(), set(&["f=ab.d", "f=abcd"]));
}

#[test]
fn the_nth_write_fails_or_is_cut_short_and_only_where_asked() {
    let mut toy = Toy::new(&[("f", ""), ("g", "")]);
    toy.power.only_in("data/f").unwrap();
    let mut life = toy.start();
    life.run("f = os.open('f', os.O_RDWR); g = os.open('g', os.O_RDWR)");
    toy.power.inject(Fault::WriteFails { nth: 1, errno: libc::ENOSPC }).unwrap();
    assert_eq!(life.run("os.write(g, b'g')"), "ok");
    assert_eq!(life.run("os.write(f, b'aaaa')"), libc::ENOSPC.to_string());
    toy.power.inject(Fault::WriteIsShort { nth: 2 }).unwrap();
    assert_eq!(life.run("assert os.write(f, b'aaaa') == 4"), "ok");
    assert_eq!(life.run("assert os.write(f, b'bbbb') == 2"), "ok");
    toy.power.clear_faults().unwrap();
    assert_eq!(life.run("os.fsync(f); os.fsync(g)"), "ok");
    life.kill();
    assert_eq!(toy.outcomes(), set(&["f=aaaabb g=g"]));
}

#[test]
fn a_stalled_sync_still_syncs() {
    let mut toy = Toy::new(&[("f", "")]);
    toy.power.inject(Fault::SyncsStallMs(20)).unwrap();
    toy.live(&[
        "f = os.open('f', os.O_RDWR); os.write(f, b'x')",
        "import time; t = time.monotonic(); os.fsync(f)",
        "assert time.monotonic() - t >= 0.02",
    ]);
    assert_eq!(toy.outcomes(), set(&["f=x"]));
}

#[test]
fn what_cannot_be_followed_fails_the_test_that_did_it() {
    let mut toy = Toy::new(&[("f", "x")]);
    toy.live(&["import mmap; f = os.open('f', os.O_RDWR); m = mmap.mmap(f, 1)"]);
    assert!(matches!(toy.power.cut(Style::Worst, 1), Err(PowerLossError::Untracked(_))));

    let mut toy = Toy::new(&[("f", "x")]);
    toy.live(&["import ctypes; f = os.open('f', os.O_RDWR)", "ctypes.CDLL(None).syscall(1, f, b'y', 1)"]);
    let outcome = toy.power.cut(Style::Worst, 1);
    assert!(matches!(&outcome, Err(PowerLossError::Escaped(paths)) if paths == &["f"]), "{outcome:?}");
}

#[test]
fn a_running_process_has_not_lost_its_power() {
    let mut toy = Toy::new(&[]);
    let mut life = toy.start();
    assert_eq!(life.run("pass"), "ok");
    assert!(matches!(toy.power.cut(Style::Worst, 1), Err(PowerLossError::StillRuns(_))));
    life.kill();
    toy.power.cut(Style::Worst, 1).unwrap();
}

#[test]
fn threads_that_write_and_are_killed_at_any_moment_leave_a_journal_that_adds_up() {
    let writers = "import threading, random
def work(n):
    f = os.open('f%d' % n, NEW)
    while True:
        os.pwrite(f, os.urandom(random.randrange(1, 9000)), random.randrange(100000))
        if random.randrange(4) == 0: os.fdatasync(f)
        if random.randrange(9) == 0: os.rename('f%d' % n, 'g%d' % n); os.rename('g%d' % n, 'f%d' % n)
";
    for seed in 1..=8 {
        let mut toy = Toy::new(&[]);
        let mut life = toy.start();
        assert_eq!(life.run(&format!("exec({writers:?})")), "ok");
        life.run("[threading.Thread(target=work, args=(n,), daemon=True).start() for n in range(4)]");
        while toy.power.syncs().unwrap() < 20 * seed {
            assert!(life.child.try_wait().unwrap().is_none(), "the writers died");
            std::thread::yield_now();
        }
        life.kill();
        let cut = toy.power.cut(Style::Scattered, seed).unwrap();
        assert!(cut.events > 20, "{cut}");
    }
}
