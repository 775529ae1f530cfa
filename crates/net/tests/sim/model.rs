//! Random sequences of application calls, peers' doings, failures and disturbed readiness, against a simple model of what a
//! connection is: what was said to it, and what that must come to.
//!
//! `NET_MODEL_SEED=n` replays sequence `n` alone; `NET_MODEL_SEQUENCES=n` runs so many (100,000 by default).

use std::collections::BTreeMap;
use std::time::Duration;

use dstore_net::sys::sim::{Call, Outcome, Peer};
use dstore_net::*;

use crate::harness::*;

/// An errno that nothing but an injected failure gives.
const INJECTED: i32 = libc::EIO;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What must be true of one connection, whatever the machinery inside.
#[derive(Default)]
struct Model {
    peer: Option<Peer>,
    outbound: bool,
    opened: bool,
    closed: bool,
    /// By the peer, and how much of it was processed.
    sent: Vec<u8>,
    processed: usize,
    ended: bool,
    broken: bool,
    end_told: bool,
    /// By the application, and taken.
    written: Vec<u8>,
    half_ended: bool,
    paused: bool,
    /// A close was asked for; what its reason will be.
    closing: Option<&'static str>,
    aborted: bool,
    high: bool,
}

impl Model {
    fn takes_output(&self) -> bool {
        !self.closed && !self.aborted && !self.half_ended && self.closing.is_none()
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        let takes = self.takes_output();
        if takes {
            self.written.extend_from_slice(bytes);
        }
        takes
    }

    fn close(&mut self, reason: &'static str) {
        if !self.closed && !self.aborted && self.closing.is_none() {
            self.closing = Some(reason);
        }
    }

    fn asked_close_reason(&self) -> &'static str {
        if self.end_told { "closed by the peer" } else { "closed by the application" }
    }

    /// The length of the next message, skipping what is to be skipped; `None`: not whole yet.
    fn next_message(&mut self) -> Option<usize> {
        while self.sent.get(self.processed) == Some(&b'_') {
            self.processed += 1;
        }
        match self.sent[self.processed..] {
            [] | [b'L'] => None,
            [b'L', length, ref rest @ ..] => (rest.len() >= usize::from(length)).then_some(2 + usize::from(length)),
            _ => Some(1),
        }
    }
}

struct Run {
    bench: Bench,
    random: Random,
    models: BTreeMap<ConnectionId, Model>,
    dialed: Vec<(Peer, Vec<u8>, bool, bool)>,
    next_port: u16,
    failures: usize,
    config: ConnectionConfig,
    /// Why connections closed.
    reasons: Vec<String>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut random = Random(seed);
        let config = ConnectionConfig {
            input_bytes_max: if random.one_in(4) { 20 } else { 1 << 20 },
            output_high_bytes: 300,
            output_low_bytes: 100,
            output_bytes_max: if random.one_in(4) { 1000 } else { 1 << 30 },
            idle_timeout: random.one_in(4).then_some(Duration::from_secs(20)),
            close_timeout: Duration::from_secs(if random.one_in(2) { 30 } else { 2 }),
            heartbeat: random.one_in(4).then_some(Duration::from_secs(7)),
            ..ConnectionConfig::default()
        };
        let loop_config = LoopConfig {
            read_bytes_per_turn_max: [1, 10, 1 << 20][random.below(3)],
            read_buffer_bytes: [1, 7, 1 << 12][random.below(3)],
            ..LoopConfig::default()
        };
        let listener = ListenerConfig { connection: config.clone(), ..ListenerConfig::default() };
        let mut bench = Bench::with(loop_config, listener);
        bench.event_loop.app().stays_open = random.one_in(3);
        bench.event_loop.app().enough = [None, Some(1), Some(5)][random.below(3)];
        bench.world.disturb(Some(random.next()));
        bench.world.set_room([0, 1, 50, usize::MAX][random.below(4)]);
        Run {
            bench,
            random,
            models: BTreeMap::new(),
            dialed: Vec::new(),
            next_port: 1,
            failures: 0,
            config,
            reasons: Vec::new(),
        }
    }

    fn any(&mut self) -> Option<ConnectionId> {
        let count = self.models.len();
        (count > 0).then(|| *self.models.keys().nth(self.random.below(count)).expect("below the count"))
    }

    /// The peer of a connection that is still there.
    fn any_peer(&mut self) -> Option<(ConnectionId, Peer)> {
        let id = self.any()?;
        let model = &self.models[&id];
        let peer = model.peer.filter(|peer| !model.closed && !self.bench.world.is_connecting(*peer))?;
        Some((id, peer))
    }

    /// A few messages, as a peer would send them.
    fn speech(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..1 + self.random.below(6) {
            match self.random.below(24) {
                0 => bytes.push(0xff),
                1 => bytes.push(b'c'),
                2 => bytes.push(b'a'),
                3 => bytes.push(b's'),
                4 => bytes.push(b'k'),
                5 | 6 => bytes.push(b'p'),
                7 => bytes.push(b'o'),
                8 => bytes.push(b'r'),
                9 => bytes.push(b'w'),
                10 => bytes.push(b'z'),
                11 => bytes.push(b'_'),
                12 | 13 => {
                    // Below `!`, which would be a panic should a torn message leave it in front.
                    let length = self.random.below(usize::from(b'!')) as u8;
                    bytes.extend([b'L', length]);
                    let whole = if self.random.one_in(3) { self.random.below(40) } else { usize::from(length) };
                    bytes.extend((0..whole).map(|_| b'x'));
                }
                _ => bytes.push(b'e'),
            }
        }
        bytes
    }

    fn step(&mut self) {
        match self.random.below(22) {
            0 | 1 if self.models.len() < 4 => self.dial(),
            2 if self.models.len() < 4 => self.connect(),
            3..=6 => {
                let bytes = self.speech();
                if let Some((id, peer)) = self.any_peer()
                    && !self.models[&id].ended
                {
                    self.models.get_mut(&id).unwrap().sent.extend_from_slice(&bytes);
                    self.bench.world.send(peer, &bytes);
                }
            }
            7 if self.random.one_in(2) => {
                if let Some((id, peer)) = self.any_peer() {
                    self.models.get_mut(&id).unwrap().ended = true;
                    self.bench.world.end(peer);
                }
            }
            8 if self.random.one_in(4) => {
                if let Some((id, peer)) = self.any_peer() {
                    self.models.get_mut(&id).unwrap().broken = true;
                    self.bench.world.break_off(peer, libc::ECONNRESET);
                }
            }
            9 | 10 => {
                let room = [1, 60, 1000, 100_000][self.random.below(4)];
                if let Some((_, peer)) = self.any_peer() {
                    self.bench.world.give_room(peer, room);
                }
            }
            11 if self.random.one_in(6) => {
                let calls =
                    [Call::Read, Call::Write, Call::Shutdown, Call::Register, Call::ConnectResult, Call::Accept];
                self.bench.world.fail_next(calls[self.random.below(calls.len())], INJECTED);
                self.failures += 1;
            }
            12 => {
                let most = [1000, 9000, 40_000][self.random.below(3)];
                self.bench.world.advance(Duration::from_millis(self.random.next() % most));
            }
            13 => self.settle_a_connect(),
            _ => self.application_call(),
        }
        if self.random.one_in(2) {
            self.turn();
        }
    }

    fn dial(&mut self) {
        let peer = self.bench.world.dial(&here());
        let bytes = if self.random.one_in(2) { self.speech() } else { Vec::new() };
        self.bench.world.send(peer, &bytes);
        let (ended, broken) = (self.random.one_in(12), self.random.one_in(20));
        if ended {
            self.bench.world.end(peer);
        }
        if broken {
            self.bench.world.break_off(peer, libc::ECONNRESET);
        }
        self.dialed.push((peer, bytes, ended, broken));
    }

    fn connect(&mut self) {
        let outcome = [Outcome::Immediate, Outcome::Pending, Outcome::Pending, Outcome::Fails(libc::ECONNREFUSED)];
        self.bench.world.script_connects([outcome[self.random.below(4)]]);
        let address = there(self.next_port);
        self.next_port += 1;
        let config = self.config.clone();
        let id = self.bench.connect(vec![address.clone()], config);
        let peer = self.bench.world.peer_at(&address);
        let closed_at_once = self.bench.net().state(id) == ConnectionState::Closed;
        // Doomed already: nothing said to it counts any more, as after an abort.
        let model = Model { peer, outbound: true, aborted: closed_at_once, ..Model::default() };
        self.models.insert(id, model);
    }

    fn settle_a_connect(&mut self) {
        let Some(id) = self.any() else { return };
        let model = &self.models[&id];
        let Some(peer) = model.peer.filter(|peer| !model.closed && self.bench.world.is_connecting(*peer)) else {
            return;
        };
        let result = if self.random.one_in(4) { Err(libc::EHOSTUNREACH) } else { Ok(()) };
        self.bench.world.settle_connect(peer, result);
    }

    fn application_call(&mut self) {
        let Some(id) = self.any() else { return };
        let other = self.any().unwrap_or(id);
        let model = self.models.get_mut(&id).unwrap();
        let net = self.bench.event_loop.net();
        match self.random.below(16) {
            0..=3 => assert_eq!(net.write(id, b"direct"), model.write(b"direct")),
            4 => {
                let bytes = vec![b'B'; 6000];
                assert_eq!(net.write_bytes(id, bytes.clone().into()), model.write(&bytes));
            }
            5 | 6 => {
                net.pause(id);
                model.paused = true;
            }
            7..=10 => {
                net.resume(id);
                model.paused = false;
            }
            11 => {
                net.close(id);
                model.close(model.asked_close_reason());
            }
            12 if self.random.one_in(2) => {
                net.abort(id);
                model.aborted = true;
            }
            13 if self.random.one_in(2) => {
                net.shutdown_write(id);
                model.half_ended |= model.takes_output();
            }
            _ => drop(self.bench.event_loop.app().others.insert(id, other)),
        }
    }

    fn turn(&mut self) {
        self.bench.turn();
        let heard = std::mem::take(&mut self.bench.event_loop.app().heard);
        for (id, heard) in heard {
            self.replay(id, heard);
        }
        for (id, model) in &self.models {
            if let Some(peer) = model.peer {
                let received = self.bench.world.received(peer);
                assert!(model.written.starts_with(&received), "{id:?}: the peer received what was not written");
            }
            let state = self.bench.event_loop.net().state(*id);
            let expected = match () {
                () if model.closed => ConnectionState::Closed,
                () if !model.opened => ConnectionState::Connecting,
                () if model.closing.is_some() => ConnectionState::Draining,
                () => ConnectionState::Established,
            };
            assert_eq!(state, expected, "{id:?}");
        }
    }

    /// What a protocol heard must be allowed by the model, and moves it on.
    fn replay(&mut self, id: ConnectionId, heard: Heard) {
        if heard == Heard::Open && !self.models.contains_key(&id) {
            self.accepted(id);
        }
        if let (Heard::Close(reason), false) = (&heard, self.models.contains_key(&id)) {
            // Accepted, and could not even be registered.
            assert_eq!(*reason, format!("connection failed: {}", text(INJECTED)));
            self.failures = self.failures.checked_sub(1).expect("no more failures than were injected");
            return;
        }
        let other = self.bench.event_loop.app().others.get(&id).copied();
        let model = self.models.get_mut(&id).expect("every connection was dialed or connected");
        assert!(!model.closed, "{heard:?} after the close");
        match heard {
            Heard::Open => assert!(!std::mem::replace(&mut model.opened, true), "opened twice"),
            Heard::Message(byte) => {
                let length = model.next_message().expect("a whole message");
                assert_eq!(model.sent[model.processed], byte, "in order");
                assert!(model.opened && !model.paused && !model.end_told && !model.high, "not while {byte} must wait");
                assert!(model.closing.is_none() && !model.aborted, "not after the end was decided");
                let message = model.sent[model.processed..model.processed + length].to_vec();
                model.processed += length;
                self.effect(id, &message, other);
            }
            Heard::DecodeError => {
                assert!(model.next_message().is_some() && model.sent[model.processed] == 0xff);
                model.write(b"E");
                model.close("protocol error: refused");
            }
            Heard::InputClosed => {
                assert!(model.ended && !model.paused && model.closing.is_none(), "the end of the input");
                assert!(model.next_message().is_none(), "not before the last message");
                assert!(!std::mem::replace(&mut model.end_told, true), "once");
                if !self.bench.event_loop.app().stays_open {
                    model.close("closed by the peer");
                }
            }
            Heard::High => assert!(!std::mem::replace(&mut model.high, true), "high once"),
            // Also without a High, when the socket took at once what was above the mark.
            Heard::Low => model.high = false,
            Heard::Quiet => drop(model.write(b"h")),
            Heard::Close(reason) => self.closed(id, &reason),
            Heard::Deadline | Heard::Drain => panic!("{heard:?} was not asked for"),
        }
    }

    fn accepted(&mut self, id: ConnectionId) {
        let address = self.bench.event_loop.app().peers[&id].clone();
        let peer = self.bench.world.peer_at(&address).expect("it was dialed");
        let place = self.dialed.iter().position(|(dialed, ..)| *dialed == peer).expect("it was dialed");
        let (_, sent, ended, broken) = self.dialed.remove(place);
        self.models.insert(id, Model { peer: Some(peer), sent, ended, broken, ..Model::default() });
    }

    /// What the script does on this message.
    fn effect(&mut self, id: ConnectionId, message: &[u8], other: Option<ConnectionId>) {
        let target = match (message[0], other) {
            (b'o' | b'k' | b'r', Some(other)) => other,
            _ => id,
        };
        let Some(model) = self.models.get_mut(&target) else { return };
        match message[0] {
            b'e' | b'L' => drop(model.write(message)),
            b'w' => drop(model.write(&[b'W'; 100])),
            b'z' => drop(model.write(&[b'Z'; 5000])),
            b'c' => model.close(model.asked_close_reason()),
            b'a' => model.aborted = true,
            b'p' => model.paused = true,
            b's' => model.half_ended |= model.takes_output(),
            b'o' if other.is_some() => drop(model.write(b"o")),
            b'k' if other.is_some() => model.aborted = true,
            b'r' if other.is_some() => model.paused = false,
            _ => {}
        }
    }

    fn closed(&mut self, id: ConnectionId, reason: &str) {
        self.reasons.push(reason.to_owned());
        let model = self.models.get_mut(&id).unwrap();
        model.closed = true;
        let received = model.peer.map(|peer| self.bench.world.received(peer)).unwrap_or_default();
        let waiting = model.written.len() - received.len();
        if model.aborted && !reason.starts_with("connect failed") {
            assert_eq!(reason, "aborted by the application");
            return;
        }
        if Some(reason) == model.closing {
            assert_eq!(waiting, 0, "{id:?}: closed in good order, so nothing is missing");
            return;
        }
        let injected = format!("connection failed: {}", text(INJECTED));
        let broken = format!("connection failed: {}", text(libc::ECONNRESET));
        let allowed = match reason {
            reason if reason == injected => {
                self.failures = self.failures.checked_sub(1).expect("no more failures than were injected");
                true
            }
            reason if reason == broken => model.broken,
            "idle" => self.config.idle_timeout.is_some(),
            "the peer did not take the last output in time" => model.closing.is_some(),
            "a message of more than 20 bytes" => self.config.input_bytes_max == 20,
            "more than 1000 bytes of output wait" => waiting > 1000,
            reason => reason.starts_with("connect failed") && model.outbound && !model.opened,
        };
        assert!(allowed, "{id:?}: closed because {reason:?}, closing {:?}", model.closing);
    }

    /// Nothing is disturbed any more and every peer behaves: what must come of each connection, has.
    fn calm(&mut self) {
        let world = self.bench.world.clone();
        world.disturb(None);
        world.clear_failures();
        // An accept that failed is tried again.
        world.advance(Duration::from_millis(100));
        let ids: Vec<_> = self.models.keys().copied().collect();
        for id in &ids {
            if let Some(peer) = self.models[id].peer.filter(|_| !self.models[id].closed) {
                if world.is_connecting(peer) {
                    world.settle_connect(peer, Ok(()));
                }
                world.give_room(peer, usize::MAX);
            }
        }
        loop {
            self.turn();
            let mut at_rest = !world.has_events() && !self.bench.event_loop.has_work();
            // Those that came in late, or were paused by what they read meanwhile.
            let ids: Vec<_> = self.models.iter().filter(|(_, model)| !model.closed).map(|(id, _)| *id).collect();
            for id in ids {
                let model = self.models.get_mut(&id).unwrap();
                if std::mem::take(&mut model.paused) {
                    self.bench.net().resume(id);
                    at_rest = false;
                }
                if let Some(peer) =
                    model.peer.filter(|_| model.written.len() > world.received(model.peer.unwrap()).len())
                {
                    world.give_room(peer, usize::MAX);
                    at_rest = false;
                }
            }
            if at_rest {
                break;
            }
        }
        assert!(self.dialed.iter().all(|(peer, ..)| world.closed(*peer).is_some()), "all were accepted or turned away");
        for (id, model) in &mut self.models {
            let received = model.peer.map(|peer| world.received(peer)).unwrap_or_default();
            // Closing connections may still linger: all they had to say is said.
            let gone = model.closed || model.closing.is_some();
            let expected_gone =
                model.aborted || model.broken || (model.ended && !self.bench.event_loop.app().stays_open);
            assert!(gone || !expected_gone, "{id:?} should have closed");
            if !model.closed {
                assert_eq!(received.len(), model.written.len(), "{id:?}: everything written was received");
                assert!(gone || model.next_message().is_none(), "{id:?}: everything sent was processed");
                assert!(gone || !model.ended || model.end_told, "{id:?}: the end was told");
            }
        }
    }

    fn finish(&mut self) {
        self.bench.net().stop(Duration::ZERO);
        while self.bench.turn() {}
        let open: Vec<_> = self.models.iter().filter(|(_, model)| !model.closed).map(|(id, _)| *id).collect();
        for id in open {
            let closes = |(who, heard): &&(ConnectionId, Heard)| *who == id && matches!(heard, Heard::Close(_));
            let closes = self.bench.event_loop.app().heard.iter().filter(closes).count();
            assert_eq!(closes, 1, "{id:?}: told once that it is over");
        }
        assert_eq!(self.bench.world.open_sockets(), 0);
        assert_eq!(self.bench.net().connection_count(), 0);
        assert_eq!(self.bench.net().timer_count(), 0, "no timer outlives its connection");
    }
}

/// Runs one sequence; why its connections closed.
fn sequence(seed: u64) -> Vec<String> {
    let mut run = Run::new(seed);
    let steps = 10 + run.random.below(40);
    for _ in 0..steps {
        run.step();
    }
    run.calm();
    run.finish();
    run.reasons
}

#[test]
fn connections_behave_as_the_model_whatever_happens() {
    let variable = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = variable("NET_MODEL_SEED") {
        sequence(seed);
        return;
    }
    let sequences = variable("NET_MODEL_SEQUENCES").unwrap_or(100_000);
    println!("model: {sequences} sequences, seeds 0 to {}", sequences - 1);
    let mut reasons = BTreeMap::new();
    for seed in 0..sequences {
        match std::panic::catch_unwind(|| sequence(seed)) {
            Ok(met) => {
                for reason in met {
                    let kind = reason.split(": 127").next().unwrap().to_owned();
                    *reasons.entry(kind).or_insert(0) += 1;
                }
            }
            Err(panic) => {
                eprintln!("model: sequence failed; replay with NET_MODEL_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // A random test that never meets the rare cases proves little.
    println!("model: ends met: {reasons:#?}");
    let least = reasons.values().min();
    assert!(sequences < 100_000 || (reasons.len() >= 11 && least > Some(&50)), "every kind of end, often enough");
}
