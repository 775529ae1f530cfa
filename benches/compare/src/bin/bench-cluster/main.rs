//! Three dstore nodes beside three nodes of Debian's etcd, on one machine, over loopback.
//!
//! The same program drives both: dstore through the Redis protocol, etcd through its gRPC API. Both keep a write on the
//! disks of two nodes before they acknowledge it, and both serve linearizable reads (etcd's default). They take turns,
//! round by round, each on fresh directories with nobody else running; who begins changes with every round. Each round
//! gives one ratio, and what is told is the median of them.
//!
//! The client shares the machine with the nodes. gRPC costs the client more than RESP does, so on a machine of few cores a
//! part of the difference in throughput is that of the protocols; the nodes' own CPU time per request has no such part.
//!
//! The closing lines are `ratio NAME VALUE`, ours over theirs for throughput, theirs over ours for what is spent: higher is
//! better.

#![allow(clippy::print_stdout)] // it is a program that prints

mod dstore;
mod etcd;
mod load;

use dstore_bench::disk::Probe;
use dstore_bench::histogram::Histogram;
use dstore_bench::{in_turn, middle, usage};
use dstore_testkit::scratch::Scratch;
use load::{LOADS, Sample, System};

/// Odd, so that there is one in the middle. Another number may be given as the one argument.
const ROUNDS: usize = 7;

/// Blocks synced between two rounds, to see what the disk does at the time.
const PROBES: u32 = 100;

/// Memory is compared after the same number of writes, too: who does more of them in a round's time has more to keep. It is
/// looked at each time that so many more have been made.
const WRITES: usize = 100_000;
const LOOKS: usize = 10;

/// What one system did in one round.
struct Round {
    /// One for each of [`LOADS`].
    samples: Vec<Sample>,
    /// Resident memory of a node after them, the mean of three, in MiB.
    memory_mib: f64,
}

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let scratch = Scratch::new("bench-cluster");
    let (mut probe, mut syncs) = (Probe::new(scratch.path())?, Histogram::default());
    for round in 0..rounds {
        let pair = in_turn(round, run::<dstore::Nodes>, run::<etcd::Nodes>)?;
        ours.push(pair.0);
        theirs.push(pair.1);
        probe.run(PROBES, &mut syncs)?;
    }
    println!(
        "three nodes on one machine; 100-byte values, {} keys; median of {rounds} rounds in alternation",
        load::KEYS
    );
    println!("fdatasync of a block in the same minutes: p50 {:.3} ms, p99 {:.3} ms\n", syncs.at(0.5), syncs.at(0.99));
    println!("{:<28}{:>42}{:>42}", "", "dstore", dstore_bench_peer());
    let heads = format!("{:>10}{:>10}{:>10}{:>12}", "req/s", "p50 ms", "p99 ms", "CPU us/req");
    println!("{:<28}{heads}{heads}{:>8}", "", "ratio");
    let mut ratios = Vec::new();
    for (at, load) in LOADS.iter().enumerate() {
        let of = |rounds: &[Round]| rounds.iter().map(|round| round.samples[at]).collect::<Vec<_>>();
        let (ours, theirs) = (of(&ours), of(&theirs));
        let rate = paired(&ours, &theirs, |ours, theirs| ours.rate / theirs.rate);
        let cpu = paired(&ours, &theirs, |ours, theirs| theirs.cpu_us / ours.cpu_us);
        println!("{:<28}{}{}{rate:>8.2}", load.title, shown(&ours), shown(&theirs));
        ratios.push((format!("cluster-{}", load.name), rate));
        ratios.push((format!("cluster-{}-cpu", load.name), cpu));
    }
    let memory = |rounds: &[Round]| middle(&rounds.iter().map(|round| round.memory_mib).collect::<Vec<_>>());
    let (our_memory, their_memory) = (memory(&ours), memory(&theirs));
    println!("{:<28}{:>38.0} MiB{:>38.0} MiB", "resident memory of a node", our_memory, their_memory);
    ratios.push(("cluster-memory".to_owned(), their_memory / our_memory));
    ratios.push(("cluster-memory-same-load".to_owned(), same_load()?));
    println!();
    for (name, ratio) in ratios {
        println!("ratio {name} {ratio:.2}");
    }
    Ok(())
}

/// Prints what a node of each keeps in memory as both are given the same writes. The ratio at their end.
fn same_load() -> anyhow::Result<f64> {
    let (ours, theirs) = (memory_by_writes::<dstore::Nodes>()?, memory_by_writes::<etcd::Nodes>()?);
    for (look, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        println!("{:<28}{ours:>38.0} MiB{theirs:>38.0} MiB", format!("after {} writes", (look + 1) * WRITES));
    }
    Ok(theirs[LOOKS - 1] / ours[LOOKS - 1])
}

fn memory_by_writes<S: System>() -> anyhow::Result<Vec<f64>> {
    let system = S::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let look = |_| {
        runtime.block_on(load::write_many(&system, WRITES))?;
        Ok(memory_mib(&system))
    };
    (0..LOOKS).map(look).collect()
}

/// Resident memory of a node, the mean of three.
fn memory_mib<S: System>(system: &S) -> f64 {
    let pids = system.pids();
    pids.iter().map(|pid| usage::memory_mib(*pid)).sum::<f64>() / pids.len() as f64
}

/// The peer with its version, for the head of the table.
fn dstore_bench_peer() -> String {
    format!("etcd {}", etcd::version())
}

/// One round of one system, from fresh directories to its end.
fn run<S: System>() -> anyhow::Result<Round> {
    let system = S::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(load::fill(&system))?;
    let mut samples = Vec::new();
    for load in LOADS {
        samples.push(runtime.block_on(load.run(&system))?);
    }
    Ok(Round { samples, memory_mib: memory_mib(&system) })
}

fn paired(ours: &[Sample], theirs: &[Sample], ratio: impl Fn(&Sample, &Sample) -> f64) -> f64 {
    middle(&ours.iter().zip(theirs).map(|(ours, theirs)| ratio(ours, theirs)).collect::<Vec<_>>())
}

/// The medians of each column by itself.
fn shown(samples: &[Sample]) -> String {
    let of = |value: fn(&Sample) -> f64| middle(&samples.iter().map(value).collect::<Vec<_>>());
    let (rate, cpu) = (of(|sample| sample.rate), of(|sample| sample.cpu_us));
    format!("{rate:>10.0}{:>10.3}{:>10.3}{cpu:>12.0}", of(|sample| sample.p50_ms), of(|sample| sample.p99_ms))
}
