//! OBJECT: what Redis would tell of how a value is kept. Here nothing is kept in Redis's ways, so this is told from the
//! value: clients and tools that ask get what they would get for a value that was just SET.

use dstore_resp::{CommandId, Reply, help};

use crate::context::errors::{NOT_AN_INTEGER, SYNTAX};
use crate::evaluation::{Command, Evaluation, Stop};
use crate::number::parse_i64;
use crate::value::Record;

/// Longest string that Redis stores in one piece with its header.
const EMBEDDED_BYTES_MAX: usize = 44;
/// Longest text of a number that Redis stores as one.
const NUMBER_BYTES_MAX: usize = 20;
/// Integers below are shared between all keys.
const SHARED_INTEGERS: i64 = 10_000;
/// How many references a shared integer is said to have.
const SHARED_REFERENCES: i64 = i32::MAX as i64;

const NO_FREQUENCY: &str = "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that \
    when switching between policies at runtime LRU and LFU data will take some time to adjust.";

/// The number that a value is, if Redis would store it as one.
fn number(evaluation: &Evaluation<'_>, record: &Record) -> Result<Option<i64>, Stop> {
    if record.len() > NUMBER_BYTES_MAX {
        return Ok(None);
    }
    Ok(parse_i64(&record.value(evaluation.view)?))
}

/// `OBJECT ENCODING key`
pub(crate) fn encoding(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let Some(record) = evaluation.read(&command.args[2])? else {
        return Ok(Reply::Null);
    };
    let name = match number(evaluation, &record)? {
        Some(_) => "int",
        None if record.len() <= EMBEDDED_BYTES_MAX => "embstr",
        None => "raw",
    };
    Ok(Reply::bulk_static(name))
}

/// `OBJECT REFCOUNT key`
pub(crate) fn refcount(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let Some(record) = evaluation.read(&command.args[2])? else {
        return Ok(Reply::Null);
    };
    let shared = number(evaluation, &record)?.is_some_and(|number| (0..SHARED_INTEGERS).contains(&number));
    Ok(Reply::Integer(if shared { SHARED_REFERENCES } else { 1 }))
}

/// `OBJECT IDLETIME key`: seconds since the last write. Reads leave no trace here, on any replica.
pub(crate) fn idletime(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let Some(record) = evaluation.read(&command.args[2])? else {
        return Ok(Reply::Null);
    };
    let written_ms = dstore_storage::layout::Stamp::from_u64(record.head.version).ms();
    let idle_s = evaluation.time_ms().saturating_sub(written_ms) / 1000;
    Ok(Reply::Integer(idle_s.cast_signed()))
}

/// `OBJECT FREQ key`: not counted, as in a Redis with its default settings.
pub(crate) fn freq(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    match evaluation.read(&command.args[2])? {
        None => Ok(Reply::Null),
        Some(_) => Err(Stop::error(NO_FREQUENCY)),
    }
}

/// What a record takes beside key and value: versions, lengths, block overhead of the engine, generously.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// `MEMORY USAGE key [SAMPLES count]`: about the bytes of the key's records. There is nothing to sample in a string.
pub(crate) fn memory_usage(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    for option in command.args[3..].chunks(2) {
        let [word, count] = option else { return Err(Stop::error(SYNTAX)) };
        if !word.eq_ignore_ascii_case(b"SAMPLES") {
            return Err(Stop::error(SYNTAX));
        }
        match parse_i64(count) {
            None => return Err(Stop::error(NOT_AN_INTEGER)),
            Some(..0) => return Err(Stop::error(SYNTAX)),
            Some(_) => {}
        }
    }
    let key = &command.args[2];
    let Some(record) = evaluation.read(key)? else {
        return Ok(Reply::Null);
    };
    let bytes = key.len() + record.len() + RECORD_OVERHEAD_BYTES;
    Ok(Reply::Integer(i64::try_from(bytes).unwrap_or(i64::MAX)))
}

/// `OBJECT HELP`
pub(crate) fn help_text(_: &mut Evaluation<'_>, _: Command<'_>) -> Result<Reply, Stop> {
    Ok(help(CommandId::Object))
}
