//! Three real nodes under faults: killed, paused, cut off, without power, all at once; and what their clients saw.
//!
//! Clients append and read through the nodes and record what they did and saw (`dstore_e2e::recorder`); the history must be
//! strictly serializable. So "no stale read" and "every acknowledged write is there" are no samples here: each single
//! answer is judged. How long nobody was served is printed; it is bounded only so far that a node that does not come back
//! fails the test.
//!
//! `CLUSTER_KILLS=20` kills the leader that many times, three times otherwise; `CLUSTER_PAUSES=5` pauses it that many times,
//! once otherwise. `DSTORE_SEED=n` repeats the clients' choices.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dstore_e2e::counter::Counters;
use dstore_e2e::recorder::{Habit, Recorder};
use dstore_e2e::verdict::median_and_worst;
use dstore_e2e::{connect, seed};
use dstore_sim::checker::Outcome;
use dstore_testkit::client::Reply;
use dstore_testkit::cluster::{Cluster, Plan, write_secret};
use dstore_testkit::namespaces::{Cut, Network};
use dstore_testkit::powerloss::{Choose, Seeded, Style};
use dstore_testkit::process::{Dstore, PATIENCE, Refused, SMALL, alone, run};

/// A small ballast: a power cut compares every file with its journal.
const BALLAST: [&str; 2] = ["--ballast-bytes", "2MiB"];

/// Far beyond what an election takes: a cluster that needs longer is broken.
const GAP_MAX: Duration = Duration::from_secs(20);

/// How long a leader is paused or cut off: longer than a command may wait for one, 5 seconds.
const CUT_LASTS: Duration = Duration::from_secs(10);

fn plan(name: &str) -> Plan {
    Plan::new(name).flags(&SMALL).flags(&BALLAST)
}

/// One command through one node, over a connection of its own.
fn ask(cluster: &Cluster, node: usize, command: &[&str]) -> Reply {
    let arguments: Vec<&[u8]> = command.iter().map(|argument| argument.as_bytes()).collect();
    let mut client = cluster.dialer().connect(cluster.address(node), PATIENCE).unwrap();
    client.call(&arguments).unwrap()
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn assert_bounded(gap: Duration) {
    assert!(gap < GAP_MAX, "nobody was served for {gap:?}");
}

#[test]
fn any_node_sets_and_reads() {
    let _alone = alone();
    let cluster = plan("any").start();
    for writer in cluster.nodes() {
        let port = cluster.address(writer).port().to_string();
        let set = run(Command::new("redis-cli").args(["-p", &port, "set", "k", &format!("by {writer}")]), b"");
        assert_eq!(set, "OK\n");
        for reader in cluster.nodes() {
            let port = cluster.address(reader).port().to_string();
            let got = run(Command::new("redis-cli").args(["-p", &port, "get", "k"]), b"");
            assert_eq!(got, format!("by {writer}\n"), "written through node {writer}, read through node {reader}");
        }
    }
    // Every node takes writes, and says so to clients that look for a master.
    for node in cluster.nodes() {
        let mut connection = connect(cluster.address(node));
        let info: String = redis::cmd("INFO").arg("replication").query(&mut connection).unwrap();
        assert!(info.contains("role:master"), "{info}");
    }
    let leaders = cluster.nodes().filter(|node| cluster.raft(*node).unwrap().role == "leader").count();
    assert_eq!(leaders, 1, "{}", cluster.describe());
    cluster.wait_all_equal();
}

#[test]
fn writes_go_on_when_the_leader_is_killed() {
    let _alone = alone();
    let mut cluster = plan("kill").start();
    let recorder = Recorder::start(&cluster, 2, seed());
    recorder.wait_for_writes(&[0, 1, 2], 50);
    let mut moments = Vec::new();
    for _ in 0..number("CLUSTER_KILLS", 3) {
        let leader = cluster.leader();
        let killed = recorder.now();
        cluster.kill(leader);
        recorder.wait_for_writes(&cluster.others(leader), 100);
        moments.push((killed, recorder.now()));
        cluster.restart(leader);
        cluster.wait_caught_up(leader);
        recorder.wait_for_writes(&[leader], 20);
    }
    let verdict = recorder.finish(&cluster);
    cluster.wait_all_equal();
    let gaps: Vec<Duration> = moments.iter().map(|(from, to)| verdict.gap(*from, Some(*to))).collect();
    let (median, worst) = median_and_worst(&gaps);
    println!("leader killed {} times: median gap {median:.3?}, worst {worst:.3?}; {verdict}", gaps.len());
    verdict.assert_clean();
    assert_bounded(worst);
}

#[test]
fn a_leader_that_is_asked_to_stop_fails_nobodys_request() {
    let _alone = alone();
    let mut cluster = plan("stop").start();
    for _ in 0..3 {
        let leader = cluster.leader();
        let others = cluster.others(leader);
        let mut recorder = Recorder::new(&cluster, seed());
        for node in &others {
            recorder.add(&cluster, *node, 3, Habit::Mixed);
        }
        recorder.wait_for_writes(&others, 50);
        let asked = recorder.now();
        assert_eq!(cluster.stop(leader), Some(0));
        recorder.wait_for_writes(&others, 100);
        let served = recorder.now();
        cluster.restart(leader);
        cluster.wait_caught_up(leader);
        let verdict = recorder.finish(&cluster);
        println!("leader stopped: gap {:.3?}; {verdict}", verdict.gap(asked, Some(served)));
        verdict.assert_clean();
        let errors = verdict.count(Outcome::NotExecuted) + verdict.count(Outcome::Unknown);
        assert_eq!(errors, 0, "clients of the nodes that stayed saw errors");
    }
    cluster.wait_all_equal();
}

#[test]
fn a_leader_that_stood_still_for_ten_seconds_serves_nothing_stale() {
    let _alone = alone();
    let mut cluster = plan("pause").start();
    let mut gaps = Vec::new();
    for _ in 0..number("CLUSTER_PAUSES", 1) {
        let mut recorder = Recorder::start(&cluster, 2, seed());
        let leader = cluster.leader();
        recorder.add(&cluster, leader, 4, Habit::Reads);
        recorder.wait_for_writes(&[0, 1, 2], 50);

        let paused = recorder.now();
        cluster.pause(leader);
        let wakes = Instant::now() + CUT_LASTS;
        recorder.wait_for_writes(&cluster.others(leader), 100);
        let served = recorder.now();
        // The kernel takes connections for the paused process: what they ask waits for it too.
        recorder.add(&cluster, leader, 4, Habit::Reads);
        std::thread::sleep(wakes.saturating_duration_since(Instant::now())); // the pause is what is tested
        let woken = recorder.now();
        cluster.resume(leader);
        recorder.wait_for_writes(&[0, 1, 2], 100);
        let until = recorder.now();
        let verdict = recorder.finish(&cluster);
        let (gap, reads) = (verdict.gap(paused, Some(served)), verdict.reads_through(leader, woken, until));
        println!("leader paused for {CUT_LASTS:?}: gap {gap:.3?}, {reads} reads through it when it woke; {verdict}");
        verdict.assert_clean();
        assert!(reads > 0, "nothing was read through the node that woke");
        gaps.push(gap);
    }
    cluster.wait_all_equal();
    let (median, worst) = median_and_worst(&gaps);
    println!("leader paused {} times: median gap {median:.3?}, worst {worst:.3?}", gaps.len());
    assert_bounded(worst);
}

#[test]
fn a_leader_whose_packets_are_dropped_serves_nothing_stale() {
    let _alone = alone();
    let network = match Network::new(3) {
        Ok(network) => Arc::new(network),
        Err(why) => return println!("SKIPPED, this machine or user cannot make network namespaces: {why}"),
    };
    let cluster = plan("cut").in_network(network.clone()).start();
    for cut in [Cut::Peers, Cut::Everybody] {
        let mut recorder = Recorder::start(&cluster, 2, seed());
        let leader = cluster.leader();
        recorder.add(&cluster, leader, 4, Habit::Reads);
        recorder.wait_for_writes(&[0, 1, 2], 50);

        let begun = recorder.now();
        network.cut(leader, cut).unwrap();
        let heals = Instant::now() + CUT_LASTS;
        recorder.wait_for_writes(&cluster.others(leader), 100);
        let served = recorder.now();
        let next = cluster.leader_besides(leader);
        std::thread::sleep(heals.saturating_duration_since(Instant::now())); // the cut is what is tested
        network.heal(leader).unwrap();
        recorder.wait_for_writes(&[0, 1, 2], 100);
        cluster.wait_caught_up(leader);
        let verdict = recorder.finish(&cluster);
        cluster.wait_all_equal();
        let gap = verdict.gap(begun, Some(served));
        println!("packets of the leader dropped for {cut:?}, node {next} took over: gap {gap:.3?}; {verdict}");
        verdict.assert_clean();
        assert_bounded(gap);
        if cut == Cut::Peers {
            assert!(verdict.count(Outcome::NotExecuted) > 0, "no client of the leader was told that it has no quorum");
        }
    }
}

#[test]
fn nothing_is_lost_when_all_nodes_are_killed_at_once() {
    let _alone = alone();
    let mut cluster = plan("all").start();
    let recorder = Recorder::start(&cluster, 2, seed());
    for _ in 0..2 {
        recorder.wait_for_writes(&[0, 1, 2], 200);
        let killed = recorder.now();
        cluster.kill_all();
        cluster.start_all();
        recorder.wait_for_writes(&[0, 1, 2], 20);
        println!("all nodes killed, and back after {:.3?}", Duration::from_nanos(recorder.now() - killed));
    }
    let verdict = recorder.finish(&cluster);
    cluster.wait_all_equal();
    println!("{verdict}");
    verdict.assert_clean();
}

#[test]
fn a_node_without_a_quorum_says_so_in_time_for_reads_too() {
    let _alone = alone();
    let timeout = Duration::from_millis(1_500);
    let mut cluster = plan("quorum").flags(&["--request-timeout-ms", "1500"]).start();
    let recorder = Recorder::start(&cluster, 1, seed());
    recorder.wait_for_writes(&[0, 1, 2], 50);
    let last = cluster.leader();
    for other in cluster.others(last) {
        cluster.kill(other);
    }
    for command in [&["GET", "k"][..], &["SET", "k", "v"], &["MGET", "a", "b"], &["INCR", "n"]] {
        // Until the leader's lease has run out it serves reads, and writes that it has begun are uncertain. Then it knows,
        // and refuses.
        let begun = Instant::now();
        let refused = cluster.wait("a refusal", |cluster| {
            let asked = Instant::now();
            let reply = ask(cluster, last, command);
            let took = asked.elapsed();
            // Timers and a busy machine take their share; twice the timeout is no share.
            assert!(took < timeout * 2, "{command:?} was answered after {took:?}: {reply:?}");
            match reply {
                Reply::Error(text) if text.starts_with("NOQUORUM") => Some(text),
                Reply::Error(text) if text.starts_with("UNCERTAIN") && command[0] != "GET" => None,
                Reply::Null if command[0] == "GET" => None,
                reply => panic!("{command:?} without a quorum: {reply:?}"),
            }
        });
        println!("{command:?} refused after {:.3?}: {refused}", begun.elapsed());
        assert!(refused.contains("not executed"), "{refused}");
    }
    cluster.start_all();
    recorder.wait_for_writes(&[0, 1, 2], 50);
    let verdict = recorder.finish(&cluster);
    println!("{verdict}");
    verdict.assert_clean();
    assert!(matches!(ask(&cluster, last, &["GET", "n"]), Reply::Null), "refused commands had an effect");
    cluster.wait_all_equal();
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let _alone = alone();
    let seed = seed();
    let mut random = Seeded::new(seed);
    let mut cluster = plan("power").watched().start();
    let recorder = Recorder::start(&cluster, 2, seed);
    for round in 0..4 {
        recorder.wait_for_writes(&[0, 1, 2], 200);
        let leader = cluster.leader();
        let node = if round % 2 == 0 { cluster.others(leader)[random.choose(2)] } else { leader };
        let cut = cluster.cut_power(node, [Style::Worst, Style::Scattered][round / 2], random.next_u64());
        println!("{} {node}: {cut}", if node == leader { "leader" } else { "follower" });
        recorder.wait_for_writes(&cluster.others(node), 100);
        cluster.restart(node);
        cluster.wait_caught_up(node);
    }
    recorder.wait_for_writes(&[0, 1, 2], 100);
    let verdict = recorder.finish(&cluster);
    cluster.wait_all_equal();
    println!("{verdict}");
    verdict.assert_clean();
}

#[test]
fn a_power_cut_of_all_nodes_loses_nothing_that_was_acknowledged() {
    let _alone = alone();
    let seed = seed();
    let mut random = Seeded::new(seed);
    let mut cluster = plan("blackout").watched().start();
    let recorder = Recorder::start(&cluster, 2, seed);
    recorder.wait_for_writes(&[0, 1, 2], 300);
    for node in cluster.nodes() {
        println!("node {node}: {}", cluster.cut_power(node, Style::Worst, random.next_u64()));
    }
    cluster.start_all();
    recorder.wait_for_writes(&[0, 1, 2], 50);
    let verdict = recorder.finish(&cluster);
    println!("{verdict}");
    verdict.assert_clean();
}

#[test]
fn a_command_that_is_retried_for_a_client_is_applied_once() {
    let _alone = alone();
    let mut cluster = plan("once").start();
    let counters = Counters::start(&cluster, 4);
    for _ in 0..3 {
        counters.wait_for(200);
        let leader = cluster.leader();
        cluster.kill(leader);
        counters.wait_for(200);
        cluster.restart(leader);
        cluster.wait_caught_up(leader);
    }
    println!("{}", counters.finish(&cluster));
    cluster.wait_all_equal();
}

#[test]
fn a_node_with_another_secret_gets_nowhere() {
    let _alone = alone();
    let mut cluster = plan("stranger").flags(&["--request-timeout-ms", "1000"]).start();
    let leader = cluster.leader();
    assert_eq!(ask(&cluster, leader, &["SET", "k", "v"]), Reply::Simple("OK".into()));
    let [stranger, other] = cluster.others(leader)[..] else { panic!("three nodes") };
    cluster.kill(stranger);
    write_secret(cluster.scratch(), "secret", "a secret that nobody else has");
    cluster.restart(stranger);
    let reply = ask(&cluster, stranger, &["GET", "k"]);
    assert!(matches!(&reply, Reply::Error(text) if text.starts_with("NOQUORUM")), "{reply:?}");
    assert!(cluster.stderr(stranger).contains("secret"), "it does not say why:\n{}", cluster.stderr(stranger));
    // It disturbs nobody who knows the secret, and reaches none of them for itself.
    for node in [leader, other] {
        assert_eq!(ask(&cluster, node, &["GET", "k"]), Reply::Bulk(b"v".to_vec()));
    }
    assert_eq!(cluster.leader_besides(stranger), leader, "{}", cluster.describe());
}

/// Starts a node on a directory that does not belong there, waits until it has ended, and gives what it said last. Whether
/// it sees by itself that it is in the wrong place, or has to hear it from its peers, is left to it.
fn refused(cluster: &Cluster, node: usize) -> String {
    let Err(Refused { status, stderr }) = cluster.spawn(node).wait(|_| None) else { panic!("nothing makes it ready") };
    let reason = stderr.lines().last().unwrap_or_default().to_owned();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(reason.starts_with("dstore: "), "{stderr}");
    reason
}

#[test]
fn a_directory_from_elsewhere_is_refused() {
    let _alone = alone();
    let mut cluster = plan("mine").start();
    let mut foreign = plan("foreign").start();
    assert_eq!(ask(&cluster, 0, &["SET", "k", "v"]), Reply::Simple("OK".into()));
    let leader = cluster.leader();
    let node = cluster.others(leader)[0];
    cluster.kill(node);
    foreign.kill_all();
    let aside = cluster.scratch().path().join("aside");
    std::fs::rename(cluster.data(node), &aside).unwrap();

    // No directory: as if the disk was lost. Who forgot whom he voted for must not vote again under the same name.
    println!("lost disk: {}", refused(&cluster, node));
    let _ = std::fs::remove_dir_all(cluster.data(node)); // whatever was begun there

    // That of a node of another cluster.
    std::fs::rename(foreign.data(node), cluster.data(node)).unwrap();
    println!("another cluster's: {}", refused(&cluster, node));
    std::fs::remove_dir_all(cluster.data(node)).unwrap();

    // That of a node that was a cluster by itself.
    let alone = Dstore::on(cluster.data(node)).flags(&SMALL).flags(&BALLAST).start(foreign.scratch()).unwrap();
    assert_eq!(alone.stop().code(), Some(0));
    println!("a single node's: {}", refused(&cluster, node));
    std::fs::remove_dir_all(cluster.data(node)).unwrap();

    // Its own.
    std::fs::rename(&aside, cluster.data(node)).unwrap();
    cluster.restart(node);
    cluster.wait_caught_up(node);
    assert_eq!(ask(&cluster, node, &["GET", "k"]), Reply::Bulk(b"v".to_vec()));
}
