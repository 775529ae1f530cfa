//! `dstore debug`: what is in the data directory of a node that is down, and the way back after the loss of a majority.
//!
//! [`log`] and [`data`] only read: not one byte below the directory changes, and a directory that a node refuses to start on
//! can be looked at all the same. [`recover`] changes a directory, after saying what it will do. All three hold the
//! directory's lock meanwhile, so no node can start under their hands.

mod data;
mod describe;
mod log;
mod page;
mod recover;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

/// What to look at, or to do.
#[derive(Subcommand)]
pub enum DebugCommand {
    /// Print what is in the log of a node that is down, damage included
    #[command(
        long_about = "Print what is in the log of a node that is down, damage included.\n\n\
            First the files, each range with its term, vote, first and last entry, and everything that is not as it \
            should be; then the entries, one a line. Nothing on disk is changed. A log that a node refuses to start on is \
            printed as far as it can be read.",
        after_help = "Exit codes:\n  0  a node starts on this log\n  1  it does not, or there is no log to look at\n  \
            2  wrong usage\n\nExamples:\n  dstore debug log data --entries 0\n  \
            dstore debug log data --range 1 --from 1000 --to 1010 --ops"
    )]
    Log(log::LogOptions),

    /// Print what is in the data of a node that is down
    #[command(
        long_about = "Print what is in the data of a node that is down: who it is, how far each range is applied, its \
            members, the nodes it knows, how many keys there are; records and checksums on request.\n\n\
            It is what was flushed; a node that starts applies its log on top of it. Nothing on disk is changed.",
        after_help = "Replicas that are applied up to the same entry have the same checksums.\n\n\
            Exit codes:\n  0  all could be read\n  1  something could not\n  2  wrong usage\n\n\
            Examples:\n  dstore debug data data --checksum\n  dstore debug data data --keys=user: --db 0 --limit 20"
    )]
    Data(data::DataOptions),

    /// Let a node go on alone after the permanent loss of a majority. Loses what only the lost nodes had
    #[command(
        long_about = "Let a node go on alone after the permanent loss of a majority.\n\n\
            THIS LOSES DATA: writes that were acknowledged, and are only on the lost nodes, are gone. The lost nodes must \
            never be started again: they would go on as a cluster of their own. Use it only if a majority of the disks is \
            gone for good. If they can be brought back, bring them back.\n\n\
            Of several survivors choose the one whose range 1 ends in the greatest term, and then at the greatest index, \
            as `dstore debug log` shows; empty the directories of the others, and let them join anew.\n\n\
            Without --i-know-that-writes-may-be-lost it only says what it would do.",
        after_help = "Exit codes:\n  0  the node goes on alone, or does already\n  1  nothing was changed\n  \
            2  wrong usage\n\nExamples:\n  dstore debug recover data\n  \
            dstore debug recover data --i-know-that-writes-may-be-lost"
    )]
    Recover(recover::RecoverOptions),
}

/// The directory that all of them take.
#[derive(Args)]
struct Directory {
    /// Data directory of a node that is down
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl DebugCommand {
    /// Does it.
    ///
    /// # Errors
    ///
    /// The directory cannot be looked at.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            DebugCommand::Log(options) => page::print(|page| options.print(page)),
            DebugCommand::Data(options) => page::print(|page| options.print(page)),
            DebugCommand::Recover(options) => options.run(),
        }
    }
}
