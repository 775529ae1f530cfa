//! What consensus costs a node that is alone: SET and GET throughput of a one-node dstore beside an older build of it.
//!
//! The path of the older program is the one argument. Both nodes run at the same time on fresh directories and take turns,
//! run by run, and who begins changes with every round, so that whatever else the machine does falls on both alike. Each
//! round gives one ratio; what is told is the median of them. Beside throughput stands the CPU time that the server spends
//! on a request, which says the same on a machine that is not quiet.
//!
//! The closing lines are `ratio NAME VALUE`, this build over the older one, and for CPU time the other way round: higher is
//! better.

#![allow(clippy::print_stdout)] // it is a program that prints

use std::path::Path;

use dstore_bench::{Figures, Load, median, middle, usage};
use dstore_testkit::process::{Dstore, Server};
use dstore_testkit::scratch::Scratch;

/// Odd, so that there is one in the middle.
const ROUNDS: usize = 9;

fn main() {
    let older = std::env::args_os().nth(1).expect("usage: bench-raft-cost OLDER-PROGRAM");
    let scratch = Scratch::new("raft-cost");
    let ready = |dstore: Dstore| dstore.start(&scratch).unwrap_or_else(|refused| panic!("dstore: {}", refused.stderr));
    let ours = ready(Dstore::on(&scratch.directory("ours")));
    let base = ready(Dstore::on(&scratch.directory("base")).program(Path::new(&older)));

    println!("one node; 50 connections, 100-byte values, 100,000 keys; {ROUNDS} rounds in alternation\n");
    println!("{:<10}{:>42}{:>42}{:>8}{:>16}", "", "this build", "older build", "ratio", "all ratios");
    let heads = "req/s    p50 ms    p99 ms  CPU us";
    println!("{:<10}{heads:>42}{heads:>42}", "");
    let load = |test, pipeline, requests| Load { test, connections: 50, pipeline, requests };
    let loads = [
        ("set", load("set", 1, 40_000)),
        ("get", load("get", 1, 80_000)),
        ("set-pipelined", load("set", 16, 120_000)),
        ("get-pipelined", load("get", 16, 300_000)),
    ];
    let ratios = loads.map(|(name, load)| (name, compare(&load, &ours, &base)));
    println!();
    for (name, (rate, cpu)) in ratios {
        println!("ratio single-after-raft-{name} {rate:.3}");
        println!("ratio single-after-raft-{name}-cpu {cpu:.3}");
    }
}

/// One run against one of them.
#[derive(Clone, Copy)]
struct Run {
    figures: Figures,
    /// CPU time of the server per request, in microseconds.
    cpu_us: f64,
}

/// The medians of the rounds' ratios: throughput, and CPU time per request.
fn compare(load: &Load, ours: &Server, base: &Server) -> (f64, f64) {
    // The first round of each fills caches and does not count.
    let runs: Vec<(Run, Run)> = (0..=ROUNDS).map(|round| in_turn(load, ours, base, round)).skip(1).collect();
    let ratios: Vec<f64> = runs.iter().map(|(ours, base)| ours.figures.rate / base.figures.rate).collect();
    let rate = middle(&ratios);
    let cpu = middle(&runs.iter().map(|(ours, base)| base.cpu_us / ours.cpu_us).collect::<Vec<_>>());
    let (ours, base): (Vec<Run>, Vec<Run>) = runs.into_iter().unzip();
    let name = format!("{} -P {}", load.test.to_uppercase(), load.pipeline);
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let spread = format!("{least:.2} to {most:.2}");
    println!("{name:<10}{:>42}{:>42}{rate:>8.3}{spread:>16}", shown(&ours), shown(&base));
    (rate, cpu)
}

/// The run in the middle by throughput, and the CPU time in the middle.
fn shown(runs: &[Run]) -> String {
    let figures = median(&runs.iter().map(|run| run.figures).collect::<Vec<_>>());
    let cpu_us = middle(&runs.iter().map(|run| run.cpu_us).collect::<Vec<_>>());
    format!("{:.0}  {:>8.3}  {:>8.3}  {cpu_us:>6.1}", figures.rate, figures.p50_ms, figures.p99_ms)
}

fn in_turn(load: &Load, ours: &Server, base: &Server, round: usize) -> (Run, Run) {
    if round.is_multiple_of(2) {
        let ours = run(load, ours);
        (ours, run(load, base))
    } else {
        let base = run(load, base);
        (run(load, ours), base)
    }
}

fn run(load: &Load, server: &Server) -> Run {
    let before = usage::cpu(&[server.pid()]);
    let figures = load.run(server);
    let spent = usage::cpu(&[server.pid()]) - before;
    Run { figures, cpu_us: spent.as_secs_f64() * 1e6 / f64::from(load.requests) }
}
