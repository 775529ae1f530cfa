//! Ten thousand connections, both ends in one loop: opened, used, closed, and nothing left behind. Alone in its process, for
//! it counts descriptors and memory.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use dstore_net::*;
use rustix::process::{Resource, getrlimit, setrlimit};

const CONNECTIONS: usize = 10_000;
const ROUNDS: usize = 3;
/// Connects under way at once: fewer than the listener's backlog, beyond which the kernel may reset what it forgot.
const CONNECTING: usize = 1_000;
/// Memory that may come on top after the first round: allocators do not give back at once. A leak of 210 bytes a connection
/// would show.
const GROWTH_BYTES_MAX: usize = 4 << 20;

#[derive(Default)]
struct Both {
    opened: usize,
    echoed: usize,
    closed: usize,
}

impl Application for Both {
    type Mail = ();
    type Timer = ();
    fn on_mail(&mut self, _: &mut Net<Self>, (): ()) {}
}

struct Server;
struct Client(u32);

impl Protocol<Both> for Server {
    type Message<'a> = &'a [u8];
    type Error = std::convert::Infallible;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, Self::Error> {
        Ok(Decoded::Message(input, input.len()))
    }

    fn on_open(&mut self, both: &mut Both, _: &mut Context<'_, Both>) {
        both.opened += 1;
    }

    fn process(&mut self, _: &mut Both, cx: &mut Context<'_, Both>, bytes: &[u8]) {
        cx.write(bytes);
    }

    fn on_close(&mut self, both: &mut Both, _: &mut Context<'_, Both>, reason: &CloseReason) {
        assert!(matches!(reason, CloseReason::PeerClosed), "{reason}");
        both.closed += 1;
    }
}

impl Protocol<Both> for Client {
    type Message<'a> = u32;
    type Error = std::convert::Infallible;

    fn on_open(&mut self, both: &mut Both, _: &mut Context<'_, Both>) {
        both.opened += 1;
    }

    fn decode(&mut self, input: &[u8]) -> Result<Decoded<u32>, Self::Error> {
        Ok(match input.first_chunk() {
            Some(number) => Decoded::Message(u32::from_be_bytes(*number), 4),
            None => Decoded::Incomplete { needed: 4 },
        })
    }

    fn process(&mut self, both: &mut Both, cx: &mut Context<'_, Both>, number: u32) {
        assert_eq!(number, self.0);
        both.echoed += 1;
        cx.close();
    }

    fn on_close(&mut self, both: &mut Both, _: &mut Context<'_, Both>, reason: &CloseReason) {
        assert!(matches!(reason, CloseReason::Closed), "{reason}");
        both.closed += 1;
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_bytes() -> usize {
    let pages: usize = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let at_once = limit.current.map_or(CONNECTIONS, |most| CONNECTIONS.min((most as usize - 200) / 2));
    println!("{CONNECTIONS} connections, {at_once} at once, {ROUNDS} times");
    let mut event_loop = EventLoop::new(LoopConfig::default(), Both::default()).unwrap();
    let watched = ConnectionConfig {
        idle_timeout: Some(std::time::Duration::from_secs(600)),
        heartbeat: Some(std::time::Duration::from_secs(600)),
        ..ConnectionConfig::default()
    };
    let config = ListenerConfig {
        options: ListenOptions { backlog: 4096, ..ListenOptions::default() },
        connection: watched.clone(),
        ..ListenerConfig::default()
    };
    let any = Address::Tcp(([127, 0, 0, 1], 0).into());
    let listener = event_loop.net().listen(&any, config, |_, _| Some(Server)).unwrap();
    let address = event_loop.net().listener_address(listener).unwrap().clone();
    let descriptors_before = descriptors();
    let mut resident_first = 0;
    for round in 0..ROUNDS {
        let mut left = CONNECTIONS;
        while left > 0 {
            let wave = left.min(at_once);
            left -= wave;
            *event_loop.app() = Both::default();
            let mut clients = Vec::with_capacity(wave);
            for number in 0..wave {
                let client = Client(number as u32);
                clients.push(event_loop.net().connect(address.clone(), watched.clone(), client));
                if clients.len() % CONNECTING == 0 || clients.len() == wave {
                    while event_loop.app().opened < 2 * clients.len() {
                        assert!(event_loop.turn(None).unwrap());
                    }
                }
            }
            assert_eq!(event_loop.net().connection_count(), 2 * wave, "all are open at once");
            for (number, client) in (0_u32..).zip(&clients) {
                assert!(event_loop.net().write(*client, &number.to_be_bytes()));
            }
            while event_loop.app().closed < 2 * wave {
                assert!(event_loop.turn(None).unwrap());
            }
            assert_eq!(event_loop.app().echoed, wave);
        }
        assert_eq!(event_loop.net().connection_count(), 0);
        assert_eq!(event_loop.net().timer_count(), 0);
        assert_eq!(descriptors(), descriptors_before, "in round {round}");
        if round == 0 {
            resident_first = resident_bytes();
        }
    }
    let growth = resident_bytes().saturating_sub(resident_first);
    println!("resident after the first round {resident_first}, growth since {growth}");
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes more after {} further rounds", ROUNDS - 1);
}
