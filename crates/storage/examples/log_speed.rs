//! Measures what the log rests on, in a directory given as the argument (on the disk to be measured):
//!
//! - how long an fdatasync takes when the file grows, when its blocks were only reserved, and when they were written
//!   before, with one writer and with three on the same disk;
//! - how many appends a second the segment log makes durable, with one and three threads, waiting for each append or
//!   keeping many under way.
//!
//! ```text
//! cargo run --release -p dstore-storage --example log_speed -- DIRECTORY
//! ```

#![allow(clippy::print_stdout, clippy::unwrap_used)] // A tool that prints, and may stop at any error.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use dstore_storage::{Bytes, Entry, Log, LogIndex, LogOp, RangeId, SegmentLog, SegmentOptions, Term};

const SYNCS: u64 = 1500;
const WRITE_BYTES: u64 = 512;
const LOG_FOR: Duration = Duration::from_secs(3);

#[derive(Clone, Copy)]
enum Blocks {
    Growing,
    Reserved,
    Written,
}

fn main() {
    let directory = PathBuf::from(std::env::args().nth(1).expect("a directory to measure in")).join("log_speed");
    std::fs::create_dir_all(&directory).unwrap();
    println!("fdatasync after a write of {WRITE_BYTES} bytes, microseconds: mean, median, 99 of 100");
    for writers in [1, 3] {
        for (blocks, name) in
            [(Blocks::Growing, "growing"), (Blocks::Reserved, "fallocate only"), (Blocks::Written, "written before")]
        {
            let mut times = syncs(&directory, blocks, writers);
            times.sort_unstable();
            let mean = times.iter().sum::<u64>() / times.len() as u64;
            let (median, high) = (times[times.len() / 2], times[times.len() * 99 / 100]);
            println!("  {writers} writer(s), {name:15} {mean:6} {median:6} {high:6}");
        }
    }
    println!("segment log, entries of 100 bytes: appends a second, submissions a sync, sync mean in microseconds");
    for (logs, threads, under_way) in
        [(1, 1, 1), (1, 3, 1), (1, 1, 50), (1, 3, 50), (1, 1, 1000), (3, 1, 1), (3, 1, 50)]
    {
        let (rate, shared, sync_us) = appends(&directory, logs, threads, under_way);
        println!(
            "  {logs} log(s), {threads} thread(s) each with {under_way:4} under way: {rate:8} {shared:5} {sync_us:5}"
        );
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

/// How long each sync took, by `writers` threads with a file each.
fn syncs(directory: &Path, blocks: Blocks, writers: usize) -> Vec<u64> {
    let files: Vec<File> =
        (0..writers).map(|writer| prepare(&directory.join(format!("file{writer}")), blocks)).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = files.iter().map(|file| scope.spawn(|| sync_times(file))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn prepare(path: &Path, blocks: Blocks) -> File {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    let bytes = SYNCS * WRITE_BYTES;
    match blocks {
        Blocks::Growing => {}
        Blocks::Reserved => rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap(),
        Blocks::Written => file.write_all_at(&vec![0; bytes as usize], 0).unwrap(),
    }
    file.sync_all().unwrap();
    file
}

fn sync_times(file: &File) -> Vec<u64> {
    let bytes = [7; WRITE_BYTES as usize];
    let once = |number: u64| {
        file.write_all_at(&bytes, number * WRITE_BYTES).unwrap();
        let begun = Instant::now();
        file.sync_data().unwrap();
        begun.elapsed().as_micros() as u64
    };
    (0..SYNCS).map(once).collect()
}

/// Appends a second over all logs; how many submissions shared a sync, and how long one took, in the first log.
fn appends(directory: &Path, logs: usize, threads: u64, under_way: usize) -> (u64, u64, u64) {
    let open = |log: usize| {
        let path = directory.join(format!("log{log}"));
        let log =
            SegmentLog::open(&path, &SegmentOptions { segment_bytes: 16 << 20, ..SegmentOptions::new(1) }).unwrap();
        // The first spare segment must not be made during the measurement.
        while log.stats().segments_spare == 0 {
            std::thread::yield_now();
        }
        Arc::new(log)
    };
    let opened: Vec<_> = (0..logs).map(open).collect();
    let begun = Instant::now();
    let total: u64 = std::thread::scope(|scope| {
        let work = |log: &Arc<SegmentLog>, range: u64| {
            let log = Arc::clone(log);
            scope.spawn(move || append_for(&log, RangeId(range), under_way))
        };
        let workers: Vec<_> =
            opened.iter().flat_map(|log| (1..=threads).map(|range| work(log, range)).collect::<Vec<_>>()).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    let rate = total * 1000 / begun.elapsed().as_millis() as u64;
    let stats = opened[0].stats();
    drop(opened);
    for log in 0..logs {
        std::fs::remove_dir_all(directory.join(format!("log{log}"))).unwrap();
    }
    (rate, stats.submissions_per_sync.mean(), stats.sync_us.mean())
}

/// Keeps `under_way` appends in the log; truncates behind itself, so that segments are used again.
fn append_for(log: &SegmentLog, range: RangeId, under_way: usize) -> u64 {
    let (done, ended) = mpsc::channel();
    let (mut index, mut finished) = (0, 0);
    let payload = Bytes::from(vec![7; 100]);
    let begun = Instant::now();
    while begun.elapsed() < LOG_FOR {
        while index - finished < under_way as u64 {
            index += 1;
            let entries = vec![Entry { index: LogIndex(index), term: Term(1), kind: 0, payload: payload.clone() }];
            let mut ops = vec![LogOp::Append { range, entries }];
            if index % 10_000 == 0 {
                ops.push(LogOp::TruncatePrefix { range, index: LogIndex(index - 5_000) });
            }
            let done = done.clone();
            log.submit(ops, Box::new(move |result| drop(done.send(result)))).unwrap();
        }
        ended.recv().unwrap().unwrap();
        finished += 1;
        while let Ok(result) = ended.try_recv() {
            result.unwrap();
            finished += 1;
        }
    }
    finished
}
