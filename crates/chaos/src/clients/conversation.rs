//! One connection of a stock client, and what its answers are worth.

use std::net::SocketAddr;

use dstore_sim::checker::Outcome;
use redis::{Connection, ConnectionLike as _, Pipeline, ServerError, Value};

use super::{ANSWER_WITHIN, Asked, Shared};

/// What an error begins with, or says, that vouches for a command's never being executed. The first three are a dstore
/// node's, the others those of a Redis that is no primary, or not yet.
const REFUSALS: [&str; 6] = ["NOQUORUM", "OOM", "EXECABORT", "READONLY", "LOADING", "MASTERDOWN"];
const NOT_EXECUTED: &str = "not executed";

/// A connection to one node.
pub struct Conversation {
    connection: Connection,
    clock: std::time::Instant,
    /// Never the same twice in a run.
    pub number: u64,
    /// Where it leads.
    pub node: usize,
}

/// What a request came to.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) asked: Asked,
    /// One value for each command; nothing unless it took effect.
    pub(crate) values: Vec<Value>,
    /// An error that is neither a refusal nor a doubt.
    pub(crate) strange: Option<String>,
}

impl Conversation {
    /// Connects. None when nobody takes the connection.
    pub(crate) fn open(shared: &Shared, node: usize, address: SocketAddr) -> Option<Conversation> {
        let client = redis::Client::open(format!("redis://{address}/")).ok()?;
        let connection = client.get_connection_with_timeout(ANSWER_WITHIN).ok()?;
        connection.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
        connection.set_write_timeout(Some(ANSWER_WITHIN)).ok()?;
        Some(Conversation { connection, clock: shared.began, number: shared.connection(), node })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).expect("a run takes less than centuries")
    }

    /// Sends one command, or a block of several (an atomic pipeline), and waits for the answers.
    pub(crate) fn ask(&mut self, commands: &Pipeline, is_block: bool) -> Answered {
        let replies = commands.len() + if is_block { 2 } else { 0 }; // MULTI and EXEC
        let packed = commands.get_packed_pipeline();
        let invoked = self.now();
        let answer = self.connection.req_packed_commands(&packed, 0, replies);
        let completed = self.now();
        let verdict = match answer {
            Ok(values) => judge(values, is_block),
            Err(_) => Verdict::Unknown, // the connection broke, or nothing came in time
        };
        let (outcome, values, strange) = match verdict {
            Verdict::Done(values) => (Outcome::Committed, values, None),
            Verdict::Refused => (Outcome::NotExecuted, Vec::new(), None),
            Verdict::Unknown => (Outcome::Unknown, Vec::new(), None),
            Verdict::Strange(text) => (Outcome::Unknown, Vec::new(), Some(text)),
        };
        Answered { asked: Asked { invoked, completed, outcome }, values, strange }
    }

    /// WATCHes a key and reads it. None when that failed, or was answered with something else than bytes; the connection
    /// is of no more use then.
    pub(crate) fn watch(&mut self, key: &str) -> Option<Option<Vec<u8>>> {
        let mut commands = redis::pipe();
        commands.cmd("WATCH").arg(key).cmd("GET").arg(key);
        let values = self.connection.req_packed_commands(&commands.get_packed_pipeline(), 0, 2).ok()?;
        match &values[..] {
            [Value::Okay, Value::Nil] => Some(None),
            [Value::Okay, Value::BulkString(bytes)] => Some(Some(bytes.clone())),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Verdict {
    Done(Vec<Value>),
    Refused,
    Unknown,
    Strange(String),
}

fn judge(mut values: Vec<Value>, is_block: bool) -> Verdict {
    let is_doubt = |value: &Value| matches!(value, Value::ServerError(error) if error.code() == "UNCERTAIN");
    if values.iter().any(is_doubt) {
        return Verdict::Unknown;
    }
    match values.pop() {
        None => Verdict::Strange("nothing".to_owned()),
        Some(Value::ServerError(error)) if is_refusal(&error) => Verdict::Refused,
        Some(Value::ServerError(error)) => Verdict::Strange(format!("{error:?}")),
        Some(Value::Nil) if is_block => Verdict::Refused, // a watched key had changed
        Some(Value::Array(values)) if is_block => Verdict::Done(values),
        Some(value) if !is_block => Verdict::Done(vec![value]),
        Some(value) => Verdict::Strange(format!("{value:?}")),
    }
}

fn is_refusal(error: &ServerError) -> bool {
    REFUSALS.contains(&error.code()) || error.details().is_some_and(|text| text.contains(NOT_EXECUTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Value {
        redis::parse_redis_value(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_answer_a_refusal_and_a_doubt_are_told_apart() {
        let ok = || read("+OK\r\n");
        let queued = || read("+QUEUED\r\n");
        assert!(matches!(judge(vec![read(":1\r\n")], false), Verdict::Done(_)));
        assert!(matches!(judge(vec![read("$-1\r\n")], false), Verdict::Done(_)));
        assert!(matches!(judge(vec![ok(), queued(), read("*-1\r\n")], true), Verdict::Refused));
        assert!(matches!(judge(vec![ok(), queued(), read("*1\r\n:8\r\n")], true), Verdict::Done(_)));
        for refusal in ["NOQUORUM not executed: why", "OOM command not allowed", "ERR not executed: why"] {
            assert!(matches!(judge(vec![read(&format!("-{refusal}\r\n"))], false), Verdict::Refused), "{refusal}");
        }
        let aborted = vec![ok(), read("-OOM why\r\n"), read("-EXECABORT why\r\n")];
        assert!(matches!(judge(aborted, true), Verdict::Refused));
        assert!(matches!(judge(vec![ok(), queued(), read("-UNCERTAIN why\r\n")], true), Verdict::Unknown));
        assert!(matches!(judge(vec![read("-WRONGTYPE why\r\n")], false), Verdict::Strange(_)));
        assert!(matches!(judge(vec![ok(), queued(), ok()], true), Verdict::Strange(_)));
    }
}
