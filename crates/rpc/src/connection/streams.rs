//! Streams: ordered bytes in both directions, each paced by credit.
//!
//! Each direction begins with the window its receiver announced in the handshake. Sending a chunk spends credit;
//! the receiver grants it anew as its application consumes. So a stream holds at most one window of unread bytes
//! at the receiver, and one that nobody reads stops by itself without holding up the others.
//!
//! A direction ends with a chunk that carries the end flag; the stream ends when both directions have, or at once
//! when either end resets it.

use std::collections::BTreeMap;

/// Credit is granted once this fraction of the window has been consumed: few credit frames, and never a stall.
const GRANT_FRACTION: u32 = 4;

/// Why bytes cannot be sent on a stream. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// More than the credit left; a `StreamWritable` event follows when there is more. A chunk above the whole
    /// window never fits.
    #[error("the stream has credit for {credit} bytes only")]
    Blocked {
        /// Bytes that may be sent now.
        credit: usize,
    },
    /// More than the peer accepts in one frame.
    #[error("the peer takes chunks of at most {limit} bytes")]
    TooLarge {
        /// Bytes of the largest chunk.
        limit: usize,
    },
    /// Our direction was ended.
    #[error("the stream was ended on this side")]
    Ended,
    /// No such stream: over, or never there.
    #[error("the stream is closed")]
    Closed,
    /// An empty chunk would cost no credit, so none is sent.
    #[error("a chunk must not be empty")]
    Empty,
}

#[derive(Debug)]
struct Stream {
    /// Bytes we may still send.
    send_credit: u64,
    send_ended: bool,
    /// The application found no credit and waits to be told.
    blocked: bool,
    /// Bytes the peer may still send.
    receive_credit: u64,
    /// Bytes consumed here and not granted anew.
    consumed: u32,
    /// Bytes received and not consumed.
    unread: u64,
    receive_ended: bool,
}

/// All of a connection's streams, by id.
#[derive(Debug)]
pub(super) struct Streams {
    open: BTreeMap<u64, Stream>,
    /// What we grant each stream.
    window: u32,
    /// What the peer grants each stream; `None` before the handshake is done.
    peer_window: Option<u32>,
    /// The peer's ids only grow.
    peer_last_id: u64,
}

/// What a frame of the peer does to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing to tell the application.
    Nothing,
    /// A chunk to hand over, and whether the peer's direction ended with it, and the stream with that.
    Chunk {
        /// The peer's last.
        end: bool,
        /// Both directions have ended.
        over: bool,
    },
    /// There is credit again for an application that waits for it.
    Writable,
    /// Against the rules: the connection has to be closed.
    Violation(&'static str),
}

impl Streams {
    pub(super) fn new(window: u32) -> Streams {
        Streams { open: BTreeMap::new(), window, peer_window: None, peer_last_id: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The peer's window is known: streams opened before can begin to send. Their ids.
    pub(super) fn set_peer_window(&mut self, window: u32) -> Vec<u64> {
        self.peer_window = Some(window);
        for stream in self.open.values_mut() {
            stream.send_credit = window.into();
        }
        let writable = |(id, stream): (&u64, &mut Stream)| std::mem::take(&mut stream.blocked).then_some(*id);
        self.open.iter_mut().filter_map(writable).collect()
    }

    /// Opens a stream of ours, or takes one of the peer's.
    pub(super) fn insert(&mut self, id: u64) {
        let stream = Stream {
            send_credit: self.peer_window.unwrap_or(0).into(),
            send_ended: false,
            blocked: false,
            receive_credit: self.window.into(),
            consumed: 0,
            unread: 0,
            receive_ended: false,
        };
        let before = self.open.insert(id, stream);
        assert!(before.is_none(), "stream id {id} is in use");
    }

    /// True if the peer may open a stream with this id.
    pub(super) fn is_new(&mut self, id: u64) -> bool {
        let new = id > self.peer_last_id;
        self.peer_last_id = self.peer_last_id.max(id);
        new
    }

    /// True if the peer once opened a stream with this id.
    pub(super) fn was_seen(&self, id: u64) -> bool {
        id != 0 && id <= self.peer_last_id
    }

    pub(super) fn remove(&mut self, id: u64) -> bool {
        self.open.remove(&id).is_some()
    }

    /// Any stream, when all of them end.
    pub(super) fn pop(&mut self) -> Option<u64> {
        self.open.pop_first().map(|(id, _)| id)
    }

    /// Bytes that may be sent now.
    pub(super) fn credit(&self, id: u64) -> usize {
        let sending = self.open.get(&id).filter(|stream| !stream.send_ended);
        sending.map_or(0, |stream| stream.send_credit as usize)
    }

    /// Spends credit for a chunk.
    pub(super) fn spend(&mut self, id: u64, bytes: usize) -> Result<(), SendError> {
        let stream = self.open.get_mut(&id).ok_or(SendError::Closed)?;
        if stream.send_ended {
            return Err(SendError::Ended);
        }
        if bytes == 0 {
            return Err(SendError::Empty);
        }
        if bytes as u64 > stream.send_credit {
            stream.blocked = true;
            return Err(SendError::Blocked { credit: stream.send_credit as usize });
        }
        stream.send_credit -= bytes as u64;
        Ok(())
    }

    /// Ends our direction; true if the stream is over with that.
    pub(super) fn end(&mut self, id: u64) -> Result<bool, SendError> {
        let stream = self.open.get_mut(&id).ok_or(SendError::Closed)?;
        if std::mem::replace(&mut stream.send_ended, true) {
            return Err(SendError::Ended);
        }
        stream.blocked = false;
        Ok(stream.receive_ended && self.remove(id))
    }

    /// The peer sent a chunk.
    pub(super) fn heard_chunk(&mut self, id: u64, bytes: usize, end: bool) -> Heard {
        let Some(stream) = self.open.get_mut(&id) else { return Heard::Nothing };
        if stream.receive_ended {
            return Heard::Violation("a chunk after the end of a stream");
        }
        if bytes as u64 > stream.receive_credit {
            return Heard::Violation("a chunk beyond the stream's credit");
        }
        if bytes == 0 && !end {
            return Heard::Violation("an empty chunk");
        }
        stream.receive_credit -= bytes as u64;
        stream.unread += bytes as u64;
        stream.receive_ended = end;
        let over = end && stream.send_ended && self.remove(id);
        Heard::Chunk { end, over }
    }

    /// The peer grants credit.
    pub(super) fn heard_credit(&mut self, id: u64, bytes: u32) -> Heard {
        let Some(stream) = self.open.get_mut(&id) else { return Heard::Nothing };
        stream.send_credit += u64::from(bytes);
        if stream.send_credit > self.peer_window.unwrap_or(0).into() {
            return Heard::Violation("credit beyond the stream's window");
        }
        if std::mem::take(&mut stream.blocked) { Heard::Writable } else { Heard::Nothing }
    }

    /// The application consumed bytes; the credit to grant for them, when it is time to.
    ///
    /// # Panics
    /// If more is consumed than was received.
    pub(super) fn consume(&mut self, id: u64, bytes: usize) -> Option<u32> {
        let stream = self.open.get_mut(&id)?;
        assert!(bytes as u64 <= stream.unread, "consumed {bytes} bytes of {} unread", stream.unread);
        stream.unread -= bytes as u64;
        if stream.receive_ended {
            return None;
        }
        stream.consumed += u32::try_from(bytes).expect("unread bytes are below the window");
        if stream.consumed < self.window / GRANT_FRACTION {
            return None;
        }
        let grant = std::mem::take(&mut stream.consumed);
        stream.receive_credit += u64::from(grant);
        Some(grant)
    }
}
