//! Why a connection ended, why a connect failed, why a loop stopped.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::net::ConnectionId;
use crate::sys::Address;

/// Why a connect did not come to be.
#[derive(Clone, Debug, Error)]
pub enum ConnectError {
    /// Nobody listens there (`ECONNREFUSED`).
    #[error("{0}: connection refused")]
    Refused(Address),
    /// No route to the network (`ENETUNREACH`).
    #[error("{0}: network unreachable")]
    NetworkUnreachable(Address),
    /// The network gave the host up (`EHOSTUNREACH`).
    #[error("{0}: host unreachable")]
    HostUnreachable(Address),
    /// The kernel gave up waiting for an answer (`ETIMEDOUT`).
    #[error("{0}: timed out")]
    TimedOut(Address),
    /// Our own connect timeout passed (or the share of it that this address had).
    #[error("{0}: no connection within the connect timeout")]
    Deadline(Address),
    /// The port chosen for our end was the one we connected to, and TCP connected the socket to itself.
    #[error("{0}: connected to itself")]
    SelfConnect(Address),
    /// The name has no address.
    #[error("cannot resolve {name:?}: {error}")]
    Resolve {
        /// The name as given.
        name: String,
        /// What the resolver said.
        error: Arc<io::Error>,
    },
    /// There was no address to try.
    #[error("no address to connect to")]
    NoAddress,
    /// The loop has as many connections as [`LoopConfig::connections_max`](crate::LoopConfig) allows.
    #[error("the loop has as many connections as it may")]
    Limit,
    /// Anything else.
    #[error("{address}: {error}")]
    Io {
        /// Where to.
        address: Address,
        /// What the system said.
        error: Arc<io::Error>,
    },
}

impl ConnectError {
    pub(crate) fn from_io(address: Address, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => ConnectError::Refused(address),
            Some(libc::ENETUNREACH) => ConnectError::NetworkUnreachable(address),
            Some(libc::EHOSTUNREACH) => ConnectError::HostUnreachable(address),
            Some(libc::ETIMEDOUT) => ConnectError::TimedOut(address),
            _ => ConnectError::Io { address, error: Arc::new(error) },
        }
    }
}

/// Why a connection ended. Told once, to [`Protocol::on_close`](crate::Protocol::on_close).
#[derive(Debug, Error)]
pub enum CloseReason {
    /// The application closed it, and all output was sent.
    #[error("closed by the application")]
    Closed,
    /// The peer had ended its stream, and then all output was sent.
    #[error("closed by the peer")]
    PeerClosed,
    /// The application aborted it.
    #[error("aborted by the application")]
    Aborted,
    /// The connection never came to be.
    #[error("connect failed: {0}")]
    Connect(#[from] ConnectError),
    /// The connection broke: `ECONNRESET`, `EPIPE`, `ETIMEDOUT` and the like.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The input could not be decoded.
    #[error("protocol error: {0}")]
    Decode(String),
    /// A message longer than [`ConnectionConfig::input_bytes_max`](crate::ConnectionConfig).
    #[error("a message of more than {0} bytes")]
    InputTooLarge(usize),
    /// More output than [`ConnectionConfig::output_bytes_max`](crate::ConnectionConfig) waits.
    #[error("more than {0} bytes of output wait")]
    OutputTooLarge(usize),
    /// The peer gave no sign of life for [`ConnectionConfig::idle_timeout`](crate::ConnectionConfig).
    #[error("idle")]
    Idle,
    /// The close did not come to its end within [`ConnectionConfig::close_timeout`](crate::ConnectionConfig): the peer does
    /// not read.
    #[error("the peer did not take the last output in time")]
    CloseTimeout,
    /// Its handler panicked.
    #[error("handler panicked: {0}")]
    Panicked(String),
    /// The loop stopped before the connection was done.
    #[error("the loop stopped")]
    Stopped,
}

/// A panic in a callback.
#[derive(Clone, Debug)]
pub struct PanicReport {
    /// The connection whose callback it was; `None` for a callback of the application itself.
    pub connection: Option<ConnectionId>,
    /// The panic's message.
    pub message: String,
}

/// Why [`EventLoop::run`](crate::EventLoop::run) ended early.
#[derive(Debug, Error)]
pub enum LoopError {
    /// The poller failed.
    #[error("polling failed: {0}")]
    Poll(#[from] io::Error),
    /// A callback panicked, and the policy is to stop.
    #[error("a handler panicked: {}", .0.message)]
    Panicked(PanicReport),
}
