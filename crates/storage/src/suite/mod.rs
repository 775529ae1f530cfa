//! One suite for every implementation of [`Engine`](crate::Engine) and [`Log`](crate::Log), behind the feature `suite`.
//!
//! For the tests of this crate and of every crate that implements the traits. An implementation comes with a harness that
//! opens it, cuts its power and opens it again; the functions here do things to it and panic when it breaks the
//! contract. Random ones are driven by a seed which they print on failure: set `DSTORE_SEED` to replay one, and
//! `DSTORE_SEEDS` to run more of them.

pub mod engine;
pub mod log;
pub mod sim_disk;
pub mod snapshot;

use crate::mix::Mix;

/// The seeds a random test runs: the one in `DSTORE_SEED`, or the first `count` (or `DSTORE_SEEDS`).
///
/// # Panics
/// When an environment variable is not a number.
#[must_use]
pub fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
    };
    match number("DSTORE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("DSTORE_SEEDS").unwrap_or(count)).collect(),
    }
}

/// Runs `test` with each seed, and says which seed it was when it panics.
///
/// # Panics
/// As `test`.
pub fn for_each_seed(count: u64, mut test: impl FnMut(u64)) {
    for seed in seeds(count) {
        let said = SaySeed(seed);
        test(seed);
        drop(said);
    }
}

struct SaySeed(u64);

impl Drop for SaySeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stderr)] // A test's only way to tell.
            {
                eprintln!("failed with DSTORE_SEED={}", self.0);
            }
        }
    }
}

/// A source of choices for the suites.
#[derive(Debug)]
pub struct Choices(Mix);

impl Choices {
    /// The choices that `seed` leads to.
    #[must_use]
    pub fn new(seed: u64) -> Choices {
        Choices(Mix::new(seed))
    }

    /// A number below `bound`, which is above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.up_to(bound - 1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.next()
    }
}
