//! Three dstore nodes, and the little of the Redis protocol that the loads need.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use dstore_testkit::client::pack;
use dstore_testkit::cluster::{Cluster, Plan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{Client, System};

/// The nodes.
pub(crate) struct Nodes {
    cluster: Cluster,
    leader: usize,
}

impl System for Nodes {
    type Client = Connection;

    fn start() -> anyhow::Result<Nodes> {
        let cluster = Plan::new("bench-dstore").start();
        let leader = cluster.leader();
        Ok(Nodes { cluster, leader })
    }

    fn pids(&self) -> Vec<u32> {
        self.cluster.nodes().map(|node| self.cluster.pid(node)).collect()
    }

    fn leader(&self) -> usize {
        self.leader
    }

    async fn connect(&self, node: usize) -> anyhow::Result<Connection> {
        Connection::to(self.cluster.address(node)).await
    }
}

/// A connection to one of them.
pub(crate) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Connection {
    async fn to(address: SocketAddr) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("dstore at {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, request: Vec::new(), reply: Vec::new() })
    }

    async fn ask(&mut self, arguments: &[&[u8]]) -> anyhow::Result<()> {
        self.request.clear();
        self.reply.clear();
        pack(&mut self.request, arguments);
        self.stream.write_all(&self.request).await?;
        while !is_whole(&self.reply) {
            if self.stream.read_buf(&mut self.reply).await? == 0 {
                bail!("dstore closed the connection");
            }
        }
        if self.reply.starts_with(b"-") {
            bail!("dstore answered: {}", String::from_utf8_lossy(&self.reply).trim_end());
        }
        Ok(())
    }
}

impl Client for Connection {
    async fn set(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        self.ask(&[b"SET", key, value]).await
    }

    async fn get(&mut self, key: &[u8]) -> anyhow::Result<usize> {
        self.ask(&[b"GET", key]).await?;
        Ok(bulk_bytes(&self.reply).unwrap_or(0))
    }
}

/// The length that a string says it has, with what follows up to its bytes.
fn bulk_head(reply: &[u8]) -> Option<(usize, usize)> {
    let end = reply.windows(2).position(|pair| pair == b"\r\n")?;
    let length = std::str::from_utf8(reply.get(1..end)?).ok()?.parse().ok()?;
    Some((end + 2, length))
}

fn bulk_bytes(reply: &[u8]) -> Option<usize> {
    bulk_head(reply).filter(|_| reply.starts_with(b"$")).map(|(_, length)| length)
}

/// Whether this is a whole reply: a line, or a string.
fn is_whole(reply: &[u8]) -> bool {
    if !reply.ends_with(b"\r\n") {
        return false;
    }
    match bulk_bytes(reply) {
        Some(length) => bulk_head(reply).is_some_and(|(head, _)| reply.len() == head + length + 2),
        None => true, // `$-1` too: no length is negative
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_whole_when_its_last_byte_has_come() {
        for whole in ["+OK\r\n", "$5\r\nhello\r\n", "$-1\r\n", "-ERR no\r\n", "$4\r\n\r\n\r\n\r\n"] {
            for length in 0..whole.len() {
                assert!(!is_whole(&whole.as_bytes()[..length]), "{length} bytes of {whole:?}");
            }
            assert!(is_whole(whole.as_bytes()), "{whole:?}");
        }
    }
}
