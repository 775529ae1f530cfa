//! Clients as a careful application has them: each knows the addresses of several nodes, goes on to the next when a
//! connection fails, and tries a command a second time when it got no answer, or the one that nobody could execute it.
//!
//! After that one retry there must be an answer: a command that fails twice counts as an error. Each client writes keys of its
//! own, over and over, and reads them back now and then, so it knows what each must hold: a write that was acknowledged and
//! is not there, or an older value, is found at once, or at the end through every node.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dstore_testkit::client::{Client, Reply};
use dstore_testkit::cluster::{Cluster, Dialer};
use dstore_testkit::powerloss::{Choose, Seeded};
use dstore_testkit::process::PATIENCE;

/// Keys of each client.
const KEYS: usize = 500;

/// Longer than the request timeout of any node.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Between two looks for a node that takes connections, and between two commands of a client: a cluster under full load on
/// a small machine would be measured for its lack of processors.
const CONNECT_AGAIN: Duration = Duration::from_millis(10);
const THINK: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Shared {
    dialer: Dialer,
    began: Instant,
    addresses: Mutex<Vec<SocketAddr>>,
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

impl Shared {
    fn addresses(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clients, at work.
#[derive(Debug)]
pub struct Retriers {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Retrier>>,
}

/// One client.
#[derive(Debug)]
struct Retrier {
    shared: Arc<Shared>,
    number: usize,
    value_bytes: usize,
    random: Seeded,
    connection: Option<Client>,
    /// Whose turn it is to be connected to.
    turn: usize,
    /// The last value of each key that was acknowledged, by its number; 0 before the first.
    written: Vec<u64>,
    /// The last one that was tried.
    tried: Vec<u64>,
    done: Outcome,
}

/// What the clients came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Commands that were answered, at once or when they were tried again.
    pub answered: u64,
    /// Of those, tried again.
    pub retried: u64,
    /// Commands that failed twice, and how.
    pub errors: Vec<String>,
    /// When each write was answered since the beginning, and how long that took, in microseconds.
    writes: Vec<(u64, u64)>,
}

impl Retriers {
    /// Begins with `count` clients of all nodes of the cluster, which write values of `value_bytes`.
    pub fn start(cluster: &Cluster, count: usize, value_bytes: usize, seed: u64) -> Retriers {
        let shared = Arc::new(Shared {
            dialer: cluster.dialer(),
            began: Instant::now(),
            addresses: Mutex::new(cluster.addresses(cluster.living())),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
        });
        let start = |number: usize| {
            let retrier = Retrier {
                shared: shared.clone(),
                number,
                value_bytes,
                random: Seeded::new(seed.wrapping_add(number as u64)),
                connection: None,
                turn: number,
                written: vec![0; KEYS],
                tried: vec![0; KEYS],
                done: Outcome::default(),
            };
            std::thread::spawn(move || retrier.run())
        };
        let clients = (0..count).map(start).collect();
        Retriers { shared, clients }
    }

    /// Tells the clients which nodes there are now.
    pub fn use_nodes(&self, cluster: &Cluster, nodes: &[usize]) {
        *self.shared.addresses() = cluster.addresses(nodes.iter().copied());
    }

    /// Microseconds since the beginning.
    pub fn now(&self) -> u64 {
        micros(self.shared.began.elapsed())
    }

    /// Waits until so many more writes were acknowledged.
    ///
    /// # Panics
    ///
    /// When they are not within [`PATIENCE`].
    pub fn wait_for(&self, writes: u64) {
        let (begun, wanted) = (Instant::now(), self.shared.acknowledged.load(Ordering::Relaxed) + writes);
        while self.shared.acknowledged.load(Ordering::Relaxed) < wanted {
            assert!(begun.elapsed() < PATIENCE, "writes are not acknowledged any more");
            std::thread::sleep(CONNECT_AGAIN);
        }
    }

    /// Stops the clients, and reads what they wrote through every node.
    ///
    /// # Panics
    ///
    /// When something that was acknowledged is not there.
    pub fn finish(self, cluster: &Cluster) -> Outcome {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        let join = |client: JoinHandle<Retrier>| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let clients: Vec<Retrier> = self.clients.into_iter().map(join).collect();
        for node in cluster.living() {
            let dial = self.shared.dialer.connect(cluster.address(node), PATIENCE);
            let mut connection = dial.unwrap_or_else(|error| panic!("node {node} takes no connection: {error}"));
            for client in &clients {
                for key in 0..KEYS {
                    let reply = connection.call(&[b"GET", client.key(key).as_bytes()]);
                    let reply = reply.unwrap_or_else(|error| panic!("node {node} does not read: {error}"));
                    client.check(key, &reply).unwrap_or_else(|lost| panic!("node {node}: {lost}"));
                }
            }
        }
        for client in clients {
            outcome.answered += client.done.answered;
            outcome.retried += client.done.retried;
            outcome.errors.extend(client.done.errors);
            outcome.writes.extend(client.done.writes);
        }
        outcome
    }
}

impl Retrier {
    fn run(mut self) -> Retrier {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let key = self.random.choose(KEYS);
            if self.random.choose(5) == 0 {
                self.read(key);
            } else {
                self.write(key);
            }
            std::thread::sleep(THINK);
        }
        self
    }

    fn key(&self, key: usize) -> String {
        format!("retrier:{}:{key}", self.number)
    }

    fn write(&mut self, key: usize) {
        let number = self.tried[key] + 1;
        self.tried[key] = number;
        let mut value = format!("{number}:").into_bytes();
        value.resize(self.value_bytes.max(value.len()), b'.');
        let begun = Instant::now();
        let name = self.key(key);
        match self.call(&[b"SET", name.as_bytes(), &value]) {
            Some(Reply::Simple(_)) => {
                self.written[key] = number;
                let at = micros(self.shared.began.elapsed());
                self.done.writes.push((at, micros(begun.elapsed())));
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Some(reply) => panic!("SET was answered with {reply:?}"),
            // It may have happened or not.
            None => {}
        }
    }

    fn read(&mut self, key: usize) {
        let name = self.key(key);
        if let Some(reply) = self.call(&[b"GET", name.as_bytes()]) {
            self.check(key, &reply).unwrap_or_else(|lost| panic!("{lost}"));
        }
    }

    /// Whether a key holds what was last acknowledged, or something later that was tried.
    fn check(&self, key: usize, reply: &Reply) -> Result<(), String> {
        let found = match reply {
            Reply::Null => 0,
            Reply::Bulk(value) => {
                let digits = value.split(|byte| *byte == b':').next().unwrap_or_default();
                std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX)
            }
            other => return Err(format!("GET was answered with {other:?}")),
        };
        let (written, tried) = (self.written[key], self.tried[key]);
        if (written..=tried).contains(&found) {
            return Ok(());
        }
        Err(format!("{} holds value {found}, acknowledged was {written}, tried {tried}", self.key(key)))
    }

    /// The answer of a command, which is tried again once. None where that failed too.
    fn call(&mut self, arguments: &[&[u8]]) -> Option<Reply> {
        let mut failures = Vec::new();
        while failures.len() < 2 {
            let mut client = self.connect()?;
            match client.call(arguments) {
                // That is also what clients of a node hear that was removed and has not ended yet.
                Ok(Reply::Error(text)) if text.starts_with("UNCERTAIN") || text.contains("not executed") => {
                    failures.push(text);
                }
                Ok(Reply::Error(text)) => panic!("a client was answered: {text}"),
                Ok(reply) => {
                    self.connection = Some(client);
                    self.done.answered += 1;
                    self.done.retried += failures.len() as u64;
                    return Some(reply);
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        self.done.errors.push(failures.join(", then "));
        None
    }

    /// The connection at hand, or one with the next node that takes it. None when all is over.
    fn connect(&mut self) -> Option<Client> {
        if let Some(client) = self.connection.take() {
            return Some(client);
        }
        let begun = Instant::now();
        loop {
            let address = {
                let addresses = self.shared.addresses();
                self.turn += 1;
                addresses[self.turn % addresses.len()]
            };
            if let Ok(client) = self.shared.dialer.connect(address, ANSWER_WITHIN) {
                return Some(client);
            }
            assert!(begun.elapsed() < PATIENCE, "no node takes connections");
            if self.shared.stop.load(Ordering::Relaxed) {
                return None;
            }
            std::thread::sleep(CONNECT_AGAIN); // there is nobody whose event could be waited for
        }
    }
}

impl Outcome {
    /// Fails if a client saw an error.
    ///
    /// # Panics
    ///
    /// When one did.
    pub fn assert_no_errors(&self) {
        assert!(self.errors.is_empty(), "{self}; the first: {}", self.errors[0]);
    }

    /// How long 99 of 100 writes took at most that were answered between two moments of [`Retriers::now`], and how many
    /// there were.
    pub fn p99(&self, from: u64, to: u64) -> (Duration, usize) {
        let answered = self.writes.iter().filter(|(at, _)| (from..to).contains(at));
        let mut took: Vec<u64> = answered.map(|(_, took)| *took).collect();
        took.sort_unstable();
        let p99 = took.get((took.len() * 99 / 100).min(took.len().saturating_sub(1))).copied().unwrap_or(0);
        (Duration::from_micros(p99), took.len())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { answered, retried, errors, writes } = self;
        let slowest = writes.iter().map(|(_, took)| *took).max().unwrap_or(0);
        write!(
            f,
            "{answered} commands answered, {} of them writes that are all there, {retried} tried again, {} errors; the \
             slowest write took {:.3?}",
            writes.len(),
            errors.len(),
            Duration::from_micros(slowest)
        )
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("tests take less than centuries")
}
