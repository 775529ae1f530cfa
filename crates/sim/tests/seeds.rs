//! A slice of the simulation, for every test run: seeds that count up from a fresh one, and that a seed repeats to the
//! last message. What failed once is kept as a planted bug, which has to be found for ever: seeds change with the simulator.
//!
//! `DSTORE_SEED=n` begins with another seed, `SIM_SEEDS=n` runs that many. For many, use `make sim`.

use std::time::Instant;

use dstore_sim::fleet;
use dstore_sim::run::{Options, Outcome, run};

const SEEDS_DEFAULT: u64 = 300;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn options(seed: u64, epoch: Instant) -> Options {
    Options {
        seed,
        trace: false,
        epoch,
        narrow: dstore_sim::narrow::Narrow::default(),
        #[cfg(feature = "planted")]
        planted: None,
    }
}

#[allow(clippy::disallowed_methods)]
fn epoch() -> Instant {
    Instant::now()
}

fn assert_good(seed: u64, outcome: &Outcome) {
    assert!(
        outcome.failures.is_empty(),
        "seed {seed}:\n{}\nagain: make sim SEED={seed} SEEDS=1 TRACE=1",
        outcome.failures.join("\n")
    );
}

#[test]
#[allow(clippy::disallowed_methods)]
fn fresh_seeds_are_strictly_serializable_and_recover() {
    let fresh = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 % 1_000_000_000;
    let first = number("DSTORE_SEED").unwrap_or(fresh);
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS_DEFAULT);
    println!("DSTORE_SEED={first} SIM_SEEDS={seeds}");
    let mut committed = 0;
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    fleet::run(&options(first, epoch()), seeds, jobs, |seed, outcome| {
        assert_good(seed, &outcome);
        committed += outcome.transactions.0;
        true
    });
    // A cluster that refuses everything would be consistent too.
    assert!(committed as u64 > 50 * seeds, "only {committed} transactions committed in {seeds} seeds");
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_gives_another() {
    for seed in 7..12 {
        let (first, second) = (run(options(seed, epoch())), run(options(seed, epoch())));
        assert_eq!((first.hash, first.lines), (second.hash, second.lines), "seed {seed}");
        assert_ne!(first.hash, run(options(seed + 100, epoch())).hash);
    }
}
