//! Reads that take long, one portion a turn, so that everybody else is served in between.
//!
//! ```text
//!  KEYS, alone in its batch ── may be answered from the applied state ──> the data is frozen
//!       ┌────── one portion a turn, in rotation ──────┐
//!       └─> done ──> finish        needs time ──> the log gets the time ──> begins again, as of that time
//! ```
//!
//! The answer is that of the moment at which the data was frozen, which lies between question and answer; by then it was
//! certain that nobody else led. What is written meanwhile does not show. Few are under way at a time, since each holds
//! its reply and keeps old data from being dropped; the others wait, and are looked at as if they had just come.
//!
//! In the order of the log nothing can come in between: KEYS within MULTI holds up everybody, as it does in Redis.

use std::collections::VecDeque;

use dstore_kv::{Context, LongRead, Mode};
use dstore_resp::ProtocolVersion;
use dstore_storage::layout::Stamp;
use dstore_storage::{Engine, RangeId, Reader};

use crate::batch::{Command, Done};
use crate::serve::{Task, Who};
use crate::view::OverlayView;
use crate::wire::Refused;
use crate::{Node, NodeError, Now};

/// Reads under way at a time.
const RUNNING_MAX: usize = 4;

/// See the [module](self).
#[derive(Default)]
pub(crate) struct LongReads {
    running: VecDeque<Running>,
    waiting: VecDeque<Waiting>,
    /// The time as of which a read begins, if it is not now.
    as_of_ms: Option<u64>,
}

struct Running {
    range: RangeId,
    task: Task,
    /// What came before it in its batch.
    done: Vec<Done>,
    read: LongRead,
    data: Box<dyn Reader + Send + Sync>,
    db: u8,
    applied: Stamp,
    now_ms: u64,
}

struct Waiting {
    range: RangeId,
    task: Task,
    /// Not before the range has come to this time, and then as of it.
    as_of_ms: Option<u64>,
}

impl LongReads {
    /// Whether the next turn has something to do.
    pub(crate) fn is_busy(&self) -> bool {
        !self.running.is_empty()
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
        (db, read): (u8, LongRead),
    ) -> Result<(), NodeError> {
        let as_of_ms = self.long_reads.as_of_ms;
        if self.long_reads.running.len() >= RUNNING_MAX {
            self.long_reads.waiting.push_back(Waiting { range, task, as_of_ms });
            return Ok(());
        }
        let Some(group) = self.groups.get(&range) else { return Ok(()) };
        let (applied, now_ms) = (group.replica.applied().stamp, as_of_ms.unwrap_or_else(|| now.wall_ms()));
        let data = self.engine.freeze();
        self.read_portion(now, Running { range, task, done, read, data, db, applied, now_ms })
    }

    /// Does a portion of every read's work, and begins those that have waited.
    pub(crate) fn read_on(&mut self, now: Now) -> Result<(), NodeError> {
        if let Some(running) = self.long_reads.running.pop_front() {
            self.read_portion(now, running)?;
        }
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

    fn read_portion(&mut self, now: Now, mut running: Running) -> Result<(), NodeError> {
        if !self.is_wanted(now, &running.task) {
            return Ok(());
        }
        let view = OverlayView { engine: &*running.data, overlay: None };
        let context = Context {
            db: running.db,
            range: running.range,
            mode: Mode::Read { applied: running.applied },
            now_ms: running.now_ms,
            limits: &self.limits.commands,
            cursors: &mut self.cursors,
        };
        let Some(outcome) = running.read.go_on(&view, context)? else {
            self.long_reads.running.push_back(running);
            return Ok(());
        };
        let Running { range, task, mut done, now_ms, .. } = running;
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

    /// Whether somebody still waits for the answer. A client of this node does as long as work on it goes on.
    fn is_wanted(&mut self, now: Now, task: &Task) -> bool {
        let Who::Session(id) = task.who else { return true };
        let deadline = now.mono + self.limits.request_timeout;
        let outstanding = self.sessions.get_mut(id).and_then(|session| session.outstanding.as_mut());
        let outstanding = outstanding.filter(|outstanding| outstanding.batch.first == task.batch.first);
        outstanding.map(|outstanding| outstanding.deadline = outstanding.deadline.max(deadline)).is_some()
    }
}
