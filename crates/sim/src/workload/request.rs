//! Requests as bytes, and lists as values.

use bytes::Bytes;

use crate::checker::{Key, Token};

/// Bytes of one token in a list: six digits and a comma, so that the length of a list tells how many there are.
pub const TOKEN_BYTES: usize = 7;

/// The name of a key in the store.
pub(super) fn key_name(key: Key) -> String {
    format!("k{key}")
}

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
