//! A client for `packet_server`: sends packets, several in flight, checks the answers, says how long it took.
//!
//! `cargo run --release -p dstore-net --example packet_client -- localhost 7070 10000`. Connecting never blocks: what is
//! sent before the connection stands waits and goes out first.

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use dstore_net::*;

mod packet;

/// Packets sent and not answered yet.
const IN_FLIGHT_MAX: u64 = 32;

struct Client {
    total: u64,
    started: Instant,
    outcome: Result<(), String>,
}

impl Application for Client {
    type Mail = ();
    type Timer = ();

    fn on_mail(&mut self, _: &mut Net<Self>, (): ()) {}
}

#[derive(Default)]
struct Conversation {
    sent: u64,
    answered: u64,
}

impl Conversation {
    fn send_more(&mut self, client: &Client, cx: &mut Context<'_, Client>) {
        while self.sent < client.total && self.sent - self.answered < IN_FLIGHT_MAX {
            let Some(output) = cx.output() else { return };
            packet::encode(output, format!("packet {}", self.sent).as_bytes());
            self.sent += 1;
        }
    }
}

impl Protocol<Client> for Conversation {
    type Message<'a> = &'a [u8];
    type Error = String;

    fn on_open(&mut self, client: &mut Client, cx: &mut Context<'_, Client>) {
        self.send_more(client, cx);
    }

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, String> {
        packet::decode(input)
    }

    fn process(&mut self, client: &mut Client, cx: &mut Context<'_, Client>, answer: &[u8]) {
        let expected = format!("PACKET {}", self.answered);
        if answer != expected.as_bytes() {
            client.outcome = Err(format!("{} instead of {expected}", answer.escape_ascii()));
            return cx.abort();
        }
        self.answered += 1;
        if self.answered == client.total {
            let elapsed = cx.now().saturating_duration_since(client.started);
            println!("{} packets in {elapsed:?}, connecting included", client.total);
            cx.close();
        }
        self.send_more(client, cx);
    }

    fn on_close(&mut self, client: &mut Client, cx: &mut Context<'_, Client>, reason: &CloseReason) {
        if self.answered < client.total && client.outcome.is_ok() {
            client.outcome = Err(reason.to_string());
        }
        cx.net.stop(Duration::ZERO);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let host = arguments.next().unwrap_or("127.0.0.1".into());
    let port = arguments.next().map_or(Ok(7070), |text| text.parse())?;
    let total = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let client = Client { total, started: Instant::now(), outcome: Ok(()) };
    let mut event_loop = EventLoop::new(LoopConfig::default(), client)?;
    let target = Target::Name(host, port);
    event_loop.net().connect(target, ConnectionConfig::default(), Conversation::default());
    event_loop.run()?.outcome?;
    Ok(())
}
