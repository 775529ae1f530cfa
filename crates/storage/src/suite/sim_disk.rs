//! [`SimDisk`]: a disk in memory that can lose power at any operation, and fail any operation.
//!
//! A file has what readers see and what is durable. A power loss decides for each sector of 512 bytes that was written
//! and not synced, on its own, whether it reached the disk; so a write of several sectors can be torn anywhere, with
//! later parts there and earlier ones not. Names behave alike: of the changes since the last sync of the directory the
//! first few survive. A sync that fails leaves what it should have written neither durable nor to be written by the next
//! sync, as Linux does: the pages are clean, and only a write makes them dirty again.
//!
//! Operations are counted; [`SimDisk::cut_power_after`] stops the disk at one of them, so that a test can go through all.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::log::disk::{Disk, DiskFile};
use crate::mix::Mix;

const SECTOR_BYTES: usize = 512;

/// See the [module](self). Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    files: BTreeMap<u64, Content>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since the last sync, oldest first.
    name_changes: Vec<NameChange>,
    operations: u64,
    power_cut_at: Option<u64>,
    failures: Vec<Failure>,
    /// Set when syncs do nothing, to see a test of durability fail.
    syncs_lie: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    /// Shared with copies of the disk until one of them writes.
    seen: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone, Debug)]
struct Failure {
    operation: Operation,
    kind: io::ErrorKind,
    /// How many more times; `u64::MAX` for ever.
    times: u64,
}

/// What a disk can be made to fail at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Making a file.
    Create,
    /// Reading from one.
    Read,
    /// Writing into one.
    Write,
    /// Syncing one.
    SyncFile,
    /// Renaming one.
    Rename,
    /// Removing one.
    Remove,
    /// Syncing the names.
    SyncNames,
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// The disk as it is after a power loss right now: `seed` chooses what of the unsynced survives. This one goes on as
    /// if nothing had happened; whoever still uses it is a process that no longer exists.
    #[must_use]
    pub fn lose_power(&self, seed: u64) -> SimDisk {
        let state = self.lock();
        let mut mix = Mix::new(seed);
        let mut names = state.durable_names.clone();
        let survivors = mix.up_to(state.name_changes.len() as u64) as usize;
        for change in &state.name_changes[..survivors] {
            change.apply(&mut names);
        }
        let mut files = BTreeMap::new();
        for file in names.values() {
            let content = state.files[file].after_power_loss(&mut mix);
            files.insert(*file, Content::of(content));
        }
        let survived = State {
            files,
            next_file: state.next_file,
            durable_names: names.clone(),
            names,
            syncs_lie: state.syncs_lie,
            ..State::default()
        };
        SimDisk { state: Arc::new(Mutex::new(survived)) }
    }

    /// A copy with everything as it is seen, as a process that is killed leaves it to the next.
    #[must_use]
    pub fn fork(&self) -> SimDisk {
        let mut state = self.lock().clone();
        state.power_cut_at = None;
        state.failures.clear();
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Every operation from number `operations` on fails, as when the power is off.
    pub fn cut_power_after(&self, operations: u64) {
        self.lock().power_cut_at = Some(operations);
    }

    /// How many operations that change something there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The next `times` operations of this sort fail.
    pub fn fail(&self, operation: Operation, kind: io::ErrorKind, times: u64) {
        self.lock().failures.push(Failure { operation, kind, times });
    }

    /// From now on syncs claim success and do nothing.
    pub fn let_syncs_lie(&self) {
        self.lock().syncs_lie = true;
    }

    /// The names that are there.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// The content of a file.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn content(&self, name: &str) -> Vec<u8> {
        let state = self.lock();
        state.files[&state.names[name]].seen.to_vec()
    }

    /// Replaces the content of a file, durably, behind the back of whoever uses it.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn damage(&self, name: &str, content: Vec<u8>) {
        let mut state = self.lock();
        let file = state.names[name];
        state.files.insert(file, Content::of(content));
    }

    /// Removes a file, durably.
    pub fn lose_file(&self, name: &str) {
        let mut state = self.lock();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation and fails it when it is to fail.
    fn begin(&self, operation: Operation) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if state.power_is_cut() {
            return Err(power_is_off());
        }
        if operation != Operation::Read {
            state.operations += 1;
        }
        let failure = state.failures.iter_mut().find(|failure| failure.operation == operation && failure.times > 0);
        if let Some(failure) = failure {
            failure.times = if failure.times == u64::MAX { u64::MAX } else { failure.times - 1 };
            return Err(failure.kind.into());
        }
        Ok(state)
    }
}

impl Content {
    fn of(content: Vec<u8>) -> Content {
        let content = Arc::new(content);
        Content { seen: Arc::clone(&content), durable: content, dirty: BTreeSet::new() }
    }

    fn write(&mut self, bytes: &[u8], start: usize) -> io::Result<()> {
        let into = Arc::make_mut(&mut self.seen).get_mut(start..start + bytes.len());
        into.ok_or_else(|| io::Error::other("a write beyond the end of the file"))?.copy_from_slice(bytes);
        self.dirty.extend(start / SECTOR_BYTES..(start + bytes.len()).div_ceil(SECTOR_BYTES));
        Ok(())
    }

    fn sector(&self, sector: usize) -> Range<usize> {
        sector * SECTOR_BYTES..self.seen.len().min((sector + 1) * SECTOR_BYTES)
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            let sector = self.sector(sector);
            Arc::make_mut(&mut self.durable)[sector.clone()].copy_from_slice(&self.seen[sector]);
        }
    }

    fn after_power_loss(&self, mix: &mut Mix) -> Vec<u8> {
        let mut content = self.durable.to_vec();
        // A disk that was merely slow, one that wrote all, and one that wrote anything in between.
        let (some, all) = (mix.up_to(2), mix.up_to(1) == 1);
        for sector in &self.dirty {
            if if some == 0 { all } else { mix.up_to(1) == 1 } {
                let sector = self.sector(*sector);
                content[sector.clone()].copy_from_slice(&self.seen[sector]);
            }
        }
        content
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Link(name, file) => {
                names.insert(name.clone(), *file);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl State {
    fn power_is_cut(&self) -> bool {
        self.power_cut_at.is_some_and(|at| self.operations >= at)
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = *self.lock().names.get(name).ok_or_else(not_found)?;
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn create(&self, name: &str, bytes: u32) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.begin(Operation::Create)?;
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, Content::of(vec![0; bytes as usize]));
        state.change_names(NameChange::Link(name.to_owned(), file));
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.begin(Operation::Rename)?;
        if !state.names.contains_key(from) {
            return Err(not_found());
        }
        state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.begin(Operation::Remove)?;
        if !state.names.contains_key(name) {
            return Err(not_found());
        }
        state.change_names(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.begin(Operation::SyncNames)?;
        if !state.syncs_lie {
            state.name_changes.clear();
            state.durable_names = state.names.clone();
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/sim").join(name)
    }
}

struct SimFile {
    disk: SimDisk,
    file: u64,
}

impl DiskFile for SimFile {
    fn bytes_len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[&self.file].seen.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.begin(Operation::Read)?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = state.files[&self.file].seen.get(start..start + into.len());
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.begin(Operation::Write)?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let content = state.files.get_mut(&self.file).ok_or_else(not_found)?;
        content.write(bytes, start)
    }

    fn sync_data(&self) -> io::Result<()> {
        let begun = self.disk.begin(Operation::SyncFile);
        let mut state = match begun {
            Ok(state) => state,
            Err(error) => {
                let mut state = self.disk.lock();
                if !state.power_is_cut()
                    && let Some(content) = state.files.get_mut(&self.file)
                {
                    content.dirty.clear();
                }
                return Err(error);
            }
        };
        if !state.syncs_lie {
            state.files.get_mut(&self.file).ok_or_else(not_found)?.sync();
        }
        Ok(())
    }
}
