//! What a loop holds for each channel and each accepted connection, and the names by which they are found.

use std::time::Instant;

use bytes::Bytes;
use dstore_net::ConnectionId;

use crate::channel::{Action, Channel};
use crate::connection::{Connection, Event, LinkId};
use crate::identity::{Lane, NodeId};
use crate::metrics::Metrics;

/// Links of channel `n` are numbered from `n << CHANNEL_SHIFT`; those below the first are accepted connections.
pub(super) const CHANNEL_SHIFT: u32 = 32;

/// Where a socket comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origination {
    Accepted(Option<LinkId>),
    Dialed(LinkId),
}

impl Origination {
    pub(super) fn get(self) -> Option<LinkId> {
        match self {
            Origination::Accepted(link) => link,
            Origination::Dialed(link) => Some(link),
        }
    }
}

pub(super) fn key_of(link: LinkId) -> u64 {
    match link.0 >> CHANNEL_SHIFT {
        0 => link.0,
        channel => channel << CHANNEL_SHIFT,
    }
}

#[derive(Debug)]
pub(super) enum Side {
    Dialing(Box<Channel>),
    Accepted(Box<Connection>),
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) side: Side,
    /// Whom it leads to; an accepted connection's is known once it is established.
    pub(super) node: Option<NodeId>,
    pub(super) lane: Option<Lane>,
    /// The present transport.
    pub(super) socket: Option<(LinkId, ConnectionId)>,
    /// When the socket's deadline is due; at or before the side's own timeout.
    pub(super) armed: Option<Instant>,
    /// The turn in which output was last handed to the socket.
    pub(super) pulled_in: u64,
    /// In the list of those to settle.
    pub(super) touched: bool,
    /// To be removed once its last events are delivered.
    pub(super) retired: bool,
}

impl Slot {
    pub(super) fn new(side: Side, node: Option<NodeId>, lane: Option<Lane>) -> Slot {
        Slot { side, node, lane, socket: None, armed: None, pulled_in: 0, touched: false, retired: false }
    }

    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.side {
            Side::Dialing(channel) => channel.connection(),
            Side::Accepted(connection) => Some(connection),
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        match &mut self.side {
            Side::Dialing(channel) => channel.poll_event(),
            Side::Accepted(connection) => connection.poll_event(),
        }
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        match &mut self.side {
            Side::Dialing(channel) => channel.poll_action(),
            Side::Accepted(_) => None,
        }
    }

    pub(super) fn poll_output(&mut self, now: Instant, link: LinkId) -> Option<Bytes> {
        match &mut self.side {
            Side::Dialing(channel) => channel.poll_output(now, link),
            Side::Accepted(connection) => connection.poll_output(now),
        }
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        match &mut self.side {
            Side::Dialing(channel) => channel.poll_timeout(),
            Side::Accepted(connection) => connection.poll_timeout(),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match &mut self.side {
            Side::Dialing(channel) => channel.handle_timeout(now),
            Side::Accepted(connection) => connection.handle_timeout(now),
        }
    }

    pub(super) fn metrics(&self) -> Metrics {
        match &self.side {
            Side::Dialing(channel) => channel.metrics(),
            Side::Accepted(connection) => connection.metrics().clone(),
        }
    }
}
