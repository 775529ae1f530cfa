//! Replies to bytes, exactly as Redis 7.0 writes them, in either version of the protocol.
//!
//! A reply is encoded into a [`ReplySink`]: small pieces are appended to its buffer, a large bulk string is handed over
//! as it is, so that it can go to `writev` without a copy.

use bytes::Bytes;

use crate::Reply;

/// The version of the protocol a connection speaks: RESP2 until `HELLO 3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProtocolVersion {
    /// What every client speaks at first.
    #[default]
    Resp2,
    /// Adds maps, sets, doubles, booleans, a null and more.
    Resp3,
}

/// A bulk string at least this long is handed over, a shorter one copied: below a page a copy costs less than a piece
/// of its own in `writev`.
pub const HAND_OVER_BYTES_MIN: usize = 4096;

/// Where encoded replies go. What is put here first leaves first.
pub trait ReplySink {
    /// The buffer to append to. What it holds already is not touched.
    fn buffer(&mut self) -> &mut Vec<u8>;

    /// Takes a long piece, which comes after everything in the buffer. By default it is copied there.
    fn put_bytes(&mut self, bytes: Bytes) {
        self.buffer().extend_from_slice(&bytes);
    }
}

/// Everything in one buffer.
impl ReplySink for Vec<u8> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self
    }
}

/// An array whose items come one by one, encoded as they come: what is left to do at its end does not depend on how many
/// there are.
#[derive(Debug)]
pub struct ArrayEncoder {
    version: ProtocolVersion,
    items: usize,
    buffer: Vec<u8>,
    pieces: Vec<Bytes>,
}

/// Bytes that gather in one piece of an array.
const PIECE_BYTES: usize = 64 << 10;

impl ArrayEncoder {
    /// An empty array, for a reader of this version.
    pub fn new(version: ProtocolVersion) -> ArrayEncoder {
        // The first piece is the array's header.
        ArrayEncoder { version, items: 0, buffer: Vec::new(), pieces: vec![Bytes::new()] }
    }

    /// Adds an item.
    pub fn push(&mut self, item: &Reply) {
        self.items += 1;
        let version = self.version;
        encode(item, version, self);
        if self.buffer.len() >= PIECE_BYTES {
            self.seal();
        }
    }

    /// The whole array.
    pub fn finish(mut self) -> Reply {
        self.seal();
        let mut header = Vec::new();
        put_length(&mut header, b'*', self.items);
        self.pieces[0] = header.into();
        Reply::Pieces(self.pieces)
    }

    fn seal(&mut self) {
        if !self.buffer.is_empty() {
            self.pieces.push(std::mem::take(&mut self.buffer).into());
        }
    }
}

impl ReplySink for ArrayEncoder {
    fn buffer(&mut self) -> &mut Vec<u8> {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(PIECE_BYTES + HAND_OVER_BYTES_MIN + 64);
        }
        &mut self.buffer
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.seal();
        self.pieces.push(bytes);
    }
}

/// Appends the encoding of `reply`.
pub fn encode(reply: &Reply, version: ProtocolVersion, sink: &mut impl ReplySink) {
    let resp3 = version == ProtocolVersion::Resp3;
    match reply {
        Reply::Simple(text) => put_line(sink.buffer(), b'+', text.as_bytes()),
        Reply::Status(text) => put_line(sink.buffer(), b'+', text),
        Reply::Error(text) => put_line(sink.buffer(), b'-', text),
        Reply::Integer(value) => put_header(sink.buffer(), b':', *value),
        Reply::Bulk(bytes) => put_bulk(sink, bytes),
        Reply::Null => sink.buffer().extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
        Reply::NullArray => sink.buffer().extend_from_slice(if resp3 { b"_\r\n" } else { b"*-1\r\n" }),
        Reply::Double(value) if resp3 => put_line(sink.buffer(), b',', format_double(*value).as_bytes()),
        Reply::Double(value) => put_short_bulk(sink.buffer(), format_double(*value).as_bytes()),
        Reply::Boolean(value) if resp3 => sink.buffer().extend_from_slice(if *value { b"#t\r\n" } else { b"#f\r\n" }),
        Reply::Boolean(value) => put_header(sink.buffer(), b':', (*value).into()),
        Reply::BigNumber(digits) if resp3 => put_line(sink.buffer(), b'(', digits),
        Reply::BigNumber(digits) => put_short_bulk(sink.buffer(), digits),
        Reply::Array(items) => put_items(sink, b'*', items, version),
        Reply::Set(items) => put_items(sink, if resp3 { b'~' } else { b'*' }, items, version),
        Reply::Push(items) => put_items(sink, if resp3 { b'>' } else { b'*' }, items, version),
        Reply::Map(pairs) => {
            let (kind, count) = if resp3 { (b'%', pairs.len()) } else { (b'*', 2 * pairs.len()) };
            put_length(sink.buffer(), kind, count);
            for (key, value) in pairs {
                encode(key, version, sink);
                encode(value, version, sink);
            }
        }
        Reply::Verbatim(format, text) if resp3 => {
            let buffer = sink.buffer();
            put_length(buffer, b'=', format.len() + 1 + text.len());
            buffer.extend_from_slice(format.as_bytes());
            buffer.push(b':');
            put_payload(sink, text);
        }
        Reply::Verbatim(_, text) => put_bulk(sink, text),
        Reply::Encoded(bytes) => put_bytes(sink, bytes),
        Reply::Pieces(pieces) => pieces.iter().for_each(|piece| put_bytes(sink, piece)),
    }
}

fn put_items(sink: &mut impl ReplySink, kind: u8, items: &[Reply], version: ProtocolVersion) {
    put_length(sink.buffer(), kind, items.len());
    for item in items {
        encode(item, version, sink);
    }
}

fn put_bulk(sink: &mut impl ReplySink, bytes: &Bytes) {
    put_length(sink.buffer(), b'$', bytes.len());
    put_payload(sink, bytes);
}

fn put_payload(sink: &mut impl ReplySink, bytes: &Bytes) {
    put_bytes(sink, bytes);
    sink.buffer().extend_from_slice(b"\r\n");
}

/// Bytes as they are: the long are handed over, the short copied.
fn put_bytes(sink: &mut impl ReplySink, bytes: &Bytes) {
    if bytes.len() >= HAND_OVER_BYTES_MIN {
        sink.put_bytes(bytes.clone());
    } else {
        sink.buffer().extend_from_slice(bytes);
    }
}

fn put_short_bulk(buffer: &mut Vec<u8>, bytes: &[u8]) {
    put_length(buffer, b'$', bytes.len());
    buffer.extend_from_slice(bytes);
    buffer.extend_from_slice(b"\r\n");
}

/// A status or error line. CR and LF would end it early: each becomes a space, as in Redis.
fn put_line(buffer: &mut Vec<u8>, kind: u8, text: &[u8]) {
    buffer.reserve(text.len() + 3);
    buffer.push(kind);
    let start = buffer.len();
    buffer.extend_from_slice(text);
    for byte in &mut buffer[start..] {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    buffer.extend_from_slice(b"\r\n");
}

fn put_length(buffer: &mut Vec<u8>, kind: u8, length: usize) {
    put_header(buffer, kind, i64::try_from(length).expect("no object is longer than isize::MAX"));
}

/// A type byte, a number, CR LF.
fn put_header(buffer: &mut Vec<u8>, kind: u8, value: i64) {
    // Type byte, sign, 19 digits, CR LF; filled from the end.
    let mut line = [0u8; 23];
    line[21..].copy_from_slice(b"\r\n");
    let mut at = 21;
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        line[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        line[at] = b'-';
    }
    at -= 1;
    line[at] = kind;
    buffer.extend_from_slice(&line[at..]);
}

/// A double as Redis 7.0 prints it: C's `%.17g`, with `inf`, `-inf` and `nan`.
pub fn format_double(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // 17 significant digits: d.dddde±x, the exponent without padding.
    let scientific = format!("{value:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} writes an e");
    let exponent: i32 = exponent.parse().expect("{:e} writes a number behind the e");
    if !(-4..17).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", without_trailing_zeros(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(16 - exponent).expect("the exponent is below 17");
    without_trailing_zeros(&format!("{value:.decimals$}")).to_owned()
}

fn without_trailing_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}
