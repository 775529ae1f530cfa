//! Data that cannot be read makes an error for the node, never a reply for a client.

use std::cell::Cell;
use std::ops::Range;

use bytes::Bytes;
use dstore_kv::{
    Context, CorruptReason, Cursors, Direction, Limits, Mode, View, ViewError, Visitor, evaluate, sweep, version_of,
};
use dstore_resp::resolve;
use dstore_storage::layout::{HeadError, Stamp, chunk, key, local};

use crate::support::{Data, RANGE, Store, setting, words};
use dstore_testkit::requests::Generator;

/// A view that fails at one of its calls.
struct Failing<'a> {
    data: &'a Data,
    calls_left: Cell<u64>,
}

impl Failing<'_> {
    fn call(&self) -> Result<(), ViewError> {
        match self.calls_left.get().checked_sub(1) {
            Some(left) => self.calls_left.set(left),
            None => return Err(ViewError::Unreadable("the disk is gone".into())),
        }
        Ok(())
    }
}

impl View for Failing<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.call()?;
        self.data.get(key)
    }

    fn scan(&self, span: Range<&[u8]>, direction: Direction, visit: &mut Visitor<'_>) -> Result<(), ViewError> {
        self.call()?;
        self.data.scan(span, direction, visit)
    }
}

#[test]
fn a_view_that_fails_at_any_call_makes_no_reply() {
    let seed = setting("KV_SEED", 1);
    println!("KV_SEED={seed}");
    let mut generator = Generator::new(seed);
    let mut store = Store::new(1_000_000);
    let limits = Limits::default();
    for number in 0..5_000 {
        // Long values at the end: they cost more.
        generator.large = number >= 4_700;
        let request = generator.request();
        let Ok(spec) = resolve(&request) else { continue };
        let mut failures = 0;
        for calls in 0.. {
            let view = Failing { data: &store.data, calls_left: Cell::new(calls) };
            let mode = Mode::Write { stamp: store.next_stamp(), ordinal: 0 };
            let mut cursors = Cursors::new(0);
            let context = Context { db: 0, range: RANGE, mode, now_ms: 0, limits: &limits, cursors: &mut cursors };
            match evaluate(spec, &request, &view, context) {
                Err(ViewError::Unreadable(_)) => failures += 1,
                Err(other) => panic!("{other}"),
                Ok(outcome) => {
                    let through_the_log = store.log(spec, &request);
                    // Cursors and random choices come out of another table.
                    let of_the_table =
                        ["scan", "randomkey"].map(|name| request[0].eq_ignore_ascii_case(name.as_bytes()));
                    assert!(outcome == through_the_log || of_the_table.contains(&true), "{request:?}");
                    break;
                }
            }
        }
        assert!(failures < 50, "{request:?} reads the data {failures} times");
    }
}

fn reason(data: &Data, line: &str) -> CorruptReason {
    let args = words(line);
    let spec = resolve(&args).expect("a request");
    let (limits, mut cursors) = (Limits::default(), Cursors::new(0));
    let mode = Mode::Write { stamp: Stamp::from_ms(1), ordinal: 0 };
    let context = Context { db: 0, range: RANGE, mode, now_ms: 0, limits: &limits, cursors: &mut cursors };
    match evaluate(spec, &args, data, context) {
        Err(ViewError::Corrupt { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_that_no_build_wrote_is_named() {
    let mut data = Data::default();
    data.0.insert(key::encode(0, b"k").to_vec(), Bytes::from_static(b"\x77\0\0\0\0\0\0\0\0\x01v"));
    let unknown = CorruptReason::Head(HeadError::UnknownKind(0x77));
    for line in ["get k", "set k v", "del k", "keys *", "scan 0", "kv.range a z", "incr k"] {
        assert_eq!(reason(&data, line), unknown, "{line}");
    }
    let error = version_of(&data, 0, b"k", Stamp::ZERO).expect_err("an unknown kind");
    assert_eq!(error.to_string(), "corrupt data at key b\"\\x03\\0k\\0\\x01\": unknown kind 0x77 in a head record");

    let mut data = Data::default();
    data.0.insert(b"\x03\x00no end".to_vec(), Bytes::new());
    assert!(matches!(reason(&data, "keys *"), CorruptReason::Key(_)));

    let mut data = Data::default();
    data.0.insert(local::count_key(RANGE, 0).to_vec(), Bytes::from_static(b"odd"));
    assert_eq!(reason(&data, "dbsize"), CorruptReason::Count);
    assert_eq!(reason(&data, "set k v"), CorruptReason::Count);

    let mut store = Store::new(1);
    store.run(&words("set k v"));
    store.data.0.remove(&local::count_key(RANGE, 0)[..]);
    assert_eq!(reason(&store.data, "del k"), CorruptReason::CountTooLow { count: 0 });

    let mut store = Store::new(1);
    store.run(&[Bytes::from("set"), Bytes::from("k"), Bytes::from(vec![b'x'; 70_000])]);
    let (_, _, head, _) = store.data.heads().remove(0);
    let chunk_key = chunk::chunk_key(&key::encode(0, b"k"), head.generation.unwrap(), 1);
    let kept = store.data.0.insert(chunk_key.to_vec(), Bytes::from(vec![b'x'; 16_385])).unwrap();
    for line in ["get k", "getrange k 16384 16385", "setbit k 131072 1", "copy k l", "bitcount k"] {
        assert_eq!(reason(&store.data, line), CorruptReason::Chunk, "{line}");
    }
    store.data.0.insert(chunk_key.to_vec(), kept);
    store.data.0.insert([&chunk_key[..], b"x"].concat(), Bytes::new());
    assert_eq!(reason(&store.data, "get k"), CorruptReason::Chunk);

    let mut data = Data::default();
    data.0.insert(local::expiry_key(RANGE, 1, &chunk_key).to_vec(), Bytes::new());
    let swept = sweep(&data, RANGE, Stamp::from_ms(2), 0, 10);
    assert!(matches!(swept, Err(ViewError::Corrupt { reason: CorruptReason::ExpiryIndex, .. })));

    let mut data = Data::default();
    data.0.insert(local::expiry_bound(RANGE, 1), Bytes::new());
    let swept = sweep(&data, RANGE, Stamp::from_ms(2), 0, 10);
    assert!(matches!(swept, Err(ViewError::Corrupt { reason: CorruptReason::ExpiryIndex, .. })));
}
