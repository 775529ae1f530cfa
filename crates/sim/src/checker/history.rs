//! What clients did and saw, as the checker reads it.

use std::fmt;

/// A key, by number: lists first, then counters from [`COUNTERS`] on, then registers from [`REGISTERS`] on.
pub type Key = u32;

/// The first counter.
pub const COUNTERS: Key = 1000;
/// The first register.
pub const REGISTERS: Key = 2000;

/// The name of a key, in the store and in reports.
pub fn key_name(key: Key) -> String {
    match key {
        REGISTERS.. => format!("r{}", key - REGISTERS),
        COUNTERS.. => format!("c{}", key - COUNTERS),
        _ => format!("k{key}"),
    }
}

/// What one append adds to a list, or what is put into a register: never the same twice in a history, so it tells who made it.
pub type Token = u64;

/// What a register held: nothing, or a token.
pub type Seen = Option<Token>;

/// Until when a register holds what was put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until somebody takes or replaces it.
    Never,
    /// For so many milliseconds.
    After(u64),
    /// Until so many milliseconds after the history began.
    At(u64),
    /// As long as what was there before.
    Kept,
}

/// Everything that clients did to the store, the final reads included.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order in which they were invoked; those of one connection in the order in which it sent them.
    pub transactions: Vec<Transaction>,
    /// A command may have been refused for want of room, and the answer been lost, although one behind it was executed. Otherwise
    /// whatever took effect shows that what was sent before it, and not refused, did too.
    pub disks_were_full: bool,
    /// By how many milliseconds any clock of the store may have been wrong, if that is known: then deadlines are judged.
    pub clock_error_ms: Option<u64>,
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
    /// Reads the end of a key's list.
    Tail {
        /// Whose list.
        key: Key,
        /// How many tokens were asked for.
        count: usize,
        /// What was read, if the answer came: fewer only if the list has no more.
        tokens: Option<Vec<Token>>,
    },
    /// Asks how long a key's list is.
    Length {
        /// Whose list.
        key: Key,
        /// By writing a token once more that is there already, at its place.
        again: Option<(usize, Token)>,
        /// How many tokens it has, if the answer came.
        length: Option<usize>,
    },
    /// Adds one to a counter.
    Add {
        /// Which.
        key: Key,
        /// What it was then, if the answer came.
        value: Option<u64>,
    },
    /// Reads a counter.
    Count {
        /// Which.
        key: Key,
        /// What it was, if the answer came; a counter that is not there is 0.
        value: Option<u64>,
    },
    /// Puts a token into a register.
    Put {
        /// Which.
        key: Key,
        /// What is put there.
        token: Token,
        /// Until when it is to be there.
        until: Until,
        /// Only if nothing is there.
        if_absent: bool,
        /// What was there before, if the answer came.
        saw: Option<Seen>,
    },
    /// Takes what is in a register away.
    Take {
        /// Which.
        key: Key,
        /// What was there before, if the answer came.
        saw: Option<Seen>,
    },
    /// Gives what is in a register, if anything, another deadline.
    Expire {
        /// Which.
        key: Key,
        /// Until when it is to be there from now on.
        until: Until,
        /// What was there, if the answer came.
        saw: Option<Seen>,
    },
    /// Reads a register.
    Look {
        /// Which.
        key: Key,
        /// What was there, if the answer came.
        saw: Option<Seen>,
    },
}

impl MicroOp {
    /// The key it is about.
    pub fn key(&self) -> Key {
        match self {
            MicroOp::Append { key, .. }
            | MicroOp::Read { key, .. }
            | MicroOp::Tail { key, .. }
            | MicroOp::Length { key, .. }
            | MicroOp::Add { key, .. }
            | MicroOp::Count { key, .. }
            | MicroOp::Put { key, .. }
            | MicroOp::Take { key, .. }
            | MicroOp::Expire { key, .. }
            | MicroOp::Look { key, .. } => *key,
        }
    }

    /// What a register held before it, if it is about one and the answer came.
    pub(super) fn saw(&self) -> Option<Seen> {
        match self {
            MicroOp::Put { saw, .. }
            | MicroOp::Take { saw, .. }
            | MicroOp::Expire { saw, .. }
            | MicroOp::Look { saw, .. } => *saw,
            _ => None,
        }
    }

    /// What it appends or puts.
    pub(super) fn token(&self) -> Option<Token> {
        match self {
            MicroOp::Append { token, .. } | MicroOp::Put { token, .. } => Some(*token),
            _ => None,
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

fn seen_text(saw: Option<Seen>) -> String {
    match saw {
        None => String::new(),
        Some(None) => " (was absent)".to_owned(),
        Some(Some(token)) => format!(" (was {token})"),
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Until::Never => write!(f, "for ever"),
            Until::After(ms) => write!(f, "for {ms} ms"),
            Until::At(ms) => write!(f, "until {}.{:03} s", ms / 1000, ms % 1000),
            Until::Kept => write!(f, "for as long as what was there"),
        }
    }
}

impl fmt::Display for MicroOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = key_name(self.key());
        match self {
            MicroOp::Append { token, length: Some(length), .. } => write!(f, "append {key} {token} (now {length})"),
            MicroOp::Append { token, length: None, .. } => write!(f, "append {key} {token}"),
            MicroOp::Read { list: Some(list), .. } => write!(f, "read {key} {}", list_text(list)),
            MicroOp::Read { list: None, .. } => write!(f, "read {key}"),
            MicroOp::Tail { count, tokens: Some(tokens), .. } => {
                write!(f, "read the last {count} of {key} {}", list_text(tokens))
            }
            MicroOp::Tail { count, tokens: None, .. } => write!(f, "read the last {count} of {key}"),
            MicroOp::Length { again, length, .. } => {
                write!(f, "ask how long {key} is")?;
                again.map_or(Ok(()), |(at, token)| write!(f, ", writing {token} again as number {}", at + 1))?;
                length.map_or(Ok(()), |length| write!(f, " (now {length})"))
            }
            MicroOp::Add { value: Some(value), .. } => write!(f, "add to {key} (now {value})"),
            MicroOp::Add { value: None, .. } => write!(f, "add to {key}"),
            MicroOp::Count { value: Some(value), .. } => write!(f, "count {key} {value}"),
            MicroOp::Count { value: None, .. } => write!(f, "count {key}"),
            MicroOp::Put { token, until, if_absent, saw, .. } => {
                write!(f, "put {token} into {key}")?;
                if *until != Until::Never {
                    write!(f, " {until}")?;
                }
                write!(f, "{}{}", if *if_absent { " if absent" } else { "" }, seen_text(*saw))
            }
            MicroOp::Expire { until, saw, .. } => write!(f, "let {key} hold it {until}{}", seen_text(*saw)),
            MicroOp::Take { saw, .. } => write!(f, "take {key}{}", seen_text(*saw)),
            MicroOp::Look { saw, .. } => write!(f, "look at {key}{}", seen_text(*saw)),
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
