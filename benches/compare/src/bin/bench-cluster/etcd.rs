//! Three nodes of Debian's etcd, and the little of its gRPC API that the loads need, declared by hand.
//!
//! Nodes run with etcd's defaults. Each connection of the load is an HTTP/2 connection of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dstore_testkit::ports::free_ports;
use dstore_testkit::process::{PATIENCE, Server, Starting, run};
use dstore_testkit::scratch::Scratch;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::load::{Client, System};

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`: nothing of it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// `etcdserverpb.RangeRequest` of one key. Not `serializable`, so it is linearizable.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

/// `etcdserverpb.RangeResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

/// `mvccpb.KeyValue`.
#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

/// The nodes.
pub(crate) struct Nodes {
    nodes: Vec<Server>,
    leader: usize,
    _scratch: Scratch, // last, so that it goes when nobody writes there any more
}

/// Its version as Debian packaged it.
pub(crate) fn version() -> String {
    let printed = run(Command::new("etcd").arg("--version"), b"");
    printed.lines().find_map(|line| line.strip_prefix("etcd Version: ")).unwrap_or("of an unknown version").to_owned()
}

impl System for Nodes {
    type Client = Connection;

    fn start() -> anyhow::Result<Nodes> {
        let scratch = Scratch::new("bench-etcd");
        let ports = free_ports(6);
        let client = |node: usize| SocketAddr::from(([127, 0, 0, 1], ports[node]));
        let peer = |node: usize| format!("http://127.0.0.1:{}", ports[3 + node]);
        let founders: Vec<String> = (0..3).map(|node| format!("n{node}={}", peer(node))).collect();
        let spawn = |node: usize| {
            let mut command = Command::new("etcd");
            let (listen, peer) = (format!("http://{}", client(node)), peer(node));
            command.arg("--data-dir").arg(scratch.directory(&format!("n{node}")));
            command.args(["--name", &format!("n{node}")]);
            command.args(["--listen-client-urls", &listen, "--advertise-client-urls", &listen]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &founders.join(","), "--initial-cluster-state", "new"]);
            command.args(["--logger", "zap", "--log-outputs", "stdout"]);
            (node, Starting::spawn(command, &scratch, &format!("n{node}.stderr")))
        };
        let starting: Vec<(usize, Starting)> = (0..3).map(spawn).collect();
        let mut nodes = Vec::new();
        for (node, starting) in starting {
            // It says so once it has found a leader and told its name to the cluster.
            let ready = |line: &str| line.contains("serving client traffic insecurely").then(|| client(node));
            match starting.wait(ready) {
                Ok(server) => nodes.push(server),
                Err(refused) => bail!("etcd ended with {}:\n{}", refused.status, refused.stderr),
            }
        }
        let leader = find_leader(&nodes)?;
        Ok(Nodes { nodes, leader, _scratch: scratch })
    }

    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Server::pid).collect()
    }

    fn leader(&self) -> usize {
        self.leader
    }

    async fn connect(&self, node: usize) -> anyhow::Result<Connection> {
        let address = self.nodes[node].address();
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        let channel = endpoint.connect().await.with_context(|| format!("etcd at {address}"))?;
        Ok(Connection { grpc: Grpc::new(channel) })
    }
}

/// Asks the metrics of each node.
fn find_leader(nodes: &[Server]) -> anyhow::Result<usize> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        for (node, server) in nodes.iter().enumerate() {
            if metrics(server.address())?.contains("\netcd_server_is_leader 1\n") {
                return Ok(node);
            }
        }
        std::thread::sleep(Duration::from_millis(20)); // there is no event of another process to wait for
    }
    bail!("etcd has no leader");
}

fn metrics(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A connection to one of them.
pub(crate) struct Connection {
    grpc: Grpc<Channel>,
}

impl Connection {
    async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> anyhow::Result<A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        self.grpc.ready().await?;
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::default());
        Ok(self.grpc.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }
}

impl Client for Connection {
    async fn set(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        let request = PutRequest { key: key.to_vec(), value: value.to_vec() };
        let _: PutResponse = self.call("/etcdserverpb.KV/Put", request).await?;
        Ok(())
    }

    async fn get(&mut self, key: &[u8]) -> anyhow::Result<usize> {
        let request = RangeRequest { key: key.to_vec() };
        let answer: RangeResponse = self.call("/etcdserverpb.KV/Range", request).await?;
        Ok(answer.kvs.first().map_or(0, |kv| kv.value.len()))
    }
}
