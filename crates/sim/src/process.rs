//! One start of a node: the production core, its peers and its clients, and the order in which a turn of its loop does
//! things. What `dstore-server` is to real sockets and files, this is to simulated ones.
//!
//! A turn takes everything that came, does what is due, ends, and carries out what the core asks for. The clock is read
//! once, after the input. A process that is stopped in the middle of a turn carries out later.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use dstore_node::{ClientAddress, Host, LogUse, Node, NodeError, Now, Output, SessionId, Space, Usage};
use dstore_resp::{Decoded, RequestDecoder, encode};
use dstore_storage::{Log, LogError, LogIndex, LogOp, MemoryEngine, MemoryLog, RangeId};

use crate::carrier::{Carrier, Job, Loop};
use crate::network::{Arrival, End, Network, StreamId};
use crate::peers::{PeerEvent, Peers};
use crate::time::{Clock, Moment};
use crate::trace::Trace;

/// The core as it runs here.
pub type Core = Node<Arc<MemoryEngine>>;

/// Nothing is known of a process that does not exist.
#[derive(Debug)]
pub struct NoHost;

impl Host for NoHost {
    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn log(&self) -> LogUse {
        LogUse::default()
    }
}

/// Why a process ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The core cannot go on.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The log refused a write.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Fatal {
    /// Whether it says that the disk did not give back what was written.
    pub fn is_damage(&self) -> bool {
        match self {
            Fatal::Node(error) => error.is_damage(),
            Fatal::Log(error) => matches!(error, LogError::Damaged { .. }),
        }
    }
}

/// Something that came since the last turn.
#[derive(Debug)]
pub struct Input {
    /// By which stream.
    pub stream: StreamId,
    /// At which of its ends.
    pub end: End,
    /// Who is at the other end: a node, or a client.
    pub is_peer: bool,
    /// What.
    pub arrival: Arrival,
}

/// A client's connection.
struct Client {
    session: SessionId,
    decoder: RequestDecoder,
    input: BytesMut,
    /// The core takes no further request of it for now.
    paused: bool,
    /// Replies that the stream has no room for yet.
    output: Vec<u8>,
    /// The core was told that they have to wait.
    stalled: bool,
    /// The stream closes behind them.
    closing: bool,
    /// What came was no request, and the rest has no meaning.
    ended: bool,
}

/// Writes of ranges that have ended.
type Ended = VecDeque<(RangeId, u64, Result<(), LogError>)>;

/// What the log has on disk and the loop does not know of yet.
type Completions = Arc<Mutex<Ended>>;

/// A running node. See the [module](self).
pub struct Process {
    core: Core,
    peers: Peers,
    log: Arc<MemoryLog>,
    completions: Completions,
    clients: BTreeMap<StreamId, Client>,
    streams: BTreeMap<SessionId, StreamId>,
    /// How far a flush has brought the ranges, unless the core knows.
    flushed: Vec<(RangeId, LogIndex)>,
    carrier: Carrier,
    /// How much room the disk has, unless the core knows.
    space: Option<Space>,
    /// It was told that it is a member no more.
    removed: bool,
    /// It is of a later version: it says more than others understand, and asks for what they do not know.
    pub newer: bool,
    /// What it has sent to peers, counted.
    sent: u64,
    /// Its driver takes a sync that failed for one that succeeded.
    #[cfg(feature = "planted")]
    pub ignores_failed_syncs: bool,
    name: String,
}

/// The surroundings of a turn.
pub struct Surroundings<'a> {
    /// Now.
    pub moment: Moment,
    /// The machine's clocks.
    pub clock: &'a Clock,
    /// The network.
    pub network: &'a mut Network,
    /// The trace.
    pub trace: &'a mut Trace,
}

impl Surroundings<'_> {
    /// What the machine's clocks show.
    pub fn now(&self) -> Now {
        let mono = dstore_raft::Time::from_nanos(self.clock.monotonic(self.moment));
        Now { wall_us: self.clock.wall_us(self.moment), mono }
    }
}

impl Process {
    /// A process that was just started.
    pub fn new(core: Core, peers: Peers, log: Arc<MemoryLog>, carrier: Carrier, name: String) -> Process {
        Process {
            core,
            peers,
            log,
            completions: Completions::default(),
            clients: BTreeMap::new(),
            streams: BTreeMap::new(),
            flushed: Vec::new(),
            carrier,
            space: None,
            removed: false,
            newer: false,
            sent: 0,
            #[cfg(feature = "planted")]
            ignores_failed_syncs: false,
            name,
        }
    }

    /// The core, to be looked at.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The engine was flushed: so far would a power loss leave each range at least.
    pub fn note_flushed(&mut self, flushed: Vec<(RangeId, LogIndex)>) {
        self.flushed = flushed;
    }

    /// The disk has so much room.
    pub fn note_space(&mut self, space: Space) {
        self.space = Some(space);
    }

    /// Whether the log, or another thread, has told of something since the last turn.
    pub fn has_completions(&self) -> bool {
        !self.completions().is_empty() || self.carrier.has_news()
    }

    /// How many jobs wait for another thread.
    pub fn jobs(&self) -> usize {
        self.carrier.jobs()
    }

    /// Whether one of them lets a snapshot in.
    pub fn lets_snapshot_in(&self) -> bool {
        self.carrier.lets_in()
    }

    /// Whether one of them reads for a client, or for a sweep.
    pub fn fetches(&self) -> bool {
        self.carrier.fetches()
    }

    /// Another thread does one of the jobs that wait. Says what it was, and whether it was to replace data.
    pub fn work(&mut self, number: usize) -> (&'static str, bool) {
        let job = self.carrier.take_job(number);
        let said = (job.name(), matches!(job, Job::Finish { .. }));
        self.carrier.work(job);
        said
    }

    /// It was told that it is a member no more, and has to stop for ever.
    pub fn was_removed(&self) -> bool {
        self.removed
    }

    /// Takes the input and does what is due. What the core wants done stays inside until [`Process::carry_out`].
    ///
    /// # Errors
    ///
    /// The process must stop.
    pub fn think(&mut self, inputs: Vec<Input>, around: &mut Surroundings<'_>) -> Result<(), Fatal> {
        let now = around.now();
        let instant = around.clock.instant(around.moment);
        if let Some(space) = self.space.take() {
            let free_bytes = if space == Space::Ample { 1 << 40 } else { 1 << 20 };
            self.core.set_space(now, space, free_bytes);
        }
        for input in inputs {
            let Input { stream, end, is_peer, arrival } = input;
            if is_peer {
                self.peers.handle(instant, stream, end, arrival);
            } else {
                self.handle_client(now, stream, arrival, around)?;
            }
        }
        loop {
            let next = self.completions().pop_front();
            let Some((range, ticket, result)) = next else { break };
            #[cfg(feature = "planted")]
            let result = if self.ignores_failed_syncs { Ok(()) } else { result };
            result?;
            self.core.handle_durable(now, range, ticket);
        }
        if !self.flushed.is_empty() {
            self.core.handle_flushed(now, &std::mem::take(&mut self.flushed));
        }
        self.carrier.take_news(&mut Loop { core: &mut self.core, peers: &mut self.peers, now, instant })?;
        self.peers.handle_timeout(instant);
        self.take_peer_events(now, around)?;
        self.core.handle_timeout(now)?;
        self.take_requests(now)?;
        self.core.end_turn(now)?;
        Ok(())
    }

    /// Does what the core wants done, or only so many things of it: then the process is about to be killed.
    ///
    /// # Errors
    ///
    /// The process must stop.
    pub fn carry_out(&mut self, limit: Option<u64>, around: &mut Surroundings<'_>) -> Result<(), Fatal> {
        let now = around.now();
        let mut turned = false;
        let mut left = limit.unwrap_or(u64::MAX);
        loop {
            while left > 0
                && let Some(output) = self.core.poll_output()
            {
                left -= 1;
                turned = true;
                self.output(output, around)?;
            }
            if left == 0 || !self.take_peer_events(now, around)? {
                break;
            }
            self.core.end_turn(now)?;
        }
        if turned {
            let ids: Vec<StreamId> = self.clients.keys().copied().collect();
            ids.into_iter().for_each(|id| self.flush_client(id, around));
        }
        Ok(())
    }

    /// When the next turn is due, if nothing comes before.
    pub fn next_turn(&mut self, around: &Surroundings<'_>) -> Moment {
        let now = around.now();
        let core = around.clock.after(around.moment, self.core.poll_timeout(now));
        let instant = around.clock.instant(around.moment);
        let peers = self.peers.poll_timeout();
        let peers = peers.map(|at| around.clock.after(around.moment, at.saturating_duration_since(instant)));
        peers.map_or(core, |peers| core.min(peers))
    }

    fn note(&self, around: &mut Surroundings<'_>, what: std::fmt::Arguments<'_>) {
        around.trace.note(around.moment, format_args!("{} {what}", self.name));
    }

    fn completions(&self) -> std::sync::MutexGuard<'_, Ended> {
        self.completions.lock().expect("one thread runs the simulation, and a panic ends it")
    }

    fn take_peer_events(&mut self, now: Now, around: &mut Surroundings<'_>) -> Result<bool, Fatal> {
        let instant = around.clock.instant(around.moment);
        let mut any = false;
        loop {
            self.peers.settle(instant, around.moment, around.network);
            let Some(event) = self.peers.poll_event() else { return Ok(any) };
            any = true;
            match event {
                PeerEvent::Link { node, dialed, up } => {
                    let (way, what) = (if dialed { "to" } else { "from" }, if up { "up" } else { "down" });
                    self.note(around, format_args!("link {way} {node} {what}"));
                    if dialed {
                        self.core.handle_link(now, node, up);
                    }
                }
                PeerEvent::Message { from, method, body } => self.core.handle_message(now, from, method, body)?,
                PeerEvent::Call { caller, request, method, body } => {
                    self.core.handle_call(now, caller.node, request, method, body)?;
                }
                PeerEvent::Opened { .. }
                | PeerEvent::Chunk { .. }
                | PeerEvent::Writable(_)
                | PeerEvent::Closed { .. } => {
                    self.note_stream(&event, around);
                    let mut around = Loop { core: &mut self.core, peers: &mut self.peers, now, instant };
                    self.carrier.handle(event, &mut around)?;
                }
                PeerEvent::Reply { token: later::TOKEN, result } => {
                    assert!(result.is_err(), "{} was answered what nobody knows", self.name);
                }
                PeerEvent::Reply { token, result } => {
                    match &result {
                        Ok(body) => self.note(around, format_args!("call {token} is answered, {}", Digest(body))),
                        Err(status) => self.note(around, format_args!("call {token} fails: {status}")),
                    }
                    self.core.handle_reply(now, token, result)?;
                }
            }
        }
    }

    fn note_stream(&self, event: &PeerEvent, around: &mut Surroundings<'_>) {
        match event {
            PeerEvent::Opened { from, flow, .. } => {
                self.note(around, format_args!("{from} opens stream {}", flow.get()));
            }
            PeerEvent::Chunk { flow, body, end } => {
                let end = if *end { ", the last" } else { "" };
                self.note(around, format_args!("stream {} brings {}{end}", flow.get(), Digest(body)));
            }
            PeerEvent::Closed { flow, result } => {
                self.note(around, format_args!("stream {} is over: {result:?}", flow.get()));
            }
            _ => {}
        }
    }

    fn output(&mut self, output: Output, around: &mut Surroundings<'_>) -> Result<(), Fatal> {
        let instant = around.clock.instant(around.moment);
        match output {
            Output::Reply { session, reply, version } => {
                if let Some(client) = self.client_of(session) {
                    encode(&reply, version, &mut client.output);
                }
            }
            Output::Close { session } => self.with_client(session, |client| client.closing = true),
            // Its workloads do not ask for it.
            Output::Shutdown => {}
            Output::Peer { node, address } => {
                self.note(around, format_args!("peer {node} is at {address:?}"));
                match address {
                    Some(address) => self.peers.set_peer(instant, node, &address),
                    None => self.peers.remove_peer(instant, node),
                }
            }
            Output::SendSnapshot { to, transfer, body, export } => {
                self.note(around, format_args!("sends {to} a snapshot, transfer {transfer}"));
                let body = self.said(body);
                let mut on = Loop { core: &mut self.core, peers: &mut self.peers, now: around.now(), instant };
                self.carrier.send((to, transfer, body), export, &mut on)?;
            }
            Output::Install { range, install, ops } => {
                self.note(around, format_args!("lets a snapshot into range {range}"));
                self.carrier.install(range, install, ops);
            }
            Output::Removed => {
                self.note(around, format_args!("was removed"));
                self.removed = true;
            }
            Output::Checksum { range, checksum } => {
                self.note(around, format_args!("sums up range {range}"));
                self.carrier.sum(range, checksum);
            }
            Output::Settle(settlement) => self.carrier.settle(settlement),
            Output::Read(reading) => self.carrier.fetch(reading),
            Output::Pause { session } => self.with_client(session, |client| client.paused = true),
            Output::Resume { session } => self.with_client(session, |client| client.paused = false),
            Output::Write { range, ticket, ops } => {
                self.note(around, format_args!("writes {ticket} of range {range}: {}", Ops(&ops)));
                let completions = self.completions.clone();
                let done = move |result| {
                    completions.lock().expect("one thread").push_back((range, ticket, result));
                };
                self.log.submit(ops, Box::new(done))?;
            }
            Output::Send { to, method, body } => {
                let body = self.said(body);
                self.say_something_new(to, instant);
                let sent = self.peers.send(instant, to, method, body.clone());
                let verb = if sent { "sends" } else { "cannot send" };
                self.note(around, format_args!("{verb} {to} message {method}, {}", Digest(&body)));
            }
            Output::Call { to, token, method, body, timeout } => {
                let body = self.said(body);
                self.note(around, format_args!("calls {to}, call {token}, method {method}, {}", Digest(&body)));
                self.peers.call(instant, to, token, (method, body), timeout);
            }
            Output::Answer { request, result } => {
                let result = result.map(|body| self.said(body));
                let in_time = self.peers.answer(instant, request, result);
                let late = if in_time { "" } else { ", too late" };
                self.note(around, format_args!("answers call {} of link {}{late}", request.get(), request.link().0));
            }
        }
        Ok(())
    }

    /// What is said to a peer: by a later version, with fields that others do not know.
    fn said(&self, body: Bytes) -> Bytes {
        if self.newer { later::extended(&body) } else { body }
    }

    /// A later version has messages, kinds of messages and calls that others do not know, and must not harm them by it.
    fn say_something_new(&mut self, to: dstore_rpc::NodeId, instant: std::time::Instant) {
        self.sent += 1;
        if !self.newer || !self.sent.is_multiple_of(later::EVERY) {
            return;
        }
        match self.sent / later::EVERY % 3 {
            0 => drop(self.peers.send(instant, to, later::METHOD, Bytes::from_static(b"what?"))),
            1 => drop(self.peers.send(instant, to, later::RAFT, Bytes::from_static(later::RAFT_KIND))),
            _ => {
                let body = (later::METHOD, Bytes::from_static(b"what?"));
                self.peers.call(instant, to, later::TOKEN, body, std::time::Duration::from_secs(5));
            }
        }
    }

    fn handle_client(
        &mut self,
        now: Now,
        stream: StreamId,
        arrival: Arrival,
        around: &mut Surroundings<'_>,
    ) -> Result<(), Fatal> {
        match arrival {
            Arrival::Accepted => {
                let session = self.core.connect(now, ClientAddress::default());
                let client = Client {
                    session,
                    decoder: RequestDecoder::new(dstore_resp::Limits::default()),
                    input: BytesMut::new(),
                    paused: false,
                    output: Vec::new(),
                    stalled: false,
                    closing: false,
                    ended: false,
                };
                self.clients.insert(stream, client);
                self.streams.insert(session, stream);
            }
            Arrival::Bytes(bytes) => {
                if let Some(client) = self.clients.get_mut(&stream) {
                    client.input.extend_from_slice(&bytes);
                    self.read_client(now, stream)?;
                }
            }
            Arrival::Closed("closed by the peer") => {
                // He may still wait for replies. They go nowhere, and that is heard of.
                if let Some(client) = self.clients.get(&stream) {
                    self.core.hang_up(client.session);
                }
            }
            Arrival::Closed(_) => {
                if let Some(client) = self.clients.remove(&stream) {
                    self.streams.remove(&client.session);
                    self.core.disconnect(client.session);
                    around.network.close(around.moment, stream, End::Acceptor);
                }
            }
            Arrival::Room => self.flush_client(stream, around),
            Arrival::Connected => {}
        }
        Ok(())
    }

    /// Hands on the requests that a client has sent, as far as the core takes them.
    fn read_client(&mut self, now: Now, stream: StreamId) -> Result<(), Fatal> {
        loop {
            let congested = self.core.is_congested();
            let Some(client) = self.clients.get_mut(&stream) else { return Ok(()) };
            if client.paused || client.ended || client.closing || congested || client.input.is_empty() {
                return Ok(());
            }
            match client.decoder.decode(&client.input) {
                Ok(Decoded::Message(args, length)) => {
                    let _ = client.input.split_to(length);
                    self.core.handle_request(now, client.session, args)?;
                }
                Ok(Decoded::Skip(length)) => drop(client.input.split_to(length)),
                Ok(Decoded::Incomplete { .. }) => return Ok(()),
                Err(error) => {
                    client.ended = true;
                    self.core.refuse(client.session, error.reply());
                }
            }
        }
    }

    /// Requests that had to wait.
    fn take_requests(&mut self, now: Now) -> Result<(), Fatal> {
        let waiting: Vec<StreamId> =
            self.clients.iter().filter(|(_, client)| !client.input.is_empty()).map(|(id, _)| *id).collect();
        waiting.into_iter().try_for_each(|stream| self.read_client(now, stream))
    }

    fn flush_client(&mut self, stream: StreamId, around: &mut Surroundings<'_>) {
        let Some(client) = self.clients.get_mut(&stream) else { return };
        if !client.output.is_empty() && around.network.has_room(stream, End::Acceptor) {
            let bytes = Bytes::from(std::mem::take(&mut client.output));
            around.trace.note(around.moment, format_args!("{} replies: {}", self.name, Text(&bytes)));
            around.network.send(around.moment, stream, End::Acceptor, bytes);
        }
        if client.stalled == client.output.is_empty() {
            // The client reads too slowly, or does so no more.
            client.stalled = !client.stalled;
            if client.stalled { self.core.stall(client.session) } else { self.core.go_on(client.session) }
        }
        if client.closing && client.output.is_empty() {
            let session = client.session;
            self.clients.remove(&stream);
            self.streams.remove(&session);
            self.core.disconnect(session);
            around.network.close(around.moment, stream, End::Acceptor);
        }
    }

    fn client_of(&mut self, session: SessionId) -> Option<&mut Client> {
        self.clients.get_mut(self.streams.get(&session)?)
    }

    fn with_client(&mut self, session: SessionId, change: impl FnOnce(&mut Client)) {
        if let Some(client) = self.client_of(session) {
            change(client);
        }
    }
}

/// A version that does not exist yet, as far as others can tell: what is said by it can be read by them, and more is said.
mod later {
    use bytes::{Bytes, BytesMut};

    /// One message in so many is followed by something that nobody knows.
    pub(super) const EVERY: u64 = 16;
    /// A message, and a call, that nobody knows.
    pub(super) const METHOD: u32 = 60_001;
    /// Messages of consensus.
    pub(super) const RAFT: u32 = dstore_node::RAFT_METHOD;
    /// One of a kind that nobody knows, of range 1 in term 1.
    pub(super) const RAFT_KIND: &[u8] = &[0x08, 1, 0x10, 1, 0x18, 99];
    /// Calls of the core count up from 1.
    pub(super) const TOKEN: u64 = u64::MAX;

    /// Two fields that nobody knows behind those of a message: number 1000, a varint, and number 1001, bytes.
    pub(super) fn extended(body: &Bytes) -> Bytes {
        let mut longer = BytesMut::from(&body[..]);
        longer.extend_from_slice(&[0xc0, 0x3e, 7, 0xca, 0x3e, 3, b'n', b'e', b'w']);
        longer.freeze()
    }
}

/// Bytes in a trace: how many, and a checksum.
struct Digest<'a>(&'a Bytes);

impl std::fmt::Display for Digest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes {:08x}", self.0.len(), crc32c::crc32c(self.0))
    }
}

/// Bytes in a trace, to be read.
pub(crate) struct Text<'a>(pub(crate) &'a [u8]);

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Of what is long the trace keeps the beginning, and a checksum.
        const PRINTED_MAX: usize = 1000;
        let shown = &self.0[..self.0.len().min(PRINTED_MAX)];
        f.write_str(&String::from_utf8_lossy(shown).replace("\r\n", " "))?;
        if shown.len() < self.0.len() {
            write!(f, " .. {} bytes, {:08x}", self.0.len(), crc32c::crc32c(self.0))?;
        }
        Ok(())
    }
}

/// Operations on the log in a trace.
struct Ops<'a>(&'a [LogOp]);

impl std::fmt::Display for Ops<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for op in self.0 {
            match op {
                LogOp::Append { range, entries } => {
                    let (first, last) = (&entries[0], &entries[entries.len() - 1]);
                    write!(f, "range {range} entries {} to {}; ", first.position(), last.position())?;
                }
                LogOp::SetHardState { range, state } => {
                    write!(f, "range {range} term {} vote {}; ", state.term, state.vote)?;
                }
                other => write!(f, "{other:?}; ")?,
            }
        }
        Ok(())
    }
}
