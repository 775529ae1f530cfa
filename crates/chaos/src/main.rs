//! `dstore-chaos`: a run of real processes under real faults, and its verdict.
//!
//! The last line is `chaos M min: operations N checked, violations 0, acknowledged writes lost 0, faults: ...`. The exit code
//! is 1 if anything was wrong, 2 if there is no verdict.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use dstore_chaos::run::{Options, run};

/// Runs real nodes under real faults, and judges everything that their clients saw.
#[derive(Parser)]
#[command(name = "dstore-chaos", version)]
struct Arguments {
    /// How long faults go on, in minutes.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Draws the faults; a fresh one if none is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Clients.
    #[arg(long)]
    clients: Option<usize>,
    /// Milliseconds that each client waits between requests.
    #[arg(long)]
    pace_ms: Option<u64>,
    /// On loopback with kills and pauses alone, as where namespaces are not permitted.
    #[arg(long, env = "CHAOS_LOOPBACK", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::SetTrue)]
    loopback: bool,
    /// Look at a Redis primary with a replica instead. What it loses is counted, and is no failure.
    #[arg(long)]
    redis: bool,
    /// Let fdatasync lie, and cut the power of all nodes: succeeds if the judge finds writes that are lost.
    #[arg(long)]
    lie: bool,
    /// Another build of dstore: every other start of a node is of it, so that two versions run side by side and go on with each
    /// other's data.
    #[arg(long, value_name = "PROGRAM")]
    other: Option<PathBuf>,
}

fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 % 1_000_000_000
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "it is what the program is for")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let length = Duration::from_secs_f64(arguments.minutes.max(0.0) * 60.0);
    let mut options = Options::new(arguments.seed.unwrap_or_else(fresh_seed), length);
    options.clients = arguments.clients.unwrap_or(options.clients);
    options.pace = arguments.pace_ms.map_or(options.pace, Duration::from_millis);
    (options.loopback, options.lie, options.other) = (arguments.loopback, arguments.lie, arguments.other);
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, interrupted.clone()) {
            eprintln!("dstore-chaos: {error}");
            return ExitCode::from(2);
        }
    }
    let outcome =
        if arguments.redis { dstore_chaos::redis::run(&options, &interrupted) } else { run(&options, &interrupted) };
    match outcome {
        Ok(report) => {
            println!("{report}");
            let is_as_it_should_be = if arguments.lie { report.verdict.lost > 0 } else { report.is_clean() };
            if is_as_it_should_be || arguments.redis { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("dstore-chaos: {error:#}; seed {}", options.seed);
            ExitCode::from(2)
        }
    }
}
