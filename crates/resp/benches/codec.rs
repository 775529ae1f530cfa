//! What decoding a SET and encoding its answer costs: our codec beside that of the `redis-protocol` crate.
//!
//! `cargo bench -p dstore-resp --bench codec`. Each figure is the fastest of many short rounds, so that
//! a busy machine does not matter much, in nanoseconds per request or reply, the release of its memory included. The
//! last table feeds one MSET of many arguments in pieces of 16 KiB.

#![allow(clippy::disallowed_methods, clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dstore_resp::{Decoded, Limits, ProtocolVersion, Reply, RequestDecoder, encode, resolve};
use redis_protocol::resp2::decode as their_decode;
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::BytesFrame;

const ROUNDS: usize = 1000;
const OPERATIONS_PER_ROUND: usize = 1600;
const PIPELINE: usize = 16;
const PIECE_BYTES: usize = 16 * 1024;

fn main() {
    let value = "v".repeat(100);
    let set = format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:000000012345\r\n$100\r\n{value}\r\n").into_bytes();
    let get = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000012345\r\n".to_vec();

    println!("{:<52} {:>8} {:>16}", "ns each", "ours", "redis-protocol");
    for (name, request) in [("SET", &set), ("GET", &get)] {
        for count in [1, PIPELINE] {
            let input = request.repeat(count);
            let ours = measure(count, || decode_ours(&input));
            let owned = measure(count, || decode_theirs_owned(&input));
            let shared = measure(count, || decode_theirs_bytes_mut(&input));
            row(&format!("decode {name}, {count} in the input"), ours, &format!("{owned:.0} owned"));
            row("", ours, &format!("{shared:.0} BytesMut"));
        }
    }

    let args = [Bytes::from_static(b"SET"), Bytes::from_static(b"k"), Bytes::from_static(b"v")];
    let resolving = measure(1, || {
        black_box(resolve(black_box(&args)).expect("SET k v is right"));
    });
    row("find SET in the command table, check its arity", resolving, "-");

    let bulk = Bytes::from(value);
    let cases = [
        ("encode +OK", Reply::OK, BytesFrame::SimpleString(Bytes::from_static(b"OK"))),
        ("encode a bulk string of 100 bytes", Reply::Bulk(bulk.clone()), BytesFrame::BulkString(bulk)),
        ("encode an integer", Reply::Integer(1234567), BytesFrame::Integer(1234567)),
    ];
    for (name, reply, frame) in &cases {
        let mut out = Vec::with_capacity(64 * 1024);
        let ours = measure(PIPELINE, || {
            out.clear();
            for _ in 0..PIPELINE {
                encode(black_box(reply), ProtocolVersion::Resp2, &mut out);
            }
            black_box(&out);
        });
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        let theirs = measure(PIPELINE, || {
            buffer.clear();
            for _ in 0..PIPELINE {
                extend_encode(&mut buffer, black_box(frame), false).expect("there is room");
            }
            black_box(&buffer);
        });
        row(name, ours, &format!("{theirs:.0}"));
    }

    println!("\n{:<52} {:>8} {:>16}", "one MSET in pieces of 16 KiB, ms", "ours", "redis-protocol");
    for (arg_count, theirs_too) in [(10_001, true), (20_001, true), (40_001, true), (1_000_001, false)] {
        let request = mset(arg_count);
        let fastest = |work: &dyn Fn()| (0..5).map(|_| once(work)).min().unwrap_or_default().as_secs_f64() * 1e3;
        let ours = fastest(&|| pieces_ours(&request, arg_count));
        let theirs =
            if theirs_too { format!("{:.1}", fastest(&|| pieces_theirs(&request, arg_count))) } else { "-".to_owned() };
        println!("{:<52} {ours:>8.1} {theirs:>16}", format!("{arg_count} arguments, {} bytes", request.len()));
    }
}

fn row(name: &str, ours: f64, theirs: &str) {
    println!("{name:<52} {ours:>8.0} {theirs:>16}");
}

/// Nanoseconds per operation of the fastest round; `work` does `operations` of them.
fn measure(operations: usize, mut work: impl FnMut()) -> f64 {
    let calls = OPERATIONS_PER_ROUND / operations;
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        best = best.min(once(|| (0..calls).for_each(|_| work())));
    }
    best.as_nanos() as f64 / (calls * operations) as f64
}

fn once(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn decode_ours(input: &[u8]) {
    let mut decoder = RequestDecoder::new(Limits::default());
    let mut rest = black_box(input);
    while !rest.is_empty() {
        match decoder.decode(rest) {
            Ok(Decoded::Message(args, used)) => {
                black_box(&args);
                rest = &rest[used..];
            }
            other => panic!("{other:?}"),
        }
    }
}

fn decode_theirs_owned(input: &[u8]) {
    let mut rest = black_box(input);
    while let Ok(Some((frame, used))) = their_decode::decode(rest) {
        black_box(&frame);
        rest = &rest[used..];
    }
    assert!(rest.is_empty());
}

fn decode_theirs_bytes_mut(input: &[u8]) {
    let mut buffer = BytesMut::from(black_box(input));
    while let Ok(Some((frame, _, _))) = their_decode::decode_bytes_mut(&mut buffer) {
        black_box(&frame);
    }
    assert!(buffer.is_empty());
}

fn mset(arg_count: usize) -> Vec<u8> {
    let mut request = format!("*{arg_count}\r\n$4\r\nMSET\r\n").into_bytes();
    for number in 1..arg_count {
        request.extend_from_slice(format!("$8\r\n{number:08}\r\n").as_bytes());
    }
    request
}

fn pieces_ours(request: &[u8], arg_count: usize) {
    let mut decoder = RequestDecoder::new(Limits::default());
    let mut input = Vec::new();
    for piece in request.chunks(PIECE_BYTES) {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&input) {
                Ok(Decoded::Message(args, used)) => {
                    assert_eq!((args.len(), used), (arg_count, input.len()));
                    return;
                }
                Ok(Decoded::Skip(used)) => drop(input.drain(..used)),
                Ok(Decoded::Incomplete { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    panic!("no request");
}

fn pieces_theirs(request: &[u8], arg_count: usize) {
    let mut buffer = BytesMut::new();
    for piece in request.chunks(PIECE_BYTES) {
        buffer.extend_from_slice(piece);
        if let Some((BytesFrame::Array(args), _, _)) = their_decode::decode_bytes_mut(&mut buffer).expect("valid") {
            assert_eq!(args.len(), arg_count);
            return;
        }
    }
    panic!("no request");
}
