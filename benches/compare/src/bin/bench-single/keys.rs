//! The same loads over more and more keys: what an operation costs must not grow with them.

use std::time::Duration;

use dstore_bench::load::{Load, UNTIL_FILLED, Verb};
use dstore_bench::{Run, shown, usage};
use dstore_testkit::scratch::Scratch;

use crate::{VALUE_BYTES, dstore, measure};

const SIZES: [usize; 3] = [100_000, 1_000_000, 10_000_000];

pub(crate) fn run(rounds: usize) -> anyhow::Result<()> {
    println!("one dstore node, {VALUE_BYTES}-byte values; medians of {rounds} runs\n");
    println!(
        "{:>12} {:<14}{:>12}{:>10}{:>10}{:>10}{:>14}",
        "keys", "", "req/s", "p50 ms", "p99 ms", "CPU us", "resident MiB"
    );
    for keys in SIZES {
        let scratch = Scratch::new("bench-keys");
        let server = dstore(&scratch, &[])?;
        let load = |verb, pipeline| Load { verb, connections: 50, pipeline, keys };
        let fill = measure(&load(Verb::Fill(VALUE_BYTES), 16), UNTIL_FILLED, &server, 0)?;
        let show = |name: &str, runs: &[Run]| {
            println!("{keys:>12} {name:<14}{}{:>14.0}", shown(runs), usage::memory_mib(server.pid()));
        };
        show("fill", &[fill]);
        let loads = [
            ("set-c50", Verb::Set(VALUE_BYTES), 1),
            ("set-c50-p16", Verb::Set(VALUE_BYTES), 16),
            ("get-c50", Verb::Get, 1),
            ("get-c50-p16", Verb::Get, 16),
        ];
        for (name, verb, pipeline) in loads {
            let one = |round| measure(&load(verb, pipeline), Duration::from_secs(1), &server, round as u64);
            // The first fills caches and does not count.
            let runs = (0..=rounds).map(one).skip(1).collect::<anyhow::Result<Vec<Run>>>()?;
            show(name, &runs);
        }
    }
    Ok(())
}
