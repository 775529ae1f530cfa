//! Clients: stock Redis clients (the `redis` crate), each in a thread of its own, that write down all they did and saw.
//!
//! A client is connected to one node after the other, one request at a time, and draws each from three kinds:
//!
//! | kind | commands | key |
//! |---|---|---|
//! | [`lists`] | APPEND, GET, MULTI blocks over several lists, WATCH and a block | `list:N` |
//! | [`counters`] | INCR, GET | `count:N` |
//! | [`registers`] | GET, `SET NX GET`, compare-and-set by WATCH, GET, MULTI, SET | `register:N` |
//!
//! What became of a request is told apart with care: an answer (it took effect), a refusal (the store vouches that it did
//! not and never will), or nothing that can be relied on, in which case the connection is given up. Keys come in
//! *generations*: after so many requests all clients go on to fresh keys, so values stay short, and a generation that
//! everybody has left can be judged while the next goes on.

pub mod conversation;
pub mod counters;
pub mod lists;
pub mod registers;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dstore_sim::checker::{Key, MicroOp, Outcome, Token};
use dstore_testkit::namespaces::Network;
use dstore_testkit::powerloss::{Choose, Seeded};

use conversation::Conversation;

/// Keys of each kind in a generation.
pub const LISTS: u32 = 12;
/// See [`LISTS`].
pub const COUNTERS: u32 = 4;
/// See [`LISTS`].
pub const REGISTERS: u32 = 6;

/// Requests of a generation. Lists grow to about a hundred tokens, and judging one takes a fraction of a second.
const GENERATION_REQUESTS: u32 = 4_000;

/// Requests over one connection, before a client goes on to another node.
const CONNECTION_REQUESTS: usize = 300;

/// Longer than a node's request timeout; then the outcome counts as unknown.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Between two attempts to connect.
const CONNECT_AGAIN: Duration = Duration::from_millis(20);

/// The keys that are in use at one time. Who makes a request holds it until the request is recorded, so the one who
/// holds the last reference knows that everything was.
#[derive(Debug)]
pub struct Generation {
    /// Counts from 0.
    pub number: u32,
    requests: AtomicU32,
}

/// What one request did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Appends and reads of lists.
    Lists(Vec<MicroOp>),
    /// INCR, and the number it was answered with.
    Increment(Key, Option<u64>),
    /// GET of a counter.
    Count(Key, u64),
    /// The token took the place of what was there before.
    Swap {
        /// Whose value.
        key: Key,
        /// What was there: the client asked for the change on that condition alone.
        old: Option<Token>,
        /// What is there since.
        new: Token,
    },
    /// GET of a register.
    Look(Key, Option<Token>),
}

impl What {
    /// How many things it changes.
    pub fn writes(&self) -> u64 {
        match self {
            What::Lists(ops) => ops.iter().filter(|op| matches!(op, MicroOp::Append { .. })).count() as u64,
            What::Increment(..) | What::Swap { .. } => 1,
            What::Count(..) | What::Look(..) => 0,
        }
    }
}

/// One request, as its client saw it. Moments are nanoseconds on a clock that all clients share.
#[derive(Clone, Debug)]
pub struct Record {
    /// Of the keys.
    pub generation: u32,
    /// Over which it was sent.
    pub connection: u64,
    /// To which that led.
    pub node: usize,
    /// When it was sent.
    pub invoked: u64,
    /// When the answer was there.
    pub completed: Option<u64>,
    /// What became of it.
    pub outcome: Outcome,
    /// What it did.
    pub what: What,
}

/// What clients tell the judge.
#[derive(Debug)]
pub enum Told {
    /// One more request.
    Record(Record),
    /// An answer that no client should ever see.
    Strange(String),
}

/// What all clients share.
#[derive(Debug)]
pub struct Shared {
    network: Option<Arc<Network>>,
    began: Instant,
    stop: AtomicBool,
    /// Nodes that clients may turn to, by number.
    addresses: Mutex<Vec<(usize, SocketAddr)>>,
    generation: Mutex<Arc<Generation>>,
    /// Those before it, oldest first, that the judge has not taken yet.
    retired: Mutex<VecDeque<Weak<Generation>>>,
    next_token: AtomicU64,
    next_connection: AtomicU64,
    /// Acknowledged writes of all clients.
    pub acknowledged: AtomicU64,
    /// By client: when the last of its writes that were acknowledged was sent, plus one; 0 before the first.
    succeeded: Vec<AtomicU64>,
    pace: Duration,
}

impl Shared {
    /// For `clients` clients that pause for `pace` between requests.
    pub fn new(network: Option<Arc<Network>>, clients: usize, pace: Duration) -> Shared {
        Shared {
            network,
            began: Instant::now(),
            stop: AtomicBool::new(false),
            addresses: Mutex::default(),
            generation: Mutex::new(Arc::new(Generation { number: 0, requests: AtomicU32::new(0) })),
            retired: Mutex::default(),
            next_token: AtomicU64::new(1),
            next_connection: AtomicU64::new(1),
            acknowledged: AtomicU64::new(0),
            succeeded: (0..clients).map(|_| AtomicU64::new(0)).collect(),
            pace,
        }
    }

    /// Where clients are, if not on this machine's own network.
    pub(crate) fn network(&self) -> Option<&Network> {
        self.network.as_deref()
    }

    /// Nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a run takes less than centuries")
    }

    /// From now on clients that connect turn to these.
    pub fn use_nodes(&self, addresses: Vec<(usize, SocketAddr)>) {
        *lock(&self.addresses) = addresses;
    }

    /// Where clients turn to.
    pub fn addresses(&self) -> Vec<(usize, SocketAddr)> {
        lock(&self.addresses).clone()
    }

    /// The keys in use.
    pub fn generation(&self) -> Arc<Generation> {
        let mut current = lock(&self.generation);
        if current.requests.fetch_add(1, Ordering::Relaxed) >= GENERATION_REQUESTS {
            let next = Arc::new(Generation { number: current.number + 1, requests: AtomicU32::new(1) });
            lock(&self.retired).push_back(Arc::downgrade(&current));
            *current = next;
        }
        current.clone()
    }

    /// Whether the oldest generation that was not taken yet is left by everybody; takes it. What was done with its keys
    /// has been told by then.
    pub fn take_left(&self) -> bool {
        let mut retired = lock(&self.retired);
        let is_left = retired.front().is_some_and(|generation| generation.strong_count() == 0);
        if is_left {
            retired.pop_front();
        }
        is_left
    }

    /// Tells all clients to stop after the request at hand.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether clients were told to stop.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Clients without an acknowledged write that was sent after this moment.
    pub fn waiting_since(&self, moment: u64) -> Vec<usize> {
        let is_waiting = |client: &usize| self.succeeded[*client].load(Ordering::Relaxed) <= moment;
        (0..self.succeeded.len()).filter(is_waiting).collect()
    }

    pub(crate) fn token(&self) -> Token {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn connection(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs work where clients are.
///
/// # Panics
///
/// When a namespace that was made cannot be entered.
pub(crate) fn beside_clients<T: Send>(network: Option<&Network>, work: impl FnOnce() -> T + Send) -> T {
    match network {
        None => work(),
        Some(network) => network.within(work).expect("a namespace that was made can be entered"),
    }
}

/// Starts the clients. They tell what they did until they are stopped.
pub fn start(shared: &Arc<Shared>, judge: &Sender<Told>, seed: u64) -> Vec<JoinHandle<()>> {
    let mut random = Seeded::new(seed);
    let start = |number: usize| {
        let shared = shared.clone();
        let client = Client { shared, number, judge: judge.clone(), random: Seeded::new(random.next_u64()) };
        std::thread::spawn(move || {
            let network = client.shared.network.clone();
            beside_clients(network.as_deref(), || client.run());
        })
    };
    (0..shared.succeeded.len()).map(start).collect()
}

/// One client.
pub struct Client {
    shared: Arc<Shared>,
    number: usize,
    judge: Sender<Told>,
    random: Seeded,
}

/// Whether a connection is of more use.
pub(crate) type GoesOn = bool;

impl Client {
    fn run(mut self) {
        while !self.shared.is_over() {
            let addresses = self.shared.addresses();
            let target = (!addresses.is_empty()).then(|| addresses[self.random.choose(addresses.len())]);
            let Some(mut conversation) = target.and_then(|(node, at)| Conversation::open(&self.shared, node, at))
            else {
                std::thread::sleep(CONNECT_AGAIN); // there is nobody whose event could be waited for
                continue;
            };
            for _ in 0..CONNECTION_REQUESTS {
                if self.shared.is_over() || !self.request(&mut conversation) {
                    break;
                }
                std::thread::sleep(self.shared.pace); // otherwise the machine would be measured for its lack of processors
            }
        }
    }

    fn request(&mut self, conversation: &mut Conversation) -> GoesOn {
        let generation = self.shared.generation();
        match self.random.choose(20) {
            0..11 => lists::request(self, conversation, &generation),
            11..15 => counters::request(self, conversation, &generation),
            _ => registers::request(self, conversation, &generation),
        }
    }

    /// One of this kind's keys in a generation.
    pub(crate) fn key(&mut self, generation: &Generation, keys: u32) -> Key {
        generation.number * keys + self.random.choose(keys as usize) as u32
    }

    /// Tells the judge what was done.
    pub(crate) fn record(
        &self,
        conversation: &Conversation,
        generation: &Generation,
        asked: Asked,
        what: What,
    ) -> GoesOn {
        let Asked { invoked, completed, outcome } = asked;
        if outcome == Outcome::Committed && what.writes() > 0 {
            self.shared.acknowledged.fetch_add(what.writes(), Ordering::Relaxed);
            self.shared.succeeded[self.number].store(invoked + 1, Ordering::Relaxed);
        }
        let completed = (outcome != Outcome::Unknown).then_some(completed);
        let (connection, node) = (conversation.number, conversation.node);
        let record = Record { generation: generation.number, connection, node, invoked, completed, outcome, what };
        self.tell(Told::Record(record));
        outcome != Outcome::Unknown
    }

    /// An answer that makes no sense ends the connection, and the run's good name.
    pub(crate) fn strange(&self, conversation: &Conversation, asked: &str, answer: &str) -> GoesOn {
        self.tell(Told::Strange(format!("node {} answered {asked} with {answer}", conversation.node)));
        false
    }

    fn tell(&self, told: Told) {
        let _ = self.judge.send(told); // a judge that is gone has said why
    }
}

/// When a request was sent, when its answer was there, and what became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) invoked: u64,
    pub(crate) completed: u64,
    pub(crate) outcome: Outcome,
}
