//! Clients that mean harm, or behave as if they did, against a real process: garbage, absurd lengths, thousands of idle
//! connections, one that never reads, slow senders. Others are served meanwhile, and memory stays bounded; the figures are
//! printed.
//!
//! `HOSTILE_IDLE=10000` opens that many idle connections, 500 otherwise (each takes two descriptors of this machine).

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use dstore_e2e::connect;
use dstore_testkit::process::{Dstore, PATIENCE, Server};
use dstore_testkit::scratch::Scratch;

/// Bounds that a test meets within its time.
const SMALL: [&str; 6] =
    ["--value-bytes-max", "1MiB", "--request-bytes-max", "2MiB", "--output-bytes-high-water", "64KiB"];

fn start(scratch: &Scratch) -> Server {
    Dstore::on(&scratch.directory("data")).flags(&SMALL).start(scratch).unwrap_or_else(|refused| panic!("{refused:?}"))
}

/// Resident memory of the server, in bytes.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn open(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client that behaves, through the `redis` crate.
fn assert_served(server: &Server) {
    let mut connection = connect(server.address());
    redis::cmd("SET").arg("fair").arg("play").exec(&mut connection).unwrap();
    assert_eq!(redis::cmd("GET").arg("fair").query::<String>(&mut connection).unwrap(), "play");
}

/// Writes until the server takes no more, or `most` bytes are gone. How many went.
fn push(stream: &mut TcpStream, bytes: &[u8], most: usize) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut written = 0;
    while written < most {
        match stream.write(bytes) {
            Ok(0) => break,
            Ok(some) => written += some,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break,
            Err(error) => panic!("{error}"),
        }
    }
    written
}

#[test]
fn garbage_and_absurd_lengths_end_their_connection_and_nothing_else() {
    let scratch = Scratch::new("garbage");
    let server = start(&scratch);
    let before = resident(&server);
    let hostile: [&[u8]; 8] = [
        b"*2147483647\r\n",
        b"*1000000000000\r\n",
        b"*1\r\n$2000000000\r\n",
        b"*1\r\n$-7\r\n",
        b"*-2147483649\r\n$1\r\n",
        b"\x00\xff\xfe\x16\x03\x01\x02\x00\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\n\r\nFLUSHALL\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for bytes in hostile.iter().cycle().take(400) {
        let mut stream = open(&server);
        // The server may have closed before all is sent: that is what is wanted.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 1000, "{bytes:?}: {}", answer.len());
    }
    // A line without an end.
    let mut endless = open(&server);
    push(&mut endless, &[b'x'; 4096], 64 << 20);
    // However much the server read to throw it away: it has hung up, and what it kept is judged below.
    let mut answer = Vec::new();
    match endless.read_to_end(&mut answer) {
        Ok(_) => assert!(answer.starts_with(b"-ERR Protocol error"), "{}", String::from_utf8_lossy(&answer)),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    assert_served(&server);
    let after = resident(&server);
    println!("garbage: resident {:.1} MiB before, {:.1} MiB after", mib(before), mib(after));
    assert!(after < before + (64 << 20));
}

#[test]
fn idle_connections_cost_little() {
    let scratch = Scratch::new("idle");
    let count: usize = std::env::var("HOSTILE_IDLE").map_or(500, |text| text.parse().unwrap());
    let server = start(&scratch);
    assert_served(&server);
    let before = resident(&server);
    let mut idle: Vec<TcpStream> = Vec::with_capacity(count);
    while idle.len() + 10 < count {
        let mut stream = open(&server);
        stream.write_all(b"PING\r\n").unwrap();
        idle.push(stream);
    }
    for stream in &mut idle {
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+PONG\r\n");
    }
    assert_served(&server);
    let after = resident(&server);
    let each = after.saturating_sub(before) / idle.len() as u64;
    println!(
        "{} idle: resident {:.1} MiB before, {:.1} MiB with them, {each} bytes each",
        idle.len(),
        mib(before),
        mib(after)
    );
    assert!(each < 64 << 10, "{each} bytes for an idle connection");
}

#[test]
fn one_that_never_reads_is_made_to_wait() {
    let scratch = Scratch::new("deaf");
    let server = start(&scratch);
    let mut connection = connect(server.address());
    redis::cmd("SET").arg("big").arg(vec![b'x'; 900 << 10]).exec(&mut connection).unwrap();
    let before = resident(&server);
    let mut deaf: Vec<TcpStream> = (0..8).map(|_| open(&server)).collect();
    let requests = b"GET big\r\n".repeat(4096);
    let went: usize = deaf.iter_mut().map(|stream| push(stream, &requests, 16 << 20)).sum();
    assert_served(&server);
    let after = resident(&server);
    println!(
        "8 that never read: {:.1} MiB of requests for 0.9 MiB each went, resident {:.1} MiB before, {:.1} MiB after",
        mib(went as u64),
        mib(before),
        mib(after)
    );
    assert!(after < before + (256 << 20), "{after} bytes are resident");
}

#[test]
fn slow_senders_hold_up_nobody() {
    let scratch = Scratch::new("slow");
    let server = start(&scratch);
    let before = resident(&server);
    let mut slow: Vec<TcpStream> = (0..100).map(|_| open(&server)).collect();
    let request = b"*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n$4\r\ndone\r\n";
    for byte in request {
        for stream in &mut slow {
            stream.write_all(&[*byte]).unwrap();
        }
        if byte.is_ascii_uppercase() {
            assert_served(&server);
        }
    }
    for stream in &mut slow {
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    }
    println!("slow senders: resident {:.1} MiB before, {:.1} MiB after", mib(before), mib(resident(&server)));
}

#[test]
fn one_client_too_many_is_told_so() {
    let scratch = Scratch::new("many");
    let flags = ["--clients-max", "5"];
    let server = Dstore::on(&scratch.directory("data")).flags(&flags).start(&scratch);
    let server = server.unwrap_or_else(|refused| panic!("{refused:?}"));
    let ping = |stream: &mut TcpStream| {
        // One that was refused may be gone before it has said anything.
        let _ = stream.write_all(b"PING\r\n");
        let mut answer = [0; 100];
        let count = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    };
    let mut five: Vec<TcpStream> = (0..5).map(|_| open(&server)).collect();
    assert!(five.iter_mut().all(|stream| ping(stream) == "+PONG\r\n"));
    assert_eq!(ping(&mut open(&server)), "-ERR max number of clients reached\r\n");
    drop(five.pop());
    while ping(&mut open(&server)) != "+PONG\r\n" {}
    assert!(five.iter_mut().all(|stream| ping(stream) == "+PONG\r\n"));
}
