//! SCAN cursors that say where they stand, so that any node can go on with them.
//!
//! A cursor has 63 bits and a position is a key, which is longer. But a scan may go on a little *before* where it
//! stopped, and most of a key is what its neighbours have too. So a cursor is a path down the keys, from the first byte
//! on:
//!
//! ```text
//! bit 63, 62     0 0                          (0 1 is a cursor of the node's table, see `cursors.rs`)
//! then           zeros, and a 1 that begins the path
//! path           0 bbbbbbbb                   the next byte
//!                1 nnnn                       n + 1 bytes that all keys here share: those of the first key are meant
//! ```
//!
//! With keys like `user:1000012345` among others, a path reads: `u`, 4 shared bytes, `1`, `0`, `0`, `0`, `0`.
//!
//! # Why no key is missed
//!
//! Let S be the keys that are there from the beginning of the scan to its end, P the position that was encoded and P'
//! what decoding makes of it, perhaps elsewhere and much later. Nothing of S in P.. may lie before P'. Follow the path: so
//! far both agree, on a prefix `p`. A byte is the same for both. With n shared bytes, all keys that began with `p` then
//! went on with `s`, while the first that does so now goes on with `s'`. If `s' = s`, both agree still. If `s' < s`, P' is
//! below P whatever follows. If `s' > s`, no key with `p` and `s` is there any more; S had no others with `p`, so S has
//! none between P and P', which both begin with `p`. Where a path ends or leads nowhere, the prefix so far is below P.

use dstore_storage::Direction;
use dstore_storage::layout::key;

use crate::scan::first_user_key;
use crate::view::{View, ViewError};

/// Bits for the path.
const PATH_BITS: u32 = 61;
/// The first bit that a cursor of this kind does not have.
const CURSOR_BITS: u32 = PATH_BITS + 1;

const BYTE_ITEM_BITS: u32 = 9;
const SHARED_ITEM_BITS: u32 = 5;
/// Most bytes that one item says are shared.
const SHARED_BYTES_MAX: usize = 16;

/// How often encoding looks for shared bytes, which takes two look-ups: at the beginning, behind the byte that tells
/// families of keys apart, and once more.
const LOOKS: u32 = 3;

/// A cursor and the position it stands for: all keys with this prefix, and all behind.
pub(crate) struct Anchor {
    pub(crate) cursor: u64,
    pub(crate) prefix: Vec<u8>,
}

/// A path under construction.
struct Path {
    bits: u64,
    used: u32,
}

impl Path {
    /// Adds an item if there is room.
    fn push(&mut self, item: u64, bits: u32) -> bool {
        let fits = self.used + bits <= PATH_BITS;
        if fits {
            self.bits = self.bits << bits | item;
            self.used += bits;
        }
        fits
    }
}

/// The cursor that leads to the longest prefix of `user_key`, which is a key of this database.
pub(crate) fn encode(view: &dyn View, db: u8, user_key: &[u8]) -> Result<Anchor, ViewError> {
    let mut path = Path { bits: 1, used: 0 };
    let mut at = 0;
    let mut looks = LOOKS;
    'path: while at < user_key.len() {
        if looks > 0 {
            looks -= 1;
            let shared = shared_len(view, db, &user_key[..at])?;
            while at < shared {
                let count = (shared - at).min(SHARED_BYTES_MAX);
                if !path.push(0b1_0000 | (count as u64 - 1), SHARED_ITEM_BITS) {
                    break 'path;
                }
                at += count;
            }
        }
        match user_key.get(at) {
            Some(byte) if path.push(u64::from(*byte), BYTE_ITEM_BITS) => at += 1,
            _ => break,
        }
    }
    Ok(Anchor { cursor: path.bits, prefix: user_key[..at].to_vec() })
}

/// How long the prefix is that all keys beginning with `prefix` share.
fn shared_len(view: &dyn View, db: u8, prefix: &[u8]) -> Result<usize, ViewError> {
    let start = key::encode_prefix(db, prefix);
    let end = key::prefix_successor(&start).expect("tag 0x03 has a successor");
    let first = first_user_key(view, &start..&end, Direction::Forward)?;
    let last = first_user_key(view, &start..&end, Direction::Backward)?;
    let shared = |(first, last): (Vec<u8>, Vec<u8>)| first.iter().zip(&last).take_while(|(a, b)| a == b).count();
    Ok(first.zip(last).map_or(prefix.len(), shared))
}

/// The prefix that a cursor leads to; none if it is no cursor of this kind.
pub(crate) fn decode(view: &dyn View, db: u8, cursor: u64) -> Result<Option<Vec<u8>>, ViewError> {
    if cursor == 0 || cursor >> CURSOR_BITS != 0 {
        return Ok(None);
    }
    let mut prefix = Vec::new();
    let mut left = u64::BITS - 1 - cursor.leading_zeros();
    while left > 0 {
        let shared = cursor >> (left - 1) & 1 == 1;
        let bits = if shared { SHARED_ITEM_BITS } else { BYTE_ITEM_BITS };
        let Some(rest) = left.checked_sub(bits) else { break };
        left = rest;
        if !shared {
            prefix.push((cursor >> left) as u8);
            continue;
        }
        let len = prefix.len() + (cursor >> left & 0xF) as usize + 1;
        let start = key::encode_prefix(db, &prefix);
        let end = key::prefix_successor(&start).expect("tag 0x03 has a successor");
        match first_user_key(view, &start..&end, Direction::Forward)? {
            Some(first) if first.len() >= len => prefix.extend_from_slice(&first[prefix.len()..len]),
            _ => break,
        }
    }
    Ok(Some(prefix))
}
