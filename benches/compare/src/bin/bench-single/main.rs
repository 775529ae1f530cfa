//! One dstore node beside `redis-server --appendfsync always`.
//!
//! Both promise the same for a SET: it is on disk before it is acknowledged. They hold the same keys on the same disk, and
//! take turns, run by run; who begins changes with every round. Each round gives one ratio, and what is told is the median
//! of them. The load comes from one thread of this program and shares the machine with the servers.
//!
//! `bench-single` measures SET and GET, whose ratios have names, and reports on long values, MGET and scans.
//! `bench-single large` holds 5 GB under a budget of 512 MiB; `bench-single keys` compares 10^5, 10^6 and 10^7 keys; `bench-single
//! cold` reads from a disk with every cache empty.
//! A number as second argument is that of rounds; a third argument leaves only the rows whose names begin with it.
//!
//! The closing lines are `ratio NAME VALUE`, ours over theirs for throughput, theirs over ours for CPU time: higher is
//! better.

#![allow(clippy::print_stdout)] // it is a program that prints

mod cold;
mod keys;
mod large;
mod report;

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use dstore_bench::disk::Probe;
use dstore_bench::histogram::Histogram;
use dstore_bench::load::{Load, UNTIL_FILLED, Verb};
use dstore_bench::{Run, in_turn, middle, usage};
use dstore_testkit::process::{Dstore, Server, start_redis};
use dstore_testkit::scratch::Scratch;
use report::Report;

const VALUE_BYTES: usize = 100;
const KEYS: usize = 100_000;

/// Odd, so that there is one in the middle.
const ROUNDS: usize = 7;

/// Blocks synced between two loads, to see what the disk does at the time.
const PROBES: u32 = 30;

/// One row of the table.
struct Row {
    name: &'static str,
    load: Load,
    during: Duration,
    /// Names of the ratios of throughput and CPU time.
    ratios: Option<(&'static str, &'static str)>,
}

fn row(name: &'static str, verb: Verb, connections: usize, pipeline: usize) -> Row {
    let load = Load { verb, connections, pipeline, keys: KEYS };
    Row { name, load, during: Duration::from_millis(900), ratios: None }
}

fn rows() -> Vec<Row> {
    let named = |name, verb, connections, pipeline, cpu| Row {
        ratios: Some((name, cpu)),
        ..row(name, verb, connections, pipeline)
    };
    let (set, get) = (Verb::Set(VALUE_BYTES), Verb::Get);
    vec![
        named("set-c1", set, 1, 1, "cpu-set-c1"),
        named("set-c50", set, 50, 1, "cpu-set-c50"),
        named("set-c50-p16", set, 50, 16, "cpu-set-c50-p16"),
        named("get-c1", get, 1, 1, "cpu-get-c1"),
        named("get-c50", get, 50, 1, "cpu-get-c50"),
        named("get-c50-p16", get, 50, 16, "cpu-get-c50-p16"),
        row("mget-100", Verb::Mget(100), 50, 1),
        Row { load: Load { keys: 1000, ..row("", Verb::Set(10 << 10), 50, 1).load }, ..row("set 10 KB", set, 1, 1) },
        Row { load: Load { keys: 1000, ..row("", get, 50, 1).load }, ..row("get 10 KB", get, 1, 1) },
        Row { load: Load { keys: 20, ..row("", Verb::Set(1 << 20), 5, 1).load }, ..row("set 1 MB", set, 1, 1) },
        Row { load: Load { keys: 20, ..row("", get, 5, 1).load }, ..row("get 1 MB", get, 1, 1) },
    ]
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "all".to_owned());
    let rounds = arguments.next().map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    let only = arguments.next().unwrap_or_default();
    match what.as_str() {
        "all" => side_by_side(rounds, &only),
        "large" => large::run(),
        "keys" => keys::run(rounds),
        "cold" => cold::run(rounds),
        other => bail!("bench-single [all | large | keys | cold] [ROUNDS] [ROWS], not {other}"),
    }
}

/// Starts `redis-server` that keeps every write on disk before it acknowledges it.
fn durable_redis(scratch: &Scratch) -> Server {
    let durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""];
    start_redis(scratch, &scratch.directory("redis"), &durable)
}

fn dstore(scratch: &Scratch, flags: &[&str]) -> anyhow::Result<Server> {
    dstore_on(&scratch.directory("dstore"), scratch, flags)
}

fn dstore_on(data: &Path, scratch: &Scratch, flags: &[&str]) -> anyhow::Result<Server> {
    let started = Dstore::on(data).flags(flags).start(scratch);
    started.map_err(|refused| anyhow::anyhow!("dstore: {}", refused.stderr))
}

/// Runs a load against a server, with what it spent on it.
fn measure(load: &Load, during: Duration, server: &Server, seed: u64) -> anyhow::Result<Run> {
    let before = usage::cpu(&[server.pid()]);
    let figures = load.run(server.address(), during, seed)?;
    Ok(Run::of(figures, usage::cpu(&[server.pid()]) - before))
}

fn side_by_side(rounds: usize, only: &str) -> anyhow::Result<()> {
    let scratch = Scratch::new("bench-single");
    let (ours, theirs) = (dstore(&scratch, &[])?, durable_redis(&scratch));
    let fill = Load { verb: Verb::Fill(VALUE_BYTES), connections: 50, pipeline: 16, keys: KEYS };
    for server in [&ours, &theirs] {
        fill.run(server.address(), UNTIL_FILLED, 0)?;
    }
    let (mut probe, mut syncs) = (Probe::new(scratch.path())?, Histogram::default());
    let rows: Vec<Row> = rows().into_iter().filter(|row| row.name.starts_with(only)).collect();
    let mut report = Report::new(rows.iter().map(|row| row.name).collect());
    for round in 0..=rounds {
        for (at, row) in rows.iter().enumerate() {
            // Long values replace some of the short ones; those come back before the next round.
            let one = |server: &Server| measure(&row.load, row.during, server, round as u64);
            let pair = in_turn(round, || one(&ours), || one(&theirs))?;
            // The first round fills caches and does not count.
            if round > 0 {
                report.add(at, pair);
            }
            probe.run(PROBES, &mut syncs)?;
        }
        let restore = Load { keys: 1000, ..fill };
        in_turn(round, || measure(&restore, UNTIL_FILLED, &ours, 0), || measure(&restore, UNTIL_FILLED, &theirs, 0))?;
    }
    println!("{VALUE_BYTES}-byte values, {KEYS} keys, median of {rounds} rounds in alternation");
    println!(
        "fdatasync of a block in the same minutes: p50 {:.3} ms, p99 {:.3} ms, {} times\n",
        syncs.at(0.5),
        syncs.at(0.99),
        syncs.total()
    );
    report.print("dstore", "redis, appendfsync always");
    let memory = |server: &Server| usage::memory_mib(server.pid());
    println!("{:<14}{:>38.0} MiB{:>38.0} MiB\n", "resident", memory(&ours), memory(&theirs));
    for (at, row) in rows.iter().enumerate() {
        if let Some((rate, cpu)) = row.ratios {
            println!("ratio {rate} {:.2}", middle(&report.rates(at)));
            println!("ratio {cpu} {:.2}", middle(&report.cpus(at)));
        }
    }
    Ok(())
}
