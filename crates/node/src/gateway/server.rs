//! Commands about the server that read no data: TIME, MEMORY, SHUTDOWN, LOLWUT, ACL; and what a node is told of itself.

use bytes::Bytes;
use dstore_resp::{CommandId, Reply, help};
use dstore_storage::Engine;

use super::connection::REDIS_VERSION;
use crate::{Node, NodeError, Now, Output};

/// What only the process around a node can know, asked for when INFO needs it.
pub trait Host {
    /// Memory and processor use of the process so far.
    fn usage(&self) -> Usage;

    /// How large the log is.
    fn log(&self) -> LogUse;
}

/// How large a node's log is.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogUse {
    /// Bytes on disk.
    pub bytes: u64,
    /// Entries of all ranges.
    pub entries: u64,
}

/// Memory and processor use of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Processor time in user mode, in microseconds.
    pub user_us: u64,
    /// Processor time in the kernel, in microseconds.
    pub system_us: u64,
}

/// What a node is told of itself once, at its start.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The node's identity, as its data directory tells it.
    pub node_id: String,
    /// Process id.
    pub pid: u32,
    /// Port that clients connect to.
    pub port: u16,
    /// Version of the binary.
    pub version: &'static str,
    /// Settings that CONFIG GET answers, under Redis's names where the meaning is Redis's.
    pub settings: Vec<(&'static str, String)>,
    /// Clients that may be connected at once.
    pub clients_max: usize,
    /// Where clients connect to, `ip:port`; empty until it is known.
    pub client_address: String,
    /// What clients must tell before anything else.
    pub password: Option<Bytes>,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Clients accepted.
    pub connections: u64,
    /// Commands executed, those inside of EXEC included.
    pub commands: u64,
    /// Replies that were errors.
    pub errors: u64,
    /// Log entries proposed.
    pub entries: u64,
    /// Bytes of their payloads.
    pub entry_bytes: u64,
    /// Expired keys removed.
    pub expired_keys: u64,
    /// Batches, and sweeps for expired keys, that had to wait until what they need was in memory.
    pub rehearsals: u64,
    /// Times that the replicas of a range led here were compared.
    pub checks: u64,
    /// Times that they were not the same.
    pub checks_failed: u64,
}

impl<E: Engine> Node<E> {
    /// MEMORY, but for USAGE, which is evaluated over the data.
    pub(crate) fn memory(&self, id: CommandId) -> Result<Reply, NodeError> {
        let text = |text: String| Reply::Verbatim("txt", Bytes::from(text));
        let waiting =
            self.waiting_bytes + self.groups.values().map(|group| group.replica.inflight_bytes()).sum::<usize>();
        Ok(match id {
            CommandId::MemoryDoctor => text(format!(
                "Nothing is evicted here, and memory is bounded: {waiting} bytes of requests and writes are under way, of \
                 {} at most. See INFO memory, and the limits in the configuration.\n",
                self.limits.inflight_bytes_max
            )),
            CommandId::MemoryPurge => Reply::OK,
            CommandId::MemoryMallocStats => {
                text("The allocator of this node tells nothing; see INFO memory.\n".to_owned())
            }
            CommandId::MemoryStats => self.memory_stats(waiting)?,
            _ => help(CommandId::Memory),
        })
    }

    /// MEMORY STATS: Redis's fields that mean something here.
    fn memory_stats(&self, waiting: usize) -> Result<Reply, NodeError> {
        let status = self.status()?;
        let resident = status.usage.resident_bytes;
        let clients: usize = self.sessions.iter().map(|session| session.bytes + size_of_val(session)).sum();
        let keys: u64 = status.keys.iter().sum();
        let data = self.engine.stats().memory_bytes;
        let fields = [
            ("peak.allocated", self.gateway.peak_bytes.max(resident)),
            ("total.allocated", resident),
            ("startup.allocated", 0),
            ("replication.backlog", 0),
            ("clients.slaves", 0),
            ("clients.normal", clients as u64),
            ("aof.buffer", waiting as u64),
            ("overhead.total", resident.saturating_sub(data)),
            ("keys.count", keys),
            ("dataset.bytes", data),
        ];
        let field =
            |(name, value): (&'static str, u64)| (Reply::bulk_static(name), Reply::Integer(value.cast_signed()));
        Ok(Reply::Map(fields.into_iter().map(field).collect()))
    }

    /// SHUTDOWN [NOSAVE|SAVE] [NOW] [FORCE] [ABORT]: stops this node as a signal does. Nothing is answered; the
    /// connection closes. Saving is not asked for: what was answered is on disk.
    pub(crate) fn shutdown(&mut self, args: &[Bytes]) -> Option<Reply> {
        let (mut save, mut nosave, mut abort, mut others) = (false, false, false, false);
        for arg in &args[1..] {
            match arg.to_ascii_uppercase().as_slice() {
                b"SAVE" => save = true,
                b"NOSAVE" => nosave = true,
                b"ABORT" => abort = true,
                b"NOW" | b"FORCE" => others = true,
                _ => return Some(Reply::error("ERR syntax error")),
            }
        }
        if (save && nosave) || (abort && (save || nosave || others)) {
            return Some(Reply::error("ERR syntax error"));
        }
        if abort {
            return Some(Reply::error("ERR No shutdown in progress."));
        }
        self.outputs.push_back(Output::Shutdown);
        None
    }
}

/// ACL: there is one user.
pub(crate) fn acl(id: CommandId) -> Reply {
    let user = Reply::bulk_static("default");
    match id {
        CommandId::AclWhoAmI => user,
        CommandId::AclUsers => Reply::Array(vec![user]),
        _ => help(CommandId::Acl),
    }
}

/// LOLWUT [VERSION version]
pub(crate) fn lolwut(args: &[Bytes], version: &str) -> Reply {
    if let [_, option, number, ..] = args
        && option.eq_ignore_ascii_case(b"VERSION")
        && super::connection::integer(number).is_none()
    {
        return Reply::error("ERR value is not an integer or out of range");
    }
    let picture = "   o---o---o\n   |\\ /|\\ /|\n   | X | X |    three nodes, or five, and one answer\n   |/ \\|/ \\|\n   o---o---o\n\n";
    Reply::Verbatim("txt", Bytes::from(format!("{picture}dstore {version}. Redis ver. {REDIS_VERSION}\n")))
}

/// TIME
pub(crate) fn time(now: Now) -> Reply {
    let part = |number: u64| Reply::Bulk(Bytes::from(number.to_string()));
    Reply::Array(vec![part(now.wall_us / 1_000_000), part(now.wall_us % 1_000_000)])
}
