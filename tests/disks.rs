//! Disks that stand still, are full, fail or rot under real nodes; and what their clients saw.
//!
//! Syncs are made slow, or fail, by the library of `dstore_testkit::powerloss`; a full disk is a small filesystem in memory,
//! for which a test must be allowed to mount (it says so and is skipped otherwise). How long nobody's write was acknowledged
//! is printed. What depends on the speed of the machine is asserted only with `DISK_TIMES=1`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests fail by panicking, as tests do

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dstore_e2e::recorder::Recorder;
use dstore_e2e::seed;
use dstore_testkit::client::{Client, Reply, pack};
use dstore_testkit::cluster::{Cluster, Plan};
use dstore_testkit::powerloss::{Fault, Style};
use dstore_testkit::process::{Dstore, PATIENCE, SMALL, alone};
use dstore_testkit::scratch::Scratch;
use dstore_testkit::small_disk::SmallDisk;

/// Marks for a disk of [`DISK_BYTES`].
const MARKS: [&str; 4] = ["--free-bytes-floor", "112MiB", "--ballast-bytes", "8MiB"];
const DISK_BYTES: u64 = 256 << 20;
/// So much is left on a disk that is called full: far below a quarter of the floor, and enough for what the kernel adds.
const LEFT_BYTES: u64 = 2 << 20;

/// How long a disk stands still.
const STALL: Duration = Duration::from_secs(3);
/// What a stall may cost, on a machine that is otherwise idle.
const GAP_MAX: Duration = Duration::from_millis(500);

fn times_count() -> bool {
    std::env::var_os("DISK_TIMES").is_some()
}

fn call(client: &mut Client, words: &[&str]) -> Reply {
    let arguments: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    client.call(&arguments).unwrap()
}

/// One command through one node, over a connection of its own.
fn ask(cluster: &Cluster, node: usize, words: &[&str]) -> Reply {
    call(&mut cluster.dialer().connect(cluster.address(node), PATIENCE).unwrap(), words)
}

fn is_oom(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with("OOM command not allowed"))
}

/// The next sync of a node's log takes [`STALL`].
fn stall_next_sync(cluster: &Cluster, node: usize) {
    let power = cluster.power(node);
    let before = power.syncs().unwrap();
    power.inject(Fault::SyncsStallMs(u64::try_from(STALL.as_millis()).unwrap())).unwrap();
    cluster.wait("a sync that stalls", |_| (power.syncs().unwrap() > before).then_some(()));
    power.clear_faults().unwrap();
}

/// Stalls the disk of the leader, or of a follower, under load.
fn stall_under_load(name: &str, of_leader: bool) {
    let cluster = Plan::new(name).flags(&SMALL).flags(&["--ballast-bytes", "0"]).watched();
    let cluster = cluster.prepare();
    let mut cluster = cluster;
    for node in cluster.nodes() {
        cluster.power(node).only_in("/log").unwrap();
    }
    cluster.start_all();
    let recorder = Recorder::start(&cluster, 2, seed());
    recorder.wait_for_writes(&[0, 1, 2], 200);
    let leader = cluster.leader();
    let slow = if of_leader { leader } else { cluster.others(leader)[0] };
    let term = cluster.raft(leader).unwrap().term;

    let from = recorder.now();
    let ends = Instant::now() + STALL;
    stall_next_sync(&cluster, slow);
    if of_leader {
        let next = cluster.leader_besides(slow);
        println!("node {next} leads instead of node {slow}, {:.3?} after its disk stood still", began(ends));
    }
    recorder.wait_for_writes(&[0, 1, 2], 100);
    std::thread::sleep(ends.saturating_duration_since(Instant::now())); // the stall is what is tested
    let to = recorder.now();
    recorder.wait_for_writes(&[0, 1, 2], 50);
    cluster.wait_caught_up(slow);
    let term_after = cluster.raft(cluster.leader()).unwrap().term;
    let verdict = recorder.finish(&cluster);
    cluster.wait_all_equal();
    let gap = verdict.gap(from, Some(to));
    let each: Vec<Duration> = cluster.nodes().map(|node| verdict.gap_through(node, from, to)).collect();
    println!(
        "disk of {} {slow} stood still for {STALL:?}: gap {gap:.3?}, through each node {each:.3?}; term {term} -> \
         {term_after}; {verdict}",
        if of_leader { "leader" } else { "follower" }
    );
    verdict.assert_clean();
    if times_count() {
        assert!(gap <= GAP_MAX, "{gap:?}");
        assert!(each.iter().all(|gap| *gap <= 2 * GAP_MAX), "{each:?}");
        assert_eq!(term_after, term + u64::from(of_leader), "leadership moves once if the leader's disk stands still");
    }
}

/// How long ago something began that lasts [`STALL`] and ends then.
fn began(ends: Instant) -> Duration {
    STALL.saturating_sub(ends.saturating_duration_since(Instant::now()))
}

#[test]
fn a_leader_whose_disk_stands_still_hands_over_and_writes_go_on() {
    let _alone = alone();
    stall_under_load("stall-leader", true);
}

#[test]
fn a_follower_whose_disk_stands_still_is_not_noticed() {
    let _alone = alone();
    stall_under_load("stall-follower", false);
}

/// Long values that cannot be made short, so that each look-up of one reads a block of its own.
const COLD_KEYS: usize = 3_000;
const COLD_VALUE_WORDS: u64 = 1 << 10;

fn cold_value(key: usize) -> String {
    let word = |at: u64| (key as u64 * COLD_VALUE_WORDS + at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..COLD_VALUE_WORDS).map(|at| format!("{:016x}", word(at) ^ word(at) >> 29)).collect()
}

/// Clients that read what is not in memory, and how long each of the reads from files that this takes lasts.
const COLD_CLIENTS: usize = 24;
const READ_STALL: Duration = Duration::from_millis(100);

#[test]
fn a_leader_whose_reads_take_long_goes_on_leading_and_serves_what_it_has_in_memory() {
    let _alone = alone();
    let mut cluster = Plan::new("slow-reads").flags(&SMALL).flags(&["--ballast-bytes", "0"]).watched().prepare();
    for node in cluster.nodes() {
        cluster.power(node).only_in("/data/").unwrap();
    }
    cluster.start_all();
    let mut client = cluster.dialer().connect(cluster.address(cluster.leader()), PATIENCE).unwrap();
    for key in 0..COLD_KEYS {
        assert_eq!(
            call(&mut client, &["SET", &format!("cold:{key}"), &cold_value(key)]),
            Reply::Simple("OK".to_owned())
        );
    }
    // Most of it was flushed, and is not in memory when they start again.
    for node in cluster.nodes() {
        cluster.cut_power(node, Style::Best, 0);
    }
    cluster.start_all();
    let leader = cluster.leader();
    assert_eq!(ask(&cluster, leader, &["SET", "hot", "1"]), Reply::Simple("OK".to_owned()));
    let term = cluster.raft(leader).unwrap().term;
    cluster.power(leader).inject(Fault::ReadsStallMs(u64::try_from(READ_STALL.as_millis()).unwrap())).unwrap();

    let dialer = cluster.dialer();
    let mut cold: Vec<Client> =
        (0..COLD_CLIENTS).map(|_| dialer.connect(cluster.address(leader), PATIENCE).unwrap()).collect();
    let mut hot = dialer.connect(cluster.address(leader), PATIENCE).unwrap();
    let began = Instant::now();
    let key_of = |client: usize| client * (COLD_KEYS / COLD_CLIENTS);
    for (at, client) in cold.iter_mut().enumerate() {
        let mut request = Vec::new();
        pack(&mut request, &[b"GET", format!("cold:{}", key_of(at)).as_bytes()]);
        client.send(&request).unwrap();
    }
    let (mut longest, mut calls) = (Duration::ZERO, 0);
    while began.elapsed() < READ_STALL * 10 {
        let asked = Instant::now();
        assert_eq!(call(&mut hot, &["INCR", "hot"]), Reply::Integer(calls + 2));
        (longest, calls) = (longest.max(asked.elapsed()), calls + 1);
    }
    for (at, client) in cold.iter_mut().enumerate() {
        assert_eq!(client.receive().unwrap(), Reply::Bulk(cold_value(key_of(at)).into_bytes()));
    }
    let took = began.elapsed();
    cluster.power(leader).clear_faults().unwrap();
    let elsewhere = cluster.info(leader, "stats", "dstore_rehearsals").unwrap();
    let term_after = cluster.raft(cluster.leader()).unwrap().term;
    println!(
        "{COLD_CLIENTS} reads of {READ_STALL:?} or more each: {took:.3?}, {elsewhere} rehearsals; meanwhile {calls} \
         INCRs, the longest {longest:.3?}; term {term} -> {term_after}"
    );
    assert_ne!(elsewhere, "0", "the loop did it all by itself");
    let by_itself = READ_STALL * u32::try_from(COLD_CLIENTS).unwrap();
    assert!(longest < by_itself / 2, "{longest:?}: if the loop read by itself it would be {by_itself:?} at least");
    if times_count() {
        assert_eq!(term_after, term);
    }
}

fn disk_space(cluster: &Cluster, node: usize) -> Option<String> {
    cluster.info(node, "persistence", "dstore_disk_space")
}

fn wait_for_space(cluster: &Cluster, node: usize, level: &str) {
    cluster.wait(&format!("disk space that is {level}"), |cluster| {
        (disk_space(cluster, node).as_deref() == Some(level)).then_some(())
    });
}

#[test]
fn a_full_disk_of_a_follower_and_then_of_the_leader_stops_nobody() {
    let _alone = alone();
    let mut cluster = Plan::new("full").flags(&SMALL).flags(&MARKS).prepare();
    let mounted = cluster.nodes().map(|node| SmallDisk::mount(cluster.data(node), DISK_BYTES)).collect();
    let disks: Vec<SmallDisk> = match mounted {
        Ok(disks) => disks,
        Err(why) => return println!("SKIPPED, this machine or user cannot mount: {why}"),
    };
    cluster.start_all();
    let recorder = Recorder::start(&cluster, 2, seed());
    recorder.wait_for_writes(&[0, 1, 2], 100);
    let mut gaps = Vec::new();
    for of_leader in [false, true] {
        let leader = cluster.leader();
        let full = if of_leader { leader } else { cluster.others(leader)[0] };
        wait_for_space(&cluster, full, "ample");
        let from = recorder.now();
        disks[full].fill_but(LEFT_BYTES).unwrap();
        wait_for_space(&cluster, full, "critical");
        if of_leader {
            let next = cluster.leader_besides(full);
            println!("node {next} leads instead of node {full}, whose disk is full");
        }
        recorder.wait_for_writes(&[0, 1, 2], 300);
        gaps.push(("full", full, from, recorder.now()));
        let from = recorder.now();
        disks[full].empty().unwrap();
        wait_for_space(&cluster, full, "ample");
        cluster.wait_caught_up(full);
        recorder.wait_for_writes(&[0, 1, 2], 100);
        gaps.push(("with room again", full, from, recorder.now()));
    }
    let verdict = recorder.finish(&cluster);
    cluster.wait_all_equal();
    for (what, node, from, to) in gaps {
        println!("disk of node {node} {what}: gap {:.3?}", verdict.gap(from, Some(to)));
    }
    println!("{verdict}");
    verdict.assert_clean();
    for node in cluster.nodes() {
        assert_eq!(cluster.stop(node), Some(0), "node {node} was the same process all the time");
    }
}

#[test]
fn full_disks_of_all_nodes_refuse_growth_and_take_deletes() {
    let _alone = alone();
    let mut cluster = Plan::new("all-full").flags(&SMALL).flags(&MARKS).prepare();
    let mounted = cluster.nodes().map(|node| SmallDisk::mount(cluster.data(node), DISK_BYTES)).collect();
    let disks: Vec<SmallDisk> = match mounted {
        Ok(disks) => disks,
        Err(why) => return println!("SKIPPED, this machine or user cannot mount: {why}"),
    };
    cluster.start_all();
    assert_eq!(ask(&cluster, 0, &["SET", "k", "v"]), Reply::Simple("OK".to_owned()));
    for node in cluster.nodes() {
        disks[node].fill_but(LEFT_BYTES).unwrap();
        wait_for_space(&cluster, node, "critical");
    }
    for node in cluster.nodes() {
        let refused = cluster.wait("a refusal", |cluster| Some(ask(cluster, node, &["SET", "k", "w"])).filter(is_oom));
        println!("through node {node}: {refused:?}");
        assert_eq!(ask(&cluster, node, &["GET", "k"]), Reply::Bulk(b"v".to_vec()));
    }
    assert_eq!(ask(&cluster, 1, &["DEL", "k"]), Reply::Integer(1));
    assert_eq!(ask(&cluster, 2, &["GET", "k"]), Reply::Null);
    assert_eq!(ask(&cluster, 0, &["FLUSHALL"]), Reply::Simple("OK".to_owned()));
    for disk in &disks {
        disk.empty().unwrap();
    }
    for node in cluster.nodes() {
        cluster
            .wait("growth that is welcome", |cluster| (!is_oom(&ask(cluster, node, &["SET", "k", "w"]))).then_some(()));
    }
    cluster.wait_all_equal();
}

#[test]
fn a_node_alone_that_runs_out_of_room_refuses_growth_and_can_be_emptied() {
    let _alone = alone();
    let scratch = Scratch::new("full-alone");
    let data = scratch.directory("data");
    let disk = match SmallDisk::mount(&data, DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => return println!("SKIPPED, this machine or user cannot mount: {why}"),
    };
    let server = Dstore::on(&data).flags(&SMALL).flags(&MARKS).start(&scratch).unwrap();
    let mut client = Client::connect(server.address(), PATIENCE).unwrap();
    // What does not compress.
    let mut state = 1_u64;
    let mut value = || -> Vec<u8> {
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..200_000).map(next).collect()
    };
    for round in 0..2 {
        let mut keys = 0;
        let refused = loop {
            let reply = client.call(&[b"SET", format!("k{keys}").as_bytes(), &value()]).unwrap();
            match reply {
                Reply::Simple(_) => keys += 1,
                reply => break reply,
            }
            assert!(keys < 2_000, "more was taken than there is room for");
        };
        let free = disk.free_bytes().unwrap() >> 20;
        println!("round {round}: refused after {keys} keys of 200 kB, with {free} MiB free: {refused:?}");
        assert!(is_oom(&refused), "{refused:?}");
        for words in [&["APPEND", "k0", "x"][..], &["INCR", "n"], &["MSET", "a", "1", "b", "2"]] {
            assert!(is_oom(&call(&mut client, words)), "{words:?}");
        }
        assert!(matches!(call(&mut client, &["GET", "k0"]), Reply::Bulk(bytes) if bytes.len() == 200_000));
        assert_eq!(call(&mut client, &["MULTI"]), Reply::Simple("OK".to_owned()));
        assert!(is_oom(&call(&mut client, &["SET", "a", "1"])));
        assert!(matches!(call(&mut client, &["EXEC"]), Reply::Error(text) if text.starts_with("EXECABORT")));
        if round == 0 {
            for key in 0..keys {
                assert_eq!(call(&mut client, &["DEL", &format!("k{key}")]), Reply::Integer(1));
            }
        } else {
            assert_eq!(call(&mut client, &["FLUSHALL"]), Reply::Simple("OK".to_owned()));
        }
        let begun = Instant::now();
        while is_oom(&call(&mut client, &["SET", "k", "v"])) {
            assert!(begun.elapsed() < PATIENCE, "what was deleted gave no room back");
            std::thread::sleep(Duration::from_millis(50)); // there is no event outside of the process
        }
        let free = disk.free_bytes().unwrap() >> 20;
        println!(
            "round {round}: growth is welcome again {:.1?} after the deletes, with {free} MiB free",
            begun.elapsed()
        );
    }
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_sync_that_fails_stops_that_node_alone_and_its_last_line_names_the_file() {
    let _alone = alone();
    let mut cluster = Plan::new("eio").flags(&SMALL).flags(&["--ballast-bytes", "0"]).watched().prepare();
    for node in cluster.nodes() {
        cluster.power(node).only_in("/log").unwrap();
    }
    cluster.start_all();
    for of_leader in [false, true] {
        let recorder = Recorder::start(&cluster, 2, seed());
        recorder.wait_for_writes(&[0, 1, 2], 50);
        let leader = cluster.leader();
        let node = if of_leader { leader } else { cluster.others(leader)[0] };
        cluster.power(node).inject(Fault::SyncFails { nth: 5, errno: libc::EIO }).unwrap();
        assert_eq!(cluster.wait_ended(node), Some(3));
        let said = cluster.stderr(node);
        let last = said.trim_end().lines().last().unwrap_or_default();
        println!("node {node} ended with: {last}");
        assert!(last.starts_with("dstore: log I/O failed: fdatasync ") && last.contains("/log/"), "{said}");
        recorder.wait_for_writes(&cluster.others(node), 50);
        cluster.power(node).clear_faults().unwrap();
        cluster.restart(node);
        cluster.wait_caught_up(node);
        let verdict = recorder.finish(&cluster);
        println!("{verdict}");
        verdict.assert_clean();
    }
}

/// The files of a directory whose names begin and end so.
fn files(directory: &Path, begin: &str, end: &str) -> Vec<PathBuf> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(begin) && name.ends_with(end)
    };
    let mut found: Vec<PathBuf> = names.filter(is_one).collect();
    found.sort();
    found
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

/// A node that was stopped in order with some data; its data directory.
fn stopped_node(scratch: &Scratch, values: usize) -> (Dstore, PathBuf) {
    let data = scratch.directory("data");
    let dstore = Dstore::on(&data).flags(&SMALL).flags(&["--ballast-bytes", "0"]);
    let server = dstore.start(scratch).unwrap();
    let mut client = Client::connect(server.address(), PATIENCE).unwrap();
    for n in 0..values {
        let value = format!("{n:08}").repeat(2_000);
        assert_eq!(call(&mut client, &["SET", &format!("k{n}"), &value]), Reply::Simple("OK".to_owned()));
    }
    assert_eq!(server.stop().code(), Some(0));
    (dstore, data)
}

#[test]
fn a_rotten_log_is_refused_with_the_name_of_its_file() {
    let _alone = alone();
    let scratch = Scratch::new("rot-log");
    let (dstore, data) = stopped_node(&scratch, 20);
    let segment = files(&data.join("log"), "0", ".log").pop().expect("there is a log");
    // Between the first entries: not at the tail, which a crash may leave torn.
    flip(&segment, 40_000);
    let refused = dstore.start(&scratch).unwrap_err();
    let last = refused.stderr.trim_end().lines().last().unwrap_or_default();
    println!("{last}");
    assert_eq!(refused.status.code(), Some(3), "{}", refused.stderr);
    assert!(last.starts_with("dstore: log is damaged: ") && last.contains(segment.to_str().unwrap()), "{last}");
}

#[test]
fn rotten_data_stops_the_node_when_it_is_read_and_names_its_file() {
    let _alone = alone();
    let scratch = Scratch::new("rot-data");
    let (dstore, data) = stopped_node(&scratch, 200);
    let table = files(&data.join("data"), "", ".sst").pop().expect("the data was flushed when it stopped");
    let bytes = std::fs::metadata(&table).unwrap().len();
    for at in 1..8 {
        flip(&table, bytes * at / 10);
    }
    // Index and filter are at the end, so it starts, and meets the damage when it looks for a value.
    let (status, stderr) = match dstore.start(&scratch) {
        Err(refused) => (refused.status, refused.stderr),
        Ok(server) => {
            let mut client = Client::connect(server.address(), PATIENCE).unwrap();
            for n in 0..200 {
                match client.call(&[b"GET", format!("k{n}").as_bytes()]) {
                    Ok(Reply::Bulk(value)) => assert_eq!(value, format!("{n:08}").repeat(2_000).into_bytes()),
                    Ok(other) => panic!("k{n} is {other:?}"),
                    Err(_) => break,
                }
            }
            let stderr = scratch.path().join("dstore.stderr");
            (server.wait(), std::fs::read_to_string(stderr).unwrap())
        }
    };
    let last = stderr.trim_end().lines().last().unwrap_or_default();
    println!("{last}");
    assert_eq!(status.code(), Some(3), "{stderr}");
    let name = table.file_name().unwrap().to_str().unwrap();
    assert!(
        last.starts_with("dstore: ") && last.matches("data is corrupt: ").count() == 1 && last.contains(name),
        "{last}"
    );
}
