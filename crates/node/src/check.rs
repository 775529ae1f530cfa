//! Replicas compared while they run: all of them sum up their data at the same entry, and the leader compares.
//!
//! ```text
//!  leader: an entry that changes nothing but the range's check record ──> log ──> every replica
//!  replica: applies it, and at once freezes the data ──> Output::Checksum ... handle_checksum ──> SUM to the leader
//!  leader: all have answered, or some do not ──> CheckStatus, an error in the log if they differ
//! ```
//!
//! Replicas apply the same entries in the same order, so at one position their data is the same, byte for byte. Where it is
//! not, a disk, a machine or this program has failed, and somebody has to look.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dstore_raft::Time;
use dstore_storage::layout::local;
use dstore_storage::snapshot::{Checksum, SpanSum};
use dstore_storage::{Engine, EngineError, Position, RangeId, WriteOp};
use prost::Message as _;

use crate::wire::{Administered, Check, SUM, Sum};
use crate::{Node, NodeError, Now, Output};

/// How long replicas may take to sum up their data.
const PATIENCE: Duration = Duration::from_secs(600);
/// One that has been silent for so long is not waited for.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// A check at the leader of a range, or the last one.
#[derive(Clone, Debug)]
pub struct CheckStatus {
    /// Names it: milliseconds since the Unix epoch when it began.
    pub id: u64,
    /// The position at which replicas are compared; 0 until the leader has come there.
    pub index: u64,
    /// What they have, by node.
    pub sums: BTreeMap<u64, SpanSum>,
    /// Those that were to answer and have not.
    pub missing: BTreeSet<u64>,
    /// Nobody is waited for any more.
    pub finished: bool,
    begun: Time,
}

impl CheckStatus {
    /// The nodes whose data is not that of most.
    pub fn differing(&self) -> Vec<u64> {
        let mut counts: BTreeMap<(u64, u64, u32), usize> = BTreeMap::new();
        let key = |sum: &SpanSum| (sum.records, sum.bytes, sum.crc32c);
        for sum in self.sums.values() {
            *counts.entry(key(sum)).or_default() += 1;
        }
        let most = counts.iter().max_by_key(|(_, count)| **count).map(|(sum, _)| *sum);
        self.sums.iter().filter(|(_, sum)| Some(key(sum)) != most).map(|(node, _)| *node).collect()
    }

    /// What came of it, in words.
    fn describe(&self, range: RangeId) -> String {
        let sums: Vec<String> = self.sums.iter().map(|(node, sum)| format!("node {node:016x} has {sum}")).collect();
        let missing: Vec<String> = self.missing.iter().map(|node| format!("node {node:016x} did not answer")).collect();
        let all = sums.into_iter().chain(missing).collect::<Vec<_>>().join("; ");
        format!("range {range} at entry {}: {all}", self.index)
    }
}

impl<E: Engine> Node<E> {
    /// Has the replicas of a range compared, if this node leads it. The check that runs, if one does.
    fn begin_check(&mut self, now: Now, range: RangeId) -> Option<u64> {
        let running = self.groups.get(&range).and_then(|group| group.check.as_ref()).filter(|check| !check.finished);
        if let Some(running) = running {
            return Some(running.id);
        }
        self.seal(range);
        let group = self.groups.get_mut(&range).filter(|group| group.serving().is_some())?;
        let id = now.wall_ms();
        let value = Bytes::copy_from_slice(&id.to_le_bytes());
        group.replica.put(now, WriteOp::Put { key: local::check_key(range), value });
        let missing = group.raft.configuration().members().into_iter().map(|node| node.0).collect();
        let (index, finished, sums) = (0, false, BTreeMap::new());
        group.check = Some(CheckStatus { id, index, sums, missing, finished, begun: now.mono });
        self.seal(range);
        Some(id)
    }

    /// Begins the checks that are due, and ends those that nobody more will answer.
    pub(crate) fn check_ranges(&mut self, now: Now) -> Result<(), NodeError> {
        for range in crate::node::RANGES {
            let Some(group) = self.groups.get_mut(&range).filter(|group| group.serving().is_some()) else { continue };
            if let Some(check) = group.check.as_ref().filter(|check| !check.finished) {
                let status = group.raft.status();
                let silent = |node: &u64| {
                    let peer = status.peers.iter().find(|peer| peer.id.0 == *node);
                    *node != status.id.0 && peer.is_none_or(|peer| now.mono.since(peer.heard_at) > SILENT_AFTER)
                };
                if check.missing.iter().all(silent) || now.mono.since(check.begun) > PATIENCE {
                    self.end_check(range);
                }
                continue;
            }
            let last = group.replica.get(&local::check_key(range), &self.engine)?;
            let last = last.and_then(|stored| Some(u64::from_le_bytes(stored.as_ref().try_into().ok()?)));
            let interval_ms = self.limits.check_interval.as_millis() as u64;
            let due = last.unwrap_or(self.started_us / 1000).saturating_add(interval_ms);
            if now.wall_ms() >= due {
                self.begin_check(now, range);
            }
        }
        Ok(())
    }

    /// Has summed up what was frozen at the entries of checks.
    pub(crate) fn begin_sums(&mut self, range: RangeId) {
        let Some(group) = self.groups.get_mut(&range) else { return };
        for (check, position, checksum) in std::mem::take(&mut group.replica.checks) {
            if group.summing.is_some() {
                tracing::warn!("range {range}: the last check is not done yet, the one at {position} is left out");
                continue;
            }
            group.summing = Some((check, position));
            self.outputs.push_back(Output::Checksum { range, checksum });
        }
    }

    /// A range's data was summed up, as [`Output::Checksum`] asked.
    ///
    /// # Errors
    ///
    /// The data cannot be read: the node must stop.
    pub fn handle_checksum(
        &mut self,
        _now: Now,
        range: RangeId,
        result: Result<SpanSum, EngineError>,
    ) -> Result<(), NodeError> {
        let sum = result?;
        let Some(group) = self.groups.get_mut(&range) else { return Ok(()) };
        let Some((check, position)) = group.summing.take() else { return Ok(()) };
        let me = self.identity.node.0;
        match group.leader() {
            Some((leader, _)) if leader.0 == me => self.note_sum(me, range, check, position, sum),
            Some((leader, _)) => {
                let SpanSum { records, bytes, crc32c } = sum;
                let Position { index, term } = position;
                let (range, index, term) = (range.0, index.0, term.0);
                let body = Sum { range, check, index, term, records, bytes, crc32c }.encode_to_vec().into();
                let to = dstore_rpc::NodeId(leader.0);
                self.outputs.push_back(Output::Send { to, method: SUM.number, body });
            }
            None => {}
        }
        Ok(())
    }

    /// A replica tells what it has.
    pub(crate) fn sum_came(&mut self, from: u64, sum: &Sum) {
        let Sum { range, check, index, term, records, bytes, crc32c } = *sum;
        let position = Position::new(index, term);
        self.note_sum(from, RangeId(range), check, position, SpanSum { records, bytes, crc32c });
    }

    fn note_sum(&mut self, node: u64, range: RangeId, id: u64, position: Position, sum: SpanSum) {
        let check = self.groups.get_mut(&range).and_then(|group| group.check.as_mut());
        let Some(check) = check.filter(|check| check.id == id && !check.finished) else { return };
        if !check.missing.remove(&node) {
            return;
        }
        check.index = position.index.0;
        check.sums.insert(node, sum);
        if check.missing.is_empty() {
            self.end_check(range);
        }
    }

    fn end_check(&mut self, range: RangeId) {
        let Some(check) = self.groups.get_mut(&range).and_then(|group| group.check.as_mut()) else { return };
        check.finished = true;
        self.stats.checks += 1;
        let differing = check.differing();
        if differing.is_empty() {
            tracing::info!("replicas agree: {}", check.describe(range));
        } else {
            self.stats.checks_failed += 1;
            let nodes: Vec<String> = differing.iter().map(|node| format!("{node:016x}")).collect();
            tracing::error!("REPLICAS DIFFER, suspect {}: {}", nodes.join(", "), check.describe(range));
        }
    }

    /// An operator wants the replicas of a range compared, or to know what came of it.
    pub(crate) fn administer_check(&mut self, now: Now, wanted: &Check) -> Administered {
        let range = RangeId(wanted.range);
        if !self.groups.contains_key(&range) {
            let error = format!("there is no range {range}");
            return Administered { error, ..Administered::default() };
        }
        if let Some(elsewhere) = self.elsewhere(range) {
            return elsewhere;
        }
        if wanted.id == 0 {
            return match self.begin_check(now, range) {
                Some(check) => {
                    let done = format!("range {range}: replicas sum up their data");
                    Administered { pending: true, check, done, ..Administered::default() }
                }
                None => Administered { pending: true, ..Administered::default() },
            };
        }
        match self.groups.get(&range).and_then(|group| group.check.as_ref()) {
            Some(check) if check.id == wanted.id => {
                let text = check.describe(range);
                let answer = Administered { check: check.id, ..Administered::default() };
                match (check.finished, check.differing().is_empty()) {
                    (false, _) => Administered { pending: true, done: text, ..answer },
                    (true, true) => Administered { done: text, ..answer },
                    (true, false) => Administered { error: format!("REPLICAS DIFFER: {text}"), ..answer },
                }
            }
            // Its leader has changed meanwhile.
            _ => Administered { pending: true, ..Administered::default() },
        }
    }
}

/// The state at the entry of a check, to be summed up: its number, where it is, the data.
pub(crate) type Frozen = (u64, Position, Checksum);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sums: &[(u64, u32)]) -> CheckStatus {
        let sum = |crc32c| SpanSum { records: 1, bytes: 2, crc32c };
        CheckStatus {
            id: 1,
            index: 5,
            sums: sums.iter().map(|(node, crc32c)| (*node, sum(*crc32c))).collect(),
            missing: BTreeSet::new(),
            finished: true,
            begun: Time::default(),
        }
    }

    #[test]
    fn the_odd_one_is_named() {
        assert_eq!(check(&[(1, 7), (2, 7), (3, 7)]).differing(), [0; 0]);
        assert_eq!(check(&[(1, 7), (2, 8), (3, 7)]).differing(), [2]);
        assert_eq!(check(&[(1, 7), (2, 8)]).differing().len(), 1);
        assert_eq!(check(&[]).differing(), [0; 0]);
    }
}
