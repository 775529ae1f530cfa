//! The real [`Poller`]: epoll through `mio`, sockets through `socket2`. The only module of the crate that touches the
//! operating system's network calls and its clock.
//!
//! Every stream socket is registered once, edge-triggered, for reading and writing; no `epoll_ctl` follows until close.

use std::io::{self, IoSlice, Read, Write};
use std::net::ToSocketAddrs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::SocketAddr as UnixAddress;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Address, ListenOptions, LookUp, Poller, Readiness, SocketKey, Wake};

/// The token of the waker; the framework hands out none so large.
const WAKER: Token = Token(usize::MAX);
/// Events taken in one `epoll_wait`; more wait for the next.
const EVENTS_PER_POLL_MAX: usize = 1024;

enum Os {
    Stream(Socket),
    Tcp(mio::net::TcpListener),
    Unix(mio::net::UnixListener),
}

/// epoll.
pub struct OsPoller {
    poll: Poll,
    events: Events,
    waker: Arc<OsWaker>,
    sockets: Slab<Os>,
}

struct OsWaker(mio::Waker);

impl Wake for OsWaker {
    fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}

impl OsPoller {
    /// Opens an epoll instance with its waker.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(OsWaker(mio::Waker::new(poll.registry(), WAKER)?));
        Ok(OsPoller { poll, events: Events::with_capacity(EVENTS_PER_POLL_MAX), waker, sockets: Slab::new() })
    }

    fn stream(&self, key: SocketKey) -> &Socket {
        match &self.sockets[key.0] {
            Os::Stream(socket) => socket,
            Os::Tcp(_) | Os::Unix(_) => panic!("{key:?} is a listener, not a stream"),
        }
    }

    fn insert_stream(&mut self, socket: Socket) -> SocketKey {
        SocketKey(self.sockets.insert(Os::Stream(socket)))
    }
}

impl Poller for OsPoller {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn poll(&mut self, events: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            // A signal: the caller's turn goes round once, with nothing to do.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        for event in self.events.iter().filter(|event| event.token() != WAKER) {
            events.push(Readiness {
                token: event.token().0 as u64,
                readable: event.is_readable(),
                writable: event.is_writable(),
                read_closed: event.is_read_closed(),
                error: event.is_error(),
            });
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn listen(&mut self, address: &Address, options: &ListenOptions, token: u64) -> io::Result<(SocketKey, Address)> {
        let (mut listener, bound) = match address {
            Address::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM.nonblocking().cloexec(), None)?;
                socket.set_reuse_address(true)?;
                if options.reuse_port {
                    socket.set_reuse_port(true)?;
                }
                // Accepted sockets inherit it.
                socket.set_tcp_nodelay(true)?;
                socket.bind(&(*address).into())?;
                socket.listen(options.backlog)?;
                let listener = mio::net::TcpListener::from_std(socket.into());
                let bound = Address::Tcp(listener.local_addr()?);
                (Os::Tcp(listener), bound)
            }
            Address::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
                socket.bind(&SockAddr::unix(path)?)?;
                socket.listen(options.backlog)?;
                let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
                (Os::Unix(mio::net::UnixListener::from_std(listener)), address.clone())
            }
        };
        let registry = self.poll.registry();
        match &mut listener {
            Os::Tcp(listener) => registry.register(listener, mio_token(token), Interest::READABLE)?,
            Os::Unix(listener) => registry.register(listener, mio_token(token), Interest::READABLE)?,
            Os::Stream(_) => unreachable!("made above"),
        }
        Ok((SocketKey(self.sockets.insert(listener)), bound))
    }

    fn accept(&mut self, listener: SocketKey) -> io::Result<(SocketKey, Address)> {
        let (descriptor, peer) = self.accept_descriptor(listener)?;
        Ok((self.insert_stream(Socket::from(descriptor)), peer))
    }

    fn accept_descriptor(&mut self, listener: SocketKey) -> io::Result<(OwnedFd, Address)> {
        match &self.sockets[listener.0] {
            Os::Tcp(listener) => {
                let (stream, peer) = retry(|| listener.accept())?;
                Ok((OwnedFd::from(stream), Address::Tcp(peer)))
            }
            Os::Unix(listener) => {
                let (stream, peer) = retry(|| listener.accept())?;
                Ok((OwnedFd::from(stream), unix_address(&peer)))
            }
            Os::Stream(_) => panic!("{listener:?} is a stream, not a listener"),
        }
    }

    fn look_up(&self, host: &str, port: u16) -> LookUp {
        let host = host.to_owned();
        Box::new(move || Ok((host.as_str(), port).to_socket_addrs()?.collect()))
    }

    fn connect(&mut self, address: &Address) -> io::Result<(SocketKey, bool)> {
        let (socket, target) = match address {
            Address::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM.nonblocking().cloexec(), None)?;
                socket.set_tcp_nodelay(true)?;
                (socket, SockAddr::from(*address))
            }
            Address::Unix(path) => {
                (Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?, SockAddr::unix(path)?)
            }
        };
        let established = match socket.connect(&target) {
            Ok(()) => true,
            // EINTR on a non-blocking connect: it goes on by itself, as after EINPROGRESS.
            Err(error)
                if error.raw_os_error() == Some(libc::EINPROGRESS) || error.kind() == io::ErrorKind::Interrupted =>
            {
                false
            }
            Err(error) => return Err(error),
        };
        Ok((self.insert_stream(socket), established))
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<(SocketKey, Address)> {
        let socket = Socket::from(socket);
        socket.set_nonblocking(true)?;
        let peer = match socket.peer_addr()? {
            address if address.is_unix() => Address::Unix(address.as_pathname().unwrap_or(Path::new("")).to_owned()),
            address => {
                socket.set_tcp_nodelay(true)?;
                Address::Tcp(address.as_socket().ok_or(io::ErrorKind::Unsupported)?)
            }
        };
        Ok((self.insert_stream(socket), peer))
    }

    fn register(&mut self, socket: SocketKey, token: u64) -> io::Result<()> {
        let descriptor = self.stream(socket).as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&descriptor), mio_token(token), interest)
    }

    fn connect_result(&mut self, socket: SocketKey) -> io::Result<bool> {
        let socket = self.stream(socket);
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        // No error does not yet mean connected: the event may have been spurious.
        match socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn self_connected(&mut self, socket: SocketKey) -> bool {
        let socket = self.stream(socket);
        match (socket.local_addr(), socket.peer_addr()) {
            (Ok(local), Ok(peer)) => !peer.is_unix() && local == peer,
            _ => false,
        }
    }

    fn take_error(&mut self, socket: SocketKey) -> Option<io::Error> {
        self.stream(socket).take_error().unwrap_or_else(Some)
    }

    fn read(&mut self, socket: SocketKey, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = self.stream(socket);
        retry(|| socket.read(buffer))
    }

    fn write(&mut self, socket: SocketKey, bytes: &[u8]) -> io::Result<usize> {
        let mut socket = self.stream(socket);
        retry(|| socket.write(bytes))
    }

    fn write_vectored(&mut self, socket: SocketKey, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut socket = self.stream(socket);
        retry(|| socket.write_vectored(slices))
    }

    fn shutdown_write(&mut self, socket: SocketKey) -> io::Result<()> {
        self.stream(socket).shutdown(std::net::Shutdown::Write)
    }

    fn close(&mut self, socket: SocketKey, reset: bool) {
        match self.sockets.remove(socket.0) {
            // epoll forgets a descriptor when it is closed: nothing here ever duplicates one.
            Os::Stream(socket) => {
                if reset {
                    // Fails for Unix sockets, which know no reset: plain close does there.
                    let _ = socket.set_linger(Some(Duration::ZERO));
                }
            }
            Os::Tcp(_) => {}
            Os::Unix(listener) => {
                // The name outlives the socket unless it is taken away, and would be in the way of the next listener.
                if let Ok(address) = listener.local_addr()
                    && let Some(path) = address.as_pathname()
                {
                    let _ = std::fs::remove_file(path);
                }
            }
        }
    }
}

fn mio_token(token: u64) -> Token {
    Token(usize::try_from(token).expect("a 64-bit machine"))
}

fn unix_address(address: &UnixAddress) -> Address {
    Address::Unix(address.as_pathname().unwrap_or(Path::new("")).to_owned())
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
