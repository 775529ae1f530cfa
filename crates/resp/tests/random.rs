//! Random input: our codec beside that of the `redis-protocol` crate, and hostile bytes.
//!
//! `DSTORE_TEST_SEED` replays a run, `DSTORE_TEST_ROUNDS` makes it longer.

mod common;

use bytes::{Bytes, BytesMut};
use common::{Random, RequestFeed, decode_in_pieces, decode_replies, multibulk, rounds};
use dstore_resp::{Decoded, Limits, ProtocolVersion, Reply, ReplyDecoder, ReplyLimits, encode};
use redis_protocol::resp2::types::BytesFrame as Frame2;
use redis_protocol::resp3::types::{BytesFrame as Frame3, VerbatimStringFormat};
use redis_protocol::{resp2, resp3};

fn random_length(random: &mut Random) -> usize {
    match random.below(100) {
        0 => 4096 + random.below(20_000),
        1..10 => random.below(5000),
        _ => random.below(20),
    }
}

fn random_request(random: &mut Random) -> Vec<Vec<u8>> {
    let count = if random.one_in(20) { 1 + random.below(300) } else { 1 + random.below(6) };
    (0..count)
        .map(|_| {
            let length = random_length(random);
            random.bytes(length)
        })
        .collect()
}

fn random_lengths(random: &mut Random, total: usize) -> Vec<usize> {
    let longest = [1, 3, 30, 1000, 20_000][random.below(5)];
    let mut lengths = Vec::new();
    let mut sum = 0;
    while sum < total {
        lengths.push(1 + random.below(longest));
        sum += lengths[lengths.len() - 1];
    }
    lengths
}

/// The arguments, if the other codec takes the input for an array of bulk strings; and how many bytes they are.
fn their_request(input: &[u8]) -> Option<(Vec<Bytes>, usize)> {
    let (frame, used) = resp2::decode::decode_bytes(&Bytes::copy_from_slice(input)).ok()??;
    let Frame2::Array(items) = frame else {
        return None;
    };
    let args = items.into_iter().map(|item| match item {
        Frame2::BulkString(arg) => Some(arg),
        _ => None,
    });
    Some((args.collect::<Option<_>>()?, used))
}

#[test]
fn random_requests_decode_alike_here_there_and_in_pieces() {
    let mut random = Random::from_environment();
    for _ in 0..rounds(300) {
        let requests: Vec<_> = (0..1 + random.below(8)).map(|_| random_request(&mut random)).collect();
        let input: Vec<u8> = requests.iter().flat_map(|args| multibulk(args)).collect();
        let lengths = random_lengths(&mut random, input.len());
        let outcome = decode_in_pieces(&input, lengths, Limits::default());
        assert_eq!(outcome.error, None);
        assert_eq!(outcome.requests, requests);
        let mut rest = &input[..];
        for args in &outcome.requests {
            let (theirs, used) = their_request(rest).expect("the other codec takes it too");
            assert_eq!(*args, theirs);
            rest = &rest[used..];
        }
        assert!(rest.is_empty());
    }
}

const TOKENS: &[&[u8]] = &[
    b"*",
    b"$",
    b"\r\n",
    b"\r",
    b"\n",
    b"-1",
    b"0",
    b"*1\r\n",
    b"$0\r\n",
    b"99999999999999999999",
    b"2147483647",
    b"*1000000\r\n",
    b"$536870912\r\n",
    b"$4097\r\n",
    b"\"",
    b"'",
    b"\\x",
    b"\\",
    b" ",
    b"%1\r\n",
    b"~2\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",1.5\r\n",
    b"=5\r\ntxt:a",
    b"(12\r\n",
    b">1\r\n",
    b"|1\r\n",
    b"!3\r\n",
    b"*9223372036854775807\r\n",
    b"$9223372036854775807\r\n",
];

fn mutate(random: &mut Random, input: &mut Vec<u8>) {
    for _ in 0..random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(4) {
            0 if at < input.len() => input[at] = random.next() as u8,
            1 => drop(input.drain(at..(at + random.below(10)).min(input.len()))),
            2 => input.truncate(at.max(1)),
            _ => {
                let token = TOKENS[random.below(TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
        }
    }
}

#[test]
fn hostile_requests_never_panic_nor_hold_much_memory_and_splitting_changes_nothing() {
    let mut random = Random::from_environment();
    let limits = Limits { bulk_bytes_max: 1 << 20, request_bytes_max: 2 << 20 };
    let (mut decoded, mut refused, mut compared) = (0, 0, 0);
    for _ in 0..rounds(20_000) {
        let mut input = match random.below(4) {
            0 => {
                let length = random.below(100);
                random.bytes(length)
            }
            1 => (0..random.below(30)).flat_map(|_| TOKENS[random.below(TOKENS.len())]).copied().collect(),
            _ => (0..1 + random.below(3)).flat_map(|_| multibulk(&random_request(&mut random))).collect(),
        };
        mutate(&mut random, &mut input);
        let whole = decode_in_pieces(&input, [], limits.clone());
        let mut feed = RequestFeed::new(limits.clone());
        let mut rest = &input[..];
        for length in random_lengths(&mut random, input.len()) {
            let (piece, after) = rest.split_at(length.min(rest.len()));
            feed.feed(piece);
            rest = after;
            let held = feed.decoder.held_bytes();
            assert!(held <= limits.request_bytes_max && held <= 64 * 1024 + 16 * input.len(), "holds {held} bytes");
        }
        assert_eq!(feed.outcome, whole, "{}", input.escape_ascii());
        decoded += whole.requests.len();
        refused += usize::from(whole.error.is_some());
        if let (Some(ours), Some((theirs, _))) = (whole.requests.first(), their_request(&input))
            && !theirs.is_empty()
        {
            assert_eq!(*ours, theirs, "{}", input.escape_ascii());
            compared += 1;
        }
    }
    println!("{decoded} requests decoded, {refused} inputs refused, {compared} requests compared");
    assert!(decoded > 0 && refused > 0 && compared > 0, "the generator has lost its variety");
}

fn random_reply(random: &mut Random, depth: usize) -> Reply {
    let text = |random: &mut Random| {
        let length = random_length(random);
        Bytes::from(random.bytes(length).iter().map(|byte| b' ' + byte % 90).collect::<Vec<_>>())
    };
    match random.below(if depth == 0 { 11 } else { 15 }) {
        0 => Reply::Simple("OK"),
        1 => Reply::Status(text(random)),
        2 => Reply::Error(text(random)),
        3 => Reply::Integer((random.next() as i64) >> random.below(64)),
        4 | 5 => {
            let length = random_length(random);
            Reply::Bulk(Bytes::from(random.bytes(length)))
        }
        6 => Reply::Null,
        7 => Reply::NullArray,
        8 => Reply::Boolean(random.one_in(2)),
        9 => Reply::BigNumber(Bytes::from(random.next().to_string())),
        10 => Reply::Verbatim("txt", text(random)),
        11 => Reply::Array((0..random.below(5)).map(|_| random_reply(random, depth - 1)).collect()),
        12 => Reply::Push((0..random.below(5)).map(|_| random_reply(random, depth - 1)).collect()),
        // The other codec keeps these in hash tables: with one member their order does not matter.
        13 => Reply::Set(vec![Reply::Integer(random.next() as i64)]),
        _ => Reply::Map(vec![(Reply::Bulk(text(random)), random_reply(random, depth - 1))]),
    }
}

fn frame2(reply: &Reply) -> Frame2 {
    let items = |items: &[Reply]| Frame2::Array(items.iter().map(frame2).collect());
    match reply {
        Reply::Simple(text) => Frame2::SimpleString(Bytes::from_static(text.as_bytes())),
        Reply::Status(text) => Frame2::SimpleString(text.clone()),
        Reply::Error(text) => Frame2::Error(String::from_utf8_lossy(text).into_owned().into()),
        Reply::Integer(value) => Frame2::Integer(*value),
        Reply::Bulk(bytes) | Reply::Verbatim(_, bytes) | Reply::BigNumber(bytes) => Frame2::BulkString(bytes.clone()),
        Reply::Null => Frame2::Null,
        Reply::Boolean(value) => Frame2::Integer((*value).into()),
        Reply::Array(all) | Reply::Set(all) | Reply::Push(all) => items(all),
        Reply::Map(pairs) => {
            Frame2::Array(pairs.iter().flat_map(|(key, value)| [frame2(key), frame2(value)]).collect())
        }
        Reply::NullArray | Reply::Double(_) | Reply::Encoded(_) | Reply::Pieces(_) => unreachable!("not compared"),
    }
}

fn frame3(reply: &Reply) -> Frame3 {
    let items = |items: &[Reply]| items.iter().map(frame3).collect::<Vec<_>>();
    let attributes = None;
    match reply {
        Reply::Simple(text) => Frame3::SimpleString { data: Bytes::from_static(text.as_bytes()), attributes },
        Reply::Status(text) => Frame3::SimpleString { data: text.clone(), attributes },
        Reply::Error(text) => {
            Frame3::SimpleError { data: String::from_utf8_lossy(text).into_owned().into(), attributes }
        }
        Reply::Integer(data) => Frame3::Number { data: *data, attributes },
        Reply::Bulk(data) => Frame3::BlobString { data: data.clone(), attributes },
        Reply::Verbatim(_, data) => {
            Frame3::VerbatimString { data: data.clone(), format: VerbatimStringFormat::Text, attributes }
        }
        Reply::BigNumber(data) => Frame3::BigNumber { data: data.clone(), attributes },
        Reply::Null | Reply::NullArray => Frame3::Null,
        Reply::Boolean(data) => Frame3::Boolean { data: *data, attributes },
        Reply::Array(all) => Frame3::Array { data: items(all), attributes },
        Reply::Push(all) => Frame3::Push { data: items(all), attributes },
        Reply::Set(all) => Frame3::Set { data: items(all).into_iter().collect(), attributes },
        Reply::Map(pairs) => {
            Frame3::Map { data: pairs.iter().map(|(key, value)| (frame3(key), frame3(value))).collect(), attributes }
        }
        Reply::Double(_) | Reply::Encoded(_) | Reply::Pieces(_) => unreachable!("not compared"),
    }
}

/// RESP2's null array, which the other codec does not know as such.
fn holds_null_array(reply: &Reply) -> bool {
    match reply {
        Reply::NullArray => true,
        Reply::Array(items) | Reply::Push(items) | Reply::Set(items) => items.iter().any(holds_null_array),
        Reply::Map(pairs) => pairs.iter().any(|(key, value)| holds_null_array(key) || holds_null_array(value)),
        _ => false,
    }
}

#[test]
fn random_replies_encode_alike_here_and_there_and_come_back() {
    let mut random = Random::from_environment();
    for _ in 0..rounds(3000) {
        let reply = random_reply(&mut random, 4);
        let mut ours = Vec::new();
        encode(&reply, ProtocolVersion::Resp3, &mut ours);
        let mut theirs = BytesMut::new();
        resp3::encode::complete::extend_encode(&mut theirs, &frame3(&reply), false).expect("a valid frame");
        assert_eq!(ours.escape_ascii().to_string(), theirs.escape_ascii().to_string());
        come_back(&mut random, &ours, ProtocolVersion::Resp3);

        ours.clear();
        encode(&reply, ProtocolVersion::Resp2, &mut ours);
        come_back(&mut random, &ours, ProtocolVersion::Resp2);
        if !holds_null_array(&reply) {
            theirs.clear();
            resp2::encode::extend_encode(&mut theirs, &frame2(&reply), false).expect("a valid frame");
            assert_eq!(ours.escape_ascii().to_string(), theirs.escape_ascii().to_string());
        }
    }
}

/// Decodes a reply, whole and in pieces, and encodes it again to the same bytes.
fn come_back(random: &mut Random, encoded: &[u8], version: ProtocolVersion) {
    let whole = decode_replies(encoded);
    assert_eq!(whole.len(), 1);
    let mut again = Vec::new();
    encode(&whole[0], version, &mut again);
    assert_eq!(again.escape_ascii().to_string(), encoded.escape_ascii().to_string());
    let lengths = random_lengths(random, encoded.len());
    assert_eq!(replies_in_pieces(encoded, lengths), (whole, None));
}

fn replies_in_pieces(input: &[u8], lengths: Vec<usize>) -> (Vec<Reply>, Option<String>) {
    let mut decoder = ReplyDecoder::new(ReplyLimits { reply_bytes_max: 1 << 20 });
    let (mut buffer, mut replies, mut rest) = (Vec::new(), Vec::new(), input);
    for length in lengths {
        let (piece, after) = rest.split_at(length.min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = after;
        while !buffer.is_empty() {
            match decoder.decode(&buffer) {
                Ok(Decoded::Message(reply, used)) => {
                    buffer.drain(..used);
                    replies.push(reply);
                }
                Ok(Decoded::Skip(used)) => drop(buffer.drain(..used)),
                Ok(Decoded::Incomplete { .. }) => break,
                Err(error) => return (replies, Some(error.to_string())),
            }
        }
    }
    (replies, None)
}

#[test]
fn hostile_replies_never_panic_and_splitting_changes_nothing() {
    let mut random = Random::from_environment();
    let (mut decoded, mut refused) = (0, 0);
    for _ in 0..rounds(10_000) {
        let mut input = Vec::new();
        if random.one_in(3) {
            (0..random.below(30)).for_each(|_| input.extend_from_slice(TOKENS[random.below(TOKENS.len())]));
        } else {
            let version = if random.one_in(2) { ProtocolVersion::Resp2 } else { ProtocolVersion::Resp3 };
            (0..1 + random.below(3)).for_each(|_| encode(&random_reply(&mut random, 3), version, &mut input));
        }
        mutate(&mut random, &mut input);
        let lengths = random_lengths(&mut random, input.len());
        let whole = replies_in_pieces(&input, vec![input.len()]);
        let pieces = replies_in_pieces(&input, lengths);
        assert_eq!(format!("{pieces:?}"), format!("{whole:?}"), "{}", input.escape_ascii());
        decoded += whole.0.len();
        refused += usize::from(whole.1.is_some());
    }
    assert!(decoded > 0 && refused > 0, "the generator has lost its variety");
}
