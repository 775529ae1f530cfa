//! The loads, and how one is run against either system.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use dstore_bench::usage;
use dstore_testkit::powerloss::{Choose, Seeded};
use tokio::task::LocalSet;

/// Keys that are written and read.
pub(crate) const KEYS: usize = 10_000;

const VALUE_BYTES: usize = 100;

/// Connections at once where many are meant, spread over the nodes; and where very many are.
const MANY: usize = 50;
const VERY_MANY: usize = 800;

/// A run before each measurement, and the measurement.
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_millis(1_700);

/// A running cluster.
pub(crate) trait System: Sized {
    /// A connection to one node.
    type Client: Client + 'static;

    /// Starts three nodes on fresh directories; ready when it returns.
    fn start() -> anyhow::Result<Self>;

    /// Their processes.
    fn pids(&self) -> Vec<u32>;

    /// The number of the node that leads.
    fn leader(&self) -> usize;

    /// Connects to a node.
    async fn connect(&self, node: usize) -> anyhow::Result<Self::Client>;
}

/// One connection, one request at a time.
pub(crate) trait Client {
    /// Writes a value.
    async fn set(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()>;

    /// Reads one: how many bytes it has.
    async fn get(&mut self, key: &[u8]) -> anyhow::Result<usize>;
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Set,
    Get,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// Connections go to the nodes in turn.
    Spread,
    Leader,
    Follower,
}

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// In the names of ratios.
    pub(crate) name: &'static str,
    /// In the table.
    pub(crate) title: &'static str,
    verb: Verb,
    connections: usize,
    place: Place,
}

/// All loads, in the order in which they are run.
pub(crate) const LOADS: &[Load] = &[
    Load { name: "set-c50", title: "SET, 50 connections", verb: Verb::Set, connections: MANY, place: Place::Spread },
    Load {
        name: "set-c800",
        title: "SET, 800 connections",
        verb: Verb::Set,
        connections: VERY_MANY,
        place: Place::Spread,
    },
    Load { name: "get-c50", title: "GET, 50 connections", verb: Verb::Get, connections: MANY, place: Place::Spread },
    Load { name: "set-c1", title: "SET, one to the leader", verb: Verb::Set, connections: 1, place: Place::Leader },
    Load { name: "get-c1", title: "GET, one to the leader", verb: Verb::Get, connections: 1, place: Place::Leader },
    Load {
        name: "set-c1-follower",
        title: "SET, one to a follower",
        verb: Verb::Set,
        connections: 1,
        place: Place::Follower,
    },
    Load {
        name: "get-c1-follower",
        title: "GET, one to a follower",
        verb: Verb::Get,
        connections: 1,
        place: Place::Follower,
    },
];

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Requests per second.
    pub(crate) rate: f64,
    /// Half of the requests were answered within this many milliseconds.
    pub(crate) p50_ms: f64,
    /// 99 of 100 were.
    pub(crate) p99_ms: f64,
    /// CPU time of all nodes together per request, in microseconds.
    pub(crate) cpu_us: f64,
}

fn key(number: usize) -> Vec<u8> {
    format!("key:{number:012}").into_bytes()
}

fn value() -> Vec<u8> {
    vec![b'x'; VALUE_BYTES]
}

/// Writes every key once.
pub(crate) async fn fill<S: System>(system: &S) -> anyhow::Result<()> {
    write(system, KEYS, MANY).await
}

/// The same load for both: so many writes and no more, key after key, in circles.
pub(crate) async fn write_many<S: System>(system: &S, writes: usize) -> anyhow::Result<()> {
    write(system, writes, VERY_MANY).await
}

async fn write<S: System>(system: &S, writes: usize, connections: usize) -> anyhow::Result<()> {
    let next = Rc::new(RefCell::new(0..writes));
    let local = LocalSet::new();
    let mut tasks = Vec::new();
    for connection in 0..connections {
        let (mut client, next) = (system.connect(connection % 3).await?, next.clone());
        tasks.push(local.spawn_local(async move {
            loop {
                let Some(number) = next.borrow_mut().next() else { return anyhow::Ok(()) };
                client.set(&key(number % KEYS), &value()).await?;
            }
        }));
    }
    finish(local, tasks).await.map(drop)
}

async fn finish<T: 'static>(
    local: LocalSet,
    tasks: Vec<tokio::task::JoinHandle<anyhow::Result<T>>>,
) -> anyhow::Result<Vec<T>> {
    local
        .run_until(async {
            let mut results = Vec::new();
            for task in tasks {
                results.push(task.await??);
            }
            Ok(results)
        })
        .await
}

impl Load {
    /// Runs it: a warm-up, then the measurement.
    pub(crate) async fn run<S: System>(&self, system: &S) -> anyhow::Result<Sample> {
        let mut clients = Vec::new();
        let leader = system.leader();
        for connection in 0..self.connections {
            let node = match self.place {
                Place::Spread => connection % 3,
                Place::Leader => leader,
                Place::Follower => (leader + 1) % 3,
            };
            clients.push(system.connect(node).await?);
        }
        let (clients, _) = self.drive(clients, WARM_UP).await?;
        let pids = system.pids();
        let (cpu, begun) = (usage::cpu(&pids), Instant::now());
        let (_, mut latencies) = self.drive(clients, MEASURED).await?;
        let (wall, cpu) = (begun.elapsed(), usage::cpu(&pids) - cpu);
        ensure!(!latencies.is_empty(), "nothing was answered");
        latencies.sort_unstable();
        let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        let requests = latencies.len() as f64;
        Ok(Sample {
            rate: requests / wall.as_secs_f64(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            cpu_us: cpu.as_secs_f64() * 1e6 / requests,
        })
    }

    /// All clients at once, each with one request after the other, for a while. Gives them back with all latencies.
    async fn drive<C: Client + 'static>(
        &self,
        clients: Vec<C>,
        during: Duration,
    ) -> anyhow::Result<(Vec<C>, Vec<Duration>)> {
        let (verb, until) = (self.verb, Instant::now() + during);
        let local = LocalSet::new();
        let drive = |(number, mut client): (usize, C)| {
            local.spawn_local(async move {
                let (mut random, value) = (Seeded::new(number as u64), value());
                let mut latencies = Vec::new();
                loop {
                    let begun = Instant::now();
                    if begun >= until {
                        return anyhow::Ok((client, latencies));
                    }
                    let key = key(random.choose(KEYS));
                    match verb {
                        Verb::Set => client.set(&key, &value).await?,
                        Verb::Get => ensure!(client.get(&key).await? == VALUE_BYTES, "another value was read"),
                    }
                    latencies.push(begun.elapsed());
                }
            })
        };
        let tasks = clients.into_iter().enumerate().map(drive).collect();
        let (clients, latencies): (Vec<C>, Vec<Vec<Duration>>) = finish(local, tasks).await?.into_iter().unzip();
        Ok((clients, latencies.into_iter().flatten().collect()))
    }
}
