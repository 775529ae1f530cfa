//! Requests as bytes, and what their answers say.

use bytes::Bytes;
use dstore_resp::Reply;

use super::answers::Walk;
use super::values::Values;
use crate::checker::{Key, MicroOp, Seen, Until, key_name};
use crate::time::WALL_START_MS;

/// Where values are that nobody looks at: what such a key begins with.
pub(super) const ELSEWHERE: &str = "elsewhere";

/// The arguments of one request, encoded.
pub(super) fn encode(args: &[impl AsRef<str>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
    bytes
}

/// SELECT db
pub(super) fn select(db: u8) -> Vec<u8> {
    encode(&["SELECT", &db.to_string()])
}

/// GET key
pub(super) fn get(key: Key) -> Vec<u8> {
    encode(&["GET", &key_name(key)])
}

/// MGET of what is read.
pub(super) fn get_several(reads: &[MicroOp]) -> Vec<u8> {
    let names = reads.iter().map(|op| key_name(op.key()));
    encode(&std::iter::once("MGET".to_owned()).chain(names).collect::<Vec<_>>())
}

/// KV.RANGE from `start` up to and without `end`.
pub(super) fn range(start: &str, end: &str, walk: Walk) -> Vec<u8> {
    let mut args = vec!["KV.RANGE".to_owned(), start.to_owned(), end.to_owned()];
    args.extend(walk.limit.into_iter().flat_map(|limit| ["LIMIT".to_owned(), limit.to_string()]));
    args.extend(walk.reverse.then(|| "REVERSE".to_owned()));
    encode(&args)
}

/// The one request that does something.
pub(super) fn of(op: &MicroOp, values: Values) -> Vec<u8> {
    let name = key_name(op.key());
    match op {
        MicroOp::Append { token, .. } => encode(&["APPEND", &name, &values.piece(*token)]),
        MicroOp::Read { key, .. } | MicroOp::Count { key, .. } | MicroOp::Look { key, .. } => get(*key),
        MicroOp::Tail { count, .. } => encode(&["GETRANGE", &name, &format!("-{}", count * values.token_bytes), "-1"]),
        MicroOp::Length { again: None, .. } => encode(&["STRLEN", &name]),
        MicroOp::Length { again: Some((at, token)), .. } => {
            encode(&["SETRANGE", &name, &(at * values.token_bytes).to_string(), &values.piece(*token)])
        }
        MicroOp::Add { .. } => encode(&["INCR", &name]),
        MicroOp::Take { .. } => encode(&["GETDEL", &name]),
        MicroOp::Expire { until: Until::Never, .. } => encode(&["GETEX", &name, "PERSIST"]),
        MicroOp::Expire { until, .. } => encode(&with_deadline(&["GETEX", &name], *until)),
        MicroOp::Put { token, until, if_absent, .. } => {
            let value = values.register(*token);
            let condition = if *if_absent { &["NX"][..] } else { &[] };
            encode(&with_deadline(&[&["SET", &name, &value, "GET"], condition].concat(), *until))
        }
    }
}

/// The requests that do the same in a block, by another way if there is one; and which of them gives the answer.
pub(super) fn around(op: &MicroOp, values: Values) -> (Vec<Vec<u8>>, usize) {
    let name = key_name(op.key());
    match op {
        MicroOp::Take { key, .. } => (vec![get(*key), encode(&["DEL", &name])], 0),
        MicroOp::Expire { key, until: Until::Never, .. } => (vec![get(*key), encode(&["PERSIST", &name])], 0),
        MicroOp::Expire { key, until: Until::After(ms), .. } => {
            (vec![get(*key), encode(&["PEXPIRE", &name, &ms.to_string()])], 0)
        }
        MicroOp::Expire { key, until: Until::At(ms), .. } => {
            (vec![get(*key), encode(&["PEXPIREAT", &name, &(WALL_START_MS + ms).to_string()])], 0)
        }
        // What stands behind the token stays, too.
        MicroOp::Put { key, token, until: Until::Kept, if_absent: false, .. } => {
            (vec![get(*key), encode(&["SETRANGE", &name, "0", &format!("{token:06}")])], 0)
        }
        // From elsewhere, where nobody sees it. A deadline that has come already would leave nothing there.
        MicroOp::Put { key, token, until: until @ (Until::Never | Until::After(_)), if_absent: false, .. } => {
            let elsewhere = format!("{ELSEWHERE}{key}");
            let value = values.register(*token);
            let mut requests = vec![encode(&with_deadline(&["SET", &elsewhere, &value], *until)), get(*key)];
            if token.is_multiple_of(2) {
                requests.push(encode(&["RENAME", &elsewhere, &name]));
            } else {
                requests.push(encode(&["COPY", &elsewhere, &name, "REPLACE"]));
                requests.push(encode(&["DEL", &elsewhere]));
            }
            (requests, 1)
        }
        op => (vec![of(op, values)], 0),
    }
}

/// A request and the options that set a deadline.
fn with_deadline(args: &[&str], until: Until) -> Vec<String> {
    let option = match until {
        Until::Never => vec![],
        Until::After(ms) => vec!["PX".to_owned(), ms.to_string()],
        Until::At(ms) => vec!["PXAT".to_owned(), (WALL_START_MS + ms).to_string()],
        Until::Kept => vec!["KEEPTTL".to_owned()],
    };
    args.iter().map(|arg| (*arg).to_owned()).chain(option).collect()
}

fn number(value: &Bytes) -> Result<u64, String> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("a value that is no number: {:?}", String::from_utf8_lossy(value)))
}

/// Puts an answer where it belongs.
///
/// # Errors
///
/// It is none that the store should give.
pub(super) fn fill(op: &mut MicroOp, reply: &Reply, values: Values) -> Result<(), String> {
    let seen = |reply: &Reply| -> Result<Seen, String> {
        match reply {
            Reply::Bulk(value) => values.parse_register(value).map(Some),
            Reply::Null => Ok(None),
            other => Err(format!("what a register held, told as {other:?}")),
        }
    };
    match (op, reply) {
        (MicroOp::Append { length, .. }, Reply::Integer(bytes)) => {
            *length = Some(values.tokens_in(*bytes)?);
        }
        (MicroOp::Length { length, .. }, Reply::Integer(bytes)) => *length = Some(values.tokens_in(*bytes)?),
        (MicroOp::Tail { tokens, .. }, Reply::Bulk(value)) => *tokens = Some(values.parse_list(value)?),
        (MicroOp::Read { list, .. }, Reply::Bulk(value)) => *list = Some(values.parse_list(value)?),
        (MicroOp::Read { list, .. }, Reply::Null) => *list = Some(Vec::new()),
        (MicroOp::Add { value, .. }, Reply::Integer(count)) => {
            *value = Some(u64::try_from(*count).map_err(|_| format!("a count of {count}"))?);
        }
        (MicroOp::Count { value, .. }, Reply::Bulk(count)) => *value = Some(number(count)?),
        (MicroOp::Count { value, .. }, Reply::Null) => *value = Some(0),
        (
            MicroOp::Put { saw, .. }
            | MicroOp::Take { saw, .. }
            | MicroOp::Expire { saw, .. }
            | MicroOp::Look { saw, .. },
            reply,
        ) => {
            *saw = Some(seen(reply)?);
        }
        (op, reply) => return Err(format!("{op} cannot be answered with {reply:?}")),
    }
    Ok(())
}
