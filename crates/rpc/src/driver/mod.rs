//! The protocol on the network framework: peers to call and callers to serve, on one event loop.
//!
//! [`Rpc`] is a part of the loop's application value. It owns the channels to the peers that were named with
//! [`Rpc::set_peer`] and the connections that callers made to [`listen`]; the pure [channels](crate::Channel) and [connections](crate::Connection) in
//! it do all the thinking, and this module carries bytes, time and events between them, the sockets and the
//! application:
//!
//! * the application implements [`Host`], calls [`end_of_turn`] when the loop starts and at the end of each turn, and
//!   [`on_timer`] when the [`RpcTimer`] fires;
//! * calls end in callbacks with the application and its loop as `&mut`, or in futures (see [`Remote`]) that run on
//!   this loop;
//! * nothing here is shared between threads. A node with several loops has an [`Rpc`] on each, with one
//!   [`Admission`](crate::Admission).
//!
//! Output is taken out of a connection only as far as its socket keeps up ([`OUTPUT_AHEAD_BYTES`]), because the bounds
//! of the protocol are on what waits in there. The framework's own pause of reading while output waits is switched
//! off: two ends that both pause would wait for each other for ever.

mod remote;
mod rpc;
mod slot;
mod socket;
mod tasks;
mod turn;

use std::time::Duration;

use dstore_net::{Address, Application, ConnectionConfig, ListenerConfig, ListenerId, Net};

pub use self::remote::{Remote, RemoteCall, Sleep};
pub use self::rpc::{CallHandle, PeerState, Rpc};
pub use self::socket::Socket;
pub use self::turn::{end_of_turn, on_timer};

use crate::connection::{CloseReason, RequestId, StreamId};
use crate::handshake::Peer;
use crate::identity::{Lane, NodeId};
use crate::service::{Incoming, Origin};
use crate::status::Status;
use bytes::Bytes;

/// Bytes handed to a socket's queue ahead of what it takes: enough that one write after another is full, little enough
/// that urgent frames do not wait behind megabytes.
pub const OUTPUT_AHEAD_BYTES: usize = 256 << 10;

/// The timer of an [`Rpc`] in its application's loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RpcTimer;

/// An application with an [`Rpc`] in it.
pub trait Host: Application<Timer: From<RpcTimer>> {
    /// The application's [`Rpc`].
    fn rpc(&mut self) -> &mut Rpc<Self>;

    /// A peer calls, sends a message, or opened a stream. A request has to be answered with [`Rpc::answer`], now or
    /// later; [`Incoming::unknown`] says how to refuse what no service here knows.
    fn on_incoming(&mut self, net: &mut Net<Self>, origin: &Origin, incoming: Incoming);

    /// Nobody waits for this request any more; its answer still frees its place.
    fn on_cancelled(&mut self, net: &mut Net<Self>, request: RequestId) {
        let _ = (net, request);
    }

    /// Something happened to a stream.
    fn on_stream(&mut self, net: &mut Net<Self>, event: StreamEvent) {
        let _ = (net, event);
    }

    /// A connection with a peer came to be, or ended; dialed by us or by the peer.
    fn on_link(&mut self, net: &mut Net<Self>, event: &LinkEvent) {
        let _ = (net, event);
    }
}

/// What happens to an open stream.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// Its next bytes, to be acknowledged with [`Rpc::stream_consumed`].
    Chunk {
        /// Which.
        stream: StreamId,
        /// The bytes; empty only together with `end`.
        body: Bytes,
        /// The peer sends no more.
        end: bool,
    },
    /// It was blocked, and has credit again.
    Writable(StreamId),
    /// It is over: `Ok` if both ends had ended it.
    Closed(StreamId, Result<(), Status>),
}

/// What happens to a connection with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is established.
    Up {
        /// The peer.
        peer: Peer,
        /// Whether we dialed.
        dialed: bool,
    },
    /// It is over, or was never established: then a dialed one names whom it was meant to reach, and an accepted one
    /// nobody.
    Down {
        /// The peer.
        node: Option<NodeId>,
        /// What it was for; unknown where there was no handshake.
        lane: Option<Lane>,
        /// Whether we had dialed.
        dialed: bool,
        /// Why.
        reason: CloseReason,
    },
}

/// Listens for peers on `address`.
pub fn listen<A: Host>(net: &mut Net<A>, address: &Address) -> std::io::Result<ListenerId> {
    let config = ListenerConfig { connection: connection_config(), ..ListenerConfig::default() };
    net.listen(address, config, |_, _| Some(Socket::accepted()))
}

/// The framework's settings that this module relies on, for a loop that adopts sockets itself.
pub fn connection_config() -> ConnectionConfig {
    ConnectionConfig {
        // The protocol bounds its output, so the framework has no part in it: see the module's text.
        output_high_bytes: usize::MAX,
        output_low_bytes: usize::MAX,
        output_bytes_max: usize::MAX,
        // The last words of a closed connection, to a peer that may be gone.
        close_timeout: Duration::from_secs(1),
        ..ConnectionConfig::default()
    }
}
