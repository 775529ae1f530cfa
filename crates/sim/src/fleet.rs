//! Several seeds at a time, each in a thread of its own. A seed is one thread's alone, so nothing of it depends on the others;
//! and what came of them is told in the order of the seeds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use crate::run::{self, Options, Outcome};

/// Runs `seeds` seeds from that of the options on, `jobs` at a time. `tell` gets each, in order, and says whether to go on.
pub fn run(options: &Options, seeds: u64, jobs: usize, mut tell: impl FnMut(u64, Outcome) -> bool) {
    let next = AtomicU64::new(0);
    let stopped = AtomicBool::new(false);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (next, stopped, send) = (&next, &stopped, send.clone());
            scope.spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds {
                        return;
                    }
                    let seed = options.seed.wrapping_add(number);
                    let outcome = run::run(Options { seed, ..options.clone() });
                    if send.send((number, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let (mut waiting, mut told) = (BTreeMap::new(), 0);
        for (number, outcome) in receive {
            waiting.insert(number, outcome);
            while let Some(outcome) = waiting.remove(&told) {
                let goes_on = tell(options.seed.wrapping_add(told), outcome);
                told += 1;
                if !goes_on {
                    stopped.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
    });
}

/// Runs seeds until one fails, at most so many: how many it took, and how it failed.
pub fn hunt(options: &Options, seeds_max: u64, jobs: usize) -> Option<(u64, Outcome)> {
    let mut found = None;
    let mut seeds = 0;
    run(options, seeds_max, jobs, |_, outcome| {
        seeds += 1;
        let failed = !outcome.failures.is_empty();
        if failed {
            found = Some((seeds, outcome));
        }
        !failed
    });
    found
}
