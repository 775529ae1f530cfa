//! [`Answers`]: where in a reply a transaction's operations have their answers, and how these tell of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use dstore_resp::Reply;

use super::request::{self, ELSEWHERE};
use super::values::Values;
use crate::checker::{MicroOp, key_name};

/// How the answer to one request tells of what was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Of one operation.
    One,
    /// Of so many reads, one after the other: MGET.
    Several(usize),
    /// Of so many reads, by key: KV.RANGE.
    Range(usize, Walk),
}

/// How a range of keys is walked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    pub(super) reverse: bool,
    /// After so many keys it ends; what lies behind the last was not looked at then.
    pub(super) limit: Option<usize>,
}

impl Form {
    /// How many operations it tells of.
    fn ops(self) -> usize {
        match self {
            Form::One => 1,
            Form::Several(ops) | Form::Range(ops, _) => ops,
        }
    }

    /// The operations, with their answers; those without one are left out.
    ///
    /// # Errors
    ///
    /// It is no answer that the store should give.
    pub(super) fn read(self, ops: &[MicroOp], reply: &Reply, values: Values) -> Result<Vec<MicroOp>, String> {
        let filled = |(op, part): (&MicroOp, &Reply)| {
            let mut op = op.clone();
            request::fill(&mut op, part, values).map(|()| op)
        };
        match (self, reply) {
            (Form::One, reply) => ops.iter().map(|op| filled((op, reply))).collect(),
            (Form::Several(count), Reply::Array(parts)) if parts.len() == count => {
                ops.iter().zip(parts).map(filled).collect()
            }
            (Form::Range(_, walk), Reply::Array(parts)) => {
                let mut found = walk.pairs(parts)?;
                let is_read = walk.looked_at(&found);
                let mut read = Vec::new();
                for op in ops.iter().filter(|op| is_read(&key_name(op.key()))) {
                    let value = found.remove(&key_name(op.key())).map_or(Reply::Null, Reply::Bulk);
                    read.push(filled((op, &value))?);
                }
                match found.keys().find(|name| !name.starts_with(ELSEWHERE)) {
                    Some(name) => Err(format!("{name} is no key of the range")),
                    None => Ok(read),
                }
            }
            (form, _) => Err(format!("{form:?} cannot be answered like this")),
        }
    }
}

impl Walk {
    /// Keys and values, one behind the other.
    fn pairs(self, parts: &[Reply]) -> Result<BTreeMap<String, Bytes>, String> {
        let (mut found, mut last) = (BTreeMap::new(), None::<String>);
        for pair in parts.chunks(2) {
            let [Reply::Bulk(name), Reply::Bulk(value)] = pair else {
                return Err("a range is told in pairs of keys and values".to_owned());
            };
            let name = String::from_utf8_lossy(name).into_owned();
            if last.is_some_and(|last| (last >= name) != self.reverse || last == name) {
                return Err(format!("{name} is out of order"));
            }
            found.insert(name.clone(), value.clone());
            last = Some(name);
        }
        match self.limit {
            Some(limit) if found.len() > limit => Err(format!("{} keys, and {limit} were asked for", found.len())),
            _ => Ok(found),
        }
    }

    /// Which keys it has come by: where it found as many as it was to find, none behind the last.
    fn looked_at(self, found: &BTreeMap<String, Bytes>) -> impl Fn(&str) -> bool + use<> {
        let is_full = self.limit == Some(found.len());
        let ends = if self.reverse { found.first_key_value() } else { found.last_key_value() };
        let last = ends.filter(|_| is_full).map(|(name, _)| name.clone());
        let reverse = self.reverse;
        move |name| last.as_deref().is_none_or(|last| if reverse { name >= last } else { name <= last })
    }
}

/// The answers of a block: in which part of its reply each form is, and how many parts there are.
#[derive(Debug, Default)]
pub(super) struct Answers {
    forms: Vec<(usize, Form)>,
    parts: usize,
}

impl Answers {
    /// So many more requests, of which one has the answer.
    pub(super) fn add(&mut self, requests: usize, answer: usize, form: Form) {
        self.forms.push((self.parts + answer, form));
        self.parts += requests;
    }

    /// The operations, with what a block's reply says of them.
    ///
    /// # Errors
    ///
    /// It is no answer that the store should give.
    pub(super) fn read(&self, ops: &[MicroOp], reply: &Reply, values: Values) -> Result<Vec<MicroOp>, String> {
        let parts = match reply {
            Reply::Array(parts) if parts.len() == self.parts => parts,
            _ => return Err(format!("{} commands cannot be answered like this", self.parts)),
        };
        if let Some(error) = parts.iter().find(|part| matches!(part, Reply::Error(_))) {
            return Err(format!("a part answered with {error:?}"));
        }
        let (mut read, mut rest) = (Vec::new(), ops);
        for (at, form) in &self.forms {
            let (own, others) = rest.split_at(form.ops());
            read.extend(form.read(own, &parts[*at], values)?);
            rest = others;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(count: u32) -> Vec<MicroOp> {
        (0..count).map(|at| MicroOp::Count { key: crate::checker::COUNTERS + at, value: None }).collect()
    }

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// What a walk over three counters tells, if it finds these.
    fn walked(walk: Walk, found: &[(&str, &str)]) -> Result<Vec<MicroOp>, String> {
        let parts = found.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect();
        Form::Range(3, walk).read(&counters(3), &Reply::Array(parts), Values::SHORT)
    }

    fn count(at: u32, value: u64) -> MicroOp {
        MicroOp::Count { key: crate::checker::COUNTERS + at, value: Some(value) }
    }

    const FORWARD: Walk = Walk { reverse: false, limit: None };

    #[test]
    fn a_range_tells_of_keys_that_are_there_and_of_those_that_are_not() {
        assert_eq!(walked(FORWARD, &[("c1", "7")]).unwrap(), [count(0, 0), count(1, 7), count(2, 0)]);
        let others = [("c0", "1"), ("c1", "2"), ("c2", "3"), ("elsewhere1", "000001")];
        assert_eq!(walked(FORWARD, &others).unwrap(), [count(0, 1), count(1, 2), count(2, 3)]);
    }

    #[test]
    fn a_range_with_a_limit_tells_nothing_of_what_lies_behind_its_last_key() {
        let limit = |reverse, limit| Walk { reverse, limit: Some(limit) };
        assert_eq!(walked(limit(false, 1), &[("c1", "7")]).unwrap(), [count(0, 0), count(1, 7)]);
        assert_eq!(walked(limit(true, 1), &[("c1", "7")]).unwrap(), [count(1, 7), count(2, 0)]);
        assert_eq!(walked(limit(false, 2), &[("c1", "7")]).unwrap(), [count(0, 0), count(1, 7), count(2, 0)]);
    }

    #[test]
    fn what_no_range_should_tell_is_refused() {
        let twice = [("c1", "7"), ("c1", "7")];
        let backwards = [("c1", "7"), ("c0", "7")];
        assert!(walked(FORWARD, &twice).unwrap_err().contains("out of order"));
        assert!(walked(FORWARD, &backwards).unwrap_err().contains("out of order"));
        assert!(walked(Walk { reverse: true, ..FORWARD }, &twice).unwrap_err().contains("out of order"));
        assert!(walked(Walk { limit: Some(1), ..FORWARD }, &[("c0", "7"), ("c1", "7")]).unwrap_err().contains("asked"));
        assert!(walked(FORWARD, &[("c9", "7")]).unwrap_err().contains("no key of the range"));
        assert!(Form::Range(3, FORWARD).read(&counters(3), &Reply::Array(vec![bulk("c0")]), Values::SHORT).is_err());
        assert!(Form::Range(3, FORWARD).read(&counters(3), &Reply::Null, Values::SHORT).is_err());
    }

    #[test]
    fn a_block_has_its_answers_where_they_belong() {
        let mut answers = Answers::default();
        answers.add(2, 1, Form::One);
        answers.add(1, 0, Form::Range(2, FORWARD));
        let reply = |parts| answers.read(&counters(3), &Reply::Array(parts), Values::SHORT);
        let range = || Reply::Array(vec![bulk("c2"), bulk("9")]);
        let read = reply(vec![Reply::Null, bulk("4"), range()]).unwrap();
        assert_eq!(read, [count(0, 4), count(1, 0), count(2, 9)]);
        assert!(reply(vec![bulk("4"), range()]).is_err());
        assert!(reply(vec![Reply::Null, Reply::Error(Bytes::from_static(b"ERR")), range()]).is_err());
    }
}
