//! The border to the operating system: everything the framework asks of it, as one trait.
//!
//! [`Poller`] owns the sockets; the rest of the crate holds [`SocketKey`]s and never sees a descriptor. [`os`] is the
//! real one (epoll through `mio`); [`sim`] lets the connection machinery be tested without sockets.
//!
//! The contract, which the rest of the crate relies on:
//!
//! - Readiness is *edge-triggered*: an event says that something changed, once. Events may be spurious.
//! - After a `read` that returned fewer bytes than asked, or `WouldBlock`, more bytes bring a new event. The end of the
//!   peer's stream that arrived before the event was taken is told by [`Readiness::read_closed`]; later, by a new event.
//! - After a `write` that took fewer bytes than offered, or `WouldBlock`, room brings a new event.
//! - `Interrupted` never gets out of a [`Poller`]: it retries.

pub mod os;
pub mod sim;

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a socket listens or connects to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix stream socket at a path; an empty path for a peer that has no name.
    Unix(PathBuf),
}

impl Address {
    pub(crate) fn unnamed() -> Address {
        Address::Unix(PathBuf::new())
    }

    /// The TCP address, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) if path.as_os_str().is_empty() => f.write_str("unix:unnamed"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Names a socket inside its [`Poller`]. Reused after `close`; the caller keeps them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey(pub usize);

/// One event from [`Poller::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// What the socket was registered with.
    pub token: u64,
    /// A read may make progress.
    pub readable: bool,
    /// A write, or the connect, may make progress.
    pub writable: bool,
    /// The peer has ended its stream (or the connection is gone): read to the end.
    pub read_closed: bool,
    /// The socket has an error to tell.
    pub error: bool,
}

/// How to listen.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Connections the kernel queues until they are accepted (capped by `net.core.somaxconn`).
    pub backlog: i32,
    /// `SO_REUSEPORT`: several loops listen on the same port and the kernel spreads connections over them.
    pub reuse_port: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions { backlog: 1024, reuse_port: false }
    }
}

/// A look-up of a name, see [`Poller::look_up`].
pub type LookUp = Box<dyn FnOnce() -> io::Result<Vec<SocketAddr>> + Send>;

/// Wakes a loop out of [`Poller::poll`] from another thread.
pub trait Wake: Send + Sync {
    /// Makes the current or the next `poll` return.
    fn wake(&self) -> io::Result<()>;
}

/// What the framework asks of the operating system. See the module's text for the contract.
pub trait Poller {
    /// The monotonic clock.
    fn now(&self) -> Instant;

    /// Waits for events, at most `timeout` (`None`: without end), and appends them to `events`.
    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()>;

    /// The waker for this poller.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Binds and listens; the address returned is the bound one (with the port the kernel chose for port 0).
    fn listen(&mut self, address: &Address, options: &ListenOptions, token: u64) -> io::Result<(SocketKey, Address)>;

    /// Takes one connection from the queue. It is not registered yet.
    fn accept(&mut self, listener: SocketKey) -> io::Result<(SocketKey, Address)>;

    /// As `accept`, but the socket goes to another loop.
    fn accept_descriptor(&mut self, listener: SocketKey) -> io::Result<(OwnedFd, Address)>;

    /// The look-up of a host name, to be called where it may block.
    fn look_up(&self, host: &str, port: u16) -> LookUp;

    /// Begins to connect; `true` when it is established already. The socket is not registered yet.
    fn connect(&mut self, address: &Address) -> io::Result<(SocketKey, bool)>;

    /// Takes over a connected stream socket that somebody else opened. It is not registered yet.
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<(SocketKey, Address)>;

    /// Asks for events of a stream socket, under `token`.
    fn register(&mut self, socket: SocketKey, token: u64) -> io::Result<()>;

    /// After a writable event of a connecting socket: `Ok(true)` established, `Ok(false)` still under way, `Err` failed.
    fn connect_result(&mut self, socket: SocketKey) -> io::Result<bool>;

    /// Whether both ends of an established TCP connection are the same socket.
    fn self_connected(&mut self, socket: SocketKey) -> bool;

    /// The error the socket has to tell, if any; asking clears it.
    fn take_error(&mut self, socket: SocketKey) -> Option<io::Error>;

    /// Reads; `Ok(0)` is the end of the peer's stream.
    fn read(&mut self, socket: SocketKey, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes some of `bytes`.
    fn write(&mut self, socket: SocketKey, bytes: &[u8]) -> io::Result<usize>;

    /// Writes some of several slices, in order.
    fn write_vectored(&mut self, socket: SocketKey, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ends our half of the stream.
    fn shutdown_write(&mut self, socket: SocketKey) -> io::Result<()>;

    /// Closes a stream socket or a listener; `reset` throws unsent bytes away and tells the peer so (RST).
    fn close(&mut self, socket: SocketKey, reset: bool);
}
