//! [`Draft`]: a string under change, for the commands that change part of one: APPEND, SETRANGE, SETBIT, BITFIELD.
//!
//! It holds what has changed and reads the rest when it is asked for. A short string is held whole; a long one as the
//! chunks that were touched, which are the ones that [`Draft::store`] writes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use bytes::Bytes;
use dstore_storage::layout::Chunked;

use crate::evaluation::{Evaluation, Slot, Stop};
use crate::value::{Chunks, WHOLE_BYTES_MAX, chunk_bits};
use crate::view::{View, ViewError};

/// A string under change.
pub(crate) struct Draft {
    slot: Slot,
    /// Length as of now. It never shrinks.
    len: usize,
    content: Content,
}

enum Content {
    /// All of it, up to [`WHOLE_BYTES_MAX`] (or what an earlier version stored whole, until it changes).
    Whole(Vec<u8>),
    /// The chunks that have changed; the rest is as it is stored, or zero.
    Chunks { bits: u8, changed: BTreeMap<usize, Vec<u8>> },
}

impl Draft {
    /// Begins with what clients see in a slot; nothing is the empty string.
    pub(crate) fn new(view: &dyn View, slot: Slot) -> Result<Draft, ViewError> {
        let Some(record) = slot.live() else {
            return Ok(Draft { slot, len: 0, content: Content::Whole(Vec::new()) });
        };
        let len = record.len();
        let content = match record.head.chunked {
            Some(Chunked { bits, .. }) => Content::Chunks { bits, changed: BTreeMap::new() },
            None => Content::Whole(record.value(view)?.to_vec()),
        };
        Ok(Draft { slot, len, content })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Fills `out` with what is at `at` and behind, zeros beyond the end.
    pub(crate) fn read(&self, view: &dyn View, at: usize, out: &mut [u8]) -> Result<(), ViewError> {
        out.fill(0);
        let (bits, changed) = match &self.content {
            Content::Whole(bytes) => {
                let found = &bytes[at.min(bytes.len())..(at + out.len()).min(bytes.len())];
                out[..found.len()].copy_from_slice(found);
                return Ok(());
            }
            Content::Chunks { bits, changed } => (*bits, changed),
        };
        let end = at + out.len();
        for (index, part) in pieces(bits, at..end) {
            let base = index << bits;
            let target = &mut out[part.start - at..part.end - at];
            let (from, to) = (part.start - base, part.end - base);
            match (changed.get(&index), self.stored()) {
                (Some(chunk), _) => copy_into(target, chunk, from..to),
                (None, Some(stored)) => copy_into(target, &stored.chunk(view, index)?, from..to),
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Puts `bytes` at `at`; a gap before it becomes zeros.
    pub(crate) fn write(&mut self, view: &dyn View, at: usize, bytes: &[u8]) -> Result<(), ViewError> {
        let end = at + bytes.len();
        self.grow(end);
        if let Content::Whole(whole) = &mut self.content
            && whole.len() <= WHOLE_BYTES_MAX
        {
            whole[at..end].copy_from_slice(bytes);
            return Ok(());
        }
        self.split();
        let Content::Chunks { bits, changed } = &mut self.content else { unreachable!("it has just been split") };
        let (bits, stored) = (*bits, self.slot.live().and_then(|record| record.chunks()));
        for (index, part) in pieces(bits, at..end) {
            let base = index << bits;
            let source = &bytes[part.start - at..part.end - at];
            if part.len() == 1 << bits {
                changed.insert(index, source.to_vec());
                continue;
            }
            let chunk = match changed.entry(index) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let before = stored.map_or(Ok(Bytes::new()), |stored| stored.chunk(view, index))?;
                    entry.insert(before.to_vec())
                }
            };
            let (from, to) = (part.start - base, part.end - base);
            if chunk.len() < to {
                chunk.resize(to, 0);
            }
            chunk[from..to].copy_from_slice(source);
        }
        Ok(())
    }

    /// Makes it at least this long, with zeros.
    pub(crate) fn grow(&mut self, len: usize) {
        if len <= self.len {
            return;
        }
        self.len = len;
        if len > WHOLE_BYTES_MAX {
            self.split();
        }
        if let Content::Whole(bytes) = &mut self.content {
            bytes.resize(len, 0);
        }
    }

    /// From whole to chunks, all of them changed.
    fn split(&mut self) {
        let Content::Whole(bytes) = &mut self.content else { return };
        let bytes = std::mem::take(bytes);
        let bits = chunk_bits(self.slot.data_key());
        let changed = bytes.chunks(1 << bits).map(<[u8]>::to_vec).enumerate().collect();
        self.content = Content::Chunks { bits, changed };
    }

    /// The chunks that are stored, if the value is in chunks.
    fn stored(&self) -> Option<Chunks<'_>> {
        self.slot.live().and_then(|record| record.chunks())
    }

    /// Stores the string, keeping its expiry.
    pub(crate) fn store(self, evaluation: &mut Evaluation<'_>) -> Result<(), Stop> {
        let expires_at_ms = self.slot.expires_at_ms();
        match self.content {
            Content::Whole(bytes) => evaluation.put_unbounded(self.slot, &bytes, expires_at_ms)?,
            Content::Chunks { bits, changed } => {
                let chunked = Chunked { len: self.len as u64, bits };
                let changed = changed.iter().map(|(index, chunk)| (*index, &chunk[..]));
                evaluation.put_chunks(self.slot, chunked, changed, expires_at_ms)?
            }
        };
        Ok(())
    }
}

/// The chunks that a range touches, each with the part of the range in it.
fn pieces(bits: u8, range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let index = at >> bits;
        let part = at..((index + 1) << bits).min(range.end);
        at = part.end;
        (!part.is_empty()).then_some((index, part))
    })
}

/// Copies `source[range]`, as far as there is any.
fn copy_into(target: &mut [u8], source: &[u8], range: Range<usize>) {
    let end = range.end.min(source.len());
    if range.start < end {
        target[..end - range.start].copy_from_slice(&source[range.start..end]);
    }
}
