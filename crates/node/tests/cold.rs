//! Work on data that is not in memory: it waits elsewhere, others are served, and it is done once and whole.

#![allow(clippy::unwrap_used)]

mod driver;

use driver::Driver;

/// A node with `key:0` to `key:9`, each holding its number, of which nothing is in memory.
fn cold() -> Driver {
    let mut driver = Driver::new();
    let client = driver.connect();
    for n in 0..10 {
        assert_eq!(driver.settle(client, &format!("SET key:{n} {n}")), "+OK");
    }
    let driver = driver.lose_power(1);
    driver.engine.set_cold(1, 0, false);
    let mut driver = Driver { ..driver };
    driver.end_turn();
    driver.sync_all();
    driver
}

/// What is read from now on is in memory, or is not.
fn set_cold(driver: &Driver, cold: bool) {
    driver.engine.set_cold(u64::from(cold), 0, false);
}

#[test]
fn a_read_waits_elsewhere_and_others_are_served() {
    let mut driver = cold();
    let (waiting, other) = (driver.connect(), driver.connect());
    assert_eq!(driver.call(waiting, "GET key:1"), "");
    assert_eq!(driver.readings.len(), 1);
    set_cold(&driver, false);
    assert_eq!(driver.settle(other, "GET key:2"), "$1 2");
    assert_eq!(driver.settle(other, "SET key:1 new"), "+OK");
    driver.read_one();
    assert_eq!(driver.replies(waiting), "$3 new", "it was granted the state of then, or a later one");
}

#[test]
fn what_is_still_not_in_memory_after_three_rehearsals_is_waited_for() {
    let mut driver = cold();
    let client = driver.connect();
    assert_eq!(driver.call(client, "GET key:1"), "");
    driver.read_one();
    driver.read_one();
    assert_eq!(driver.replies(client), "");
    driver.read_one();
    assert_eq!(driver.replies(client), "$1 1");
    assert!(driver.readings.is_empty());
}

#[test]
fn commands_of_a_connection_keep_their_order_whatever_waits() {
    let mut driver = cold();
    let client = driver.connect();
    for line in ["INCR key:1", "GET key:1", "APPEND key:2 x", "MGET key:1 key:2 key:3", "DEL key:2", "EXISTS key:2"] {
        driver.request(client, line);
    }
    driver.end_turn();
    driver.read_all();
    assert_eq!(driver.replies(client), ":2 | $1 2 | :2 | *3 $1 2 $2 2x $1 3 | :1 | :0");
}

#[test]
fn a_block_that_finds_something_not_in_memory_half_way_leaves_no_half() {
    let mut driver = cold();
    let (client, other) = (driver.connect(), driver.connect());
    set_cold(&driver, false);
    // Of what the block needs this alone is in the cache of records.
    assert_eq!(driver.call(other, "GET key:1"), "$1 1");
    set_cold(&driver, true);
    for line in ["MULTI", "APPEND key:1 x", "APPEND key:2 x"] {
        driver.request(client, line);
    }
    assert_eq!(driver.call(client, "EXEC"), "+OK | +QUEUED | +QUEUED");
    driver.sync_all();
    set_cold(&driver, false);
    assert_eq!(driver.settle(other, "MGET key:1 key:2"), "*2 $1 1 $1 2");
    set_cold(&driver, true);
    driver.read_all();
    assert_eq!(driver.replies(client), "*2 :2 :2");
    set_cold(&driver, false);
    assert_eq!(driver.settle(other, "MGET key:1 key:2"), "*2 $2 1x $2 2x");
}

#[test]
fn expired_keys_that_are_not_in_memory_are_removed_all_the_same() {
    let mut driver = cold();
    let client = driver.connect();
    set_cold(&driver, false);
    for n in 0..10 {
        assert_eq!(driver.settle(client, &format!("PEXPIRE key:{n} 50")), ":1");
    }
    set_cold(&driver, true);
    for _ in 0..10 {
        driver.pass(100);
        driver.read_all();
    }
    set_cold(&driver, false);
    assert_eq!(driver.settle(client, "DBSIZE"), ":0");
}

#[test]
fn a_client_who_left_is_not_written_for() {
    let mut driver = cold();
    let (client, other) = (driver.connect(), driver.connect());
    assert_eq!(driver.call(client, "INCR key:1"), "");
    driver.node.disconnect(client);
    driver.read_all();
    set_cold(&driver, false);
    assert_eq!(driver.settle(other, "GET key:1"), "$1 1");
}

#[test]
fn a_scan_goes_on_where_it_was() {
    let mut driver = cold();
    let client = driver.connect();
    let mut seen = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        driver.request(client, &format!("SCAN {cursor} COUNT 3"));
        driver.end_turn();
        driver.read_all();
        let reply = driver.replies(client);
        let words: Vec<&str> = reply.split(' ').collect();
        seen.extend(words.iter().filter(|word| word.starts_with("key:")).map(|word| (*word).to_owned()));
        cursor = words[2].to_owned();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen, (0..10).map(|n| format!("key:{n}")).collect::<Vec<_>>());
}
