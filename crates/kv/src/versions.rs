//! Commands that show the version of a key: KV.VERSION, KV.CAS.

use bytes::Bytes;
use dstore_resp::Reply;

use crate::context::errors;
use crate::evaluation::{Command, Evaluation, Stop};

/// `KV.VERSION key`: the version as a string of digits, `0` without the key.
pub(crate) fn version(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let version = evaluation.read(&command.args[1])?.map_or(0, |record| record.head.version);
    Ok(version_reply(version))
}

/// `KV.CAS key version value`: sets the value, as SET does, if the key's version is the one given (`0`: if there is no
/// key). Answers with the new version, or nothing if the version was another.
pub(crate) fn cas(evaluation: &mut Evaluation<'_>, command: Command<'_>) -> Result<Reply, Stop> {
    let expected = parse_version(&command.args[2]).ok_or_else(|| Stop::error(errors::NOT_AN_INTEGER))?;
    let slot = evaluation.open(&command.args[1])?;
    if slot.version() != expected {
        return Ok(Reply::Null);
    }
    evaluation.put(slot, &command.args[3], None).map(version_reply)
}

/// As a string, not an integer: a version may be beyond the integers that JavaScript and Lua clients have.
fn version_reply(version: u64) -> Reply {
    Reply::Bulk(Bytes::from(version.to_string()))
}

/// Digits only, as they were given out.
fn parse_version(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?;
    text.parse().ok()
}
