//! What a connection tells its owner, and the ids by which the two talk about calls, requests and streams.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::frame::FrameError;
use crate::handshake::{Peer, Refusal};
use crate::status::Status;

/// A call of ours. Never used twice by a channel, also not on its next connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub(crate) u64);

/// One of its owner's connections. The owner chooses it, and never uses one twice, so that ids which outlive their
/// connection mean nothing to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A request of the peer, with the connection it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    pub(crate) link: LinkId,
    pub(crate) id: u64,
}

/// A stream, with its connection. Both ends use the same number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    pub(crate) link: LinkId,
    pub(crate) id: u64,
}

impl CallId {
    /// The id as a number, for logs and tables.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl StreamId {
    /// The id as a number, for logs and tables.
    pub fn get(self) -> u64 {
        self.id
    }

    /// Its connection.
    pub fn link(self) -> LinkId {
        self.link
    }
}

impl RequestId {
    /// The request that a peer numbered `id` on `link`. Connections make these; so does who stands in for one.
    pub fn new(link: LinkId, id: u64) -> RequestId {
        RequestId { link, id }
    }

    /// The id as a number, for logs and tables.
    pub fn get(self) -> u64 {
        self.id
    }

    /// Its connection.
    pub fn link(self) -> LinkId {
        self.link
    }
}

/// A mark that travels with a request, so that its path over nodes can be followed in logs; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(pub u64);

/// What a call may carry besides its body.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallOptions {
    /// When the call ends at the latest. Without one it ends with its reply or its connection.
    pub deadline: Option<Instant>,
    /// Travels along.
    pub trace: TraceId,
}

impl CallOptions {
    /// A deadline and no trace.
    pub fn deadline(deadline: Instant) -> CallOptions {
        CallOptions { deadline: Some(deadline), trace: TraceId::default() }
    }
}

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The handshake is done. Once, before anything of the peer's.
    Established(Peer),
    /// A call of ours has ended. Exactly once for every call.
    Completed {
        /// Which.
        call: CallId,
        /// The reply's body, or how else it ended.
        result: Result<Bytes, Status>,
    },
    /// The peer calls. To be answered exactly once, also after [`Event::Cancelled`].
    Request {
        /// To answer by.
        id: RequestId,
        /// What to do.
        method: u32,
        /// With what.
        body: Bytes,
        /// After this the caller no longer waits; on our clock, later than the caller's by the way here.
        deadline: Option<Instant>,
        /// The caller's trace.
        trace: TraceId,
    },
    /// Nobody waits for this request any more: cancelled, or its deadline passed. Work on it may stop; the answer,
    /// whatever it is, only frees its place.
    Cancelled {
        /// Which.
        id: RequestId,
    },
    /// A one-way message of the peer.
    Message {
        /// What it is.
        method: u32,
        /// Its content.
        body: Bytes,
        /// The sender's trace.
        trace: TraceId,
    },
    /// The peer opened a stream.
    StreamOpened {
        /// To talk about it.
        stream: StreamId,
        /// What for.
        method: u32,
        /// With what.
        body: Bytes,
        /// The opener's trace.
        trace: TraceId,
    },
    /// The next bytes of a stream. They occupy its window until consumed.
    StreamChunk {
        /// Which.
        stream: StreamId,
        /// Its bytes; empty only together with `end`.
        body: Bytes,
        /// The peer sends no more.
        end: bool,
    },
    /// A stream that was blocked has credit again.
    StreamWritable {
        /// Which.
        stream: StreamId,
    },
    /// A stream is over. Exactly once for every stream opened by either end.
    StreamClosed {
        /// Which.
        stream: StreamId,
        /// `Ok` if both directions were ended.
        result: Result<(), Status>,
    },
    /// The connection is over: after the last bytes of output the transport can be closed. Exactly once, and last.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Our own wish.
    #[error("closed: {0}")]
    Local(String),
    /// The transport broke, or never came to be.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The peer closed it and said why.
    #[error("closed by the peer, {code}: {message}")]
    Peer {
        /// The kind of reason.
        code: CloseCode,
        /// In words.
        message: String,
    },
    /// We refuse the peer.
    #[error("handshake refused: {0}")]
    Refused(#[from] Refusal),
    /// The handshake was not done in time.
    #[error("no handshake within {0:?}")]
    HandshakeTimeout(Duration),
    /// The peer sent something that is no frame.
    #[error("bad frame: {0}")]
    Frame(#[from] FrameError),
    /// The peer broke the rules of the protocol.
    #[error("protocol violation: {0}")]
    Violation(&'static str),
    /// The peer has not given a sign of life.
    #[error("no sign of life for {0:?}")]
    Silent(Duration),
}

/// What a Close frame says of its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CloseCode {
    /// A reason of a later version.
    Unknown = 0,
    /// The peer is shutting down, or needs the connection no more.
    Shutdown = 1,
    /// The handshake was refused, or took too long.
    Refused = 2,
    /// We sent what the peer cannot accept.
    Protocol = 3,
    /// We seemed silent.
    Silent = 4,
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseCode::Unknown => "unknown",
            CloseCode::Shutdown => "shutdown",
            CloseCode::Refused => "refused",
            CloseCode::Protocol => "protocol",
            CloseCode::Silent => "silent",
        })
    }
}

impl CloseReason {
    /// True if the two ends did not understand, or did not want, each other: then connecting anew is likely to end the
    /// same way.
    pub fn is_incompatible(&self) -> bool {
        match self {
            CloseReason::Refused(_) | CloseReason::Frame(_) | CloseReason::Violation(_) => true,
            CloseReason::Peer { code, .. } => matches!(code, CloseCode::Refused | CloseCode::Protocol),
            CloseReason::Local(_)
            | CloseReason::Lost(_)
            | CloseReason::HandshakeTimeout(_)
            | CloseReason::Silent(_) => false,
        }
    }

    /// What to tell the peer; `None` if it cannot hear it or knows.
    pub(super) fn to_tell(&self) -> Option<CloseCode> {
        match self {
            CloseReason::Local(_) => Some(CloseCode::Shutdown),
            CloseReason::Lost(_) | CloseReason::Peer { .. } => None,
            CloseReason::Refused(_) | CloseReason::HandshakeTimeout(_) => Some(CloseCode::Refused),
            CloseReason::Frame(_) | CloseReason::Violation(_) => Some(CloseCode::Protocol),
            CloseReason::Silent(_) => Some(CloseCode::Silent),
        }
    }
}
