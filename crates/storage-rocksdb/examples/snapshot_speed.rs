//! How fast a snapshot is exported and installed, and what the writers of the installing node feel of it.
//!
//! `cargo run --release -p dstore-storage-rocksdb --example snapshot_speed -- DIRECTORY [MIB]`
//!
//! Values of 1 KiB, half of which compress to half. "Into old data" means that the installing engine held as much in the same
//! span before. Writers: one thread that writes a small batch beside the span every millisecond, as a busy loop would.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A tool for developers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dstore_storage::snapshot::{CHUNK_BYTES, Export, Install, Spans, checksum};
use dstore_storage::{Bytes, Engine, EngineError, WriteOp};
use dstore_storage_rocksdb::{RocksEngine, RocksOptions};

const VALUE_BYTES: usize = 1024;

fn spans() -> Spans {
    Spans::new(vec![Bytes::from("d")..Bytes::from("e"), Bytes::from("u")..Bytes::from("v")]).unwrap()
}

fn value(state: &mut u64) -> Bytes {
    let mut out = Vec::with_capacity(VALUE_BYTES);
    while out.len() < VALUE_BYTES {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let word = if out.len() < VALUE_BYTES / 2 { 0 } else { *state >> 8 };
        out.extend_from_slice(&word.to_le_bytes());
    }
    Bytes::from(out)
}

fn fill(engine: &RocksEngine, mib: u64, seed: u64) {
    let mut state = seed;
    for batch in 0..mib {
        let ops: Vec<WriteOp> = (0..1024_u64)
            .map(|item| {
                // Spread, so that compaction has work and the export reads a real tree.
                let key = (batch * 1024 + item).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                WriteOp::Put { key: Bytes::from(format!("u{key:016x}")), value: value(&mut state) }
            })
            .collect();
        while let Err(error) = engine.write(&ops) {
            assert!(matches!(error, EngineError::Busy(_)), "{error}");
            std::thread::yield_now();
        }
    }
    engine.flush().unwrap();
}

fn rate(bytes: u64, took: Duration) -> String {
    format!("{:.0} MB/s ({:.2} s)", bytes as f64 / 1e6 / took.as_secs_f64(), took.as_secs_f64())
}

/// Writes beside the span until `stop`; the times that the writes took, sorted, and how many were refused.
fn writer(engine: &RocksEngine, stop: &AtomicBool) -> (Vec<Duration>, u64) {
    let (mut times, mut refused) = (Vec::new(), 0);
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        next += Duration::from_millis(1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let key = Bytes::from(format!("a{:08}", times.len()));
        let began = Instant::now();
        let result = engine.write(&[WriteOp::Put { key, value: Bytes::from_static(&[7; 100]) }]);
        times.push(began.elapsed());
        refused += u64::from(result.is_err());
    }
    times.sort();
    (times, refused)
}

fn install(from: &RocksEngine, to: &RocksEngine, name: &str) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| writer(to, &stop));
        let mut export = Export::begin(from, 1, spans());
        let mut install = Install::begin(to, 1, spans()).unwrap();
        let (mut exporting, mut taking) = (Duration::ZERO, Duration::ZERO);
        loop {
            let began = Instant::now();
            let Some(chunk) = export.next_chunk().unwrap() else { break };
            exporting += began.elapsed();
            let began = Instant::now();
            install.add(&chunk).unwrap();
            taking += began.elapsed();
        }
        let began = Instant::now();
        let applied = WriteOp::Put { key: Bytes::from("d-applied"), value: Bytes::from("1") };
        let sum = install.finish(&[applied]).unwrap();
        let finishing = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        let (times, refused) = writing.join().unwrap();
        println!("{name}: {} records, {} MB", sum.records, sum.bytes / 1_000_000);
        println!("  export                {}", rate(sum.bytes, exporting));
        println!("  install, taking       {}", rate(sum.bytes, taking));
        println!("  install, finish       {:.0} ms", finishing.as_secs_f64() * 1e3);
        println!("  install, all of it    {}", rate(sum.bytes, taking + finishing));
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        let (half, most, worst) = (at(0.5), at(0.99), at(1.0));
        println!("  writes beside it      {} of which {refused} refused", times.len());
        println!("                        median {half:.3} ms, 99 of 100 {most:.3} ms, longest {worst:.1} ms");
    });
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("a directory");
    let mib: u64 = arguments.next().map_or(1024, |text| text.parse().unwrap());
    let open = |name: &str| RocksEngine::open(&Path::new(&directory).join(name), &RocksOptions::default()).unwrap();
    let (from, empty, dirty) = (open("from"), open("empty"), open("dirty"));
    fill(&from, mib, 1);
    install(&from, &empty, "into nothing");
    println!("  compressed            {} MB on disk", empty.stats().disk_bytes / 1_000_000);
    fill(&dirty, mib, 2);
    install(&from, &dirty, "into old data");

    let began = Instant::now();
    let sum = checksum(&from, &spans()).unwrap();
    println!("checksum                {}", rate(sum.bytes, began.elapsed()));
    println!("bytes in a chunk        {CHUNK_BYTES}");
}
