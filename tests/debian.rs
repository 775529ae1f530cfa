//! Real input: every stanza of Debian's package index, tens of thousands of keys of one to several kilobytes, loaded
//! through `redis-cli --pipe`, read back, and again after a restart and after a kill.

#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking, as tests do

use std::collections::BTreeMap;
use std::process::Command;

use dstore_e2e::connect;
use dstore_testkit::process::{Dstore, Server, run};
use dstore_testkit::scratch::Scratch;

/// The index of the machine's own package manager, by package, version and architecture.
fn stanzas() -> BTreeMap<String, String> {
    let text = run(Command::new("apt-cache").arg("dumpavail"), b"");
    let stanzas: BTreeMap<String, String> =
        text.split("\n\n").filter_map(|s| Some((key_of(s)?, s.to_string()))).collect();
    assert!(stanzas.len() > 10_000, "only {} packages are known: run `apt-get update`", stanzas.len());
    stanzas
}

fn key_of(stanza: &str) -> Option<String> {
    let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Some(format!("package:{}:{}:{}", field("Package")?, field("Version")?, field("Architecture")?))
}

/// One SET in the Redis protocol.
fn set_request(key: &str, value: &str) -> Vec<u8> {
    format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len()).into_bytes()
}

fn assert_all_there(server: &Server, stanzas: &BTreeMap<String, String>) {
    let mut connection = connect(server.address());
    let all: Vec<(&String, &String)> = stanzas.iter().collect();
    for chunk in all.chunks(200) {
        let keys: Vec<&String> = chunk.iter().map(|(key, _)| *key).collect();
        let values: Vec<Option<String>> = redis::cmd("MGET").arg(&keys).query(&mut connection).unwrap();
        for ((key, stanza), value) in chunk.iter().zip(values) {
            assert_eq!(value.as_ref(), Some(*stanza), "{key}");
        }
    }
    let count: usize = redis::cmd("DBSIZE").query(&mut connection).unwrap();
    assert_eq!(count, stanzas.len());
    // The scan goes through a stock client as well and must see each key once.
    let scanned = run(Command::new("redis-cli").args(["-p", &server.port(), "--scan"]), b"");
    let mut scanned: Vec<&str> = scanned.lines().collect();
    scanned.sort_unstable();
    assert!(scanned.iter().copied().eq(stanzas.keys().map(String::as_str)), "SCAN gave {} keys", scanned.len());
}

#[test]
fn every_debian_package_is_kept_and_survives_restarts() {
    let stanzas = stanzas();
    let scratch = Scratch::new("debian");
    let data = scratch.directory("data");
    let dstore = Dstore::on(&data);
    let server = dstore.start(&scratch).unwrap();

    let requests: Vec<u8> = stanzas.iter().flat_map(|(key, stanza)| set_request(key, stanza)).collect();
    let printed = run(Command::new("redis-cli").args(["-p", &server.port(), "--pipe"]), &requests);
    assert!(printed.contains(&format!("errors: 0, replies: {}", stanzas.len())), "{printed}");
    assert_all_there(&server, &stanzas);

    assert_eq!(server.stop().code(), Some(0));
    let mut server = dstore.start(&scratch).unwrap();
    assert_all_there(&server, &stanzas);

    server.kill();
    let server = dstore.start(&scratch).unwrap();
    assert_all_there(&server, &stanzas);
    assert_eq!(server.stop().code(), Some(0));
}
