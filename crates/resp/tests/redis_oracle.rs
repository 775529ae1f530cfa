//! Beside a real Redis 7.0: the command table, error texts, protocol errors and the encoding of replies.
//!
//! What differs on purpose, and why:
//!
//! - `KV.*` and `CLIENT SETINFO` are not in Redis 7.0 (the latter came with 7.2, and clients send it).
//! - `COMMAND DOCS`: summaries and complexities are in our own words and tell our own costs; `history` tells of Redis's
//!   releases and is left out.
//! - The subcommands of CLIENT and CONFIG are only those that exist here.
//! - `APPEND`, `FLUSHALL`, ...: flags, keys, categories and tips are Redis's even where our implementation could claim
//!   better, because clients and proxies decide by them.

mod common;

use bytes::Bytes;
use common::golden::GOLDEN;
use common::redis::{Client, Redis};
use common::{Random, decode_in_pieces, decode_replies, rounds};
use dstore_resp::{CommandSpec, Limits, ProtocolVersion, Reply, answer_command, encode, format_double, resolve};

/// Commands that Redis 7.0 does not have.
fn is_ours_alone(name: &str) -> bool {
    name.starts_with("kv.") || name == "client|setinfo"
}

fn names_to_compare() -> Vec<&'static str> {
    CommandSpec::all().iter().map(|spec| spec.full_name).filter(|name| !is_ours_alone(name)).collect()
}

fn encoded(reply: &Reply, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(reply, version, &mut bytes);
    bytes
}

fn words(line: &str) -> Vec<Bytes> {
    line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

/// What we answer to a request of the COMMAND family, as a client decodes it.
fn our_answer(args: &[Bytes]) -> Reply {
    let reply = match resolve(args) {
        Ok(spec) => answer_command(spec.id, args).expect("it is of the COMMAND family"),
        Err(error) => error,
    };
    decode_replies(&encoded(&reply, ProtocolVersion::Resp3)).remove(0)
}

/// Text of a bulk string or status; empty for anything else.
fn text(reply: &Reply) -> String {
    match reply {
        Reply::Bulk(bytes) | Reply::Status(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

/// Makes two descriptions comparable: what has no order is sorted, what differs on purpose removed.
fn comparable(reply: Reply) -> Reply {
    // Of COMMAND INFO's subcommands, which have no order, the name; empty for anything else.
    let subcommand = |item: &Reply| match item {
        Reply::Array(fields) => fields.first().map(text).filter(|name| name.contains('|')).unwrap_or_default(),
        _ => String::new(),
    };
    match reply {
        Reply::Set(items) => {
            let mut items: Vec<_> = items.into_iter().map(comparable).collect();
            items.sort_by_key(|item| format!("{item:?}"));
            Reply::Set(items)
        }
        Reply::Array(mut items) => {
            items.retain(|item| exists_on_both_sides(&subcommand(item)));
            items.sort_by_key(subcommand);
            Reply::Array(items.into_iter().map(comparable).collect())
        }
        Reply::Map(pairs) => {
            let keep = |key: &str| !["summary", "complexity", "history"].contains(&key) && exists_on_both_sides(key);
            let mut pairs: Vec<_> = pairs.into_iter().filter(|(key, _)| keep(&text(key))).collect();
            if pairs.iter().any(|(key, _)| text(key).contains('|')) {
                pairs.sort_by_key(|(key, _)| text(key));
            }
            Reply::Map(pairs.into_iter().map(|(key, value)| (key, comparable(value))).collect())
        }
        other => other,
    }
}

/// False only for a subcommand that is missing here or there.
fn exists_on_both_sides(name: &str) -> bool {
    !name.contains('|') || names_to_compare().contains(&name)
}

fn client_in_resp3(redis: &Redis) -> Client {
    let mut client = redis.connect();
    client.line("HELLO 3");
    client
}

#[test]
fn command_info_and_docs_are_redis_s() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let mut client = client_in_resp3(&redis);
    for name in names_to_compare() {
        for question in ["INFO", "DOCS"] {
            let line = format!("COMMAND {question} {name}");
            let (_, theirs) = client.line(&line);
            let (ours, theirs) = (comparable(our_answer(&words(&line))), comparable(theirs));
            assert_eq!(format!("{ours:#?}"), format!("{theirs:#?}"), "{line}");
        }
    }
    let (_, listed) = client.line("COMMAND LIST");
    let Reply::Array(listed) = listed else { panic!("{listed:?}") };
    let listed: Vec<_> = listed.iter().map(text).collect();
    let Reply::Array(ours) = our_answer(&words("COMMAND LIST")) else { panic!("COMMAND LIST gives an array") };
    for name in ours.iter().map(text).filter(|name| !is_ours_alone(name)) {
        assert!(listed.contains(&name), "Redis has no {name}");
    }
}

#[test]
fn questions_about_commands_are_answered_as_redis_does() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let mut client = client_in_resp3(&redis);
    let lines = [
        "COMMAND GETKEYS mset a b c d",
        "COMMAND GETKEYS mset a b c",
        "COMMAND GETKEYS MSET a",
        "COMMAND GETKEYS nosuch a",
        "COMMAND GETKEYS ping a",
        "COMMAND GETKEYS client foo",
        "COMMAND GETKEYS client setname foo",
        "COMMAND GETKEYS get",
        "COMMAND GETKEYS get a b",
        "COMMAND GETKEYS watch a b",
        "COMMAND GETKEYSANDFLAGS set a b",
        "COMMAND GETKEYSANDFLAGS set a b ex 10 GeT",
        "COMMAND GETKEYSANDFLAGS set get get",
        "COMMAND GETKEYSANDFLAGS mset a b c d",
        "COMMAND GETKEYSANDFLAGS del a b",
        "COMMAND GETKEYSANDFLAGS rename a b",
        "COMMAND GETKEYSANDFLAGS copy a b DB 1",
        "COMMAND GETKEYSANDFLAGS bitop and a b c",
        "COMMAND GETKEYSANDFLAGS bitop and a",
        "COMMAND GETKEYS bitop and a b c",
        "COMMAND GETKEYS lcs a b IDX",
        "COMMAND GETKEYS object encoding k",
        "COMMAND GETKEYS object help",
        "COMMAND GETKEYSANDFLAGS bitfield k",
        "COMMAND GETKEYSANDFLAGS bitfield k get u8 0",
        "COMMAND GETKEYSANDFLAGS bitfield k GET u8 0 GET u8 0 get",
        "COMMAND GETKEYSANDFLAGS bitfield k overflow sat get u8 0",
        "COMMAND GETKEYSANDFLAGS bitfield k get u8 0 set u8 0 1",
        "COMMAND GETKEYSANDFLAGS bitfield_ro k get u8 0",
        "COMMAND INFO nosuch client|nosuch a|b|c",
        "COMMAND DOCS nosuch client|nosuch",
        "COMMAND LIST FILTERBY MODULE x",
        "COMMAND LIST FILTERBY FOO nosuch",
        "COMMAND LIST FILTERBY ACLCAT",
        "COMMAND LIST FILTERBY ACLCAT nosuch",
        "COMMAND LIST FILTERBY PATTERN get",
        "COMMAND LIST FILTERBY PATTERN co[m-n]mand|C*",
        "COMMAND LIST FILTERBY PATTERN get x",
        "COMMAND LIST FOO",
        "COMMAND FOO",
        "COMMAND COUNT a",
    ];
    for line in lines {
        assert_eq!(our_answer(&words(line)), client.line(line).1, "{line}");
    }
    // Help is in our own words; its frame is Redis's.
    let frame = |reply: Reply| match reply {
        Reply::Array(lines) => (text(&lines[0]), text(&lines[lines.len() - 2]), text(&lines[lines.len() - 1])),
        other => panic!("{other:?}"),
    };
    assert_eq!(frame(our_answer(&words("COMMAND HELP"))), frame(client.line("COMMAND HELP").1));
}

#[test]
fn refused_requests_are_refused_in_redis_s_words() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let mut random = Random::from_environment();
    let mut client = redis.connect();
    let mut requests: Vec<Vec<Vec<u8>>> = Vec::new();
    for spec in CommandSpec::all().iter().filter(|spec| !is_ours_alone(spec.full_name)) {
        for count in 1..7 {
            let mut args: Vec<_> = spec.full_name.split('|').map(|word| word.to_uppercase().into_bytes()).collect();
            args.resize(count.max(args.len()), b"x".to_vec());
            requests.push(args);
        }
    }
    for _ in 0..rounds(500) {
        let count = 1 + random.below(4);
        let container = random.one_in(3);
        let mut args: Vec<_> = (0..count)
            .map(|_| {
                let longest = [3, 30, 130, 300][random.below(4)];
                let length = random.below(longest);
                random.bytes(length)
            })
            .collect();
        if container {
            args.insert(0, [&b"client"[..], b"Config", b"COMMAND"][random.below(3)].to_vec());
        }
        requests.push(args);
    }
    let mut refused = 0;
    for args in requests {
        let args: Vec<_> = args.into_iter().map(Bytes::from).collect();
        if let Err(error) = resolve(&args) {
            let (theirs, _) = client.call(&args);
            let ours = encoded(&error, ProtocolVersion::Resp2);
            assert_eq!(ours.escape_ascii().to_string(), theirs.escape_ascii().to_string());
            refused += 1;
        }
    }
    assert!(refused > 500, "only {refused} requests were refused");
}

#[test]
fn inputs_mean_to_redis_what_they_mean_here() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let end = b"\r\n*2\r\n$4\r\nECHO\r\n$7\r\nthe end\r\n";
    for (input, requests, error) in GOLDEN {
        let shown = input.escape_ascii();
        let outcome = decode_in_pieces(input, [], Limits::default());
        let mut client = redis.connect();
        client.send(input);
        if error.is_empty() {
            client.send(end);
        }
        for request in *requests {
            let (raw, reply) = client.receive().unwrap_or_else(|| panic!("{shown}: no answer to {request:?}"));
            let args: Vec<_> = request.iter().map(|arg| Bytes::from_static(arg)).collect();
            match resolve(&args) {
                Err(error) => assert_eq!(raw, encoded(&error, ProtocolVersion::Resp2), "{shown}"),
                Ok(spec) if spec.full_name == "echo" => assert_eq!(reply, Reply::Bulk(args[1].clone()), "{shown}"),
                Ok(_) => {}
            }
        }
        if let Some(error) = outcome.error {
            let (raw, _) = client.receive().unwrap_or_else(|| panic!("{shown}: no error"));
            assert_eq!(raw, encoded(&error.reply(), ProtocolVersion::Resp2), "{shown}");
            assert!(client.receive().is_none(), "{shown}: the connection is closed");
        } else {
            assert_eq!(client.receive().map(|(_, reply)| reply), Some(Reply::bulk_static("the end")), "{shown}");
        }
    }
}

#[test]
fn doubles_are_printed_as_redis_prints_them() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let mut random = Random::from_environment();
    let (mut resp2, mut resp3) = (redis.connect(), client_in_resp3(&redis));
    let mut values = vec![
        0.0,
        1.0,
        -1.5,
        0.1,
        0.3,
        1e15,
        1e16,
        1e17,
        1e18,
        123456789012345680.0,
        1e-4,
        1e-5,
        9.999e-5,
        5e-324,
        f64::MAX,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e100,
        0.30000000000000004,
        99999999999999990.0,
    ];
    for _ in 0..rounds(2000) {
        values.push(f64::from_bits(random.next()));
        values.push((random.next() as i32 as f64) / 1000.0);
    }
    for value in values.into_iter().filter(|value| !value.is_nan()) {
        resp2.call(&["ZADD", "z", &format!("{value:e}"), "m"]);
        let reply = Reply::Double(value);
        let (raw2, _) = resp2.call(&["ZSCORE", "z", "m"]);
        let (raw3, decoded) = resp3.call(&["ZSCORE", "z", "m"]);
        assert_eq!(encoded(&reply, ProtocolVersion::Resp2).escape_ascii().to_string(), raw2.escape_ascii().to_string());
        assert_eq!(encoded(&reply, ProtocolVersion::Resp3).escape_ascii().to_string(), raw3.escape_ascii().to_string());
        assert_eq!(decoded, reply, "{}", format_double(value));
    }
}

#[test]
fn replies_of_each_type_are_encoded_as_redis_encodes_them() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let (mut resp2, mut resp3) = (redis.connect(), client_in_resp3(&redis));
    resp2.line("SET s value");
    resp2.line("HSET h f v");
    resp2.line("SADD set a");
    resp2.line("RPUSH l a b c");
    let lines = [
        "PING",
        "ECHO x",
        "GET s",
        "GET missing",
        "STRLEN s",
        "DECR n",
        "INCR s",
        "NOSUCH",
        "HGETALL h",
        "SMEMBERS set",
        "LRANGE l 0 -1",
        "LRANGE l 5 6",
        "MGET s missing",
        "CONFIG GET save",
        "COMMAND INFO set client",
        "COMMAND DOCS set client",
        "LOLWUT",
        "MEMORY DOCTOR",
        "DEBUG PROTOCOL string",
        "DEBUG PROTOCOL integer",
        "DEBUG PROTOCOL double",
        "DEBUG PROTOCOL null",
        "DEBUG PROTOCOL array",
        "DEBUG PROTOCOL set",
        "DEBUG PROTOCOL map",
        "DEBUG PROTOCOL bignum",
        "DEBUG PROTOCOL true",
        "DEBUG PROTOCOL false",
        "DEBUG PROTOCOL verbatim",
    ];
    for line in lines {
        resp2.line("DEL n");
        let (raw2, _) = resp2.line(line);
        resp2.line("DEL n");
        let (raw3, reply) = resp3.line(line);
        assert_eq!(encoded(&reply, ProtocolVersion::Resp3).escape_ascii().to_string(), raw3.escape_ascii().to_string());
        assert_eq!(encoded(&reply, ProtocolVersion::Resp2).escape_ascii().to_string(), raw2.escape_ascii().to_string());
    }
    // An EXEC whose WATCH failed.
    for client in [&mut resp2, &mut resp3] {
        client.line("WATCH s");
        client.line("SET s other");
        client.line("MULTI");
    }
    assert_eq!(resp2.line("EXEC").0, encoded(&Reply::NullArray, ProtocolVersion::Resp2));
    assert_eq!(resp3.line("EXEC").0, encoded(&Reply::NullArray, ProtocolVersion::Resp3));
    // An attribute before a reply is read over; a push is a reply of its own.
    let (_, with_attribute) = resp3.line("DEBUG PROTOCOL attrib");
    assert_eq!(text(&with_attribute), "Some real reply following the attribute");
    assert_eq!(
        resp3.line("DEBUG PROTOCOL push").1,
        Reply::Push(vec![Reply::bulk_static("server-cpu-usage"), Reply::Integer(42)])
    );
}
