//! Strings: GET, SET and their like.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use dstore_resp::Reply;

use crate::context::errors;
use crate::draft::Draft;
use crate::evaluation::{Command, Evaluation, ReplyRoom, Slot, Stop};
use crate::number::parse_i64;
use crate::options::{SetOptions, TimeForm, TtlOption, deadline_ms, parse_getex};
use crate::value::Record;
use crate::view::{View, ViewError};

/// The value as a reply; nothing for no key.
fn value_reply(view: &dyn View, record: Option<Record>) -> Result<Reply, ViewError> {
    record.map_or(Ok(Reply::Null), |record| record.into_value(view).map(Reply::Bulk))
}

/// `GET key`
pub(crate) fn get(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let record = evaluation.read(&command.args[1])?;
    Ok(value_reply(evaluation.view, record)?)
}

/// `STRLEN key`
pub(crate) fn strlen(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let len = evaluation.read(&command.args[1])?.map_or(0, |record| record.len());
    Ok(Reply::Integer(len as i64))
}

/// `MGET key ...`
pub(crate) fn mget(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let mut room = ReplyRoom::new(evaluation.context.limits);
    let mut found = Vec::with_capacity(command.args.len() - 1);
    for key in &command.args[1..] {
        found.push(value_of(evaluation, key, &mut room)?);
    }
    Ok(Reply::Array(found))
}

/// A value as one of several in a reply.
pub(crate) fn value_of(evaluation: &Evaluation<'_>, key: &[u8], room: &mut ReplyRoom) -> Result<Reply, Stop> {
    let record = evaluation.read(key)?;
    room.take(record.as_ref().map_or(0, Record::len))?;
    Ok(value_reply(evaluation.view, record)?)
}

/// `SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]`
pub(crate) fn set(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let options = SetOptions::parse(&command.args[3..])?;
    let new_deadline_ms = match options.ttl {
        TtlOption::Expire(form, time) => Some(deadline_ms(evaluation, command.spec, form, time)?),
        _ => None,
    };
    let slot = evaluation.open(&command.args[1])?;
    let present = slot.live().is_some();
    let old = if options.get { slot.reply(evaluation.view)? } else { Reply::Null };
    if (options.if_absent && present) || (options.if_present && !present) {
        return Ok(old);
    }
    let expires_at_ms = match options.ttl {
        TtlOption::Keep => slot.expires_at_ms(),
        _ => new_deadline_ms,
    };
    put_until(evaluation, slot, &command.args[2], expires_at_ms)?;
    Ok(if options.get { old } else { Reply::OK })
}

/// Puts a value that may have expired already (EXAT or PXAT in the past): then the key is gone before anyone can see it.
fn put_until(
    evaluation: &mut Evaluation<'_>,
    slot: Slot,
    value: &[u8],
    expires_at_ms: Option<u64>,
) -> Result<(), Stop> {
    match expires_at_ms {
        Some(deadline_ms) if deadline_ms <= evaluation.time_ms() => evaluation.remove(slot),
        _ => {
            evaluation.put(slot, value, expires_at_ms)?;
        }
    }
    Ok(())
}

/// `SETEX key seconds value`
pub(crate) fn setex(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    set_expiring(evaluation, command, TimeForm::EX)
}

/// `PSETEX key ms value`
pub(crate) fn psetex(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    set_expiring(evaluation, command, TimeForm::PX)
}

fn set_expiring(evaluation: &mut Evaluation<'_>, command: Command<'_>, form: TimeForm) -> Result<Reply, Stop> {
    let deadline_ms = deadline_ms(evaluation, command.spec, form, &command.args[2])?;
    let slot = evaluation.open(&command.args[1])?;
    put_until(evaluation, slot, &command.args[3], Some(deadline_ms))?;
    Ok(Reply::OK)
}

/// `GETSET key value`
pub(crate) fn getset(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let slot = evaluation.open(&command.args[1])?;
    let old = slot.reply(evaluation.view)?;
    evaluation.put(slot, &command.args[2], None)?;
    Ok(old)
}

/// `SETNX key value`
pub(crate) fn setnx(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let slot = evaluation.open(&command.args[1])?;
    if slot.live().is_some() {
        return Ok(Reply::Integer(0));
    }
    evaluation.put(slot, &command.args[2], None)?;
    Ok(Reply::Integer(1))
}

/// `GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]`
pub(crate) fn getex(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let ttl = parse_getex(&command.args[2..])?;
    let slot = evaluation.open(&command.args[1])?;
    let Some(record) = slot.live() else {
        return Ok(Reply::Null);
    };
    let value = record.value(evaluation.view)?;
    match ttl {
        TtlOption::Unsaid | TtlOption::Keep => {}
        TtlOption::Persist if slot.expires_at_ms().is_none() => {}
        TtlOption::Persist => evaluation.set_expiry(slot, None)?,
        TtlOption::Expire(form, time) => {
            let deadline_ms = deadline_ms(evaluation, command.spec, form, time)?;
            if deadline_ms <= evaluation.time_ms() {
                evaluation.remove(slot);
            } else {
                evaluation.set_expiry(slot, Some(deadline_ms))?;
            }
        }
    }
    Ok(Reply::Bulk(value))
}

/// `GETDEL key`
pub(crate) fn getdel(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let slot = evaluation.open(&command.args[1])?;
    let value = slot.reply(evaluation.view)?;
    if slot.live().is_some() {
        evaluation.remove(slot);
    }
    Ok(value)
}

/// `APPEND key value`
pub(crate) fn append(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let slot = evaluation.open(&command.args[1])?;
    let tail = &command.args[2];
    let len = slot.live().map_or(0, Record::len);
    check_len(evaluation, len, tail.len())?;
    let mut draft = Draft::new(evaluation.view, slot)?;
    draft.write(evaluation.view, len, tail)?;
    draft.store(evaluation)?;
    Ok(Reply::Integer((len + tail.len()) as i64))
}

/// `SETRANGE key offset value`
pub(crate) fn setrange(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let offset = parse_i64(&command.args[2]).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))?;
    let offset = usize::try_from(offset).map_err(|_| Stop::error("ERR offset is out of range"))?;
    let part = &command.args[3];
    let slot = evaluation.open(&command.args[1])?;
    if part.is_empty() {
        return Ok(Reply::Integer(slot.live().map_or(0, Record::len) as i64));
    }
    check_len(evaluation, offset, part.len())?;
    let mut draft = Draft::new(evaluation.view, slot)?;
    draft.write(evaluation.view, offset, part)?;
    let len = draft.len();
    draft.store(evaluation)?;
    Ok(Reply::Integer(len as i64))
}

/// Whether a string may be this long.
fn check_len(evaluation: &Evaluation<'_>, len: usize, more: usize) -> Result<(), Stop> {
    let fits = len.checked_add(more).is_some_and(|len| len <= evaluation.context.limits.value_bytes_max);
    if fits { Ok(()) } else { Err(Stop::error(errors::STRING_TOO_LONG)) }
}

/// `GETRANGE key start end` and `SUBSTR key start end`, both ends included.
pub(crate) fn getrange(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let position = |at: usize| parse_i64(&command.args[at]).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER));
    let (start, end) = (position(2)?, position(3)?);
    let part = match evaluation.read(&command.args[1])? {
        None => Bytes::new(),
        Some(record) => record.part(evaluation.view, positions(record.len(), start, end))?,
    };
    Ok(Reply::Bulk(part))
}

/// The positions from `start` to `end`, both included and both from the end if negative, among `len`.
pub(crate) fn positions(len: usize, start: i64, end: i64) -> Range<usize> {
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let from_front = |at: i64| {
        let at = if at < 0 { at.saturating_add_unsigned(len as u64) } else { at };
        usize::try_from(at.max(0)).expect("not negative")
    };
    let (start, end) = (from_front(start), from_front(end).saturating_add(1).min(len));
    if start < end { start..end } else { 0..0 }
}

/// `MSET key value ...`
pub(crate) fn mset(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    for (key, value) in last_of_each(command)? {
        let slot = evaluation.open(key)?;
        evaluation.put(slot, value, None)?;
    }
    Ok(Reply::OK)
}

/// `MSETNX key value ...`
pub(crate) fn msetnx(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let pairs = last_of_each(command)?;
    let mut slots = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let slot = evaluation.open(key)?;
        if slot.live().is_some() {
            return Ok(Reply::Integer(0));
        }
        slots.push((slot, value));
    }
    for (slot, value) in slots {
        evaluation.put(slot, value, None)?;
    }
    Ok(Reply::Integer(1))
}

/// The pairs of MSET in key order. A key given twice has its last value, as if the pairs were set one by one.
fn last_of_each(command: Command<'_>) -> Result<BTreeMap<&Bytes, &Bytes>, Stop> {
    let pairs = &command.args[1..];
    if !pairs.len().is_multiple_of(2) {
        return Err(Stop::Reply(command.spec.arity_error()));
    }
    Ok(pairs.chunks_exact(2).map(|pair| (&pair[0], &pair[1])).collect())
}

/// The keys of a command, each once.
pub(crate) fn distinct(keys: &[Bytes]) -> BTreeSet<&Bytes> {
    keys.iter().collect()
}
