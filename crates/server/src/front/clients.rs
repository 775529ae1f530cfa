//! The connections of clients: bytes become requests for the core, and its replies bytes.

use std::convert::Infallible;
use std::time::Instant;

use bytes::Bytes;
use dstore_net::{CloseReason, Context, Decoded, Protocol};
use dstore_node::{ClientAddress, Now, SessionId};
use dstore_resp::{ProtocolError, Reply, ReplySink, RequestDecoder};

use super::Front;
use crate::clock::now;

impl Front {
    /// The protocol of a client that was just accepted. A node that stops takes none.
    pub fn accept(&self, peer: String) -> Option<RedisConnection> {
        let decoder = RequestDecoder::new(self.decoder_limits.clone());
        let connection = RedisConnection { decoder, session: None, peer, ended: false };
        self.stopping.is_none().then_some(connection)
    }

    /// When what was read at `read_at` by the loop's clock had been read, the same for all requests that came with it.
    fn time_of_read(&mut self, read_at: Instant) -> Now {
        match self.read_time {
            Some((known_at, time)) if known_at == read_at => time,
            _ => {
                let time = now();
                self.read_time = Some((read_at, time));
                time
            }
        }
    }
}

/// Said to one client more than may be connected, as by Redis.
const TOO_MANY_CLIENTS: &str = "ERR max number of clients reached";

/// One client's connection.
pub struct RedisConnection {
    decoder: RequestDecoder,
    session: Option<SessionId>,
    peer: String,
    /// What came was no request; the rest of the stream has no meaning.
    ended: bool,
}

/// What a client sent: a request, or something that is none.
type Request = Result<Vec<Bytes>, ProtocolError>;

impl Protocol<Front> for RedisConnection {
    type Message<'a> = Request;
    type Error = Infallible;

    fn on_open(&mut self, front: &mut Front, cx: &mut Context<'_, Front>) {
        let address = ClientAddress { remote: std::mem::take(&mut self.peer), local: front.local_address.clone() };
        let session = front.node.connect(now(), address);
        if front.connections.len() <= session.slot() {
            front.connections.resize(session.slot() + 1, None);
        }
        front.connections[session.slot()] = Some(cx.id());
        self.session = Some(session);
        front.clients += 1;
        if front.clients > front.clients_max {
            // The loop itself has room for more: peers come in the same way.
            front.drive(cx.net, |node| {
                node.refuse(session, Reply::error(TOO_MANY_CLIENTS));
                Ok(())
            });
        }
    }

    /// Bytes that are no request become a message too, so that the error is answered behind the replies still owed.
    fn decode(&mut self, input: &[u8]) -> Result<Decoded<Request>, Infallible> {
        if self.ended {
            return Ok(Decoded::Skip(input.len()));
        }
        Ok(match self.decoder.decode(input) {
            Ok(dstore_resp::Decoded::Message(args, length)) => Decoded::Message(Ok(args), length),
            Ok(dstore_resp::Decoded::Skip(length)) => Decoded::Skip(length),
            Ok(dstore_resp::Decoded::Incomplete { needed }) => Decoded::Incomplete { needed },
            Err(error) => {
                self.ended = true;
                Decoded::Message(Err(error), input.len())
            }
        })
    }

    fn process(&mut self, front: &mut Front, cx: &mut Context<'_, Front>, request: Request) {
        let Some(session) = self.session else { return };
        front.requests += 1;
        let now = front.time_of_read(cx.now());
        front.drive(cx.net, |node| match request {
            Ok(args) => node.handle_request(now, session, args),
            Err(error) => {
                node.refuse(session, error.reply());
                Ok(())
            }
        });
        if front.node.is_congested() {
            cx.pause();
            front.stalled.push(cx.id());
        }
    }

    /// The client has read what was sent to him.
    fn on_output_low(&mut self, front: &mut Front, cx: &mut Context<'_, Front>) {
        let Some(session) = self.session else { return };
        front.drive_soon(cx.net, |node| {
            node.go_on(session);
            Ok(())
        });
    }

    /// A client may end his half of the stream and still wait for replies.
    fn on_input_closed(&mut self, front: &mut Front, cx: &mut Context<'_, Front>) {
        self.hang_up(front, cx);
    }

    fn on_drain(&mut self, front: &mut Front, cx: &mut Context<'_, Front>) {
        self.hang_up(front, cx);
    }

    fn on_close(&mut self, front: &mut Front, cx: &mut Context<'_, Front>, reason: &CloseReason) {
        if let Some(session) = self.session.take() {
            front.clients -= 1;
            front.node.disconnect(session);
            front.connections[session.slot()] = None;
        }
        tracing::debug!(connection = ?cx.id(), %reason, "client gone");
    }
}

impl RedisConnection {
    /// Closes the connection behind the last reply that is owed.
    fn hang_up(&mut self, front: &mut Front, cx: &mut Context<'_, Front>) {
        let Some(session) = self.session else { return cx.close() };
        front.drive(cx.net, |node| {
            node.hang_up(session);
            Ok(())
        });
    }
}

/// Replies are encoded straight into the connection's output; long values join it without a copy.
pub(super) struct Sink<'a>(pub(super) &'a mut dstore_net::Output);

impl ReplySink for Sink<'_> {
    fn buffer(&mut self) -> &mut Vec<u8> {
        self.0.buffer_vec()
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        self.0.put_bytes(bytes);
    }
}
