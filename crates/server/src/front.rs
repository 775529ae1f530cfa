//! The front door: joins the node's core to sockets, the log and the clock, on one event loop.
//!
//! ```text
//! socket ──decode──> RedisConnection::process ──> Node::handle_request
//!                    Front::end_of_turn       ──> Node::end_turn ──> Log::submit
//! log thread ──mail─> Front::on_mail          ──> Node::handle_durable
//!                    Front::carry_out         ──encode──> socket
//! ```
//!
//! Everything here runs on the loop's thread and never waits: not for the disk, not for a peer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use bytes::Bytes;
use dstore_net::{
    Application, CloseReason, ConnectionId, Context, Decoded, LoopError, Mailbox, Net, Protocol, TimerId,
};
use dstore_node::{Append, ClientAddress, ENTRY_KIND, Node, NodeError, Output, SessionId};
use dstore_resp::{ProtocolError, ReplySink, RequestDecoder, encode};
use dstore_storage::{Entry, Log, LogError, LogIndex, LogOp};

use crate::clock::wall_clock;
use crate::store::SharedEngine;

/// What other threads tell the loop.
pub enum Mail {
    /// The log has everything up to this index on disk, or never will.
    Durable(LogIndex, Result<(), LogError>),
    /// The engine was flushed and the log cut, or could not be.
    Flushed(Result<(), String>),
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
}

/// The application of the loop: the node's core and the ways out of it.
pub struct Front {
    node: Node<SharedEngine>,
    log: Arc<dyn Log>,
    decoder_limits: dstore_resp::Limits,
    mailbox: Option<Mailbox<Mail>>,
    flusher: SyncSender<()>,
    /// Bytes logged since the flusher was last asked, and how many are too many.
    unflushed_bytes: usize,
    unflushed_bytes_max: usize,
    flushing: bool,
    /// The connection of each session, by the session's slot.
    connections: Vec<Option<ConnectionId>>,
    /// Connections that were paused because too many writes are on their way.
    stalled: Vec<ConnectionId>,
    local_address: String,
    timer: Option<TimerId>,
    /// Set once. From then on nothing is answered any more.
    fatal: Option<Fatal>,
}

/// What [`Front::new`] needs.
pub struct Parts {
    /// The core, restored.
    pub node: Node<SharedEngine>,
    /// The log it appends to.
    pub log: Arc<dyn Log>,
    /// Bounds on requests.
    pub decoder_limits: dstore_resp::Limits,
    /// Wakes the flusher.
    pub flusher: SyncSender<()>,
    /// Log bytes after which it is woken.
    pub unflushed_bytes_max: usize,
}

impl Front {
    /// The application, before its loop runs.
    pub fn new(parts: Parts) -> Front {
        Front {
            node: parts.node,
            log: parts.log,
            decoder_limits: parts.decoder_limits,
            mailbox: None,
            flusher: parts.flusher,
            unflushed_bytes: 0,
            unflushed_bytes_max: parts.unflushed_bytes_max,
            flushing: false,
            connections: Vec::new(),
            stalled: Vec::new(),
            local_address: String::new(),
            timer: None,
            fatal: None,
        }
    }

    /// The address that clients connect to, once it is known.
    pub fn set_local_address(&mut self, address: SocketAddr) {
        self.local_address = address.to_string();
        self.node.set_port(address.port());
    }

    /// The protocol of a client that was just accepted.
    pub fn accept(&self, peer: String) -> RedisConnection {
        RedisConnection { decoder: RequestDecoder::new(self.decoder_limits.clone()), session: None, peer, ended: false }
    }

    /// Why serving ended, if nobody asked for it.
    pub fn into_fatal(self) -> Option<Fatal> {
        self.fatal
    }

    /// Notes a failure after which nothing may be acknowledged, and ends the loop.
    fn fail(&mut self, net: &mut Net<Front>, fatal: impl Into<Fatal>) {
        let fatal = fatal.into();
        tracing::error!("stopping: {fatal}");
        self.fatal.get_or_insert(fatal);
        net.stop(Duration::ZERO);
    }

    /// Runs one call into the core and what follows from it.
    fn drive(&mut self, net: &mut Net<Front>, call: impl FnOnce(&mut Node<SharedEngine>) -> Result<(), NodeError>) {
        if self.fatal.is_some() {
            return;
        }
        match call(&mut self.node) {
            Ok(()) => self.carry_out(net),
            Err(error) => self.fail(net, error),
        }
    }

    /// Does what the core asks for.
    fn carry_out(&mut self, net: &mut Net<Front>) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Reply { session, reply, version } => {
                    if let Some(output) = self.connection(session).and_then(|id| net.output(id)) {
                        encode(&reply, version, &mut Sink(output));
                    }
                }
                Output::Close { session } => self.with_connection(session, |id| net.close(id)),
                Output::Pause { session } => self.with_connection(session, |id| net.pause(id)),
                Output::Resume { session } => self.with_connection(session, |id| net.resume(id)),
                Output::Append(append) => self.append(net, append),
            }
        }
    }

    fn append(&mut self, net: &mut Net<Front>, append: Append) {
        let Append { range, position, payload } = append;
        self.unflushed_bytes += payload.len();
        let entry = Entry { index: position.index, term: position.term, kind: ENTRY_KIND, payload };
        let mailbox = self.mailbox.clone().unwrap_or_else(|| net.mailbox());
        let done = move |result| {
            // Refused only by a loop that has ended, which acknowledges nothing any more.
            let _ = mailbox.post(Mail::Durable(position.index, result));
        };
        if let Err(error) = self.log.submit(vec![LogOp::Append { range, entries: vec![entry] }], Box::new(done)) {
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

    fn arm_timer(&mut self, net: &mut Net<Front>) {
        let deadline = net.now() + Duration::from_millis(self.node.poll_timeout(wall_clock()));
        let moved = self.timer.is_some_and(|timer| net.update_timer(timer, deadline));
        if !moved {
            self.timer = Some(net.insert_timer(deadline, ()));
        }
    }
}

impl Application for Front {
    type Mail = Mail;
    type Timer = ();

    fn on_start(&mut self, net: &mut Net<Self>) {
        self.mailbox = Some(net.mailbox());
        self.arm_timer(net);
    }

    fn on_mail(&mut self, net: &mut Net<Self>, mail: Mail) {
        match mail {
            Mail::Durable(index, Ok(())) => {
                self.drive(net, |node| node.handle_durable(index));
                self.relieve(net);
            }
            Mail::Durable(_, Err(error)) => self.fail(net, error),
            Mail::Flushed(Ok(())) => self.flushing = false,
            Mail::Flushed(Err(error)) => self.fail(net, Fatal::Flush(error)),
        }
    }

    fn on_timer(&mut self, net: &mut Net<Self>, _: TimerId, (): ()) {
        self.timer = None;
        self.drive(net, |node| node.handle_timeout(wall_clock()));
        self.relieve(net);
        self.arm_timer(net);
    }

    fn end_of_turn(&mut self, net: &mut Net<Self>) {
        self.drive(net, |node| {
            node.end_turn();
            Ok(())
        });
        self.maybe_flush();
        if self.node.is_behind() {
            self.arm_timer(net);
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
        let session = front.node.connect(wall_clock(), address);
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
            Ok(args) => node.handle_request(wall_clock(), session, args),
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
