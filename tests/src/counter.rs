//! Clients that count, each on a key of its own, and so notice by themselves when a command was applied twice or not at all.
//!
//! A client sends one INCR at a time over one of the nodes. Before each it knows between which numbers its counter stands:
//! exactly at one, while all is answered; higher by up to the number of unanswered ones, after connections broke. An answer
//! must be one more than a number in between. The store retries on behalf of its clients when leaders change; a retry that
//! was applied a second time would show as a number too high.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dstore_testkit::client::{Client, Reply};
use dstore_testkit::cluster::{Cluster, Dialer};
use dstore_testkit::process::PATIENCE;

/// Longer than the request timeout of any node.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Between two attempts to connect to a node that is down.
const CONNECT_AGAIN: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct Shared {
    dialer: Dialer,
    stop: AtomicBool,
    /// Answered increments, all clients together.
    answered: Mutex<u64>,
    bell: Condvar,
}

/// The clients, at work.
#[derive(Debug)]
pub struct Counters {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Counter>>,
}

/// What the clients came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Answered with a number.
    pub answered: u64,
    /// Refused as not executed.
    pub refused: u64,
    /// Without an answer.
    pub unknown: u64,
    /// Of those, how many turned out to have been applied.
    pub unknown_applied: u64,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counted { answered, refused, unknown, unknown_applied } = self;
        write!(
            f,
            "{answered} increments answered, each applied once; {refused} refused, none applied; {unknown} unknown, \
             {unknown_applied} of them applied"
        )
    }
}

/// One client, and where its counter stands.
#[derive(Debug)]
struct Counter {
    shared: Arc<Shared>,
    key: String,
    address: SocketAddr,
    /// Increments that are known to be applied.
    applied: u64,
    /// Those that may have been, or may still be.
    in_doubt: u64,
    counted: Counted,
}

impl Counters {
    /// Begins with `count` clients of each node.
    pub fn start(cluster: &Cluster, count: usize) -> Counters {
        let shared = Arc::new(Shared {
            dialer: cluster.dialer(),
            stop: AtomicBool::new(false),
            answered: Mutex::new(0),
            bell: Condvar::new(),
        });
        let clients = cluster.nodes().flat_map(|node| (0..count).map(move |client| (node, client)));
        let start = |(node, client): (usize, usize)| {
            let (shared, key) = (shared.clone(), format!("counter:{node}:{client}"));
            let address = cluster.address(node);
            let counter = Counter { shared, key, address, applied: 0, in_doubt: 0, counted: Counted::default() };
            std::thread::spawn(move || counter.run())
        };
        let clients = clients.map(start).collect();
        Counters { shared, clients }
    }

    /// Waits for so many more answers.
    ///
    /// # Panics
    ///
    /// When they do not come within [`PATIENCE`].
    pub fn wait_for(&self, answers: u64) {
        let answered = self.shared.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = *answered + answers;
        let waited = self.shared.bell.wait_timeout_while(answered, PATIENCE, |answered| *answered < wanted);
        let (answered, _) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(*answered >= wanted, "counting stands still at {answered}");
    }

    /// Stops, and compares every counter with what its client knows.
    ///
    /// # Panics
    ///
    /// When a command was applied twice, or was acknowledged and is gone, or was refused and applied.
    pub fn finish(self, cluster: &Cluster) -> Counted {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut total = Counted::default();
        for client in self.clients {
            let mut counter = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            for node in cluster.nodes() {
                let mut client =
                    cluster.dialer().connect(cluster.address(node), PATIENCE).expect("the cluster is whole");
                counter.read(&mut client);
            }
            total.answered += counter.counted.answered;
            total.refused += counter.counted.refused;
            total.unknown += counter.counted.unknown;
            total.unknown_applied += counter.counted.unknown_applied;
        }
        total
    }
}

impl Counter {
    fn run(mut self) -> Counter {
        while !self.is_over() {
            let Ok(mut client) = self.shared.dialer.connect(self.address, ANSWER_WITHIN) else {
                std::thread::sleep(CONNECT_AGAIN); // there is nobody whose event could be waited for
                continue;
            };
            while !self.is_over() && self.increment(&mut client) {}
        }
        self
    }

    fn is_over(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// False when the connection is of no more use.
    fn increment(&mut self, client: &mut Client) -> bool {
        match client.call(&[b"INCR", self.key.as_bytes()]) {
            Ok(Reply::Integer(number)) => {
                self.settle(u64::try_from(number).expect("it counts from 0") - 1);
                self.applied += 1;
                self.counted.answered += 1;
                *self.shared.answered.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                self.shared.bell.notify_all();
                true
            }
            Ok(Reply::Error(text)) if text.starts_with("NOQUORUM") => {
                self.counted.refused += 1;
                true
            }
            Ok(Reply::Error(text)) if !text.starts_with("UNCERTAIN") => panic!("INCR {}: {text}", self.key),
            Ok(Reply::Error(_)) | Err(_) => {
                self.in_doubt += 1;
                self.counted.unknown += 1;
                false
            }
            Ok(reply) => panic!("INCR {} was answered with {reply:?}", self.key),
        }
    }

    /// The counter stood at `number`.
    fn settle(&mut self, number: u64) {
        let Counter { key, applied, in_doubt, .. } = self;
        assert!(number >= *applied, "{key} stood at {number}, where {applied} increments were applied");
        let more = number - *applied;
        assert!(
            more <= *in_doubt,
            "{key} stood at {number}, where {applied} increments were applied, {in_doubt} in doubt"
        );
        self.counted.unknown_applied += more;
        self.applied = number;
        self.in_doubt -= more;
    }

    fn read(&mut self, client: &mut Client) {
        let reply = client.call(&[b"GET", self.key.as_bytes()]).expect("the cluster is whole");
        let number = match reply {
            Reply::Null => 0,
            Reply::Bulk(text) => String::from_utf8_lossy(&text).parse().expect("it is a number"),
            reply => panic!("GET {} was answered with {reply:?}", self.key),
        };
        self.settle(number);
    }
}
