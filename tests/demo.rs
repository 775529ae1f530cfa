//! `dstore demo` and `dstore cluster status`, as a reader of the quick start meets them.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use dstore_e2e::connect;
use dstore_testkit::process::{PATIENCE, Server, dstore_program, run, run_to_end};
use dstore_testkit::scratch::Scratch;

const NODES: u16 = 3;

/// A demo in `dir`, and the addresses of its nodes.
fn start_demo(scratch: &Scratch, dir: &Path, flags: &[&str]) -> (Server, Vec<SocketAddr>) {
    // The demo's ports follow each other, so one that is free says little of the rest: then another is tried.
    for _ in 0..10 {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port().min(60_000);
        drop(holder);
        let mut command = Command::new(dstore_program());
        command.args(["demo", "--port", &port.to_string(), "--dir"]).arg(dir).args(flags);
        // Printed when all nodes are ready: the last lines say how to stop.
        let ready = |line: &str| line.starts_with("Ctrl-C").then(|| SocketAddr::from(([127, 0, 0, 1], port)));
        match Server::start(command, scratch, "demo.stderr", ready) {
            Ok(demo) => {
                let nodes = (port..port + NODES).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
                return (demo, nodes.collect());
            }
            Err(refused) => assert!(refused.stderr.contains("Choose other ports"), "{refused:?}"),
        }
    }
    panic!("no ports are free for a demo");
}

fn status(nodes: &[SocketAddr], flags: &[&str]) -> Output {
    let nodes: Vec<String> = nodes.iter().map(SocketAddr::to_string).collect();
    let mut command = Command::new(dstore_program());
    run_to_end(command.args(["cluster", "status", "--node", &nodes.join(",")]).args(flags), b"")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A line of INFO.
fn info(node: SocketAddr, section: &str, name: &str) -> String {
    let text: String = redis::cmd("INFO").arg(section).query(&mut connect(node)).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")).map(str::to_owned));
    line.unwrap_or_else(|| panic!("{name} is missing in:\n{text}"))
}

/// What a node says over HTTP: status line and body.
fn get(node: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect((node.ip(), node.port() + 200)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn set(node: SocketAddr, key: &str, value: &str) {
    redis::cmd("SET").arg(key).arg(value).exec(&mut connect(node)).unwrap();
}

fn read(node: SocketAddr, key: &str) -> Option<String> {
    redis::cmd("GET").arg(key).query(&mut connect(node)).unwrap()
}

#[test]
fn a_demo_survives_its_leader_and_leaves_nothing_behind() {
    let scratch = Scratch::new("demo");
    let dir = scratch.path().join("demo");
    let (demo, nodes) = start_demo(&scratch, &dir, &[]);
    set(nodes[0], "greeting", "hello");
    assert!(nodes.iter().all(|node| read(*node, "greeting").as_deref() == Some("hello")));
    let healthy = status(&nodes, &[]);
    assert_eq!(healthy.status.code(), Some(0), "{}", stdout(&healthy));
    assert!(stdout(&healthy).trim_end().ends_with("healthy: 3 of 3"), "{}", stdout(&healthy));

    let leader = (0..nodes.len()).find(|place| info(nodes[*place], "raft", "raft_role") == "leader").unwrap();
    let left: Vec<SocketAddr> = nodes.iter().copied().filter(|node| *node != nodes[leader]).collect();
    run(Command::new("sh").args(["-c", &format!("kill -9 {}", info(nodes[leader], "server", "process_id"))]), b"");
    set(left[0], "after", "the leader's death");
    assert_eq!(read(left[1], "after").as_deref(), Some("the leader's death"));
    let degraded = status(&nodes, &["--json"]);
    assert_eq!(degraded.status.code(), Some(1));
    assert!(stdout(&degraded).contains("\"verdict\": \"degraded\""), "{}", stdout(&degraded));
    assert_eq!(get(left[0], "/readyz"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    let metrics = get(left[1], "/metrics").1;
    assert!(metrics.contains("# TYPE dstore_commands counter\n") && metrics.contains("dstore_ready 1\n"), "{metrics}");

    let mut again = Command::new(dstore_program());
    again.arg("start").arg("--config").arg(dir.join(format!("node{}.toml", leader + 1)));
    let listens = |line: &str| line.contains(" listens on ").then_some(nodes[leader]);
    let returned = Server::start(again, &scratch, "again.stderr", listens).unwrap();
    assert_eq!(read(nodes[leader], "after").as_deref(), Some("the leader's death"));
    // A node that has just returned learns where the others are from the log, moments after it serves.
    let patience = Instant::now() + PATIENCE;
    let healed = loop {
        let healed = status(&nodes, &[]);
        if healed.status.code() == Some(0) || Instant::now() >= patience {
            break healed;
        }
    };
    assert_eq!(healed.status.code(), Some(0), "{}", stdout(&healed));

    assert_eq!(returned.stop().code(), Some(0));
    assert_eq!(demo.stop().code(), Some(0));
    assert!(!dir.exists(), "the data is removed");
    let nobody = status(&nodes, &[]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no node answers"), "{nobody:?}");
}

#[test]
fn no_node_outlives_a_demo_that_is_killed() {
    let scratch = Scratch::new("demo");
    let dir = scratch.path().join("demo");
    let (mut demo, nodes) = start_demo(&scratch, &dir, &["--keep"]);
    let mut held: Vec<TcpStream> = nodes.iter().map(|node| TcpStream::connect(node).unwrap()).collect();
    for stream in &mut held {
        // A connection that its node has not yet accepted would be reset, not closed.
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"PING\r\n").unwrap();
        stream.read_exact(&mut [0; b"+PONG\r\n".len()]).unwrap();
    }
    demo.kill();
    for stream in &mut held {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the node has closed its connections");
    }
    assert!(dir.join("node1/IDENTITY").exists(), "nobody was left to remove the data");
}

#[test]
fn ports_in_use_are_told_before_anything_starts() {
    let scratch = Scratch::new("demo");
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let dir = scratch.path().join("demo");
    // As the peers' port of node 2, if there is room below.
    let first = port.checked_sub(101).filter(|first| *first > 1024 && port < 65_000).unwrap_or(port - 1);
    let mut command = Command::new(dstore_program());
    let output = run_to_end(command.args(["demo", "--port", &first.to_string(), "--dir"]).arg(&dir), b"");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("does a demo run already") && stderr.contains("--port"), "{stderr}");
    assert!(!dir.exists());
}
