//! Raft messages as bytes: one flat protobuf message, whose fields mean what the kind says.

use bytes::Bytes;
use dstore_raft::{
    Body, Configuration, Entry, EntryId, EntryKind, Handover, LogIndex, Message, NodeId, ReadContext, SnapshotMeta,
    Term,
};
use dstore_storage::RangeId;

/// A message of one group. `from` and `to` are the connection's ends.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RaftBody {
    #[prost(uint64, tag = "1")]
    pub(crate) range: u64,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint32, tag = "3")]
    kind: u32,
    /// An entry: the last one, the one before those sent, the hint.
    #[prost(uint64, tag = "4")]
    index: u64,
    #[prost(uint64, tag = "5")]
    index_term: u64,
    /// The commit index, what is matched, or what is rejected.
    #[prost(uint64, tag = "6")]
    commit: u64,
    /// A heartbeat's round, or a batch of reads.
    #[prost(uint64, tag = "7")]
    round: u64,
    /// Whether a vote is granted, or a handover is named.
    #[prost(bool, tag = "8")]
    granted: bool,
    /// The term of a handover, or the incarnation of a reader.
    #[prost(fixed64, tag = "9")]
    context: u64,
    #[prost(message, repeated, tag = "10")]
    entries: Vec<WireEntry>,
    /// The configuration of a snapshot.
    #[prost(bytes = "bytes", tag = "11")]
    configuration: Bytes,
}

/// An entry, whose index follows from its place.
#[derive(Clone, PartialEq, prost::Message)]
struct WireEntry {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(bytes = "bytes", tag = "3")]
    data: Bytes,
}

const PRE_VOTE: u32 = 1;
const PRE_VOTE_REPLY: u32 = 2;
const VOTE: u32 = 3;
const VOTE_REPLY: u32 = 4;
const APPEND: u32 = 5;
const APPEND_ACCEPTED: u32 = 6;
const APPEND_REJECTED: u32 = 7;
const COMMIT: u32 = 8;
const HEARTBEAT: u32 = 9;
const HEARTBEAT_REPLY: u32 = 10;
const SNAPSHOT: u32 = 11;
const OUTDATED: u32 = 12;
const TIMEOUT_NOW: u32 = 13;
const READ_INDEX: u32 = 14;
const READ_INDEX_REPLY: u32 = 15;

/// The numbers of entry kinds, here and in the log.
pub(crate) fn kind_number(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Normal => 1,
        EntryKind::Blank => 2,
        EntryKind::Config => 3,
    }
}

/// The kind of a number; `None` for one this version does not know.
pub(crate) fn kind_of(number: u32) -> Option<EntryKind> {
    match number {
        1 => Some(EntryKind::Normal),
        2 => Some(EntryKind::Blank),
        3 => Some(EntryKind::Config),
        _ => None,
    }
}

impl RaftBody {
    /// The body of a message of `range`'s group.
    pub(crate) fn of(range: RangeId, message: Message) -> RaftBody {
        let mut out = RaftBody { range: range.0, term: message.term.0, ..RaftBody::default() };
        out.kind = match message.body {
            Body::PreVote { last } => out.at(last, PRE_VOTE),
            Body::PreVoteReply { granted } => out.vote(granted, PRE_VOTE_REPLY),
            Body::Vote { last, handover } => {
                if let Some(handover) = handover {
                    (out.granted, out.context, out.round) = (true, handover.term.0, handover.round);
                }
                out.at(last, VOTE)
            }
            Body::VoteReply { granted } => out.vote(granted, VOTE_REPLY),
            Body::Append { prev, entries, commit } => {
                out.commit = commit.0;
                let wire = |entry: Entry| WireEntry {
                    term: entry.term.0,
                    kind: kind_number(entry.kind).into(),
                    data: entry.data,
                };
                out.entries = entries.into_iter().map(wire).collect();
                out.at(prev, APPEND)
            }
            Body::AppendAccepted { matched } => out.upto(matched, APPEND_ACCEPTED),
            Body::AppendRejected { rejected, hint } => {
                out.commit = rejected.0;
                out.at(hint, APPEND_REJECTED)
            }
            Body::Commit { commit } => out.upto(commit, COMMIT),
            Body::Heartbeat { round, commit } => {
                out.round = round;
                out.upto(commit, HEARTBEAT)
            }
            Body::HeartbeatReply { round } => out.in_round(round, HEARTBEAT_REPLY),
            Body::Snapshot(meta) => {
                out.configuration = meta.configuration.encode();
                out.at(meta.last, SNAPSHOT)
            }
            Body::Outdated => OUTDATED,
            Body::TimeoutNow { round } => out.in_round(round, TIMEOUT_NOW),
            Body::ReadIndex { context } => out.read(context, READ_INDEX),
            Body::ReadIndexReply { context, index } => {
                out.commit = index.0;
                out.read(context, READ_INDEX_REPLY)
            }
        };
        out
    }

    fn at(&mut self, id: EntryId, kind: u32) -> u32 {
        (self.index, self.index_term) = (id.index.0, id.term.0);
        kind
    }

    fn vote(&mut self, granted: bool, kind: u32) -> u32 {
        self.granted = granted;
        kind
    }

    fn upto(&mut self, index: LogIndex, kind: u32) -> u32 {
        self.commit = index.0;
        kind
    }

    fn in_round(&mut self, round: u64, kind: u32) -> u32 {
        self.round = round;
        kind
    }

    fn read(&mut self, context: ReadContext, kind: u32) -> u32 {
        (self.context, self.round) = (context.incarnation, context.batch);
        kind
    }

    /// The message, as it came from `from`. `None` if this version cannot read it.
    pub(crate) fn message(self, from: NodeId, to: NodeId) -> Option<Message> {
        let id = EntryId::new(Term(self.index_term), LogIndex(self.index));
        let (commit, round, granted) = (LogIndex(self.commit), self.round, self.granted);
        let context = ReadContext { incarnation: self.context, batch: round };
        let body = match self.kind {
            PRE_VOTE => Body::PreVote { last: id },
            PRE_VOTE_REPLY => Body::PreVoteReply { granted },
            VOTE => {
                let handover = granted.then_some(Handover { term: Term(self.context), round });
                Body::Vote { last: id, handover }
            }
            VOTE_REPLY => Body::VoteReply { granted },
            APPEND => Body::Append { prev: id, entries: entries_after(id, self.entries)?, commit },
            APPEND_ACCEPTED => Body::AppendAccepted { matched: commit },
            APPEND_REJECTED => Body::AppendRejected { rejected: commit, hint: id },
            COMMIT => Body::Commit { commit },
            HEARTBEAT => Body::Heartbeat { round, commit },
            HEARTBEAT_REPLY => Body::HeartbeatReply { round },
            SNAPSHOT => {
                let configuration = Configuration::decode(&self.configuration).ok()?;
                Body::Snapshot(Box::new(SnapshotMeta { last: id, configuration }))
            }
            OUTDATED => Body::Outdated,
            TIMEOUT_NOW => Body::TimeoutNow { round },
            READ_INDEX => Body::ReadIndex { context },
            READ_INDEX_REPLY => Body::ReadIndexReply { context, index: commit },
            _ => return None,
        };
        Some(Message { from, to, term: Term(self.term), body })
    }
}

fn entries_after(prev: EntryId, wire: Vec<WireEntry>) -> Option<Vec<Entry>> {
    let entry = |(at, wire): (u64, WireEntry)| {
        let index = LogIndex(prev.index.0.checked_add(at)?);
        Some(Entry { term: Term(wire.term), index, kind: kind_of(wire.kind)?, data: wire.data })
    };
    (1..).zip(wire).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_message_comes_out_as_it_went_in() {
        let id = EntryId::new(Term(3), LogIndex(17));
        let entry = |index, kind| Entry { term: Term(3), index: LogIndex(index), kind, data: Bytes::from_static(b"x") };
        let context = ReadContext { incarnation: u64::MAX, batch: 4 };
        let configuration = Configuration::new([NodeId(1), NodeId(2)], [NodeId(3)]);
        let bodies = [
            Body::PreVote { last: id },
            Body::PreVoteReply { granted: true },
            Body::Vote { last: id, handover: None },
            Body::Vote { last: id, handover: Some(Handover { term: Term(2), round: 9 }) },
            Body::VoteReply { granted: false },
            Body::Append {
                prev: id,
                entries: vec![entry(18, EntryKind::Normal), entry(19, EntryKind::Blank), entry(20, EntryKind::Config)],
                commit: LogIndex(16),
            },
            Body::AppendAccepted { matched: LogIndex(18) },
            Body::AppendRejected { rejected: LogIndex(18), hint: id },
            Body::Commit { commit: LogIndex(5) },
            Body::Heartbeat { round: 7, commit: LogIndex(5) },
            Body::HeartbeatReply { round: 7 },
            Body::Snapshot(Box::new(SnapshotMeta { last: id, configuration })),
            Body::Outdated,
            Body::TimeoutNow { round: 8 },
            Body::ReadIndex { context },
            Body::ReadIndexReply { context, index: LogIndex(6) },
        ];
        for body in bodies {
            let message = Message { from: NodeId(1), to: NodeId(2), term: Term(4), body };
            let bytes = RaftBody::of(RangeId(5), message.clone()).encode_to_vec();
            let read = RaftBody::decode(&bytes[..]).unwrap();
            assert_eq!(read.range, 5);
            assert_eq!(read.message(NodeId(1), NodeId(2)), Some(message));
        }
    }

    #[test]
    fn what_is_not_known_is_passed_over() {
        let strange = RaftBody { kind: 99, term: 1, ..RaftBody::default() };
        assert_eq!(strange.message(NodeId(1), NodeId(2)), None);
        let entries = vec![WireEntry { term: 1, kind: 77, data: Bytes::new() }];
        let strange = RaftBody { kind: APPEND, term: 1, entries, ..RaftBody::default() };
        assert_eq!(strange.message(NodeId(1), NodeId(2)), None);
        let entries = vec![WireEntry { term: 1, kind: 1, data: Bytes::new() }];
        let strange = RaftBody { kind: APPEND, term: 1, index: u64::MAX, entries, ..RaftBody::default() };
        assert_eq!(strange.message(NodeId(1), NodeId(2)), None);
    }
}
