//! [`MemoryEngine`]: the engine of the simulator and of tests, with the crash model of the real one.
//!
//! It keeps two maps: what readers see, and what is on the imagined disk. Batches between the two wait in order. A flush
//! moves them all; [`MemoryEngine::lose_power`] moves a seeded number of them, as the real engine flushes by itself
//! whenever a memtable fills, and forgets the others. So a prefix of the batches survives, each whole, and every flush
//! that returned is inside it.
//!
//! [`MemoryEngine::rot`] lets a block come back damaged: some records that lie together cannot be read until they are written
//! again, which is what an engine with checksums makes of it.
//!
//! A staged snapshot waits outside of both maps and goes into both at once, after the batches that wait; a power loss before
//! that forgets it.
//!
//! [`MemoryEngine::set_cold`] lets reads that must not wait find now and then that what they look for is not in memory.
//!
//! Snapshots and cursors hold the map they began with; a write while one lives copies the map. Fine for tests, and the
//! reason why this is not an engine for large data.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Caching, Cursor, Direction, Engine, EngineError, EngineStats, Reader};
use crate::WriteOp;
use crate::mix::Mix;
use crate::snapshot::{Spans, Stage};

type Map = BTreeMap<Bytes, Bytes>;

/// An [`Engine`] in memory that can lose power and fail on demand. See the [module](self).
#[derive(Debug, Default)]
pub struct MemoryEngine {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What readers see: `persisted` plus all of `unflushed`.
    current: Arc<Map>,
    /// What a power loss would leave at the least.
    persisted: Map,
    /// Batches in `current` and not in `persisted`, oldest first.
    unflushed: Vec<Vec<WriteOp>>,
    /// Set once, by [`MemoryEngine::fail_writes`]; never cleared but by a power loss.
    failed: Option<String>,
    /// Writes to refuse as busy before the next one is taken.
    busy_next: u64,
    busy_total: u64,
    /// Nothing more is staged.
    full: bool,
    /// How often the power was lost. What was staged in an earlier life is gone.
    lives: u64,
    free_bytes: Option<u64>,
    /// Records in a block that the disk does not give back as it was.
    rotten: Arc<BTreeSet<Bytes>>,
    /// Nobody looks whether a block is as it was: a planted bug.
    trusting: bool,
    /// Not everything is in memory.
    cold: Option<Cold>,
}

/// What is not in memory, as it is drawn.
#[derive(Debug)]
struct Cold {
    one_in: u64,
    mix: Mix,
    /// Keys that were read by somebody who waited, and stay in memory for a while.
    warm: Option<Warm>,
}

type Warm = Arc<Mutex<BTreeSet<Bytes>>>;

/// Keys beyond which all that is in memory is forgotten.
const WARM_KEYS_MAX: usize = 200;

impl MemoryEngine {
    /// An empty engine.
    #[must_use]
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    /// The machine loses power and comes back: what was not flushed is forgotten, except for as many of the oldest
    /// batches as `seed` says were flushed spontaneously. An injected failure is over.
    pub fn lose_power(&self, seed: u64) {
        let mut state = self.lock();
        let waiting = state.unflushed.len() as u64;
        let survivors = Mix::new(seed).up_to(waiting);
        state.persist(survivors as usize);
        state.unflushed.clear();
        state.current = Arc::new(state.persisted.clone());
        state.failed = None;
        state.busy_next = 0;
        state.lives += 1;
    }

    /// Flushes as many of the oldest batches as `seed` says, as the real engine does when a memtable fills.
    pub fn flush_some(&self, seed: u64) {
        let mut state = self.lock();
        let waiting = state.unflushed.len() as u64;
        state.persist(Mix::new(seed).up_to(waiting) as usize);
    }

    /// Lets the next `count` writes be refused with [`EngineError::Busy`].
    pub fn refuse_writes(&self, count: u64) {
        self.lock().busy_next = count;
    }

    /// From now on every write and flush fails, as after an error of the disk.
    pub fn fail_writes(&self, reason: &str) {
        self.lock().failed = Some(reason.to_owned());
    }

    /// From now on the disk does not give back a block of what is on it: some records that lie together, which `seed`
    /// chooses. An engine that is `trusting` gives other values for them instead of errors. False if nothing is on disk.
    pub fn rot(&self, seed: u64, trusting: bool) -> bool {
        let mut state = self.lock();
        let mut mix = Mix::new(seed);
        let keys = state.persisted.len() as u64;
        let (first, length) = (mix.up_to(keys.saturating_sub(1)) as usize, 1 + mix.up_to(7) as usize);
        let block = state.persisted.keys().skip(first).take(length).cloned().collect();
        (state.rotten, state.trusting) = (Arc::new(block), trusting);
        keys > 0
    }

    /// From now on there is no room for records that are staged; or there is again. Writes go on, as they do in the real
    /// engine until a flush finds none.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// What [`EngineStats::free_bytes`] tells from now on. Nothing else depends on it.
    pub fn set_free_bytes(&self, bytes: Option<u64>) {
        self.lock().free_bytes = bytes;
    }

    /// From now on one in so many reads that must not wait finds that it would have to, as `seed` says; with 0 none. If it
    /// `warms`, what was read otherwise stays in memory for a while.
    pub fn set_cold(&self, one_in: u64, seed: u64, warms: bool) {
        let cold = || Cold { one_in, mix: Mix::new(seed), warm: warms.then(Warm::default) };
        self.lock().cold = (one_in > 0).then(cold);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The data as it was written, past a block that has rotted: for whoever looks at it from outside.
    #[must_use]
    pub fn sound(&self) -> Box<dyn Reader + Send + Sync> {
        Box::new(View { rotten: Arc::default(), ..self.view() })
    }

    fn view(&self) -> View {
        let state = self.lock();
        let warm = state.cold.as_ref().and_then(|cold| cold.warm.clone());
        View { map: Arc::clone(&state.current), rotten: Arc::clone(&state.rotten), trusting: state.trusting, warm }
    }
}

fn lock_warm(warm: &Warm) -> MutexGuard<'_, BTreeSet<Bytes>> {
    warm.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note_warm(warm: Option<&Warm>, key: &[u8]) {
    let Some(warm) = warm else { return };
    let mut keys = lock_warm(warm);
    if keys.len() >= WARM_KEYS_MAX {
        keys.clear();
    }
    keys.insert(Bytes::copy_from_slice(key));
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No code under this lock can leave the state half changed, so a panic elsewhere does not make it unusable.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn check_room(&self) -> Result<(), EngineError> {
        self.check()?;
        if self.full { Err(EngineError::Full("the disk is full on demand".to_owned())) } else { Ok(()) }
    }

    fn persist(&mut self, batches: usize) {
        for batch in self.unflushed.drain(..batches) {
            apply(&mut self.persisted, &batch);
        }
    }

    /// What was written since is read from elsewhere.
    fn heal(&mut self, ops: &[WriteOp]) {
        if self.rotten.is_empty() {
            return;
        }
        let written = |key: &Bytes| {
            ops.iter().any(|op| match op {
                WriteOp::Put { key: written, .. } | WriteOp::Delete { key: written } => written == key,
                WriteOp::DeleteRange { start, end } => start <= key && key < end,
            })
        };
        Arc::make_mut(&mut self.rotten).retain(|key| !written(key));
    }

    /// How many steps a read that begins there takes before it would have to wait, if it does not come to its end before.
    fn draw_cold(&mut self, key: &[u8]) -> Option<u64> {
        let cold = self.cold.as_mut()?;
        let is_warm = cold.warm.as_ref().is_some_and(|warm| lock_warm(warm).contains(key));
        (!is_warm).then(|| cold.mix.up_to(cold.one_in - 1))
    }

    fn check(&self) -> Result<(), EngineError> {
        match &self.failed {
            Some(reason) => Err(EngineError::Failed(reason.clone())),
            None => Ok(()),
        }
    }
}

fn check(rotten: &BTreeSet<Bytes>, trusting: bool, key: &[u8]) -> Result<(), EngineError> {
    if !trusting && rotten.contains(key) {
        return Err(EngineError::Corrupt("the checksum of a block is wrong".to_owned()));
    }
    Ok(())
}

/// What an engine that does not check its blocks reads.
fn garbled(value: &Bytes) -> Bytes {
    let mut bytes = value.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes.into()
}

fn apply(map: &mut Map, ops: &[WriteOp]) {
    for op in ops {
        match op {
            WriteOp::Put { key, value } => {
                map.insert(key.clone(), value.clone());
            }
            WriteOp::Delete { key } => {
                map.remove(key);
            }
            WriteOp::DeleteRange { start, end } if start < end => {
                let doomed: Vec<Bytes> = map.range(start.clone()..end.clone()).map(|(key, _)| key.clone()).collect();
                for key in doomed {
                    map.remove(&key);
                }
            }
            WriteOp::DeleteRange { .. } => {}
        }
    }
}

impl Reader for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.view().get(key)
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        Ok(Box::new(self.view().cursor(range, direction)?))
    }

    fn try_get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if self.lock().draw_cold(key) == Some(0) {
            return Err(EngineError::WouldBlock);
        }
        View { warm: None, ..self.view() }.get(key)
    }

    fn try_scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        let steps_left = self.lock().draw_cold(range.start);
        if steps_left == Some(0) {
            return Err(EngineError::WouldBlock);
        }
        let view = View { warm: None, ..self.view() };
        Ok(Box::new(MemoryCursor { steps_left, ..view.cursor(range, direction)? }))
    }
}

impl Engine for MemoryEngine {
    fn write(&self, ops: &[WriteOp]) -> Result<(), EngineError> {
        let mut state = self.lock();
        state.check()?;
        if state.busy_next > 0 {
            state.busy_next -= 1;
            state.busy_total += 1;
            return Err(EngineError::Busy("refused on demand".to_owned()));
        }
        apply(Arc::make_mut(&mut state.current), ops);
        state.unflushed.push(ops.to_vec());
        state.heal(ops);
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Reader + Send + Sync + '_> {
        Box::new(self.view())
    }

    fn freeze(&self, _: Caching) -> Box<dyn Reader + Send + Sync> {
        Box::new(self.view())
    }

    fn stage(&self, spans: &Spans) -> Result<Box<dyn Stage>, EngineError> {
        let state = self.lock();
        state.check_room()?;
        let cleared =
            spans.iter().map(|span| WriteOp::DeleteRange { start: span.start.clone(), end: span.end.clone() });
        Ok(Box::new(MemoryStage { state: Arc::clone(&self.state), life: state.lives, ops: cleared.collect() }))
    }

    fn get_persisted(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let state = self.lock();
        check(&state.rotten, state.trusting, key)?;
        Ok(state.persisted.get(key).cloned())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut state = self.lock();
        state.check()?;
        let all = state.unflushed.len();
        state.persist(all);
        Ok(())
    }

    fn stats(&self) -> EngineStats {
        let state = self.lock();
        EngineStats {
            keys_estimate: state.current.len() as u64,
            unflushed_bytes: state.unflushed.iter().flatten().map(WriteOp::bytes_len).sum::<usize>() as u64,
            busy_total: state.busy_total,
            background_errors: u64::from(state.failed.is_some()),
            free_bytes: state.free_bytes,
            ..EngineStats::default()
        }
    }
}

/// A snapshot on its way in.
struct MemoryStage {
    state: Arc<Mutex<State>>,
    /// The life of the engine in which it began.
    life: u64,
    /// The removal of its spans, then its records.
    ops: Vec<WriteOp>,
}

impl MemoryStage {
    fn check(&self, state: &State) -> Result<(), EngineError> {
        if state.lives != self.life {
            return Err(EngineError::Failed("the power was lost since the snapshot began".to_owned()));
        }
        state.check_room()
    }
}

impl Stage for MemoryStage {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.check(&lock(&self.state))?;
        self.ops.push(WriteOp::Put { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) });
        Ok(())
    }

    fn commit(self: Box<Self>, ops: &[WriteOp]) -> Result<(), EngineError> {
        let mut state = lock(&self.state);
        self.check(&state)?;
        let all = state.unflushed.len();
        state.persist(all);
        for ops in [&self.ops, ops] {
            apply(&mut state.persisted, ops);
            apply(Arc::make_mut(&mut state.current), ops);
            state.heal(ops);
        }
        Ok(())
    }
}

/// The data as it was at one moment.
struct View {
    map: Arc<Map>,
    rotten: Arc<BTreeSet<Bytes>>,
    trusting: bool,
    /// Where it is noted what was read.
    warm: Option<Warm>,
}

impl View {
    fn cursor(&self, range: Range<&[u8]>, direction: Direction) -> Result<MemoryCursor, EngineError> {
        // A scan is found again by where it begins.
        note_warm(self.warm.as_ref(), range.start);
        let mut cursor = MemoryCursor {
            map: Arc::clone(&self.map),
            rotten: Arc::clone(&self.rotten),
            trusting: self.trusting,
            lower: Bound::Included(Bytes::copy_from_slice(range.start)),
            upper: Bound::Excluded(Bytes::copy_from_slice(range.end)),
            direction,
            entry: None,
            steps_left: None,
        };
        if range.start < range.end {
            cursor.step()?;
        }
        Ok(cursor)
    }
}

impl Reader for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        note_warm(self.warm.as_ref(), key);
        check(&self.rotten, self.trusting, key)?;
        let value = self.map.get(key);
        Ok(if self.rotten.contains(key) { value.map(garbled) } else { value.cloned() })
    }

    fn scan<'a>(&'a self, range: Range<&[u8]>, direction: Direction) -> Result<Box<dyn Cursor + 'a>, EngineError> {
        Ok(Box::new(self.cursor(range, direction)?))
    }
}

struct MemoryCursor {
    map: Arc<Map>,
    rotten: Arc<BTreeSet<Bytes>>,
    trusting: bool,
    /// The part of the range that is still to come: `lower` moves up going forward, `upper` moves down going backward.
    lower: Bound<Bytes>,
    upper: Bound<Bytes>,
    direction: Direction,
    entry: Option<(Bytes, Bytes)>,
    /// Steps after which what comes is not in memory.
    steps_left: Option<u64>,
}

impl MemoryCursor {
    fn step(&mut self) -> Result<(), EngineError> {
        let mut rest = self.map.range((self.lower.clone(), self.upper.clone()));
        let next = match self.direction {
            Direction::Forward => rest.next(),
            Direction::Backward => rest.next_back(),
        };
        self.entry = next.map(|(key, value)| (key.clone(), value.clone()));
        if let Some((key, value)) = &mut self.entry {
            check(&self.rotten, self.trusting, key)?;
            if self.rotten.contains(key) {
                *value = garbled(value);
            }
            match self.direction {
                Direction::Forward => self.lower = Bound::Excluded(key.clone()),
                Direction::Backward => self.upper = Bound::Excluded(key.clone()),
            }
        }
        Ok(())
    }
}

impl Cursor for MemoryCursor {
    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.entry.as_ref().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        if self.entry.is_none() {
            return Ok(());
        }
        match &mut self.steps_left {
            Some(0) => {
                self.entry = None;
                return Err(EngineError::WouldBlock);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.step()
    }
}
