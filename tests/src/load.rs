//! A write load of which every acknowledgement is remembered, and the check that none was lost.
//!
//! Each client has keys that no other client writes, and sends its steps in pipelines. It knows the state that its
//! acknowledged steps add up to, and the steps that were sent but not acknowledged when the connection broke. After a
//! restart its keys must hold that state, or that state with the first few of the unacknowledged steps done: commands of
//! one connection take effect in order. A MULTI block is one step, so a half of one is never such a state. This is far
//! stricter than looking for each key by itself.
//!
//! A counter that all clients increment is checked by its bounds.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};

use dstore_testkit::powerloss::{Choose, Seeded};

use crate::connect;

/// Keys of one client.
const KEYS: usize = 12;

/// The counter that all clients share.
const COUNTER: &str = "shared:counter";

type Values = BTreeMap<String, Vec<u8>>;

/// One thing that takes effect whole or not at all.
#[derive(Clone, Debug)]
enum Step {
    Set(String, Vec<u8>),
    Append(String, Vec<u8>),
    Increment(String),
    Delete(String),
    CountShared,
    Block(Vec<Step>),
}

impl Step {
    fn random(client: usize, random: &mut Seeded, may_nest: bool) -> Step {
        let key = format!("client:{client}:{}", random.choose(KEYS));
        match random.choose(if may_nest { 8 } else { 5 }) {
            0 | 1 => Step::Set(key, random_value(random)),
            2 => Step::Append(key, random_value(random)),
            3 => Step::Delete(key),
            4 => Step::Increment(format!("client:{client}:number")),
            5 => Step::CountShared,
            _ => Step::Block((0..2 + random.choose(5)).map(|_| Step::random(client, random, false)).collect()),
        }
    }

    fn apply(&self, values: &mut Values) {
        match self {
            Step::Set(key, value) => {
                values.insert(key.clone(), value.clone());
            }
            Step::Append(key, value) => values.entry(key.clone()).or_default().extend_from_slice(value),
            Step::Increment(key) => {
                let number = values.get(key).map_or(0, |text| number(text));
                values.insert(key.clone(), (number + 1).to_string().into_bytes());
            }
            Step::Delete(key) => {
                values.remove(key);
            }
            Step::CountShared => {}
            Step::Block(steps) => steps.iter().for_each(|step| step.apply(values)),
        }
    }

    /// The request's bytes and how many replies it gets.
    fn packed(&self) -> (Vec<u8>, usize) {
        let one = |command: &mut redis::Cmd| (command.get_packed_command(), 1);
        match self {
            Step::Set(key, value) => one(redis::cmd("SET").arg(key).arg(value)),
            Step::Append(key, value) => one(redis::cmd("APPEND").arg(key).arg(value)),
            Step::Increment(key) => one(redis::cmd("INCR").arg(key)),
            Step::Delete(key) => one(redis::cmd("DEL").arg(key)),
            Step::CountShared => one(redis::cmd("INCR").arg(COUNTER)),
            Step::Block(steps) => {
                let mut bytes = redis::cmd("MULTI").get_packed_command();
                steps.iter().for_each(|step| bytes.extend(step.packed().0));
                bytes.extend(redis::cmd("EXEC").get_packed_command());
                (bytes, steps.len() + 2)
            }
        }
    }
}

fn number(text: &[u8]) -> i64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).expect("a number was written")
}

/// Mostly small, sometimes over many sectors, rarely over the size at which values are chunked.
fn random_value(random: &mut Seeded) -> Vec<u8> {
    let bytes = match random.choose(40) {
        0 => 66_000 + random.choose(5_000),
        1..6 => 500 + random.choose(9_000),
        _ => random.choose(100),
    };
    let stamp = format!("<{}>", random.next_u64());
    stamp.bytes().cycle().take(bytes).collect()
}

/// One connection's view of what it wrote.
#[derive(Debug)]
struct Client {
    number: usize,
    random: Seeded,
    /// What the acknowledged steps add up to.
    values: Values,
    /// Increments of the shared counter that were acknowledged since the counter was last read.
    counted: u64,
    /// Sent and not acknowledged, in order.
    in_doubt: VecDeque<Step>,
}

impl Client {
    /// Writes until the connection breaks; tells each acknowledgement to `acknowledged`.
    fn write(&mut self, mut connection: redis::Connection, acknowledged: &Sender<()>) -> Result<(), String> {
        loop {
            let mut request = Vec::new();
            let mut replies = Vec::new();
            for _ in 0..1 + self.random.choose(8) {
                let step = Step::random(self.number, &mut self.random, true);
                let (bytes, expected) = step.packed();
                request.extend(bytes);
                replies.push(expected);
                self.in_doubt.push_back(step);
            }
            if connection.send_packed_command(&request).is_err() {
                return Ok(());
            }
            for expected in replies {
                for _ in 0..expected {
                    match connection.recv_response() {
                        Ok(redis::Value::ServerError(error)) => {
                            return Err(format!("client {}: {error:?}", self.number));
                        }
                        Ok(_) => {}
                        Err(error) if error.is_io_error() || error.is_connection_dropped() => return Ok(()),
                        Err(error) => return Err(format!("client {}: {error}", self.number)),
                    }
                }
                let step = self.in_doubt.pop_front().expect("one step a reply");
                step.apply(&mut self.values);
                self.counted += u64::from(matches!(step, Step::CountShared));
                let _ = acknowledged.send(());
            }
        }
    }

    /// Compares what the server holds with what was acknowledged, and takes it for the new state.
    fn check(&mut self, connection: &mut redis::Connection) -> Result<(), String> {
        let mut found = Values::new();
        let names = (0..KEYS).map(|n| n.to_string()).chain(["number".to_string()]);
        for key in names.map(|name| format!("client:{}:{name}", self.number)) {
            let value: Option<Vec<u8>> =
                redis::cmd("GET").arg(&key).query(connection).map_err(|error| format!("GET {key}: {error}"))?;
            if let Some(value) = value {
                found.insert(key, value);
            }
        }
        let mut possible = self.values.clone();
        let mut difference = differs(&possible, &found);
        for step in &self.in_doubt {
            if difference.is_none() {
                break;
            }
            step.apply(&mut possible);
            difference = if differs(&possible, &found).is_none() { None } else { difference };
        }
        if let Some(difference) = difference {
            return Err(format!(
                "client {}: {difference} (none of {} unacknowledged steps explains it)",
                self.number,
                self.in_doubt.len()
            ));
        }
        self.values = found;
        Ok(())
    }
}

/// The first key whose value is not the expected one, shortened for a message.
fn differs(expected: &Values, found: &Values) -> Option<String> {
    let shown = |value: Option<&Vec<u8>>| match value {
        None => "nothing".to_string(),
        Some(bytes) => {
            format!(
                "{} bytes that begin with {:?}",
                bytes.len(),
                String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
            )
        }
    };
    let key = expected.keys().chain(found.keys()).find(|key| expected.get(*key) != found.get(*key))?;
    Some(format!("{key} holds {}, acknowledged was {}", shown(found.get(key)), shown(expected.get(key))))
}

/// Several clients that write, and what they know.
#[derive(Debug)]
pub struct Load {
    clients: Vec<Client>,
    /// The shared counter when it was last read.
    counter: u64,
}

impl Load {
    /// `clients` clients, whose steps all follow from `seed`.
    pub fn new(clients: usize, seed: u64) -> Load {
        let client = |number: usize| Client {
            number,
            random: Seeded::new(seed.wrapping_mul(1_000_003).wrapping_add(number as u64)),
            values: Values::new(),
            counted: 0,
            in_doubt: VecDeque::new(),
        };
        Load { clients: (0..clients).map(client).collect(), counter: 0 }
    }

    /// Writes from all clients at once until `stop`, which is called once `acknowledgements` have come, has broken their
    /// connections, or the server has done so by itself.
    ///
    /// # Errors
    ///
    /// A client was answered with an error.
    pub fn write(&mut self, address: SocketAddr, acknowledgements: usize, stop: impl FnOnce()) -> Result<(), String> {
        let (sender, receiver): (Sender<()>, Receiver<()>) = channel();
        let connections: Vec<redis::Connection> = self.clients.iter().map(|_| connect(address)).collect();
        std::thread::scope(|scope| {
            let writers: Vec<_> = self
                .clients
                .iter_mut()
                .zip(connections)
                .map(|(client, connection)| {
                    let sender = sender.clone();
                    scope.spawn(move || client.write(connection, &sender))
                })
                .collect();
            drop(sender);
            let _ = receiver.iter().take(acknowledgements).count(); // ends early when all writers have
            stop();
            writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"))
        })
    }

    /// Checks that everything acknowledged is there and no block is half there; what is found is the base of what is
    /// written next.
    ///
    /// # Errors
    ///
    /// What is missing or wrong.
    pub fn check(&mut self, address: SocketAddr) -> Result<(), String> {
        let mut connection = connect(address);
        self.clients.iter_mut().try_for_each(|client| client.check(&mut connection))?;

        let found: Option<u64> = redis::cmd("GET").arg(COUNTER).query(&mut connection).map_err(|e| e.to_string())?;
        let found = found.unwrap_or(0);
        let counts = |client: &Client| client.in_doubt.iter().filter(|step| matches!(step, Step::CountShared)).count();
        let least = self.counter + self.clients.iter().map(|client| client.counted).sum::<u64>();
        let most = least + self.clients.iter().map(|client| counts(client) as u64).sum::<u64>();
        if !(least..=most).contains(&found) {
            return Err(format!("{COUNTER} is {found}, acknowledged were {least} and sent {most}"));
        }
        self.counter = found;
        for client in &mut self.clients {
            client.counted = 0;
            client.in_doubt.clear();
        }
        Ok(())
    }

    /// How many keys the acknowledged state has.
    pub fn keys(&self) -> usize {
        self.clients.iter().map(|client| client.values.len()).sum()
    }
}
