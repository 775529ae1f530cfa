//! The data directory: whose it is, which format it has, and that one process uses it at a time.
//!
//! ```text
//! DIR/IDENTITY      which node of which cluster this is; see crate::identity
//! DIR/INCARNATION   how often a process has begun to use the directory, in decimal
//! DIR/LOCK          locked while a process uses the directory
//! DIR/log/          segment files of the log
//! DIR/data/         RocksDB
//! ```
//!
//! Both small files are written beside, synced and moved into place, so each is either whole or as it was before.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use dstore_rpc::Incarnation;

use crate::identity::{FORMAT, Identity, IdentityError};

const IDENTITY: &str = "IDENTITY";
const INCARNATION: &str = "INCARNATION";
const LOCK: &str = "LOCK";

/// What a first start that was cut short may leave behind, and what file systems put into their root.
const NO_TRACES: &[&str] = &[LOCK, INCARNATION, "INCARNATION.new", "IDENTITY.new", "lost+found"];

/// A data directory this process holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// None until the first start has decided it.
    identity: Option<Identity>,
    /// Greater than that of every process that held the directory before; on disk before anybody is told.
    incarnation: Incarnation,
    /// Held for as long as the process lives; the kernel drops it with the process, however that ends.
    _lock: File,
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
    /// It was written by a version that is older, or newer, than this one reads.
    #[error("data directory {path} has format {found}; this binary reads format {FORMAT} and no other", path = path.display())]
    UnknownFormat {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
}

impl DataDirError {
    /// Whether the disk is to blame, and not whoever named the directory.
    pub fn is_of_disk(&self) -> bool {
        use io::ErrorKind::{
            AlreadyExists, InvalidFilename, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
        };
        match self {
            DataDirError::Io { error, .. } => !matches!(
                error.kind(),
                AlreadyExists | InvalidFilename | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem
            ),
            // What is damaged is a text, which somebody may have edited.
            DataDirError::Damaged { .. }
            | DataDirError::Locked { .. }
            | DataDirError::Foreign { .. }
            | DataDirError::UnknownFormat { .. } => false,
        }
    }
}

impl DataDir {
    /// Opens the directory at `path`, makes it when there is none, and counts this use of it.
    ///
    /// # Errors
    ///
    /// See [`DataDirError`]. A directory that is refused is left as it was.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |error| DataDirError::Io { path, error }
        };
        let existed = path.exists();
        fs::create_dir_all(path).map_err(at(path))?;
        if !existed {
            sync_parent(path).map_err(at(path))?;
        }
        let names = fs::read_dir(path).map_err(at(path))?.filter_map(|entry| Some(entry.ok()?.file_name()));
        let names: Vec<_> = names.collect();
        let known = names.iter().any(|name| name == IDENTITY);
        if !known && names.iter().any(|name| NO_TRACES.iter().all(|trace| name != trace)) {
            return Err(DataDirError::Foreign { path: path.to_path_buf() });
        }
        let lock = Self::lock(path)?;
        // Another process may have made the directory its own before it was locked: only now it stands still.
        let identity = read_identity(path)?;
        let incarnation = Incarnation(read_incarnation(path, identity.is_some())?.0 + 1);
        write_beside(path, INCARNATION, &format!("{}\n", incarnation.0)).map_err(at(&path.join(INCARNATION)))?;
        let dir = DataDir { path: path.to_path_buf(), identity, incarnation, _lock: lock };
        if dir.identity.is_some() {
            dir.make_rooms()?;
        }
        Ok(dir)
    }

    /// Says from now on, and durably, that this is the directory of `identity`.
    ///
    /// # Errors
    ///
    /// The disk refuses; what the directory says then is not known.
    pub fn set_identity(&mut self, identity: Identity) -> Result<(), DataDirError> {
        let path = self.path.join(IDENTITY);
        write_beside(&self.path, IDENTITY, &identity.encode()).map_err(|error| DataDirError::Io { path, error })?;
        self.identity = Some(identity);
        self.make_rooms()
    }

    fn make_rooms(&self) -> Result<(), DataDirError> {
        for room in [self.log_dir(), self.engine_dir()] {
            fs::create_dir_all(&room).map_err(|error| DataDirError::Io { path: room, error })?;
        }
        sync_dir(&self.path).map_err(|error| DataDirError::Io { path: self.path.clone(), error })
    }

    /// Whether a process holds the directory at `path` at the moment.
    pub fn is_in_use(path: &Path) -> bool {
        path.join(LOCK).exists() && matches!(Self::lock(path), Err(DataDirError::Locked { .. }))
    }

    fn lock(path: &Path) -> Result<File, DataDirError> {
        let lock_path = path.join(LOCK);
        let io = |error| DataDirError::Io { path: lock_path.clone(), error };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(io)?;
        try_lock(path, file)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself; nothing yet on the first start.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Which use of the directory this is: 1 for the first.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
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

/// A data directory that no process uses, to look at. Nothing in it is changed, and none starts to use it meanwhile.
#[derive(Debug)]
pub struct Look {
    path: PathBuf,
    /// None where the directory was never locked.
    _lock: Option<File>,
}

impl DataDir {
    /// Looks at the directory at `path`.
    ///
    /// # Errors
    ///
    /// It is not there, or a process uses it.
    pub fn look(path: &Path) -> Result<Look, DataDirError> {
        let io = |path: PathBuf| move |error| DataDirError::Io { path, error };
        fs::read_dir(path).map_err(io(path.to_path_buf()))?;
        let lock_path = path.join(LOCK);
        let lock = match File::open(&lock_path) {
            Ok(file) => Some(try_lock(path, file)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(lock_path)(error)),
        };
        Ok(Look { path: path.to_path_buf(), _lock: lock })
    }
}

impl Look {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is, if anybody's.
    ///
    /// # Errors
    ///
    /// It is damaged, or of another format.
    pub fn identity(&self) -> Result<Option<Identity>, DataDirError> {
        read_identity(&self.path)
    }

    /// How often it was used.
    ///
    /// # Errors
    ///
    /// It is damaged.
    pub fn incarnation(&self) -> Result<Incarnation, DataDirError> {
        read_incarnation(&self.path, true)
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

fn try_lock(path: &Path, file: File) -> Result<File, DataDirError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::Locked { path: path.to_path_buf() }),
        Err(TryLockError::Error(error)) => Err(DataDirError::Io { path: path.join(LOCK), error }),
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>, DataDirError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DataDirError::Io { path: path.to_path_buf(), error }),
    }
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, DataDirError> {
    let path = dir.join(IDENTITY);
    let Some(text) = read_if_there(&path)? else { return Ok(None) };
    match Identity::decode(&text) {
        Ok(identity) => Ok(Some(identity)),
        Err(IdentityError::Format(found)) => Err(DataDirError::UnknownFormat { path: dir.to_path_buf(), found }),
        Err(IdentityError::Damaged(why)) => Err(DataDirError::Damaged { path, why }),
    }
}

/// How often the directory was used. It is written before the identity, so only a new directory may lack it: a node that
/// began to count anew would be taken for its own past.
fn read_incarnation(dir: &Path, has_identity: bool) -> Result<Incarnation, DataDirError> {
    let path = dir.join(INCARNATION);
    match read_if_there(&path)? {
        Some(text) => match text.trim().parse().ok().filter(|count| *count < u64::MAX) {
            Some(count) => Ok(Incarnation(count)),
            None => Err(DataDirError::Damaged { path, why: "it is no number of starts".to_owned() }),
        },
        None if has_identity => Err(DataDirError::Damaged { path, why: "it is missing".to_owned() }),
        None => Ok(Incarnation(0)),
    }
}

/// Writes a file of the directory so that it is either whole and durable, or as it was.
fn write_beside(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let beside = dir.join(format!("{name}.new"));
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, dir.join(name))?;
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
    use dstore_rpc::NodeId;

    use super::*;
    use crate::identity::Standing;

    fn new(node: u64) -> Identity {
        Identity { node: NodeId(node), standing: Standing::New }
    }

    #[test]
    fn a_directory_keeps_its_identity_and_counts_its_uses() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b");
        let mut first = DataDir::open(&path).unwrap();
        assert_eq!((first.identity(), first.incarnation()), (None, Incarnation(1)));
        first.set_identity(new(7)).unwrap();
        drop(first);
        for uses in 2..5 {
            let again = DataDir::open(&path).unwrap();
            assert_eq!((again.identity(), again.incarnation()), (Some(&new(7)), Incarnation(uses)));
        }
    }

    #[test]
    fn a_disk_that_fails_is_told_from_a_directory_that_cannot_be_one() {
        let of = |error: io::Error| DataDirError::Io { path: "d".into(), error }.is_of_disk();
        assert!(of(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())));
        assert!(of(io::ErrorKind::StorageFull.into()));
        assert!(!of(io::ErrorKind::PermissionDenied.into()));
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [&file, &file.join("within")] {
            assert!(!DataDir::open(path).unwrap_err().is_of_disk());
        }
        fs::write(scratch.path().join(IDENTITY), "no identity").unwrap();
        assert!(DataDir::open(scratch.path()).is_err_and(|error| !error.is_of_disk()));
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let held = DataDir::open(scratch.path()).unwrap();
        assert!(matches!(DataDir::open(scratch.path()), Err(DataDirError::Locked { .. })));
        drop(held);
        assert_eq!(DataDir::open(scratch.path()).unwrap().incarnation(), Incarnation(2), "a refusal is no use");
    }

    #[test]
    fn a_foreign_directory_is_refused_and_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("thesis.txt"), "years of work").unwrap();
        assert!(matches!(DataDir::open(scratch.path()), Err(DataDirError::Foreign { .. })));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_first_start_that_was_cut_short_can_be_repeated() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("IDENTITY.new"), "form").unwrap();
        fs::write(scratch.path().join("INCARNATION.new"), "").unwrap();
        fs::write(scratch.path().join(INCARNATION), "3\n").unwrap();
        fs::write(scratch.path().join(LOCK), "").unwrap();
        assert_eq!(DataDir::open(scratch.path()).unwrap().incarnation(), Incarnation(4));
    }

    #[test]
    fn other_formats_and_damage_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        for (text, format) in [("format = 1\nnode_id = \"0123456789abcdef\"\n", 1), ("format = 99\nmore = true\n", 99)]
        {
            fs::write(scratch.path().join(IDENTITY), text).unwrap();
            let error = DataDir::open(scratch.path()).unwrap_err();
            assert!(matches!(error, DataDirError::UnknownFormat { found, .. } if found == format), "{error}");
        }
        fs::write(scratch.path().join(IDENTITY), "form").unwrap();
        assert!(matches!(DataDir::open(scratch.path()), Err(DataDirError::Damaged { .. })));
        // A node that forgot how often it was started would be taken for its own past.
        fs::write(scratch.path().join(IDENTITY), new(7).encode()).unwrap();
        assert!(matches!(DataDir::open(scratch.path()), Err(DataDirError::Damaged { .. })));
        fs::write(scratch.path().join(INCARNATION), "many").unwrap();
        assert!(matches!(DataDir::open(scratch.path()), Err(DataDirError::Damaged { .. })));
    }
}
