//! [`evaluate`], and the [`Evaluation`] that every command works on: look-ups that know expiry, and writes that keep
//! versions, key counts and the expiry index right.

use std::cell::Cell;

use bytes::Bytes;
use dstore_resp::{CommandFlags, CommandId, CommandSpec, Reply};
use dstore_storage::layout::{Head, Stamp, key, local};
use dstore_storage::{RangeId, WriteOp};

use crate::context::{Context, Mode, Outcome, errors};
use crate::view::{CorruptReason, View, ViewError};
use crate::{counters, expiry, keys, scan, strings, versions};

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
    let met_expired = Cell::new(false);
    let mut evaluation =
        Evaluation { view, context, effects: Vec::new(), versions_used: 0, keys_added: 0, met_expired };
    let result = handler(&mut evaluation, Command { spec, args }).and_then(|reply| {
        evaluation.put_count()?;
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

/// The code of one command.
type Handler = fn(&mut Evaluation<'_>, Command<'_>) -> Result<Reply, Stop>;

fn handler(id: CommandId) -> Option<Handler> {
    Some(match id {
        CommandId::Get => strings::get,
        CommandId::Set => strings::set,
        CommandId::GetEx => strings::getex,
        CommandId::GetDel => strings::getdel,
        CommandId::MGet => strings::mget,
        CommandId::MSet => strings::mset,
        CommandId::MSetNx => strings::msetnx,
        CommandId::SetNx => strings::setnx,
        CommandId::Append => strings::append,
        CommandId::StrLen => strings::strlen,
        CommandId::Incr => counters::incr,
        CommandId::Decr => counters::decr,
        CommandId::IncrBy => counters::incrby,
        CommandId::DecrBy => counters::decrby,
        CommandId::IncrByFloat => counters::incrbyfloat,
        CommandId::Del | CommandId::Unlink => keys::del,
        CommandId::Exists => keys::exists,
        CommandId::Type => keys::type_of,
        CommandId::DbSize => keys::dbsize,
        CommandId::FlushDb => keys::flushdb,
        CommandId::FlushAll => keys::flushall,
        CommandId::Expire => expiry::expire,
        CommandId::PExpire => expiry::pexpire,
        CommandId::ExpireAt => expiry::expireat,
        CommandId::PExpireAt => expiry::pexpireat,
        CommandId::Ttl => expiry::ttl,
        CommandId::PTtl => expiry::pttl,
        CommandId::ExpireTime => expiry::expiretime,
        CommandId::PExpireTime => expiry::pexpiretime,
        CommandId::Persist => expiry::persist,
        CommandId::Scan => scan::scan,
        CommandId::Keys => scan::keys,
        CommandId::KvRange => scan::range,
        CommandId::KvVersion => versions::version,
        CommandId::KvCas => versions::cas,
        _ => return None,
    })
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

/// A head record as it is stored.
pub(crate) struct Record {
    pub(crate) head: Head,
    stored: Bytes,
}

impl Record {
    /// Looks up the head record at `data_key`.
    pub(crate) fn get(view: &dyn View, data_key: &[u8]) -> Result<Option<Record>, ViewError> {
        let Some(stored) = view.get(data_key)? else {
            return Ok(None);
        };
        let head = Head::decode(&stored).map_err(|error| ViewError::corrupt(data_key, error))?;
        Ok(Some(Record { head, stored }))
    }

    /// The value, sharing the record's memory.
    pub(crate) fn value(&self) -> Bytes {
        self.head.value(&self.stored)
    }

    /// The value, where the record is no longer needed; this allocates nothing.
    pub(crate) fn into_value(self) -> Bytes {
        self.head.into_value(self.stored)
    }

    pub(crate) fn value_len(&self) -> usize {
        self.stored.len() - self.head.encoded_len()
    }
}

/// A key that a command is about to change, with what is stored there.
pub(crate) struct Slot {
    data_key: Bytes,
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
    pub(crate) fn reply(&self) -> Reply {
        self.live().map_or(Reply::Null, |record| Reply::Bulk(record.value()))
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
    /// Keys that appear minus keys that go, in the selected database.
    keys_added: i64,
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
        let data_key = key::encode(self.context.db, user_key);
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
        // Escapes may double a key, so this is the length that counts for the engine.
        if slot.data_key.len() > self.context.limits.key_bytes_max {
            return Err(Stop::error(errors::KEY_TOO_LONG));
        }
        let version = self.next_version();
        let old_deadline_ms = slot.stored.as_ref().and_then(|record| record.head.expires_at_ms);
        if old_deadline_ms != expires_at_ms {
            self.unindex(&slot, old_deadline_ms);
            if let Some(deadline_ms) = expires_at_ms {
                let key = local::expiry_key(self.context.range, deadline_ms, &slot.data_key);
                self.effects.push(WriteOp::Put { key, value: Bytes::new() });
            }
        }
        self.keys_added += i64::from(slot.stored.is_none());
        let value = Head::string(version, expires_at_ms).encode(value);
        self.effects.push(WriteOp::Put { key: slot.data_key, value });
        Ok(version)
    }

    /// Removes what a slot holds, if anything, expired or not.
    pub(crate) fn remove(&mut self, slot: Slot) {
        let Some(record) = &slot.stored else {
            return;
        };
        self.unindex(&slot, record.head.expires_at_ms);
        self.keys_added -= 1;
        self.effects.push(WriteOp::Delete { key: slot.data_key });
    }

    fn unindex(&mut self, slot: &Slot, deadline_ms: Option<u64>) {
        if let Some(deadline_ms) = deadline_ms {
            let key = local::expiry_key(self.context.range, deadline_ms, &slot.data_key);
            self.effects.push(WriteOp::Delete { key });
        }
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

    /// Puts the selected database's new key count, if the command changed it.
    fn put_count(&mut self) -> Result<(), ViewError> {
        if self.keys_added == 0 {
            return Ok(());
        }
        let key = local::count_key(self.context.range, self.context.db);
        self.effects.push(changed_count(self.view, key, self.keys_added)?);
        Ok(())
    }
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
    pub(crate) fn new(evaluation: &Evaluation<'_>) -> ReplyRoom {
        ReplyRoom { bytes_left: evaluation.context.limits.reply_bytes_max }
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
