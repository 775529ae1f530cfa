//! What happens to a connection: accepting, connecting, reading, processing, flushing, closing.
//!
//! The driver is the only caller of protocols. Each callback runs with its protocol taken out of the table and the rest of
//! the loop free to use; afterwards [`Driver::settle`] buries whoever was doomed meanwhile, so callbacks never nest.

use std::any::Any;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::config::PanicPolicy;
use crate::connection::WriteHalf;
use crate::error::{CloseReason, ConnectError, LoopError, PanicReport};
use crate::net::{ConnectionId, ListenerId, Net, TimerEvent};
use crate::output::SLICES_MAX;
use crate::protocol::{Application, Context, Driven, Handler, Notice};
use crate::sys::{Readiness, SocketKey};

/// Room made for a read behind input that waits for more.
const READ_ROOM_BYTES: usize = 16 * 1024;

/// The application and its loop's books, side by side so that a callback can have both.
pub(crate) struct Driver<A: Application> {
    pub(crate) app: A,
    pub(crate) net: Net<A>,
}

/// What a read brought.
enum Read {
    /// Go on reading.
    More,
    /// Nothing more for now.
    Drained,
}

impl<A: Application> Driver<A> {
    // Callbacks.

    /// Runs a callback of the application; a panic stops the loop.
    pub(crate) fn guard_app(&mut self, call: impl FnOnce(&mut A, &mut Net<A>)) {
        if self.net.fatal.is_some() {
            return;
        }
        let (app, net) = (&mut self.app, &mut self.net);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| call(app, net))) {
            let report = PanicReport { connection: None, message: panic_message(payload) };
            self.net.fatal = Some(LoopError::Panicked(report));
        }
    }

    /// Runs a callback of a connection's protocol.
    fn with_handler<R>(
        &mut self,
        id: ConnectionId,
        call: impl FnOnce(&mut dyn Handler<A>, &mut A, &mut Context<'_, A>) -> R,
    ) -> Option<R> {
        if self.net.fatal.is_some() {
            return None;
        }
        let mut handler = self.net.connection_mut(id)?.handler.take()?;
        let (app, net) = (&mut self.app, &mut self.net);
        let result = catch_unwind(AssertUnwindSafe(|| call(&mut *handler, app, &mut Context { net, id })));
        match result {
            Ok(result) => {
                // Still in the table: only `bury` takes out, and it runs between callbacks.
                if let Some(connection) = self.net.connection_mut(id) {
                    connection.handler = Some(handler);
                }
                Some(result)
            }
            Err(payload) => {
                self.on_panic(id, panic_message(payload));
                // Its destructor may find the same half-done state and panic as well.
                let _ = catch_unwind(AssertUnwindSafe(move || drop(handler)));
                None
            }
        }
    }

    fn on_panic(&mut self, id: ConnectionId, message: String) {
        tracing::error!(?id, message, "a connection's handler panicked");
        let report = PanicReport { connection: Some(id), message };
        match self.net.config.panic_policy {
            PanicPolicy::StopLoop => self.net.fatal = Some(LoopError::Panicked(report)),
            PanicPolicy::CloseConnection => {
                self.net.doom(id, CloseReason::Panicked(report.message.clone()));
                self.guard_app(|app, net| app.on_panic(net, &report));
            }
        }
    }

    pub(crate) fn notify(&mut self, id: ConnectionId, notice: Notice<'_>) {
        self.with_handler(id, |handler, app, cx| handler.notify(app, cx, notice));
    }

    // Accepting.

    /// Accepts what waits at a listener, within the turn's budget.
    pub(crate) fn accept(&mut self, id: ListenerId) {
        for _ in 0..self.net.config.accepts_per_turn_max {
            let full = self.net.connections.len() >= self.net.config.connections_max;
            let Some(listener) = self.net.listeners.get_mut(id.0 as usize) else { return };
            listener.pending = false;
            if full && listener.config.refusal.is_none() {
                // Taken up again when a connection is buried.
                listener.pending = true;
                return;
            }
            match self.net.poller.accept(listener.socket) {
                Ok((socket, _)) if full => {
                    let refusal = listener.config.refusal.clone().unwrap_or_default();
                    // A courtesy; whether it gets through is the peer's luck.
                    let _ = self.net.poller.write(socket, &refusal);
                    self.net.poller.close(socket, false);
                }
                Ok((socket, peer)) => self.admit(id, socket, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of descriptors or memory: the queue stays, and no event will come for what is in it already.
                    tracing::warn!(%error, listener = %listener.address, "cannot accept; trying again later");
                    listener.pending = true;
                    let at = self.net.now + self.net.config.accept_retry;
                    if listener.retry.is_none() {
                        listener.retry = Some(self.net.timers.insert(at, TimerEvent::AcceptRetry(id)));
                    }
                    return;
                }
            }
        }
        // The budget is used up; go on in the next turn.
        self.net.pending_listeners.insert(id);
    }

    fn admit(&mut self, listener_id: ListenerId, socket: SocketKey, peer: crate::sys::Address) {
        let Some(listener) = self.net.listeners.get_mut(listener_id.0 as usize) else {
            return self.net.poller.close(socket, true);
        };
        let config = listener.connection_config.clone();
        let Some(mut accept) = listener.accept.take() else { return self.net.poller.close(socket, true) };
        let mut handler = None;
        self.guard_app(|app, _| handler = accept(app, &peer));
        if let Some(listener) = self.net.listeners.get_mut(listener_id.0 as usize) {
            listener.accept = Some(accept);
        }
        let Some(handler) = handler else { return self.net.poller.close(socket, true) };
        self.open(socket, peer, handler, config);
    }

    /// Puts an established socket into the table.
    fn open(
        &mut self,
        socket: SocketKey,
        peer: crate::sys::Address,
        handler: Box<dyn Handler<A>>,
        config: std::rc::Rc<crate::config::ConnectionConfig>,
    ) {
        let id = self.net.insert_connection(peer, handler, config);
        self.net.connections[id.index as usize].socket = Some(socket);
        match self.net.poller.register(socket, id.token()) {
            Ok(()) => self.established(id),
            Err(error) => self.net.doom(id, error.into()),
        }
    }

    /// Both sides come through here.
    fn established(&mut self, id: ConnectionId) {
        self.net.arm_idle(id);
        self.notify(id, Notice::Open);
        self.flush(id);
    }

    // Connecting.

    /// A connecting socket became writable, or `connect` had succeeded at once.
    fn finish_connect(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        let (Some(connecting), Some(socket)) = (&mut connection.connecting, connection.socket) else { return };
        let immediate = std::mem::take(&mut connecting.immediate);
        let peer = connection.peer.clone();
        let result = if immediate { Ok(true) } else { self.net.poller.connect_result(socket) };
        match result {
            Ok(false) => {}
            Ok(true) if self.net.poller.self_connected(socket) => {
                self.abandon_candidate(id, ConnectError::SelfConnect(peer));
            }
            Ok(true) => {
                let now = self.net.now;
                let Some(connection) = self.net.connection_mut(id) else { return };
                connection.last_active = now;
                if let Some(connecting) = connection.connecting.take() {
                    self.net.timers.remove(connecting.timeout);
                }
                self.established(id);
            }
            Err(error) => self.abandon_candidate(id, ConnectError::from_io(peer, error)),
        }
    }

    /// This address failed; on to the next.
    fn abandon_candidate(&mut self, id: ConnectionId, error: ConnectError) {
        self.net.note_connect_error(id, error);
        let Some(connection) = self.net.connection_mut(id) else { return };
        if let Some(socket) = connection.socket.take() {
            (connection.readable, connection.writable, connection.end_announced) = (false, true, false);
            self.net.poller.close(socket, true);
        }
        self.net.try_next_candidate(id);
    }

    /// The time for the whole connect is up.
    pub(crate) fn connect_timed_out(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        let peer = connection.peer.clone();
        self.net.doom(id, CloseReason::Connect(ConnectError::Deadline(peer)));
    }

    // Readiness.

    /// An event of the poller for a connection (or for one that is gone: then nothing).
    pub(crate) fn on_readiness(&mut self, id: ConnectionId, event: Readiness) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        if connection.connecting.is_some() {
            // An error or a hang-up counts as writable: SO_ERROR tells which.
            if event.writable || event.error || event.read_closed {
                connection.readable |= event.readable;
                connection.end_announced |= event.read_closed;
                self.finish_connect(id);
            }
        } else {
            connection.readable |= event.readable || event.read_closed || event.error;
            connection.end_announced |= event.read_closed || event.error;
            connection.writable |= event.writable;
            if event.error && !connection.may_read() {
                // Nobody will read, so nobody would find it.
                if let Some(error) = connection.socket.and_then(|socket| self.net.poller.take_error(socket)) {
                    self.net.doom(id, error.into());
                    return;
                }
            }
            if event.writable && !self.net.connections[id.index as usize].output.is_empty() {
                self.flush(id);
            }
        }
        self.serve(id);
    }

    /// Does for a connection what can be done: finish a connect, process buffered input, read more, tell of the end, flush.
    pub(crate) fn serve(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection(id) else { return };
        if connection.connecting.as_ref().is_some_and(|connecting| connecting.immediate) {
            self.finish_connect(id);
        }
        self.process_buffered(id);
        let mut budget = self.net.config.read_bytes_per_turn_max;
        while let Some(connection) = self.net.connection(id) {
            if !connection.readable || !connection.may_process() {
                break;
            }
            if budget == 0 {
                self.net.schedule(id);
                break;
            }
            match self.read(id, &mut budget) {
                Read::More => {}
                Read::Drained => break,
            }
        }
        self.tell_input_ended(id);
        self.flush(id);
        // Output beyond the mark stopped the processing, and the socket then took it: carry on in the next turn.
        if let Some(connection) = self.net.connection(id) {
            let has_work = connection.has_work() || connection.readable || self.owes_input_end(id);
            if connection.may_process() && has_work {
                self.net.schedule(id);
            }
        }
    }

    fn owes_input_end(&self, id: ConnectionId) -> bool {
        self.net.connection(id).is_some_and(|c| c.input_ended && !c.input_ended_told)
    }

    /// The peer's stream ended and everything whole in it was processed: tell the protocol, once.
    fn tell_input_ended(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        let due = connection.input_ended && !connection.input_ended_told && connection.may_process();
        if due && !connection.has_work() {
            connection.input_ended_told = true;
            self.notify(id, Notice::InputClosed);
        }
    }

    // Reading and processing.

    fn read(&mut self, id: ConnectionId, budget: &mut usize) -> Read {
        let Some(connection) = self.net.connection_mut(id) else { return Read::Drained };
        let Some(socket) = connection.socket else { return Read::Drained };
        if connection.input.len() == 0 {
            self.read_to_scratch(id, socket, budget)
        } else {
            self.read_behind(id, socket, budget)
        }
    }

    /// Nothing is buffered: read into the loop's buffer, process from there, keep only the rest.
    fn read_to_scratch(&mut self, id: ConnectionId, socket: SocketKey, budget: &mut usize) -> Read {
        let mut scratch = std::mem::take(&mut self.net.scratch);
        let room = scratch.len().min(*budget);
        let result = self.net.poller.read(socket, &mut scratch[..room]);
        let outcome = self.account_read(id, result, room, budget);
        if let Some(count) = outcome.filter(|count| *count > 0) {
            let driven = self.drive(id, &scratch[..count]);
            if let Some(connection) = self.net.connections.get_mut(id.index as usize) {
                connection.needed = driven.needed;
                if driven.consumed < count && connection.doom.is_none() {
                    if connection.input.lacks_memory() {
                        connection.input.lend(self.net.spare.take());
                    }
                    connection.input.append(&scratch[driven.consumed..count]);
                }
            }
            self.after_drive(id, driven);
        }
        self.net.scratch = scratch;
        if outcome.is_some() { Read::More } else { Read::Drained }
    }

    /// Input waits for more: read behind it.
    fn read_behind(&mut self, id: ConnectionId, socket: SocketKey, budget: &mut usize) -> Read {
        let connection = &mut self.net.connections[id.index as usize];
        let length = connection.input.len();
        let most = connection.config.input_bytes_max.saturating_sub(length);
        if most == 0 {
            let limit = connection.config.input_bytes_max;
            self.net.doom(id, CloseReason::InputTooLarge(limit));
            return Read::Drained;
        }
        let room = connection.needed.saturating_sub(length).max(READ_ROOM_BYTES).min(most).min(*budget);
        let buffer = &mut connection.input.room(room)[..room];
        let result = self.net.poller.read(socket, buffer);
        let Some(count) = self.account_read(id, result, room, budget) else { return Read::Drained };
        if let Some(connection) = self.net.connection_mut(id) {
            connection.input.filled(count);
        }
        self.process_buffered(id);
        Read::More
    }

    /// The books of one read call: `Some(count)` if reading may go on.
    fn account_read(
        &mut self,
        id: ConnectionId,
        result: io::Result<usize>,
        room: usize,
        budget: &mut usize,
    ) -> Option<usize> {
        self.net.tick();
        let now = self.net.now;
        let connection = self.net.connection_mut(id)?;
        match result {
            Ok(0) => {
                connection.readable = false;
                connection.input_ended = true;
                None
            }
            Ok(count) => {
                *budget -= count;
                connection.last_active = now;
                // Contract of the poller: after a short read only a new event can bring more, unless the end is near.
                connection.readable = count == room || connection.end_announced;
                Some(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.readable = false;
                None
            }
            Err(error) => {
                self.net.doom(id, error.into());
                None
            }
        }
    }

    /// Hands buffered input to the protocol, if it may and can have it.
    fn process_buffered(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        if !connection.may_process() || !connection.has_work() {
            return;
        }
        let mut input = std::mem::take(&mut connection.input);
        let driven = self.drive(id, input.bytes());
        input.consume(driven.consumed);
        if let Some(connection) = self.net.connections.get_mut(id.index as usize) {
            connection.needed = driven.needed;
            if let Some(memory) = input.reclaim() {
                self.net.spare.give(memory);
            }
            connection.input = input;
        }
        self.after_drive(id, driven);
    }

    fn drive(&mut self, id: ConnectionId, input: &[u8]) -> Driven {
        let driven = self.with_handler(id, |handler, app, cx| handler.drive(app, cx, input));
        // Nothing came back after a panic: the input is as lost as its connection.
        driven.unwrap_or(Driven { consumed: input.len(), needed: 0, failed: None })
    }

    fn after_drive(&mut self, id: ConnectionId, driven: Driven) {
        if let Some(text) = driven.failed {
            self.net.close_with(id, CloseReason::Decode(text));
        } else if let Some(connection) = self.net.connection(id) {
            let limit = connection.config.input_bytes_max;
            if driven.needed > limit && connection.input.len() > 0 {
                self.net.doom(id, CloseReason::InputTooLarge(limit));
            }
        }
    }

    // Writing.

    /// Sends what other callbacks wrote to connections that were not served themselves.
    pub(crate) fn flush_dirty(&mut self) {
        // A flush may call back (water marks), and that may write again: those go round once more.
        while !self.net.dirty.is_empty() && self.net.fatal.is_none() {
            let mut dirty = std::mem::take(&mut self.net.dirty);
            for id in dirty.drain(..) {
                if self.net.connection(id).is_some_and(|connection| connection.dirty) {
                    self.flush(id);
                }
            }
            if self.net.dirty.is_empty() {
                self.net.dirty = dirty;
            }
        }
    }

    /// Offers the output to the socket and draws the consequences: water marks, half-close, close.
    fn flush(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        connection.dirty = false;
        if connection.doom.is_some() {
            return;
        }
        let length = connection.output.len();
        if length > connection.config.output_bytes_max && (connection.connecting.is_some() || !connection.writable) {
            let limit = connection.config.output_bytes_max;
            return self.net.doom(id, CloseReason::OutputTooLarge(limit));
        }
        if connection.connecting.is_some() {
            return;
        }
        if let Err(error) = self.send(id) {
            return self.net.doom(id, error.into());
        }
        let Some(connection) = self.net.connection_mut(id) else { return };
        if connection.output.len() > connection.config.output_bytes_max {
            let limit = connection.config.output_bytes_max;
            return self.net.doom(id, CloseReason::OutputTooLarge(limit));
        }
        if connection.output.is_empty() {
            self.output_sent(id);
        }
        self.mark_water(id);
    }

    /// Writes until the output is empty or the socket refuses.
    fn send(&mut self, id: ConnectionId) -> io::Result<()> {
        let now = self.net.now;
        let Some(connection) = self.net.connections.get_mut(id.index as usize) else { return Ok(()) };
        let Some(socket) = connection.socket else { return Ok(()) };
        while connection.writable && !connection.output.is_empty() {
            let (result, offered) = match connection.output.contiguous() {
                Some(bytes) => (self.net.poller.write(socket, bytes), bytes.len()),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                    let filled = connection.output.slices(&mut slices);
                    let offered = slices[..filled].iter().map(|slice| slice.len()).sum();
                    (self.net.poller.write_vectored(socket, &slices[..filled]), offered)
                }
            };
            match result {
                Ok(count) => {
                    connection.output.advance(count);
                    connection.last_active = now;
                    // Contract of the poller: a short write means full, and room brings an event.
                    connection.writable = count == offered;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.writable = false,
                Err(error) => return Err(error),
            }
        }
        if let Some(buffer) = connection.output.reclaim() {
            self.net.spare.give(buffer);
        }
        Ok(())
    }

    /// Nothing waits any more: end our half, or the connection, if that was asked for.
    fn output_sent(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        if let Some(reason) = connection.closing.take() {
            return self.net.doom(id, reason);
        }
        if connection.write_half == WriteHalf::Ending {
            connection.write_half = WriteHalf::Ended;
            let Some(socket) = connection.socket else { return };
            match self.net.poller.shutdown_write(socket) {
                // The peer has reset it: the read tells.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                Err(error) => self.net.doom(id, error.into()),
                Ok(()) => {}
            }
        }
    }

    fn mark_water(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        if connection.doom.is_some() {
            return;
        }
        let length = connection.output.len();
        if !connection.output_high && length > connection.config.output_high_bytes {
            connection.output_high = true;
            self.notify(id, Notice::OutputHigh);
        } else if connection.output_high && length <= connection.config.output_low_bytes {
            connection.output_high = false;
            self.net.schedule(id);
            self.notify(id, Notice::OutputLow);
        }
    }

    // Timers of connections.

    /// The idle timer is not moved with every byte; it looks, when due, at when the last one was.
    pub(crate) fn idle_due(&mut self, id: ConnectionId) {
        let now = self.net.now;
        let Some(connection) = self.net.connection_mut(id) else { return };
        connection.idle_timer = None;
        let Some(timeout) = connection.config.idle_timeout else { return };
        if connection.last_active + timeout <= now {
            self.net.doom(id, CloseReason::Idle);
        } else {
            self.net.arm_idle(id);
        }
    }

    // Ends.

    /// Buries the doomed; reports what stops the loop.
    pub(crate) fn settle(&mut self) -> Result<(), LoopError> {
        while let Some(id) = self.net.doomed.pop() {
            self.bury(id);
        }
        match self.net.fatal.take() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// The one place where a connection is closed. Its id goes stale, then its protocol is told.
    fn bury(&mut self, id: ConnectionId) {
        if self.net.connection(id).is_none() {
            return;
        }
        let mut connection = self.net.connections.remove(id.index as usize);
        let timers = [connection.idle_timer, connection.deadline_timer];
        let connect_timer = connection.connecting.as_ref().map(|connecting| connecting.timeout);
        for timer in timers.into_iter().flatten().chain(connect_timer) {
            self.net.timers.remove(timer);
        }
        if let Some(socket) = connection.socket {
            self.net.poller.close(socket, connection.reset);
        }
        connection.output.clear();
        let reason = connection.doom.take().unwrap_or(CloseReason::Aborted);
        tracing::debug!(?id, peer = %connection.peer, %reason, "connection closed");
        // A descriptor and a place are free again.
        self.net.wake_listeners();
        let Some(mut handler) = connection.handler.take() else { return };
        if self.net.fatal.is_some() {
            return;
        }
        let (app, net) = (&mut self.app, &mut self.net);
        let told = catch_unwind(AssertUnwindSafe(|| {
            handler.notify(app, &mut Context { net, id }, Notice::Close(&reason));
            drop(handler);
        }));
        if let Err(payload) = told {
            self.on_panic(id, panic_message(payload));
        }
    }

    /// Closes the listeners and asks every connection to come to an end.
    pub(crate) fn begin_drain(&mut self) {
        let listeners: Vec<_> = self.net.listeners.iter().map(|(key, _)| ListenerId(key as u32)).collect();
        for id in listeners {
            self.net.close_listener(id);
        }
        self.guard_app(|app, net| app.on_stop(net));
        for id in self.ids() {
            self.notify(id, Notice::Drain);
        }
        self.flush_dirty();
    }

    pub(crate) fn doom_all(&mut self, reason: impl Fn() -> CloseReason) {
        for id in self.ids() {
            self.net.doom(id, reason());
        }
    }

    /// After a fatal error: sockets are reset, nobody is told.
    pub(crate) fn drop_everything(&mut self) {
        for connection in self.net.connections.drain() {
            if let Some(socket) = connection.socket {
                self.net.poller.close(socket, true);
            }
            let handler = connection.handler;
            let _ = catch_unwind(AssertUnwindSafe(move || drop(handler)));
        }
        for listener in self.net.listeners.drain() {
            self.net.poller.close(listener.socket, false);
        }
    }

    fn ids(&self) -> Vec<ConnectionId> {
        let id = |(index, connection): (usize, &crate::connection::Connection<A>)| ConnectionId {
            index: index as u32,
            generation: connection.generation,
        };
        self.net.connections.iter().map(id).collect()
    }
}

impl<A: Application> Net<A> {
    /// Samples the clock.
    pub(crate) fn tick(&mut self) {
        self.now = self.now.max(self.poller.now());
    }

    /// A listener's retry timer is due.
    pub(crate) fn retry_accept(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(id.0 as usize) {
            listener.retry = None;
            self.pending_listeners.insert(id);
        }
    }

    /// Listeners that had to leave connections in the queue may try again.
    fn wake_listeners(&mut self) {
        for (key, listener) in &mut self.listeners {
            if std::mem::take(&mut listener.pending) {
                self.pending_listeners.insert(ListenerId(key as u32));
            }
        }
    }
}

fn panic_message(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => {
            payload.downcast_ref::<&str>().map_or_else(|| "(no message)".to_owned(), |text| (*text).to_owned())
        }
    }
}
