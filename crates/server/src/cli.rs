//! The command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::cluster::command::ClusterCommand;
use crate::config::{ByteSize, Settings};
use crate::console::Lines;
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
            2  wrong usage\n  3  stopped because the disk or the data failed: nothing was acknowledged past that point\n  \
            4  it was removed from its cluster, and does not start on this data directory again\n\n\
            Examples:\n  dstore start --data-dir data\n  dstore start --config /etc/dstore.toml --log-level debug\n  \
            dstore start --data-dir data --peers a:7379,b:7379,c:7379 --cluster-secret-file secret\n  \
            dstore start --data-dir data --join a:7379 --peer-listen d:7379 --cluster-secret-file secret"
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

    /// Look at a cluster, and govern it
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

/// Does what the command line says.
///
/// # Errors
///
/// Everything that keeps a node from starting, and everything that stops it other than a request.
pub fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Start(start) => start.run().map(|()| ExitCode::SUCCESS),
        Command::Demo(demo) => demo.run().map(|()| ExitCode::SUCCESS),
        Command::Cluster { command } => command.run(),
        Command::Debug { command } => command.run(),
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
