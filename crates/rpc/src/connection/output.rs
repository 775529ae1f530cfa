//! What waits to be sent. Frames wait unencoded, so that a call cancelled in the queue is never sent, and the
//! timeout that a request carries does not include its time in the queue.
//!
//! Two queues: the urgent one (handshake, heartbeats, cancellations, credit) goes out before the normal one, whose
//! order is the order of the calls. The transport takes bytes only as fast as the peer does, so the length of the
//! normal queue says how slow the peer is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use super::calls::Calls;
use super::requests::Requests;
use crate::frame::{HEADER_BYTES, Header, Kind};
use crate::metrics::Metrics;

/// Frames are gathered into pieces of about this size: one write, and small enough to stay in cache.
const PIECE_BYTES: usize = 64 << 10;

/// The least allocated for a piece, so that a lone small frame shares its allocation with those after it.
const PIECE_BYTES_MIN: usize = 4 << 10;

/// Bodies from this size are handed to the transport as they are instead of being copied.
const BODY_UNCOPIED_BYTES_MIN: usize = 16 << 10;

/// What has to hold, or happens, when a frame leaves the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Nothing.
    None,
    /// The call must still be waiting, and learns that it was sent.
    Call,
    /// The request's place becomes free.
    Answer,
}

#[derive(Debug)]
struct Queued {
    header: Header,
    body: Bytes,
    gate: Gate,
}

impl Queued {
    fn bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

/// The two halves of a connection that care about a frame being sent.
pub(super) struct Senders<'a> {
    pub(super) calls: &'a mut Calls,
    pub(super) requests: &'a mut Requests,
    pub(super) metrics: &'a mut Metrics,
}

/// The queues.
#[derive(Debug, Default)]
pub(super) struct Output {
    urgent: VecDeque<Queued>,
    normal: VecDeque<Queued>,
    /// Bytes of `urgent` and `normal` together.
    queued_bytes: usize,
    /// Encoded and not yet a piece.
    buffer: BytesMut,
    /// Pieces to be handed out, in order.
    pieces: VecDeque<Bytes>,
    /// False until the handshake is done: only `urgent` is sent.
    open: bool,
}

impl Output {
    /// The handshake is done.
    pub(super) fn open(&mut self) {
        self.open = true;
    }

    /// Bytes that wait, not counting what was handed out.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Frames that wait.
    pub(super) fn queued_frames(&self) -> usize {
        self.urgent.len() + self.normal.len()
    }

    /// True if [`Output::poll`] may have something to give.
    pub(super) fn is_pending(&self) -> bool {
        !self.pieces.is_empty() || !self.urgent.is_empty() || (self.open && !self.normal.is_empty())
    }

    pub(super) fn push_urgent(&mut self, header: Header, body: Bytes) {
        let queued = Queued { header, body, gate: Gate::None };
        self.queued_bytes += queued.bytes();
        self.urgent.push_back(queued);
    }

    pub(super) fn push(&mut self, header: Header, body: Bytes, gate: Gate) {
        let queued = Queued { header, body, gate };
        self.queued_bytes += queued.bytes();
        self.normal.push_back(queued);
    }

    /// Forgets everything that was not handed out: the connection is over.
    pub(super) fn clear(&mut self) {
        self.urgent.clear();
        self.normal.clear();
        self.queued_bytes = 0;
    }

    /// Forgets the frames of a stream that was reset; true if its opening was among them, so that the peer never
    /// hears of it. Linear in the queue, and rare.
    pub(super) fn forget_stream(&mut self, id: u64) -> bool {
        let streams = [Kind::StreamOpen, Kind::StreamChunk, Kind::StreamCredit];
        let mut unopened = false;
        for queue in [&mut self.urgent, &mut self.normal] {
            let queued_bytes = &mut self.queued_bytes;
            queue.retain(|queued| {
                let keep = queued.header.id != id || !streams.contains(&queued.header.kind);
                *queued_bytes -= if keep { 0 } else { queued.bytes() };
                unopened |= !keep && queued.header.kind == Kind::StreamOpen;
                keep
            });
        }
        unopened
    }

    /// Forgets the requests whose body exceeds what the peer turned out to accept; their ids.
    pub(super) fn forget_requests_above(&mut self, body_bytes_max: usize) -> Vec<u64> {
        let mut forgotten = Vec::new();
        let queued_bytes = &mut self.queued_bytes;
        self.normal.retain(|queued| {
            let keep = queued.body.len() <= body_bytes_max;
            if !keep {
                *queued_bytes -= queued.bytes();
                forgotten.push(queued.header.id);
            }
            keep
        });
        forgotten
    }

    /// The next bytes to send.
    pub(super) fn poll(&mut self, now: Instant, mut senders: Senders<'_>) -> Option<Bytes> {
        while self.pieces.is_empty() && self.buffer.len() < PIECE_BYTES {
            let Some(queued) = self.pop() else { break };
            self.encode(now, queued, &mut senders);
        }
        if self.pieces.is_empty() && !self.buffer.is_empty() {
            self.pieces.push_back(self.buffer.split().freeze());
        }
        let piece = self.pieces.pop_front()?;
        senders.metrics.bytes_sent += piece.len() as u64;
        Some(piece)
    }

    fn pop(&mut self) -> Option<Queued> {
        let queued = match self.urgent.pop_front() {
            Some(queued) => queued,
            None if self.open => self.normal.pop_front()?,
            None => return None,
        };
        self.queued_bytes -= queued.bytes();
        Some(queued)
    }

    fn encode(&mut self, now: Instant, queued: Queued, senders: &mut Senders<'_>) {
        let Queued { mut header, body, gate } = queued;
        match gate {
            Gate::None => {}
            Gate::Answer => senders.requests.answer_sent(header.id),
            Gate::Call => match senders.calls.sent(header.id, now) {
                None => return,
                Some(left) => header.timeout_us = timeout_to_wire(left),
            },
        }
        senders.metrics.frames_sent += 1;
        if body.len() < BODY_UNCOPIED_BYTES_MIN {
            if self.buffer.capacity() - self.buffer.len() < HEADER_BYTES + body.len() {
                let wanted = HEADER_BYTES + body.len() + self.queued_bytes;
                self.buffer.reserve(wanted.clamp(PIECE_BYTES_MIN, PIECE_BYTES));
            }
            self.buffer.put_slice(&header.to_wire(&body));
            self.buffer.put_slice(&body);
        } else {
            self.buffer.put_slice(&header.to_wire(&body));
            self.pieces.push_back(self.buffer.split().freeze());
            self.pieces.push_back(body);
        }
    }
}

/// A deadline as it travels: what is left of it in microseconds, at least 1 and at most some 71 minutes; 0 is none.
fn timeout_to_wire(left: Option<Duration>) -> u32 {
    left.map_or(0, |left| u32::try_from(left.as_micros()).unwrap_or(u32::MAX).max(1))
}
