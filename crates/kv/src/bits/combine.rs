//! BITOP: AND, OR, XOR and NOT of whole values. One source is read at a time, so memory is bounded by two values.

use bytes::Bytes;
use dstore_resp::Reply;

use crate::context::errors;
use crate::evaluation::{Command, Evaluation, Stop};
use crate::value::Record;

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
}

/// `BITOP AND|OR|XOR|NOT destkey key ...`: what is not there is zeros. Answers with the length of the result.
pub(crate) fn bitop(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let operation = match command.args[1].to_ascii_uppercase().as_slice() {
        b"AND" => Operation::And,
        b"OR" => Operation::Or,
        b"XOR" => Operation::Xor,
        b"NOT" => Operation::Not,
        _ => return Err(Stop::error(errors::SYNTAX)),
    };
    let sources = &command.args[3..];
    if operation == Operation::Not && sources.len() != 1 {
        return Err(Stop::error("ERR BITOP NOT must be called with a single source key."));
    }
    let result = combine(evaluation, operation, sources)?;
    let slot = evaluation.open(&command.args[2])?;
    if !result.is_empty() {
        // No longer than its longest source.
        evaluation.put_unbounded(slot, &result, None)?;
    } else if slot.live().is_some() {
        evaluation.remove(slot);
    }
    Ok(Reply::Integer(result.len() as i64))
}

fn combine(evaluation: &Evaluation<'_>, operation: Operation, sources: &[Bytes]) -> Result<Vec<u8>, Stop> {
    let mut room = evaluation.context.limits.read_bytes_max;
    let mut result: Option<Vec<u8>> = None;
    for key in sources {
        let record = evaluation.read(key)?;
        let len = record.as_ref().map_or(0, Record::len);
        room = room.checked_sub(len).ok_or_else(|| Stop::error(errors::READ_TOO_LONG))?;
        let source = record.map_or(Ok(Bytes::new()), |record| record.into_value(evaluation.view))?;
        let Some(result) = &mut result else {
            result = Some(source.to_vec());
            continue;
        };
        if result.len() < source.len() {
            result.resize(source.len(), 0);
        }
        let (together, alone) = result.split_at_mut(source.len());
        let pairs = together.iter_mut().zip(&source[..]);
        match operation {
            Operation::And => {
                pairs.for_each(|(left, right)| *left &= right);
                alone.fill(0);
            }
            Operation::Or => pairs.for_each(|(left, right)| *left |= right),
            Operation::Xor | Operation::Not => pairs.for_each(|(left, right)| *left ^= right),
        }
    }
    let mut result = result.unwrap_or_default();
    if operation == Operation::Not {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    Ok(result)
}
