//! Requests as bytes, and lists as values.

use bytes::Bytes;
use dstore_resp::Reply;

use crate::checker::{Key, MicroOp, Seen, Token, key_name};

/// Bytes of one token in a list: six digits and a comma, so that the length of a list tells how many there are.
pub const TOKEN_BYTES: usize = 7;

/// The arguments of one request, encoded.
pub(super) fn encode(args: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
    bytes
}

/// APPEND key token
pub(super) fn append(key: Key, token: Token) -> Vec<u8> {
    encode(&["APPEND", &key_name(key), &format!("{token:06},")])
}

/// GET key
pub(super) fn get(key: Key) -> Vec<u8> {
    encode(&["GET", &key_name(key)])
}

/// The request that does something.
pub(super) fn of(op: &MicroOp) -> Vec<u8> {
    let name = key_name(op.key());
    match op {
        MicroOp::Append { key, token, .. } => append(*key, *token),
        MicroOp::Read { key, .. } | MicroOp::Count { key, .. } | MicroOp::Look { key, .. } => get(*key),
        MicroOp::Add { .. } => encode(&["INCR", &name]),
        MicroOp::Take { .. } => encode(&["GETDEL", &name]),
        MicroOp::Put { token, life_ms, if_absent, .. } => {
            let (token, life) = (token.to_string(), life_ms.map(|life| life.to_string()));
            let mut args = vec!["SET", &name, &token, "GET"];
            if *if_absent {
                args.push("NX");
            }
            if let Some(life) = &life {
                args.extend(["PX", life]);
            }
            encode(&args)
        }
    }
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
pub(super) fn fill(op: &mut MicroOp, reply: &Reply) -> Result<(), String> {
    let seen = |reply: &Reply| -> Result<Seen, String> {
        match reply {
            Reply::Bulk(value) => number(value).map(Some),
            Reply::Null => Ok(None),
            other => Err(format!("what a register held, told as {other:?}")),
        }
    };
    match (op, reply) {
        (MicroOp::Append { length, .. }, Reply::Integer(bytes)) => {
            let bytes = usize::try_from(*bytes).map_err(|_| format!("a length of {bytes}"))?;
            if !bytes.is_multiple_of(TOKEN_BYTES) {
                return Err(format!("a length of {bytes} bytes is no number of tokens"));
            }
            *length = Some(bytes / TOKEN_BYTES);
        }
        (MicroOp::Read { list, .. }, Reply::Bulk(value)) => *list = Some(parse_list(value)?),
        (MicroOp::Read { list, .. }, Reply::Null) => *list = Some(Vec::new()),
        (MicroOp::Add { value, .. }, Reply::Integer(count)) => {
            *value = Some(u64::try_from(*count).map_err(|_| format!("a count of {count}"))?);
        }
        (MicroOp::Count { value, .. }, Reply::Bulk(count)) => *value = Some(number(count)?),
        (MicroOp::Count { value, .. }, Reply::Null) => *value = Some(0),
        (MicroOp::Put { saw, .. } | MicroOp::Take { saw, .. } | MicroOp::Look { saw, .. }, reply) => {
            *saw = Some(seen(reply)?);
        }
        (op, reply) => return Err(format!("{op} cannot be answered with {reply:?}")),
    }
    Ok(())
}

/// The tokens of a value.
///
/// # Errors
///
/// It is not a sequence of tokens.
pub fn parse_list(value: &Bytes) -> Result<Vec<Token>, String> {
    let wrong = || format!("a value that is no list of tokens: {:?}", String::from_utf8_lossy(value));
    if !value.len().is_multiple_of(TOKEN_BYTES) {
        return Err(wrong());
    }
    let token = |piece: &[u8]| -> Option<Token> {
        let (digits, comma) = piece.split_at(TOKEN_BYTES - 1);
        (comma == b",").then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
    };
    value.chunks(TOKEN_BYTES).map(|piece| token(piece).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_back_and_nonsense_is_not() {
        assert_eq!(parse_list(&Bytes::new()), Ok(vec![]));
        assert_eq!(parse_list(&Bytes::from_static(b"000007,123456,")), Ok(vec![7, 123_456]));
        for nonsense in ["000007", "000007;", "00000a,", "000007,1"] {
            assert!(parse_list(&Bytes::from(nonsense)).is_err(), "{nonsense}");
        }
        assert_eq!(append(3, 7), b"*3\r\n$6\r\nAPPEND\r\n$2\r\nk3\r\n$7\r\n000007,\r\n");
    }
}
