//! Echo rounds: CPU time of the server per message, and system calls per message where they can be counted.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::load::Load;
use crate::servers::LISTENING;
use crate::{median, pin};

const ROUNDS: usize = 7;

struct Scenario {
    name: &'static str,
    connections: usize,
    pipeline: usize,
    messages: u64,
    /// Server and the name of its ratio; the first server is ours.
    peers: &'static [(&'static str, &'static str)],
}

const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "c50",
        connections: 50,
        pipeline: 1,
        messages: 60_000,
        peers: &[("tokio", "echo-c50"), ("bare", "echo-vs-bare-epoll"), ("tokio-multi", "echo-c50-tokio-multi")],
    },
    Scenario { name: "c1000", connections: 1000, pipeline: 1, messages: 60_000, peers: &[("tokio", "echo-c1000")] },
    Scenario {
        name: "c50-pipeline16",
        connections: 50,
        pipeline: 16,
        messages: 400_000,
        peers: &[("tokio", "echo-c50-pipeline16")],
    },
];

/// A server process, killed when dropped.
struct Server {
    kind: &'static str,
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(kind: &'static str) -> Server {
        let program = std::env::current_exe().expect("this program has a path");
        let mut process = Command::new(program)
            .args(["serve", kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started once more");
        let output = process.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("the server says where it listens");
        let address = line.trim().strip_prefix(LISTENING).and_then(|text| text.parse().ok());
        Server { kind, process, address: address.expect("an address") }
    }

    /// CPU time of all threads so far, in nanoseconds.
    fn cpu_ns(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("the server runs");
        let mut total = 0;
        for task in tasks.flatten() {
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            total += text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        total
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The scenarios (or the one called `only`); the ratios.
pub(crate) fn run(only: Option<&str>) -> Vec<(String, f64)> {
    SCENARIOS.iter().filter(|scenario| only.is_none_or(|name| name == scenario.name)).flat_map(scenario).collect()
}

fn scenario(scenario: &Scenario) -> Vec<(String, f64)> {
    println!("\necho {}: {} connections, {} in flight on each", scenario.name, scenario.connections, scenario.pipeline);
    crate::unpin();
    let kinds = std::iter::once("ours").chain(scenario.peers.iter().map(|(kind, _)| *kind));
    let mut contenders: Vec<_> = kinds
        .map(|kind| {
            let server = Server::start(kind);
            let load = Load::connect(server.address, scenario.connections, scenario.pipeline).expect("it accepts");
            (server, load)
        })
        .collect();
    // Only now: a server inherits what its parent is bound to.
    pin(1);
    for (_, load) in &mut contenders {
        load.run(scenario.messages / 10).expect("warming up");
    }
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    for _ in 0..ROUNDS {
        for (index, (server, load)) in contenders.iter_mut().enumerate() {
            let (start, cpu) = (Instant::now(), server.cpu_ns());
            let done = load.run(scenario.messages).expect("the server echoes");
            costs[index].push((server.cpu_ns() - cpu) as f64 / done as f64);
            rates[index].push(done as f64 / start.elapsed().as_secs_f64());
        }
    }
    for (index, (server, load)) in contenders.iter_mut().enumerate() {
        let calls = syscalls_per_message(server, load, scenario.messages / 10);
        let calls = calls.map_or("not counted (no perf)".to_owned(), |calls| format!("{calls:.2}"));
        let (cost, rate) = (median(costs[index].clone()), median(rates[index].clone()));
        println!(
            "  {:<12} {cost:>7.0} ns CPU/message   {rate:>8.0} messages/s   syscalls/message {calls}",
            server.kind
        );
    }
    let ratio = |index: usize| median(costs[index].iter().zip(&costs[0]).map(|(peer, ours)| peer / ours).collect());
    let named = scenario.peers.iter().enumerate();
    let ratios: Vec<_> = named.map(|(index, (_, name))| ((*name).to_owned(), ratio(index + 1))).collect();
    for (name, value) in &ratios {
        println!("  {name}: {value:.2}");
    }
    ratios
}

/// Counts with `perf`, in a run of its own since counting costs time. `None` where perf is missing or not permitted.
fn syscalls_per_message(server: &Server, load: &mut Load, messages: u64) -> Option<f64> {
    let id = server.process.id().to_string();
    let mut perf = Command::new("perf")
        .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &id])
        .args(["--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    // perf counts from before it starts `cat`; once `cat` echoes a line, counting is on.
    let mut to_cat = perf.stdin.take()?;
    std::io::Write::write_all(&mut to_cat, b"on\n").ok()?;
    BufReader::new(perf.stdout.as_mut()?).read_line(&mut String::new()).ok()?;
    let done = load.run(messages).expect("the server echoes");
    drop(to_cat);
    let mut report = String::new();
    perf.stderr.take()?.read_to_string(&mut report).ok()?;
    perf.wait().ok()?;
    let count: f64 = report.lines().find(|line| line.contains("sys_enter"))?.split(',').next()?.parse().ok()?;
    Some(count / done as f64)
}
