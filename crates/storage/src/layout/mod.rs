//! Key layout, head records, stamps and versions: where things are in the ordered key space, byte for byte.
//!
//! For whoever reads or writes the data: evaluation (`dstore-kv`), the engines' tests, tools. Nothing here does I/O or
//! knows a clock; `docs/layout.md` draws the same formats.
//!
//! ```text
//! 0x01 | range id (u64 BE) | field ...                        range-local           [`local`]
//! 0x02 | table | id                                            system                [`system`]
//! 0x03 | db (u8) | escaped user key | 0x00 0x01 | sub ...     user data             [`key`], [`chunk`]
//! 0x04 | ...                                                  transactions, reserved
//! ```
//!
//! Keys are *memcomparable*: the order of the encoded bytes is the order of what they encode. All integers are big
//! endian, in keys because of that order, in values for one rule less to remember.
//!
//! What must hold:
//! - every encoder has a decoder, and `decode(encode(x)) == x`;
//! - a decoder accepts nothing an encoder cannot have written: what it does not know it refuses with an error that
//!   names the place, because the alternative is a wrong answer.

pub mod chunk;
mod head;
pub mod key;
pub mod local;
mod stamp;
pub mod system;

pub use head::{Chunked, Head, HeadError, Kind};
pub use key::{KeyBuf, KeyError, UserKey};
pub use stamp::Stamp;

pub use crate::RangeId;

/// First byte of every key: which part of the key space it is in.
pub mod tag {
    /// Belongs to one range and never leaves it.
    pub const RANGE_LOCAL: u8 = 0x01;
    /// Cluster-wide bookkeeping.
    pub const SYSTEM: u8 = 0x02;
    /// What clients stored.
    pub const USER: u8 = 0x03;
    /// Locks, transaction records, request ids. Reserved.
    pub const TRANSACTION: u8 = 0x04;
}
