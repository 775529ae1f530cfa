//! What an application writes: [`Application`], the state of a loop, and [`Protocol`], the state of one connection.
//!
//! A loop owns one application value. Every callback, of whichever connection, gets it as `&mut`: one thread, no locks,
//! no `Rc<RefCell>`. A protocol value belongs to one connection and lives as long as it does; a loop may have listeners
//! and outbound connections of many kinds, each with a protocol type of its own.
//!
//! Callbacks never nest: what a callback does to another connection (or its own) takes effect at once in the books
//! (bytes are queued, states change), and the callbacks it leads to come after it has returned, in the same turn.

use std::any::Any;
use std::fmt;
use std::time::Instant;

use bytes::Bytes;

use crate::error::{CloseReason, PanicReport};
use crate::net::{ConnectionId, Net};
use crate::output::Output;
use crate::timers::TimerId;

/// The state of one loop, and what happens on it that belongs to no connection.
pub trait Application: Sized + 'static {
    /// What other threads post into the loop through a [`Mailbox`](crate::Mailbox).
    type Mail: Send + 'static;
    /// What a timer of the application carries.
    type Timer: 'static;

    /// The loop begins to run.
    fn on_start(&mut self, net: &mut Net<Self>) {
        let _ = net;
    }

    /// A message came through the mailbox. Messages of one sender arrive in the order they were posted.
    fn on_mail(&mut self, net: &mut Net<Self>, mail: Self::Mail);

    /// A timer that was armed with [`Net::insert_timer`] is due; it is no longer armed.
    fn on_timer(&mut self, net: &mut Net<Self>, id: TimerId, timer: Self::Timer) {
        let _ = (net, id, timer);
    }

    /// Whether so much came together in this turn that it should end: the connections that are ready and were not served yet
    /// have the next one, which follows at once. Asked after each of them. An application that hands work on in
    /// [`Application::end_of_turn`] keeps others busy that way while it goes on.
    fn turn_is_full(&self) -> bool {
        false
    }

    /// Once per turn, after mail, every ready connection and the due timers were handled, and before the loop waits again.
    /// What is written here leaves in the same turn.
    fn end_of_turn(&mut self, net: &mut Net<Self>) {
        let _ = net;
    }

    /// A graceful stop began: the listeners are closed, every connection is about to get [`Protocol::on_drain`].
    fn on_stop(&mut self, net: &mut Net<Self>) {
        let _ = net;
    }

    /// A callback of a connection panicked and [`LoopConfig::panic_policy`](crate::LoopConfig) let the loop live; the
    /// connection is closed with [`CloseReason::Panicked`], without another callback to its protocol.
    fn on_panic(&mut self, net: &mut Net<Self>, report: &PanicReport) {
        let _ = (net, report);
    }
}

/// What [`Protocol::decode`] found at the start of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<M> {
    /// A whole message in the first so many bytes (at least one).
    Message(M, usize),
    /// Nothing to process, but the first so many bytes (at least one) are done with.
    Skip(usize),
    /// More input is needed. The framework asks again once the buffered input is at least `needed` bytes long in all, so a
    /// decoder that knows the length of a large message is not called in vain for every piece of it, and room is made
    /// at once. `0` if not known: asked again whenever more came.
    Incomplete {
        /// Length of the whole buffered input at which to ask again.
        needed: usize,
    },
}

/// The state of one connection: decodes bytes into messages, processes them, encodes replies into the [`Output`].
///
/// The order of callbacks: `on_open` once (not for a connect that failed); then `decode` and `process`; at most one of
/// `on_decode_error` and `on_input_closed`; `on_close` exactly once, last.
pub trait Protocol<A: Application>: Sized + 'static {
    /// A decoded message; it may borrow from the input, so an echo needs no copy.
    type Message<'a>;
    /// Why input could not be decoded.
    type Error: fmt::Display;

    /// The connection is established: accepted, or the connect succeeded.
    fn on_open(&mut self, app: &mut A, cx: &mut Context<'_, A>) {
        let _ = (app, cx);
    }

    /// Takes one message from the start of `input` (never empty). Pure but for the protocol's own state: no replies here.
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<Self::Message<'a>>, Self::Error>;

    /// Handles one message. Not called while the connection is paused, is closing, or has more output than its high-water
    /// mark: its input then waits.
    fn process(&mut self, app: &mut A, cx: &mut Context<'_, A>, message: Self::Message<'_>);

    /// The input cannot be decoded; nothing more is read. What is written here still leaves; then the connection closes
    /// with [`CloseReason::Decode`]. Replies to earlier messages that the application still owes would come after the
    /// connection began to close and are refused, so write them (or wait for none) here.
    fn on_decode_error(&mut self, app: &mut A, cx: &mut Context<'_, A>, error: Self::Error) {
        let _ = (app, cx, error);
    }

    /// The peer ended its half of the stream, and all whole messages before that were processed. By default the
    /// connection closes once its output is sent. An application that still owes replies does not call `close` here but
    /// when it has written them.
    fn on_input_closed(&mut self, app: &mut A, cx: &mut Context<'_, A>) {
        let _ = app;
        cx.close();
    }

    /// The output passed its high-water mark although the socket took what it could: the peer reads too slowly. Nothing is
    /// read from the connection until the output is down at the low-water mark.
    fn on_output_high(&mut self, app: &mut A, cx: &mut Context<'_, A>) {
        let _ = (app, cx);
    }

    /// The output was above the high-water mark and is down at the low one. Comes also when the socket took it all at once and
    /// [`Protocol::on_output_high`] was spared, so a producer that fills the output beyond the mark and goes on here never
    /// stalls.
    fn on_output_low(&mut self, app: &mut A, cx: &mut Context<'_, A>) {
        let _ = (app, cx);
    }

    /// The deadline set with [`Context::set_deadline`] has passed; it is no longer set.
    fn on_deadline(&mut self, app: &mut A, cx: &mut Context<'_, A>) {
        let _ = (app, cx);
    }

    /// Nothing was sent for [`ConnectionConfig::heartbeat`](crate::ConnectionConfig): send something, if the peer should know
    /// that we live.
    fn on_quiet(&mut self, app: &mut A, cx: &mut Context<'_, A>) {
        let _ = (app, cx);
    }

    /// The loop stops gracefully. By default the connection closes once its output is sent; one that owes replies closes
    /// when it has written them, and is cut at the drain's deadline.
    fn on_drain(&mut self, app: &mut A, cx: &mut Context<'_, A>) {
        let _ = app;
        cx.close();
    }

    /// The connection is gone (or never came to be: [`CloseReason::Connect`]). Its id is stale already.
    fn on_close(&mut self, app: &mut A, cx: &mut Context<'_, A>, reason: &CloseReason) {
        let _ = (app, cx, reason);
    }
}

/// What a callback of a connection may do: everything [`Net`] offers, and its own connection without naming it.
pub struct Context<'a, A: Application> {
    /// The whole loop: other connections, timers, listeners.
    pub net: &'a mut Net<A>,
    pub(crate) id: ConnectionId,
}

impl<A: Application> Context<'_, A> {
    /// This connection.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The time, sampled after the bytes now processed were read.
    pub fn now(&self) -> Instant {
        self.net.now()
    }

    /// Writes a copy of `bytes`; see [`Net::write`].
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.net.write(self.id, bytes)
    }

    /// Writes `bytes` without a copy; see [`Net::write_bytes`].
    pub fn write_bytes(&mut self, bytes: Bytes) -> bool {
        self.net.write_bytes(self.id, bytes)
    }

    /// The output queue, to encode into; see [`Net::output`].
    pub fn output(&mut self) -> Option<&mut Output> {
        self.net.output(self.id)
    }

    /// Closes once the output is sent; see [`Net::close`].
    pub fn close(&mut self) {
        self.net.close(self.id);
    }

    /// Closes at once; see [`Net::abort`].
    pub fn abort(&mut self) {
        self.net.abort(self.id);
    }

    /// Ends our half of the stream once the output is sent; see [`Net::shutdown_write`].
    pub fn shutdown_write(&mut self) {
        self.net.shutdown_write(self.id);
    }

    /// Stops processing input; see [`Net::pause`].
    pub fn pause(&mut self) {
        self.net.pause(self.id);
    }

    /// Goes on with the input; see [`Net::resume`].
    pub fn resume(&mut self) {
        self.net.resume(self.id);
    }

    /// Sets (or with `None` takes away) the one deadline of this connection; [`Protocol::on_deadline`] follows it.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.net.set_deadline(self.id, deadline);
    }
}

/// What came of feeding input to a protocol.
pub(crate) struct Driven {
    /// Bytes done with.
    pub(crate) consumed: usize,
    /// Length of the remaining input at which it is worth asking again (0: any more).
    pub(crate) needed: usize,
    /// The decoder refused; the text of its error.
    pub(crate) failed: Option<String>,
}

/// [`Protocol`] without its associated types, so that connections of every kind share a table. One virtual call per
/// read, not per message: the loop over messages is inside.
pub(crate) trait Handler<A: Application>: Any {
    fn drive(&mut self, app: &mut A, cx: &mut Context<'_, A>, input: &[u8]) -> Driven;
    fn notify(&mut self, app: &mut A, cx: &mut Context<'_, A>, notice: Notice<'_>);
    fn as_any(&mut self) -> &mut dyn Any;
}

/// The callbacks that carry no message.
#[derive(Debug)]
pub(crate) enum Notice<'a> {
    Open,
    InputClosed,
    OutputHigh,
    OutputLow,
    Deadline,
    Quiet,
    Drain,
    Close(&'a CloseReason),
}

impl<A: Application, P: Protocol<A>> Handler<A> for P {
    fn drive(&mut self, app: &mut A, cx: &mut Context<'_, A>, input: &[u8]) -> Driven {
        let mut driven = Driven { consumed: 0, needed: 0, failed: None };
        while driven.consumed < input.len() && cx.net.may_process(cx.id) {
            match self.decode(&input[driven.consumed..]) {
                Ok(Decoded::Message(message, length)) => {
                    driven.consumed += length;
                    assert!(length > 0 && driven.consumed <= input.len(), "a message of {length} bytes");
                    self.process(app, cx, message);
                }
                Ok(Decoded::Skip(length)) => {
                    driven.consumed += length;
                    assert!(length > 0 && driven.consumed <= input.len(), "skipped {length} bytes");
                }
                Ok(Decoded::Incomplete { needed }) => {
                    driven.needed = needed.max(input.len() - driven.consumed + 1);
                    break;
                }
                Err(error) => {
                    driven.failed = Some(error.to_string());
                    self.on_decode_error(app, cx, error);
                    break;
                }
            }
        }
        driven
    }

    fn notify(&mut self, app: &mut A, cx: &mut Context<'_, A>, notice: Notice<'_>) {
        match notice {
            Notice::Open => self.on_open(app, cx),
            Notice::InputClosed => self.on_input_closed(app, cx),
            Notice::OutputHigh => self.on_output_high(app, cx),
            Notice::OutputLow => self.on_output_low(app, cx),
            Notice::Deadline => self.on_deadline(app, cx),
            Notice::Quiet => self.on_quiet(app, cx),
            Notice::Drain => self.on_drain(app, cx),
            Notice::Close(reason) => self.on_close(app, cx, reason),
        }
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}
