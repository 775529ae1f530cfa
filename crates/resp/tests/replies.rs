//! Replies byte by byte, in both versions of the protocol, and back. That Redis writes the same is shown by
//! `redis_oracle.rs`, where Redis is installed.

mod common;

use bytes::Bytes;
use common::decode_replies;
use dstore_resp::{
    ArrayEncoder, CommandId, Decoded, HAND_OVER_BYTES_MIN, ProtocolVersion, Reply, ReplyDecoder, ReplyError,
    ReplyLimits, ReplySink, encode, format_double, help,
};

fn encoded(reply: &Reply, version: ProtocolVersion) -> String {
    let mut bytes = Vec::new();
    encode(reply, version, &mut bytes);
    bytes.escape_ascii().to_string()
}

#[test]
fn each_reply_has_its_form_in_resp2_and_resp3() {
    let text = |text: &'static str| Reply::bulk_static(text);
    let cases = [
        (Reply::OK, r"+OK\r\n", r"+OK\r\n"),
        (Reply::Status(Bytes::from_static(b"a\r\nb")), r"+a  b\r\n", r"+a  b\r\n"),
        (Reply::error("ERR a\nb"), r"-ERR a b\r\n", r"-ERR a b\r\n"),
        (Reply::Integer(0), r":0\r\n", r":0\r\n"),
        (Reply::Integer(-10), r":-10\r\n", r":-10\r\n"),
        (Reply::Integer(i64::MIN), r":-9223372036854775808\r\n", r":-9223372036854775808\r\n"),
        (text(""), r"$0\r\n\r\n", r"$0\r\n\r\n"),
        (text("a\r\nb"), r"$4\r\na\r\nb\r\n", r"$4\r\na\r\nb\r\n"),
        (Reply::Null, r"$-1\r\n", r"_\r\n"),
        (Reply::NullArray, r"*-1\r\n", r"_\r\n"),
        (Reply::Double(0.1), r"$19\r\n0.10000000000000001\r\n", r",0.10000000000000001\r\n"),
        (Reply::Double(f64::NEG_INFINITY), r"$4\r\n-inf\r\n", r",-inf\r\n"),
        (Reply::Boolean(true), r":1\r\n", r"#t\r\n"),
        (Reply::Boolean(false), r":0\r\n", r"#f\r\n"),
        (Reply::BigNumber(Bytes::from_static(b"12")), r"$2\r\n12\r\n", r"(12\r\n"),
        (Reply::Array(vec![Reply::Integer(1), Reply::Array(vec![])]), r"*2\r\n:1\r\n*0\r\n", r"*2\r\n:1\r\n*0\r\n"),
        (Reply::Set(vec![Reply::Integer(1)]), r"*1\r\n:1\r\n", r"~1\r\n:1\r\n"),
        (Reply::Push(vec![Reply::Integer(1)]), r"*1\r\n:1\r\n", r">1\r\n:1\r\n"),
        (Reply::Map(vec![(text("k"), Reply::Null)]), r"*2\r\n$1\r\nk\r\n$-1\r\n", r"%1\r\n$1\r\nk\r\n_\r\n"),
        (Reply::Verbatim("txt", Bytes::from_static(b"ab")), r"$2\r\nab\r\n", r"=6\r\ntxt:ab\r\n"),
    ];
    for (reply, resp2, resp3) in cases {
        assert_eq!(encoded(&reply, ProtocolVersion::Resp2), resp2);
        assert_eq!(encoded(&reply, ProtocolVersion::Resp3), resp3);
    }
}

#[test]
fn doubles_have_seventeen_digits_and_no_more_than_needed_zeros() {
    let cases = [
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (100.0, "100"),
        (0.3, "0.29999999999999999"),
        (1e16, "10000000000000000"),
        (1e17, "1e+17"),
        (0.0001, "0.0001"),
        (0.00001, "1.0000000000000001e-05"),
        (f64::MAX, "1.7976931348623157e+308"),
        (5e-324, "4.9406564584124654e-324"),
        (f64::INFINITY, "inf"),
        (f64::NAN, "nan"),
    ];
    for (value, expected) in cases {
        assert_eq!(format_double(value), expected);
    }
}

/// Keeps what is handed over apart.
#[derive(Default)]
struct Pieces {
    buffer: Vec<u8>,
    pieces: Vec<Bytes>,
}

impl ReplySink for Pieces {
    fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.pieces.push(Bytes::from(std::mem::take(&mut self.buffer)));
        self.pieces.push(bytes);
    }
}

#[test]
fn a_large_string_is_handed_over_without_a_copy() {
    let large = Bytes::from(vec![b'x'; HAND_OVER_BYTES_MIN]);
    let small = Bytes::from(vec![b'y'; HAND_OVER_BYTES_MIN - 1]);
    let reply =
        Reply::Array(vec![Reply::Bulk(small), Reply::Bulk(large.clone()), Reply::Verbatim("txt", large.clone())]);
    let mut sink = Pieces::default();
    encode(&reply, ProtocolVersion::Resp3, &mut sink);
    assert_eq!(sink.pieces.len(), 4);
    assert!([1, 3].iter().all(|at| sink.pieces[*at].as_ptr() == large.as_ptr()));
    let together = [&sink.pieces.concat()[..], &sink.buffer].concat();
    let mut whole = Vec::new();
    encode(&reply, ProtocolVersion::Resp3, &mut whole);
    assert_eq!(together, whole);
    assert_eq!(decode_replies(&whole), [reply]);
}

#[test]
fn an_array_encoded_as_it_grows_is_the_array() {
    for count in [0, 1, 7, 20_000] {
        let item = |at: usize| match at % 5 {
            0 => Reply::Null,
            1 => Reply::Integer(at as i64),
            2 if at % 1000 == 2 => Reply::Bulk(Bytes::from(vec![b'x'; 5000])),
            _ => Reply::Bulk(Bytes::from(format!("item {at}"))),
        };
        for version in [ProtocolVersion::Resp2, ProtocolVersion::Resp3] {
            let mut array = ArrayEncoder::new(version);
            (0..count).for_each(|at| array.push(&item(at)));
            let array = array.finish();
            assert_eq!(encoded(&array, version), encoded(&Reply::Array((0..count).map(item).collect()), version));
            let Reply::Pieces(pieces) = array else { panic!("it comes in pieces") };
            assert!(pieces.iter().all(|piece| piece.len() < 80_000));
        }
    }
}

#[test]
fn an_encoded_reply_leaves_as_it_came() {
    let short = Reply::Encoded(Bytes::from_static(b"*2\r\n:1\r\n_\r\n"));
    let whole = Bytes::from([&b"$5000\r\n"[..], &[b'x'; 5000], b"\r\n"].concat());
    let mut sink = Pieces::default();
    let block = Reply::Array(vec![Reply::OK, short.clone(), Reply::Encoded(whole.clone()), Reply::Integer(2)]);
    encode(&block, ProtocolVersion::Resp3, &mut sink);
    assert_eq!(sink.pieces.len(), 2);
    assert_eq!(sink.pieces[1].as_ptr(), whole.as_ptr(), "the long one is handed over");
    let together = [&sink.pieces.concat()[..], &sink.buffer].concat();
    let expected = [&b"*4\r\n+OK\r\n*2\r\n:1\r\n_\r\n"[..], &whole, b":2\r\n"].concat();
    assert_eq!(together, expected);
    for version in [ProtocolVersion::Resp2, ProtocolVersion::Resp3] {
        assert_eq!(encoded(&short, version), r"*2\r\n:1\r\n_\r\n", "the version chosen here has no say");
    }
    assert!(Reply::Encoded(whole).bytes_len() > 5000);
}

#[test]
fn bytes_that_are_no_reply_are_refused() {
    let error = |input: &[u8]| {
        let mut decoder = ReplyDecoder::new(ReplyLimits { reply_bytes_max: 1000 });
        let mut rest = input;
        loop {
            match decoder.decode(rest) {
                Ok(Decoded::Message(_, used) | Decoded::Skip(used)) => rest = &rest[used..],
                Ok(Decoded::Incomplete { .. }) => return None,
                Err(error) => {
                    assert_eq!(decoder.decode(b"+OK\r\n"), Err(error.clone()), "it stays failed");
                    return Some(error);
                }
            }
        }
    };
    let malformed = |text: &str| Some(ReplyError::MalformedLine(text.to_owned()));
    assert_eq!(error(b"?1\r\n"), Some(ReplyError::UnknownType(b'?')));
    assert_eq!(error(b"\r\n"), Some(ReplyError::UnknownType(b'\r')));
    assert_eq!(error(b":1x\r\n"), malformed("1x"));
    assert_eq!(error(b"$-2\r\n"), malformed("-2"));
    assert_eq!(error(b"%-1\r\n"), malformed("-1"));
    assert_eq!(error(b"#x\r\n"), malformed("x"));
    assert_eq!(error(b",x\r\n"), malformed("x"));
    assert_eq!(error(b"_x\r\n"), malformed("x"));
    assert_eq!(error(b"=2\r\nab\r\n"), malformed("ab"));
    assert_eq!(error(b"$1\r\nabc"), Some(ReplyError::MissingLineEnd));
    assert_eq!(error(b"+a\rb\r\n"), Some(ReplyError::MissingLineEnd));
    assert_eq!(error(b"$1001\r\n"), Some(ReplyError::TooBig));
    assert_eq!(error(b"*9223372036854775807\r\n"), Some(ReplyError::TooBig));
    assert_eq!(error(b"%9223372036854775807\r\n"), Some(ReplyError::TooBig));
    assert_eq!(error(&b"*3\r\n".repeat(40)), Some(ReplyError::TooBig));
    assert_eq!(error(&vec![b'+'; 70_000]), Some(ReplyError::LineTooLong));
    let mut deep = ReplyDecoder::new(ReplyLimits::default());
    assert_eq!(deep.decode(&b"*1\r\n".repeat(100)), Err(ReplyError::TooDeep));
    assert_eq!(error(b"*2\r\n:1\r\n"), None);
}

#[test]
fn help_shows_each_subcommand_with_its_arguments() {
    let Reply::Array(lines) = help(CommandId::Client) else { panic!() };
    let lines: Vec<_> = lines.iter().map(|line| encoded(line, ProtocolVersion::Resp2)).collect();
    assert_eq!(lines[0], r"+CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:\r\n");
    assert!(lines.contains(&r"+SETNAME <connection-name>\r\n".to_owned()), "{lines:#?}");
    let list = r"+LIST [TYPE NORMAL|MASTER|REPLICA|PUBSUB] [ID <client-id> [<client-id> ...]]\r\n";
    assert!(lines.contains(&list.to_owned()), "{lines:#?}");
    assert_eq!(lines[lines.len() - 2..], [r"+HELP\r\n", r"+    Prints this help.\r\n"]);
}
