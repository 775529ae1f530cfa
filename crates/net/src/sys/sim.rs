//! A simulated operating system, for tests: every readiness, every error and the clock are the test's.
//!
//! [`SimPoller`] goes into the loop; [`SimWorld`] is the other side of all its sockets: the peers, the network, the
//! kernel's moods. Both share one state, on one thread. Nothing happens by itself and nothing blocks: `poll` returns what
//! is pending, the clock stands still until [`SimWorld::advance`].
//!
//! The simulation keeps the contract of [`Poller`] and no more than that: events are edges, delivered once; with
//! [`SimWorld::disturb`] they come late, in any order, and mixed with spurious ones. Like a kernel, it computes an event's
//! flags when the event is taken. It panics when a closed socket is used, for a real descriptor might be a stranger's by then.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Address, ListenOptions, LookUp, Poller, Readiness, SocketKey, Wake};

/// Calls that can be made to fail with [`SimWorld::fail_next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// [`Poller::accept`]
    Accept,
    /// [`Poller::connect`]
    Connect,
    /// [`Poller::register`]
    Register,
    /// [`Poller::connect_result`]
    ConnectResult,
    /// [`Poller::read`]
    Read,
    /// [`Poller::write`] and [`Poller::write_vectored`]
    Write,
    /// [`Poller::shutdown_write`]
    Shutdown,
}

/// What becomes of a connect that did not fail at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pending,
    Refused(i32),
    Connected,
}

#[derive(Default)]
struct Edges {
    pending: bool,
}

enum Kind {
    Listener { queue: VecDeque<SocketKey> },
    Stream(Box<Stream>),
}

struct Stream {
    phase: Phase,
    /// From the peer, not read yet.
    inbound: VecDeque<u8>,
    inbound_ended: bool,
    /// To the peer.
    outbound: Vec<u8>,
    outbound_ended: bool,
    /// Bytes the send buffer still takes.
    room: usize,
    /// `SO_ERROR`.
    error: Option<i32>,
}

struct Socket {
    kind: Kind,
    address: Address,
    token: Option<u64>,
    edges: Edges,
    /// `Some(reset)` once the framework has closed it.
    closed: Option<bool>,
}

struct State {
    now: Instant,
    /// Never shrinks: keys are not reused, so that a use after close is noticed.
    sockets: Vec<Socket>,
    connects: VecDeque<Outcome>,
    failures: BTreeMap<Call, VecDeque<i32>>,
    calls: BTreeMap<Call, usize>,
    room: usize,
    disturbance: Option<u64>,
    woken: Arc<Woken>,
}

/// How the next connect goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `connect` succeeds at once.
    Immediate,
    /// `EINPROGRESS`: [`SimWorld::settle_connect`] decides.
    Pending,
    /// `connect` fails at once, with this `errno`.
    Fails(i32),
}

/// One end of a simulated connection: the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(usize);

/// The framework's side.
pub struct SimPoller {
    state: Rc<RefCell<State>>,
}

/// The test's side.
#[derive(Clone)]
pub struct SimWorld {
    state: Rc<RefCell<State>>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(&self) -> io::Result<()> {
        self.0.store(true, Ordering::SeqCst);
        Ok(())
    }
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl SimWorld {
    /// A world whose clock stands at `now`, and the poller that lives in it.
    pub fn new(now: Instant) -> (SimWorld, SimPoller) {
        let state = Rc::new(RefCell::new(State {
            now,
            sockets: Vec::new(),
            connects: VecDeque::new(),
            failures: BTreeMap::new(),
            calls: BTreeMap::new(),
            room: usize::MAX,
            disturbance: None,
            woken: Arc::new(Woken(AtomicBool::new(false))),
        }));
        (SimWorld { state: state.clone() }, SimPoller { state })
    }

    /// Moves the clock.
    pub fn advance(&self, by: Duration) {
        self.state.borrow_mut().now += by;
    }

    /// From here on events are delayed, shuffled, and joined by spurious ones, as `seed` has it; `None`: no longer.
    pub fn disturb(&self, seed: Option<u64>) {
        // xorshift has no way out of 0.
        self.state.borrow_mut().disturbance = seed.map(|seed| seed | 1);
    }

    /// New sockets take so many bytes before their peer makes room.
    pub fn set_room(&self, room: usize) {
        self.state.borrow_mut().room = room;
    }

    /// The next `call` that has no such order before it fails with `errno`.
    pub fn fail_next(&self, call: Call, errno: i32) {
        self.state.borrow_mut().failures.entry(call).or_default().push_back(errno);
    }

    /// Forgets orders to fail that were not carried out.
    pub fn clear_failures(&self) {
        self.state.borrow_mut().failures.clear();
    }

    /// How often `call` was made.
    pub fn calls(&self, call: Call) -> usize {
        self.state.borrow().calls.get(&call).copied().unwrap_or(0)
    }

    /// How the next connects go; without an order they are pending.
    pub fn script_connects(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        self.state.borrow_mut().connects.extend(outcomes);
    }

    /// The sockets that the framework has connected, in order.
    pub fn outbound_peers(&self, listeners: usize) -> Vec<Peer> {
        (listeners..self.state.borrow().sockets.len()).map(Peer).collect()
    }

    /// The latest stream socket whose other end is `address`.
    pub fn peer_at(&self, address: &Address) -> Option<Peer> {
        let state = self.state.borrow();
        state.sockets.iter().rposition(|socket| !socket.is_listener() && socket.address == *address).map(Peer)
    }

    /// Whether a connect waits for [`SimWorld::settle_connect`].
    pub fn is_connecting(&self, peer: Peer) -> bool {
        self.socket(peer).stream().phase == Phase::Pending
    }

    /// A pending connect comes to its end.
    pub fn settle_connect(&self, peer: Peer, result: Result<(), i32>) {
        let mut state = self.state.borrow_mut();
        let socket = &mut state.sockets[peer.0];
        let stream = socket.stream();
        assert_eq!(stream.phase, Phase::Pending, "settled once");
        match result {
            Ok(()) => stream.phase = Phase::Connected,
            Err(errno) => {
                stream.phase = Phase::Refused(errno);
                stream.error = Some(errno);
            }
        }
        socket.edges.pending = true;
    }

    /// A peer connects to the listener at `address`. It waits in the queue until accepted.
    ///
    /// # Panics
    /// If nobody listens there.
    pub fn dial(&self, address: &Address) -> Peer {
        let mut state = self.state.borrow_mut();
        let room = state.room;
        let peer = state.sockets.len();
        let from = Address::Tcp(([127, 0, 0, 1], 1024 + (peer % 60_000) as u16).into());
        state.sockets.push(Socket::stream_socket(Phase::Connected, from, room));
        let listener =
            state.sockets.iter_mut().find(|s| s.closed.is_none() && s.is_listener() && s.address == *address);
        let listener = listener.expect("somebody listens there");
        if let Kind::Listener { queue } = &mut listener.kind {
            queue.push_back(SocketKey(peer));
        }
        listener.edges.pending = true;
        Peer(peer)
    }

    /// The peer sends.
    pub fn send(&self, peer: Peer, bytes: &[u8]) {
        let mut socket = self.socket(peer);
        socket.stream().inbound.extend(bytes);
        socket.edges.pending = true;
    }

    /// The peer ends its stream.
    pub fn end(&self, peer: Peer) {
        let mut socket = self.socket(peer);
        socket.stream().inbound_ended = true;
        socket.edges.pending = true;
    }

    /// The peer resets the connection, or the network breaks it.
    pub fn break_off(&self, peer: Peer, errno: i32) {
        let mut socket = self.socket(peer);
        socket.stream().error = Some(errno);
        socket.edges.pending = true;
    }

    /// The peer's side takes `bytes` more.
    pub fn give_room(&self, peer: Peer, bytes: usize) {
        let mut socket = self.socket(peer);
        let stream = socket.stream();
        stream.room = stream.room.saturating_add(bytes);
        socket.edges.pending = true;
    }

    /// All that the peer has received.
    pub fn received(&self, peer: Peer) -> Vec<u8> {
        self.socket(peer).stream().outbound.clone()
    }

    /// Whether the peer has seen the end of our stream (or of the connection).
    pub fn sees_end(&self, peer: Peer) -> bool {
        let mut socket = self.socket(peer);
        socket.closed == Some(false) || socket.stream().outbound_ended
    }

    /// Whether the framework has closed the socket; `Some(true)`: with a reset.
    pub fn closed(&self, peer: Peer) -> Option<bool> {
        self.socket(peer).closed
    }

    /// Sockets that the framework holds.
    pub fn open_sockets(&self) -> usize {
        self.state.borrow().sockets.iter().filter(|socket| socket.token.is_some() && socket.closed.is_none()).count()
    }

    /// Whether an event waits for the next poll.
    pub fn has_events(&self) -> bool {
        let state = self.state.borrow();
        state.sockets.iter().any(|socket| socket.edges.pending && socket.token.is_some() && socket.closed.is_none())
    }

    fn socket(&self, peer: Peer) -> RefMut<'_, Socket> {
        RefMut::map(self.state.borrow_mut(), |state| &mut state.sockets[peer.0])
    }
}

impl Socket {
    fn stream_socket(phase: Phase, address: Address, room: usize) -> Socket {
        let stream = Stream {
            phase,
            inbound: VecDeque::new(),
            inbound_ended: false,
            outbound: Vec::new(),
            outbound_ended: false,
            room,
            error: None,
        };
        Socket { kind: Kind::Stream(Box::new(stream)), address, token: None, edges: Edges::default(), closed: None }
    }

    fn is_listener(&self) -> bool {
        matches!(self.kind, Kind::Listener { .. })
    }

    fn stream(&mut self) -> &mut Stream {
        match &mut self.kind {
            Kind::Stream(stream) => stream,
            Kind::Listener { .. } => panic!("a listener is no stream"),
        }
    }

    /// What epoll would say of it now.
    fn flags(&self, token: u64) -> Readiness {
        match &self.kind {
            Kind::Listener { queue } => {
                Readiness { token, readable: !queue.is_empty(), writable: false, read_closed: false, error: false }
            }
            Kind::Stream(stream) => {
                let broken = stream.error.is_some();
                Readiness {
                    token,
                    readable: !stream.inbound.is_empty() || stream.inbound_ended || broken,
                    writable: broken || (stream.room > 0 && stream.phase == Phase::Connected),
                    read_closed: stream.inbound_ended || broken,
                    error: broken,
                }
            }
        }
    }
}

impl State {
    fn open(&mut self, key: SocketKey) -> &mut Socket {
        let socket = &mut self.sockets[key.0];
        assert!(socket.closed.is_none(), "socket {key:?} was used after it was closed");
        socket
    }

    /// Counts the call, and fails it if that was ordered.
    fn call(&mut self, call: Call) -> io::Result<()> {
        *self.calls.entry(call).or_default() += 1;
        match self.failures.get_mut(&call).and_then(VecDeque::pop_front) {
            Some(errno) => Err(error(errno)),
            None => Ok(()),
        }
    }

    /// Marsaglia's xorshift64; only where disturbed.
    fn random(&mut self) -> Option<u64> {
        let x = self.disturbance.as_mut()?;
        *x ^= *x << 13;
        *x ^= *x >> 7;
        *x ^= *x << 17;
        Some(*x)
    }

    fn write(&mut self, socket: SocketKey, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.call(Call::Write)?;
        let stream = self.open(socket).stream();
        if let Some(errno) = stream.error.take() {
            return Err(error(errno));
        }
        assert!(!stream.outbound_ended, "written to after its end");
        assert_eq!(stream.phase, Phase::Connected, "written to before it was connected");
        let mut count = 0;
        for slice in slices {
            let taken = slice.len().min(stream.room);
            stream.outbound.extend_from_slice(&slice[..taken]);
            stream.room -= taken;
            count += taken;
            if taken < slice.len() {
                break;
            }
        }
        if count == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }
}

impl Poller for SimPoller {
    fn now(&self) -> Instant {
        self.state.borrow().now
    }

    fn poll(&mut self, events: &mut Vec<Readiness>, _timeout: Option<Duration>) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.woken.0.store(false, Ordering::SeqCst);
        for index in 0..state.sockets.len() {
            let random = state.random().unwrap_or(1);
            let socket = &mut state.sockets[index];
            let (Some(token), None) = (socket.token, socket.closed) else { continue };
            let held_back = random.is_multiple_of(4);
            let spurious = random.is_multiple_of(7);
            if socket.edges.pending && !held_back {
                socket.edges.pending = false;
                events.push(socket.flags(token));
            } else if spurious {
                let bit = |n: u64| random >> n & 1 == 1;
                let stream = !socket.is_listener();
                let (readable, writable) = (bit(20), bit(21) && stream);
                events.push(Readiness {
                    token,
                    readable,
                    writable,
                    read_closed: bit(22) && stream,
                    error: bit(23) && stream,
                });
            }
        }
        for last in (1..events.len()).rev() {
            if let Some(random) = state.random() {
                events.swap(last, (random % (last as u64 + 1)) as usize);
            }
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.state.borrow().woken.clone()
    }

    fn listen(&mut self, address: &Address, _: &ListenOptions, token: u64) -> io::Result<(SocketKey, Address)> {
        let mut state = self.state.borrow_mut();
        state.sockets.push(Socket {
            kind: Kind::Listener { queue: VecDeque::new() },
            address: address.clone(),
            token: Some(token),
            edges: Edges::default(),
            closed: None,
        });
        Ok((SocketKey(state.sockets.len() - 1), address.clone()))
    }

    fn accept(&mut self, listener: SocketKey) -> io::Result<(SocketKey, Address)> {
        let mut state = self.state.borrow_mut();
        state.call(Call::Accept)?;
        let Kind::Listener { queue } = &mut state.open(listener).kind else { panic!("a stream is no listener") };
        let socket = queue.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let address = state.open(socket).address.clone();
        Ok((socket, address))
    }

    fn accept_descriptor(&mut self, _: SocketKey) -> io::Result<(OwnedFd, Address)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn look_up(&self, _: &str, _: u16) -> LookUp {
        Box::new(|| Err(io::ErrorKind::Unsupported.into()))
    }

    fn connect(&mut self, address: &Address) -> io::Result<(SocketKey, bool)> {
        let mut state = self.state.borrow_mut();
        state.call(Call::Connect)?;
        let phase = match state.connects.pop_front().unwrap_or(Outcome::Pending) {
            Outcome::Immediate => Phase::Connected,
            Outcome::Pending => Phase::Pending,
            Outcome::Fails(errno) => return Err(error(errno)),
        };
        let room = state.room;
        state.sockets.push(Socket::stream_socket(phase, address.clone(), room));
        Ok((SocketKey(state.sockets.len() - 1), phase == Phase::Connected))
    }

    fn adopt(&mut self, _: OwnedFd) -> io::Result<(SocketKey, Address)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn register(&mut self, socket: SocketKey, token: u64) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.call(Call::Register)?;
        let socket = state.open(socket);
        socket.token = Some(token);
        // As with epoll: whatever is ready already is an edge.
        socket.edges.pending = true;
        Ok(())
    }

    fn connect_result(&mut self, socket: SocketKey) -> io::Result<bool> {
        let mut state = self.state.borrow_mut();
        state.call(Call::ConnectResult)?;
        let stream = state.open(socket).stream();
        match stream.error.take() {
            Some(errno) => Err(error(errno)),
            None => Ok(stream.phase == Phase::Connected),
        }
    }

    fn self_connected(&mut self, _: SocketKey) -> bool {
        false
    }

    fn take_error(&mut self, socket: SocketKey) -> Option<io::Error> {
        self.state.borrow_mut().open(socket).stream().error.take().map(error)
    }

    fn read(&mut self, socket: SocketKey, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        state.call(Call::Read)?;
        assert!(!buffer.is_empty(), "a read into nothing looks like the end of the stream");
        let stream = state.open(socket).stream();
        let count = stream.inbound.len().min(buffer.len());
        for (slot, byte) in buffer.iter_mut().zip(stream.inbound.drain(..count)) {
            *slot = byte;
        }
        match (count, stream.error, stream.inbound_ended) {
            (0, Some(errno), _) => {
                stream.error = None;
                Err(error(errno))
            }
            (0, None, false) => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(count),
        }
    }

    fn write(&mut self, socket: SocketKey, bytes: &[u8]) -> io::Result<usize> {
        self.state.borrow_mut().write(socket, &[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, socket: SocketKey, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.state.borrow_mut().write(socket, slices)
    }

    fn shutdown_write(&mut self, socket: SocketKey) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.call(Call::Shutdown)?;
        state.open(socket).stream().outbound_ended = true;
        Ok(())
    }

    fn close(&mut self, socket: SocketKey, reset: bool) {
        self.state.borrow_mut().open(socket).closed = Some(reset);
    }
}
