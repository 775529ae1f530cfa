//! SORT and SORT_RO. They sort lists, sets and sorted sets, of which there are none yet: what is there is a string, which
//! they refuse, and what is absent sorts to nothing.

use bytes::Bytes;
use dstore_resp::{CommandId, Reply};

use crate::context::errors;
use crate::evaluation::{Command, Evaluation, Stop};
use crate::number::parse_i64;

/// `SORT key [BY pattern] [LIMIT offset count] [GET pattern ...] [ASC|DESC] [ALPHA] [STORE destination]`; SORT_RO does
/// not store.
pub(crate) fn sort(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let store = destination(&command.args[2..], command.spec.id == CommandId::Sort)?;
    if evaluation.read(&command.args[1])?.is_some() {
        return Err(Stop::error(errors::WRONG_TYPE));
    }
    let Some(destination) = store else { return Ok(Reply::Array(Vec::new())) };
    // Storing nothing under a key removes what is there.
    let slot = evaluation.open(destination)?;
    evaluation.remove(slot);
    Ok(Reply::Integer(0))
}

/// Reads the options. Gives the one that matters where there is nothing to sort.
fn destination(options: &[Bytes], stores: bool) -> Result<Option<&Bytes>, Stop> {
    let mut store = None;
    let mut at = 0;
    while let Some(option) = options.get(at) {
        let left = options.len() - at - 1;
        let words = match option.to_ascii_lowercase().as_slice() {
            b"asc" | b"desc" | b"alpha" => 1,
            b"limit" if left >= 2 => {
                for number in &options[at + 1..at + 3] {
                    parse_i64(number).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))?;
                }
                3
            }
            b"store" if stores && left >= 1 => {
                store = Some(&options[at + 1]);
                2
            }
            b"by" | b"get" if left >= 1 => 2,
            _ => return Err(Stop::error(errors::SYNTAX)),
        };
        at += words;
    }
    Ok(store)
}
