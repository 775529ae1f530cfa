//! Out of descriptors: the listener goes on when some are free again. Alone in its process, for it lowers its limit.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use dstore_net::*;
use rustix::process::{Resource, getrlimit, setrlimit};

struct Echo;

impl Application for Echo {
    type Mail = ();
    type Timer = ();
    fn on_mail(&mut self, _: &mut Net<Self>, (): ()) {}
}

impl Protocol<Echo> for Echo {
    type Message<'a> = &'a [u8];
    type Error = std::convert::Infallible;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, Self::Error> {
        Ok(Decoded::Message(input, input.len()))
    }

    fn process(&mut self, _: &mut Echo, cx: &mut Context<'_, Echo>, bytes: &[u8]) {
        cx.write(bytes);
    }
}

#[test]
fn without_free_descriptors_connections_wait_and_are_served_later() {
    const FREE: usize = 3;
    let config = LoopConfig { accept_retry: Duration::from_millis(10), ..LoopConfig::default() };
    let mut event_loop = EventLoop::new(config, Echo).unwrap();
    let any = Address::Tcp(([127, 0, 0, 1], 0).into());
    let listener = event_loop.net().listen(&any, ListenerConfig::default(), |_, _| Some(Echo)).unwrap();
    let address = event_loop.net().listener_address(listener).and_then(Address::tcp).unwrap();
    let mut clients: Vec<_> = (0..20_u8)
        .map(|number| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&[number]).unwrap();
            (number, stream)
        })
        .collect();
    // Descriptors are given out from the lowest: the limit is just above the first few that are free.
    let taken: Vec<u64> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let last_free = (0..).filter(|number| !taken.contains(number)).nth(FREE - 1).unwrap();
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(last_free + 1);
    setrlimit(Resource::Nofile, limit).unwrap();
    assert!(event_loop.turn(None).unwrap());
    let accepted = event_loop.net().connection_count();
    assert!((1..20).contains(&accepted), "{accepted} of 20: some must wait");
    // Each client that is served leaves and frees two descriptors; in the end all are.
    while !clients.is_empty() {
        assert!(event_loop.turn(None).unwrap());
        clients.retain_mut(|(number, stream)| {
            stream.set_nonblocking(true).unwrap();
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(count) => {
                    assert_eq!((count, byte[0]), (1, *number));
                    false
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    true
                }
            }
        });
    }
    while event_loop.net().connection_count() > 0 {
        assert!(event_loop.turn(None).unwrap());
    }
}
