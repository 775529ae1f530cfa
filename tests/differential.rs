//! The same conversation with a real `redis-server` and with a real node, over sockets: the answers must be the same to
//! the byte, in RESP2 and RESP3, but for what `dstore_e2e::exceptions` names.
//!
//! Several connections take turns. In its turn a connection sends a few hundred requests at once, the same to both
//! servers, and reads all answers before the next has its turn: so both servers execute everything in the same order,
//! and what one connection watches, others change. Now and then keys are made to expire and everything waits until they
//! have, and what is stored under each key is compared.
//!
//! `DIFFERENTIAL=1000000` compares that many requests, `DSTORE_SEED=n` repeats a run, and with
//! `DIFFERENTIAL_LOOKS=1` it finds the turn after which something else is stored.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::collections::VecDeque;
use std::io::{BufReader, Write};
use std::net::TcpStream;

use bytes::Bytes;
use dstore_e2e::conversation::{Conversation, Request};
use dstore_e2e::exceptions::excuses;
use dstore_e2e::seed;
use dstore_testkit::answer::{Answer, read_raw};
use dstore_testkit::client::pack;
use dstore_testkit::process::{Dstore, PATIENCE, Server, start_redis};
use dstore_testkit::requests::KEYS;
use dstore_testkit::scratch::Scratch;

/// Requests compared in an ordinary test run; and of those on values of some hundred KiB.
const REQUESTS: u64 = 40_000;
const LARGE_REQUESTS: u64 = 2_000;
const CONNECTIONS: usize = 4;
/// Requests of one turn, at most, and the turns between two looks at everything that is stored.
const TURN_REQUESTS_MAX: u64 = 300;
const TURNS_BETWEEN_LOOKS: u64 = 20;
/// The longest value on both sides, as small as Redis allows.
const VALUE_BYTES_MAX: [&str; 2] = ["1mb", "1MiB"];
/// Databases that hold anything.
const DATABASES: [&str; 5] = ["0", "1", "3", "4", "15"];
/// How many requests of a connection are shown when an answer differs.
const SHOWN: usize = 100;
const SHOWN_BYTES: usize = 300;

/// A connection to one of the servers.
struct Wire(BufReader<TcpStream>);

impl Wire {
    fn open(server: &Server) -> Wire {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }
}

/// A connection to each.
struct Pair {
    redis: Wire,
    ours: Wire,
    /// What is in its MULTI.
    queued: Vec<Request>,
    /// Its last requests, and what Redis answered.
    last: VecDeque<String>,
}

impl Pair {
    fn open(servers: &Servers) -> Pair {
        let (redis, ours) = (Wire::open(&servers.redis), Wire::open(&servers.ours));
        Pair { redis, ours, queued: Vec::new(), last: VecDeque::new() }
    }

    /// Sends these requests to both and compares the answers.
    fn turn(&mut self, requests: &[Request]) -> Result<(), String> {
        let mut bytes = Vec::new();
        for request in requests {
            pack(&mut bytes, &request.args.iter().map(|arg| &arg[..]).collect::<Vec<_>>());
        }
        self.redis.send(&bytes);
        self.ours.send(&bytes);
        self.last.push_back("  a turn".to_owned());
        for request in requests {
            if request.answered {
                self.compare(request)?;
            } else {
                self.remember(request, "not answered");
            }
        }
        Ok(())
    }

    fn compare(&mut self, request: &Request) -> Result<(), String> {
        let theirs = read_raw(&mut self.redis.0).unwrap();
        let ours = read_raw(&mut self.ours.0);
        let ours = ours.unwrap_or_else(|error| panic!("{request:?}: {error}; before: {:#?}", self.last));
        let queued = match request {
            request if request.is("EXEC") || request.is("DISCARD") || request.is("RESET") => {
                std::mem::take(&mut self.queued)
            }
            _ => Vec::new(),
        };
        self.remember(request, &shown(&theirs));
        if theirs != ours && !excuses(request, &queued, &Answer::parse(&theirs), &Answer::parse(&ours)) {
            let last: Vec<&str> = self.last.iter().map(String::as_str).collect();
            let alike = theirs.iter().zip(&ours).take_while(|(their, our)| their == our).count();
            let from = alike.saturating_sub(SHOWN_BYTES / 2);
            let (theirs, ours) = (shown(&theirs[from..]), shown(&ours[from.min(ours.len())..]));
            let args = &request.args;
            let last = last.join("\n");
            return Err(format!("{last}\n{args:?}, from byte {from}\nRedis: {theirs}\nours:  {ours}"));
        }
        if theirs == b"+QUEUED\r\n" {
            self.queued.push(request.clone());
        }
        Ok(())
    }

    fn remember(&mut self, request: &Request, answer: &str) {
        if self.last.len() >= SHOWN {
            self.last.pop_front();
        }
        let args: Vec<Bytes> = request.args.iter().map(|arg| arg.slice(..arg.len().min(60))).collect();
        self.last.push_back(format!("  {args:?} -> {answer}"));
    }

    /// Both answers to a request, whatever they are.
    fn ask(&mut self, line: &str) -> [Answer; 2] {
        let mut bytes = Vec::new();
        pack(&mut bytes, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        [&mut self.redis, &mut self.ours].map(|wire| {
            wire.send(&bytes);
            Answer::read(&mut wire.0).unwrap()
        })
    }
}

fn shown(raw: &[u8]) -> String {
    String::from_utf8_lossy(&raw[..raw.len().min(SHOWN_BYTES)]).escape_debug().to_string()
}

struct Servers {
    redis: Server,
    ours: Server,
}

impl Servers {
    fn start(scratch: &Scratch) -> Servers {
        let [theirs, ours] = VALUE_BYTES_MAX;
        let redis = ["--save", "", "--proto-max-bulk-len", theirs];
        let redis = start_redis(scratch, &scratch.directory("redis"), &redis);
        let ours = Dstore::on(&scratch.directory("data")).flags(&["--value-bytes-max", ours]).start(scratch);
        Servers { redis, ours: ours.unwrap_or_else(|refused| panic!("{refused:?}")) }
    }
}

/// Makes some keys expire while everybody waits. Whoever watches one of them will see that.
fn let_some_expire(control: &mut Pair, conversation: &mut Conversation) {
    let random = &mut conversation.generator.random;
    control.ask(&format!("SELECT {}", random.below(2)));
    let keys: Vec<&str> = (0..3).map(|_| random.pick(&["a", "b", "ab", "key:1"])).collect();
    for key in &keys {
        control.ask(&format!("SET {key} soon PX {}", 1 + random.below(10)));
    }
    let gone = Answer::Integer(0);
    while control.ask(&format!("EXISTS {}", keys.join(" "))) != [gone.clone(), gone.clone()] {}
    // They count until they are swept, which a node does unasked, and Redis when it is asked for them.
    loop {
        control.ask(&format!("EXISTS {}", KEYS.join(" ")));
        let [theirs, ours] = control.ask("DBSIZE");
        if theirs == ours {
            break;
        }
    }
}

/// What is stored under every key, and until when.
fn compare_everything(control: &mut Pair, conversation: &Conversation) -> Result<(), String> {
    for db in DATABASES {
        let mut requests = vec![Request::words(&format!("SELECT {db}")), conversation.all_keys("MGET")];
        for key in KEYS {
            let about =
                |name: &'static str| Request { args: vec![Bytes::from(name), Bytes::from(key)], answered: true };
            requests.extend([about("PEXPIRETIME"), about("STRLEN")]);
        }
        control.turn(&requests)?;
        loop {
            let [theirs, ours] = control.ask("DBSIZE");
            // What has expired counts until it is swept.
            if ours <= theirs {
                assert_eq!(theirs, ours, "keys in database {db}");
                break;
            }
        }
    }
    Ok(())
}

/// What Redis dumps of some strings, compressed ones among them; and a node must restore them, and the other way round.
fn payloads(control: &mut Pair) -> Vec<Bytes> {
    let long = "ab".repeat(30_000);
    let strings = ["hello", "7", "-300", "70000", "12345678901", "007", &long, &"abc".repeat(50)];
    strings
        .iter()
        .map(|string| {
            control.ask(&format!("SET dumped {string}"));
            let [theirs, ours] = control.ask("DUMP dumped");
            let swapped = [(&mut control.redis, &ours), (&mut control.ours, &theirs)];
            for (wire, payload) in swapped {
                let mut bytes = Vec::new();
                pack(&mut bytes, &[b"RESTORE", b"dumped", b"0", payload.bulk(), b"REPLACE"]);
                wire.send(&bytes);
                assert_eq!(Answer::read(&mut wire.0).unwrap(), Answer::Line("+OK".into()));
            }
            let wanted = Answer::Bulk(Some(Bytes::copy_from_slice(string.as_bytes())));
            assert_eq!(control.ask("GET dumped"), [wanted.clone(), wanted]);
            control.ask("DEL dumped");
            theirs.bulk().clone()
        })
        .collect()
}

#[allow(clippy::print_stdout)] // belongs to the output of a test
fn run(name: &str, requests: u64, large: bool) {
    let (scratch, seed) = (Scratch::new(name), seed());
    let servers = Servers::start(&scratch);
    let mut control = Pair::open(&servers);
    let mut pairs: Vec<Pair> = (0..CONNECTIONS).map(|_| Pair::open(&servers)).collect();
    let mut conversation = Conversation::new(seed, CONNECTIONS);
    conversation.generator.large = large;
    conversation.generator.payloads = payloads(&mut control);
    let looks = if large { 1 } else { setting("DIFFERENTIAL_LOOKS", TURNS_BETWEEN_LOOKS) };
    let (mut compared, mut turns) = (0, 0);
    while compared < requests {
        let connection = conversation.generator.random.below(CONNECTIONS as u64) as usize;
        // Long turns for speed, short ones so that connections meet.
        let most = if large || conversation.generator.random.one_in(2) { 6 } else { TURN_REQUESTS_MAX };
        let most = 1 + conversation.generator.random.below(most) as usize;
        let mut turn = Vec::new();
        // The last is answered, or it might be executed within the next turn.
        while turn.len() < most || turn.last().is_some_and(|request: &Request| !request.answered) {
            conversation.request(connection, &mut turn);
        }
        let within = compared + turn.len() as u64;
        let told = |difference: String| {
            panic!("within {within} requests of DSTORE_SEED={seed}, connection {connection}:\n{difference}")
        };
        pairs[connection].turn(&turn).unwrap_or_else(told);
        compared = within;
        turns += 1;
        if turns % looks == 0 {
            let before = |difference| {
                let last: Vec<&str> = pairs[connection].last.iter().map(String::as_str).collect();
                told(format!("{}\nthen, by the one that looks:\n{difference}", last.join("\n")))
            };
            compare_everything(&mut control, &conversation).unwrap_or_else(before);
        }
        if turns % TURNS_BETWEEN_LOOKS == 0 {
            let_some_expire(&mut control, &mut conversation);
        }
    }
    println!("{compared} requests in {turns} turns of {CONNECTIONS} connections, no difference");
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn requests() -> u64 {
    setting("DIFFERENTIAL", REQUESTS)
}

#[test]
fn a_node_answers_as_redis_does_to_the_byte() {
    run("differential", requests(), false);
}

#[test]
fn a_node_answers_as_redis_does_about_long_values() {
    run("differential-large", requests() * LARGE_REQUESTS / REQUESTS, true);
}
