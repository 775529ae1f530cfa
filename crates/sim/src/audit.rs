//! Do the records of the user range agree with each other? After every entry of the log these must (`docs/kv.md`, rule 5):
//!
//! - a database's key count is the number of its head records;
//! - each head with a deadline has its record in the expiry index, and each such record has its head, unless clients say FLUSHDB,
//!   which leaves stale ones to the sweep;
//! - each chunk is one of its head's generation, and within the value's length, or an orphan: then the expiry index names its
//!   generation, which is no living one.
//!
//! Clients see none of this until much later, if ever: a count that is wrong, space that never comes back, a living value's chunk
//! that the sweep is about to take.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dstore_node::USER_RANGE;
use dstore_storage::layout::{Head, chunk, key, local, tag};

use crate::machine::Replica;

/// What the records say.
#[derive(Default)]
struct Books<'a> {
    heads: BTreeMap<&'a [u8], Head>,
    /// Chunks with the data key of their head, generation, index, and bytes.
    chunks: Vec<(&'a [u8], u64, u32, usize)>,
    /// The expiry index: deadlines of heads, by data key, and orphaned generations.
    deadlines: BTreeSet<(&'a [u8], u64)>,
    orphans: BTreeSet<(&'a [u8], u64)>,
    /// Keys of databases that have any.
    counts: BTreeMap<u8, u64>,
    databases_are_cleared: bool,
}

/// The first thing about a replica of the user range that does not agree with the rest. Where databases are cleared the expiry
/// index may name what is gone.
pub fn audit(replica: &Replica, databases_are_cleared: bool) -> Result<(), String> {
    let mut books = Books { databases_are_cleared, ..Books::default() };
    for (key, value) in &replica.records {
        books.enter(key, value)?;
    }
    books.balance()
}

fn printed(data_key: &[u8]) -> impl std::fmt::Display {
    data_key.escape_ascii().to_string()
}

impl<'a> Books<'a> {
    fn enter(&mut self, record: &'a Bytes, value: &Bytes) -> Result<(), String> {
        let damaged = |what: &str| format!("{} is no {what}", printed(record));
        let counts = local::count_span(USER_RANGE);
        if let Some((deadline_ms, data_key)) = local::decode_expiry(record) {
            let decoded = key::decode(data_key).map_err(|error| format!("{}: {error}", printed(data_key)))?;
            let (head, sub) = data_key.split_at(data_key.len() - decoded.sub.len());
            if sub.is_empty() {
                self.deadlines.insert((head, deadline_ms));
            } else {
                let generation = chunk::decode_orphans(sub).ok_or_else(|| damaged("record of orphans"))?;
                self.orphans.insert((head, generation));
            }
        } else if (&counts.start[..]..&counts.end[..]).contains(&&record[..]) {
            let count = local::decode_count(value).ok_or_else(|| damaged("count"))?;
            self.counts.insert(*record.last().expect("it names a database"), count);
        } else if record.first() == Some(&tag::USER) {
            let decoded = key::decode(record).map_err(|error| format!("{}: {error}", printed(record)))?;
            let (head, sub) = record.split_at(record.len() - decoded.sub.len());
            if sub.is_empty() {
                self.heads.insert(head, Head::decode(value).map_err(|error| format!("{}: {error}", printed(head)))?);
            } else {
                let (generation, index) = chunk::decode(sub).ok_or_else(|| damaged("chunk"))?;
                self.chunks.push((head, generation, index, value.len()));
            }
        }
        Ok(())
    }

    fn balance(&self) -> Result<(), String> {
        let mut found: BTreeMap<u8, u64> = BTreeMap::new();
        for (data_key, head) in &self.heads {
            *found.entry(data_key[1]).or_default() += 1;
            if let Some(deadline_ms) = head.expires_at_ms
                && !self.deadlines.contains(&(*data_key, deadline_ms))
            {
                return Err(format!("{} expires at {deadline_ms}, and the index does not say so", printed(data_key)));
            }
        }
        if found != self.counts {
            return Err(format!("the keys of each database are counted as {:?}, and are {found:?}", self.counts));
        }
        for (data_key, deadline_ms) in &self.deadlines {
            let of_head = self.heads.get(data_key).and_then(|head| head.expires_at_ms);
            if of_head != Some(*deadline_ms) && !self.databases_are_cleared {
                let data_key = printed(data_key);
                return Err(format!("the index says that {data_key} expires at {deadline_ms}, its head {of_head:?}"));
            }
        }
        self.balance_chunks()
    }

    fn balance_chunks(&self) -> Result<(), String> {
        let living = |data_key: &[u8]| {
            let head = self.heads.get(data_key)?;
            Some((head.generation?, head.chunked?))
        };
        for (data_key, generation) in &self.orphans {
            if living(data_key).is_some_and(|(lives, _)| lives == *generation) {
                let data_key = printed(data_key);
                return Err(format!("{data_key} lives in generation {generation}, whose chunks are to be swept"));
            }
        }
        for (data_key, generation, index, bytes) in &self.chunks {
            let within = match living(data_key) {
                Some((lives, chunked)) if lives == *generation => {
                    (u64::from(*index) << chunked.bits) + *bytes as u64 <= chunked.len
                }
                _ => self.orphans.contains(&(*data_key, *generation)),
            };
            if !within {
                let data_key = printed(data_key);
                return Err(format!("chunk {index} of {data_key}, generation {generation}, belongs to nobody"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dstore_storage::layout::Chunked;

    use super::*;

    type Records = BTreeMap<Bytes, Bytes>;

    fn told(records: &Records) -> Result<(), String> {
        audit(&Replica { applied: None, records: records.clone().into_iter().collect() }, false)
    }

    /// A short value that expires at 70; a long one of generation 5, in two chunks; and a chunk of generation 3 that is left.
    fn sound() -> Records {
        let (short, long) = (key::encode(0, b"short"), key::encode(0, b"long"));
        let chunked = Some(Chunked { len: (1 << 14) + 2, bits: 14 });
        let head = Head { generation: Some(5), chunked, ..Head::string(6, None) };
        [
            (short.clone(), Head::string(4, Some(70)).encode(b"value")),
            (local::expiry_key(USER_RANGE, 70, &short), Bytes::new()),
            (long.clone(), head.encode(b"")),
            (chunk::chunk_key(&long, 5, 0), vec![7; 1 << 14].into()),
            (chunk::chunk_key(&long, 5, 1), vec![7; 2].into()),
            (chunk::chunk_key(&long, 3, 9), vec![7; 2].into()),
            (local::expiry_key(USER_RANGE, 80, &chunk::orphans(&long, 3)), Bytes::new()),
            (local::count_key(USER_RANGE, 0), local::encode_count(2)),
            (local::members_key(USER_RANGE), Bytes::from_static(b"not ours")),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn sound_records_are_told_from_unsound_ones() {
        assert_eq!(told(&sound()), Ok(()));
        let long = key::encode(0, b"long");
        let lacks = |key: Bytes| {
            let mut records = sound();
            records.remove(&key).expect("it is there");
            told(&records).expect_err("something is missing")
        };
        assert!(lacks(key::encode(0, b"short")).contains("counted"));
        assert!(
            lacks(local::expiry_key(USER_RANGE, 70, &key::encode(0, b"short"))).contains("the index does not say so")
        );
        assert!(lacks(local::expiry_key(USER_RANGE, 80, &chunk::orphans(&long, 3))).contains("belongs to nobody"));
        let has = |key: Bytes, value: Bytes| {
            let mut records = sound();
            records.insert(key, value);
            told(&records).expect_err("something is too much")
        };
        assert!(has(local::expiry_key(USER_RANGE, 90, &key::encode(0, b"short")), Bytes::new()).contains("its head"));
        assert!(has(local::expiry_key(USER_RANGE, 90, &chunk::orphans(&long, 5)), Bytes::new()).contains("swept"));
        assert!(has(chunk::chunk_key(&long, 5, 1), vec![7; 3].into()).contains("belongs to nobody"));
        assert!(has(local::count_key(USER_RANGE, 1), local::encode_count(1)).contains("counted"));
    }

    #[test]
    fn where_databases_are_cleared_the_index_may_name_what_is_gone_and_nothing_else_may_be_wrong() {
        let mut records = sound();
        records.insert(local::expiry_key(USER_RANGE, 90, &key::encode(0, b"gone")), Bytes::new());
        let replica = |records: &Records| Replica { applied: None, records: records.clone().into_iter().collect() };
        assert!(audit(&replica(&records), false).is_err());
        assert_eq!(audit(&replica(&records), true), Ok(()));
        records.remove(&local::expiry_key(USER_RANGE, 70, &key::encode(0, b"short"))).expect("it is there");
        assert!(audit(&replica(&records), true).is_err());
    }
}
