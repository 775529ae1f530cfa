//! [`Export`]: the records of some spans as chunks, one at a time; [`Checksum`]: their sum, a piece at a time.

use bytes::Bytes;

use super::chunk::{Builder, CHUNK_BYTES};
use super::spans::{SpanSum, Spans};
use crate::{Caching, Direction, Engine, EngineError, Reader};

/// Walks through the records of some spans in steps. Between two steps it holds no cursor, so that a slow taker pins no
/// files that compaction has replaced.
struct Walk {
    reader: Box<dyn Reader + Send + Sync>,
    spans: Spans,
    /// The span being walked through; all are done when there is none.
    span: usize,
    /// Where to go on, once within the span.
    resume: Option<Vec<u8>>,
    sum: SpanSum,
}

impl Walk {
    fn new(reader: Box<dyn Reader + Send + Sync>, spans: Spans) -> Walk {
        Walk { reader, spans, span: 0, resume: None, sum: SpanSum::default() }
    }

    /// Shows records to `take` until it declines one, which comes again in the next step. True when there are no more.
    fn step(&mut self, mut take: impl FnMut(&[u8], &[u8]) -> bool) -> Result<bool, EngineError> {
        while let Some(span) = self.spans.get(self.span) {
            let start = self.resume.as_deref().unwrap_or(&span.start);
            let mut cursor = self.reader.scan(start..&span.end, Direction::Forward)?;
            while let Some((key, value)) = cursor.entry() {
                if !take(key, value) {
                    self.resume = Some(key.to_vec());
                    return Ok(false);
                }
                self.sum.add(key, value);
                cursor.advance()?;
            }
            self.span += 1;
            self.resume = None;
        }
        Ok(true)
    }
}

/// The records of some spans at one moment, as chunks for an [`Install`](super::Install) elsewhere.
///
/// Holds one chunk in memory, and the view of its moment until it is dropped. After an error it cannot go on.
pub struct Export {
    walk: Walk,
    id: u64,
    /// The number of the next chunk.
    number: u64,
    chunk_bytes: usize,
    ended: bool,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("id", &self.id).field("number", &self.number).finish_non_exhaustive()
    }
}

impl Export {
    /// Begins with the state of `engine` as of now. `id` is the caller's name for this snapshot; the receiver checks it.
    pub fn begin<E: Engine + ?Sized>(engine: &E, id: u64, spans: Spans) -> Export {
        Export {
            walk: Walk::new(engine.freeze(Caching::Pass), spans),
            id,
            number: 0,
            chunk_bytes: CHUNK_BYTES,
            ended: false,
        }
    }

    /// Lets chunks have so many bytes of records at most, or a single record, instead of [`CHUNK_BYTES`]: for carriers that
    /// want them smaller.
    pub fn set_chunk_bytes(&mut self, bytes: usize) {
        self.chunk_bytes = bytes;
    }

    /// The state that is being sent, for reading what must go with it: the applied position, say.
    #[must_use]
    pub fn reader(&self) -> &(dyn Reader + Send + Sync) {
        self.walk.reader.as_ref()
    }

    /// The next chunk; none after the last one. Reads the disk.
    ///
    /// # Errors
    /// As [`Reader::scan`]; the snapshot cannot be completed then.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, EngineError> {
        if self.ended {
            return Ok(None);
        }
        let chunk = match self.number {
            0 => Builder::spans(&self.walk.spans, self.id),
            number => self.records_or_end(number)?,
        };
        self.number += 1;
        Ok(Some(chunk))
    }

    fn records_or_end(&mut self, number: u64) -> Result<Bytes, EngineError> {
        let mut builder = Builder::with_capacity(self.chunk_bytes);
        let bytes_max = self.chunk_bytes;
        self.walk.step(|key, value| {
            let fits = builder.fits(key, value, bytes_max);
            if fits {
                builder.push(key, value);
            }
            fits
        })?;
        if !builder.is_empty() {
            return Ok(builder.records(self.id, number));
        }
        self.ended = true;
        Ok(Builder::end(self.id, number, self.walk.sum))
    }

    /// What was sent so far.
    #[must_use]
    pub fn sent(&self) -> SpanSum {
        self.walk.sum
    }
}

/// The sum of the records in some spans at one moment, worked out in steps, so that whoever compares replicas can do other
/// things between them.
pub struct Checksum {
    walk: Walk,
}

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checksum").field("sum", &self.walk.sum).finish_non_exhaustive()
    }
}

impl Checksum {
    /// Begins with the state of `engine` as of now.
    pub fn begin<E: Engine + ?Sized>(engine: &E, spans: Spans) -> Checksum {
        Checksum::of(engine.freeze(Caching::Pass), spans)
    }

    /// Begins with what `reader` sees, which must not change.
    pub fn of(reader: Box<dyn Reader + Send + Sync>, spans: Spans) -> Checksum {
        Checksum { walk: Walk::new(reader, spans) }
    }

    /// The state that is being summed, for reading the applied position that it belongs to.
    #[must_use]
    pub fn reader(&self) -> &(dyn Reader + Send + Sync) {
        self.walk.reader.as_ref()
    }

    /// Goes on for about `bytes_max` bytes of records, at least one record. The sum when all is done. Reads the disk.
    ///
    /// # Errors
    /// As [`Reader::scan`].
    pub fn step(&mut self, bytes_max: usize) -> Result<Option<SpanSum>, EngineError> {
        let mut bytes = 0_usize;
        let done = self.walk.step(|key, value| {
            let take = bytes == 0 || bytes < bytes_max;
            bytes += (key.len() + value.len()).max(1);
            take
        })?;
        Ok(done.then_some(self.walk.sum))
    }
}

/// The sum of the records in `spans` at this moment, in one go. Blocks for as long as it takes to read them.
///
/// # Errors
/// As [`Reader::scan`].
pub fn checksum<E: Engine + ?Sized>(engine: &E, spans: &Spans) -> Result<SpanSum, EngineError> {
    let mut checksum = Checksum::begin(engine, spans.clone());
    loop {
        if let Some(sum) = checksum.step(8 * CHUNK_BYTES)? {
            return Ok(sum);
        }
    }
}
