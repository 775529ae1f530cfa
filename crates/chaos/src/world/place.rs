//! Where a node lives: a directory of the real disk or of a small one, its journal of writes, and its log of what it said.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use dstore_testkit::powerloss::{PowerLoss, Style};
use dstore_testkit::small_disk::SmallDisk;

/// Bytes of a small disk, and what is left of them when it is called full: far below a quarter of the floor that nodes
/// are given, and enough for what the kernel adds.
const DISK_BYTES: u64 = 256 << 20;
const LEFT_BYTES: u64 = 2 << 20;

/// One node's.
#[derive(Debug)]
pub struct Place {
    data: PathBuf,
    journal: PathBuf,
    log: PathBuf,
    power: PowerLoss,
    /// A process has run since the power was last cut; the next one needs that settled.
    is_unsettled: bool,
    lives: u32,
    // Last: it goes when nobody uses it any more.
    disk: Option<SmallDisk>,
}

/// Writes a secret that only its owner may read.
///
/// # Errors
///
/// The directory cannot be written.
pub fn write_secret(directory: &Path) -> io::Result<PathBuf> {
    let path = directory.join("secret");
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
    file.write_all(b"a secret for the nodes of one run")?;
    Ok(path)
}

fn watch(data: &Path, journal: &Path) -> Result<PowerLoss> {
    std::fs::create_dir_all(data)?;
    // RocksDB's text log goes through stdio, which the library does not see; nobody reads it back.
    Ok(PowerLoss::watch(data, journal)?.tolerate("LOG"))
}

impl Place {
    /// Makes a node's place in the directory of a run.
    ///
    /// # Errors
    ///
    /// It cannot be made, or nothing may be mounted.
    pub fn make(directory: &Path, number: usize, is_small: bool) -> Result<Place> {
        let home = directory.join(format!("node{number}"));
        std::fs::create_dir_all(&home)?;
        let disk = if is_small {
            Some(SmallDisk::mount(&home, DISK_BYTES).map_err(anyhow::Error::msg).context("cannot mount a small disk")?)
        } else {
            None
        };
        let (data, journal) = (home.join("data"), directory.join(format!("node{number}.journal")));
        let log = directory.join(format!("node{number}.log"));
        let power = watch(&data, &journal)?;
        Ok(Place { data, journal, log, power, is_unsettled: false, lives: 0, disk })
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The file with all that was said there.
    pub fn log(&self) -> PathBuf {
        self.log.clone()
    }

    /// How many nodes lived here before this one.
    pub fn lives(&self) -> u32 {
        self.lives
    }

    /// The library that watches, and spoils, what is done to the directory.
    pub fn power(&self) -> &PowerLoss {
        &self.power
    }

    /// The same command, watched.
    pub fn watched(&mut self, command: &Command) -> Command {
        let mut watched = Command::new(command.get_program());
        watched.args(command.get_args());
        self.power.attach(&mut watched);
        self.is_unsettled = true;
        watched
    }

    /// Leaves the directory as a power cut of this style would, after its process was killed or ended. Nothing is lost
    /// in [`Style::Best`].
    ///
    /// # Errors
    ///
    /// Something was written that the library did not see: then the run proves nothing.
    pub fn settle(&mut self, style: Style, seed: u64) -> Result<()> {
        if std::mem::take(&mut self.is_unsettled) {
            // What the cut leaves needs room to be written, and nobody runs who could tell.
            let _ = self.empty(); // unless it is not full
            self.power.cut(style, seed)?;
        }
        Ok(())
    }

    /// Takes up all room.
    ///
    /// # Errors
    ///
    /// The disk is not small, or full already.
    pub fn fill(&self) -> Result<(), String> {
        let disk = self.disk.as_ref().ok_or("its disk is large")?;
        disk.fill_but(LEFT_BYTES).map_err(|error| error.to_string())
    }

    /// Gives the room back.
    ///
    /// # Errors
    ///
    /// The disk is not small, or not full.
    pub fn empty(&self) -> Result<(), String> {
        let disk = self.disk.as_ref().ok_or("its disk is large")?;
        disk.empty().map_err(|error| error.to_string())
    }

    /// Throws everything away: the next process is a new node.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub fn renew(&mut self) -> Result<()> {
        let _ = self.empty(); // unless it is not full
        std::fs::remove_dir_all(&self.data)?;
        self.power = watch(&self.data, &self.journal)?;
        self.is_unsettled = false;
        self.lives += 1;
        Ok(())
    }

    /// What was said there last.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}
