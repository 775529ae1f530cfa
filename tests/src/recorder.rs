//! Clients that append and read through chosen nodes of a cluster, and write down all that they did and saw.
//!
//! Each list is a string value to which tokens of `TOKEN_BYTES` hexadecimal digits are appended, no token twice. Beside
//! single appends and reads there are blocks (MULTI ... EXEC) over several lists. A client has one connection to one node,
//! makes one request at a time, and tells apart what became of it:
//!
//! - an answer: it took effect;
//! - `-NOQUORUM`: the store vouches that it did not, and never will;
//! - `-UNCERTAIN`, a broken connection, no answer: nobody knows. The client connects anew.
//!
//! Any other error is a failure of the test. What was recorded is judged by [`crate::verdict`].
//!
//! Each recorder has lists of its own, so histories may follow each other on one cluster. Lists are left behind when they have `LIST_TOKENS_MAX` tokens, so that histories grow with the number of requests and
//! not with its square.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dstore_sim::checker::{History, Key, MicroOp, Outcome, Token, Transaction};
use dstore_testkit::client::{Client, Reply, pack};
use dstore_testkit::cluster::{Cluster, Dialer};
use dstore_testkit::powerloss::{Choose, Seeded};
use dstore_testkit::process::PATIENCE;

use crate::verdict::Verdict;

/// Digits of one token.
const TOKEN_BYTES: usize = 8;

/// Lists that are in use at once.
const SLOTS: usize = 8;

/// Beyond this a slot gets a new list.
const LIST_TOKENS_MAX: usize = 100;

/// Longer than any node may be silent while it is paused and the request timeout after it; then the outcome is unknown.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Between two attempts to connect to a node that is down, and between two requests of a client: a cluster under full
/// load on a small machine would be measured for its lack of processors.
const CONNECT_AGAIN: Duration = Duration::from_millis(10);
const THINK: Duration = Duration::from_millis(1);

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Appends, reads, and blocks of both.
    Mixed,
    /// Only reads.
    Reads,
}

/// What all clients share.
#[derive(Debug)]
struct Shared {
    dialer: Dialer,
    /// Tells this recorder's lists from those of others.
    number: u32,
    began: Instant,
    stop: AtomicBool,
    next_token: AtomicU64,
    next_connection: AtomicU64,
    generations: [AtomicU32; SLOTS],
    /// By node: how many appending requests of its clients were acknowledged.
    acknowledged: Mutex<BTreeMap<usize, u64>>,
    /// Rings at each of them.
    bell: Condvar,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("tests take less than centuries")
    }

    fn list(&self, slot: usize) -> Key {
        self.generations[slot].load(Ordering::Relaxed) * SLOTS as u32 + slot as u32
    }

    /// A list that has grown long is left behind, by whoever sees it first.
    fn grown(&self, key: Key, tokens: usize) {
        if tokens >= LIST_TOKENS_MAX {
            let (slot, generation) = (key as usize % SLOTS, key / SLOTS as u32);
            let current = &self.generations[slot];
            let order = Ordering::Relaxed;
            let _ = current.compare_exchange(generation, generation + 1, order, order); // or somebody else has done it
        }
    }

    fn ring(&self, node: usize) {
        *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_default() += 1;
        self.bell.notify_all();
    }
}

/// The clients, at work.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Transaction>>>,
    random: Seeded,
}

impl Recorder {
    /// Begins a history without clients.
    pub fn new(cluster: &Cluster, seed: u64) -> Recorder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let shared = Shared {
            dialer: cluster.dialer(),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            began: Instant::now(),
            stop: AtomicBool::new(false),
            next_token: AtomicU64::new(0),
            next_connection: AtomicU64::new(0),
            generations: Default::default(),
            acknowledged: Mutex::default(),
            bell: Condvar::new(),
        };
        Recorder { shared: Arc::new(shared), clients: Vec::new(), random: Seeded::new(seed) }
    }

    /// Begins a history with `count` clients of each node.
    pub fn start(cluster: &Cluster, count: usize, seed: u64) -> Recorder {
        let mut recorder = Recorder::new(cluster, seed);
        for node in cluster.nodes() {
            recorder.add(cluster, node, count, Habit::Mixed);
        }
        recorder
    }

    /// Adds clients of one node.
    pub fn add(&mut self, cluster: &Cluster, node: usize, count: usize, habit: Habit) {
        for _ in 0..count {
            let shared = self.shared.clone();
            let random = Seeded::new(self.random.next_u64());
            let address = cluster.address(node);
            let observer = Observer { shared, node, address, habit, random, connection: 0, seen: Vec::new() };
            self.clients.push(std::thread::spawn(move || observer.run()));
        }
    }

    /// The moment, on the clock of the history.
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Waits until each of `nodes` has acknowledged `count` more appending requests of its clients.
    ///
    /// # Panics
    ///
    /// When one has not within [`PATIENCE`].
    pub fn wait_for_writes(&self, nodes: &[usize], count: u64) {
        let acknowledged = self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let before = acknowledged.clone();
        let of = |counts: &BTreeMap<usize, u64>, node: usize| counts.get(&node).copied().unwrap_or(0);
        let lacking = |counts: &BTreeMap<usize, u64>| {
            nodes.iter().copied().find(|node| of(counts, *node) < of(&before, *node) + count)
        };
        let waited = self.shared.bell.wait_timeout_while(acknowledged, PATIENCE, |counts| lacking(counts).is_some());
        let (counts, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = lacking(&counts) {
            panic!("node {node} does not acknowledge writes any more");
        }
    }

    /// Stops all clients, reads every list once more through every node, and judges the history. The cluster must be
    /// whole.
    ///
    /// # Panics
    ///
    /// When a client was answered with an error it should not have seen, or a list cannot be read.
    pub fn finish(self, cluster: &Cluster) -> Verdict {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut transactions = Vec::new();
        for client in self.clients {
            transactions.extend(client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        let writes_until = self.shared.now();
        let keys: Vec<Key> =
            (0..SLOTS).flat_map(|slot| (slot as Key..=self.shared.list(slot)).step_by(SLOTS)).collect();
        for node in cluster.living() {
            let mut last = Observer {
                shared: self.shared.clone(),
                node,
                address: cluster.address(node),
                habit: Habit::Reads,
                random: Seeded::new(0),
                connection: 0,
                seen: Vec::new(),
            };
            last.read_all(&keys);
            transactions.extend(last.seen);
        }
        transactions.sort_by_key(|transaction| transaction.invoked);
        Verdict::of(History { transactions, ..History::default() }, writes_until)
    }
}

/// One client.
struct Observer {
    shared: Arc<Shared>,
    node: usize,
    address: SocketAddr,
    habit: Habit,
    random: Seeded,
    /// The number of its present connection.
    connection: u64,
    seen: Vec<Transaction>,
}

impl Observer {
    fn run(mut self) -> Vec<Transaction> {
        while !self.is_over() {
            let Ok(mut client) = self.shared.dialer.connect(self.address, ANSWER_WITHIN) else {
                std::thread::sleep(CONNECT_AGAIN); // there is nobody whose event could be waited for
                continue;
            };
            self.connection = self.shared.next_connection.fetch_add(1, Ordering::Relaxed);
            while !self.is_over() {
                let ops = self.next_ops();
                if !self.transact(&mut client, ops) {
                    break;
                }
                std::thread::sleep(THINK);
            }
        }
        self.seen
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn next_ops(&mut self) -> Vec<MicroOp> {
        let slots = [self.random.choose(SLOTS), self.random.choose(SLOTS), self.random.choose(SLOTS)];
        let keys = slots.map(|slot| self.shared.list(slot));
        let read = |key| MicroOp::Read { key, list: None };
        let append =
            |key| MicroOp::Append { key, token: self.shared.next_token.fetch_add(1, Ordering::Relaxed), length: None };
        match (self.habit, self.random.choose(10)) {
            (Habit::Mixed, 0..5) => vec![append(keys[0])],
            (Habit::Mixed, 5..7) => vec![append(keys[0]), append(keys[1]), read(keys[2])],
            (_, 7) => vec![read(keys[0]), read(keys[1])],
            _ => vec![read(keys[0])],
        }
    }

    /// Reads lists one by one, for as long as that takes.
    fn read_all(&mut self, keys: &[Key]) {
        let dial = || self.shared.dialer.connect(self.address, PATIENCE);
        let mut client = dial().unwrap_or_else(|error| panic!("node {} takes no connection: {error}", self.node));
        self.connection = self.shared.next_connection.fetch_add(1, Ordering::Relaxed);
        for key in keys {
            self.transact(&mut client, vec![MicroOp::Read { key: *key, list: None }]);
            let last = self.seen.last().expect("one was recorded just now");
            assert_eq!(last.outcome, Outcome::Committed, "node {} does not read k{key}", self.node);
        }
    }

    /// Makes one request and records it. False when the connection is of no more use.
    fn transact(&mut self, client: &mut Client, mut ops: Vec<MicroOp>) -> bool {
        let (request, replies) = packed(&ops, self.shared.number);
        let invoked = self.shared.now();
        let answer = ask(client, &request, replies);
        let completed = self.shared.now();
        let (outcome, goes_on) = match answer {
            Answer::Replies(replies) => {
                fill(&mut ops, replies);
                (Outcome::Committed, true)
            }
            Answer::Refused => (Outcome::NotExecuted, true),
            Answer::Unknown => (Outcome::Unknown, false),
        };
        for op in &ops {
            match op {
                MicroOp::Append { key, length: Some(length), .. } => self.shared.grown(*key, *length),
                MicroOp::Read { key, list: Some(list) } => self.shared.grown(*key, list.len()),
                _ => {}
            }
        }
        let is_write = ops.iter().any(|op| matches!(op, MicroOp::Append { .. }));
        let completed = (outcome != Outcome::Unknown).then_some(completed);
        let (connection, node) = (self.connection, self.node as u64);
        self.seen.push(Transaction { connection, node, invoked, completed, outcome, ops });
        if is_write && outcome == Outcome::Committed {
            self.shared.ring(self.node);
        }
        goes_on
    }
}

/// What a request came to.
enum Answer {
    /// One reply for each operation.
    Replies(Vec<Reply>),
    Refused,
    Unknown,
}

/// The request's bytes, and how many replies it gets.
fn packed(ops: &[MicroOp], recorder: u32) -> (Vec<u8>, usize) {
    let name = |key: Key| format!("list:{recorder}:{key}");
    let mut request = Vec::new();
    if ops.len() > 1 {
        pack(&mut request, &[b"MULTI"]);
    }
    for op in ops {
        match op {
            MicroOp::Append { key, token, .. } => {
                pack(&mut request, &[b"APPEND", name(*key).as_bytes(), format!("{token:08x}").as_bytes()]);
            }
            MicroOp::Read { key, .. } => pack(&mut request, &[b"GET", name(*key).as_bytes()]),
            other => panic!("no recorder asks for {other}"),
        }
    }
    if ops.len() > 1 {
        pack(&mut request, &[b"EXEC"]);
        return (request, ops.len() + 2);
    }
    (request, 1)
}

fn ask(client: &mut Client, request: &[u8], replies: usize) -> Answer {
    if client.send(request).is_err() {
        return Answer::Unknown;
    }
    let mut last = Reply::Null;
    for _ in 0..replies {
        match client.receive() {
            Ok(reply) => last = reply,
            Err(_) => return Answer::Unknown,
        }
        if let Reply::Error(error) = &last
            && error.starts_with("UNCERTAIN")
        {
            return Answer::Unknown;
        }
    }
    match last {
        Reply::Error(error) if error.starts_with("NOQUORUM") => Answer::Refused,
        Reply::Error(error) => panic!("a client was answered: {error}"),
        Reply::Array(replies) => Answer::Replies(replies),
        reply => Answer::Replies(vec![reply]),
    }
}

/// Puts what was answered beside what was asked.
fn fill(ops: &mut [MicroOp], replies: Vec<Reply>) {
    assert_eq!(ops.len(), replies.len(), "one reply for each command of a block: {replies:?}");
    for (op, reply) in ops.iter_mut().zip(replies) {
        match (op, reply) {
            (MicroOp::Append { length, .. }, Reply::Integer(bytes)) => {
                let bytes = usize::try_from(bytes).expect("no length is negative");
                assert_eq!(bytes % TOKEN_BYTES, 0, "half a token was appended");
                *length = Some(bytes / TOKEN_BYTES);
            }
            (MicroOp::Read { list, .. }, Reply::Null) => *list = Some(Vec::new()),
            (MicroOp::Read { list, .. }, Reply::Bulk(text)) => *list = Some(tokens(&text)),
            (op, reply) => panic!("{op} was answered with {reply:?}"),
        }
    }
}

fn tokens(text: &[u8]) -> Vec<Token> {
    let parse = |digits: &[u8]| {
        let text = std::str::from_utf8(digits).ok().filter(|text| text.len() == TOKEN_BYTES);
        text.and_then(|text| Token::from_str_radix(text, 16).ok())
    };
    let all: Option<Vec<Token>> = text.chunks(TOKEN_BYTES).map(parse).collect();
    all.unwrap_or_else(|| panic!("no list of tokens: {}", String::from_utf8_lossy(text)))
}
