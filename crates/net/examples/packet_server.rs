//! A server for packets of an int32 length and a body: answers each with its body in capital letters.
//!
//! `cargo run --release -p dstore-net --example packet_server -- 127.0.0.1:7070`, then `packet_client` with the same
//! address. Connections that say nothing for a minute are closed.

#![allow(clippy::print_stdout)]

use std::time::Duration;

use dstore_net::*;

mod packet;

#[derive(Default)]
struct Server {
    packets: u64,
}

impl Application for Server {
    type Mail = ();
    type Timer = ();

    fn on_mail(&mut self, _: &mut Net<Self>, (): ()) {}
}

struct Capitals;

impl Protocol<Server> for Capitals {
    type Message<'a> = &'a [u8];
    type Error = String;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, String> {
        packet::decode(input)
    }

    fn process(&mut self, server: &mut Server, cx: &mut Context<'_, Server>, body: &[u8]) {
        server.packets += 1;
        let answer = body.to_ascii_uppercase();
        if let Some(output) = cx.output() {
            packet::encode(output, &answer);
        }
    }

    fn on_close(&mut self, server: &mut Server, cx: &mut Context<'_, Server>, reason: &CloseReason) {
        println!("{:?}: {reason}; {} packets in all so far", cx.id(), server.packets);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: std::net::SocketAddr = std::env::args().nth(1).unwrap_or("127.0.0.1:7070".into()).parse()?;
    let mut event_loop = EventLoop::new(LoopConfig::default(), Server::default())?;
    let connection = ConnectionConfig {
        input_bytes_max: 4 + packet::BODY_BYTES_MAX as usize,
        idle_timeout: Some(Duration::from_secs(60)),
        ..ConnectionConfig::default()
    };
    let config = ListenerConfig { connection, ..ListenerConfig::default() };
    let listener = event_loop.net().listen(&address.into(), config, |_, _| Some(Capitals))?;
    if let Some(address) = event_loop.net().listener_address(listener) {
        println!("listening on {address}");
    }
    event_loop.run()?;
    Ok(())
}
