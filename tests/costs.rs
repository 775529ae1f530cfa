//! What can take long, or grow large, on a real node: other clients are served meanwhile, and each limit has its error.
//!
//! The first test prints how long others wait; `COSTS_KEYS=1000000` gives it that many keys, 20,000 otherwise. No time is
//! asserted.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dstore_testkit::client::{Client, Reply, pack};
use dstore_testkit::process::{Dstore, PATIENCE, Server};
use dstore_testkit::scratch::Scratch;

/// Keys of one MSET while the data is loaded.
const KEYS_LOADED_AT_ONCE: usize = 100;

fn start(scratch: &Scratch, flags: &[&str]) -> Server {
    Dstore::on(&scratch.directory("data")).flags(flags).start(scratch).unwrap_or_else(|refused| panic!("{refused:?}"))
}

fn client(server: &Server) -> Client {
    Client::connect(server.address(), PATIENCE).unwrap()
}

fn key(n: usize) -> String {
    format!("key:{n:08}")
}

fn call(client: &mut Client, words: &[impl AsRef<[u8]>]) -> Reply {
    client.call(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap()
}

fn load(client: &mut Client, keys: usize) {
    let mut requests = Vec::new();
    for first in (0..keys).step_by(KEYS_LOADED_AT_ONCE) {
        let pairs = (first..first + KEYS_LOADED_AT_ONCE).flat_map(|n| [key(n), format!("value{n}")]);
        let words: Vec<String> = ["MSET".to_owned()].into_iter().chain(pairs).collect();
        pack(&mut requests, &words.iter().map(String::as_bytes).collect::<Vec<_>>());
    }
    client.send(&requests).unwrap();
    for _ in (0..keys).step_by(KEYS_LOADED_AT_ONCE) {
        assert_eq!(client.receive().unwrap(), Reply::Simple("OK".into()));
    }
}

/// How long GETs of another client take until told to stop: median, the 99th of a hundred, and the longest.
fn probe(address: SocketAddr, stop: &AtomicBool) -> [Duration; 3] {
    let mut client = Client::connect(address, PATIENCE).unwrap();
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) || took.len() < 20 {
        let begun = Instant::now();
        assert!(!matches!(call(&mut client, &["GET", "key:00000001"]), Reply::Error(_)));
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    [took[took.len() / 2], took[took.len() * 99 / 100], took[took.len() - 1]]
}

#[test]
fn others_are_served_while_a_command_takes_long() {
    let scratch = Scratch::new("costs");
    let keys = std::env::var("COSTS_KEYS").map_or(20_000, |text| text.parse().unwrap());
    let server = start(&scratch, &[]);
    let address = server.address();
    let mut long = client(&server);
    load(&mut long, keys);
    for (name, value) in [("a", "ab".repeat(2_040)), ("b", "ba".repeat(2_040)), ("big", "x".repeat(1 << 20))] {
        assert_eq!(call(&mut long, &["SET", name, &value]), Reply::Simple("OK".into()));
    }
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let some = |name: &str, count: usize| -> Vec<String> {
        [name.to_owned()].into_iter().chain((0..count).map(|n| key(n * 7 % keys))).collect()
    };
    let commands = [
        ("PING", words("PING"), None),
        ("KEYS *", words("KEYS *"), Some(keys + 3)),
        ("KEYS that finds nothing", words("KEYS *nothing*"), Some(0)),
        ("KV.RANGE of 100,000 keys", words("KV.RANGE key: z LIMIT 100000"), Some(2 * keys.min(100_000))),
        ("MGET of 100,000 keys", some("MGET", 100_000), Some(100_000)),
        ("EXISTS of 100,000 keys", some("EXISTS", 100_000), None),
        ("SCAN COUNT 1000000", words("SCAN 0 COUNT 1000000"), Some(2)),
        ("LCS of 4,080 bytes, twice", words("LCS a b LEN"), None),
        ("BITCOUNT of 1 MiB", words("BITCOUNT big"), None),
        ("DEL of 10,000 keys", some("DEL", 10_000), None),
        ("UNLINK of 50,000 keys", some("UNLINK", 50_000), None),
        ("FLUSHALL", words("FLUSHALL"), None),
    ];
    println!("| command, {keys} keys | takes ms | GETs of others: p50 ms | p99 | longest |");
    for (name, words, elements) in commands {
        let stop = AtomicBool::new(false);
        let (took, [p50, p99, longest]) = std::thread::scope(|scope| {
            let others = scope.spawn(|| probe(address, &stop));
            let begun = Instant::now();
            let reply = call(&mut long, &words);
            let took = begun.elapsed();
            stop.store(true, Ordering::Relaxed);
            match (reply, elements) {
                (Reply::Array(found), Some(elements)) => assert_eq!(found.len(), elements, "{name}"),
                (reply, elements) => {
                    assert!(elements.is_none() && !matches!(reply, Reply::Error(_)), "{name}: {reply:?}")
                }
            }
            (took, others.join().unwrap())
        });
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!("| {name} | {:.1} | {:.2} | {:.2} | {:.2} |", ms(took), ms(p50), ms(p99), ms(longest));
    }
}

fn refusal(reply: Reply) -> String {
    match reply {
        Reply::Error(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_value_a_key_a_pattern_and_lcs_have_their_limits() {
    let scratch = Scratch::new("limits");
    let server = start(&scratch, &["--value-bytes-max", "1MiB", "--request-bytes-max", "4MiB"]);
    let mut client = client(&server);
    let half = "x".repeat(600 << 10);
    assert_eq!(call(&mut client, &["APPEND", "k", &half]), Reply::Integer(600 << 10));
    let too_long = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    assert_eq!(refusal(call(&mut client, &["APPEND", "k", &half])), too_long);
    assert_eq!(refusal(call(&mut client, &["SETRANGE", "k", "1048576", "x"])), too_long);
    let key = "k".repeat(70_000);
    assert!(refusal(call(&mut client, &["SET", &key, "v"])).contains("key-bytes-max"));
    assert!(refusal(call(&mut client, &["KEYS", &"*a".repeat(600)])).contains("pattern-bytes-max"));
    let lcs = "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len";
    assert_eq!(refusal(call(&mut client, &["LCS", "k", "k"])), lcs);
}

#[test]
fn a_transaction_a_reply_and_an_entry_have_their_limits() {
    let scratch = Scratch::new("limits");
    let flags = ["--value-bytes-max", "1MiB", "--request-bytes-max", "4MiB", "--log-segment-bytes", "10MiB"];
    let server = start(&scratch, &flags);
    let mut client = client(&server);
    // The queue of a MULTI: bytes, and commands.
    let value = "x".repeat(1 << 20);
    call(&mut client, &["MULTI"]);
    for _ in 0..3 {
        assert_eq!(call(&mut client, &["SET", "k", &value]), Reply::Simple("QUEUED".into()));
    }
    assert!(refusal(call(&mut client, &["SET", "k", &value])).contains("the transaction is too large"));
    assert!(refusal(call(&mut client, &["EXEC"])).starts_with("EXECABORT"));
    let mut pings = Vec::new();
    pack(&mut pings, &[b"MULTI"]);
    (0..100_001).for_each(|_| pack(&mut pings, &[b"PING"]));
    client.send(&pings).unwrap();
    let replies: Vec<Reply> = (0..100_002).map(|_| client.receive().unwrap()).collect();
    assert_eq!(replies[100_000], Reply::Simple("QUEUED".into()));
    assert!(refusal(replies[100_001].clone()).contains("it may hold 100000 commands"));
    assert!(refusal(call(&mut client, &["EXEC"])).starts_with("EXECABORT"));
    // A command on many keys counts for each of them, and one that changes them has a bound of its own.
    let many = |name: &str, keys: usize| [name.to_owned()].into_iter().chain((0..keys).map(key)).collect::<Vec<_>>();
    call(&mut client, &["MULTI"]);
    assert_eq!(call(&mut client, &many("EXISTS", 60_000)), Reply::Simple("QUEUED".into()));
    assert!(refusal(call(&mut client, &many("DEL", 50_000))).contains("it may hold 100000 commands"));
    assert!(refusal(call(&mut client, &["EXEC"])).starts_with("EXECABORT"));
    assert!(refusal(call(&mut client, &many("DEL", 50_001))).contains("one command may change 50000"));
    assert_eq!(call(&mut client, &many("DEL", 50_000)), Reply::Integer(0));
    // The changes of a transaction are one entry: a few words may ask for many of them.
    assert_eq!(call(&mut client, &["SET", "k", &value]), Reply::Simple("OK".into()));
    call(&mut client, &["MULTI"]);
    for n in 0..100 {
        call(&mut client, &["COPY", "k", &format!("copy:{n}")]);
    }
    let refused = refusal(call(&mut client, &["EXEC"]));
    assert_eq!(refused, "ERR the changes are too large for one log entry; nothing was done");
    assert_eq!(call(&mut client, &["DBSIZE"]), Reply::Integer(1));
    // A reply, alone and of a transaction.
    let many: Vec<&str> = ["MGET"].into_iter().chain(std::iter::repeat_n("k", 300)).collect();
    assert!(refusal(call(&mut client, &many)).contains("reply-bytes-max"));
    call(&mut client, &["MULTI"]);
    for _ in 0..2 {
        assert_eq!(call(&mut client, &many[..150]), Reply::Simple("QUEUED".into()));
    }
    let refused = refusal(call(&mut client, &["EXEC"]));
    assert_eq!(refused, "ERR the replies of the transaction are too large together; nothing was done");
    assert_eq!(call(&mut client, &["STRLEN", "k"]), Reply::Integer(1 << 20));
}
