//! The core of a node, driven by hand: what waits for the disk, what does not, and what a crash leaves.

#![allow(clippy::unwrap_used)]

mod driver;

use bytes::Bytes;
use driver::{Driver, limits};

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
    assert_eq!(driver.replies(first), ":1 | :2", "the commands of one client that came together run together");
    assert_eq!(driver.replies(second), ":3");
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
    driver.sync_one();
    assert_eq!(driver.replies(other), "", "and a node that lost its leadership meanwhile must not tell it");
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
fn a_watched_version_is_no_newer_than_what_a_read_beside_it_saw() {
    let mut driver = Driver::new();
    let (writer, watcher) = (driver.connect(), driver.connect());
    driver.request(writer, "SET k new");
    driver.end_turn();
    // The write is logged and not durable: GET does not see it, and so WATCH must not have.
    driver.request(watcher, "WATCH k");
    assert_eq!(driver.call(watcher, "GET k"), "+OK | $-1");
    driver.sync_all();
    driver.request(watcher, "MULTI");
    driver.request(watcher, "SET k mine");
    assert_eq!(driver.settle(watcher, "EXEC"), "+OK | +QUEUED | *-1");
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
        driver.pass(100);
        driver.sync_all();
        rounds += 1;
        assert!(rounds < 10, "eight sweeps of 158 keys are enough");
    }
    let left: i64 = driver.call(client, "TTL stays")[1..].parse().unwrap();
    assert!((98..=100).contains(&left), "{left}");
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
        // What was under way may have got far enough, but not half.
        let kept = driver.call(client, "EXISTS unanswered");
        assert_eq!(driver.call(client, "DBSIZE"), if kept == ":1" { ":21" } else { ":20" }, "seed {seed}");
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
    driver.pass(0);
    assert_eq!(driver.replies(client), "");
    driver.pass(0);
    assert_eq!(driver.replies(client), "+OK");
}

#[test]
fn a_failed_engine_is_an_error_and_not_a_reply() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.engine.fail_writes("the disk is gone");
    driver.call(client, "SET k v");
    let (range, ticket) = driver.submitted.pop_front().unwrap();
    driver.node.handle_durable(driver.now, range, ticket);
    let error = driver.node.end_turn(driver.now).unwrap_err();
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
fn long_replies_leave_in_shares_and_only_while_the_client_reads() {
    let mut driver = Driver::new();
    let client = driver.connect();
    let value = Bytes::from(vec![b'x'; 500 << 10]);
    driver.request_args(client, vec![Bytes::from("SET"), Bytes::from("k"), value]);
    driver.end_turn();
    driver.sync_all();
    driver.replies(client);
    for _ in 0..9 {
        driver.request(client, "GET k");
    }
    let count = |driver: &mut Driver| driver.replies.remove(&client).unwrap_or_default().len();
    driver.end_turn();
    assert_eq!(count(&mut driver), 3, "a megabyte a turn");
    assert_eq!(driver.node.poll_timeout(driver.now), std::time::Duration::ZERO);
    driver.node.stall(client);
    driver.end_turn();
    assert_eq!(count(&mut driver), 0);
    driver.node.go_on(client);
    driver.end_turn();
    driver.end_turn();
    assert_eq!(count(&mut driver), 6);
    assert_eq!(driver.call(client, "STRLEN k"), ":512000");
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
        driver.pass(100);
        assert!(!driver.submitted.is_empty(), "there is more to remove");
        assert!(driver.longest_payload <= limits().entry_bytes_max);
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
