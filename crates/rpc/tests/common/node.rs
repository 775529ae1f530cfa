//! A small node for tests with real sockets: an event loop on a thread of its own, with a service behind it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dstore_net::{Address, Application, EventLoop, LoopConfig, Mailbox, Net, TimerId};
use dstore_rpc::driver::{self, Host, LinkEvent, Rpc, RpcTimer, StreamEvent};
use dstore_rpc::service::{Incoming, Origin, Reply};
use dstore_rpc::{
    Admission, Answer, ClusterId, Config, Identity, Incarnation, Lane, NodeId, RequestId, Secret, StreamId,
};
use prost::Message;

/// Some bytes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) bytes: Bytes,
}

dstore_rpc::service! {
    /// What the test nodes do for each other.
    pub(crate) mod echo {
        calls {
            /// The same bytes back.
            ECHO = 1: echo(Blob) -> Blob;
            /// Answered when the test releases it.
            HOLD = 2: hold(Blob) -> Blob;
        }
        messages {
            /// Kept in order of arrival.
            NOTE = 3: note(Blob);
        }
        streams {
            /// Bytes to be counted; their number comes back.
            COUNT = 4: count(Blob);
        }
    }
}

/// What a node tells its test.
#[derive(Debug)]
pub(crate) enum Notice {
    Up(NodeId, Lane),
    Down(Option<NodeId>, String),
    Held,
    Cancelled,
    Note(Bytes),
    Chunk(Bytes),
    StreamOver(bool),
    /// Whatever a posted job wants to tell.
    Said(String),
}

/// What a test runs on a node's loop.
pub(crate) type Job = Box<dyn FnOnce(&mut Node, &mut Net<Node>) + Send>;

/// The application of a test node's loop.
pub(crate) struct Node {
    pub(crate) rpc: Rpc<Node>,
    pub(crate) notices: Sender<Notice>,
    pub(crate) held: Vec<Reply<Blob>>,
    /// Streams of peers: bytes counted so far.
    counting: Vec<(StreamId, u64)>,
    /// Streams of ours: bytes still to send.
    pub(crate) filling: Vec<(StreamId, usize)>,
}

impl Node {
    pub(crate) fn tell(&self, notice: Notice) {
        // A test that has seen enough no longer listens.
        let _ = self.notices.send(notice);
    }

    /// Sends as much of our streams as their credit allows.
    pub(crate) fn fill(&mut self, now: Instant) {
        for (stream, left) in &mut self.filling {
            while *left > 0 {
                let chunk = (*left).min(self.rpc.stream_credit(*stream)).min(32 << 10);
                let probe = if chunk == 0 { 1 } else { chunk };
                if self.rpc.stream_send(now, *stream, vec![7; probe].into()).is_err() {
                    break;
                }
                *left -= probe;
            }
            if *left == 0 {
                let _ = self.rpc.stream_end(now, *stream);
            }
        }
        self.filling.retain(|(_, left)| *left > 0);
    }
}

/// The service's state is the node's, so the dispatch goes to a hand that has nothing of its own.
struct Hand;

impl echo::Service<(&mut Node, Instant)> for Hand {
    fn echo(&mut self, _: &mut (&mut Node, Instant), _: &Origin, request: Blob, reply: Reply<Blob>) -> Option<Answer> {
        Some(reply.ok(&request))
    }

    fn hold(
        &mut self,
        (node, _): &mut (&mut Node, Instant),
        _: &Origin,
        _: Blob,
        reply: Reply<Blob>,
    ) -> Option<Answer> {
        node.held.push(reply);
        node.tell(Notice::Held);
        None
    }

    fn note(&mut self, (node, _): &mut (&mut Node, Instant), _: &Origin, message: Blob) {
        node.tell(Notice::Note(message.bytes));
    }

    fn count(&mut self, (node, _): &mut (&mut Node, Instant), _: &Origin, stream: StreamId, _: Blob) {
        node.counting.push((stream, 0));
    }
}

impl Application for Node {
    type Mail = Job;
    type Timer = RpcTimer;

    fn on_start(&mut self, net: &mut Net<Self>) {
        driver::end_of_turn(self, net);
    }

    fn on_mail(&mut self, net: &mut Net<Self>, job: Job) {
        job(self, net);
    }

    fn on_timer(&mut self, net: &mut Net<Self>, _: TimerId, _: RpcTimer) {
        driver::on_timer(self, net);
    }

    fn end_of_turn(&mut self, net: &mut Net<Self>) {
        driver::end_of_turn(self, net);
    }
}

impl Host for Node {
    fn rpc(&mut self) -> &mut Rpc<Self> {
        &mut self.rpc
    }

    fn on_incoming(&mut self, net: &mut Net<Self>, origin: &Origin, incoming: Incoming) {
        let now = net.now();
        let outcome = echo::dispatch(&mut Hand, &mut (self, now), origin, incoming).unwrap_or_else(Incoming::unknown);
        self.rpc.finish(now, outcome);
    }

    fn on_cancelled(&mut self, _: &mut Net<Self>, _: RequestId) {
        self.tell(Notice::Cancelled);
    }

    fn on_stream(&mut self, net: &mut Net<Self>, event: StreamEvent) {
        let now = net.now();
        match event {
            StreamEvent::Chunk { stream, body, end } => {
                self.rpc.stream_consumed(now, stream, body.len());
                match self.counting.iter_mut().find(|(id, _)| *id == stream) {
                    Some((_, count)) => {
                        *count += body.len() as u64;
                        if end {
                            let count = *count;
                            let _ = self.rpc.stream_send(now, stream, count.to_le_bytes().to_vec().into());
                            let _ = self.rpc.stream_end(now, stream);
                        }
                    }
                    None => self.tell(Notice::Chunk(body)),
                }
            }
            StreamEvent::Writable(_) => self.fill(now),
            StreamEvent::Closed(stream, result) => {
                self.counting.retain(|(id, _)| *id != stream);
                self.filling.retain(|(id, _)| *id != stream);
                self.tell(Notice::StreamOver(result.is_ok()));
            }
        }
    }

    fn on_link(&mut self, _: &mut Net<Self>, event: &LinkEvent) {
        self.tell(match event {
            LinkEvent::Up { peer, .. } => Notice::Up(peer.identity.node, peer.lane),
            LinkEvent::Down { node, reason, .. } => Notice::Down(*node, reason.to_string()),
        });
    }
}

/// A node that runs.
pub(crate) struct Running {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) notices: Receiver<Notice>,
    mailbox: Mailbox<Job>,
    thread: JoinHandle<()>,
}

/// A config of the test cluster.
pub(crate) fn config(node: u64) -> Config {
    let identity = Identity { cluster: ClusterId(42), node: NodeId(node), incarnation: Incarnation(1) };
    Config::new(identity, Secret::new(b"the secret of the test cluster").expect("long enough"))
}

/// A node's loop, to be run by the caller, and where it listens.
#[allow(clippy::disallowed_methods)]
pub(crate) fn event_loop(
    config: Config,
    port: u16,
    notices: Sender<Notice>,
) -> std::io::Result<(EventLoop<Node>, std::net::SocketAddr)> {
    let now = Instant::now();
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&config.identity.node.0.to_le_bytes());
    seed[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    let rpc = Rpc::new(config, Admission::default(), seed, now);
    let node = Node { rpc, notices, held: Vec::new(), counting: Vec::new(), filling: Vec::new() };
    let mut event_loop = EventLoop::new(LoopConfig::default(), node)?;
    let any = Address::Tcp(([127, 0, 0, 1], port).into());
    let listener = driver::listen(event_loop.net(), &any)?;
    let address = event_loop.net().listener_address(listener).and_then(Address::tcp).expect("it listens on TCP");
    let mailbox = event_loop.mailbox();
    event_loop.app().rpc.set_bell(move || drop(mailbox.post(Box::new(|_, _| ()))));
    Ok((event_loop, address))
}

impl Running {
    /// Starts a node.
    pub(crate) fn start(config: Config) -> Running {
        Running::start_with(config, |_, _| ())
    }

    /// Starts a node that has something to do before its loop runs.
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn start_with(config: Config, first: impl FnOnce(&mut Node, Instant) + Send + 'static) -> Running {
        let (notices, seen) = channel();
        let (report, reported) = channel();
        let thread = std::thread::spawn(move || {
            let (mut event_loop, address) = event_loop(config, 0, notices).expect("a loop on loopback");
            first(event_loop.app(), Instant::now());
            report.send((address, event_loop.mailbox())).expect("the test waits");
            event_loop.run().expect("the loop runs to its end");
        });
        let (address, mailbox) = reported.recv().expect("the loop was set up");
        Running { address, notices: seen, mailbox, thread }
    }

    /// Runs something on the node's loop.
    pub(crate) fn run(&self, job: impl FnOnce(&mut Node, &mut Net<Node>) + Send + 'static) {
        self.mailbox.post(Box::new(job)).expect("the loop runs");
    }

    /// Runs something on the node's loop and waits for what it gives.
    pub(crate) fn ask<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Node, &mut Net<Node>) -> R + Send + 'static,
    ) -> R {
        let (send, receive) = channel();
        self.run(move |node, net| drop(send.send(job(node, net))));
        receive.recv().expect("the loop runs")
    }

    /// Makes `other` a peer of this node.
    pub(crate) fn knows(&self, node: u64, address: std::net::SocketAddr) {
        self.run(move |app, net| app.rpc.set_peer(net.now(), NodeId(node), address));
    }

    /// Waits for a notice that `wanted` takes, and gives what it makes of it; other notices are passed over.
    pub(crate) fn wait<R>(&self, mut wanted: impl FnMut(&Notice) -> Option<R>) -> R {
        loop {
            let Ok(notice) = self.notices.recv_timeout(Duration::from_secs(30)) else {
                let state = self.ask(|node, _| format!("{:?}", node.rpc.peer_state(NodeId(2))));
                panic!("no notice came within half a minute; the peer is {state}");
            };
            if let Some(found) = wanted(&notice) {
                return found;
            }
        }
    }

    /// Stops the node's loop and waits for its end.
    pub(crate) fn stop(self) {
        self.mailbox.stop(Duration::from_secs(5));
        self.thread.join().expect("the loop ended well");
    }
}
