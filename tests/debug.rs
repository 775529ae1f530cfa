//! `dstore debug`: what a node's directory says while no node runs on it, and the way back after the loss of a majority.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dstore_e2e::connect;
use dstore_testkit::cluster::Plan;
use dstore_testkit::process::{Dstore, dstore_program, run, run_to_end};
use dstore_testkit::scratch::Scratch;

/// Runs `dstore debug` to its end.
fn debug(arguments: &[&str]) -> Output {
    run_to_end(Command::new(dstore_program()).arg("debug").args(arguments), b"")
}

/// The same, of a directory; gives what it printed.
fn printed(what: &str, data: &Path, more: &[&str]) -> String {
    let mut command = Command::new(dstore_program());
    run(command.args(["debug", what]).arg(data).args(more), b"")
}

/// Every file below `path`, with its content.
fn contents(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    found
}

/// The first segment of the log in a data directory.
fn segment(data: &Path) -> PathBuf {
    data.join("log/00000000000000000001.log")
}

fn line<'a>(text: &'a str, start: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no line {start:?} in\n{text}"))
}

/// A directory with a few keys in it, whose node was killed; so the log has what the data has not.
fn killed_node(scratch: &Scratch) -> PathBuf {
    let data = scratch.directory("data");
    let mut server = node(&data).start(scratch).unwrap();
    let mut connection = connect(server.address());
    redis::cmd("SET").arg("greeting").arg("hello").exec(&mut connection).unwrap();
    redis::cmd("SET").arg("user:1").arg("ann").arg("EX").arg("1000").exec(&mut connection).unwrap();
    redis::cmd("SETRANGE").arg("large").arg(200_000).arg("x").exec(&mut connection).unwrap();
    server.kill();
    data
}

fn node(data: &Path) -> Dstore {
    Dstore::on(data).flags(&["--value-bytes-max", "1MiB", "--log-segment-bytes", "10MiB"])
}

#[test]
fn a_directory_is_looked_at_and_not_changed() {
    let scratch = Scratch::new("debug");
    let data = killed_node(&scratch);
    let before = contents(&data);
    let log = printed("log", &data, &["--ops"]);
    assert!(log.contains("a node starts on this log"), "{log}");
    assert!(line(&log, "range 1 (user): term 2").contains("begins behind 1@1"), "{log}");
    assert!(log.contains("put db0 \"greeting\" = string version"), "{log}");
    assert!(log.contains("put expiry at 20"), "{log}");
    let one = printed("log", &data, &["--range", "1", "--from", "3", "--to", "3"]);
    assert!(one.contains("\"greeting\"") && !one.contains("\"user:1\"") && !one.contains("(system)"), "{one}");
    let none = printed("log", &data, &["--entries", "0"]);
    assert!(!none.contains("entries of range"), "{none}");
    assert_eq!(line(&printed("data", &data, &[]), "range 1"), "range 1 (user): nothing was flushed yet");
    assert!(contents(&data) == before, "looking changed something");

    let server = node(&data).start(&scratch).unwrap();
    for what in ["log", "data", "recover"] {
        let refused = debug(&[what, data.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("in use by another process"), "{refused:?}");
    }
    assert_eq!(server.stop().code(), Some(0));
    let before = contents(&data);
    let text = printed("data", &data, &["--checksum", "--keys"]);
    assert_eq!(line(&text, "keys"), "keys         db0 3");
    assert!(line(&text, "db0 \"user:1\"").contains("expires 20"), "{text}");
    assert!(line(&text, "db0 \"large\"").contains("200001 bytes in chunks"), "{text}");
    assert!(line(&text, "node         ").ends_with("start 2, format 2"), "{text}");
    assert!(line(&text, "checksum     range 1 at ").contains("records"), "{text}");
    let few = printed("data", &data, &["--keys=user:", "--db", "0", "--limit", "1"]);
    assert!(few.contains("\"user:1\"") && !few.contains("\"greeting\""), "{few}");
    assert!(contents(&data) == before, "looking changed something");
}

#[test]
fn a_log_that_no_node_starts_on_is_printed_as_far_as_it_can_be_read() {
    let scratch = Scratch::new("debug");
    let data = killed_node(&scratch);
    // In the middle of the first frames: the last ones stay whole.
    let mut bytes = std::fs::read(segment(&data)).unwrap();
    bytes[4096 + 40] ^= 1;
    std::fs::write(segment(&data), bytes).unwrap();
    let refused = node(&data).start(&scratch).unwrap_err();
    let before = contents(&data);
    let output = debug(&["log", data.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    let verdict = line(&text, "A NODE REFUSES TO START ON THIS LOG: ");
    let reason = verdict.split_once("LOG: ").unwrap().1;
    assert!(refused.stderr.contains(reason), "{verdict} but the node said {}", refused.stderr);
    assert!(line(&text, "DAMAGE: ").contains("at offset 4096"), "{text}");
    assert!(text.contains("put db0 \"greeting\""), "{text}");
    assert_eq!(debug(&["recover", data.to_str().unwrap()]).status.code(), Some(1));
    assert!(contents(&data) == before, "looking changed something");
    for garbage in [&b""[..], b"garbage", &[0xA5; 100_000]] {
        std::fs::write(segment(&data), garbage).unwrap();
        let output = debug(&["log", data.to_str().unwrap()]);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0), "{output:?}");
    }
    std::fs::write(data.join("IDENTITY"), "garbage").unwrap();
    std::fs::remove_dir_all(data.join("data")).unwrap();
    for what in ["log", "data", "recover"] {
        let output = debug(&[what, data.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
    let nowhere = scratch.path().join("nowhere");
    assert_eq!(debug(&["log", nowhere.to_str().unwrap()]).status.code(), Some(1));
    assert!(!nowhere.exists());
}

#[test]
fn a_survivor_goes_on_alone_after_the_loss_of_a_majority() {
    let mut cluster =
        Plan::new("recover").flags(&["--value-bytes-max", "1MiB", "--log-segment-bytes", "10MiB"]).start();
    for n in 0..500 {
        let mut connection = connect(cluster.address(n % 3));
        redis::cmd("SET").arg(n).arg(format!("value {n}")).exec(&mut connection).unwrap();
    }
    let applied = cluster.wait_all_equal();
    let term = cluster.raft(1).unwrap().term;
    cluster.kill_all();
    let data = cluster.data(1).to_path_buf();
    let before = contents(&data);
    let asked = debug(&["recover", data.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&asked.stdout);
    assert_eq!(asked.status.code(), Some(1), "{text}");
    assert!(text.contains("GIVEN UP: ") && text.contains("NOTHING WAS CHANGED"), "{text}");
    assert!(text.contains(&format!("the log ends at {applied}@")), "{text}");
    assert!(text.contains("entries behind the data will count as decided"), "nothing was flushed: {text}");
    assert!(contents(&data) == before, "it only said what it would do");

    let flag = "--i-know-that-writes-may-be-lost";
    let done = printed("recover", &data, &[flag]);
    assert!(done.contains("Done."), "{done}");
    assert!(printed("recover", &data, &[flag]).contains("Nothing to do"));
    let log = printed("log", &data, &["--range", "1"]);
    let (last, new) = (applied + 1, term + 1);
    assert!(line(&log, &format!("range 1 (user): term {new},")).contains(&format!("ends at {last}@{new}")), "{log}");
    // Killed nodes have flushed nothing, so who was removed stands in the log alone.
    let system = printed("log", &data, &["--range", "0", "--ops"]);
    assert_eq!(system.matches("  REMOVED 20").count(), 2, "{system}");

    cluster.restart(1);
    let mut connection = connect(cluster.address(1));
    for n in 0..500 {
        let value: String = redis::cmd("GET").arg(n).query(&mut connection).unwrap();
        assert_eq!(value, format!("value {n}"));
    }
    redis::cmd("SET").arg("after").arg("all").exec(&mut connection).unwrap();
    cluster.kill(1);
    cluster.restart(1);
    let mut connection = connect(cluster.address(1));
    assert_eq!(redis::cmd("GET").arg("after").query::<String>(&mut connection).unwrap(), "all");
    assert_eq!(redis::cmd("DBSIZE").query::<u64>(&mut connection).unwrap(), 501);
    let raft = cluster.raft(1).unwrap();
    assert!(raft.role == "leader" && raft.term > new, "{raft:?}");
    assert_eq!(cluster.stop(1), Some(0));
    let text = printed("data", &data, &[]);
    assert_eq!(text.lines().filter(|line| line.starts_with("node ") && line.contains("REMOVED")).count(), 2, "{text}");
}
