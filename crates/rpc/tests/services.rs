//! Typed services over the pure protocol: stub on one end, dispatch on the other.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dstore_rpc::service::{CallMethod, Caller, Incoming, MessageMethod, Origin, Outcome, Reply};
use dstore_rpc::{
    Admission, Answer, CallId, CallOptions, ClusterId, Code, Config, Connection, Dial, Event, Execution, Identity,
    Incarnation, Lane, LinkId, NodeId, Secret, Status, StreamId, TraceId,
};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Number {
    #[prost(uint64, tag = "1")]
    value: u64,
}

dstore_rpc::service! {
    /// Calculates.
    pub(crate) mod calculator {
        calls {
            /// Twice as much.
            DOUBLE = 10: double(Number) -> Number;
            /// Its square root, if that is a whole number.
            ROOT = 11: root(Number) -> Number;
        }
        messages {
            /// Adds to the sum.
            ADD = 12: add(Number);
        }
        streams {
            /// So many bytes will follow.
            FILL = 13: fill(Number);
        }
    }
}

#[derive(Default)]
struct Calculator {
    sum: u64,
    filling: Vec<(StreamId, u64)>,
}

impl calculator::Service<Vec<String>> for Calculator {
    fn double(
        &mut self,
        log: &mut Vec<String>,
        origin: &Origin,
        request: Number,
        reply: Reply<Number>,
    ) -> Option<Answer> {
        log.push(format!("double for {} on trace {}", origin.node, origin.trace.0));
        Some(reply.ok(&Number { value: request.value * 2 }))
    }

    fn root(&mut self, _: &mut Vec<String>, _: &Origin, request: Number, reply: Reply<Number>) -> Option<Answer> {
        let root = request.value.isqrt();
        Some(match root * root == request.value {
            true => reply.ok(&Number { value: root }),
            false => reply.fail(Status::application(root.to_le_bytes().to_vec(), "no whole root")),
        })
    }

    fn add(&mut self, _: &mut Vec<String>, _: &Origin, message: Number) {
        self.sum += message.value;
    }

    fn fill(&mut self, _: &mut Vec<String>, _: &Origin, stream: StreamId, head: Number) {
        self.filling.push((stream, head.value));
    }
}

/// Both ends of one connection, and a calculator behind the second.
struct Pair {
    now: Instant,
    ends: [Connection; 2],
    calculator: Calculator,
    log: Vec<String>,
}

impl Pair {
    #[allow(clippy::disallowed_methods)]
    fn new(lane: Lane) -> Pair {
        let now = Instant::now();
        let config = |node| {
            let identity = Identity { cluster: ClusterId(1), node: NodeId(node), incarnation: Incarnation(1) };
            Arc::new(Config::new(identity, Secret::new(b"a secret of sixteen").expect("long enough")))
        };
        let dial = Dial { link: LinkId(1), nonce: [1; 32], lane, expected: None, first_id: 1 };
        let ends = [
            Connection::dial(config(1), Admission::default(), now, dial),
            Connection::accept(config(2), Admission::default(), now, LinkId(2), [2; 32]),
        ];
        Pair { now, ends, calculator: Calculator::default(), log: Vec::new() }
    }

    /// Exchanges bytes and serves requests until nothing moves; what completed at the first end.
    fn run(&mut self) -> Vec<(CallId, Result<Bytes, Status>)> {
        let mut completed = Vec::new();
        loop {
            let mut moved = false;
            for from in [0, 1] {
                while let Some(piece) = self.ends[from].poll_output(self.now) {
                    self.ends[1 - from].handle_input(self.now, &piece);
                    moved = true;
                }
            }
            while let Some(event) = self.ends[1].poll_event() {
                self.serve(event);
                moved = true;
            }
            while let Some(event) = self.ends[0].poll_event() {
                match event {
                    Event::Completed { call, result } => completed.push((call, result)),
                    Event::StreamClosed { result: Err(status), .. } => self.log.push(status.to_string()),
                    _ => {}
                }
            }
            if !moved {
                return completed;
            }
        }
    }

    fn serve(&mut self, event: Event) {
        let (incoming, deadline, trace) = match event {
            Event::Request { id: request, method, body, deadline, trace } => {
                (Incoming::Request { request, method, body }, deadline, trace)
            }
            Event::Message { method, body, trace } => (Incoming::Message { method, body }, None, trace),
            Event::StreamOpened { stream, method, body, trace } => {
                (Incoming::Stream { stream, method, body }, None, trace)
            }
            _ => return,
        };
        let origin = Origin { node: NodeId(1), deadline, trace };
        let outcome = calculator::dispatch(&mut self.calculator, &mut self.log, &origin, incoming)
            .unwrap_or_else(Incoming::unknown);
        match outcome {
            Some(Outcome::Answer(answer)) => {
                self.ends[1].answer(self.now, answer.request, answer.result);
            }
            Some(Outcome::Reset(stream, status)) => self.ends[1].stream_reset(stream, status),
            None => {}
        }
    }
}

/// The style in which a call gives its id at once, and its result comes as an event.
impl Caller for &mut Pair {
    type Pending<R: Message + Default + 'static> = CallId;

    fn call<Q, R>(&mut self, method: CallMethod<Q, R>, request: &Q, options: CallOptions) -> CallId
    where
        Q: Message + Default,
        R: Message + Default + 'static,
    {
        self.ends[0].call(self.now, method.number, method.encode(request), options)
    }

    fn send<M: Message + Default>(&mut self, method: MessageMethod<M>, message: &M, trace: TraceId) -> bool {
        self.ends[0].send(method.number, method.encode(message), trace)
    }
}

#[test]
fn a_stub_calls_what_dispatch_serves() {
    let mut pair = Pair::new(Lane::Messages);
    let mut client = calculator::Client(&mut pair);
    let options = CallOptions { deadline: None, trace: TraceId(77) };
    let double = client.double(&Number { value: 21 }, options);
    let root = client.root(&Number { value: 49 }, options);
    let none = client.root(&Number { value: 50 }, options);
    assert!(client.add(&Number { value: 5 }, TraceId(0)));
    assert!(client.add(&Number { value: 6 }, TraceId(0)));
    let mut results = pair.run();
    let mut result = |id| {
        let at = results.iter().position(|(call, _)| *call == id).expect("it ended");
        results.swap_remove(at).1
    };
    assert_eq!(calculator::DOUBLE.decode_reply(result(double)).unwrap().value, 42);
    assert_eq!(calculator::ROOT.decode_reply(result(root)).unwrap().value, 7);
    let status = calculator::ROOT.decode_reply(result(none)).unwrap_err();
    assert_eq!((status.code, &status.payload[..]), (Code::Application, &7u64.to_le_bytes()[..]));
    assert_eq!(pair.calculator.sum, 11);
    assert_eq!(pair.log, ["double for n1 on trace 77"]);
}

#[test]
fn unknown_methods_and_bodies_that_cannot_be_decoded_are_refused_unexecuted() {
    let mut pair = Pair::new(Lane::Messages);
    let now = pair.now;
    pair.ends[0].call(now, 99, Bytes::new(), CallOptions::default());
    pair.ends[0].call(now, 10, Bytes::from_static(&[0xff]), CallOptions::default());
    pair.ends[0].send(12, Bytes::from_static(&[0xff]), TraceId(0));
    let statuses: Vec<_> = pair.run().into_iter().map(|(_, result)| result.unwrap_err()).collect();
    assert_eq!((statuses[0].code, statuses[0].execution), (Code::UnknownMethod, Execution::NotExecuted));
    assert_eq!((statuses[1].code, statuses[1].execution), (Code::InvalidRequest, Execution::NotExecuted));
    assert_eq!(pair.calculator.sum, 0);
    let reply = calculator::DOUBLE.decode_reply(Ok(Bytes::from_static(&[0xff]))).unwrap_err();
    assert_eq!((reply.code, reply.execution), (Code::InvalidReply, Execution::Executed));
}

#[test]
fn an_error_with_too_large_a_payload_arrives_without_it() {
    let mut pair = Pair::new(Lane::Messages);
    let now = pair.now;
    pair.ends[0].call(now, 99, Bytes::new(), CallOptions::default());
    while let Some(piece) = pair.ends[0].poll_output(now) {
        pair.ends[1].handle_input(now, &piece);
        while let Some(piece) = pair.ends[1].poll_output(now) {
            pair.ends[0].handle_input(now, &piece);
        }
    }
    let request = std::iter::from_fn(|| pair.ends[1].poll_event()).find_map(|event| match event {
        Event::Request { id, .. } => Some(id),
        _ => None,
    });
    let status = Status::application(vec![0; 20 << 20], "a long story");
    pair.ends[1].answer(now, request.expect("it arrived"), Err(status));
    let (_, result) = pair.run().pop().expect("it ended");
    let status = result.unwrap_err();
    assert_eq!((status.code, &status.message[..], status.payload.len()), (Code::Application, "a long story", 0));
    assert!(pair.ends[0].is_established());
}

#[test]
fn a_stream_opens_with_a_typed_head() {
    let mut pair = Pair::new(Lane::Bulk);
    let head = calculator::FILL.encode(&Number { value: 1000 });
    let stream = pair.ends[0].open_stream(calculator::FILL.number, head, TraceId(0));
    let now_unknown = pair.ends[0].open_stream(99, Bytes::new(), TraceId(0));
    assert_ne!(stream, now_unknown);
    pair.run();
    assert_eq!(pair.calculator.filling.iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>(), [1000]);
    assert_eq!(pair.log, ["unknown method: there is no method 99 here (not executed)"]);
}
