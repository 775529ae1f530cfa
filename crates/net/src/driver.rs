//! Callbacks and ends: what all that happens to connections has in common. Accepting is in [`crate::accept`], connecting in
//! [`crate::connect`], reading and writing in [`crate::transfer`].
//!
//! The driver is the only caller of protocols. Each callback runs with its protocol taken out of the table and the rest of
//! the loop free to use; afterwards [`Driver::settle`] buries whoever was doomed meanwhile, so callbacks never nest.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::config::PanicPolicy;
use crate::error::{CloseReason, LoopError, PanicReport};
use crate::net::{ConnectionId, ListenerId, Net};
use crate::protocol::{Application, Context, Handler, Notice};

/// The application and its loop's books, side by side so that a callback can have both.
pub(crate) struct Driver<A: Application> {
    pub(crate) app: A,
    pub(crate) net: Net<A>,
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
    pub(crate) fn with_handler<R>(
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

    // Timers of connections.

    /// The idle timer is not moved with every byte; it looks, when due, at when the peer last gave a sign of life.
    pub(crate) fn idle_due(&mut self, id: ConnectionId) {
        let now = self.net.now;
        let Some(connection) = self.net.connection_mut(id) else { return };
        connection.idle_timer = None;
        let Some(timeout) = connection.config.idle_timeout else { return };
        if connection.paused {
            connection.last_heard = now;
        }
        if connection.last_heard + timeout <= now {
            self.net.doom(id, CloseReason::Idle);
        } else {
            self.net.arm_watch(id);
        }
    }

    /// Likewise, for what we sent.
    pub(crate) fn quiet_due(&mut self, id: ConnectionId) {
        let now = self.net.now;
        let Some(connection) = self.net.connection_mut(id) else { return };
        connection.quiet_timer = None;
        let Some(interval) = connection.config.heartbeat else { return };
        if connection.last_sent + interval <= now && connection.closing.is_none() {
            connection.last_sent = now;
            self.notify(id, Notice::Quiet);
        }
        self.net.arm_watch(id);
    }

    pub(crate) fn deadline_due(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        connection.deadline_timer = None;
        self.notify(id, Notice::Deadline);
    }

    /// A close was asked for too long ago. One that only lingers has sent all it had, and is as good as closed.
    pub(crate) fn close_due(&mut self, id: ConnectionId) {
        let Some(connection) = self.net.connection_mut(id) else { return };
        connection.close_timer = None;
        let lingering = connection.lingering;
        let reason = connection.closing.take().filter(|_| lingering).unwrap_or(CloseReason::CloseTimeout);
        self.net.doom(id, reason);
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
        for timer in connection.take_timers() {
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
        if let Some(link) = connection.link {
            self.net.link_lost(link);
        }
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

pub(crate) fn panic_message(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => {
            payload.downcast_ref::<&str>().map_or_else(|| "(no message)".to_owned(), |text| (*text).to_owned())
        }
    }
}
