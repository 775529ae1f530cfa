//! Every planted bug is caught, each within a bound of its own: a simulator that finds nothing may be one that cannot.
//!
//! Needs the feature: `cargo test --release -p dstore-sim --features planted --test planted`. `DSTORE_SEED=n` begins with another
//! seed.

#![cfg(feature = "planted")]

use std::time::Instant;

use dstore_node::Planted;
use dstore_sim::fleet::hunt;
use dstore_sim::narrow::Narrow;
use dstore_sim::run::{Options, note_panic};

/// Seeds within which each bug has to be caught: many times what it takes on average.
const SEEDS_MAX: u64 = 6000;

/// A seed at which, or soon after, a bug that hides is caught, so that not everybody waits for it. When the simulator changes, other
/// seeds do, and this is a beginning like any other.
fn near(bug: Planted) -> u64 {
    match bug {
        Planted::AcceptStale => 560,
        Planted::IgnoreFailedSync => 250,
        Planted::ExpiredByClockAlone => 230,
        Planted::ForgetTerm => 250,
        _ => 1,
    }
}

#[test]
#[allow(clippy::disallowed_methods)]
fn every_planted_bug_is_caught() {
    let seed = std::env::var("DSTORE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let chosen = std::env::var_os("DSTORE_SEED").is_some();
    println!("DSTORE_SEED={seed}");
    let options = Options { seed, trace: false, epoch: Instant::now(), narrow: Narrow::default(), planted: None };
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut escaped = Vec::new();
    std::panic::set_hook(Box::new(note_panic));
    for bug in Planted::ALL {
        let seed = if chosen { seed } else { near(bug) };
        match hunt(&Options { seed, planted: Some(bug), ..options.clone() }, SEEDS_MAX, jobs) {
            Some((seeds, outcome)) => {
                let text = outcome.failures[0].lines().next().unwrap_or_default();
                println!("{bug:?}: caught after {seeds} seeds: {text}");
            }
            None => escaped.push(bug),
        }
    }
    drop(std::panic::take_hook());
    assert!(escaped.is_empty(), "not caught within {SEEDS_MAX} seeds from {seed}: {escaped:?}");
}
