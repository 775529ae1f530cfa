//! Reads in portions have the outcome of reads at once.

use bytes::Bytes;
use dstore_kv::{Context, LongRead, Mode, Outcome};
use dstore_resp::{ProtocolVersion, Reply, encode, resolve};

use crate::support::{RANGE, Store, words};

/// What replies are encoded in. MGET's null is another in the other one.
const VERSION: ProtocolVersion = ProtocolVersion::Resp3;

fn encoded(reply: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(reply, VERSION, &mut bytes);
    bytes
}

/// The outcome, and in how many portions it came.
fn in_portions(store: &mut Store, request: &[Bytes]) -> (Outcome, u64) {
    let spec = resolve(request).unwrap();
    let mut read = LongRead::begin(store.db, spec, request, VERSION, &store.limits).expect("it is a long one");
    for portions in 1.. {
        let mode = Mode::Read { applied: store.applied };
        let (db, now_ms) = (store.db, store.now_ms);
        let context = Context { db, range: RANGE, mode, now_ms, limits: &store.limits, cursors: &mut store.cursors };
        if let Some(outcome) = read.go_on(&store.data, context).unwrap() {
            return (outcome, portions);
        }
    }
    unreachable!("it ends")
}

fn many(name: &str, keys: impl Iterator<Item = u32>) -> Vec<Bytes> {
    [Bytes::copy_from_slice(name.as_bytes())].into_iter().chain(keys.map(|n| Bytes::from(format!("key:{n}")))).collect()
}

/// 4,000 keys: one in seven long, one in five with a deadline, every one of a third of those past.
fn store() -> Store {
    let mut store = Store::new(1_000_000);
    for n in 0..4_000 {
        let value = "v".repeat(if n % 700 == 0 { 100_000 } else { n % 50 });
        let mut set = words("set key value");
        (set[1], set[2]) = (Bytes::from(format!("key:{n}")), Bytes::from(value));
        store.run(&set);
        if n % 5 == 0 {
            store.run(&words(&format!("pexpireat key:{n} {}", 2_000_000 + n % 3 * 1_000_000)));
        }
    }
    store.now_ms = 2_500_000;
    store.run(&words("set other value"));
    store
}

#[test]
fn a_read_in_portions_has_the_outcome_of_one_at_once() {
    let mut store = store();
    for (name, value) in [("first", "abcab".repeat(400)), ("second", "bca".repeat(700))] {
        store.run(&[Bytes::from("set"), Bytes::from(name), Bytes::from(value)]);
    }
    let lines = ["keys *", "keys key:1*", "keys nothing", "keys key:3999", "kv.range key: key:2 keysonly"];
    let ranges = ["kv.range a z", "kv.range a z reverse", "kv.range a z limit 2500", "kv.range a z limit 0"];
    let more = ["kv.range a z reverse limit 2500 keysonly", "kv.range z a", "kv.range key:2 key:3 reverse"];
    let lcs = ["lcs first second", "lcs first second len", "lcs second first idx withmatchlen", "lcs first none"];
    let lines = lines.iter().chain(&ranges).chain(&more).chain(&lcs).map(|line| words(line));
    let keys = [many("mget", 0..5_000), many("exists", (0..5_000).rev()), many("touch", (0..700).map(|n| n % 3))];
    let mut most = 0;
    for request in lines.chain(keys) {
        let at_once = store.read(resolve(&request).unwrap(), &request);
        let (outcome, portions) = in_portions(&mut store, &request);
        let beginning = &request[..request.len().min(5)];
        assert!(encoded(&outcome.reply) == encoded(&at_once.reply), "{beginning:?}");
        let without_reply = |outcome| Outcome { reply: Reply::Null, ..outcome };
        assert_eq!(without_reply(outcome), without_reply(at_once), "{beginning:?}");
        most = most.max(portions);
    }
    assert!(most >= 40, "{most} portions at most");
}

#[test]
fn limits_hold_for_all_portions_together() {
    let mut store = store();
    store.limits.walk_keys_max = 3_000;
    store.limits.reply_bytes_max = 300_000;
    for (request, error) in [
        (words("keys nothing*x"), None),
        (words("keys *x"), Some("walk-keys-max")),
        (words("kv.range a z limit 2500 keysonly"), None),
        (words("kv.range a z"), Some("reply-bytes-max")),
        (many("mget", 0..4_000), Some("reply-bytes-max")),
    ] {
        let (outcome, _) = in_portions(&mut store, &request);
        match (&outcome.reply, error) {
            (Reply::Error(text), Some(error)) => assert!(String::from_utf8_lossy(text).contains(error), "{text:?}"),
            (reply, expected) => assert!(expected.is_none() && !matches!(reply, Reply::Error(_)), "{request:?}"),
        }
    }
}

#[test]
fn a_deadline_that_only_the_clock_has_passed_needs_time_in_any_portion() {
    let mut store = store();
    store.now_ms = 3_500_000;
    for request in [words("keys *"), many("mget", (0..4_000).rev())] {
        let (outcome, _) = in_portions(&mut store, &request);
        assert!(outcome.needs_time, "{:?}", request[0]);
    }
}

#[test]
fn a_walk_in_one_go_is_shorter_than_one_in_portions() {
    let mut store = Store::new(1_000_000);
    for first in (0..100_001).step_by(1_000) {
        let pairs = (first..(first + 1_000).min(100_001)).flat_map(|n| [format!("key:{n}"), String::new()]);
        let request: Vec<Bytes> = ["mset".to_owned()].into_iter().chain(pairs).map(Bytes::from).collect();
        store.run(&request);
    }
    let request = words("keys *x");
    let at_once = |store: &mut Store, line: &str| {
        let request = words(line);
        store.read(resolve(&request).unwrap(), &request).reply
    };
    assert_eq!(in_portions(&mut store, &request).0.reply, Reply::Pieces(vec![Bytes::from("*0\r\n")]));
    assert_eq!(at_once(&mut store, "keys key:77*x"), Reply::Array(Vec::new()), "a corner of them");
    for line in ["keys *x", "kv.range a z keysonly"] {
        let Reply::Error(text) = at_once(&mut store, line) else { panic!("{line} walks over too many") };
        assert!(String::from_utf8_lossy(&text).contains("walk-keys-max"), "{text:?}");
    }
}
