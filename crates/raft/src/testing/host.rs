//! The driver of a node in tests: a disk on which writes complete late and crashes tear, and a state that is applied.
//!
//! The rules are those of the real store. The log is durable as far as writes have completed; a crash keeps any prefix of
//! what was in flight. The applied state is durable as of some earlier moment, which may be *ahead* of the log.

use std::collections::{BTreeMap, VecDeque};

use crate::*;

/// State that has been applied: enough of it to tell two different ones apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) last: EntryId,
    pub(crate) configuration: Configuration,
    /// A chain of hashes over the entries.
    pub(crate) digest: u64,
}

impl State {
    /// What the data of a snapshot would hold.
    pub(crate) fn of(meta: &SnapshotMeta) -> State {
        State { last: meta.last, configuration: meta.configuration.clone(), digest: 0 }
    }

    fn apply(&mut self, e: &Entry) {
        assert_eq!(e.index, self.last.index.next(), "entries are applied in order");
        self.last = e.id();
        self.digest = hash(self.digest, e);
        if e.kind == EntryKind::Config {
            self.configuration = Configuration::decode(&e.data).unwrap();
        }
    }
}

/// FNV-1a, chained.
pub(crate) fn hash(before: u64, e: &Entry) -> u64 {
    let numbers = [before, e.term.0, e.index.0];
    let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).chain(e.data.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The data of snapshots on their way, by what they are of.
pub(crate) type Snapshots = BTreeMap<EntryId, State>;

pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) config: Config,
    /// `None` while crashed.
    pub(crate) raft: Option<Raft<MemLog>>,
    /// The log on disk while crashed.
    pub(crate) log: MemLog,
    pub(crate) hard: HardState,
    pub(crate) writes: VecDeque<Persist>,
    pub(crate) to_apply: VecDeque<Entry>,
    pub(crate) state: State,
    /// The state a crash falls back to.
    pub(crate) flushed: State,
}

impl Host {
    /// A first member of a group, or with an empty configuration one that may join.
    pub(crate) fn new(id: NodeId, config: Config, first: Configuration) -> Host {
        let restored = if first.is_empty() { Restored::default() } else { Restored::bootstrap(first) };
        let state = State { last: restored.applied, configuration: restored.configuration, digest: 0 };
        Host {
            id,
            config,
            raft: None,
            log: MemLog::default(),
            hard: HardState::default(),
            writes: VecDeque::new(),
            to_apply: VecDeque::new(),
            flushed: state.clone(),
            state,
        }
    }

    pub(crate) fn start(&mut self, now: Time, seed: u64) {
        assert!(self.raft.is_none(), "node {} runs already", self.id);
        self.state = self.flushed.clone();
        let restored = Restored {
            hard_state: self.hard,
            applied: self.state.last,
            configuration: self.state.configuration.clone(),
        };
        let log = std::mem::take(&mut self.log);
        self.raft = Some(Raft::new(self.id, self.config.clone(), restored, log, now, seed).unwrap());
    }

    /// Power fails. Of the writes in flight, `whole` are durable entirely, and of the next the first `parts` parts.
    pub(crate) fn crash(&mut self, whole: usize, parts: usize, snapshots: &Snapshots) {
        let mut raft = self.raft.take().unwrap();
        self.log = std::mem::take(raft.storage_mut());
        let writes = std::mem::take(&mut self.writes);
        for (i, w) in writes.iter().enumerate().take(whole.saturating_add(1)) {
            let parts = if i < whole { usize::MAX } else { parts };
            write_parts(w, parts, &mut self.log, &mut self.hard, &mut self.flushed, snapshots);
        }
        self.to_apply.clear();
    }

    pub(crate) fn raft(&mut self) -> &mut Raft<MemLog> {
        self.raft.as_mut().unwrap()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.raft.is_some()
    }

    /// The oldest write in flight completes. Returns the messages that waited for it.
    pub(crate) fn complete_write(&mut self, now: Time, snapshots: &Snapshots) -> Vec<Message> {
        let Some(w) = self.writes.pop_front() else { return Vec::new() };
        let raft = self.raft.as_mut().unwrap();
        let mut installed = self.flushed.clone();
        write_parts(&w, usize::MAX, raft.storage_mut(), &mut self.hard, &mut installed, snapshots);
        if w.snapshot.is_some() {
            self.to_apply.clear();
            self.state = installed.clone();
            self.flushed = installed;
        }
        raft.persisted(now, w.number);
        w.messages
    }

    /// Applies what has been handed out, up to so many entries.
    pub(crate) fn apply(&mut self, max: usize) -> Vec<Entry> {
        let n = max.min(self.to_apply.len());
        let entries: Vec<Entry> = self.to_apply.drain(..n).collect();
        for e in &entries {
            self.state.apply(e);
            self.raft().applied(e.index);
        }
        entries
    }

    /// Makes the applied state durable.
    pub(crate) fn flush(&mut self) {
        self.flushed = self.state.clone();
    }

    /// Shortens the log, as far as the durable state allows.
    pub(crate) fn compact(&mut self, to: LogIndex) {
        let to = to.min(self.flushed.last.index).min(self.raft().durable_index());
        self.raft().storage_mut().compact(to);
    }

    /// A snapshot of the applied state.
    pub(crate) fn snapshot(&self, snapshots: &mut Snapshots) -> SnapshotMeta {
        snapshots.insert(self.state.last, self.state.clone());
        SnapshotMeta { last: self.state.last, configuration: self.state.configuration.clone() }
    }

    /// Takes the work that a [`Ready`] holds for disk and state, leaves the rest in it.
    pub(crate) fn take_work(&mut self, ready: &mut Ready) {
        if let Some(persist) = ready.persist.take() {
            self.writes.push_back(persist);
        }
        self.to_apply.extend(ready.committed.drain(..));
    }
}

/// Writes the first so many parts of a write: the snapshot, the beginning of the log, the hard state, then each entry.
fn write_parts(
    w: &Persist,
    parts: usize,
    log: &mut MemLog,
    hard: &mut HardState,
    flushed: &mut State,
    snapshots: &Snapshots,
) {
    if parts >= 1
        && let Some(meta) = &w.snapshot
    {
        *flushed = snapshots[&meta.last].clone();
    }
    if parts >= 2
        && let Some(base) = w.restart_log
    {
        log.restart(base);
    }
    if parts >= 3
        && let Some(h) = w.hard_state
    {
        *hard = h;
    }
    let entries = parts.saturating_sub(3).min(w.entries.len());
    log.append(w.entries[..entries].to_vec());
}
