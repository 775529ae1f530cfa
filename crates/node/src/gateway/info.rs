//! INFO: Redis's sections and fields, so that tools which read them find them, and `dstore_` fields and a section `raft` of
//! our own. Figures are of this node, but for the keys, which are the cluster's. A field of something that does not exist
//! here is constant, as it is in a Redis that does not use it.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use dstore_raft::Time;
use dstore_resp::Reply;
use dstore_storage::layout::{key, local};
use dstore_storage::{Direction, Engine, EngineError, Reader};

use super::connection::{DATABASES, REDIS_VERSION};
use super::{Facts, Settings};
use crate::{Node, NodeError, NodeStatus, Now, USER_RANGE};

/// Records of the expiry index that INFO looks at; what is beyond is not counted. Bounds how long it holds up the loop.
const EXPIRES_MAX: usize = 10_000;

/// The sections in their order; which of them are shown unasked; and which by `all`.
const SECTIONS: &[(&str, bool, bool)] = &[
    ("server", true, true),
    ("clients", true, true),
    ("memory", true, true),
    ("persistence", true, true),
    ("stats", true, true),
    ("replication", true, true),
    ("raft", true, true),
    ("cpu", true, true),
    ("modules", true, false),
    ("commandstats", false, true),
    ("errorstats", true, true),
    ("latencystats", false, true),
    ("cluster", true, true),
    ("keyspace", true, true),
];

/// How many commands a second there are.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    before: Option<(Time, u64)>,
    per_second: u64,
}

impl Pace {
    pub(crate) fn measure(&mut self, now: Time, commands: u64) {
        if let Some((then, before)) = self.before {
            let passed = now.since(then).max(Duration::from_millis(1)).as_secs_f64();
            self.per_second = (commands.saturating_sub(before) as f64 / passed).round() as u64;
        }
        self.before = Some((now, commands));
    }
}

/// The keys with an expiry of a database, as far as they were counted.
#[derive(Clone, Copy, Debug, Default)]
struct Expires {
    keys: u64,
    left_ms: u128,
}

/// Everything that INFO prints, gathered.
struct Report<'a> {
    facts: &'a Facts,
    settings: &'a Settings,
    now: Now,
    started_us: u64,
    engine: Vec<(&'static str, String)>,
    status: NodeStatus,
    inflight_bytes: usize,
    peak_bytes: u64,
    blocked: usize,
    client_bytes: usize,
    per_second: u64,
    hits: u64,
    misses: u64,
    expires: [Expires; DATABASES as usize],
    commandstats: Vec<String>,
    latencystats: Vec<String>,
    errorstats: Vec<String>,
}

impl<E: Engine> Node<E> {
    /// INFO [section ...]
    pub(crate) fn info(&mut self, now: Now, args: &[Bytes]) -> Result<Reply, NodeError> {
        let asked: Vec<String> =
            args[1..].iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
        let has = |wanted: &str| asked.iter().any(|name| name == wanted);
        let (everything, all) = (has("everything"), has("all"));
        let default = asked.is_empty() || has("default");
        let report = self.report(now)?;
        let mut text = String::new();
        for (section, shown, in_all) in SECTIONS {
            if !(everything || (all && *in_all) || (default && *shown) || has(section)) {
                continue;
            }
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            for line in section_lines(section, &report) {
                // Writing to a String cannot fail.
                let _ = write!(text, "{line}\r\n");
            }
        }
        Ok(Reply::Verbatim("txt", Bytes::from(text)))
    }

    fn report(&mut self, now: Now) -> Result<Report<'_>, NodeError> {
        let status = self.status()?;
        self.gateway.peak_bytes = self.gateway.peak_bytes.max(status.usage.resident_bytes);
        let engine = self.engine.stats();
        let expires = self.expires(now)?;
        let settings = &self.gateway.settings;
        Ok(Report {
            facts: &self.facts,
            settings,
            now,
            started_us: self.started_us,
            engine: vec![
                ("data_disk_bytes", engine.disk_bytes.to_string()),
                ("data_unflushed_bytes", engine.unflushed_bytes.to_string()),
                ("data_memory_bytes", engine.memory_bytes.to_string()),
                ("data_compaction_pending_bytes", engine.compaction_pending_bytes.to_string()),
                ("data_writes_refused_busy", engine.busy_total.to_string()),
            ],
            status,
            inflight_bytes: self.groups.values().map(|group| group.replica.inflight_bytes()).sum(),
            peak_bytes: self.gateway.peak_bytes,
            blocked: self.sessions.iter().filter(|session| session.rest.is_some() || session.postponed).count(),
            client_bytes: self.sessions.iter().map(|session| session.bytes + size_of_val(session)).sum(),
            per_second: self.gateway.pace.per_second,
            hits: self.gateway.calls.hits,
            misses: self.gateway.calls.misses,
            expires,
            commandstats: self.command_lines(),
            latencystats: self.latency_lines(),
            errorstats: self.error_lines(),
        })
    }

    fn command_lines(&self) -> Vec<String> {
        let line = |(spec, row): (&dstore_resp::CommandSpec, &super::calls::Row)| {
            let per_call = if row.calls == 0 { 0.0 } else { row.usec as f64 / row.calls as f64 };
            format!(
                "cmdstat_{}:calls={},usec={},usec_per_call={per_call:.2},rejected_calls={},failed_calls={}",
                spec.full_name, row.calls, row.usec, row.rejected, row.failed
            )
        };
        self.gateway.calls.rows().map(line).collect()
    }

    fn latency_lines(&self) -> Vec<String> {
        let settings = &self.gateway.settings;
        let rows = self.gateway.calls.rows().filter(|(_, row)| settings.latency_tracking && row.is_timed());
        let line = |(spec, row): (&dstore_resp::CommandSpec, &super::calls::Row)| {
            let figure = |percent: &f64| format!("p{percent}={:.3}", row.percentile(*percent) as f64);
            let figures: Vec<String> = settings.percentiles.iter().map(figure).collect();
            format!("latency_percentiles_usec_{}:{}", spec.full_name, figures.join(","))
        };
        rows.map(line).collect()
    }

    fn error_lines(&self) -> Vec<String> {
        self.gateway.calls.errors().map(|(code, count)| format!("errorstat_{code}:count={count}")).collect()
    }

    /// The keys that have an expiry, the soonest first.
    fn expires(&self, now: Now) -> Result<[Expires; DATABASES as usize], NodeError> {
        let mut expires = [Expires::default(); DATABASES as usize];
        self.walk_expiry(&mut |deadline_ms, data_key| {
            let Ok(decoded) = key::decode(data_key) else { return ControlFlow::Continue(()) };
            // What has a longer key here is a value's remains, not a key.
            if let Some(of_db) = expires.get_mut(usize::from(decoded.db)).filter(|_| decoded.sub.is_empty()) {
                of_db.keys += 1;
                of_db.left_ms += u128::from(deadline_ms.saturating_sub(now.wall_ms()));
            }
            ControlFlow::Continue(())
        })?;
        Ok(expires)
    }

    fn walk_expiry(&self, visit: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>) -> Result<(), EngineError> {
        let span = local::expiry_span(USER_RANGE);
        let mut cursor = self.engine.scan(&span.start..&span.end, Direction::Forward)?;
        for _ in 0..EXPIRES_MAX {
            let Some((deadline_ms, data_key)) = cursor.entry().and_then(|(key, _)| local::decode_expiry(key)) else {
                break;
            };
            if visit(deadline_ms, data_key).is_break() {
                break;
            }
            cursor.advance()?;
        }
        Ok(())
    }
}

fn section_lines(section: &str, report: &Report<'_>) -> Vec<String> {
    let usage = &report.status.usage;
    let title = |title: &str| vec![format!("# {title}")];
    let seconds = |us: u64| format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    let with = |mut lines: Vec<String>, more: &[String]| {
        lines.extend_from_slice(more);
        lines
    };
    match section {
        "server" => server_lines(report),
        "clients" => vec![
            "# Clients".to_owned(),
            format!("connected_clients:{}", report.status.clients),
            "cluster_connections:0".to_owned(),
            format!("maxclients:{}", report.facts.clients_max),
            "client_recent_max_input_buffer:0".to_owned(),
            "client_recent_max_output_buffer:0".to_owned(),
            format!("blocked_clients:{}", report.blocked),
            "tracking_clients:0".to_owned(),
            "clients_in_timeout_table:0".to_owned(),
        ],
        "memory" => memory_lines(report),
        "persistence" => persistence_lines(report),
        "stats" => stats_lines(report),
        "replication" => replication_lines(report),
        "raft" => raft_lines(report),
        "cpu" => vec![
            "# CPU".to_owned(),
            format!("used_cpu_sys:{}", seconds(usage.system_us)),
            format!("used_cpu_user:{}", seconds(usage.user_us)),
            "used_cpu_sys_children:0.000000".to_owned(),
            "used_cpu_user_children:0.000000".to_owned(),
        ],
        "modules" => title("Modules"),
        "commandstats" => with(title("Commandstats"), &report.commandstats),
        "errorstats" => with(title("Errorstats"), &report.errorstats),
        "latencystats" => with(title("Latencystats"), &report.latencystats),
        "cluster" => with(title("Cluster"), &["cluster_enabled:0".to_owned()]),
        _ => keyspace_lines(report),
    }
}

fn server_lines(report: &Report<'_>) -> Vec<String> {
    let Report { facts, now, .. } = report;
    let uptime = now.wall_us.saturating_sub(report.started_us) / 1_000_000;
    vec![
        "# Server".to_owned(),
        format!("redis_version:{REDIS_VERSION}"),
        "redis_git_sha1:00000000".to_owned(),
        "redis_git_dirty:0".to_owned(),
        "redis_build_id:0".to_owned(),
        "redis_mode:standalone".to_owned(),
        format!("dstore_version:{}", facts.version),
        format!("dstore_node_id:{}", facts.node_id),
        format!("os:{}", std::env::consts::OS),
        format!("arch_bits:{}", usize::BITS),
        "monotonic_clock:POSIX clock_gettime".to_owned(),
        "multiplexing_api:epoll".to_owned(),
        format!("process_id:{}", facts.pid),
        "process_supervised:no".to_owned(),
        // Forty digits, as tools expect of it: who this node is.
        format!("run_id:{:0>40}", facts.node_id),
        format!("tcp_port:{}", facts.port),
        format!("server_time_usec:{}", now.wall_us),
        format!("uptime_in_seconds:{uptime}"),
        format!("uptime_in_days:{}", uptime / 86_400),
        "hz:10".to_owned(),
        "configured_hz:10".to_owned(),
        format!("lru_clock:{}", (now.wall_us / 1_000_000) & 0xff_ffff),
        "executable:".to_owned(),
        "config_file:".to_owned(),
        "io_threads_active:0".to_owned(),
    ]
}

/// As Redis shortens it: `1.50M`.
fn human(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.2}{name}", bytes as f64 / *unit as f64),
        None => format!("{bytes}B"),
    }
}

fn memory_lines(report: &Report<'_>) -> Vec<String> {
    let resident = report.status.usage.resident_bytes;
    let peak = report.peak_bytes;
    let percent = if peak == 0 { 0.0 } else { resident as f64 * 100.0 / peak as f64 };
    vec![
        "# Memory".to_owned(),
        format!("used_memory:{resident}"),
        format!("used_memory_human:{}", human(resident)),
        format!("used_memory_rss:{resident}"),
        format!("used_memory_rss_human:{}", human(resident)),
        format!("used_memory_peak:{peak}"),
        format!("used_memory_peak_human:{}", human(peak)),
        format!("used_memory_peak_perc:{percent:.2}%"),
        "used_memory_lua:0".to_owned(),
        "used_memory_scripts:0".to_owned(),
        "number_of_cached_scripts:0".to_owned(),
        "number_of_functions:0".to_owned(),
        "maxmemory:0".to_owned(),
        "maxmemory_human:0B".to_owned(),
        "maxmemory_policy:noeviction".to_owned(),
        "mem_fragmentation_ratio:1.00".to_owned(),
        "mem_clients_slaves:0".to_owned(),
        format!("mem_clients_normal:{}", report.client_bytes),
        format!("mem_aof_buffer:{}", report.inflight_bytes),
        "mem_allocator:jemalloc".to_owned(),
        "active_defrag_running:0".to_owned(),
        "lazyfree_pending_objects:0".to_owned(),
        "lazyfreed_objects:0".to_owned(),
        format!("dstore_inflight_bytes:{}", report.inflight_bytes),
    ]
}

fn persistence_lines(report: &Report<'_>) -> Vec<String> {
    let constant = [
        "# Persistence",
        "loading:0",
        "async_loading:0",
        "current_cow_size:0",
        "rdb_changes_since_last_save:0",
        "rdb_bgsave_in_progress:0",
        "rdb_last_bgsave_status:ok",
        "rdb_last_bgsave_time_sec:-1",
        "rdb_current_bgsave_time_sec:-1",
        "aof_enabled:1",
        "aof_rewrite_in_progress:0",
        "aof_rewrite_scheduled:0",
        "aof_last_rewrite_time_sec:-1",
        "aof_current_rewrite_time_sec:-1",
        "aof_last_bgrewrite_status:ok",
        "aof_last_write_status:ok",
    ];
    let mut lines: Vec<String> = constant.map(str::to_owned).into();
    // An answered write is on disk: nothing is ever newer than the last save.
    lines.push(format!("rdb_last_save_time:{}", report.now.wall_us / 1_000_000));
    lines.push(format!("aof_current_size:{}", report.status.log.bytes));
    lines.push(format!("dstore_log_bytes:{}", report.status.log.bytes));
    let disk = &report.status.disk;
    lines.push(format!("dstore_disk_space:{}", disk.space));
    lines.extend(disk.free_bytes.map(|bytes| format!("dstore_disk_free_bytes:{bytes}")));
    lines.push(format!("dstore_disk_stalled:{}", u8::from(disk.stalled)));
    lines.push(format!("dstore_growth_refused:{}", u8::from(disk.refuses.is_some())));
    lines.extend(report.engine.iter().map(|(name, value)| format!("dstore_{name}:{value}")));
    lines
}

fn stats_lines(report: &Report<'_>) -> Vec<String> {
    let stats = &report.status.stats;
    let mut lines = vec![
        "# Stats".to_owned(),
        format!("total_connections_received:{}", stats.connections),
        format!("total_commands_processed:{}", stats.commands),
        format!("instantaneous_ops_per_sec:{}", report.per_second),
        format!("total_error_replies:{}", stats.errors),
        format!("expired_keys:{}", stats.expired_keys),
        format!("dstore_rehearsals:{}", stats.rehearsals),
        format!("keyspace_hits:{}", report.hits),
        format!("keyspace_misses:{}", report.misses),
        format!("dstore_log_entries:{}", stats.entries),
        format!("dstore_log_entry_bytes:{}", stats.entry_bytes),
        format!("dstore_slowlog_slower_than_usec:{}", report.settings.slow_log_slower_us),
    ];
    let zero = [
        "rejected_connections",
        "sync_full",
        "sync_partial_ok",
        "sync_partial_err",
        "evicted_keys",
        "evicted_clients",
        "pubsub_channels",
        "pubsub_patterns",
        "latest_fork_usec",
        "total_forks",
        "migrate_cached_sockets",
        "tracking_total_keys",
        "tracking_total_items",
        "tracking_total_prefixes",
        "unexpected_error_replies",
    ];
    lines.extend(zero.map(|name| format!("{name}:0")));
    lines
}

fn replication_lines(report: &Report<'_>) -> Vec<String> {
    // To clients that look for the place to write to, every node is it.
    let offset = report.status.user_range().map_or(0, |range| range.applied);
    vec![
        "# Replication".to_owned(),
        "role:master".to_owned(),
        "connected_slaves:0".to_owned(),
        "master_failover_state:no-failover".to_owned(),
        format!("master_replid:{:0>40}", report.facts.node_id),
        format!("master_replid2:{:0>40}", 0),
        format!("master_repl_offset:{offset}"),
        "second_repl_offset:-1".to_owned(),
        "repl_backlog_active:0".to_owned(),
        "repl_backlog_size:0".to_owned(),
        "repl_backlog_first_byte_offset:0".to_owned(),
        "repl_backlog_histlen:0".to_owned(),
    ]
}

fn keyspace_lines(report: &Report<'_>) -> Vec<String> {
    let used = report.status.keys.iter().enumerate().filter(|(_, keys)| **keys > 0);
    let lines = used.map(|(db, keys)| {
        let Expires { keys: expires, left_ms } = report.expires[db];
        let avg_ttl = left_ms.checked_div(u128::from(expires)).unwrap_or(0);
        format!("db{db}:keys={keys},expires={},avg_ttl={avg_ttl}", expires.min(*keys))
    });
    std::iter::once("# Keyspace".to_owned()).chain(lines).collect()
}

fn raft_lines(report: &Report<'_>) -> Vec<String> {
    let status = &report.status;
    let mut lines = vec![
        "# Raft".to_owned(),
        format!("raft_cluster:{}", status.cluster),
        format!("raft_node:{:016x}", status.node),
    ];
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
        let part = member.part.name();
        let snapshot = if member.is_receiving_snapshot { ",snapshot=1" } else { "" };
        let leaving = if member.is_leaving { ",leaving=1" } else { "" };
        let node = member.node;
        lines
            .push(format!("raft_member{at}:id={node:016x},peer={peer},client={client},part={part}{snapshot}{leaving}"));
    }
    let removed: Vec<String> = status.removed.iter().map(|node| format!("{node:016x}")).collect();
    lines.push(format!("raft_removed:{}", removed.join(",")));
    lines
}
