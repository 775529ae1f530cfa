//! [`Load`]: requests over many connections from one thread, as fast as they are answered; and what came of it.
//!
//! Every connection has a fixed number of requests under way: it sends so many at once, waits for all of their replies, and
//! sends the next. A request's latency is that of its group, from the first byte sent to the last one received. Both sides of
//! a comparison are driven by this same code over the same protocol.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use dstore_testkit::client::pack;
use dstore_testkit::powerloss::{Choose, Seeded};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::histogram::Histogram;
use crate::replies::Replies;

/// As the duration of a fill, which ends when it is done.
pub const UNTIL_FILLED: Duration = Duration::from_secs(3600);

/// How long no reply at all may come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// SET of a value of so many bytes under a random key.
    Set(usize),
    /// GET of a random key.
    Get,
    /// GET of a key by Zipf's law, as most data is read: few keys often, most seldom.
    GetZipf,
    /// MGET of so many random keys.
    Mget(usize),
    /// So many keys in order from a random one on: `KV.RANGE`, which Redis does not have.
    Range(usize),
    /// SET of every key, in order, with a value of so many bytes. Ends when all are written.
    Fill(usize),
    /// Three reads to one write of a value of so many bytes.
    Mixed(usize),
}

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What is asked for.
    pub verb: Verb,
    /// Connections at once.
    pub connections: usize,
    /// Requests that each has under way.
    pub pipeline: usize,
    /// Keys that there are.
    pub keys: usize,
}

/// What one run of a load came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Requests that were answered.
    pub requests: u64,
    /// Requests per second.
    pub rate: f64,
    /// Half of the requests were answered within this many milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 were.
    pub p99_ms: f64,
}

/// The name of a key. All are equally long.
pub fn key(number: usize) -> String {
    format!("key:{number:012}")
}

impl Load {
    /// Runs it against a server for about so long.
    ///
    /// # Errors
    ///
    /// A connection breaks, or a reply is an error, or missing where there should be a value.
    pub fn run(&self, server: SocketAddr, during: Duration, seed: u64) -> anyhow::Result<Figures> {
        let mut run = Run::begin(*self, server, during, seed)?;
        let begun = Instant::now();
        let mut events = Events::with_capacity(1024);
        for at in 0..run.connections.len() {
            run.next_group(at)?;
        }
        while run.busy > 0 {
            match run.poll.poll(&mut events, Some(PATIENCE)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            ensure!(!events.is_empty(), "no reply for {PATIENCE:?}");
            for event in &events {
                run.serve(event.token().0)?;
            }
        }
        let Run { latencies, .. } = run;
        Ok(Figures {
            requests: latencies.total(),
            rate: latencies.total() as f64 / begun.elapsed().as_secs_f64(),
            p50_ms: latencies.at(0.5),
            p99_ms: latencies.at(0.99),
        })
    }
}

struct Connection {
    stream: TcpStream,
    output: Vec<u8>,
    sent: usize,
    replies: Replies,
    /// Replies that are owed.
    owed: usize,
    group: usize,
    begun: Instant,
}

struct Run {
    load: Load,
    poll: Poll,
    connections: Vec<Connection>,
    /// Connections with requests under way.
    busy: usize,
    until: Instant,
    random: Seeded,
    zipf: Zipf,
    /// The next key of a fill.
    filled: usize,
    value: Vec<u8>,
    input: Vec<u8>,
    latencies: Histogram,
}

impl Run {
    fn begin(load: Load, server: SocketAddr, during: Duration, seed: u64) -> anyhow::Result<Run> {
        let poll = Poll::new()?;
        let mut connections = Vec::new();
        for at in 0..load.connections {
            let stream =
                std::net::TcpStream::connect(server).with_context(|| format!("no connection with {server}"))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(at), Interest::READABLE | Interest::WRITABLE)?;
            let begun = Instant::now();
            let replies = Replies::default();
            connections.push(Connection { stream, output: Vec::new(), sent: 0, replies, owed: 0, group: 0, begun });
        }
        let value = match load.verb {
            Verb::Set(bytes) | Verb::Fill(bytes) | Verb::Mixed(bytes) => noise(bytes, seed),
            _ => Vec::new(),
        };
        Ok(Run {
            load,
            poll,
            connections,
            busy: 0,
            until: Instant::now() + during,
            random: Seeded::new(seed),
            zipf: Zipf::new(load.keys),
            filled: 0,
            value,
            input: vec![0; READ_BYTES],
            latencies: Histogram::default(),
        })
    }

    /// Sends the next requests of a connection, unless it is over.
    fn next_group(&mut self, at: usize) -> anyhow::Result<()> {
        let now = Instant::now();
        let is_fill = matches!(self.load.verb, Verb::Fill(_));
        if (is_fill && self.filled == self.load.keys) || (!is_fill && now >= self.until) {
            return Ok(());
        }
        let mut group = self.load.pipeline;
        if is_fill {
            group = group.min(self.load.keys - self.filled);
        }
        let mut output = std::mem::take(&mut self.connections[at].output);
        output.clear();
        for _ in 0..group {
            self.request(&mut output);
        }
        let connection = &mut self.connections[at];
        (connection.output, connection.sent, connection.begun) = (output, 0, now);
        (connection.owed, connection.group) = (group, group);
        self.busy += 1;
        connection.send()
    }

    fn request(&mut self, output: &mut Vec<u8>) {
        let keys = self.load.keys;
        let mut random_key = || key(self.random.choose(keys));
        match self.load.verb {
            Verb::Set(_) => pack(output, &[b"SET", random_key().as_bytes(), &self.value]),
            Verb::Get => pack(output, &[b"GET", random_key().as_bytes()]),
            Verb::GetZipf => {
                let number = self.zipf.draw(&mut self.random);
                pack(output, &[b"GET", key(number).as_bytes()]);
            }
            Verb::Mget(many) => {
                let keys: Vec<String> = (0..many).map(|_| random_key()).collect();
                let mut arguments: Vec<&[u8]> = vec![b"MGET"];
                arguments.extend(keys.iter().map(String::as_bytes));
                pack(output, &arguments);
            }
            Verb::Range(many) => {
                let first = random_key();
                pack(output, &[b"KV.RANGE", first.as_bytes(), b"key;", b"LIMIT", many.to_string().as_bytes()]);
            }
            Verb::Fill(_) => {
                pack(output, &[b"SET", key(self.filled).as_bytes(), &self.value]);
                self.filled += 1;
            }
            Verb::Mixed(_) => {
                let key = random_key();
                if self.random.choose(4) == 0 {
                    pack(output, &[b"SET", key.as_bytes(), &self.value]);
                } else {
                    pack(output, &[b"GET", key.as_bytes()]);
                }
            }
        }
    }

    fn serve(&mut self, at: usize) -> anyhow::Result<()> {
        let connection = &mut self.connections[at];
        connection.send()?;
        loop {
            match connection.stream.read(&mut self.input) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(length) => {
                    let whole = connection.replies.take(&self.input[..length])?;
                    ensure!(whole <= connection.owed, "more replies than requests");
                    connection.owed -= whole;
                    if whole > 0 && connection.owed == 0 {
                        self.latencies.add(connection.begun.elapsed(), connection.group as u64);
                        self.busy -= 1;
                        return self.next_group(at);
                    }
                    if length < self.input.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Connection {
    fn send(&mut self) -> anyhow::Result<()> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Bytes that do not compress to nothing.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Seeded::new(seed);
    (0..bytes).map(|_| b' ' + random.choose(90) as u8).collect()
}

/// Zipf's law with exponent 1, near enough: a rank is the exponential of a uniform draw. Ranks are spread over the keys, so
/// that neighbours in rank are none in order.
struct Zipf {
    keys: usize,
    log_keys: f64,
}

impl Zipf {
    fn new(keys: usize) -> Zipf {
        Zipf { keys, log_keys: (keys as f64).ln() }
    }

    fn draw(&self, random: &mut Seeded) -> usize {
        let uniform = random.choose(1 << 30) as f64 / f64::from(1 << 30);
        let rank = (uniform * self.log_keys).exp() as usize;
        (rank as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize % self.keys
    }
}
