//! Members that lie. Raft does not survive lies, but no lie may stop a process: whatever message comes, a node takes it or
//! says what is wrong with it.

use bytes::Bytes;

use super::host::{Host, Snapshots};
use crate::random::Random;
use crate::*;

struct Liar(Random);

impl Liar {
    /// Mostly small numbers, so that they mean something; now and then an absurd one.
    fn number(&mut self) -> u64 {
        match self.0.below(20) {
            0 => u64::MAX - self.0.below(3),
            1 => 1 << self.0.below(64),
            _ => self.0.below(12),
        }
    }

    fn index(&mut self) -> LogIndex {
        LogIndex(self.number())
    }

    fn entry_id(&mut self) -> EntryId {
        EntryId::new(Term(self.number()), self.index())
    }

    fn configuration(&mut self) -> Configuration {
        let voters: Vec<NodeId> = (0..self.0.below(4)).map(|_| NodeId(self.0.below(5))).collect();
        Configuration::new(voters, [NodeId(self.0.below(6))])
    }

    fn entries(&mut self, prev: EntryId, term: Term) -> Vec<Entry> {
        let mut index = prev.index;
        let joins = self.0.below(10) > 0;
        (0..self.0.below(4))
            .map(|_| {
                index = if joins { LogIndex(index.0.wrapping_add(1)) } else { self.index() };
                let (kind, data) = match self.0.below(4) {
                    0 => (EntryKind::Config, self.configuration().encode()),
                    1 => (EntryKind::Blank, Bytes::new()),
                    _ => (EntryKind::Normal, Bytes::from_static(b"lie")),
                };
                Entry { term: if joins { term } else { Term(self.number()) }, index, kind, data }
            })
            .collect()
    }

    fn message(&mut self, to: NodeId, about: &Raft<MemLog>) -> Message {
        let from = NodeId(1 + self.0.below(5));
        let term = if self.0.below(3) == 0 { Term(self.number()) } else { about.term() };
        let prev = if self.0.below(2) == 0 { about.last() } else { self.entry_id() };
        let context = ReadContext { incarnation: self.number(), batch: self.number() };
        let granted = self.0.below(2) == 0;
        let body = match self.0.below(15) {
            0 => Body::PreVote { last: self.entry_id() },
            1 => Body::PreVoteReply { granted },
            2 => {
                let handover = granted.then(|| Handover { term: Term(self.number()), round: self.number() });
                Body::Vote { last: self.entry_id(), handover }
            }
            3 => Body::VoteReply { granted },
            4..=6 => Body::Append { prev, entries: self.entries(prev, term), commit: self.index() },
            7 => Body::AppendAccepted { matched: self.index() },
            8 => Body::AppendRejected { rejected: self.index(), hint: self.entry_id() },
            9 => Body::Commit { commit: self.index() },
            10 => Body::Heartbeat { round: self.number(), commit: self.index() },
            11 => Body::HeartbeatReply { round: self.number() },
            12 => Body::Snapshot(Box::new(SnapshotMeta { last: self.entry_id(), configuration: self.configuration() })),
            13 => Body::TimeoutNow { round: self.number() },
            _ if granted => Body::ReadIndex { context },
            _ => Body::ReadIndexReply { context, index: self.index() },
        };
        Message { from, to, term, body }
    }
}

#[test]
fn no_message_stops_a_node() {
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..3000 {
        let mut liar = Liar(Random::new(seed));
        let id = NodeId(1);
        let first = Configuration::new((1..=1 + seed % 3).map(NodeId), [NodeId(4)]);
        let mut host = Host::new(id, Config::default(), first);
        let mut millis = 0;
        host.start(Time::from_millis(millis), seed);
        let mut snapshots = Snapshots::new();
        for _ in 0..60 {
            millis += liar.0.below(400);
            let now = Time::from_millis(millis);
            let message = liar.message(id, host.raft());
            // The data of a forged snapshot, in case the node takes it.
            if let Body::Snapshot(meta) = &message.body {
                snapshots.insert(meta.last, super::host::State::of(meta));
            }
            match host.raft().step(now, message) {
                Ok(()) => taken += 1,
                Err(_) => refused += 1,
            }
            host.raft().tick(now);
            let _no_matter = host.raft().propose([Bytes::from_static(b"truth")]);
            let _no_matter = host.raft().read(ReadId(millis));
            while let Some(mut ready) = host.raft().ready(now) {
                host.take_work(&mut ready);
                while !host.writes.is_empty() {
                    host.complete_write(now, &snapshots);
                }
                host.apply(usize::MAX);
            }
        }
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken > 10_000 && refused > 10_000, "both kinds should occur");
}
