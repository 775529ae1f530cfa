//! The frame: the unit of everything two nodes say to each other, and the decoder that finds frames in a byte stream.
//!
//! A frame is a fixed header of [`HEADER_BYTES`] and a body. All integers are little-endian.
//!
//! ```text
//!        0       1       2       3       4       5       6       7
//!    +-------+-------+-------+-------+-------+-------+-------+-------+
//!  0 |          body length          |version| kind  |     flags     |
//!    +-------+-------+-------+-------+-------+-------+-------+-------+
//!  8 |                              id                               |
//!    +-------+-------+-------+-------+-------+-------+-------+-------+
//! 16 |                             trace                             |
//!    +-------+-------+-------+-------+-------+-------+-------+-------+
//! 24 |            method             |          timeout, us          |
//!    +-------+-------+-------+-------+-------+-------+-------+-------+
//! 32 |         CRC32C of body        |   CRC32C of bytes 0 to 35     |
//!    +-------+-------+-------+-------+-------+-------+-------+-------+
//! 40 |  body ...
//! ```
//!
//! The header carries a checksum of its own, so a corrupt or absurd length is refused on the header's last byte, not
//! after waiting for bytes that never come. The header's checksum covers the body's.
//!
//! Invariants: the decoder never reserves more than it has received (plus the usual doubling), whatever a header
//! announces; after an error it is not used again, because where the next frame begins is no longer known.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of every frame's header.
pub const HEADER_BYTES: usize = 40;

/// The largest body there can be, whatever the configured limits say: a quarter of what the length field could name.
pub const BODY_BYTES_MAX: usize = 1 << 30;

/// Layout version in every header. It changes only when the layout above does; what the kinds mean is negotiated in
/// the handshake instead.
pub const FRAME_VERSION: u8 = 1;

/// The most that is reserved on the word of a header, for a body that has not arrived whole; beyond it the buffer grows
/// only as bytes really arrive. Chunks of streams fit, so that they are not moved while they grow; a stranger's
/// frames are bounded far lower by the limit on handshake bodies.
const BODY_RESERVE_BYTES: usize = 128 << 10;

/// What a frame is for. The number is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Handshake 1, dialer: versions and a nonce.
    Hello = 1,
    /// Handshake 2, acceptor: the chosen version and a nonce.
    Challenge = 2,
    /// Handshake 3, dialer: proof that it holds the secret.
    Proof = 3,
    /// Handshake 4, acceptor: who it is, with its proof.
    Welcome = 4,
    /// Handshake 5, dialer: who it is, with a second proof that covers it.
    Identity = 5,
    /// The last frame of a connection: a reason, as a [`Status`](crate::Status)-like body.
    Close = 6,
    /// Are you there? `id` comes back in the [`Kind::Pong`].
    Ping = 8,
    /// Yes.
    Pong = 9,
    /// A call: `id`, `method`, `timeout`, body.
    Request = 16,
    /// A call's result: `id`, body.
    Reply = 17,
    /// A call's failure: `id`, a status as body.
    Failure = 18,
    /// The caller has lost interest in `id`.
    Cancel = 19,
    /// A message without a reply: `method`, body.
    OneWay = 20,
    /// Opens stream `id` for `method`, with a body.
    StreamOpen = 32,
    /// Ordered bytes of stream `id`; with [`FLAG_END`] the sender's last.
    StreamChunk = 33,
    /// The receiver of stream `id` allows so many more bytes: a u32 as body.
    StreamCredit = 34,
    /// Stream `id` is over in both directions: a status as body.
    StreamReset = 35,
}

impl Kind {
    /// Every kind, for tests and documentation that must leave none out.
    pub const ALL: [Kind; 17] = [
        Kind::Hello,
        Kind::Challenge,
        Kind::Proof,
        Kind::Welcome,
        Kind::Identity,
        Kind::Close,
        Kind::Ping,
        Kind::Pong,
        Kind::Request,
        Kind::Reply,
        Kind::Failure,
        Kind::Cancel,
        Kind::OneWay,
        Kind::StreamOpen,
        Kind::StreamChunk,
        Kind::StreamCredit,
        Kind::StreamReset,
    ];

    fn from_wire(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Flags that may be set on a frame of this kind.
    fn flags_allowed(self) -> u16 {
        match self {
            Kind::StreamChunk => FLAG_END,
            _ => 0,
        }
    }
}

/// On a [`Kind::StreamChunk`]: the sender sends no more on this stream.
pub const FLAG_END: u16 = 1;

/// A frame's header, without what the codec itself fills in (length, version, checksums).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// [`FLAG_END`] or nothing; a flag that the kind does not know is an error.
    pub flags: u16,
    /// Request or stream id; 0 where the kind has none.
    pub id: u64,
    /// Trace id that travels with requests, messages and streams; 0 is none.
    pub trace: u64,
    /// Method number; 0 where the kind has none.
    pub method: u32,
    /// Microseconds the request may still take, as of when it left; 0 is no deadline.
    pub timeout_us: u32,
}

impl Header {
    /// A header of `kind` about `id`, everything else 0.
    pub fn new(kind: Kind, id: u64) -> Header {
        Header { kind, flags: 0, id, trace: 0, method: 0, timeout_us: 0 }
    }

    /// The header's bytes in front of `body`.
    ///
    /// # Panics
    /// If the body is larger than [`BODY_BYTES_MAX`]; a connection refuses it before.
    pub fn to_wire(&self, body: &[u8]) -> [u8; HEADER_BYTES] {
        assert!(body.len() <= BODY_BYTES_MAX, "a body of {} bytes", body.len());
        let length = body.len() as u32;
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&length.to_le_bytes());
        out[4] = FRAME_VERSION;
        out[5] = self.kind as u8;
        out[6..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..24].copy_from_slice(&self.trace.to_le_bytes());
        out[24..28].copy_from_slice(&self.method.to_le_bytes());
        out[28..32].copy_from_slice(&self.timeout_us.to_le_bytes());
        out[32..36].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
        let check = crc32c::crc32c(&out[..36]);
        out[36..40].copy_from_slice(&check.to_le_bytes());
        out
    }
}

/// Appends a whole frame to `out`.
///
/// # Panics
/// As [`Header::to_wire`].
pub fn encode(header: &Header, body: &[u8], out: &mut BytesMut) {
    out.reserve(HEADER_BYTES + body.len());
    out.put_slice(&header.to_wire(body));
    out.put_slice(body);
}

/// A whole frame, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body, in an allocation of its own: keeping it keeps nothing else alive.
    pub body: Bytes,
}

/// Why bytes are not a frame. The connection they came from has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another layout, or not this protocol at all.
    #[error("unknown frame version {0}: not a peer of this protocol, or a much newer one")]
    Version(u8),
    /// The header does not match its checksum.
    #[error("the frame header does not match its checksum")]
    HeaderChecksum,
    /// A sound header announces a body above the limit.
    #[error("a frame body of {length} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// What the header announces.
        length: usize,
        /// What this end accepts.
        limit: usize,
    },
    /// A kind this version does not know.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A flag this kind does not know.
    #[error("unknown flags {flags:#06x} on a {kind:?} frame")]
    Flags {
        /// The frame's kind.
        kind: Kind,
        /// All its flags.
        flags: u16,
    },
    /// The body does not match its checksum.
    #[error("the body of a {0:?} frame does not match its checksum")]
    BodyChecksum(Kind),
}

/// A header that has been checked, and what it says of its body.
#[derive(Clone, Copy, Debug)]
struct Announced {
    header: Header,
    length: usize,
    crc: u32,
}

/// Finds frames in a stream that arrives in pieces of any size.
#[derive(Debug)]
pub struct Decoder {
    head: [u8; HEADER_BYTES],
    /// Bytes of `head` that have arrived; below [`HEADER_BYTES`] unless `announced` is set.
    head_bytes: usize,
    announced: Option<Announced>,
    /// The announced body's bytes so far; always fewer than announced.
    body: BytesMut,
    body_bytes_max: usize,
}

impl Decoder {
    /// A decoder that refuses bodies above `body_bytes_max`.
    pub fn new(body_bytes_max: usize) -> Decoder {
        Decoder {
            head: [0; HEADER_BYTES],
            head_bytes: 0,
            announced: None,
            body: BytesMut::new(),
            body_bytes_max: body_bytes_max.min(BODY_BYTES_MAX),
        }
    }

    /// Changes the limit for headers read from now on (the handshake's is much lower than what follows).
    pub fn set_body_bytes_max(&mut self, body_bytes_max: usize) {
        self.body_bytes_max = body_bytes_max.min(BODY_BYTES_MAX);
    }

    /// Bytes held of a frame that is not whole yet.
    pub fn held_bytes(&self) -> usize {
        if self.announced.is_some() { HEADER_BYTES + self.body.len() } else { self.head_bytes }
    }

    /// Takes bytes off the front of `input` until a frame is whole or `input` is empty.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        let announced = match self.announced {
            Some(announced) => announced,
            None => match self.next_header(input)? {
                Some(announced) => announced,
                None => return Ok(None),
            },
        };
        let missing = announced.length - self.body.len();
        let body = if self.body.is_empty() && input.len() >= missing {
            let body = Bytes::copy_from_slice(&input[..missing]);
            *input = &input[missing..];
            body
        } else {
            let taken = missing.min(input.len());
            if self.body.is_empty() {
                self.body.reserve(announced.length.min(taken.max(BODY_RESERVE_BYTES)));
            }
            self.body.extend_from_slice(&input[..taken]);
            *input = &input[taken..];
            if taken < missing {
                self.announced = Some(announced);
                return Ok(None);
            }
            std::mem::take(&mut self.body).freeze()
        };
        self.announced = None;
        self.head_bytes = 0;
        if crc32c::crc32c(&body) != announced.crc {
            return Err(FrameError::BodyChecksum(announced.header.kind));
        }
        Ok(Some(Frame { header: announced.header, body }))
    }

    fn next_header(&mut self, input: &mut &[u8]) -> Result<Option<Announced>, FrameError> {
        if self.head_bytes == 0 && input.len() >= HEADER_BYTES {
            let (head, rest) = input.split_at(HEADER_BYTES);
            let announced = parse_header(head, self.body_bytes_max)?;
            *input = rest;
            return Ok(Some(announced));
        }
        let taken = (HEADER_BYTES - self.head_bytes).min(input.len());
        self.head[self.head_bytes..self.head_bytes + taken].copy_from_slice(&input[..taken]);
        self.head_bytes += taken;
        *input = &input[taken..];
        if self.head_bytes < HEADER_BYTES {
            return Ok(None);
        }
        parse_header(&self.head, self.body_bytes_max).map(Some)
    }
}

fn parse_header(head: &[u8], body_bytes_max: usize) -> Result<Announced, FrameError> {
    let u16_at = |at: usize| u16::from_le_bytes(head[at..at + 2].try_into().expect("two bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    if head[4] != FRAME_VERSION {
        return Err(FrameError::Version(head[4]));
    }
    if crc32c::crc32c(&head[..36]) != u32_at(36) {
        return Err(FrameError::HeaderChecksum);
    }
    let length = u32_at(0) as usize;
    if length > body_bytes_max {
        return Err(FrameError::TooLarge { length, limit: body_bytes_max });
    }
    let kind = Kind::from_wire(head[5]).ok_or(FrameError::Kind(head[5]))?;
    let flags = u16_at(6);
    if flags & !kind.flags_allowed() != 0 {
        return Err(FrameError::Flags { kind, flags });
    }
    let header = Header { kind, flags, id: u64_at(8), trace: u64_at(16), method: u32_at(24), timeout_us: u32_at(28) };
    Ok(Announced { header, length, crc: u32_at(32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kind: Kind) -> (Header, Vec<u8>) {
        let header = Header {
            kind,
            flags: kind.flags_allowed(),
            id: 0x0102_0304_0506_0708,
            trace: 0x1112_1314_1516_1718,
            method: 0x2122_2324,
            timeout_us: 0x3132_3334,
        };
        (header, vec![kind as u8; kind as usize])
    }

    #[test]
    fn every_kind_survives_a_split_at_every_byte() {
        for kind in Kind::ALL {
            let (header, body) = sample(kind);
            let mut wire = BytesMut::new();
            encode(&header, &body, &mut wire);
            for cut in 0..=wire.len() {
                let mut decoder = Decoder::new(100);
                let (mut left, mut right) = wire.split_at(cut);
                let first = decoder.next(&mut left).unwrap();
                assert!(left.is_empty());
                let frame = match first {
                    Some(frame) => frame,
                    None => decoder.next(&mut right).unwrap().expect("whole after the second part"),
                };
                assert_eq!(frame, Frame { header, body: Bytes::from(body.clone()) }, "{kind:?} cut at {cut}");
                assert_eq!(decoder.held_bytes(), 0);
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (header, body) = sample(Kind::StreamChunk);
        let mut wire = BytesMut::new();
        encode(&header, &body, &mut wire);
        for bit in 0..wire.len() * 8 {
            let mut bad = wire.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let refused = Decoder::new(1 << 30).next(&mut &bad[..]);
            assert!(refused.is_err(), "bit {bit} of {} bytes flipped: {refused:?}", wire.len());
        }
    }

    #[test]
    fn an_absurd_length_is_refused_on_the_headers_last_byte() {
        let mut wire = Header::new(Kind::Request, 1).to_wire(&[]);
        wire[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let check = crc32c::crc32c(&wire[..36]);
        wire[36..].copy_from_slice(&check.to_le_bytes());
        let mut decoder = Decoder::new(1000);
        assert_eq!(decoder.next(&mut &wire[..39]), Ok(None));
        assert_eq!(
            decoder.next(&mut &wire[39..]),
            Err(FrameError::TooLarge { length: u32::MAX as usize, limit: 1000 })
        );
    }

    #[test]
    fn a_large_body_costs_only_what_has_arrived() {
        let body = vec![7; 1 << 20];
        let mut wire = BytesMut::new();
        encode(&Header::new(Kind::OneWay, 0), &body, &mut wire);
        let mut decoder = Decoder::new(1 << 20);
        assert_eq!(decoder.next(&mut &wire[..HEADER_BYTES + 1]), Ok(None));
        assert!(decoder.body.capacity() <= BODY_RESERVE_BYTES);
        let frame = decoder.next(&mut &wire[HEADER_BYTES + 1..]).unwrap().unwrap();
        assert_eq!(frame.body, body);
    }

    #[test]
    fn unknown_kinds_and_flags_are_errors() {
        let with = |at: usize, value: u8| {
            let mut wire = Header::new(Kind::Ping, 1).to_wire(&[]);
            wire[at] = value;
            let check = crc32c::crc32c(&wire[..36]);
            wire[36..].copy_from_slice(&check.to_le_bytes());
            Decoder::new(10).next(&mut &wire[..]).unwrap_err()
        };
        assert_eq!(with(5, 99), FrameError::Kind(99));
        assert_eq!(with(6, 1), FrameError::Flags { kind: Kind::Ping, flags: 1 });
        assert_eq!(with(4, 2), FrameError::Version(2));
    }
}
