//! Calling in straight code: a [`Remote`] makes calls whose replies are awaited, by futures that the loop runs.
//!
//! A future has no access to the application or its loop; what it asks for is put down as a [`Command`] and carried
//! out by [`end_of_turn`](super::end_of_turn), in the turn in which the future was polled.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use prost::Message;

use crate::connection::{CallOptions, TraceId};
use crate::identity::NodeId;
use crate::service::{CallMethod, Caller, MessageMethod};
use crate::status::Status;

/// What futures asked for.
pub(super) enum Command {
    Call { token: u64, node: NodeId, method: u32, body: Bytes, options: CallOptions, reply: Rc<Pending<Reply>> },
    Cancel { token: u64 },
    Send { node: NodeId, method: u32, body: Bytes, trace: TraceId },
    Sleep { token: u64, until: Instant, over: Rc<Pending<()>> },
}

type Reply = Result<Bytes, Status>;

/// What the futures of a loop share with its [`Rpc`](super::Rpc).
pub(super) struct Commands {
    queue: RefCell<VecDeque<Command>>,
    tokens: Cell<u64>,
    now: Cell<Instant>,
}

impl Commands {
    pub(super) fn new(now: Instant) -> Rc<Commands> {
        Rc::new(Commands { queue: RefCell::default(), tokens: Cell::new(0), now: Cell::new(now) })
    }

    pub(super) fn set_now(&self, now: Instant) {
        self.now.set(now);
    }

    pub(super) fn pop(&self) -> Option<Command> {
        self.queue.borrow_mut().pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    fn push(&self, command: Command) {
        self.queue.borrow_mut().push_back(command);
    }

    fn token(&self) -> u64 {
        self.tokens.set(self.tokens.get() + 1);
        self.tokens.get()
    }
}

/// A value that is there later, and who waits for it.
pub(super) struct Pending<T> {
    value: Cell<Option<T>>,
    waker: RefCell<Option<Waker>>,
}

impl<T> Pending<T> {
    fn new() -> Rc<Pending<T>> {
        Rc::new(Pending { value: Cell::new(None), waker: RefCell::new(None) })
    }

    pub(super) fn complete(&self, value: T) {
        self.value.set(Some(value));
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<T> {
        match self.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A peer, as futures see it. From [`Rpc::remote`](super::Rpc::remote).
#[derive(Clone)]
pub struct Remote {
    node: NodeId,
    commands: Rc<Commands>,
}

impl Remote {
    pub(super) fn new(node: NodeId, commands: Rc<Commands>) -> Remote {
        Remote { node, commands }
    }

    /// The peer.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The time of the loop's turn.
    pub fn now(&self) -> Instant {
        self.commands.now.get()
    }

    /// Is ready once the time has come.
    pub fn sleep_until(&self, until: Instant) -> Sleep {
        let (token, over) = (self.commands.token(), Pending::new());
        self.commands.push(Command::Sleep { token, until, over: over.clone() });
        Sleep { token, over, commands: self.commands.clone(), done: false }
    }
}

impl Caller for Remote {
    type Pending<R: Message + Default + 'static> = RemoteCall<R>;

    fn call<Q, R>(&mut self, method: CallMethod<Q, R>, request: &Q, options: CallOptions) -> RemoteCall<R>
    where
        Q: Message + Default,
        R: Message + Default + 'static,
    {
        let (token, reply) = (self.commands.token(), Pending::new());
        let (node, body) = (self.node, method.encode(request));
        self.commands.push(Command::Call { token, node, method: method.number, body, options, reply: reply.clone() });
        let (commands, types) = (self.commands.clone(), PhantomData);
        RemoteCall { token, name: method.name, reply, commands, done: false, types }
    }

    /// True: whether the message is dropped shows later, in the metrics.
    fn send<M: Message + Default>(&mut self, method: MessageMethod<M>, message: &M, trace: TraceId) -> bool {
        let (node, body) = (self.node, method.encode(message));
        self.commands.push(Command::Send { node, method: method.number, body, trace });
        true
    }
}

/// A call that a future waits for. Dropping it before its end cancels the call.
#[must_use = "a call that is dropped is cancelled"]
pub struct RemoteCall<R> {
    token: u64,
    name: &'static str,
    reply: Rc<Pending<Reply>>,
    commands: Rc<Commands>,
    done: bool,
    types: PhantomData<fn() -> R>,
}

impl<R: Message + Default> Future for RemoteCall<R> {
    type Output = Result<R, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = std::task::ready!(self.reply.poll(cx));
        self.done = true;
        Poll::Ready(CallMethod::<R, R>::new(0, self.name).decode_reply(result))
    }
}

impl<R> Drop for RemoteCall<R> {
    fn drop(&mut self) {
        if !self.done {
            self.commands.push(Command::Cancel { token: self.token });
        }
    }
}

/// Time that a future lets pass. From [`Remote::sleep_until`].
#[must_use = "a sleep does nothing unless it is awaited"]
pub struct Sleep {
    token: u64,
    over: Rc<Pending<()>>,
    commands: Rc<Commands>,
    done: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        std::task::ready!(self.over.poll(cx));
        self.done = true;
        Poll::Ready(())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if !self.done {
            self.commands.push(Command::Cancel { token: self.token });
        }
    }
}
