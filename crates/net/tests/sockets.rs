//! The client's side and the failures over real sockets: the machine's own loopback, Unix sockets, and network namespaces
//! where the kernel permits them (a test that cannot have one says so and passes).

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use dstore_net::*;
use socket2::{Domain, Socket, Type};

mod namespace;

/// Collects what every connection of the loop says, and stops the loop when the last awaited one is closed.
#[derive(Default)]
pub(crate) struct Client {
    received: Vec<u8>,
    opened: usize,
    closed: Vec<CloseReason>,
    stop_after: usize,
    watermarks: Vec<usize>,
}

impl Application for Client {
    type Mail = OwnedFd;
    type Timer = ();

    fn on_mail(&mut self, net: &mut Net<Self>, socket: OwnedFd) {
        net.adopt(socket, ConnectionConfig::default(), Raw).unwrap();
    }
}

/// Whatever comes is kept; `Echo` sends it back as well.
struct Raw;

impl Protocol<Client> for Raw {
    type Message<'a> = &'a [u8];
    type Error = std::convert::Infallible;

    fn on_open(&mut self, client: &mut Client, _: &mut Context<'_, Client>) {
        client.opened += 1;
    }

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, Self::Error> {
        Ok(Decoded::Message(input, input.len()))
    }

    fn process(&mut self, client: &mut Client, _: &mut Context<'_, Client>, bytes: &[u8]) {
        client.received.extend_from_slice(bytes);
    }

    fn on_output_high(&mut self, client: &mut Client, cx: &mut Context<'_, Client>) {
        client.watermarks.push(cx.net.output_len(cx.id()));
    }

    fn on_close(&mut self, client: &mut Client, cx: &mut Context<'_, Client>, reason: &CloseReason) {
        client.closed.push(match reason {
            CloseReason::Connect(error) => CloseReason::Connect(error.clone()),
            CloseReason::Io(error) => CloseReason::Io(error.kind().into()),
            CloseReason::PeerClosed => CloseReason::PeerClosed,
            CloseReason::Idle => CloseReason::Idle,
            _ => CloseReason::Closed,
        });
        if client.closed.len() == client.stop_after {
            cx.net.stop(Duration::ZERO);
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A loop that ends when `connections` of its connections have closed.
fn client_loop(connections: usize) -> EventLoop<Client> {
    EventLoop::new(LoopConfig::default(), Client { stop_after: connections, ..Client::default() }).unwrap()
}

/// Connects once with the given time to do it; why it closed.
pub(crate) fn fate_of_connect(target: impl Into<Target>, connect_timeout: Duration) -> ConnectError {
    let mut event_loop = client_loop(1);
    let config = ConnectionConfig { connect_timeout, ..ConnectionConfig::default() };
    event_loop.net().connect(target, config, Raw);
    let client = event_loop.run().unwrap();
    assert_eq!((client.opened, client.closed.len()), (0, 1), "reported once, and never opened");
    match client.closed.into_iter().next() {
        Some(CloseReason::Connect(error)) => error,
        other => panic!("a failed connect, not {other:?}"),
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_port_where_nobody_listens_refuses() {
    let unused = TcpListener::bind(loopback(0)).unwrap().local_addr().unwrap();
    let error = fate_of_connect(unused, LONG);
    assert!(matches!(&error, ConnectError::Refused(Address::Tcp(address)) if *address == unused), "{error}");
    let error = fate_of_connect(Address::Unix("/nonexistent/socket".into()), LONG);
    assert!(matches!(&error, ConnectError::Io { error, .. } if error.kind() == std::io::ErrorKind::NotFound));
}

#[test]
fn a_full_backlog_hangs_until_our_own_timeout() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&loopback(0).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // A backlog of 0 holds one connection; it is full once that one stands.
    let _full = TcpStream::connect(address).unwrap();
    let error = fate_of_connect(address, Duration::from_millis(300));
    assert!(matches!(error, ConnectError::Deadline(_)), "{error}");
}

#[test]
fn a_socket_connected_to_itself_is_no_connection() {
    // The kernel picks our port at random from its range; from a socket bound to the target it must be that one.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&loopback(0).into()).unwrap();
    let own = socket.local_addr().unwrap();
    socket.connect(&own).expect("TCP's simultaneous open with oneself");
    let mut poller = sys::os::OsPoller::new().unwrap();
    let (key, peer) = sys::Poller::adopt(&mut poller, socket.into()).unwrap();
    assert_eq!(peer.tcp(), own.as_socket());
    assert!(sys::Poller::self_connected(&mut poller, key));
    let listener = TcpListener::bind(loopback(0)).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (key, _) = sys::Poller::adopt(&mut poller, stream.into()).unwrap();
    assert!(!sys::Poller::self_connected(&mut poller, key));
}

#[test]
fn names_are_resolved_and_their_addresses_tried_in_turn() {
    let listener = TcpListener::bind(loopback(0)).unwrap();
    let address = listener.local_addr().unwrap();
    let dead = TcpListener::bind(loopback(0)).unwrap().local_addr().unwrap();
    let mut event_loop = client_loop(2);
    let by_name = Target::Name("localhost".into(), address.port());
    event_loop.net().connect(by_name, ConnectionConfig::default(), Raw);
    let both = vec![Address::from(dead), Address::from(address)];
    event_loop.net().connect(both, ConnectionConfig::default(), Raw);
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            listener.accept().unwrap().0.write_all(b"hello").unwrap();
        }
    });
    let client = event_loop.run().unwrap();
    server.join().unwrap();
    assert_eq!((client.opened, &client.received[..]), (2, &b"hellohello"[..]));
    assert!(client.closed.iter().all(|reason| matches!(reason, CloseReason::PeerClosed)), "{:?}", client.closed);
    let error = fate_of_connect(Target::Name("name.invalid".into(), 1), LONG);
    assert!(matches!(error, ConnectError::Resolve { .. }), "{error}");
}

#[test]
fn ipv6_and_unix_sockets_serve_and_connect() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let mut addresses = vec![Address::Unix(path.clone())];
    if TcpListener::bind(("::1", 0)).is_ok() {
        addresses.push(Address::Tcp("[::1]:0".parse().unwrap()));
    } else {
        println!("skipped in part: no IPv6 here");
    }
    for address in addresses {
        let (server, bound) = LoopThread::spawn("server", LoopConfig::default(), move |net| {
            let listener = net.listen(&address, ListenerConfig::default(), |_, _| Some(Raw))?;
            Ok((Client::default(), net.listener_address(listener).cloned().unwrap()))
        })
        .unwrap();
        let mut event_loop = client_loop(1);
        // On a Unix socket, connect succeeds at once; on_open still comes from the loop.
        let id = event_loop.net().connect(bound.clone(), ConnectionConfig::default(), Raw);
        assert_eq!(event_loop.app().opened, 0);
        event_loop.net().write(id, b"written before it was open");
        event_loop.net().shutdown_write(id);
        let client = event_loop.run().unwrap();
        assert_eq!(client.opened, 1);
        server.stop(LONG);
        assert_eq!(server.join().unwrap().received, b"written before it was open");
    }
    assert!(!Path::new(&path).exists(), "the listener took its name away");
}

#[test]
fn what_is_written_while_connecting_goes_out_first_and_in_order() {
    let listener = TcpListener::bind(loopback(0)).unwrap();
    let mut event_loop = client_loop(1);
    let id = event_loop.net().connect(listener.local_addr().unwrap(), ConnectionConfig::default(), Raw);
    let mut expected = Vec::new();
    for number in 0..50_000 {
        let line = format!("line {number}\n");
        event_loop.net().write(id, line.as_bytes());
        expected.extend_from_slice(line.as_bytes());
    }
    event_loop.net().write_bytes(id, vec![b'z'; 1 << 20].into());
    expected.extend_from_slice(&vec![b'z'; 1 << 20]);
    event_loop.net().close(id);
    let server = std::thread::spawn(move || {
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received
    });
    event_loop.run().unwrap();
    assert!(server.join().unwrap() == expected);
}

#[test]
fn either_side_may_end_its_half_and_still_hear_the_other() {
    let listener = TcpListener::bind(loopback(0)).unwrap();
    let mut event_loop = client_loop(1);
    let id = event_loop.net().connect(listener.local_addr().unwrap(), ConnectionConfig::default(), Raw);
    event_loop.net().write(id, b"question");
    event_loop.net().shutdown_write(id);
    let server = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        assert_eq!(question, b"question", "and then the end");
        stream.write_all(b"answer").unwrap();
    });
    let client = event_loop.run().unwrap();
    server.join().unwrap();
    assert_eq!(client.received, b"answer");
    assert!(matches!(client.closed[..], [CloseReason::PeerClosed]));
}

#[test]
fn a_reset_in_the_middle_of_a_write_is_reported_once() {
    let listener = TcpListener::bind(loopback(0)).unwrap();
    let mut event_loop = client_loop(1);
    let id = event_loop.net().connect(listener.local_addr().unwrap(), ConnectionConfig::default(), Raw);
    event_loop.net().write_bytes(id, vec![0; 64 << 20].into());
    let server = std::thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        (&stream).read_exact(&mut [0; 1000]).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let client = event_loop.run().unwrap();
    server.join().unwrap();
    assert!(
        matches!(&client.closed[..], [CloseReason::Io(error)] if error.kind() == std::io::ErrorKind::ConnectionReset),
        "{:?}",
        client.closed
    );
}

#[test]
fn a_socket_that_takes_a_few_bytes_at_a_time_gets_all_in_order() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    // The kernel rounds up to its minimum, a few kilobytes; the reader takes single bytes.
    socket2::SockRef::from(&ours).set_send_buffer_size(1).unwrap();
    let mut event_loop = client_loop(1);
    let id = event_loop.net().adopt(ours.into(), ConnectionConfig::default(), Raw).unwrap();
    let expected: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    for piece in expected.chunks(7777) {
        event_loop.net().write_bytes(id, bytes::Bytes::copy_from_slice(piece));
    }
    event_loop.net().close(id);
    let reader = std::thread::spawn(move || {
        let mut received = Vec::new();
        let mut byte = [0];
        while (&theirs).read(&mut byte).unwrap() == 1 {
            received.push(byte[0]);
        }
        received
    });
    event_loop.run().unwrap();
    assert!(reader.join().unwrap() == expected);
}

/// Passes bytes on one at a time, both ways, as a bad network might.
fn dribble(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        to.set_nodelay(true).unwrap();
        let mut byte = [0];
        while from.read(&mut byte).is_ok_and(|count| count == 1) && to.write_all(&byte).is_ok() {}
        // The other end may be gone already.
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[test]
fn a_network_that_delivers_byte_by_byte_changes_nothing() {
    let server = TcpListener::bind(loopback(0)).unwrap();
    let proxy = TcpListener::bind(loopback(0)).unwrap();
    let mut event_loop = client_loop(1);
    let id = event_loop.net().connect(proxy.local_addr().unwrap(), ConnectionConfig::default(), Raw);
    let said: Vec<u8> = (0..5000_u32).flat_map(u32::to_be_bytes).collect();
    event_loop.net().write(id, &said);
    event_loop.net().shutdown_write(id);
    let others = std::thread::spawn(move || {
        let near = proxy.accept().unwrap().0;
        let far = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let mut end = server.accept().unwrap().0;
        dribble(&near, &far);
        dribble(&far, &near);
        let mut heard = Vec::new();
        end.read_to_end(&mut heard).unwrap();
        end.write_all(&heard).unwrap();
    });
    let client = event_loop.run().unwrap();
    others.join().unwrap();
    assert!(client.received == said);
    assert!(matches!(client.closed[..], [CloseReason::PeerClosed]), "{:?}", client.closed);
}

/// Sends everything back, in large pieces.
struct Flood {
    /// Told when the high-water mark was met.
    high: mpsc::Sender<()>,
}

impl Protocol<Client> for Flood {
    type Message<'a> = &'a [u8];
    type Error = std::convert::Infallible;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, Self::Error> {
        Ok(Decoded::Message(&input[..1], 1))
    }

    fn process(&mut self, _: &mut Client, cx: &mut Context<'_, Client>, _: &[u8]) {
        cx.write_bytes(vec![b'f'; 50_000].into());
    }

    fn on_output_high(&mut self, client: &mut Client, cx: &mut Context<'_, Client>) {
        client.watermarks.push(cx.net.output_len(cx.id()));
        // The test listens for the first one only.
        let _ = self.high.send(());
    }
}

#[test]
fn a_slow_reader_costs_bounded_memory() {
    let (high, marks) = mpsc::channel();
    let (server, address) = LoopThread::spawn("flood", LoopConfig::default(), |net| {
        let connection =
            ConnectionConfig { output_high_bytes: 100_000, output_low_bytes: 50_000, ..ConnectionConfig::default() };
        let config = ListenerConfig { connection, ..ListenerConfig::default() };
        let listener = net.listen(&loopback(0).into(), config, move |_, _| Some(Flood { high: high.clone() }))?;
        Ok((Client::default(), net.listener_address(listener).and_then(Address::tcp).unwrap()))
    })
    .unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    // Asks for 100 MB, which no kernel buffers whole, and reads none of it until the server is stuck.
    stream.write_all(&[b'?'; 2000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    marks.recv_timeout(LONG).unwrap();
    let mut received = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            count => received += count,
        }
    }
    assert_eq!(received, 2000 * 50_000);
    server.stop(LONG);
    let client = server.join().unwrap();
    assert!(!client.watermarks.is_empty(), "the mark was met");
    let most = client.watermarks.iter().max().copied();
    assert!(most <= Some(150_000), "one reply beyond the mark at most, not {most:?}");
}

#[test]
fn a_silent_peer_is_reaped() {
    let mut event_loop = client_loop(1);
    let connection = ConnectionConfig { idle_timeout: Some(Duration::from_millis(50)), ..ConnectionConfig::default() };
    let config = ListenerConfig { connection, ..ListenerConfig::default() };
    let listener = event_loop.net().listen(&loopback(0).into(), config, |_, _| Some(Raw)).unwrap();
    let address = event_loop.net().listener_address(listener).and_then(Address::tcp).unwrap();
    let silent = TcpStream::connect(address).unwrap();
    let client = event_loop.run().unwrap();
    assert!(matches!(client.closed[..], [CloseReason::Idle]), "{:?}", client.closed);
    drop(silent);
}

#[test]
fn a_loop_may_hand_accepted_sockets_to_others() {
    struct Acceptor(Vec<Mailbox<OwnedFd>>, usize);
    impl Application for Acceptor {
        type Mail = ();
        type Timer = ();
        fn on_mail(&mut self, _: &mut Net<Self>, (): ()) {}
    }
    let workers: Vec<_> = (0..3)
        .map(|n| {
            let setup = |_: &mut Net<Client>| Ok((Client::default(), ()));
            LoopThread::spawn(&format!("worker-{n}"), LoopConfig::default(), setup).unwrap().0
        })
        .collect();
    let mailboxes = workers.iter().map(LoopThread::mailbox).collect();
    let (acceptor, address) = LoopThread::spawn("acceptor", LoopConfig::default(), |net| {
        let give = |acceptor: &mut Acceptor, socket, _: &Address| {
            acceptor.1 += 1;
            acceptor.0[acceptor.1 % acceptor.0.len()].post(socket).unwrap();
        };
        let listener = net.listen_to_hand_over(&loopback(0).into(), ListenOptions::default(), give)?;
        let address = net.listener_address(listener).and_then(Address::tcp).unwrap();
        Ok((Acceptor(mailboxes, 0), address))
    })
    .unwrap();
    for _ in 0..30 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"x").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    acceptor.stop(LONG);
    assert_eq!(acceptor.join().unwrap().1, 30);
    for worker in workers {
        worker.stop(LONG);
        assert_eq!(worker.join().unwrap().received, b"x".repeat(10));
    }
}

#[test]
fn several_loops_share_a_port() {
    let port = TcpListener::bind(loopback(0)).unwrap().local_addr().unwrap().port();
    let setup = move |net: &mut Net<Client>| {
        let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let config = ListenerConfig { options, ..ListenerConfig::default() };
        net.listen(&loopback(port).into(), config, |_, _| Some(Raw))?;
        Ok((Client::default(), ()))
    };
    let loops: Vec<_> = (0..2).map(|_| LoopThread::spawn("shared", LoopConfig::default(), setup).unwrap().0).collect();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(loopback(port)).unwrap();
        stream.write_all(b"x").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    let received = loops.into_iter().map(|each| {
        each.stop(LONG);
        each.join().unwrap().received.len()
    });
    assert_eq!(received.sum::<usize>(), 50);
    // A set-up that fails is reported to whoever asked for the loop.
    let listener = TcpListener::bind(loopback(0)).unwrap();
    let taken = Address::from(listener.local_addr().unwrap());
    let failed = LoopThread::spawn("taken", LoopConfig::default(), move |net: &mut Net<Client>| {
        net.listen(&taken, ListenerConfig::default(), |_, _| Some(Raw))?;
        Ok((Client::default(), ()))
    });
    assert_eq!(failed.err().unwrap().kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn blocking_work_is_answered_on_the_loop() {
    let mut event_loop = client_loop(0);
    let here = std::thread::current().id();
    for number in 0..100_u8 {
        let work = move || {
            assert!(number != 50, "asked to (this message is expected)");
            (number, std::thread::current().id())
        };
        let done = move |client: &mut Client, _: &mut Net<Client>, result: Result<(u8, _), String>| {
            assert_eq!(std::thread::current().id(), here);
            match result {
                Ok((answer, worker)) => {
                    assert!(answer == number && worker != here);
                    client.received.push(answer);
                }
                Err(message) => assert!(number == 50 && message.starts_with("asked to"), "{message}"),
            }
            client.opened += 1;
        };
        event_loop.net().run_blocking(work, done).unwrap();
    }
    while event_loop.app().opened < 100 {
        event_loop.turn(None).unwrap();
    }
    let mut answers = std::mem::take(&mut event_loop.app().received);
    answers.sort_unstable();
    assert_eq!(answers, (0..100).filter(|number| *number != 50).collect::<Vec<_>>());
}
