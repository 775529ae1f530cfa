//! The way to one peer, for one purpose: a connection when there is one, and the rules for getting one when not.
//!
//! ```text
//!             first call                established
//!   [Idle] ---------------> [Connecting] ----------> [Up]
//!     ^                        |     ^                 |
//!     | retry time,       lost |     | retry time,     | lost
//!     | streams                v     | calls           |
//!     +--------------------- [Down] -+ <---------------+
//! ```
//!
//! * The first call connects, and waits for that. While the channel is down, and while it tries again, calls fail at
//!   once with `Unavailable` (not executed), so that nobody waits for a node that is known to be away.
//! * A channel for messages that was used once keeps trying, with exponential backoff and jitter: a cluster wants
//!   its links, and wants to notice early when one breaks. A channel for bulk tries again when it is used again.
//! * When a connection dies, its calls end in the same turn.
//!
//! Pure, like the [`Connection`] in it: the owner does what [`Channel::poll_action`] says with real or simulated
//! transports, and tells what came of it. Each transport has a [`LinkId`]; news of an earlier one is ignored.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::{Admission, Config, Timeouts};
use crate::connection::{
    CallId, CallOptions, CloseReason, Connection, Dial, Event, LinkId, RequestId, SendError, StreamId, TraceId,
};
use crate::entropy::Entropy;
use crate::handshake::Peer;
use crate::identity::{Lane, NodeId};
use crate::metrics::Metrics;
use crate::status::{Code, Execution, Status};

/// What the owner has to do about transports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to the peer's address; this is the new transport's name.
    Dial(LinkId),
    /// Close this transport, after these last bytes if it still takes them.
    Hangup {
        /// Which.
        link: LinkId,
        /// The connection's last words.
        last: Bytes,
    },
}

/// A channel as its owner and operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelState {
    /// Not connected, and nobody asked.
    Idle,
    /// Connecting, or shaking hands.
    Connecting {
        /// Failures in a row before this attempt; above 0, calls fail at once.
        failures: u32,
    },
    /// Connected.
    Up(Peer),
    /// Not connected; calls fail at once.
    Down {
        /// Failures in a row.
        failures: u32,
        /// When it is tried again.
        retry_at: Instant,
        /// The latest failure.
        why: CloseReason,
    },
}

#[derive(Debug)]
enum State {
    Idle,
    /// Connecting or established, as the connection says.
    Linked {
        link: LinkId,
        connection: Box<Connection>,
    },
    Down {
        retry_at: Instant,
        why: CloseReason,
    },
}

/// Where a channel leads.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// What it is for.
    pub lane: Lane,
    /// Whom it has to reach, if that is known: nobody else is talked to.
    pub expected: Option<NodeId>,
    /// Its transports are named by the numbers above this, so that an owner of several channels can give each a range of
    /// its own, and ids of different channels never meet.
    pub links_above: LinkId,
}

/// The way to one peer. See the [module](self).
#[derive(Debug)]
pub struct Channel {
    config: Arc<Config>,
    admission: Admission,
    entropy: Entropy,
    route: Route,
    state: State,
    /// Connections lost or refused in a row; 0 once one is established.
    failures: u32,
    /// What `failures` was when the connection became established: taken up again if the two ends turn out not to
    /// understand each other, so that a pair that connects and fails at once does not go round and round.
    failures_before: u32,
    last_link: u64,
    /// Of the next call or stream made while there is no connection. Greater than any id used so far.
    next_id: u64,
    events: VecDeque<Event>,
    actions: VecDeque<Action>,
    /// Of connections that are over, and of calls made without one.
    metrics: Metrics,
}

impl Channel {
    /// A channel that connects when it is first used.
    pub fn new(config: Arc<Config>, admission: Admission, entropy: Entropy, route: Route) -> Channel {
        Channel {
            config,
            admission,
            entropy,
            route,
            state: State::Idle,
            failures: 0,
            failures_before: 0,
            last_link: route.links_above.0,
            next_id: 1,
            events: VecDeque::new(),
            actions: VecDeque::new(),
            metrics: Metrics::default(),
        }
    }

    /// Connects if idle, without a call to send.
    pub fn connect(&mut self, now: Instant) {
        if matches!(self.state, State::Idle) {
            self.dial(now);
        }
    }

    /// As [`Connection::call`]; fails at once while the channel is down.
    pub fn call(&mut self, now: Instant, method: u32, body: Bytes, options: CallOptions) -> CallId {
        if let Some(connection) = self.usable(now) {
            let id = connection.call(now, method, body, options);
            self.drain(now);
            return id;
        }
        let call = CallId(self.take_id());
        let metrics = self.metrics.called.of(method);
        metrics.start_call(body.len());
        metrics.end_call(Err(Code::Unavailable), Duration::ZERO);
        self.events.push_back(Event::Completed { call, result: Err(self.down_status()) });
        call
    }

    /// As [`Connection::cancel`].
    pub fn cancel(&mut self, now: Instant, call: CallId) {
        self.with_connection(now, |connection| connection.cancel(now, call));
    }

    /// As [`Connection::send`]; dropped while the channel is down.
    pub fn send(&mut self, now: Instant, method: u32, body: Bytes, trace: TraceId) -> bool {
        match self.usable(now) {
            Some(connection) => connection.send(method, body, trace),
            None => {
                self.metrics.oneway_dropped += 1;
                false
            }
        }
    }

    /// As [`Connection::answer`]: the peer may call over this connection too.
    pub fn answer(&mut self, now: Instant, request: RequestId, result: Result<Bytes, Status>) -> bool {
        self.with_connection(now, |connection| connection.answer(now, request, result)).unwrap_or(false)
    }

    /// As [`Connection::open_stream`]; fails at once while the channel is down.
    pub fn open_stream(&mut self, now: Instant, method: u32, body: Bytes, trace: TraceId) -> StreamId {
        if let Some(connection) = self.usable(now) {
            let stream = connection.open_stream(method, body, trace);
            self.drain(now);
            return stream;
        }
        let stream = StreamId { link: LinkId(self.last_link), id: self.take_id() * 2 };
        self.events.push_back(Event::StreamClosed { stream, result: Err(self.down_status()) });
        stream
    }

    /// As [`Connection::stream_credit`].
    pub fn stream_credit(&self, stream: StreamId) -> usize {
        self.connection().map_or(0, |connection| connection.stream_credit(stream))
    }

    /// As [`Connection::stream_send`].
    pub fn stream_send(&mut self, now: Instant, stream: StreamId, body: Bytes) -> Result<(), SendError> {
        self.with_connection(now, |connection| connection.stream_send(stream, body)).unwrap_or(Err(SendError::Closed))
    }

    /// As [`Connection::stream_end`].
    pub fn stream_end(&mut self, now: Instant, stream: StreamId) -> Result<(), SendError> {
        self.with_connection(now, |connection| connection.stream_end(stream)).unwrap_or(Err(SendError::Closed))
    }

    /// As [`Connection::stream_consumed`].
    pub fn stream_consumed(&mut self, now: Instant, stream: StreamId, bytes: usize) {
        self.with_connection(now, |connection| connection.stream_consumed(stream, bytes));
    }

    /// As [`Connection::stream_reset`].
    pub fn stream_reset(&mut self, now: Instant, stream: StreamId, status: Status) {
        self.with_connection(now, |connection| connection.stream_reset(stream, status));
    }

    /// The peer's address changed: the connection to the old one is given up, and if the channel was in use the new
    /// one is dialed at once, whatever the backoff.
    pub fn readdress(&mut self, now: Instant) {
        let used = !matches!(self.state, State::Idle);
        self.shut(now, "the peer's address changed");
        self.failures = 0;
        if used && (self.route.lane == Lane::Messages) {
            self.dial(now);
        }
    }

    /// Gives up the connection, if any, and becomes idle.
    pub fn shut(&mut self, now: Instant, why: &str) {
        self.with_connection(now, |connection| connection.close(now, why));
        self.state = State::Idle;
    }

    /// Bytes from the peer.
    pub fn handle_input(&mut self, now: Instant, link: LinkId, bytes: &[u8]) {
        self.with_link(now, link, |connection| connection.handle_input(now, bytes));
    }

    /// The transport broke, or could not be made.
    pub fn handle_lost(&mut self, now: Instant, link: LinkId, why: &str) {
        self.with_link(now, link, |connection| connection.handle_lost(now, why));
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.with_connection(now, |connection| connection.handle_timeout(now));
        if let State::Down { retry_at, .. } = self.state
            && now >= retry_at
        {
            match self.route.lane {
                Lane::Messages => self.dial(now),
                Lane::Bulk => self.state = State::Idle,
            }
        }
    }

    /// The next bytes for the transport; to be asked for only when it takes them.
    pub fn poll_output(&mut self, now: Instant, link: LinkId) -> Option<Bytes> {
        match &mut self.state {
            State::Linked { link: current, connection } if *current == link => connection.poll_output(now),
            _ => None,
        }
    }

    /// What to do about transports, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What happened, in order: the connection's events, of one connection after the other.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Channel::handle_timeout`] is to be called.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        match &mut self.state {
            State::Idle => None,
            State::Linked { connection, .. } => connection.poll_timeout(),
            State::Down { retry_at, .. } => Some(*retry_at),
        }
    }

    /// The state, to be seen.
    pub fn state(&self) -> ChannelState {
        match &self.state {
            State::Idle => ChannelState::Idle,
            State::Linked { connection, .. } => match connection.peer() {
                Some(peer) => ChannelState::Up(*peer),
                None => ChannelState::Connecting { failures: self.failures },
            },
            State::Down { retry_at, why } => {
                ChannelState::Down { failures: self.failures, retry_at: *retry_at, why: why.clone() }
            }
        }
    }

    /// The current connection.
    pub fn connection(&self) -> Option<&Connection> {
        match &self.state {
            State::Linked { connection, .. } => Some(connection),
            State::Idle | State::Down { .. } => None,
        }
    }

    /// What all its connections have done.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = self.metrics.clone();
        if let Some(connection) = self.connection() {
            metrics.merge(connection.metrics());
        }
        metrics
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn down_status(&self) -> Status {
        let why = match &self.state {
            State::Down { why, .. } => format!("the peer is down: {why}"),
            _ => "the peer is down, trying again".to_owned(),
        };
        Status::new(Code::Unavailable, Execution::NotExecuted, why)
    }

    /// The connection, dialed if the channel is idle; `None` if calls have to fail at once.
    fn usable(&mut self, now: Instant) -> Option<&mut Connection> {
        if matches!(self.state, State::Idle) {
            self.dial(now);
        }
        // A bulk channel redials only because it is used, so this use waits for the outcome.
        let waits = self.failures == 0 || self.route.lane == Lane::Bulk;
        match &mut self.state {
            State::Linked { connection, .. } if waits || connection.is_established() => Some(connection),
            _ => None,
        }
    }

    fn dial(&mut self, now: Instant) {
        self.last_link += 1;
        let link = LinkId(self.last_link);
        let (Route { lane, expected, .. }, first_id) = (self.route, self.next_id);
        let dial = Dial { link, nonce: self.entropy.nonce(), lane, expected, first_id };
        let connection = Connection::dial(self.config.clone(), self.admission.clone(), now, dial);
        self.state = State::Linked { link, connection: Box::new(connection) };
        self.actions.push_back(Action::Dial(link));
    }

    fn with_link(&mut self, now: Instant, link: LinkId, does: impl FnOnce(&mut Connection)) {
        if matches!(self.state, State::Linked { link: current, .. } if current == link) {
            self.with_connection(now, does);
        }
    }

    fn with_connection<R>(&mut self, now: Instant, does: impl FnOnce(&mut Connection) -> R) -> Option<R> {
        let State::Linked { connection, .. } = &mut self.state else { return None };
        let result = does(connection);
        self.drain(now);
        Some(result)
    }

    /// Takes over the connection's events, and its end.
    fn drain(&mut self, now: Instant) {
        let State::Linked { link, connection } = &mut self.state else { return };
        let mut ended = None;
        while let Some(event) = connection.poll_event() {
            match &event {
                Event::Established(_) => {
                    self.failures_before = self.failures;
                    self.failures = 0;
                }
                Event::Closed { reason } => ended = Some(reason.clone()),
                _ => {}
            }
            self.events.push_back(event);
        }
        let Some(why) = ended else { return };
        let mut last = Vec::new();
        while let Some(piece) = connection.poll_output(now) {
            last.extend_from_slice(&piece);
        }
        self.actions.push_back(Action::Hangup { link: *link, last: last.into() });
        self.next_id = connection.next_id();
        self.metrics.merge(connection.metrics());
        if why.is_incompatible() {
            self.failures = self.failures.saturating_add(self.failures_before);
        }
        self.failures_before = 0;
        self.failures = self.failures.saturating_add(1);
        let backoff = backoff(&self.config.timeouts, self.failures, &mut self.entropy);
        self.state = State::Down { retry_at: now + backoff, why };
    }
}

/// How long to wait after so many failures in a row: half of the exponential delay, and a random part of the rest,
/// so that nodes that lost a peer together do not return together.
fn backoff(timeouts: &Timeouts, failures: u32, entropy: &mut Entropy) -> Duration {
    let doubled = timeouts.backoff_min.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let ceiling = doubled.min(timeouts.backoff_max);
    let half_us = u64::try_from(ceiling.as_micros() / 2).unwrap_or(u64::MAX);
    Duration::from_micros(half_us + entropy.below(half_us + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_within_its_bounds() {
        let timeouts = Timeouts::default();
        let mut entropy = Entropy::new([3; 32]);
        for failures in 1..200 {
            let expected = timeouts.backoff_max.min(timeouts.backoff_min * (1 << (failures - 1).min(10)));
            let waited = backoff(&timeouts, failures, &mut entropy);
            assert!(waited >= expected / 2 && waited <= expected, "{failures}: {waited:?} of {expected:?}");
        }
    }
}
