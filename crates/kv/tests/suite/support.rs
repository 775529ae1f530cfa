//! A store on a `BTreeMap`: what a node does around evaluation, in its simplest form.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow, Range};

use bytes::Bytes;
use dstore_kv::{Context, Cursors, Direction, Limits, Mode, Outcome, View, ViewError, Visitor, evaluate};
use dstore_resp::{CommandFlags, CommandSpec, Reply, resolve};
use dstore_storage::layout::{Chunked, Head, Stamp, chunk, key, local};
use dstore_storage::{RangeId, WriteOp};

pub(crate) const RANGE: RangeId = RangeId(1);

/// Encoded keys and values in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Data(pub(crate) BTreeMap<Vec<u8>, Bytes>);

impl View for Data {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, span: Range<&[u8]>, direction: Direction, visit: &mut Visitor<'_>) -> Result<(), ViewError> {
        let mut entries = self.0.range::<[u8], _>((Bound::Included(span.start), Bound::Excluded(span.end)));
        while let Some((key, value)) = match direction {
            Direction::Forward => entries.next(),
            Direction::Backward => entries.next_back(),
        } {
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}

impl Data {
    pub(crate) fn apply(&mut self, effects: &[WriteOp]) {
        for effect in effects {
            match effect {
                WriteOp::Put { key, value } => {
                    self.0.insert(key.to_vec(), value.clone());
                }
                WriteOp::Delete { key } => {
                    self.0.remove(&key[..]);
                }
                WriteOp::DeleteRange { start, end } => {
                    assert!(start < end, "an empty span");
                    self.0.retain(|key, _| !(&start[..]..&end[..]).contains(&key.as_slice()));
                }
            }
        }
    }

    /// The head records: database, key, head, value (of one in chunks, what they hold).
    pub(crate) fn heads(&self) -> Vec<(u8, Vec<u8>, Head, Bytes)> {
        let span = key::user_span();
        let mut heads = Vec::new();
        for (data_key, record) in self.0.range(span.start..span.end) {
            let decoded = key::decode(data_key).unwrap();
            if !decoded.sub.is_empty() {
                continue;
            }
            let head = Head::decode(record).unwrap();
            let value = match head.chunked {
                None => head.value(record),
                Some(chunked) => Bytes::from(self.chunked_value(data_key, head, chunked)),
            };
            heads.push((decoded.db, decoded.key, head, value));
        }
        heads
    }

    /// Puts a value in chunks together, as plainly as can be.
    fn chunked_value(&self, data_key: &[u8], head: Head, Chunked { len, bits }: Chunked) -> Vec<u8> {
        let mut value = vec![0; len as usize];
        for index in 0..=(len >> bits) as u32 {
            let chunk_key = chunk::chunk_key(data_key, head.generation.unwrap(), index);
            if let Some(chunk) = self.0.get(&chunk_key[..]) {
                let at = (index as usize) << bits;
                assert!(chunk.len() <= 1 << bits && at + chunk.len() <= value.len(), "a chunk beyond the value");
                value[at..at + chunk.len()].copy_from_slice(chunk);
            }
        }
        value
    }

    /// The generations of chunks that are there and belong to no head: those the sweep must know.
    pub(crate) fn orphans(&self) -> BTreeSet<Vec<u8>> {
        let span = key::user_span();
        let mut orphans = BTreeSet::new();
        for data_key in self.0.range(span.start..span.end).map(|(data_key, _)| data_key) {
            let decoded = key::decode(data_key).unwrap();
            if decoded.sub.is_empty() {
                continue;
            }
            let (generation, _) = chunk::decode(decoded.sub).unwrap();
            let head_key = &data_key[..data_key.len() - decoded.sub.len()];
            let head = self.0.get(head_key).map(|record| Head::decode(record).unwrap());
            if head.is_none_or(|head| head.generation != Some(generation)) {
                orphans.insert(chunk::orphans(head_key, generation));
            }
        }
        orphans
    }

    /// The records of the expiry index: deadline, data key.
    pub(crate) fn expiry_index(&self) -> Vec<(u64, Vec<u8>)> {
        let span = local::expiry_span(RANGE);
        let records = self.0.range(span.start..span.end);
        records.map(|(key, _)| local::decode_expiry(key).unwrap()).map(|(ms, key)| (ms, key.to_vec())).collect()
    }

    /// The key counts that are stored: database, count.
    pub(crate) fn counts(&self) -> Vec<(u8, u64)> {
        let span = local::count_span(RANGE);
        let records = self.0.range(span.start..span.end);
        records.map(|(key, value)| (*key.last().unwrap(), local::decode_count(value).unwrap())).collect()
    }

    /// What the crate promises of the data after every entry. `index_is_exact`: no FLUSHDB left records behind.
    pub(crate) fn check(&self, index_is_exact: bool) {
        let heads = self.heads();
        let mut counts = BTreeMap::new();
        let mut indexed = Vec::new();
        let mut versions = Vec::new();
        for (db, key, head, _) in &heads {
            *counts.entry(*db).or_insert(0) += 1;
            versions.push(head.version);
            indexed.extend(head.expires_at_ms.map(|deadline_ms| (deadline_ms, key::encode(*db, key).to_vec())));
        }
        assert_eq!(self.counts(), counts.into_iter().collect::<Vec<_>>(), "key counts");
        indexed.sort();
        let index = self.expiry_index();
        let is_orphan = |data_key: &[u8]| !key::is_head(data_key).unwrap();
        let known: BTreeSet<Vec<u8>> = index.iter().map(|(_, key)| key.clone()).filter(|key| is_orphan(key)).collect();
        for orphan in self.orphans() {
            assert!(known.contains(&orphan), "chunks that the sweep does not know of");
        }
        if index_is_exact {
            let index: Vec<_> = index.into_iter().filter(|(_, key)| !is_orphan(key)).collect();
            assert_eq!(index, indexed, "expiry index");
        } else {
            assert!(indexed.iter().all(|record| index.contains(record)), "a key is not in the expiry index");
        }
        let all = versions.len();
        versions.sort_unstable();
        versions.dedup();
        assert_eq!(versions.len(), all, "versions are unique");
    }
}

/// The data, and what a node keeps beside it.
pub(crate) struct Store {
    pub(crate) data: Data,
    pub(crate) db: u8,
    pub(crate) now_ms: u64,
    /// Stamp of the last entry.
    pub(crate) applied: Stamp,
    /// Last version given out, or the last stamp.
    pub(crate) last_used: u64,
    pub(crate) limits: Limits,
    pub(crate) cursors: Cursors,
}

impl Store {
    pub(crate) fn new(now_ms: u64) -> Store {
        let (data, limits, cursors) = (Data::default(), Limits::default(), Cursors::new(7));
        Store { data, db: 0, now_ms, applied: Stamp::ZERO, last_used: 0, limits, cursors }
    }

    /// Evaluates in this mode and changes nothing.
    pub(crate) fn evaluate(&mut self, spec: &'static CommandSpec, args: &[Bytes], mode: Mode) -> Outcome {
        let context = Context {
            db: self.db,
            range: RANGE,
            mode,
            now_ms: self.now_ms,
            limits: &self.limits,
            cursors: &mut self.cursors,
        };
        evaluate(spec, args, &self.data, context).expect("a map does not fail")
    }

    /// The stamp the next entry would have.
    pub(crate) fn next_stamp(&self) -> Stamp {
        Stamp::next(self.last_used, self.now_ms)
    }

    /// Evaluates as part of a log entry of its own, and applies that.
    pub(crate) fn log(&mut self, spec: &'static CommandSpec, args: &[Bytes]) -> Outcome {
        let stamp = self.next_stamp();
        let outcome = self.evaluate(spec, args, Mode::Write { stamp, ordinal: 0 });
        if matches!(outcome.reply, Reply::Error(_)) {
            assert!(outcome.effects.is_empty() && outcome.versions_used == 0, "an error has no effects");
        }
        self.apply(stamp, &outcome);
        outcome
    }

    /// Applies an entry of one command.
    pub(crate) fn apply(&mut self, stamp: Stamp, outcome: &Outcome) {
        self.applied = stamp;
        self.last_used = stamp.as_u64() + outcome.versions_used.saturating_sub(1);
        self.data.apply(&outcome.effects);
    }

    /// Evaluates without the log.
    pub(crate) fn read(&mut self, spec: &'static CommandSpec, args: &[Bytes]) -> Outcome {
        let applied = self.applied;
        let outcome = self.evaluate(spec, args, Mode::Read { applied });
        assert!(outcome.effects.is_empty() && outcome.versions_used == 0);
        outcome
    }

    /// Answers a request as a node does: a read without the log if that will do.
    pub(crate) fn run(&mut self, args: &[Bytes]) -> Reply {
        let spec = match resolve(args) {
            Ok(spec) => spec,
            Err(reply) => return reply,
        };
        if !spec.flags.has(CommandFlags::WRITE) {
            let outcome = self.read(spec, args);
            if !outcome.needs_time {
                return outcome.reply;
            }
        }
        self.log(spec, args).reply
    }
}

/// A request from words without spaces.
pub(crate) fn words(line: &str) -> Vec<Bytes> {
    line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

/// A number from the environment, for longer runs and for replaying a seed.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}
