//! The command table: the single source of what commands exist.
//!
//! Dispatch (by [`CommandId`]), arity errors, the texts for unknown commands, the keys of a command and every answer of
//! `COMMAND` come from [`table`]. Nobody else keeps a list of commands.
//!
//! A request is first turned into its row with [`resolve`], which answers with Redis's own error when there is none:
//!
//! ```
//! use bytes::Bytes;
//! use dstore_resp::{CommandId, resolve};
//!
//! let args = [Bytes::from_static(b"gEt"), Bytes::from_static(b"key")];
//! let spec = resolve(&args).expect("GET exists and takes one argument");
//! assert_eq!(spec.id, CommandId::Get);
//! assert_eq!(spec.keys(&args).collect::<Vec<_>>(), [&args[1]]);
//! ```
//!
//! A subcommand (`CLIENT SETNAME`) is a row of its own with an id of its own, directly behind its container.

mod arguments;
mod flags;
mod introspect;
mod table;

use bytes::Bytes;

pub use self::flags::{Categories, CommandFlags, KeyFlags};
pub use self::introspect::{answer_command, help};
pub use self::table::{COMMAND_COUNT, CommandId};
use crate::Reply;

/// The documentation group of a command, as `COMMAND DOCS` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Strings and numbers.
    String,
    /// Strings as bits.
    Bitmap,
    /// Keys of any type.
    Generic,
    /// MULTI, EXEC and their like.
    Transactions,
    /// The connection.
    Connection,
    /// The server.
    Server,
}

impl Group {
    /// The name in `COMMAND DOCS`.
    pub fn name(self) -> &'static str {
        match self {
            Group::String => "string",
            Group::Bitmap => "bitmap",
            Group::Generic => "generic",
            Group::Transactions => "transactions",
            Group::Connection => "connection",
            Group::Server => "server",
        }
    }
}

/// Where the keys of a command stand among its arguments, the command's name being argument 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPositions {
    /// First key; 0 when the command has none.
    pub first: u8,
    /// Last key; negative counts from the end, -1 being the last argument.
    pub last: i8,
    /// Distance from one key to the next: 2 for MSET.
    pub step: u8,
    /// What happens to each of them.
    pub flags: KeyFlags,
    /// A remark on the flags, empty for most.
    pub notes: &'static str,
}

impl KeyPositions {
    /// A command without keys.
    pub const NONE: KeyPositions = KeyPositions { first: 0, last: 0, step: 0, flags: KeyFlags::NONE, notes: "" };

    /// The keys of a request, in order.
    fn select(self, args: &[Bytes]) -> impl Iterator<Item = &Bytes> + use<'_> {
        // A command without keys has first == 0: an empty range.
        let end = match (self.first, usize::try_from(self.last)) {
            (0, _) => 0,
            (_, Ok(last)) => (last + 1).min(args.len()),
            (_, Err(_)) => (args.len() + 1).saturating_sub(usize::from(self.last.unsigned_abs())),
        };
        let start = usize::from(self.first).min(end);
        args[start..end].iter().step_by(usize::from(self.step).max(1))
    }
}

/// One row of the command table.
#[derive(Debug)]
pub struct CommandSpec {
    /// What dispatch matches on.
    pub id: CommandId,
    /// Lower case; `client|setname` for a subcommand.
    pub full_name: &'static str,
    /// Number of arguments with the name itself (and the subcommand's); negative: at least that many.
    pub arity: i8,
    /// What it does and where it may run.
    pub flags: CommandFlags,
    /// Access categories that do not follow from the flags.
    pub own_categories: Categories,
    /// Where its keys are.
    pub key_positions: KeyPositions,
    /// More keys, which it treats in another way: RENAME's new name, the sources of BITOP. They stand behind the others.
    pub more_keys: KeyPositions,
    /// Documentation group.
    pub group: Group,
    /// The Redis version that brought it; for our own commands, our version.
    pub since: &'static str,
    /// Time it takes.
    pub complexity: &'static str,
    /// One sentence on what it does.
    pub summary: &'static str,
    /// Since which version of Redis there is something better, and what.
    pub deprecated: Option<(&'static str, &'static str)>,
    /// Its arguments, in the notation that the `arguments` module reads for `COMMAND DOCS`.
    pub arguments: &'static str,
    /// Hints for clients and proxies.
    pub tips: &'static [&'static str],
    /// The container's id if this is a subcommand.
    pub parent: Option<CommandId>,
}

impl CommandSpec {
    /// The row of a command.
    pub fn of(id: CommandId) -> &'static CommandSpec {
        &table::COMMANDS[id as usize]
    }

    /// Every row, containers and subcommands alike, in the order of the table.
    pub fn all() -> &'static [CommandSpec] {
        &table::COMMANDS
    }

    /// Finds a command by its name in any case; never a subcommand.
    pub fn lookup(name: &[u8]) -> Option<&'static CommandSpec> {
        table::find(None, name)
    }

    /// Finds a subcommand of this container by its name in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static CommandSpec> {
        table::find(Some(self.id), name)
    }

    /// The subcommands of a container; empty for any other command.
    pub fn subcommands(&'static self) -> &'static [CommandSpec] {
        let first = self.id as usize + 1;
        let rest = &table::COMMANDS[first..];
        let count = rest.iter().take_while(|spec| spec.parent == Some(self.id)).count();
        &rest[..count]
    }

    /// Whether this is a command such as CLIENT, which does nothing without a subcommand.
    pub fn is_container(&self) -> bool {
        table::COMMANDS.get(self.id as usize + 1).is_some_and(|next| next.parent == Some(self.id))
    }

    /// The last word of the name: `setname` for `client|setname`.
    pub fn name(&self) -> &'static str {
        self.full_name.rsplit('|').next().unwrap_or(self.full_name)
    }

    /// Whether a request of `arg_count` arguments, name included, has the right number of them.
    pub fn arity_allows(&self, arg_count: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { arg_count >= wanted } else { arg_count == wanted }
    }

    /// The keys of a request for this command, in order.
    pub fn keys<'a>(&self, args: &'a [Bytes]) -> impl Iterator<Item = &'a Bytes> + use<'a> {
        self.key_positions.select(args).chain(self.more_keys.select(args)).chain(self.store_key(args))
    }

    /// The key under which SORT stores: behind its last STORE. As in Redis, found without reading all options rightly.
    fn store_key<'a>(&self, args: &'a [Bytes]) -> Option<&'a Bytes> {
        let mut found = None;
        let mut at = if self.id == CommandId::Sort { 2 } else { args.len() };
        while let Some(option) = args.get(at) {
            at += match option.to_ascii_lowercase().as_slice() {
                b"limit" => 3,
                b"get" | b"by" => 2,
                b"store" => {
                    found = args.get(at + 1).or(found);
                    1
                }
                _ => 1,
            };
        }
        found
    }

    /// The answer to a request with the wrong number of arguments. EXEC, then, discards the transaction and says so.
    pub fn arity_error(&self) -> Reply {
        let code = match self.id {
            CommandId::Exec => "EXECABORT Transaction discarded because of:",
            _ => "ERR",
        };
        Reply::error(format!("{code} wrong number of arguments for '{}' command", self.full_name))
    }

    /// All access categories: the table's own and those that follow from the flags.
    pub fn categories(&self) -> Categories {
        let mut all = self.own_categories;
        if self.flags.has(CommandFlags::WRITE) {
            all = all.with(Categories::WRITE);
        }
        if self.flags.has(CommandFlags::READONLY) {
            all = all.with(Categories::READ);
        }
        if self.flags.has(CommandFlags::ADMIN) {
            all = all.with(Categories::ADMIN).with(Categories::DANGEROUS);
        }
        if self.flags.has(CommandFlags::BLOCKING) {
            all = all.with(Categories::BLOCKING);
        }
        let speed = if self.flags.has(CommandFlags::FAST) { Categories::FAST } else { Categories::SLOW };
        all.with(speed)
    }
}

/// Finds the row that a request asks for and checks its number of arguments.
///
/// # Errors
/// The error reply, in Redis's words, for an unknown command, an unknown subcommand, or a wrong number of arguments.
///
/// # Panics
/// If `args` is empty, which a decoded request never is.
pub fn resolve(args: &[Bytes]) -> Result<&'static CommandSpec, Reply> {
    assert!(!args.is_empty(), "a request has at least its command's name");
    let Some(mut spec) = CommandSpec::lookup(&args[0]) else {
        return Err(unknown_command(args));
    };
    if spec.is_container() && args.len() > 1 {
        spec = spec.subcommand(&args[1]).ok_or_else(|| unknown_subcommand(&args[0], &args[1]))?;
    }
    if !spec.arity_allows(args.len()) {
        return Err(spec.arity_error());
    }
    Ok(spec)
}

/// Longest part of a name, and of all arguments together, that an error quotes.
const QUOTED_BYTES_MAX: usize = 128;

/// `unknown command 'foo', with args beginning with: 'a' 'b' `, cut where Redis cuts it.
fn unknown_command(args: &[Bytes]) -> Reply {
    let mut beginning = Vec::new();
    for arg in &args[1..] {
        if beginning.len() >= QUOTED_BYTES_MAX {
            break;
        }
        let room = QUOTED_BYTES_MAX - beginning.len();
        beginning.push(b'\'');
        beginning.extend_from_slice(quotable(arg, room));
        beginning.extend_from_slice(b"' ");
    }
    let name = quotable(&args[0], QUOTED_BYTES_MAX);
    one_line(&[b"ERR unknown command '", name, b"', with args beginning with: ", &beginning])
}

/// `unknown subcommand 'foo'. Try CLIENT HELP.`
fn unknown_subcommand(container: &[u8], name: &[u8]) -> Reply {
    let container = container.to_ascii_uppercase();
    one_line(&[b"ERR unknown subcommand '", quotable(name, QUOTED_BYTES_MAX), b"'. Try ", &container, b" HELP."])
}

/// The part of a client's bytes that Redis's `%.128s` would print: up to `max` bytes, up to the first NUL.
fn quotable(bytes: &[u8], max: usize) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(max)];
    bytes.split(|byte| *byte == 0).next().unwrap_or(bytes)
}

/// An error reply of these pieces, with a space for every CR and LF, which the protocol could not carry.
fn one_line(pieces: &[&[u8]]) -> Reply {
    let mut text = pieces.concat();
    for byte in &mut text {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    Reply::Error(Bytes::from(text))
}
