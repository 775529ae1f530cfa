//! A filesystem so small that a test can fill it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// A file of the test's own, which takes up room.
const FILLER: &str = "FILLER";

/// How often a disk is filled anew because others took room meanwhile.
const ATTEMPTS: usize = 100;

/// A filesystem in memory, mounted at a directory. It is taken away when dropped, even from a process that still uses it.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts an empty filesystem of `bytes` at the empty directory `at`.
    ///
    /// # Errors
    ///
    /// Why this machine or user cannot, to be printed by a test that is skipped.
    pub fn mount(at: &Path, bytes: u64) -> Result<SmallDisk, String> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(at);
        let output = command.output().map_err(|error| format!("cannot run mount: {error}"))?;
        if output.status.success() {
            Ok(SmallDisk { at: at.to_owned() })
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// Bytes that are free.
    ///
    /// # Errors
    ///
    /// The filesystem does not tell.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let figures = statvfs(&self.at)?;
        Ok(figures.f_bavail * figures.f_frsize)
    }

    /// Takes up all room but `left`, beside what there is already.
    ///
    /// # Errors
    ///
    /// There is not so much room.
    pub fn fill_but(&self, left: u64) -> io::Result<()> {
        let filler = File::options().create(true).append(true).open(self.at.join(FILLER))?;
        for _ in 0..ATTEMPTS {
            let length = filler.metadata()?.len();
            let more = self.free_bytes()?.saturating_sub(left);
            if more == 0 {
                return Ok(());
            }
            match fallocate(&filler, FallocateFlags::empty(), length, more) {
                // Others took room since it was measured, which takes some of what is to be filled.
                Err(Errno::NOSPC) => {}
                done => return done.map_err(io::Error::from),
            }
        }
        Err(Errno::NOSPC.into())
    }

    /// Gives the room back.
    ///
    /// # Errors
    ///
    /// It was not filled.
    pub fn empty(&self) -> io::Result<()> {
        std::fs::remove_file(self.at.join(FILLER))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // If even this fails, the mount goes with the machine; the test has its verdict.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
