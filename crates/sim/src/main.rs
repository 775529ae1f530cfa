//! `dstore-sim`: runs seeds, and says of each that failed what went wrong and how to run it again.
//!
//! The last line is `seeds N failures F`, or `planted N caught N`; the exit code is 1 if anything failed.

#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use dstore_sim::run::{Options, Outcome, run};
use dstore_sim::time::SECOND;
use indicatif::{ProgressBar, ProgressStyle};

/// Runs simulated clusters, one for each seed, and checks what their clients saw.
#[derive(Parser)]
#[command(name = "dstore-sim", version)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed; the others count up from it. A fresh one if none is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Print each seed's trace hash.
    #[arg(long)]
    hashes: bool,
    /// Plant a bug, by name, or `all` of them, one after the other, until each is caught. Needs the feature `planted`.
    #[arg(long, value_name = "NAME")]
    planted: Option<String>,
}

/// A seed that nobody has chosen. The simulator itself knows no clock and no random source.
fn fresh_seed() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    now.as_nanos() as u64 % 1_000_000_000
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    // A panic of the core is reported with its seed, not where it happens.
    std::panic::set_hook(Box::new(dstore_sim::run::note_panic));
    let first = arguments.seed.unwrap_or_else(fresh_seed);
    match &arguments.planted {
        Some(name) => planted(name, first, arguments.seeds),
        None => Ok(seeds(&arguments, first)),
    }
}

/// The moment all simulated clocks are counted from. Only differences to it are ever looked at.
#[allow(clippy::disallowed_methods)]
fn epoch() -> Instant {
    Instant::now()
}

fn options(seed: u64, trace: bool, epoch: Instant) -> Options {
    Options {
        seed,
        trace,
        epoch,
        #[cfg(feature = "planted")]
        planted: None,
    }
}

fn seeds(arguments: &Arguments, first: u64) -> ExitCode {
    println!("seeds {first} to {}", first.wrapping_add(arguments.seeds.saturating_sub(1)));
    let progress = if arguments.trace { ProgressBar::hidden() } else { progress_bar(arguments.seeds) };
    let epoch = epoch();
    let mut failed = 0_u64;
    let mut total = Total::default();
    for seed in (0..arguments.seeds).map(|number| first.wrapping_add(number)) {
        let outcome = run(options(seed, arguments.trace, epoch));
        total.add(&outcome);
        if arguments.hashes {
            progress.suspend(|| println!("seed {seed} trace {:016x} of {} lines", outcome.hash, outcome.lines));
        }
        if !outcome.failures.is_empty() {
            failed += 1;
            progress.suspend(|| report(seed, &outcome));
        }
        progress.set_message(format!("{failed} failed"));
        progress.inc(1);
    }
    progress.finish_and_clear();
    total.print();
    println!("seeds {} failures {failed}", arguments.seeds);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn progress_bar(seeds: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {per_sec}, {msg}, {eta} left")
        .expect("the template is well formed");
    let bar = ProgressBar::new(seeds).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn report(seed: u64, outcome: &Outcome) {
    println!("\nseed {seed} failed at {} s:", dstore_sim::time::seconds(outcome.simulated));
    for failure in &outcome.failures {
        println!("  {failure}");
    }
    println!(
        "  again: make sim SEED={seed} SEEDS=1    with everything that happens: make sim SEED={seed} SEEDS=1 TRACE=1"
    );
}

/// What all seeds together did.
#[derive(Default)]
struct Total {
    simulated: u128,
    transactions: (usize, usize, usize),
    faults: std::collections::BTreeMap<dstore_sim::nemesis::Kind, u64>,
    snapshots: u64,
    hash: u64,
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        self.simulated += u128::from(outcome.simulated);
        self.transactions.0 += outcome.transactions.0;
        self.transactions.1 += outcome.transactions.1;
        self.transactions.2 += outcome.transactions.2;
        for (kind, count) in &outcome.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        self.snapshots += outcome.snapshots;
        self.hash = self.hash.rotate_left(1) ^ outcome.hash;
    }

    fn print(&self) {
        let hours = self.simulated as f64 / (3600.0 * SECOND as f64);
        let (committed, refused, unknown) = self.transactions;
        println!(
            "{hours:.2} simulated hours; transactions: {committed} committed, {refused} refused, {unknown} of unknown outcome"
        );
        let faults: Vec<String> =
            self.faults.iter().map(|(kind, count)| format!("{count} {}", format!("{kind:?}").to_lowercase())).collect();
        println!("faults: {}", faults.join(", "));
        println!("{} snapshots installed", self.snapshots);
        println!("trace hash {:016x}", self.hash);
    }
}

#[cfg(not(feature = "planted"))]
fn planted(_: &str, _: u64, _: u64) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build has no planted bugs; build it with --features planted")
}

/// Runs seeds with a bug, or with each in turn, until it is caught.
#[cfg(feature = "planted")]
fn planted(name: &str, first: u64, seeds_max: u64) -> anyhow::Result<ExitCode> {
    use dstore_node::Planted;

    let all = name == "all";
    let bugs: Vec<Planted> =
        Planted::ALL.into_iter().filter(|bug| all || format!("{bug:?}").eq_ignore_ascii_case(name)).collect();
    anyhow::ensure!(!bugs.is_empty(), "there is no bug {name}; there are {:?}", Planted::ALL);
    println!("seeds from {first}");
    let epoch = epoch();
    let mut caught = 0;
    for bug in &bugs {
        let found = dstore_sim::run::hunt(options(first, false, epoch), *bug, seeds_max);
        match found {
            Some((seeds, outcome)) => {
                caught += 1;
                println!("{bug:?}: caught after {seeds} seeds");
                if let Some(failure) = outcome.failures.first() {
                    println!("  {failure}");
                }
            }
            None => println!("{bug:?}: not caught by {seeds_max} seeds"),
        }
    }
    println!("planted {} caught {caught}", bugs.len());
    Ok(if caught == bugs.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
