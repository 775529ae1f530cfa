//! A cluster that lives: nodes join, leave, are replaced, fall behind and catch up, while clients work.
//!
//! The clients are those of `dstore_e2e::retrier`: they try a command that failed once more, and must then get an answer;
//! everything acknowledged is read back through every node. At the end the nodes are stopped, and what `dstore debug data
//! --checksum` says of their data must be the same.
//!
//! Longer runs on demand: `SNAPSHOT_BYTES=1000000000` for the snapshot that is installed under load, `SNAPSHOT_KILLS=50` for
//! the power cuts during snapshots, `DSTORE_SEED=n` to repeat the choices of a run.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::process::Command;
use std::time::{Duration, Instant};

use dstore_e2e::retrier::Retriers;
use dstore_e2e::seed;
use dstore_testkit::client::{Reply, pack};
use dstore_testkit::cluster::{Cluster, Plan};
use dstore_testkit::powerloss::{Choose, Seeded, Style};
use dstore_testkit::process::{PATIENCE, SMALL, alone, dstore_program, run};

/// Bytes of one value that fills a node.
const VALUE_BYTES: usize = 16 << 10;

fn plan(name: &str) -> Plan {
    Plan::new(name).flags(&SMALL)
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Writes so many bytes through a node, in values that do not compress.
fn fill(cluster: &Cluster, node: usize, name: &str, bytes: usize, seed: u64) {
    const PIPELINE: usize = 16;
    let mut client = cluster.dialer().connect(cluster.address(node), PATIENCE).unwrap();
    let mut random = Seeded::new(seed);
    let mut left = bytes.div_ceil(VALUE_BYTES);
    while left > 0 {
        let count = left.min(PIPELINE);
        let mut request = Vec::new();
        for _ in 0..count {
            let value: Vec<u8> = (0..VALUE_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
            pack(&mut request, &[b"SET", format!("{name}:{left}").as_bytes(), &value]);
            left -= 1;
        }
        client.send(&request).unwrap();
        for _ in 0..count {
            assert_eq!(client.receive().unwrap(), Reply::Simple("OK".into()));
        }
    }
}

/// Has the nodes compare all that they replicate while they run, at one entry; then stops them, and compares the keys that
/// are in their data.
#[allow(clippy::print_stdout)] // belongs to the output of a test
fn assert_same_data(cluster: &mut Cluster) {
    cluster.wait_all_equal();
    println!("{}", cluster.check().trim_end());
    let living = cluster.living();
    for node in &living {
        assert_eq!(cluster.stop(*node), Some(0), "node {node}:\n{}", cluster.stderr(*node));
    }
    let sums: Vec<(usize, String)> = living.iter().map(|node| (*node, checksums(cluster, *node))).collect();
    for (node, sum) in &sums {
        assert_eq!(sum, &sums[0].1, "node {node} differs from node {}", sums[0].0);
    }
    println!("the same on {} nodes: {}", sums.len(), sums[0].1);
}

/// The sum of the keys. Those of whole ranges contain how far they are applied, and nodes that stop one after the other
/// hand over leadership, which takes an entry that the first do not see.
fn checksums(cluster: &Cluster, node: usize) -> String {
    let mut command = Command::new(dstore_program());
    let text = run(command.args(["debug", "data", "--checksum"]).arg(cluster.data(node)), b"");
    let sum = text.lines().find(|line| line.starts_with("checksum     keys: "));
    sum.and_then(|line| line.split_once(": ")).unwrap_or_else(|| panic!("no checksum in\n{text}")).1.to_owned()
}

#[test]
fn a_cluster_grows_from_one_node_to_five_and_shrinks_to_three_under_load() {
    let _alone = alone();
    let mut cluster = plan("grow").nodes(1).flags(&["--voters-max", "5"]).start();
    let clients = Retriers::start(&cluster, 4, 100, seed());
    clients.wait_for(200);
    for nodes in 2..=5 {
        let begun = Instant::now();
        cluster.join(0);
        cluster.wait_members(nodes);
        println!("{nodes} nodes, all voting, after {:.3?}", begun.elapsed());
        clients.use_nodes(&cluster, &cluster.living());
        clients.wait_for(200);
    }
    // First the founder, then whoever leads.
    for nodes in (3..=4).rev() {
        let leaving = if nodes == 4 { 0 } else { cluster.leader() };
        let stays = cluster.others(leaving);
        clients.use_nodes(&cluster, &stays);
        let (begun, id) = (Instant::now(), cluster.id(leaving));
        cluster.remove(stays[0], leaving, &id);
        cluster.wait_members(nodes);
        println!("{nodes} nodes after {:.3?}", begun.elapsed());
        clients.wait_for(200);
    }
    let outcome = clients.finish(&cluster);
    println!("1 -> 3 -> 5 -> 3 nodes: {outcome}");
    outcome.assert_no_errors();
    assert_same_data(&mut cluster);
}

#[test]
fn a_rolling_restart_under_load_is_seen_by_nobody() {
    let _alone = alone();
    let mut cluster = plan("rolling").start();
    let clients = Retriers::start(&cluster, 6, 100, seed());
    for node in cluster.nodes() {
        clients.wait_for(300);
        assert_eq!(cluster.stop(node), Some(0));
        clients.wait_for(100);
        cluster.restart(node);
        cluster.wait_caught_up(node);
    }
    clients.wait_for(300);
    let outcome = clients.finish(&cluster);
    println!("rolling restart: {outcome}");
    outcome.assert_no_errors();
    assert_same_data(&mut cluster);
}

#[test]
fn a_node_that_lost_its_disk_is_replaced_under_load() {
    let _alone = alone();
    let mut cluster = plan("replace").start();
    fill(&cluster, 0, "fill", 10 << 20, 1);
    let clients = Retriers::start(&cluster, 4, 100, seed());
    clients.wait_for(300);
    let lost = cluster.others(cluster.leader())[0];
    let id = cluster.id(lost);
    cluster.kill(lost);
    std::fs::remove_dir_all(cluster.data(lost)).unwrap();
    let stays = cluster.others(lost);
    clients.use_nodes(&cluster, &stays);
    clients.wait_for(100);
    cluster.remove(stays[0], lost, &id);
    let begun = Instant::now();
    cluster.join(stays[1]);
    cluster.wait_members(3);
    println!("replaced after {:.3?}", begun.elapsed());
    clients.use_nodes(&cluster, &cluster.living());
    clients.wait_for(300);
    let outcome = clients.finish(&cluster);
    println!("wiped and replaced: {outcome}");
    outcome.assert_no_errors();
    assert_same_data(&mut cluster);
}

#[test]
fn a_leader_that_has_just_died_is_removed_at_once() {
    let _alone = alone();
    let mut cluster = plan("dead-leader").start();
    let dead = cluster.leader();
    let (id, stays) = (cluster.id(dead), cluster.others(dead));
    cluster.kill(dead);
    // Those who stay still name the dead one to the operator.
    cluster.remove(stays[0], dead, &id);
    cluster.wait_members(2);
}

#[test]
fn a_node_that_was_away_for_longer_than_the_log_goes_back_catches_up() {
    let _alone = alone();
    let mut cluster = plan("away").start();
    let bytes = number("AWAY_BYTES", 200_000_000);
    let clients = Retriers::start(&cluster, 2, 100, seed());
    clients.wait_for(100);
    let leader = cluster.leader();
    let away = cluster.others(leader)[0];
    clients.use_nodes(&cluster, &cluster.others(away));
    cluster.kill(away);
    let had = cluster.raft(leader).unwrap().commit;
    let begun = Instant::now();
    fill(&cluster, leader, "fill", bytes, 2);
    // One that is away is waited for a while; then the log is cut at the next flush.
    let mut more = 0;
    while cluster.raft(cluster.leader()).unwrap().begin <= had {
        more += 1;
        assert!(begun.elapsed() < PATIENCE, "the log is not cut:\n{}", cluster.describe());
        fill(&cluster, leader, &format!("more:{more}"), 1 << 20, more);
    }
    println!("{bytes} bytes and {more} MiB more written, and the log cut, in {:.3?}", begun.elapsed());
    let begun = Instant::now();
    cluster.restart(away);
    cluster.wait_caught_up(away);
    println!("caught up after {:.3?}", begun.elapsed());
    assert!(cluster.stderr(away).contains("replaced by a snapshot"), "{}", cluster.stderr(away));
    let outcome = clients.finish(&cluster);
    println!("away while the log was cut: {outcome}");
    outcome.assert_no_errors();
    assert_same_data(&mut cluster);
}

#[test]
fn writes_go_on_while_a_snapshot_is_installed() {
    let _alone = alone();
    let mut cluster = plan("load").flags(&["--snapshot-bytes-per-second", "32MiB"]).start();
    let bytes = number("SNAPSHOT_BYTES", 100_000_000);
    fill(&cluster, 0, "fill", bytes, 3);
    let gone = cluster.others(cluster.leader())[0];
    let (id, stays) = (cluster.id(gone), cluster.others(gone));
    cluster.kill(gone);
    cluster.remove(stays[0], gone, &id);
    cluster.wait_all_equal();
    let clients = Retriers::start(&cluster, 4, 100, seed());
    let begun = clients.now();
    clients.wait_for(3_000);
    let joining = clients.now();
    let node = cluster.join(stays[0]);
    cluster.wait_members(3);
    cluster.wait_caught_up(node);
    let joined = clients.now();
    let outcome = clients.finish(&cluster);
    let ((normal, before), (during, under)) = (outcome.p99(begun, joining), outcome.p99(joining, joined));
    println!(
        "snapshot of {bytes} bytes in {:.1?}: p99 of writes {during:.3?} ({under} writes), normally {normal:.3?} \
         ({before} writes), ratio {:.1}; {outcome}",
        Duration::from_micros(joined - joining),
        during.as_secs_f64() / normal.as_secs_f64()
    );
    outcome.assert_no_errors();
    assert_same_data(&mut cluster);
}

#[test]
fn power_cuts_of_either_end_of_a_snapshot_leave_nothing_half_there() {
    let _alone = alone();
    let seed = seed();
    let mut random = Seeded::new(seed);
    let cuts = number("SNAPSHOT_KILLS", 4);
    let mut cluster = plan("torn").flags(&["--snapshot-bytes-per-second", "16MiB"]).watched().start();
    fill(&cluster, 0, "fill", 24 << 20, 4);
    let clients = Retriers::start(&cluster, 2, 100, seed);
    let mut done = 0;
    while done < cuts {
        // Someone who joins needs everything.
        let leaving = cluster.others(cluster.leader())[0];
        let (id, stays) = (cluster.id(leaving), cluster.others(leaving));
        clients.use_nodes(&cluster, &stays);
        cluster.remove(stays[0], leaving, &id);
        let node = cluster.prepare_to_join(stays[0]);
        cluster.restart(node);
        // Five times at most: a snapshot that is never let through proves little.
        for _ in 0..5.min(cuts - done) {
            std::thread::sleep(Duration::from_millis(random.choose(2_500) as u64)); // the moment is what is random
            let victim = if random.choose(2) == 0 { node } else { cluster.leader() };
            let style = [Style::Worst, Style::Scattered, Style::InOrder][random.choose(3)];
            let cut = cluster.cut_power(victim, style, random.next_u64());
            println!("cut {done}, {} {victim}: {cut}", if victim == node { "receiver" } else { "sender" });
            cluster.restart(victim);
            done += 1;
        }
        cluster.wait_members(3);
        cluster.wait_caught_up(node);
        clients.use_nodes(&cluster, &cluster.living());
        clients.wait_for(100);
    }
    let outcome = clients.finish(&cluster);
    // While the new node learns, the power cut of one of the two others leaves no quorum, for as long as its start takes: that
    // may be longer than a client waits. Nothing that was acknowledged may be missing.
    println!("power cut {done} times during snapshots: {outcome}");
    assert_same_data(&mut cluster);
}
