//! First figures: SET and GET at 50 connections, with and without pipelining, beside `redis-server --appendfsync always`.
//!
//! Both servers promise the same for a SET: it is on disk before it is acknowledged. They run on the same disk and take
//! turns, run by run, so that whatever else the machine does falls on both alike. Figures are those of the median run.

#![allow(clippy::print_stdout)] // it is a program that prints

use dstore_bench::{Figures, Load, median};
use dstore_testkit::process::{Dstore, start_redis};
use dstore_testkit::scratch::Scratch;

/// Odd, so that there is a run in the middle.
const ROUNDS: usize = 3;

fn main() {
    let scratch = Scratch::new("bench");
    let (ours, theirs) = (scratch.directory("dstore"), scratch.directory("redis"));
    let dstore = Dstore::on(&ours).start(&scratch).unwrap_or_else(|refused| panic!("dstore: {}", refused.stderr));
    let durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""];
    let redis = start_redis(&scratch, &theirs, &durable);

    println!("50 connections, 100-byte values, 100,000 keys, median of {ROUNDS} runs in alternation\n");
    println!("{:<10}{:>34}{:>34}{:>8}", "", "dstore", "redis, appendfsync always", "ratio");
    println!("{:<10}{:>34}{:>34}", "", "req/s    p50 ms    p99 ms", "req/s    p50 ms    p99 ms");
    let load = |test, pipeline, requests| Load { test, connections: 50, pipeline, requests };
    for load in [load("set", 1, 20_000), load("set", 16, 100_000), load("get", 1, 60_000), load("get", 16, 300_000)] {
        let runs: Vec<(Figures, Figures)> = (0..ROUNDS).map(|_| (load.run(&dstore), load.run(&redis))).collect();
        let (ours, theirs): (Vec<Figures>, Vec<Figures>) = runs.into_iter().unzip();
        let (ours, theirs) = (median(&ours), median(&theirs));
        let shown = |f: Figures| format!("{:.0}  {:>8.3}  {:>8.3}", f.rate, f.p50_ms, f.p99_ms);
        let name = format!("{} -P {}", load.test.to_uppercase(), load.pipeline);
        println!("{name:<10}{:>34}{:>34}{:>8.2}", shown(ours), shown(theirs), ours.rate / theirs.rate);
    }
}
