//! Requests byte by byte: what each input means, with Redis's own error texts, however it is split.

mod common;

use bytes::Bytes;
use common::golden::GOLDEN;
use common::{Outcome, RequestFeed, decode_in_pieces, multibulk};
use dstore_resp::{ARG_OVERHEAD_BYTES, LINE_BYTES_MAX, Limits, ProtocolError, Reply, SMALL_ARG_BYTES_MAX};

fn error_text(outcome: &Outcome) -> String {
    outcome.error.as_ref().map_or(String::new(), ToString::to_string)
}

fn check(outcome: &Outcome, requests: &[&[&[u8]]], error: &str, how: &str) {
    assert_eq!(outcome.requests, requests, "{how}");
    assert_eq!(error_text(outcome), error, "{how}");
}

#[test]
fn each_input_means_what_redis_takes_it_for_however_it_is_split() {
    for (input, requests, error) in GOLDEN {
        let shown = input.escape_ascii();
        let whole = decode_in_pieces(input, [], Limits::default());
        check(&whole, requests, error, &format!("{shown} whole"));
        for at in 0..=input.len() {
            let split = decode_in_pieces(input, [at], Limits::default());
            check(&split, requests, error, &format!("{shown} split at {at}"));
        }
        let bytewise = decode_in_pieces(input, vec![1; input.len()], Limits::default());
        check(&bytewise, requests, error, &format!("{shown} byte by byte"));
    }
}

#[test]
fn an_input_that_may_go_on_is_no_error() {
    for (input, requests, error) in GOLDEN {
        for end in 0..input.len() {
            let outcome = decode_in_pieces(&input[..end], [], Limits::default());
            let count = outcome.requests.len();
            assert!(count <= requests.len());
            assert_eq!(outcome.requests, requests[..count]);
            assert!(outcome.error.is_none() || error_text(&outcome) == *error, "{}", input[..end].escape_ascii());
        }
    }
}

#[test]
fn an_error_reply_is_redis_s_byte_for_byte_and_the_decoder_stays_failed() {
    let mut feed = RequestFeed::new(Limits::default());
    feed.feed(b"*1\r\n\xff4\r\n");
    let error = feed.outcome.error.unwrap();
    assert_eq!(error.reply(), Reply::Error(Bytes::from_static(b"ERR Protocol error: expected '$', got '\xff'")));
    assert_eq!(feed.decoder.decode(b"PING\r\n"), Err(error));
    let length = ProtocolError::InvalidBulkLength.reply();
    assert_eq!(length, Reply::error("ERR Protocol error: invalid bulk length"));
}

#[test]
fn lines_without_an_end_are_refused() {
    let long = |start: &str, byte: &str, count| format!("{start}{}", byte.repeat(count)).into_bytes();
    for pieces in [1usize, 1000, usize::MAX] {
        let error =
            |input: &[u8]| error_text(&decode_in_pieces(input, vec![pieces; input.len() / pieces], Limits::default()));
        assert_eq!(error(&long("", "x", LINE_BYTES_MAX)), "");
        assert_eq!(error(&long("", "x", LINE_BYTES_MAX + 1)), "too big inline request");
        assert_eq!(error(&long("*", "1", LINE_BYTES_MAX - 1)), "");
        assert_eq!(error(&long("*", "1", LINE_BYTES_MAX)), "too big mbulk count string");
        assert_eq!(error(&long("*1\r\n$", "1", LINE_BYTES_MAX - 1)), "");
        assert_eq!(error(&long("*1\r\n$", "1", LINE_BYTES_MAX)), "too big bulk count string");
    }
    let line = long("PING ", "y", LINE_BYTES_MAX - 7);
    let outcome = decode_in_pieces(&[&line[..], b"\r\n"].concat(), [], Limits::default());
    assert_eq!(outcome.requests[0][1].len(), LINE_BYTES_MAX - 7);
}

#[test]
fn before_authentication_requests_are_short() {
    let outcome = |input: &[u8]| {
        let mut feed = RequestFeed::new(Limits::default());
        feed.decoder.set_unauthenticated(true);
        feed.feed(input);
        (error_text(&feed.outcome), feed.outcome.requests.len())
    };
    assert_eq!(outcome(&multibulk(&["a"; 10])), (String::new(), 1));
    assert_eq!(outcome(b"*11\r\n"), ("unauthenticated multibulk length".to_owned(), 0));
    assert_eq!(outcome(&multibulk(&[vec![b'a'; 16384]])), (String::new(), 1));
    assert_eq!(outcome(b"*1\r\n$16385\r\n"), ("unauthenticated bulk length".to_owned(), 0));
    assert_eq!(outcome(b"*1\r\n$999999999999\r\n"), ("invalid bulk length".to_owned(), 0));
    let mut feed = RequestFeed::new(Limits::default());
    feed.decoder.set_unauthenticated(true);
    feed.feed(b"AUTH x\r\n");
    feed.decoder.set_unauthenticated(false);
    feed.feed(&multibulk(&["a"; 11]));
    assert_eq!(feed.outcome.requests.len(), 2);
}

#[test]
fn the_longest_argument_is_as_configured() {
    let limits = Limits { bulk_bytes_max: 100, ..Limits::default() };
    let ok = decode_in_pieces(&multibulk(&[vec![b'a'; 100]]), [], limits.clone());
    assert_eq!(ok.requests[0][0].len(), 100);
    let error = decode_in_pieces(b"*1\r\n$101\r\n", [], limits);
    assert_eq!(error.error, Some(ProtocolError::InvalidBulkLength));
}

#[test]
fn a_request_may_not_cost_more_than_configured() {
    let limits = Limits { bulk_bytes_max: 10_000, request_bytes_max: 20_000 };
    // Two arguments and their overhead fit; a third is refused before it arrives.
    let start = b"*3\r\n$9000\r\n".iter().copied().chain(vec![b'a'; 9000]).chain(*b"\r\n").collect::<Vec<_>>();
    let room = 20_000 - 2 * 9000 - 3 * ARG_OVERHEAD_BYTES;
    let with_third = |length: usize| {
        let third = format!("\r\n${length}\r\n");
        [&start[..], b"$9000\r\n", &[b'b'; 9000], third.as_bytes()].concat()
    };
    let fits = with_third(room);
    assert_eq!(decode_in_pieces(&fits, [], limits.clone()).error, None);
    let exceeds = with_third(room + 1);
    assert_eq!(decode_in_pieces(&exceeds, [], limits.clone()).error, Some(ProtocolError::RequestTooBig));
    // So is a request whose arguments would cost too much even if all were empty.
    let count_max = 20_000 / ARG_OVERHEAD_BYTES;
    let line = |count: usize| format!("*{count}\r\n").into_bytes();
    assert_eq!(decode_in_pieces(&line(count_max), [], limits.clone()).error, None);
    let error = decode_in_pieces(&line(count_max + 1), [], limits).error;
    assert_eq!(error, Some(ProtocolError::InvalidMultibulkLength));
}

#[test]
fn arguments_around_the_small_limit_arrive_whole_in_any_pieces() {
    for length in [SMALL_ARG_BYTES_MAX - 1, SMALL_ARG_BYTES_MAX, SMALL_ARG_BYTES_MAX + 1, 3 * SMALL_ARG_BYTES_MAX] {
        let value: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let request = multibulk(&[b"SET", &b"k"[..], &value, b"EX", b"1"]);
        for piece in [1, 2, 7, 1000, 4096, usize::MAX] {
            let outcome = decode_in_pieces(&request, vec![piece; request.len() / piece], Limits::default());
            assert_eq!(outcome.requests.len(), 1, "{length} bytes in pieces of {piece}");
            assert_eq!(outcome.requests[0][2], value);
            assert_eq!(outcome.requests[0][3..], ["EX", "1"]);
        }
    }
}

#[test]
fn a_huge_request_is_taken_as_it_comes_and_the_input_stays_small() {
    let args: Vec<String> = (0..1_000_000).map(|number| number.to_string()).collect();
    let request = multibulk(&args);
    let mut feed = RequestFeed::new(Limits::default());
    for piece in request.chunks(16 * 1024) {
        feed.feed(piece);
    }
    assert_eq!(feed.outcome.requests[0], args);
    assert!(feed.input_bytes_max < 16 * 1024 + 32, "{}", feed.input_bytes_max);

    let value = vec![7; 8 << 20];
    let request = multibulk(&[b"SET", &b"k"[..], &value]);
    let mut feed = RequestFeed::new(Limits::default());
    for piece in request.chunks(16 * 1024) {
        feed.feed(piece);
        assert!(feed.input.is_empty());
    }
    assert_eq!(feed.outcome.requests[0][2], value);
}
