//! Nanoseconds for one evaluation, over a `BTreeMap` of 100,000 keys: the cost of meaning, without disk, log or socket.
//!
//! `cargo bench -p dstore-kv`. The view's own look-up is measured beside, since it is part of every figure.

// A benchmark needs a clock, and somewhere to print.
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::{Bound, Range};
use std::time::Instant;

use bytes::Bytes;
use dstore_kv::{Context, Cursors, Direction, Limits, Mode, View, ViewError, Visitor, evaluate};
use dstore_resp::{CommandFlags, CommandSpec, resolve};
use dstore_storage::RangeId;
use dstore_storage::layout::{Chunked, Head, Stamp, chunk, key, local};

const KEYS: usize = 100_000;
const ROUNDS: usize = 2_000_000;

#[derive(Default)]
struct Data(BTreeMap<Bytes, Bytes>);

impl View for Data {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, span: Range<&[u8]>, direction: Direction, visit: &mut Visitor<'_>) -> Result<(), ViewError> {
        let mut entries = self.0.range::<[u8], _>((Bound::Included(span.start), Bound::Excluded(span.end)));
        while let Some((key, value)) = match direction {
            Direction::Forward => entries.next(),
            Direction::Backward => entries.next_back(),
        } {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn request(line: &str) -> (&'static CommandSpec, Vec<Bytes>) {
    let args: Vec<Bytes> = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
    (resolve(&args).expect("a request"), args)
}

fn measure(what: &str, rounds: usize, mut body: impl FnMut(usize)) {
    (0..rounds / 10).for_each(&mut body);
    let started = Instant::now();
    (0..rounds).for_each(&mut body);
    let each = started.elapsed().as_nanos() as f64 / rounds as f64;
    println!("{what:<40} {each:>10.0} ns");
}

/// A string of 16 MiB in chunks.
fn put_large(data: &mut Data) {
    let (data_key, generation, bits) = (key::encode(0, b"large"), 1, 14);
    let chunked = Some(Chunked { len: 16 << 20, bits });
    let head = Head { generation: Some(generation), chunked, ..Head::string(1, None) };
    data.0.insert(data_key.clone(), head.encode(b""));
    for index in 0..1024 {
        data.0.insert(chunk::chunk_key(&data_key, generation, index), Bytes::from(vec![b'x'; 1 << bits]));
    }
}

fn main() {
    let mut data = Data::default();
    let user_key = |n: usize| format!("key:{:012}", n % KEYS);
    for n in 0..KEYS {
        let record = Head::string(1, None).encode(&[b'x'; 64]);
        data.0.insert(key::encode(0, user_key(n).as_bytes()), record);
    }
    data.0.insert(local::count_key(RangeId(1), 0), local::encode_count(KEYS as u64 + 2));
    data.0.insert(key::encode(0, b"n"), Head::string(1, None).encode(b"41"));
    data.0.insert(key::encode(0, b"f"), Head::string(1, None).encode(b"0.1"));

    put_large(&mut data);

    let names: Vec<Bytes> = (0..1024).map(|n| Bytes::from(user_key(n * 97))).collect();
    let encoded: Vec<Bytes> = names.iter().map(|name| key::encode(0, name)).collect();
    measure("look-up in the view alone", ROUNDS, |n| {
        black_box(data.get(&encoded[n % 1024]).expect("a map does not fail"));
    });

    let (limits, mut cursors) = (Limits::default(), Cursors::new(0));
    let value = "v".repeat(64);
    let lines = [
        "GET @".to_owned(),
        format!("SET @ {value}"),
        format!("SET @ {value} EX 100"),
        format!("SET new:@ {value}"),
        "INCR n".to_owned(),
        "INCRBYFLOAT f 0.2".to_owned(),
        "DEL @".to_owned(),
        "SETBIT large 100000000 1".to_owned(),
        "SETRANGE large 5000000 0123456789".to_owned(),
        "GETRANGE large 5000000 5000100".to_owned(),
        "BITFIELD @ INCRBY u16 #3 1".to_owned(),
        "SCAN 0 COUNT 10".to_owned(),
        "SCAN 0 COUNT 100 MATCH *7".to_owned(),
        "KV.RANGE key:000000050000 key:000000060000 LIMIT 100".to_owned(),
    ];
    for line in lines {
        let (spec, mut args) = request(&line);
        let at = args.iter().position(|arg| arg.ends_with(b"@"));
        let prefix = at.map_or(Vec::new(), |at| args[at][..args[at].len() - 1].to_vec());
        let names: Vec<Bytes> = names.iter().map(|name| Bytes::from([&prefix[..], name].concat())).collect();
        let mode = match spec.flags.has(CommandFlags::WRITE) {
            true => Mode::Write { stamp: Stamp::from_ms(1_000), ordinal: 0 },
            false => Mode::Read { applied: Stamp::from_ms(1_000) },
        };
        let shown = line.replace(&value, "<64 bytes>");
        let rounds =
            if ["SCAN", "LIMIT", "large"].iter().any(|word| line.contains(word)) { ROUNDS / 50 } else { ROUNDS };
        measure(&shown, rounds, |n| {
            if let Some(at) = at {
                args[at] = names[n % 1024].clone();
            }
            let (range, cursors) = (RangeId(1), &mut cursors);
            let context = Context { db: 0, range, mode, now_ms: 1_000, limits: &limits, cursors };
            let _ = black_box(evaluate(spec, &args, &data, context).expect("a map does not fail"));
        });
    }
}
