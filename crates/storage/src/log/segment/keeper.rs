//! [`Keeper`]: prepares segments ahead of need and takes back those that nobody needs, off the append path.
//!
//! One prepared segment waits at any time. A retired one becomes the next, which saves writing it full of zeros; beyond
//! [`SPARES_MAX`] it is removed. Segments are retired oldest first, each rename durable before the next, so that the
//! segments that are left never have a gap; after one failure no more are retired.
//!
//! A segment that cannot be prepared is told in the figures while the log still goes on. Only when the writer needs it,
//! and it fails once more, does the writer fail.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::SegmentFile;
use crate::log::LogError;
use crate::log::disk::{Disk, DiskFile};

/// Prepared segments kept at most: the one that is needed next, and one that came back early.
const SPARES_MAX: usize = 2;

/// A file of the right length, all of it written, without a name in the log yet.
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Box<dyn DiskFile>,
}

pub(crate) struct Keeper {
    disk: Arc<dyn Disk>,
    segment_bytes: u32,
    state: Mutex<State>,
    wake: Condvar,
    /// Whether a thread runs [`Keeper::run`]. Without one the writer does the work when it needs it.
    threaded: bool,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Spare>,
    retired: VecDeque<Arc<SegmentFile>>,
    /// Number in the name of the next file.
    next_name: u64,
    /// Why the last preparation failed.
    error: Option<LogError>,
    /// Why retiring stopped for good.
    retire_error: Option<LogError>,
    closed: bool,
}

pub(crate) fn is_spare_name(name: &str) -> bool {
    name.starts_with("spare-")
}

impl Keeper {
    /// Takes over the spare files `names` that an earlier run left, as far as they can be used; removes the others.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        segment_bytes: u32,
        names: Vec<String>,
        threaded: bool,
    ) -> Result<Keeper, LogError> {
        let mut state = State::default();
        for name in names {
            let path = disk.path(&name);
            let number = name.strip_prefix("spare-").and_then(|number| number.parse::<u64>().ok());
            state.next_name = state.next_name.max(number.map_or(0, |number| number.saturating_add(1)));
            if number.is_some() && state.ready.len() < SPARES_MAX {
                let file = disk.open(&name).map_err(|error| LogError::io("open", &path, error))?;
                let bytes_len = file.bytes_len().map_err(|error| LogError::io("look at", &path, error))?;
                if bytes_len == u64::from(segment_bytes) {
                    state.ready.push_back(Spare { name, file });
                    continue;
                }
            }
            match disk.remove(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LogError::io("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(Keeper { disk, segment_bytes, state: Mutex::new(state), wake: Condvar::new(), threaded })
    }

    /// A prepared segment, at once if there is one. Waits for the disk if there is none.
    pub(crate) fn take(&self) -> Result<Spare, LogError> {
        let mut state = self.lock();
        // An earlier failure gets one more chance now that it matters: room may have come since.
        state.error = None;
        self.wake.notify_all();
        loop {
            if let Some(spare) = state.ready.pop_front() {
                self.wake.notify_all();
                return Ok(spare);
            }
            if let Some(error) = &state.error {
                return Err(error.clone());
            }
            if self.threaded && !state.closed {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                drop(state);
                self.work();
                state = self.lock();
            }
        }
    }

    /// Forgets that the last preparation failed: it is tried again.
    pub(crate) fn prepare_again(&self) {
        self.lock().error = None;
        self.wake.notify_all();
    }

    /// Takes back a segment that no range needs any more. Oldest first.
    pub(crate) fn retire(&self, segment: Arc<SegmentFile>) {
        self.lock().retired.push_back(segment);
        self.wake.notify_all();
    }

    /// Prepared segments, and what went wrong.
    pub(crate) fn stats(&self) -> (u64, Option<String>) {
        let state = self.lock();
        let error = state.error.as_ref().or(state.retire_error.as_ref());
        (state.ready.len() as u64, error.map(ToString::to_string))
    }

    /// Works until closed. The body of the keeper's thread.
    pub(crate) fn run(&self) {
        loop {
            self.work();
            let mut state = self.lock();
            while !state.closed && !state.has_work() {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                return;
            }
        }
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Does all that there is to do. The lock is not held while the disk works.
    pub(crate) fn work(&self) {
        loop {
            let mut state = self.lock();
            if let Some(segment) = state.retired.pop_front() {
                if state.retire_error.is_some() {
                    continue;
                }
                let name = state.take_name();
                let keep = state.ready.len() < SPARES_MAX;
                drop(state);
                let result = self.take_back(segment, name, keep);
                let mut state = self.lock();
                match result {
                    Ok(spare) => state.ready.extend(spare),
                    Err(error) => {
                        tracing::error!(%error, "no log segment is retired any more");
                        state.retire_error = Some(error);
                    }
                }
            } else if state.wants_spare() {
                let name = state.take_name();
                drop(state);
                let result = self.prepare(name);
                let mut state = self.lock();
                match result {
                    Ok(spare) => state.ready.push_back(spare),
                    Err(error) => {
                        tracing::error!(%error, "the next log segment could not be prepared");
                        state.error = Some(error);
                    }
                }
            } else {
                return;
            }
            self.wake.notify_all();
        }
    }

    fn prepare(&self, name: String) -> Result<Spare, LogError> {
        let making = format!("{name}.making");
        let path = self.disk.path(&making);
        let file = self.disk.create(&making, self.segment_bytes).map_err(|error| {
            // What was allocated of it must not keep the disk full. If even this fails, the next start removes it.
            let _removed = self.disk.remove(&making);
            LogError::io("allocate", &path, error)
        })?;
        self.disk.rename(&making, &name).map_err(|error| LogError::io("rename", &path, error))?;
        Ok(Spare { name, file })
    }

    /// Makes the segment a spare, if it is wanted and no reader has it open; removes it otherwise.
    fn take_back(&self, segment: Arc<SegmentFile>, name: String, keep: bool) -> Result<Option<Spare>, LogError> {
        let path = segment.path.clone();
        let spare = match Arc::try_unwrap(segment) {
            Ok(segment) if keep && segment.bytes == self.segment_bytes => {
                self.disk.rename(&segment.name, &name).map_err(|error| LogError::io("rename", &path, error))?;
                Some(Spare { name, file: segment.file })
            }
            Ok(segment) => {
                self.remove(&segment)?;
                None
            }
            Err(in_use) => {
                self.remove(&in_use)?;
                None
            }
        };
        self.disk.sync().map_err(|error| LogError::io("fsync the directory of", &path, error))?;
        Ok(spare)
    }

    fn remove(&self, segment: &SegmentFile) -> Result<(), LogError> {
        self.disk.remove(&segment.name).map_err(|error| LogError::io("remove", &segment.path, error))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock can leave the state half changed, so a panic elsewhere does not make it unusable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wants_spare(&self) -> bool {
        self.ready.is_empty() && self.error.is_none()
    }

    fn has_work(&self) -> bool {
        !self.retired.is_empty() || self.wants_spare()
    }

    fn take_name(&mut self) -> String {
        self.next_name += 1;
        format!("spare-{}", self.next_name)
    }
}
