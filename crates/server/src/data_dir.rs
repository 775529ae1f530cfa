//! The data directory: whose it is, which format it has, and that one process uses it at a time.
//!
//! ```text
//! DIR/IDENTITY   what this directory is (TOML, written once, synced before anything else)
//! DIR/LOCK       locked while a process uses the directory
//! DIR/log/       segment files of the log
//! DIR/data/      RocksDB
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The format of the directory as a whole. Raised when a file in it changes in a way older binaries cannot read.
const FORMAT: u32 = 1;

const IDENTITY: &str = "IDENTITY";
const LOCK: &str = "LOCK";

/// A data directory this process holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    /// Held for as long as the process lives; the kernel drops it with the process, however that ends.
    _lock: File,
}

/// What a data directory says of itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    format: u32,
    /// Random, made with the directory: a node that lost its disk is another node.
    node_id: String,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The directory, or a file in it, cannot be created or read.
    #[error("data directory {path}: {error}", path = path.display())]
    Io {
        /// What could not be used.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another process holds it.
    #[error("data directory {path} is in use by another process", path = path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It holds files, but not ours.
    #[error("{path} is not empty and not a dstore data directory: it has no {IDENTITY} file", path = path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// Its identity file is damaged.
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged {
        /// The identity file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It was written by a version this one does not know.
    #[error("data directory {path} has format {found}, this binary knows {FORMAT}", path = path.display())]
    UnknownFormat {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

impl DataDir {
    /// Opens the directory at `path`, or makes it with `fresh_node_id` when there is none or an empty one.
    ///
    /// # Errors
    ///
    /// See [`DataDirError`]. A directory that is refused is left as it was.
    pub fn open(path: &Path, fresh_node_id: u64) -> Result<DataDir, DataDirError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |error| DataDirError::Io { path, error }
        };
        let existed = path.exists();
        fs::create_dir_all(path).map_err(at(path))?;
        if !existed {
            sync_parent(path).map_err(at(path))?;
        }
        let identity_path = path.join(IDENTITY);
        if !identity_path.exists() {
            let mut names = fs::read_dir(path).map_err(at(path))?.filter_map(|entry| Some(entry.ok()?.file_name()));
            // A first start that was cut short leaves these, and nothing else.
            if names.any(|name| name != LOCK && name != "IDENTITY.new" && name != "lost+found") {
                return Err(DataDirError::Foreign { path: path.to_path_buf() });
            }
        }
        let lock = Self::lock(path)?;
        if !identity_path.exists() {
            let identity = Identity { format: FORMAT, node_id: format!("{fresh_node_id:016x}") };
            write_identity(path, &identity).map_err(at(&identity_path))?;
        }
        let identity = read_identity(path)?;
        let dir = DataDir { path: path.to_path_buf(), identity, _lock: lock };
        for sub in [dir.log_dir(), dir.engine_dir()] {
            fs::create_dir_all(&sub).map_err(at(&sub))?;
        }
        sync_dir(path).map_err(at(path))?;
        Ok(dir)
    }

    fn lock(path: &Path) -> Result<File, DataDirError> {
        let lock_path = path.join(LOCK);
        let io = |error| DataDirError::Io { path: lock_path.clone(), error };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(DataDirError::Locked { path: path.to_path_buf() }),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// This node's identity, 16 hexadecimal digits.
    pub fn node_id(&self) -> &str {
        &self.identity.node_id
    }

    /// Where the log's segments are.
    pub fn log_dir(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the engine's files are.
    pub fn engine_dir(&self) -> PathBuf {
        self.path.join("data")
    }
}

fn read_identity(dir: &Path) -> Result<Identity, DataDirError> {
    let path = dir.join(IDENTITY);
    let text = fs::read_to_string(&path).map_err(|error| DataDirError::Io { path: path.clone(), error })?;
    let table: toml::Table = toml::from_str(&text)
        .map_err(|error| DataDirError::Damaged { path: path.clone(), why: error.message().to_owned() })?;
    // The format is judged first: a newer one may have fields this binary does not know.
    match table.get("format").and_then(toml::Value::as_integer) {
        Some(format) if format == i64::from(FORMAT) => {}
        Some(format) => {
            let found = u32::try_from(format).unwrap_or(u32::MAX);
            return Err(DataDirError::UnknownFormat { path: dir.to_path_buf(), found });
        }
        None => return Err(DataDirError::Damaged { path, why: "it names no format".to_owned() }),
    }
    table.try_into().map_err(|error: toml::de::Error| DataDirError::Damaged { path, why: error.message().to_owned() })
}

/// Written beside, synced, and moved into place, so that the file is either whole or not there.
fn write_identity(dir: &Path, identity: &Identity) -> io::Result<()> {
    let text = toml::to_string(identity).map_err(io::Error::other)?;
    let beside = dir.join("IDENTITY.new");
    let mut file = File::create(&beside)?;
    file.write_all(b"# What this directory is. Do not edit.\n")?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, dir.join(IDENTITY))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_the_identity_it_was_made_with() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b");
        let first = DataDir::open(&path, 7).unwrap().node_id().to_owned();
        assert_eq!(first, "0000000000000007");
        assert_eq!(DataDir::open(&path, 8).unwrap().node_id(), first);
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let held = DataDir::open(scratch.path(), 1).unwrap();
        assert!(matches!(DataDir::open(scratch.path(), 2), Err(DataDirError::Locked { .. })));
        drop(held);
        DataDir::open(scratch.path(), 3).unwrap();
    }

    #[test]
    fn a_foreign_directory_is_refused_and_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("thesis.txt"), "years of work").unwrap();
        assert!(matches!(DataDir::open(scratch.path(), 1), Err(DataDirError::Foreign { .. })));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_first_start_that_was_cut_short_can_be_repeated() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("IDENTITY.new"), "form").unwrap();
        fs::write(scratch.path().join(LOCK), "").unwrap();
        DataDir::open(scratch.path(), 1).unwrap();
    }

    #[test]
    fn an_unknown_format_and_a_damaged_identity_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join(IDENTITY), "format = 99\nsomething = true\n").unwrap();
        assert!(matches!(DataDir::open(scratch.path(), 1), Err(DataDirError::UnknownFormat { found: 99, .. })));
        for damaged in ["form", "node_id = \"1\"", "format = 1", "format = 1\nnode_id = \"1\"\nmore = 2"] {
            fs::write(scratch.path().join(IDENTITY), damaged).unwrap();
            let error = DataDir::open(scratch.path(), 1).unwrap_err();
            assert!(matches!(error, DataDirError::Damaged { .. }), "{damaged}: {error}");
        }
    }
}
