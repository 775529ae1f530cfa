//! What consensus costs a node that is alone: SET and GET of a one-node dstore beside an older build of it.
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
use std::time::Duration;

use dstore_bench::load::{Load, UNTIL_FILLED, Verb};
use dstore_bench::{Run, in_turn, middle, shown, usage};
use dstore_testkit::process::{Dstore, Server};
use dstore_testkit::scratch::Scratch;

/// Odd, so that there is one in the middle.
const ROUNDS: usize = 9;

const KEYS: usize = 100_000;

fn main() -> anyhow::Result<()> {
    let older = std::env::args_os().nth(1).expect("usage: bench-raft-cost OLDER-PROGRAM");
    let scratch = Scratch::new("raft-cost");
    let ready = |dstore: Dstore| dstore.start(&scratch).unwrap_or_else(|refused| panic!("dstore: {}", refused.stderr));
    let ours = ready(Dstore::on(&scratch.directory("ours")));
    let base = ready(Dstore::on(&scratch.directory("base")).program(Path::new(&older)));
    let fill = Load { verb: Verb::Fill(100), connections: 50, pipeline: 16, keys: KEYS };
    for server in [&ours, &base] {
        fill.run(server.address(), UNTIL_FILLED, 0)?;
    }
    println!("one node; 50 connections, 100-byte values, {KEYS} keys; {ROUNDS} rounds in alternation\n");
    println!("{:<16}{:>42}{:>42}{:>8}", "", "this build", "older build", "ratio");
    let load = |verb, pipeline| Load { verb, connections: 50, pipeline, keys: KEYS };
    let loads = [
        ("set", load(Verb::Set(100), 1)),
        ("get", load(Verb::Get, 1)),
        ("set-pipelined", load(Verb::Set(100), 16)),
        ("get-pipelined", load(Verb::Get, 16)),
    ];
    let mut ratios = Vec::new();
    for (name, load) in loads {
        let (ours, base) = compare(&load, &ours, &base)?;
        let paired = |ratio: fn(&Run, &Run) -> f64| {
            middle(&ours.iter().zip(&base).map(|(ours, base)| ratio(ours, base)).collect::<Vec<_>>())
        };
        let rate = paired(|ours, base| ours.figures.rate / base.figures.rate);
        println!("{name:<16}{}{}{rate:>8.3}", shown(&ours), shown(&base));
        ratios.push((name, rate, paired(|ours, base| base.cpu_us / ours.cpu_us)));
    }
    println!();
    for (name, rate, cpu) in ratios {
        println!("ratio single-after-raft-{name} {rate:.3}");
        println!("ratio single-after-raft-{name}-cpu {cpu:.3}");
    }
    Ok(())
}

fn compare(load: &Load, ours: &Server, base: &Server) -> anyhow::Result<(Vec<Run>, Vec<Run>)> {
    let one = |server: &Server, round| {
        let before = usage::cpu(&[server.pid()]);
        let figures = load.run(server.address(), Duration::from_millis(900), round as u64)?;
        anyhow::Ok(Run::of(figures, usage::cpu(&[server.pid()]) - before))
    };
    // The first round fills caches and does not count.
    let rounds = (0..=ROUNDS).map(|round| in_turn(round, || one(ours, round), || one(base, round)));
    Ok(rounds.skip(1).collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip())
}
