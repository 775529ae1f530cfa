//! Listening and accepting; taking over sockets that another loop accepted.
//!
//! Two ways to spread connections over several loops: each loop listens on the same port with
//! [`ListenOptions::reuse_port`](crate::ListenOptions), and the kernel chooses; or one loop accepts
//! ([`Net::listen_to_hand_over`]) and gives the sockets to the others, which [`Net::adopt`] them.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::config::{ConnectionConfig, ListenerConfig};
use crate::driver::Driver;
use crate::net::{ConnectionId, ListenerId, Net, TimerEvent};
use crate::protocol::{Application, Handler, Notice, Protocol};
use crate::sys::{Address, ListenOptions, SocketKey};
use crate::timers::TimerId;

/// What to do with an accepted socket.
pub(crate) enum Accept<A> {
    Serve(Serve<A>),
    HandOver(Give<A>),
}

/// Makes the protocol of an accepted connection; `None` turns it away.
type Serve<A> = Box<dyn FnMut(&mut A, &Address) -> Option<Box<dyn Handler<A>>>>;

/// Gives an accepted socket away.
type Give<A> = Box<dyn FnMut(&mut A, OwnedFd, &Address)>;

pub(crate) struct Listener<A> {
    pub(crate) socket: SocketKey,
    pub(crate) address: Address,
    pub(crate) config: ListenerConfig,
    pub(crate) connection_config: Rc<ConnectionConfig>,
    /// Taken out while it runs.
    pub(crate) accept: Option<Accept<A>>,
    /// Connections may wait in the kernel's queue although no event will tell (again).
    pub(crate) pending: bool,
    pub(crate) retry: Option<TimerId>,
}

impl<A: Application> Net<A> {
    /// Listens on `address`; every connection gets the protocol that `accept` makes for it (`None` resets it at once).
    pub fn listen<P: Protocol<A>>(
        &mut self,
        address: &Address,
        config: ListenerConfig,
        mut accept: impl FnMut(&mut A, &Address) -> Option<P> + 'static,
    ) -> io::Result<ListenerId> {
        let serve: Serve<A> = Box::new(move |app, peer| accept(app, peer).map(|p| Box::new(p) as Box<dyn Handler<A>>));
        self.listen_with(address, config, Accept::Serve(serve))
    }

    /// Listens on `address` and gives every accepted socket away: post it to another loop, which takes it with
    /// [`Net::adopt`]. These connections do not count against this loop's limit.
    pub fn listen_to_hand_over(
        &mut self,
        address: &Address,
        options: ListenOptions,
        give: impl FnMut(&mut A, OwnedFd, &Address) + 'static,
    ) -> io::Result<ListenerId> {
        let config = ListenerConfig { options, ..ListenerConfig::default() };
        self.listen_with(address, config, Accept::HandOver(Box::new(give)))
    }

    fn listen_with(&mut self, address: &Address, config: ListenerConfig, accept: Accept<A>) -> io::Result<ListenerId> {
        let entry = self.listeners.vacant_entry();
        let id = ListenerId(u32::try_from(entry.key()).expect("fewer than 2^32 listeners"));
        let (socket, bound) = self.poller.listen(address, &config.options, u64::from(id.0))?;
        let connection_config = Rc::new(config.connection.clone());
        let accept = Some(accept);
        let (pending, retry) = (false, None);
        entry.insert(Listener { socket, address: bound, config, connection_config, accept, pending, retry });
        Ok(id)
    }

    /// Where a listener listens, with the port the kernel chose.
    pub fn listener_address(&self, id: ListenerId) -> Option<&Address> {
        self.listeners.get(id.0 as usize).map(|listener| &listener.address)
    }

    /// Stops listening; established connections stay. What waits in the kernel's queue is reset.
    pub fn close_listener(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.try_remove(id.0 as usize) {
            self.pending_listeners.remove(&id);
            if let Some(timer) = listener.retry {
                self.timers.remove(timer);
            }
            self.poller.close(listener.socket, false);
        }
    }

    /// Takes over a connected stream socket, accepted by another loop or made elsewhere. [`Protocol::on_open`] follows in
    /// this turn or the next.
    pub fn adopt<P: Protocol<A>>(
        &mut self,
        socket: OwnedFd,
        config: ConnectionConfig,
        protocol: P,
    ) -> io::Result<ConnectionId> {
        if self.connections.len() >= self.config.connections_max {
            return Err(io::Error::other("the loop has as many connections as it may"));
        }
        let (socket, peer) = self.poller.adopt(socket)?;
        let id = self.insert_connection(peer, Box::new(protocol), Rc::new(config));
        self.connections[id.index as usize].unopened = true;
        self.enter(id, socket);
        self.schedule(id);
        Ok(id)
    }

    /// Gives an established socket to a connection that has none yet.
    fn enter(&mut self, id: ConnectionId, socket: SocketKey) {
        self.connections[id.index as usize].socket = Some(socket);
        if let Err(error) = self.poller.register(socket, id.token()) {
            self.doom(id, error.into());
        }
    }

    /// A listener's retry timer is due.
    pub(crate) fn retry_accept(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(id.0 as usize) {
            listener.retry = None;
            self.pending_listeners.insert(id);
        }
    }

    /// Listeners that had to leave connections in the queue may try again.
    pub(crate) fn wake_listeners(&mut self) {
        for (key, listener) in &mut self.listeners {
            if std::mem::take(&mut listener.pending) {
                self.pending_listeners.insert(ListenerId(key as u32));
            }
        }
    }
}

impl<A: Application> Driver<A> {
    /// Accepts what waits at a listener, within the turn's budget.
    pub(crate) fn accept(&mut self, id: ListenerId) {
        for _ in 0..self.net.config.accepts_per_turn_max {
            let Some(listener) = self.net.listeners.get_mut(id.0 as usize) else { return };
            let full = self.net.connections.len() >= self.net.config.connections_max
                && matches!(listener.accept, Some(Accept::Serve(_)));
            listener.pending = false;
            if full && listener.config.refusal.is_none() {
                // Taken up again when a connection is buried.
                listener.pending = true;
                return;
            }
            if matches!(listener.accept, Some(Accept::HandOver(_))) {
                match self.net.poller.accept_descriptor(listener.socket) {
                    Ok((socket, peer)) => self.hand_over(id, socket, &peer),
                    Err(error) => {
                        if self.accept_failed(id, &error) {
                            return;
                        }
                    }
                }
                continue;
            }
            match self.net.poller.accept(listener.socket) {
                Ok((socket, _)) if full => {
                    let refusal = listener.config.refusal.clone().unwrap_or_default();
                    // A courtesy; whether it gets through is the peer's luck.
                    let _ = self.net.poller.write(socket, &refusal);
                    self.net.poller.close(socket, false);
                }
                Ok((socket, peer)) => self.admit(id, socket, peer),
                Err(error) => {
                    if self.accept_failed(id, &error) {
                        return;
                    }
                }
            }
        }
        // The budget is used up; go on in the next turn.
        self.net.pending_listeners.insert(id);
    }

    /// The books of an accept that brought nothing. `true`: no use to go on now.
    fn accept_failed(&mut self, id: ListenerId, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::WouldBlock => true,
            // That one was gone before we came.
            io::ErrorKind::ConnectionAborted => false,
            // Out of descriptors or memory: the queue stays, and no event will come for what is in it already.
            _ => {
                let at = self.net.now + self.net.config.accept_retry;
                let Some(listener) = self.net.listeners.get_mut(id.0 as usize) else { return true };
                tracing::warn!(%error, listener = %listener.address, "cannot accept; trying again later");
                listener.pending = true;
                if listener.retry.is_none() {
                    listener.retry = Some(self.net.timers.insert(at, TimerEvent::AcceptRetry(id)));
                }
                true
            }
        }
    }

    fn hand_over(&mut self, id: ListenerId, socket: OwnedFd, peer: &Address) {
        let Some(listener) = self.net.listeners.get_mut(id.0 as usize) else { return };
        let Some(Accept::HandOver(mut give)) = listener.accept.take() else { return };
        self.guard_app(|app, _| give(app, socket, peer));
        if let Some(listener) = self.net.listeners.get_mut(id.0 as usize) {
            listener.accept = Some(Accept::HandOver(give));
        }
    }

    fn admit(&mut self, listener_id: ListenerId, socket: SocketKey, peer: Address) {
        let Some(listener) = self.net.listeners.get_mut(listener_id.0 as usize) else {
            return self.net.poller.close(socket, true);
        };
        let config = listener.connection_config.clone();
        let Some(Accept::Serve(mut accept)) = listener.accept.take() else {
            return self.net.poller.close(socket, true);
        };
        let mut handler = None;
        self.guard_app(|app, _| handler = accept(app, &peer));
        if let Some(listener) = self.net.listeners.get_mut(listener_id.0 as usize) {
            listener.accept = Some(Accept::Serve(accept));
        }
        let Some(handler) = handler else { return self.net.poller.close(socket, true) };
        let id = self.net.insert_connection(peer, handler, config);
        self.net.enter(id, socket);
        if self.net.connections[id.index as usize].doom.is_none() {
            self.established(id);
        }
    }

    /// Both sides come through here.
    pub(crate) fn established(&mut self, id: ConnectionId) {
        self.net.arm_watch(id);
        self.notify(id, Notice::Open);
        self.flush(id);
    }
}
