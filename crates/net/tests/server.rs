//! The server side over real sockets.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use dstore_net::*;

/// Answers each line with itself; `!` lines ask for other things.
#[derive(Default)]
struct Lines {
    turns: usize,
    lines_this_turn: usize,
    most_lines_in_a_turn: usize,
    owed: Vec<(ConnectionId, Vec<u8>)>,
    closed: Vec<String>,
    panics: usize,
    fired: Vec<u32>,
}

enum Mail {
    Settle,
}

impl Application for Lines {
    type Mail = Mail;
    type Timer = u32;

    fn on_mail(&mut self, net: &mut Net<Self>, mail: Mail) {
        match mail {
            Mail::Settle => {
                for (id, text) in self.owed.drain(..) {
                    net.write(id, &text);
                    net.resume(id);
                }
            }
        }
    }

    fn on_timer(&mut self, _: &mut Net<Self>, _: TimerId, timer: u32) {
        self.fired.push(timer);
    }

    fn end_of_turn(&mut self, _: &mut Net<Self>) {
        self.turns += 1;
        self.most_lines_in_a_turn = self.most_lines_in_a_turn.max(std::mem::take(&mut self.lines_this_turn));
    }

    fn on_panic(&mut self, _: &mut Net<Self>, report: &PanicReport) {
        assert!(report.connection.is_some() && report.message == "asked to");
        self.panics += 1;
    }
}

struct LineProtocol;

impl Protocol<Lines> for LineProtocol {
    type Message<'a> = &'a [u8];
    type Error = &'static str;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, Self::Error> {
        if input[0] == 0 {
            return Err("a zero byte");
        }
        Ok(match input.iter().position(|byte| *byte == b'\n') {
            Some(end) => Decoded::Message(&input[..=end], end + 1),
            None => Decoded::Incomplete { needed: 0 },
        })
    }

    fn process(&mut self, app: &mut Lines, cx: &mut Context<'_, Lines>, line: &[u8]) {
        app.lines_this_turn += 1;
        match line {
            b"!quit\n" => {
                cx.write(b"bye\n");
                cx.close();
                assert!(!cx.write(b"too late"));
            }
            b"!abort\n" => cx.abort(),
            b"!panic\n" => panic!("asked to"),
            b"!later\n" => {
                app.owed.push((cx.id(), b"later\n".to_vec()));
                cx.pause();
            }
            b"!large\n" => {
                cx.write_bytes(Bytes::from(vec![b'x'; 4 << 20]));
                cx.write(b"\n");
            }
            line => {
                cx.write(line);
            }
        }
    }

    fn on_decode_error(&mut self, _: &mut Lines, cx: &mut Context<'_, Lines>, error: &'static str) {
        cx.write(format!("error: {error}\n").as_bytes());
    }

    fn on_close(&mut self, app: &mut Lines, cx: &mut Context<'_, Lines>, reason: &CloseReason) {
        assert_eq!(cx.net.state(cx.id()), ConnectionState::Closed);
        app.closed.push(reason.to_string());
    }
}

struct Server {
    address: SocketAddr,
    thread: LoopThread<Lines>,
}

impl Server {
    fn start(config: LoopConfig) -> Server {
        let (thread, address) = LoopThread::spawn("lines", config, |net| {
            let any = Address::Tcp(([127, 0, 0, 1], 0).into());
            let listener = net.listen(&any, ListenerConfig::default(), |_, _| Some(LineProtocol))?;
            Ok((Lines::default(), net.listener_address(listener).and_then(Address::tcp).unwrap()))
        })
        .unwrap();
        Server { address, thread }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn stop(self) -> Lines {
        self.thread.stop(Duration::from_secs(20));
        self.thread.join().unwrap()
    }
}

fn read_exactly(stream: &mut TcpStream, expected: &[u8]) {
    let mut buffer = vec![0; expected.len()];
    stream.read_exact(&mut buffer).unwrap();
    assert!(buffer == expected, "{} instead of {}", buffer.escape_ascii(), expected.escape_ascii());
}

#[test]
fn lines_come_back_whole_and_in_order_however_they_are_cut() {
    let server = Server::start(LoopConfig::default());
    let mut stream = server.connect();
    stream.set_nodelay(true).unwrap();
    for byte in b"cut up\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    read_exactly(&mut stream, b"cut up\n");
    let many: Vec<u8> = (0..20_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    let mut writer = stream.try_clone().unwrap();
    let to_send = many.clone();
    let sender = std::thread::spawn(move || {
        writer.write_all(&to_send).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    read_exactly(&mut stream, &many);
    sender.join().unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed after the peer's end was answered");
    let lines = server.stop();
    assert_eq!(lines.closed, ["closed by the peer"]);
    assert!(lines.most_lines_in_a_turn > 1, "pipelined lines share a turn");
}

#[test]
fn a_reply_may_come_later_by_mail_and_the_input_behind_it_waits() {
    let server = Server::start(LoopConfig::default());
    let mut stream = server.connect();
    stream.write_all(b"one\n!later\ntwo\n").unwrap();
    read_exactly(&mut stream, b"one\n");
    server.thread.mailbox().post(Mail::Settle).unwrap();
    read_exactly(&mut stream, b"later\ntwo\n");
    drop(stream);
    server.stop();
}

#[test]
fn a_decode_error_is_answered_then_the_connection_closes() {
    let server = Server::start(LoopConfig::default());
    let mut stream = server.connect();
    stream.write_all(b"fine\n\0").unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"fine\nerror: a zero byte\n");
    drop(stream);
    assert_eq!(server.stop().closed, ["protocol error: a zero byte"]);
}

#[test]
fn close_sends_what_was_written_and_abort_does_not_wait() {
    let server = Server::start(LoopConfig::default());
    let mut polite = server.connect();
    polite.write_all(b"!large\n!quit\n").unwrap();
    let mut all = Vec::new();
    polite.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), (4 << 20) + 1 + 4);
    assert!(all.ends_with(b"x\nbye\n"));
    let mut rude = server.connect();
    rude.write_all(b"!large\n!abort\n").unwrap();
    let error = rude.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(server.stop().closed, ["closed by the application", "aborted by the application"]);
}

#[test]
fn a_panic_closes_its_connection_or_stops_the_loop() {
    let gentle = LoopConfig { panic_policy: PanicPolicy::CloseConnection, ..LoopConfig::default() };
    let server = Server::start(gentle);
    let mut other = server.connect();
    let mut stream = server.connect();
    stream.write_all(b"!panic\n").unwrap();
    assert!(stream.read_to_end(&mut Vec::new()).is_err());
    other.write_all(b"alive\n").unwrap();
    read_exactly(&mut other, b"alive\n");
    drop(other);
    let lines = server.stop();
    assert_eq!(lines.panics, 1);

    let server = Server::start(LoopConfig::default());
    let mut stream = server.connect();
    stream.write_all(b"!panic\n").unwrap();
    let mailbox = server.thread.mailbox();
    let Err(LoopError::Panicked(report)) = server.thread.join() else { panic!("the loop should have stopped") };
    assert_eq!(report.message, "asked to");
    assert!(matches!(mailbox.post(Mail::Settle), Err(PostError::Ended(_))));
}

#[test]
fn timers_fire_in_order_and_a_stop_without_connections_is_immediate() {
    let mut event_loop = EventLoop::new(LoopConfig::default(), Lines::default()).unwrap();
    let now = event_loop.net().now();
    for delay in [3, 1, 2] {
        event_loop.net().insert_timer(now + Duration::from_millis(u64::from(delay)), delay);
    }
    while event_loop.app().fired.len() < 3 {
        assert!(event_loop.turn(None).unwrap());
    }
    assert_eq!(event_loop.app().fired, [1, 2, 3]);
    event_loop.mailbox().stop(Duration::ZERO);
    event_loop.run().unwrap();
}
