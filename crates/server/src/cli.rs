//! The command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use dstore_rpc::NodeId;

use crate::cluster::administer;
use crate::cluster::status::{ClusterStatus, Verdict};
use crate::config::{ByteSize, Settings};
use crate::console::{Lines, say};
use crate::debug::DebugCommand;
use crate::{demo, run};

/// A strongly consistent key-value store that any Redis client can talk to.
#[derive(Parser)]
#[command(
    name = "dstore",
    version,
    after_help = "Try:\n  dstore demo\n  redis-cli -p 7001 set greeting hello\n  dstore cluster status"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node, in the foreground, until SIGINT or SIGTERM
    #[command(
        long_about = "Run a node, in the foreground, until SIGINT or SIGTERM.\n\n\
            Every setting is a flag here and a key of the TOML file (--data-dir is data_dir = \"...\"); a flag wins. \
            Sizes are written 4096, 64KiB, 512MiB or 2GiB.",
        after_help = "Exit codes:\n  0  stopped on request\n  1  could not start: one line on stderr says why\n  \
            2  wrong usage\n  3  stopped because the disk or the data failed: nothing was acknowledged past that point\n\n\
            Examples:\n  dstore start --data-dir data\n  dstore start --config /etc/dstore.toml --log-level debug\n  \
            dstore start --data-dir data --peers a:7379,b:7379,c:7379 --cluster-secret-file secret"
    )]
    Start(Box<Start>),

    /// Run a whole cluster on this machine, to try it out
    #[command(
        long_about = "Run a whole cluster on this machine, to try it out: a process for each node, on loopback.\n\n\
            Prints addresses, process ids, and what to try. Nothing is restarted by itself: kill a node and see what \
            the others do. Ctrl-C stops all.",
        after_help = "Examples:\n  dstore demo\n  dstore demo --nodes 5 --port 8001 --dir /data/demo --keep"
    )]
    Demo(Demo),

    /// Look at a cluster
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },

    /// Look at the data directory of a node that is down, or let it go on after the loss of a majority
    Debug {
        #[command(subcommand)]
        command: DebugCommand,
    },
}

#[derive(Args)]
struct Start {
    #[command(flatten)]
    settings: Settings,

    /// TOML file with settings, one key each; see docs/configuration.md.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,

    /// Stop when standard input ends: for a parent that must not leave nodes behind, however it ends itself
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

#[derive(Args)]
struct Demo {
    /// How many nodes, 1 to 9
    #[arg(long, value_name = "N", default_value_t = 3)]
    nodes: u16,

    /// Port of the first node; the others follow. Peers are 100 above, metrics 200
    #[arg(long, value_name = "PORT", default_value_t = 7001)]
    port: u16,

    /// Keep the data when the demo ends
    #[arg(long)]
    keep: bool,

    /// Directory for the data; one that has some is used as it is, and kept [default: a new one for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Memory of all nodes together
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    memory: ByteSize,
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Show how each node of a cluster stands, and whether the cluster serves
    #[command(
        long_about = "Show how each node of a cluster stands, and whether the cluster serves.\n\n\
            Asks the first node that answers for the others, and then each of them.",
        after_help = "Exit codes:\n  0  healthy: every node answers and keeps up with one leader\n  1  degraded, or no \
            quorum, or nobody answers\n  2  wrong usage\n\nExamples:\n  dstore cluster status\n  \
            dstore cluster status --node 10.0.0.1:6379,10.0.0.2:6379 --json"
    )]
    Status(Status),

    /// Have the leader hand its leadership to another node
    #[command(
        long_about = "Have the leader hand its leadership to another node, before its machine is taken away for a while.\n\n\
            Clients notice nothing. A node that is stopped with SIGTERM does so by itself.",
        after_help = "Example:\n  dstore cluster transfer-leader --peer 10.0.0.1:7101 --cluster-secret-file secret"
    )]
    TransferLeader(TransferLeader),
}

#[derive(Args)]
struct TransferLeader {
    /// Peer address of any node of the cluster
    #[arg(long, value_name = "ADDR:PORT")]
    peer: String,

    /// File with the secret of the cluster
    #[arg(long, value_name = "FILE")]
    cluster_secret_file: PathBuf,

    /// The node that is to lead, as `dstore cluster status` names it; by default the one that is best prepared
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
}

#[derive(Args)]
struct Status {
    /// Nodes to ask, until one answers; by default one on this machine, or one of `dstore demo`
    #[arg(long, value_name = "ADDR:PORT,...", value_delimiter = ',', default_value = DEFAULT_NODES)]
    node: Vec<String>,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,

    /// File with the password of the nodes; white space around it does not count
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Where a node listens by default, and where those of a demo do.
const DEFAULT_NODES: &str = "127.0.0.1:6379,127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003";

/// Does what the command line says.
///
/// # Errors
///
/// Everything that keeps a node from starting, and everything that stops it other than a request.
pub fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Start(start) => start.run().map(|()| ExitCode::SUCCESS),
        Command::Demo(demo) => demo.run().map(|()| ExitCode::SUCCESS),
        Command::Cluster { command: ClusterCommand::Status(status) } => status.run(),
        Command::Cluster { command: ClusterCommand::TransferLeader(transfer) } => transfer.run(),
        Command::Debug { command } => command.run(),
    }
}

impl TransferLeader {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let node = |text: &String| {
            let id = u64::from_str_radix(text, 16).ok().filter(|id| *id != 0);
            id.map(NodeId).with_context(|| format!("{text} is no node: it has 16 hexadecimal digits"))
        };
        let to = self.to.as_ref().map(node).transpose()?;
        let done = administer::transfer_leader(&self.peer.parse()?, &self.cluster_secret_file, to)?;
        say(&format!("{done}\n"));
        Ok(ExitCode::SUCCESS)
    }
}

impl Start {
    fn run(self) -> anyhow::Result<()> {
        let file = self.config.map(|path| Settings::read(&path)).transpose()?;
        let config = self.settings.or(file.unwrap_or_default()).resolve()?;
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::from(config.log_level))
            .with_writer(|| Lines)
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .init();
        if self.stop_with_stdin {
            run::stop_with_stdin()?;
        }
        run::run(&config)
    }
}

impl Demo {
    fn run(self) -> anyhow::Result<()> {
        let Demo { nodes, port, keep, dir, memory } = self;
        demo::run(&demo::Options { nodes, port, keep, dir, memory })
    }
}

impl Status {
    fn run(self) -> anyhow::Result<ExitCode> {
        let read = |path: PathBuf| {
            std::fs::read_to_string(&path).with_context(|| format!("cannot read the password {}", path.display()))
        };
        let password = self.password_file.map(read).transpose()?;
        let status = ClusterStatus::gather(&self.node, password.as_deref().map(str::trim))?;
        if self.json {
            say(&format!("{}\n", serde_json::to_string_pretty(&status)?));
        } else {
            say(&status.table());
        }
        let healthy = status.verdict == Verdict::Healthy;
        Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_is_documented() {
        let page = include_str!("../../../docs/configuration.md");
        let command = Cli::command();
        let start = command.find_subcommand("start").unwrap();
        for argument in
            start.get_arguments().filter(|argument| argument.get_id() != "config" && !argument.is_hide_set())
        {
            let key = argument.get_id().as_str();
            let flag = argument.get_long().unwrap();
            assert_eq!(flag.replace('-', "_"), key);
            assert!(page.contains(&format!("`{key}`")), "docs/configuration.md says nothing of {key}");
        }
    }
}
