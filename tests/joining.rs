//! A cluster that lives, in short: a node joins one that is alone, is caught up and promoted; then the first is removed, and
//! everything is still there.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use dstore_e2e::connect;
use dstore_testkit::cluster::write_secret;
use dstore_testkit::ports::free_ports;
use dstore_testkit::process::{Dstore, PATIENCE, Server, dstore_program, run_to_end};
use dstore_testkit::scratch::Scratch;

/// Files so small that nodes start quickly.
const SMALL: [&str; 6] = ["--value-bytes-max", "1MiB", "--log-segment-bytes", "10MiB", "--memory-bytes-max", "64MiB"];

const KEYS: u32 = 1000;

/// Nodes that share a secret, and what they are started with.
struct Room {
    scratch: Scratch,
    secret: String,
}

impl Room {
    fn new(name: &str) -> Room {
        let scratch = Scratch::new(name);
        let secret = write_secret(&scratch, "secret", "a secret for the nodes of one test");
        Room { secret: secret.to_str().unwrap().to_owned(), scratch }
    }

    fn dstore(&self, name: &str, flags: &[&str]) -> Dstore {
        let data = self.scratch.path().join(name);
        Dstore::on(&data).flags(&SMALL).flags(&["--cluster-secret-file", &self.secret]).flags(flags)
    }

    fn start(&self, name: &str, flags: &[&str]) -> Server {
        self.dstore(name, flags).start(&self.scratch).unwrap()
    }

    /// `dstore cluster ...`
    fn cluster(&self, arguments: &[&str], peers: &str) -> Output {
        let mut command = Command::new(dstore_program());
        command.arg("cluster").args(arguments).args(["--peer", peers, "--cluster-secret-file", &self.secret]);
        run_to_end(&mut command, b"")
    }
}

/// The fields of `INFO raft`.
fn raft(address: SocketAddr) -> Vec<(String, String)> {
    let text: String = redis::cmd("INFO").arg("raft").query(&mut connect(address)).unwrap();
    let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.lines().filter_map(field).collect()
}

fn field(address: SocketAddr, name: &str) -> String {
    raft(address).into_iter().find(|(field, _)| field == name).unwrap().1
}

/// Waits until so many nodes vote, as a node sees it.
fn wait_for_voters(address: SocketAddr, voters: usize) {
    let begun = Instant::now();
    let voting = || raft(address).iter().filter(|(_, value)| value.contains("part=voter")).count();
    while voting() != voters {
        assert!(begun.elapsed() < PATIENCE, "{:?}", raft(address));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_node_joins_another_and_takes_its_place() {
    let room = Room::new("joining");
    let ports = free_ports(3);
    let peers: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let first = room.start("first", &["--peer-listen", &peers[0]]);
    let mut client = connect(first.address());
    let mut set = |key: u32| redis::cmd("SET").arg(format!("k{key}")).arg(key).query::<()>(&mut client).unwrap();
    (0..KEYS / 2).for_each(&mut set);
    let second = room.start("second", &["--join", &peers[0], "--peer-listen", &peers[1]]);
    (KEYS / 2..KEYS).for_each(&mut set);
    wait_for_voters(second.address(), 2);
    assert_eq!(field(second.address(), "raft_cluster"), field(first.address(), "raft_cluster"));

    // In the place of a node that lives nobody joins.
    let refused = room.dstore("thief", &["--join", &peers[1], "--peer-listen", &peers[0]]).start(&room.scratch);
    let refused = refused.unwrap_err();
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("Address already in use"), "{}", refused.stderr);

    // Asked through the one that leaves.
    let node = field(first.address(), "raft_node");
    let (code, text) = said(&room.cluster(&["remove", &node], &peers[0]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with(&format!("node {node} is removed\n")), "{text}");
    assert_eq!(first.wait().code(), Some(4));
    wait_for_voters(second.address(), 1);

    let mut client = connect(second.address());
    for key in 0..KEYS {
        let value: u32 = redis::cmd("GET").arg(format!("k{key}")).query(&mut client).unwrap();
        assert_eq!(value, key);
    }
    let () = redis::cmd("SET").arg("later").arg(1).query(&mut client).unwrap();

    // Its directory is of no use any more, its machine is: with a new one.
    let again = room.dstore("first", &["--peer-listen", &peers[0]]).start(&room.scratch).unwrap_err();
    assert_eq!(again.status.code(), Some(4));
    assert!(again.stderr.contains("needs a new data directory"), "{}", again.stderr);
    let third = room.start("third", &["--join", &peers[1], "--peer-listen", &peers[0]]);
    wait_for_voters(third.address(), 2);
    let (code, text) = said(&room.cluster(&["remove", "00000000000000ff"], &peers[0]));
    assert_eq!((code, text.contains("there is no node 00000000000000ff")), (Some(1), true), "{text}");

    // A member just starts, wherever it is now.
    assert_eq!(second.stop().code(), Some(0));
    let moved = room.start("second", &["--join", &peers[0], "--peer-listen", &peers[2]]);
    let later: u32 = redis::cmd("GET").arg("later").query(&mut connect(moved.address())).unwrap();
    assert_eq!(later, 1);
    wait_for_voters(moved.address(), 2);
    let begun = Instant::now();
    while !raft(third.address()).iter().any(|(_, value)| value.contains(&format!("peer={}", peers[2]))) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", raft(third.address()));
        std::thread::sleep(Duration::from_millis(50));
    }
}
