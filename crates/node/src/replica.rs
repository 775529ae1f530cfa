//! [`Replica`]: one range's part of this node. Evaluates commands, makes log entries of their effects, and applies the
//! entries that are committed.
//!
//! ```text
//!   evaluate ──> open entry ──seal──> logged ──committed──> applied (engine)
//!                    └────── overlay ──────┘
//! ```
//!
//! Commands of one turn of the loop share the *open* entry. Sealing it gives it to the log; once the log says that it
//! is committed, its operations and its position go to the engine in one batch, and the replies that wait for it leave.
//! Until then they are in the [`Overlay`], which later commands see and plain reads do not.
//!
//! Invariants: `applied <= committed <= last`; `logged` holds exactly the entries `applied + 1 ..= last`, in order; the
//! overlay holds exactly the effects of `logged` and of the open entry; stamps grow along the log.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use dstore_kv::{Context, CursorTable, Limits, Mode, Sweep};
use dstore_resp::{CommandSpec, Reply};
use dstore_storage::layout::{Stamp, local};
use dstore_storage::{Engine, EngineError, LogIndex, Position, RangeId, Term, WriteOp};

use crate::entry::{self, Entry};
use crate::overlay::Overlay;
use crate::view::OverlayView;
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

/// Operations that go to the engine in one batch. Bounds how long one turn of the loop spends applying.
const APPLY_OPS_MAX: usize = 16_384;

/// A range's part of this node. See the [module](self).
#[derive(Debug)]
pub(crate) struct Replica {
    range: RangeId,
    term: Term,
    open: Option<Open>,
    logged: VecDeque<Logged>,
    overlay: Overlay,
    applied: Applied,
    /// Highest index known to be committed. Never moves back.
    committed: LogIndex,
    /// Highest index that was given out.
    last: LogIndex,
    /// Highest stamp that is in the log or on its way there.
    last_stamp: Stamp,
    /// Bytes of operations in `logged` and `open`.
    inflight_bytes: usize,
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
    entry: Entry,
    bytes: usize,
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

/// An entry for the log, as the driver must append it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The range it belongs to.
    pub range: RangeId,
    /// Where it goes: right behind the one before.
    pub position: Position,
    /// See [`crate::entry`].
    pub payload: Bytes,
}

/// What evaluation has at hand beside the replica itself.
pub(crate) struct Tools<'a, E> {
    pub(crate) engine: &'a E,
    pub(crate) cursors: &'a mut dyn CursorTable,
    pub(crate) limits: &'a Limits,
}

impl Replica {
    /// The replica whose engine is at `applied`.
    pub(crate) fn new(range: RangeId, term: Term, applied: Applied) -> Replica {
        Replica {
            range,
            term,
            open: None,
            logged: VecDeque::new(),
            overlay: Overlay::default(),
            applied,
            committed: applied.position.index,
            last: applied.position.index,
            last_stamp: applied.stamp,
            inflight_bytes: 0,
        }
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
            Order::Applied => Mode::Read { applied: self.applied.stamp },
            Order::Logged => {
                let open = self.open(now);
                Mode::Write { stamp: open.stamp, ordinal: open.next_version - open.stamp.as_u64() }
            }
        };
        let view = self.view(order, tools.engine);
        let context = Context {
            db: call.db,
            range: self.range,
            mode,
            now_ms: now.wall_ms(),
            limits: tools.limits,
            cursors: tools.cursors,
        };
        let outcome = dstore_kv::evaluate(call.spec, call.args, &view, context)?;
        if order == Order::Logged {
            self.add(outcome.effects, outcome.versions_used, outcome.needs_time);
            return Ok(Some(outcome.reply));
        }
        assert!(outcome.effects.is_empty(), "{} wrote outside of the log", call.spec.full_name);
        Ok((!outcome.needs_time).then_some(outcome.reply))
    }

    /// The version of a key, as commands in the log's order see it.
    pub(crate) fn version<E: Engine>(&mut self, now: Now, db: u8, key: &[u8], engine: &E) -> Result<u64, NodeError> {
        let stamp = self.open(now).stamp;
        Ok(dstore_kv::version_of(&self.view(Order::Logged, engine), db, key, stamp)?)
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
        engine: &E,
    ) -> Result<Sweep, NodeError> {
        let stamp = self.open(now).stamp;
        let view = self.view(Order::Logged, engine);
        let mut sweep = dstore_kv::sweep(&view, self.range, stamp, from_ms, index_records_max)?;
        self.add(std::mem::take(&mut sweep.effects), 0, false);
        Ok(sweep)
    }

    /// Keys of a database, those included that have expired and are not yet swept.
    pub(crate) fn key_count<E: Engine>(&self, db: u8, engine: &E) -> Result<u64, NodeError> {
        let stored = engine.get(&local::count_key(self.range, db))?;
        Ok(stored.and_then(|stored| local::decode_count(&stored)).unwrap_or(0))
    }

    fn view<'a, E>(&'a self, order: Order, engine: &'a E) -> OverlayView<'a, E> {
        OverlayView { engine, overlay: (order == Order::Logged).then_some(&self.overlay) }
    }

    /// The entry a reply depends on, given what it was evaluated over. `None`: it may leave at once.
    pub(crate) fn dependency(&self, order: Order) -> Option<LogIndex> {
        match order {
            Order::Applied => None,
            Order::Logged if self.open.as_ref().is_some_and(Open::matters) => Some(self.last.next()),
            Order::Logged => (self.last > self.applied.position.index).then_some(self.last),
        }
    }

    /// Ends the open entry. `None` if there is nothing in it worth logging.
    pub(crate) fn seal(&mut self) -> Option<Append> {
        let open = self.open.take()?;
        if !open.matters() {
            return None;
        }
        let last_stamp = Stamp::from_u64(open.next_version - 1).max(open.stamp);
        let entry = Entry { stamp: open.stamp, last_stamp, ops: open.ops };
        let payload = entry.encode();
        self.last = self.last.next();
        self.last_stamp = last_stamp;
        let position = Position { index: self.last, term: self.term };
        self.logged.push_back(Logged { position, entry, bytes: open.bytes });
        Some(Append { range: self.range, position, payload })
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
        for Logged { position, entry, .. } in &self.logged {
            for (at, op) in entry.ops.iter().enumerate() {
                self.overlay.add(op, position.index, at);
            }
        }
    }

    /// Takes an entry that was found in the log at a start.
    pub(crate) fn restore(&mut self, position: Position, payload: &Bytes) -> Result<(), NodeError> {
        assert!(self.open.is_none(), "entries are restored before commands are taken");
        if position.index != self.last.next() {
            return Err(NodeError::LogGap { expected: self.last.next(), found: position.index });
        }
        let entry = Entry::decode(payload).map_err(|error| NodeError::Entry { position, error })?;
        if entry.stamp <= self.last_stamp {
            return Err(NodeError::StampOrder { position });
        }
        for (at, op) in entry.ops.iter().enumerate() {
            self.overlay.add(op, position.index, at);
        }
        (self.last, self.last_stamp) = (position.index, entry.last_stamp);
        self.inflight_bytes += payload.len();
        self.logged.push_back(Logged { position, entry, bytes: payload.len() });
        Ok(())
    }

    /// Everything up to `index` is committed.
    pub(crate) fn commit(&mut self, index: LogIndex) {
        assert!(index <= self.last, "index {index} is committed, but only {} were given out", self.last);
        self.committed = self.committed.max(index);
    }

    /// Applies what is committed. Stops early, without an error, where the engine is busy: [`Replica::is_behind`] then.
    pub(crate) fn apply<E: Engine>(&mut self, engine: &E) -> Result<(), NodeError> {
        while self.is_behind() {
            let mut ops = Vec::new();
            let mut count = 0;
            let mut applied = self.applied;
            for logged in self.logged.iter().take_while(|logged| logged.position.index <= self.committed) {
                if count > 0 && ops.len() + logged.entry.ops.len() > APPLY_OPS_MAX {
                    break;
                }
                ops.extend_from_slice(&logged.entry.ops);
                applied = Applied { position: logged.position, stamp: logged.entry.last_stamp };
                count += 1;
            }
            ops.push(WriteOp::Put { key: Applied::key(self.range), value: applied.encode() });
            match engine.write(&ops) {
                Ok(()) => {}
                Err(EngineError::Busy(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            for logged in self.logged.drain(..count) {
                self.overlay.applied(logged.position.index, &logged.entry.ops);
                self.inflight_bytes -= logged.bytes;
            }
            self.applied = applied;
        }
        assert!(
            !self.logged.is_empty() || self.open.is_some() || self.overlay.is_empty(),
            "effects left in the overlay"
        );
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
        for op in effects {
            let bytes = entry::encoded_len(&op);
            match self.overlay.add(&op, index, open.ops.len()) {
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

impl Open {
    fn matters(&self) -> bool {
        !self.ops.is_empty() || self.carries_time
    }
}
