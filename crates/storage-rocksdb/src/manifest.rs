//! A manifest that a power loss left torn, and what makes it readable again.
//!
//! RocksDB appends a record to its manifest for each change of its set of table files, and syncs it before it counts on it. A power
//! loss may leave of a record that was not synced what it likes. RocksDB passes over one that merely ends early. One of which
//! the end is on the disk and the beginning is not, it calls corrupt, and opens nothing.
//!
//! [`cut_torn_tail`] cuts the file behind the last record that is whole. That is safe, whatever damaged the rest: each beginning of a
//! manifest names a state that the data once had, RocksDB refuses to open one of which a table file is gone, and a node refuses data
//! that ends before its log begins. So either it plays the log again from a little earlier, or it does not start.
//!
//! The format of the file is that of RocksDB's logs (`db/log_format.h` in its source): blocks of 32 KiB, and in them fragments.
//!
//! ```text
//! 0      4        6      7
//! | crc  | length | type | payload ...
//!   u32    u16      u8     `length` bytes      little-endian; no fragment crosses the end of a block
//!
//! crc    masked CRC-32C of type and payload
//! type   1 whole record, 2 its first fragment, 3 one in the middle, 4 its last
//! ```

use std::fs::{self, File};
use std::path::Path;

use crate::EngineError;
use crate::place::io_error;

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;
/// More than one change of the set of files writes: what is longer was not torn, but damaged.
const TAIL_MAX: usize = 1 << 20;

/// Cuts the manifest of the database at `path`, which RocksDB has refused as corrupt, behind its last whole record. Returns whether it
/// was cut: it is left alone where nothing is whole, and where so much follows that no power loss can have torn it.
///
/// # Errors
///
/// A file cannot be read, cut or synced.
pub(crate) fn cut_torn_tail(path: &Path) -> Result<bool, EngineError> {
    let current = path.join("CURRENT");
    let name = fs::read_to_string(&current).map_err(|error| io_error("read", &current, &error))?;
    let manifest = path.join(name.trim_end());
    let bytes = fs::read(&manifest).map_err(|error| io_error("read", &manifest, &error))?;
    let whole = whole_records(&bytes);
    let tail = bytes.len() - whole;
    if whole == 0 || tail == 0 || tail > TAIL_MAX {
        return Ok(false);
    }
    let cut = || -> std::io::Result<()> {
        let file = File::options().write(true).open(&manifest)?;
        file.set_len(whole as u64)?;
        file.sync_all()
    };
    cut().map_err(|error| io_error("cut", &manifest, &error))?;
    tracing::warn!(path = %manifest.display(), offset = whole, bytes = tail, "dropped a torn record at the end of the manifest");
    Ok(true)
}

/// Where the last record ends that is whole and behind none that is not.
fn whole_records(bytes: &[u8]) -> usize {
    let (mut at, mut whole) = (0, 0);
    let mut within = false;
    loop {
        let left = BLOCK - at % BLOCK;
        if left < HEADER {
            at += left;
            continue;
        }
        let Some((kind, end)) = fragment(bytes, at, left) else { return whole };
        within = match (kind, within) {
            (1, false) | (4, true) => false,
            (2, false) | (3, true) => true,
            _ => return whole,
        };
        at = end;
        if !within {
            whole = end;
        }
    }
}

/// The type and the end of the fragment at `at`, if it is sound; `left` bytes are left in its block.
fn fragment(bytes: &[u8], at: usize, left: usize) -> Option<(u8, usize)> {
    let header = bytes.get(at..at + HEADER)?;
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let size = HEADER + usize::from(u16::from_le_bytes([header[4], header[5]]));
    let summed = bytes.get(at + HEADER - 1..at + size)?;
    let crc = crc32c::crc32c(summed).rotate_right(15).wrapping_add(0xa282_ead8);
    (size <= left && crc == stored).then_some((header[6], at + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment_of(kind: u8, payload: &[u8]) -> Vec<u8> {
        let summed: Vec<u8> = std::iter::once(kind).chain(payload.iter().copied()).collect();
        let crc = crc32c::crc32c(&summed).rotate_right(15).wrapping_add(0xa282_ead8);
        let length = u16::try_from(payload.len()).expect("short");
        [&crc.to_le_bytes()[..], &length.to_le_bytes(), &summed].concat()
    }

    #[test]
    fn records_are_counted_up_to_the_first_that_is_not_whole() {
        let first = fragment_of(1, b"one");
        let long = BLOCK - first.len() - HEADER - 3; // leaves 3 bytes of the block, too few for a header
        let second = [fragment_of(2, &vec![7; long]), vec![0; 3], fragment_of(4, b"rest")].concat();
        let third = fragment_of(1, b"three");
        let all = [&first[..], &second, &third].concat();
        assert_eq!(whole_records(&all), all.len());
        for length in 0..all.len() {
            let whole = [0, first.len(), first.len() + second.len()].into_iter().rfind(|end| *end <= length);
            assert_eq!(Some(whole_records(&all[..length])), whole, "of {length} bytes");
        }
        for damaged in (0..first.len() + 20).chain(BLOCK - 20..all.len()) {
            let mut bytes = all.clone();
            bytes[damaged] ^= 1;
            let ends = [0, first.len(), first.len() + second.len(), all.len()];
            let whole = ends.into_iter().rfind(|end| *end <= damaged);
            if !(BLOCK - 3..BLOCK).contains(&damaged) {
                assert_eq!(Some(whole_records(&bytes)), whole, "damaged at {damaged}");
            }
        }
    }
}
