//! Durability: after a power loss under load, everything acknowledged is there and no MULTI block is half there.
//!
//! A power loss is kill -9 plus the library of `dstore_testkit::powerloss`, which takes away from the files what was
//! never synced. The same check must fail when fdatasync is a lie, or it would prove nothing.
//!
//! `POWER_CUTS=20` makes that many cuts in a row on one data directory; a normal run makes a few.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::time::{Duration, Instant};

use dstore_e2e::load::Load;
use dstore_e2e::{connect, seed};
use dstore_testkit::powerloss::{Choose, Fault, PowerLoss, Seeded, Style};
use dstore_testkit::process::{Dstore, PATIENCE, Refused, Server};
use dstore_testkit::scratch::Scratch;

/// A node that loses power, with a log so small that segments are reused and the data is flushed all the time.
struct Node {
    scratch: Scratch,
    power: PowerLoss,
    dstore: Dstore,
}

impl Node {
    fn new() -> Node {
        let scratch = Scratch::new("power");
        let data = scratch.directory("data");
        // RocksDB's text log goes through stdio, which the library does not see; nobody reads it back.
        let power = PowerLoss::watch(&data, &scratch.path().join("journal")).unwrap().tolerate("LOG");
        let small = ["--value-bytes-max", "2MiB", "--log-segment-bytes", "12MiB", "--log-bytes-max", "4MiB"];
        // Without a ballast, which would be copied by each cut, and could be what a fault falls on.
        let dstore = Dstore::on(&data).flags(&small).flags(&["--ballast-bytes", "0"]);
        Node { scratch, power, dstore }
    }

    fn start(&self) -> Result<Server, Refused> {
        self.dstore.start_watched(&self.scratch, &self.power)
    }

    /// Until the log's next segment is prepared. What fails while it is being prepared stops nobody: the node says so and tries
    /// again later.
    fn wait_for_spare_segment(&self) {
        let log = self.scratch.path().join("data/log");
        let is_spare = |name: &str| name.starts_with("spare-") && !name.ends_with(".making");
        let spare_is_there = || {
            let mut files = std::fs::read_dir(&log).unwrap();
            files.any(|file| is_spare(&file.unwrap().file_name().to_string_lossy()))
        };
        let begun = Instant::now();
        while !spare_is_there() {
            assert!(begun.elapsed() < PATIENCE, "no spare segment in {}", log.display());
            std::thread::sleep(Duration::from_millis(5)); // there is no event of another process to wait for
        }
    }
}

fn cuts_wanted() -> u64 {
    std::env::var("POWER_CUTS").map_or(8, |text| text.parse().expect("POWER_CUTS is a number"))
}

#[test]
fn no_acknowledged_write_is_lost_and_no_block_is_half_there() {
    let seed = seed();
    let mut random = Seeded::new(seed);
    let mut node = Node::new();
    let mut load = Load::new(8, seed);
    for round in 0..cuts_wanted() {
        let mut server = node.start().unwrap();
        load.check(server.address()).unwrap_or_else(|lost| panic!("round {round}, seed {seed}: {lost}"));
        let acknowledgements = [10, 300, 3_000][random.choose(3)];
        load.write(server.address(), acknowledgements, || server.kill()).unwrap();
        let style = Style::ALL[(round % 4) as usize];
        let cut = node.power.cut(style, random.next_u64()).unwrap();
        println!("round {round}: {acknowledgements} steps, {} keys, {cut}", load.keys());
        // A power cut may also strike while the node picks itself up from one.
        if random.choose(2) == 0 {
            let mut server = node.start().unwrap();
            server.kill();
            println!(
                "round {round}: again at the start, {}",
                node.power.cut(Style::Scattered, random.next_u64()).unwrap()
            );
        }
    }
    let server = node.start().unwrap();
    load.check(server.address()).unwrap_or_else(|lost| panic!("at the end, seed {seed}: {lost}"));
    assert!(load.keys() > 8, "the load left next to nothing to look for");
    assert_eq!(server.stop().code(), Some(0));
}

/// Loads a node whose syncs are lies for files below `part`, cuts the power, and gives what was found to be missing.
fn lost_when_syncs_lie(part: &str, acknowledgements: usize) -> String {
    let mut node = Node::new();
    node.power.only_in(part).unwrap();
    let mut load = Load::new(4, 1);
    let mut server = node.start().unwrap();
    node.power.inject(Fault::SyncsLie).unwrap();
    load.write(server.address(), acknowledgements, || server.kill()).unwrap();
    node.power.cut(Style::Worst, 1).unwrap();
    node.power.clear_faults().unwrap();
    match node.start() {
        // It may notice and refuse to start; to come up with everything there is what it cannot.
        Err(refused) => refused.stderr,
        Ok(server) => load.check(server.address()).expect_err("acknowledged writes survived without a sync"),
    }
}

#[test]
fn the_same_check_fails_when_fdatasync_lies() {
    println!("as it should be: {}", lost_when_syncs_lie("", 500));
    println!("as it should be: {}", lost_when_syncs_lie("/data/log", 500));
}

#[test]
fn the_same_check_fails_when_the_engines_syncs_lie_and_the_log_was_cut() {
    println!("as it should be: {}", lost_when_syncs_lie("/data/data", 20_000));
}

#[test]
fn an_orderly_stop_under_load_loses_nothing() {
    let mut node = Node::new();
    let mut load = Load::new(4, 4);
    let server = node.start().unwrap();
    load.write(server.address(), 500, || server.terminate()).unwrap();
    assert_eq!(server.wait().code(), Some(0));
    node.power.cut(Style::Worst, 4).unwrap();
    let server = node.start().unwrap();
    load.check(server.address()).unwrap();
}

#[test]
fn a_first_start_that_fails_at_any_sync_can_be_repeated_after_a_power_cut() {
    // Every third sync, another third in another run: each costs two starts.
    for nth in (1 + seed() % 3..).step_by(3) {
        let mut node = Node::new();
        node.power.inject(Fault::SyncFails { nth, errno: libc::EIO }).unwrap();
        match node.start() {
            Ok(server) => assert!(matches!(server.stop().code(), Some(0 | 3)), "sync {nth}"),
            Err(Refused { status, stderr }) => {
                let reasons = stderr.lines().filter(|line| line.starts_with("dstore: ")).count();
                assert!(status.code() == Some(3) && reasons == 1, "sync {nth}: {status}: {stderr}");
            }
        }
        let struck = node.power.syncs().unwrap() >= nth;
        node.power.clear_faults().unwrap();
        let cut = node.power.cut(Style::Scattered, nth).unwrap();
        let server = node.start().unwrap_or_else(|refused| panic!("sync {nth}, {cut}: {refused:?}"));
        let mut connection = connect(server.address());
        redis::cmd("SET").arg("k").arg("v").exec(&mut connection).unwrap();
        if !struck {
            assert!(nth > 10, "a first start syncs more than {nth} times");
            break;
        }
    }
}

#[test]
fn a_later_start_that_fails_at_a_sync_names_the_file_and_the_disk_is_to_blame() {
    let mut node = Node::new();
    assert_eq!(node.start().unwrap().stop().code(), Some(0));
    for nth in 1..=3 {
        node.power.clear_faults().unwrap();
        node.power.cut(Style::Scattered, seed()).unwrap();
        node.power.inject(Fault::SyncFails { nth, errno: libc::EIO }).unwrap();
        let Err(Refused { status, stderr }) = node.start() else { panic!("sync {nth} was none of the start") };
        let last = stderr.lines().last().unwrap_or_default();
        let names = last.starts_with("dstore: ") && last.contains(node.scratch.path().to_str().unwrap());
        assert!(status.code() == Some(3) && names, "sync {nth}: {status}: {stderr}");
    }
    node.power.clear_faults().unwrap();
    node.power.cut(Style::Scattered, seed()).unwrap();
    assert_eq!(node.start().unwrap().stop().code(), Some(0));
}

#[test]
fn a_failed_fdatasync_stops_the_node_before_it_acknowledges() {
    let mut node = Node::new();
    let mut load = Load::new(4, 2);
    let server = node.start().unwrap();
    node.wait_for_spare_segment();
    node.power.inject(Fault::SyncFails { nth: 40, errno: libc::EIO }).unwrap();
    load.write(server.address(), usize::MAX, || ()).unwrap(); // until the server is gone
    let said = server.stderr();
    let status = server.wait();
    assert_eq!(status.code(), Some(3), "{said}");
    node.power.clear_faults().unwrap();
    node.power.cut(Style::Worst, 2).unwrap();
    let server = node.start().unwrap();
    load.check(server.address()).unwrap();
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let mut node = Node::new();
    let mut load = Load::new(4, 3);
    let server = node.start().unwrap();
    node.wait_for_spare_segment();
    node.power.inject(Fault::WriteFails { nth: 60, errno: libc::ENOSPC }).unwrap();
    load.write(server.address(), usize::MAX, || ()).unwrap();
    let status = server.wait();
    assert_eq!(status.code(), Some(3));
    node.power.clear_faults().unwrap();
    node.power.cut(Style::InOrder, 3).unwrap();
    let server = node.start().unwrap();
    load.check(server.address()).unwrap();
}

#[test]
fn clients_that_wait_for_the_disk_share_its_next_sync() {
    const CLIENTS: usize = 32;
    const WRITES: usize = 10;
    let node = Node::new();
    let server = node.start().unwrap();
    node.power.inject(Fault::SyncsStallMs(10)).unwrap();
    let before = node.power.syncs().unwrap();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut connection = connect(server.address());
            scope.spawn(move || {
                for n in 0..WRITES {
                    redis::cmd("SET").arg(format!("{client}:{n}")).arg("x").exec(&mut connection).unwrap();
                }
            });
        }
    });
    let syncs = node.power.syncs().unwrap() - before;
    assert!(syncs >= WRITES as u64, "{syncs} syncs cannot have covered writes made one after the other");
    assert!(syncs < (CLIENTS * WRITES / 2) as u64, "{syncs} syncs for {} writes", CLIENTS * WRITES);
}
