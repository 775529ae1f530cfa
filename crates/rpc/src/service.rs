//! Typed services: one place declares a method's number and types, and gives the client's stub and the server's
//! dispatch.
//!
//! ```
//! # #![allow(clippy::needless_doctest_main)]
//! use dstore_rpc::service::{Incoming, Origin, Reply};
//! use dstore_rpc::{Answer, NodeId, Status, TraceId};
//!
//! #[derive(Clone, PartialEq, prost::Message)]
//! pub struct Text {
//!     #[prost(string, tag = "1")]
//!     pub text: String,
//! }
//!
//! dstore_rpc::service! {
//!     /// Plays with text.
//!     pub mod toys {
//!         calls {
//!             /// Turns a text around.
//!             REVERSE = 1: reverse(Text) -> Text;
//!         }
//!         messages {
//!             /// Notes a text.
//!             NOTE = 2: note(Text);
//!         }
//!         streams {}
//!     }
//! }
//!
//! struct Toys {
//!     noted: Vec<String>,
//! }
//!
//! // The second argument is whatever the methods work with besides themselves; here, nothing.
//! impl toys::Service<()> for Toys {
//!     fn reverse(&mut self, _: &mut (), _: &Origin, request: Text, reply: Reply<Text>) -> Option<Answer> {
//!         Some(reply.ok(&Text { text: request.text.chars().rev().collect() }))
//!     }
//!
//!     fn note(&mut self, _: &mut (), _: &Origin, message: Text) {
//!         self.noted.push(message.text);
//!     }
//! }
//!
//! # fn main() {
//! let mut toys = Toys { noted: Vec::new() };
//! let origin = Origin { node: NodeId(2), deadline: None, trace: TraceId(0) };
//! let body = toys::NOTE.encode(&Text { text: "hello".into() });
//! toys::dispatch(&mut toys, &mut (), &origin, Incoming::Message { method: 2, body }).unwrap();
//! assert_eq!(toys.noted, ["hello"]);
//! # }
//! ```
//!
//! Method numbers are the wire's: give each service a range of its own, never use a number for something else later.
//! Numbers used twice within a service do not compile.

use std::marker::PhantomData;
use std::time::Instant;

use bytes::Bytes;
use prost::Message;

use crate::connection::{CallOptions, RequestId, StreamId, TraceId};
use crate::identity::NodeId;
use crate::status::{Code, Execution, Status};

/// A method that answers: its number and name, and as types its request and reply.
#[derive(Debug)]
pub struct CallMethod<Q, R> {
    /// On the wire.
    pub number: u32,
    /// For people.
    pub name: &'static str,
    types: PhantomData<fn(Q) -> R>,
}

impl<Q, R> Clone for CallMethod<Q, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q, R> Copy for CallMethod<Q, R> {}

impl<Q: Message + Default, R: Message + Default> CallMethod<Q, R> {
    /// For [`service!`](crate::service!).
    pub const fn new(number: u32, name: &'static str) -> Self {
        CallMethod { number, name, types: PhantomData }
    }

    /// A request's body.
    pub fn encode(&self, request: &Q) -> Bytes {
        request.encode_to_vec().into()
    }

    /// The reply in the result of a call.
    pub fn decode_reply(&self, result: Result<Bytes, Status>) -> Result<R, Status> {
        R::decode(result?).map_err(|error| {
            let message = format!("the reply of {} cannot be decoded: {error}", self.name);
            Status::new(Code::InvalidReply, Execution::Executed, message)
        })
    }

    #[doc(hidden)]
    pub fn decode_request(&self, body: Bytes) -> Result<Q, Status> {
        decode(self.name, body)
    }
}

/// A one-way message, or what opens a stream: its number and name, and as type its content.
#[derive(Debug)]
pub struct MessageMethod<M> {
    /// On the wire.
    pub number: u32,
    /// For people.
    pub name: &'static str,
    types: PhantomData<fn(M)>,
}

impl<M> Clone for MessageMethod<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for MessageMethod<M> {}

impl<M: Message + Default> MessageMethod<M> {
    /// For [`service!`](crate::service!).
    pub const fn new(number: u32, name: &'static str) -> Self {
        MessageMethod { number, name, types: PhantomData }
    }

    /// The message's body.
    pub fn encode(&self, message: &M) -> Bytes {
        message.encode_to_vec().into()
    }

    #[doc(hidden)]
    pub fn decode(&self, body: Bytes) -> Result<M, Status> {
        decode(self.name, body)
    }
}

fn decode<M: Message + Default>(name: &str, body: Bytes) -> Result<M, Status> {
    M::decode(body).map_err(|error| {
        let message = format!("a request of {name} cannot be decoded: {error}");
        Status::new(Code::InvalidRequest, Execution::NotExecuted, message)
    })
}

/// Who asks, until when, and on what trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The peer.
    pub node: NodeId,
    /// After this nobody waits any more.
    pub deadline: Option<Instant>,
    /// The peer's trace.
    pub trace: TraceId,
}

/// What a peer wants, before it is known which service it is for.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// An answer.
    Request {
        /// To answer by.
        request: RequestId,
        /// Which method.
        method: u32,
        /// Its request.
        body: Bytes,
    },
    /// To tell something.
    Message {
        /// Which message.
        method: u32,
        /// Its content.
        body: Bytes,
    },
    /// A stream, which is open.
    Stream {
        /// Which.
        stream: StreamId,
        /// What for.
        method: u32,
        /// With what.
        body: Bytes,
    },
}

impl Incoming {
    /// The answer when no service knows the method. A message has none; it is lost.
    pub fn unknown(self) -> Option<Outcome> {
        let status = |method| {
            let message = format!("there is no method {method} here");
            Status::new(Code::UnknownMethod, Execution::NotExecuted, message)
        };
        match self {
            Incoming::Request { request, method, .. } => {
                Some(Outcome::Answer(Answer { request, result: Err(status(method)) }))
            }
            Incoming::Stream { stream, method, .. } => Some(Outcome::Reset(stream, status(method))),
            Incoming::Message { .. } => None,
        }
    }
}

/// What to do after a dispatch.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Send this answer.
    Answer(Answer),
    /// Reset this stream so.
    Reset(StreamId, Status),
}

/// The right, and the duty, to answer a request of a method that replies `R`. Plain data: keep it, send it to another
/// thread, turn it into an [`Answer`] once. A request never answered occupies its place until its connection ends.
#[must_use = "every request has to be answered"]
#[derive(Debug, PartialEq, Eq)]
pub struct Reply<R> {
    request: RequestId,
    types: PhantomData<fn(R)>,
}

impl<R: Message> Reply<R> {
    #[doc(hidden)]
    pub fn new(request: RequestId) -> Self {
        Reply { request, types: PhantomData }
    }

    /// The request it is for.
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// Answers with a reply.
    pub fn ok(self, reply: &R) -> Answer {
        Answer { request: self.request, result: Ok(reply.encode_to_vec().into()) }
    }

    /// Answers with an error.
    pub fn fail(self, status: Status) -> Answer {
        Answer { request: self.request, result: Err(status) }
    }
}

/// A request's answer, to be handed to [`Connection::answer`](crate::Connection::answer) or to what drives it.
#[must_use = "an answer has to be sent"]
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What it answers.
    pub request: RequestId,
    /// The reply's body, or an error.
    pub result: Result<Bytes, Status>,
}

/// A way to call a peer, whatever the style: the generated clients work over any.
pub trait Caller {
    /// What a call gives at once: a future, an id, or the result itself.
    type Pending<R: Message + Default + 'static>;

    /// Calls.
    fn call<Q, R>(&mut self, method: CallMethod<Q, R>, request: &Q, options: CallOptions) -> Self::Pending<R>
    where
        Q: Message + Default,
        R: Message + Default + 'static;

    /// Sends a one-way message; false if it was dropped at once.
    fn send<M: Message + Default>(&mut self, method: MessageMethod<M>, message: &M, trace: TraceId) -> bool;
}

#[doc(hidden)]
pub const fn assert_distinct(numbers: &[u32]) {
    let mut i = 0;
    while i < numbers.len() {
        let mut j = i + 1;
        while j < numbers.len() {
            assert!(numbers[i] != numbers[j], "two methods of one service have the same number");
            j += 1;
        }
        i += 1;
    }
}

/// Declares a service: a module with a constant per method, a `Service` trait, a `dispatch` function, and a `Client`.
/// See the [module](mod@crate::service).
#[macro_export]
macro_rules! service {
    (
        $(#[$meta:meta])*
        $vis:vis mod $service:ident {
            calls {
                $( $(#[$call_meta:meta])* $CALL:ident = $call_number:literal: $call:ident($request:ty) -> $reply:ty; )*
            }
            messages {
                $( $(#[$msg_meta:meta])* $MESSAGE:ident = $msg_number:literal: $message:ident($content:ty); )*
            }
            streams {
                $( $(#[$stream_meta:meta])* $STREAM:ident = $stream_number:literal: $stream:ident($head:ty); )*
            }
        }
    ) => {
        $(#[$meta])*
        $vis mod $service {
            #[allow(unused_imports)]
            use super::*;
            #[allow(unused_imports)]
            use $crate::service as rpc;

            const _: () = rpc::assert_distinct(&[$($call_number,)* $($msg_number,)* $($stream_number,)*]);

            $(
                $(#[$call_meta])*
                pub const $CALL: rpc::CallMethod<$request, $reply> =
                    rpc::CallMethod::new($call_number, concat!(stringify!($service), ".", stringify!($call)));
            )*
            $(
                $(#[$msg_meta])*
                pub const $MESSAGE: rpc::MessageMethod<$content> =
                    rpc::MessageMethod::new($msg_number, concat!(stringify!($service), ".", stringify!($message)));
            )*
            $(
                $(#[$stream_meta])*
                pub const $STREAM: rpc::MessageMethod<$head> =
                    rpc::MessageMethod::new($stream_number, concat!(stringify!($service), ".", stringify!($stream)));
            )*

            /// The server's side. `C` is what the methods work with besides themselves.
            pub trait Service<C: ?Sized> {
                $(
                    $(#[$call_meta])*
                    fn $call(
                        &mut self,
                        context: &mut C,
                        origin: &rpc::Origin,
                        request: $request,
                        reply: rpc::Reply<$reply>,
                    ) -> Option<rpc::Answer>;
                )*
                $(
                    $(#[$msg_meta])*
                    fn $message(&mut self, context: &mut C, origin: &rpc::Origin, message: $content);
                )*
                $(
                    $(#[$stream_meta])*
                    fn $stream(&mut self, context: &mut C, origin: &rpc::Origin, stream: $crate::StreamId, head: $head);
                )*
            }

            /// Hands what a peer wants to its method. An answer that is there at once, or the refusal of what cannot be
            /// decoded, is returned; what belongs to another service comes back. A message that cannot be decoded is lost.
            #[allow(unused_variables)]
            pub fn dispatch<C: ?Sized, S: Service<C>>(
                service: &mut S,
                context: &mut C,
                origin: &rpc::Origin,
                incoming: rpc::Incoming,
            ) -> ::std::result::Result<Option<rpc::Outcome>, rpc::Incoming> {
                match incoming {
                    $(
                        rpc::Incoming::Request { request, method: $call_number, body } => {
                            let reply = rpc::Reply::<$reply>::new(request);
                            let answer = match $CALL.decode_request(body) {
                                Ok(decoded) => service.$call(context, origin, decoded, reply),
                                Err(status) => Some(reply.fail(status)),
                            };
                            Ok(answer.map(rpc::Outcome::Answer))
                        }
                    )*
                    $(
                        rpc::Incoming::Message { method: $msg_number, body } => {
                            if let Ok(decoded) = $MESSAGE.decode(body) {
                                service.$message(context, origin, decoded);
                            }
                            Ok(None)
                        }
                    )*
                    $(
                        rpc::Incoming::Stream { stream, method: $stream_number, body } => match $STREAM.decode(body) {
                            Ok(decoded) => {
                                service.$stream(context, origin, stream, decoded);
                                Ok(None)
                            }
                            Err(status) => Ok(Some(rpc::Outcome::Reset(stream, status))),
                        },
                    )*
                    other => Err(other),
                }
            }

            /// The client's side, over any way to call. Streams are opened with their constant.
            #[derive(Clone, Debug)]
            pub struct Client<C>(pub C);

            #[allow(dead_code)]
            impl<C: rpc::Caller> Client<C> {
                $(
                    $(#[$call_meta])*
                    pub fn $call(&mut self, request: &$request, options: $crate::CallOptions) -> C::Pending<$reply> {
                        self.0.call($CALL, request, options)
                    }
                )*
                $(
                    $(#[$msg_meta])*
                    pub fn $message(&mut self, message: &$content, trace: $crate::TraceId) -> bool {
                        self.0.send($MESSAGE, message, trace)
                    }
                )*
            }
        }
    };
}
