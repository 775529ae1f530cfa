//! The network framework beside its peers, in one run, in alternating rounds.
//!
//! ```text
//! bench-net              everything
//! bench-net echo [NAME]  echo: CPU time of the server per message (one scenario: c50, c1000, c50-pipeline16)
//! bench-net timers       timers: time per operation with a million live
//! ```
//!
//! Each server is a process of its own on CPU 0 (this program, started with `serve KIND`); the load comes from CPU 1. What is
//! compared is the server's CPU time per message as the kernel accounts it, which does not depend on how hard the load
//! generator can push. In each round every server gets the same load once, in turn; a ratio is the median over the rounds
//! of peer / ours. The closing lines are `ratio NAME VALUE`, higher is better for us.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod echo;
mod load;
mod servers;
mod timers;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", kind] => servers::serve(kind),
        [] => {
            let mut ratios = echo::run(None);
            ratios.extend(timers::run());
            close(&ratios)
        }
        ["echo"] => close(&echo::run(None)),
        ["echo", name] => close(&echo::run(Some(name))),
        ["timers"] => close(&timers::run()),
        _ => {
            eprintln!("usage: bench-net [echo [NAME] | timers]");
            ExitCode::FAILURE
        }
    }
}

fn close(ratios: &[(String, f64)]) -> ExitCode {
    println!();
    for (name, value) in ratios {
        println!("ratio {name} {value:.2}");
    }
    ExitCode::SUCCESS
}

/// The middle value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Lets the calling thread run anywhere again.
fn unpin() {
    let mut set = rustix::thread::CpuSet::new();
    (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu));
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        eprintln!("still pinned: {error}");
    }
}

/// Keeps the calling thread on one CPU, where there is more than one.
fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        eprintln!("not pinned to CPU {cpu}: {error}");
    }
}
