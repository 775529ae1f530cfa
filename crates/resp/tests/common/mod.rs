//! What the tests of this crate share: a seeded generator and ways to feed a decoder.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::print_stdout, reason = "shown when a test fails")]

pub(crate) mod golden;
pub(crate) mod redis;

use bytes::Bytes;
use dstore_resp::{Decoded, Limits, ProtocolError, Reply, ReplyDecoder, ReplyLimits, RequestDecoder};

/// A small generator (splitmix64): the same seed gives the same test.
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by `DSTORE_TEST_SEED` if set; prints its seed, which the test harness shows when the test fails.
    pub(crate) fn from_environment() -> Random {
        let seed = match std::env::var("DSTORE_TEST_SEED") {
            Ok(text) => text.parse().expect("DSTORE_TEST_SEED is a number"),
            Err(_) => std::process::id().into(),
        };
        println!("replay with DSTORE_TEST_SEED={seed}");
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// How many rounds a random test runs: `normal`, or as `DSTORE_TEST_ROUNDS` says.
pub(crate) fn rounds(normal: usize) -> usize {
    match std::env::var("DSTORE_TEST_ROUNDS") {
        Ok(text) => text.parse().expect("DSTORE_TEST_ROUNDS is a number"),
        Err(_) => normal,
    }
}

/// The multibulk encoding of a request.
pub(crate) fn multibulk(args: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.as_ref().len()).as_bytes());
        out.extend_from_slice(arg.as_ref());
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// What a connection made of its input: the requests, then the error or how many bytes wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) requests: Vec<Vec<Bytes>>,
    pub(crate) error: Option<ProtocolError>,
}

/// Feeds pieces as a connection does: what the decoder leaves stays in front of the next piece, and it is asked again
/// only when it can get on.
pub(crate) struct RequestFeed {
    pub(crate) decoder: RequestDecoder,
    pub(crate) input: Vec<u8>,
    pub(crate) outcome: Outcome,
    needed: usize,
    /// The longest that the input got.
    pub(crate) input_bytes_max: usize,
}

impl RequestFeed {
    pub(crate) fn new(limits: Limits) -> RequestFeed {
        RequestFeed {
            decoder: RequestDecoder::new(limits),
            input: Vec::new(),
            outcome: Outcome { requests: Vec::new(), error: None },
            needed: 0,
            input_bytes_max: 0,
        }
    }

    pub(crate) fn feed(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
        self.input_bytes_max = self.input_bytes_max.max(self.input.len());
        while self.outcome.error.is_none() && !self.input.is_empty() && self.input.len() >= self.needed {
            self.needed = 0;
            match self.decoder.decode(&self.input) {
                Ok(Decoded::Message(args, used)) => {
                    assert!(used > 0 && !args.is_empty());
                    self.input.drain(..used);
                    self.outcome.requests.push(args);
                }
                Ok(Decoded::Skip(used)) => {
                    assert!(used > 0);
                    self.input.drain(..used);
                }
                Ok(Decoded::Incomplete { needed }) => {
                    assert!(needed == 0 || needed > self.input.len(), "{needed} of {}", self.input.len());
                    self.needed = needed;
                    return;
                }
                Err(error) => self.outcome.error = Some(error),
            }
        }
    }
}

/// Feeds the whole input in pieces of the given lengths, the rest at once.
pub(crate) fn decode_in_pieces(input: &[u8], lengths: impl IntoIterator<Item = usize>, limits: Limits) -> Outcome {
    let mut feed = RequestFeed::new(limits);
    let mut rest = input;
    for length in lengths {
        let (piece, after) = rest.split_at(length.min(rest.len()));
        feed.feed(piece);
        rest = after;
    }
    feed.feed(rest);
    feed.outcome
}

/// Decodes all replies in the input, given in one piece.
pub(crate) fn decode_replies(input: &[u8]) -> Vec<Reply> {
    let mut decoder = ReplyDecoder::new(ReplyLimits::default());
    let mut replies = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        match decoder.decode(rest) {
            Ok(Decoded::Message(reply, used)) => {
                replies.push(reply);
                rest = &rest[used..];
            }
            Ok(Decoded::Skip(used)) => rest = &rest[used..],
            other => panic!("{other:?} at {:?}", rest.escape_ascii().to_string()),
        }
    }
    replies
}
