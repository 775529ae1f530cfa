//! A minute of chaos, the same without a network of its own, and proof that the judge would have noticed.
//!
//! `DSTORE_SEED=n` repeats the faults of a run; `CHAOS_SECONDS=n` makes the minute longer. On demand there is `make chaos`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests fail by panicking, as tests do

use std::sync::atomic::AtomicBool;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dstore_chaos::report::Report;
use dstore_chaos::run::{Options, run};
use dstore_testkit::process::alone;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn seed() -> u64 {
    let fresh = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    let seed = number("DSTORE_SEED", fresh);
    println!("seed {seed} (repeat with DSTORE_SEED={seed})");
    seed
}

fn made(options: &Options) -> Report {
    let report = run(options, &AtomicBool::new(false)).unwrap();
    println!("{report}");
    report
}

#[test]
fn nothing_is_lost_and_nothing_is_stale_in_a_minute_of_chaos() {
    let _alone = alone();
    let length = Duration::from_secs(number("CHAOS_SECONDS", 60));
    let report = made(&Options::new(seed(), length));
    assert!(report.is_clean(), "{report}");
    assert!(report.verdict.acknowledged > 0, "no write was acknowledged: nothing was tested");
    assert!(report.faults.values().sum::<u64>() > 0, "no fault happened");
}

#[test]
fn without_namespaces_it_makes_do_with_kills_and_pauses_on_loopback() {
    let _alone = alone();
    let mut options = Options::new(seed(), Duration::from_secs(10));
    options.loopback = true;
    let report = made(&options);
    assert!(report.is_clean(), "{report}");
    assert!(report.verdict.acknowledged > 0, "no write was acknowledged: nothing was tested");
}

#[test]
fn writes_that_are_lost_for_a_disk_that_lies_are_found() {
    let _alone = alone();
    let mut options = Options::new(seed(), Duration::from_secs(8));
    options.lie = true;
    let report = made(&options);
    assert!(report.verdict.lost > 0, "the power of all nodes was cut, nothing was synced, and nobody missed anything");
}
