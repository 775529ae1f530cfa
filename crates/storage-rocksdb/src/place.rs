//! The data directory: made whole or not at all, marked with its format, and refused when it is not ours.
//!
//! A new database is made under another name beside its place, marked, synced, and renamed into place. So a directory in
//! place always has the mark and a database, and the engine never makes a database where one should have been: lost
//! files are an error, not an empty store.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::EngineError;

/// The file that says what the directory is.
const MARK: &str = "FORMAT";
/// What it says. A version that lays out the data differently writes another number.
const FORMAT: &str = "dstore data 1\n";

/// What is at the place of the data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing, or an empty directory.
    Nothing,
    /// A database of this format.
    Ours,
}

pub(crate) fn inspect(path: &Path) -> Result<Found, EngineError> {
    let refuse = |detail: String| Err(EngineError::UnknownFormat { path: path.to_owned(), detail });
    match fs::read(path.join(MARK)) {
        Ok(mark) if mark == FORMAT.as_bytes() => Ok(Found::Ours),
        Ok(mark) => {
            let mark = String::from_utf8_lossy(&mark[..mark.len().min(40)]).trim_end().to_owned();
            refuse(format!("its {MARK} says {mark:?}, expected {:?}", FORMAT.trim_end()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => refuse("it is not a directory".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_dir(path).map(Iterator::count) {
            Ok(0) => Ok(Found::Nothing),
            Ok(_) => refuse(format!("it is not empty and has no {MARK} file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(error) => Err(io_error("read", path, &error)),
        },
        Err(error) => Err(io_error("read", &path.join(MARK), &error)),
    }
}

/// Makes a database at `path`, where there is nothing: `create` is called to make it in a directory beside, which is
/// then marked and renamed into place.
pub(crate) fn create(path: &Path, create: impl FnOnce(&Path) -> Result<(), EngineError>) -> Result<(), EngineError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|error| io_error("create", parent, &error))?;
    let making = making_path(path);
    match fs::remove_dir_all(&making) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &making, &error)),
        _ => {}
    }
    create(&making)?;
    let mark = making.join(MARK);
    fs::write(&mark, FORMAT).map_err(|error| io_error("write", &mark, &error))?;
    for synced in [&mark, &making] {
        sync(synced)?;
    }
    fs::rename(&making, path).map_err(|error| io_error("rename to", path, &error))?;
    sync(parent)
}

fn making_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".making");
    path.with_file_name(name)
}

fn sync(path: &Path) -> Result<(), EngineError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| io_error("sync", path, &error))
}

pub(crate) fn io_error(action: &str, path: &Path, error: &io::Error) -> EngineError {
    let text = format!("{action} {}: {error}", path.display());
    if error.kind() == io::ErrorKind::StorageFull { EngineError::Full(text) } else { EngineError::Io(text) }
}
