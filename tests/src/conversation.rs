//! [`Conversation`]: what a client says to a server, drawn from a seed: commands on data, and around them MULTI, EXEC,
//! DISCARD, WATCH, SELECT, HELLO, RESET and others that change how a connection is served.
//!
//! It knows of each of its connections only whether it is within a MULTI: some commands mean something there that no
//! client can use (see [`Conversation::request`]).

use bytes::Bytes;
use dstore_testkit::requests::{Generator, KEYS};

/// A request, its name first, and whether it is answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name and arguments.
    pub args: Vec<Bytes>,
    /// False behind CLIENT REPLY SKIP, and for that itself.
    pub answered: bool,
}

impl Request {
    /// A request of words without spaces, which is answered.
    pub fn words(line: &str) -> Request {
        Request { args: line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect(), answered: true }
    }

    /// Whether it is this command.
    pub fn is(&self, name: &str) -> bool {
        self.args[0].eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Requests that need no data, right and wrong.
const OTHERS: [&str; 141] = [
    "PING",
    "PING hello",
    "PING a b",
    "ECHO hello",
    "ECHO",
    "SELECT 0",
    "SELECT 1",
    "SELECT 1",
    "SELECT 15",
    "SELECT 16",
    "SELECT -1",
    "SELECT x",
    "CLIENT SETNAME tester",
    "CLIENT SETNAME",
    "CLIENT GETNAME",
    "CLIENT NO-EVICT on",
    "CLIENT NO-EVICT x",
    "CLIENT NOPE",
    "CLIENT TRACKINGINFO",
    "CLIENT GETREDIR",
    "CLIENT KILL ID 999999",
    "CLIENT UNBLOCK 999999",
    "CONFIG GET nope",
    "CONFIG SET nope 1",
    "COMMAND GETKEYS SET a b",
    "COMMAND GETKEYS MSET a b c d",
    "COMMAND GETKEYSANDFLAGS GETDEL a",
    "COMMAND GETKEYS PING",
    "OBJECT NOPE a",
    "ACL WHOAMI",
    "AUTH x",
    "WAIT 0 0",
    "WAIT x 0",
    "NOPE a b",
    "MEMORY USAGE nokey",
    "GET",
    "SET a",
    "OBJECT",
    "OBJECT ENCODING",
    "CLIENT NO-TOUCH on",
    "CLIENT TRACKING off",
    "CLIENT TRACKING x",
    "CLIENT CACHING yes",
    "CLIENT CACHING x",
    "CLIENT UNBLOCK 999",
    "CLIENT UNBLOCK x",
    "CLIENT UNBLOCK 999 TIMEOUT",
    "CLIENT UNBLOCK 999 FOO",
    "CLIENT KILL 1.2.3.4:5",
    "CLIENT KILL FOO bar",
    "CLIENT KILL",
    "CLIENT PAUSE",
    "CLIENT PAUSE x",
    "CLIENT PAUSE -1",
    "CLIENT LIST TYPE foo",
    "CLIENT LIST TYPE pubsub",
    "CLIENT LIST TYPE replica",
    "CLIENT LIST ID 99999",
    "CLIENT LIST ID x",
    "CLIENT LIST FOO",
    "CLIENT LIST ID",
    "CLIENT INFO x",
    "CLIENT ID x",
    "CLIENT FOO",
    "COMMAND COUNT x",
    "COMMAND GETKEYS",
    "COMMAND GETKEYS FOO",
    "COMMAND GETKEYS GET",
    "COMMAND GETKEYS BITOP AND a b c",
    "COMMAND GETKEYS COPY a b",
    "COMMAND GETKEYS RENAME a b",
    "COMMAND GETKEYS LCS a b",
    "COMMAND GETKEYS SORT a STORE b",
    "COMMAND GETKEYS OBJECT ENCODING a",
    "COMMAND GETKEYS MEMORY USAGE a",
    "COMMAND GETKEYSANDFLAGS SET a b",
    "COMMAND GETKEYSANDFLAGS SET a b GET",
    "COMMAND GETKEYSANDFLAGS BITFIELD a GET u8 0",
    "COMMAND GETKEYSANDFLAGS BITFIELD a SET u8 0 1",
    "COMMAND GETKEYSANDFLAGS RENAME a b",
    "COMMAND GETKEYSANDFLAGS SORT a STORE b",
    "COMMAND INFO nosuch",
    "COMMAND INFO get|x",
    "COMMAND LIST FILTERBY",
    "COMMAND LIST FILTERBY FOO x",
    "COMMAND LIST FILTERBY MODULE x",
    "COMMAND LIST FILTERBY ACLCAT nosuch",
    "COMMAND LIST FILTERBY PATTERN set",
    "COMMAND LIST FILTERBY PATTERN xyz*",
    "COMMAND DOCS nosuch",
    "COMMAND FOO",
    "CONFIG GET",
    "CONFIG GET nosuch",
    "CONFIG SET",
    "CONFIG SET a",
    "CONFIG SET nosuch 1",
    "CONFIG SET timeout x",
    "CONFIG SET timeout -1",
    "CONFIG SET latency-tracking maybe",
    "CONFIG SET latency-tracking-info-percentiles 101",
    "CONFIG SET latency-tracking-info-percentiles 50,99",
    "CONFIG FOO",
    "SLOWLOG GET -2",
    "SLOWLOG GET x",
    "SLOWLOG FOO",
    "LATENCY HISTORY foo",
    "LATENCY GRAPH foo",
    "LATENCY HISTOGRAM nosuch",
    "LATENCY FOO",
    "LATENCY HISTORY",
    "MEMORY USAGE",
    "MEMORY USAGE k SAMPLES",
    "MEMORY USAGE k SAMPLES x",
    "MEMORY USAGE k SAMPLES -1",
    "MEMORY USAGE k FOO 1",
    "MEMORY FOO",
    "LOLWUT VERSION x",
    "AUTH a",
    "AUTH a b",
    "AUTH a b c",
    "AUTH default x",
    "MONITOR x",
    "TIME x",
    "DBSIZE x",
    "RANDOMKEY x",
    "CLIENT KILL ID x",
    "CLIENT KILL ADDR 1.1.1.1:1",
    "CLIENT KILL TYPE foo",
    "CLIENT KILL USER nouser",
    "SHUTDOWN FOO",
    "SHUTDOWN ABORT",
    "SHUTDOWN NOSAVE SAVE",
    "WAIT x",
    "WAIT -1 0",
    "SLOWLOG GET 1 2",
    "CONFIG SET slowlog-max-len 10 slowlog-max-len 11",
    "CONFIG SET slowlog-max-len 128",
    "CONFIG GET slowlog-max-len",
    "MEMORY PURGE",
    "INFO nosuch",
    "CONFIG RESETSTAT",
];

/// What several connections send. The same seed says the same.
#[derive(Debug)]
pub struct Conversation {
    /// Commands on data come from here.
    pub generator: Generator,
    in_multi: Vec<bool>,
}

impl Conversation {
    /// A conversation of so many connections.
    pub fn new(seed: u64, connections: usize) -> Conversation {
        let mut generator = Generator::new(seed);
        generator.spread_times = true;
        Conversation { generator, in_multi: vec![false; connections] }
    }

    /// Appends the next request of a connection, or a few that belong together.
    ///
    /// Left out, because a Redis client cannot make sense of what Redis answers: HELLO and CLIENT REPLY within MULTI.
    /// WATCH of a key that does not exist is followed by its EXEC before others can write: see `docs/testing.md`.
    pub fn request(&mut self, connection: usize, requests: &mut Vec<Request>) {
        let in_multi = self.in_multi[connection];
        let words = |line: &str| Request::words(line);
        match self.generator.random.below(if in_multi { 60 } else { 100 }) {
            0 | 1 => {
                requests.push(words("MULTI"));
                self.in_multi[connection] = true;
            }
            2..8 if in_multi => {
                requests.push(words("EXEC"));
                self.in_multi[connection] = false;
            }
            8 if in_multi || self.generator.random.one_in(10) => {
                requests.push(words(if self.generator.random.one_in(4) { "exec" } else { "DISCARD" }));
                self.in_multi[connection] = false;
            }
            9 if self.generator.random.one_in(3) => {
                requests.push(words("RESET"));
                self.in_multi[connection] = false;
            }
            10 => self.watch(in_multi, requests),
            11 if !in_multi => self.transaction(requests),
            12 => requests.push(words("UNWATCH")),
            13 if !in_multi => {
                let hello = self.generator.random.pick(&["HELLO 2", "HELLO 3", "HELLO 3", "HELLO 4", "HELLO x"]);
                requests.push(words(hello));
            }
            14 if !in_multi => {
                let skip = Request { answered: false, ..words("CLIENT REPLY SKIP") };
                requests.extend([skip, Request { answered: false, args: self.generator.request() }]);
            }
            15..18 => requests.push(words(self.generator.random.pick(&OTHERS))),
            _ => self.command(requests),
        }
    }

    /// A command on data.
    fn command(&mut self, requests: &mut Vec<Request>) {
        let request = Request { args: self.generator.request(), answered: true };
        if request.is("DBSIZE") {
            // Redis removes what has expired when it is looked at.
            requests.push(self.all_keys("EXISTS"));
        }
        requests.push(request);
    }

    /// A request about all keys that there are.
    pub fn all_keys(&self, name: &'static str) -> Request {
        Request { args: [name].into_iter().chain(KEYS).map(Bytes::from).collect(), answered: true }
    }

    /// WATCH of keys that exist.
    fn watch(&mut self, in_multi: bool, requests: &mut Vec<Request>) {
        let keys = self.some_keys();
        if !in_multi {
            let create =
                |key: &Bytes| Request { args: vec![Bytes::from("SETNX"), key.clone(), key.clone()], answered: true };
            requests.extend(keys.iter().map(create));
        }
        requests.push(watch(keys));
    }

    /// WATCH of any keys, and the transaction at once.
    fn transaction(&mut self, requests: &mut Vec<Request>) {
        requests.push(watch(self.some_keys()));
        if self.generator.random.one_in(3) {
            requests.push(Request::words("GET a"));
        }
        requests.push(Request::words("MULTI"));
        for _ in 0..self.generator.random.below(6) {
            self.command(requests);
        }
        requests.push(Request::words("EXEC"));
    }

    fn some_keys(&mut self) -> Vec<Bytes> {
        (0..=self.generator.random.below(3)).map(|_| Bytes::from(self.generator.random.pick(&KEYS))).collect()
    }
}

fn watch(keys: Vec<Bytes>) -> Request {
    Request { args: [Bytes::from("WATCH")].into_iter().chain(keys).collect(), answered: true }
}
