//! [`Replica`]: the state machine of one range at this node. Where the range is led it evaluates commands and makes log
//! entries of their effects; everywhere it applies the entries that are committed.
//!
//! ```text
//!   evaluate ──> open entry ──seal──> logged ──committed──> applied (engine)
//!                    └────── overlay ──────┘
//! ```
//!
//! Commands of one turn of the loop share the *open* entry. Sealing it gives it to consensus; once that says that it
//! is committed, its operations and its position go to the engine in one batch, and the replies that wait for it leave.
//! Until then they are in the [`Overlay`], which later commands see and plain reads do not.
//!
//! A replica that follows has no open entry and no overlay: committed entries come to it decoded by [`Replica::take`].
//!
//! Invariants: `applied <= committed <= last`; `logged` holds entries from `applied + 1` on, in order and without a gap;
//! while leading it holds all of them up to `last`, and the overlay holds exactly their effects and those of the open
//! entry; stamps grow along the log.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use dstore_kv::{Context, CursorTable, Limits, Mode, Sweep, View};
use dstore_resp::{CommandSpec, Reply};
use dstore_storage::layout::{Stamp, local, tag};
use dstore_storage::snapshot::Checksum;
use dstore_storage::{Engine, EngineError, LogIndex, Position, RangeId, Term, WriteOp};

use crate::cached::Cached;
use crate::check::Frozen;
use crate::entry::{self, Entry};
use crate::overlay::Overlay;
use crate::transfer::spans_of;
use crate::view::{OverlayView, Patience};
use crate::{NodeError, Now};

/// A command as a replica sees it.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) db: u8,
    pub(crate) spec: &'static CommandSpec,
    pub(crate) args: &'a [Bytes],
}

/// The state a command is evaluated over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// What is applied: for reads of a client who has nothing under way.
    Applied,
    /// What is applied and logged, at the stamp of the open entry: for writes, and for what must come behind them.
    Logged,
}

/// Operations that are applied together. Bounds how long one turn of the loop spends applying.
const APPLY_OPS_MAX: usize = 2_000;

/// A range's part of this node. See the [module](self).
#[derive(Debug)]
pub(crate) struct Replica {
    range: RangeId,
    open: Option<Open>,
    logged: VecDeque<Logged>,
    overlay: Overlay,
    applied: Applied,
    /// Highest index known to be committed. Never moves back.
    committed: LogIndex,
    /// Highest index that is in `logged`, or was.
    last: LogIndex,
    /// Highest stamp up to `last`.
    last_stamp: Stamp,
    /// Bytes of operations in `logged` and `open`.
    inflight_bytes: usize,
    /// Operations that commands have had so far: tells whether one had any.
    effects_total: u64,
    /// What was applied before this start, and is applied again.
    pub(crate) replays_until: LogIndex,
    /// The data at the entries of checks that were just applied.
    pub(crate) checks: Vec<Frozen>,
    #[cfg(feature = "planted")]
    pub(crate) planted: Option<crate::Planted>,
}

/// The entry that this turn's commands write to.
#[derive(Debug)]
struct Open {
    stamp: Stamp,
    /// The version that the next key written gets.
    next_version: u64,
    ops: Vec<WriteOp>,
    bytes: usize,
    /// A reply depends on this entry's time: it must be logged even if it changes nothing.
    carries_time: bool,
}

#[derive(Debug)]
struct Logged {
    position: Position,
    ops: Vec<WriteOp>,
    last_stamp: Stamp,
    bytes: usize,
}

/// Committed entries that are applied together.
#[derive(Debug)]
struct Run {
    entries: usize,
    ops: usize,
    bytes: usize,
    removes_ranges: bool,
    /// How far the engine is with them.
    applied: Applied,
    /// The last of them is the entry of this check.
    check: Option<u64>,
}

/// How far the engine is. Written in the same batch as the operations it speaks of.
///
/// ```text
///  0   1   version of this format: 1
///  1   8   index, little-endian
///  9   8   term, little-endian
///  17  8   last stamp, little-endian
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last applied entry.
    pub position: Position,
    /// Its last stamp: the time by which reads judge expiry.
    pub stamp: Stamp,
}

const APPLIED_VERSION: u8 = 1;
const APPLIED_BYTES: usize = 25;

impl Applied {
    /// Where the engine keeps the applied state of `range`.
    pub fn key(range: RangeId) -> Bytes {
        local::applied_key(range)
    }

    /// The stored form.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(APPLIED_BYTES);
        out.put_u8(APPLIED_VERSION);
        out.put_u64_le(self.position.index.0);
        out.put_u64_le(self.position.term.0);
        out.put_u64_le(self.stamp.as_u64());
        out.freeze()
    }

    /// Reads the stored form; nothing stored means that nothing was ever applied.
    ///
    /// # Errors
    ///
    /// The record is damaged, or of a version this binary does not know.
    pub fn decode(stored: Option<&[u8]>) -> Result<Applied, NodeError> {
        let Some(stored) = stored else { return Ok(Applied::default()) };
        let bytes: &[u8; APPLIED_BYTES] = stored.try_into().map_err(|_| NodeError::AppliedState)?;
        if bytes[0] != APPLIED_VERSION {
            return Err(NodeError::AppliedState);
        }
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Ok(Applied { position: Position::new(word(1), word(9)), stamp: Stamp::from_u64(word(17)) })
    }
}

/// What evaluation has at hand beside the replica itself.
pub(crate) struct Tools<'a, E> {
    pub(crate) engine: &'a E,
    /// If it must not wait, the error [`dstore_kv::ViewError::NotInMemory`] leaves everything as it was.
    pub(crate) patience: Patience,
    pub(crate) cursors: &'a mut dyn CursorTable,
    pub(crate) limits: &'a Limits,
}

impl Replica {
    /// The replica whose engine is at `applied`.
    pub(crate) fn new(range: RangeId, applied: Applied) -> Replica {
        Replica {
            range,
            open: None,
            logged: VecDeque::new(),
            overlay: Overlay::default(),
            applied,
            committed: applied.position.index,
            last: applied.position.index,
            last_stamp: applied.stamp,
            inflight_bytes: 0,
            effects_total: 0,
            replays_until: LogIndex::default(),
            checks: Vec::new(),
            #[cfg(feature = "planted")]
            planted: None,
        }
    }

    /// The data was replaced, and stands at `applied`.
    pub(crate) fn begin_again(&mut self, applied: Applied) {
        *self = Replica {
            #[cfg(feature = "planted")]
            planted: self.planted,
            ..Replica::new(self.range, applied)
        };
    }

    pub(crate) fn range(&self) -> RangeId {
        self.range
    }

    pub(crate) fn effects_total(&self) -> u64 {
        self.effects_total
    }

    pub(crate) fn applied(&self) -> Applied {
        self.applied
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.last
    }

    pub(crate) fn inflight_bytes(&self) -> usize {
        self.inflight_bytes
    }

    /// Whether committed entries wait to be applied, because the engine was busy.
    pub(crate) fn is_behind(&self) -> bool {
        self.applied.position.index < self.committed
    }

    /// Evaluates a command. Its effects are then in the open entry, and its reply may leave once
    /// [`Replica::dependency`] is applied. `None`, in [`Order::Applied`] alone: it depends on a time that the log does
    /// not have yet; evaluate it again in [`Order::Logged`].
    pub(crate) fn evaluate<E: Engine>(
        &mut self,
        now: Now,
        order: Order,
        call: Call<'_>,
        tools: Tools<'_, E>,
    ) -> Result<Option<Reply>, NodeError> {
        let mode = match order {
            Order::Applied if planted!(self, ExpiredByClockAlone) => {
                Mode::Read { applied: self.applied.stamp.max(Stamp::from_ms(now.wall_ms())) }
            }
            Order::Applied => Mode::Read { applied: self.applied.stamp },
            Order::Logged => {
                let open = self.open(now);
                Mode::Write { stamp: open.stamp, ordinal: open.next_version - open.stamp.as_u64() }
            }
        };
        let is = |name: &str| call.spec.full_name.eq_ignore_ascii_case(name);
        let stale = [planted!(self, StaleIncrement) && is("incr"), planted!(self, StaleRange) && is("kv.range")];
        let misses = stale.contains(&true);
        let view = self.view(if misses { Order::Applied } else { order }, tools.patience, tools.engine);
        let context = Context {
            db: call.db,
            range: self.range,
            mode,
            now_ms: now.wall_ms(),
            limits: tools.limits,
            cursors: tools.cursors,
        };
        #[allow(unused_mut, reason = "only the feature `planted` changes it")]
        let mut outcome = dstore_kv::evaluate(call.spec, call.args, &view, context)?;
        #[cfg(feature = "planted")]
        if let (Some(bug), Mode::Write { stamp, .. }) = (self.planted, mode) {
            bug.spoil(self.range, stamp, call.spec, &mut outcome.effects);
        }
        if order == Order::Logged {
            self.add(outcome.effects, outcome.versions_used, outcome.needs_time);
            return Ok(Some(outcome.reply));
        }
        assert!(outcome.effects.is_empty(), "{} wrote outside of the log", call.spec.full_name);
        Ok((!outcome.needs_time).then_some(outcome.reply))
    }

    /// The version of a key, as commands in this order see it.
    pub(crate) fn version<E: Engine>(
        &mut self,
        now: Now,
        order: Order,
        (db, key): (u8, &[u8]),
        patience: Patience,
        engine: &E,
    ) -> Result<u64, NodeError> {
        let stamp = match order {
            Order::Applied => self.applied.stamp,
            Order::Logged => self.open(now).stamp,
        };
        let stamp = if planted!(self, WatchMissesExpiry) { Stamp::ZERO } else { stamp };
        Ok(dstore_kv::version_of(&self.view(order, patience, engine), db, key, stamp)?)
    }

    /// Whoever is told now that a key has expired must find it so for ever: the open entry carries its time into the
    /// log even if it changes nothing.
    pub(crate) fn keep_time(&mut self, now: Now) {
        self.open(now).carries_time = true;
    }

    /// Proposes the removal of what has expired, looking at up to `index_records_max` records of the expiry index from
    /// `from_ms` on.
    pub(crate) fn sweep<E: Engine>(
        &mut self,
        now: Now,
        from_ms: u64,
        index_records_max: usize,
        (patience, engine): (Patience, &E),
    ) -> Result<Sweep, NodeError> {
        let stamp = self.open(now).stamp;
        let stamp = if planted!(self, SweepEarly) { Stamp::from_ms(stamp.ms() + 1000) } else { stamp };
        let view = self.view(Order::Logged, patience, engine);
        let mut sweep = dstore_kv::sweep(&view, self.range, stamp, from_ms, index_records_max)?;
        if sweep.keys_removed > 0 {
            mark!(SweepRemoves);
        }
        self.add(std::mem::take(&mut sweep.effects), 0, false);
        Ok(sweep)
    }

    /// Keys of a database, those included that have expired and are not yet swept.
    pub(crate) fn key_count<E: Engine>(&self, db: u8, engine: &E) -> Result<u64, NodeError> {
        let stored = engine.get(&local::count_key(self.range, db))?;
        Ok(stored.and_then(|stored| local::decode_count(&stored)).unwrap_or(0))
    }

    /// A record as it will be once everything that is logged, or about to be, is applied.
    pub(crate) fn get<E: Engine>(&self, key: &[u8], engine: &E) -> Result<Option<Bytes>, NodeError> {
        self.look_up(key, Patience::Waits, engine)
    }

    /// The same for one who may be in a hurry.
    pub(crate) fn look_up<E: Engine>(
        &self,
        key: &[u8],
        patience: Patience,
        engine: &E,
    ) -> Result<Option<Bytes>, NodeError> {
        Ok(self.view(Order::Logged, patience, engine).get(key)?)
    }

    fn view<'a, E>(&'a self, order: Order, patience: Patience, engine: &'a E) -> OverlayView<'a, E> {
        OverlayView { engine, overlay: (order == Order::Logged).then_some(&self.overlay), patience }
    }

    /// Whether there is anything in the open entry worth logging.
    pub(crate) fn has_open(&self) -> bool {
        self.open.as_ref().is_some_and(Open::matters)
    }

    /// Whether something is logged, or about to be, that is not applied yet.
    pub(crate) fn has_pending(&self) -> bool {
        self.last > self.applied.position.index || self.has_open()
    }

    /// Ends the open entry, which gets the next place in the log, in `term`. `None` if there is nothing in it worth
    /// logging.
    pub(crate) fn seal(&mut self, term: Term) -> Option<(Position, Bytes)> {
        let open = self.open.take()?;
        if !open.matters() {
            return None;
        }
        let last_stamp = Stamp::from_u64(open.next_version - 1).max(open.stamp);
        let payload = Entry { stamp: open.stamp, last_stamp, ops: open.ops }.encode();
        // What is logged shares the payload's memory from here on, as it does where the entry comes from another leader. The
        // many small pieces in which commands made it are free again once it is applied, and what gathers then has few.
        let ops = Entry::decode(&payload).expect("an entry can be read that was just made").ops;
        (self.last, self.last_stamp) = (self.last.next(), last_stamp);
        let position = Position { index: self.last, term };
        self.logged.push_back(Logged { position, ops, last_stamp, bytes: open.bytes });
        Some((position, payload))
    }

    /// Bytes of operations in the open entry.
    pub(crate) fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.bytes)
    }

    /// Undoes all that was done in the open entry.
    pub(crate) fn abandon(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.inflight_bytes -= open.bytes;
        self.overlay = Overlay::default();
        for Logged { position, ops, .. } in &self.logged {
            for (at, op) in ops.iter().enumerate() {
                self.overlay.add(op, position.index, at);
            }
        }
    }

    /// A committed entry that carries commands' effects. Where this replica logged it itself, it knows it already.
    pub(crate) fn take(&mut self, position: Position, payload: &Bytes) -> Result<(), NodeError> {
        if self.knows(position) {
            return Ok(());
        }
        let entry = Entry::decode(payload).map_err(|error| NodeError::Entry { position, error })?;
        if entry.stamp <= self.last_stamp {
            return Err(NodeError::StampOrder { position });
        }
        self.push(Logged { position, ops: entry.ops, last_stamp: entry.last_stamp, bytes: payload.len() });
        Ok(())
    }

    /// A committed entry of consensus' own, with what it changes here.
    pub(crate) fn take_own(&mut self, position: Position, ops: Vec<WriteOp>) {
        if !self.knows(position) {
            self.push(Logged { position, ops, last_stamp: self.last_stamp, bytes: 0 });
        }
    }

    /// An entry of consensus' own that this leader has just appended.
    pub(crate) fn log_own(&mut self, position: Position, ops: Vec<WriteOp>) {
        assert_eq!(position.index, self.last.next(), "entries are logged in order");
        if self.open.is_some() && !planted!(self, KeepPlaceOfOpenEntry) {
            // It came in between: the open entry is the one after it.
            mark!(OwnEntryBeforeOpen);
            self.overlay.move_entry(position.index, position.index.next());
        }
        // Nothing that commands read or write, so it casts no overlay.
        self.last = position.index;
        self.logged.push_back(Logged { position, ops, last_stamp: self.last_stamp, bytes: 0 });
    }

    fn push(&mut self, logged: Logged) {
        assert!(self.open.is_none(), "entry {} of another came while one is open here", logged.position);
        assert_eq!(logged.position.index, self.last.next(), "committed entries come in order");
        (self.last, self.last_stamp) = (logged.position.index, logged.last_stamp);
        self.committed = self.last;
        self.inflight_bytes += logged.bytes;
        self.logged.push_back(logged);
    }

    /// Notes that an entry is committed, if this replica logged it itself.
    fn knows(&mut self, position: Position) -> bool {
        if position.index > self.last {
            return false;
        }
        let at = position.index.0 - self.applied.position.index.0 - 1;
        let logged = usize::try_from(at).ok().and_then(|at| self.logged.get(at));
        assert_eq!(logged.map(|logged| logged.position), Some(position), "a committed entry is the one logged here");
        self.committed = position.index;
        true
    }

    /// This node leads no more: forgets what was never committed. What others make of it comes with the log.
    pub(crate) fn step_down(&mut self) {
        self.open = None;
        let committed = self.committed;
        if self.last > committed {
            mark!(StepDownDropsEntries);
        }
        self.logged.retain(|logged| logged.position.index <= committed);
        if !planted!(self, KeepOverlay) {
            self.overlay = Overlay::default();
        }
        self.last = committed;
        self.last_stamp = self.logged.back().map_or(self.applied.stamp, |logged| logged.last_stamp);
        self.inflight_bytes = self.logged.iter().map(|logged| logged.bytes).sum();
    }

    /// Adds an operation that is no command's to the open entry.
    pub(crate) fn put(&mut self, now: Now, op: WriteOp) {
        self.open(now);
        self.add(vec![op], 0, false);
    }

    /// Applies what is committed. Stops early, without an error, where the engine is busy: [`Replica::is_behind`] then.
    pub(crate) fn apply<E: Engine>(&mut self, engine: &Cached<E>) -> Result<(), NodeError> {
        while self.is_behind() {
            let run = self.next_run();
            match self.apply_run(&run, engine) {
                Ok(()) => {}
                Err(EngineError::Busy(_)) => {
                    mark!(EngineBusy);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            self.applied = run.applied;
            if let Some(check) = run.check {
                mark!(CheckOfReplicas);
                let checksum = Checksum::begin(engine, spans_of(self.range));
                self.checks.push((check, run.applied.position, checksum));
            }
        }
        assert!(
            !self.logged.is_empty() || self.open.is_some() || self.overlay.is_empty(),
            "effects left in the overlay"
        );
        Ok(())
    }

    /// The committed entries that are to be applied together.
    fn next_run(&self) -> Run {
        let mut run = Run { entries: 0, ops: 0, bytes: 0, removes_ranges: false, applied: self.applied, check: None };
        for logged in self.logged.iter().take_while(|logged| logged.position.index <= self.committed) {
            if run.entries > 0 && run.ops + logged.ops.len() > APPLY_OPS_MAX {
                break;
            }
            run.entries += 1;
            run.ops += logged.ops.len();
            run.bytes += logged.bytes;
            run.removes_ranges |= logged.ops.iter().any(|op| matches!(op, WriteOp::DeleteRange { .. }));
            run.applied = Applied { position: logged.position, stamp: logged.last_stamp };
            run.check = logged.check(self.range).filter(|_| logged.position.index > self.replays_until);
            if run.check.is_some() {
                break;
            }
        }
        run
    }

    /// All of it, or, with an error, nothing.
    fn apply_run<E: Engine>(&mut self, run: &Run, engine: &Cached<E>) -> Result<(), EngineError> {
        let applied = WriteOp::Put { key: Applied::key(self.range), value: run.applied.encode() };
        if !run.removes_ranges && engine.make_room(run.ops + 1, run.bytes)? {
            let (overlay, inflight_bytes) = (&mut self.overlay, &mut self.inflight_bytes);
            let ops = self.logged.drain(..run.entries).flat_map(|logged| {
                overlay.applied(logged.position.index, &logged.ops);
                *inflight_bytes -= logged.bytes;
                logged.ops
            });
            engine.gather(ops.chain(std::iter::once(applied)));
            return Ok(());
        }
        let ops = self.logged.iter().take(run.entries).flat_map(|logged| logged.ops.iter().cloned());
        engine.write(&ops.chain(std::iter::once(applied)).collect::<Vec<_>>())?;
        for logged in self.logged.drain(..run.entries) {
            self.overlay.applied(logged.position.index, &logged.ops);
            self.inflight_bytes -= logged.bytes;
        }
        Ok(())
    }

    fn open(&mut self, now: Now) -> &mut Open {
        let last_stamp = self.last_stamp;
        self.open.get_or_insert_with(|| {
            let stamp = Stamp::next(last_stamp.as_u64(), now.wall_ms());
            Open { stamp, next_version: stamp.as_u64(), ops: Vec::new(), bytes: 0, carries_time: false }
        })
    }

    fn add(&mut self, effects: Vec<WriteOp>, versions_used: u64, carries_time: bool) {
        let open = self.open.as_mut().expect("a command in the log's order opened an entry");
        let index = self.last.next();
        open.next_version += versions_used;
        open.carries_time |= carries_time;
        self.effects_total += effects.len() as u64;
        for op in effects {
            let bytes = entry::encoded_len(&op);
            let is_missed = planted!(self, MissDeletedRange) && matches!(op, WriteOp::DeleteRange { .. });
            let place = if is_missed { None } else { self.overlay.add(&op, index, open.ops.len()) };
            match place {
                Some(position) => {
                    let before = entry::encoded_len(&open.ops[position]);
                    (open.bytes, self.inflight_bytes) = (open.bytes - before, self.inflight_bytes - before);
                    open.ops[position] = op;
                }
                None => open.ops.push(op),
            }
            open.bytes += bytes;
            self.inflight_bytes += bytes;
        }
    }
}

impl Logged {
    /// The check that this is the entry of.
    fn check(&self, range: RangeId) -> Option<u64> {
        let [WriteOp::Put { key, value }] = &self.ops[..] else { return None };
        let is_check = key.first() == Some(&tag::RANGE_LOCAL) && *key == local::check_key(range);
        is_check.then(|| Some(u64::from_le_bytes(value.as_ref().try_into().ok()?)))?
    }
}

impl Open {
    fn matters(&self) -> bool {
        !self.ops.is_empty() || self.carries_time
    }
}
