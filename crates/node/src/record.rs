//! [`Record`]: what a range remembers of a gateway's connection, so that a retried command is executed once.
//!
//! A batch that came from another node leaves a record in the same entry as its effects. A gateway sends the next batch
//! of a connection only when the one before is answered, so one record a connection is enough, and each replaces the
//! one before.
//!
//! ```text
//!  0   1   version of this format: 1
//!  1   8   number of the batch's first piece of work, little-endian
//!  9   4   pieces of work executed, little-endian
//!  13  ... for each: bytes (u32, little-endian; 0xffffffff where the outcome was too large to be kept), the outcome
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dstore_storage::RangeId;
use dstore_storage::layout::local;

use crate::batch::{Batch, Done};
use crate::wire::Executed;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 13;
const TOO_LARGE: u32 = u32::MAX;

/// Bytes of outcomes that one record keeps. Replies to writes are short; what is beyond this is told to have been
/// executed, and its reply to be lost.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 10;

/// Whose record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordKey {
    pub(crate) node: u64,
    pub(crate) incarnation: u64,
    pub(crate) connection: u64,
}

impl RecordKey {
    /// Where the record is.
    pub(crate) fn at(self, range: RangeId) -> Bytes {
        local::request_key(range, self.node, self.incarnation, self.connection)
    }
}

/// What a connection last had executed.
#[derive(Debug)]
pub(crate) struct Record {
    first: u64,
    /// Encoded outcomes; `None` where they were too large.
    done: Vec<Option<Bytes>>,
}

/// What a record says of a piece of work.
#[derive(Debug, PartialEq)]
pub(crate) enum Remembered {
    /// It was not executed, as far as this record goes.
    No,
    /// It was, with this outcome.
    Done(Done),
    /// It was, and nobody knows the outcome any more.
    Forgotten,
}

/// Writes the record of a batch of which `done` was executed so far.
pub(crate) fn encode(batch: &Batch, done: &[Done]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + done.len() * 16);
    out.put_u8(VERSION);
    out.put_u64_le(batch.first);
    out.put_u32_le(u32::try_from(done.len()).expect("batches are bounded far below 2^32 pieces"));
    for (item, done) in batch.items.iter().zip(done) {
        let bytes = Executed::single(item.version, done);
        if out.len() + bytes.len() > RECORD_BYTES_MAX {
            out.put_u32_le(TOO_LARGE);
        } else {
            out.put_u32_le(u32::try_from(bytes.len()).expect("bounded above"));
            out.put_slice(&bytes);
        }
    }
    out.freeze()
}

impl Record {
    /// Reads a record. `None` if it is damaged, or of a version this binary does not know.
    pub(crate) fn decode(mut stored: Bytes) -> Option<Record> {
        if stored.len() < HEADER_BYTES || stored.get_u8() != VERSION {
            return None;
        }
        let (first, count) = (stored.get_u64_le(), stored.get_u32_le());
        let mut done = Vec::new();
        for _ in 0..count {
            let bytes = stored.try_get_u32_le().ok()?;
            done.push(match bytes {
                TOO_LARGE => None,
                bytes if bytes as usize <= stored.len() => Some(stored.split_to(bytes as usize)),
                _ => return None,
            });
        }
        stored.is_empty().then_some(Record { first, done })
    }

    /// What is known of piece `number` of the batch that begins at `first`. Records of earlier batches know nothing of it.
    pub(crate) fn recall(&self, first: u64, number: u64) -> Remembered {
        let at = number.checked_sub(self.first).filter(|_| self.first == first);
        match at.and_then(|at| self.done.get(usize::try_from(at).ok()?)) {
            None => Remembered::No,
            Some(None) => Remembered::Forgotten,
            Some(Some(bytes)) => Executed::from_memory(bytes.clone()).map_or(Remembered::Forgotten, Remembered::Done),
        }
    }

    /// Whether it is of a later batch than the one that begins at `first`, which then was answered long ago.
    pub(crate) fn is_later_than(&self, first: u64) -> bool {
        self.first > first
    }
}

#[cfg(test)]
mod tests {
    use dstore_raft::Time;
    use dstore_resp::{ProtocolVersion, Reply};

    use super::*;
    use crate::batch::{Item, Work};

    fn batch(first: u64, len: usize) -> Batch {
        let work = Work::Watch { db: 0, keys: Vec::new() };
        let item = Item { work, version: ProtocolVersion::Resp2, arrived: Time::default() };
        Batch { first, items: vec![item; len] }
    }

    #[test]
    fn a_record_recalls_its_batch_and_no_other() {
        let done = [Done::Reply(Reply::Integer(7)), Done::Versions(vec![3])];
        let record = Record::decode(encode(&batch(10, 3), &done)).unwrap();
        let seven = Done::Reply(Reply::Encoded(Bytes::from_static(b":7\r\n")));
        assert_eq!(record.recall(10, 10), Remembered::Done(seven));
        assert_eq!(record.recall(10, 11), Remembered::Done(Done::Versions(vec![3])));
        assert_eq!(record.recall(10, 12), Remembered::No);
        assert_eq!(record.recall(11, 11), Remembered::No);
        assert!(record.is_later_than(9) && !record.is_later_than(10));
    }

    #[test]
    fn a_reply_that_is_too_large_is_not_kept_and_known_to_be_lost() {
        let long = Reply::Bulk(Bytes::from(vec![b'x'; RECORD_BYTES_MAX]));
        let stored = encode(&batch(1, 2), &[Done::Reply(long), Done::Reply(Reply::OK)]);
        assert!(stored.len() < RECORD_BYTES_MAX);
        let record = Record::decode(stored).unwrap();
        assert_eq!(record.recall(1, 1), Remembered::Forgotten);
        assert!(matches!(record.recall(1, 2), Remembered::Done(_)));
    }

    #[test]
    fn damage_is_not_read() {
        let whole = encode(&batch(1, 1), &[Done::Reply(Reply::OK)]);
        for length in 0..whole.len() {
            assert!(Record::decode(whole.slice(..length)).is_none(), "{length}");
        }
    }
}
