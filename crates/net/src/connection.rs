//! The books of one connection: its state, buffers and flags. What happens to it is in [`crate::driver`].
//!
//! ```text
//!               connect succeeded                     close asked, or peer closed; output pending
//! [Connecting] -------------------> [Established] ------------------------------------> [Draining]
//!      |                                 |                                                   |
//!      | failed, timed out               | error, abort, nothing pending                     | output sent, error, abort
//!      v                                 v                                                   v
//! [Closed] <---------------------------------------------------------------------------------+
//! ```
//!
//! A closed connection is *doomed* first: `doom` holds why. The driver buries it once no callback runs: that is the one
//! place where a connection is closed and its protocol told.

use std::rc::Rc;
use std::time::Instant;

use crate::config::ConnectionConfig;
use crate::error::{CloseReason, ConnectError};
use crate::link::LinkId;
use crate::output::Output;
use crate::protocol::Handler;
use crate::sys::{Address, SocketKey};
use crate::timers::TimerId;

/// Where a connection is in its life, as the application sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// An outbound connection that is not established yet. Output waits.
    Connecting,
    /// Bytes flow both ways (or one way after a half-close).
    Established,
    /// Nothing is read any more; the connection closes once its output is sent.
    Draining,
    /// Gone, or the id never was.
    Closed,
}

/// Our half of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteHalf {
    Open,
    /// `shutdown_write` was asked for: no more output is taken, and the stream ends once what waits is sent.
    Ending,
    Ended,
}

/// Unprocessed input.
#[derive(Default)]
pub(crate) struct Input {
    /// Initialised memory; the input is `memory[start..end]`.
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consumed {count} of {} bytes", self.len());
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room for at least `room` more bytes behind the input.
    pub(crate) fn room(&mut self, room: usize) -> &mut [u8] {
        if self.memory.len() - self.end < room {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            let length = (self.end + room).max(self.memory.capacity());
            if self.memory.len() < length {
                self.memory.resize(length, 0);
            }
        }
        &mut self.memory[self.end..]
    }

    /// So many bytes were put into the room.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= self.memory.len(), "filled past the end");
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    pub(crate) fn lacks_memory(&self) -> bool {
        self.memory.capacity() == 0
    }

    pub(crate) fn lend(&mut self, memory: Vec<u8>) {
        debug_assert!(self.lacks_memory(), "lend only what is lacking");
        self.memory = memory;
    }

    /// Takes the memory back when there is no input.
    pub(crate) fn reclaim(&mut self) -> Option<Vec<u8>> {
        (self.len() == 0 && self.memory.capacity() > 0).then(|| std::mem::take(&mut self.memory))
    }
}

/// An outbound connection before it is established.
pub(crate) struct Connecting {
    /// Addresses still to try, the next one last.
    pub(crate) candidates: Vec<Address>,
    /// `connect` said at once that it is done; the driver carries on from there.
    pub(crate) immediate: bool,
    /// When the whole connect must be done.
    pub(crate) deadline: Instant,
    /// Armed for the present step; `None` only while the books are changed.
    pub(crate) timer: Option<TimerId>,
    /// Why the last candidate failed.
    pub(crate) error: Option<ConnectError>,
}

pub(crate) struct Connection<A> {
    pub(crate) generation: u32,
    /// `None` while the name is looked up or between two candidates.
    pub(crate) socket: Option<SocketKey>,
    pub(crate) peer: Address,
    /// Taken out while one of its callbacks runs; gone for good after it panicked.
    pub(crate) handler: Option<Box<dyn Handler<A>>>,
    pub(crate) config: Rc<ConnectionConfig>,
    pub(crate) input: Input,
    /// Length of the input at which to ask the decoder again; 0: now.
    pub(crate) needed: usize,
    pub(crate) output: Output,
    /// `Some` until established.
    pub(crate) connecting: Option<Box<Connecting>>,
    /// `Some`: draining; why the connection will close.
    pub(crate) closing: Option<CloseReason>,
    /// `Some`: to be buried as soon as no callback runs.
    pub(crate) doom: Option<CloseReason>,
    /// Throw unsent bytes away and reset when buried.
    pub(crate) reset: bool,
    pub(crate) write_half: WriteHalf,
    /// The socket may have something to read: an edge was seen and reading has not come to an end since.
    pub(crate) readable: bool,
    /// The socket may take bytes: it has not refused any since the last edge.
    pub(crate) writable: bool,
    /// An event told that the peer's stream ends; a short read does not mean there is nothing more.
    pub(crate) end_announced: bool,
    /// The end of the peer's stream was read.
    pub(crate) input_ended: bool,
    /// ... and the protocol was told.
    pub(crate) input_ended_told: bool,
    /// By the application.
    pub(crate) paused: bool,
    /// By the output's high-water mark. Implies `output_passed`.
    pub(crate) output_high: bool,
    /// The output was above the high-water mark, perhaps only until the socket took it, and not at the low one since.
    pub(crate) output_passed: bool,
    /// In the list of connections to flush.
    pub(crate) dirty: bool,
    /// In the list of connections to serve without a new event.
    pub(crate) scheduled: bool,
    /// All output is sent, and what still comes in is thrown away.
    pub(crate) lingering: bool,
    /// Adopted, and the protocol has not heard of it yet.
    pub(crate) unopened: bool,
    /// The link it belongs to.
    pub(crate) link: Option<LinkId>,
    /// The peer's last sign of life.
    pub(crate) last_heard: Instant,
    pub(crate) last_sent: Instant,
    pub(crate) idle_timer: Option<TimerId>,
    pub(crate) quiet_timer: Option<TimerId>,
    pub(crate) deadline_timer: Option<TimerId>,
    pub(crate) close_timer: Option<TimerId>,
}

impl<A> Connection<A> {
    pub(crate) fn new(
        generation: u32,
        peer: Address,
        handler: Box<dyn Handler<A>>,
        config: Rc<ConnectionConfig>,
        now: Instant,
    ) -> Self {
        Connection {
            generation,
            socket: None,
            peer,
            handler: Some(handler),
            config,
            input: Input::default(),
            needed: 0,
            output: Output::default(),
            connecting: None,
            closing: None,
            doom: None,
            reset: false,
            write_half: WriteHalf::Open,
            readable: false,
            writable: true,
            end_announced: false,
            input_ended: false,
            input_ended_told: false,
            paused: false,
            output_high: false,
            output_passed: false,
            dirty: false,
            scheduled: false,
            lingering: false,
            unopened: false,
            link: None,
            last_heard: now,
            last_sent: now,
            idle_timer: None,
            quiet_timer: None,
            deadline_timer: None,
            close_timer: None,
        }
    }

    /// The timers that are armed for it, for disarming.
    pub(crate) fn take_timers(&mut self) -> impl Iterator<Item = TimerId> + use<A> {
        let connect = self.connecting.as_mut().and_then(|connecting| connecting.timer.take());
        let timers = [&mut self.idle_timer, &mut self.quiet_timer, &mut self.deadline_timer, &mut self.close_timer];
        timers.map(Option::take).into_iter().flatten().chain(connect)
    }

    pub(crate) fn state(&self) -> ConnectionState {
        if self.doom.is_some() {
            ConnectionState::Closed
        } else if self.connecting.is_some() {
            ConnectionState::Connecting
        } else if self.closing.is_some() {
            ConnectionState::Draining
        } else {
            ConnectionState::Established
        }
    }

    /// Whether a message may be handed to the protocol now.
    pub(crate) fn may_process(&self) -> bool {
        self.may_read() && self.output.len() <= self.config.output_high_bytes
    }

    /// Whether input is wanted at all.
    pub(crate) fn may_read(&self) -> bool {
        !self.paused && !self.output_high && self.closing.is_none() && self.doom.is_none() && self.connecting.is_none()
    }

    /// Whether the application may still write.
    pub(crate) fn takes_output(&self) -> bool {
        self.closing.is_none() && self.doom.is_none() && self.write_half == WriteHalf::Open
    }

    /// Whether buffered input is worth handing to the decoder.
    pub(crate) fn has_work(&self) -> bool {
        self.input.len() > 0 && self.input.len() >= self.needed
    }
}
