//! Strings: GET, SET and their like.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dstore_resp::Reply;

use crate::context::errors;
use crate::evaluation::{Command, Evaluation, Record, ReplyRoom, Stop};
use crate::options::{SetOptions, TtlOption, deadline_ms, parse_getex};

/// The value as a reply; nothing for no key.
fn value_reply(record: Option<Record>) -> Reply {
    record.map_or(Reply::Null, |record| Reply::Bulk(record.into_value()))
}

/// `GET key`
pub(crate) fn get(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    Ok(value_reply(evaluation.read(&command.args[1])?))
}

/// `STRLEN key`
pub(crate) fn strlen(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let len = evaluation.read(&command.args[1])?.map_or(0, |record| record.value_len());
    Ok(Reply::Integer(len as i64))
}

/// `MGET key ...`
pub(crate) fn mget(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let mut room = ReplyRoom::new(evaluation);
    let mut values = Vec::with_capacity(command.args.len() - 1);
    for key in &command.args[1..] {
        let record = evaluation.read(key)?;
        room.take(record.as_ref().map_or(0, Record::value_len))?;
        values.push(value_reply(record));
    }
    Ok(Reply::Array(values))
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
    let old = if options.get { slot.reply() } else { Reply::Null };
    if (options.if_absent && present) || (options.if_present && !present) {
        return Ok(old);
    }
    let expires_at_ms = match options.ttl {
        TtlOption::Keep => slot.expires_at_ms(),
        _ => new_deadline_ms,
    };
    match expires_at_ms {
        // EXAT or PXAT in the past: the key is gone before anyone can see it.
        Some(deadline_ms) if deadline_ms <= evaluation.time_ms() => evaluation.remove(slot),
        _ => {
            evaluation.put(slot, &command.args[2], expires_at_ms)?;
        }
    }
    Ok(if options.get { old } else { Reply::OK })
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
    let value = record.value();
    match ttl {
        TtlOption::Unsaid | TtlOption::Keep => {}
        TtlOption::Persist if slot.expires_at_ms().is_none() => {}
        TtlOption::Persist => {
            evaluation.put(slot, &value, None)?;
        }
        TtlOption::Expire(form, time) => {
            let deadline_ms = deadline_ms(evaluation, command.spec, form, time)?;
            if deadline_ms <= evaluation.time_ms() {
                evaluation.remove(slot);
            } else {
                evaluation.put(slot, &value, Some(deadline_ms))?;
            }
        }
    }
    Ok(Reply::Bulk(value))
}

/// `GETDEL key`
pub(crate) fn getdel(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let slot = evaluation.open(&command.args[1])?;
    let value = slot.reply();
    if slot.live().is_some() {
        evaluation.remove(slot);
    }
    Ok(value)
}

/// `APPEND key value`
pub(crate) fn append(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let slot = evaluation.open(&command.args[1])?;
    let tail = &command.args[2];
    let len = slot.live().map_or(0, Record::value_len) + tail.len();
    if len > evaluation.context.limits.value_bytes_max {
        return Err(Stop::error(errors::STRING_TOO_LONG));
    }
    match slot.live() {
        Some(record) => {
            let whole = [&record.value()[..], tail].concat();
            let expires_at_ms = slot.expires_at_ms();
            evaluation.put(slot, &whole, expires_at_ms)?
        }
        None => evaluation.put(slot, tail, None)?,
    };
    Ok(Reply::Integer(len as i64))
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
