//! A node driven by hand: what the tests of the core share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test uses a part of it, and fails by panicking

pub(crate) mod cluster;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use dstore_kv::Limits;
use dstore_node::{
    ClientAddress, Facts, Host, LogUse, Member, Node, NodeLimits, NodeParts, Now, Output, Reading, SessionId, Usage,
};
use dstore_raft::Time;
use dstore_resp::encode;
use dstore_rpc::{ClusterId, Identity, Incarnation, NodeId};
use dstore_storage::{Log, LogOp, MemoryEngine, MemoryLog, RangeId};

pub(crate) struct Nowhere;

impl Host for Nowhere {
    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn log(&self) -> LogUse {
        LogUse::default()
    }
}

pub(crate) fn limits() -> NodeLimits {
    let commands =
        Limits { key_bytes_max: 8 << 10, value_bytes_max: 3 << 20, reply_bytes_max: 5 << 20, ..Limits::default() };
    NodeLimits {
        commands,
        multi_bytes_max: 64 << 20,
        entry_bytes_max: 5 << 20,
        inflight_bytes_max: 1 << 20,
        ..NodeLimits::default()
    }
}

/// A node that is a cluster by itself, with an engine and a log in memory. Writes are durable when the test says so.
pub(crate) struct Driver {
    pub(crate) engine: Arc<MemoryEngine>,
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) node: Node<Arc<MemoryEngine>>,
    pub(crate) now: Now,
    pub(crate) starts: u64,
    /// Submitted and not durable.
    pub(crate) submitted: VecDeque<(RangeId, u64)>,
    pub(crate) longest_payload: usize,
    pub(crate) replies: BTreeMap<SessionId, Vec<String>>,
    pub(crate) events: Vec<&'static str>,
    /// Sessions that were to be closed.
    pub(crate) closed: Vec<SessionId>,
    /// What other threads are to read.
    pub(crate) readings: VecDeque<Reading>,
}

impl Driver {
    pub(crate) fn new() -> Driver {
        let now = Now { wall_us: 1_000_000_000, mono: Time::from_millis(1) };
        Driver::over(Arc::new(MemoryEngine::new()), Arc::new(MemoryLog::new()), now, 1)
    }

    /// A node that leads itself.
    pub(crate) fn over(engine: Arc<MemoryEngine>, log: Arc<MemoryLog>, now: Now, starts: u64) -> Driver {
        let identity = Identity { cluster: ClusterId(1), node: NodeId(7), incarnation: Incarnation(starts) };
        let parts = NodeParts {
            engine: engine.clone(),
            log: log.clone() as Arc<dyn Log>,
            identity,
            founders: vec![Member { node: NodeId(7), peer_address: String::new(), moved: false }],
            contacts: Vec::new(),
            peer_address: String::new(),
            // Tests make the engine fail, which it should then do at once.
            limits: NodeLimits { gathered_records_max: 0, ..limits() },
            facts: Facts::default(),
            host: Box::new(Nowhere),
            seed: 7 + starts,
        };
        let node = Node::new(parts, now).unwrap();
        log.sync();
        let (submitted, replies, events) = (VecDeque::new(), BTreeMap::new(), Vec::new());
        let (longest_payload, closed, readings) = (0, Vec::new(), VecDeque::new());
        let mut driver =
            Driver { engine, log, node, now, starts, submitted, longest_payload, replies, events, closed, readings };
        driver.end_turn();
        driver.sync_all();
        assert!(driver.node.status().unwrap().user_range().unwrap().is_serving);
        driver
    }

    pub(crate) fn connect(&mut self) -> SessionId {
        self.node.connect(self.now, ClientAddress::default())
    }

    /// A client from this address.
    pub(crate) fn connect_from(&mut self, remote: &str) -> SessionId {
        let address = ClientAddress { remote: remote.to_owned(), local: "10.0.0.9:6379".to_owned() };
        self.node.connect(self.now, address)
    }

    /// One request, in a turn that goes on.
    pub(crate) fn request(&mut self, session: SessionId, line: &str) {
        let args = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        self.request_args(session, args);
    }

    pub(crate) fn request_args(&mut self, session: SessionId, args: Vec<Bytes>) {
        self.node.handle_request(self.now, session, args).unwrap();
        self.collect();
    }

    /// One request that is a turn of its own, and all the replies that it brings.
    pub(crate) fn call(&mut self, session: SessionId, line: &str) -> String {
        self.request(session, line);
        self.end_turn();
        self.replies(session)
    }

    /// The same, and the disk keeps up.
    pub(crate) fn settle(&mut self, session: SessionId, line: &str) -> String {
        self.request(session, line);
        self.end_turn();
        self.sync_all();
        self.replies(session)
    }

    pub(crate) fn end_turn(&mut self) {
        self.node.end_turn(self.now).unwrap();
        self.collect();
    }

    /// Time passes, and what is due is done.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now.wall_us += ms * 1000;
        self.now.mono = self.now.mono + std::time::Duration::from_millis(ms);
        self.node.handle_timeout(self.now).unwrap();
        self.end_turn();
    }

    /// The oldest submitted write reaches the disk.
    pub(crate) fn sync_one(&mut self) {
        let (range, ticket) = self.submitted.pop_front().expect("something was submitted");
        assert!(self.log.sync_one());
        self.node.handle_durable(self.now, range, ticket);
        self.end_turn();
    }

    pub(crate) fn sync_all(&mut self) {
        while !self.submitted.is_empty() {
            self.sync_one();
        }
    }

    /// Another thread reads what it was first asked for.
    pub(crate) fn read_one(&mut self) {
        let reading = self.readings.pop_front().expect("something is to be read");
        self.node.handle_read(self.now, reading.run()).unwrap();
        self.end_turn();
    }

    /// Other threads read, and the disk keeps up, until nothing more is to be done.
    pub(crate) fn read_all(&mut self) {
        while !self.readings.is_empty() || !self.submitted.is_empty() {
            self.sync_all();
            if !self.readings.is_empty() {
                self.read_one();
            }
        }
    }

    pub(crate) fn collect(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Reply { session, reply, version } => {
                    let mut text = Vec::new();
                    encode(&reply, version, &mut text);
                    let text = String::from_utf8(text).unwrap().replace("\r\n", " ");
                    self.replies.entry(session).or_default().push(text.trim_end().to_owned());
                }
                Output::Write { range, ticket, ops } => {
                    for op in &ops {
                        if let LogOp::Append { entries, .. } = op {
                            let longest = entries.iter().map(|entry| entry.payload.len()).max().unwrap_or(0);
                            self.longest_payload = self.longest_payload.max(longest);
                        }
                    }
                    self.log.submit(ops, Box::new(|_| {})).unwrap();
                    self.submitted.push_back((range, ticket));
                }
                Output::Close { session } => {
                    self.events.push("close");
                    self.closed.push(session);
                }
                Output::Shutdown => self.events.push("shutdown"),
                Output::Pause { .. } => self.events.push("pause"),
                Output::Resume { .. } => self.events.push("resume"),
                Output::Read(reading) => self.readings.push_back(reading),
                other => panic!("a node without peers wants {other:?}"),
            }
        }
    }

    pub(crate) fn replies(&mut self, session: SessionId) -> String {
        self.replies.remove(&session).unwrap_or_default().join(" | ")
    }

    /// The machine loses power and starts again: the engine forgets what it had not flushed, the log what it had not
    /// synced.
    pub(crate) fn lose_power(self, seed: u64) -> Driver {
        self.engine.lose_power(seed);
        self.log.lose_power(seed);
        Driver::over(self.engine, self.log, self.now, self.starts + 1)
    }
}
