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
//! Everything here runs on the loop's thread and never waits: not for the disk, not for a peer. Of the rooms, [`clients`] has
//! the clients' connections, [`peers`] the other nodes, [`snapshots`] what nodes give each other instead of log, [`stopping`]
//! the orderly end, and [`watched`] what admin tools see.

mod clients;
mod peers;
mod snapshots;
mod stopping;
mod watched;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use dstore_net::{Application, ConnectionId, LoopError, Mailbox, Net, TimerId};
use dstore_node::{Node, NodeError, Now, Output, ReadDone, SessionId, Settlement, Space};
use dstore_resp::encode;
use dstore_rpc::driver::{self, Rpc, RpcTimer};
use dstore_rpc::service::Answer;
use dstore_rpc::{CallOptions, ClusterId, NodeId, TraceId};
use dstore_storage::snapshot::SpanSum;
use dstore_storage::{EngineError, Log, LogError, LogIndex, LogOp, RangeId};

use self::clients::Sink;
pub use self::peers::PeerAdmission;
use self::snapshots::News;
pub use self::snapshots::{Carriage, Snapshots};
use self::stopping::Stopping;
use crate::clock::now;
use crate::founding::Founders;
use crate::readers::Readers;
use crate::restart::Replay;
use crate::store::{self, SharedEngine};
use crate::{EXIT_FATAL, EXIT_REFUSED, EXIT_REMOVED};

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
    /// What had gathered was given to the engine; or it could not be.
    Settled(Result<(), EngineError>),
    /// The data of a range was summed up; or it could not be read.
    Summed(RangeId, Result<SpanSum, EngineError>),
    /// Something was read that was not in memory; or it could not be.
    Read(ReadDone),
    /// Something became of a snapshot.
    Snapshot(News),
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
    /// The cluster goes on without this node.
    #[error(
        "this node was removed from cluster {cluster} and does not serve any more; to join again it needs a new data directory"
    )]
    Removed {
        /// The cluster that it was a member of.
        cluster: ClusterId,
    },
}

impl Fatal {
    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Fatal::Removed { .. } => EXIT_REMOVED,
            // It never was in a state to serve, as after any other refusal to start.
            Fatal::Foreign { .. } => EXIT_REFUSED,
            _ => EXIT_FATAL,
        }
    }
}

/// Rounds of work that lead to more work within one turn of the loop. What is then left comes in the next, at once.
const ROUNDS_MAX: usize = 16;

/// Requests of clients that end a turn: so many go to the log while the next come in, and their replies to the clients while
/// others are still at work. More at once would be a little less work each, and the loop, the disk and the clients would
/// wait for each other.
const REQUESTS_A_TURN: usize = 256;

/// The application of the loop: the node's core and the ways out of it.
pub struct Front {
    node: Node<SharedEngine>,
    log: Arc<dyn Log>,
    rpc: Rpc<Front>,
    admission: PeerAdmission,
    snapshots: Snapshots,
    identity: dstore_rpc::Identity,
    founders: Founders,
    started: Instant,
    decoder_limits: dstore_resp::Limits,
    mailbox: Option<Mailbox<Mail>>,
    flusher: SyncSender<()>,
    settler: SyncSender<Settlement>,
    /// There once something was to be read that was not in memory.
    readers: Option<Readers>,
    /// Bytes logged since the flusher was last asked, and how many are too many.
    unflushed_bytes: usize,
    unflushed_bytes_max: usize,
    flushing: bool,
    /// Until the log that was there at the start is applied.
    replay: Option<Replay>,
    /// The connection of each session, by the session's slot.
    connections: Vec<Option<ConnectionId>>,
    /// Clients connected, and how many may be.
    clients: usize,
    clients_max: usize,
    /// Requests that came in this turn.
    requests: usize,
    /// When they last were read, by the loop's clock and by the core's.
    read_time: Option<(Instant, Now)>,
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
    /// The node is no member of its cluster any more.
    was_removed: bool,
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
    /// What peers may ask of it.
    pub admission: PeerAdmission,
    /// How snapshots go between it and its peers.
    pub carriage: Carriage,
    /// Who the node is.
    pub identity: dstore_rpc::Identity,
    /// What it tells those who would found another cluster.
    pub founders: Founders,
    /// Bounds on requests.
    pub decoder_limits: dstore_resp::Limits,
    /// Clients that may be connected at once.
    pub clients_max: usize,
    /// Unsent replies beyond which a client's requests wait.
    pub output_high_bytes: usize,
    /// Wakes the flusher.
    pub flusher: SyncSender<()>,
    /// To the settler.
    pub settler: SyncSender<Settlement>,
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
            admission: parts.admission,
            snapshots: Snapshots::new(parts.carriage),
            identity: parts.identity,
            founders: parts.founders,
            started: Instant::now(),
            decoder_limits: parts.decoder_limits,
            mailbox: None,
            flusher: parts.flusher,
            settler: parts.settler,
            readers: None,
            // What a restart finds in the log counts too; else a node that is killed again and again finds more each time.
            unflushed_bytes: usize::try_from(parts.replay.bytes()).unwrap_or(usize::MAX),
            unflushed_bytes_max: parts.unflushed_bytes_max,
            flushing: false,
            replay: Some(parts.replay),
            connections: Vec::new(),
            clients: 0,
            requests: 0,
            read_time: None,
            clients_max: parts.clients_max,
            output_high_bytes: parts.output_high_bytes,
            stalled: Vec::new(),
            local_address: String::new(),
            timer: None,
            refusals: BTreeMap::new(),
            was_linked: false,
            stopping: None,
            was_removed: false,
            pending: true,
            fatal: None,
        }
    }

    /// The address that clients connect to, once it is known.
    pub fn set_local_address(&mut self, address: SocketAddr) {
        self.local_address = address.to_string();
        self.node.set_client_address(address);
    }

    /// Why serving ended, if nobody asked for it, and what still uses the engine.
    pub fn into_end(self) -> (Option<Fatal>, Snapshots, Option<Readers>) {
        let removed = self.was_removed.then_some(Fatal::Removed { cluster: self.identity.cluster });
        let fatal = self.fatal.or(removed);
        // After a failure nothing is waited for; the log has it.
        let unsettled = if fatal.is_none() { self.node.settle().err() } else { None };
        (fatal.or(unsettled.map(Fatal::Node)), self.snapshots, self.readers)
    }

    /// The way into the loop for threads.
    fn mailbox(&self, net: &Net<Front>) -> Mailbox<Mail> {
        self.mailbox.clone().unwrap_or_else(|| net.mailbox())
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
                Output::SendSnapshot { to, transfer, body, export } => {
                    self.send_snapshot(net, to, transfer, body, export);
                }
                Output::Install { range, install, ops } => self.install_snapshot(net, range, install, ops),
                Output::Checksum { range, checksum } => {
                    let mailbox = self.mailbox(net);
                    if let Err(error) = store::sum_up(range, checksum, mailbox) {
                        self.fail(net, Fatal::Flush(format!("cannot start a thread: {error}")));
                    }
                }
                Output::Settle(settlement) => {
                    if self.settler.try_send(settlement).is_err() {
                        self.fail(net, Fatal::Flush("the settler has ended".to_owned()));
                    }
                }
                Output::Read(reading) => {
                    let mailbox = self.mailbox(net);
                    if let Err(error) = self.readers.get_or_insert_with(|| Readers::new(mailbox)).read(reading) {
                        self.fail(net, Fatal::Flush(format!("cannot start a thread: {error}")));
                    }
                }
                Output::Peer { node, address } => self.set_peer(net, node, address.as_deref()),
                Output::Removed => self.leave(net),
            }
        }
    }

    fn write(&mut self, net: &mut Net<Front>, (range, ticket): (RangeId, u64), ops: Vec<LogOp>) {
        for op in &ops {
            if let LogOp::Append { entries, .. } = op {
                self.unflushed_bytes += entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
            }
        }
        let mailbox = self.mailbox(net);
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
            Mail::Snapshot(news) => self.on_snapshot_news(net, news),
            Mail::Read(done) => self.drive(net, |node| node.handle_read(now(), done)),
            Mail::Settled(result) => self.drive(net, |node| node.handle_settled(now(), result)),
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

    fn turn_is_full(&self) -> bool {
        self.requests >= REQUESTS_A_TURN
    }

    fn end_of_turn(&mut self, net: &mut Net<Self>) {
        self.requests = 0;
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
