//! An application that writes down whatever it hears, a protocol whose messages say what to do, and a loop to turn by hand.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dstore_net::sys::sim::{Peer, SimWorld};
use dstore_net::*;

/// What a protocol heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Open,
    Message(u8),
    DecodeError,
    InputClosed,
    High,
    Low,
    Deadline,
    Quiet,
    Drain,
    Close(String),
}

/// The application: a book of what was heard, in order.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) heard: Vec<(ConnectionId, Heard)>,
    pub(crate) panics: usize,
    pub(crate) fired: Vec<u32>,
    /// Do not answer the end of a peer's stream with a close.
    pub(crate) stays_open: bool,
    /// Whom `o`, `k` and `r` of a connection write to, abort and resume.
    pub(crate) others: BTreeMap<ConnectionId, ConnectionId>,
    /// Bytes that `on_output_low` still has to produce.
    pub(crate) supply: usize,
    pub(crate) peers: BTreeMap<ConnectionId, Address>,
    /// Messages that are enough for one turn, and how many this one had.
    pub(crate) enough: Option<usize>,
    pub(crate) messages: usize,
}

impl Application for Book {
    type Mail = u32;
    type Timer = u32;

    fn on_mail(&mut self, _: &mut Net<Self>, mail: u32) {
        self.fired.push(mail);
    }

    fn on_timer(&mut self, _: &mut Net<Self>, _: TimerId, timer: u32) {
        self.fired.push(timer);
    }

    fn turn_is_full(&self) -> bool {
        self.enough.is_some_and(|enough| self.messages >= enough)
    }

    fn end_of_turn(&mut self, _: &mut Net<Self>) {
        self.messages = 0;
    }

    fn on_panic(&mut self, _: &mut Net<Self>, _: &PanicReport) {
        self.panics += 1;
    }
}

/// One byte is one message; `L` with a length byte `n` and `n` more is one, too.
pub(crate) struct Script;

impl Script {
    fn hear(&self, app: &mut Book, cx: &Context<'_, Book>, heard: Heard) {
        app.heard.push((cx.id(), heard));
    }
}

impl Protocol<Book> for Script {
    type Message<'a> = &'a [u8];
    type Error = &'static str;

    fn on_open(&mut self, app: &mut Book, cx: &mut Context<'_, Book>) {
        app.peers.insert(cx.id(), cx.net.peer(cx.id()).unwrap().clone());
        self.hear(app, cx, Heard::Open);
    }

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, &'static str> {
        match *input {
            [0xff, ..] => Err("refused"),
            [b'_', ..] => Ok(Decoded::Skip(1)),
            [b'L'] => Ok(Decoded::Incomplete { needed: 2 }),
            [b'L', length, ref rest @ ..] if rest.len() < usize::from(length) => {
                Ok(Decoded::Incomplete { needed: 2 + usize::from(length) })
            }
            [b'L', length, ..] => Ok(Decoded::Message(&input[..2 + usize::from(length)], 2 + usize::from(length))),
            _ => Ok(Decoded::Message(&input[..1], 1)),
        }
    }

    fn process(&mut self, app: &mut Book, cx: &mut Context<'_, Book>, message: &[u8]) {
        self.hear(app, cx, Heard::Message(message[0]));
        app.messages += 1;
        match message[0] {
            b'e' | b'L' => drop(cx.write(message)),
            b'w' => drop(cx.write(&[b'W'; 100])),
            b'z' => drop(cx.write_bytes(vec![b'Z'; 5000].into())),
            b'c' => cx.close(),
            b'a' => cx.abort(),
            b'p' => cx.pause(),
            b's' => cx.shutdown_write(),
            b'o' | b'k' | b'r' => {
                let Some(other) = app.others.get(&cx.id()).copied() else { return };
                match message[0] {
                    b'o' => drop(cx.net.write(other, b"o")),
                    b'k' => cx.net.abort(other),
                    _ => cx.net.resume(other),
                }
            }
            b'!' => panic!("asked to (this message is expected)"),
            _ => {}
        }
    }

    fn on_decode_error(&mut self, app: &mut Book, cx: &mut Context<'_, Book>, _: &'static str) {
        self.hear(app, cx, Heard::DecodeError);
        cx.write(b"E");
    }

    fn on_input_closed(&mut self, app: &mut Book, cx: &mut Context<'_, Book>) {
        self.hear(app, cx, Heard::InputClosed);
        if !app.stays_open {
            cx.close();
        }
    }

    fn on_output_high(&mut self, app: &mut Book, cx: &mut Context<'_, Book>) {
        self.hear(app, cx, Heard::High);
    }

    fn on_output_low(&mut self, app: &mut Book, cx: &mut Context<'_, Book>) {
        self.hear(app, cx, Heard::Low);
        let piece = app.supply.min(1000);
        app.supply -= piece;
        cx.write(&vec![b'S'; piece]);
    }

    fn on_deadline(&mut self, app: &mut Book, cx: &mut Context<'_, Book>) {
        self.hear(app, cx, Heard::Deadline);
    }

    fn on_quiet(&mut self, app: &mut Book, cx: &mut Context<'_, Book>) {
        self.hear(app, cx, Heard::Quiet);
        cx.write(b"h");
    }

    fn on_drain(&mut self, app: &mut Book, cx: &mut Context<'_, Book>) {
        self.hear(app, cx, Heard::Drain);
        cx.close();
    }

    fn on_close(&mut self, app: &mut Book, cx: &mut Context<'_, Book>, reason: &CloseReason) {
        assert_eq!(cx.net.state(cx.id()), ConnectionState::Closed, "stale already");
        assert!(!cx.write(b"too late"));
        self.hear(app, cx, Heard::Close(reason.to_string()));
    }
}

/// A loop in a simulated world.
pub(crate) struct Bench {
    pub(crate) event_loop: EventLoop<Book>,
    pub(crate) world: SimWorld,
    pub(crate) listener: ListenerId,
}

pub(crate) fn here() -> Address {
    Address::Tcp(([127, 0, 0, 1], 7000).into())
}

pub(crate) fn there(port: u16) -> Address {
    Address::Tcp(([127, 0, 0, 2], port).into())
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(LoopConfig::default(), ListenerConfig::default())
    }

    pub(crate) fn with(config: LoopConfig, listener: ListenerConfig) -> Bench {
        let (world, poller) = SimWorld::new(Instant::now());
        let mut event_loop = EventLoop::with_poller(config, Book::default(), Box::new(poller));
        let listener = event_loop.net().listen(&here(), listener, |_, _| Some(Script)).unwrap();
        Bench { event_loop, world, listener }
    }

    pub(crate) fn with_connections(connection: ConnectionConfig) -> Bench {
        Bench::with(LoopConfig::default(), ListenerConfig { connection, ..ListenerConfig::default() })
    }

    /// One turn; whether the loop goes on.
    pub(crate) fn turn(&mut self) -> bool {
        self.event_loop.turn(Some(Duration::ZERO)).unwrap()
    }

    /// Turns until nothing more happens. The bound is far above what any scenario needs.
    pub(crate) fn settle(&mut self) {
        for _ in 0..1000 {
            let before = self.event_loop.app().heard.len();
            self.turn();
            if self.event_loop.app().heard.len() == before && !self.world.has_events() && !self.event_loop.has_work() {
                return;
            }
        }
        panic!("the loop does not come to rest");
    }

    pub(crate) fn advance(&mut self, millis: u64) {
        self.world.advance(Duration::from_millis(millis));
        self.settle();
    }

    /// A peer connects and is accepted.
    pub(crate) fn dial(&mut self) -> (Peer, ConnectionId) {
        let peer = self.world.dial(&here());
        self.settle();
        let id = self.event_loop.app().heard.iter().rev().find(|(_, heard)| *heard == Heard::Open).unwrap().0;
        self.event_loop.app().heard.clear();
        (peer, id)
    }

    pub(crate) fn connect(&mut self, addresses: Vec<Address>, config: ConnectionConfig) -> ConnectionId {
        self.event_loop.net().connect(addresses, config, Script)
    }

    /// What connection `id` heard since last asked; whatever others heard is dropped.
    pub(crate) fn heard(&mut self, id: ConnectionId) -> Vec<Heard> {
        std::mem::take(&mut self.event_loop.app().heard)
            .into_iter()
            .filter(|(who, _)| *who == id)
            .map(|(_, heard)| heard)
            .collect()
    }

    pub(crate) fn net(&mut self) -> &mut Net<Book> {
        self.event_loop.net()
    }
}

pub(crate) fn messages(bytes: &[u8]) -> Vec<Heard> {
    bytes.iter().map(|byte| Heard::Message(*byte)).collect()
}

pub(crate) fn close(reason: &str) -> Heard {
    Heard::Close(reason.to_owned())
}

/// The text of an `errno`.
pub(crate) fn text(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}
