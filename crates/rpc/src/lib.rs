//! Requests, replies, one-way messages, streams and deadlines between nodes, as a pure protocol.
//!
//! For nodes of one cluster that call each other all the time: many calls in flight on one connection, replies in any
//! order, one-way messages that are dropped rather than delayed, streams that never hold up a heartbeat, and an
//! honest answer to "may it have been executed?" whenever a call fails. The page `docs/rpc.md` draws the bytes.
//!
//! The protocol is *sans-IO*: bytes and the time go in, bytes and events come out. A real driver feeds it from
//! sockets; a simulator feeds the very same code from a seed.
//!
//! To read first:
//! * [`Connection`]: one connection's state machine. Everything the protocol promises is kept there.
//! * [`Channel`]: the way to one peer: connects when used, reconnects, fails fast while the peer is away.
//!
//! Then [`frame`] (the bytes), [`handshake`] (who may talk), [`Status`] (how calls fail), [`metrics`]; [`mod@service`] for typed
//! methods. Two modules join the pure ones to the world: [`driver`] to an event loop of `dstore-net`, [`blocking`] to a
//! socket and a thread that waits.
//!
//! What must hold:
//! * every call ends exactly once: with its reply, an error, or its deadline at the latest;
//! * nothing a peer sends panics, blocks, or makes memory grow beyond [`Limits`];
//! * only who holds the cluster's secret gets past the handshake, and learns anything in it.
//!
//! Caveats: frames are checksummed, not encrypted: until TLS sits below this protocol the network between nodes has
//! to be trusted not to rewrite traffic. Deadlines travel as the time that is left, so the time on the wire is not
//! counted at the server; the caller's own clock always is.

pub mod blocking;
pub mod channel;
pub mod config;
pub mod connection;
mod deadline;
pub mod driver;
pub mod entropy;
pub mod frame;
pub mod handshake;
pub mod identity;
pub mod metrics;
pub mod service;
pub mod status;

pub use channel::{Action, Channel, ChannelState, Route};
pub use config::{Admission, Config, Limits, Timeouts};
pub use connection::{
    CallId, CallOptions, CloseCode, CloseReason, Connection, Dial, Event, LinkId, RequestId, SendError, StreamId,
    TraceId,
};
pub use entropy::Entropy;
pub use handshake::{Nonce, Peer, Refusal};
pub use identity::{ClusterId, Identity, Incarnation, Lane, NodeId, Secret};
pub use metrics::Metrics;
pub use service::Answer;
pub use status::{Code, Execution, Status};
