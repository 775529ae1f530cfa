//! One connection between two nodes, as a pure state machine: bytes and the time go in, bytes and events come out.
//!
//! ```text
//!                    handle_input(now, bytes)          poll_output(now) -> bytes
//!     transport  --------------------------->  +---+  ---------------------------->  transport
//!                    handle_lost(now, why)     |   |   poll_timeout() -> when to call handle_timeout
//!                                              |   |
//!     application  call, cancel, send, answer  |   |   poll_event() -> Established, Completed, Request, ...
//!                -----------------------------> +---+  ---------------------------->  application
//! ```
//!
//! Both ends are alike after the handshake: each calls and serves. The driver hands in what it reads, then polls
//! events, output and timeout until there is nothing more. It takes output only as fast as the transport sends it,
//! because what waits in here is what the bounds are measured on.
//!
//! Invariants:
//! * every call ends in exactly one [`Event::Completed`], every stream in one [`Event::StreamClosed`], the
//!   connection in one [`Event::Closed`], which is the last event, but for the failures of calls made after it;
//! * whatever a peer sends, this end does not panic and holds no more memory than its [`Limits`](crate::Limits);
//! * time is only what callers say; a time that goes back does no harm beyond late timeouts.

mod calls;
mod event;
mod heartbeat;
mod messages;
mod output;
mod requests;
mod streams;
mod transfers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost::Message as _;

pub use self::event::{CallId, CallOptions, CloseCode, CloseReason, Event, LinkId, RequestId, StreamId, TraceId};
pub use self::streams::SendError;

use self::calls::Calls;
use self::heartbeat::{Beat, Heartbeat};
use self::output::{Output, Senders};
use self::requests::Requests;
use self::streams::Streams;
use crate::config::{Admission, Config};
use crate::frame::{Decoder, Frame, Header, Kind};
use crate::handshake::{HANDSHAKE_BODY_BYTES_MAX, Handshake, Nonce, Peer, Refusal};
use crate::identity::{Lane, NodeId};
use crate::metrics::Metrics;
use crate::status::{Code, Execution, Status};

/// Frames that may wait for a peer that does not read, beyond its bounded replies: refusals and the like. A peer
/// that lets more pile up only sends, and is closed.
const QUEUED_FRAMES_MAX: usize = 1 << 16;

#[derive(Debug)]
enum Phase {
    Handshaking { handshake: Box<Handshake>, deadline: Instant },
    Established { peer: Peer, heartbeat: Heartbeat },
    Closed,
}

/// How a dialer begins.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    /// The owner's name for the connection.
    pub link: LinkId,
    /// Fresh random bytes.
    pub nonce: Nonce,
    /// What the connection is for.
    pub lane: Lane,
    /// Whom it has to reach, if that is known.
    pub expected: Option<NodeId>,
    /// The first id of calls and streams: greater than any used towards this peer, so that ids are never used twice.
    pub first_id: u64,
}

/// One connection. See the [module](self).
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
    link: LinkId,
    phase: Phase,
    /// What it is for: a dialer knows from the beginning, an acceptor once it is established.
    lane: Option<Lane>,
    /// Dialers open streams with even ids, acceptors with odd ones.
    dialer: bool,
    /// Of the next call or stream of ours.
    next_id: u64,
    first_id: u64,
    decoder: Decoder,
    output: Output,
    calls: Calls,
    requests: Requests,
    streams: Streams,
    events: VecDeque<Event>,
    metrics: Metrics,
}

impl Connection {
    /// The dialing end. Calls may be made at once; they leave when the handshake is done. The handshake's timeout
    /// runs from here, so it covers the transport's connecting too.
    pub fn dial(config: Arc<Config>, admission: Admission, now: Instant, dial: Dial) -> Connection {
        let (handshake, (kind, body)) = Handshake::dial(config.clone(), dial.nonce, dial.lane, dial.expected);
        let mut connection = Connection::new(config, admission, now, handshake, dial.link);
        connection.dialer = true;
        connection.lane = Some(dial.lane);
        connection.first_id = dial.first_id.max(1);
        connection.next_id = connection.first_id;
        connection.output.push_urgent(Header::new(kind, 0), body);
        connection
    }

    /// The accepting end. It can call its peer once established, when it knows who that is.
    pub fn accept(config: Arc<Config>, admission: Admission, now: Instant, link: LinkId, nonce: Nonce) -> Connection {
        let handshake = Handshake::accept(config.clone(), nonce);
        Connection::new(config, admission, now, handshake, link)
    }

    fn new(config: Arc<Config>, admission: Admission, now: Instant, handshake: Handshake, link: LinkId) -> Connection {
        Connection {
            link,
            phase: Phase::Handshaking { handshake: Box::new(handshake), deadline: now + config.timeouts.handshake },
            lane: None,
            dialer: false,
            next_id: 1,
            first_id: 1,
            decoder: Decoder::new(HANDSHAKE_BODY_BYTES_MAX),
            output: Output::default(),
            calls: Calls::default(),
            requests: Requests::new(admission),
            streams: Streams::new(config.limits.stream_window_bytes),
            events: VecDeque::new(),
            metrics: Metrics::default(),
            config,
        }
    }

    /// Takes bytes from the peer. What was due before them happens first, so results do not depend on whether the
    /// driver tells the time before or after it reads.
    pub fn handle_input(&mut self, now: Instant, bytes: &[u8]) {
        self.handle_timeout(now);
        self.metrics.bytes_received += bytes.len() as u64;
        if let Phase::Established { heartbeat, .. } = &mut self.phase {
            heartbeat.received(now);
        }
        let mut input = bytes;
        while !self.is_closed() {
            match self.decoder.next(&mut input) {
                Ok(None) => return,
                Ok(Some(frame)) => {
                    self.metrics.frames_received += 1;
                    self.handle_frame(now, frame);
                }
                Err(error) => self.end(now, CloseReason::Frame(error)),
            }
        }
    }

    /// Does what is due: deadlines, heartbeats.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire_calls(now);
        self.expire_requests(now);
        let timeouts = &self.config.timeouts;
        match &mut self.phase {
            Phase::Handshaking { deadline, .. } if now >= *deadline => {
                let reason = CloseReason::HandshakeTimeout(timeouts.handshake);
                self.end(now, reason);
            }
            Phase::Established { heartbeat, .. } => match heartbeat.handle_timeout(now, timeouts) {
                Beat::Nothing => {}
                Beat::Ping(id) => self.output.push_urgent(Header::new(Kind::Ping, id), Bytes::new()),
                Beat::Silent(silence) => self.end(now, CloseReason::Silent(silence)),
            },
            Phase::Handshaking { .. } | Phase::Closed => {}
        }
    }

    /// The transport broke, could not be made, or the peer closed it.
    pub fn handle_lost(&mut self, now: Instant, why: &str) {
        self.end(now, CloseReason::Lost(why.to_owned()));
    }

    /// Ends the connection from this side; the peer is told `why`.
    pub fn close(&mut self, now: Instant, why: &str) {
        self.end(now, CloseReason::Local(why.to_owned()));
    }

    /// The next bytes to send; to be asked for only when the transport takes them.
    pub fn poll_output(&mut self, now: Instant) -> Option<Bytes> {
        let Connection { output, calls, requests, metrics, .. } = self;
        output.poll(now, Senders { calls, requests, metrics })
    }

    /// When [`Connection::handle_timeout`] is to be called; `None` once closed.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Handshaking { deadline, .. } => *deadline,
            Phase::Established { heartbeat, .. } => heartbeat.next_deadline(&self.config.timeouts),
            Phase::Closed => return None,
        };
        [Some(phase), self.calls.next_deadline(), self.requests.next_deadline()].into_iter().flatten().min()
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// True if [`Connection::poll_output`] may have something to give.
    pub fn has_output(&self) -> bool {
        self.output.is_pending()
    }

    /// True once it is over. There may be output left: the reason, for the peer.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// True while calls can be sent.
    pub fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Established { .. })
    }

    /// The peer, while established.
    pub fn peer(&self) -> Option<&Peer> {
        match &self.phase {
            Phase::Established { peer, .. } => Some(peer),
            _ => None,
        }
    }

    /// The least id that a later connection to the same peer may begin with.
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Calls of ours that have not ended.
    pub fn calls_inflight(&self) -> usize {
        self.calls.len()
    }

    /// Requests of the peer that hold a place.
    pub fn requests_inflight(&self) -> usize {
        self.requests.len()
    }

    /// Streams not over.
    pub fn streams_open(&self) -> usize {
        self.streams.len()
    }

    /// Bytes that wait for the transport.
    pub fn output_bytes(&self) -> usize {
        self.output.queued_bytes()
    }

    /// What it has done so far.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the connection is for, once that is known.
    pub fn lane(&self) -> Option<Lane> {
        self.lane
    }

    fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    fn handle_frame(&mut self, now: Instant, frame: Frame) {
        if frame.header.kind == Kind::Close {
            return self.handle_close(now, &frame.body);
        }
        match &mut self.phase {
            Phase::Handshaking { handshake, .. } => match handshake.handle(&frame) {
                Ok(step) => {
                    if let Some((kind, body)) = step.send {
                        self.output.push_urgent(Header::new(kind, 0), body);
                    }
                    if let Some(peer) = step.done {
                        self.establish(now, peer);
                    }
                }
                Err(refusal) => self.end(now, CloseReason::Refused(refusal)),
            },
            Phase::Established { .. } => self.handle_established_frame(now, frame),
            Phase::Closed => {}
        }
    }

    fn establish(&mut self, now: Instant, peer: Peer) {
        self.phase = Phase::Established { peer, heartbeat: Heartbeat::new(now) };
        self.lane = Some(peer.lane);
        self.decoder.set_body_bytes_max(self.config.limits.body_bytes_max);
        self.event(Event::Established(peer));
        for id in self.output.forget_requests_above(peer.body_bytes_max) {
            let message = "the body exceeds what the peer accepts";
            let status = Status::new(Code::InvalidRequest, Execution::NotExecuted, message);
            self.complete_call(now, id, Err(status));
            self.finish_stream(id, "the opening body exceeds what the peer accepts");
        }
        self.output.open();
        for id in self.streams.set_peer_window(peer.stream_window_bytes) {
            let stream = self.stream_id(id);
            self.event(Event::StreamWritable { stream });
        }
    }

    fn handle_established_frame(&mut self, now: Instant, frame: Frame) {
        let Frame { header, body } = frame;
        match header.kind {
            Kind::Request => self.handle_request(now, header, body),
            Kind::Reply => self.handle_reply(now, header.id, Ok(body)),
            Kind::Failure => match Status::from_wire(body) {
                Some(status) => self.handle_reply(now, header.id, Err(status)),
                None => self.violation(now, "a failure without a status"),
            },
            Kind::Cancel => self.handle_cancel(now, header.id),
            Kind::OneWay => self.handle_message(now, header, body),
            Kind::Ping => self.output.push_urgent(Header::new(Kind::Pong, header.id), Bytes::new()),
            Kind::Pong => self.handle_pong(now, header.id),
            Kind::StreamOpen => self.handle_stream_open(now, header, body),
            Kind::StreamChunk => self.handle_stream_chunk(now, header, body),
            Kind::StreamCredit => self.handle_stream_credit(now, header.id, &body),
            Kind::StreamReset => self.handle_stream_reset(now, header.id, body),
            Kind::Hello | Kind::Challenge | Kind::Proof | Kind::Welcome | Kind::Identity => {
                self.violation(now, "a handshake frame after the handshake");
            }
            Kind::Close => unreachable!("handled before"),
        }
        if self.output.queued_frames() > QUEUED_FRAMES_MAX {
            self.violation(now, "the peer sends and does not read");
        }
    }

    fn handle_pong(&mut self, now: Instant, id: u64) {
        if let Phase::Established { heartbeat, .. } = &mut self.phase {
            let known = heartbeat.pong(now, id);
            self.metrics.round_trip = heartbeat.round_trip().or(self.metrics.round_trip);
            if !known {
                self.violation(now, "an answer to a ping never sent");
            }
        }
    }

    fn handle_close(&mut self, now: Instant, body: &Bytes) {
        let reason = match CloseBody::decode(body.clone()) {
            Ok(body) => CloseReason::Peer {
                code: CloseCode::try_from(body.code).unwrap_or(CloseCode::Unknown),
                message: body.message,
            },
            Err(_) if self.is_established() => CloseReason::Violation("a close without a reason"),
            Err(_) => CloseReason::Refused(Refusal::Malformed("close")),
        };
        self.end(now, reason);
    }

    fn violation(&mut self, now: Instant, what: &'static str) {
        self.end(now, CloseReason::Violation(what));
    }

    /// The only place where a connection ends. Everything that waits is told, then the owner.
    fn end(&mut self, now: Instant, reason: CloseReason) {
        if self.is_closed() {
            return;
        }
        self.phase = Phase::Closed;
        self.output.clear();
        if let Some(code) = reason.to_tell() {
            let message = match &reason {
                CloseReason::Local(why) => why.clone(),
                _ => reason.to_string(),
            };
            let body = CloseBody { code: code as i32, message };
            self.output.push_urgent(Header::new(Kind::Close, 0), body.encode_to_vec().into());
        }
        let why = reason.to_string();
        while let Some((id, call)) = self.calls.pop() {
            let status = Status::new(Code::Unavailable, call.execution(), why.as_str());
            self.end_call(now, id, call, Err(status));
        }
        while let Some(id) = self.streams.pop() {
            let status = Status::new(Code::Unavailable, Execution::MayHaveExecuted, why.as_str());
            let stream = self.stream_id(id);
            self.event(Event::StreamClosed { stream, result: Err(status) });
        }
        for id in self.requests.open_ids() {
            self.abandon_request(now, id, Code::Unavailable);
        }
        self.requests.clear();
        self.event(Event::Closed { reason });
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct CloseBody {
    #[prost(enumeration = "CloseCode", tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}
