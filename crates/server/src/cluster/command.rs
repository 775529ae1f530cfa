//! `dstore cluster`: its command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use dstore_rpc::NodeId;

use super::administer::Operator;
use super::status::{ClusterStatus, Verdict};
use crate::console::say;

/// Where a node listens by default, and where those of a demo do.
const DEFAULT_NODES: &str = "127.0.0.1:6379,127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003";

/// What there is to see and to do.
#[derive(Subcommand)]
pub enum ClusterCommand {
    /// Show how each node of a cluster stands, and whether the cluster serves
    #[command(
        long_about = "Show how each node of a cluster stands, and whether the cluster serves.\n\n\
            Asks the nodes given for the others, and each of those, until nobody names one that was not asked.",
        after_help = "Exit codes:\n  0  healthy: every node answers and keeps up with one leader\n  1  degraded, or no \
            quorum, or nobody answers\n  2  wrong usage\n\nExamples:\n  dstore cluster status\n  \
            dstore cluster status --node 10.0.0.1:6379,10.0.0.2:6379 --json"
    )]
    Status(Status),

    /// Take a node out of the cluster, for good
    #[command(
        long_about = "Take a node out of the cluster, for good.\n\n\
            Waits until no range counts on it any more; a node that runs then stops by itself, with exit code 4. Its data \
            directory never starts again: to come back, the machine joins with a new one. The removal goes on by itself if \
            this command is interrupted. It is refused while the others could not go on without the node, unless --force \
            is given.",
        after_help = "Exit codes:\n  0  done\n  1  refused, or nobody answers\n  2  wrong usage\n\nExample:\n  \
            dstore cluster remove 4be1c97d0a6f3328 --peer 10.0.0.1:7101 --cluster-secret-file secret"
    )]
    Remove(RemoveNode),

    /// Have the leader hand its leadership to another node
    #[command(
        long_about = "Have the leader hand its leadership to another node, before its machine is taken away for a while.\n\n\
            Clients notice nothing. A node that is stopped with SIGTERM does so by itself.",
        after_help = "Example:\n  dstore cluster transfer-leader --peer 10.0.0.1:7101 --cluster-secret-file secret"
    )]
    TransferLeader(TransferLeader),

    /// Compare the copies of the data on all nodes
    #[command(
        long_about = "Compare the copies of the data on all nodes, as they are at one entry of the log, while they serve.\n\n\
            Nodes do so by themselves once a day. Copies that differ are a bug, or a disk that lies: the nodes are named.",
        after_help = "Exit codes:\n  0  alike\n  1  they differ, or nobody answers\n  2  wrong usage\n\nExample:\n  \
            dstore cluster check --peer 10.0.0.1:7101 --cluster-secret-file secret"
    )]
    Check(CheckReplicas),
}

/// What all commands need that take the cluster's secret.
#[derive(Args)]
pub struct Access {
    /// Peer addresses of nodes of the cluster; any one that answers will do
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', required = true)]
    peer: Vec<String>,

    /// File with the secret of the cluster
    #[arg(long, value_name = "FILE")]
    cluster_secret_file: PathBuf,
}

/// `dstore cluster remove`.
#[derive(Args)]
pub struct RemoveNode {
    /// The node, as `dstore cluster status` names it
    #[arg(value_name = "NODE")]
    node: String,

    #[command(flatten)]
    access: Access,

    /// Even if the others do not seem to be able to go on without it
    #[arg(long)]
    force: bool,
}

/// `dstore cluster transfer-leader`.
#[derive(Args)]
pub struct TransferLeader {
    #[command(flatten)]
    access: Access,

    /// The node that is to lead, as `dstore cluster status` names it; by default the one that is best prepared
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
}

/// `dstore cluster check`.
#[derive(Args)]
pub struct CheckReplicas {
    #[command(flatten)]
    access: Access,
}

/// `dstore cluster status`.
#[derive(Args)]
pub struct Status {
    /// Addresses, for clients, of nodes to ask; by default the first that answers of one on this machine and those of
    /// `dstore demo`
    #[arg(long, value_name = "ADDR:PORT,...", value_delimiter = ',')]
    node: Vec<String>,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,

    /// File with the password of the nodes; white space around it does not count
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl ClusterCommand {
    /// Does it.
    ///
    /// # Errors
    ///
    /// It cannot be done, or seen.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let done = match self {
            ClusterCommand::Status(status) => return status.run(),
            ClusterCommand::Remove(remove) => {
                let node = node_of(&remove.node)?;
                remove.access.operator()?.remove(node, remove.force, progress)?
            }
            ClusterCommand::TransferLeader(transfer) => {
                let to = transfer.to.as_deref().map(node_of).transpose()?;
                transfer.access.operator()?.transfer_leader(to)?
            }
            ClusterCommand::Check(check) => check.access.operator()?.check(progress)?,
        };
        say(&format!("{done}\n"));
        Ok(ExitCode::SUCCESS)
    }
}

impl Access {
    fn operator(&self) -> anyhow::Result<Operator> {
        let peers = self.peer.iter().map(|peer| peer.parse()).collect::<anyhow::Result<Vec<_>>>()?;
        Operator::new(peers, &self.cluster_secret_file)
    }
}

fn progress(how_far: &str) {
    say(&format!("{how_far} ...\n"));
}

fn node_of(text: &str) -> anyhow::Result<NodeId> {
    let id = u64::from_str_radix(text, 16).ok().filter(|id| *id != 0 && text.len() == 16);
    id.map(NodeId).with_context(|| format!("{text} is no node: it has 16 hexadecimal digits"))
}

impl Status {
    fn run(self) -> anyhow::Result<ExitCode> {
        let read = |path: PathBuf| {
            std::fs::read_to_string(&path).with_context(|| format!("cannot read the password {}", path.display()))
        };
        let password = self.password_file.map(read).transpose()?;
        let password = password.as_deref().map(str::trim);
        let status = if self.node.is_empty() {
            let usual: Vec<String> = DEFAULT_NODES.split(',').map(str::to_owned).collect();
            ClusterStatus::gather_from_first(&usual, password)?
        } else {
            ClusterStatus::gather(&self.node, password)?
        };
        if self.json {
            say(&format!("{}\n", serde_json::to_string_pretty(&status)?));
        } else {
            say(&status.table());
        }
        let healthy = status.verdict == Verdict::Healthy;
        Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
