//! Registers: values that are replaced on the condition that nobody did so meanwhile. Each value is a token of its own, so
//! all values of a register form one chain, from the first to the last.
//!
//! A value is its token, a colon and a filling whose length and letter follow from the token, so a value that is not whole,
//! or of two halves, is noticed. Some are longer than the store keeps in one piece; all together they make logs overflow
//! and nodes that were away need snapshots.

use dstore_sim::checker::{Key, Outcome, Token};
use dstore_testkit::powerloss::Choose as _;
use redis::Value;

use super::conversation::Conversation;
use super::{Client, Generation, GoesOn, REGISTERS, What};

/// The name of a register.
pub fn name(key: Key) -> String {
    format!("register:{key}")
}

/// The value that says a token.
pub fn value(token: Token) -> Vec<u8> {
    // Spread over all numbers (Knuth's multiplicative hashing), so that clients share all lengths.
    let drawn = token.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let filling = match drawn % 64 {
        0 => 100_000, // in two pieces: the store cuts values at 64 KiB
        1..8 => 10_000,
        short => short,
    };
    let mut value = format!("{token}:").into_bytes();
    let letter = b'a' + (drawn % 26) as u8;
    value.resize(value.len() + filling as usize, letter);
    value
}

/// The token that a register's value says; nothing if it is no whole value.
pub fn token(text: &[u8]) -> Option<Token> {
    let digits = text.split(|byte| *byte == b':').next()?;
    let token = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (value(token) == text).then_some(token)
}

/// The beginning of an answer that makes no sense.
fn beginning(text: &[u8]) -> String {
    format!("{} bytes: {}", text.len(), String::from_utf8_lossy(&text[..text.len().min(100)]))
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
    let Some(found) = conversation.watch(&name(key)) else { return false };
    let old = match found.map(|text| token(&text).ok_or(text)) {
        None => None,
        Some(Ok(token)) => Some(token),
        Some(Err(text)) => return client.strange(conversation, &name(key), &beginning(&text)),
    };
    let new = client.shared.token();
    let mut commands = redis::pipe();
    commands.atomic().cmd("SET").arg(name(key)).arg(value(new));
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
    commands.cmd("SET").arg(name(key)).arg(value(new)).arg("NX").arg("GET");
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
        [Value::BulkString(text)] => token(text).map(Some).ok_or_else(|| beginning(text)),
        values => Err(format!("{values:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_says_its_token_unless_it_is_not_whole() {
        let mut lengths = std::collections::BTreeSet::new();
        for number in 1..1_000 {
            let whole = value(number);
            lengths.insert(whole.len() / 1_000);
            assert_eq!(token(&whole), Some(number));
            assert_eq!(token(&[&whole[..], b"a"].concat()), None);
            if whole.len() > 200 {
                assert_eq!(token(&whole[..whole.len() / 2]), None);
                let halves = [&whole[..whole.len() / 2], &vec![b'?'; whole.len().div_ceil(2)]].concat();
                assert_eq!(token(&halves), None);
            }
        }
        assert!(lengths.contains(&0) && lengths.contains(&10) && lengths.contains(&100), "{lengths:?}");
        assert_eq!(token(b""), None);
        assert_eq!(token(b"12"), None);
    }
}
