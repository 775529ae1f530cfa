//! Whatever a peer sends, nothing panics and nothing grows without bound: before the handshake (a stranger), and
//! after it (a member gone mad, whose frames are even well formed).
//!
//! `RPC_FUZZ=n` runs n cases, `RPC_SEED` says where to begin.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use dstore_rpc::frame::{Decoder, Header, Kind, encode};
use dstore_rpc::{
    Admission, CallOptions, ClusterId, Config, Connection, Dial, Event, Identity, Incarnation, Lane, LinkId, NodeId,
    RequestId, Secret, StreamId, TraceId,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

const CASES_DEFAULT: u64 = 5_000;
const BODY_BYTES_MAX: usize = 4096;
const REQUESTS_MAX: usize = 8;

struct Dice(ChaCha8Rng, u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound.max(1) as u64) as usize
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.below(max)];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Small numbers, mostly, so that frames refer to things that exist.
    fn id(&mut self) -> u64 {
        match self.below(20) {
            0 => self.0.next_u64(),
            1 => u64::MAX,
            _ => self.below(12) as u64,
        }
    }

    fn frame(&mut self, wire: &mut BytesMut) {
        let kind = match self.below(3) {
            0 => Kind::ALL[self.below(Kind::ALL.len())],
            _ => [Kind::Request, Kind::OneWay, Kind::StreamOpen, Kind::StreamChunk, Kind::Cancel][self.below(5)],
        };
        let mut header = Header::new(kind, self.id());
        if matches!(kind, Kind::Request | Kind::StreamOpen) && self.below(20) > 0 {
            // As a correct peer would, so that more happens before the connection is closed.
            self.1 += 2;
            header.id = self.1;
        }
        header.flags = u16::from(kind == Kind::StreamChunk && self.below(3) == 0);
        header.method = self.id() as u32;
        header.trace = self.id();
        header.timeout_us = self.id() as u32;
        let body = if self.below(4) == 0 { vec![0; 4] } else { self.bytes(80) };
        encode(&header, &body, wire);
    }

    fn nonsense(&mut self) -> BytesMut {
        let mut wire = BytesMut::new();
        for _ in 0..self.below(40) {
            self.frame(&mut wire);
        }
        match self.below(4) {
            0 => wire.extend_from_slice(&self.bytes(200)),
            1 if !wire.is_empty() => {
                let at = self.below(wire.len());
                wire[at] ^= 1 << self.below(8);
            }
            _ => {}
        }
        wire
    }
}

fn config(node: u64) -> Arc<Config> {
    let identity = Identity { cluster: ClusterId(5), node: NodeId(node), incarnation: Incarnation(1) };
    let mut config = Config::new(identity, Secret::new(b"sixteen bytes or more").expect("long enough"));
    config.limits.body_bytes_max = BODY_BYTES_MAX;
    config.limits.requests_inflight_max = REQUESTS_MAX;
    config.limits.streams_max = 3;
    config.limits.stream_window_bytes = 1000;
    Arc::new(config)
}

fn established(now: Instant, lane: Lane) -> [Connection; 2] {
    let dial = Dial { link: LinkId(1), nonce: [1; 32], lane, expected: None, first_id: 1 };
    let mut dialer = Connection::dial(config(1), Admission::default(), now, dial);
    let mut acceptor = Connection::accept(config(2), Admission::default(), now, LinkId(1), [2; 32]);
    while dialer.has_output() || acceptor.has_output() {
        while let Some(piece) = dialer.poll_output(now) {
            acceptor.handle_input(now, &piece);
        }
        while let Some(piece) = acceptor.poll_output(now) {
            dialer.handle_input(now, &piece);
        }
    }
    assert!(dialer.is_established() && acceptor.is_established());
    [dialer, acceptor]
}

/// What the attacked application holds.
#[derive(Default)]
struct Victim {
    requests: Vec<RequestId>,
    streams: Vec<(StreamId, usize)>,
    closed: bool,
}

impl Victim {
    fn take_events(&mut self, connection: &mut Connection) {
        while let Some(event) = connection.poll_event() {
            assert!(!self.closed, "{event:?} after the end");
            match event {
                Event::Request { id, .. } => self.requests.push(id),
                Event::StreamOpened { stream, .. } => self.streams.push((stream, 0)),
                Event::StreamChunk { stream, body, .. } => {
                    let found = self.streams.iter_mut().rev().find(|(id, _)| *id == stream);
                    found.expect("an open stream").1 += body.len();
                }
                Event::StreamClosed { stream, .. } => self.streams.retain(|(id, _)| *id != stream),
                Event::Closed { .. } => self.closed = true,
                _ => {}
            }
        }
    }

    fn act(&mut self, now: Instant, connection: &mut Connection, dice: &mut Dice) {
        match dice.below(4) {
            0 if !self.requests.is_empty() => {
                let id = self.requests.swap_remove(dice.below(self.requests.len()));
                connection.answer(now, id, Ok(Bytes::from_static(b"fine")));
            }
            1 => {
                connection.call(now, 3, Bytes::from_static(b"call"), CallOptions::default());
            }
            2 => {
                let stream = connection.open_stream(3, Bytes::new(), TraceId(0));
                if connection.stream_send(stream, Bytes::from_static(b"chunk")).is_ok() {
                    self.streams.push((stream, 0));
                }
            }
            _ => {
                for (stream, unread) in &mut self.streams {
                    connection.stream_consumed(*stream, std::mem::take(unread));
                }
            }
        }
        self.take_events(connection);
    }
}

fn attack(seed: u64, now: Instant) {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed), 0);
    let mut connection = match dice.below(3) {
        0 => Connection::accept(config(2), Admission::default(), now, LinkId(1), [2; 32]),
        _ => {
            let lane = if dice.below(2) == 0 { Lane::Messages } else { Lane::Bulk };
            let [dialer, acceptor] = established(now, lane);
            if dice.below(2) == 0 { dialer } else { acceptor }
        }
    };
    let mut victim = Victim::default();
    let mut sent = 0;
    for _ in 0..30 {
        let wire = dice.nonsense();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(1 + dice.below(rest.len()));
            connection.handle_input(now, piece);
            rest = tail;
        }
        victim.take_events(&mut connection);
        if victim.closed {
            break;
        }
        victim.act(now, &mut connection, &mut dice);
        assert!(connection.requests_inflight() <= REQUESTS_MAX);
        assert!(connection.streams_open() <= 3);
        while let Some(piece) = connection.poll_output(now) {
            sent += piece.len();
        }
        assert!(!connection.has_output());
    }
    assert!(sent < 1 << 20, "{sent} bytes sent in answer to nonsense");
    assert_eq!(victim.closed, connection.is_closed());
}

#[test]
#[allow(clippy::disallowed_methods)]
fn nothing_a_peer_sends_panics_or_grows_without_bound() {
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let first = variable("RPC_SEED").unwrap_or(1);
    let now = Instant::now();
    for seed in first..first + variable("RPC_FUZZ").unwrap_or(CASES_DEFAULT) {
        std::panic::catch_unwind(|| attack(seed, now))
            .unwrap_or_else(|_| panic!("failed: replay with RPC_SEED={seed} RPC_FUZZ=1"));
    }
}

#[test]
fn the_decoder_finds_the_same_frames_however_the_bytes_are_split() {
    for seed in 0..300 {
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed), 0);
        let wire = dice.nonsense();
        let read = |dice: &mut Dice, piecewise: bool| {
            let mut decoder = Decoder::new(BODY_BYTES_MAX);
            let mut results = Vec::new();
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let bytes = if piecewise { 1 + dice.below(rest.len().min(60)) } else { rest.len() };
                let (mut piece, tail) = rest.split_at(bytes);
                rest = tail;
                while !piece.is_empty() {
                    match decoder.next(&mut piece) {
                        Ok(frame) => results.extend(frame.map(Ok)),
                        Err(error) => {
                            results.push(Err(error));
                            return results;
                        }
                    }
                }
            }
            results
        };
        let whole = read(&mut dice, false);
        assert_eq!(whole, read(&mut dice, true), "seed {seed}");
    }
}

#[test]
#[allow(clippy::disallowed_methods)]
fn a_peer_that_only_sends_is_closed_before_the_answers_fill_the_memory() {
    let now = Instant::now();
    let [_, mut victim] = established(now, Lane::Messages);
    let mut wire = BytesMut::new();
    encode(&Header::new(Kind::Ping, 1), &[], &mut wire);
    let mut pings = 0;
    while !victim.is_closed() {
        victim.handle_input(now, &wire);
        pings += 1;
        assert!(pings <= 100_000 && victim.output_bytes() <= 100_000 * 40);
    }
}
