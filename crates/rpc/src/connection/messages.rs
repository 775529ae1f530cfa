//! The connection's verbs for calls, their cancellation and answers, and one-way messages.

use std::time::Instant;

use bytes::Bytes;

use super::calls::Call;
use super::event::{CallId, CallOptions, CloseReason, Event, RequestId, TraceId};
use super::output::Gate;
use super::requests::Answering;
use super::{Connection, Phase};
use crate::frame::{BODY_BYTES_MAX, Header, Kind};
use crate::identity::Lane;
use crate::status::{Code, Execution, Status};

impl Connection {
    /// Calls `method`. The call ends in one [`Event::Completed`], which may be there at once.
    pub fn call(&mut self, now: Instant, method: u32, body: Bytes, options: CallOptions) -> CallId {
        let id = self.take_id();
        self.metrics.called.of(method).start_call(body.len());
        let refusal = self.refuse_call(now, &body, options.deadline);
        self.calls.insert(id, method, now, options.deadline);
        match refusal {
            Some((code, message)) => {
                let status = Status::new(code, Execution::NotExecuted, message);
                self.complete_call(now, id, Err(status));
            }
            None => {
                let header = Header { method, trace: options.trace.0, ..Header::new(Kind::Request, id) };
                self.output.push(header, body, Gate::Call);
            }
        }
        CallId(id)
    }

    fn refuse_call(&self, now: Instant, body: &Bytes, deadline: Option<Instant>) -> Option<(Code, &'static str)> {
        let limits = &self.config.limits;
        if self.is_closed() {
            Some((Code::Unavailable, "the connection is closed"))
        } else if self.lane != Some(Lane::Messages) {
            Some((Code::InvalidRequest, "calls need a connection for messages"))
        } else if deadline.is_some_and(|deadline| deadline <= now) {
            Some((Code::DeadlineExceeded, "the deadline had passed before the call"))
        } else if body.len() > self.body_bytes_max() {
            Some((Code::InvalidRequest, "the body exceeds what the peer accepts"))
        } else if self.calls.len() >= limits.calls_inflight_max {
            Some((Code::Overloaded, "too many calls in flight to this peer"))
        } else if self.output.queued_bytes() >= limits.output_bytes_max {
            Some((Code::Overloaded, "too many bytes wait for this peer"))
        } else {
            None
        }
    }

    /// Ends a call as cancelled, unless it has ended. A request still in the queue is not sent; one that was sent
    /// is followed by its cancellation.
    pub fn cancel(&mut self, now: Instant, call: CallId) {
        let Some(found) = self.calls.remove(call.0) else { return };
        if found.was_sent() {
            self.output.push_urgent(Header::new(Kind::Cancel, call.0), Bytes::new());
        }
        let status = Status::new(Code::Cancelled, found.execution(), "");
        self.end_call(now, call.0, found, Err(status));
    }

    /// Sends a message that has no reply; false if it was dropped, because too much waits for the peer already or
    /// the connection is over. Messages that arrive do so in the order they were sent.
    pub fn send(&mut self, method: u32, body: Bytes, trace: TraceId) -> bool {
        let backlog = self.output.queued_bytes() >= self.config.limits.oneway_backlog_bytes_max;
        if self.is_closed() || self.lane != Some(Lane::Messages) || backlog || body.len() > self.body_bytes_max() {
            self.metrics.oneway_dropped += 1;
            return false;
        }
        self.metrics.called.of(method).message(body.len());
        let header = Header { method, trace: trace.0, ..Header::new(Kind::OneWay, 0) };
        self.output.push(header, body, Gate::None);
        true
    }

    /// Answers a request. False if nobody waits for the answer any more.
    pub fn answer(&mut self, now: Instant, request: RequestId, result: Result<Bytes, Status>) -> bool {
        let Answering::Wanted { method, started } = self.answering(request) else {
            self.metrics.answers_late += 1;
            return false;
        };
        let result = result.and_then(|body| self.check_reply(body));
        let outcome = result.as_ref().map(Bytes::len).map_err(|status| status.code);
        self.metrics.served.of(method).end_call(outcome, now.saturating_duration_since(started));
        match result {
            Ok(body) => self.output.push(Header::new(Kind::Reply, request.id), body, Gate::Answer),
            Err(status) => {
                let header = Header::new(Kind::Failure, request.id);
                self.output.push(header, self.status_body(&status), Gate::Answer);
            }
        }
        true
    }

    fn answering(&mut self, request: RequestId) -> Answering {
        if request.link == self.link { self.requests.answer(request.id) } else { Answering::Unwanted }
    }

    /// A status for the peer; without its payload where that is more than the peer accepts in one frame.
    pub(super) fn status_body(&self, status: &Status) -> Bytes {
        let body = status.to_wire();
        if body.len() <= self.body_bytes_max() {
            return body;
        }
        Status { payload: Bytes::new(), ..status.clone() }.to_wire()
    }

    fn check_reply(&self, body: Bytes) -> Result<Bytes, Status> {
        let problem = if body.len() > self.body_bytes_max() {
            "the reply exceeds what the caller accepts"
        } else if self.output.queued_bytes() >= self.config.limits.output_bytes_max {
            "the caller does not read its replies"
        } else {
            return Ok(body);
        };
        Err(Status::new(Code::Overloaded, Execution::Executed, problem))
    }

    /// The largest body that may be sent.
    pub(super) fn body_bytes_max(&self) -> usize {
        match &self.phase {
            Phase::Established { peer, .. } => peer.body_bytes_max,
            _ => self.config.limits.body_bytes_max.min(BODY_BYTES_MAX),
        }
    }

    pub(super) fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    pub(super) fn complete_call(&mut self, now: Instant, id: u64, result: Result<Bytes, Status>) {
        if let Some(call) = self.calls.remove(id) {
            self.end_call(now, id, call, result);
        }
    }

    pub(super) fn end_call(&mut self, now: Instant, id: u64, call: Call, result: Result<Bytes, Status>) {
        let outcome = result.as_ref().map(Bytes::len).map_err(|status| status.code);
        let took = now.saturating_duration_since(call.started);
        self.metrics.called.of(call.method).end_call(outcome, took);
        self.event(Event::Completed { call: CallId(id), result });
    }

    pub(super) fn expire_calls(&mut self, now: Instant) {
        while let Some((id, call, status)) = self.calls.pop_due(now) {
            // The server enforces the deadline by itself; there is nothing to tell it.
            self.end_call(now, id, call, Err(status));
        }
    }

    pub(super) fn expire_requests(&mut self, now: Instant) {
        while let Some(id) = self.requests.pop_due(now) {
            if self.abandon_request(now, id, Code::DeadlineExceeded) {
                let status = Status::new(Code::DeadlineExceeded, Execution::MayHaveExecuted, "no answer in time");
                self.output.push(Header::new(Kind::Failure, id), status.to_wire(), Gate::None);
            }
        }
    }

    /// Nobody waits for the request any more; the application is told.
    pub(super) fn abandon_request(&mut self, now: Instant, id: u64, code: Code) -> bool {
        let Some((method, took)) = self.requests.abandon(id, now) else { return false };
        self.metrics.served.of(method).end_call(Err(code), took);
        let id = self.request_id(id);
        self.event(Event::Cancelled { id });
        true
    }

    pub(super) fn handle_request(&mut self, now: Instant, header: Header, body: Bytes) {
        let Header { id, method, trace, timeout_us, .. } = header;
        if !self.requests.is_new(id) {
            return self.violation(now, "a request id that does not grow");
        }
        if self.lane != Some(Lane::Messages) {
            return self.violation(now, "a request on a connection for streams");
        }
        let timeout = (timeout_us != 0).then(|| std::time::Duration::from_micros(timeout_us.into()));
        let deadline = timeout.and_then(|timeout| now.checked_add(timeout));
        self.metrics.served.of(method).start_call(body.len());
        match self.requests.admit(&self.config.limits, now, (id, method, body.len()), deadline) {
            Ok(()) => {
                let (id, trace) = (self.request_id(id), TraceId(trace));
                self.event(Event::Request { id, method, body, deadline, trace });
            }
            Err(problem) => {
                let took = std::time::Duration::ZERO;
                self.metrics.served.of(method).end_call(Err(Code::Overloaded), took);
                let status = Status::new(Code::Overloaded, Execution::NotExecuted, problem);
                self.output.push(Header::new(Kind::Failure, id), status.to_wire(), Gate::None);
            }
        }
    }

    fn request_id(&self, id: u64) -> RequestId {
        RequestId { link: self.link, id }
    }

    pub(super) fn handle_message(&mut self, now: Instant, header: Header, body: Bytes) {
        if self.lane != Some(Lane::Messages) {
            return self.violation(now, "a message on a connection for streams");
        }
        self.metrics.served.of(header.method).message(body.len());
        self.event(Event::Message { method: header.method, body, trace: TraceId(header.trace) });
    }

    pub(super) fn handle_reply(&mut self, now: Instant, id: u64, result: Result<Bytes, Status>) {
        if self.calls.was_sent(id) {
            self.complete_call(now, id, result);
        } else if (self.first_id..self.next_id).contains(&id) {
            self.metrics.replies_late += 1;
        } else {
            self.end(now, CloseReason::Violation("a reply to a call never made"));
        }
    }

    pub(super) fn handle_cancel(&mut self, now: Instant, id: u64) {
        if !self.requests.was_seen(id) {
            return self.violation(now, "the cancellation of a request never made");
        }
        self.abandon_request(now, id, Code::Cancelled);
    }
}
