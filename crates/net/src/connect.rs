//! Connecting: names, candidates, timeouts. Nothing here waits.
//!
//! A name is looked up in the pool. The addresses it has are tried in turn; each that fails leaves its error, and the last
//! error is the one reported. An immediate success (a Unix socket) takes the same path as a later one, so that
//! [`Protocol::on_open`] never runs inside [`Net::connect`].

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::ConnectionConfig;
use crate::connection::Connecting;
use crate::driver::Driver;
use crate::error::{CloseReason, ConnectError};
use crate::link::LinkId;
use crate::net::{ConnectionId, Net, TimerEvent};
use crate::protocol::{Application, Handler, Protocol};
use crate::sys::Address;

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Addresses to try in turn.
    Addresses(Vec<Address>),
    /// A host name (or a literal address) and a port, looked up off the loop at every attempt.
    Name(String, u16),
}

impl From<Address> for Target {
    fn from(address: Address) -> Self {
        Target::Addresses(vec![address])
    }
}

impl From<std::net::SocketAddr> for Target {
    fn from(address: std::net::SocketAddr) -> Self {
        Address::from(address).into()
    }
}

impl From<Vec<Address>> for Target {
    fn from(addresses: Vec<Address>) -> Self {
        Target::Addresses(addresses)
    }
}

impl<A: Application> Net<A> {
    /// Begins to connect. Never blocks and never fails here: the protocol hears [`on_open`](Protocol::on_open), or
    /// [`on_close`](Protocol::on_close) with [`CloseReason::Connect`], later in this turn or in another. What is written
    /// before goes out first, in order, and may be up to [`ConnectionConfig::output_bytes_max`].
    pub fn connect<P: Protocol<A>>(
        &mut self,
        target: impl Into<Target>,
        config: ConnectionConfig,
        protocol: P,
    ) -> ConnectionId {
        self.connect_handler(target.into(), Rc::new(config), Box::new(protocol), None)
    }

    pub(crate) fn connect_handler(
        &mut self,
        target: Target,
        config: Rc<ConnectionConfig>,
        handler: Box<dyn Handler<A>>,
        link: Option<LinkId>,
    ) -> ConnectionId {
        let deadline = self.now + config.connect_timeout;
        let mut candidates = match &target {
            Target::Addresses(addresses) => addresses.clone(),
            Target::Name(..) => Vec::new(),
        };
        candidates.reverse();
        let peer = candidates.last().cloned().unwrap_or_else(Address::unnamed);
        let id = self.insert_connection(peer, handler, config);
        let connection = &mut self.connections[id.index as usize];
        connection.link = link;
        connection.connecting =
            Some(Box::new(Connecting { candidates, immediate: false, deadline, timer: None, error: None }));
        if self.connections.len() > self.config.connections_max {
            self.note_connect_error(id, ConnectError::Limit);
            self.give_connect_up(id);
        } else if let Target::Name(host, port) = target {
            self.look_up(id, host, port);
        } else {
            self.try_next_candidate(id);
        }
        id
    }

    fn look_up(&mut self, id: ConnectionId, host: String, port: u16) {
        self.arm_connect(id, 1);
        let look_up = self.poller.look_up(&host, port);
        let name = host.clone();
        let fail = move |net: &mut Self, host: String, error: io::Error| {
            net.note_connect_error(id, ConnectError::Resolve { name: host, error: Arc::new(error) });
            net.give_connect_up(id);
        };
        let done = move |_: &mut A, net: &mut Self, result: Result<io::Result<Vec<_>>, String>| match result
            .map_err(io::Error::other)
            .and_then(|addresses| addresses)
        {
            Ok(addresses) if addresses.is_empty() => fail(net, name, io::Error::other("it has no address")),
            Ok(addresses) => {
                let Some(connection) = net.connection_mut(id) else { return };
                let Some(connecting) = connection.connecting.as_mut() else { return };
                connecting.candidates = addresses.into_iter().rev().map(Address::Tcp).collect();
                net.try_next_candidate(id);
            }
            Err(error) => fail(net, name, error),
        };
        if let Err(full) = self.run_blocking(look_up, done) {
            fail(self, host, io::Error::other(full));
        }
    }

    /// Starts a connect to the next candidate that does not fail at once; dooms the connection when none is left.
    fn try_next_candidate(&mut self, id: ConnectionId) {
        loop {
            let Some(connection) = self.connection_mut(id) else { return };
            let Some(connecting) = connection.connecting.as_mut() else { return };
            let left = connecting.candidates.len();
            let Some(address) = connecting.candidates.pop() else { return self.give_connect_up(id) };
            connection.peer = address.clone();
            match self.begin_connect(id, &address) {
                Ok(()) => return self.arm_connect(id, left),
                Err(error) => self.note_connect_error(id, ConnectError::from_io(address, error)),
            }
        }
    }

    /// Gives the present step an equal share of the time that is left; `steps` counts it and those after it.
    fn arm_connect(&mut self, id: ConnectionId, steps: usize) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id.index as usize) else { return };
        let Some(connecting) = connection.connecting.as_mut() else { return };
        let share = u32::try_from(steps.max(1)).unwrap_or(u32::MAX);
        let deadline = now + connecting.deadline.saturating_duration_since(now) / share;
        if !connecting.timer.is_some_and(|timer| self.timers.update(timer, deadline)) {
            connecting.timer = Some(self.timers.insert(deadline, TimerEvent::Connect(id)));
        }
    }

    fn note_connect_error(&mut self, id: ConnectionId, error: ConnectError) {
        tracing::debug!(?id, %error, "connect failed");
        if let Some(connecting) = self.connection_mut(id).and_then(|connection| connection.connecting.as_mut()) {
            connecting.error = Some(error);
        }
    }

    /// No candidate is left: the last error is the reason.
    fn give_connect_up(&mut self, id: ConnectionId) {
        let Some(connection) = self.connection_mut(id) else { return };
        let error = connection.connecting.as_mut().and_then(|connecting| connecting.error.take());
        self.doom(id, CloseReason::Connect(error.unwrap_or(ConnectError::NoAddress)));
    }

    fn begin_connect(&mut self, id: ConnectionId, address: &Address) -> io::Result<()> {
        let (socket, immediate) = self.poller.connect(address)?;
        if let Err(error) = self.poller.register(socket, id.token()) {
            self.poller.close(socket, true);
            return Err(error);
        }
        let connection = &mut self.connections[id.index as usize];
        connection.socket = Some(socket);
        if let Some(connecting) = &mut connection.connecting {
            connecting.immediate = immediate;
        }
        if immediate {
            self.schedule(id);
        }
        Ok(())
    }
}

impl<A: Application> Driver<A> {
    /// A connecting socket became writable, or `connect` had succeeded at once.
    pub(crate) fn finish_connect(&mut self, id: ConnectionId) {
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
                (connection.last_heard, connection.last_sent) = (now, now);
                let timer = connection.connecting.take().and_then(|connecting| connecting.timer);
                let link = connection.link;
                if let Some(timer) = timer {
                    self.net.timers.remove(timer);
                }
                if let Some(link) = link {
                    self.net.link_established(link);
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

    /// The time of this candidate, or of the look-up, is up.
    pub(crate) fn connect_timed_out(&mut self, id: ConnectionId) {
        let now = self.net.now;
        let Some(connection) = self.net.connection_mut(id) else { return };
        let peer = connection.peer.clone();
        let Some(connecting) = connection.connecting.as_mut() else { return };
        connecting.timer = None;
        if connecting.deadline <= now || connecting.candidates.is_empty() {
            self.net.doom(id, CloseReason::Connect(ConnectError::Deadline(peer)));
        } else {
            self.abandon_candidate(id, ConnectError::Deadline(peer));
        }
    }

    /// A link's time for the next attempt has come.
    pub(crate) fn link_due(&mut self, id: LinkId) {
        let Some(mut make) = self.net.take_link_maker(id) else { return };
        let mut handler = None;
        self.guard_app(|app, _| handler = Some(make(app)));
        if let Some(handler) = handler {
            self.net.start_link(id, make, handler);
        }
    }
}
