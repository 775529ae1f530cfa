//! The front door: joins the node's core to sockets, peers, the log and the clock, on one event loop.
//!
//! ```text
//! client ──decode──> RedisConnection::process ──> Node::handle_request
//! peer   ──rpc─────> Front::on_incoming       ──> Node::handle_message, handle_call
//! log thread ──mail─> Front::on_mail          ──> Node::handle_durable
//!                    Front::end_of_turn       ──> Node::end_turn
//!                    Front::carry_out         ──> replies, calls and messages to peers, Log::submit
//! ```
//!
//! Everything here runs on the loop's thread and never waits: not for the disk, not for a peer.

mod watched;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dstore_net::{
    Application, CloseReason, ConnectionId, Context, Decoded, LoopError, Mailbox, Net, Protocol, TimerId,
};
use dstore_node::{ClientAddress, Node, NodeError, Output, SessionId, Space};
use dstore_resp::{ProtocolError, ReplySink, RequestDecoder, encode};
use dstore_rpc::driver::{self, LinkEvent, Rpc, RpcTimer};
use dstore_rpc::service::{Answer, Incoming, Origin};
use dstore_rpc::{CallOptions, CloseCode, CloseReason as LinkEnd, ClusterId, Lane, NodeId, Refusal, TraceId};
use dstore_storage::snapshot::SpanSum;
use dstore_storage::{EngineError, Log, LogError, LogIndex, LogOp, RangeId};

use crate::clock::now;
use crate::config::PeerAddress;
use crate::founding::Founders;
use crate::restart::Replay;
use crate::store::{self, SharedEngine};

/// What other threads tell the loop.
pub enum Mail {
    /// The log has everything up to this write on disk, or never will.
    Durable(RangeId, u64, Result<(), LogError>),
    /// The node was asked to stop.
    Stop,
    /// How much room there is on the disk, and the same in bytes.
    Space(Space, u64),
    /// The engine was flushed, and holds each range at least up to here; or it could not be.
    Flushed(Result<Vec<(RangeId, LogIndex)>, String>),
    /// The data of a range was summed up; or it could not be read.
    Summed(RangeId, Result<SpanSum, EngineError>),
}

/// The timers of the loop.
pub enum Timer {
    /// The core has something to do.
    Node,
    /// The peers' connections have.
    Rpc(RpcTimer),
}

impl From<RpcTimer> for Timer {
    fn from(timer: RpcTimer) -> Timer {
        Timer::Rpc(timer)
    }
}

/// Why a node stopped serving without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The core cannot go on.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The log cannot go on.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A flush failed.
    #[error("{0}")]
    Flush(String),
    /// The event loop broke.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The peers are not of this node's cluster.
    #[error("the peers belong to cluster {theirs}, this data directory to cluster {ours}: it is in the wrong place")]
    Foreign {
        /// The directory's.
        ours: ClusterId,
        /// The peers'.
        theirs: ClusterId,
    },
}

impl Fatal {
    /// Whether the node never was in a state to serve, as after any other refusal to start.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Fatal::Foreign { .. })
    }
}

/// How long a node that stops tries to hand its leadership over. A successor needs a few milliseconds.
const HAND_OVER: Duration = Duration::from_secs(1);

/// How long clients may take to receive their last replies once the node was asked to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// How long peers may take to hear the last of a node whose clients are gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a node that stops is at.
#[derive(Clone, Copy, Debug)]
enum Stopping {
    /// It hands its leadership over, until then at the latest.
    HandingOver(Instant),
    /// Its clients get what they are owed, for which it still needs its peers; until then at the latest.
    Draining(Instant),
}

/// Rounds of work that lead to more work within one turn of the loop. What is then left comes in the next, at once.
const ROUNDS_MAX: usize = 16;

/// The application of the loop: the node's core and the ways out of it.
pub struct Front {
    node: Node<SharedEngine>,
    log: Arc<dyn Log>,
    rpc: Rpc<Front>,
    identity: dstore_rpc::Identity,
    founders: Founders,
    started: Instant,
    decoder_limits: dstore_resp::Limits,
    mailbox: Option<Mailbox<Mail>>,
    flusher: SyncSender<()>,
    /// Bytes logged since the flusher was last asked, and how many are too many.
    unflushed_bytes: usize,
    unflushed_bytes_max: usize,
    flushing: bool,
    /// Until the log that was there at the start is applied.
    replay: Option<Replay>,
    /// The connection of each session, by the session's slot.
    connections: Vec<Option<ConnectionId>>,
    /// Unsent replies beyond which a session's work rests.
    output_high_bytes: usize,
    /// Connections that were paused because too many writes are on their way.
    stalled: Vec<ConnectionId>,
    local_address: String,
    timer: Option<TimerId>,
    /// Why peers were refused, or refused us, as it was last said.
    refusals: BTreeMap<NodeId, String>,
    /// A connection with some peer was once established.
    was_linked: bool,
    /// Something was told to the core that [`Node::end_turn`] has not seen.
    pending: bool,
    /// The node was asked to stop.
    stopping: Option<Stopping>,
    /// Set once. From then on nothing is answered any more.
    fatal: Option<Fatal>,
}

/// What [`Front::new`] needs.
pub struct Parts {
    /// The core.
    pub node: Node<SharedEngine>,
    /// The log it writes to.
    pub log: Arc<dyn Log>,
    /// The connections with peers.
    pub rpc: Rpc<Front>,
    /// Who the node is.
    pub identity: dstore_rpc::Identity,
    /// What it tells those who would found another cluster.
    pub founders: Founders,
    /// Bounds on requests.
    pub decoder_limits: dstore_resp::Limits,
    /// Unsent replies beyond which a client's requests wait.
    pub output_high_bytes: usize,
    /// Wakes the flusher.
    pub flusher: SyncSender<()>,
    /// What the log had at the start that the data had not.
    pub replay: Replay,
    /// Log bytes after which it is woken.
    pub unflushed_bytes_max: usize,
}

impl Front {
    /// The application, before its loop runs.
    pub fn new(parts: Parts) -> Front {
        Front {
            node: parts.node,
            log: parts.log,
            rpc: parts.rpc,
            identity: parts.identity,
            founders: parts.founders,
            started: Instant::now(),
            decoder_limits: parts.decoder_limits,
            mailbox: None,
            flusher: parts.flusher,
            // What a restart finds in the log counts too; else a node that is killed again and again finds more each time.
            unflushed_bytes: usize::try_from(parts.replay.bytes()).unwrap_or(usize::MAX),
            unflushed_bytes_max: parts.unflushed_bytes_max,
            flushing: false,
            replay: Some(parts.replay),
            connections: Vec::new(),
            output_high_bytes: parts.output_high_bytes,
            stalled: Vec::new(),
            local_address: String::new(),
            timer: None,
            refusals: BTreeMap::new(),
            was_linked: false,
            stopping: None,
            pending: true,
            fatal: None,
        }
    }

    /// The address that clients connect to, once it is known.
    pub fn set_local_address(&mut self, address: SocketAddr) {
        self.local_address = address.to_string();
        self.node.set_client_address(address);
    }

    /// The protocol of a client that was just accepted. A node that stops takes none.
    pub fn accept(&self, peer: String) -> Option<RedisConnection> {
        self.stopping.is_none().then(|| self.connection_with(peer))
    }

    fn connection_with(&self, peer: String) -> RedisConnection {
        RedisConnection { decoder: RequestDecoder::new(self.decoder_limits.clone()), session: None, peer, ended: false }
    }

    /// Why serving ended, if nobody asked for it. Otherwise the engine has all that was applied.
    pub fn into_fatal(self) -> Option<Fatal> {
        self.fatal.or_else(|| self.node.settle().err().map(Fatal::Node))
    }

    /// Notes a failure after which nothing may be acknowledged, and ends the loop.
    fn fail(&mut self, net: &mut Net<Front>, fatal: impl Into<Fatal>) {
        let fatal = fatal.into();
        tracing::error!("stopping: {fatal}");
        self.fatal.get_or_insert(fatal);
        net.stop(Duration::ZERO);
    }

    /// Tells the core something, and sends what it answers by itself. The rest comes when the turn ends.
    fn drive(&mut self, net: &mut Net<Front>, call: impl FnOnce(&mut Node<SharedEngine>) -> Result<(), NodeError>) {
        if self.fatal.is_some() {
            return;
        }
        self.pending = true;
        match call(&mut self.node) {
            Ok(()) => self.carry_out(net),
            Err(error) => self.fail(net, error),
        }
    }

    /// The same from outside of a turn's usual course: makes sure that a turn follows.
    fn drive_soon(
        &mut self,
        net: &mut Net<Front>,
        call: impl FnOnce(&mut Node<SharedEngine>) -> Result<(), NodeError>,
    ) {
        self.drive(net, call);
        if let Some(timer) = self.timer {
            net.update_timer(timer, net.now());
        }
    }

    /// First the leadership, so that the cluster goes on; then the clients; the peers last.
    fn begin_to_stop(&mut self, net: &mut Net<Front>) {
        if self.stopping.is_none() {
            let begun = self.node.hand_over(now());
            let deadline = net.now() + if begun { HAND_OVER } else { Duration::ZERO };
            self.stopping = Some(Stopping::HandingOver(deadline));
        }
    }

    fn go_on_stopping(&mut self, net: &mut Net<Front>) {
        match self.stopping {
            Some(Stopping::HandingOver(deadline)) if !self.node.leads() || net.now() >= deadline => {
                self.stopping = Some(Stopping::Draining(net.now() + DRAIN));
                self.node.hang_up_all();
                self.carry_out(net);
            }
            Some(Stopping::Draining(deadline))
                if self.connections.iter().all(Option::is_none) || net.now() >= deadline =>
            {
                net.stop(FAREWELL);
            }
            _ => {}
        }
    }

    /// Does what the core asks for.
    fn carry_out(&mut self, net: &mut Net<Front>) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Reply { session, reply, version } => {
                    let Some(id) = self.connection(session) else { continue };
                    if let Some(output) = net.output(id) {
                        encode(&reply, version, &mut Sink(output));
                    }
                    if net.output_len(id) > self.output_high_bytes {
                        // Until the client has read it: see `RedisConnection::on_output_low`.
                        self.node.stall(session);
                    }
                }
                Output::Close { session } => self.with_connection(session, |id| net.close(id)),
                Output::Shutdown => {
                    tracing::info!("stopping on request of a client (SHUTDOWN)");
                    self.begin_to_stop(net);
                }
                Output::Pause { session } => self.with_connection(session, |id| net.pause(id)),
                Output::Resume { session } => self.with_connection(session, |id| net.resume(id)),
                Output::Write { range, ticket, ops } => self.write(net, (range, ticket), ops),
                Output::Send { to, method, body } => {
                    // Dropped where the peer is away or slow; consensus sends what is still needed again.
                    self.rpc.send_raw(net.now(), to, method, body, TraceId(0));
                }
                Output::Call { to, token, method, body, timeout } => {
                    let options = CallOptions::deadline(net.now() + timeout);
                    let done = move |front: &mut Front, net: &mut Net<Front>, result| {
                        front.drive_soon(net, |node| node.handle_reply(now(), token, result));
                    };
                    self.rpc.call_raw(net.now(), to, method, body, options, done);
                }
                Output::Answer { request, result } => {
                    self.rpc.answer(net.now(), Answer { request, result });
                }
                Output::SendSnapshot { transfer, .. } => {
                    self.pending = true;
                    let unable = Err("this node cannot send snapshots".to_owned());
                    if let Err(error) = self.node.handle_snapshot_sent(now(), transfer, unable) {
                        self.fail(net, error);
                    }
                }
                Output::Install { range, .. } => unreachable!("range {range}: no snapshot was taken in"),
                Output::Checksum { range, checksum } => {
                    let mailbox = self.mailbox.clone().unwrap_or_else(|| net.mailbox());
                    if let Err(error) = store::sum_up(range, checksum, mailbox) {
                        self.fail(net, Fatal::Flush(format!("cannot start a thread: {error}")));
                    }
                }
                Output::Peer { node, address: None } => self.rpc.remove_peer(net.now(), node),
                Output::Peer { node, address: Some(address) } => match address.parse::<PeerAddress>() {
                    Ok(address) => {
                        self.rpc.set_peer(net.now(), node, address.target());
                        self.rpc.connect(net.now(), node);
                    }
                    Err(error) => tracing::warn!("no connection with node {:016x}: {error:#}", node.0),
                },
                Output::Removed => {
                    tracing::error!("this node was removed from its cluster");
                    self.begin_to_stop(net);
                }
            }
        }
    }

    fn write(&mut self, net: &mut Net<Front>, (range, ticket): (RangeId, u64), ops: Vec<LogOp>) {
        for op in &ops {
            if let LogOp::Append { entries, .. } = op {
                self.unflushed_bytes += entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
            }
        }
        let mailbox = self.mailbox.clone().unwrap_or_else(|| net.mailbox());
        let done = move |result| {
            // Refused only by a loop that has ended, which acknowledges nothing any more.
            let _ = mailbox.post(Mail::Durable(range, ticket, result));
        };
        if let Err(error) = self.log.submit(ops, Box::new(done)) {
            self.fail(net, error);
        }
    }

    fn connection(&self, session: SessionId) -> Option<ConnectionId> {
        self.connections.get(session.slot()).copied().flatten()
    }

    fn with_connection(&self, session: SessionId, then: impl FnOnce(ConnectionId)) {
        if let Some(id) = self.connection(session) {
            then(id);
        }
    }

    /// Lets the clients go on that waited for writes to arrive.
    fn relieve(&mut self, net: &mut Net<Front>) {
        if !self.stalled.is_empty() && !self.node.is_congested() {
            for id in self.stalled.drain(..) {
                net.resume(id);
            }
        }
    }

    /// Wakes the flusher when the log has grown enough.
    fn maybe_flush(&mut self) {
        if self.flushing || self.unflushed_bytes < self.unflushed_bytes_max {
            return;
        }
        match self.flusher.try_send(()) {
            Ok(()) => (self.flushing, self.unflushed_bytes) = (true, 0),
            Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }

    /// Says how far the log is applied that was there at the start.
    fn watch_replay(&mut self, net: &Net<Front>) {
        let Some(replay) = &mut self.replay else { return };
        let (line, is_done) = replay.look(net.now(), |range| self.node.reach(range));
        if let Some(line) = line {
            tracing::info!("{line}");
        }
        if is_done {
            self.replay = None;
        }
    }

    fn arm_timer(&mut self, net: &mut Net<Front>) {
        let deadline = net.now() + self.node.poll_timeout(now());
        let moved = self.timer.is_some_and(|timer| net.update_timer(timer, deadline));
        if !moved {
            self.timer = Some(net.insert_timer(deadline, Timer::Node));
        }
    }
}

impl Application for Front {
    type Mail = Mail;
    type Timer = Timer;

    fn on_start(&mut self, net: &mut Net<Self>) {
        self.mailbox = Some(net.mailbox());
        driver::end_of_turn(self, net);
        self.arm_timer(net);
    }

    fn on_mail(&mut self, net: &mut Net<Self>, mail: Mail) {
        match mail {
            Mail::Durable(range, ticket, Ok(())) => {
                self.drive(net, |node| {
                    node.handle_durable(now(), range, ticket);
                    Ok(())
                });
            }
            Mail::Durable(_, _, Err(error)) => self.fail(net, error),
            Mail::Stop => {
                self.begin_to_stop(net);
                self.drive(net, |_| Ok(()));
            }
            Mail::Flushed(Ok(persisted)) => {
                self.flushing = false;
                self.drive(net, |node| {
                    node.handle_flushed(now(), &persisted);
                    Ok(())
                });
            }
            Mail::Summed(range, result) => self.drive(net, |node| node.handle_checksum(now(), range, result)),
            Mail::Space(level, free_bytes) => self.drive(net, |node| {
                node.set_space(now(), level, free_bytes);
                Ok(())
            }),
            Mail::Flushed(Err(error)) => self.fail(net, Fatal::Flush(error)),
        }
    }

    fn on_timer(&mut self, net: &mut Net<Self>, _: TimerId, timer: Timer) {
        match timer {
            Timer::Node => {
                self.timer = None;
                self.drive(net, |node| node.handle_timeout(now()));
            }
            Timer::Rpc(_) => driver::on_timer(self, net),
        }
    }

    fn end_of_turn(&mut self, net: &mut Net<Self>) {
        for _ in 0..ROUNDS_MAX {
            if self.pending && self.fatal.is_none() {
                self.pending = false;
                match self.node.end_turn(now()) {
                    Ok(()) => self.carry_out(net),
                    Err(error) => self.fail(net, error),
                }
            }
            driver::end_of_turn(self, net);
            if !self.pending {
                break;
            }
        }
        self.relieve(net);
        self.maybe_flush();
        self.watch_replay(net);
        self.arm_timer(net);
        self.go_on_stopping(net);
    }
}

impl driver::Host for Front {
    fn rpc(&mut self) -> &mut Rpc<Self> {
        &mut self.rpc
    }

    fn on_incoming(&mut self, net: &mut Net<Self>, origin: &Origin, incoming: Incoming) {
        let from = origin.node;
        let incoming = match self.founders.answer(origin, incoming) {
            Ok(outcome) => return self.rpc.finish(net.now(), outcome),
            Err(incoming) => incoming,
        };
        match incoming {
            Incoming::Message { method, body } => {
                self.drive(net, |node| node.handle_message(now(), from, method, body));
            }
            Incoming::Request { request, method, body } => {
                self.drive(net, |node| node.handle_call(now(), from, request, method, body));
            }
            stream @ Incoming::Stream { .. } => {
                let refusal = stream.unknown();
                self.rpc.finish(net.now(), refusal);
            }
        }
    }

    fn on_link(&mut self, net: &mut Net<Self>, event: &LinkEvent) {
        let (peer, is_up) = match event {
            LinkEvent::Up { peer, dialed: true } if peer.lane == Lane::Messages => (peer.identity.node, true),
            LinkEvent::Down { node: Some(node), lane, dialed: true, reason } if *lane != Some(Lane::Bulk) => {
                self.note_refusal(net, *node, reason);
                (*node, false)
            }
            LinkEvent::Down { dialed: false, reason: LinkEnd::Refused(why), .. } => {
                // An accepted connection's end is nobody's yet.
                if self.refusals.insert(NodeId(0), why.to_string()).as_ref() != Some(&why.to_string()) {
                    tracing::warn!("a peer was refused: {why}");
                }
                return;
            }
            _ => return,
        };
        if is_up {
            self.was_linked = true;
            self.refusals.remove(&peer);
        }
        self.drive_soon(net, |node| {
            node.handle_link(now(), peer, is_up);
            Ok(())
        });
    }
}

impl Front {
    /// Says, once, that a peer will not talk to us, or we not to it. A node that finds, before it has found any of its
    /// peers, that they are another cluster's does not go on: its data directory is in the wrong place.
    fn note_refusal(&mut self, net: &mut Net<Front>, peer: NodeId, reason: &LinkEnd) {
        let refused = matches!(reason, LinkEnd::Refused(_) | LinkEnd::Peer { code: CloseCode::Refused, .. });
        if !refused {
            return;
        }
        let text = reason.to_string();
        if self.refusals.get(&peer) != Some(&text) {
            tracing::warn!("no connection with node {:016x}: {text}", peer.0);
            self.refusals.insert(peer, text);
        }
        // Cluster 0 is that of nodes which are still looking for theirs.
        if let LinkEnd::Refused(Refusal::Cluster { theirs, ours }) = reason
            && theirs.0 != 0
            && !self.was_linked
        {
            self.fail(net, Fatal::Foreign { ours: *ours, theirs: *theirs });
        }
    }
}

/// One client's connection.
pub struct RedisConnection {
    decoder: RequestDecoder,
    session: Option<SessionId>,
    peer: String,
    /// What came was no request; the rest of the stream has no meaning.
    ended: bool,
}

/// What a client sent: a request, or something that is none.
type Request = Result<Vec<Bytes>, ProtocolError>;

impl Protocol<Front> for RedisConnection {
    type Message<'a> = Request;
    type Error = Infallible;

    fn on_open(&mut self, front: &mut Front, cx: &mut Context<'_, Front>) {
        let address = ClientAddress { remote: std::mem::take(&mut self.peer), local: front.local_address.clone() };
        let session = front.node.connect(now(), address);
        if front.connections.len() <= session.slot() {
            front.connections.resize(session.slot() + 1, None);
        }
        front.connections[session.slot()] = Some(cx.id());
        self.session = Some(session);
    }

    /// Bytes that are no request become a message too, so that the error is answered behind the replies still owed.
    fn decode(&mut self, input: &[u8]) -> Result<Decoded<Request>, Infallible> {
        if self.ended {
            return Ok(Decoded::Skip(input.len()));
        }
        Ok(match self.decoder.decode(input) {
            Ok(dstore_resp::Decoded::Message(args, length)) => Decoded::Message(Ok(args), length),
            Ok(dstore_resp::Decoded::Skip(length)) => Decoded::Skip(length),
            Ok(dstore_resp::Decoded::Incomplete { needed }) => Decoded::Incomplete { needed },
            Err(error) => {
                self.ended = true;
                Decoded::Message(Err(error), input.len())
            }
        })
    }

    fn process(&mut self, front: &mut Front, cx: &mut Context<'_, Front>, request: Request) {
        let Some(session) = self.session else { return };
        front.drive(cx.net, |node| match request {
            Ok(args) => node.handle_request(now(), session, args),
            Err(error) => {
                node.refuse(session, error.reply());
                Ok(())
            }
        });
        if front.node.is_congested() {
            cx.pause();
            front.stalled.push(cx.id());
        }
    }

    /// The client has read what was sent to him.
    fn on_output_low(&mut self, front: &mut Front, cx: &mut Context<'_, Front>) {
        let Some(session) = self.session else { return };
        front.drive_soon(cx.net, |node| {
            node.go_on(session);
            Ok(())
        });
    }

    /// A client may end his half of the stream and still wait for replies.
    fn on_input_closed(&mut self, front: &mut Front, cx: &mut Context<'_, Front>) {
        self.hang_up(front, cx);
    }

    fn on_drain(&mut self, front: &mut Front, cx: &mut Context<'_, Front>) {
        self.hang_up(front, cx);
    }

    fn on_close(&mut self, front: &mut Front, cx: &mut Context<'_, Front>, reason: &CloseReason) {
        if let Some(session) = self.session.take() {
            front.node.disconnect(session);
            front.connections[session.slot()] = None;
        }
        tracing::debug!(connection = ?cx.id(), %reason, "client gone");
    }
}

impl RedisConnection {
    /// Closes the connection behind the last reply that is owed.
    fn hang_up(&mut self, front: &mut Front, cx: &mut Context<'_, Front>) {
        let Some(session) = self.session else { return cx.close() };
        front.drive(cx.net, |node| {
            node.hang_up(session);
            Ok(())
        });
    }
}

/// Replies are encoded straight into the connection's output; long values join it without a copy.
struct Sink<'a>(&'a mut dstore_net::Output);

impl ReplySink for Sink<'_> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.0.buffer_vec()
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.0.put_bytes(bytes);
    }
}
