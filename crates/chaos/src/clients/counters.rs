//! Counters: each INCR must be counted exactly once, and is answered with its own place in the order.

use dstore_sim::checker::{Key, Outcome};
use dstore_testkit::powerloss::Choose as _;
use redis::Value;

use super::conversation::Conversation;
use super::{COUNTERS, Client, Generation, GoesOn, What};

/// The name of a counter.
pub fn name(key: Key) -> String {
    format!("count:{key}")
}

/// The number that a counter's value says.
pub fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// One request about a counter.
pub(super) fn request(client: &mut Client, conversation: &mut Conversation, generation: &Generation) -> GoesOn {
    let key = client.key(generation, COUNTERS);
    let is_write = client.random.choose(4) > 0;
    let mut commands = redis::pipe();
    commands.cmd(if is_write { "INCR" } else { "GET" }).arg(name(key));
    let answered = conversation.ask(&commands, false);
    let what = match (answered.strange, &answered.values[..]) {
        (Some(strange), _) => Err(strange),
        (None, [Value::Int(value)]) if is_write => match u64::try_from(*value) {
            Ok(value) => Ok(What::Increment(key, Some(value))),
            Err(_) => Err(value.to_string()),
        },
        (None, []) if is_write => Ok(What::Increment(key, None)),
        (None, []) => return answered.asked.outcome != Outcome::Unknown, // a read without an answer says nothing
        (None, [Value::Nil]) if !is_write => Ok(What::Count(key, 0)),
        (None, [Value::BulkString(text)]) if !is_write => match number(text) {
            Some(value) => Ok(What::Count(key, value)),
            None => Err(String::from_utf8_lossy(text).into_owned()),
        },
        (None, values) => Err(format!("{values:?}")),
    };
    match what {
        Ok(what) => client.record(conversation, generation, answered.asked, what),
        Err(strange) => client.strange(conversation, &name(key), &strange),
    }
}
