//! Strings as numbers: INCR and its like.

use bytes::Bytes;
use dstore_resp::Reply;

use crate::context::errors;
use crate::evaluation::{Command, Evaluation, Stop};
use crate::extended::Extended;
use crate::number::{I64_CHARS_MAX, parse_i64};

/// `INCR key`
pub(crate) fn incr(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    add(evaluation, &command.args[1], 1)
}

/// `DECR key`
pub(crate) fn decr(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    add(evaluation, &command.args[1], -1)
}

/// `INCRBY key increment`
pub(crate) fn incrby(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let increment = integer(&command.args[2])?;
    add(evaluation, &command.args[1], increment)
}

/// `DECRBY key decrement`
pub(crate) fn decrby(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let increment = integer(&command.args[2])?.checked_neg().ok_or_else(|| Stop::error(errors::DECREMENT_OVERFLOW))?;
    add(evaluation, &command.args[1], increment)
}

fn integer(text: &[u8]) -> Result<i64, Stop> {
    parse_i64(text).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))
}

/// Adds to the integer at `key`; no key is 0. The expiry stays.
fn add(evaluation: &mut Evaluation<'_>, key: &[u8], increment: i64) -> Result<Reply, Stop> {
    let slot = evaluation.open(key)?;
    let old = match slot.live() {
        Some(record) if record.len() > I64_CHARS_MAX => return Err(Stop::error(errors::NOT_AN_INTEGER)),
        Some(record) => integer(&record.value(evaluation.view)?)?,
        None => 0,
    };
    let new = old.checked_add(increment).ok_or_else(|| Stop::error(errors::OVERFLOW))?;
    let expires_at_ms = slot.expires_at_ms();
    evaluation.put(slot, new.to_string().as_bytes(), expires_at_ms)?;
    Ok(Reply::Integer(new))
}

/// `INCRBYFLOAT key increment`
pub(crate) fn incrbyfloat(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let float = |text: &[u8]| Extended::parse(text).ok_or_else(|| Stop::error(errors::NOT_A_FLOAT));
    let slot = evaluation.open(&command.args[1])?;
    let old = match slot.live() {
        Some(record) if record.len() > Extended::CHARS_MAX => return Err(Stop::error(errors::NOT_A_FLOAT)),
        Some(record) => float(&record.value(evaluation.view)?)?,
        None => Extended::ZERO,
    };
    let increment = float(&command.args[2])?;
    let new = old.sum(increment).and_then(Extended::to_decimal);
    let text = Bytes::from(new.ok_or_else(|| Stop::error(errors::NAN_OR_INFINITY))?);
    let expires_at_ms = slot.expires_at_ms();
    evaluation.put(slot, &text, expires_at_ms)?;
    Ok(Reply::Bulk(text))
}
