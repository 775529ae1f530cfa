//! The core of a node, driven by hand: what waits for the disk, what does not, and what a crash leaves.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use dstore_kv::Limits;
use dstore_node::{Append, ClientAddress, Facts, Host, Node, NodeLimits, Now, Output, SessionId, Usage};
use dstore_resp::encode;
use dstore_storage::MemoryEngine;

struct Nowhere;

impl Host for Nowhere {
    fn usage(&self) -> Usage {
        Usage::default()
    }
}

fn limits() -> NodeLimits {
    let commands =
        Limits { key_bytes_max: 8 << 10, value_bytes_max: 3 << 20, reply_bytes_max: 5 << 20, ..Limits::default() };
    NodeLimits { commands, multi_bytes_max: 64 << 20, entry_bytes_max: 5 << 20, inflight_bytes_max: 1 << 20 }
}

/// A node with an engine in memory and a log that is durable when the test says so.
struct Driver {
    engine: Arc<MemoryEngine>,
    node: Node<Arc<MemoryEngine>>,
    now: Now,
    /// Submitted and not durable.
    submitted: VecDeque<Append>,
    /// On the imagined disk.
    disk: Vec<Append>,
    replies: BTreeMap<SessionId, Vec<String>>,
    events: Vec<&'static str>,
}

impl Driver {
    fn new() -> Driver {
        Driver::over(Arc::new(MemoryEngine::new()), Vec::new(), Now { wall_us: 1_000_000_000 })
    }

    fn over(engine: Arc<MemoryEngine>, disk: Vec<Append>, now: Now) -> Driver {
        let mut node = Node::new(engine.clone(), limits(), Facts::default(), Box::new(Nowhere), 7, now).unwrap();
        for append in &disk {
            node.restore(append.position, &append.payload).unwrap();
        }
        if let Some(append) = disk.last() {
            node.handle_durable(append.position.index).unwrap();
        }
        let (submitted, replies, events) = (VecDeque::new(), BTreeMap::new(), Vec::new());
        Driver { engine, node, now, submitted, disk, replies, events }
    }

    fn connect(&mut self) -> SessionId {
        self.node.connect(self.now, ClientAddress::default())
    }

    /// One request, in a turn that goes on.
    fn request(&mut self, session: SessionId, line: &str) {
        let args = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        self.request_args(session, args);
    }

    fn request_args(&mut self, session: SessionId, args: Vec<Bytes>) {
        self.node.handle_request(self.now, session, args).unwrap();
        self.collect();
    }

    /// One request that is a turn of its own, and all the replies that it brings.
    fn call(&mut self, session: SessionId, line: &str) -> String {
        self.request(session, line);
        self.end_turn();
        self.replies(session)
    }

    /// The same, and the disk keeps up.
    fn settle(&mut self, session: SessionId, line: &str) -> String {
        self.request(session, line);
        self.end_turn();
        self.sync_all();
        self.replies(session)
    }

    fn end_turn(&mut self) {
        self.node.end_turn();
        self.collect();
    }

    /// The oldest submitted entry reaches the disk.
    fn sync_one(&mut self) {
        let append = self.submitted.pop_front().expect("an entry was submitted");
        let index = append.position.index;
        self.disk.push(append);
        self.node.handle_durable(index).unwrap();
        self.collect();
    }

    fn sync_all(&mut self) {
        while !self.submitted.is_empty() {
            self.sync_one();
        }
    }

    fn collect(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Reply { session, reply, version } => {
                    let mut text = Vec::new();
                    encode(&reply, version, &mut text);
                    let text = String::from_utf8(text).unwrap().replace("\r\n", " ");
                    self.replies.entry(session).or_default().push(text.trim_end().to_owned());
                }
                Output::Append(append) => self.submitted.push_back(append),
                Output::Close { .. } => self.events.push("close"),
                Output::Pause { .. } => self.events.push("pause"),
                Output::Resume { .. } => self.events.push("resume"),
            }
        }
    }

    fn replies(&mut self, session: SessionId) -> String {
        self.replies.remove(&session).unwrap_or_default().join(" | ")
    }

    /// The machine loses power and starts again: the engine forgets what it had not flushed, the log what it had not
    /// synced.
    fn lose_power(self, seed: u64) -> Driver {
        self.engine.lose_power(seed);
        Driver::over(self.engine, self.disk, self.now)
    }
}

#[test]
fn a_write_is_answered_when_its_entry_is_durable_and_not_before() {
    let mut driver = Driver::new();
    let client = driver.connect();
    assert_eq!(driver.call(client, "SET k v"), "");
    driver.sync_one();
    assert_eq!(driver.replies(client), "+OK");
    assert_eq!(driver.call(client, "GET k"), "$1 v");
}

#[test]
fn commands_of_one_turn_share_an_entry() {
    let mut driver = Driver::new();
    let (first, second) = (driver.connect(), driver.connect());
    driver.request(first, "INCR n");
    driver.request(second, "INCR n");
    driver.request(first, "INCR n");
    driver.end_turn();
    assert_eq!(driver.submitted.len(), 1);
    driver.sync_one();
    assert_eq!(driver.replies(first), ":1 | :3");
    assert_eq!(driver.replies(second), ":2");
}

#[test]
fn a_read_of_another_client_sees_only_what_is_durable() {
    let mut driver = Driver::new();
    let (writer, reader) = (driver.connect(), driver.connect());
    driver.settle(writer, "SET k old");
    driver.call(writer, "SET k new");
    assert_eq!(driver.call(reader, "GET k"), "$3 old");
    driver.sync_one();
    assert_eq!(driver.call(reader, "GET k"), "$3 new");
}

#[test]
fn a_read_behind_ones_own_write_sees_it_and_waits_for_it() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.request(client, "SET k v");
    driver.request(client, "GET k");
    driver.request(client, "PING");
    driver.end_turn();
    assert_eq!(driver.call(client, "GET k"), "");
    assert_eq!(driver.submitted.len(), 1, "reads make no entries");
    driver.sync_one();
    assert_eq!(driver.replies(client), "+OK | $1 v | +PONG | $1 v");
}

#[test]
fn a_reply_that_saw_an_unsynced_write_of_another_client_waits_for_it() {
    let mut driver = Driver::new();
    let (writer, other) = (driver.connect(), driver.connect());
    driver.call(writer, "SET k v");
    assert_eq!(driver.call(other, "SETNX k w"), "", "it failed because of a write that may yet be lost");
    assert_eq!(driver.submitted.len(), 1, "and changes nothing itself");
    driver.sync_one();
    assert_eq!(driver.replies(other), ":0");
}

#[test]
fn a_block_is_one_entry_and_its_commands_see_each_other() {
    let mut driver = Driver::new();
    let client = driver.connect();
    for line in ["MULTI", "SET a 1", "INCR a", "GET a", "EXEC"] {
        driver.request(client, line);
    }
    driver.end_turn();
    assert_eq!(driver.submitted.len(), 1);
    driver.sync_one();
    assert_eq!(driver.replies(client), "+OK | +QUEUED | +QUEUED | +QUEUED | *3 +OK :2 $1 2");
}

#[test]
fn a_block_with_an_error_while_queueing_does_nothing() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.call(client, "MULTI");
    assert_eq!(driver.call(client, "SET a"), "-ERR wrong number of arguments for 'set' command");
    assert_eq!(driver.call(client, "SET a 1"), "+QUEUED");
    assert_eq!(driver.call(client, "EXEC"), "-EXECABORT Transaction discarded because of previous errors.");
    assert_eq!(driver.call(client, "GET a"), "$-1");
    assert_eq!(driver.call(client, "EXEC"), "-ERR EXEC without MULTI");
}

#[test]
fn exec_does_nothing_if_a_watched_key_was_written_even_to_the_same_value() {
    let mut driver = Driver::new();
    let (watcher, other) = (driver.connect(), driver.connect());
    driver.settle(watcher, "SET k 1");
    driver.settle(watcher, "WATCH k");
    driver.call(other, "SET k 1");
    driver.call(watcher, "MULTI");
    driver.call(watcher, "SET k 2");
    driver.call(watcher, "EXEC");
    driver.sync_all();
    assert_eq!(driver.replies(watcher), "*-1");
    assert_eq!(driver.call(watcher, "GET k"), "$1 1");
    driver.call(watcher, "MULTI");
    driver.call(watcher, "SET k 2");
    assert_eq!(driver.settle(watcher, "EXEC"), "*1 +OK", "the watch is over");
}

#[test]
fn exec_goes_on_if_watched_keys_stayed_absent_or_untouched() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.settle(client, "SET k 1");
    driver.settle(client, "WATCH k nothing");
    driver.call(client, "MULTI");
    driver.call(client, "GET k");
    assert_eq!(driver.settle(client, "EXEC"), "*1 $1 1");
}

#[test]
fn exec_does_nothing_if_a_watched_key_expired() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.settle(client, "SET k 1 PX 50");
    driver.settle(client, "WATCH k");
    driver.now.wall_us += 100_000;
    driver.call(client, "MULTI");
    driver.call(client, "GET k");
    assert_eq!(driver.settle(client, "EXEC"), "*-1");
}

#[test]
fn a_key_past_its_deadline_is_found_gone_through_the_log() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.settle(client, "SET k v PX 50");
    driver.now.wall_us += 100_000;
    assert_eq!(driver.call(client, "GET k"), "", "the log does not know yet that it is so late");
    assert_eq!(driver.submitted.len(), 1, "an entry that carries the time");
    driver.sync_one();
    assert_eq!(driver.replies(client), "$-1");
    driver.now.wall_us -= 90_000;
    assert_eq!(driver.call(client, "GET k"), "$-1", "a clock that steps back does not bring it back");
}

#[test]
fn a_write_that_found_a_key_expired_keeps_the_time_although_it_changes_nothing() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.settle(client, "SET k v PX 50");
    driver.now.wall_us += 100_000;
    assert_eq!(driver.settle(client, "SET k w XX"), "$-1");
    driver.now.wall_us -= 90_000;
    assert_eq!(driver.settle(client, "GET k"), "$-1", "it was told gone and must stay so");
}

#[test]
fn expired_keys_go_unasked() {
    let mut driver = Driver::new();
    let client = driver.connect();
    for n in 0..1200 {
        driver.request(client, &format!("SET k{n} v PX 50"));
    }
    driver.settle(client, "SET stays v PX 100000");
    driver.replies(client);
    assert_eq!(driver.call(client, "DBSIZE"), ":1201");
    driver.now.wall_us += 200_000;
    let mut rounds = 0;
    while driver.call(client, "DBSIZE") != ":1" {
        driver.now.wall_us += driver.node.poll_timeout(driver.now) * 1000;
        driver.node.handle_timeout(driver.now).unwrap();
        driver.end_turn();
        driver.sync_all();
        rounds += 1;
        assert!(rounds < 10, "eight sweeps of 158 keys are enough");
    }
    assert_eq!(driver.call(client, "TTL stays"), ":100");
}

#[test]
fn a_power_loss_keeps_what_was_answered() {
    for seed in 0..50 {
        let mut driver = Driver::new();
        let client = driver.connect();
        for n in 0..20 {
            driver.settle(client, &format!("SET k{n} {n}"));
        }
        driver.call(client, "SET unanswered x");
        assert_eq!(driver.replies(client), "");
        let mut driver = driver.lose_power(seed);
        let client = driver.connect();
        for n in 0..20 {
            assert_eq!(
                driver.call(client, &format!("STRLEN k{n}")),
                format!(":{}", n.to_string().len()),
                "seed {seed}"
            );
        }
        assert_eq!(driver.call(client, "EXISTS unanswered"), ":0");
        assert_eq!(driver.call(client, "DBSIZE"), ":20");
        assert_eq!(driver.settle(client, "INCR k7"), ":8");
    }
}

#[test]
fn a_block_that_grows_beyond_an_entry_is_undone_whole() {
    let mut driver = Driver::new();
    let (client, other) = (driver.connect(), driver.connect());
    driver.settle(client, "SET before 1");
    driver.call(other, "SET pending 1");
    let value = Bytes::from(vec![b'x'; 2 << 20]);
    driver.call(client, "MULTI");
    driver.call(client, "SET before 2");
    for key in ["a", "b", "c"] {
        driver.request_args(client, vec![Bytes::from("SET"), Bytes::from(key), value.clone()]);
    }
    driver.replies(client);
    driver.request(other, "SET same-turn 1");
    driver.request(client, "EXEC");
    driver.end_turn();
    driver.sync_all();
    assert_eq!(driver.replies(client), "-ERR the changes are too large for one log entry; nothing was done");
    assert_eq!(driver.replies(other), "+OK | +OK");
    assert_eq!(driver.call(client, "MGET before a b c pending same-turn"), "*6 $1 1 $-1 $-1 $-1 $1 1 $1 1");
    assert_eq!(driver.call(client, "DBSIZE"), ":3");
}

#[test]
fn too_many_writes_in_flight_are_told_and_so_is_their_end() {
    let mut driver = Driver::new();
    let client = driver.connect();
    let value = Bytes::from(vec![b'x'; 600 << 10]);
    for key in ["a", "b"] {
        assert!(!driver.node.is_congested());
        driver.request_args(client, vec![Bytes::from("SET"), Bytes::from(key), value.clone()]);
    }
    assert!(driver.node.is_congested());
    driver.end_turn();
    driver.sync_all();
    assert!(!driver.node.is_congested());
}

#[test]
fn a_client_with_too_many_replies_waiting_is_paused() {
    let mut driver = Driver::new();
    let client = driver.connect();
    for _ in 0..5000 {
        driver.request(client, "INCR n");
    }
    assert_eq!(driver.events, ["pause"]);
    driver.end_turn();
    driver.sync_all();
    assert_eq!(driver.events, ["pause", "resume"]);
}

#[test]
fn a_client_who_quits_gets_his_replies_first() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.request(client, "SET k v");
    driver.request(client, "QUIT");
    driver.request(client, "SET k ignored");
    driver.end_turn();
    assert!(driver.events.is_empty());
    driver.sync_all();
    assert_eq!(driver.replies(client), "+OK | +OK");
    assert_eq!(driver.events, ["close"]);
}

#[test]
fn a_client_who_left_does_not_take_his_writes_with_him() {
    let mut driver = Driver::new();
    let (client, other) = (driver.connect(), driver.connect());
    driver.call(client, "SET k v");
    driver.node.disconnect(client);
    let successor = driver.connect();
    driver.sync_all();
    assert_eq!(driver.replies(client), "");
    assert_eq!(driver.replies(successor), "", "he sits in the same slot, but the reply is not his");
    assert_eq!(driver.call(other, "GET k"), "$1 v");
}

#[test]
fn a_busy_engine_delays_the_reply_and_loses_nothing() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.engine.refuse_writes(2);
    assert_eq!(driver.settle(client, "SET k v"), "");
    assert!(driver.node.is_behind());
    driver.node.handle_timeout(driver.now).unwrap();
    driver.collect();
    assert_eq!(driver.replies(client), "");
    driver.node.handle_timeout(driver.now).unwrap();
    driver.collect();
    assert_eq!(driver.replies(client), "+OK");
}

#[test]
fn a_failed_engine_is_an_error_and_not_a_reply() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.engine.fail_writes("the disk is gone");
    driver.call(client, "SET k v");
    let append = driver.submitted.pop_front().unwrap();
    let error = driver.node.handle_durable(append.position.index).unwrap_err();
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    driver.collect();
    assert_eq!(driver.replies(client), "");
}

#[test]
fn databases_are_apart_and_hello_chooses_the_protocol() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.settle(client, "SET k zero");
    assert_eq!(driver.call(client, "SELECT 1"), "+OK");
    assert_eq!(driver.call(client, "GET k"), "$-1");
    assert_eq!(driver.call(client, "SELECT 16"), "-ERR DB index is out of range");
    let hello = driver.call(client, "HELLO 3 SETNAME me");
    assert!(hello.starts_with("%7 $6 server $5 redis"), "{hello}");
    assert_eq!(driver.call(client, "GET k"), "_");
    assert_eq!(driver.call(client, "CLIENT GETNAME"), "$2 me");
    assert_eq!(driver.call(client, "RESET"), "+RESET");
    assert_eq!(driver.call(client, "GET k"), "$4 zero");
}

#[test]
fn a_client_whose_waiting_replies_are_long_is_paused_before_they_are_many() {
    let mut driver = Driver::new();
    let client = driver.connect();
    let value = Bytes::from(vec![b'x'; 500 << 10]);
    driver.request_args(client, vec![Bytes::from("SET"), Bytes::from("k"), value]);
    for _ in 0..2 {
        driver.request(client, "GET k");
        assert!(driver.events.is_empty());
    }
    driver.request(client, "GET k");
    assert_eq!(driver.events, ["pause"]);
    driver.end_turn();
    driver.sync_all();
    assert_eq!(driver.events, ["pause", "resume"]);
}

#[test]
fn a_block_whose_replies_would_be_too_large_together_does_nothing() {
    let mut driver = Driver::new();
    let client = driver.connect();
    let value = Bytes::from(vec![b'x'; 2 << 20]);
    driver.request_args(client, vec![Bytes::from("SET"), Bytes::from("k"), value]);
    driver.end_turn();
    driver.sync_all();
    driver.call(client, "MULTI");
    driver.call(client, "SET other 1");
    for _ in 0..3 {
        driver.call(client, "GET k");
    }
    driver.replies(client);
    let refusal = "-ERR the replies of the transaction are too large together; nothing was done";
    let bystander = driver.connect();
    driver.request(bystander, "SET bystander 1");
    assert_eq!(driver.settle(client, "EXEC"), refusal);
    assert_eq!(driver.call(client, "MGET other bystander"), "*2 $-1 $1 1");

    driver.call(client, "MULTI");
    for _ in 0..3 {
        driver.call(client, "GET k");
    }
    driver.replies(client);
    driver.request(bystander, "SET bystander 2");
    assert_eq!(driver.settle(client, "EXEC"), refusal, "reads alone too, and they undo nothing");
    assert_eq!(driver.call(client, "GET bystander"), "$1 2");
}

#[test]
fn an_http_request_is_hung_up_on_before_its_body() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.request(client, "POST / HTTP/1.1");
    driver.request(client, "SET k v");
    driver.end_turn();
    assert_eq!((driver.replies(client).as_str(), &driver.events[..]), ("", &["close"][..]));
    assert!(driver.submitted.is_empty());
}

#[test]
fn a_sweep_of_the_longest_keys_fits_an_entry() {
    let mut driver = Driver::new();
    let client = driver.connect();
    for n in 0..1500 {
        let key = format!("{n:08000}");
        assert_eq!(driver.settle(client, &format!("SET {key} v PX 50")), "+OK");
    }
    driver.now.wall_us += 1_000_000;
    while driver.call(client, "DBSIZE") != ":0" {
        driver.now.wall_us += driver.node.poll_timeout(driver.now) * 1000;
        driver.node.handle_timeout(driver.now).unwrap();
        driver.end_turn();
        assert!(driver.submitted.iter().all(|append| append.payload.len() <= limits().entry_bytes_max));
        assert!(!driver.submitted.is_empty(), "there is more to remove");
        driver.sync_all();
    }
}

#[test]
fn an_error_waits_for_the_replies_before_it() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.request(client, "SET k v");
    driver.request(client, "GET");
    driver.request(client, "MULTI");
    driver.end_turn();
    assert_eq!(driver.replies(client), "", "neither needs the disk, both are behind what does");
    driver.sync_one();
    assert_eq!(driver.replies(client), "+OK | -ERR wrong number of arguments for 'get' command | +OK");
}

#[test]
fn a_watched_key_that_was_found_expired_stays_gone() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.settle(client, "SET k 1 PX 50");
    driver.settle(client, "WATCH k");
    driver.now.wall_us += 100_000;
    driver.call(client, "MULTI");
    assert_eq!(driver.settle(client, "EXEC"), "*-1");
    driver.now.wall_us -= 90_000;
    assert_eq!(driver.settle(client, "EXISTS k"), ":0");
}
