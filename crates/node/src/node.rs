//! [`Node`]: the core of a node, driven by events and a clock that are handed to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dstore_kv::{Cursors, Limits, ViewError};
use dstore_raft::Time;
use dstore_resp::{ProtocolVersion, Reply};
use dstore_rpc::{Identity, NodeId, RequestId, Status};
use dstore_storage::layout::Stamp;
use dstore_storage::snapshot::{Checksum, Export, Install};
use dstore_storage::{Engine, EngineError, Log, LogError, LogIndex, LogOp, Position, RangeId, WriteOp};
use prost::Message as _;

use crate::cached::{Cached, Settlement};
use crate::cold::{Cold, Reading};
use crate::disk::Disk;
use crate::entry::EntryError;
use crate::gateway::{
    ClientAddress, DEADLINE_INTERVAL, Facts, Gateway, Host, RETRY_INTERVAL, SessionId, Sessions, Stats,
};
use crate::group::{Effects, Event, Group, GroupParts};
use crate::long_reads::LongReads;
use crate::replica::Applied;
use crate::roster::Roster;
use crate::transfer::Transfers;
use crate::wire::{self, Executed, RaftBody, Refused};

/// The time of an event. A driver samples it after it has read the bytes the event is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Microseconds since the Unix epoch: for stamps, and for people.
    pub wall_us: u64,
    /// A clock that never jumps and runs while the machine sleeps: for leases and timeouts.
    pub mono: Time,
}

impl Now {
    /// Milliseconds since the Unix epoch.
    pub fn wall_ms(self) -> u64 {
        self.wall_us / 1000
    }
}

/// What bounds a node's memory and work, and its patience.
#[derive(Clone, Debug)]
pub struct NodeLimits {
    /// Limits of single commands.
    pub commands: Limits,
    /// Bytes of arguments that one MULTI may queue.
    pub multi_bytes_max: usize,
    /// Bytes of one log entry: what a single command or MULTI block may change at once.
    pub entry_bytes_max: usize,
    /// Bytes of writes on their way to a quorum beyond which [`Node::is_congested`].
    pub inflight_bytes_max: usize,
    /// Memory for small records that were read before.
    pub cache_bytes_max: usize,
    /// Bytes of each range's log that are kept in memory for followers that have not got them: beyond, they are read again.
    pub log_cache_bytes_max: usize,
    /// Applied records that gather in memory before the engine gets them in one batch, while as many more gather; 0: it gets
    /// them at once.
    pub gathered_records_max: usize,
    /// How long a client waits for an answer from the data before he is told that there is none.
    pub request_timeout: Duration,
    /// A follower that has not heard from its leader for this long, and up to as long again, stands for election.
    pub election_timeout: Duration,
    /// How often a leader proves that it lives.
    pub heartbeat_interval: Duration,
    /// How long those who heard the leader grant nobody their vote.
    pub lease: Duration,
    /// Answer reads under the leader's lease. Otherwise a quorum is asked.
    pub lease_reads: bool,
    /// Answer reads on followers, once the leader has told how far they must have applied.
    pub follower_reads: bool,
    /// A write to the log that takes longer than this means that the disk stands still: others should lead.
    pub disk_stall: Duration,
    /// Up to so many nodes vote; those beyond keep copies and stand by.
    pub voters_max: usize,
    /// How often replicas are compared.
    pub check_interval: Duration,
}

impl Default for NodeLimits {
    fn default() -> NodeLimits {
        NodeLimits {
            commands: Limits::default(),
            multi_bytes_max: 256 << 20,
            entry_bytes_max: 68 << 20,
            inflight_bytes_max: 64 << 20,
            cache_bytes_max: 16 << 20,
            log_cache_bytes_max: 8 << 20,
            gathered_records_max: 16_384,
            request_timeout: Duration::from_secs(5),
            election_timeout: Duration::from_millis(700),
            heartbeat_interval: Duration::from_millis(70),
            lease: Duration::from_millis(350),
            lease_reads: true,
            follower_reads: false,
            disk_stall: Duration::from_millis(300),
            voters_max: 3,
            check_interval: Duration::from_secs(86_400),
        }
    }
}

/// Why a node must stop. None of these is answered to a client: a node that cannot trust its data says nothing more.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The engine failed, or gave back something damaged.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The log took no write at the start, or did not give back what was written.
    #[error(transparent)]
    Log(LogError),
    /// A record in the engine is not what it should be.
    #[error(transparent)]
    View(#[from] dstore_kv::ViewError),
    /// The engine's applied state cannot be read.
    #[error("the applied state in the data is damaged, or of a version this binary does not know")]
    AppliedState,
    /// The members of a range cannot be read.
    #[error("the members of range {range} in the data are damaged, or of a version this binary does not know")]
    Members {
        /// Which range.
        range: RangeId,
    },
    /// What a range remembers of a request cannot be read.
    #[error("a request record of range {range} is damaged, or of a version this binary does not know")]
    RequestRecord {
        /// Which range.
        range: RangeId,
    },
    /// An entry of the log cannot be read.
    #[error("entry {position} of the log: {error}")]
    Entry {
        /// Its position.
        position: Position,
        /// What is wrong with it.
        error: EntryError,
    },
    /// Entries are missing between the data and the log.
    #[error("range {range}: the data ends at entry {applied}, but the log begins behind {begin}: entries are missing")]
    LogGap {
        /// Which range.
        range: RangeId,
        /// Where the log begins.
        begin: Position,
        /// What is applied.
        applied: Position,
    },
    /// There is data but no log.
    #[error(
        "range {range}: the data stands at entry {applied}, but there is no log: it was lost, or belongs to another node"
    )]
    LogMissing {
        /// Which range.
        range: RangeId,
        /// What is applied.
        applied: Position,
    },
    /// Log and data do not fit together.
    #[error("range {range} cannot start: {error}")]
    Start {
        /// Which range.
        range: RangeId,
        /// What consensus said.
        error: String,
    },
    /// An entry's stamp is not above the one before it.
    #[error("entry {position} of the log has a stamp that is not above its predecessor's")]
    StampOrder {
        /// Its position.
        position: Position,
    },
}

impl NodeError {
    /// Whether the disk did not give back what was written, so that the data must come from another replica.
    pub fn is_damage(&self) -> bool {
        match self {
            NodeError::Engine(EngineError::Corrupt(_)) | NodeError::Log(LogError::Damaged { .. }) => true,
            NodeError::View(dstore_kv::ViewError::Unreadable(error)) => {
                matches!(error.downcast_ref(), Some(EngineError::Corrupt(_)))
            }
            _ => false,
        }
    }
}

/// What a node wants its driver to do, in this order.
#[derive(Debug)]
pub enum Output {
    /// Send a reply.
    Reply {
        /// To whom.
        session: SessionId,
        /// What.
        reply: Reply,
        /// In which version of the protocol.
        version: ProtocolVersion,
    },
    /// Close the connection once everything before is sent.
    Close {
        /// Whose.
        session: SessionId,
    },
    /// Stop this node, in order, as a signal would: SHUTDOWN.
    Shutdown,
    /// Read no further requests of this session: too much waits.
    Pause {
        /// Whose.
        session: SessionId,
    },
    /// Read them again.
    Resume {
        /// Whose.
        session: SessionId,
    },
    /// Submit to the log; when it is durable, call [`Node::handle_durable`].
    Write {
        /// Whose log.
        range: RangeId,
        /// Names the write; grows, for each range by itself.
        ticket: u64,
        /// What to write.
        ops: Vec<LogOp>,
    },
    /// Send a one-way message to a peer. It may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What it is.
        method: u32,
        /// Its content.
        body: Bytes,
    },
    /// Call a peer; when the call ends, however it does, call [`Node::handle_reply`].
    Call {
        /// Whom.
        to: NodeId,
        /// Names the call.
        token: u64,
        /// What for.
        method: u32,
        /// With what.
        body: Bytes,
        /// When the call ends at the latest.
        timeout: Duration,
    },
    /// Answer a peer's call.
    Answer {
        /// Which.
        request: RequestId,
        /// The reply's body, or an error.
        result: Result<Bytes, Status>,
    },
    /// Carry a snapshot to a peer: on a stream of method [`crate::SNAPSHOT`] that begins with `body`, every chunk of
    /// `export`, read off the loop. When the peer has ended its direction of the stream, or something has failed, call
    /// [`Node::handle_snapshot_sent`]. One at a time.
    SendSnapshot {
        /// To whom.
        to: NodeId,
        /// Names the transfer.
        transfer: u64,
        /// What the stream begins with.
        body: Bytes,
        /// The data.
        export: Export,
    },
    /// Let a snapshot that was taken in replace the data of a range, off the loop: `install.finish(&ops)`. Then call
    /// [`Node::handle_installed`].
    Install {
        /// Whose data.
        range: RangeId,
        /// What was taken in.
        install: Install,
        /// What goes in along with it.
        ops: Vec<WriteOp>,
    },
    /// Sum up the data of a range, off the loop: [`Checksum::step`] until it gives the sum. Then call
    /// [`Node::handle_checksum`]. One at a time for each range.
    Checksum {
        /// Whose data.
        range: RangeId,
        /// The data, as it was at one entry.
        checksum: Checksum,
    },
    /// Give the engine what has gathered above it, off the loop: `settlement.run()`. Then call [`Node::handle_settled`]. One
    /// at a time.
    Settle(Settlement),
    /// Read something, on a thread that may wait for the disk: `reading.run()`. Then call [`Node::handle_read`] with what
    /// that gives. Any number at a time, in any order.
    Read(Reading),
    /// A peer is to be reached there from now on; without an address, it is a peer no more.
    Peer {
        /// Which.
        node: NodeId,
        /// Where.
        address: Option<String>,
    },
    /// This node was removed from its cluster. Note it, and stop: it must not start again on this data.
    Removed,
}

/// The range of what the cluster knows about itself: its nodes, the descriptors of its ranges.
pub const SYSTEM_RANGE: RangeId = RangeId(0);

/// The range of all user keys, as long as there is only one.
pub const USER_RANGE: RangeId = RangeId(1);

/// Every range there is.
pub(crate) const RANGES: [RangeId; 2] = [SYSTEM_RANGE, USER_RANGE];

/// How often expired keys are looked for, in milliseconds; as often as Redis does.
const SWEEP_INTERVAL_MS: u64 = 100;
/// The same while there are more than one sweep removes.
const SWEEP_BACKLOG_INTERVAL_MS: u64 = 10;
/// Records of the expiry index that one sweep looks at. Bounds how long it holds up the loop.
const SWEEP_RECORDS_MAX: usize = 500;
/// Bytes that an operation on a key takes beside the key, generously.
const SWEEP_RECORD_OVERHEAD_BYTES: usize = 64;
/// How soon a write that the engine was too busy for is tried again.
const BUSY_RETRY: Duration = Duration::from_millis(5);
/// How often members are told what nobody needs of the log any more, and a node says where it is.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// How often the members of the ranges led here are compared with what they should be.
const GOVERNING_INTERVAL: Duration = Duration::from_secs(1);
/// The same while they are not so.
const GOVERNING_INTERVAL_BUSY: Duration = Duration::from_millis(100);

/// A member of a cluster, as a node that starts is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Where its peers reach it.
    pub peer_address: String,
    /// That is another place than before: what the cluster has written down is out of date.
    pub moved: bool,
}

/// What a node is made of.
pub struct NodeParts<E> {
    /// The data.
    pub engine: E,
    /// The log of all ranges, to read. What is to be written comes out as [`Output::Write`].
    pub log: Arc<dyn Log>,
    /// Cluster, node and start.
    pub identity: Identity,
    /// The members that founded the cluster, this node among them; empty for a node that joined it later.
    pub founders: Vec<Member>,
    /// For a node that joined: who was there then. The cluster's own records tell who is there now.
    pub contacts: Vec<Member>,
    /// Where this node's peers reach it; empty for a cluster of one that nobody can join.
    pub peer_address: String,
    /// Bounds.
    pub limits: NodeLimits,
    /// What the node is told of itself.
    pub facts: Facts,
    /// The process around it.
    pub host: Box<dyn Host>,
    /// Another one at every start.
    pub seed: u64,
}

/// The core of a node. See the [crate](crate).
pub struct Node<E> {
    pub(crate) engine: Cached<E>,
    pub(crate) identity: Identity,
    /// The first of the founders, who stands for the first election.
    first_founder: Option<NodeId>,
    pub(crate) peer_address: String,
    pub(crate) roster: Roster,
    /// How full and how fast disks are.
    pub(crate) disk: Disk,
    /// Snapshots that leave this node.
    pub(crate) transfers: Transfers,
    /// The ranges that this node, removed, has left, as their leaders say.
    pub(crate) left: BTreeSet<RangeId>,
    /// This node was removed, and its clients were sent away.
    pub(crate) is_leaving: bool,
    /// The driver was told that this node is a member no more.
    pub(crate) was_removed: bool,
    /// Other nodes that were removed, and ranges that they have left, as the leaders of those say.
    pub(crate) gone: BTreeSet<(u64, RangeId)>,
    pub(crate) groups: BTreeMap<RangeId, Group>,
    pub(crate) sessions: Sessions,
    pub(crate) cursors: Cursors,
    pub(crate) long_reads: LongReads,
    pub(crate) cold: Cold,
    pub(crate) limits: NodeLimits,
    pub(crate) facts: Facts,
    pub(crate) stats: Stats,
    pub(crate) outputs: VecDeque<Output>,
    /// What groups tell of, until the turn ends.
    events: Vec<(RangeId, Event)>,
    pub(crate) host: Box<dyn Host>,
    pub(crate) started_us: u64,
    next_sweep_us: u64,
    /// No record of the expiry index is due before this time.
    sweep_from_ms: u64,
    next_housekeeping: Time,
    next_governing: Time,
    /// When what settles is next given to an engine that was too busy for it.
    next_settling: Time,

    // The gateway's part.
    pub(crate) gateway: Gateway,
    /// Sessions with work to be sent.
    pub(crate) ready: VecDeque<SessionId>,
    /// The same, but they have had their share of this turn.
    pub(crate) later: Vec<SessionId>,
    /// Turns of the loop.
    pub(crate) turn: u64,
    /// Sessions whose batch nobody would take.
    pub(crate) held: Vec<SessionId>,
    /// Sessions whose batch's outcome cannot be known any more.
    pub(crate) doomed: Vec<SessionId>,
    pub(crate) next_retry: Time,
    pub(crate) next_expiry: Time,
    /// Calls of ours that have not ended, and for whom they are.
    pub(crate) calls: BTreeMap<u64, SessionId>,
    /// Calls of ours that greet a peer, and about whom: this node, or one that was removed.
    pub(crate) greeting: BTreeMap<u64, u64>,
    pub(crate) last_greeted: u64,
    pub(crate) last_token: u64,
    /// Connections with peers that came to be, counted.
    pub(crate) epoch: u64,
    /// Closed sessions of which some leader may still remember something.
    pub(crate) closed: Vec<u64>,
    /// Bytes of requests that are not answered.
    pub(crate) waiting_bytes: usize,
    #[cfg(feature = "planted")]
    pub(crate) planted: Option<crate::Planted>,
}

impl<E: Engine> Node<E> {
    /// A node at the state that engine and log hold together. What the log has beyond the engine is applied as soon as it
    /// is known to be committed.
    ///
    /// # Errors
    ///
    /// What the two hold cannot be read, or does not fit together.
    pub fn new(parts: NodeParts<E>, now: Now) -> Result<Self, NodeError> {
        let NodeParts { engine, log, identity, founders, contacts, peer_address, mut limits, facts, host, seed } =
            parts;
        let first_founder = founders.first().map(|first| first.node);
        let founding: Vec<_> = founders.iter().map(|member| dstore_raft::NodeId(member.node.0)).collect();
        let config = raft_config(&limits, &*log);
        // What a range remembers of a batch stands in the same entry as its effects.
        limits.entry_bytes_max = limits.entry_bytes_max.saturating_sub(2 * crate::record::RECORD_BYTES_MAX);
        let engine = Cached::new(engine, limits.cache_bytes_max, limits.gathered_records_max);
        let me = dstore_raft::NodeId(identity.node.0);
        let open = |range: RangeId| {
            // Groups of one node must not draw alike.
            let seed = seed.wrapping_add(range.0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let (log, config) = (log.clone(), config.clone());
            let parts = GroupParts { range, me, founders: &founding, engine: &engine, log, config, seed };
            Ok((range, Group::open(parts, now.mono)?))
        };
        let groups = RANGES.into_iter().map(open).collect::<Result<BTreeMap<_, _>, NodeError>>()?;
        let known: Vec<Member> = founders.into_iter().chain(contacts).collect();
        let roster = Roster::new(Self::first_records(&engine, &*log)?, &known);
        let mut node = Node {
            engine,
            identity,
            first_founder,
            peer_address,
            roster,
            disk: Disk::default(),
            transfers: Transfers::default(),
            left: BTreeSet::new(),
            is_leaving: false,
            was_removed: false,
            gone: BTreeSet::new(),
            groups,
            sessions: Sessions::default(),
            cursors: Cursors::new(seed),
            long_reads: LongReads::default(),
            cold: Cold::default(),
            limits,
            facts,
            stats: Stats::default(),
            outputs: VecDeque::new(),
            events: Vec::new(),
            host,
            started_us: now.wall_us,
            next_sweep_us: now.wall_us,
            sweep_from_ms: 0,
            next_housekeeping: now.mono,
            next_governing: now.mono,
            next_settling: now.mono,
            gateway: Gateway::new(now.mono),
            ready: VecDeque::new(),
            later: Vec::new(),
            turn: 0,
            held: Vec::new(),
            doomed: Vec::new(),
            next_retry: now.mono,
            next_expiry: now.mono,
            calls: BTreeMap::new(),
            greeting: BTreeMap::new(),
            last_greeted: 0,
            last_token: 0,
            epoch: 0,
            closed: Vec::new(),
            waiting_bytes: 0,
            #[cfg(feature = "planted")]
            planted: None,
        };
        node.roster.note(&node.own_record());
        Ok(node)
    }

    /// A client connected.
    pub fn connect(&mut self, now: Now, address: ClientAddress) -> SessionId {
        self.stats.connections += 1;
        let session = self.sessions.open(address, now.wall_us, self.facts.password.is_none());
        if self.is_leaving {
            self.hang_up(session);
        }
        session
    }

    /// A client is gone. What he has under way still happens.
    pub fn disconnect(&mut self, session: SessionId) {
        let Some(session) = self.sessions.close(session) else { return };
        self.gateway.forget(session.id, session.wakes_at);
        let unsent: usize = session.unsent.iter().map(|unsent| unsent.item.work.bytes()).sum();
        self.waiting_bytes -= unsent + session.outstanding.as_ref().map_or(0, |outstanding| outstanding.bytes);
        if session.recorded {
            self.closed.push(session.id.client);
        }
    }

    /// A one-way message came from a peer. What makes no sense is passed over.
    ///
    /// # Errors
    ///
    /// The engine failed: the node must stop.
    pub fn handle_message(&mut self, now: Now, from: NodeId, method: u32, body: Bytes) -> Result<(), NodeError> {
        match method {
            number if number == wire::RAFT.number => self.handle_raft(now, from, body),
            number if number == wire::RETAIN.number => {
                if let Ok(retain) = wire::Retain::decode(body)
                    && let Some(group) = self.groups.get_mut(&RangeId(retain.range))
                    && group.leader().is_some_and(|(leader, term)| leader.0 == from.0 && term.0 == retain.term)
                {
                    group.retention.note_unneeded(LogIndex(retain.index));
                }
            }
            number if number == wire::ANNOUNCE.number => {
                if let Ok(record) = wire::NodeRecord::decode(body)
                    && record.node == from.0
                {
                    self.note_node(now, &record)?;
                }
            }
            number if number == wire::REPORT.number => {
                if let Ok(report) = wire::Report::decode(body) {
                    self.note_report(now, from, &report);
                }
            }
            number if number == wire::SUM.number => {
                if let Ok(sum) = wire::Sum::decode(body) {
                    self.sum_came(from.0, &sum);
                }
            }
            number if number == wire::FORGET.number => {
                if let Ok(forget) = wire::Forget::decode(body) {
                    self.forget(now, from.0, &forget)?;
                }
            }
            _ => {
                mark!(UnknownMessage);
                tracing::debug!("node {from} sent message {method}, which this version does not know");
            }
        }
        Ok(())
    }

    fn handle_raft(&mut self, now: Now, from: NodeId, body: Bytes) {
        let me = dstore_raft::NodeId(self.identity.node.0);
        let Ok(body) = RaftBody::decode(body) else { return };
        let range = RangeId(body.range);
        let Some(message) = body.message(dstore_raft::NodeId(from.0), me) else { return };
        if !self.takes_in(&message) {
            return;
        }
        if let Some(group) = self.groups.get_mut(&range)
            && let Err(error) = group.step(now.mono, message)
        {
            tracing::warn!("range {range}: {error}");
        }
    }

    /// A peer calls. The answer comes as [`Output::Answer`], now or later.
    ///
    /// # Errors
    ///
    /// The engine failed: the node must stop.
    pub fn handle_call(
        &mut self,
        now: Now,
        from: NodeId,
        request: RequestId,
        method: u32,
        body: Bytes,
    ) -> Result<(), NodeError> {
        use dstore_rpc::{Code, Execution};
        let refuse = |code, message: String| Err(Status::new(code, Execution::NotExecuted, message));
        let result = match method {
            number if number == wire::EXECUTE.number => match wire::EXECUTE.decode_request(body) {
                // What it had executed will be forgotten, so it has nothing executed any more. Its clients go elsewhere: it
                // ends as soon as it hears of this.
                Ok(execute) if self.is_out(from.0, RangeId(execute.range)) => {
                    Ok(Executed::refusal(Refused::NotLeader).encode_to_vec().into())
                }
                Ok(execute) => return self.execute_for(now, from, request, execute),
                Err(status) => Err(status),
            },
            number if number == wire::ADMINISTER.number => match wire::ADMINISTER.decode_request(body) {
                Ok(administer) => self.administer(now, &administer).map(|answer| Ok(answer.encode_to_vec().into()))?,
                Err(status) => Err(status),
            },
            number if number == wire::GREET.number => match wire::GREET.decode_request(body) {
                Ok(record) => self.greeted_by(now, from, &record).map(|answer| Ok(answer.encode_to_vec().into()))?,
                Err(status) => Err(status),
            },
            _ => {
                mark!(UnknownCall);
                refuse(Code::UnknownMethod, format!("there is no method {method} here"))
            }
        };
        self.outputs.push_back(Output::Answer { request, result });
        Ok(())
    }

    /// The connection to a peer that we dialed came to be, or ended.
    pub fn handle_link(&mut self, now: Now, peer: NodeId, is_up: bool) {
        if is_up {
            self.epoch += 1;
            // The first founder of a new cluster need not wait until it notices that nobody leads.
            if self.first_founder == Some(self.identity.node) {
                self.groups.values_mut().for_each(|group| group.stand_first(now.mono));
            }
            self.greet(peer);
            return;
        }
        for group in self.groups.values_mut() {
            group.peer_lost(now.mono, dstore_raft::NodeId(peer.0));
        }
    }

    /// The writes of a range up to `ticket` are durable.
    pub fn handle_durable(&mut self, now: Now, range: RangeId, ticket: u64) {
        if let Some(group) = self.groups.get_mut(&range) {
            group.durable(now.mono, ticket, &mut self.outputs);
        }
    }

    /// The engine was flushed: a power loss would leave each range at least here. Cuts the log as far as nobody needs it.
    pub fn handle_flushed(&mut self, now: Now, persisted: &[(RangeId, LogIndex)]) {
        let mut effects = Effects { outputs: &mut self.outputs, events: &mut self.events };
        for (range, index) in persisted {
            if let Some(group) = self.groups.get_mut(range) {
                group.cut(now.mono, *index, &mut effects);
            }
        }
    }

    /// The turn of the loop ends: commands that came are executed or sent on, what they wrote becomes one entry, and
    /// what consensus has decided is applied and answered.
    ///
    /// # Errors
    ///
    /// The engine failed: the node must stop.
    pub fn end_turn(&mut self, now: Now) -> Result<(), NodeError> {
        self.turn += 1;
        self.ready.extend(self.later.drain(..));
        loop {
            self.dispatch(now)?;
            for range in RANGES {
                self.seal(range);
                self.pump(now, range)?;
                if planted!(self, DurableWhenSubmitted) {
                    self.handle_durable(now, range, u64::MAX);
                }
                self.release(now, range)?;
                self.resolve(now, range)?;
                self.drop_unwanted_snapshot(range);
                self.begin_sums(range);
            }
            self.begin_waiting(now)?;
            let events = std::mem::take(&mut self.events);
            let quiet = events.is_empty();
            for (range, event) in events {
                self.handle_event(now, range, event)?;
            }
            if !self.doomed.is_empty() {
                self.retry_held(now)?;
            }
            let more = self.groups.values().any(|group| group.serving().is_some() && group.replica.has_open());
            if quiet && self.ready.is_empty() && !more {
                if now.mono >= self.next_settling {
                    self.outputs.extend(self.engine.settlement().map(Output::Settle));
                }
                return self.refresh_roster();
            }
        }
    }

    fn pump(&mut self, now: Now, range: RangeId) -> Result<(), NodeError> {
        let Some(group) = self.groups.get_mut(&range) else { return Ok(()) };
        let mut effects = Effects { outputs: &mut self.outputs, events: &mut self.events };
        group.pump(now.mono, &self.engine, &mut effects)?;
        self.read_log(range);
        Ok(())
    }

    /// Ends a range's open entry. Gives its position, if there was one.
    pub(crate) fn seal(&mut self, range: RangeId) -> Option<Position> {
        let (position, bytes) = self.groups.get_mut(&range)?.seal()?;
        self.stats.entries += 1;
        self.stats.entry_bytes += bytes as u64;
        Some(position)
    }

    fn handle_event(&mut self, now: Now, range: RangeId, event: Event) -> Result<(), NodeError> {
        self.disk_event(now, &event);
        match event {
            Event::Lost => {
                self.leadership_lost(range);
                self.resolve(now, range)?;
            }
            Event::Leadership if range == USER_RANGE => self.reroute(now)?,
            Event::Leadership => {}
            Event::Serving if range == USER_RANGE => {
                // Another leader may have logged what this node's sweeps have never seen.
                self.sweep_from_ms = 0;
                self.retry_held(now)?;
            }
            Event::Serving => self.describe_ranges(now)?,
            Event::Read(id) => self.read_granted(now, range, id)?,
            Event::ReadDropped(id) => self.read_dropped(range, id),
            Event::SnapshotWanted(node) => self.snapshot_wanted(now, range, node)?,
            Event::SnapshotReady(node, body) => self.snapshot_ready(range, node, body),
        }
        Ok(())
    }

    /// Does what is due. [`Node::end_turn`] follows.
    ///
    /// # Errors
    ///
    /// The engine failed: the node must stop.
    pub fn handle_timeout(&mut self, now: Now) -> Result<(), NodeError> {
        for group in self.groups.values_mut() {
            if group.deadline() <= now.mono {
                group.tick(now.mono);
            }
        }
        self.check_disk(now)?;
        if self.is_behind() {
            self.catch_up()?;
        }
        if now.wall_us >= self.next_sweep_us || now.wall_us + SWEEP_INTERVAL_MS * 2000 < self.next_sweep_us {
            let interval_ms = self.sweep(now)?;
            self.next_sweep_us = now.wall_us + interval_ms * 1000;
        }
        if now.mono >= self.next_retry && !self.held.is_empty() {
            self.retry_held(now)?;
        }
        if now.mono >= self.next_expiry {
            self.expire(now)?;
        }
        self.wake(now)?;
        if now.mono >= self.next_governing {
            let interval = if self.govern(now)? { GOVERNING_INTERVAL_BUSY } else { GOVERNING_INTERVAL };
            self.next_governing = now.mono + interval;
        }
        if now.mono >= self.next_housekeeping {
            self.next_housekeeping = now.mono + HOUSEKEEPING_INTERVAL;
            self.tell_unneeded(now);
            self.announce(now)?;
            self.check_ranges(now)?;
            self.greet_somebody();
            // Who is needed by some range changes with consensus alone.
            self.tell_peers();
            self.next_snapshot(now)?;
            self.send_forgets(now)?;
            self.engine.settle_soon();
        }
        Ok(())
    }

    /// What had gathered was given to the engine, or could not be, as [`Output::Settle`] asked.
    ///
    /// # Errors
    ///
    /// The engine failed: the node must stop.
    pub fn handle_settled(&mut self, now: Now, result: Result<(), EngineError>) -> Result<(), NodeError> {
        self.engine.settled();
        match result {
            Ok(()) => self.catch_up(),
            Err(EngineError::Busy(_)) => {
                self.next_settling = now.mono + BUSY_RETRY;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the engine what it has not been given yet of what is applied, unless it is busy. Waits for it: only for a node
    /// that serves no more.
    ///
    /// # Errors
    ///
    /// The engine failed: the node must stop.
    pub fn settle(&self) -> Result<(), NodeError> {
        match self.engine.settle() {
            Ok(()) | Err(EngineError::Busy(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Applies what a busy engine refused before.
    fn catch_up(&mut self) -> Result<(), NodeError> {
        let mut effects = Effects { outputs: &mut self.outputs, events: &mut self.events };
        for group in self.groups.values_mut() {
            group.apply(&self.engine, &mut effects)?;
        }
        Ok(())
    }

    /// Removes expired keys, where this node leads. Says when to look again.
    fn sweep(&mut self, now: Now) -> Result<u64, NodeError> {
        let congested = self.is_congested();
        let records_max = self.sweep_records_max();
        let Some(group) = self.groups.get_mut(&USER_RANGE) else { return Ok(SWEEP_INTERVAL_MS) };
        // A node that cannot keep up with its clients does not add work of its own.
        if group.serving().is_none() || congested || group.replica.is_behind() || self.cold.parks_sweep() {
            return Ok(SWEEP_INTERVAL_MS);
        }
        if group.replica.has_open() {
            self.seal(USER_RANGE);
        }
        let Some(group) = self.groups.get_mut(&USER_RANGE) else { return Ok(SWEEP_INTERVAL_MS) };
        let from_ms = self.sweep_from_ms;
        let sweep = match group.replica.sweep(now, from_ms, records_max, (self.cold.sweep_patience(), &self.engine)) {
            Err(NodeError::View(ViewError::NotInMemory)) => {
                mark!(ColdSweep);
                self.park_sweep(USER_RANGE, from_ms, records_max, Stamp::from_ms(now.wall_ms()));
                return Ok(SWEEP_BACKLOG_INTERVAL_MS);
            }
            sweep => sweep?,
        };
        self.cold.swept();
        self.sweep_from_ms = sweep.resume_ms;
        self.stats.expired_keys += sweep.keys_removed;
        Ok(if sweep.more { SWEEP_BACKLOG_INTERVAL_MS } else { SWEEP_INTERVAL_MS })
    }

    /// What one sweep removes must fit into one entry, even if all keys are as long as they may be: each is named twice,
    /// in its own record and in the index.
    fn sweep_records_max(&self) -> usize {
        let record_bytes = 2 * (self.limits.commands.key_bytes_max + SWEEP_RECORD_OVERHEAD_BYTES);
        (self.limits.entry_bytes_max / 2 / record_bytes).clamp(1, SWEEP_RECORDS_MAX)
    }

    /// Where this node leads, tells the members what nobody needs of the log any more.
    fn tell_unneeded(&mut self, now: Now) {
        for (range, group) in &mut self.groups {
            let Some(term) = group.serving() else { continue };
            let index = group.unneeded(now.mono);
            group.retention.note_unneeded(index);
            let retain = wire::Retain { range: range.0, term: term.0, index: index.0 };
            let body = Bytes::from(retain.encode_to_vec());
            for node in group.raft.configuration().members() {
                let (to, method) = (NodeId(node.0), wire::RETAIN.number);
                if to != self.identity.node {
                    self.outputs.push_back(Output::Send { to, method, body: body.clone() });
                }
            }
        }
    }

    /// How long until [`Node::handle_timeout`] has something to do.
    pub fn poll_timeout(&self, now: Now) -> Duration {
        // A clock that was set back must not put the sweep off for as long.
        let sweep_us = self.next_sweep_us.saturating_sub(now.wall_us).min(SWEEP_INTERVAL_MS * 1000);
        let mut wait = Duration::from_micros(sweep_us).max(Duration::from_millis(1));
        for group in self.groups.values() {
            wait = wait.min(group.deadline().since(now.mono));
        }
        if !self.later.is_empty() {
            return Duration::ZERO;
        }
        if !self.held.is_empty() {
            wait = wait.min(RETRY_INTERVAL);
        }
        if let Some(wake) = self.next_wake(now) {
            wait = wait.min(wake.since(now.mono));
        }
        if self.is_behind() {
            wait = wait.min(BUSY_RETRY);
        }
        if self.next_settling > now.mono {
            wait = wait.min(self.next_settling.since(now.mono));
        }
        wait.min(DEADLINE_INTERVAL)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether so many writes are on their way that no request should be taken until some have arrived.
    pub fn is_congested(&self) -> bool {
        let logged: usize = self.groups.values().map(|group| group.replica.inflight_bytes()).sum();
        logged.max(self.waiting_bytes).max(self.unwritten_bytes()) > self.limits.inflight_bytes_max
    }

    /// Whether committed entries wait for a busy engine.
    pub fn is_behind(&self) -> bool {
        self.groups.values().any(|group| group.replica.is_behind())
    }

    /// The address that clients connect to, once it is known.
    pub fn set_client_address(&mut self, address: std::net::SocketAddr) {
        self.facts.client_address = address.to_string();
        self.facts.port = address.port();
        for (name, value) in &mut self.facts.settings {
            if *name == "port" {
                *value = address.port().to_string();
            }
        }
    }

    /// How far the engine is with a range.
    pub fn applied(&self, range: RangeId) -> Option<Applied> {
        self.groups.get(&range).map(|group| group.replica.applied())
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        self.engine.inner()
    }

    /// Breaks a rule.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, bug: crate::Planted) {
        self.planted = Some(bug);
        self.engine.planted = Some(bug);
        self.groups.values_mut().for_each(|group| group.replica.planted = Some(bug));
    }
}

fn raft_config(limits: &NodeLimits, log: &dyn Log) -> dstore_raft::Config {
    let entry_bytes_max = log.payload_bytes_max() as u64;
    dstore_raft::Config {
        election_timeout: limits.election_timeout,
        heartbeat_interval: limits.heartbeat_interval,
        lease: limits.lease,
        lease_reads: limits.lease_reads,
        entry_bytes_max,
        log_cache_bytes_max: limits.log_cache_bytes_max as u64,
        // The node bounds what is on its way by itself: see `Node::is_congested`.
        uncommitted_bytes_max: u64::MAX,
        ..dstore_raft::Config::default()
    }
}
