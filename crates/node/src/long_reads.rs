//! Reads that may take long: begun on the loop, and where they are not over in a moment, done by another thread.
//!
//! ```text
//!  KEYS, alone in its batch ── may be answered from the applied state ──> a portion of it, at once ──> over: finish
//!                                                                            │ not over, or not in memory
//!            the data is frozen ── Output::Read ──> all of it, elsewhere <───┘
//!                                                   └──> Node::handle_read ──> finish
//!                                          needs time ──> the log gets the time ──> begins again, as of that time
//! ```
//!
//! The answer is that of the moment at which the data was frozen, which lies between question and answer; by then it was
//! certain that nobody else led. What is written meanwhile does not show. Few are under way at a time, since each takes up a
//! thread, holds its reply and keeps old data from being dropped; the others wait, and are looked at as if they had just
//! come.
//!
//! In the order of the log nothing can come in between: KEYS within MULTI holds up everybody, as it does in Redis.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use dstore_kv::{Context, Cursors, Limits, LongRead, Mode, Outcome, ViewError};
use dstore_resp::ProtocolVersion;
use dstore_storage::layout::Stamp;
use dstore_storage::{Caching, Engine, RangeId};

use crate::batch::{Command, Done, Item, Work};
use crate::cold::{Read, Reading};
use crate::serve::{Task, Who};
use crate::view::{OverlayView, Patience};
use crate::wire::Refused;
use crate::{Node, NodeError, Now, Output};

/// Reads under way at a time: fewer than there are threads for them, so that others get what they need from the disk.
const RUNNING_MAX: usize = 2;

/// See the [module](self).
#[derive(Default)]
pub(crate) struct LongReads {
    /// By the tokens of what was asked for.
    running: BTreeMap<u64, Running>,
    waiting: VecDeque<Waiting>,
    /// The time as of which a read begins, if it is not now.
    as_of_ms: Option<u64>,
}

struct Running {
    range: RangeId,
    task: Task,
    /// What came before it in its batch.
    done: Vec<Done>,
    now_ms: u64,
    /// Who reads looks whether it is still there: else nobody wants the outcome.
    _wanted: Arc<()>,
}

struct Waiting {
    range: RangeId,
    task: Task,
    /// Not before the range has come to this time, and then as of it.
    as_of_ms: Option<u64>,
}

/// Where and when a long read happens.
#[derive(Clone, Copy)]
struct Scene {
    range: RangeId,
    db: u8,
    applied: Stamp,
    now_ms: u64,
}

impl Scene {
    fn context<'a>(self, limits: &'a Limits, cursors: &'a mut Cursors) -> Context<'a> {
        let Scene { range, db, applied, now_ms } = self;
        Context { db, range, mode: Mode::Read { applied }, now_ms, limits, cursors }
    }
}

impl<E: Engine> Node<E> {
    /// The read that a command is, if it may take long.
    pub(crate) fn long_read(&self, command: &Command, version: ProtocolVersion) -> Option<LongRead> {
        LongRead::begin(command.db, command.spec, &command.args, version, &self.limits.commands)
    }

    /// Begins a read over the applied state, behind what is `done` of its batch already.
    pub(crate) fn begin_long(
        &mut self,
        now: Now,
        range: RangeId,
        task: Task,
        done: Vec<Done>,
        (item, mut read): (&Item, LongRead),
    ) -> Result<(), NodeError> {
        let as_of_ms = self.long_reads.as_of_ms;
        let Work::One(command) = &item.work else { return Ok(()) };
        let Some(group) = self.groups.get(&range) else { return Ok(()) };
        let (applied, now_ms) = (group.replica.applied().stamp, as_of_ms.unwrap_or_else(|| now.wall_ms()));
        let scene = Scene { range, db: command.db, applied, now_ms };
        let view = OverlayView { engine: &self.engine, overlay: None, patience: Patience::MustNotWait };
        match read.go_on(&view, scene.context(&self.limits.commands, &mut self.cursors)) {
            Ok(Some(outcome)) => return self.long_read_over(now, range, task, (done, now_ms), outcome),
            Ok(None) => {}
            Err(ViewError::NotInMemory) => match self.long_read(command, item.version) {
                Some(again) => read = again,
                None => return Ok(()),
            },
            Err(error) => return Err(error.into()),
        }
        if self.long_reads.running.len() >= RUNNING_MAX {
            self.long_reads.waiting.push_back(Waiting { range, task, as_of_ms });
            return Ok(());
        }
        mark!(LongReadElsewhere);
        let token = self.cold.next_token();
        let wanted = Arc::new(());
        self.outputs.push_back(Output::Read(self.read_on_elsewhere(token, read, scene, Arc::downgrade(&wanted))));
        self.long_reads.running.insert(token, Running { range, task, done, now_ms, _wanted: wanted });
        Ok(())
    }

    /// The rest of a read, over the data as it is now.
    fn read_on_elsewhere(&self, token: u64, mut read: LongRead, scene: Scene, wanted: Weak<()>) -> Reading {
        let data = self.engine.freeze(if read.walks() { Caching::Pass } else { Caching::Keep });
        let limits = self.limits.commands.clone();
        Reading::new(token, move || {
            // It has no use for any.
            let mut cursors = Cursors::new(0);
            let view = OverlayView { engine: &*data, overlay: None, patience: Patience::Waits };
            while wanted.strong_count() > 0 {
                if let Some(outcome) = read.go_on(&view, scene.context(&limits, &mut cursors))? {
                    return Ok(Read::Outcome(outcome));
                }
            }
            Ok(Read::Nothing)
        })
    }

    /// Begins the reads that have waited, as far as there is room.
    pub(crate) fn begin_waiting(&mut self, now: Now) -> Result<(), NodeError> {
        let come = |node: &Self, waiting: &Waiting| {
            let applied = node.groups.get(&waiting.range).map(|group| group.replica.applied().stamp.ms());
            waiting.as_of_ms.is_none_or(|as_of_ms| applied.is_none_or(|applied| applied >= as_of_ms))
        };
        while self.long_reads.running.len() < RUNNING_MAX
            && let Some(at) = self.long_reads.waiting.iter().position(|waiting| come(self, waiting))
            && let Some(Waiting { range, task, as_of_ms }) = self.long_reads.waiting.remove(at)
        {
            self.long_reads.as_of_ms = as_of_ms;
            let served = self.serve(now, range, task);
            self.long_reads.as_of_ms = None;
            served?;
        }
        Ok(())
    }

    /// A read was done elsewhere; or it was not, since nobody wants it any more.
    pub(crate) fn long_read_done(&mut self, now: Now, token: u64, read: Read) -> Result<(), NodeError> {
        match (self.long_reads.running.remove(&token), read) {
            (Some(Running { range, task, done, now_ms, .. }), Read::Outcome(outcome)) => {
                self.long_read_over(now, range, task, (done, now_ms), outcome)
            }
            _ => Ok(()),
        }
    }

    fn long_read_over(
        &mut self,
        now: Now,
        range: RangeId,
        task: Task,
        (mut done, now_ms): (Vec<Done>, u64),
        outcome: Outcome,
    ) -> Result<(), NodeError> {
        if !outcome.needs_time {
            done.push(Done::Reply(outcome.reply));
            return self.finish(now, &task, done);
        }
        // A key's deadline has passed by the clock alone.
        match self.groups.get_mut(&range).filter(|group| group.serving().is_some()) {
            Some(group) => {
                group.replica.keep_time(now);
                self.long_reads.waiting.push_back(Waiting { range, task, as_of_ms: Some(now_ms) });
            }
            None => self.hand_back(&task, Refused::NotLeader),
        }
        Ok(())
    }

    /// A client waits as long as work on his answer goes on, or is to begin; and where he does not wait any more, it ends.
    pub(crate) fn keep_long_reads(&mut self, now: Now) {
        let deadline = now.mono + self.limits.request_timeout;
        let sessions = &mut self.sessions;
        let mut keep = |task: &Task| {
            let Who::Session(id) = task.who else { return true };
            let outstanding = sessions.get_mut(id).and_then(|session| session.outstanding.as_mut());
            let outstanding = outstanding.filter(|outstanding| outstanding.batch.first == task.batch.first);
            outstanding.map(|outstanding| outstanding.deadline = outstanding.deadline.max(deadline)).is_some()
        };
        self.long_reads.running.retain(|_, running| keep(&running.task));
        self.long_reads.waiting.retain(|waiting| keep(&waiting.task));
    }
}
