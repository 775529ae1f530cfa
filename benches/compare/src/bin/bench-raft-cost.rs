//! What consensus costs a node that is alone: SET and GET throughput of a one-node dstore beside an older build of it.
//!
//! The path of the older program is the one argument. Both nodes run at the same time on fresh directories and take turns,
//! run by run, and who begins changes with every round, so that whatever else the machine does falls on both alike. Each
//! round gives one ratio; what is told is the median of them.
//!
//! The closing lines are `ratio NAME VALUE`, this build over the older one: higher is better.

#![allow(clippy::print_stdout)] // it is a program that prints

use std::path::Path;

use dstore_bench::{Figures, Load, median, middle};
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
    println!("{:<10}{:>34}{:>34}{:>8}{:>16}", "", "this build", "older build", "ratio", "all ratios");
    println!("{:<10}{:>34}{:>34}", "", "req/s    p50 ms    p99 ms", "req/s    p50 ms    p99 ms");
    let load = |test, pipeline, requests| Load { test, connections: 50, pipeline, requests };
    let loads = [
        ("set", load("set", 1, 40_000)),
        ("get", load("get", 1, 80_000)),
        ("set-pipelined", load("set", 16, 120_000)),
        ("get-pipelined", load("get", 16, 300_000)),
    ];
    let ratios = loads.map(|(name, load)| (name, compare(&load, &ours, &base)));
    println!();
    for (name, ratio) in ratios {
        println!("ratio single-after-raft-{name} {ratio:.3}");
    }
}

/// The median of the rounds' ratios.
fn compare(load: &Load, ours: &Server, base: &Server) -> f64 {
    // The first round of each fills caches and does not count.
    let runs: Vec<(Figures, Figures)> = (0..=ROUNDS).map(|round| in_turn(load, ours, base, round)).skip(1).collect();
    let ratios: Vec<f64> = runs.iter().map(|(ours, base)| ours.rate / base.rate).collect();
    let ratio = middle(&ratios);
    let (ours, base): (Vec<Figures>, Vec<Figures>) = runs.into_iter().unzip();
    let shown = |f: Figures| format!("{:.0}  {:>8.3}  {:>8.3}", f.rate, f.p50_ms, f.p99_ms);
    let name = format!("{} -P {}", load.test.to_uppercase(), load.pipeline);
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let spread = format!("{least:.2} to {most:.2}");
    println!("{name:<10}{:>34}{:>34}{ratio:>8.3}{spread:>16}", shown(median(&ours)), shown(median(&base)));
    ratio
}

fn in_turn(load: &Load, ours: &Server, base: &Server, round: usize) -> (Figures, Figures) {
    if round.is_multiple_of(2) {
        let ours = load.run(ours);
        (ours, load.run(base))
    } else {
        let base = load.run(base);
        (load.run(ours), base)
    }
}
