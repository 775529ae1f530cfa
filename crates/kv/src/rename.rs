//! Values under another key: RENAME, RENAMENX, COPY, MOVE.
//!
//! A value's records are keyed by its key, so all of these write it anew, chunks too. Expiries go along.

use bytes::Bytes;
use dstore_resp::Reply;

use crate::context::errors;
use crate::evaluation::{Command, Evaluation, Slot, Stop};
use crate::number::parse_int;

/// `RENAME key newkey`
pub(crate) fn rename(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    rename_to(evaluation, command, false)?;
    Ok(Reply::OK)
}

/// `RENAMENX key newkey`
pub(crate) fn renamenx(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    rename_to(evaluation, command, true).map(|renamed| Reply::Integer(renamed.into()))
}

fn rename_to(evaluation: &mut Evaluation<'_>, command: Command<'_>, if_absent: bool) -> Result<bool, Stop> {
    let (key, new_key) = (&command.args[1], &command.args[2]);
    let from = evaluation.open(key)?;
    if from.live().is_none() {
        return Err(Stop::error(errors::NO_SUCH_KEY));
    }
    if key == new_key {
        return Ok(false);
    }
    let to = evaluation.open(new_key)?;
    if if_absent && to.live().is_some() {
        return Ok(false);
    }
    transfer(evaluation, &from, to)?;
    evaluation.remove(from);
    Ok(true)
}

/// `COPY source destination [DB n] [REPLACE]`
pub(crate) fn copy(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let own_db = evaluation.context.db;
    let (mut db, mut replace) = (own_db, false);
    let mut rest = command.args[3..].iter();
    while let Some(option) = rest.next() {
        if option.eq_ignore_ascii_case(b"REPLACE") {
            replace = true;
        } else if option.eq_ignore_ascii_case(b"DB")
            && let Some(index) = rest.next()
        {
            db = database(evaluation, index)?;
        } else {
            return Err(Stop::error(errors::SYNTAX));
        }
    }
    let (source, destination) = (&command.args[1], &command.args[2]);
    if db == own_db && source == destination {
        return Err(Stop::error(errors::SAME_OBJECT));
    }
    let from = evaluation.open(source)?;
    if from.live().is_none() {
        return Ok(Reply::Integer(0));
    }
    let to = evaluation.open_in(db, destination)?;
    if to.live().is_some() && !replace {
        return Ok(Reply::Integer(0));
    }
    transfer(evaluation, &from, to)?;
    Ok(Reply::Integer(1))
}

/// `MOVE key db`
pub(crate) fn move_to(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let key = &command.args[1];
    let db = database(evaluation, &command.args[2])?;
    if db == evaluation.context.db {
        return Err(Stop::error(errors::SAME_OBJECT));
    }
    let from = evaluation.open(key)?;
    if from.live().is_none() {
        return Ok(Reply::Integer(0));
    }
    let to = evaluation.open_in(db, key)?;
    if to.live().is_some() {
        return Ok(Reply::Integer(0));
    }
    transfer(evaluation, &from, to)?;
    evaluation.remove(from);
    Ok(Reply::Integer(1))
}

/// Makes `to` hold what `from` holds, expiry included.
fn transfer(evaluation: &mut Evaluation<'_>, from: &Slot, to: Slot) -> Result<(), Stop> {
    let record = from.live().expect("the caller has looked");
    evaluation.put_copy(to, record, from.expires_at_ms())
}

/// The number of a database.
fn database(evaluation: &Evaluation<'_>, text: &Bytes) -> Result<u8, Stop> {
    let index = parse_int(text)?;
    let known = u8::try_from(index).ok().filter(|db| *db < evaluation.context.limits.databases);
    known.ok_or_else(|| Stop::error("ERR DB index is out of range"))
}
