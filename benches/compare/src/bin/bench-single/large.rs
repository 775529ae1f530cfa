//! Ten times more data than memory: 5 GB under the budget of 512 MiB.

use std::time::Duration;

use dstore_bench::load::{Load, Verb};
use dstore_bench::{shown, usage};
use dstore_testkit::scratch::Scratch;

use crate::{dstore, measure};

const VALUE_BYTES: usize = 1000;
const KEYS: usize = 5_000_000;
const BUDGET: &str = "512MiB";

/// How long each load takes; a fill until it is done.
const DURING: Duration = Duration::from_secs(15);
/// The last one shows what stays resident: about as many requests as come in an hour at a thousand a second.
const LONG: &str = "the same mixture, longer";
const DURING_LONG: Duration = Duration::from_secs(120);

pub(crate) fn run() -> anyhow::Result<()> {
    let scratch = Scratch::new("bench-large");
    let server = dstore(&scratch, &["--memory-bytes-max", BUDGET])?;
    println!("one dstore node, budget {BUDGET}, {KEYS} keys with values of {VALUE_BYTES} bytes\n");
    println!("{:<26}{:>12}{:>10}{:>10}{:>10}{:>14}", "", "req/s", "p50 ms", "p99 ms", "CPU us", "resident MiB");
    let load = |verb, connections, pipeline| Load { verb, connections, pipeline, keys: KEYS };
    let loads = [
        ("fill", load(Verb::Fill(VALUE_BYTES), 50, 16)),
        ("get, uniform", load(Verb::Get, 50, 1)),
        ("get, Zipf", load(Verb::GetZipf, 50, 1)),
        ("get, Zipf, one client", load(Verb::GetZipf, 1, 1)),
        ("range of 100", load(Verb::Range(100), 10, 1)),
        ("3 get : 1 set, uniform", load(Verb::Mixed(VALUE_BYTES), 50, 1)),
        ("set, uniform", load(Verb::Set(VALUE_BYTES), 50, 1)),
        (LONG, load(Verb::Mixed(VALUE_BYTES), 50, 1)),
    ];
    for (at, (name, load)) in loads.into_iter().enumerate() {
        let run = measure(&load, if name == LONG { DURING_LONG } else { DURING }, &server, at as u64)?;
        println!("{name:<26}{}{:>14.0}", shown(&[run]), usage::memory_mib(server.pid()));
    }
    Ok(())
}
