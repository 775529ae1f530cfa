//! The segment log against power losses at every operation, torn and damaged files, and failing disks.

#![allow(clippy::unwrap_used)] // In helpers of tests, too.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use dstore_storage::log::SEGMENT_BYTES_MIN;
use dstore_storage::suite::log::{Model, append, in_records};
use dstore_storage::suite::sim_disk::{Operation, SimDisk};
use dstore_storage::suite::{Choices, for_each_seed};
use dstore_storage::{Bytes, Entry, Log, LogError, LogIndex, LogOp, RangeId, SegmentLog, SegmentOptions, Term};

const R: RangeId = RangeId(1);
/// Where the frames of a segment begin.
const HEADER_BYTES: usize = 4096;

fn options(salt: u64) -> SegmentOptions {
    SegmentOptions { segment_bytes: SEGMENT_BYTES_MIN, cache_bytes_max: 1000, ..SegmentOptions::new(salt) }
}

fn open(disk: &SimDisk) -> Result<SegmentLog, LogError> {
    SegmentLog::open_stepped(Arc::new(disk.clone()), &options(disk.operations() + 1))
}

fn submit(log: &SegmentLog, ops: Vec<LogOp>) {
    log.submit(ops, Box::new(|result| result.unwrap())).unwrap();
}

fn settle(log: &SegmentLog) {
    while log.step() {}
}

/// The states a log went through since it was opened, record by record.
struct History {
    states: Vec<Model>,
    /// The state that was acknowledged last.
    acknowledged: Arc<Mutex<usize>>,
}

impl History {
    fn new(start: Model) -> History {
        History { states: vec![start], acknowledged: Arc::new(Mutex::new(0)) }
    }

    fn now(&self) -> &Model {
        self.states.last().unwrap()
    }

    /// Submits a few random operations. False when the log refuses, because its disk has failed.
    fn submit(&mut self, log: &SegmentLog, choices: &mut Choices) -> bool {
        let mut model = self.now().clone();
        let mut ops = Vec::new();
        for _ in 0..1 + choices.below(3) {
            let op = model.choose(choices, 2500);
            model.apply(&op);
            ops.push(op);
        }
        let records = in_records(&ops);
        let (note, count) = (Arc::clone(&self.acknowledged), self.states.len() - 1 + records.len());
        let done = move |result: Result<(), LogError>| {
            if result.is_ok() {
                *note.lock().unwrap() = count;
            }
        };
        if log.submit(ops, Box::new(done)).is_err() {
            return false;
        }
        for record in records {
            let mut state = self.now().clone();
            state.apply(&record);
            self.states.push(state);
        }
        true
    }

    /// Whether `found` is a state that a crash may leave.
    fn check(&self, found: &Model) -> Result<(), String> {
        let acknowledged = *self.acknowledged.lock().unwrap();
        if self.states[acknowledged..].contains(found) {
            return Ok(());
        }
        let lost = self.states[..acknowledged].iter().rposition(|state| state == found);
        Err(match lost {
            Some(state) => format!("record {acknowledged} was acknowledged, but the log is back at record {state}"),
            None => format!("the log is in none of the states {acknowledged}..{}", self.states.len()),
        })
    }
}

/// Random work on `disk` until its power goes or `submissions` were made.
fn work(disk: &SimDisk, start: Model, choices: &mut Choices, submissions: u64) -> History {
    let mut history = History::new(start);
    let Ok(log) = open(disk) else { return history };
    for _ in 0..submissions {
        if !history.submit(&log, choices) {
            break;
        }
        if choices.one_in(2) {
            log.step();
        }
    }
    settle(&log);
    history
}

/// The power goes at the operation `cut`, comes back, goes again while the log is being opened, and comes back for good.
fn crash_at(cut: u64, seed: u64, syncs_lie: bool) -> Result<(), String> {
    let mut disk = SimDisk::new();
    if syncs_lie {
        disk.let_syncs_lie();
    }
    let mut start = Model::default();
    let choices = &mut Choices::new(seed);
    for round in 0..3 {
        disk.cut_power_after(disk.operations() + cut);
        let history = work(&disk, start, choices, 60);
        disk = disk.lose_power(seed ^ cut ^ round);
        // The power fails once more, early in the recovery: a recovery must not make things worse.
        disk.cut_power_after(choices.below(4));
        drop(open(&disk));
        disk = disk.lose_power(choices.any());
        let log = open(&disk).map_err(|error| format!("round {round}: {error}"))?;
        start = Model::of(&log).map_err(|error| format!("round {round}: {error}"))?;
        history.check(&start).map_err(|error| format!("round {round}: {error}"))?;
    }
    Ok(())
}

#[test]
fn a_power_loss_at_any_operation_loses_nothing_that_was_acknowledged() {
    for_each_seed(5, |seed| {
        let disk = SimDisk::new();
        work(&disk, Model::default(), &mut Choices::new(seed), 60);
        let operations = disk.operations();
        assert!(operations > 100, "the work is too little: {operations} operations");
        for cut in 0..operations {
            crash_at(cut, seed, false).unwrap_or_else(|error| panic!("cut at operation {cut}: {error}"));
        }
    });
}

/// The test above would notice: on a disk whose syncs do nothing it fails.
#[test]
fn a_disk_whose_syncs_lie_is_found_out() {
    let failures = (0..100).filter(|cut| crash_at(*cut, 1, true).is_err()).count();
    assert!(failures > 50, "only {failures} of 100 power losses were noticed");
}

/// A log with several segments, some of them used before, all settled. Returns what it holds.
fn prepare(disk: &SimDisk, seed: u64) -> Model {
    let history = work(disk, Model::default(), &mut Choices::new(seed), 150);
    assert_eq!(*history.acknowledged.lock().unwrap(), history.states.len() - 1);
    history.now().clone()
}

fn segments(disk: &SimDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.ends_with(".log")).collect()
}

fn newest(disk: &SimDisk) -> String {
    segments(disk).pop().unwrap()
}

/// Adds one frame of a few records to a log, and returns where in the newest segment it lies and what was there before.
fn add_frame(disk: &SimDisk) -> (std::ops::Range<usize>, Vec<u8>) {
    let log = open(disk).unwrap();
    let last = log.status(R).map_or(0, |status| status.last.index.0);
    // A segment of its own may begin; so add until one does not.
    loop {
        let name = newest(disk);
        let before = disk.content(&name);
        let term = log.status(R).map_or(1, |status| status.last.term.0);
        let first = log.status(R).map_or(last, |status| status.last.index.0) + 1;
        submit(&log, vec![append(R, first, first + 2, term.max(1))]);
        settle(&log);
        if newest(disk) == name {
            let after = disk.content(&name);
            let changed = |at: &usize| before[*at] != after[*at];
            let first = (0..after.len()).find(changed).unwrap() / 8 * 8;
            let end = ((0..after.len()).rfind(changed).unwrap() + 8) / 8 * 8;
            return (first..end, before);
        }
    }
}

#[test]
fn a_last_frame_torn_at_any_byte_is_dropped_whole() {
    for_each_seed(3, |seed| {
        let disk = SimDisk::new();
        prepare(&disk, seed);
        let (frame, before) = add_frame(&disk);
        let name = newest(&disk);
        let after = disk.content(&name);
        let whole = Model::of(&open(&disk.fork()).unwrap()).unwrap();
        let dropped = {
            let disk = disk.fork();
            disk.damage(&name, before.clone());
            Model::of(&open(&disk).unwrap()).unwrap()
        };
        assert_ne!(whole, dropped);
        for cut in frame.clone() {
            // What was written reached the disk up to the cut, or from the cut on.
            for (head, tail) in [(&after, &before), (&before, &after)] {
                let mut torn = head[..cut].to_vec();
                torn.extend_from_slice(&tail[cut..]);
                let all_there = torn[frame.clone()] == after[frame.clone()];
                let disk = disk.fork();
                disk.damage(&name, torn);
                let log = open(&disk).unwrap_or_else(|error| panic!("torn at {cut} of {frame:?}: {error}"));
                let found = Model::of(&log).unwrap();
                assert!(found == *if all_there { &whole } else { &dropped }, "torn at {cut} of {frame:?}");
                // And it goes on from there: a new frame goes over the torn one.
                let mut history = History::new(found);
                assert!(history.submit(&log, &mut Choices::new(seed)));
                settle(&log);
                drop(log);
                assert_eq!(Model::of(&open(&disk).unwrap()).unwrap(), *history.now());
            }
        }
    });
}

#[test]
fn no_flipped_bit_makes_the_log_return_what_was_not_written() {
    for_each_seed(2, |seed| {
        let disk = SimDisk::new();
        prepare(&disk, seed);
        let (last_frame, before) = add_frame(&disk);
        let name = newest(&disk);
        let whole = Model::of(&open(&disk.fork()).unwrap()).unwrap();
        let shorter = disk.fork();
        shorter.damage(&name, before);
        let shorter = Model::of(&open(&shorter).unwrap()).unwrap();
        let choices = &mut Choices::new(seed);
        let (mut refused, mut dropped, mut unseen) = (0, 0, 0);
        for damaged in segments(&disk) {
            let content = disk.content(&damaged);
            for at in (0..content.len()).filter(|at| at % 41 == 0 || (damaged == name && last_frame.contains(at))) {
                let disk = disk.fork();
                let mut bad = content.clone();
                bad[at] ^= 1 << choices.below(8);
                disk.damage(&damaged, bad);
                match open(&disk).and_then(|log| Model::of(&log)) {
                    Err(LogError::Damaged { path, .. } | LogError::UnknownFormat { path, .. }) => {
                        assert!(path.ends_with(&damaged), "byte {at} of {damaged} was damaged, not {}", path.display());
                        refused += 1;
                    }
                    Err(error) => panic!("byte {at} of {damaged}: {error}"),
                    Ok(found) if found == whole => unseen += 1,
                    Ok(found) => {
                        assert!(damaged == name && last_frame.contains(&at), "byte {at} of {damaged} lost something");
                        assert!(found == shorter, "byte {at} of {damaged}: neither the whole log nor without its tail");
                        dropped += 1;
                    }
                }
            }
        }
        // Every byte of the last frame matters, and so does every byte of the others; only what is behind does not.
        assert_eq!(dropped, last_frame.len());
        assert!(refused > 1000 && unseen > 20, "{refused} refused, {unseen} unseen");
    });
}

#[test]
fn damage_before_the_tail_is_refused_with_file_offset_and_reason() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    for index in 1..=3 {
        submit(&log, vec![append(R, index, index, 1)]);
        settle(&log);
    }
    drop(log);
    let name = newest(&disk);
    let mut content = disk.content(&name);
    content[HEADER_BYTES + 40] ^= 1;
    disk.damage(&name, content);
    assert_eq!(
        open(&disk).unwrap_err().to_string(),
        "log is damaged: /sim/00000000000000000001.log at offset 4096: a frame cannot be read, but one at 4192 was \
         written after it was synced"
    );
}

/// A disk with a log of at least four segments, all of them needed.
fn several_segments(salt: u64) -> SimDisk {
    let disk = SimDisk::new();
    let log = SegmentLog::open_stepped(Arc::new(disk.clone()), &options(salt)).unwrap();
    for index in 1..=60 {
        let payload = Bytes::from(vec![7; 2000]);
        let entries = vec![Entry { index: LogIndex(index), term: Term(1), kind: 0, payload }];
        submit(&log, vec![LogOp::Append { range: R, entries }]);
        settle(&log);
    }
    disk
}

#[test]
fn files_that_are_cut_short_or_missing_are_refused() {
    let disk = several_segments(1);
    let names = segments(&disk);
    assert!(names.len() >= 4, "{names:?}");
    for name in &names {
        for bytes in [0, 100, HEADER_BYTES - 1, HEADER_BYTES, 10_000, SEGMENT_BYTES_MIN as usize - 1] {
            let disk = disk.fork();
            disk.damage(name, disk.content(name)[..bytes].to_vec());
            let error = open(&disk).unwrap_err();
            assert!(matches!(error, LogError::Damaged { .. }), "{name} cut to {bytes} bytes: {error}");
        }
    }
    let missing = |name: &str| {
        let disk = disk.fork();
        disk.lose_file(name);
        open(&disk).unwrap_err().to_string()
    };
    assert!(missing(&names[1]).contains("none between"), "{}", missing(&names[1]));
    assert!(missing(&names[0]).contains("only"), "{}", missing(&names[0]));
    let all_gone = disk.fork();
    names.iter().for_each(|name| all_gone.lose_file(name));
    assert!(open(&all_gone).unwrap_err().to_string().contains("the log itself is gone"));
    // A segment of another log in the place of one's own.
    let other = several_segments(2);
    for name in &names {
        let swapped = disk.fork();
        swapped.damage(name, other.content(name));
        let error = open(&swapped).unwrap_err();
        assert!(error.to_string().contains("does not follow"), "{error}");
    }
}

#[test]
fn a_later_version_is_refused() {
    let disk = SimDisk::new();
    drop(open(&disk).unwrap());
    let name = newest(&disk);
    let mut content = disk.content(&name);
    content[8] = 2;
    disk.damage(&name, content);
    assert_eq!(
        open(&disk).unwrap_err().to_string(),
        "log file /sim/00000000000000000001.log has a format this version does not know: version 2, expected 1"
    );
}

/// Every record has the same length in every life of the files, so the leftovers of an earlier life lie exactly where new
/// records would.
#[test]
fn leftovers_in_a_recycled_segment_are_never_taken_for_new() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    let mut index = 0;
    let mut reused = 0;
    let mut files: Vec<String> = Vec::new();
    for _ in 0..12 {
        for _ in 0..10 {
            index += 1;
            let payload = Bytes::from(vec![index as u8; 2000]);
            let entries = vec![Entry { index: LogIndex(index), term: Term(1), kind: 0, payload }];
            let truncation = LogOp::TruncatePrefix { range: R, index: LogIndex(index.saturating_sub(5)) };
            let ops = if index > 5 {
                vec![LogOp::Append { range: R, entries }, truncation]
            } else {
                vec![LogOp::Append { range: R, entries }]
            };
            submit(&log, ops);
            settle(&log);
            let crashed = disk.lose_power(index);
            let found = open(&crashed).unwrap();
            assert_eq!(found.status(R), log.status(R));
            assert_eq!(Model::of(&found).unwrap(), Model::of(&log).unwrap());
        }
        let now = disk.names();
        reused += usize::from(now.len() == files.len() && now != files);
        files = now;
        assert!(files.len() <= 5, "segments pile up: {files:?}");
    }
    assert!(reused > 3, "no file was used again");
}

/// The power goes when a segment was begun and holds no frame yet. The ranges' states are only in the one before; that no
/// range has an entry there is no reason to let it go.
#[test]
fn a_segment_without_a_head_does_not_let_the_one_before_it_go() {
    let one = |index: u64| {
        let entries =
            vec![Entry { index: LogIndex(index), term: Term(1), kind: 0, payload: Bytes::from(vec![7; 2000]) }];
        vec![LogOp::Append { range: R, entries }, LogOp::TruncatePrefix { range: R, index: LogIndex(index) }]
    };
    let run = |disk: &SimDisk| {
        let Ok(log) = open(disk) else { return };
        for index in 1..=40 {
            if log.submit(one(index), Box::new(|_| {})).is_err() {
                return;
            }
            settle(&log);
        }
    };
    let whole = SimDisk::new();
    run(&whole);
    let mut headless = 0;
    for cut in 0..whole.operations() {
        let disk = SimDisk::new();
        disk.cut_power_after(cut);
        run(&disk);
        let disk = disk.lose_power(cut);
        let log = open(&disk).unwrap();
        let found = Model::of(&log).unwrap();
        let newest = disk.content(&newest(&disk));
        headless += usize::from(segments(&disk).len() > 1 && newest[HEADER_BYTES..].iter().all(|byte| *byte == 0));
        submit(&log, vec![]);
        settle(&log);
        drop(log);
        let log = open(&disk.lose_power(cut)).unwrap_or_else(|error| panic!("cut at operation {cut}: {error}"));
        assert!(Model::of(&log).unwrap() == found, "cut at operation {cut}");
    }
    assert!(headless > 0, "no cut fell between the beginning of a segment and its first frame");
}

#[test]
fn what_a_killed_process_left_in_the_page_cache_is_made_durable_before_it_is_built_on() {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    submit(&log, vec![append(R, 1, 2, 1)]);
    settle(&log);
    // Killed between the write and the sync; or after a sync that failed, which leaves the pages clean.
    log.submit(vec![append(R, 3, 4, 1)], Box::new(|result| assert!(result.is_err()))).unwrap();
    disk.fail(Operation::SyncFile, ErrorKind::Other, 1);
    settle(&log);
    let restarted = disk.fork();
    let found = Model::of(&open(&restarted).unwrap()).unwrap();
    let lost = Model::of(&open(&disk.lose_power(1)).unwrap()).unwrap();
    assert_ne!(found, lost, "the frame was seen and not durable");
    for seed in 0..20 {
        assert_eq!(Model::of(&open(&restarted.lose_power(seed)).unwrap()).unwrap(), found);
    }
}
