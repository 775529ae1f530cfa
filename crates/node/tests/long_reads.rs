//! Reads that take long: others are served meanwhile, and the answer is that of one moment.

#![allow(clippy::unwrap_used)]

mod driver;

use bytes::Bytes;
use driver::Driver;

const KEYS: usize = 5_000;

fn filled() -> Driver {
    let mut driver = Driver::new();
    let client = driver.connect();
    for first in (0..KEYS).step_by(1_000) {
        let pairs = (first..first + 1_000).flat_map(|n| [format!("key:{n:05}"), "v".to_owned()]);
        let args = [Bytes::from("MSET")].into_iter().chain(pairs.map(Bytes::from)).collect();
        driver.request_args(client, args);
        driver.end_turn();
        driver.sync_all();
    }
    driver.replies(client);
    driver
}

/// Other threads read until the client is answered.
fn read_until_answered(driver: &mut Driver, client: dstore_node::SessionId) -> String {
    loop {
        let reply = driver.replies(client);
        if !reply.is_empty() {
            return reply;
        }
        assert!(driver.submitted.is_empty(), "a read writes nothing");
        driver.read_one();
    }
}

#[test]
fn others_are_served_while_keys_walks_and_what_they_write_does_not_show() {
    let mut driver = filled();
    let (long, other) = (driver.connect(), driver.connect());
    assert_eq!(driver.call(long, "KEYS *"), "", "it has only begun");
    assert_eq!(driver.settle(other, "GET key:00007"), "$1 v");
    assert_eq!(driver.replies(long), "", "there is more to walk over");
    assert_eq!(driver.settle(other, "SET key:99999 new"), "+OK");
    assert_eq!(driver.settle(other, "DEL key:04999"), ":1");
    let reply = read_until_answered(&mut driver, long);
    assert!(reply.starts_with(&format!("*{KEYS} $9 key:00000 ")) && reply.ends_with("key:04999"), "{}", &reply[..80]);
    driver.request(long, "KEYS *");
    driver.end_turn();
    assert!(read_until_answered(&mut driver, long).ends_with("key:99999"));
}

#[test]
fn the_commands_of_a_connection_keep_their_order_around_a_long_read() {
    let mut driver = filled();
    let client = driver.connect();
    for line in ["SET key:0 first", "KEYS key:0", "DEL key:0", "KEYS key:0", "GET key:0"] {
        driver.request(client, line);
    }
    driver.end_turn();
    driver.read_all();
    assert_eq!(driver.replies(client), "+OK | *1 $5 key:0 | :1 | *0 | $-1");
}

#[test]
fn more_long_reads_than_run_at_a_time_are_all_answered() {
    let mut driver = filled();
    let clients: Vec<_> = (0..12).map(|_| driver.connect()).collect();
    for client in &clients {
        driver.request(*client, "KEYS *9");
    }
    driver.end_turn();
    assert_eq!(driver.readings.len(), 2, "as many as may run at a time");
    // One that leaves is not waited for, and neither is what is read for it.
    driver.node.disconnect(clients[0]);
    driver.node.disconnect(clients[3]);
    driver.pass(60);
    for client in clients.into_iter().enumerate().filter(|(at, _)| ![0, 3].contains(at)).map(|(_, client)| client) {
        assert!(read_until_answered(&mut driver, client).starts_with("*500 "));
    }
}

#[test]
fn a_long_read_is_not_given_up_while_it_is_under_way_or_waits_in_line() {
    let mut driver = filled();
    let clients: Vec<_> = (0..3).map(|_| driver.connect()).collect();
    for client in &clients {
        driver.request(*client, "KEYS *9");
    }
    driver.end_turn();
    for _ in 0..200 {
        driver.pass(50);
    }
    for client in clients {
        assert!(read_until_answered(&mut driver, client).starts_with("*500 "));
    }
}

#[test]
fn a_key_whose_deadline_only_the_clock_has_passed_takes_the_log_s_word() {
    let mut driver = filled();
    let client = driver.connect();
    assert_eq!(driver.settle(client, "PEXPIRE key:04000 50"), ":1");
    driver.now.wall_us += 60_000;
    assert_eq!(driver.call(client, "KEYS key:04*"), "");
    driver.read_all();
    assert!(driver.replies(client).starts_with("*999 "));
}
