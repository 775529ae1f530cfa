//! Keys of any type: DEL, EXISTS, TYPE, the key count, and emptying databases.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use dstore_resp::Reply;
use dstore_storage::layout::{key, local};
use dstore_storage::{Direction, WriteOp};

use crate::context::errors;
use crate::evaluation::{Command, Evaluation, Stop};
use crate::strings::distinct;
use crate::view::ViewError;

/// `DEL key ...` and `UNLINK key ...`, which are the same here: removal costs as little either way.
pub(crate) fn del(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let mut removed = 0;
    for key in distinct(&command.args[1..]) {
        let slot = evaluation.open(key)?;
        if slot.live().is_some() {
            evaluation.remove(slot);
            removed += 1;
        }
    }
    Ok(Reply::Integer(removed))
}

/// `EXISTS key ...` and `TOUCH key ...`; a key given twice counts twice. (Reads leave no trace here, so TOUCH touches nothing.)
pub(crate) fn exists(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let mut found = 0;
    for key in &command.args[1..] {
        found += i64::from(evaluation.read(key)?.is_some());
    }
    Ok(Reply::Integer(found))
}

/// `TYPE key`
pub(crate) fn type_of(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    Ok(Reply::Simple(evaluation.read(&command.args[1])?.map_or("none", |record| record.head.kind.name())))
}

/// `DBSIZE`. As in Redis, keys that have expired and are not yet swept count.
pub(crate) fn dbsize(evaluation: &mut Evaluation<'_>, _: Command<'_>) -> Result<Reply, Stop> {
    let count = evaluation.count()?;
    Ok(Reply::Integer(i64::try_from(count).expect("fewer than 2^63 keys")))
}

/// `FLUSHDB [ASYNC | SYNC]`, in constant time. The database's expiry-index records stay behind for the sweep.
pub(crate) fn flushdb(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    check_flush_option(command)?;
    let db = evaluation.context.db;
    delete_span(evaluation, key::db_span(db))?;
    let count_key = local::count_key(evaluation.context.range, db);
    if evaluation.view.get(&count_key)?.is_some() {
        evaluation.effects.push(WriteOp::Delete { key: count_key });
    }
    Ok(Reply::OK)
}

/// `FLUSHALL [ASYNC | SYNC]`, in constant time.
pub(crate) fn flushall(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    check_flush_option(command)?;
    let range = evaluation.context.range;
    delete_span(evaluation, key::user_span())?;
    delete_span(evaluation, local::count_span(range))?;
    delete_span(evaluation, local::expiry_span(range))?;
    Ok(Reply::OK)
}

fn check_flush_option(command: Command<'_>) -> Result<(), Stop> {
    match &command.args[1..] {
        [] => Ok(()),
        [option] if option.eq_ignore_ascii_case(b"ASYNC") || option.eq_ignore_ascii_case(b"SYNC") => Ok(()),
        _ => Err(Stop::error(errors::SYNTAX)),
    }
}

/// Removes all that is in the span. An empty one is left alone, so that flushing an empty database again and again
/// leaves no range tombstones in the engine.
fn delete_span(evaluation: &mut Evaluation<'_>, span: Range<Vec<u8>>) -> Result<(), ViewError> {
    let mut empty = true;
    evaluation.view.scan(&span.start..&span.end, Direction::Forward, &mut |_, _| {
        empty = false;
        ControlFlow::Break(())
    })?;
    if !empty {
        let (start, end) = (Bytes::from(span.start), Bytes::from(span.end));
        evaluation.effects.push(WriteOp::DeleteRange { start, end });
    }
    Ok(())
}
