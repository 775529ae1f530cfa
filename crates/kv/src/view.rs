//! [`View`]: all that evaluation knows of the data.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use dstore_storage::Direction;
use dstore_storage::layout::{HeadError, KeyError};

/// What a scan calls with each key and value; it says whether to go on.
pub type Visitor<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// A consistent, ordered picture of encoded keys and values: the engine with an overlay of effects that are logged but
/// not yet applied, a snapshot, several ranges at once, or a `BTreeMap` in a test.
///
/// All calls during one evaluation must see the same data.
pub trait View {
    /// The value of `key`, if it is there.
    ///
    /// # Errors
    /// When the data cannot be read, or not without waiting. The caller of [`evaluate`](crate::evaluate) gets it back.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError>;

    /// Calls `visit` with every key in `span` (its end excluded) and its value, in order, until it breaks.
    ///
    /// # Errors
    /// As [`View::get`].
    fn scan(&self, span: Range<&[u8]>, direction: Direction, visit: &mut Visitor<'_>) -> Result<(), ViewError>;
}

/// Why the data could not be read. Nobody may answer a client from it. Unless it is [`ViewError::NotInMemory`], the node
/// stops.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The view does not wait for a disk, and what it was asked for is not in memory. Nothing was evaluated. Where another
    /// thread evaluates the same over a view that waits, it is in memory afterwards.
    #[error("not in memory")]
    NotInMemory,
    /// The engine below the view failed.
    #[error("the data cannot be read: {0}")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A record that this build cannot have written.
    #[error("corrupt data at key {key:?}: {reason}")]
    Corrupt {
        /// The encoded key.
        key: Bytes,
        /// What is wrong there.
        reason: CorruptReason,
    },
}

/// What is wrong with a corrupt record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CorruptReason {
    /// The head of the value.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The key itself.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key count that is not eight bytes.
    #[error("bad key count")]
    Count,
    /// A key count below the number of keys.
    #[error("key count {count} would fall below zero")]
    CountTooLow {
        /// What the record says.
        count: u64,
    },
    /// A chunk that is longer than what it covers, or something else where a chunk should be.
    #[error("bad chunk of a string")]
    Chunk,
    /// A key in the span of the expiry index that is not of its form.
    #[error("bad expiry-index record")]
    ExpiryIndex,
}

impl ViewError {
    pub(crate) fn corrupt(key: &[u8], reason: impl Into<CorruptReason>) -> ViewError {
        ViewError::Corrupt { key: Bytes::copy_from_slice(key), reason: reason.into() }
    }
}
