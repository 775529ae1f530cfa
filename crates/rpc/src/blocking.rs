//! A client that waits: for tools and tests, one thread, one call at a time, no event loop.
//!
//! The pure [`Connection`] on a standard socket. A connection found dead before a call is replaced; one that dies during
//! a call ends that call, with an honest status. Between calls nobody answers the peer's heartbeats, so a client that
//! rests for some seconds reconnects at its next call. A deadline does not cut short a write that the peer takes slowly.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // The one module that has a socket and a clock of its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use crate::config::{Admission, Config};
use crate::connection::{CallId, CallOptions, CloseReason, Connection, Dial, Event, LinkId, TraceId};
use crate::entropy::Entropy;
use crate::handshake::Peer;
use crate::identity::{Lane, NodeId};
use crate::service::{CallMethod, Caller, MessageMethod};
use crate::status::{Code, Execution, Status};

const READ_BUFFER_BYTES: usize = 64 << 10;

/// The least the kernel is asked to wait: it takes zero for ever.
const WAIT_MIN: Duration = Duration::from_micros(100);

/// A client of one peer.
pub struct Client {
    address: SocketAddr,
    expected: Option<NodeId>,
    config: Arc<Config>,
    entropy: Entropy,
    link: Option<(Connection, TcpStream)>,
    links: u64,
    next_id: u64,
    /// When something came from the peer, or the connection was made.
    heard_at: Option<Instant>,
    /// Why the last attempt to connect led to nothing, if the peer answered at all.
    refused: Option<CloseReason>,
    buffer: Vec<u8>,
}

impl Client {
    /// A client that connects with its first call, to nobody but `expected` if that is known. `seed` comes from the
    /// operating system's random source.
    pub fn new(address: SocketAddr, config: Config, expected: Option<NodeId>, seed: [u8; 32]) -> Client {
        Client {
            address,
            expected,
            config: Arc::new(config),
            entropy: Entropy::new(seed),
            link: None,
            links: 0,
            next_id: 1,
            heard_at: None,
            refused: None,
            buffer: vec![0; READ_BUFFER_BYTES],
        }
    }

    /// Connects, if not connected, and tells who the peer is.
    pub fn connect(&mut self) -> Result<Peer, Status> {
        self.refresh()?;
        match self.link.as_ref().and_then(|(connection, _)| connection.peer()) {
            Some(peer) => Ok(*peer),
            None => Err(unavailable("not connected")),
        }
    }

    /// Why the connection that a call or [`Client::connect`] asked for did not come to be, when it was made but the
    /// handshake failed: who answered may have told more than the status says.
    pub fn refused(&self) -> Option<&CloseReason> {
        self.refused.as_ref()
    }

    /// Calls, and waits for the end of the call.
    pub fn call_raw(&mut self, method: u32, body: Bytes, options: CallOptions) -> Result<Bytes, Status> {
        self.refresh()?;
        let Some((connection, _)) = &mut self.link else { return Err(unavailable("not connected")) };
        let call = connection.call(Instant::now(), method, body, options);
        loop {
            if let Some(result) = self.completed(call) {
                return result;
            }
            self.turn();
        }
    }

    /// A connection that is established, as far as one can know.
    fn refresh(&mut self) -> Result<(), Status> {
        let resting = |at: Instant| at.elapsed() >= self.config.timeouts.heartbeat_interval / 2;
        if self.link.is_some() && self.heard_at.is_none_or(resting) {
            self.catch_up();
        }
        self.refused = None;
        if self.link.is_none() {
            self.dial()?;
        }
        loop {
            let Some((connection, _)) = &mut self.link else { return Err(unavailable("not connected")) };
            while let Some(event) = connection.poll_event() {
                if let Event::Closed { reason } = event {
                    // The peer is told why.
                    self.flush();
                    self.link = None;
                    let status = unavailable(&reason.to_string());
                    self.refused = Some(reason);
                    return Err(status);
                }
            }
            if connection.is_established() {
                return Ok(());
            }
            self.turn();
        }
    }

    /// Takes what came while nobody listened: the peer may have given us up.
    fn catch_up(&mut self) {
        let blocking = |link: &Option<(Connection, TcpStream)>, blocking: bool| {
            let set = link.as_ref().map(|(_, stream)| stream.set_nonblocking(!blocking));
            set.is_some_and(|set| set.is_ok())
        };
        if blocking(&self.link, false) {
            self.read(WAIT_MIN);
        }
        if !blocking(&self.link, true) {
            self.link = None;
        }
        self.drop_dead();
    }

    fn dial(&mut self) -> Result<(), Status> {
        let connected = TcpStream::connect_timeout(&self.address, self.config.timeouts.handshake)
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .and_then(|stream| stream.set_write_timeout(Some(self.config.timeouts.heartbeat_timeout)).map(|()| stream));
        let stream = connected.map_err(|error| unavailable(&format!("{}: {error}", self.address)))?;
        self.links += 1;
        let dial = Dial {
            link: LinkId(self.links),
            nonce: self.entropy.nonce(),
            lane: Lane::Messages,
            expected: self.expected,
            first_id: self.next_id,
        };
        let connection = Connection::dial(self.config.clone(), Admission::default(), Instant::now(), dial);
        self.link = Some((connection, stream));
        Ok(())
    }

    /// Sends what is to be sent, and waits for what comes, or is due.
    fn turn(&mut self) {
        self.flush();
        let Some((connection, _)) = &mut self.link else { return };
        if connection.is_closed() {
            return;
        }
        let wait = connection.poll_timeout().map(|at| at.saturating_duration_since(Instant::now()));
        self.read(wait.unwrap_or(WAIT_MIN).max(WAIT_MIN));
    }

    fn flush(&mut self) {
        let Some((connection, stream)) = &mut self.link else { return };
        while let Some(piece) = connection.poll_output(Instant::now()) {
            if let Err(error) = stream.write_all(&piece) {
                return connection.handle_lost(Instant::now(), &error.to_string());
            }
        }
    }

    fn read(&mut self, wait: Duration) {
        let Some((connection, stream)) = &mut self.link else { return };
        let read = stream.set_read_timeout(Some(wait)).and_then(|()| stream.read(&mut self.buffer));
        let now = Instant::now();
        match read {
            Ok(0) => connection.handle_lost(now, "closed by the peer"),
            Ok(count) => {
                self.heard_at = Some(now);
                connection.handle_input(now, &self.buffer[..count]);
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => connection.handle_timeout(now),
                _ => connection.handle_lost(now, &error.to_string()),
            },
        }
    }

    fn drop_dead(&mut self) {
        if self.link.as_ref().is_some_and(|(connection, _)| connection.is_closed()) {
            self.link = None;
        }
    }

    /// The call's result, if it has ended.
    fn completed(&mut self, call: CallId) -> Option<Result<Bytes, Status>> {
        let (connection, _) = self.link.as_mut()?;
        self.next_id = connection.next_id();
        while let Some(event) = connection.poll_event() {
            match event {
                Event::Completed { call: ended, result } if ended == call => {
                    self.flush();
                    self.drop_dead();
                    return Some(result);
                }
                // A client serves nothing.
                Event::Request { id, method, .. } => {
                    let message = format!("there is no method {method} here");
                    let status = Status::new(Code::UnknownMethod, Execution::NotExecuted, message);
                    connection.answer(Instant::now(), id, Err(status));
                }
                _ => {}
            }
        }
        None
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some((connection, _)) = &mut self.link {
            connection.close(Instant::now(), "the client is done");
            self.flush();
        }
    }
}

fn unavailable(why: &str) -> Status {
    Status::new(Code::Unavailable, Execution::NotExecuted, why)
}

impl Caller for Client {
    type Pending<R: Message + Default + 'static> = Result<R, Status>;

    fn call<Q, R>(&mut self, method: CallMethod<Q, R>, request: &Q, options: CallOptions) -> Result<R, Status>
    where
        Q: Message + Default,
        R: Message + Default + 'static,
    {
        method.decode_reply(self.call_raw(method.number, method.encode(request), options))
    }

    fn send<M: Message + Default>(&mut self, method: MessageMethod<M>, message: &M, trace: TraceId) -> bool {
        if self.refresh().is_err() {
            return false;
        }
        let Some((connection, _)) = &mut self.link else { return false };
        let taken = connection.send(method.number, method.encode(message), trace);
        self.flush();
        taken
    }
}
