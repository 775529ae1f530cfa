//! [`Disk`]: the few file operations the segment log needs, so that tests can fail them, cut the power between them, and
//! see what is left. [`Directory`] is the real one, [`ReadOnly`] the one of whoever only looks.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// A directory of files. All names are plain file names.
pub trait Disk: Send + Sync {
    /// The names that are there, in any order.
    ///
    /// # Errors
    /// Whatever the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file that is there.
    ///
    /// # Errors
    /// Whatever the system says.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Makes a file of `bytes` zero bytes, replacing one that is there, and makes its content durable, with every block
    /// written: a later sync of a write into it needs no metadata.
    ///
    /// # Errors
    /// Whatever the system says; a full disk is told here.
    fn create(&self, name: &str, bytes: u32) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name. Durable after [`Disk::sync`].
    ///
    /// # Errors
    /// Whatever the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; those who have it open can still read it. Durable after [`Disk::sync`].
    ///
    /// # Errors
    /// Whatever the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    ///
    /// # Errors
    /// Whatever the system says.
    fn sync(&self) -> io::Result<()>;

    /// The whole path of a file, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Its length.
    ///
    /// # Errors
    /// Whatever the system says.
    fn bytes_len(&self) -> io::Result<u64>;

    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// Whatever the system says, and when the file ends before `into` is full.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, inside the file.
    ///
    /// # Errors
    /// Whatever the system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Whatever the system says. After an error nobody knows what is durable; it must not be tried again.
    fn sync_data(&self) -> io::Result<()>;
}

/// A directory of the file system.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Open for syncing.
    handle: File,
}

impl Directory {
    /// Opens `path`, and makes it, durably, when it is not there.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn open(path: &Path) -> io::Result<Directory> {
        if !path.exists() {
            fs::create_dir_all(path)?;
            let absolute = path.canonicalize()?;
            if let Some(parent) = absolute.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Directory { path: path.to_owned(), handle: File::open(path)? })
    }
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        list(&self.path)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name))?;
        Ok(Box::new(file))
    }

    fn create(&self, name: &str, bytes: u32) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.path(name))?;
        // Room first, all at once: a full disk is told before a byte is written, and the blocks lie together. They are
        // still marked unwritten, so zeros follow; otherwise each first sync of a block would have to write metadata.
        // A file system that cannot reserve is told of its fullness by the zeros.
        match fallocate(&file, FallocateFlags::empty(), 0, u64::from(bytes)) {
            Err(rustix::io::Errno::OPNOTSUPP) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        let zeros = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < bytes {
            let count = (bytes - offset).min(zeros.len() as u32);
            file.write_all_at(&zeros[..count as usize], u64::from(offset))?;
            // Piece by piece: one sync of it all would hold up the syncs of the segment being written for long.
            file.sync_data()?;
            offset += count;
        }
        file.sync_all()?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// A directory of the file system in which nothing is ever changed: for looking at the files of a node that is down.
#[derive(Debug)]
pub struct ReadOnly {
    path: PathBuf,
}

impl ReadOnly {
    /// The directory at `path`.
    #[must_use]
    pub fn new(path: &Path) -> ReadOnly {
        ReadOnly { path: path.to_owned() }
    }

    fn refuse<T>() -> io::Result<T> {
        Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
    }
}

impl Disk for ReadOnly {
    fn list(&self) -> io::Result<Vec<String>> {
        list(&self.path)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::open(self.path(name))?))
    }

    fn create(&self, _: &str, _: u32) -> io::Result<Box<dyn DiskFile>> {
        ReadOnly::refuse()
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        ReadOnly::refuse()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        ReadOnly::refuse()
    }

    fn sync(&self) -> io::Result<()> {
        ReadOnly::refuse()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn list(path: &Path) -> io::Result<Vec<String>> {
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    fs::read_dir(path)?.map(name).collect()
}

impl DiskFile for File {
    fn bytes_len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}
