//! Looking at a log without opening it: sound logs are told as they are, damaged ones as far as they can be read, and no
//! file is changed by it.

#![allow(clippy::unwrap_used)] // In helpers of tests, too.

use std::collections::BTreeMap;
use std::sync::Arc;

use dstore_storage::log::SEGMENT_BYTES_MIN;
use dstore_storage::log::inspect::{Inspection, inspect, inspect_on};
use dstore_storage::suite::log::Model;
use dstore_storage::suite::sim_disk::SimDisk;
use dstore_storage::suite::{Choices, for_each_seed};
use dstore_storage::{
    Bytes, Entry, HardState, Log, LogIndex, LogOp, Position, RangeId, SegmentLog, SegmentOptions, Term,
};

const R: RangeId = RangeId(1);

fn options(salt: u64) -> SegmentOptions {
    SegmentOptions { segment_bytes: SEGMENT_BYTES_MIN, cache_bytes_max: 1000, ..SegmentOptions::new(salt) }
}

fn open(disk: &SimDisk) -> Result<SegmentLog, dstore_storage::LogError> {
    SegmentLog::open_stepped(Arc::new(disk.clone()), &options(7))
}

fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    disk.names().into_iter().map(|name| (name.clone(), disk.content(&name))).collect()
}

fn segments(disk: &SimDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.ends_with(".log")).collect()
}

/// Entries 1 to 60 of one range in several segments, and a hard state.
fn several_segments() -> SimDisk {
    let disk = SimDisk::new();
    let log = open(&disk).unwrap();
    for index in 1..=60 {
        let payload = Bytes::from(vec![index as u8; 2000]);
        let entries = vec![Entry { index: LogIndex(index), term: Term(1), kind: 3, payload }];
        let state = HardState { term: Term(1), vote: 9, commit: LogIndex(0) };
        let ops = vec![LogOp::SetHardState { range: R, state }, LogOp::Append { range: R, entries }];
        log.submit(ops, Box::new(|result| result.unwrap())).unwrap();
        while log.step() {}
    }
    disk
}

fn said(inspection: &Inspection) -> Vec<String> {
    inspection.findings.iter().map(|finding| format!("{} {}", finding.path.display(), finding.what)).collect()
}

#[test]
fn a_sound_log_is_told_as_it_is_and_not_touched() {
    for_each_seed(50, |seed| {
        let disk = SimDisk::new();
        let log = open(&disk).unwrap();
        let (mut model, mut choices) = (Model::default(), Choices::new(seed));
        for _ in 0..200 {
            let op = model.choose(&mut choices, 2500);
            model.apply(&op);
            log.submit(vec![op], Box::new(|result| result.unwrap())).unwrap();
            while log.step() {}
        }
        let before = files(&disk);
        let inspection = inspect_on(&disk).unwrap();
        assert_eq!(files(&disk), before);
        assert!(inspection.refusal.is_none() && inspection.findings.is_empty(), "{:?}", said(&inspection));
        assert_eq!(inspection.ranges(), log.ranges());
        assert_eq!(Model::of(&inspection).unwrap(), Model::of(&log).unwrap());
        for (range, told) in &inspection.ranges {
            let status = log.status(*range).unwrap();
            assert_eq!((told.begin, told.last_position()), (status.begin, status.last));
            assert_eq!(told.hard_state, status.hard_state);
            let wanted = log.entries(*range, status.first_index(), status.last.index.next(), usize::MAX).unwrap();
            let found: Vec<Entry> =
                told.entries.keys().map(|index| inspection.entry(*range, *index).unwrap()).collect();
            assert_eq!(found, wanted);
            let bytes: usize = wanted.iter().map(|entry| entry.payload.len()).sum();
            assert_eq!(log.payload_bytes_behind(*range, status.begin.index), bytes as u64);
            assert_eq!(log.payload_bytes_behind(*range, status.last.index), 0);
        }
    });
}

#[test]
fn what_is_in_front_of_damage_and_behind_it_is_still_told() {
    let disk = several_segments();
    let names = segments(&disk);
    let mut content = disk.content(&names[1]);
    content[20_000] ^= 1;
    disk.damage(&names[1], content);
    let inspection = inspect_on(&disk).unwrap();
    assert!(inspection.is_damaged());
    let refusal = inspection.refusal.as_ref().unwrap().to_string();
    assert!(refusal.contains(&names[1]), "{refusal}");
    let finding = &inspection.findings[0];
    assert!(finding.path.ends_with(&names[1]) && finding.what.contains("cannot be read"), "{finding:?}");
    assert!((4096..20_000).contains(&finding.offset) && finding.offset > 17_000, "{finding:?}");
    let range = &inspection.ranges[&R];
    assert_eq!(range.last_position(), Position::new(60, 1));
    assert_eq!(range.entries.len(), 59, "one frame is lost, and with it one entry");
    let lost = (1..=60).find(|index| !range.entries.contains_key(&LogIndex(*index))).unwrap();
    assert!(said(&inspection).iter().any(|said| said.contains(&format!("entries {lost} to {lost} of range 1"))));
    let after = inspection.entry(R, LogIndex(lost + 1)).unwrap();
    assert_eq!(after.payload[0], (lost + 1) as u8);
    assert!(inspection.entry(R, LogIndex(lost)).is_err());
}

#[test]
fn a_segment_without_its_header_is_read_by_what_the_next_one_tells() {
    let disk = several_segments();
    let names = segments(&disk);
    let mut content = disk.content(&names[1]);
    content[..4096].fill(0xAA);
    disk.damage(&names[1], content);
    let inspection = inspect_on(&disk).unwrap();
    assert!(inspection.is_damaged() && inspection.refusal.is_some());
    assert_eq!(inspection.ranges[&R].entries.len(), 60, "{:?}", said(&inspection));
    assert_eq!(inspection.entry(R, LogIndex(20)).unwrap().payload[0], 20);
}

#[test]
fn a_file_that_was_cut_short_is_read_up_to_the_cut() {
    let disk = several_segments();
    let newest = segments(&disk).pop().unwrap();
    let whole = inspect_on(&disk).unwrap();
    let end = whole.segments.last().unwrap().end as usize;
    disk.damage(&newest, disk.content(&newest)[..end - 1].to_vec());
    let inspection = inspect_on(&disk).unwrap();
    assert!(inspection.is_damaged() && inspection.refusal.is_some());
    assert_eq!(inspection.ranges[&R].last, LogIndex(59));
}

#[test]
fn a_write_that_a_crash_cut_short_is_no_damage() {
    let disk = several_segments();
    let newest = segments(&disk).pop().unwrap();
    let end = inspect_on(&disk).unwrap().segments.last().unwrap().end as usize;
    let mut content = disk.content(&newest);
    content[end - 8..end].fill(0);
    disk.damage(&newest, content);
    let inspection = inspect_on(&disk).unwrap();
    assert!(!inspection.is_damaged() && inspection.refusal.is_none(), "{:?}", said(&inspection));
    assert!(inspection.findings.iter().all(|finding| finding.is_expected) && inspection.findings.len() == 1);
    assert_eq!(inspection.ranges[&R].last, LogIndex(59));
}

/// It says that a node would not start exactly when one does not, whatever is in the files.
#[test]
fn no_garbage_makes_it_fail_or_contradict_recovery() {
    let sound = several_segments();
    for_each_seed(400, |seed| {
        let disk = sound.fork();
        let choices = &mut Choices::new(seed);
        let names = segments(&disk);
        for _ in 0..1 + choices.below(3) {
            let name = &names[choices.below(names.len() as u64) as usize];
            if !disk.names().contains(name) {
                continue;
            }
            let mut content = disk.content(name);
            let at = |choices: &mut Choices, content: &[u8]| choices.below(content.len().max(1) as u64) as usize;
            match choices.below(6) {
                0 => disk.lose_file(name),
                1 => {
                    content.truncate(at(choices, &content));
                    disk.damage(name, content);
                }
                2 => {
                    content.extend_from_slice(&[0x5A; 5000]);
                    disk.damage(name, content);
                }
                3 => disk.damage(name, (0..choices.below(70_000)).map(|_| choices.any() as u8).collect()),
                4 => disk.damage(name, sound.content(&names[0])),
                _ => {
                    for _ in 0..1 + choices.below(4) {
                        let at = at(choices, &content);
                        if let Some(byte) = content.get_mut(at) {
                            *byte ^= 1 << choices.below(8);
                        }
                    }
                    disk.damage(name, content);
                }
            }
        }
        let before = files(&disk);
        let inspection = inspect_on(&disk).unwrap();
        assert_eq!(files(&disk), before);
        for (range, told) in &inspection.ranges {
            for index in told.entries.keys() {
                inspection.entry(*range, *index).unwrap();
            }
        }
        let found = open(&disk).err().map(|error| error.to_string());
        assert_eq!(inspection.refusal.map(|refusal| refusal.to_string()), found);
    });
}

#[test]
fn a_directory_is_looked_at_and_not_made() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("log");
    assert!(inspect(&path).is_err());
    assert!(!path.exists());
    std::fs::create_dir(&path).unwrap();
    let inspection = inspect(&path).unwrap();
    assert!(inspection.segments.is_empty() && inspection.refusal.is_none());
    std::fs::write(path.join("00000000000000000001.log"), "no log at all").unwrap();
    let inspection = inspect(&path).unwrap();
    assert!(inspection.is_damaged() && inspection.refusal.is_some());
}
