//! What a node does as the leader of a range: executes batches, and says when what came of them may be told.
//!
//! ```text
//!  batch that only reads ── lease holds ──────────────> applied state ──> finish
//!                        └─ else: Raft::read, Event::Read ──┘
//!  any other batch ──> evaluated in the log's order ──> waits for its entry ──> applied ──> finish
//! ```
//!
//! What must hold:
//!
//! 1. An outcome is told after an entry that was *proposed behind its evaluation* is committed, or while the lease shows
//!    that nobody else leads. An entry that was proposed before would not do: its acknowledgements may be older than
//!    another leader's election, and the state evaluated stale by then.
//! 2. A batch from another node leaves its record in the entry that holds its effects, and a batch that has a record is
//!    not executed again.
//! 3. When leadership is lost, nothing is told of what was not applied. The log decides: see [`Node::resolve`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use dstore_kv::ViewError;
use dstore_raft::ReadId;
use dstore_resp::Reply;
use dstore_rpc::RequestId;
use dstore_storage::layout::local;
use dstore_storage::{Direction, Engine, Position, RangeId, Reader, WriteOp};
use prost::Message as _;

use crate::batch::{Batch, Command, Done, Item, Watched, Work};
use crate::cold::patience;
use crate::gateway::SessionId;
use crate::record::{self, Record, RecordKey, Remembered};
use crate::replica::{Call, Order, Tools};
use crate::view::Patience;
use crate::wire::{Execute, Executed, Forget, Refused};
use crate::{Node, NodeError, Now, Output};

/// Effects that gather in one entry before it is sealed although the turn goes on; and arguments beyond which a command
/// gets an entry of its own. So that only what is alone in its entry can grow beyond what the log takes, and a flood of
/// writes does not become one huge write to disk.
const SHARED_BYTES_MAX: usize = 1 << 20;

/// Bytes of replies after which a batch ends early: what is left of it comes again. Bounds what waits for the log, and
/// for a client who reads slowly.
const REPLIES_BYTES_MAX: usize = 1 << 20;

/// Who is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A client of this node.
    Session(SessionId),
    /// Another gateway.
    Peer(RequestId),
}

/// A batch to be executed here.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) who: Who,
    pub(crate) batch: Arc<Batch>,
    /// Where the batch is remembered, if it may come again by another way.
    pub(crate) record: Option<RecordKey>,
    /// How often it was found not to be in memory, what it needs, and was brought there.
    pub(crate) rehearsals: u8,
}

/// Over which state a piece of work is done, and whether it waits for the disk.
#[derive(Clone, Copy)]
struct Way {
    order: Order,
    patience: Patience,
}

/// What is under way at a range.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// Outcomes that wait for the open entry, which has no place in the log yet.
    unsealed: Vec<Unsealed>,
    /// Outcomes that wait for an entry of the term that is served. Their positions never fall from front to back.
    waiters: VecDeque<Waiter>,
    /// Outcomes for this node's own clients whose entries were logged in a term it does not lead any more.
    unresolved: Vec<Waiter>,
    reads: BTreeMap<ReadId, Task>,
    last_read: u64,
    /// The gateways heard in the term that is served, by node: incarnation and epoch.
    gateways: BTreeMap<u64, (u64, u64)>,
}

/// An outcome whose last entry is not logged yet.
#[derive(Debug)]
struct Unsealed {
    /// The first entry of the batch, if it has one already.
    begun: Option<Position>,
    task: Task,
    done: Vec<Done>,
}

/// An outcome that must not be told yet.
#[derive(Debug)]
struct Waiter {
    /// The first and the last entry of the batch; mostly the same.
    begun: Position,
    position: Position,
    task: Task,
    done: Vec<Done>,
}

/// How a piece of work ended, or why it cannot end so.
enum Tried {
    Done(Done),
    /// It must run again in [`Order::Logged`].
    NeedsTime,
    /// It must run again when what it reads is in memory. It changed nothing, unless it is a block.
    NotInMemory,
    /// It came to more than one entry, or one reply, may hold; what it did so far must be undone.
    TooLarge(&'static str),
}

/// How far a batch came in the order of the log.
enum Ran {
    /// The first pieces of it are done, or all. What is left comes again.
    Done {
        /// The first entry of the batch, if that is sealed already.
        begun: Option<Position>,
        done: Vec<Done>,
    },
    /// It must not be done.
    Refused(Refused),
    /// Nothing is done, since what the first piece needs is not in memory.
    NotInMemory,
}

const TOO_LARGE_ENTRY: Tried = Tried::TooLarge("the changes are too large for one log entry");

impl Desk {
    /// The life that a gateway was last heard in, in the term that is served.
    pub(crate) fn life_of(&self, node: u64) -> Option<(u64, u64)> {
        self.gateways.get(&node).copied()
    }

    /// The open entry has got its place: whoever waits for it knows now what to wait for.
    pub(crate) fn sealed(&mut self, position: Position) {
        let waiter = |Unsealed { begun, task, done }| Waiter { begun: begun.unwrap_or(position), position, task, done };
        self.waiters.extend(self.unsealed.drain(..).map(waiter));
    }
}

impl<E: Engine> Node<E> {
    /// Executes a batch of another gateway.
    pub(crate) fn execute_for(
        &mut self,
        now: Now,
        from: dstore_rpc::NodeId,
        request: RequestId,
        execute: Execute,
    ) -> Result<(), NodeError> {
        let range = RangeId(execute.range);
        let Execute { term, epoch, incarnation, connection, .. } = execute;
        let refused = match self.groups.get(&range).and_then(|group| group.serving()) {
            Some(serving) if serving.0 == term => {
                if !self.hear_gateway(now, range, from.0, (incarnation, epoch))? {
                    Some(Refused::Stale)
                } else if self.is_congested() {
                    Some(Refused::Busy)
                } else {
                    None
                }
            }
            _ => Some(Refused::NotLeader),
        };
        let batch = execute.batch(now.mono);
        match (refused, batch) {
            (None, Some(batch)) => {
                let record = Some(RecordKey { node: from.0, incarnation, connection });
                self.serve(now, range, Task { who: Who::Peer(request), batch: Arc::new(batch), record, rehearsals: 0 })
            }
            (refused, _) => {
                self.answer_peer(request, Executed::refusal(refused.unwrap_or(Refused::Stale)));
                Ok(())
            }
        }
    }

    /// Notes which of its lives a gateway is in. False for a copy of a request that a newer one has overtaken.
    fn hear_gateway(&mut self, now: Now, range: RangeId, node: u64, life: (u64, u64)) -> Result<bool, NodeError> {
        let Some(group) = self.groups.get_mut(&range) else { return Ok(false) };
        let known = group.desk.gateways.get(&node).copied();
        if known.is_some_and(|known| life < known) && !planted!(self, AcceptStale) {
            mark!(GatewayOvertaken);
            return Ok(false);
        }
        group.desk.gateways.insert(node, life);
        if known.is_none_or(|known| known.0 < life.0) {
            // What earlier starts of that node had executed will not be asked for again.
            let start = local::request_bound(range, node, 0);
            let end = local::request_bound(range, node, life.0);
            if self.engine.scan(&start..&end, Direction::Forward)?.entry().is_some() {
                mark!(GatewayRestarted);
                group.replica.put(now, WriteOp::DeleteRange { start: start.into(), end: end.into() });
            }
        }
        Ok(true)
    }

    /// A gateway's connections are closed: forgets what they had executed.
    pub(crate) fn forget(&mut self, now: Now, node: u64, forget: &Forget) -> Result<(), NodeError> {
        let range = RangeId(forget.range);
        let serving = self.groups.get(&range).and_then(|group| group.serving());
        if serving.is_none_or(|term| term.0 != forget.term)
            || !self.hear_gateway(now, range, node, (forget.incarnation, forget.epoch))?
        {
            return Ok(());
        }
        self.drop_parked(range, |key| {
            (key.node, key.incarnation) == (node, forget.incarnation) && forget.connections.contains(&key.connection)
        });
        let Some(group) = self.groups.get_mut(&range) else { return Ok(()) };
        for &connection in &forget.connections {
            let key = RecordKey { node, incarnation: forget.incarnation, connection }.at(range);
            if group.replica.get(&key, &self.engine)?.is_some() {
                mark!(ForgottenConnections);
                group.replica.put(now, WriteOp::Delete { key });
            }
        }
        Ok(())
    }

    /// Executes a batch, or begins to.
    pub(crate) fn serve(&mut self, now: Now, range: RangeId, task: Task) -> Result<(), NodeError> {
        if !task.batch.only_reads() {
            return self.serve_logged(now, range, task);
        }
        let Some(group) = self.groups.get_mut(&range) else { return Ok(()) };
        if group.is_latest(now.mono) || planted!(self, ReadWithoutLease) {
            return self.serve_reads(now, range, task);
        }
        mark!(ReadWithoutLease);
        group.desk.last_read += 1;
        let id = ReadId(group.desk.last_read);
        if group.ask_to_read(id) {
            group.desk.reads.insert(id, task);
        } else {
            self.hand_back(&task, Refused::NotLeader);
        }
        Ok(())
    }

    /// A read may be answered from the state as it is.
    pub(crate) fn read_granted(&mut self, now: Now, range: RangeId, id: ReadId) -> Result<(), NodeError> {
        match self.groups.get_mut(&range).and_then(|group| group.desk.reads.remove(&id)) {
            Some(task) => self.serve_reads(now, range, task),
            None => Ok(()),
        }
    }

    /// A read will not be answered.
    pub(crate) fn read_dropped(&mut self, range: RangeId, id: ReadId) {
        if let Some(task) = self.groups.get_mut(&range).and_then(|group| group.desk.reads.remove(&id)) {
            mark!(ReadHandedBack);
            self.hand_back(&task, Refused::NotLeader);
        }
    }

    pub(crate) fn serve_reads(&mut self, now: Now, range: RangeId, task: Task) -> Result<(), NodeError> {
        let mut done = Vec::with_capacity(task.batch.items.len());
        let mut bytes = 0;
        let batch = task.batch.clone();
        let order = if planted!(self, ReadUncommitted) { Order::Logged } else { Order::Applied };
        let way = Way { order, patience: patience(task.rehearsals) };
        for item in &batch.items {
            if let Work::One(command) = &item.work
                && let Some(read) = self.long_read(command, item.version)
            {
                return self.begin_long(now, range, task, done, (item, read));
            }
            match self.try_item(now, range, way, item)? {
                Tried::NotInMemory => {
                    mark!(ColdRead);
                    self.park_read(now, range, task);
                    return Ok(());
                }
                Tried::Done(outcome) => done.push(outcome),
                Tried::TooLarge(what) => done.push(Done::Reply(nothing_done(what))),
                // A key's deadline has passed by the clock alone. The log gets the time, and all of it runs in it.
                Tried::NeedsTime => {
                    mark!(ReadNeedsTime);
                    return self.serve_logged(now, range, task);
                }
            }
            bytes += done.last().map_or(0, Done::bytes);
            if bytes > REPLIES_BYTES_MAX {
                break;
            }
        }
        self.finish(now, &task, done)
    }

    /// Executes a batch in the order of the log. What came of it is told when its entry is applied.
    pub(crate) fn serve_logged(&mut self, now: Now, range: RangeId, task: Task) -> Result<(), NodeError> {
        if self.groups.get(&range).and_then(|group| group.serving()).is_none() {
            self.hand_back(&task, Refused::NotLeader);
            return Ok(());
        }
        let record = match self.recall(range, &task) {
            Err(NodeError::View(ViewError::NotInMemory)) => {
                self.park_logged(now, range, task);
                return Ok(());
            }
            record => record?,
        };
        let first = task.batch.first;
        if record.as_ref().is_some_and(|record| record.is_later_than(first)) && !planted!(self, AcceptStale) {
            // It only reads, and waited to be confirmed until its gateway gave it up. One that writes is not given up without its
            // connection, and a copy of it that comes late is of an earlier life of its gateway.
            mark!(BatchOvertaken);
            self.hand_back(&task, Refused::Stale);
            return Ok(());
        }
        match self.run_batch(now, range, &task, record.as_ref())? {
            Ran::Done { begun, done } => self.await_entry(now, range, Unsealed { begun, task, done }),
            Ran::Refused(why) => {
                self.hand_back(&task, why);
                Ok(())
            }
            Ran::NotInMemory => {
                mark!(ColdWrite);
                self.park_logged(now, range, task);
                Ok(())
            }
        }
    }

    /// Runs the pieces of a batch in the order of the log, as many as may be done at once.
    fn run_batch(&mut self, now: Now, range: RangeId, task: &Task, record: Option<&Record>) -> Result<Ran, NodeError> {
        let first = task.batch.first;
        let mut done = Vec::with_capacity(task.batch.items.len());
        let (mut wrote, mut bytes, mut begun) = (false, 0, None);
        for (at, item) in task.batch.items.iter().enumerate() {
            let number = first + at as u64;
            let item = if planted!(self, ReorderConnection) {
                &task.batch.items[task.batch.items.len() - 1 - at]
            } else {
                item
            };
            match record.map_or(Remembered::No, |record| record.recall(first, number)) {
                Remembered::Done(outcome) => {
                    mark!(BatchRemembered);
                    done.push(outcome);
                }
                Remembered::Forgotten => {
                    mark!(BatchForgotten);
                    return Ok(Ran::Refused(Refused::Forgotten));
                }
                Remembered::No => {
                    if self.needs_new_entry(range, item) {
                        self.remember(now, range, task, &done, &mut wrote);
                        let sealed = self.seal(range);
                        // What is in there of this batch may be committed without the rest.
                        begun = begun.or(sealed.filter(|_| at > 0));
                    }
                    match self.run_logged(now, range, patience(task.rehearsals), item)? {
                        Some((outcome, changed)) => {
                            wrote |= changed;
                            done.push(outcome);
                        }
                        None if at == 0 => return Ok(Ran::NotInMemory),
                        // What is left of it comes again.
                        None => break,
                    }
                }
            }
            bytes += done.last().map_or(0, Done::bytes);
            if bytes > REPLIES_BYTES_MAX {
                break;
            }
        }
        if planted!(self, ReorderConnection) {
            done.reverse();
        }
        self.remember(now, range, task, &done, &mut wrote);
        Ok(Ran::Done { begun, done })
    }

    /// Tells what came of a batch, or has it wait for the open entry.
    fn await_entry(&mut self, now: Now, range: RangeId, outcome: Unsealed) -> Result<(), NodeError> {
        let Some(group) = self.groups.get_mut(&range) else { return Ok(()) };
        let settled = !group.replica.has_pending();
        if settled && (group.is_latest(now.mono) || planted!(self, AnswerBeforeCommit)) {
            return self.finish(now, &outcome.task, outcome.done);
        }
        // See the first rule of the module.
        group.replica.keep_time(now);
        if planted!(self, AnswerBeforeCommit) {
            return self.finish(now, &outcome.task, outcome.done);
        }
        group.desk.unsealed.push(outcome);
        Ok(())
    }

    /// What the range remembers of the batch's connection.
    fn recall(&self, range: RangeId, task: &Task) -> Result<Option<Record>, NodeError> {
        let (Some(key), Some(group)) = (task.record, self.groups.get(&range)) else { return Ok(None) };
        if planted!(self, ForgetRequests) {
            return Ok(None);
        }
        let patience = patience(task.rehearsals);
        let Some(stored) = group.replica.look_up(&key.at(range), patience, &self.engine)? else { return Ok(None) };
        Record::decode(stored).map(Some).ok_or(NodeError::RequestRecord { range })
    }

    /// Puts what was done of a batch so far beside its effects.
    fn remember(&mut self, now: Now, range: RangeId, task: &Task, done: &[Done], wrote: &mut bool) {
        let (Some(key), Some(group)) = (task.record, self.groups.get_mut(&range)) else { return };
        if std::mem::take(wrote) {
            group.replica.put(now, WriteOp::Put { key: key.at(range), value: record::encode(&task.batch, done) });
        }
    }

    fn needs_new_entry(&self, range: RangeId, item: &Item) -> bool {
        let Some(group) = self.groups.get(&range) else { return false };
        let is_alone = matches!(item.work, Work::Block { .. }) || item.work.bytes() > SHARED_BYTES_MAX;
        group.replica.has_open() && (is_alone || group.replica.open_bytes() > SHARED_BYTES_MAX)
    }

    /// Runs one piece of work in the order of the log, and says whether it changed anything. `None`: what it needs is not in
    /// memory, and nothing was done.
    fn run_logged(
        &mut self,
        now: Now,
        range: RangeId,
        patience: Patience,
        item: &Item,
    ) -> Result<Option<(Done, bool)>, NodeError> {
        let effects = |node: &Self| node.groups.get(&range).map_or(0, |group| group.replica.effects_total());
        let before = effects(self);
        match self.try_item(now, range, Way { order: Order::Logged, patience }, item)? {
            Tried::Done(done) => Ok(Some((done, effects(self) > before))),
            Tried::NeedsTime => unreachable!("the order of the log has the time"),
            Tried::TooLarge(what) => {
                self.abandon(range);
                Ok(Some((Done::Reply(nothing_done(what)), false)))
            }
            Tried::NotInMemory => {
                if effects(self) > before && !planted!(self, KeepHalfBlock) {
                    // The first commands of a block, which has its entry to itself.
                    self.abandon(range);
                }
                Ok(None)
            }
        }
    }

    fn abandon(&mut self, range: RangeId) {
        if let Some(group) = self.groups.get_mut(&range) {
            group.replica.abandon();
        }
    }

    fn try_item(&mut self, now: Now, range: RangeId, way: Way, item: &Item) -> Result<Tried, NodeError> {
        match self.do_item(now, range, way, item) {
            Err(NodeError::View(ViewError::NotInMemory)) => Ok(Tried::NotInMemory),
            tried => tried,
        }
    }

    fn do_item(&mut self, now: Now, range: RangeId, way: Way, item: &Item) -> Result<Tried, NodeError> {
        match &item.work {
            Work::One(command) => {
                if let Some(oom) = self.refuses(range, command.spec) {
                    return Ok(Tried::Done(Done::Reply(Reply::error(oom))));
                }
                let reply = self.evaluate(now, range, way, command)?;
                Ok(if self.entry_overflows(range) {
                    TOO_LARGE_ENTRY
                } else {
                    reply.map_or(Tried::NeedsTime, |reply| Tried::Done(Done::Reply(reply)))
                })
            }
            Work::Watch { db, keys } => {
                let Some(group) = self.groups.get_mut(&range) else { return Ok(Tried::NeedsTime) };
                // In the batch's own order: a GET behind it must not see less than it has remembered.
                let order = if planted!(self, WatchAhead) { Order::Logged } else { way.order };
                let version = |key: &Bytes| group.replica.version(now, order, (*db, key), way.patience, &self.engine);
                let versions: Result<Vec<u64>, NodeError> = keys.iter().map(version).collect();
                Ok(Tried::Done(Done::Versions(versions?)))
            }
            Work::Block { watched, commands } => self.try_block(now, range, way, watched, commands),
        }
    }

    /// Runs commands as one: at one stamp, in one entry, over one state; unless a watched key has changed.
    fn try_block(
        &mut self,
        now: Now,
        range: RangeId,
        way: Way,
        watched: &[Watched],
        commands: &[Command],
    ) -> Result<Tried, NodeError> {
        if let Some(oom) = commands.iter().find_map(|command| self.refuses(range, command.spec)) {
            let text = format!("EXECABORT Transaction discarded because of: {oom}");
            return Ok(Tried::Done(Done::Reply(Reply::error(text))));
        }
        if !self.unchanged(now, range, way.patience, watched)? {
            return Ok(Tried::Done(Done::Block(None)));
        }
        let mut replies = Vec::with_capacity(commands.len());
        let mut reply_bytes = 0;
        for command in commands {
            let Some(reply) = self.evaluate(now, range, way, command)? else { return Ok(Tried::NeedsTime) };
            reply_bytes += reply.bytes_len();
            replies.push(reply);
            if planted!(self, SplitBlock) {
                self.seal(range);
            }
            if self.entry_overflows(range) {
                return Ok(TOO_LARGE_ENTRY);
            }
            if reply_bytes > self.limits.commands.reply_bytes_max {
                return Ok(Tried::TooLarge("the replies of the transaction are too large together"));
            }
        }
        Ok(Tried::Done(Done::Block(Some(replies))))
    }

    /// Whether every watched key still has the version it had.
    fn unchanged(
        &mut self,
        now: Now,
        range: RangeId,
        patience: Patience,
        watched: &[Watched],
    ) -> Result<bool, NodeError> {
        let Some(group) = self.groups.get_mut(&range) else { return Ok(false) };
        for Watched { db, key, version } in watched {
            let current = group.replica.version(now, Order::Logged, (*db, key), patience, &self.engine)?;
            if current != *version {
                mark!(WatchedKeyChanged);
                if current == 0 {
                    mark!(WatchedKeyExpired);
                    // It may have gone by expiring, and must not be found there later.
                    group.replica.keep_time(now);
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entry_overflows(&self, range: RangeId) -> bool {
        let open_bytes = self.groups.get(&range).map_or(0, |group| group.replica.open_bytes());
        open_bytes > self.limits.entry_bytes_max
    }

    /// Evaluates a command over the data. `None`: again in [`Order::Logged`].
    fn evaluate(&mut self, now: Now, range: RangeId, way: Way, command: &Command) -> Result<Option<Reply>, NodeError> {
        let Some(group) = self.groups.get_mut(&range) else { return Ok(None) };
        let Way { order, patience } = way;
        let limits = &self.limits.commands;
        let tools = Tools { engine: &self.engine, patience, cursors: &mut self.cursors, limits };
        let call = Call { db: command.db, spec: command.spec, args: &command.args };
        group.replica.evaluate(now, order, call, tools)
    }

    /// Tells what waited for entries that are applied now.
    pub(crate) fn release(&mut self, now: Now, range: RangeId) -> Result<(), NodeError> {
        loop {
            let Some(group) = self.groups.get_mut(&range) else { return Ok(()) };
            let applied = group.replica.applied().position.index;
            let early = planted!(self, AnswerBeforeDurable);
            let next = group.desk.waiters.pop_front_if(|waiter| waiter.position.index <= applied || early);
            let Some(Waiter { task, done, .. }) = next else { return Ok(()) };
            self.finish(now, &task, done)?;
        }
    }

    /// Leadership is lost. Other gateways ask the next leader; for our own clients the log will tell.
    pub(crate) fn leadership_lost(&mut self, range: RangeId) {
        self.hand_back_parked(range);
        let Some(group) = self.groups.get_mut(&range) else { return };
        group.desk.gateways.clear();
        let unsealed = std::mem::take(&mut group.desk.unsealed);
        for waiter in std::mem::take(&mut group.desk.waiters) {
            match waiter.task.who {
                Who::Session(_) => group.desk.unresolved.push(waiter),
                Who::Peer(request) => answer_peer(&mut self.outputs, request, Executed::refusal(Refused::Lost)),
            }
        }
        // What was never proposed was not executed; of what was proposed in part nobody knows.
        for Unsealed { begun, task, .. } in unsealed {
            self.hand_back(&task, if begun.is_some() { Refused::Lost } else { Refused::NotLeader });
        }
    }

    /// Tells what became of batches whose entries were logged in a term that this node leads no more. An entry
    /// that is committed is in the log for ever. One that is not there never will be, once something of a *later term* is
    /// committed at or before its place, since terms never fall along a log. Before that nobody knows.
    pub(crate) fn resolve(&mut self, now: Now, range: RangeId) -> Result<(), NodeError> {
        let Some(group) = self.groups.get_mut(&range) else { return Ok(()) };
        if group.desk.unresolved.is_empty() {
            return Ok(());
        }
        let (committed, applied) = (group.committed(), group.replica.applied().position.index);
        for waiter in std::mem::take(&mut group.desk.unresolved) {
            let position = waiter.position;
            let Some(group) = self.groups.get_mut(&range) else { return Ok(()) };
            if position.index > committed.index && committed.term <= position.term {
                group.desk.unresolved.push(waiter);
                continue;
            }
            let found = if position.index > committed.index { None } else { group.term_at(position.index) };
            match found {
                Some(term) if term == position.term && position.index > applied => group.desk.unresolved.push(waiter),
                Some(term) if term == position.term && !planted!(self, RetryCommitted) => {
                    mark!(ResolvedCommitted);
                    self.finish(now, &waiter.task, waiter.done)?;
                }
                None if position.index <= committed.index => {
                    mark!(ResolvedUnknown);
                    self.hand_back(&waiter.task, Refused::Lost);
                }
                // Its last entry never will be. An earlier one may be all the same.
                _ => {
                    mark!(ResolvedGone);
                    let begun = waiter.begun;
                    let there = if begun.index > committed.index { None } else { group.term_at(begun.index) };
                    let gone = begun.index > committed.index || there.is_some_and(|term| term != begun.term);
                    let why = if gone || begun == position { Refused::NotLeader } else { Refused::Lost };
                    self.hand_back(&waiter.task, why);
                }
            }
        }
        Ok(())
    }

    /// Tells what came of a batch.
    pub(crate) fn finish(&mut self, now: Now, task: &Task, done: Vec<Done>) -> Result<(), NodeError> {
        match task.who {
            Who::Session(session) => self.complete(now, session, task.batch.first, done)?,
            Who::Peer(request) => self.answer_peer(request, Executed::of(&task.batch, &done)),
        }
        Ok(())
    }

    /// Gives a batch back that was not executed here, or of which nobody knows.
    pub(crate) fn hand_back(&mut self, task: &Task, why: Refused) {
        match task.who {
            Who::Session(session) => self.take_back(session, task.batch.first, why),
            Who::Peer(request) => self.answer_peer(request, Executed::refusal(why)),
        }
    }

    fn answer_peer(&mut self, request: RequestId, executed: Executed) {
        answer_peer(&mut self.outputs, request, executed);
    }
}

fn answer_peer(outputs: &mut VecDeque<Output>, request: RequestId, executed: Executed) {
    outputs.push_back(Output::Answer { request, result: Ok(executed.encode_to_vec().into()) });
}

fn nothing_done(what: &str) -> Reply {
    Reply::error(format!("ERR {what}; nothing was done"))
}
