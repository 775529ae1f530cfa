//! The segment log beside failures, bounds, other threads: what its callers see of them.

#![allow(clippy::unwrap_used)] // In helpers of tests, too.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use dstore_storage::log::SEGMENT_BYTES_MIN;
use dstore_storage::suite::log::{append, entry};
use dstore_storage::suite::sim_disk::{Operation, SimDisk};
use dstore_storage::{
    Bytes, Entry, HardState, Log, LogError, LogIndex, LogOp, RangeId, SegmentLog, SegmentOptions, Term,
};
use tempfile::TempDir;

const R: RangeId = RangeId(1);

fn options() -> SegmentOptions {
    SegmentOptions { segment_bytes: SEGMENT_BYTES_MIN, cache_bytes_max: 2000, ..SegmentOptions::new(3) }
}

fn stepped(disk: &SimDisk) -> SegmentLog {
    SegmentLog::open_stepped(Arc::new(disk.clone()), &options()).unwrap()
}

type Results = mpsc::Receiver<Result<(), LogError>>;

/// Submits, and returns where the result will come.
fn submit(log: &SegmentLog, ops: Vec<LogOp>) -> Results {
    let (done, result) = mpsc::channel();
    // Who does not care for the result drops the receiver.
    log.submit(ops, Box::new(move |outcome| drop(done.send(outcome)))).unwrap();
    result
}

fn large(range: RangeId, index: u64, bytes: usize) -> LogOp {
    let payload = Bytes::from(vec![index as u8; bytes]);
    LogOp::Append { range, entries: vec![Entry { index: LogIndex(index), term: Term(1), kind: 0, payload }] }
}

/// Fails `operation`, and checks that the log tells `first` for what it was writing, and refuses everything after.
fn fails_for_good(operation: Operation, kind: ErrorKind, first: &str) {
    let disk = SimDisk::new();
    let log = stepped(&disk);
    let good = submit(&log, vec![append(R, 1, 1, 1)]);
    assert!(log.step());
    good.recv().unwrap().unwrap();
    disk.fail(operation, kind, 1);
    let failed = [submit(&log, vec![append(R, 2, 2, 1)]), submit(&log, vec![append(R, 3, 3, 1)])];
    assert!(log.step());
    let operations = disk.operations();
    for result in failed {
        assert_eq!(result.recv().unwrap().unwrap_err().to_string(), first);
    }
    // The disk is well again; the log is not.
    for _ in 0..2 {
        let refused = log.submit(vec![append(R, 4, 4, 1)], Box::new(|_| panic!("refused"))).unwrap_err();
        assert_eq!(refused.to_string(), format!("log stopped at an earlier failure: {first}"));
        assert!(!log.step());
    }
    assert_eq!(disk.operations(), operations, "nothing is tried again");
    assert_eq!(log.stats().failed.as_deref(), Some(first));
    let read = log.entries(R, LogIndex(1), LogIndex(4), usize::MAX).unwrap();
    assert_eq!(read.len(), 3, "what was submitted can still be read");
}

#[test]
fn a_failed_sync_stops_the_log() {
    let told = "log I/O failed: fdatasync /sim/00000000000000000001.log: other error";
    fails_for_good(Operation::SyncFile, ErrorKind::Other, told);
}

#[test]
fn a_failed_write_stops_the_log() {
    let told = "log I/O failed: write /sim/00000000000000000001.log: other error";
    fails_for_good(Operation::Write, ErrorKind::Other, told);
}

#[test]
fn a_full_disk_is_told_as_such() {
    let told = "no space left for the log: write /sim/00000000000000000001.log: no storage space";
    fails_for_good(Operation::Write, ErrorKind::StorageFull, told);
}

/// Fills segments until something comes of it.
fn fill(log: &SegmentLog, from: u64, count: u64) -> Result<(), LogError> {
    for index in from..from + count {
        let result = submit(log, vec![large(R, index, 3000)]);
        log.step();
        result.recv().unwrap()?;
    }
    Ok(())
}

#[test]
fn a_segment_that_cannot_be_prepared_is_told_before_it_is_needed_and_stops_the_log_when_it_is() {
    let disk = SimDisk::new();
    let log = stepped(&disk);
    // A segment takes nine of these. The first spare is there; the second cannot be made.
    fill(&log, 1, 9).unwrap();
    assert_eq!(log.stats().segments_spare, 1);
    disk.fail(Operation::Create, ErrorKind::StorageFull, u64::MAX);
    fill(&log, 10, 9).unwrap();
    let told = "no space left for the log: allocate /sim/spare-2.making: no storage space";
    assert_eq!(log.stats().prepare_error.as_deref(), Some(told), "told while the log still takes entries");
    assert_eq!((log.stats().segments, log.stats().segments_spare, log.stats().failed), (2, 0, None));
    let error = fill(&log, 19, 1).unwrap_err();
    assert!(matches!(error, LogError::Full { .. }), "{error}");
    assert!(matches!(log.submit(vec![], Box::new(|_| {})), Err(LogError::Failed(_))));
}

#[test]
fn a_preparation_that_failed_is_tried_again_when_the_segment_is_needed() {
    let disk = SimDisk::new();
    let log = stepped(&disk);
    fill(&log, 1, 9).unwrap();
    disk.fail(Operation::Create, ErrorKind::StorageFull, 1);
    fill(&log, 10, 9).unwrap();
    assert!(log.stats().prepare_error.is_some());
    fill(&log, 19, 9).unwrap();
    assert_eq!(log.stats().prepare_error, None);
}

#[test]
fn a_retirement_that_failed_leaves_the_segments_without_a_gap() {
    for operation in [Operation::Rename, Operation::SyncNames, Operation::Remove] {
        let disk = SimDisk::new();
        let log = stepped(&disk);
        let mut index = 1;
        for round in 0..6 {
            fill(&log, index, 18).unwrap();
            index += 18;
            let truncated = submit(&log, vec![LogOp::TruncatePrefix { range: R, index: LogIndex(index - 1) }]);
            if round == 2 {
                disk.fail(operation, ErrorKind::Other, 1);
            }
            log.step();
            truncated.recv().unwrap().unwrap();
        }
        drop(log);
        let log = stepped(&disk.lose_power(1));
        assert_eq!(log.status(R).unwrap().begin.index, LogIndex(index - 1), "{operation:?}");
    }
}

#[test]
fn segments_are_used_again_and_their_number_stays_bounded() {
    let disk = SimDisk::new();
    let log = stepped(&disk);
    for index in (1..2000).step_by(18) {
        fill(&log, index, 18).unwrap();
        submit(&log, vec![LogOp::TruncatePrefix { range: R, index: LogIndex(index + 17) }]);
        log.step();
        assert!(disk.names().len() <= 5, "{:?}", disk.names());
    }
    let made = (1..).take_while(|number| !disk.names().contains(&format!("{number:020}.log"))).count();
    assert!(made > 150, "the segments of {made} lives went by");
}

#[test]
fn a_range_that_is_not_truncated_is_named() {
    let disk = SimDisk::new();
    let log = stepped(&disk);
    submit(&log, vec![append(RangeId(7), 1, 1, 1)]);
    for index in (1..200).step_by(18) {
        fill(&log, index, 18).unwrap();
        submit(&log, vec![LogOp::TruncatePrefix { range: R, index: LogIndex(index + 17) }]);
        log.step();
    }
    fill(&log, 200 / 18 * 18 + 19, 18).unwrap();
    let stats = log.stats();
    let (range, held) = stats.pinned_by.unwrap();
    assert_eq!(range, RangeId(7));
    assert!(held >= 20 && held < stats.segments, "{held} of {} segments", stats.segments);
    // It wakes up, and they all go.
    submit(&log, vec![LogOp::TruncatePrefix { range: RangeId(7), index: LogIndex(1) }]);
    log.step();
    assert!(log.stats().segments <= 3, "{:?}", log.stats());
    assert_ne!(log.stats().pinned_by.map(|(range, _)| range), Some(RangeId(7)));
}

#[test]
fn what_comes_during_a_sync_shares_the_next() {
    let log = stepped(&SimDisk::new());
    let results: Vec<_> = (1..=100).map(|index| submit(&log, vec![append(R, index, index, 1)])).collect();
    assert!(log.step() && !log.step(), "one frame takes them all");
    for result in results {
        result.recv().unwrap().unwrap();
    }
    let stats = log.stats();
    assert_eq!((stats.sync_us.count, stats.submissions_per_sync.max, stats.records_total), (1, 100, 100));
    assert_eq!(stats.bytes_per_sync.sum, stats.bytes_total);
}

/// With threads: the completion of the first submission holds the writer as a slow sync would.
#[test]
fn the_writer_thread_gathers_what_waits() {
    let place = TempDir::new().unwrap();
    let log = SegmentLog::open(place.path(), &SegmentOptions { segment_bytes: 1 << 20, ..options() }).unwrap();
    let (release, held) = mpsc::channel::<()>();
    let (reached, writing) = mpsc::channel();
    let hold = move |result: Result<(), LogError>| {
        result.unwrap();
        reached.send(()).unwrap();
        held.recv().unwrap();
    };
    log.submit(vec![append(R, 1, 1, 1)], Box::new(hold)).unwrap();
    writing.recv().unwrap();
    let results: Vec<_> = (2..=100).map(|index| submit(&log, vec![append(R, index, index, 1)])).collect();
    release.send(()).unwrap();
    for result in results {
        result.recv().unwrap().unwrap();
    }
    let stats = log.stats();
    assert_eq!((stats.sync_us.count, stats.submissions_per_sync.max), (2, 99));
}

#[test]
fn dropping_the_log_makes_everything_durable_first() {
    let place = TempDir::new().unwrap();
    let called = Arc::new(AtomicU64::new(0));
    let log = SegmentLog::open(place.path(), &options()).unwrap();
    assert!(log.created());
    for index in 1..=300 {
        let called = Arc::clone(&called);
        let done = move |result: Result<(), LogError>| {
            result.unwrap();
            called.fetch_add(1, Ordering::Relaxed);
        };
        log.submit(vec![large(R, index, 500)], Box::new(done)).unwrap();
    }
    drop(log);
    assert_eq!(called.load(Ordering::Relaxed), 300);
    let log = SegmentLog::open(place.path(), &options()).unwrap();
    assert!(!log.created());
    assert_eq!(log.status(R).unwrap().last.index, LogIndex(300));
}

/// The last owner may be a completion, on the log's own thread: that must neither hang nor crash.
#[test]
fn a_completion_may_be_the_last_to_own_the_log() {
    let place = TempDir::new().unwrap();
    let log = Arc::new(SegmentLog::open(place.path(), &options()).unwrap());
    let (release, held) = mpsc::channel::<()>();
    let (ended, end) = mpsc::channel();
    let owned = Arc::clone(&log);
    let done = move |result: Result<(), LogError>| {
        result.unwrap();
        held.recv().unwrap();
        drop(owned);
    };
    log.submit(vec![append(R, 1, 1, 1)], Box::new(done)).unwrap();
    // Enough to need new segments after the keeper was told to stop.
    for index in 2..=60 {
        let ended = ended.clone();
        let done = move |result: Result<(), LogError>| ended.send(result).unwrap();
        log.submit(vec![large(R, index, 3000)], Box::new(done)).unwrap();
    }
    drop(log);
    release.send(()).unwrap();
    for _ in 2..=60 {
        end.recv().unwrap().unwrap();
    }
}

#[test]
fn too_much_waiting_is_refused_as_busy_and_taken_later() {
    let disk = SimDisk::new();
    let options = SegmentOptions { backlog_bytes_max: 10_000, ..options() };
    let log = SegmentLog::open_stepped(Arc::new(disk), &options).unwrap();
    let mut taken = 0;
    let busy = loop {
        match log.submit(vec![large(R, taken + 1, 1000)], Box::new(|result| result.unwrap())) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(busy, LogError::Busy { backlog_bytes: 10_000.. }), "{busy}");
    assert_eq!(taken, 10);
    assert_eq!(log.stats().backlog_bytes, 10 * (1000 + 40));
    log.step();
    assert_eq!(log.stats().backlog_bytes, 0);
    submit(&log, vec![large(R, 11, 1000)]);
}

#[test]
fn the_largest_payload_fits_a_segment_beside_the_largest_head() {
    let disk = SimDisk::new();
    let log = stepped(&disk);
    let mut ranges = 0;
    // As many ranges as the head has room for.
    while log.submit(vec![append(RangeId(ranges + 100), 1, 1, 1)], Box::new(|result| result.unwrap())).is_ok() {
        ranges += 1;
    }
    assert_eq!(ranges, u64::from(SEGMENT_BYTES_MIN) / 4 / 72);
    let last = RangeId(100);
    for index in 2..12 {
        let done = submit(&log, vec![large(last, index, log.payload_bytes_max())]);
        while log.step() {}
        done.recv().unwrap().unwrap();
    }
    let error = log.submit(vec![large(last, 12, log.payload_bytes_max() + 1)], Box::new(|_| {})).unwrap_err();
    assert!(matches!(error, LogError::EntryTooLarge { .. }), "{error}");
    drop(log);
    let log = stepped(&disk);
    assert_eq!((log.ranges().len() as u64, log.status(last).unwrap().last.index), (ranges, LogIndex(11)));
    assert_eq!(log.entries(last, LogIndex(11), LogIndex(12), 0).unwrap()[0].payload.len(), log.payload_bytes_max());
}

/// Recovery has a megabyte of a segment in memory, or one frame.
#[test]
fn frames_across_pieces_and_larger_ones_are_recovered_and_damage_to_them_is_found() {
    let options = SegmentOptions { segment_bytes: 8 << 20, ..options() };
    let open = |disk: &SimDisk| SegmentLog::open_stepped(Arc::new(disk.clone()), &options);
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    let sizes = [700_000, 700_000, 10, 2_500_000, 300_000, 1 << 20, 20];
    let mut middles = Vec::new();
    let mut at = 4096;
    for (index, bytes) in (1..).zip(sizes) {
        let done = submit(&log, vec![large(R, index, bytes)]);
        while log.step() {}
        done.recv().unwrap().unwrap();
        middles.push(at + 72 + bytes / 2);
        at += 72 + bytes; // headers of frame and record, at least
    }
    drop(log);
    let log = open(&disk).unwrap();
    let found = log.entries(R, LogIndex(1), LogIndex(8), usize::MAX).unwrap();
    assert_eq!(found.len(), sizes.len());
    for (entry, bytes) in found.iter().zip(sizes) {
        assert!(entry.payload == vec![entry.index.0 as u8; bytes], "entry {}", entry.index.0);
    }
    drop(log);
    let name = "00000000000000000001.log";
    for (index, middle) in (1..).zip(middles) {
        let (disk, mut content) = (disk.fork(), disk.content(name));
        content[middle] ^= 1;
        disk.damage(name, content);
        match open(&disk) {
            Ok(log) => assert_eq!((index, log.status(R).unwrap().last.index), (7, LogIndex(6))),
            Err(error) => {
                assert!(index < 7, "{error}");
                assert!(error.to_string().contains("was written after it was synced"), "entry {index}: {error}");
            }
        }
    }
}

#[test]
fn the_cache_keeps_its_bound_and_old_entries_come_from_the_disk() {
    let disk = SimDisk::new();
    let log = stepped(&disk);
    fill(&log, 1, 50).unwrap();
    assert!(log.stats().cache_bytes <= 2000, "{:?}", log.stats());
    for read in log.entries(R, LogIndex(1), LogIndex(51), usize::MAX).unwrap() {
        assert_eq!(read.payload, vec![read.index.0 as u8; 3000]);
    }
    disk.fail(Operation::Read, ErrorKind::Other, 1);
    // The cache holds none: without the disk there is nothing to tell.
    for lo in 1..51 {
        assert_eq!(log.entries_in_memory(R, LogIndex(lo), LogIndex(51), usize::MAX).unwrap(), []);
    }
    let error = log.entries(R, LogIndex(1), LogIndex(2), usize::MAX).unwrap_err();
    assert_eq!(error.to_string(), "log I/O failed: read /sim/00000000000000000001.log: other error");
    let name = "00000000000000000001.log";
    let mut content = disk.content(name);
    content[5000] ^= 1;
    disk.damage(name, content);
    let error = log.entries(R, LogIndex(1), LogIndex(2), usize::MAX).unwrap_err();
    let told = "log is damaged: /sim/00000000000000000001.log at offset 4128: entry 1 of range 1 should be there, but \
                what is there cannot be read";
    assert_eq!(error.to_string(), told);
}

#[test]
fn entries_are_told_from_memory_as_far_as_they_are_there() {
    let disk = SimDisk::new();
    let options = SegmentOptions { cache_bytes_max: 20_000, ..options() };
    let log = SegmentLog::open_stepped(Arc::new(disk), &options).unwrap();
    fill(&log, 1, 10).unwrap();
    let told = |lo, hi, bytes| -> Vec<u64> {
        let found = log.entries_in_memory(R, LogIndex(lo), LogIndex(hi), bytes).unwrap();
        found.iter().map(|entry| entry.index.0).collect()
    };
    assert_eq!(told(5, 11, usize::MAX), [5, 6, 7, 8, 9, 10]);
    assert_eq!(told(5, 11, 7000), [5, 6]);
    assert_eq!(told(1, 11, usize::MAX), [0; 0]);
    assert!(matches!(log.entries_in_memory(R, LogIndex(0), LogIndex(3), 1), Err(LogError::Compacted { .. })));
    assert!(matches!(log.entries_in_memory(R, LogIndex(9), LogIndex(12), 1), Err(LogError::Unavailable { .. })));
}

#[test]
fn a_hard_state_outlives_the_segments_it_was_written_in() {
    let disk = SimDisk::new();
    let log = stepped(&disk);
    let state = HardState { term: Term(9), vote: 3, commit: LogIndex(0) };
    submit(&log, vec![LogOp::SetHardState { range: RangeId(5), state }]);
    for index in (1..500).step_by(18) {
        fill(&log, index, 18).unwrap();
        submit(&log, vec![LogOp::TruncatePrefix { range: R, index: LogIndex(index + 17) }]);
        log.step();
    }
    assert!(!disk.names().contains(&format!("{:020}.log", 1)));
    drop(log);
    assert_eq!(stepped(&disk.lose_power(0)).status(RangeId(5)).unwrap().hard_state, state);
}

/// Tells readers to stop, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads all of the range until told to stop. Returns how many entries it got.
fn read_until(log: &SegmentLog, stop: &AtomicBool) -> u64 {
    let mut read = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(status) = log.status(R) else { continue };
        match log.entries(R, status.first_index(), status.last.index.next(), usize::MAX) {
            Ok(entries) => {
                for found in entries {
                    assert_eq!(found, entry(found.index.0, 1));
                    read += 1;
                }
            }
            Err(LogError::Compacted { .. } | LogError::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    read
}

/// Readers on other threads, in segments that are being truncated and used again under them: each entry they get is the
/// one they asked for.
#[test]
fn readers_never_see_what_a_segment_holds_after_it_was_used_again() {
    let place = TempDir::new().unwrap();
    let log = SegmentLog::open(place.path(), &SegmentOptions { cache_bytes_max: 0, ..options() }).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| read_until(&log, &stop))).collect();
        let stopping = Stop(&stop);
        for index in 1..=3000 {
            let done = submit(&log, vec![append(R, index, index, 1)]);
            if index % 40 == 0 {
                submit(&log, vec![LogOp::TruncatePrefix { range: R, index: LogIndex(index - 20) }]);
                done.recv().unwrap().unwrap();
            }
        }
        drop(stopping);
        for reader in readers {
            assert!(reader.join().unwrap() > 0, "nothing was read");
        }
    });
}
