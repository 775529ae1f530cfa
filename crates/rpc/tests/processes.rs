//! Two processes: one serves, and is killed and restarted, or stopped and continued, while the other calls it all the
//! time. Every call ends, by its deadline at the latest; the caller heals by itself with at most one failed attempt
//! after the server is back.

#[path = "common/node.rs"]
#[allow(dead_code)] // Each test uses a part of it.
mod node;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dstore_net::Net;
use dstore_rpc::{CallOptions, Code, NodeId, Status};
use node::{Blob, Node, Notice, Running, config, echo};
use rustix::process::{Pid, Signal, kill_process};

const KILLS: usize = 20;
const CALLS_AT_A_TIME: usize = 64;
const TIMEOUT: Duration = Duration::from_millis(500);
/// Every so many calls, one that is never answered: it ends by its deadline, or with the server.
const HELD_EVERY: u64 = 16;
const HELD_TIMEOUT: Duration = Duration::from_millis(2);
const PORT_VARIABLE: &str = "RPC_TEST_SERVER_PORT";

/// Not a test of its own: what the other process runs.
#[test]
#[ignore = "the server process of the other tests"]
fn server_process() {
    let port = std::env::var(PORT_VARIABLE).expect("started by another test").parse().expect("a port");
    let (notices, _unheard) = channel();
    let (event_loop, address) = node::event_loop(quick(2), port, notices).expect("the port is free");
    println!("listening on {address}");
    event_loop.run().expect("until it is killed");
}

/// Heartbeats that notice a silent process soon.
fn quick(node: u64) -> dstore_rpc::Config {
    let mut config = config(node);
    config.timeouts.heartbeat_interval = Duration::from_millis(100);
    config.timeouts.heartbeat_timeout = Duration::from_millis(200);
    config
}

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts the server process and waits until it listens.
    fn start(port: u16) -> Server {
        let mut process = Command::new(std::env::current_exe().expect("this test"))
            .args(["--ignored", "--exact", "server_process", "--nocapture"])
            .env(PORT_VARIABLE, port.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server process");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut lines = output.lines().map_while(Result::ok);
        // The test harness puts its own words around it.
        let address = lines.find_map(|line| line.split("listening on ").nth(1)?.trim().parse().ok());
        Server { process, address: address.expect("the server says where it listens") }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it runs");
    }

    fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What came of the calls so far.
#[derive(Clone, Debug, Default)]
struct Tally {
    made: u64,
    ended: BTreeMap<String, u64>,
    replies: u64,
    /// The most that a call ended after its deadline: the loop's delay.
    overrun: Duration,
    stopping: bool,
}

thread_local! {
    static TALLY: std::cell::RefCell<Tally> = std::cell::RefCell::default();
}

/// Makes a call, and another one when it ends, until told to stop.
fn call_on(node: &mut Node, net: &mut Net<Node>) {
    let now = net.now();
    let made = TALLY.with_borrow_mut(|tally| {
        tally.made += 1;
        tally.made
    });
    let (method, timeout) =
        if made.is_multiple_of(HELD_EVERY) { (echo::HOLD, HELD_TIMEOUT) } else { (echo::ECHO, TIMEOUT) };
    let deadline = now + timeout;
    let request = Blob { bytes: Bytes::from_static(&[5; 64]) };
    let ended = move |node: &mut Node, net: &mut Net<Node>, result: Result<Blob, Status>| {
        let again = TALLY.with_borrow_mut(|tally| {
            tally.overrun = tally.overrun.max(net.now().saturating_duration_since(deadline));
            match &result {
                Ok(_) => tally.replies += 1,
                Err(status) => {
                    *tally.ended.entry(format!("{:?}, {:?}", status.code, status.execution)).or_default() += 1
                }
            }
            !tally.stopping
        });
        match result {
            Err(status) if again && status.code == Code::Unavailable => pause(node),
            _ if again => call_on(node, net),
            _ => {}
        }
    };
    node.rpc.call(now, NodeId(2), method, &request, CallOptions::deadline(deadline), ended);
}

/// While the peer is known to be away calls fail at once; the next one waits a little.
fn pause(node: &mut Node) {
    let remote = node.rpc.remote(NodeId(2));
    let notices = node.notices.clone();
    let rest = async move {
        remote.sleep_until(remote.now() + Duration::from_millis(5)).await;
        // A failure to tell means that the test is over.
        let _ = notices.send(Notice::Said("rested".to_owned()));
    };
    node.rpc.spawn(rest).detach();
}

/// Lets those that rested call again until the server is reached; how many attempts failed meanwhile.
fn heal(client: &Running) -> usize {
    let mut failed = 0;
    client.wait(|notice| {
        failed += usize::from(matches!(notice, Notice::Down(..)));
        resume(client, notice)
    });
    failed
}

/// Lets whoever rested call again; tells when the server is reached.
fn resume(client: &Running, notice: &Notice) -> Option<()> {
    match notice {
        Notice::Said(_) => client.run(call_on),
        Notice::Up(..) => return Some(()),
        _ => {}
    }
    None
}

fn tally(client: &Running) -> Tally {
    client.ask(|_, _| TALLY.with_borrow(Tally::clone))
}

/// Waits until some more replies have come.
fn work(client: &Running) {
    let goal = tally(client).replies + 1000;
    while tally(client).replies < goal {
        for notice in client.notices.try_iter() {
            let _ = resume(client, &notice);
        }
    }
}

fn start_load(server: &Server) -> Running {
    let client = Running::start(quick(1));
    client.knows(2, server.address);
    client.run(|node, net| (0..CALLS_AT_A_TIME).for_each(|_| call_on(node, net)));
    heal(&client);
    work(&client);
    client
}

/// Ends the load: every call ever made has ended.
#[allow(clippy::print_stdout)]
fn finish(client: Running, what: &str) {
    client.run(|_, _| TALLY.with_borrow_mut(|tally| tally.stopping = true));
    while client.ask(|node, _| node.rpc.calls_inflight()) > 0 {}
    let tally = tally(&client);
    let failed: u64 = tally.ended.values().sum();
    assert_eq!(tally.made, tally.replies + failed, "every call ends exactly once");
    println!(
        "{what}: {} calls, {} replies, {:?}, latest {:?} after its deadline",
        tally.made, tally.replies, tally.ended, tally.overrun
    );
    client.stop();
}

#[test]
#[allow(clippy::disallowed_methods)]
fn a_killed_server_costs_its_calls_and_nothing_else() {
    let mut server = Server::start(0);
    let client = start_load(&server);
    let port = server.address.port();
    let (mut failed_after_return, mut healed_in) = (0, Vec::new());
    for _ in 0..KILLS {
        work(&client);
        server.kill();
        client.wait(|notice| matches!(notice, Notice::Down(..)).then_some(()));
        server = Server::start(port);
        let back = Instant::now();
        // Failures noticed before the server was back do not count; and it may have been reached already.
        let mut reached = false;
        client.notices.try_iter().for_each(|notice| reached |= resume(&client, &notice).is_some());
        let failed = if reached { 0 } else { heal(&client) };
        healed_in.push(back.elapsed());
        assert!(failed <= 1, "{failed} attempts failed although the server was back");
        failed_after_return += failed;
    }
    healed_in.sort();
    println!(
        "killed {KILLS} times, {failed_after_return} attempts failed after the server was back; healed in {healed_in:?}"
    );
    finish(client, "kill");
}

#[test]
fn a_stopped_server_is_noticed_by_its_silence() {
    let server = Server::start(0);
    let client = start_load(&server);
    for _ in 0..3 {
        server.signal(Signal::STOP);
        let why = client.wait(|notice| match notice {
            Notice::Down(Some(NodeId(2)), why) => Some(why.clone()),
            _ => None,
        });
        assert!(why.starts_with("no sign of life for"), "{why}");
        server.signal(Signal::CONT);
        heal(&client);
        work(&client);
    }
    finish(client, "stop");
}
