//! [`Record`]: a string as it is stored, whole in its head record or in chunks, and how to read all or part of it.
//!
//! A string of up to [`WHOLE_BYTES_MAX`] stands in its head record, where one look-up finds it. A longer one is in chunks
//! (`dstore_storage::layout::chunk`), so that changing a part writes the chunks it touches and no others, and reading a part
//! reads no others. Whole records that are longer, which earlier versions wrote, stay readable, and become chunks when
//! they are changed.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use dstore_storage::Direction;
use dstore_storage::layout::{Chunked, Head, chunk, key};

use crate::view::{CorruptReason, View, ViewError};

/// Longest string that is stored whole. Beyond, rewriting it for a small change costs more than looking up its chunks.
pub(crate) const WHOLE_BYTES_MAX: usize = 64 << 10;

/// A chunk covers 16 KiB, unless its key is long.
const CHUNK_BITS_MIN: u8 = 14;

/// A chunk covers at least this many times its key's length, so that chunks do not cost more in keys than in values.
const CHUNK_KEY_RATIO: usize = 128;

/// The chunk size for a value at `data_key`, as a power of two.
pub(crate) fn chunk_bits(data_key: &[u8]) -> u8 {
    let wanted = (data_key.len() * CHUNK_KEY_RATIO).next_power_of_two().trailing_zeros();
    u8::try_from(wanted).expect("keys are short").clamp(CHUNK_BITS_MIN, *Chunked::BITS.end())
}

/// A head record as it is stored.
pub(crate) struct Record {
    pub(crate) head: Head,
    stored: Bytes,
    /// Where it is. Empty if the value is whole: then nobody needs it, and this allocates nothing.
    data_key: Bytes,
}

impl Record {
    /// Looks up the head record at `data_key`.
    pub(crate) fn get(view: &dyn View, data_key: &[u8]) -> Result<Option<Record>, ViewError> {
        let Some(stored) = view.get(data_key)? else {
            return Ok(None);
        };
        let head = Head::decode(&stored).map_err(|error| ViewError::corrupt(data_key, error))?;
        Ok(Some(Record::new(head, stored, data_key)))
    }

    /// The record that holds `stored` at `data_key`, of which `head` was read.
    pub(crate) fn new(head: Head, stored: Bytes, data_key: &[u8]) -> Record {
        let data_key = if head.chunked.is_some() { Bytes::copy_from_slice(data_key) } else { Bytes::new() };
        Record { head, stored, data_key }
    }

    /// Length of the value.
    pub(crate) fn len(&self) -> usize {
        match self.head.chunked {
            Some(chunked) => usize::try_from(chunked.len).expect("bounded when it was decoded"),
            None => self.stored.len() - self.head.encoded_len(),
        }
    }

    /// The chunks that the value is in, if it is.
    pub(crate) fn chunks(&self) -> Option<Chunks<'_>> {
        let chunked = self.head.chunked?;
        let generation = self.head.generation.expect("checked when it was decoded");
        Some(Chunks { data_key: &self.data_key, generation, bits: chunked.bits })
    }

    /// The value; it shares the record's memory if it is whole.
    pub(crate) fn value(&self, view: &dyn View) -> Result<Bytes, ViewError> {
        self.part(view, 0..self.len())
    }

    /// The value, where the record is no longer needed; of a whole one this allocates nothing.
    pub(crate) fn into_value(self, view: &dyn View) -> Result<Bytes, ViewError> {
        match self.chunks() {
            Some(chunks) => chunks.read(view, 0..self.len()),
            None => Ok(self.head.into_value(self.stored)),
        }
    }

    /// Part of the value; `range` lies within it.
    pub(crate) fn part(&self, view: &dyn View, range: Range<usize>) -> Result<Bytes, ViewError> {
        match self.chunks() {
            Some(chunks) => chunks.read(view, range),
            None => Ok(self.head.value(&self.stored).slice(range)),
        }
    }
}

/// Where the chunks of a value are.
#[derive(Clone, Copy)]
pub(crate) struct Chunks<'a> {
    pub(crate) data_key: &'a [u8],
    pub(crate) generation: u64,
    pub(crate) bits: u8,
}

impl Chunks<'_> {
    /// The bytes in `range`, zero where no chunk has any.
    pub(crate) fn read(self, view: &dyn View, range: Range<usize>) -> Result<Bytes, ViewError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (first, last) = (range.start >> self.bits, (range.end - 1) >> self.bits);
        if first == last {
            return self.read_one(view, first, range);
        }
        // Not zeroed at first: for long values the allocator would have the kernel do that, page by page.
        let mut out = Vec::with_capacity(range.len());
        self.visit(view, first..last + 1, &mut |index, stored| {
            let base = index << self.bits;
            let (from, to) = (base.max(range.start), (base + stored.len()).min(range.end));
            if from < to {
                out.resize(from - range.start, 0);
                out.extend_from_slice(&stored[from - base..to - base]);
            }
        })?;
        out.resize(range.len(), 0);
        Ok(Bytes::from(out))
    }

    fn read_one(self, view: &dyn View, index: usize, range: Range<usize>) -> Result<Bytes, ViewError> {
        let base = index << self.bits;
        let (from, to) = (range.start - base, range.end - base);
        let stored = self.chunk(view, index)?;
        if to <= stored.len() {
            return Ok(stored.slice(from..to));
        }
        let mut out = stored.get(from..).unwrap_or_default().to_vec();
        out.resize(to - from, 0);
        Ok(Bytes::from(out))
    }

    /// What is stored of one chunk.
    pub(crate) fn chunk(self, view: &dyn View, index: usize) -> Result<Bytes, ViewError> {
        let chunk_key = chunk::chunk_key(self.data_key, self.generation, chunk_index(index));
        let stored = view.get(&chunk_key)?.unwrap_or_default();
        self.check(&chunk_key, stored.len())?;
        Ok(stored)
    }

    /// Visits the chunks among these indexes that are there, in order.
    pub(crate) fn visit(
        self,
        view: &dyn View,
        indexes: Range<usize>,
        visit: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), ViewError> {
        let span = chunk::span(self.data_key, self.generation, chunk_index(indexes.start)..chunk_index(indexes.end));
        let mut bad = None;
        view.scan(&span.start..&span.end, Direction::Forward, &mut |found, stored| {
            let index = found.get(self.data_key.len()..).and_then(chunk::decode).map(|(_, index)| index as usize);
            let checked = index
                .ok_or_else(|| ViewError::corrupt(found, CorruptReason::Chunk))
                .and_then(|index| self.check(found, stored.len()).map(|()| index));
            match checked {
                Ok(index) => {
                    visit(index, stored);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    bad = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        bad.map_or(Ok(()), Err)
    }

    /// A chunk is never longer than what it covers.
    fn check(self, chunk_key: &[u8], len: usize) -> Result<(), ViewError> {
        if len > 1 << self.bits {
            return Err(ViewError::corrupt(chunk_key, CorruptReason::Chunk));
        }
        Ok(())
    }
}

/// The number of a chunk as its key has it.
pub(crate) fn chunk_index(index: usize) -> u32 {
    u32::try_from(index).expect("values have fewer than 2^32 chunks")
}

/// The data key of the head of the sub-record at `data_key`, given its `sub`.
pub(crate) fn head_key<'a>(data_key: &'a [u8], sub: &[u8]) -> &'a [u8] {
    &data_key[..data_key.len() - sub.len()]
}

/// The first possible data key behind a key and all its sub-records.
pub(crate) fn behind(head_key: &[u8]) -> Vec<u8> {
    key::prefix_successor(head_key).expect("tag 0x03 has a successor")
}
