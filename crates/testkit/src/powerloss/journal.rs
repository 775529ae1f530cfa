//! The journal that the preloaded library writes, and the switches in its first page.
//!
//! ```text
//! 0     8 bytes   "DSPLOSS1"
//! 8     12 words  of 64 bits, little-endian, in the order of [`Word`]
//! 104   256 bytes fault path, ended by a zero byte
//! 4096  records, each: kind u32 | flags u32 | number u64 | position u64 | payload bytes u64 | payload, padded to 8
//! ```
//!
//! The library has the file mapped; this side reads and writes it with ordinary calls, which on Linux see the same
//! pages. Only aligned words change hands while the process runs.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::PowerLossError;

const MAGIC: &[u8; 8] = b"DSPLOSS1";
const HEADER_BYTES: u64 = 4096;
const FAULT_PATH_AT: u64 = 104;
const FAULT_PATH_BYTES: usize = 256;
/// Behind the path.
const READ_STALL_AT: u64 = FAULT_PATH_AT + FAULT_PATH_BYTES as u64;
const RECORD_BYTES: usize = 32;

/// The words of the first page; the same list is `struct header` in the library.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    Length,
    Sequence,
    Owner,
    Busy,
    SyncLies,
    SyncStallMs,
    SyncFailAt,
    SyncFailErrno,
    WriteFailAt,
    WriteFailErrno,
    Syncs,
    Writes,
}

/// One thing that the watched process did. Paths are relative to the watched directory; inodes name open files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Open { inode: u64, path: String, created: bool, truncated: bool },
    Write { inode: u64, offset: u64, bytes: Vec<u8> },
    Truncate { inode: u64, length: u64 },
    Allocate { inode: u64, mode: u32, offset: u64, length: u64 },
    Sync { inode: u64, covers: u64 },
    SyncFailed { inode: u64, covers: u64 },
    Rename { from: String, to: String },
    Unlink { path: String },
    Link { from: String, to: String },
    MakeDirectory { inode: u64, path: String },
    Untracked { what: String },
}

/// An open journal file.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Makes an empty journal with every switch off.
    pub(crate) fn create(path: &Path) -> Result<Journal, PowerLossError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(HEADER_BYTES)?;
        file.write_all_at(MAGIC, 0)?;
        Ok(Journal { file, path: path.to_path_buf() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn get(&self, word: Word) -> Result<u64, PowerLossError> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 8 + 8 * word as u64)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn set(&self, word: Word, value: u64) -> Result<(), PowerLossError> {
        Ok(self.file.write_all_at(&value.to_le_bytes(), 8 + 8 * word as u64)?)
    }

    pub(crate) fn set_read_stall(&self, milliseconds: u64) -> Result<(), PowerLossError> {
        Ok(self.file.write_all_at(&milliseconds.to_le_bytes(), READ_STALL_AT)?)
    }

    pub(crate) fn set_fault_path(&self, needle: &str) -> Result<(), PowerLossError> {
        assert!(needle.len() < FAULT_PATH_BYTES, "a fault path of {} bytes", needle.len());
        let mut bytes = [0; FAULT_PATH_BYTES];
        bytes[..needle.len()].copy_from_slice(needle.as_bytes());
        Ok(self.file.write_all_at(&bytes, FAULT_PATH_AT)?)
    }

    /// Forgets all records and who wrote them; the switches stay as they are.
    pub(crate) fn clear(&self) -> Result<(), PowerLossError> {
        self.file.set_len(HEADER_BYTES)?;
        for word in [Word::Length, Word::Sequence, Word::Owner, Word::Busy] {
            self.set(word, 0)?;
        }
        Ok(())
    }

    /// All records so far, in the order in which they happened. `root` is the watched directory.
    pub(crate) fn events(&self, root: &str) -> Result<Vec<Event>, PowerLossError> {
        let length = self.get(Word::Length)? as usize;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, HEADER_BYTES)?;
        let mut events = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (event, after) = decode(rest, root)?;
            events.push(event);
            rest = after;
        }
        let counted = self.get(Word::Sequence)?;
        if counted != events.len() as u64 {
            return Err(PowerLossError::Journal(format!("{} records, but {counted} were counted", events.len())));
        }
        Ok(events)
    }
}

fn decode<'a>(bytes: &'a [u8], root: &str) -> Result<(Event, &'a [u8]), PowerLossError> {
    let damaged = |what: &str| PowerLossError::Journal(what.to_string());
    let (head, rest) = bytes.split_at_checked(RECORD_BYTES).ok_or_else(|| damaged("a record without its head"))?;
    let half = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let (kind, flags, number, position) = (half(0), half(4), word(8), word(16));
    let payload_bytes = usize::try_from(word(24)).map_err(|_| damaged("an absurd payload"))?;
    let payload = rest.get(..payload_bytes).ok_or_else(|| damaged("a record cut short"))?;
    let after = rest.get(payload_bytes.next_multiple_of(8)..).ok_or_else(|| damaged("a record cut short"))?;

    let text = || String::from_utf8(payload.to_vec()).map_err(|_| damaged("a path that is not UTF-8"));
    let relative = |path: &str| {
        let inside = path.strip_prefix(root).ok_or_else(|| damaged("a path outside the watched directory"))?;
        Ok::<_, PowerLossError>(inside.trim_start_matches('/').to_string())
    };
    let path = || relative(&text()?);
    let two_paths = || {
        let text = text()?;
        let (from, to) = text.split_once('\0').ok_or_else(|| damaged("one path where two belong"))?;
        Ok::<_, PowerLossError>((relative(from)?, relative(to)?))
    };
    let event = match kind {
        1 => Event::Open { inode: number, path: path()?, created: flags & 1 != 0, truncated: flags & 2 != 0 },
        2 => Event::Write { inode: number, offset: position, bytes: payload.to_vec() },
        3 => Event::Truncate { inode: number, length: position },
        4 => {
            let length = payload.try_into().map_err(|_| damaged("an allocation without its length"))?;
            Event::Allocate { inode: number, mode: flags, offset: position, length: u64::from_le_bytes(length) }
        }
        5 => Event::Sync { inode: number, covers: position },
        6 => Event::SyncFailed { inode: number, covers: position },
        7 => two_paths().map(|(from, to)| Event::Rename { from, to })?,
        8 => Event::Unlink { path: path()? },
        9 => two_paths().map(|(from, to)| Event::Link { from, to })?,
        10 => Event::MakeDirectory { inode: number, path: path()? },
        11 => Event::Untracked { what: text()? },
        _ => return Err(damaged("a record of an unknown kind")),
    };
    Ok((event, after))
}
