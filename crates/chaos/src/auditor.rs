//! The auditor: a client that reads whole generations of keys, and at the end everything, through any node or through one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dstore_sim::checker::{Key, MicroOp, Outcome, Token};
use redis::{Pipeline, Value};

use crate::clients::conversation::Conversation;
use crate::clients::{COUNTERS, LISTS, REGISTERS, Record, Shared, What, beside_clients, counters, lists, registers};
use crate::judge::finally::{Contents, Expected};

/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(50);

/// Keys in one MGET at the end.
const KEYS_AT_ONCE: usize = 50;

/// Reads.
#[derive(Debug)]
pub struct Auditor {
    shared: Arc<Shared>,
}

impl Auditor {
    /// One that reads where the clients of `shared` do.
    pub fn new(shared: Arc<Shared>) -> Auditor {
        Auditor { shared }
    }

    /// Reads all keys of a generation, through whichever node answers first. None when `gives_up` says so before.
    pub fn read_generation(&self, generation: u32, gives_up: impl Fn() -> bool + Send + Sync) -> Option<Vec<Record>> {
        let read = || {
            let mut turn = generation as usize;
            loop {
                let addresses = self.shared.addresses();
                turn += 1;
                if let Some((node, address)) = addresses.get(turn % addresses.len().max(1))
                    && let Some(records) = self.try_generation(generation, *node, *address)
                {
                    return Some(records);
                }
                if gives_up() {
                    return None;
                }
                std::thread::sleep(AGAIN); // there is nobody whose event could be waited for
            }
        };
        beside_clients(self.shared.network(), read)
    }

    fn try_generation(&self, generation: u32, node: usize, address: SocketAddr) -> Option<Vec<Record>> {
        let mut conversation = Conversation::open(&self.shared, node, address)?;
        let keys = |count: u32| (generation * count..(generation + 1) * count).collect::<Vec<Key>>();
        let mut records = Vec::new();
        let (texts, asked) = mget(&mut conversation, &keys(LISTS), lists::name)?;
        let (connection, invoked, completed) = (conversation.number, asked.0, Some(asked.1));
        let record =
            |what| Record { generation, connection, node, invoked, completed, outcome: Outcome::Committed, what };
        let ops = keys(LISTS).into_iter().zip(texts).map(|(key, text)| MicroOp::Read { key, list: Some(list(text)) });
        records.push(record(What::Lists(ops.collect())));
        let (texts, asked) = mget(&mut conversation, &keys(COUNTERS), counters::name)?;
        let at = |what| Record { invoked: asked.0, completed: Some(asked.1), ..record(what) };
        records.extend(keys(COUNTERS).into_iter().zip(texts).map(|(key, text)| at(What::Count(key, count(text)))));
        let (texts, asked) = mget(&mut conversation, &keys(REGISTERS), registers::name)?;
        let at = |what| Record { invoked: asked.0, completed: Some(asked.1), ..record(what) };
        records.extend(keys(REGISTERS).into_iter().zip(texts).map(|(key, text)| at(What::Look(key, value(text)))));
        Some(records)
    }

    /// Reads all keys through one node. None when it does not answer.
    pub fn read_all(&self, node: usize, address: SocketAddr, expected: &Expected) -> Option<Contents> {
        let [list_keys, counter_keys, register_keys] = expected.keys();
        beside_clients(self.shared.network(), || {
            let mut conversation = Conversation::open(&self.shared, node, address)?;
            let mut contents = Contents::default();
            for keys in list_keys.chunks(KEYS_AT_ONCE) {
                let (texts, _) = mget(&mut conversation, keys, lists::name)?;
                contents.lists.extend(keys.iter().copied().zip(texts.into_iter().map(list)));
            }
            for keys in counter_keys.chunks(KEYS_AT_ONCE) {
                let (texts, _) = mget(&mut conversation, keys, counters::name)?;
                contents.counters.extend(keys.iter().copied().zip(texts.into_iter().map(count)));
            }
            for keys in register_keys.chunks(KEYS_AT_ONCE) {
                let (texts, _) = mget(&mut conversation, keys, registers::name)?;
                contents.registers.extend(keys.iter().copied().zip(texts.into_iter().map(value)));
            }
            Some(contents)
        })
    }
}

/// A value that is none of ours becomes one that nobody wrote, which the judge reports.
const NOBODYS: Token = Token::MAX;

fn list(text: Option<Vec<u8>>) -> Vec<Token> {
    text.map_or_else(Vec::new, |text| lists::tokens(&text).unwrap_or_else(|| vec![NOBODYS]))
}

fn count(text: Option<Vec<u8>>) -> u64 {
    text.map_or(0, |text| counters::number(&text).unwrap_or(u64::MAX))
}

fn value(text: Option<Vec<u8>>) -> Option<Token> {
    text.map(|text| registers::token(&text).unwrap_or(NOBODYS))
}

/// The values of several keys, each with its kind's name, and when that was asked and answered.
type Values = (Vec<Option<Vec<u8>>>, (u64, u64));

fn mget(conversation: &mut Conversation, keys: &[Key], name: fn(Key) -> String) -> Option<Values> {
    let mut commands = Pipeline::new();
    let command = commands.cmd("MGET");
    for key in keys {
        command.arg(name(*key));
    }
    let answered = conversation.ask(&commands, false);
    let [Value::Array(values)] = &answered.values[..] else { return None };
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => Some(bytes.clone()),
        _ => None,
    };
    Some((values.iter().map(text).collect(), (answered.asked.invoked, answered.asked.completed)))
}
