//! One file's bytes: what is on disk for certain, and what was written since.
//!
//! A file is a base, which is durable, and the changes made to it since, in order. A sync makes the changes before it
//! durable; the base absorbs durable changes from the front. A crash keeps every durable change and does with each of
//! the others what the [`Style`] and the choices say.
//!
//! After a *failed* sync the kernel calls the pages clean although they never reached the disk, and a later sync that
//! succeeds says nothing about them (the "fsyncgate" of 2018). Such changes are *doomed*: no later sync saves them.

use super::choose::Choose;

/// The unit that a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// What a crash does with changes that were never synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// All are lost.
    Worst,
    /// All had reached the disk by chance.
    Best,
    /// In each file the first few had reached it, and the next one in part.
    InOrder,
    /// Each for itself is kept, lost or torn, at a byte or by sectors: a file system writes pages back in any order.
    Scattered,
}

impl Style {
    /// All of them, from mild to wild.
    pub const ALL: [Style; 4] = [Style::Best, Style::Worst, Style::InOrder, Style::Scattered];
}

/// One change of a file's bytes.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// The file has this length, cut or filled with zeros.
    Resize(u64),
    /// The file has at least this length.
    Extend(u64),
    /// Zeros within the file, which keeps its length.
    Zero {
        offset: u64,
        length: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Doomed,
    Durable,
}

#[derive(Clone, Debug)]
struct Change {
    sequence: u64,
    state: State,
    edit: Edit,
}

/// A file's bytes and their history since they were last durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    base: Vec<u8>,
    changes: Vec<Change>,
}

impl Contents {
    /// Bytes that are all durable.
    pub(crate) fn durable(base: Vec<u8>) -> Contents {
        Contents { base, changes: Vec::new() }
    }

    /// Notes a change that the record numbered `sequence` told of; sequences only grow.
    pub(crate) fn change(&mut self, sequence: u64, edit: Edit) {
        self.changes.push(Change { sequence, state: State::Pending, edit });
    }

    /// A sync that covers the records before `covers` succeeded.
    pub(crate) fn sync(&mut self, covers: u64) {
        self.turn(covers, State::Durable);
        let settled = self.changes.iter().take_while(|change| change.state == State::Durable).count();
        for change in self.changes.drain(..settled) {
            apply(&mut self.base, &change.edit);
        }
    }

    /// A sync that covers the records before `covers` failed.
    pub(crate) fn sync_failed(&mut self, covers: u64) {
        self.turn(covers, State::Doomed);
    }

    fn turn(&mut self, covers: u64, state: State) {
        for change in self.changes.iter_mut().filter(|c| c.sequence < covers && c.state == State::Pending) {
            change.state = state;
        }
    }

    /// What a reader sees while the power is on.
    pub(crate) fn now(&self) -> Vec<u8> {
        let mut bytes = self.base.clone();
        self.changes.iter().for_each(|change| apply(&mut bytes, &change.edit));
        bytes
    }

    /// What is left after the power went.
    pub(crate) fn after_crash(&self, style: Style, choices: &mut impl Choose) -> Vec<u8> {
        let mut bytes = self.base.clone();
        let unsynced = self.changes.iter().filter(|change| change.state != State::Durable).count();
        let mut intact = match style {
            Style::InOrder if unsynced > 0 => choices.choose(unsynced + 1),
            _ => 0,
        };
        let mut torn = false;
        for change in &self.changes {
            match style {
                _ if change.state == State::Durable => apply(&mut bytes, &change.edit),
                Style::Worst => {}
                Style::Best => apply(&mut bytes, &change.edit),
                Style::Scattered => keep_lose_or_tear(&mut bytes, &change.edit, choices),
                Style::InOrder if intact > 0 => {
                    intact -= 1;
                    apply(&mut bytes, &change.edit);
                }
                Style::InOrder if !torn => {
                    torn = true;
                    tear(&mut bytes, &change.edit, choices);
                }
                Style::InOrder => {}
            }
        }
        bytes
    }
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    match edit {
        Edit::Write { offset, bytes: new } => write_at(bytes, *offset, new),
        Edit::Resize(length) => bytes.resize(as_index(*length), 0),
        Edit::Extend(length) => bytes.resize(bytes.len().max(as_index(*length)), 0),
        Edit::Zero { offset, length } => {
            let end = as_index(offset + length).min(bytes.len());
            let start = as_index(*offset).min(end);
            bytes[start..end].fill(0);
        }
    }
}

fn as_index(position: u64) -> usize {
    usize::try_from(position).expect("files of tests fit in memory")
}

fn write_at(bytes: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let start = as_index(offset);
    let end = start + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(new);
}

fn keep_lose_or_tear(bytes: &mut Vec<u8>, edit: &Edit, choices: &mut impl Choose) {
    let can_tear = matches!(edit, Edit::Write { bytes, .. } if bytes.len() > 1);
    match choices.choose(if can_tear { 3 } else { 2 }) {
        0 => {}
        1 => apply(bytes, edit),
        _ => tear(bytes, edit, choices),
    }
}

/// Part of a write arrives: its beginning, or any of its sectors. What is no write has no parts and is lost.
fn tear(bytes: &mut Vec<u8>, edit: &Edit, choices: &mut impl Choose) {
    let Edit::Write { offset, bytes: new } = edit else { return };
    let spans_sectors = offset / SECTOR_BYTES != (offset + new.len() as u64 - 1) / SECTOR_BYTES;
    if !spans_sectors || choices.choose(2) == 0 {
        let arrived = choices.choose(new.len());
        if arrived > 0 {
            write_at(bytes, *offset, &new[..arrived]);
        }
        return;
    }
    let mut rest = new.as_slice();
    let mut at = *offset;
    while !rest.is_empty() {
        let sector_end = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
        let (sector, after) = rest.split_at(rest.len().min(as_index(sector_end - at)));
        if choices.choose(2) == 1 {
            write_at(bytes, at, sector);
        }
        at += sector.len() as u64;
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::choose::Exhaustive;
    use super::*;

    fn write(offset: u64, text: &str) -> Edit {
        Edit::Write { offset, bytes: text.into() }
    }

    fn outcomes(contents: &Contents, style: Style) -> BTreeSet<String> {
        let mut all = Exhaustive::new();
        let mut seen = BTreeSet::new();
        while all.another_round() {
            let bytes = contents.after_crash(style, &mut all);
            seen.insert(String::from_utf8(bytes).unwrap().replace('\0', "."));
        }
        seen
    }

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(|text| text.to_string()).collect()
    }

    #[test]
    fn synced_bytes_stay_and_unsynced_ones_are_kept_lost_or_torn() {
        let mut contents = Contents::default();
        contents.change(0, write(0, "ab"));
        contents.change(1, write(2, "cd"));
        contents.sync(1);
        assert_eq!(outcomes(&contents, Style::Worst), set(&["ab"]));
        assert_eq!(outcomes(&contents, Style::Best), set(&["abcd"]));
        assert_eq!(outcomes(&contents, Style::Scattered), set(&["ab", "abc", "abcd"]));
        contents.sync(2);
        assert_eq!(outcomes(&contents, Style::Scattered), set(&["abcd"]));
    }

    #[test]
    fn scattered_writes_arrive_in_any_order_and_ordered_ones_do_not() {
        let mut contents = Contents::durable(b"----".to_vec());
        contents.change(0, write(0, "a"));
        contents.change(1, write(1, "b"));
        contents.change(2, Edit::Resize(3));
        let scattered = set(&["----", "a---", "-b--", "ab--", "---", "a--", "-b-", "ab-"]);
        assert_eq!(outcomes(&contents, Style::Scattered), scattered);
        assert_eq!(outcomes(&contents, Style::InOrder), set(&["----", "a---", "ab--", "ab-"]));
    }

    #[test]
    fn an_overwrite_whose_predecessor_was_lost_leaves_a_hole() {
        let mut contents = Contents::default();
        contents.change(0, write(0, "a"));
        contents.change(1, write(1, "b"));
        assert_eq!(outcomes(&contents, Style::Scattered), set(&["", "a", ".b", "ab"]));
    }

    #[test]
    fn a_write_over_three_sectors_loses_any_of_them() {
        let sector = SECTOR_BYTES as usize;
        let mut contents = Contents::durable(vec![b'-'; 3 * sector]);
        contents.change(0, Edit::Write { offset: 0, bytes: vec![b'x'; 3 * sector] });
        let patterns: BTreeSet<String> = outcomes(&contents, Style::Scattered)
            .iter()
            .filter(|text| text.as_bytes().chunks(sector).all(|chunk| chunk.iter().all(|b| *b == chunk[0])))
            .map(|text| text.bytes().step_by(sector).map(char::from).collect())
            .collect();
        assert_eq!(patterns, set(&["---", "x--", "-x-", "--x", "xx-", "x-x", "-xx", "xxx"]));
    }

    #[test]
    fn after_a_failed_sync_no_later_one_saves_the_bytes() {
        let mut contents = Contents::default();
        contents.change(0, write(0, "a"));
        contents.sync_failed(1);
        contents.change(1, write(1, "b"));
        contents.sync(2);
        assert_eq!(contents.now(), b"ab");
        assert_eq!(outcomes(&contents, Style::Scattered), set(&[".b", "ab"]));
    }

    #[test]
    fn a_change_after_the_sync_began_is_not_covered() {
        let mut contents = Contents::default();
        contents.change(4, write(0, "a"));
        contents.change(5, write(1, "b"));
        contents.sync(5);
        assert_eq!(outcomes(&contents, Style::Worst), set(&["a"]));
    }

    #[test]
    fn allocation_extends_with_zeros_and_punching_keeps_the_length() {
        let mut contents = Contents::durable(b"abc".to_vec());
        contents.change(0, Edit::Extend(5));
        contents.change(1, Edit::Extend(2));
        contents.change(2, Edit::Zero { offset: 1, length: 90 });
        assert_eq!(contents.now(), b"a\0\0\0\0");
    }
}
