//! The `dstore` binary: its command line, its configuration, and the threads of a node.
//!
//! The only place where real sockets, disks, clocks and random seeds are chosen. `cli` reads what the user wants,
//! `founding` makes it a member of a cluster, `run` puts a node together and takes it apart, `front` joins the node's core to its event loop, `store` to its disk.

// A binary has no outside: `pub` in it speaks between its modules.
#![allow(unreachable_pub)]

mod admin;
mod cli;
mod clock;
mod cluster;
mod config;
mod console;
mod data_dir;
mod debug;
mod demo;
mod founding;
mod front;
mod host;
mod identity;
mod outsider;
mod random;
mod readers;
mod reclaim;
mod restart;
mod run;
mod space;
mod store;

use std::process::ExitCode;

/// A fifth of the processor time of a pipelined SET went into the system's allocator. RocksDB uses this one too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc reads when the process starts. What lies free in one arena is of no use to another, so there are few; and what
/// was not used for a second goes back to the kernel, also while the node is idle.
#[allow(unsafe_code)] // an exported name; jemalloc declares it as a pointer to a C string, which this is
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 70] = b"narenas:4,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:true\0";

/// Exit code of a node that could not start, or was told something wrong.
const EXIT_REFUSED: u8 = 1;
/// Exit code of a node that stopped because it could no longer keep its promises: see the last line on stderr.
const EXIT_FATAL: u8 = 3;
/// Exit code of a node that is no member of its cluster any more.
const EXIT_REMOVED: u8 = 4;

fn main() -> ExitCode {
    match cli::main() {
        Ok(code) => {
            console::flush_lines();
            if code == ExitCode::SUCCESS { end(0) } else { code }
        }
        Err(error) => {
            let code = error.chain().find_map(exit_code).unwrap_or(EXIT_REFUSED);
            console::flush_lines();
            complain(&one_line(&error));
            end(code)
        }
    }
}

/// Ends the process at once. Threads that are still busy with the disk, perhaps for ever, must not meet the destructors of
/// RocksDB's static data, which an ordinary exit runs under their feet.
fn end(code: u8) -> ! {
    signal_hook::low_level::exit(code.into())
}

/// An error with its causes, as far as it does not tell them itself.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}

/// What the process ends with for this reason, if not with the code of any other refusal to start.
fn exit_code(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    use dstore_storage::{EngineError, LogError};
    if let Some(fatal) = cause.downcast_ref::<front::Fatal>() {
        return Some(fatal.exit_code());
    }
    let log = matches!(
        cause.downcast_ref(),
        Some(LogError::Full { .. } | LogError::Io { .. } | LogError::Damaged { .. } | LogError::Failed(_))
    );
    let engine = matches!(
        cause.downcast_ref(),
        Some(EngineError::Full(_) | EngineError::Io(_) | EngineError::Corrupt(_) | EngineError::Failed(_))
    );
    let directory = cause.downcast_ref::<data_dir::DataDirError>().is_some_and(data_dir::DataDirError::is_of_disk);
    // A core that does not start has found data that it cannot trust.
    (log || engine || directory || cause.is::<dstore_node::NodeError>()).then_some(EXIT_FATAL)
}

#[allow(clippy::print_stderr)]
fn complain(line: &str) {
    eprintln!("dstore: {line}");
}
