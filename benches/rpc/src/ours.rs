//! The RPC library: a server on its event loop, and a client on another.

use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dstore_net::{Address, Application, EventLoop, LoopConfig, Mailbox, Net, TimerId};
use dstore_rpc::driver::{self, Host, Rpc, RpcTimer, StreamEvent};
use dstore_rpc::service::{Incoming, Origin, Reply};
use dstore_rpc::{
    Admission, Answer, CallOptions, ClusterId, Config, Identity, Incarnation, NodeId, Secret, StreamId, TraceId,
};

use crate::Blob;
use crate::measure::{Sample, Stopwatch};

dstore_rpc::service! {
    /// What is measured.
    mod echo {
        calls {
            /// The same bytes back.
            ECHO = 1: echo(Blob) -> Blob;
        }
        messages {}
        streams {
            /// Swallows bytes, and ends when they do.
            SWALLOW = 2: swallow(Blob);
        }
    }
}

type Job = Box<dyn FnOnce(&mut Node, &mut Net<Node>) + Send>;

/// One end.
struct Node {
    rpc: Rpc<Node>,
    /// The round of calls under way.
    round: Option<Round>,
    transfer: Option<Transfer>,
}

struct Round {
    payload: Bytes,
    left: usize,
    waiting: usize,
    watch: Stopwatch,
    done: Sender<Sample>,
}

struct Transfer {
    stream: StreamId,
    left: u64,
    chunk: Bytes,
    done: Sender<bool>,
}

impl Node {
    fn call(&mut self, now: Instant) {
        let Some(round) = &mut self.round else { return };
        if round.left == 0 {
            if round.waiting == 0
                && let Some(round) = self.round.take()
            {
                let _ = round.done.send(round.watch.stop());
            }
            return;
        }
        round.left -= 1;
        round.waiting += 1;
        let request = Blob { bytes: round.payload.clone() };
        let options = CallOptions::deadline(now + Duration::from_secs(60));
        // As the peer's: the clock is read at the beginning and at the end of each call.
        let begun = Instant::now();
        self.rpc.call(now, NodeId(2), echo::ECHO, &request, options, move |node: &mut Node, net, result| {
            if let Some(round) = &mut node.round {
                assert_eq!(result.expect("the peer is there").bytes, round.payload, "another reply");
                round.waiting -= 1;
                round.watch.ended(begun.elapsed());
            }
            node.call(net.now());
        });
    }

    fn fill(&mut self, now: Instant) {
        let Some(transfer) = &mut self.transfer else { return };
        while transfer.left > 0 {
            if self.rpc.stream_send(now, transfer.stream, transfer.chunk.clone()).is_err() {
                return;
            }
            transfer.left -= transfer.chunk.len() as u64;
        }
        let _ = self.rpc.stream_end(now, transfer.stream);
    }
}

struct Hand;

impl echo::Service<()> for Hand {
    fn echo(&mut self, (): &mut (), _: &Origin, request: Blob, reply: Reply<Blob>) -> Option<Answer> {
        Some(reply.ok(&request))
    }

    fn swallow(&mut self, (): &mut (), _: &Origin, _: StreamId, _: Blob) {}
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
        let outcome = echo::dispatch(&mut Hand, &mut (), origin, incoming).unwrap_or_else(Incoming::unknown);
        self.rpc.finish(net.now(), outcome);
    }

    fn on_stream(&mut self, net: &mut Net<Self>, event: StreamEvent) {
        let now = net.now();
        match event {
            StreamEvent::Chunk { stream, body, end } => {
                self.rpc.stream_consumed(now, stream, body.len());
                if end && self.transfer.is_none() {
                    let _ = self.rpc.stream_end(now, stream);
                }
            }
            StreamEvent::Writable(_) => self.fill(now),
            StreamEvent::Closed(_, result) => {
                if let Some(transfer) = self.transfer.take() {
                    let _ = transfer.done.send(result.is_ok());
                }
            }
        }
    }
}

/// Server and client.
pub(crate) struct Pair {
    client: Mailbox<Job>,
    server: Mailbox<Job>,
    threads: [JoinHandle<()>; 2],
}

fn start(node: u64) -> anyhow::Result<(SocketAddr, Mailbox<Job>, JoinHandle<()>)> {
    let (report, reported) = channel();
    let thread = std::thread::spawn(move || {
        let identity = Identity { cluster: ClusterId(1), node: NodeId(node), incarnation: Incarnation(1) };
        let mut config = Config::new(identity, Secret::new(b"a secret for benchmarks").expect("long enough"));
        config.limits.stream_window_bytes = 4 << 20;
        let rpc = Rpc::new(config, Admission::default(), [node as u8; 32], Instant::now());
        let node = Node { rpc, round: None, transfer: None };
        let mut event_loop = EventLoop::new(LoopConfig::default(), node).expect("a loop");
        let any = Address::Tcp(([127, 0, 0, 1], 0).into());
        let listener = driver::listen(event_loop.net(), &any).expect("a port");
        let address = event_loop.net().listener_address(listener).and_then(Address::tcp).expect("on TCP");
        report.send((address, event_loop.mailbox())).expect("somebody waits");
        event_loop.run().expect("it runs to its end");
    });
    let (address, mailbox) = reported.recv()?;
    Ok((address, mailbox, thread))
}

impl Pair {
    pub(crate) fn start() -> anyhow::Result<Pair> {
        let (address, server, server_thread) = start(2)?;
        let (_, client, client_thread) = start(1)?;
        let pair = Pair { client, server, threads: [client_thread, server_thread] };
        pair.run(move |node, net| node.rpc.set_peer(net.now(), NodeId(2), address));
        Ok(pair)
    }

    fn run(&self, job: impl FnOnce(&mut Node, &mut Net<Node>) + Send + 'static) {
        self.client.post(Box::new(job)).expect("the loop runs");
    }

    /// So many calls, so many of them at a time.
    pub(crate) fn echo(&self, payload: &Bytes, inflight: usize, calls: usize) -> anyhow::Result<Sample> {
        let (done, sample) = channel();
        let payload = payload.clone();
        self.run(move |node, net| {
            node.round = Some(Round { payload, left: calls, waiting: 0, watch: Stopwatch::start(calls), done });
            (0..inflight).for_each(|_| node.call(net.now()));
        });
        Ok(sample.recv()?)
    }

    /// MiB per second of a stream.
    pub(crate) fn stream(&self, bytes: u64, chunk_bytes: usize) -> anyhow::Result<f64> {
        let (done, over) = channel();
        let begun = Instant::now();
        self.run(move |node, net| {
            let head = Blob { bytes: Bytes::new() };
            let now = net.now();
            let stream = node.rpc.open_stream(now, NodeId(2), echo::SWALLOW, &head, TraceId(0)).expect("a known peer");
            let chunk = Bytes::from(vec![7; chunk_bytes]);
            node.transfer = Some(Transfer { stream, left: bytes, chunk, done });
            node.fill(now);
        });
        anyhow::ensure!(over.recv()?, "the stream failed");
        Ok(bytes as f64 / (1 << 20) as f64 / begun.elapsed().as_secs_f64())
    }

    pub(crate) fn stop(self) {
        self.client.stop(Duration::from_secs(1));
        self.server.stop(Duration::from_secs(1));
        for thread in self.threads {
            thread.join().expect("the loop ended well");
        }
    }
}
