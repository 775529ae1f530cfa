//! Lists: values to which tokens are appended, each used once, so that whoever reads a list sees who made it and in which
//! order.

use dstore_sim::checker::{Key, MicroOp, Outcome, Token};
use dstore_testkit::powerloss::Choose as _;
use redis::Value;

use super::conversation::Conversation;
use super::{Client, Generation, GoesOn, LISTS, What};

/// Hexadecimal digits of a token.
const TOKEN_BYTES: usize = 8;

/// The name of a list.
pub fn name(key: Key) -> String {
    format!("list:{key}")
}

/// The tokens of a list's value; nothing if it is none.
pub fn tokens(text: &[u8]) -> Option<Vec<Token>> {
    let parse = |digits: &[u8]| {
        let text = std::str::from_utf8(digits).ok().filter(|text| text.len() == TOKEN_BYTES)?;
        Token::from_str_radix(text, 16).ok()
    };
    text.chunks(TOKEN_BYTES).map(parse).collect()
}

/// One request about lists.
pub(super) fn request(client: &mut Client, conversation: &mut Conversation, generation: &Generation) -> GoesOn {
    let keys = [0; 3].map(|_| client.key(generation, LISTS));
    let read = |key| MicroOp::Read { key, list: None };
    let append = |client: &Client, key| MicroOp::Append { key, token: client.shared.token(), length: None };
    let ops = match client.random.choose(10) {
        0..4 => vec![append(client, keys[0])],
        4..6 => vec![append(client, keys[0]), append(client, keys[1]), read(keys[2])],
        6 => vec![read(keys[0]), read(keys[1])],
        7 => return watched(client, conversation, generation, keys[0], keys[1]),
        _ => vec![read(keys[0])],
    };
    transact(client, conversation, generation, ops, None)
}

/// Appends to one list on the condition that another is still as it was read.
fn watched(
    client: &Client,
    conversation: &mut Conversation,
    generation: &Generation,
    read: Key,
    appended: Key,
) -> GoesOn {
    let Some(value) = conversation.watch(&name(read)) else { return false };
    let value = value.unwrap_or_default();
    let Some(list) = tokens(&value) else {
        return client.strange(conversation, &format!("GET {}", name(read)), &String::from_utf8_lossy(&value));
    };
    // The read is part of the block: EXEC vouches that it still holds.
    let append = MicroOp::Append { key: appended, token: client.shared.token(), length: None };
    transact(client, conversation, generation, vec![append], Some(MicroOp::Read { key: read, list: Some(list) }))
}

/// Makes a request of these operations and records it. `known` is a read that the request's taking effect confirms.
fn transact(
    client: &Client,
    conversation: &mut Conversation,
    generation: &Generation,
    mut ops: Vec<MicroOp>,
    known: Option<MicroOp>,
) -> GoesOn {
    let is_block = ops.len() > 1 || known.is_some();
    let mut commands = redis::pipe();
    if is_block {
        commands.atomic();
    }
    for op in &ops {
        match op {
            MicroOp::Append { key, token, .. } => commands.cmd("APPEND").arg(name(*key)).arg(format!("{token:08x}")),
            MicroOp::Read { key, .. } => commands.cmd("GET").arg(name(*key)),
            other => panic!("no client of lists asks for {other}"),
        };
    }
    let answered = conversation.ask(&commands, is_block);
    if let Some(strange) = answered.strange {
        return client.strange(conversation, &format!("{ops:?}"), &strange);
    }
    if answered.asked.outcome == Outcome::Committed && !fill(&mut ops, &answered.values) {
        return client.strange(conversation, &format!("{ops:?}"), &format!("{:?}", answered.values));
    }
    if let Some(known) = known {
        let known = match known {
            // Of a request that was refused, or of which nobody knows, the read says nothing.
            MicroOp::Read { key, .. } if answered.asked.outcome != Outcome::Committed => {
                MicroOp::Read { key, list: None }
            }
            known => known,
        };
        ops.insert(0, known);
    }
    client.record(conversation, generation, answered.asked, What::Lists(ops))
}

/// Puts what was answered beside what was asked. False when it does not fit.
fn fill(ops: &mut [MicroOp], values: &[Value]) -> bool {
    ops.len() == values.len() && ops.iter_mut().zip(values).all(|(op, value)| fill_one(op, value).is_some())
}

fn fill_one(op: &mut MicroOp, value: &Value) -> Option<()> {
    match (op, value) {
        (MicroOp::Append { length, .. }, Value::Int(bytes)) => {
            let bytes = usize::try_from(*bytes).ok().filter(|bytes| bytes.is_multiple_of(TOKEN_BYTES))?;
            *length = Some(bytes / TOKEN_BYTES);
        }
        (MicroOp::Read { list, .. }, Value::Nil) => *list = Some(Vec::new()),
        (MicroOp::Read { list, .. }, Value::BulkString(bytes)) => *list = Some(tokens(bytes)?),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_taken_apart_into_tokens_or_is_no_list() {
        assert_eq!(tokens(b"0000000100000fff"), Some(vec![1, 0xfff]));
        assert_eq!(tokens(b""), Some(Vec::new()));
        assert_eq!(tokens(b"0000000"), None);
        assert_eq!(tokens(b"0000000x"), None);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_noticed() {
        let append = || MicroOp::Append { key: 1, token: 7, length: None };
        let mut ops = [append(), MicroOp::Read { key: 1, list: None }];
        assert!(fill(&mut ops, &[Value::Int(16), Value::BulkString(b"0000000500000007".to_vec())]));
        assert_eq!(ops[0], MicroOp::Append { key: 1, token: 7, length: Some(2) });
        assert_eq!(ops[1], MicroOp::Read { key: 1, list: Some(vec![5, 7]) });
        assert!(!fill(&mut ops, &[Value::Int(16)]));
        assert!(!fill(&mut [append()], &[Value::Int(15)]), "half a token");
        assert!(!fill(&mut [append()], &[Value::Nil]));
    }
}
