//! The command line.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Settings;
use crate::run;

/// A strongly consistent key-value store that any Redis client can talk to.
#[derive(Parser)]
#[command(
    name = "dstore",
    version,
    about,
    after_help = "Try:\n  dstore start --data-dir data\n  redis-cli set greeting hello"
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
            2  wrong usage\n  3  stopped because the disk or the data failed: nothing was acknowledged past that point"
    )]
    Start(Start),
}

#[derive(Args)]
struct Start {
    #[command(flatten)]
    settings: Settings,

    /// TOML file with settings, one key each; see docs/configuration.md.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
}

/// Does what the command line says.
///
/// # Errors
///
/// Everything that keeps a node from starting, and everything that stops it other than a request.
pub fn main() -> anyhow::Result<()> {
    let Command::Start(start) = Cli::parse().command;
    let file = start.config.map(|path| Settings::read(&path)).transpose()?;
    let config = start.settings.or(file.unwrap_or_default()).resolve()?;
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::from(config.log_level))
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    run::run(&config)
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
        for argument in start.get_arguments().filter(|argument| argument.get_id() != "config") {
            let key = argument.get_id().as_str();
            let flag = argument.get_long().unwrap();
            assert_eq!(flag.replace('-', "_"), key);
            assert!(page.contains(&format!("`{key}`")), "docs/configuration.md says nothing of {key}");
        }
    }
}
