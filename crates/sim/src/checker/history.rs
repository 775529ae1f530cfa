//! What clients did and saw, as the checker reads it.

use std::fmt;

/// A key, by number.
pub type Key = u32;

/// What one append adds to a list: never the same twice in a history, so a list tells who made it.
pub type Token = u64;

/// Everything that clients did to the store, the final reads included.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order in which they were invoked; those of one connection in the order in which it sent them.
    pub transactions: Vec<Transaction>,
    /// A command may have been refused for want of room, and the answer been lost, although one behind it was executed. Otherwise
    /// whatever took effect shows that what was sent before it, and not refused, did too.
    pub disks_were_full: bool,
}

/// One command or block, which is to take effect at once, at one moment between its invocation and its completion.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The connection it was sent over. Each connection has one gateway, and an order.
    pub connection: u64,
    /// The node that the connection leads to. For the report alone.
    pub node: u64,
    /// When it was sent, in nanoseconds of one clock that all transactions share.
    pub invoked: u64,
    /// When its reply arrived.
    pub completed: Option<u64>,
    /// What became of it.
    pub outcome: Outcome,
    /// What it did, in order.
    pub ops: Vec<MicroOp>,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect, and the store said so.
    Committed,
    /// The store said that it did not take effect and never will.
    NotExecuted,
    /// Nobody said. It may have taken effect, or may do so later, or never.
    Unknown,
}

/// A part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MicroOp {
    /// Adds a token to the end of a key's list.
    Append {
        /// Whose list.
        key: Key,
        /// What is added.
        token: Token,
        /// How many tokens the list had afterwards, if the store told.
        length: Option<usize>,
    },
    /// Reads a key's list.
    Read {
        /// Whose list.
        key: Key,
        /// What was read, if the answer came.
        list: Option<Vec<Token>>,
    },
}

impl MicroOp {
    /// The key it is about.
    pub fn key(&self) -> Key {
        match self {
            MicroOp::Append { key, .. } | MicroOp::Read { key, .. } => *key,
        }
    }
}

/// Lists longer than this are cut in the middle when printed.
const PRINTED_TOKENS_MAX: usize = 12;

/// A list as reports print it: its beginning, its end, and how much is left out between.
pub(crate) fn list_text(list: &[Token]) -> String {
    let join = |tokens: &[Token]| tokens.iter().map(Token::to_string).collect::<Vec<_>>().join(" ");
    if list.len() <= PRINTED_TOKENS_MAX {
        return format!("[{}]", join(list));
    }
    let half = PRINTED_TOKENS_MAX / 2;
    let (head, tail) = (&list[..half], &list[list.len() - half..]);
    format!("[{} .. {} more .. {}]", join(head), list.len() - PRINTED_TOKENS_MAX, join(tail))
}

impl fmt::Display for MicroOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MicroOp::Append { key, token, length: Some(length) } => write!(f, "append k{key} {token} (now {length})"),
            MicroOp::Append { key, token, length: None } => write!(f, "append k{key} {token}"),
            MicroOp::Read { key, list: Some(list) } => write!(f, "read k{key} {}", list_text(list)),
            MicroOp::Read { key, list: None } => write!(f, "read k{key}"),
        }
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |nanos: u64| format!("{}.{:06}", nanos / 1_000_000_000, nanos / 1000 % 1_000_000);
        write!(f, "{} s to ", seconds(self.invoked))?;
        match self.completed {
            Some(completed) => write!(f, "{} s", seconds(completed))?,
            None => write!(f, "?")?,
        }
        write!(f, ", connection {} at n{}: ", self.connection, self.node)?;
        for (i, op) in self.ops.iter().enumerate() {
            write!(f, "{}{op}", if i > 0 { "; " } else { "" })?;
        }
        match self.outcome {
            Outcome::Committed => Ok(()),
            Outcome::NotExecuted => write!(f, ", refused"),
            Outcome::Unknown => write!(f, ", outcome unknown"),
        }
    }
}
