//! Reads that wait for the disk, and whom they hold up: 1.5 GB under the budget of 256 MiB, read at random with every cache empty,
//! while another client reads one key that is in memory.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dstore_bench::histogram::Histogram;
use dstore_bench::load::{Load, Verb, key};
use dstore_testkit::client::{Client, Reply, pack};
use dstore_testkit::powerloss::Seeded;
use dstore_testkit::scratch::Scratch;

use crate::{dstore_on, measure};

const VALUE_BYTES: usize = 1000;
const KEYS: usize = 1_500_000;
const BUDGET: &str = "256MiB";
const DURING: Duration = Duration::from_secs(6);

/// SETs that are under way at a time while it fills.
const FILL_PIPELINE: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);

/// The key that is in memory, and how long its reader waits before he reads it again.
const HOT: &[u8] = b"hot";
const PAUSE: Duration = Duration::from_micros(500);

pub(crate) fn run(rounds: usize) -> anyhow::Result<()> {
    let scratch = Scratch::new("bench-cold");
    let (data, flags) = (scratch.directory("dstore"), ["--memory-bytes-max", BUDGET]);
    let server = dstore_on(&data, &scratch, &flags)?;
    fill(server.address())?;
    // What it has in memory, and what its compactions still do, is not to be measured.
    drop(server);
    let server = dstore_on(&data, &scratch, &flags)?;
    println!(
        "one dstore node, budget {BUDGET}, {KEYS} keys with random values of {VALUE_BYTES} bytes, caches dropped\n"
    );
    println!(
        "{:>6}{:>14}{:>10}{:>14}{:>10}{:>10}{:>12}",
        "", "50 clients/s", "CPU us", "hot: p50 ms", "p99", "p99.9", "longest"
    );
    for round in 1..=rounds {
        drop_caches()?;
        let (address, ended) = (server.address(), AtomicBool::new(false));
        let (run, hot) = std::thread::scope(|scope| {
            let hot = scope.spawn(|| read_hot(address, &ended));
            let load = Load { verb: Verb::Get, connections: 50, pipeline: 1, keys: KEYS };
            let run = measure(&load, DURING, &server, round as u64);
            ended.store(true, Ordering::Relaxed);
            (run, hot.join())
        });
        let (run, hot) = (run?, hot.map_err(|_| anyhow::anyhow!("the reader of the hot key panicked"))??);
        println!(
            "{round:>6}{:>14.0}{:>10.1}{:>14.3}{:>10.3}{:>10.3}{:>12.3}",
            run.figures.rate,
            run.cpu_us,
            hot.at(0.5),
            hot.at(0.99),
            hot.at(0.999),
            hot.at(1.0)
        );
    }
    Ok(())
}

/// Values that do not get smaller on the disk.
fn fill(server: SocketAddr) -> anyhow::Result<()> {
    let (mut client, mut random) = (Client::connect(server, PATIENCE)?, Seeded::new(1));
    let mut requests = Vec::new();
    for first in (0..KEYS).step_by(FILL_PIPELINE) {
        requests.clear();
        let keys = first..KEYS.min(first + FILL_PIPELINE);
        for number in keys.clone() {
            let value: Vec<u8> =
                std::iter::repeat_with(|| random.next_u64().to_le_bytes()).flatten().take(VALUE_BYTES).collect();
            pack(&mut requests, &[b"SET", key(number).as_bytes(), &value]);
        }
        client.send(&requests)?;
        for _ in keys {
            let reply = client.receive()?;
            ensure!(reply == Reply::Simple("OK".to_owned()), "SET was answered with {reply:?}");
        }
    }
    client.call(&[b"SET", HOT, b"1"])?;
    Ok(())
}

/// Reads the key again and again, and tells how long it took.
fn read_hot(server: SocketAddr, ended: &AtomicBool) -> anyhow::Result<Histogram> {
    let (mut client, mut latencies) = (Client::connect(server, PATIENCE)?, Histogram::default());
    while !ended.load(Ordering::Relaxed) {
        let begun = Instant::now();
        client.call(&[b"GET", HOT])?;
        latencies.add(begun.elapsed(), 1);
        std::thread::sleep(PAUSE); // so that it is no load
    }
    Ok(latencies)
}

/// The kernel forgets what it has of files.
fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("caches are dropped as root only: /proc/sys/vm/drop_caches")
}
