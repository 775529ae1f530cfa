//! A random explorer: a cluster under an adversary, on a seed.
//!
//! Three to seven nodes; messages lost, duplicated, delayed and reordered; links cut; nodes stopped for a while and resumed
//! with their clocks run on; crashes that forget what no write had made durable, and tear the write under way; clocks that
//! run at different speeds within the bound; disks that complete late; proposals, reads, changes of membership, transfers,
//! snapshots. After *every* step the [`Oracle`](super::oracle::Oracle) looks at the node that moved. At the end everything
//! is healed, and the cluster must come to agree and commit again.
//!
//! `RAFT_EXPLORER_SEEDS` (a count, or `from..to`) and `RAFT_EXPLORER_STEPS` set how much is explored;
//! `RAFT_EXPLORER_TRACE=1` tells the story of a single seed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::world::World;
use crate::planted::Bug;

/// What a run came to.
struct Report {
    steps: u64,
    reads: u64,
    commit: u64,
    failure: Option<String>,
}

fn explore(seed: u64, steps: u64, bug: Option<Bug>, trace: bool) -> (Report, Option<Vec<String>>) {
    let mut world = World::new(seed, bug, trace);
    let mut done = 0;
    let verdict = catch_unwind(AssertUnwindSafe(|| {
        for i in 0..world.hosts.len() {
            world.pump(i)?;
        }
        while done < steps {
            done += 1;
            world.step()?;
        }
        world.heal()
    }));
    let failure = match verdict {
        Ok(Ok(())) => None,
        Ok(Err(what)) => Some(what),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
            Some(format!("an assertion of the core: {text}"))
        }
    };
    let commit = world.oracle.commit().0;
    (Report { steps: done, reads: world.oracle.reads_answered, commit, failure }, world.trace)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|e| panic!("{name}={v}: {e}")))
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let Ok(v) = std::env::var("RAFT_EXPLORER_SEEDS") else { return 0..default };
    match v.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => 0..v.parse().unwrap(),
    }
}

#[test]
#[allow(clippy::disallowed_methods)] // to tell how fast it was
fn no_seed_breaks_a_promise() {
    let (seeds, steps) = (seeds(2000), number("RAFT_EXPLORER_STEPS", 2000));
    let count = seeds.end - seeds.start;
    let began = std::time::Instant::now();
    let (mut reads, mut commits) = (0, 0);
    for seed in seeds {
        let trace = std::env::var_os("RAFT_EXPLORER_TRACE").is_some();
        let (mut report, mut story) = explore(seed, steps, None, trace);
        if report.failure.is_some() && story.is_none() {
            (report, story) = explore(seed, steps, None, true);
        }
        if let Some(failure) = &report.failure {
            let story = story.unwrap_or_default();
            story[story.len().saturating_sub(150)..].iter().for_each(|line| println!("{line}"));
            panic!("seed {seed}, step {}: {failure}\nreplay: RAFT_EXPLORER_SEEDS={seed}..{}", report.steps, seed + 1);
        }
        if let Some(story) = story {
            story.iter().for_each(|line| println!("{line}"));
        }
        reads += report.reads;
        commits += report.commit;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    println!("{count} seeds of {steps} steps, {rate:.0} seeds/s; {commits} entries committed, {reads} reads answered");
    assert!(count < 50 || (commits > count * 10 && reads > count), "the explorer should get somewhere");
}

/// Every broken rule must be noticed. The search begins at a seed known to notice, to be quick;
/// with `RAFT_PLANTED_SEEDS`, how many seeds each may take, it begins at 0, and prints the table of `docs/raft.md`.
#[test]
fn every_planted_bug_is_caught() {
    let steps = number("RAFT_EXPLORER_STEPS", 2000);
    let all = std::env::var_os("RAFT_PLANTED_SEEDS").is_some();
    let limit = number("RAFT_PLANTED_SEEDS", 30_000);
    silence_expected_panics();
    println!("| broken rule | caught by seed | step | how |\n|---|---|---|---|");
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let first = if all { 0 } else { bug.seed() };
        let caught = (first..limit).find_map(|seed| {
            let (report, _) = explore(seed, steps, Some(bug), false);
            report.failure.map(|how| (seed, report.steps, how))
        });
        match caught {
            Some((seed, step, how)) => {
                let how = how.lines().next().unwrap_or_default().replace('|', "/");
                println!("| `{bug:?}` | {} | {step} | {how} |", seed + 1);
            }
            None => missed.push(bug),
        }
    }
    SILENT.set(false);
    assert!(missed.is_empty(), "not caught in {limit} seeds: {missed:?}");
}

thread_local! {
    static SILENT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The core's own assertions catch some planted bugs; their messages are not news.
fn silence_expected_panics() {
    SILENT.set(true);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !SILENT.get() {
            usual(info);
        }
    }));
}
