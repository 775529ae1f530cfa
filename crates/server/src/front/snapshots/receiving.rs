//! A snapshot that comes: the loop hands pieces over as they arrive, a thread makes chunks of them again and takes those in.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use bytes::Bytes;
use dstore_net::Mailbox;
use dstore_rpc::{NodeId, StreamId};
use dstore_storage::RangeId;
use dstore_storage::snapshot::{Install, InstallError};

use super::{LENGTH_BYTES, News, TELL_EVERY};
use crate::front::Mail;
use crate::identity::node_text;

/// Why a snapshot was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// It is not what it should be, or there is no room for it.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// A chunk, and so a record, is larger than a record of this node may be.
    #[error("a chunk of {bytes} bytes, and log_segment_bytes allows {bytes_max} here")]
    LargeChunk {
        /// Bytes it has.
        bytes: usize,
        /// Bytes it may have.
        bytes_max: usize,
    },
    /// The sender ended the stream, and something is missing.
    #[error("the stream ended before chunk {next}")]
    CutShort {
        /// The first chunk that is missing.
        next: u64,
    },
}

/// A snapshot on its way in.
pub(super) struct Incoming {
    pub(super) from: NodeId,
    pub(super) range: RangeId,
    /// What its stream began with.
    pub(super) body: Bytes,
    /// To the thread that takes it in. Without it the thread ends, and what came is dropped.
    pieces: Option<Sender<Bytes>>,
}

impl Incoming {
    /// A snapshot that begins to come, and the work of the thread that takes it in.
    pub(super) fn new(
        (from, range, body): (NodeId, RangeId, Bytes),
        stream: StreamId,
        install: Install,
        chunk_bytes_max: usize,
        mailbox: Mailbox<Mail>,
    ) -> (Incoming, impl FnOnce() + Send + 'static) {
        let (pieces, come) = channel();
        let taker = Taker { stream, from, range, install, chunks: Chunks::new(chunk_bytes_max), mailbox };
        (Incoming { from, range, body, pieces: Some(pieces) }, move || taker.run(&come))
    }

    /// The next piece, and whether it is the last. The stream's window bounds how many wait.
    pub(super) fn take(&mut self, piece: Bytes, is_last: bool) {
        if let Some(pieces) = self.pieces.as_ref().filter(|_| !piece.is_empty()) {
            // A thread that has ended has told why.
            let _ = pieces.send(piece);
        }
        if is_last {
            self.pieces = None;
        }
    }
}

/// The thread that takes in.
struct Taker {
    stream: StreamId,
    from: NodeId,
    range: RangeId,
    install: Install,
    chunks: Chunks,
    mailbox: Mailbox<Mail>,
}

impl Taker {
    fn run(mut self, pieces: &Receiver<Bytes>) {
        let mailbox = self.mailbox.clone();
        let stream = self.stream;
        let news = match self.take_all(pieces) {
            Ok(true) => News::Taken(stream, self.install),
            Ok(false) => return,
            Err(error) => News::Refused(stream, error),
        };
        // Refused only by a loop that has ended.
        let _ = mailbox.post(Mail::Snapshot(news));
    }

    /// True when the last chunk was taken in; false when nobody is left to tell.
    fn take_all(&mut self, pieces: &Receiver<Bytes>) -> Result<bool, TakeError> {
        let (began, mut told) = (Instant::now(), Instant::now());
        let mut bytes = 0;
        while let Ok(piece) = pieces.recv() {
            bytes += piece.len();
            self.chunks.push(&piece);
            // Before it is written: a chunk may be larger than the window.
            let consumed = News::Consumed(self.stream, piece.len());
            if self.mailbox.post(Mail::Snapshot(consumed)).is_err() {
                return Ok(false);
            }
            while let Some(chunk) = self.chunks.next()? {
                if self.install.add(&chunk)? {
                    return Ok(true);
                }
            }
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let seconds = began.elapsed().as_secs();
                tracing::info!(
                    "range {}: {} MiB of a snapshot taken in from node {} in {seconds} s",
                    self.range,
                    bytes >> 20,
                    node_text(self.from)
                );
            }
        }
        Err(TakeError::CutShort { next: self.install.next_number() })
    }
}

/// Makes chunks of pieces again.
struct Chunks {
    /// What came of chunks that are not whole: their lengths too.
    buffer: Vec<u8>,
    /// Where the next one begins.
    at: usize,
    chunk_bytes_max: usize,
}

impl Chunks {
    fn new(chunk_bytes_max: usize) -> Chunks {
        Chunks { buffer: Vec::new(), at: 0, chunk_bytes_max }
    }

    fn push(&mut self, piece: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(piece);
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, TakeError> {
        let rest = &self.buffer[self.at..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > self.chunk_bytes_max {
            return Err(TakeError::LargeChunk { bytes: length, bytes_max: self.chunk_bytes_max });
        }
        let Some(chunk) = rest.get(..length) else { return Ok(None) };
        let chunk = chunk.to_vec();
        self.at += LENGTH_BYTES + length;
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_the_stream(chunks: &[&[u8]]) -> Vec<u8> {
        let framed = |chunk: &&[u8]| [&(chunk.len() as u32).to_le_bytes()[..], chunk].concat();
        chunks.iter().flat_map(framed).collect()
    }

    #[test]
    fn chunks_come_out_as_they_went_in_however_they_are_cut() {
        let sent: [&[u8]; 4] = [b"first", b"", b"a longer third one", b"x"];
        let stream = on_the_stream(&sent);
        for size in 1..=stream.len() {
            let mut chunks = Chunks::new(18);
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                chunks.push(piece);
                while let Some(chunk) = chunks.next().unwrap() {
                    found.push(chunk);
                }
            }
            assert_eq!(found, sent, "pieces of {size} bytes");
        }
    }

    #[test]
    fn a_chunk_beyond_the_bound_is_refused_before_it_comes() {
        let mut chunks = Chunks::new(3);
        chunks.push(&on_the_stream(&[b"fine"])[..4]);
        let error = chunks.next().unwrap_err().to_string();
        assert!(error.contains("a chunk of 4 bytes") && error.contains("log_segment_bytes allows 3"), "{error}");
    }
}
