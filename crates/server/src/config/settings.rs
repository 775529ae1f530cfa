//! The settings as the user gives them: flags of `dstore start`, and keys of the TOML file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;

use super::cluster::{Password, Reads};
use super::{ByteSize, LogLevel};

/// Where `--help` lists the settings that only matter with peers.
const CLUSTER: &str = "Cluster";

/// The settings as the user gave them: absent where he did not.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Directory that holds this node's data; created when missing.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Address Redis clients connect to; port 0 picks a free one. [default: 127.0.0.1:6379]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,

    /// How much to say on stderr: error, warn, info, debug or trace. [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,

    /// Memory for the data's cache and write buffers. [default: 512MiB]
    #[arg(long, value_name = "SIZE")]
    pub memory_bytes_max: Option<ByteSize>,

    /// Clients connected at once; more are refused. [default: 10000]
    #[arg(long, value_name = "N")]
    pub clients_max: Option<usize>,

    /// Largest value of a key, and largest single argument of a command. [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub value_bytes_max: Option<ByteSize>,

    /// Largest whole request, all of its arguments together, and largest queue of one MULTI. [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub request_bytes_max: Option<ByteSize>,

    /// Replies waiting for one client beyond which its requests are read no further. [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    pub output_bytes_high_water: Option<ByteSize>,

    /// Writes on their way to the disk, all clients together, beyond which no more are taken. [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub inflight_bytes_max: Option<ByteSize>,

    /// Size of one file of the log; an entry may fill half of it. [default: room for one largest value, 136MiB]
    #[arg(long, value_name = "SIZE")]
    pub log_segment_bytes: Option<ByteSize>,

    /// Log kept before the data is flushed and the log cut; bounds what a restart replays. [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub log_bytes_max: Option<ByteSize>,

    /// Free room on the disk below which the data may not grow; 0 for none. [default: 256MiB, or 5 % of a smaller disk]
    #[arg(long, value_name = "SIZE")]
    pub free_bytes_floor: Option<ByteSize>,

    /// Size of a file that is given up when the disk is full. [default: 64MiB, or 2 % of a smaller disk]
    #[arg(long, value_name = "SIZE")]
    pub ballast_bytes: Option<ByteSize>,

    /// How long a write may take before the disk counts as standing still, and others lead. [default: 300]
    #[arg(long, value_name = "MS")]
    pub disk_stall_ms: Option<u64>,

    /// Peer addresses of all nodes that found the cluster, this one's included, in the same order on each of them.
    /// Without it the node is a cluster of its own.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', help_heading = CLUSTER)]
    pub peers: Option<Vec<String>>,

    /// Members of a cluster that a new node asks to take it in, one after the other until one answers. A node that is a
    /// member already just starts.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', help_heading = CLUSTER)]
    pub join: Option<Vec<String>>,

    /// Where this node listens for its peers, as they reach it; another than before when it has moved. [default: where it
    /// was before; with peers, the only one of them whose address is this machine's]
    #[arg(long, value_name = "HOST:PORT", help_heading = CLUSTER)]
    pub peer_listen: Option<String>,

    /// File with the secret that all nodes of the cluster share, 16 bytes or more. Required with peers, join and
    /// peer-listen.
    #[arg(long, value_name = "FILE", help_heading = CLUSTER)]
    pub cluster_secret_file: Option<PathBuf>,

    /// How long a command may wait for a leader and a quorum before it is told that there is none. [default: 5000]
    #[arg(long, value_name = "MS", help_heading = CLUSTER)]
    pub request_timeout_ms: Option<u64>,

    /// How long a leader may be silent before another is elected; the same on all nodes. [default: 700]
    #[arg(long, value_name = "MS", help_heading = CLUSTER)]
    pub election_timeout_ms: Option<u64>,

    /// How a leader makes sure that it still is, before it answers a read. [default: lease]
    #[arg(long, value_name = "HOW", help_heading = CLUSTER)]
    pub reads: Option<Reads>,

    /// Serve reads on followers, after asking the leader how far they have to be. [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", help_heading = CLUSTER)]
    pub follower_reads: Option<bool>,

    /// Nodes that vote; each further one keeps a copy and stands by; the same on all nodes. [default: 3]
    #[arg(long, value_name = "N", help_heading = CLUSTER)]
    pub voters_max: Option<usize>,

    /// How much of a snapshot is sent in a second to a node that needs one; 0 for as much as goes. [default: 64MiB]
    #[arg(long, value_name = "SIZE", help_heading = CLUSTER)]
    pub snapshot_bytes_per_second: Option<ByteSize>,

    /// Address of metrics and health checks over HTTP. [default: none]
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin_listen: Option<SocketAddr>,

    /// Password that clients have to give. Better in the file: a command line can be read by every user.
    #[arg(long, value_name = "PASSWORD")]
    pub requirepass: Option<Password>,

    /// Refuse to listen beyond this machine without a password. [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub protected_mode: Option<bool>,
}

impl Settings {
    /// Reads a configuration file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not the TOML described in `docs/configuration.md`; the message names the line.
    pub fn read(path: &Path) -> anyhow::Result<Settings> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            anyhow::anyhow!("{} line {line}: {}", path.display(), error.message().replace('\n', " "))
        })
    }

    /// These settings, with `fallback`'s where they say nothing.
    pub fn or(self, fallback: Settings) -> Settings {
        Settings {
            data_dir: self.data_dir.or(fallback.data_dir),
            listen: self.listen.or(fallback.listen),
            log_level: self.log_level.or(fallback.log_level),
            memory_bytes_max: self.memory_bytes_max.or(fallback.memory_bytes_max),
            clients_max: self.clients_max.or(fallback.clients_max),
            value_bytes_max: self.value_bytes_max.or(fallback.value_bytes_max),
            request_bytes_max: self.request_bytes_max.or(fallback.request_bytes_max),
            output_bytes_high_water: self.output_bytes_high_water.or(fallback.output_bytes_high_water),
            inflight_bytes_max: self.inflight_bytes_max.or(fallback.inflight_bytes_max),
            log_segment_bytes: self.log_segment_bytes.or(fallback.log_segment_bytes),
            log_bytes_max: self.log_bytes_max.or(fallback.log_bytes_max),
            free_bytes_floor: self.free_bytes_floor.or(fallback.free_bytes_floor),
            ballast_bytes: self.ballast_bytes.or(fallback.ballast_bytes),
            disk_stall_ms: self.disk_stall_ms.or(fallback.disk_stall_ms),
            peers: self.peers.or(fallback.peers),
            join: self.join.or(fallback.join),
            peer_listen: self.peer_listen.or(fallback.peer_listen),
            cluster_secret_file: self.cluster_secret_file.or(fallback.cluster_secret_file),
            request_timeout_ms: self.request_timeout_ms.or(fallback.request_timeout_ms),
            election_timeout_ms: self.election_timeout_ms.or(fallback.election_timeout_ms),
            reads: self.reads.or(fallback.reads),
            follower_reads: self.follower_reads.or(fallback.follower_reads),
            voters_max: self.voters_max.or(fallback.voters_max),
            snapshot_bytes_per_second: self.snapshot_bytes_per_second.or(fallback.snapshot_bytes_per_second),
            admin_listen: self.admin_listen.or(fallback.admin_listen),
            requirepass: self.requirepass.or(fallback.requirepass),
            protected_mode: self.protected_mode.or(fallback.protected_mode),
        }
    }
}
