//! Commands about the server: INFO, CONFIG, TIME. None of them reads user data.

use std::fmt::Write;

use bytes::Bytes;
use dstore_resp::{Reply, glob_matches_nocase};

use super::connection::REDIS_VERSION;
use crate::{NodeStatus, Now};

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
}

/// Everything INFO prints, gathered by the node.
pub(crate) struct Report<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) now: Now,
    pub(crate) started_us: u64,
    pub(crate) engine: Vec<(&'static str, String)>,
    pub(crate) status: NodeStatus,
    pub(crate) inflight_bytes: usize,
}

const SECTIONS: &[&str] =
    &["server", "clients", "memory", "persistence", "stats", "replication", "raft", "cpu", "keyspace"];

/// INFO [section ...]
pub(crate) fn info(args: &[Bytes], report: &Report<'_>) -> Reply {
    let asked: Vec<String> = args[1..].iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let everything =
        asked.is_empty() || asked.iter().any(|name| matches!(name.as_str(), "all" | "default" | "everything"));
    let mut text = String::new();
    for section in SECTIONS.iter().filter(|name| everything || asked.iter().any(|asked| asked == *name)) {
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        for line in section_lines(section, report) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{line}\r\n");
        }
    }
    Reply::Verbatim("txt", Bytes::from(text))
}

fn section_lines(section: &str, report: &Report<'_>) -> Vec<String> {
    let Report { facts, status: NodeStatus { stats, usage, .. }, .. } = report;
    match section {
        "server" => {
            let uptime = report.now.wall_us.saturating_sub(report.started_us) / 1_000_000;
            vec![
                "# Server".to_owned(),
                format!("redis_version:{REDIS_VERSION}"),
                "redis_mode:standalone".to_owned(),
                format!("dstore_version:{}", facts.version),
                format!("dstore_node_id:{}", facts.node_id),
                format!("arch_bits:{}", usize::BITS),
                format!("process_id:{}", facts.pid),
                format!("tcp_port:{}", facts.port),
                format!("server_time_usec:{}", report.now.wall_us),
                format!("uptime_in_seconds:{uptime}"),
                format!("uptime_in_days:{}", uptime / 86_400),
            ]
        }
        "clients" => vec![
            "# Clients".to_owned(),
            format!("connected_clients:{}", report.status.clients),
            format!("maxclients:{}", facts.clients_max),
            "blocked_clients:0".to_owned(),
        ],
        "memory" => vec![
            "# Memory".to_owned(),
            format!("used_memory:{}", usage.resident_bytes),
            format!("used_memory_rss:{}", usage.resident_bytes),
            format!("dstore_inflight_bytes:{}", report.inflight_bytes),
            "maxmemory:0".to_owned(),
            "maxmemory_policy:noeviction".to_owned(),
        ],
        "persistence" => persistence_lines(report),
        "stats" => vec![
            "# Stats".to_owned(),
            format!("total_connections_received:{}", stats.connections),
            format!("total_commands_processed:{}", stats.commands),
            format!("total_error_replies:{}", stats.errors),
            format!("expired_keys:{}", stats.expired_keys),
            "evicted_keys:0".to_owned(),
            format!("dstore_log_entries:{}", stats.entries),
            format!("dstore_log_entry_bytes:{}", stats.entry_bytes),
        ],
        "replication" => {
            vec!["# Replication".to_owned(), "role:master".to_owned(), "connected_slaves:0".to_owned()]
        }
        "raft" => raft_lines(report),
        "cpu" => {
            let seconds = |us: u64| format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
            vec![
                "# CPU".to_owned(),
                format!("used_cpu_sys:{}", seconds(usage.system_us)),
                format!("used_cpu_user:{}", seconds(usage.user_us)),
            ]
        }
        "keyspace" => {
            let used = report.status.keys.iter().enumerate().filter(|(_, keys)| **keys > 0);
            let lines = used.map(|(db, keys)| format!("db{db}:keys={keys}"));
            std::iter::once("# Keyspace".to_owned()).chain(lines).collect()
        }
        _ => Vec::new(),
    }
}

fn persistence_lines(report: &Report<'_>) -> Vec<String> {
    let mut lines = vec![
        "# Persistence".to_owned(),
        "loading:0".to_owned(),
        "aof_enabled:1".to_owned(),
        "aof_last_write_status:ok".to_owned(),
        format!("dstore_log_bytes:{}", report.status.log.bytes),
    ];
    lines.extend(report.engine.iter().map(|(name, value)| format!("dstore_{name}:{value}")));
    lines
}

fn raft_lines(report: &Report<'_>) -> Vec<String> {
    let status = &report.status;
    let mut lines = vec!["# Raft".to_owned(), format!("raft_node:{:016x}", status.node)];
    if let Some(range) = status.user_range() {
        let leader = range.leader.map(|leader| format!("{leader:016x}")).unwrap_or_default();
        lines.extend([
            format!("raft_role:{}", range.role),
            format!("raft_term:{}", range.term),
            format!("raft_leader:{leader}"),
            format!("raft_serving:{}", u8::from(range.is_serving)),
            format!("raft_commit:{}", range.commit),
            format!("raft_applied:{}", range.applied),
            format!("raft_last:{}", range.last),
            format!("raft_log_entries:{}", range.last - range.begin),
        ]);
    }
    lines.push(format!("raft_log_bytes:{}", report.status.log.bytes));
    lines.push(format!("raft_members:{}", status.members.len()));
    for (at, member) in status.members.iter().enumerate() {
        let (peer, client) = (&member.peer_address, &member.client_address);
        lines.push(format!("raft_member{at}:id={:016x},peer={peer},client={client}", member.node));
    }
    lines
}

/// CONFIG GET pattern [pattern ...]
pub(crate) fn config_get(args: &[Bytes], facts: &Facts) -> Reply {
    let patterns = &args[2..];
    let asked = |name: &str| patterns.iter().any(|pattern| glob_matches_nocase(pattern, name.as_bytes()));
    let found = facts.settings.iter().filter(|(name, _)| asked(name));
    let pairs = found.map(|(name, value)| (Reply::bulk_static(name), Reply::Bulk(Bytes::from(value.clone()))));
    Reply::Map(pairs.collect())
}

/// TIME
pub(crate) fn time(now: Now) -> Reply {
    let part = |number: u64| Reply::Bulk(Bytes::from(number.to_string()));
    Reply::Array(vec![part(now.wall_us / 1_000_000), part(now.wall_us % 1_000_000)])
}
