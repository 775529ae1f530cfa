//! [`Batch`]: commands of one connection, on their way to the leader of a range; and what came of each.

use bytes::Bytes;
use dstore_raft::Time;
use dstore_resp::{CommandFlags, CommandSpec, ProtocolVersion, Reply};

/// A command that was found in the table, with its arguments and the database it is for.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) spec: &'static CommandSpec,
    pub(crate) args: Vec<Bytes>,
    pub(crate) db: u8,
}

/// A key whose version EXEC compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) db: u8,
    pub(crate) key: Bytes,
    pub(crate) version: u64,
}

/// What a range can be asked to do as one.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A command alone.
    One(Command),
    /// The commands of a MULTI, unless a watched key has changed.
    Block {
        /// What must not have changed.
        watched: Vec<Watched>,
        /// What to run.
        commands: Vec<Command>,
    },
    /// The versions of keys, for WATCH.
    Watch {
        /// Their database.
        db: u8,
        /// The keys.
        keys: Vec<Bytes>,
    },
}

/// One piece of work, and in which version of the protocol its reply is encoded should it travel.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) work: Work,
    pub(crate) version: ProtocolVersion,
    /// When the request came.
    pub(crate) arrived: Time,
}

/// Work of one connection that is done in order and answered together. Its pieces are numbered from `first`; a
/// connection never uses a number twice.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) first: u64,
    pub(crate) items: Vec<Item>,
}

/// What came of one piece of work.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Done {
    /// The command's reply; for a block, an error that kept it from running.
    Reply(Reply),
    /// The replies of a block; `None` if a watched key had changed.
    Block(Option<Vec<Reply>>),
    /// The versions of the keys, in order.
    Versions(Vec<u64>),
}

impl Done {
    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Done::Reply(reply) => reply.bytes_len(),
            Done::Block(replies) => replies.iter().flatten().map(Reply::bytes_len).sum(),
            Done::Versions(versions) => versions.len() * size_of::<u64>(),
        }
    }
}

impl Command {
    fn writes(&self) -> bool {
        self.spec.flags.has(CommandFlags::WRITE)
    }

    /// Bytes of its arguments.
    pub(crate) fn bytes(&self) -> usize {
        bytes_of(&self.args)
    }
}

impl Work {
    /// Whether it may change anything.
    pub(crate) fn writes(&self) -> bool {
        match self {
            Work::One(command) => command.writes(),
            Work::Block { commands, .. } => commands.iter().any(Command::writes),
            Work::Watch { .. } => false,
        }
    }

    /// Whether it may be answered from the applied state. What compares versions looks at what is logged.
    pub(crate) fn only_reads(&self) -> bool {
        !self.writes() && !matches!(self, Work::Block { watched, .. } if !watched.is_empty())
    }

    /// Whether it is a read that is done in portions.
    pub(crate) fn takes_long(&self) -> bool {
        matches!(self, Work::One(command) if dstore_kv::LongRead::is_one(command.spec, &command.args))
    }

    /// Bytes of its arguments.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Work::One(command) => command.bytes(),
            Work::Block { commands, .. } => commands.iter().map(Command::bytes).sum(),
            Work::Watch { keys, .. } => bytes_of(keys),
        }
    }
}

impl Batch {
    /// Whether any of it may change anything.
    pub(crate) fn writes(&self) -> bool {
        self.items.iter().any(|item| item.work.writes())
    }

    /// Whether all of it may be answered from the applied state.
    pub(crate) fn only_reads(&self) -> bool {
        self.items.iter().all(|item| item.work.only_reads())
    }
}

pub(crate) fn bytes_of(args: &[Bytes]) -> usize {
    args.iter().map(Bytes::len).sum()
}
