//! [`WriteOp`]: the one vocabulary of changes, from evaluation through the log to the engine.

use bytes::Bytes;

/// One change to the data. A log entry is a list of these; an engine applies a list atomically and in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOp {
    /// Sets `key` to `value`.
    Put {
        /// The whole encoded key.
        key: Bytes,
        /// The whole encoded value.
        value: Bytes,
    },
    /// Removes `key`, present or not.
    Delete {
        /// The whole encoded key.
        key: Bytes,
    },
    /// Removes every key in `start..end`.
    DeleteRange {
        /// First key removed.
        start: Bytes,
        /// First key kept; `start < end`.
        end: Bytes,
    },
}

impl WriteOp {
    /// Bytes of keys and values in this change.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        match self {
            WriteOp::Put { key, value } => key.len() + value.len(),
            WriteOp::Delete { key } => key.len(),
            WriteOp::DeleteRange { start, end } => start.len() + end.len(),
        }
    }
}
