//! Echo, on one loop or on several.
//!
//! `cargo run --release -p dstore-net --example echo -- 127.0.0.1:7071` echoes on one thread; with `4` behind it, four loops
//! listen on the port with `SO_REUSEPORT`; with `4 acceptor`, one more thread accepts and deals the connections out. Try it
//! with `nc`, or Ctrl-D to see a half-close answered.

#![allow(clippy::print_stdout)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use dstore_net::*;

/// A loop that echoes; its mail are connections that the acceptor gives it.
struct Echo;

impl Application for Echo {
    type Mail = OwnedFd;
    type Timer = ();

    fn on_mail(&mut self, net: &mut Net<Self>, socket: OwnedFd) {
        if let Err(error) = net.adopt(socket, ConnectionConfig::default(), Bytes) {
            println!("a connection was lost on the way: {error}");
        }
    }
}

/// Whatever came is a message.
struct Bytes;

impl Protocol<Echo> for Bytes {
    type Message<'a> = &'a [u8];
    type Error = std::convert::Infallible;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, Self::Error> {
        Ok(Decoded::Message(input, input.len()))
    }

    fn process(&mut self, _: &mut Echo, cx: &mut Context<'_, Echo>, bytes: &[u8]) {
        cx.write(bytes);
    }
}

/// The acceptor's loop: it only deals out.
struct Acceptor {
    loops: Vec<Mailbox<OwnedFd>>,
    next: usize,
}

impl Application for Acceptor {
    type Mail = ();
    type Timer = ();

    fn on_mail(&mut self, _: &mut Net<Self>, (): ()) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().unwrap_or("127.0.0.1:7071".into()).parse()?;
    let count: usize = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let acceptor = arguments.next().is_some();
    println!("echoing on {address} with {count} loops");
    let mut threads = Vec::new();
    for index in 0..count {
        let setup = move |net: &mut Net<Echo>| {
            if !acceptor {
                let options = ListenOptions { reuse_port: count > 1, ..ListenOptions::default() };
                let config = ListenerConfig { options, ..ListenerConfig::default() };
                net.listen(&address.into(), config, |_, _| Some(Bytes))?;
            }
            Ok::<_, io::Error>((Echo, ()))
        };
        threads.push(LoopThread::spawn(&format!("echo-{index}"), LoopConfig::default(), setup)?.0);
    }
    if acceptor {
        let loops = threads.iter().map(LoopThread::mailbox).collect();
        let mut event_loop = EventLoop::new(LoopConfig::default(), Acceptor { loops, next: 0 })?;
        let deal = |acceptor: &mut Acceptor, socket, peer: &Address| {
            acceptor.next = (acceptor.next + 1) % acceptor.loops.len();
            if acceptor.loops[acceptor.next].post(socket).is_err() {
                println!("{peer} was turned away: that loop is overloaded or has ended");
            }
        };
        event_loop.net().listen_to_hand_over(&address.into(), ListenOptions::default(), deal)?;
        event_loop.run()?;
    }
    for thread in threads {
        thread.join()?;
    }
    Ok(())
}
