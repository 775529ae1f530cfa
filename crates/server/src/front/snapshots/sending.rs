//! A snapshot that leaves this node: a thread reads chunks, no further ahead than it is allowed and no faster than the
//! setting says; the loop puts them on the stream as credit comes.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dstore_net::Mailbox;
use dstore_rpc::driver::{Host, Rpc};
use dstore_rpc::{NodeId, SendError, StreamId};
use dstore_storage::snapshot::Export;

use super::{AHEAD_CHUNKS, Carriage, News, PIECE_BYTES, TELL_EVERY};
use crate::front::Mail;
use crate::identity::node_text;

/// The snapshot under way.
pub(super) struct Outgoing {
    pub(super) transfer: u64,
    pub(super) stream: StreamId,
    to: NodeId,
    /// One for each chunk that may be read. Without it the reader ends.
    permits: Sender<()>,
    /// What was read and not sent: lengths and chunks. Never empty pieces.
    waiting: VecDeque<Bytes>,
    is_read: bool,
    is_ended: bool,
    sent_bytes: u64,
    began: Instant,
    told: Instant,
}

impl Outgoing {
    /// A transfer to a peer on a stream, and the work of the thread that reads it.
    pub(super) fn new(
        (to, stream, transfer): (NodeId, StreamId, u64),
        export: Export,
        carriage: Carriage,
        mailbox: Mailbox<Mail>,
    ) -> (Outgoing, impl FnOnce() + Send + 'static) {
        let (permits, permitted) = channel();
        for _ in 0..AHEAD_CHUNKS {
            // Its other end is here.
            let _ = permits.send(());
        }
        let now = Instant::now();
        let outgoing = Outgoing {
            transfer,
            stream,
            to,
            permits,
            waiting: VecDeque::new(),
            is_read: false,
            is_ended: false,
            sent_bytes: 0,
            began: now,
            told: now,
        };
        let pace = Pace { bytes_per_second: carriage.bytes_per_second, next: now };
        let reader = Reader { transfer, export, pace, permits: Permits { permitted, saved: 0 }, mailbox };
        (outgoing, move || reader.run())
    }

    /// A chunk was read.
    pub(super) fn add(&mut self, chunk: Bytes) {
        let length = u32::try_from(chunk.len()).expect("a chunk has less than 4 GiB");
        self.waiting.push_back(Bytes::copy_from_slice(&length.to_le_bytes()));
        self.waiting.push_back(chunk);
    }

    /// There are no more.
    pub(super) fn all_read(&mut self) {
        self.is_read = true;
    }

    /// Sends as much as there is credit for. What goes wrong with the stream, its end tells.
    pub(super) fn push<A: Host>(&mut self, rpc: &mut Rpc<A>, now: Instant) {
        while let Some(piece) = self.waiting.front_mut() {
            // Without credit this asks for a byte too much, and so to be told when there is some.
            let room = rpc.stream_credit(self.stream).clamp(1, PIECE_BYTES);
            let bytes = piece.slice(..room.min(piece.len()));
            let sent = bytes.len();
            match rpc.stream_send(now, self.stream, bytes) {
                Ok(()) => {}
                Err(SendError::Blocked { .. }) => break,
                Err(_) => return,
            }
            self.sent_bytes += sent as u64;
            if sent < piece.len() {
                *piece = piece.slice(sent..);
                continue;
            }
            self.waiting.pop_front();
            // A length and its chunk come together, so an even number of pieces is one of whole chunks.
            if self.waiting.len().is_multiple_of(2) {
                // A reader that has ended needs none.
                let _ = self.permits.send(());
            }
        }
        if self.is_read && self.waiting.is_empty() && !self.is_ended {
            self.is_ended = true;
            let _ = rpc.stream_end(now, self.stream);
        }
        self.tell(now);
    }

    fn tell(&mut self, now: Instant) {
        if now.saturating_duration_since(self.told) >= TELL_EVERY {
            self.told = now;
            let seconds = now.saturating_duration_since(self.began).as_secs();
            tracing::info!(
                "node {}: {} MiB of a snapshot sent in {seconds} s",
                node_text(self.to),
                self.sent_bytes >> 20
            );
        }
    }
}

/// The thread that reads.
struct Reader {
    transfer: u64,
    export: Export,
    pace: Pace,
    permits: Permits,
    mailbox: Mailbox<Mail>,
}

impl Reader {
    fn run(mut self) {
        while self.permits.take() {
            let next = self.export.next_chunk();
            let news = match next {
                Ok(Some(chunk)) => {
                    if !self.permits.rest_until(self.pace.due(Instant::now(), chunk.len())) {
                        return;
                    }
                    News::Chunk(self.transfer, chunk)
                }
                Ok(None) => News::Read(self.transfer, Ok(())),
                Err(error) => News::Read(self.transfer, Err(error)),
            };
            let goes_on = matches!(news, News::Chunk(..));
            if self.mailbox.post(Mail::Snapshot(news)).is_err() || !goes_on {
                return;
            }
        }
    }
}

/// Leave to read chunks, one by one.
struct Permits {
    permitted: Receiver<()>,
    saved: usize,
}

impl Permits {
    /// Waits for leave to read one more. False when nobody wants it any more.
    fn take(&mut self) -> bool {
        if self.saved > 0 {
            self.saved -= 1;
            return true;
        }
        self.permitted.recv().is_ok()
    }

    /// Lets time pass. False, and at once, when nobody waits any more.
    fn rest_until(&mut self, until: Instant) -> bool {
        loop {
            match self.permitted.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => self.saved += 1,
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }
}

/// Keeps to a number of bytes a second.
struct Pace {
    bytes_per_second: u64,
    /// When the bytes let through so far have had their time.
    next: Instant,
}

impl Pace {
    /// When so many more bytes may go. Time that was not used is not made up for.
    fn due(&mut self, now: Instant, bytes: usize) -> Instant {
        if self.bytes_per_second == 0 {
            return now;
        }
        let due = self.next.max(now);
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second);
        self.next = due + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_and_idle_time_is_not_made_up_for() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace { bytes_per_second: 1000, next: start };
        assert_eq!(pace.due(start, 500), start, "the first goes at once");
        assert_eq!(pace.due(at(10), 100), at(500));
        assert_eq!(pace.due(at(20), 100), at(600));
        assert_eq!(pace.due(at(5000), 100), at(5000));
        assert_eq!(pace.due(at(5000), 100), at(5100));
        let mut any = Pace { bytes_per_second: 0, next: start };
        assert_eq!(any.due(at(3), usize::MAX), at(3));
    }

    #[test]
    fn a_reader_that_nobody_waits_for_ends_at_once() {
        let (permits, permitted) = channel();
        permits.send(()).unwrap();
        let mut leave = Permits { permitted, saved: 0 };
        assert!(leave.rest_until(Instant::now()));
        assert!(leave.take());
        drop(permits);
        assert!(!leave.rest_until(Instant::now() + Duration::from_secs(3600)));
        assert!(!leave.take());
    }
}
