//! [`Rpc`]: the channels and connections of one loop, and how they meet its sockets.
//!
//! Every channel and every accepted connection is a slot, under a key that is also the upper or whole part of its
//! [`LinkId`]s: so the ids in requests and streams say which slot they belong to. A slot that something was done to is
//! *touched*; `turn::settle` then takes its events to the application, carries its actions out, and pumps its output.
//! It never runs inside a callback of the application, so callbacks do not nest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use async_task::Task;
use bytes::Bytes;
use dstore_net::{ConnectionConfig, ConnectionId, ConnectionState, Net, Target, TimerId};
use prost::Message;

use super::remote::{Command, Commands, Pending, Remote};
use super::slot::{CHANNEL_SHIFT, Side, Slot, key_of};
use super::socket::Socket;
use super::tasks::Tasks;
use super::{Host, OUTPUT_AHEAD_BYTES, RpcTimer, connection_config};
use crate::channel::{Channel, ChannelState, Route};
use crate::config::{Admission, Config};
use crate::connection::{CallId, CallOptions, Connection, LinkId, SendError, StreamId, TraceId};
use crate::entropy::Entropy;
use crate::identity::{Lane, NodeId};
use crate::metrics::Metrics;
use crate::service::{Answer, CallMethod, MessageMethod, Outcome};
use crate::status::{Code, Execution, Status};

/// What takes a call's result.
type Done<A> = Box<dyn FnOnce(&mut A, &mut Net<A>, Result<Bytes, Status>)>;

/// A peer that was named, and the keys of its two channels.
#[derive(Debug)]
struct Named {
    target: Target,
    messages: u64,
    bulk: u64,
}

/// A peer as operators see it.
#[derive(Clone, Debug)]
pub struct PeerState {
    /// Its address.
    pub target: Target,
    /// The channel for calls and messages.
    pub messages: ChannelState,
    /// The channel for streams.
    pub bulk: ChannelState,
}

/// A call made with [`Rpc::call`], to cancel it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallHandle {
    pub(super) key: u64,
    pub(super) call: CallId,
}

/// The channels and connections of one loop. See the [module](super).
pub struct Rpc<A: Host> {
    config: Arc<Config>,
    admission: Admission,
    entropy: Entropy,
    pub(super) slots: BTreeMap<u64, Slot>,
    peers: BTreeMap<NodeId, Named>,
    channels: u64,
    accepted: u64,
    pub(super) waiting: BTreeMap<CallHandle, Done<A>>,
    /// Calls that could not even be made.
    pub(super) failed: VecDeque<(Done<A>, Status)>,
    pub(super) touched: Vec<u64>,
    /// Slots with output that their socket has no room for.
    pub(super) blocked: BTreeSet<u64>,
    /// Turns that have ended.
    pub(super) turn: u64,
    pub(super) timer: Option<(TimerId, Instant)>,
    /// The timer may have to move.
    pub(super) timer_stale: bool,
    pub(super) tasks: Tasks,
    pub(super) commands: Rc<Commands>,
    /// Calls of futures, by their token.
    remote_calls: BTreeMap<u64, CallHandle>,
    sleeps: BTreeMap<(Instant, u64), Rc<Pending<()>>>,
    sleepers: BTreeMap<u64, Instant>,
    /// Of slots that are gone.
    ended: Metrics,
}

impl<A: Host> Rpc<A> {
    /// Nothing but the settings yet. `seed` comes from the operating system's random source; `admission` is shared with
    /// the other loops of the node.
    pub fn new(config: Config, admission: Admission, seed: [u8; 32], now: Instant) -> Rpc<A> {
        Rpc {
            config: Arc::new(config),
            admission,
            entropy: Entropy::new(seed),
            slots: BTreeMap::new(),
            peers: BTreeMap::new(),
            channels: 0,
            accepted: 0,
            waiting: BTreeMap::new(),
            failed: VecDeque::new(),
            touched: Vec::new(),
            blocked: BTreeSet::new(),
            turn: 0,
            timer: None,
            timer_stale: false,
            tasks: Tasks::new(),
            commands: Commands::new(now),
            remote_calls: BTreeMap::new(),
            sleeps: BTreeMap::new(),
            sleepers: BTreeMap::new(),
            ended: Metrics::default(),
        }
    }

    // Peers.

    /// Names a peer, or its new address. A new address takes effect at once: connections to the old one end.
    pub fn set_peer(&mut self, now: Instant, node: NodeId, target: impl Into<Target>) {
        let target = target.into();
        if let Some(named) = self.peers.get_mut(&node) {
            if named.target != target {
                named.target = target;
                for key in [named.messages, named.bulk] {
                    self.with_channel(key, |channel| channel.readdress(now));
                }
            }
            return;
        }
        let (messages, bulk) = (self.add_channel(node, Lane::Messages), self.add_channel(node, Lane::Bulk));
        self.peers.insert(node, Named { target, messages, bulk });
    }

    fn add_channel(&mut self, node: NodeId, lane: Lane) -> u64 {
        self.channels += 1;
        let key = self.channels << CHANNEL_SHIFT;
        let route = Route { lane, expected: Some(node), links_above: LinkId(key) };
        let channel = Channel::new(self.config.clone(), self.admission.clone(), self.entropy.fork(), route);
        self.slots.insert(key, Slot::new(Side::Dialing(Box::new(channel)), Some(node), Some(lane)));
        key
    }

    /// Forgets a peer; its calls end.
    pub fn remove_peer(&mut self, now: Instant, node: NodeId) {
        if let Some(named) = self.peers.remove(&node) {
            for key in [named.messages, named.bulk] {
                self.with_channel(key, |channel| channel.shut(now, "the peer was removed"));
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.retired = true;
                }
            }
        }
    }

    /// The peers that were named.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
    }

    /// How it stands with a peer.
    pub fn peer_state(&self, node: NodeId) -> Option<PeerState> {
        let named = self.peers.get(&node)?;
        let state = |key: u64| match &self.slots.get(&key)?.side {
            Side::Dialing(channel) => Some(channel.state()),
            Side::Accepted(_) => None,
        };
        let (messages, bulk) = (state(named.messages)?, state(named.bulk)?);
        Some(PeerState { target: named.target.clone(), messages, bulk })
    }

    /// Connects to a peer without waiting for the first call to it.
    pub fn connect(&mut self, now: Instant, node: NodeId) {
        if let Some(key) = self.peers.get(&node).map(|named| named.messages) {
            self.with_channel(key, |channel| channel.connect(now));
        }
    }

    /// Counters of all connections, past and present.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = self.ended.clone();
        self.slots.values().for_each(|slot| metrics.merge(&slot.metrics()));
        metrics
    }

    /// Calls that wait for their end.
    pub fn calls_inflight(&self) -> usize {
        self.waiting.len() + self.failed.len()
    }

    /// Connections that peers made to us, established or shaking hands.
    pub fn accepted_connections(&self) -> usize {
        self.slots.values().filter(|slot| matches!(slot.side, Side::Accepted(_))).count()
    }

    // Calling.

    /// Calls a peer; `done` gets the result, never inside this function. `None` if there is no such peer; `done` then
    /// hears `Unavailable`.
    pub fn call<Q, R>(
        &mut self,
        now: Instant,
        node: NodeId,
        method: CallMethod<Q, R>,
        request: &Q,
        options: CallOptions,
        done: impl FnOnce(&mut A, &mut Net<A>, Result<R, Status>) + 'static,
    ) -> Option<CallHandle>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        let decode = move |app: &mut A, net: &mut Net<A>, result| done(app, net, method.decode_reply(result));
        self.call_raw(now, node, method.number, method.encode(request), options, decode)
    }

    /// As [`Rpc::call`], with bodies as bytes.
    pub fn call_raw(
        &mut self,
        now: Instant,
        node: NodeId,
        method: u32,
        body: Bytes,
        options: CallOptions,
        done: impl FnOnce(&mut A, &mut Net<A>, Result<Bytes, Status>) + 'static,
    ) -> Option<CallHandle> {
        let done: Done<A> = Box::new(done);
        let key = self.peers.get(&node).map(|named| named.messages);
        let called = key.and_then(|key| {
            let call = self.with_channel(key, |channel| channel.call(now, method, body, options))?;
            Some(CallHandle { key, call })
        });
        match called {
            Some(handle) => drop(self.waiting.insert(handle, done)),
            None => {
                let message = format!("there is no peer {node}");
                self.failed.push_back((done, Status::new(Code::Unavailable, Execution::NotExecuted, message)));
            }
        }
        called
    }

    /// Cancels a call; its `done` hears so, unless it has ended.
    pub fn cancel(&mut self, now: Instant, call: CallHandle) {
        self.with_channel(call.key, |channel| channel.cancel(now, call.call));
    }

    /// Sends a one-way message; false if it was dropped.
    pub fn send<M: Message + Default>(
        &mut self,
        now: Instant,
        node: NodeId,
        method: MessageMethod<M>,
        message: &M,
        trace: TraceId,
    ) -> bool {
        self.send_raw(now, node, method.number, method.encode(message), trace)
    }

    /// As [`Rpc::send`], with the body as bytes.
    pub fn send_raw(&mut self, now: Instant, node: NodeId, method: u32, body: Bytes, trace: TraceId) -> bool {
        let Some(key) = self.peers.get(&node).map(|named| named.messages) else { return false };
        self.with_channel(key, |channel| channel.send(now, method, body, trace)).unwrap_or(false)
    }

    /// Answers a request; false if nobody waits for it any more.
    pub fn answer(&mut self, now: Instant, answer: Answer) -> bool {
        let Answer { request, result } = answer;
        let key = key_of(request.link());
        let Some(slot) = self.touch(key) else { return false };
        match &mut slot.side {
            Side::Dialing(channel) => channel.answer(now, request, result),
            Side::Accepted(connection) => connection.answer(now, request, result),
        }
    }

    /// Does what a dispatch says.
    pub fn finish(&mut self, now: Instant, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Answer(answer)) => drop(self.answer(now, answer)),
            Some(Outcome::Reset(stream, status)) => self.stream_reset(now, stream, status),
            None => {}
        }
    }

    // Streams.

    /// Opens a stream to a peer, on the connection for bulk; its events come to [`Host::on_stream`]. `None` if there is no
    /// such peer.
    pub fn open_stream<M: Message + Default>(
        &mut self,
        now: Instant,
        node: NodeId,
        method: MessageMethod<M>,
        head: &M,
        trace: TraceId,
    ) -> Option<StreamId> {
        self.open_stream_raw(now, node, method.number, method.encode(head), trace)
    }

    /// As [`Rpc::open_stream`], with what it begins with as bytes.
    pub fn open_stream_raw(
        &mut self,
        now: Instant,
        node: NodeId,
        method: u32,
        head: Bytes,
        trace: TraceId,
    ) -> Option<StreamId> {
        let key = self.peers.get(&node).map(|named| named.bulk)?;
        self.with_channel(key, |channel| channel.open_stream(now, method, head, trace))
    }

    /// Bytes the stream takes now.
    pub fn stream_credit(&self, stream: StreamId) -> usize {
        let slot = self.slots.get(&key_of(stream.link()));
        slot.and_then(Slot::connection).map_or(0, |connection| connection.stream_credit(stream))
    }

    /// As [`Connection::stream_send`].
    pub fn stream_send(&mut self, now: Instant, stream: StreamId, body: Bytes) -> Result<(), SendError> {
        match self.touch(key_of(stream.link())).map(|slot| &mut slot.side) {
            Some(Side::Dialing(channel)) => channel.stream_send(now, stream, body),
            Some(Side::Accepted(connection)) => connection.stream_send(stream, body),
            None => Err(SendError::Closed),
        }
    }

    /// As [`Connection::stream_end`].
    pub fn stream_end(&mut self, now: Instant, stream: StreamId) -> Result<(), SendError> {
        match self.touch(key_of(stream.link())).map(|slot| &mut slot.side) {
            Some(Side::Dialing(channel)) => channel.stream_end(now, stream),
            Some(Side::Accepted(connection)) => connection.stream_end(stream),
            None => Err(SendError::Closed),
        }
    }

    /// As [`Connection::stream_consumed`].
    pub fn stream_consumed(&mut self, now: Instant, stream: StreamId, bytes: usize) {
        match self.touch(key_of(stream.link())).map(|slot| &mut slot.side) {
            Some(Side::Dialing(channel)) => channel.stream_consumed(now, stream, bytes),
            Some(Side::Accepted(connection)) => connection.stream_consumed(stream, bytes),
            None => {}
        }
    }

    /// As [`Connection::stream_reset`].
    pub fn stream_reset(&mut self, now: Instant, stream: StreamId, status: Status) {
        match self.touch(key_of(stream.link())).map(|slot| &mut slot.side) {
            Some(Side::Dialing(channel)) => channel.stream_reset(now, stream, status),
            Some(Side::Accepted(connection)) => connection.stream_reset(stream, status),
            None => {}
        }
    }

    // Futures.

    /// A peer, for futures to call.
    pub fn remote(&self, node: NodeId) -> Remote {
        Remote::new(node, self.commands.clone())
    }

    /// Runs a future on this loop, from the end of this turn on. Dropping the task cancels it; `detach` lets it run.
    pub fn spawn<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.tasks.spawn(future)
    }

    /// What makes the loop turn when a task is woken from another thread: a post to its mailbox. Set once.
    pub fn set_bell(&mut self, bell: impl Fn() + Send + Sync + 'static) {
        self.tasks.set_bell(bell);
    }

    // For the sockets.

    /// A peer connected to us.
    pub(super) fn accepted(&mut self, now: Instant, socket: ConnectionId) -> LinkId {
        self.accepted += 1;
        assert!(self.accepted < 1 << CHANNEL_SHIFT, "four billion connections accepted by one loop");
        let link = LinkId(self.accepted);
        let (config, admission) = (self.config.clone(), self.admission.clone());
        let connection = Connection::accept(config, admission, now, link, self.entropy.nonce());
        let mut slot = Slot::new(Side::Accepted(Box::new(connection)), None, None);
        slot.socket = Some((link, socket));
        self.slots.insert(link.0, slot);
        link
    }

    pub(super) fn handle_input(&mut self, now: Instant, link: LinkId, bytes: &[u8]) {
        match self.slots.get_mut(&key_of(link)).map(|slot| &mut slot.side) {
            Some(Side::Dialing(channel)) => channel.handle_input(now, link, bytes),
            Some(Side::Accepted(connection)) => connection.handle_input(now, bytes),
            None => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, link: LinkId) {
        if let Some(slot) = self.slots.get_mut(&key_of(link))
            && slot.socket.is_some_and(|(current, _)| current == link)
        {
            slot.armed = None;
            slot.handle_timeout(now);
        }
    }

    pub(super) fn handle_lost(&mut self, now: Instant, link: LinkId, why: &str) {
        match self.slots.get_mut(&key_of(link)).map(|slot| &mut slot.side) {
            Some(Side::Dialing(channel)) => channel.handle_lost(now, link, why),
            Some(Side::Accepted(connection)) => connection.handle_lost(now, why),
            None => {}
        }
    }

    pub(super) fn close(&mut self, now: Instant, link: LinkId, why: &str) {
        match self.slots.get_mut(&key_of(link)).map(|slot| &mut slot.side) {
            Some(Side::Dialing(channel)) => channel.shut(now, why),
            Some(Side::Accepted(connection)) => connection.close(now, why),
            None => {}
        }
    }

    // Inside.

    fn with_channel<R>(&mut self, key: u64, does: impl FnOnce(&mut Channel) -> R) -> Option<R> {
        match &mut self.touch(key)?.side {
            Side::Dialing(channel) => Some(does(channel)),
            Side::Accepted(_) => None,
        }
    }

    /// The slot, which will be settled at the end of the turn if not before.
    pub(super) fn touch(&mut self, key: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(&key)?;
        if !std::mem::replace(&mut slot.touched, true) {
            self.touched.push(key);
        }
        Some(slot)
    }

    /// Carries out what futures asked for. False if they asked for nothing.
    pub(super) fn run_commands(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(command) = self.commands.pop() {
            any = true;
            match command {
                Command::Call { token, node, method, body, options, reply } => {
                    let done = move |app: &mut A, _: &mut Net<A>, result| {
                        app.rpc().remote_calls.remove(&token);
                        reply.complete(result);
                    };
                    if let Some(handle) = self.call_raw(now, node, method, body, options, done) {
                        self.remote_calls.insert(token, handle);
                    }
                }
                Command::Cancel { token } => {
                    if let Some(handle) = self.remote_calls.remove(&token) {
                        self.cancel(now, handle);
                    }
                    if let Some(until) = self.sleepers.remove(&token) {
                        self.sleeps.remove(&(until, token));
                    }
                }
                Command::Send { node, method, body, trace } => drop(self.send_raw(now, node, method, body, trace)),
                Command::Sleep { token, until, over } => {
                    self.sleepers.insert(token, until);
                    self.sleeps.insert((until, token), over);
                    self.timer_stale = true;
                }
            }
        }
        any
    }

    pub(super) fn wake_sleepers(&mut self, now: Instant) {
        while let Some(entry) = self.sleeps.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((_, token), over) = entry.remove_entry();
            self.sleepers.remove(&token);
            over.complete(());
        }
    }

    /// Hands output to the socket as far as it keeps up, and arms its deadline.
    pub(super) fn pump(&mut self, net: &mut Net<A>, key: u64) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let Some((link, socket)) = slot.socket else {
            self.blocked.remove(&key);
            return;
        };
        let now = net.now();
        let mut pulled = false;
        while net.output_len(socket) < OUTPUT_AHEAD_BYTES
            && let Some(piece) = slot.poll_output(now, link)
        {
            net.write_bytes(socket, piece);
            pulled = true;
        }
        let more = slot.connection().is_some_and(Connection::has_output);
        if more {
            self.blocked.insert(key);
        } else {
            self.blocked.remove(&key);
        }
        // What was pulled in this turn is offered to the socket at the turn's end at the latest. The socket may take all of
        // it, and then nothing would tell: so look again in the next turn, at once. If it had refused some by then, its
        // becoming writable turns the loop, and the end of that turn pumps the blocked ones.
        if pulled {
            slot.pulled_in = self.turn;
        }
        let wanted = if more && slot.pulled_in == self.turn { Some(now) } else { slot.poll_timeout() };
        if let Some(wanted) = wanted.filter(|wanted| slot.armed.is_none_or(|armed| armed > *wanted)) {
            slot.armed = Some(wanted);
            net.set_deadline(socket, Some(wanted));
        }
    }

    /// Something waits for the end of a turn.
    fn is_pending(&self) -> bool {
        !self.touched.is_empty() || !self.failed.is_empty() || !self.tasks.is_idle() || !self.commands.is_empty()
    }

    /// Arms the one timer for what has no socket: channels that wait to try again, and sleeping futures; and, when called
    /// where this turn's end is over already, for what waits for the end of one.
    pub(super) fn arm_timer(&mut self, net: &mut Net<A>) {
        let pending = self.is_pending();
        if !std::mem::take(&mut self.timer_stale) && !pending {
            return;
        }
        let waiting = self.slots.values_mut().filter(|slot| slot.socket.is_none()).filter_map(Slot::poll_timeout).min();
        let sleeping = self.sleeps.keys().next().map(|(until, _)| *until);
        let next = [waiting, sleeping, pending.then(|| net.now())].into_iter().flatten().min();
        match (self.timer, next) {
            (Some((_, armed)), Some(next)) if armed == next => {}
            (Some((timer, _)), Some(next)) if net.update_timer(timer, next) => self.timer = Some((timer, next)),
            (_, Some(next)) => self.timer = Some((net.insert_timer(next, RpcTimer.into()), next)),
            (Some((timer, _)), None) => {
                net.remove_timer(timer);
                self.timer = None;
            }
            (None, None) => {}
        }
    }

    pub(super) fn dial(&mut self, net: &mut Net<A>, key: u64, link: LinkId) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let target = slot.node.and_then(|node| self.peers.get(&node)).map(|named| named.target.clone());
        let Some(target) = target.filter(|_| !net.is_stopping()) else {
            let now = net.now();
            return self.handle_lost(now, link, "there is no way to the peer any more");
        };
        let config = ConnectionConfig { connect_timeout: self.config.timeouts.handshake, ..connection_config() };
        slot.socket = Some((link, net.connect(target, config, Socket::dialed(link))));
        slot.armed = None;
    }

    pub(super) fn hang_up(&mut self, net: &mut Net<A>, key: u64, link: LinkId, last: Bytes) {
        self.timer_stale = true;
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let Some((_, socket)) = slot.socket.take_if(|(current, _)| *current == link) else { return };
        slot.armed = None;
        hang_up(net, socket, last);
    }

    /// An accepted connection is over: its last words, and its counters.
    pub(super) fn bury(&mut self, net: &mut Net<A>, key: u64) {
        let Some(mut slot) = self.slots.remove(&key) else { return };
        self.blocked.remove(&key);
        self.ended.merge(&slot.metrics());
        if let Some((link, socket)) = slot.socket {
            let mut last = Vec::new();
            while let Some(piece) = slot.poll_output(net.now(), link) {
                last.extend_from_slice(&piece);
            }
            hang_up(net, socket, last.into());
        }
    }
}

/// Closes a socket after some last bytes; one that is not even connected, at once.
fn hang_up<A: Host>(net: &mut Net<A>, socket: ConnectionId, last: Bytes) {
    if net.state(socket) == ConnectionState::Connecting {
        net.abort(socket);
    } else {
        net.set_deadline(socket, None);
        net.write_bytes(socket, last);
        net.close(socket);
    }
}
