//! [`Node`]: the core of a node, driven by events and a clock that are handed to it.

use std::collections::VecDeque;

use bytes::Bytes;
use dstore_kv::{Cursors, Limits};
use dstore_resp::{ProtocolVersion, Reply};
use dstore_storage::{Engine, EngineError, LogIndex, Position, RangeId, Term};

use crate::entry::EntryError;
use crate::gateway::{ClientAddress, DATABASES, Facts, Host, Report, SessionId, Sessions, Stats, info};
use crate::replica::{Append, Applied, Call, Order, Replica, Tools};

/// The time of an event. A driver samples it after it has read the bytes the event is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Microseconds since the Unix epoch.
    pub wall_us: u64,
}

impl Now {
    /// Milliseconds since the Unix epoch.
    pub fn wall_ms(self) -> u64 {
        self.wall_us / 1000
    }
}

/// What bounds a node's memory and work.
#[derive(Clone, Debug)]
pub struct NodeLimits {
    /// Limits of single commands.
    pub commands: Limits,
    /// Bytes of arguments that one MULTI may queue.
    pub multi_bytes_max: usize,
    /// Bytes of one log entry: what a single command or MULTI block may change at once.
    pub entry_bytes_max: usize,
    /// Bytes of writes on their way to the disk beyond which [`Node::is_congested`].
    pub inflight_bytes_max: usize,
}

/// Why a node must stop. None of these is answered to a client: a node that cannot trust its data says nothing more.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The engine failed, or gave back something damaged.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A record in the engine is not what it should be.
    #[error(transparent)]
    View(#[from] dstore_kv::ViewError),
    /// The engine's applied state cannot be read.
    #[error("the applied state in the data is damaged, or of a version this binary does not know")]
    AppliedState,
    /// An entry of the log cannot be read.
    #[error("entry {position} of the log: {error}")]
    Entry {
        /// Its position.
        position: Position,
        /// What is wrong with it.
        error: EntryError,
    },
    /// An entry is missing between the data and the log, or inside of the log.
    #[error("the log goes on at entry {found}, the data ends before entry {expected}")]
    LogGap {
        /// The entry that should have followed.
        expected: LogIndex,
        /// The entry that did.
        found: LogIndex,
    },
    /// An entry's stamp is not above the one before it.
    #[error("entry {position} of the log has a stamp that is not above its predecessor's")]
    StampOrder {
        /// Its position.
        position: Position,
    },
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
    /// Read no further requests of this session: too many replies wait.
    Pause {
        /// Whose.
        session: SessionId,
    },
    /// Read them again.
    Resume {
        /// Whose.
        session: SessionId,
    },
    /// Append to the log; when it is durable, call [`Node::handle_durable`].
    Append(Append),
}

/// The range of all user keys, as long as there is only one.
pub const USER_RANGE: RangeId = RangeId(1);

/// The term of a node without peers.
const ONLY_TERM: Term = Term(1);

/// How often expired keys are looked for, in milliseconds; as often as Redis does.
const SWEEP_INTERVAL_MS: u64 = 100;
/// The same while there are more than one sweep removes.
const SWEEP_BACKLOG_INTERVAL_MS: u64 = 10;
/// Records of the expiry index that one sweep looks at. Bounds how long it holds up the loop.
const SWEEP_RECORDS_MAX: usize = 500;
/// Bytes that an operation on a key takes beside the key, generously.
const SWEEP_RECORD_OVERHEAD_BYTES: usize = 64;
/// How soon a write that the engine was too busy for is tried again, in milliseconds.
const BUSY_RETRY_MS: u64 = 5;

/// The core of a node. See the [crate](crate).
pub struct Node<E> {
    pub(crate) engine: E,
    pub(crate) replica: Replica,
    pub(crate) sessions: Sessions,
    pub(crate) cursors: Cursors,
    pub(crate) limits: NodeLimits,
    pub(crate) facts: Facts,
    pub(crate) stats: Stats,
    pub(crate) outputs: VecDeque<Output>,
    /// Which sessions wait for which entries, by index.
    pub(crate) waiters: VecDeque<(LogIndex, SessionId)>,
    host: Box<dyn Host>,
    started_us: u64,
    next_sweep_us: u64,
    /// No record of the expiry index is due before this time.
    sweep_from_ms: u64,
}

impl<E: Engine> Node<E> {
    /// A node over `engine`, at the state that the engine holds. `seed` should be another one at every start. The entries of the log behind that state follow with
    /// [`Node::restore`], before anything else.
    ///
    /// # Errors
    ///
    /// The engine's applied state cannot be read.
    pub fn new(
        engine: E,
        limits: NodeLimits,
        facts: Facts,
        host: Box<dyn Host>,
        seed: u64,
        now: Now,
    ) -> Result<Self, NodeError> {
        let applied = Applied::decode(engine.get(&Applied::key(USER_RANGE))?.as_deref())?;
        Ok(Node {
            engine,
            replica: Replica::new(USER_RANGE, ONLY_TERM, applied),
            sessions: Sessions::default(),
            cursors: Cursors::new(seed),
            limits,
            facts,
            stats: Stats::default(),
            outputs: VecDeque::new(),
            waiters: VecDeque::new(),
            host,
            started_us: now.wall_us,
            next_sweep_us: now.wall_us,
            sweep_from_ms: 0,
        })
    }

    /// Takes an entry that the log held at the start. One that the engine already has is passed over. The others are
    /// applied with [`Node::handle_durable`], many at once: a node without peers has committed all that it has.
    ///
    /// # Errors
    ///
    /// The entry cannot be read, or does not follow.
    pub fn restore(&mut self, position: Position, payload: &Bytes) -> Result<(), NodeError> {
        if position.index <= self.replica.last() {
            return Ok(());
        }
        self.replica.restore(position, payload)
    }

    /// A client connected.
    pub fn connect(&mut self, now: Now, address: ClientAddress) -> SessionId {
        self.stats.connections += 1;
        self.sessions.open(address, now.wall_us)
    }

    /// A client is gone. What he has under way still happens.
    pub fn disconnect(&mut self, session: SessionId) {
        self.sessions.close(session);
    }

    /// The turn of the loop ends: what its commands wrote becomes one entry.
    pub fn end_turn(&mut self) {
        if let Some(append) = self.replica.seal() {
            self.stats.entries += 1;
            self.stats.entry_bytes += append.payload.len() as u64;
            self.outputs.push_back(Output::Append(append));
        }
    }

    /// Everything up to `index` is durable in the log, and so, without peers, committed.
    ///
    /// # Errors
    ///
    /// The engine failed.
    pub fn handle_durable(&mut self, index: LogIndex) -> Result<(), NodeError> {
        self.replica.commit(index);
        self.apply()
    }

    /// Does what is due: applies what a busy engine refused before, and removes expired keys.
    ///
    /// # Errors
    ///
    /// The engine failed.
    pub fn handle_timeout(&mut self, now: Now) -> Result<(), NodeError> {
        if self.replica.is_behind() {
            self.apply()?;
        }
        if now.wall_us >= self.next_sweep_us {
            let mut interval_ms = SWEEP_INTERVAL_MS;
            // A node that cannot keep up with its clients does not add work of its own.
            if !self.is_congested() && !self.replica.is_behind() {
                self.end_turn();
                let records_max = self.sweep_records_max();
                let sweep = self.replica.sweep(now, self.sweep_from_ms, records_max, &self.engine)?;
                self.sweep_from_ms = sweep.resume_ms;
                self.stats.expired_keys += sweep.keys_removed;
                if sweep.more {
                    interval_ms = SWEEP_BACKLOG_INTERVAL_MS;
                }
            }
            self.next_sweep_us = now.wall_us + interval_ms * 1000;
        }
        Ok(())
    }

    /// What one sweep removes must fit into one entry, even if all keys are as long as they may be: each is named twice,
    /// in its own record and in the index.
    fn sweep_records_max(&self) -> usize {
        let record_bytes = 2 * (self.limits.commands.key_bytes_max + SWEEP_RECORD_OVERHEAD_BYTES);
        (self.limits.entry_bytes_max / 2 / record_bytes).clamp(1, SWEEP_RECORDS_MAX)
    }

    /// When to call [`Node::handle_timeout`] next, in milliseconds from `now`.
    pub fn poll_timeout(&self, now: Now) -> u64 {
        // A clock that was set back must not put the sweep off for as long.
        let sweep = (self.next_sweep_us.saturating_sub(now.wall_us) / 1000 + 1).min(SWEEP_INTERVAL_MS);
        if self.replica.is_behind() { sweep.min(BUSY_RETRY_MS) } else { sweep }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether so many writes are on their way that no request should be taken until some have arrived.
    pub fn is_congested(&self) -> bool {
        self.replica.inflight_bytes() > self.limits.inflight_bytes_max
    }

    /// Whether durable entries wait for a busy engine.
    pub fn is_behind(&self) -> bool {
        self.replica.is_behind()
    }

    /// The port that clients connect to, once it is known.
    pub fn set_port(&mut self, port: u16) {
        self.facts.port = port;
        for (name, value) in &mut self.facts.settings {
            if *name == "port" {
                *value = port.to_string();
            }
        }
    }

    /// How far the engine is.
    pub fn applied(&self) -> Applied {
        self.replica.applied()
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    fn apply(&mut self) -> Result<(), NodeError> {
        self.replica.apply(&self.engine)?;
        self.release(self.replica.applied().position.index);
        Ok(())
    }

    /// Evaluates a command over the data. `None`: again in [`Order::Logged`].
    pub(crate) fn evaluate(&mut self, now: Now, order: Order, call: Call<'_>) -> Result<Option<Reply>, NodeError> {
        let tools = Tools { engine: &self.engine, cursors: &mut self.cursors, limits: &self.limits.commands };
        self.replica.evaluate(now, order, call, tools)
    }

    pub(crate) fn info(&self, now: Now, args: &[Bytes]) -> Result<Reply, NodeError> {
        let engine = self.engine.stats();
        let mut keys = [0; DATABASES as usize];
        for (db, keys) in (0..).zip(&mut keys) {
            *keys = self.replica.key_count(db, &self.engine)?;
        }
        let report = Report {
            facts: &self.facts,
            stats: self.stats,
            usage: self.host.usage(),
            now,
            started_us: self.started_us,
            clients: self.sessions.len(),
            engine: vec![
                ("data_disk_bytes", engine.disk_bytes.to_string()),
                ("data_unflushed_bytes", engine.unflushed_bytes.to_string()),
                ("data_memory_bytes", engine.memory_bytes.to_string()),
                ("data_compaction_pending_bytes", engine.compaction_pending_bytes.to_string()),
                ("data_writes_refused_busy", engine.busy_total.to_string()),
            ],
            applied: self.replica.applied().position.index.0,
            appended: self.replica.last().0,
            inflight_bytes: self.replica.inflight_bytes(),
            keys,
        };
        Ok(info(args, &report))
    }
}
