//! Work on data that is not in memory: the loop does not wait for the disk, another thread does.
//!
//! ```text
//!  evaluation ── not in memory ──> parked ── Output::Read ──> a rehearsal, on a thread that may wait
//!      ^                                                              │  what it reads is in the engine's cache now,
//!      └──────────────────── Node::handle_read <──────────────────────┘  what it comes to is dropped
//! ```
//!
//! A *rehearsal* is the same evaluation, over the engine alone. It need not see the same data: it only brings into memory
//! what the real one will ask for. So nothing has to be kept consistent between the two, and whatever was written
//! meanwhile is seen as always. (TigerBeetle parts prefetch from execution in the same way.) What is still not in memory
//! after [`REHEARSALS_MAX`] of them, because it was pushed out again or because the data has changed, is waited for.
//!
//! While a batch is parked nothing of it has been done. What made it right to begin must still hold when it goes on: a batch
//! that writes belongs to the term in which it came, and to that life of its gateway ([`Parked`]); what is remembered of
//! requests would mostly keep a copy from being executed twice, but not once that is forgotten. A batch that only reads was
//! granted a state, and any later one will do.

use std::collections::BTreeMap;

use dstore_kv::{Context, Mode, Outcome, View, ViewError};
use dstore_storage::layout::Stamp;
use dstore_storage::{Caching, Engine, Entry, LogError, RangeId, Reader, Term};

use crate::batch::{Batch, Command, Work};
use crate::record::RecordKey;
use crate::serve::{Task, Who};
use crate::view::{OverlayView, Patience};
use crate::wire::Refused;
use crate::{Node, NodeError, Now, Output};

/// How often a piece of work is rehearsed before it waits.
const REHEARSALS_MAX: u8 = 3;

/// Reading that a thread is to do that may wait for the disk. See [`Output::Read`].
pub struct Reading {
    token: u64,
    is_for_consensus: bool,
    work: Box<dyn FnOnce() -> Result<Read, NodeError> + Send>,
}

/// What was read.
#[derive(Debug)]
pub(crate) enum Read {
    /// Nothing that anybody needs: it is in memory now, or nobody waits for it any more.
    Nothing,
    /// The answer of a long read.
    Outcome(Outcome),
    /// Entries of the log, or why there are none.
    Entries(Result<Vec<Entry>, LogError>),
}

/// What came of a [`Reading`].
#[derive(Debug)]
pub struct ReadDone {
    token: u64,
    result: Result<Read, NodeError>,
}

impl Reading {
    pub(crate) fn new(token: u64, work: impl FnOnce() -> Result<Read, NodeError> + Send + 'static) -> Reading {
        Reading { token, is_for_consensus: false, work: Box::new(work) }
    }

    /// Whether it should come before what was asked for by clients: a follower waits for it that may be needed for a quorum.
    pub fn is_for_consensus(&self) -> bool {
        self.is_for_consensus
    }

    /// Does it, and waits for the disk as long as it takes.
    pub fn run(self) -> ReadDone {
        ReadDone { token: self.token, result: (self.work)() }
    }
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Work that waits for its rehearsal.
#[derive(Debug)]
enum Parked {
    /// A batch that only reads, and may be answered from the state as it is.
    Read { range: RangeId, task: Task },
    /// A batch to be executed in the log's order.
    Logged {
        range: RangeId,
        task: Task,
        /// The term in which it came. In a later one it may have been executed by another leader.
        term: Term,
        /// The life its gateway was in. In a later one a copy of it may have been executed, and forgotten since.
        life: Option<(u64, u64)>,
    },
    /// The search for expired keys.
    Sweep,
    /// Consensus, for entries of a range's log from this one on.
    Consensus { range: RangeId, from: dstore_raft::LogIndex },
}

/// All work that waits for the disk. See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Cold {
    parked: BTreeMap<u64, Parked>,
    last_token: u64,
    /// Of the sweep that is to be done.
    sweep_rehearsals: u8,
}

impl Cold {
    pub(crate) fn next_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    /// Whether a sweep waits.
    pub(crate) fn parks_sweep(&self) -> bool {
        self.parked.values().any(|parked| matches!(parked, Parked::Sweep))
    }

    pub(crate) fn sweep_patience(&self) -> Patience {
        patience(self.sweep_rehearsals)
    }

    pub(crate) fn swept(&mut self) {
        self.sweep_rehearsals = 0;
    }

    /// Takes out the batches of a range, to be executed in the log's order, that are `meant`.
    fn take_logged(&mut self, range: RangeId, meant: impl Fn(&Task) -> bool) -> Vec<Task> {
        let mut taken = Vec::new();
        if self.parked.is_empty() {
            return taken;
        }
        for (token, parked) in std::mem::take(&mut self.parked) {
            match parked {
                Parked::Logged { range: at, task, .. } if at == range && meant(&task) => taken.push(task),
                parked => drop(self.parked.insert(token, parked)),
            }
        }
        taken
    }
}

/// Whether work waits for the disk that was rehearsed so often.
pub(crate) fn patience(rehearsals: u8) -> Patience {
    if rehearsals < REHEARSALS_MAX { Patience::MustNotWait } else { Patience::Waits }
}

impl<E: Engine> Node<E> {
    /// A batch that only reads goes on when what it needs is in memory.
    pub(crate) fn park_read(&mut self, now: Now, range: RangeId, task: Task) {
        self.rehearse_batch(now, range, &task);
        self.cold.parked.insert(self.cold.last_token, Parked::Read { range, task: rehearsed(task) });
    }

    /// The same of a batch that is executed in the log's order, of which nothing was done yet.
    pub(crate) fn park_logged(&mut self, now: Now, range: RangeId, task: Task) {
        let Some((term, life)) = self.standing(range, &task) else {
            return self.hand_back(&task, Refused::NotLeader);
        };
        self.rehearse_batch(now, range, &task);
        let task = rehearsed(task);
        self.cold.parked.insert(self.cold.last_token, Parked::Logged { range, task, term, life });
    }

    /// The term that is served, and the life that a batch's gateway is in.
    fn standing(&self, range: RangeId, task: &Task) -> Option<(Term, Option<(u64, u64)>)> {
        let group = self.groups.get(&range)?;
        let life = match (task.who, task.record) {
            (Who::Peer(_), Some(record)) => group.desk.life_of(record.node),
            _ => None,
        };
        Some((group.serving()?, life))
    }

    /// The expired keys that are to be removed next shall be in memory.
    pub(crate) fn park_sweep(&mut self, range: RangeId, from_ms: u64, records_max: usize, stamp: Stamp) {
        self.cold.sweep_rehearsals += 1;
        self.read_elsewhere(move |view| dstore_kv::sweep(view, range, stamp, from_ms, records_max).map(drop));
        self.cold.parked.insert(self.cold.last_token, Parked::Sweep);
    }

    fn rehearse_batch(&mut self, now: Now, range: RangeId, task: &Task) {
        let (batch, record) = (task.batch.clone(), task.record);
        let applied = self.groups.get(&range).map_or(Stamp::ZERO, |group| group.replica.applied().stamp);
        // Not that of any entry, but one of about now.
        let stamp = Stamp::next(applied.as_u64(), now.wall_ms());
        let mut cursors = self.cursors.twin(&cursors_of(&batch));
        let (now_ms, limits, logged) = (now.wall_ms(), self.limits.commands.clone(), !batch.only_reads());
        self.read_elsewhere(move |view| {
            record.map_or(Ok(None), |record| view.get(&record.at(range)))?;
            let mode = if logged { Mode::Write { stamp, ordinal: 0 } } else { Mode::Read { applied } };
            let mut evaluate = |command: &Command| {
                let (db, limits) = (command.db, &limits);
                let context = Context { db, range, mode, now_ms, limits, cursors: &mut cursors };
                dstore_kv::evaluate(command.spec, &command.args, view, context).map(drop)
            };
            for item in &batch.items {
                match &item.work {
                    Work::One(command) => evaluate(command)?,
                    Work::Watch { db, keys } => {
                        keys.iter().try_for_each(|key| look_at(view, *db, key, applied))?;
                    }
                    Work::Block { watched, commands } => {
                        watched.iter().try_for_each(|watched| look_at(view, watched.db, &watched.key, applied))?;
                        commands.iter().try_for_each(&mut evaluate)?;
                    }
                }
            }
            Ok(())
        });
    }

    /// Asks for a rehearsal over the engine alone. Its token is the last one given.
    fn read_elsewhere(&mut self, rehearse: impl FnOnce(&dyn View) -> Result<(), ViewError> + Send + 'static) {
        self.stats.rehearsals += 1;
        let token = self.cold.next_token();
        // One state for all of it: what it reads must at least make sense.
        let data = self.engine.inner().freeze(Caching::Keep);
        let reading = Reading::new(token, move || {
            let engine: &dyn Reader = &*data;
            rehearse(&OverlayView { engine, overlay: None, patience: Patience::Waits })?;
            Ok(Read::Nothing)
        });
        self.outputs.push_back(Output::Read(reading));
    }

    /// Has what consensus needs of a range's log read: for followers that lag behind, or to be applied after a start.
    pub(crate) fn read_log(&mut self, range: RangeId) {
        let Some(group) = self.groups.get(&range) else { return };
        for wanted in group.raft.storage().take_wanted() {
            let token = self.cold.next_token();
            let read = group.raft.storage().reader(wanted);
            let work = Box::new(move || Ok(Read::Entries(read())));
            self.outputs.push_back(Output::Read(Reading { token, is_for_consensus: true, work }));
            self.cold.parked.insert(token, Parked::Consensus { range, from: wanted.from });
        }
    }

    /// Entries of the log were read. Consensus asks for them again when this turn ends.
    fn log_read(&self, range: RangeId, from: dstore_raft::LogIndex, read: Read) -> Result<(), NodeError> {
        let (Some(group), Read::Entries(found)) = (self.groups.get(&range), read) else { return Ok(()) };
        group.raft.storage().has_read(from, found).map_err(|error| {
            mark!(LogDamaged);
            NodeError::Log(error)
        })
    }

    /// What [`Output::Read`] asked for was read, or could not be.
    ///
    /// # Errors
    ///
    /// The engine or the log failed: the node must stop.
    pub fn handle_read(&mut self, now: Now, done: ReadDone) -> Result<(), NodeError> {
        let ReadDone { token, result } = done;
        let read = result?;
        match self.cold.parked.remove(&token) {
            Some(Parked::Read { range, task }) => self.serve_reads(now, range, task),
            Some(Parked::Logged { range, task, term, life }) => match self.standing(range, &task) {
                _ if !self.is_wanted(&task) => {
                    mark!(ColdBatchGivenUp);
                    Ok(())
                }
                Some(standing) if standing == (term, life) => self.serve_logged(now, range, task),
                standing => {
                    mark!(ColdBatchOvertaken);
                    let is_leader = standing.is_some_and(|(now, _)| now == term);
                    self.hand_back(&task, if is_leader { Refused::Stale } else { Refused::NotLeader });
                    Ok(())
                }
            },
            Some(Parked::Sweep) => Ok(()),
            Some(Parked::Consensus { range, from }) => self.log_read(range, from, read),
            None => self.long_read_done(now, token, read),
        }
    }

    /// Leadership is lost: what was parked to be logged was not executed here, and never will be.
    pub(crate) fn hand_back_parked(&mut self, range: RangeId) {
        for task in self.cold.take_logged(range, |_| true) {
            mark!(ColdBatchHandedBack);
            self.hand_back(&task, Refused::NotLeader);
        }
    }

    /// Connections are closed, and what they had executed is forgotten: what is parked of them must not be executed any more.
    pub(crate) fn drop_parked(&mut self, range: RangeId, is_closed: impl Fn(RecordKey) -> bool) {
        for task in self.cold.take_logged(range, |task| task.record.is_some_and(&is_closed)) {
            mark!(ColdBatchDropped);
            self.hand_back(&task, Refused::Stale);
        }
    }

    /// Whether somebody still waits for the outcome, as far as this node can tell.
    pub(crate) fn is_wanted(&mut self, task: &Task) -> bool {
        let Who::Session(id) = task.who else { return true };
        let outstanding = self.sessions.get_mut(id).and_then(|session| session.outstanding.as_ref());
        outstanding.is_some_and(|outstanding| outstanding.batch.first == task.batch.first)
    }
}

fn rehearsed(task: Task) -> Task {
    Task { rehearsals: task.rehearsals + 1, ..task }
}

fn look_at(view: &dyn View, db: u8, key: &[u8], at: Stamp) -> Result<(), ViewError> {
    dstore_kv::version_of(view, db, key, at).map(drop)
}

/// The cursors with which scans of a batch go on.
fn cursors_of(batch: &Batch) -> Vec<u64> {
    let commands = batch.items.iter().flat_map(|item| match &item.work {
        Work::One(command) => std::slice::from_ref(command),
        Work::Block { commands, .. } => commands,
        Work::Watch { .. } => &[],
    });
    let scans = commands.filter(|command| command.spec.id == dstore_resp::CommandId::Scan);
    scans.filter_map(|scan| std::str::from_utf8(scan.args.get(1)?).ok()?.parse().ok()).collect()
}
