//! The connection's verbs for streams.

use std::time::Instant;

use bytes::Bytes;

use super::Connection;
use super::event::{Event, StreamId, TraceId};
use super::output::Gate;
use super::streams::{Heard, SendError};
use crate::frame::{FLAG_END, Header, Kind};
use crate::identity::Lane;
use crate::status::{Code, Execution, Status};

impl Connection {
    /// Opens a stream for `method`. It ends in one [`Event::StreamClosed`], which may be there at once. Only on a
    /// connection for bulk: elsewhere, chunks would delay heartbeats.
    pub fn open_stream(&mut self, method: u32, body: Bytes, trace: TraceId) -> StreamId {
        let id = self.take_id() * 2 + u64::from(!self.dialer);
        let stream = self.stream_id(id);
        let refusal = if self.is_closed() {
            Some((Code::Unavailable, "the connection is closed"))
        } else if self.lane != Some(Lane::Bulk) {
            Some((Code::InvalidRequest, "streams need a connection for bulk"))
        } else if self.streams.len() >= self.config.limits.streams_max {
            Some((Code::Overloaded, "too many streams to this peer"))
        } else if body.len() > self.body_bytes_max() {
            Some((Code::InvalidRequest, "the opening body is too large"))
        } else {
            None
        };
        if let Some((code, message)) = refusal {
            let result = Err(Status::new(code, Execution::NotExecuted, message));
            self.event(Event::StreamClosed { stream, result });
            return stream;
        }
        self.metrics.streams_opened += 1;
        self.streams.insert(id);
        let header = Header { method, trace: trace.0, ..Header::new(Kind::StreamOpen, id) };
        self.output.push(header, body, Gate::None);
        stream
    }

    /// Bytes the stream takes now.
    pub fn stream_credit(&self, stream: StreamId) -> usize {
        self.streams.credit(self.own(stream))
    }

    /// Sends the next bytes of a stream, if there is credit for all of them.
    pub fn stream_send(&mut self, stream: StreamId, body: Bytes) -> Result<(), SendError> {
        if body.len() > self.body_bytes_max() {
            return Err(SendError::TooLarge { limit: self.body_bytes_max() });
        }
        self.streams.spend(self.own(stream), body.len())?;
        self.output.push(Header::new(Kind::StreamChunk, stream.id), body, Gate::None);
        Ok(())
    }

    /// Ends our direction of a stream; what the peer sends still comes.
    pub fn stream_end(&mut self, stream: StreamId) -> Result<(), SendError> {
        let over = self.streams.end(self.own(stream))?;
        let header = Header { flags: FLAG_END, ..Header::new(Kind::StreamChunk, stream.id) };
        self.output.push(header, Bytes::new(), Gate::None);
        if over {
            self.event(Event::StreamClosed { stream, result: Ok(()) });
        }
        Ok(())
    }

    /// The application is done with so many bytes of the chunks it was given: the peer may send as many more.
    ///
    /// # Panics
    /// If it was not given so many.
    pub fn stream_consumed(&mut self, stream: StreamId, bytes: usize) {
        if let Some(grant) = self.streams.consume(self.own(stream), bytes) {
            let body = Bytes::copy_from_slice(&grant.to_le_bytes());
            self.output.push_urgent(Header::new(Kind::StreamCredit, stream.id), body);
        }
    }

    /// Ends a stream in both directions at once; the peer is told `status`. What is queued for it is not sent.
    pub fn stream_reset(&mut self, stream: StreamId, status: Status) {
        if self.streams.remove(self.own(stream)) {
            self.send_reset(stream.id, &status);
            self.event(Event::StreamClosed { stream, result: Err(status) });
        }
    }

    fn send_reset(&mut self, id: u64, status: &Status) {
        if !self.output.forget_stream(id) {
            self.output.push(Header::new(Kind::StreamReset, id), self.status_body(status), Gate::None);
        }
    }

    /// A stream whose opening could not be sent.
    pub(super) fn finish_stream(&mut self, id: u64, message: &str) {
        if self.streams.remove(id) {
            self.output.forget_stream(id);
            let result = Err(Status::new(Code::InvalidRequest, Execution::NotExecuted, message));
            let stream = self.stream_id(id);
            self.event(Event::StreamClosed { stream, result });
        }
    }

    pub(super) fn stream_id(&self, id: u64) -> StreamId {
        StreamId { link: self.link, id }
    }

    /// The wire's id for a stream of this connection; one of another is none here, as 0 is.
    fn own(&self, stream: StreamId) -> u64 {
        if stream.link == self.link { stream.id } else { 0 }
    }

    pub(super) fn handle_stream_open(&mut self, now: Instant, header: Header, body: Bytes) {
        let Header { id, method, trace, .. } = header;
        if self.is_ours(id) || !self.streams.is_new(id) {
            return self.violation(now, "a stream id that does not grow");
        }
        if self.lane != Some(Lane::Bulk) {
            return self.violation(now, "a stream on a connection for messages");
        }
        if self.streams.len() >= self.config.limits.streams_max {
            let status = Status::new(Code::Overloaded, Execution::NotExecuted, "too many streams on this connection");
            return self.send_reset(id, &status);
        }
        self.metrics.streams_opened += 1;
        self.streams.insert(id);
        let stream = self.stream_id(id);
        self.event(Event::StreamOpened { stream, method, body, trace: TraceId(trace) });
    }

    pub(super) fn handle_stream_chunk(&mut self, now: Instant, header: Header, body: Bytes) {
        let stream = self.stream_id(header.id);
        if !self.was_stream(header.id) {
            return self.violation(now, "a chunk of a stream never opened");
        }
        match self.streams.heard_chunk(header.id, body.len(), header.flags & FLAG_END != 0) {
            Heard::Chunk { end, over } => {
                self.event(Event::StreamChunk { stream, body, end });
                if over {
                    self.event(Event::StreamClosed { stream, result: Ok(()) });
                }
            }
            Heard::Violation(what) => self.violation(now, what),
            Heard::Nothing | Heard::Writable => {}
        }
    }

    pub(super) fn handle_stream_credit(&mut self, now: Instant, id: u64, body: &[u8]) {
        let Ok(grant) = body.try_into().map(u32::from_le_bytes) else {
            return self.violation(now, "credit of the wrong size");
        };
        if !self.was_stream(id) {
            return self.violation(now, "credit for a stream never opened");
        }
        match self.streams.heard_credit(id, grant) {
            Heard::Writable => {
                let stream = self.stream_id(id);
                self.event(Event::StreamWritable { stream });
            }
            Heard::Violation(what) => self.violation(now, what),
            Heard::Nothing | Heard::Chunk { .. } => {}
        }
    }

    pub(super) fn handle_stream_reset(&mut self, now: Instant, id: u64, body: Bytes) {
        let Some(status) = Status::from_wire(body).filter(|_| self.was_stream(id)) else {
            return self.violation(now, "the reset of a stream never opened, or without a status");
        };
        if self.streams.remove(id) {
            self.output.forget_stream(id);
            let stream = self.stream_id(id);
            self.event(Event::StreamClosed { stream, result: Err(status) });
        }
    }

    fn is_ours(&self, id: u64) -> bool {
        id % 2 == u64::from(!self.dialer)
    }

    /// True if a stream with this id is open or was.
    fn was_stream(&self, id: u64) -> bool {
        if self.is_ours(id) { (self.first_id..self.next_id).contains(&(id / 2)) } else { self.streams.was_seen(id) }
    }
}
