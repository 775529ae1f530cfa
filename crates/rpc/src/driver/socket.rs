//! The framework's view of one connection: bytes in, and a name under which [`Rpc`](super::Rpc) knows the rest.

use std::convert::Infallible;

use dstore_net::{CloseReason, Context, Decoded, Protocol};

use super::Host;
use super::slot::Origination;
use super::turn;
use crate::connection::LinkId;

/// The framework's protocol value of a connection.
#[derive(Debug)]
pub struct Socket {
    link: Origination,
}

impl Socket {
    /// For a connection that a peer made to us.
    pub fn accepted() -> Socket {
        Socket { link: Origination::Accepted(None) }
    }

    pub(super) fn dialed(link: LinkId) -> Socket {
        Socket { link: Origination::Dialed(link) }
    }
}

impl<A: Host> Protocol<A> for Socket {
    type Message<'a> = &'a [u8];
    type Error = Infallible;

    fn on_open(&mut self, app: &mut A, cx: &mut Context<'_, A>) {
        if let Origination::Accepted(link) = &mut self.link {
            *link = Some(app.rpc().accepted(cx.now(), cx.id()));
        }
        self.settle(app, cx);
    }

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, Infallible> {
        Ok(Decoded::Message(input, input.len()))
    }

    fn process(&mut self, app: &mut A, cx: &mut Context<'_, A>, bytes: &[u8]) {
        if let Some(link) = self.link.get() {
            app.rpc().handle_input(cx.now(), link, bytes);
        }
        self.settle(app, cx);
    }

    fn on_input_closed(&mut self, app: &mut A, cx: &mut Context<'_, A>) {
        self.lost(app, cx, "closed by the peer");
        cx.close();
    }

    fn on_deadline(&mut self, app: &mut A, cx: &mut Context<'_, A>) {
        if let Some(link) = self.link.get() {
            app.rpc().handle_timeout(cx.now(), link);
        }
        self.settle(app, cx);
    }

    fn on_drain(&mut self, app: &mut A, cx: &mut Context<'_, A>) {
        if let Some(link) = self.link.get() {
            app.rpc().close(cx.now(), link, "the node is shutting down");
        }
        self.settle(app, cx);
        cx.close();
    }

    /// Connections are buried when the application's `end_of_turn` is over; what this one's end leads to must not wait for
    /// whatever happens to turn the loop next.
    fn on_close(&mut self, app: &mut A, cx: &mut Context<'_, A>, reason: &CloseReason) {
        self.lost(app, cx, &reason.to_string());
        app.rpc().arm_timer(cx.net);
    }
}

impl Socket {
    fn lost<A: Host>(&self, app: &mut A, cx: &mut Context<'_, A>, why: &str) {
        if let Some(link) = self.link.get() {
            app.rpc().handle_lost(cx.now(), link, why);
        }
        self.settle(app, cx);
    }

    fn settle<A: Host>(&self, app: &mut A, cx: &mut Context<'_, A>) {
        if let Some(link) = self.link.get() {
            turn::settle(app, cx.net, link);
        }
    }
}
