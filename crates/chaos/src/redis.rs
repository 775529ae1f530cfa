//! The same clients and the same judge, on a Redis primary with one replica and failover by promotion.
//!
//! `redis-server --appendonly yes --appendfsync always`, one replica, asynchronous replication as Redis has it. Again and
//! again something happens to the primary: it is killed, it stands still, or the two no longer hear each other. Then what an
//! operator, or Sentinel, does: the replica is promoted, clients are led to it and those of the old primary are
//! disconnected, and that comes back as a replica. What Redis acknowledged and then lost is counted in the same way as for
//! dstore; that it is not zero shows that the clients and the judge see what they should.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dstore_testkit::client::{Client, Reply};
use dstore_testkit::namespaces::{Drops, Network};
use dstore_testkit::ports::free_ports;
use dstore_testkit::powerloss::{Choose as _, Seeded};

use crate::clients::beside_clients;
use crate::crew::Crew;
use crate::report::Report;
use crate::run::{Options, network, tell};
use crate::world::FailedSyncs;
use crate::world::process::{Process, bound_to_us};
use crate::world::sweep::{Directory, sweep};

const PORT: u16 = 6_379;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a fault goes on before somebody promotes the replica, and how long things are well between two.
const DETECTED_MS: [usize; 3] = [200, 1_000, 2_000];
const CALM_MS: usize = 3_000;

#[derive(Debug)]
struct Pair {
    network: Option<Arc<Network>>,
    addresses: [SocketAddr; 2],
    processes: [Option<Process>; 2],
    directory: std::path::PathBuf,
    primary: usize,
}

impl Pair {
    fn start(&mut self, node: usize) -> Result<()> {
        let home = self.directory.join(format!("redis{node}"));
        std::fs::create_dir_all(&home)?;
        let address = self.addresses[node];
        let mut server = Command::new("redis-server");
        server.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string(), "--dir"]).arg(&home);
        server.args(["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--protected-mode", "no"]);
        server.args(["--repl-timeout", "3", "--repl-ping-replica-period", "1", "--repl-diskless-sync-delay", "0"]);
        let bound = bound_to_us(&server);
        let command = match &self.network {
            Some(network) => network.inside(node, &bound),
            None => bound,
        };
        self.processes[node] = Some(Process::spawn(command, &self.directory.join(format!("redis{node}.log")))?);
        self.wait("a redis-server that answers", |pair| pair.call(node, &["PING"]).is_some())
    }

    fn call(&self, node: usize, words: &[&str]) -> Option<Reply> {
        let arguments: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let call = || Client::connect(self.addresses[node], ANSWER_WITHIN).ok()?.call(&arguments).ok();
        beside_clients(self.network.as_deref(), call)
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Pair) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !is_so(self) {
            ensure!(begun.elapsed() < READY_WITHIN, "waited in vain for {what}, see {}", self.directory.display());
            std::thread::sleep(LOOK_AGAIN); // there is no event outside of a process
        }
        Ok(())
    }

    /// Makes a node a replica of the primary, and waits until it has everything.
    fn follow(&self, node: usize) -> Result<()> {
        let primary = self.addresses[self.primary];
        let words = ["REPLICAOF", &primary.ip().to_string(), &primary.port().to_string()];
        self.wait("a node that becomes a replica", |pair| matches!(pair.call(node, &words), Some(Reply::Simple(_))))?;
        // As Sentinel does: its clients are to look for the primary.
        let _ = self.call(node, &["CLIENT", "KILL", "TYPE", "normal"]); // nobody may be left
        self.wait("a replica that has everything", |pair| {
            let Some(Reply::Bulk(text)) = pair.call(node, &["INFO", "replication"]) else { return false };
            String::from_utf8_lossy(&text).contains("master_link_status:up")
        })
    }

    /// Drops packets between the two, or lets them through.
    fn part(&self, is_parted: bool) -> Result<()> {
        let Some(network) = &self.network else { return Ok(()) };
        let with = Some(self.addresses[1 - self.primary].ip());
        let drops = Drops { with, arriving: true, leaving: true, permille: 1000 };
        let drops = if is_parted { vec![drops] } else { Vec::new() };
        network.set_drops(self.primary, &drops).map_err(anyhow::Error::msg)
    }

    fn process(&mut self, node: usize) -> Result<&mut Process> {
        self.processes[node].as_mut().context("that redis-server is down")
    }

    /// One fault of the primary, and the failover. Gives the fault's kind.
    fn fail_over(&mut self, random: &mut Seeded, crew: &Crew) -> Result<&'static str> {
        let (old, new) = (self.primary, 1 - self.primary);
        let kinds = if self.network.is_some() { 3 } else { 2 };
        let kind = ["kill -9", "pause", "partition"][random.choose(kinds)];
        match kind {
            "kill -9" => {
                self.process(old)?.kill();
                self.processes[old] = None;
            }
            "pause" => self.process(old)?.pause(),
            _ => self.part(true)?,
        }
        std::thread::sleep(Duration::from_millis(DETECTED_MS[random.choose(3)] as u64)); // as an operator notices
        self.wait("a promotion", |pair| matches!(pair.call(new, &["REPLICAOF", "NO", "ONE"]), Some(Reply::Simple(_))))?;
        crew.shared().use_nodes(vec![(new, self.addresses[new])]);
        match kind {
            "kill -9" => self.start(old)?,
            "pause" => self.process(old)?.resume(),
            _ => self.part(false)?,
        }
        self.primary = new;
        self.follow(old)?;
        Ok(kind)
    }
}

/// Makes a run.
///
/// # Errors
///
/// There is no `redis-server`, or it does not come up again.
pub fn run(options: &Options, interrupted: &AtomicBool) -> Result<Report> {
    sweep().iter().for_each(|what| tell(&format!("a run that was killed left {what}: taken away")));
    let directory = Directory::make("redis", options.seed)?;
    let network = network(2, options.loopback);
    let addresses = match &network {
        Some(network) => [0, 1].map(|node| SocketAddr::new(network.address(node), PORT)),
        None => {
            let [one, other] = free_ports(2)[..] else { bail!("two ports were asked for") };
            [one, other].map(|port| ([127, 0, 0, 1], port).into())
        }
    };
    let processes = [None, None];
    let mut pair =
        Pair { network: network.clone(), addresses, processes, directory: directory.path().to_owned(), primary: 0 };
    pair.start(0)?;
    pair.start(1)?;
    pair.follow(1)?;
    tell(&format!("seed {}: a Redis primary with a replica for {:?}", options.seed, options.length));
    measure(options, &mut pair, directory.path(), interrupted)
}

fn measure(options: &Options, pair: &mut Pair, evidence: &Path, interrupted: &AtomicBool) -> Result<Report> {
    let mut random = Seeded::new(options.seed);
    let first = vec![(0, pair.addresses[0])];
    let Options { clients, pace, seed, length, .. } = *options;
    let crew = Crew::start(pair.network.clone(), first, clients, pace, seed, evidence);
    let mut faults = std::collections::BTreeMap::new();
    let begun = Instant::now();
    while begun.elapsed() < length {
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        std::thread::sleep(Duration::from_millis(500 + random.choose(CALM_MS) as u64)); // between two faults
        *faults.entry(pair.fail_over(&mut random, &crew)?).or_default() += 1;
    }
    let faults_lasted = begun.elapsed();
    let (healed, calm) = (crew.shared().now(), Instant::now());
    pair.wait("clients that succeed", |_| crew.shared().waiting_since(healed).is_empty())?;
    let recovered = Some(calm.elapsed());
    let auditor = crew.auditor();
    let (mut verdict, expected) = crew.finish(true);
    let primary = pair.primary;
    let contents = auditor.read_all(primary, pair.addresses[primary], &expected);
    expected.judge(&[(primary, contents.context("the primary does not let everything be read")?)], &mut verdict);
    let (name, skipped, evidence) = ("chaos-redis", 0, None);
    let failed_syncs = FailedSyncs::default();
    Ok(Report { name, seed, faults_lasted, verdict, faults, skipped, failed_syncs, recovered, evidence })
}
