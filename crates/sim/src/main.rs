//! `dstore-sim`: runs seeds, and says of each that failed what went wrong and how to run it again.
//!
//! The last line is `seeds N failures F`, or `planted N caught N`; the exit code is 1 if anything failed.

#![allow(clippy::print_stdout, reason = "it is what the program is for")]

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use dstore_sim::fleet;
use dstore_sim::narrow::Narrow;
use dstore_sim::nemesis::{KINDS, Kind};
use dstore_sim::run::{Options, Outcome, run};
use dstore_sim::shrink::shrink;
use dstore_sim::time::SECOND;
use dstore_sim::total::Total;
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
    /// How many seeds run at a time, each in a thread; as many as there are processors if none is given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Print each seed's trace hash.
    #[arg(long)]
    hashes: bool,
    /// Plant a bug, by name, or `all` of them, one after the other, until each is caught. Needs the feature `planted`.
    #[arg(long, value_name = "NAME")]
    planted: Option<String>,
    /// Find the least of each seed that still fails: fewer faults, clients, transactions, a shorter run.
    #[arg(long)]
    shrink: bool,
    /// Leave out kinds of faults.
    #[arg(long, value_delimiter = ',', value_name = "KINDS")]
    without: Vec<String>,
    /// Leave out all faults but those of these numbers, or all with `none`.
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    only: Option<Vec<String>>,
    /// At most so many clients.
    #[arg(long)]
    clients: Option<usize>,
    /// At most about so many transactions before the faults are over.
    #[arg(long)]
    transactions: Option<usize>,
    /// At most so many simulated seconds of faults.
    #[arg(long)]
    seconds: Option<u64>,
}

impl Arguments {
    fn narrow(&self) -> anyhow::Result<Narrow> {
        let mut narrow = Narrow::default();
        for name in &self.without {
            let kind: Option<Kind> = KINDS.into_iter().find(|kind| kind.name() == *name);
            narrow.without.insert(kind.ok_or_else(|| anyhow::anyhow!("there is no kind of fault called {name}"))?);
        }
        if let Some(only) = &self.only {
            let numbers = only.iter().filter(|number| *number != "none").map(|number| number.parse());
            narrow.only = Some(numbers.collect::<Result<BTreeSet<u64>, _>>()?);
        }
        narrow.clients_max = self.clients.unwrap_or(narrow.clients_max);
        narrow.transactions_max = self.transactions.unwrap_or(narrow.transactions_max);
        narrow.faults_max = self.seconds.map_or(narrow.faults_max, |seconds| seconds * SECOND);
        Ok(narrow)
    }

    fn jobs(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // What is printed of one seed must not be torn by another.
        if self.trace { 1 } else { self.jobs.unwrap_or(processors) }
    }
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
        Some(name) => planted(name, first, &arguments),
        None => seeds(&arguments, first),
    }
}

/// The moment all simulated clocks are counted from. Only differences to it are ever looked at.
#[allow(clippy::disallowed_methods)]
fn epoch() -> Instant {
    Instant::now()
}

fn options(seed: u64, arguments: &Arguments) -> anyhow::Result<Options> {
    Ok(Options {
        seed,
        trace: arguments.trace,
        epoch: epoch(),
        narrow: arguments.narrow()?,
        #[cfg(feature = "planted")]
        planted: None,
    })
}

fn seeds(arguments: &Arguments, first: u64) -> anyhow::Result<ExitCode> {
    println!("seeds {first} to {}", first.wrapping_add(arguments.seeds.saturating_sub(1)));
    let progress = if arguments.trace { ProgressBar::hidden() } else { progress_bar(arguments.seeds) };
    let options = options(first, arguments)?;
    let mut total = Total::default();
    let mut failed = Vec::new();
    fleet::run(&options, arguments.seeds, arguments.jobs(), |seed, outcome| {
        total.add(&outcome);
        if arguments.hashes {
            progress.suspend(|| println!("seed {seed} trace {:016x} of {} lines", outcome.hash, outcome.lines));
        }
        if !outcome.failures.is_empty() {
            failed.push(seed);
            progress.suspend(|| report(&Options { seed, ..options.clone() }, &outcome));
        }
        progress.set_message(format!(
            "{:.1} simulated h, {} operations, {} failed",
            total.hours(),
            total.operations(),
            failed.len()
        ));
        progress.inc(1);
        true
    });
    progress.finish_and_clear();
    println!("{total}");
    if arguments.shrink {
        failed.iter().for_each(|seed| minimise(Options { seed: *seed, ..options.clone() }));
    }
    println!("seeds {} failures {}", arguments.seeds, failed.len());
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn progress_bar(seeds: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {per_sec}, {msg}, {eta} left")
        .expect("the template is well formed");
    let bar = ProgressBar::new(seeds).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn report(options: &Options, outcome: &Outcome) {
    println!("\nseed {} failed at {} s:", options.seed, dstore_sim::time::seconds(outcome.simulated));
    for failure in &outcome.failures {
        println!("  {failure}");
    }
    let line = again(options);
    println!(
        "  again: {line}    with everything that happens: {line} TRACE=1    the least that fails: {line} SHRINK=1"
    );
}

/// The line that runs a seed again.
fn again(options: &Options) -> String {
    let arguments = options.narrow.arguments();
    let arguments = if arguments.is_empty() { arguments } else { format!(" ARGS=\"{}\"", arguments.trim()) };
    format!("make sim SEED={} SEEDS=1{arguments}", options.seed)
}

/// Looks for the least of a seed that fails, and tells it.
fn minimise(options: Options) {
    let found = shrink(&options, |narrow| run(Options { narrow: narrow.clone(), trace: false, ..options.clone() }));
    println!("\nseed {} shrunk in {} runs:", options.seed, found.runs);
    report(&Options { narrow: found.narrow, ..options }, &found.outcome);
}

#[cfg(not(feature = "planted"))]
fn planted(_: &str, _: u64, _: &Arguments) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build has no planted bugs; build it with --features planted")
}

/// Runs seeds with a bug, or with each in turn, until it is caught.
#[cfg(feature = "planted")]
fn planted(name: &str, first: u64, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    use dstore_node::Planted;

    let all = name == "all";
    let bugs: Vec<Planted> =
        Planted::ALL.into_iter().filter(|bug| all || format!("{bug:?}").eq_ignore_ascii_case(name)).collect();
    anyhow::ensure!(!bugs.is_empty(), "there is no bug {name}; there are {:?}", Planted::ALL);
    println!("seeds from {first}");
    let mut caught = 0;
    for bug in &bugs {
        let options = Options { planted: Some(*bug), ..options(first, arguments)? };
        match fleet::hunt(&options, arguments.seeds, arguments.jobs()) {
            Some((seeds, outcome)) => {
                caught += 1;
                println!("{bug:?}: caught after {seeds} seeds");
                if let Some(failure) = outcome.failures.first() {
                    println!("  {failure}");
                }
                if arguments.shrink {
                    minimise(Options { seed: first.wrapping_add(seeds - 1), ..options });
                }
            }
            None => println!("{bug:?}: not caught by {} seeds", arguments.seeds),
        }
    }
    println!("planted {} caught {caught}", bugs.len());
    Ok(if caught == bugs.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
