//! What the disk takes for the least that a durable write can be: a block, and `fdatasync`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::histogram::Histogram;

const BLOCK: [u8; 4096] = [b'x'; 4096];

/// Blocks of the file that is written over and over.
const BLOCKS: u64 = 256;

/// A file whose blocks are all there, as those of a log that was prepared.
#[derive(Debug)]
pub struct Probe {
    file: File,
    next: u64,
}

impl Probe {
    /// A probe of the disk that `directory` is on.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn new(directory: &Path) -> io::Result<Probe> {
        let file = File::create(directory.join("probe"))?;
        for block in 0..BLOCKS {
            file.write_all_at(&BLOCK, block * BLOCK.len() as u64)?;
        }
        file.sync_all()?;
        Ok(Probe { file, next: 0 })
    }

    /// Writes and syncs so many blocks, one after the other.
    ///
    /// # Errors
    ///
    /// The disk fails.
    pub fn run(&mut self, times: u32, into: &mut Histogram) -> io::Result<()> {
        for _ in 0..times {
            let begun = Instant::now();
            self.file.write_all_at(&BLOCK, self.next % BLOCKS * BLOCK.len() as u64)?;
            self.file.sync_data()?;
            into.add(begun.elapsed(), 1);
            self.next += 1;
        }
        Ok(())
    }
}
