//! A node's connections to its peers: the production protocol of `dstore-rpc` over simulated streams.
//!
//! What `dstore_rpc::driver` is on an event loop, this is in the simulation: it feeds channels and accepted connections
//! with what arrived, does what they ask for about transports, and hands their events on. As there, links of channel `n` are
//! numbered from `n << CHANNEL_SHIFT`, and accepted connections below the first, so that a request's id says to which
//! connection its answer belongs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dstore_rpc::{
    Action, Admission, CallId, CallOptions, Channel, Code, Config, Connection, Entropy, Event, Execution, Identity,
    Lane, LinkId, NodeId, RequestId, Route, SendError, Status, StreamId as Flow, TraceId,
};

use crate::network::{Arrival, End, Machine, Network, StreamId};
use crate::time::Moment;

const CHANNEL_SHIFT: u32 = 32;

fn key_of(link: LinkId) -> u64 {
    match link.0 >> CHANNEL_SHIFT {
        0 => link.0,
        channel => channel << CHANNEL_SHIFT,
    }
}

/// The node that a machine's disk belongs to: a disk that was lost is another machine here, so that no id comes twice.
pub fn node_of(machine: Machine) -> NodeId {
    NodeId(machine as u64 + 1)
}

/// What the peers did.
#[derive(Debug)]
pub enum PeerEvent {
    /// A connection for messages came up, or went down.
    Link {
        /// To whom.
        node: NodeId,
        /// Whether we made it, rather than the peer.
        dialed: bool,
        /// Whether it came up.
        up: bool,
    },
    /// A one-way message.
    Message {
        /// From whom.
        from: NodeId,
        /// Which.
        method: u32,
        /// Its content.
        body: Bytes,
    },
    /// A call, to be answered.
    Call {
        /// From whom.
        caller: Identity,
        /// To answer by.
        request: RequestId,
        /// Which method.
        method: u32,
        /// Its request.
        body: Bytes,
    },
    /// A call of ours ended.
    Reply {
        /// As given to [`Peers::call`].
        token: u64,
        /// Its result.
        result: Result<Bytes, Status>,
    },
    /// A peer opened a stream.
    Opened {
        /// Who.
        from: NodeId,
        /// Which.
        flow: Flow,
        /// What for.
        method: u32,
        /// What it begins with.
        body: Bytes,
    },
    /// Bytes of a stream. They count against its window until [`Peers::consumed`].
    Chunk {
        /// Which.
        flow: Flow,
        /// Its bytes; empty only together with `end`.
        body: Bytes,
        /// The peer sends no more.
        end: bool,
    },
    /// A stream that had no credit has some again.
    Writable(Flow),
    /// A stream is over, in order only if both ends say so.
    Closed {
        /// Which.
        flow: Flow,
        /// How.
        result: Result<(), Status>,
    },
}

enum Side {
    Dialing(Box<Channel>),
    Accepted(Box<Connection>),
}

struct Transport {
    link: LinkId,
    stream: StreamId,
    end: End,
    /// Bytes may be sent.
    connected: bool,
}

struct Slot {
    side: Side,
    /// To whom it leads, by our own wish.
    node: Option<NodeId>,
    /// For messages, rather than for bulk, once that is known.
    messages: bool,
    peer: Option<Identity>,
    transport: Option<Transport>,
    /// Nobody will use it any more.
    retired: bool,
}

/// A peer that was named, and the keys of its two channels.
struct Named {
    address: String,
    messages: u64,
    bulk: u64,
}

/// The connections of one start of a node. See the [module](self).
pub struct Peers {
    machine: Machine,
    config: Arc<Config>,
    admission: Admission,
    entropy: Entropy,
    slots: BTreeMap<u64, Slot>,
    peers: BTreeMap<NodeId, Named>,
    channels: u64,
    accepted: u64,
    /// By end too: a node may find itself where it thinks that another is.
    by_stream: BTreeMap<(StreamId, End), u64>,
    calls: BTreeMap<(u64, CallId), u64>,
    touched: BTreeSet<u64>,
    events: VecDeque<PeerEvent>,
}

impl Peers {
    /// Knows nobody yet. `seed` is another one at every start.
    pub fn new(config: Config, seed: [u8; 32], machine: Machine) -> Peers {
        Peers {
            machine,
            config: Arc::new(config),
            admission: Admission::default(),
            entropy: Entropy::new(seed),
            slots: BTreeMap::new(),
            peers: BTreeMap::new(),
            channels: 0,
            accepted: 0,
            by_stream: BTreeMap::new(),
            calls: BTreeMap::new(),
            touched: BTreeSet::new(),
            events: VecDeque::new(),
        }
    }

    /// Names a peer and connects to it; or says where it is now: connections to the old place end.
    pub fn set_peer(&mut self, now: Instant, node: NodeId, address: &str) {
        if let Some(named) = self.peers.get_mut(&node) {
            if named.address != address {
                address.clone_into(&mut named.address);
                for key in [named.messages, named.bulk] {
                    self.with_channel(key, |channel| channel.readdress(now));
                }
            }
            return;
        }
        self.add_peer(now, node, address, Some(node));
    }

    /// Names somebody of whom only the address is known. `name` is what it is called here.
    pub fn set_stranger(&mut self, now: Instant, name: NodeId, address: &str) {
        self.add_peer(now, name, address, None);
    }

    fn add_peer(&mut self, now: Instant, node: NodeId, address: &str, expected: Option<NodeId>) {
        let messages = self.add_channel(node, Lane::Messages, expected);
        let bulk = self.add_channel(node, Lane::Bulk, expected);
        self.peers.insert(node, Named { address: address.to_owned(), messages, bulk });
        self.with_channel(messages, |channel| channel.connect(now));
    }

    /// Forgets a peer; calls of it and streams to it end.
    pub fn remove_peer(&mut self, now: Instant, node: NodeId) {
        let Some(named) = self.peers.remove(&node) else { return };
        for key in [named.messages, named.bulk] {
            self.with_channel(key, |channel| channel.shut(now, "the peer was removed"));
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.retired = true;
            }
        }
    }

    fn add_channel(&mut self, node: NodeId, lane: Lane, expected: Option<NodeId>) -> u64 {
        self.channels += 1;
        let key = self.channels << CHANNEL_SHIFT;
        let route = Route { lane, expected, links_above: LinkId(key) };
        let channel = Channel::new(self.config.clone(), self.admission.clone(), self.entropy.fork(), route);
        let slot = Slot {
            side: Side::Dialing(Box::new(channel)),
            node: Some(node),
            messages: lane == Lane::Messages,
            peer: None,
            transport: None,
            retired: false,
        };
        self.slots.insert(key, slot);
        key
    }

    /// Something arrived on a stream.
    pub fn handle(&mut self, now: Instant, stream: StreamId, end: End, arrival: Arrival) {
        if arrival == Arrival::Accepted {
            return self.accept(now, stream);
        }
        let Some(key) = self.by_stream.get(&(stream, end)).copied() else { return };
        self.touched.insert(key);
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let Some(transport) = slot.transport.as_mut().filter(|transport| transport.stream == stream) else { return };
        let link = transport.link;
        match (arrival, &mut slot.side) {
            (Arrival::Connected, _) => transport.connected = true,
            (Arrival::Bytes(bytes), Side::Dialing(channel)) => channel.handle_input(now, link, &bytes),
            (Arrival::Bytes(bytes), Side::Accepted(connection)) => connection.handle_input(now, &bytes),
            (Arrival::Closed(why), Side::Dialing(channel)) => channel.handle_lost(now, link, why),
            (Arrival::Closed(why), Side::Accepted(connection)) => connection.handle_lost(now, why),
            (Arrival::Room | Arrival::Accepted, _) => {}
        }
    }

    fn accept(&mut self, now: Instant, stream: StreamId) {
        self.accepted += 1;
        let link = LinkId(self.accepted);
        let (config, admission) = (self.config.clone(), self.admission.clone());
        let connection = Connection::accept(config, admission, now, link, self.entropy.nonce());
        let transport = Transport { link, stream, end: End::Acceptor, connected: true };
        let slot = Slot {
            side: Side::Accepted(Box::new(connection)),
            node: None,
            messages: false,
            peer: None,
            transport: Some(transport),
            retired: false,
        };
        self.slots.insert(link.0, slot);
        self.by_stream.insert((stream, End::Acceptor), link.0);
        self.touched.insert(link.0);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (key, slot) in &mut self.slots {
            if timeout_of(slot).is_some_and(|timeout| timeout <= now) {
                match &mut slot.side {
                    Side::Dialing(channel) => channel.handle_timeout(now),
                    Side::Accepted(connection) => connection.handle_timeout(now),
                }
                self.touched.insert(*key);
            }
        }
    }

    /// When [`Peers::handle_timeout`] is to be called.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.slots.values_mut().filter_map(timeout_of).min()
    }

    /// Sends a one-way message; false if it was dropped.
    pub fn send(&mut self, now: Instant, to: NodeId, method: u32, body: Bytes) -> bool {
        let Some(key) = self.peers.get(&to).map(|named| named.messages) else { return false };
        self.with_channel(key, |channel| channel.send(now, method, body, TraceId(0))).unwrap_or(false)
    }

    /// Calls; a [`PeerEvent::Reply`] with this token ends it.
    pub fn call(&mut self, now: Instant, to: NodeId, token: u64, (method, body): (u32, Bytes), timeout: Duration) {
        let Some(key) = self.peers.get(&to).map(|named| named.messages) else {
            let status = Status::new(Code::Unavailable, Execution::NotExecuted, format!("there is no peer {to}"));
            return self.events.push_back(PeerEvent::Reply { token, result: Err(status) });
        };
        let options = CallOptions::deadline(now + timeout);
        if let Some(call) = self.with_channel(key, |channel| channel.call(now, method, body, options)) {
            self.calls.insert((key, call), token);
        }
    }

    /// Answers a peer's call. False if nobody waits for it any more.
    pub fn answer(&mut self, now: Instant, request: RequestId, result: Result<Bytes, Status>) -> bool {
        let key = key_of(request.link());
        self.touched.insert(key);
        match self.slots.get_mut(&key).map(|slot| &mut slot.side) {
            Some(Side::Dialing(channel)) => channel.answer(now, request, result),
            Some(Side::Accepted(connection)) => connection.answer(now, request, result),
            None => false,
        }
    }

    /// Opens a stream to a peer, on the connection for bulk. `None` if there is no such peer.
    pub fn open(&mut self, now: Instant, to: NodeId, method: u32, body: Bytes) -> Option<Flow> {
        let key = self.peers.get(&to).map(|named| named.bulk)?;
        self.with_channel(key, |channel| channel.open_stream(now, method, body, TraceId(0)))
    }

    /// Sends the next bytes of a stream, if there is credit for all of them.
    ///
    /// # Errors
    ///
    /// There is not, yet; or the stream is over.
    pub fn send_chunk(&mut self, now: Instant, flow: Flow, body: Bytes) -> Result<(), SendError> {
        match self.side_of(flow) {
            Some(Side::Dialing(channel)) => channel.stream_send(now, flow, body),
            Some(Side::Accepted(connection)) => connection.stream_send(flow, body),
            None => Err(SendError::Closed),
        }
    }

    /// This end sends no more.
    pub fn end(&mut self, now: Instant, flow: Flow) {
        // One that is over cannot be ended, and its end is told by an event.
        let _ = match self.side_of(flow) {
            Some(Side::Dialing(channel)) => channel.stream_end(now, flow),
            Some(Side::Accepted(connection)) => connection.stream_end(flow),
            None => Ok(()),
        };
    }

    /// So many bytes of a stream are done with.
    pub fn consumed(&mut self, now: Instant, flow: Flow, bytes: usize) {
        match self.side_of(flow) {
            Some(Side::Dialing(channel)) => channel.stream_consumed(now, flow, bytes),
            Some(Side::Accepted(connection)) => connection.stream_consumed(flow, bytes),
            None => {}
        }
    }

    /// Ends a stream at once, and says why.
    pub fn reset(&mut self, now: Instant, flow: Flow, status: Status) {
        match self.side_of(flow) {
            Some(Side::Dialing(channel)) => channel.stream_reset(now, flow, status),
            Some(Side::Accepted(connection)) => connection.stream_reset(flow, status),
            None => {}
        }
    }

    fn side_of(&mut self, flow: Flow) -> Option<&mut Side> {
        let key = key_of(flow.link());
        self.touched.insert(key);
        self.slots.get_mut(&key).map(|slot| &mut slot.side)
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    /// Takes what channels and connections have to tell, does what they ask for, and sends what they have to say.
    pub fn settle(&mut self, now: Instant, moment: Moment, network: &mut Network) {
        while let Some(key) = self.touched.pop_first() {
            while let Some(event) = self.slots.get_mut(&key).and_then(poll_event) {
                self.event((now, moment), network, key, event);
            }
            while let Some(action) = self.slots.get_mut(&key).and_then(poll_action) {
                self.act((now, moment), network, key, action);
            }
            self.pump(now, moment, network, key);
            if self.slots.get(&key).is_some_and(|slot| slot.retired && slot.transport.is_none()) {
                self.slots.remove(&key);
            }
        }
    }

    fn with_channel<R>(&mut self, key: u64, does: impl FnOnce(&mut Channel) -> R) -> Option<R> {
        self.touched.insert(key);
        match &mut self.slots.get_mut(&key)?.side {
            Side::Dialing(channel) => Some(does(channel)),
            Side::Accepted(_) => None,
        }
    }

    fn event(&mut self, (now, moment): (Instant, Moment), network: &mut Network, key: u64, event: Event) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let dialed = matches!(slot.side, Side::Dialing(_));
        match event {
            Event::Established(peer) => {
                slot.peer = Some(peer.identity);
                slot.messages = peer.lane == Lane::Messages;
                if slot.messages {
                    self.events.push_back(PeerEvent::Link { node: peer.identity.node, dialed, up: true });
                }
            }
            Event::Completed { call, result } => {
                if let Some(token) = self.calls.remove(&(key, call)) {
                    self.events.push_back(PeerEvent::Reply { token, result });
                }
            }
            Event::Request { id, method, body, .. } => {
                let caller = slot.peer.expect("only established peers call");
                self.events.push_back(PeerEvent::Call { caller, request: id, method, body });
            }
            Event::Message { method, body, .. } => {
                let from = slot.peer.expect("only established peers send").node;
                self.events.push_back(PeerEvent::Message { from, method, body });
            }
            Event::Closed { .. } => {
                if let Some(identity) = slot.peer.take().filter(|_| slot.messages) {
                    self.events.push_back(PeerEvent::Link { node: identity.node, dialed, up: false });
                }
                if !dialed {
                    self.bury((now, moment), network, key);
                }
            }
            Event::Cancelled { .. } => {}
            Event::StreamOpened { stream, method, body, .. } => {
                let from = slot.peer.expect("only established peers open streams").node;
                self.events.push_back(PeerEvent::Opened { from, flow: stream, method, body });
            }
            Event::StreamChunk { stream, body, end } => {
                self.events.push_back(PeerEvent::Chunk { flow: stream, body, end });
            }
            Event::StreamWritable { stream } => self.events.push_back(PeerEvent::Writable(stream)),
            Event::StreamClosed { stream, result } => {
                self.events.push_back(PeerEvent::Closed { flow: stream, result });
            }
        }
    }

    /// An accepted connection is over: its last words leave, then nothing is left of it.
    fn bury(&mut self, (now, moment): (Instant, Moment), network: &mut Network, key: u64) {
        let Some(mut slot) = self.slots.remove(&key) else { return };
        let Some(transport) = slot.transport.take() else { return };
        if let Side::Accepted(connection) = &mut slot.side {
            while let Some(last) = connection.poll_output(now) {
                network.send(moment, transport.stream, transport.end, last);
            }
        }
        self.by_stream.remove(&(transport.stream, transport.end));
        network.close(moment, transport.stream, transport.end);
    }

    fn act(&mut self, (now, moment): (Instant, Moment), network: &mut Network, key: u64, action: Action) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        match action {
            Action::Dial(link) => {
                let Some(named) = slot.node.and_then(|node| self.peers.get(&node)) else {
                    self.with_channel(key, |channel| channel.handle_lost(now, link, "there is no way to the peer"));
                    return;
                };
                let stream = network.dial_address(moment, self.machine, &named.address);
                slot.transport = Some(Transport { link, stream, end: End::Dialer, connected: false });
                self.by_stream.insert((stream, End::Dialer), key);
            }
            Action::Hangup { link, last } => {
                let Some(transport) = slot.transport.take_if(|transport| transport.link == link) else { return };
                if transport.connected && !last.is_empty() {
                    network.send(moment, transport.stream, transport.end, last);
                }
                self.by_stream.remove(&(transport.stream, transport.end));
                network.close(moment, transport.stream, transport.end);
            }
        }
    }

    fn pump(&mut self, now: Instant, moment: Moment, network: &mut Network, key: u64) {
        let Some(Slot { side, transport: Some(transport), .. }) = self.slots.get_mut(&key) else { return };
        while transport.connected && network.has_room(transport.stream, transport.end) {
            let piece = match side {
                Side::Dialing(channel) => channel.poll_output(now, transport.link),
                Side::Accepted(connection) => connection.poll_output(now),
            };
            let Some(piece) = piece else { return };
            network.send(moment, transport.stream, transport.end, piece);
        }
    }
}

fn timeout_of(slot: &mut Slot) -> Option<Instant> {
    match &mut slot.side {
        Side::Dialing(channel) => channel.poll_timeout(),
        Side::Accepted(connection) => connection.poll_timeout(),
    }
}

fn poll_event(slot: &mut Slot) -> Option<Event> {
    match &mut slot.side {
        Side::Dialing(channel) => channel.poll_event(),
        Side::Accepted(connection) => connection.poll_event(),
    }
}

fn poll_action(slot: &mut Slot) -> Option<Action> {
    match &mut slot.side {
        Side::Dialing(channel) => channel.poll_action(),
        Side::Accepted(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use dstore_rpc::{ClusterId, Incarnation, Secret};

    use super::*;
    use crate::random::Random;
    use crate::time::{Clock, MILLI, SECOND};

    struct World {
        network: Network,
        peers: Vec<Peers>,
        clock: Clock,
        schedule: BTreeSet<(Moment, StreamId, End)>,
        now: Moment,
        seen: Vec<(Machine, PeerEvent)>,
    }

    impl World {
        #[allow(clippy::disallowed_methods)]
        fn new(seed: u64) -> World {
            let config = |machine| {
                let identity = Identity { cluster: ClusterId(1), node: node_of(machine), incarnation: Incarnation(1) };
                Config::new(identity, Secret::new(b"the secret of the simulator").expect("long enough"))
            };
            let clock = Clock::new(Instant::now(), 0, 0, 0);
            let mut network = Network::new(Random::new(seed), 2);
            let mut peers: Vec<Peers> =
                (0..2).map(|machine| Peers::new(config(machine), [machine as u8; 32], machine)).collect();
            for (machine, name) in ["here", "there"].into_iter().enumerate() {
                network.set_name(name, Some(machine));
                peers[1 - machine].set_peer(clock.instant(0), node_of(machine), name);
            }
            World { network, peers, clock, schedule: BTreeSet::new(), now: 0, seen: Vec::new() }
        }

        fn run(&mut self, until: Moment) {
            loop {
                for machine in 0..2 {
                    let now = self.clock.instant(self.now);
                    self.peers[machine].handle_timeout(now);
                    self.peers[machine].settle(now, self.now, &mut self.network);
                    while let Some(event) = self.peers[machine].poll_event() {
                        if let PeerEvent::Call { request, body, .. } = &event {
                            self.peers[machine].answer(now, *request, Ok(body.clone()));
                            self.peers[machine].settle(now, self.now, &mut self.network);
                        }
                        self.seen.push((machine, event));
                    }
                }
                while let Some(next) = self.network.poll_schedule() {
                    self.schedule.insert(next);
                }
                let timers = self.peers.iter_mut().filter_map(Peers::poll_timeout).min();
                let zero = self.clock.instant(0);
                let timer = timers.map_or(Moment::MAX, |at| (at - zero).as_nanos() as Moment);
                let next = self.schedule.first().map_or(Moment::MAX, |(at, ..)| *at).min(timer.max(self.now));
                if next > until {
                    self.now = until;
                    return;
                }
                self.now = next;
                if self.schedule.first().is_some_and(|(at, ..)| *at <= next)
                    && let Some((_, id, end)) = self.schedule.pop_first()
                    && let Some((machine, arrival)) = self.network.arrive(next, id, end)
                {
                    self.peers[machine].handle(self.clock.instant(next), id, end, arrival);
                }
            }
        }
    }

    #[test]
    fn calls_are_answered_over_the_simulated_network_and_links_come_back_after_a_cut() {
        let mut world = World::new(5);
        let now = world.clock.instant(0);
        world.peers[0].call(now, node_of(1), 7, (1, Bytes::from_static(b"hello")), Duration::from_secs(5));
        world.run(SECOND);
        let answered = |world: &World, wanted: u64| {
            world.seen.iter().any(|(machine, event)| {
                matches!(event, PeerEvent::Reply { token, result: Ok(body) } if *machine == 0 && *token == wanted && body == "hello")
            })
        };
        assert!(answered(&world, 7), "{:?}", world.seen);
        for id in world.network.streams() {
            world.network.cut(world.now, id);
        }
        world.run(5 * SECOND);
        let downs = world.seen.iter().filter(|(_, event)| matches!(event, PeerEvent::Link { up: false, .. })).count();
        assert_eq!(downs, 4, "both ends of both connections heard of it: {:?}", world.seen);
        let now = world.clock.instant(world.now);
        world.peers[0].call(now, node_of(1), 8, (1, Bytes::from_static(b"hello")), Duration::from_secs(5));
        world.run(world.now + 100 * MILLI);
        assert!(answered(&world, 8), "{:?}", world.seen);
    }

    #[test]
    fn a_call_into_a_partition_ends_at_its_deadline() {
        let mut world = World::new(6);
        world.run(SECOND);
        world.network.block(0, 1);
        let now = world.clock.instant(world.now);
        world.peers[0].call(now, node_of(1), 9, (1, Bytes::from_static(b"hello")), Duration::from_secs(1));
        world.run(3 * SECOND);
        let ended = world.seen.iter().any(|(_, event)| matches!(event, PeerEvent::Reply { token: 9, result: Err(_) }));
        assert!(ended, "{:?}", world.seen);
    }
}
