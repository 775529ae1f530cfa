//! Two endpoints joined by a simulated link that splits, delays and cuts, against a random sequence of everything
//! an application can do. What must hold, whatever happens:
//!
//! * every call ends exactly once, with a reply, an error or its deadline, and not after its deadline;
//! * a reply is the reply to that very request;
//! * a call that is said not to have been executed never reached the application;
//! * messages of one connection arrive in order, each at most once;
//! * the bytes of a stream arrive in order, without a gap, and each stream is over exactly once at each end;
//! * when all is over, nothing is left: no calls, no places, no streams, no queued bytes.
//!
//! `RPC_SEQUENCES=100000` runs that many; `RPC_SEED=n` begins with another seed (and `RPC_SEQUENCES=1` replays it).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dstore_rpc::{
    Action, Admission, CallId, CallOptions, Channel, ClusterId, Code, Config, Connection, Entropy, Event, Execution,
    Identity, Incarnation, Lane, LinkId, NodeId, RequestId, Route, Secret, Status, StreamId, TraceId,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

const SEQUENCES_DEFAULT: u64 = 1500;
const STEPS: usize = 200;
const CALL: u32 = 1;
const MESSAGE: u32 = 2;
const STREAM: u32 = 3;

struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// One direction of the wire.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
}

struct PendingCall {
    payload: u64,
    deadline: Option<Instant>,
}

/// What the accepting end, as an application, has to answer.
struct Work {
    id: RequestId,
    payload: u64,
}

struct Simulation {
    dice: Dice,
    now: Instant,
    lane: Lane,
    dialer: Channel,
    server: Option<Connection>,
    server_config: Arc<Config>,
    admission: Admission,
    link: Option<LinkId>,
    links: u64,
    to_server: Pipe,
    to_dialer: Pipe,
    next_payload: u64,
    /// Calls made and not ended.
    calls: BTreeMap<CallId, PendingCall>,
    /// Payloads that reached the serving application.
    executed: BTreeSet<u64>,
    work: Vec<Work>,
    /// Message numbers of the current connection, as sent and as arrived.
    last_message: u64,
    /// Streams open at the dialer: bytes sent so far; and at the server: bytes received so far.
    opened: BTreeMap<StreamId, u64>,
    /// Those the dialer has ended on its side.
    half_closed: BTreeSet<StreamId>,
    received: BTreeMap<StreamId, u64>,
    ended: Outcomes,
}

/// What was seen, so that a run that never gets to the interesting cases is noticed.
#[derive(Debug, Default, Clone, Copy)]
struct Outcomes {
    replies: u64,
    deadlines: u64,
    cancelled: u64,
    unavailable: u64,
    overloaded: u64,
    application: u64,
    messages: u64,
    messages_dropped: u64,
    streams_over: u64,
    streams_failed: u64,
    stream_bytes: u64,
    connections: u64,
    quiesced: u64,
}

fn config(node: u64, dice: &mut Dice) -> Config {
    let identity = Identity { cluster: ClusterId(5), node: NodeId(node), incarnation: Incarnation(1) };
    let mut config = Config::new(identity, Secret::new(b"sixteen bytes or more").expect("long enough"));
    config.limits.calls_inflight_max = 1 + dice.below(20);
    config.limits.requests_inflight_max = 1 + dice.below(20);
    config.limits.oneway_backlog_bytes_max = 500 + dice.below(1000);
    config.limits.output_bytes_max = 1000 + dice.below(2000);
    config.limits.streams_max = 1 + dice.below(4);
    config.limits.stream_window_bytes = 16 + dice.below(500) as u32;
    config
}

/// The number a body begins with.
fn number(body: &[u8]) -> u64 {
    u64::from_le_bytes(body[..8].try_into().expect("eight bytes"))
}

impl Simulation {
    fn new(seed: u64, now: Instant) -> Simulation {
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
        let lane = if dice.one_in(3) { Lane::Bulk } else { Lane::Messages };
        let (dialer_config, server_config) = (config(1, &mut dice), config(2, &mut dice));
        let entropy = Entropy::new([seed as u8; 32]);
        let route = Route { lane, expected: Some(NodeId(2)), links_above: LinkId(0) };
        let admission = Admission::new(1 + dice.below(30), 1 << 20);
        let dialer = Channel::new(Arc::new(dialer_config), Admission::default(), entropy, route);
        Simulation {
            dice,
            now,
            lane,
            dialer,
            server: None,
            server_config: Arc::new(server_config),
            admission,
            link: None,
            links: 0,
            to_server: Pipe::default(),
            to_dialer: Pipe::default(),
            next_payload: 0,
            calls: BTreeMap::new(),
            executed: BTreeSet::new(),
            work: Vec::new(),
            last_message: 0,
            opened: BTreeMap::new(),
            half_closed: BTreeSet::new(),
            received: BTreeMap::new(),
            ended: Outcomes::default(),
        }
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..=29 => self.use_dialer(),
            30..=49 => self.serve(),
            50..=88 => self.carry(),
            89..=95 => self.pass_time(),
            96..=98 => self.pull(),
            _ => self.disturb(),
        }
        self.settle();
    }

    fn use_dialer(&mut self) {
        if self.lane == Lane::Bulk {
            return self.use_stream();
        }
        match self.dice.below(10) {
            0..=5 => self.call(),
            6..=7 => {
                self.next_payload += 1;
                let body = self.body(self.next_payload);
                if !self.dialer.send(self.now, MESSAGE, body, TraceId(1)) {
                    self.ended.messages_dropped += 1;
                }
            }
            _ => {
                let at = self.dice.below(self.calls.len());
                if let Some(call) = self.calls.keys().nth(at).copied() {
                    self.dialer.cancel(self.now, call);
                }
            }
        }
    }

    fn call(&mut self) {
        self.next_payload += 1;
        let payload = self.next_payload;
        let timeout = Duration::from_millis(self.dice.below(3000) as u64);
        let deadline = (!self.dice.one_in(4)).then(|| self.now + timeout);
        let options = CallOptions { deadline, trace: TraceId(payload) };
        let body = self.body(payload);
        let call = self.dialer.call(self.now, CALL, body, options);
        let before = self.calls.insert(call, PendingCall { payload, deadline });
        assert!(before.is_none(), "call id {call:?} given twice");
    }

    fn use_stream(&mut self) {
        let at = self.dice.below(self.opened.len());
        let Some(stream) = self.opened.keys().nth(at).copied().filter(|_| !self.dice.one_in(8)) else {
            let stream = self.dialer.open_stream(self.now, STREAM, Bytes::new(), TraceId(0));
            return assert!(self.opened.insert(stream, 0).is_none(), "stream id {stream:?} given twice");
        };
        match self.dice.below(20) {
            0 => self.dialer.stream_reset(self.now, stream, Status::new(Code::Cancelled, Execution::Executed, "")),
            1..=2 => {
                self.half_closed.extend(self.dialer.stream_end(self.now, stream).is_ok().then_some(stream));
            }
            _ => {
                let sent = self.opened.get_mut(&stream).expect("chosen from the open ones");
                let bytes = self.dice.below(300);
                let chunk: Bytes = (*sent..*sent + bytes as u64).map(|at| at as u8).collect();
                if self.dialer.stream_send(self.now, stream, chunk).is_ok() {
                    *sent += bytes as u64;
                }
            }
        }
    }

    fn body(&mut self, payload: u64) -> Bytes {
        let mut body = payload.to_le_bytes().to_vec();
        body.resize(8 + self.dice.below(100), 0);
        body.into()
    }

    /// The serving application answers something, or ends a stream.
    fn serve(&mut self) {
        let Some(server) = &mut self.server else { return };
        if !self.work.is_empty() {
            let work = self.work.swap_remove(self.dice.below(self.work.len()));
            let result = match self.dice.below(6) {
                0 => Err(Status::application(work.payload.to_le_bytes().to_vec(), "refused")),
                _ => Ok(Bytes::copy_from_slice(&work.payload.to_le_bytes())),
            };
            server.answer(self.now, work.id, result);
            return;
        }
        let at = self.dice.below(self.received.len());
        if let Some(stream) = self.received.keys().nth(at).copied() {
            match self.dice.below(20) {
                0 => server.stream_reset(stream, Status::new(Code::Overloaded, Execution::Executed, "")),
                1..=4 => drop(server.stream_end(stream)),
                _ => {}
            }
        }
    }

    /// Delivers a random part of what is on its way, in pieces.
    fn carry(&mut self) {
        self.pull();
        for to_server in [true, false] {
            let pipe = if to_server { &mut self.to_server } else { &mut self.to_dialer };
            let mut left = self.dice.below(pipe.bytes.len() * 2).min(pipe.bytes.len());
            while left > 0 {
                let pipe = if to_server { &mut self.to_server } else { &mut self.to_dialer };
                let piece = (1 + self.dice.below(left)).min(pipe.bytes.len());
                if piece == 0 {
                    break;
                }
                let bytes: Vec<u8> = pipe.bytes.drain(..piece).collect();
                left -= piece;
                match (to_server, &mut self.server, self.link) {
                    (true, Some(server), _) => server.handle_input(self.now, &bytes),
                    (false, _, Some(link)) => self.dialer.handle_input(self.now, link, &bytes),
                    _ => {}
                }
                self.settle();
            }
        }
    }

    fn pull(&mut self) {
        if let Some(link) = self.link {
            while let Some(piece) = self.dialer.poll_output(self.now, link) {
                self.to_server.bytes.extend(piece);
                if self.dice.one_in(4) {
                    break;
                }
            }
        }
        while let Some(piece) = self.server.as_mut().and_then(|server| server.poll_output(self.now)) {
            self.to_dialer.bytes.extend(piece);
        }
    }

    fn pass_time(&mut self) {
        self.now += Duration::from_micros(self.dice.below(400_000) as u64);
        if self.dice.one_in(2) {
            self.dialer.handle_timeout(self.now);
        }
        if let Some(server) = self.server.as_mut().filter(|_| self.dice.one_in(2)) {
            server.handle_timeout(self.now);
        }
    }

    /// Cuts the wire, changes a byte on it, or moves the peer.
    fn disturb(&mut self) {
        match self.dice.below(6) {
            0..=2 => self.cut(),
            3 => {
                let at = self.dice.below(self.to_server.bytes.len());
                let bit = self.dice.below(8);
                if let Some(byte) = self.to_server.bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            4 => self.dialer.readdress(self.now),
            _ => {
                if let Some(server) = &mut self.server {
                    server.close(self.now, "restart");
                }
            }
        }
    }

    fn cut(&mut self) {
        if let Some(link) = self.link.take() {
            self.dialer.handle_lost(self.now, link, "cut");
        }
        self.drop_server();
    }

    fn drop_server(&mut self) {
        if let Some(server) = &mut self.server {
            server.handle_lost(self.now, "cut");
        }
        self.settle_server();
        self.server = None;
        self.to_server.bytes.clear();
        self.to_dialer.bytes.clear();
        self.work.clear();
        assert!(self.received.is_empty(), "streams that never ended at the server: {:?}", self.received);
        assert_eq!(self.admission.requests_inflight(), 0, "places leaked");
        assert_eq!(self.admission.bytes_inflight(), 0, "bytes leaked");
    }

    /// Takes every event, and does what the channel asks for.
    fn settle(&mut self) {
        self.settle_server();
        while let Some(event) = self.dialer.poll_event() {
            self.dialer_event(event);
        }
        while let Some(action) = self.dialer.poll_action() {
            match action {
                Action::Dial(link) => {
                    self.drop_server();
                    self.links += 1;
                    self.ended.connections += 1;
                    self.last_message = 0;
                    self.link = Some(link);
                    if self.dice.one_in(6) {
                        self.dialer.handle_lost(self.now, link, "refused");
                        continue;
                    }
                    let mut nonce = [7; 32];
                    nonce[..8].copy_from_slice(&self.links.to_le_bytes());
                    let config = self.server_config.clone();
                    let link = LinkId(self.links);
                    self.server = Some(Connection::accept(config, self.admission.clone(), self.now, link, nonce));
                }
                Action::Hangup { .. } => {
                    self.link = None;
                    self.drop_server();
                }
            }
        }
    }

    fn settle_server(&mut self) {
        while let Some(event) = self.server.as_mut().and_then(Connection::poll_event) {
            let server = self.server.as_mut().expect("it gave an event");
            match event {
                Event::Request { id, method, body, trace, .. } => {
                    assert_eq!(method, CALL);
                    let payload = number(&body);
                    assert_eq!(trace, TraceId(payload), "the trace travels");
                    assert!(self.executed.insert(payload), "request {payload} delivered twice");
                    self.work.push(Work { id, payload });
                }
                Event::Message { method, body, .. } => {
                    assert_eq!(method, MESSAGE);
                    let number = number(&body);
                    assert!(number > self.last_message, "message {number} after {}", self.last_message);
                    self.last_message = number;
                    self.ended.messages += 1;
                }
                Event::StreamOpened { stream, .. } => drop(self.received.insert(stream, 0)),
                Event::StreamChunk { stream, body, .. } => {
                    let at = self.received.get_mut(&stream).expect("chunks of an open stream");
                    for byte in &body {
                        assert_eq!(*byte, *at as u8, "byte {at} of {stream:?}");
                        *at += 1;
                    }
                    self.ended.stream_bytes += body.len() as u64;
                    server.stream_consumed(stream, body.len());
                }
                Event::StreamClosed { stream, .. } => {
                    assert!(self.received.remove(&stream).is_some(), "{stream:?} over twice at the server");
                }
                Event::Established(_) | Event::Cancelled { .. } | Event::StreamWritable { .. } => {}
                Event::Completed { .. } => panic!("the server calls nobody"),
                Event::Closed { .. } => assert_eq!(server.requests_inflight(), 0, "places left"),
            }
        }
    }

    fn dialer_event(&mut self, event: Event) {
        match event {
            Event::Completed { call, result } => self.completed(call, result),
            Event::StreamClosed { stream, result } => {
                assert!(self.opened.remove(&stream).is_some(), "{stream:?} over twice at the dialer");
                match result {
                    Ok(()) => self.ended.streams_over += 1,
                    Err(_) => self.ended.streams_failed += 1,
                }
            }
            Event::StreamChunk { stream, body, .. } => self.dialer.stream_consumed(self.now, stream, body.len()),
            Event::Established(_) | Event::StreamWritable { .. } | Event::Closed { .. } => {}
            other => panic!("the server does not {other:?}"),
        }
    }

    fn completed(&mut self, call: CallId, result: Result<Bytes, Status>) {
        let PendingCall { payload, deadline } =
            self.calls.remove(&call).unwrap_or_else(|| panic!("{call:?} ended twice, or was never made"));
        let executed = self.executed.contains(&payload);
        match result {
            Ok(body) => {
                assert_eq!(body, payload.to_le_bytes()[..], "somebody else's reply");
                assert!(executed);
                assert!(deadline.is_none_or(|deadline| self.now < deadline), "a reply after the deadline");
                self.ended.replies += 1;
            }
            Err(status) => {
                if status.execution == Execution::NotExecuted {
                    assert!(!executed, "request {payload} was executed, and said not to be: {status}");
                    // Nor may it reach the application later.
                    self.executed.insert(payload);
                }
                match status.code {
                    Code::DeadlineExceeded => {
                        assert!(deadline.is_some_and(|deadline| self.now >= deadline), "too early: {status}");
                        self.ended.deadlines += 1;
                    }
                    Code::Cancelled => self.ended.cancelled += 1,
                    Code::Unavailable => self.ended.unavailable += 1,
                    Code::Overloaded => self.ended.overloaded += 1,
                    Code::Application => {
                        assert_eq!(status.payload, payload.to_le_bytes()[..]);
                        self.ended.application += 1;
                    }
                    _ => panic!("unexpected {status}"),
                }
            }
        }
    }

    /// The link works and the server answers: without any time passing, everything in flight comes to its end.
    fn quiesce(&mut self) {
        self.dialer.handle_timeout(self.now);
        self.server.iter_mut().for_each(|server| server.handle_timeout(self.now));
        self.settle();
        for _ in 0..4 {
            while !self.work.is_empty() {
                self.serve();
            }
            while self.to_server.bytes.len() + self.to_dialer.bytes.len() + self.pulled() > 0 {
                self.carry();
            }
            self.settle();
        }
        let (Some(connection), Some(server)) = (self.dialer.connection(), &self.server) else { return };
        if !connection.is_established() || !server.is_established() {
            return;
        }
        assert_eq!(connection.output_bytes() + server.output_bytes(), 0, "bytes are stuck");
        assert_eq!(server.requests_inflight(), 0, "places leak while the connection lives");
        assert!(self.calls.is_empty(), "{} calls wait although everything was answered", self.calls.len());
        let window = self.server_config.limits.stream_window_bytes as usize;
        for stream in self.opened.keys().filter(|stream| !self.half_closed.contains(stream)) {
            let credit = self.dialer.stream_credit(*stream);
            assert!(credit >= window - window / 4, "{credit} of {window} bytes of credit came back");
        }
        self.ended.quiesced += 1;
    }

    /// Pulls, and tells how many bytes that put on the wire.
    fn pulled(&mut self) -> usize {
        self.pull();
        self.to_server.bytes.len() + self.to_dialer.bytes.len()
    }

    /// Lets everything come to its end: calls end by their deadlines or with their connection, and nothing is left.
    fn finish(&mut self) {
        self.quiesce();
        self.now += Duration::from_secs(4);
        self.dialer.handle_timeout(self.now);
        self.settle();
        let overdue = self.calls.values().find(|call| call.deadline.is_some_and(|deadline| deadline <= self.now));
        assert!(overdue.is_none(), "a call outlived its deadline");
        self.dialer.shut(self.now, "the end");
        self.settle();
        assert!(self.calls.is_empty(), "{} calls never ended", self.calls.len());
        assert!(self.opened.is_empty(), "{} streams never ended", self.opened.len());
        assert!(self.dialer.connection().is_none() && self.dialer.poll_timeout().is_none());
        let metrics = self.dialer.metrics();
        let inflight: u64 = metrics.called.iter().map(|(_, counts)| counts.inflight).sum();
        assert_eq!(inflight, 0, "in-flight gauges return to zero");
    }
}

#[test]
#[allow(clippy::disallowed_methods)]
fn every_call_ends_once_and_nothing_leaks_on_a_hostile_link() {
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let first = variable("RPC_SEED").unwrap_or(1);
    let sequences = variable("RPC_SEQUENCES").unwrap_or(SEQUENCES_DEFAULT);
    let begun = Instant::now();
    let mut sum = Outcomes::default();
    for seed in first..first + sequences {
        let run = std::panic::catch_unwind(|| {
            let mut simulation = Simulation::new(seed, begun);
            for _ in 0..STEPS {
                simulation.step();
            }
            simulation.finish();
            simulation.ended
        });
        let ended = run.unwrap_or_else(|_| panic!("failed: replay with RPC_SEED={seed} RPC_SEQUENCES=1"));
        add(&mut sum, &ended);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{sequences} sequences from seed {first} in {seconds:.1} s: {sum:?}");
    if sequences >= SEQUENCES_DEFAULT {
        let Outcomes { replies, deadlines, cancelled, unavailable, overloaded, application, .. } = sum;
        let calls = [replies, deadlines, cancelled, unavailable, overloaded, application];
        let others = [sum.messages, sum.messages_dropped, sum.streams_over, sum.streams_failed, sum.quiesced];
        assert!(calls.iter().chain(&others).all(|count| *count >= 100), "too few of some kind: {sum:?}");
    }
}

fn add(sum: &mut Outcomes, ended: &Outcomes) {
    sum.replies += ended.replies;
    sum.deadlines += ended.deadlines;
    sum.cancelled += ended.cancelled;
    sum.unavailable += ended.unavailable;
    sum.overloaded += ended.overloaded;
    sum.application += ended.application;
    sum.messages += ended.messages;
    sum.messages_dropped += ended.messages_dropped;
    sum.streams_over += ended.streams_over;
    sum.streams_failed += ended.streams_failed;
    sum.stream_bytes += ended.stream_bytes;
    sum.connections += ended.connections;
    sum.quiesced += ended.quiesced;
}
