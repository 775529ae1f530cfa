//! [`evaluate`], and the [`Evaluation`] that every command works on: look-ups that know expiry, and writes that keep
//! versions, key counts and the expiry index right.

use std::cell::Cell;

use bytes::Bytes;
use dstore_resp::{CommandFlags, CommandId, CommandSpec, Reply};
use dstore_storage::layout::{Chunked, Head, Stamp, chunk, key, local};
use dstore_storage::{RangeId, WriteOp};

use crate::context::{Context, Limits, Mode, Outcome, errors};
use crate::handlers::handler;
use crate::value::{Record, WHOLE_BYTES_MAX, chunk_bits, chunk_index};
use crate::view::{CorruptReason, View, ViewError};

/// Evaluates one command.
///
/// `spec` is the command's row of the table and `args` the whole request, its name first.
///
/// # Errors
/// If the view fails. There is no reply then: the node stops.
///
/// # Panics
/// On a caller's mistake: a command that is not for evaluation (see [`evaluates`]), a writing command in
/// [`Mode::Read`], or stamp 0.
pub fn evaluate<'a>(
    spec: &'static CommandSpec,
    args: &[Bytes],
    view: &'a dyn View,
    context: Context<'a>,
) -> Result<Outcome, ViewError> {
    let handler = handler(spec.id).unwrap_or_else(|| panic!("{} is not for evaluation", spec.full_name));
    let mode = context.mode;
    match mode {
        Mode::Write { stamp, .. } => assert!(stamp > Stamp::ZERO, "version 0 means absent"),
        Mode::Read { .. } => {
            assert!(!spec.flags.has(CommandFlags::WRITE), "{} writes, so it goes through the log", spec.full_name);
        }
    }
    if !spec.arity_allows(args.len()) {
        return Ok(Outcome { reply: spec.arity_error(), effects: Vec::new(), versions_used: 0, needs_time: false });
    }
    run(view, context, |evaluation| handler(evaluation, Command { spec, args }))
}

/// Runs a command, or a part of one, over a view.
pub(crate) fn run<'a>(
    view: &'a dyn View,
    context: Context<'a>,
    command: impl FnOnce(&mut Evaluation<'a>) -> Result<Reply, Stop>,
) -> Result<Outcome, ViewError> {
    let mode = context.mode;
    let met_expired = Cell::new(false);
    let mut evaluation =
        Evaluation { view, context, effects: Vec::new(), versions_used: 0, keys_added: [(0, 0); 2], met_expired };
    let result = command(&mut evaluation).and_then(|reply| {
        evaluation.put_counts()?;
        Ok(reply)
    });
    let met_expired = evaluation.met_expired.get();
    let (reply, needs_time) = match result {
        Ok(reply) => {
            let Evaluation { effects, versions_used, .. } = evaluation;
            assert!(effects.is_empty() || matches!(mode, Mode::Write { .. }), "a read has no effects");
            return Ok(Outcome { reply, effects, versions_used, needs_time: met_expired });
        }
        Err(Stop::View(error)) => return Err(error),
        Err(Stop::Reply(reply)) => (reply, met_expired),
        Err(Stop::NeedsTime) => (Reply::Null, true),
    };
    Ok(Outcome { reply, effects: Vec::new(), versions_used: 0, needs_time })
}

/// Whether a command is one that [`evaluate`] knows; the others belong to the connection or the server.
pub fn evaluates(id: CommandId) -> bool {
    handler(id).is_some()
}

/// The version of a key as judged at `at`: 0 if it is absent or has expired by then. For WATCH, which compares.
///
/// # Errors
/// If the view fails.
pub fn version_of(view: &dyn View, db: u8, user_key: &[u8], at: Stamp) -> Result<u64, ViewError> {
    let data_key = key::encode_buf(db, user_key);
    let record = Record::get(view, &data_key)?;
    Ok(record.filter(|record| !record.head.expired_at(at.ms())).map_or(0, |record| record.head.version))
}

/// How many keys a database has in a range, those that have expired and are not yet swept included. For INFO.
///
/// # Errors
/// If the view fails.
pub fn key_count(view: &dyn View, range: RangeId, db: u8) -> Result<u64, ViewError> {
    read_count(view, &local::count_key(range, db))
}

/// A request with its row of the command table.
#[derive(Clone, Copy)]
pub(crate) struct Command<'a> {
    pub(crate) spec: &'static CommandSpec,
    /// The whole request; its length passed the table's arity.
    pub(crate) args: &'a [Bytes],
}

/// Why a command ends early. Whatever effects it had gathered are dropped.
pub(crate) enum Stop {
    /// The data cannot be read.
    View(ViewError),
    /// The client is told so.
    Reply(Reply),
    /// See [`Outcome::needs_time`].
    NeedsTime,
}

impl From<ViewError> for Stop {
    fn from(error: ViewError) -> Stop {
        Stop::View(error)
    }
}

impl Stop {
    /// Ends the command with this error.
    pub(crate) fn error(text: &'static str) -> Stop {
        Stop::Reply(errors::constant(text))
    }
}

/// A key that a command is about to change, with what is stored there.
pub(crate) struct Slot {
    data_key: key::KeyBuf,
    /// What is stored, expired or not: a write must know what it replaces.
    stored: Option<Record>,
    live: bool,
}

impl Slot {
    /// What clients see there.
    pub(crate) fn live(&self) -> Option<&Record> {
        self.stored.as_ref().filter(|_| self.live)
    }

    /// The value that clients see there, as a reply.
    pub(crate) fn reply(&self, view: &dyn View) -> Result<Reply, ViewError> {
        self.live().map_or(Ok(Reply::Null), |record| record.value(view).map(Reply::Bulk))
    }

    /// Where its head record is.
    pub(crate) fn data_key(&self) -> &[u8] {
        &self.data_key
    }

    fn db(&self) -> u8 {
        self.data_key[1]
    }

    /// The version that clients see there.
    pub(crate) fn version(&self) -> u64 {
        self.live().map_or(0, |record| record.head.version)
    }

    /// The deadline of what clients see there.
    pub(crate) fn expires_at_ms(&self) -> Option<u64> {
        self.live().and_then(|record| record.head.expires_at_ms)
    }
}

/// One command under evaluation.
pub(crate) struct Evaluation<'a> {
    pub(crate) view: &'a dyn View,
    pub(crate) context: Context<'a>,
    pub(crate) effects: Vec<WriteOp>,
    versions_used: u64,
    /// Databases, and the keys that appear minus the keys that go there. No command changes more than two.
    keys_added: [(u8, i64); 2],
    /// In [`Mode::Write`]: a key was found expired by the entry's stamp.
    met_expired: Cell<bool>,
}

impl Evaluation<'_> {
    /// The time from which relative expiries run and to which TTLs are told. A read goes by the clock unless the log is
    /// ahead of it, so that a deadline set through the log never seems further away than it was set.
    pub(crate) fn time_ms(&self) -> u64 {
        match self.context.mode {
            Mode::Write { stamp, .. } => stamp.ms(),
            Mode::Read { applied } => applied.ms().max(self.context.now_ms),
        }
    }

    /// Whether the key with this head is there for clients.
    pub(crate) fn is_live(&self, head: &Head) -> Result<bool, Stop> {
        match self.context.mode {
            Mode::Write { stamp, .. } => {
                let expired = head.expired_at(stamp.ms());
                self.met_expired.set(self.met_expired.get() || expired);
                Ok(!expired)
            }
            Mode::Read { applied } if head.expired_at(applied.ms()) => Ok(false),
            Mode::Read { .. } if head.expired_at(self.context.now_ms) => Err(Stop::NeedsTime),
            Mode::Read { .. } => Ok(true),
        }
    }

    /// What clients see at `user_key`.
    pub(crate) fn read(&self, user_key: &[u8]) -> Result<Option<Record>, Stop> {
        let data_key = key::encode_buf(self.context.db, user_key);
        match Record::get(self.view, &data_key)? {
            Some(record) if self.is_live(&record.head)? => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// Looks at `user_key` in order to change it.
    pub(crate) fn open(&self, user_key: &[u8]) -> Result<Slot, Stop> {
        self.open_in(self.context.db, user_key)
    }

    /// As [`Evaluation::open`], in any database.
    pub(crate) fn open_in(&self, db: u8, user_key: &[u8]) -> Result<Slot, Stop> {
        let data_key = key::encode_buf(db, user_key);
        let stored = Record::get(self.view, &data_key)?;
        let live = match &stored {
            Some(record) => self.is_live(&record.head)?,
            None => false,
        };
        Ok(Slot { data_key, stored, live })
    }

    /// Makes a slot hold this string and nothing else; gives its new version.
    pub(crate) fn put(&mut self, slot: Slot, value: &[u8], expires_at_ms: Option<u64>) -> Result<u64, Stop> {
        if value.len() > self.context.limits.value_bytes_max {
            return Err(Stop::error(errors::STRING_TOO_LONG));
        }
        self.put_unbounded(slot, value, expires_at_ms)
    }

    /// As [`Evaluation::put`], of a string whose length the command has judged itself.
    pub(crate) fn put_unbounded(&mut self, slot: Slot, value: &[u8], expires_at_ms: Option<u64>) -> Result<u64, Stop> {
        if value.len() > WHOLE_BYTES_MAX {
            let chunked = Chunked { len: value.len() as u64, bits: chunk_bits(&slot.data_key) };
            let chunks = value.chunks(1 << chunked.bits).enumerate();
            return self.put_new_chunks(slot, chunked, chunks, expires_at_ms);
        }
        self.check_key(&slot)?;
        let version = self.next_version();
        self.put_head(slot, Head::string(version, expires_at_ms), value);
        Ok(version)
    }

    /// Makes a slot hold a string in chunks, of which these are new: all there are if it held no chunks, or else those
    /// that change.
    pub(crate) fn put_chunks<'c>(
        &mut self,
        slot: Slot,
        chunked: Chunked,
        chunks: impl Iterator<Item = (usize, &'c [u8])>,
        expires_at_ms: Option<u64>,
    ) -> Result<u64, Stop> {
        let Some(generation) = slot.live().and_then(|record| record.chunks()).map(|chunks| chunks.generation) else {
            return self.put_new_chunks(slot, chunked, chunks, expires_at_ms);
        };
        let version = self.next_version();
        self.put_each_chunk(&slot, generation, chunks);
        let (generation, chunked) = (Some(generation), Some(chunked));
        self.put_head(slot, Head { generation, chunked, ..Head::string(version, expires_at_ms) }, b"");
        Ok(version)
    }

    /// Makes a slot hold a string in these chunks, of a new generation.
    pub(crate) fn put_new_chunks<'c>(
        &mut self,
        slot: Slot,
        chunked: Chunked,
        chunks: impl Iterator<Item = (usize, &'c [u8])>,
        expires_at_ms: Option<u64>,
    ) -> Result<u64, Stop> {
        self.check_key(&slot)?;
        let version = self.next_version();
        self.put_each_chunk(&slot, version, chunks);
        let (generation, chunked) = (Some(version), Some(chunked));
        self.put_head(slot, Head { generation, chunked, ..Head::string(version, expires_at_ms) }, b"");
        Ok(version)
    }

    fn put_each_chunk<'c>(&mut self, slot: &Slot, generation: u64, chunks: impl Iterator<Item = (usize, &'c [u8])>) {
        self.effects.extend(chunks.map(|(index, chunk)| WriteOp::Put {
            key: chunk::chunk_key(&slot.data_key, generation, chunk_index(index)),
            value: Bytes::copy_from_slice(chunk),
        }));
    }

    /// Gives what a slot holds another expiry, or none. Its chunks stay where they are.
    pub(crate) fn set_expiry(&mut self, slot: Slot, expires_at_ms: Option<u64>) -> Result<(), Stop> {
        let record = slot.live().expect("only what is there has an expiry");
        let value = if record.head.chunked.is_some() { Bytes::new() } else { record.value(self.view)? };
        let version = self.next_version();
        let head = Head { version, expires_at_ms, ..record.head };
        self.put_head(slot, head, &value);
        Ok(())
    }

    /// Makes a slot hold what `record` holds, with this expiry.
    pub(crate) fn put_copy(&mut self, slot: Slot, record: &Record, expires_at_ms: Option<u64>) -> Result<(), Stop> {
        let (Some(chunks), Some(chunked)) = (record.chunks(), record.head.chunked) else {
            return self.put_unbounded(slot, &record.value(self.view)?, expires_at_ms).map(|_| ());
        };
        if chunk_bits(&slot.data_key) > chunked.bits {
            return self.put_unbounded(slot, &record.value(self.view)?, expires_at_ms).map(|_| ());
        }
        let mut copies: Vec<(usize, Vec<u8>)> = Vec::new();
        let count = record.len().div_ceil(1 << chunked.bits);
        chunks.visit(self.view, 0..count, &mut |index, chunk| copies.push((index, chunk.to_vec())))?;
        let copies = copies.iter().map(|(index, chunk)| (*index, &chunk[..]));
        self.put_new_chunks(slot, chunked, copies, expires_at_ms).map(|_| ())
    }

    /// Escapes may double a key, so it is the encoded length that counts for the engine.
    fn check_key(&self, slot: &Slot) -> Result<(), Stop> {
        if slot.data_key.len() > self.context.limits.key_bytes_max {
            return Err(Stop::error(errors::KEY_TOO_LONG));
        }
        Ok(())
    }

    /// Replaces what a slot holds, and keeps index, count and orphans right.
    fn put_head(&mut self, slot: Slot, head: Head, value: &[u8]) {
        let old_deadline_ms = slot.stored.as_ref().and_then(|record| record.head.expires_at_ms);
        if old_deadline_ms != head.expires_at_ms {
            self.unindex(&slot, old_deadline_ms);
            if let Some(deadline_ms) = head.expires_at_ms {
                let key = local::expiry_key(self.context.range, deadline_ms, &slot.data_key);
                self.effects.push(WriteOp::Put { key, value: Bytes::new() });
            }
        }
        self.orphan_chunks(&slot, head.generation);
        if slot.stored.is_none() {
            self.count_keys(slot.db(), 1);
        }
        let (key, value) = head.encode_with_key(&slot.data_key, value);
        if self.effects.is_empty() {
            // Most commands change one record.
            self.effects.reserve_exact(1);
        }
        self.effects.push(WriteOp::Put { key, value });
    }

    /// Removes what a slot holds, if anything, expired or not.
    pub(crate) fn remove(&mut self, slot: Slot) {
        let Some(record) = &slot.stored else {
            return;
        };
        self.unindex(&slot, record.head.expires_at_ms);
        self.orphan_chunks(&slot, None);
        self.count_keys(slot.db(), -1);
        self.effects.push(WriteOp::Delete { key: Bytes::copy_from_slice(&slot.data_key) });
    }

    fn unindex(&mut self, slot: &Slot, deadline_ms: Option<u64>) {
        if let Some(deadline_ms) = deadline_ms {
            let key = local::expiry_key(self.context.range, deadline_ms, &slot.data_key);
            self.effects.push(WriteOp::Delete { key });
        }
    }

    /// Leaves the chunks of a slot to the sweep, unless they are of the generation that stays.
    fn orphan_chunks(&mut self, slot: &Slot, generation: Option<u64>) {
        if let (Some(record), Mode::Write { stamp, .. }) = (&slot.stored, self.context.mode)
            && record.head.generation != generation
        {
            self.effects.extend(orphaned(self.context.range, stamp, &slot.data_key, &record.head));
        }
    }

    fn count_keys(&mut self, db: u8, added: i64) {
        let [first, second] = &mut self.keys_added;
        let entry = if first.1 == 0 || first.0 == db { first } else { second };
        assert!(entry.1 == 0 || entry.0 == db, "no command changes three databases");
        *entry = (db, entry.1 + added);
    }

    fn next_version(&mut self) -> u64 {
        let Mode::Write { stamp, ordinal } = self.context.mode else {
            panic!("a read gives out no versions");
        };
        let version = stamp.as_u64() + ordinal + self.versions_used;
        self.versions_used += 1;
        version
    }

    /// How many head records the selected database has.
    pub(crate) fn count(&self) -> Result<u64, ViewError> {
        key_count(self.view, self.context.range, self.context.db)
    }

    /// Puts the new key counts of databases that have got another.
    fn put_counts(&mut self) -> Result<(), ViewError> {
        for (db, added) in self.keys_added.into_iter().filter(|(_, added)| *added != 0) {
            let key = local::count_key(self.context.range, db);
            self.effects.push(changed_count(self.view, key, added)?);
        }
        Ok(())
    }
}

/// Orphans are due at the next multiple of this, so that those of many writes go in one sweep.
const ORPHANS_DUE_MS: u64 = 100;

/// The effect that leaves the chunks of a value to the sweep, if it has any. As with every deadline that an entry sets,
/// the time is beyond the entry's own.
pub(crate) fn orphaned(range: RangeId, stamp: Stamp, data_key: &[u8], head: &Head) -> Option<WriteOp> {
    let generation = head.chunked.and(head.generation)?;
    let due_ms = (stamp.ms() / ORPHANS_DUE_MS + 1) * ORPHANS_DUE_MS;
    let key = local::expiry_key(range, due_ms, &chunk::orphans(data_key, generation));
    Some(WriteOp::Put { key, value: Bytes::new() })
}

/// Reads a key count; an absent one is 0.
fn read_count(view: &dyn View, key: &[u8]) -> Result<u64, ViewError> {
    match view.get(key)? {
        None => Ok(0),
        Some(value) => local::decode_count(&value).ok_or_else(|| ViewError::corrupt(key, CorruptReason::Count)),
    }
}

/// The effect that changes a key count.
pub(crate) fn changed_count(view: &dyn View, key: Bytes, keys_added: i64) -> Result<WriteOp, ViewError> {
    let count = read_count(view, &key)?;
    match count.checked_add_signed(keys_added) {
        None => Err(ViewError::corrupt(&key, CorruptReason::CountTooLow { count })),
        Some(0) => Ok(WriteOp::Delete { key }),
        Some(changed) => Ok(WriteOp::Put { key, value: local::encode_count(changed) }),
    }
}

/// How much more a reply may hold.
pub(crate) struct ReplyRoom {
    bytes_left: usize,
}

/// What an element costs besides its bytes.
const ELEMENT_OVERHEAD_BYTES: usize = 64;

impl ReplyRoom {
    pub(crate) fn new(limits: &Limits) -> ReplyRoom {
        ReplyRoom { bytes_left: limits.reply_bytes_max }
    }

    /// How much more there is room for.
    pub(crate) fn bytes_left(&self) -> usize {
        self.bytes_left
    }

    /// Makes room for an element of `len` bytes, or ends the command.
    pub(crate) fn take(&mut self, len: usize) -> Result<(), Stop> {
        self.bytes_left = self
            .bytes_left
            .checked_sub(len.saturating_add(ELEMENT_OVERHEAD_BYTES))
            .ok_or_else(|| Stop::error(errors::REPLY_TOO_LONG))?;
        Ok(())
    }
}
