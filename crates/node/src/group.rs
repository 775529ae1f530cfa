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
//!
//! A follower whose log lacks what the leader has cut gets the data itself: see [`crate::transfer`].

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use dstore_raft::{
    Config, Configuration, EntryKind, Leadership, Message, NodeId, Raft, ReadId, Ready, Restored, Role, Status, Time,
};
use dstore_storage::layout::local;
use dstore_storage::{Engine, Log, LogIndex, LogOp, Position, RangeId, Term, WriteOp};
use prost::Message as _;

use crate::cached::Cached;
use crate::check::CheckStatus;
use crate::range_log::{RangeLog, entry_id, position, write_ops};
use crate::replica::{Applied, Replica};
use crate::retention::Retention;
use crate::serve::Desk;
use crate::transfer::Installation;
use crate::wire::{self, RaftBody};
use crate::writes::{Write, Writes};
use crate::{NodeError, Output};

/// One range at this node. See the [module](self).
pub(crate) struct Group {
    pub(crate) replica: Replica,
    pub(crate) raft: Raft<RangeLog>,
    /// What is on its way to the disk.
    pub(crate) writes: Writes,
    /// A snapshot on its way into the data.
    pub(crate) installation: Installation,
    /// How much of the log is kept.
    pub(crate) retention: Retention,
    /// The term that this node leads and serves.
    serving: Option<Term>,
    /// The entry that opens the term, once it is committed.
    opening: Option<Position>,
    lease_reads: bool,
    /// How far the log was committed when the members were last looked at.
    pub(crate) governed_at: LogIndex,
    /// What is under way for clients.
    pub(crate) desk: Desk,
    /// As leader: the last comparison of replicas.
    pub(crate) check: Option<CheckStatus>,
    /// The comparison for which this node's data is being summed up, and the entry at which.
    pub(crate) summing: Option<(u64, Position)>,
}

/// What the node must know of.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A follower needs what the log does not hold any more.
    SnapshotWanted(NodeId),
    /// A snapshot is to be sent, and this message with it.
    SnapshotReady(NodeId, Bytes),
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
    pub(crate) events: &'a mut Vec<(RangeId, Event)>,
}

/// What a group starts from.
pub(crate) struct GroupParts<'a, E> {
    pub(crate) range: RangeId,
    pub(crate) me: NodeId,
    /// Nobody, for a node that joined a cluster: what it needs to know comes from its leader.
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
        if applied.position == Position::default() && !founders.is_empty() {
            let first = Restored::bootstrap(Configuration::new(founders.iter().copied(), []));
            applied.position = position(first.applied);
            let encoded = first.configuration.encode();
            engine.write(&[
                WriteOp::Put { key: local::members_key(range), value: encoded.clone() },
                WriteOp::Put { key: Applied::key(range), value: applied.encode() },
            ])?;
            members = Some(encoded);
        }
        let configuration = match members {
            Some(stored) => Configuration::decode(&stored).map_err(|_| NodeError::Members { range })?,
            None if applied.position == Position::default() => Configuration::default(),
            None => return Err(NodeError::Members { range }),
        };
        join_log_to_data(&*log, range, applied.position)?;
        let storage = RangeLog::new(log, range);
        let hard_state = storage.hard_state();
        let restored = Restored { hard_state, applied: entry_id(applied.position), configuration };
        let lease_reads = config.lease_reads;
        let mut raft = Raft::new(me, config, restored, storage, now, seed)
            .map_err(|error| NodeError::Start { range, error: error.to_string() })?;
        raft.storage_mut().stop_waiting();
        if raft.configuration().voters() == [me] {
            raft.campaign(now);
        }
        let mut replica = Replica::new(range, applied);
        replica.replays_until = LogIndex(raft.last().index.0);
        Ok(Group {
            replica,
            raft,
            writes: Writes::new(range),
            installation: Installation::default(),
            retention: Retention::default(),
            serving: None,
            opening: None,
            lease_reads,
            governed_at: LogIndex::default(),
            desk: Desk::default(),
            check: None,
            summing: None,
        })
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

    /// The writes up to `ticket` are durable.
    pub(crate) fn durable(&mut self, now: Time, ticket: u64, outputs: &mut VecDeque<Output>) {
        while let Some(Write { number, messages, .. }) = self.writes.pop(ticket) {
            let Some(number) = number else { continue };
            self.send_all(messages, outputs);
            self.raft.persisted(now, number);
        }
    }

    /// Ends the open entry and proposes it. Gives its position, and the payload's length.
    pub(crate) fn seal(&mut self) -> Option<(Position, usize)> {
        let term = self.serving()?;
        self.note_own_entries();
        let (position, payload) = self.replica.seal(term)?;
        let bytes = payload.len();
        match self.raft.propose([payload]) {
            Ok(proposed) => {
                let given = Position::new(proposed.first.0, proposed.term.0);
                assert_eq!(given, position, "consensus and state machine count alike");
                self.desk.sealed(position);
                Some((position, bytes))
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
        engine: &Cached<E>,
        effects: &mut Effects<'_>,
    ) -> Result<(), NodeError> {
        let range = self.replica.range();
        while let Some(ready) = self.raft.ready(now) {
            let Ready { leadership, messages, persist, committed, reads, reads_dropped, snapshots_wanted } = ready;
            if let Some(leadership) = leadership {
                self.note_leadership(leadership, effects);
            }
            self.send(messages, effects);
            if let Some(persist) = persist {
                self.persist(now, persist, effects);
            }
            for entry in committed {
                self.take(entry)?;
            }
            self.apply(engine, effects)?;
            effects.events.extend(reads.iter().map(|read| (range, Event::Read(read.id))));
            effects.events.extend(reads_dropped.iter().map(|id| (range, Event::ReadDropped(*id))));
            effects.events.extend(snapshots_wanted.into_iter().map(|node| (range, Event::SnapshotWanted(node))));
        }
        Ok(())
    }

    fn persist(&mut self, now: Time, mut persist: dstore_raft::Persist, effects: &mut Effects<'_>) {
        if planted!(self.replica, ForgetTerm) {
            persist.hard_state = None;
        }
        let ops = write_ops(self.replica.range(), &mut persist);
        let write = (Some(persist.number), persist.messages);
        match persist.snapshot {
            Some(snapshot) => self.install(now, &snapshot, write, ops, effects.outputs),
            None => self.writes.submit(now, write, ops, effects.outputs),
        }
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
    pub(crate) fn apply<E: Engine>(&mut self, engine: &Cached<E>, effects: &mut Effects<'_>) -> Result<(), NodeError> {
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
            self.check = None;
            self.replica.step_down();
            effects.events.push((range, Event::Lost));
        }
        effects.events.push((range, Event::Leadership));
    }

    fn send(&self, messages: Vec<Message>, effects: &mut Effects<'_>) {
        let range = self.replica.range();
        for message in messages {
            let is_snapshot = matches!(message.body, dstore_raft::Body::Snapshot(_));
            let (to, body) = self.body_of(message);
            if is_snapshot {
                effects.events.push((range, Event::SnapshotReady(to, body)));
            } else {
                effects.outputs.push_back(raft_message(to, body));
            }
        }
    }

    /// The same for messages that waited for the disk; no snapshot is among them.
    fn send_all(&self, messages: Vec<Message>, outputs: &mut VecDeque<Output>) {
        outputs.extend(messages.into_iter().map(|message| {
            let (to, body) = self.body_of(message);
            raft_message(to, body)
        }));
    }

    fn body_of(&self, message: Message) -> (NodeId, Bytes) {
        let to = message.to;
        (to, Bytes::from(RaftBody::of(self.replica.range(), message).encode_to_vec()))
    }
}

fn raft_message(to: NodeId, body: Bytes) -> Output {
    Output::Send { to: dstore_rpc::NodeId(to.0), method: wire::RAFT.number, body }
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
    // Nor was there anything yet for one that joins.
    let fresh = founded || applied == Position::default();
    let reset = match begin {
        None if !fresh => return Err(NodeError::LogMissing { range, applied }),
        None => Some(LogOp::Reset { range, begin: applied }),
        Some(_) => dstore_storage::log::begin_at_applied(log, range, applied),
    };
    if let Some(reset) = reset {
        if begin.is_some() {
            mark!(LogJoinsData);
            tracing::warn!("range {range}: the data, at entry {applied}, is ahead of the log, which begins anew there");
        }
        // Nothing waits for it: later writes become durable behind it, or not at all.
        log.submit(vec![reset], Box::new(|_| {})).map_err(NodeError::Log)?;
    }
    Ok(())
}
