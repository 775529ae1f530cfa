//! A link between two nodes on which bytes can be made late.
//!
//! The kernel of this project's machines has no netem, so it is done in user space. In the namespace of the node that
//! connects, `nft` redirects connections to the other node's peer port to a proxy that listens there; the proxy's own
//! connections carry a mark that is not redirected. So what goes over the wire goes between the same two machines as without
//! it, and packets that are dropped between them are dropped for the proxy too.
//!
//! ```text
//!   dstore 0 --connect 10.213.0.3:7100--> nft: redirect --> proxy --(mark)--> 10.213.0.3:7100  dstore 2
//!   '------------------ namespace 0 -------------------------------'          '--- namespace 2 ---'
//! ```
//!
//! A delay is slept through before each piece of at most 64 KiB is passed on, in both directions: late, and narrow.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dstore_testkit::namespaces::Network;
use socket2::{Domain, Socket, Type};

use crate::clients::lock;

/// What is not redirected.
const MARK: u32 = 7;

/// The proxy to node `n` listens on this port and `n`.
const FIRST_PORT: u16 = 7_900;

/// How long a connection attempt may take, and between two looks whether all is over.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Bytes that are passed on at once.
const PIECE_BYTES: usize = 64 << 10;

#[derive(Debug)]
struct Shared {
    delay_ms: AtomicU64,
    stop: AtomicBool,
    /// Both ends of every connection, to be shut when all is over.
    streams: Mutex<Vec<TcpStream>>,
}

/// One direction of connecting: from a node, to another.
#[derive(Debug)]
pub struct Link {
    /// Who connects.
    pub from: usize,
    /// To whom.
    pub to: usize,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Link {
    /// Leads connections from a node to another through a proxy, from now on.
    ///
    /// # Errors
    ///
    /// The namespace or `nft` refuses.
    pub fn make(network: &Arc<Network>, from: usize, to: usize, target: SocketAddr) -> Result<Link, String> {
        let port = FIRST_PORT + u16::try_from(to).expect("at most 250 nodes");
        let listen = || TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
        let listener = network.within_node(from, listen)?.map_err(|error| format!("a proxy's port: {error}"))?;
        listener.set_nonblocking(true).map_err(|error| error.to_string())?;
        let (address, peer_port) = (target.ip(), target.port());
        let rules = format!(
            "table ip proxies {{\nchain out {{ type nat hook output priority -100;\n\
             ip daddr {address} tcp dport {peer_port} meta mark != {MARK} redirect to :{port}\n}}\n}}\n"
        );
        network.set_rules(from, &rules)?;
        let shared =
            Arc::new(Shared { delay_ms: AtomicU64::new(0), stop: AtomicBool::new(false), streams: Mutex::default() });
        let (network, for_thread) = (network.clone(), shared.clone());
        let acceptor = std::thread::spawn(move || {
            let _ = network.within_node(from, || accept(&listener, target, &for_thread));
        });
        Ok(Link { from, to, shared, acceptor: Some(acceptor) })
    }

    /// From now on every piece is this late.
    pub fn delay(&self, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).expect("delays are short");
        self.shared.delay_ms.store(milliseconds, Ordering::Relaxed);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.delay(Duration::ZERO);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for stream in lock(&self.shared.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both); // it may be closed
        }
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((near, _)) => {
                let Ok(far) = connect(target) else { continue }; // the near end hears of it by being closed
                let _ = serve(near, far, shared); // or both are closed
            }
            Err(_) => std::thread::sleep(LOOK_AGAIN), // nobody is there
        }
    }
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_mark(MARK)?;
    socket.connect_timeout(&target.into(), CONNECT_WITHIN)?;
    Ok(socket.into())
}

/// Passes bytes on in both directions, each in a thread that ends with the connection.
fn serve(near: TcpStream, far: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    near.set_nonblocking(false)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let directions = [(near.try_clone()?, far.try_clone()?), (far.try_clone()?, near.try_clone()?)];
    let mut streams = lock(&shared.streams);
    streams.retain(|stream| stream.peer_addr().is_ok()); // not those that are over
    streams.extend([near, far]);
    drop(streams);
    for (from, to) in directions {
        let shared = shared.clone();
        std::thread::spawn(move || {
            let _ = pass(&from, &to, &shared);
            let _ = from.shutdown(Shutdown::Both); // whichever end was first, the other hears of it
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let bytes = from.read(&mut piece)?;
        if bytes == 0 {
            return Ok(());
        }
        let delay = Duration::from_millis(shared.delay_ms.load(Ordering::Relaxed));
        if !delay.is_zero() {
            std::thread::sleep(delay); // the delay is what this is for
        }
        to.write_all(&piece[..bytes])?;
    }
}

#[cfg(test)]
mod tests {
    use dstore_testkit::namespaces::Drops;

    use super::*;

    const WITHIN: Duration = Duration::from_millis(300);

    /// Sends a byte from node 0 to node 1, which sends it back, and whether it arrived in time.
    fn echo(here: &mut TcpStream, there: &mut TcpStream) -> bool {
        let mut byte = [7];
        here.write_all(&byte).unwrap();
        there
            .read_exact(&mut byte)
            .and_then(|()| there.write_all(&byte))
            .and_then(|()| here.read_exact(&mut byte))
            .is_ok()
    }

    #[test]
    fn bytes_go_through_a_proxy_are_late_when_told_and_stop_with_the_packets() {
        let network = match Network::new(2) {
            Ok(network) => Arc::new(network),
            Err(why) => return println!("skipped: {why}"),
        };
        let target = SocketAddr::new(network.address(1), 7_100);
        let listener = network.within_node(1, || TcpListener::bind(target).unwrap()).unwrap();
        let link = Link::make(&network, 0, 1, target).unwrap();
        let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(10)).unwrap();
        let mut here = network.within_node(0, connect).unwrap();
        let (mut there, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), network.address(0), "the packets on the wire are those of the node itself");
        assert!(echo(&mut here, &mut there));
        assert_eq!(lock(&link.shared.streams).len(), 2, "it did lead through the proxy");

        link.delay(WITHIN / 2);
        let begun = std::time::Instant::now();
        assert!(echo(&mut here, &mut there));
        assert!(begun.elapsed() >= WITHIN, "half of it there, and half of it back");
        link.delay(Duration::ZERO);

        let with = Some(network.address(1));
        network.set_drops(0, &[Drops { with, arriving: true, leaving: true, permille: 1000 }]).unwrap();
        there.set_read_timeout(Some(WITHIN)).unwrap();
        assert!(!echo(&mut here, &mut there), "nothing arrives where packets are dropped");

        network.set_drops(0, &[]).unwrap();
        drop(link);
        here.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(here.read(&mut [0]).unwrap_or(0), 0, "it ends with the link");
    }
}
