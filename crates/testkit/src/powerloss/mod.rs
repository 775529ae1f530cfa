//! Power loss for a real process: after kill -9, put its directory into a state that a power cut could have left.
//!
//! kill -9 leaves the page cache intact, so a test that only kills proves nothing about fdatasync: a server that never
//! syncs passes it. Here the process runs with a small library preloaded (`shim/powerloss.c`) that journals every
//! write, truncation, sync and change of names below one directory. After the kill, [`PowerLoss::cut`] replays the
//! journal on a model of a disk (`disk`, `contents`), decides by a seed what becomes of everything that was not
//! synced, and writes the outcome over the directory.
//!
//! ```no_run
//! # use dstore_testkit::powerloss::{PowerLoss, Style};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut power = PowerLoss::watch("data".as_ref(), "data.journal".as_ref())?;
//! let mut command = std::process::Command::new("dstore");
//! power.attach(&mut command);
//! let mut server = command.spawn()?;
//! // write to it, note what it acknowledged, then:
//! server.kill()?;
//! server.wait()?;
//! println!("{}", power.cut(Style::Scattered, 42)?);
//! // start again on the same directory and look for what was acknowledged
//! # Ok(()) }
//! ```
//!
//! **What keeps it honest.** Before it decides anything, `cut` checks that the journal, with everything kept, adds up to
//! the files that the killed process left. A write that escaped the library (a shared mapping, io_uring, a system call
//! that went past libc) fails the test here instead of weakening it silently.
//!
//! **Caveats.** File modes and times are not restored. Sub-processes are not watched. A sync covers what was recorded
//! before it began, which is what POSIX promises and less than what Linux does. `sync_file_range` makes nothing durable.
//! Everything is held in memory: meant for directories of some hundred megabytes.

mod choose;
mod contents;
mod disk;
mod journal;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use choose::{Choose, Exhaustive, Seeded};
pub use contents::Style;
use disk::Disk;
pub use disk::Tree;
use journal::{Journal, Word};

/// Why a power cut could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PowerLossError {
    /// A file could not be read or written.
    #[error("power loss: {0}")]
    Io(#[from] std::io::Error),
    /// The journal is damaged or contradicts itself.
    #[error("power loss: the journal does not make sense: {0}")]
    Journal(String),
    /// The process did something to the directory that the library cannot follow.
    #[error("power loss: the process used {0}, which cannot be followed")]
    Untracked(String),
    /// The journal with everything kept is not what the process left: some writes escaped it.
    #[error("power loss: the journal does not add up to the files: {}", .0.join(", "))]
    Escaped(Vec<String>),
    /// The watched process has not ended.
    #[error("power loss: process {0} still runs")]
    StillRuns(u64),
}

/// A fault that begins with the next matching call, or with the start of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Syncs report success and do nothing: what a durability test must notice.
    SyncsLie,
    /// Each sync takes this many milliseconds longer.
    SyncsStallMs(u64),
    /// Each read at an offset (`pread`, as of table files) takes this many milliseconds longer.
    ReadsStallMs(u64),
    /// The `nth` sync from here on (1 is the next) fails with this `errno`.
    SyncFails {
        /// Counted from 1.
        nth: u64,
        /// For instance `libc::EIO`.
        errno: i32,
    },
    /// The `nth` write, truncation or allocation from here on fails with this `errno`.
    WriteFails {
        /// Counted from 1.
        nth: u64,
        /// For instance `libc::ENOSPC`.
        errno: i32,
    },
    /// The `nth` write from here on writes only its first half and says so.
    WriteIsShort {
        /// Counted from 1.
        nth: u64,
    },
}

/// What a power cut did, for the message of a failing test.
#[derive(Clone, Debug)]
pub struct Cut {
    /// What became of unsynced changes in general.
    pub style: Style,
    /// What decided about each.
    pub seed: u64,
    /// Records in the journal.
    pub events: usize,
    /// Paths that the cut removed, brought back or changed.
    pub changed: Vec<String>,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cut { style, seed, events, changed } = self;
        write!(f, "power cut {style:?} with seed {seed} after {events} calls changed {changed:?}")
    }
}

/// Watches one directory through the lives of the processes that use it, one at a time.
#[derive(Debug)]
pub struct PowerLoss {
    directory: PathBuf,
    journal: Journal,
    disk: Disk,
    unwatched_names: Vec<String>,
}

impl PowerLoss {
    /// Watches `directory`, which must exist; what is in it now counts as durable. The journal is made at `journal`,
    /// outside the directory, and overwritten if it exists.
    pub fn watch(directory: &Path, journal: &Path) -> Result<PowerLoss, PowerLossError> {
        let directory = directory.canonicalize()?;
        let journal_path = std::path::absolute(journal)?;
        assert!(!journal_path.starts_with(&directory), "the journal lies in the directory that it is about");
        let disk = Disk::holding(read_tree(&directory)?);
        Ok(PowerLoss { directory, journal: Journal::create(&journal_path)?, disk, unwatched_names: Vec::new() })
    }

    /// Leaves files whose name begins with `prefix` out of the check that nothing escaped the journal. For files whose
    /// content nobody reads back, such as the text log that RocksDB writes through stdio.
    pub fn tolerate(mut self, prefix: &str) -> PowerLoss {
        self.unwatched_names.push(prefix.to_string());
        self
    }

    /// Makes `command` start its process watched. One process at a time: [`PowerLoss::cut`] comes before
    /// the next.
    pub fn attach(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", library())
            .env("POWERLOSS_WATCH", &self.directory)
            .env("POWERLOSS_JOURNAL", self.journal.path());
    }

    /// Switches a fault on, at once if the process runs already. Faults stay on until [`PowerLoss::clear_faults`].
    pub fn inject(&self, fault: Fault) -> Result<(), PowerLossError> {
        let journal = &self.journal;
        match fault {
            Fault::SyncsLie => journal.set(Word::SyncLies, 1),
            Fault::SyncsStallMs(milliseconds) => journal.set(Word::SyncStallMs, milliseconds),
            Fault::ReadsStallMs(milliseconds) => journal.set_read_stall(milliseconds),
            Fault::SyncFails { nth, errno } => {
                journal.set(Word::SyncFailErrno, errno.unsigned_abs().into())?;
                journal.set(Word::SyncFailAt, journal.get(Word::Syncs)? + nth)
            }
            Fault::WriteFails { nth, errno } => {
                journal.set(Word::WriteFailErrno, errno.unsigned_abs().into())?;
                journal.set(Word::WriteFailAt, journal.get(Word::Writes)? + nth)
            }
            Fault::WriteIsShort { nth } => {
                journal.set(Word::WriteFailErrno, 0)?;
                journal.set(Word::WriteFailAt, journal.get(Word::Writes)? + nth)
            }
        }
    }

    /// Lets faults fall only on files whose absolute path contains `part`. To be called before the process starts.
    pub fn only_in(&self, part: &str) -> Result<(), PowerLossError> {
        self.journal.set_fault_path(part)
    }

    /// Switches all faults off.
    pub fn clear_faults(&self) -> Result<(), PowerLossError> {
        for word in [Word::SyncLies, Word::SyncStallMs, Word::SyncFailAt, Word::WriteFailAt] {
            self.journal.set(word, 0)?;
        }
        self.journal.set_read_stall(0)
    }

    /// Whether the sync that was to fail has been asked for. Told once.
    pub fn take_failed_sync(&self) -> Result<bool, PowerLossError> {
        let fails_at = self.journal.get(Word::SyncFailAt)?;
        let has_failed = fails_at != 0 && self.syncs()? >= fails_at;
        if has_failed {
            self.journal.set(Word::SyncFailAt, 0)?;
        }
        Ok(has_failed)
    }

    /// How many syncs the process has asked for, of files that faults may fall on.
    pub fn syncs(&self) -> Result<u64, PowerLossError> {
        self.journal.get(Word::Syncs)
    }

    /// How many writes, truncations and allocations it has asked for, of files that faults may fall on.
    pub fn writes(&self) -> Result<u64, PowerLossError> {
        self.journal.get(Word::Writes)
    }

    /// Cuts the power after the process was killed: leaves the directory as the disk would be found. What is found
    /// then is durable, and the next process may be started.
    pub fn cut(&mut self, style: Style, seed: u64) -> Result<Cut, PowerLossError> {
        let (events, left) = self.take_in_journal()?;
        let found = self.disk.after_crash(style, &mut Seeded::new(seed));
        let changed = differences(&left, &found);
        self.lay_down(&left, &found)?;
        self.disk = Disk::holding(found);
        Ok(Cut { style, seed, events, changed })
    }

    /// Every state that a [`Style::Scattered`] cut could leave now, without carrying one out. For a handful of short
    /// unsynced writes: the number of states grows with their product.
    pub fn outcomes(&mut self) -> Result<BTreeSet<Tree>, PowerLossError> {
        self.take_in_journal()?;
        let mut all = Exhaustive::new();
        let mut outcomes = BTreeSet::new();
        while all.another_round() {
            outcomes.insert(self.disk.after_crash(Style::Scattered, &mut all));
        }
        Ok(outcomes)
    }

    /// Replays the journal on the disk, checks that it adds up to the files, and empties it. Gives the number of records
    /// and the files.
    fn take_in_journal(&mut self) -> Result<(usize, Tree), PowerLossError> {
        let owner = self.journal.get(Word::Owner)?;
        if owner != 0 && Path::new(&format!("/proc/{owner}")).exists() {
            return Err(PowerLossError::StillRuns(owner));
        }
        let root = self.directory.to_str().ok_or_else(|| PowerLossError::Journal("a path that is not UTF-8".into()))?;
        let events = self.journal.events(root)?;
        self.disk.replay(&events)?;
        let left = read_tree(&self.directory)?;
        let escaped: Vec<String> = differences(&self.disk.now(), &left)
            .into_iter()
            .filter(|path| {
                let name = path.rsplit('/').next().unwrap_or(path);
                !self.unwatched_names.iter().any(|prefix| name.starts_with(prefix))
            })
            .collect();
        // A kill that fell between a call and its record lost that one record, and a call changes two names at most.
        let in_doubt = if self.journal.get(Word::Busy)? == 0 { 0 } else { 2 };
        if escaped.len() > in_doubt {
            return Err(PowerLossError::Escaped(escaped));
        }
        self.journal.clear()?;
        Ok((events.len(), left))
    }

    fn lay_down(&self, left: &Tree, found: &Tree) -> Result<(), PowerLossError> {
        for path in left.files.keys().filter(|path| !found.files.contains_key(*path)) {
            std::fs::remove_file(self.directory.join(path))?;
        }
        let gone: Vec<&String> = left.directories.difference(&found.directories).collect();
        for path in gone.into_iter().rev() {
            std::fs::remove_dir(self.directory.join(path))?;
        }
        for path in found.directories.difference(&left.directories) {
            std::fs::create_dir(self.directory.join(path))?;
        }
        for (path, bytes) in found.files.iter().filter(|(path, bytes)| left.files.get(*path) != Some(*bytes)) {
            std::fs::write(self.directory.join(path), bytes)?;
        }
        Ok(())
    }
}

/// The library that the build script compiled.
fn library() -> &'static OsStr {
    OsStr::new(env!("POWERLOSS_LIBRARY"))
}

/// Paths that differ between two trees.
fn differences(one: &Tree, other: &Tree) -> Vec<String> {
    let files =
        one.files.keys().chain(other.files.keys()).filter(|path| one.files.get(*path) != other.files.get(*path));
    let directories = one.directories.symmetric_difference(&other.directories);
    let mut paths: Vec<String> = files.chain(directories).cloned().collect();
    paths.sort();
    paths.dedup();
    paths
}

/// Reads all files below `directory`.
fn read_tree(directory: &Path) -> Result<Tree, PowerLossError> {
    let mut tree = Tree::default();
    let mut walk = vec![(directory.to_path_buf(), String::new())];
    while let Some((at, prefix)) = walk.pop() {
        for entry in std::fs::read_dir(&at)? {
            let entry = entry?;
            let name =
                entry.file_name().into_string().map_err(|name| PowerLossError::Journal(format!("name {name:?}")))?;
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                tree.directories.insert(path.clone());
                walk.push((entry.path(), path));
            } else if kind.is_file() {
                tree.files.insert(path, std::fs::read(entry.path())?);
            } else {
                return Err(PowerLossError::Untracked(format!("{path}, which is neither file nor directory")));
            }
        }
    }
    Ok(tree)
}
