//! [`Group`]: one range at this node, consensus and state machine joined.
//!
//! ```text
//!  Replica::seal ──propose──> Raft ──persist──> Output::Write ... handle_durable ──> Raft::persisted
//!                              │ └──messages──> Output::Send
//!                              └──committed───> Replica::take, apply ──> Raft::applied
//! ```
//!
//! A group *serves* once it leads and its term's first entry is applied: then the state contains everything that was ever
//! committed, and commands may be evaluated over it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use dstore_raft::{
    Config, Configuration, EntryKind, Leadership, Message, NodeId, Raft, ReadId, Ready, Restored, Role, Status, Time,
};
use dstore_storage::layout::local;
use dstore_storage::{Engine, Log, LogIndex, LogOp, Position, RangeId, Term, WriteOp};
use prost::Message as _;

use crate::range_log::{RangeLog, entry_id, position, write_ops};
use crate::replica::{Applied, Replica};
use crate::serve::Desk;
use crate::wire::{self, RaftBody};
use crate::{NodeError, Output};

/// One range at this node. See the [module](self).
pub(crate) struct Group {
    pub(crate) replica: Replica,
    raft: Raft<RangeLog>,
    /// The term that this node leads and serves.
    serving: Option<Term>,
    /// The entry that opens the term, once it is committed.
    opening: Option<Position>,
    /// Everything up to here is durable at every member.
    everywhere: LogIndex,
    lease_reads: bool,
    /// What is under way for clients.
    pub(crate) desk: Desk,
}

/// What the node must know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Somebody else leads, or nobody, or another term began.
    Leadership,
    /// This node led, and commands may wait for what it logged.
    Lost,
    /// Commands may be evaluated here from now on.
    Serving,
    /// A read may be answered from the state as it is.
    Read(ReadId),
    /// A read will not be answered.
    ReadDropped(ReadId),
}

/// Why leadership is not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandOverError {
    /// This node has none to give.
    #[error("this node does not lead")]
    NotLeader {
        /// Who may.
        leader: Option<u64>,
    },
    /// This node has only just become the leader.
    #[error("leadership has only just been won")]
    Unsettled,
    /// The group has no other voter.
    #[error("there is no other voter")]
    NobodyElse,
    /// Consensus refused.
    #[error(transparent)]
    Refused(dstore_raft::TransferRefused),
}

/// Where the effects of a group's work go.
pub(crate) struct Effects<'a> {
    pub(crate) outputs: &'a mut VecDeque<Output>,
    pub(crate) writes: &'a mut Writes,
    pub(crate) events: &'a mut Vec<(RangeId, Event)>,
}

/// Writes to the log that are not durable yet, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    last_ticket: u64,
    waiting: VecDeque<Write>,
}

/// A write of a group, and what waits for it.
#[derive(Debug)]
pub(crate) struct Write {
    ticket: u64,
    pub(crate) range: RangeId,
    /// The write's number in its group; `None` where nothing waits for it.
    pub(crate) number: Option<u64>,
    pub(crate) messages: Vec<Message>,
}

impl Writes {
    fn add(&mut self, range: RangeId, number: Option<u64>, messages: Vec<Message>) -> u64 {
        self.last_ticket += 1;
        self.waiting.push_back(Write { ticket: self.last_ticket, range, number, messages });
        self.last_ticket
    }

    /// The next write that is durable now that everything up to `ticket` is.
    pub(crate) fn pop(&mut self, ticket: u64) -> Option<Write> {
        self.waiting.pop_front_if(|write| write.ticket <= ticket)
    }
}

/// What a group starts from.
pub(crate) struct GroupParts<'a, E> {
    pub(crate) range: RangeId,
    pub(crate) me: NodeId,
    pub(crate) founders: &'a [NodeId],
    pub(crate) engine: &'a E,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) config: Config,
    pub(crate) seed: u64,
}

impl Group {
    /// The group as the disk has it; one that never was begins with its founders.
    pub(crate) fn open<E: Engine>(parts: GroupParts<'_, E>, now: Time) -> Result<Group, NodeError> {
        let GroupParts { range, me, founders, engine, log, config, seed } = parts;
        let mut applied = Applied::decode(engine.get(&Applied::key(range))?.as_deref())?;
        let mut members = engine.get(&local::members_key(range))?;
        if applied.position == Position::default() {
            let first = Restored::bootstrap(Configuration::new(founders.iter().copied(), []));
            applied.position = position(first.applied);
            let encoded = first.configuration.encode();
            engine.write(&[
                WriteOp::Put { key: local::members_key(range), value: encoded.clone() },
                WriteOp::Put { key: Applied::key(range), value: applied.encode() },
            ])?;
            members = Some(encoded);
        }
        let configuration =
            members.and_then(|stored| Configuration::decode(&stored).ok()).ok_or(NodeError::Members { range })?;
        join_log_to_data(&*log, range, applied.position)?;
        let storage = RangeLog::new(log, range);
        let hard_state = storage.hard_state();
        let restored = Restored { hard_state, applied: entry_id(applied.position), configuration };
        let lease_reads = config.lease_reads;
        let mut raft = Raft::new(me, config, restored, storage, now, seed)
            .map_err(|error| NodeError::Start { range, error: error.to_string() })?;
        if raft.configuration().voters() == [me] {
            raft.campaign(now);
        }
        let everywhere = LogIndex::default();
        let replica = Replica::new(range, applied);
        Ok(Group { replica, raft, serving: None, opening: None, everywhere, lease_reads, desk: Desk::default() })
    }

    /// The term this node leads, if commands may be evaluated here. Looks at consensus as it is now: what it has just
    /// learnt counts before [`Group::pump`] tells of it.
    pub(crate) fn serving(&self) -> Option<Term> {
        let leads = self.raft.role() == Role::Leader && !self.raft.is_transferring();
        self.serving.filter(|term| leads && term.0 == self.raft.term().0)
    }

    /// Who leads, and in which term.
    pub(crate) fn leader(&self) -> Option<(NodeId, Term)> {
        self.raft.leader().map(|leader| (leader, Term(self.raft.term().0)))
    }

    /// Whether the applied state is the latest there is, by the lease, at `now`.
    pub(crate) fn is_latest(&self, now: Time) -> bool {
        let applied = self.replica.applied().position.index;
        self.serving().is_some() && self.lease_reads && applied.0 == self.raft.commit().0 && self.raft.holds_lease(now)
    }

    /// Asks when the state may be read; the answer is an [`Event`]. False if there is nobody to ask.
    pub(crate) fn ask_to_read(&mut self, id: ReadId) -> bool {
        self.raft.read(id).is_ok()
    }

    /// The term of an entry of the log, committed or not.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.raft.term_at(dstore_raft::LogIndex(index.0)).map(|term| Term(term.0))
    }

    /// How far the log is known to be committed, and the term of the entry there.
    pub(crate) fn committed(&self) -> Position {
        let index = self.raft.commit();
        let term = self.raft.term_at(index).expect("the log knows the term of what it has just committed");
        Position::new(index.0, term.0)
    }

    pub(crate) fn status(&self) -> Status {
        self.raft.status()
    }

    pub(crate) fn deadline(&self) -> Time {
        self.raft.deadline()
    }

    pub(crate) fn tick(&mut self, now: Time) {
        self.raft.tick(now);
    }

    /// A message came. One that makes no sense is an error to be told of, and changes nothing.
    pub(crate) fn step(&mut self, now: Time, message: Message) -> Result<(), dstore_raft::StepError> {
        self.raft.step(now, message)
    }

    pub(crate) fn peer_lost(&mut self, now: Time, peer: NodeId) {
        self.raft.peer_lost(now, peer);
    }

    /// Hands leadership to another voter: to the one that is named, or to the one that has most of the log. Until that has
    /// come about, or was given up, this node serves nothing.
    pub(crate) fn hand_over(&mut self, now: Time, to: Option<NodeId>) -> Result<NodeId, HandOverError> {
        if self.raft.role() != Role::Leader {
            return Err(HandOverError::NotLeader { leader: self.raft.leader().map(|leader| leader.0) });
        }
        if self.replica.has_open() {
            // Of a term that is over, which is about to be noticed.
            return Err(HandOverError::Unsettled);
        }
        let status = self.raft.status();
        let best = || status.peers.iter().filter(|peer| peer.is_voter).max_by_key(|peer| (peer.matched, peer.heard_at));
        let to = to.or_else(|| best().map(|peer| peer.id)).ok_or(HandOverError::NobodyElse)?;
        self.raft.transfer_leadership(now, to).map_err(HandOverError::Refused)?;
        Ok(to)
    }

    /// Stands for election, if this group has never had a leader.
    pub(crate) fn stand_first(&mut self, now: Time) {
        let founded = Restored::bootstrap(Configuration::default()).applied;
        if self.raft.last() == founded && self.raft.leader().is_none() {
            self.raft.campaign(now);
        }
    }

    /// A write of this group is durable.
    pub(crate) fn persisted(&mut self, now: Time, write: Write, outputs: &mut VecDeque<Output>) {
        let Some(number) = write.number else { return };
        self.send(write.messages, outputs);
        self.raft.persisted(now, number);
    }

    /// Everything the leader of `term` has up to `index` is durable at every member.
    pub(crate) fn note_everywhere(&mut self, index: LogIndex) {
        self.everywhere = self.everywhere.max(index);
    }

    /// How far every member has the log durably, as this leader knows.
    pub(crate) fn all_have(&self) -> LogIndex {
        let status = self.raft.status();
        let least = status.peers.iter().map(|peer| peer.matched).min().unwrap_or(status.durable);
        LogIndex(least.min(status.durable).0)
    }

    /// The data on disk reaches `persisted`: what nobody needs any more of the log is cut off.
    pub(crate) fn cut(&mut self, persisted: LogIndex, effects: &mut Effects<'_>) {
        let durable = LogIndex(self.raft.durable_index().0);
        let index = persisted.min(durable).min(self.everywhere);
        if index.0 > self.raft.status().base.index.0 {
            let range = self.replica.range();
            let ticket = effects.writes.add(range, None, Vec::new());
            let ops = vec![LogOp::TruncatePrefix { range, index }];
            effects.outputs.push_back(Output::Write { ticket, ops });
        }
    }

    /// Ends the open entry and proposes it. Gives the payload's length.
    pub(crate) fn seal(&mut self) -> Option<usize> {
        let term = self.serving()?;
        self.note_own_entries();
        let (position, payload) = self.replica.seal(term)?;
        let bytes = payload.len();
        match self.raft.propose([payload]) {
            Ok(proposed) => {
                let given = Position::new(proposed.first.0, proposed.term.0);
                assert_eq!(given, position, "consensus and state machine count alike");
                self.desk.sealed(position);
                Some(bytes)
            }
            Err(refused) => panic!("a group that serves takes what its bounds allow: {refused}"),
        }
    }

    /// Configurations that consensus appended by itself take their places among what is logged here.
    fn note_own_entries(&mut self) {
        while self.replica.last().0 < self.raft.last().index.0 {
            let index = dstore_raft::LogIndex(self.replica.last().0 + 1);
            let (Some(term), Some(configuration)) = (self.raft.term_at(index), self.raft.configuration_at(index))
            else {
                return;
            };
            let members = self.members_op(configuration.encode());
            self.replica.log_own(Position::new(index.0, term.0), vec![members]);
        }
    }

    fn members_op(&self, configuration: Bytes) -> WriteOp {
        WriteOp::Put { key: local::members_key(self.replica.range()), value: configuration }
    }

    /// Does what consensus asks for, until it asks for nothing more.
    pub(crate) fn pump<E: Engine>(
        &mut self,
        now: Time,
        engine: &E,
        effects: &mut Effects<'_>,
    ) -> Result<(), NodeError> {
        let range = self.replica.range();
        while let Some(ready) = self.raft.ready(now) {
            let Ready { leadership, messages, persist, committed, reads, reads_dropped, snapshots_wanted } = ready;
            if let Some(leadership) = leadership {
                self.note_leadership(leadership, effects);
            }
            self.send(messages, effects.outputs);
            if let Some(mut persist) = persist {
                let ops = write_ops(range, &mut persist);
                let ticket = effects.writes.add(range, Some(persist.number), persist.messages);
                effects.outputs.push_back(Output::Write { ticket, ops });
            }
            for entry in committed {
                self.take(entry)?;
            }
            self.apply(engine, effects)?;
            effects.events.extend(reads.iter().map(|read| (range, Event::Read(read.id))));
            effects.events.extend(reads_dropped.iter().map(|id| (range, Event::ReadDropped(*id))));
            for node in snapshots_wanted {
                // The log is kept for every member, so only one that lost its disk asks for this.
                tracing::warn!("range {range}: node {node} needs entries that no log holds any more");
                self.raft.snapshot_failed(node);
            }
        }
        Ok(())
    }

    fn take(&mut self, entry: dstore_raft::Entry) -> Result<(), NodeError> {
        let at = position(entry.id());
        match entry.kind {
            EntryKind::Normal => self.replica.take(at, &entry.data)?,
            EntryKind::Blank => {
                self.replica.take_own(at, Vec::new());
                self.opening = Some(at);
            }
            EntryKind::Config => {
                let members = self.members_op(entry.data);
                self.replica.take_own(at, vec![members]);
            }
        }
        Ok(())
    }

    /// Applies what is committed, as far as the engine takes it.
    pub(crate) fn apply<E: Engine>(&mut self, engine: &E, effects: &mut Effects<'_>) -> Result<(), NodeError> {
        self.replica.apply(engine)?;
        let applied = self.replica.applied().position.index;
        if applied.0 > self.raft.applied_index().0 {
            self.raft.applied(dstore_raft::LogIndex(applied.0));
        }
        let term = Term(self.raft.term().0);
        let opened = self.opening.is_some_and(|opening| opening.term == term && opening.index <= applied);
        if opened && self.raft.role() == Role::Leader && self.serving.is_none() {
            self.serving = Some(term);
            effects.events.push((self.replica.range(), Event::Serving));
        }
        Ok(())
    }

    fn note_leadership(&mut self, now: Leadership, effects: &mut Effects<'_>) {
        let range = self.replica.range();
        let Leadership { term, role, leader } = now;
        let leader = leader.map_or_else(|| "nobody".to_owned(), |leader| format!("node {:016x}", leader.0));
        tracing::debug!("range {range}: {role:?} in term {term}, {leader} leads");
        if self.serving.is_some_and(|serving| role != Role::Leader || serving.0 != term.0) {
            self.serving = None;
            self.replica.step_down();
            effects.events.push((range, Event::Lost));
        }
        effects.events.push((range, Event::Leadership));
    }

    fn send(&self, messages: Vec<Message>, outputs: &mut VecDeque<Output>) {
        for message in messages {
            let to = dstore_rpc::NodeId(message.to.0);
            let body = Bytes::from(RaftBody::of(self.replica.range(), message).encode_to_vec());
            outputs.push_back(Output::Send { to, method: wire::RAFT.number, body });
        }
    }
}

/// After a crash the data may stand where the log does not reach: a majority had committed what this disk had not
/// synced. The log then begins there.
fn join_log_to_data(log: &dyn Log, range: RangeId, applied: Position) -> Result<(), NodeError> {
    let begin = log.status(range).map(|status| status.begin);
    if let Some(begin) = begin.filter(|begin| begin.index > applied.index) {
        return Err(NodeError::LogGap { range, begin, applied });
    }
    // What every founder begins with was never in a log.
    let founded = applied == position(Restored::bootstrap(Configuration::default()).applied);
    let reset = match begin {
        None if !founded => return Err(NodeError::LogMissing { range, applied }),
        None => Some(LogOp::Reset { range, begin: applied }),
        Some(_) => dstore_storage::log::begin_at_applied(log, range, applied),
    };
    if let Some(reset) = reset {
        if begin.is_some() {
            tracing::warn!("range {range}: the data, at entry {applied}, is ahead of the log, which begins anew there");
        }
        // Nothing waits for it: later writes become durable behind it, or not at all.
        log.submit(vec![reset], Box::new(|_| {})).map_err(NodeError::Log)?;
    }
    Ok(())
}
