//! Registers: values that are replaced on the condition that nobody did so meanwhile. Each value is a token of its own, so
//! all values of a register form one chain, from the first to the last.

use dstore_sim::checker::{Key, Outcome, Token};
use dstore_testkit::powerloss::Choose as _;
use redis::Value;

use super::conversation::Conversation;
use super::{Client, Generation, GoesOn, REGISTERS, What};

/// The name of a register.
pub fn name(key: Key) -> String {
    format!("register:{key}")
}

/// The token that a register's value says.
pub fn token(text: &[u8]) -> Option<Token> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// One request about a register.
pub(super) fn request(client: &mut Client, conversation: &mut Conversation, generation: &Generation) -> GoesOn {
    let key = client.key(generation, REGISTERS);
    match client.random.choose(10) {
        0..5 => replace(client, conversation, generation, key),
        5..7 => create(client, conversation, generation, key),
        _ => look(client, conversation, generation, key),
    }
}

/// WATCH, GET, and a block with SET: compare and set.
fn replace(client: &Client, conversation: &mut Conversation, generation: &Generation, key: Key) -> GoesOn {
    let Some(value) = conversation.watch(&name(key)) else { return false };
    let old = match value.map(|text| token(&text).ok_or(text)) {
        None => None,
        Some(Ok(token)) => Some(token),
        Some(Err(text)) => return client.strange(conversation, &name(key), &String::from_utf8_lossy(&text)),
    };
    let new = client.shared.token();
    let mut commands = redis::pipe();
    commands.atomic().cmd("SET").arg(name(key)).arg(new.to_string());
    let answered = conversation.ask(&commands, true);
    if let Some(strange) = answered.strange {
        return client.strange(conversation, &name(key), &strange);
    }
    client.record(conversation, generation, answered.asked, What::Swap { key, old, new })
}

/// `SET key token NX GET`: creates the register, or tells what is there.
fn create(client: &Client, conversation: &mut Conversation, generation: &Generation, key: Key) -> GoesOn {
    let new = client.shared.token();
    let mut commands = redis::pipe();
    commands.cmd("SET").arg(name(key)).arg(new.to_string()).arg("NX").arg("GET");
    let answered = conversation.ask(&commands, false);
    let created = What::Swap { key, old: None, new };
    let what = match (answered.strange, &answered.values[..]) {
        (Some(strange), _) => Err(strange),
        (None, [] | [Value::Nil]) => Ok(created),
        (None, values) => seen(values).map(|token| What::Look(key, token)),
    };
    match what {
        Ok(what) => client.record(conversation, generation, answered.asked, what),
        Err(strange) => client.strange(conversation, &name(key), &strange),
    }
}

fn look(client: &Client, conversation: &mut Conversation, generation: &Generation, key: Key) -> GoesOn {
    let mut commands = redis::pipe();
    commands.cmd("GET").arg(name(key));
    let answered = conversation.ask(&commands, false);
    let what = match (answered.strange, &answered.values[..]) {
        (Some(strange), _) => Err(strange),
        (None, []) => return answered.asked.outcome != Outcome::Unknown, // a read without an answer says nothing
        (None, values) => seen(values).map(|token| What::Look(key, token)),
    };
    match what {
        Ok(what) => client.record(conversation, generation, answered.asked, what),
        Err(strange) => client.strange(conversation, &name(key), &strange),
    }
}

fn seen(values: &[Value]) -> Result<Option<Token>, String> {
    match values {
        [Value::Nil] => Ok(None),
        [Value::BulkString(text)] => token(text).map(Some).ok_or_else(|| String::from_utf8_lossy(text).into_owned()),
        values => Err(format!("{values:?}")),
    }
}
