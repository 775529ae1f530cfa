//! User-data keys: `0x03 | db | escaped user key | 0x00 0x01 | sub`, and the spans they live in.
//!
//! The escape makes byte order user order for keys of any bytes and any lengths: `0x00` becomes `0x00 0xFF`, and
//! `0x00 0x01` ends the key. So a key sorts before every longer key that begins with it (`0x01 < 0xFF`, and
//! `0x00` below any other byte), and all sub-records of a key stand together, right behind its head record (whose
//! `sub` is empty).

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::tag;

/// An encoded key that lives on the stack while it is short, for look-ups that should not allocate.
pub type KeyBuf = SmallVec<[u8; 128]>;

/// Ends the escaped user key.
const TERMINATOR: [u8; 2] = [0x00, 0x01];
/// What a zero byte of the user key becomes.
const ESCAPED_ZERO: [u8; 2] = [0x00, 0xFF];

/// What is wrong with a data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not tag 0x03, or no db byte.
    #[error("not a user-data key")]
    NotUserData,
    /// A zero byte followed by neither 0xFF nor 0x01.
    #[error("bad escape at byte {at}")]
    BadEscape {
        /// Position of the zero byte.
        at: usize,
    },
    /// The end came before `0x00 0x01`.
    #[error("no terminator")]
    NoTerminator,
}

/// A decoded user-data key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserKey<'a> {
    /// The database, 0 to 15 unless configured otherwise.
    pub db: u8,
    /// The client's key.
    pub key: Vec<u8>,
    /// Which sub-record; empty for the head record.
    pub sub: &'a [u8],
}

/// The key of the head record of `user_key`, for a look-up.
pub fn encode_buf(db: u8, user_key: &[u8]) -> KeyBuf {
    let mut out = KeyBuf::new();
    out.extend_from_slice(&[tag::USER, db]);
    escape(user_key, |piece| out.extend_from_slice(piece));
    out.extend_from_slice(&TERMINATOR);
    out
}

/// The key of the head record of `user_key`, for an effect.
pub fn encode(db: u8, user_key: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(user_key.len() + 4);
    out.extend_from_slice(&[tag::USER, db]);
    escape(user_key, |piece| out.extend_from_slice(piece));
    out.extend_from_slice(&TERMINATOR);
    Bytes::from(out)
}

/// The first possible data key at or after `user_key`, and of everything that begins with it: a lower bound for scans.
pub fn encode_prefix(db: u8, user_prefix: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(user_prefix.len() + 2);
    out.extend_from_slice(&[tag::USER, db]);
    escape(user_prefix, |piece| out.extend_from_slice(piece));
    out
}

fn escape(user_key: &[u8], mut emit: impl FnMut(&[u8])) {
    let mut pieces = user_key.split(|byte| *byte == 0);
    if let Some(first) = pieces.next() {
        emit(first);
    }
    for piece in pieces {
        emit(&ESCAPED_ZERO);
        emit(piece);
    }
}

/// Takes a user-data key apart.
///
/// # Errors
/// If `data_key` is not one; see [`KeyError`].
pub fn decode(data_key: &[u8]) -> Result<UserKey<'_>, KeyError> {
    let (&[tag::USER, db], escaped) = data_key.split_first_chunk::<2>().ok_or(KeyError::NotUserData)? else {
        return Err(KeyError::NotUserData);
    };
    let mut key = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    loop {
        let zero = rest.iter().position(|byte| *byte == 0).ok_or(KeyError::NoTerminator)?;
        key.extend_from_slice(&rest[..zero]);
        match rest.get(zero + 1) {
            Some(0xFF) => key.push(0),
            Some(0x01) => return Ok(UserKey { db, key, sub: &rest[zero + 2..] }),
            Some(_) => return Err(KeyError::BadEscape { at: data_key.len() - rest.len() + zero }),
            None => return Err(KeyError::NoTerminator),
        }
        rest = &rest[zero + 2..];
    }
}

/// Whether this data key is of a head record, without decoding the user key.
///
/// # Errors
/// As [`decode`].
pub fn is_head(data_key: &[u8]) -> Result<bool, KeyError> {
    if data_key.len() < 2 || data_key[0] != tag::USER {
        return Err(KeyError::NotUserData);
    }
    let mut at = 2;
    loop {
        let zero = at + data_key[at..].iter().position(|byte| *byte == 0).ok_or(KeyError::NoTerminator)?;
        match data_key.get(zero + 1) {
            Some(0xFF) => at = zero + 2,
            Some(0x01) => return Ok(zero + 2 == data_key.len()),
            Some(_) => return Err(KeyError::BadEscape { at: zero }),
            None => return Err(KeyError::NoTerminator),
        }
    }
}

/// Where all data of a database is.
pub fn db_span(db: u8) -> Range<Vec<u8>> {
    let start = vec![tag::USER, db];
    let end = prefix_successor(&start).expect("tag 0x03 has a successor");
    start..end
}

/// Where all user data is, of every database.
pub fn user_span() -> Range<Vec<u8>> {
    vec![tag::USER]..vec![tag::USER + 1]
}

/// The smallest byte string above everything that begins with `prefix`; none if `prefix` is empty or all 0xFF.
pub fn prefix_successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut out = prefix[..=last].to_vec();
    out[last] += 1;
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_as_documented() {
        assert_eq!(&encode(2, b"ab")[..], b"\x03\x02ab\x00\x01");
        assert_eq!(&encode(0, b"a\0b\0")[..], b"\x03\x00a\x00\xffb\x00\xff\x00\x01");
        assert_eq!(&encode(0, b"")[..], b"\x03\x00\x00\x01");
        assert_eq!(db_span(0xFF), vec![3, 0xFF]..vec![4]);
        assert_eq!(db_span(1), vec![3, 1]..vec![3, 2]);
    }

    #[test]
    fn what_no_encoder_wrote_is_refused() {
        assert_eq!(decode(b""), Err(KeyError::NotUserData));
        assert_eq!(decode(b"\x03"), Err(KeyError::NotUserData));
        assert_eq!(decode(b"\x01\x00a\x00\x01"), Err(KeyError::NotUserData));
        assert_eq!(decode(b"\x03\x00a"), Err(KeyError::NoTerminator));
        assert_eq!(decode(b"\x03\x00a\x00"), Err(KeyError::NoTerminator));
        assert_eq!(decode(b"\x03\x00ab\x00\x02"), Err(KeyError::BadEscape { at: 4 }));
        assert_eq!(decode(b"\x03\x00a\x00\xffb\x00\x00"), Err(KeyError::BadEscape { at: 6 }));
    }

    #[test]
    fn prefix_successors() {
        assert_eq!(prefix_successor(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_successor(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_successor(b"\xff\xff"), None);
        assert_eq!(prefix_successor(b""), None);
    }

    /// Keys that are likely to share prefixes and to hold the bytes that matter.
    fn user_key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xFE), Just(0xFF), any::<u8>()], 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn byte_order_is_user_order(a in user_key(), b in user_key(), sub in user_key()) {
            prop_assert_eq!(encode(1, &a).cmp(&encode(1, &b)), a.cmp(&b));
            // A sub-record stays between its own head and the next key's.
            let mut sub_record = encode(1, &a).to_vec();
            sub_record.extend_from_slice(&sub);
            prop_assert_eq!(sub_record.as_slice() < &encode(1, &b)[..], a < b);
            prop_assert_eq!(encode_prefix(1, &a).as_slice() <= &encode(1, &b)[..], a <= b);
        }

        #[test]
        fn a_key_survives_the_round_trip(db in 0u8..16, key in user_key(), sub in user_key()) {
            let mut data_key = encode(db, &key).to_vec();
            prop_assert_eq!(&encode_buf(db, &key)[..], &data_key[..]);
            prop_assert_eq!(is_head(&data_key), Ok(true));
            data_key.extend_from_slice(&sub);
            prop_assert_eq!(decode(&data_key), Ok(UserKey { db, key: key.clone(), sub: &sub }));
            prop_assert_eq!(is_head(&data_key), Ok(sub.is_empty()));
            prop_assert!(db_span(db).contains(&data_key) && user_span().contains(&data_key));
        }
    }
}
