//! [`Net`]: what a callback may ask of its loop.
//!
//! Everything here only changes the books and, at most, asks the poller to begin something; no callback runs inside. The
//! driver ([`crate::driver`]) carries the consequences out.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;

use crate::accept::Listener;
use crate::config::{ConnectionConfig, LoopConfig};
use crate::connection::{Connection, ConnectionState, WriteHalf};
use crate::driver::panic_message;
use crate::error::{CloseReason, LoopError};
use crate::link::{Link, LinkId};
use crate::mailbox::{Answer, Mailbox, Shared};
use crate::output::{Output, Spare};
use crate::pool::{Pool, PoolFull};
use crate::protocol::{Application, Handler, Protocol};
use crate::sys::{Address, Poller};
use crate::timers::{TimerId, Timers};

/// Names a connection of one loop, forever: once the connection is gone the id is stale, and whatever is asked for a stale
/// id does nothing. Ids of different loops are not told apart; keep them with their loop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    pub(crate) index: u32,
    /// Never 0, so that it is never taken for a listener's token.
    pub(crate) generation: u32,
}

impl ConnectionId {
    pub(crate) fn token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(crate) fn from_token(token: u64) -> Self {
        ConnectionId { index: token as u32, generation: (token >> 32) as u32 }
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}.{}", self.index, self.generation)
    }
}

/// Names a listener of one loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub(crate) u32);

/// What a timer of the loop is for.
pub(crate) enum TimerEvent<T> {
    Application(T),
    Connect(ConnectionId),
    Idle(ConnectionId),
    Quiet(ConnectionId),
    Deadline(ConnectionId),
    Close(ConnectionId),
    AcceptRetry(ListenerId),
    Link(LinkId),
}

/// What takes the result of a job in the pool.
pub(crate) type Done<A> = Box<dyn FnOnce(&mut A, &mut Net<A>, Result<Box<dyn Any + Send>, String>)>;

/// Threads and waiting jobs of the pool that a loop makes for itself: name look-ups are few, and a slow resolver must not
/// hold all of them.
const POOL_THREADS: usize = 4;
const POOL_JOBS: usize = 1024;

pub(crate) enum Stopping {
    Asked(Duration),
    Draining(Instant),
}

/// A loop, as its callbacks see it.
pub struct Net<A: Application> {
    pub(crate) config: LoopConfig,
    pub(crate) poller: Box<dyn Poller>,
    pub(crate) connections: Slab<Connection<A>>,
    pub(crate) listeners: Slab<Listener<A>>,
    pub(crate) timers: Timers<TimerEvent<A::Timer>>,
    pub(crate) mail: Arc<Shared<A::Mail>>,
    /// The time of the turn, moved on after each read. Never goes back.
    pub(crate) now: Instant,
    /// Connections with output that was not offered to the socket yet.
    pub(crate) dirty: Vec<ConnectionId>,
    /// Connections to serve in the next turn although no event comes.
    pub(crate) scheduled: Vec<ConnectionId>,
    /// Connections with a doom.
    pub(crate) doomed: Vec<ConnectionId>,
    /// Listeners that may have connections waiting.
    pub(crate) pending_listeners: BTreeSet<ListenerId>,
    pub(crate) spare: Spare,
    /// What all connections read into; taken out while in use.
    pub(crate) scratch: Vec<u8>,
    pub(crate) stopping: Option<Stopping>,
    pub(crate) fatal: Option<LoopError>,
    pub(crate) links: Slab<Link<A>>,
    /// Callbacks that wait for the pool's answer, by number.
    waiting: BTreeMap<u64, Done<A>>,
    jobs: u64,
    generation: u32,
}

impl<A: Application> Net<A> {
    pub(crate) fn new(config: LoopConfig, poller: Box<dyn Poller>) -> Self {
        let now = poller.now();
        let mail = Shared::new(poller.waker(), config.mail_max);
        let scratch = vec![0; config.read_buffer_bytes.max(1)];
        Net {
            config,
            poller,
            connections: Slab::new(),
            listeners: Slab::new(),
            timers: Timers::new(now),
            mail,
            now,
            dirty: Vec::new(),
            scheduled: Vec::new(),
            doomed: Vec::new(),
            pending_listeners: BTreeSet::new(),
            spare: Spare::default(),
            scratch,
            stopping: None,
            fatal: None,
            links: Slab::new(),
            waiting: BTreeMap::new(),
            jobs: 0,
            generation: 0,
        }
    }

    /// The time: of the turn's beginning, and after each read. Within a callback it stands still.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The way into this loop for other threads.
    pub fn mailbox(&self) -> Mailbox<A::Mail> {
        self.mail.mailbox()
    }

    /// Connections of the loop, those on their way in or out included.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    // Connections.

    pub(crate) fn insert_connection(
        &mut self,
        peer: Address,
        handler: Box<dyn Handler<A>>,
        config: Rc<ConnectionConfig>,
    ) -> ConnectionId {
        let generation = self.next_generation();
        let index = self.connections.insert(Connection::new(generation, peer, handler, config, self.now));
        ConnectionId { index: u32::try_from(index).expect("fewer than 2^32 connections"), generation }
    }

    pub(crate) fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1).max(1);
        self.generation
    }

    /// Where a connection is in its life; [`ConnectionState::Closed`] for a stale id.
    pub fn state(&self, id: ConnectionId) -> ConnectionState {
        self.connection(id).map_or(ConnectionState::Closed, Connection::state)
    }

    /// The other end.
    pub fn peer(&self, id: ConnectionId) -> Option<&Address> {
        self.connection(id).map(|connection| &connection.peer)
    }

    /// Writes a copy of `bytes`. They leave at the end of the turn. `false`, and nothing happens, if the connection takes no more output (it is closing, closed, or our half was ended).
    pub fn write(&mut self, id: ConnectionId, bytes: &[u8]) -> bool {
        self.output(id).map(|output| output.put_slice(bytes)).is_some()
    }

    /// As [`Net::write`], but large `bytes` are queued without a copy.
    pub fn write_bytes(&mut self, id: ConnectionId, bytes: Bytes) -> bool {
        self.output(id).map(|output| output.put_bytes(bytes)).is_some()
    }

    /// The output queue of a connection, to encode into; `None` when [`Net::write`] would say `false`.
    pub fn output(&mut self, id: ConnectionId) -> Option<&mut Output> {
        let connection = self.connections.get_mut(id.index as usize)?;
        if connection.generation != id.generation || !connection.takes_output() {
            return None;
        }
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(id);
        }
        if connection.output.lacks_buffer() {
            connection.output.lend(self.spare.take());
        }
        Some(&mut connection.output)
    }

    /// Bytes written to a connection that the socket has not taken yet.
    pub fn output_len(&self, id: ConnectionId) -> usize {
        self.connection(id).map_or(0, |connection| connection.output.len())
    }

    /// Closes a connection once its output is sent (a connecting one: once it is established, too). Nothing more is read or
    /// processed, no more output is taken.
    pub fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection_mut(id) else { return };
        let reason = if connection.input_ended_told { CloseReason::PeerClosed } else { CloseReason::Closed };
        self.close_with(id, reason);
    }

    pub(crate) fn close_with(&mut self, id: ConnectionId, reason: CloseReason) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id.index as usize) else { return };
        if connection.generation == id.generation && connection.closing.is_none() && connection.doom.is_none() {
            connection.closing = Some(reason);
            let timer = self.timers.insert(now + connection.config.close_timeout, TimerEvent::Close(id));
            connection.close_timer = Some(timer);
            // The driver's flush sees that it is closing, and dooms it once it is empty.
            self.make_dirty(id);
        }
    }

    /// Closes a connection at once. What was not sent is thrown away; over TCP the peer sees a reset.
    pub fn abort(&mut self, id: ConnectionId) {
        self.doom(id, CloseReason::Aborted);
    }

    /// Ends our half of the stream once the output is sent; reading goes on. No more output is taken.
    pub fn shutdown_write(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection_mut(id) else { return };
        if connection.takes_output() {
            connection.write_half = WriteHalf::Ending;
            self.make_dirty(id);
        }
    }

    /// Stops processing a connection's input and reading more. What is buffered stays.
    pub fn pause(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connection_mut(id) {
            connection.paused = true;
        }
    }

    /// Takes a [`Net::pause`] back: buffered input is processed in the next turn (which comes at once), with no need for new
    /// readiness.
    pub fn resume(&mut self, id: ConnectionId) {
        let now = self.now;
        let Some(connection) = self.connection_mut(id) else { return };
        if std::mem::take(&mut connection.paused) {
            connection.last_heard = now;
            self.schedule(id);
        }
    }

    /// Sets or takes away the one deadline of a connection, for [`Protocol::on_deadline`].
    pub fn set_deadline(&mut self, id: ConnectionId, deadline: Option<Instant>) {
        let Some(connection) = self.connections.get_mut(id.index as usize) else { return };
        if connection.generation != id.generation || connection.doom.is_some() {
            return;
        }
        match (connection.deadline_timer, deadline) {
            (Some(timer), Some(deadline)) => {
                let moved = self.timers.update(timer, deadline);
                debug_assert!(moved, "the deadline timer of {id:?} is armed");
            }
            (Some(timer), None) => {
                self.timers.remove(timer);
                connection.deadline_timer = None;
            }
            (None, Some(deadline)) => {
                connection.deadline_timer = Some(self.timers.insert(deadline, TimerEvent::Deadline(id)));
            }
            (None, None) => {}
        }
    }

    /// The protocol value of a connection, if it is of type `P` and none of its own callbacks is running.
    pub fn protocol_mut<P: Protocol<A>>(&mut self, id: ConnectionId) -> Option<&mut P> {
        let handler = self.connection_mut(id)?.handler.as_mut()?;
        (**handler).as_any().downcast_mut()
    }

    // Timers.

    /// Arms a timer; [`Application::on_timer`] gets `timer` back when it is due.
    pub fn insert_timer(&mut self, deadline: Instant, timer: A::Timer) -> TimerId {
        self.timers.insert(deadline, TimerEvent::Application(timer))
    }

    /// Moves a timer. `false` if it is no longer armed.
    pub fn update_timer(&mut self, id: TimerId, deadline: Instant) -> bool {
        self.timers.update(id, deadline)
    }

    /// Disarms a timer. `None` if it is no longer armed.
    pub fn remove_timer(&mut self, id: TimerId) -> Option<A::Timer> {
        match self.timers.remove(id)? {
            TimerEvent::Application(timer) => Some(timer),
            _ => unreachable!("ids of the loop's own timers are never given out"),
        }
    }

    // Work that may block.

    /// Runs `work` on a thread of the pool; `done` gets its result on this loop (an error text if it panicked). The answer
    /// does not come if the loop ends before.
    pub fn run_blocking<R: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> R + Send + 'static,
        done: impl FnOnce(&mut A, &mut Net<A>, Result<R, String>) + 'static,
    ) -> Result<(), PoolFull> {
        let pool = self.config.pool.get_or_insert_with(|| Pool::new(POOL_THREADS, POOL_JOBS)).clone();
        let number = self.jobs;
        let mail = self.mail.clone();
        pool.run(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            let result = result.map(|result| Box::new(result) as Box<dyn Any + Send>).map_err(panic_message);
            mail.answer(Answer { number, result });
        })?;
        self.jobs += 1;
        let done = move |app: &mut A, net: &mut Net<A>, result: Result<Box<dyn Any + Send>, String>| {
            let result = result.map(|result| *result.downcast::<R>().expect("the job's own result type"));
            done(app, net, result);
        };
        self.waiting.insert(number, Box::new(done));
        Ok(())
    }

    /// The callback that waits for an answer.
    pub(crate) fn take_waiting(&mut self, number: u64) -> Option<Done<A>> {
        self.waiting.remove(&number)
    }

    /// Timers that are armed, those of connections included.
    pub fn timer_count(&self) -> usize {
        self.timers.len()
    }

    // Stopping.

    /// Stops gracefully: listeners close now, every connection gets [`Protocol::on_drain`], and the loop ends when the last
    /// one is gone or `drain` has passed, whichever is first.
    pub fn stop(&mut self, drain: Duration) {
        if self.stopping.is_none() {
            self.stopping = Some(Stopping::Asked(drain));
        }
    }

    /// Whether the loop is on its way to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    // For the driver.

    /// Whether something is left to do that no event will tell of.
    pub(crate) fn has_work(&self) -> bool {
        let put_off = !self.scheduled.is_empty() || !self.pending_listeners.is_empty();
        // Left by the last callbacks of a turn, or by whoever used the loop before it ran.
        let left = !self.dirty.is_empty() || !self.doomed.is_empty();
        put_off || left || matches!(self.stopping, Some(Stopping::Asked(_)))
    }

    /// Samples the clock.
    pub(crate) fn tick(&mut self) {
        self.now = self.now.max(self.poller.now());
    }

    pub(crate) fn connection(&self, id: ConnectionId) -> Option<&Connection<A>> {
        self.connections.get(id.index as usize).filter(|connection| connection.generation == id.generation)
    }

    pub(crate) fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection<A>> {
        self.connections.get_mut(id.index as usize).filter(|connection| connection.generation == id.generation)
    }

    pub(crate) fn may_process(&self, id: ConnectionId) -> bool {
        self.connection(id).is_some_and(Connection::may_process)
    }

    /// The one way to an end: whoever finds a reason first, wins; the driver buries.
    pub(crate) fn doom(&mut self, id: ConnectionId, reason: CloseReason) {
        let Some(connection) = self.connection_mut(id) else { return };
        if connection.doom.is_none() {
            let orderly = matches!(reason, CloseReason::Closed | CloseReason::PeerClosed | CloseReason::Decode(_));
            connection.reset = !orderly;
            connection.doom = Some(reason);
            self.doomed.push(id);
        }
    }

    pub(crate) fn schedule(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection_mut(id) else { return };
        if !std::mem::replace(&mut connection.scheduled, true) {
            self.scheduled.push(id);
        }
    }

    pub(crate) fn make_dirty(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection_mut(id) else { return };
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(id);
        }
    }

    /// Arms what watches over an established connection.
    pub(crate) fn arm_watch(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.index as usize) else { return };
        if let (None, Some(timeout)) = (connection.idle_timer, connection.config.idle_timeout) {
            let timer = self.timers.insert(connection.last_heard + timeout, TimerEvent::Idle(id));
            connection.idle_timer = Some(timer);
        }
        if let (None, Some(interval)) = (connection.quiet_timer, connection.config.heartbeat) {
            let timer = self.timers.insert(connection.last_sent + interval, TimerEvent::Quiet(id));
            connection.quiet_timer = Some(timer);
        }
    }
}
