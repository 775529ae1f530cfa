//! The network between machines: byte streams that behave like TCP, over links that delay, stall and break.
//!
//! A stream carries bytes in order or breaks; nothing in it is ever lost, doubled or reordered. What a real network does
//! to packets shows as what TCP makes of it: a lost packet is a pause until it is sent again, a partition is a stall
//! that ends soon after the partition does, and a connection that is cut loses what was on its way. Across streams
//! nothing is in order.
//!
//! Pure: the owner asks for something at a moment, and takes from [`Network::poll_schedule`] what is to happen when. When
//! the time has come, [`Network::arrive`] tells what it is, and to whom.
//!
//! A machine that lost power says nothing to anybody; its peers notice by silence, or, once it is back, by being reset.
//! A process that was killed has a kernel that closes its connections at once.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::random::Random;
use crate::time::{MICRO, MILLI, Moment, SECOND};

/// A machine, by number from 0.
pub type Machine = usize;

/// Bytes of one direction of a stream that may be on their way; what is more waits in the sender. As much as a socket's
/// buffer holds; or as little as lets senders feel it.
const WINDOWS_BYTES: [usize; 3] = [256 << 10, 256 << 10, 2 << 10];

/// One stream. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// One end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The one that connected.
    Dialer,
    /// The one that was connected to.
    Acceptor,
}

impl End {
    fn other(self) -> End {
        match self {
            End::Dialer => End::Acceptor,
            End::Acceptor => End::Dialer,
        }
    }
}

/// What arrives at a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Somebody connected to it.
    Accepted,
    /// Its own connecting succeeded: bytes may be sent.
    Connected,
    /// Bytes.
    Bytes(Bytes),
    /// What it sent has arrived, so there is room to send again.
    Room,
    /// The stream is over.
    Closed(&'static str),
}

/// How fast and how well a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// The least time for anything to arrive.
    pub delay_min: Moment,
    /// The mean of what comes on top.
    pub jitter_mean: Moment,
    /// Of a thousand pieces, those whose packets are lost and sent again.
    pub loss_permille: u64,
    /// How many bytes of a stream get through in a second; 0 for as many as there are.
    pub bytes_per_second: u64,
}

impl Default for Quality {
    fn default() -> Quality {
        Quality { delay_min: 50 * MICRO, jitter_mean: 50 * MICRO, loss_permille: 0, bytes_per_second: 0 }
    }
}

/// One direction between two machines.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    quality: Quality,
    /// How many partitions block it.
    blocked: u32,
}

#[derive(Clone, Debug)]
enum Segment {
    Connect,
    Connected,
    Bytes(Bytes),
    /// The sender closed, after everything before.
    Finish,
    /// The stream broke.
    Reset(&'static str),
}

/// What is on its way in one direction.
#[derive(Debug, Default)]
struct Pipe {
    segments: VecDeque<(Moment, Segment)>,
    bytes: usize,
    /// Nothing arrives before what was sent earlier.
    last_arrival: Moment,
    /// The first segment's arrival is on the owner's schedule.
    scheduled: bool,
    /// The first segment is due and cannot get through.
    stalled: bool,
    /// The sender found no room, and wants to know of some.
    starved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndState {
    Open,
    Closed,
    /// Its machine lost power: nothing arrives and nothing answers.
    Dead,
}

#[derive(Debug)]
struct Stream {
    machines: [Machine; 2],
    ends: [EndState; 2],
    /// By the end that receives.
    pipes: [Pipe; 2],
}

/// All streams and links. See the [module](self).
#[derive(Debug)]
pub struct Network {
    random: Random,
    machines: usize,
    window_bytes: usize,
    links: Vec<Link>,
    streams: BTreeMap<StreamId, Stream>,
    next: u64,
    schedule: Vec<(Moment, StreamId, End)>,
    names: BTreeMap<String, Machine>,
}

impl Network {
    /// So many machines, joined by links of default quality; and one more, which is [nowhere](Network::nowhere).
    pub fn new(mut random: Random, machines: usize) -> Network {
        let machines = machines + 1;
        Network {
            machines,
            names: BTreeMap::new(),
            window_bytes: *random.pick(&WINDOWS_BYTES),
            random,
            links: vec![Link::default(); machines * machines],
            streams: BTreeMap::new(),
            next: 1,
            schedule: Vec::new(),
        }
    }

    /// The machine that addresses lead to at which nobody is. Whoever owns the network refuses what arrives there.
    pub fn nowhere(&self) -> Machine {
        self.machines - 1
    }

    /// Gives a machine an address, which nobody else has from now on; or takes it away.
    pub fn set_name(&mut self, address: &str, machine: Option<Machine>) {
        match machine {
            Some(machine) => drop(self.names.insert(address.to_owned(), machine)),
            None => drop(self.names.remove(address)),
        }
    }

    /// Connects to an address.
    pub fn dial_address(&mut self, now: Moment, from: Machine, address: &str) -> StreamId {
        let to = self.names.get(address).copied().unwrap_or(self.nowhere());
        self.dial(now, from, to)
    }

    fn link(&mut self, from: Machine, to: Machine) -> &mut Link {
        &mut self.links[from * self.machines + to]
    }

    /// Sets how one direction between two machines carries from now on.
    pub fn set_quality(&mut self, from: Machine, to: Machine, quality: Quality) {
        self.link(from, to).quality = quality;
    }

    /// How one direction carries.
    pub fn quality(&mut self, from: Machine, to: Machine) -> Quality {
        self.link(from, to).quality
    }

    /// Lets nothing through in one direction until as many calls of [`Network::unblock`] as of this.
    pub fn block(&mut self, from: Machine, to: Machine) {
        self.link(from, to).blocked += 1;
    }

    /// Takes one [`Network::block`] back. Once nothing blocks any more, what was stalled is sent again and arrives.
    pub fn unblock(&mut self, now: Moment, from: Machine, to: Machine) {
        let link = self.link(from, to);
        link.blocked -= 1;
        if link.blocked > 0 {
            return;
        }
        // What was lost is sent again when its timer says so, which grew with the outage.
        let again_max = *self.random.pick(&[50 * MILLI, 400 * MILLI, 2 * SECOND]);
        for (id, stream) in &mut self.streams {
            for end in [End::Dialer, End::Acceptor] {
                let sender = stream.machines[end.other() as usize];
                let pipe = &mut stream.pipes[end as usize];
                if pipe.stalled && sender == from && stream.machines[end as usize] == to {
                    pipe.stalled = false;
                    let resent = now + self.random.below(again_max);
                    pipe.scheduled = true;
                    self.schedule.push((resent, *id, end));
                }
            }
        }
    }

    /// Connects. What comes of it arrives.
    pub fn dial(&mut self, now: Moment, from: Machine, to: Machine) -> StreamId {
        let id = StreamId(self.next);
        self.next += 1;
        let stream = Stream { machines: [from, to], ends: [EndState::Open; 2], pipes: Default::default() };
        self.streams.insert(id, stream);
        self.push(now, id, End::Acceptor, Segment::Connect);
        id
    }

    /// Sends bytes; false if there is no room for more, or nobody any more who could take them.
    pub fn send(&mut self, now: Moment, id: StreamId, from: End, bytes: Bytes) -> bool {
        if !self.has_room(id, from) {
            return false;
        }
        self.push(now, id, from.other(), Segment::Bytes(bytes));
        true
    }

    /// Whether the stream takes bytes from that end. If not for lack of room, [`Arrival::Room`] will tell.
    pub fn has_room(&mut self, id: StreamId, from: End) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        if stream.ends[from as usize] != EndState::Open {
            return false;
        }
        let pipe = &mut stream.pipes[from.other() as usize];
        pipe.starved = pipe.bytes >= self.window_bytes;
        !pipe.starved
    }

    /// Closes one end: what it sent still arrives, then the other end hears of it. This end hears nothing any more.
    pub fn close(&mut self, now: Moment, id: StreamId, end: End) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if std::mem::replace(&mut stream.ends[end as usize], EndState::Closed) == EndState::Open {
            self.push(now, id, end.other(), Segment::Finish);
        }
        self.forget_if_over(id);
    }

    /// Breaks a stream: of what is on its way some arrives, then both ends hear of it.
    pub fn cut(&mut self, now: Moment, id: StreamId) {
        for end in [End::Dialer, End::Acceptor] {
            self.reset(now, id, end, "connection reset");
        }
    }

    /// One end takes the stream for broken, and what it had sent is still on its way.
    pub fn sever(&mut self, now: Moment, id: StreamId, end: End) {
        self.reset(now, id, end, "connection timed out");
    }

    /// The process on a machine is gone. With its kernel alive (`power` false) its streams close; without power nothing
    /// of what it sent in the last moment is sure to have left, and nobody is told.
    pub fn crash(&mut self, now: Moment, machine: Machine, power: bool) {
        for (id, end) in self.ends_at(machine) {
            if !power {
                self.close(now, id, end);
                continue;
            }
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            if stream.ends[end as usize] == EndState::Open {
                stream.ends[end as usize] = EndState::Dead;
            }
            self.forget_if_over(id);
        }
    }

    /// A machine has power again: its kernel knows none of its old streams, and says so to whoever uses one.
    pub fn revive(&mut self, now: Moment, machine: Machine) {
        for (id, end) in self.ends_at(machine) {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            if stream.ends[end as usize] == EndState::Dead {
                stream.ends[end as usize] = EndState::Closed;
                let noticed = now + self.random.below(2 * SECOND);
                self.reset(noticed, id, end.other(), "connection reset");
            }
            self.forget_if_over(id);
        }
    }

    /// The streams that exist, for whoever wants to cut one.
    pub fn streams(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    /// Whom a stream joins: who connected, and to whom.
    pub fn machines_of(&self, id: StreamId) -> Option<[Machine; 2]> {
        self.streams.get(&id).map(|stream| stream.machines)
    }

    /// What is to happen, and when: to be put on the owner's schedule, and handed to [`Network::arrive`] at its time.
    pub fn poll_schedule(&mut self) -> Option<(Moment, StreamId, End)> {
        self.schedule.pop()
    }

    /// Something is due at one end of a stream: which machine gets what, if anything.
    pub fn arrive(&mut self, now: Moment, id: StreamId, end: End) -> Option<(Machine, Arrival)> {
        let stream = self.streams.get_mut(&id)?;
        let (receiver, sender) = (stream.machines[end as usize], stream.machines[end.other() as usize]);
        let blocked = self.links[sender * self.machines + receiver].blocked > 0;
        let pipe = &mut stream.pipes[end as usize];
        pipe.scheduled = false;
        let (at, _) = pipe.segments.front()?;
        if *at > now {
            // It was put off since: sent again.
            self.schedule_next(now, id, end);
            return None;
        }
        if blocked {
            pipe.stalled = true;
            return None;
        }
        let (_, segment) = pipe.segments.pop_front()?;
        let arrival = self.deliver(now, id, end, segment);
        self.schedule_next(now, id, end);
        self.forget_if_over(id);
        arrival.map(|arrival| (receiver, arrival))
    }

    /// The end that waits for room gets it, if there is some again.
    pub fn poll_room(&mut self, id: StreamId, arrived_at: End) -> Option<(Machine, End)> {
        let stream = self.streams.get_mut(&id)?;
        let pipe = &mut stream.pipes[arrived_at as usize];
        let sender = arrived_at.other();
        let open = stream.ends[sender as usize] == EndState::Open;
        let room = open && pipe.starved && pipe.bytes < self.window_bytes;
        room.then(|| {
            pipe.starved = false;
            (stream.machines[sender as usize], sender)
        })
    }

    fn deliver(&mut self, now: Moment, id: StreamId, end: End, segment: Segment) -> Option<Arrival> {
        let stream = self.streams.get_mut(&id)?;
        if let Segment::Bytes(bytes) = &segment {
            stream.pipes[end as usize].bytes -= bytes.len();
        }
        match (stream.ends[end as usize], segment) {
            (EndState::Dead, _) | (EndState::Closed, Segment::Finish | Segment::Reset(_) | Segment::Connected) => None,
            (EndState::Closed, _) => {
                self.reset(now, id, end.other(), "connection reset");
                None
            }
            (EndState::Open, Segment::Connect) => {
                self.push(now, id, End::Dialer, Segment::Connected);
                Some(Arrival::Accepted)
            }
            (EndState::Open, Segment::Connected) => Some(Arrival::Connected),
            (EndState::Open, Segment::Bytes(bytes)) => Some(Arrival::Bytes(bytes)),
            (EndState::Open, Segment::Finish) => Some(Arrival::Closed("closed by the peer")),
            (EndState::Open, Segment::Reset(why)) => {
                stream.ends[end as usize] = EndState::Closed;
                Some(Arrival::Closed(why))
            }
        }
    }

    /// Nobody listens on the machine that a stream leads to: its kernel refuses, or nothing answers at all.
    pub fn refuse(&mut self, now: Moment, id: StreamId, has_power: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.pipes[End::Dialer as usize].segments.clear();
        if has_power {
            stream.ends[End::Acceptor as usize] = EndState::Closed;
            self.push(now, id, End::Dialer, Segment::Reset("connection refused"));
        } else {
            stream.ends[End::Acceptor as usize] = EndState::Dead;
        }
    }

    /// The stream's end hears that it broke; of what was on its way to it, a random beginning still arrives.
    fn reset(&mut self, now: Moment, id: StreamId, end: End, why: &'static str) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.ends[end as usize] != EndState::Open {
            return;
        }
        let pipe = &mut stream.pipes[end as usize];
        let kept = self.random.below(pipe.segments.len() as u64 + 1) as usize;
        pipe.segments.truncate(kept);
        pipe.bytes = pipe.segments.iter().map(|(_, segment)| bytes_of(segment)).sum();
        self.push(now, id, end, Segment::Reset(why));
    }

    fn push(&mut self, now: Moment, id: StreamId, to: End, segment: Segment) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (sender, receiver) = (stream.machines[to.other() as usize], stream.machines[to as usize]);
        let quality = self.links[sender * self.machines + receiver].quality;
        let mut delay = quality.delay_min + self.random.exponential(quality.jitter_mean);
        let mut timeout = 200 * MILLI;
        while self.random.permille(quality.loss_permille) && timeout < 2 * SECOND {
            delay += timeout;
            timeout *= 2;
        }
        let pipe = &mut stream.pipes[to as usize];
        let bytes = bytes_of(&segment);
        let transit = (bytes as u64 * SECOND).checked_div(quality.bytes_per_second).unwrap_or(0);
        pipe.last_arrival = (now + delay).max(pipe.last_arrival + 1) + transit;
        pipe.bytes += bytes;
        pipe.segments.push_back((pipe.last_arrival, segment));
        self.schedule_next(now, id, to);
    }

    fn schedule_next(&mut self, now: Moment, id: StreamId, end: End) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let pipe = &mut stream.pipes[end as usize];
        if pipe.scheduled || pipe.stalled {
            return;
        }
        if let Some((at, _)) = pipe.segments.front() {
            pipe.scheduled = true;
            self.schedule.push(((*at).max(now), id, end));
        }
    }

    fn ends_at(&self, machine: Machine) -> Vec<(StreamId, End)> {
        let mut found = Vec::new();
        for (id, stream) in &self.streams {
            for end in [End::Dialer, End::Acceptor] {
                if stream.machines[end as usize] == machine {
                    found.push((*id, end));
                }
            }
        }
        found
    }

    /// A stream is forgotten when nobody can hear of it any more.
    fn forget_if_over(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        if stream.ends.iter().all(|end| *end != EndState::Open) {
            self.streams.remove(&id);
        }
    }
}

fn bytes_of(segment: &Segment) -> usize {
    match segment {
        Segment::Bytes(bytes) => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the network until nothing is on its way, and tells what arrived.
    fn run(network: &mut Network, until: Moment) -> Vec<(Moment, Machine, Arrival)> {
        let mut schedule: std::collections::BTreeSet<(Moment, StreamId, End)> = Default::default();
        let mut arrived = Vec::new();
        loop {
            while let Some(next) = network.poll_schedule() {
                schedule.insert(next);
            }
            let Some((now, id, end)) = schedule.pop_first().filter(|(now, ..)| *now <= until) else { return arrived };
            if let Some((machine, what)) = network.arrive(now, id, end) {
                arrived.push((now, machine, what));
            }
        }
    }

    fn bytes(arrived: &[(Moment, Machine, Arrival)]) -> Vec<u8> {
        let pieces = arrived.iter().filter_map(|(_, _, what)| match what {
            Arrival::Bytes(bytes) => Some(bytes.to_vec()),
            _ => None,
        });
        pieces.flatten().collect()
    }

    #[test]
    fn bytes_arrive_in_order_whatever_the_delays() {
        let mut network = Network::new(Random::new(1), 2);
        network.set_quality(
            0,
            1,
            Quality { delay_min: 1, jitter_mean: 50 * MILLI, loss_permille: 300, bytes_per_second: 0 },
        );
        let id = network.dial(0, 0, 1);
        let first = run(&mut network, SECOND);
        assert_eq!(
            first.iter().map(|(_, _, what)| what.clone()).collect::<Vec<_>>(),
            [Arrival::Accepted, Arrival::Connected]
        );
        for byte in 0..100_u8 {
            assert!(network.send(SECOND, id, End::Dialer, Bytes::copy_from_slice(&[byte])));
        }
        network.close(SECOND, id, End::Dialer);
        let arrived = run(&mut network, 100 * SECOND);
        assert_eq!(bytes(&arrived), (0..100).collect::<Vec<u8>>());
        assert_eq!(arrived.last().unwrap().2, Arrival::Closed("closed by the peer"));
    }

    #[test]
    fn a_partition_stalls_and_does_not_lose() {
        let mut network = Network::new(Random::new(2), 2);
        let id = network.dial(0, 0, 1);
        run(&mut network, SECOND);
        network.block(0, 1);
        assert!(network.send(SECOND, id, End::Dialer, Bytes::from_static(b"late")));
        assert!(network.send(SECOND, id, End::Acceptor, Bytes::from_static(b"the other way")));
        assert_eq!(bytes(&run(&mut network, 9 * SECOND)), b"the other way");
        network.unblock(10 * SECOND, 0, 1);
        let arrived = run(&mut network, 20 * SECOND);
        assert_eq!(bytes(&arrived), b"late");
        assert!(arrived[0].0 >= 10 * SECOND);
    }

    #[test]
    fn a_cut_stream_delivers_a_beginning_and_then_breaks_at_both_ends() {
        for seed in 0..50 {
            let mut network = Network::new(Random::new(seed), 2);
            let id = network.dial(0, 0, 1);
            run(&mut network, SECOND);
            for byte in 0..10_u8 {
                network.send(SECOND, id, End::Dialer, Bytes::copy_from_slice(&[byte]));
            }
            network.cut(SECOND, id);
            let arrived = run(&mut network, 2 * SECOND);
            let received = bytes(&arrived);
            assert_eq!(received, (0..received.len() as u8).collect::<Vec<u8>>());
            assert_eq!(arrived.iter().filter(|(_, _, what)| matches!(what, Arrival::Closed(_))).count(), 2);
            assert!(network.streams().is_empty());
            assert!(!network.send(3 * SECOND, id, End::Dialer, Bytes::from_static(b"x")));
        }
    }

    #[test]
    fn what_a_severed_end_had_sent_still_arrives() {
        let mut network = Network::new(Random::new(5), 2);
        let id = network.dial(0, 0, 1);
        run(&mut network, SECOND);
        network.block(0, 1);
        network.send(SECOND, id, End::Dialer, Bytes::from_static(b"astray"));
        network.sever(SECOND, id, End::Dialer);
        let arrived = run(&mut network, 2 * SECOND);
        assert!(matches!(arrived[..], [(_, 0, Arrival::Closed(_))]), "{arrived:?}");
        network.unblock(3 * SECOND, 0, 1);
        assert_eq!(bytes(&run(&mut network, 10 * SECOND)), b"astray");
    }

    #[test]
    fn a_machine_without_power_is_silent_until_it_is_back() {
        let mut network = Network::new(Random::new(3), 2);
        let id = network.dial(0, 0, 1);
        run(&mut network, SECOND);
        network.crash(SECOND, 1, true);
        network.send(SECOND, id, End::Dialer, Bytes::from_static(b"hello?"));
        assert_eq!(run(&mut network, 50 * SECOND), []);
        network.revive(50 * SECOND, 1);
        let arrived = run(&mut network, 60 * SECOND);
        assert!(matches!(arrived[..], [(_, 0, Arrival::Closed("connection reset"))]), "{arrived:?}");
    }

    #[test]
    fn a_full_stream_takes_no_more_until_something_arrived() {
        let mut network = Network::new(Random::new(4), 2);
        let id = network.dial(0, 0, 1);
        run(&mut network, SECOND);
        let piece = Bytes::from(vec![0; WINDOWS_BYTES[0]]);
        assert!(network.send(SECOND, id, End::Dialer, piece.clone()));
        assert!(!network.send(SECOND, id, End::Dialer, piece.clone()));
        assert_eq!(network.poll_room(id, End::Acceptor), None);
        run(&mut network, 2 * SECOND);
        assert_eq!(network.poll_room(id, End::Acceptor), Some((0, End::Dialer)));
        assert!(network.send(2 * SECOND, id, End::Dialer, piece));
    }
}
