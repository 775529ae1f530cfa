//! SLOWLOG: the commands of this node's clients that took long, counted from a request's arrival to its reply.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use dstore_resp::{CommandId, Reply, help};

use super::connection::integer;
use super::session::Session;

/// Arguments of a command that are kept, and bytes of each, as Redis does.
const ARGUMENTS_MAX: usize = 32;
const ARGUMENT_BYTES_MAX: usize = 128;
/// Entries kept whatever `slowlog-max-len` says: one is up to 4 KiB.
const ENTRIES_MAX: usize = 16_384;

#[derive(Debug)]
struct Entry {
    id: i64,
    time_s: u64,
    took: Duration,
    arguments: Vec<Bytes>,
    address: String,
    name: Bytes,
}

/// The slow commands, the latest first.
#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    entries: VecDeque<Entry>,
    next_id: i64,
}

impl SlowLog {
    /// Notes a command if it was slow.
    pub(crate) fn note(&mut self, time_s: u64, took: Duration, args: &[Bytes], session: &Session, limits: (i64, i64)) {
        let (slower_us, entries_max) = limits;
        let Ok(slower_us) = u128::try_from(slower_us) else { return };
        if took.as_micros() < slower_us {
            return;
        }
        let entry = Entry {
            id: self.next_id,
            time_s,
            took,
            arguments: shorten(args),
            address: session.address.remote.clone(),
            name: session.name.clone(),
        };
        self.next_id += 1;
        self.entries.push_front(entry);
        self.entries.truncate(usize::try_from(entries_max).unwrap_or(0).min(ENTRIES_MAX));
    }

    pub(crate) fn answer(&mut self, id: CommandId, args: &[Bytes]) -> Reply {
        match id {
            CommandId::SlowLogGet => self.get(args),
            CommandId::SlowLogLen => Reply::Integer(self.entries.len() as i64),
            CommandId::SlowLogReset => {
                self.entries.clear();
                Reply::OK
            }
            _ => help(CommandId::SlowLog),
        }
    }

    fn get(&self, args: &[Bytes]) -> Reply {
        let count = match &args[2..] {
            [] => Some(10),
            [count] => integer(count).filter(|count| *count >= -1),
            _ => {
                return wrong_arguments(&args[1], "SLOWLOG");
            }
        };
        let Some(count) = count else {
            return Reply::error("ERR count should be greater than or equal to -1");
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        Reply::Array(self.entries.iter().take(count).map(describe).collect())
    }
}

/// What Redis says to a subcommand that counts its arguments itself.
pub(crate) fn wrong_arguments(subcommand: &[u8], container: &str) -> Reply {
    let subcommand = String::from_utf8_lossy(subcommand).replace(['\r', '\n'], " ");
    Reply::error(format!(
        "ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try {container} HELP."
    ))
}

fn describe(entry: &Entry) -> Reply {
    Reply::Array(vec![
        Reply::Integer(entry.id),
        Reply::Integer(entry.time_s.cast_signed()),
        Reply::Integer(i64::try_from(entry.took.as_micros()).unwrap_or(i64::MAX)),
        Reply::Array(entry.arguments.iter().cloned().map(Reply::Bulk).collect()),
        Reply::Bulk(Bytes::from(entry.address.clone())),
        Reply::Bulk(entry.name.clone()),
    ])
}

/// The arguments as Redis keeps them, copied, so that no request's buffer stays for their sake.
fn shorten(args: &[Bytes]) -> Vec<Bytes> {
    let all = args.len() <= ARGUMENTS_MAX;
    let kept = if all { args.len() } else { ARGUMENTS_MAX - 1 };
    let mut short: Vec<Bytes> = args[..kept].iter().map(|arg| shorten_one(arg)).collect();
    if !all {
        short.push(Bytes::from(format!("... ({} more arguments)", args.len() - kept)));
    }
    short
}

fn shorten_one(arg: &[u8]) -> Bytes {
    if arg.len() <= ARGUMENT_BYTES_MAX {
        return Bytes::copy_from_slice(arg);
    }
    let more = format!("... ({} more bytes)", arg.len() - ARGUMENT_BYTES_MAX);
    Bytes::from([&arg[..ARGUMENT_BYTES_MAX], more.as_bytes()].concat())
}
