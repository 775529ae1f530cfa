//! The state machine: its state, its door for messages, its clock.
//!
//! One room for each part it plays: [`election`] (who leads), [`follower`] (taking entries in), [`leader`] (giving them out
//! and committing them), [`reading`] (reads without the log), [`handover`] (leadership given away), [`output`] (what the
//! driver is to do), [`status`] (what an operator sees).

mod election;
mod follower;
mod handover;
mod leader;
mod output;
mod reading;
mod status;

pub use status::{PeerStatus, Status};

use crate::configuration::History;
use crate::log::{Gap, Log};
use crate::message::{Body, Handover, Message};
use crate::progress::Progress;
use crate::random::Random;
use crate::reads::Reads;
use crate::ready::{Leadership, Role, StartError, StepError};
use crate::rounds::Rounds;
use crate::storage::LogStorage;
use crate::{Config, Configuration, Entry, EntryId, EntryKind, HardState, LogIndex, NodeId, SnapshotMeta, Term, Time};

/// Whether a test wants this rule broken. In a build that is not a test it is the constant `false`.
macro_rules! planted {
    ($raft:expr, $bug:ident) => {{
        #[cfg(test)]
        {
            $raft.config.planted_bug == Some(crate::planted::Bug::$bug)
        }
        #[cfg(not(test))]
        {
            false
        }
    }};
}
pub(crate) use planted;

/// Terms and indexes beyond this are refused, so that no peer can make one overflow.
const NUMBER_MAX: u64 = u64::MAX / 4;

/// What a node starts from: what it has made durable, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The last one written.
    pub hard_state: HardState,
    /// The last entry contained in the applied state that survived; (0, 0) if there is none.
    pub applied: EntryId,
    /// The configuration in force at that entry; the empty one for a node that is to join a group.
    pub configuration: Configuration,
}

impl Restored {
    /// What every first member of a new group starts from: a state that has already applied one entry, (1, 1), which was
    /// never in any log. Since no log begins before it, whoever joins later gets a snapshot first, and with it the
    /// configuration, which a log from its very beginning would not tell.
    pub fn bootstrap(configuration: Configuration) -> Restored {
        let applied = EntryId::new(Term(1), LogIndex(1));
        Restored { hard_state: HardState::default(), applied, configuration }
    }
}

/// One member of one group.
#[derive(Debug)]
pub struct Raft<S> {
    id: NodeId,
    config: Config,
    random: Random,
    /// The latest time handed in. Never moves back.
    now: Time,

    /// Term and vote as they are.
    hard: HardState,
    /// Term and vote as last handed to the driver, and the write they are in.
    hard_handed: HardState,
    hard_number: u64,

    role: Role,
    leader: Option<NodeId>,
    /// The driver reported the connection to the leader lost, and nothing has come from it since.
    leader_lost: bool,
    /// When anything last came from a leader, of whatever term. Until a lease after it this node has promised its vote to
    /// nobody.
    heard_at: Option<Time>,
    /// The latest heartbeat heard: which leader's (by term), which round.
    heard_round: Handover,
    /// A node that restarted does not know what it has promised; until then it grants nothing.
    grace_until: Time,
    /// This role's election timeout: configured plus random.
    timeout_nanos: u64,
    /// A leader's next heartbeat; anyone else's next election.
    deadline: Time,
    /// The driver wants others to lead: see [`Raft::abstain`].
    abstains: bool,
    /// Votes received by this candidate, its own among them once durable.
    votes: Vec<(NodeId, bool)>,
    /// The permission this candidate stands by, if any.
    handover: Option<Handover>,

    log: Log<S>,
    configurations: History,
    /// This node's log is known to equal that of the leader of the current term up to here.
    verified: LogIndex,
    /// A snapshot accepted and not handed to the driver yet.
    installing: Option<Box<SnapshotMeta>>,

    /// Leader: every member but itself, ascending.
    peers: Vec<Progress>,
    rounds: Rounds,
    /// Leader: index of the blank entry that opened its term.
    term_start: LogIndex,
    uncommitted_bytes: u64,
    transfer: Option<handover::Transfer>,
    /// Leader: the configuration without it is committed; it steps down once it has told the others.
    retiring: bool,

    reads: Reads,
    out: output::Outbox,
}

impl<S: LogStorage> Raft<S> {
    /// A node as it starts, or starts again.
    ///
    /// `seed` is for election timeouts and for telling this incarnation's questions from an earlier one's: never hand a
    /// node the same seed twice.
    pub fn new(
        id: NodeId,
        config: Config,
        restored: Restored,
        storage: S,
        now: Time,
        seed: u64,
    ) -> Result<Raft<S>, StartError> {
        config.check()?;
        let Restored { hard_state, applied, configuration } = restored;
        let base = storage.base();
        let log = Log::new(storage, applied).map_err(|Gap| StartError::Gap { base, applied })?;
        let configurations = read_configurations(&log, applied.index, configuration)?;
        // Entries may have been applied in a term whose hard state did not reach the disk. No vote was given in that term,
        // since a vote leaves only when it is durable.
        let mut hard = hard_state;
        let seen = applied.term.max(log.last().term);
        if seen > hard.term {
            hard = HardState { term: seen, vote: None };
        }
        // A node that never wrote a term has promised nothing: it answers nobody before its term is durable.
        let fresh = hard_state == HardState::default();
        // Nor has one that is alone in its group, as far as its log knows, and has voted for nobody else: whoever else led
        // in its term would have needed its vote.
        let own_vote = hard_state.vote.is_none_or(|vote| vote == id);
        let alone = own_vote && configurations.since(log.commit()).all(|c| c.members() == [id]);
        let grace_until = if fresh || alone { now } else { now + config.lease };
        let mut random = Random::new(seed);
        let reads = Reads::new(random.next_u64());
        let mut raft = Raft {
            id,
            random,
            now,
            hard,
            hard_handed: hard_state,
            hard_number: 0,
            role: Role::Follower,
            leader: None,
            leader_lost: false,
            heard_at: None,
            heard_round: Handover { term: Term(0), round: 0 },
            grace_until,
            timeout_nanos: 0,
            deadline: now,
            abstains: false,
            votes: Vec::new(),
            handover: None,
            verified: log.commit(),
            log,
            configurations,
            installing: None,
            peers: Vec::new(),
            rounds: Rounds::default(),
            term_start: LogIndex::ZERO,
            uncommitted_bytes: 0,
            transfer: None,
            retiring: false,
            reads,
            out: output::Outbox::new(Leadership { term: hard.term, role: Role::Follower, leader: None }),
            config,
        };
        if planted!(raft, VoteAfterRestart) {
            raft.grace_until = now;
        }
        raft.reset_election_deadline();
        Ok(raft)
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its term.
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Its part in the term.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The leader of the term, if known; perhaps this node.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Every entry up to here is decided. Never moves back.
    pub fn commit(&self) -> LogIndex {
        self.log.commit()
    }

    /// The last entry reported applied.
    pub fn applied_index(&self) -> LogIndex {
        self.log.applied()
    }

    /// The log is durable here up to this entry. It moves back when entries are overwritten. The log may be compacted no
    /// further than this, however much has been applied: beyond it the store may still hold what is about to be replaced.
    pub fn durable_index(&self) -> LogIndex {
        self.log.durable()
    }

    /// The last entry of the log.
    pub fn last(&self) -> EntryId {
        self.log.last()
    }

    /// The configuration in force: the last of the log, committed or not.
    pub fn configuration(&self) -> &Configuration {
        self.configurations.current()
    }

    /// The configuration in force at an entry that is not before the applied one: what belongs into a snapshot taken there.
    pub fn configuration_at(&self, index: LogIndex) -> Option<&Configuration> {
        self.configurations.at(index)
    }

    /// The durable log, to read.
    pub fn storage(&self) -> &S {
        self.log.storage()
    }

    /// The durable log, to write as [`Persist`](crate::Persist) says, or to compact.
    pub fn storage_mut(&mut self) -> &mut S {
        self.log.storage_mut()
    }

    /// When [`Raft::tick`] next has something to do, if nothing else happens before.
    pub fn deadline(&self) -> Time {
        match &self.transfer {
            Some(t) => self.deadline.min(t.deadline),
            None => self.deadline,
        }
    }

    /// Time has passed. May be called at any time; needs to be at [`Raft::deadline`].
    pub fn tick(&mut self, now: Time) {
        self.observe(now);
        if self.role == Role::Leader {
            self.tick_leader();
        } else if self.now >= self.deadline {
            self.tick_election();
        }
    }

    /// A message has arrived.
    ///
    /// # Errors
    /// If no correct member could have sent it. Log, vote and commit index are then as they were.
    pub fn step(&mut self, now: Time, message: Message) -> Result<(), StepError> {
        self.observe(now);
        self.check(&message)?;
        let Message { from, term, body, .. } = message;
        if term < self.hard.term {
            self.step_outdated(from, &body);
            return Ok(());
        }
        match body {
            Body::PreVote { last } => self.step_pre_vote(from, term, last),
            Body::PreVoteReply { granted } => self.step_pre_vote_reply(from, term, granted),
            Body::Vote { last, handover } => self.step_vote(from, term, last, handover),
            Body::Append { prev, entries, commit } => {
                self.follow(from, term)?;
                return self.step_append(from, prev, entries, commit);
            }
            Body::Commit { commit } => {
                self.follow(from, term)?;
                self.commit_verified(commit);
            }
            Body::Heartbeat { round, commit } => {
                self.follow(from, term)?;
                self.step_heartbeat(from, round, commit);
            }
            Body::Snapshot(meta) => {
                self.follow(from, term)?;
                self.step_snapshot(from, meta);
            }
            reply => {
                if term > self.hard.term {
                    self.become_follower(term, None);
                }
                return self.step_reply(from, reply);
            }
        }
        Ok(())
    }

    /// Messages of the current term that only a leader, a candidate or a chosen successor has a use for.
    fn step_reply(&mut self, from: NodeId, body: Body) -> Result<(), StepError> {
        match body {
            Body::VoteReply { granted } => self.step_vote_reply(from, granted),
            Body::AppendAccepted { matched } => return self.step_accepted(from, matched),
            Body::AppendRejected { rejected, hint } => self.step_rejected(from, rejected, hint),
            Body::HeartbeatReply { round } => self.step_heartbeat_reply(from, round),
            Body::TimeoutNow { round } => self.step_timeout_now(from, round),
            Body::ReadIndex { context } => self.step_read_index(from, context),
            Body::ReadIndexReply { context, index } => self.step_read_index_reply(context, index),
            _ => {}
        }
        Ok(())
    }

    /// A message of an earlier term: if its sender believes itself the leader or stands for it, it has to learn better.
    /// Without this a node that comes back with a later term could neither follow nor be followed.
    fn step_outdated(&mut self, from: NodeId, body: &Body) {
        let reply = match body {
            Body::Append { .. } | Body::Commit { .. } | Body::Heartbeat { .. } | Body::Snapshot(_) => Body::Outdated,
            Body::PreVote { .. } => Body::PreVoteReply { granted: false },
            Body::Vote { .. } => Body::VoteReply { granted: false },
            _ => return,
        };
        self.send_bound_to_term(from, reply);
    }

    /// Refuses what no correct member sends, before anything has changed.
    fn check(&self, message: &Message) -> Result<(), StepError> {
        if message.to != self.id {
            return Err(StepError::NotForMe(message.to));
        }
        let malformed = |what| Err(StepError::Malformed { from: message.from, what });
        if message.from == self.id {
            return malformed("a message from itself");
        }
        if message.term.0 == 0 || message.term.0 > NUMBER_MAX {
            return malformed("a term out of range");
        }
        match &message.body {
            Body::Append { prev, entries, .. } => {
                if let Some(what) = self.what_is_wrong_with(message.term, *prev, entries) {
                    return malformed(what);
                }
            }
            Body::Snapshot(meta) => {
                if meta.last.index.0 == 0 || meta.last.index.0 > NUMBER_MAX || meta.last.term > message.term {
                    return malformed("a snapshot of an entry out of range");
                }
                if meta.configuration.check().is_err() {
                    return malformed("a snapshot with an impossible configuration");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn what_is_wrong_with(&self, term: Term, prev: EntryId, entries: &[Entry]) -> Option<&'static str> {
        if prev.index.0 > NUMBER_MAX || prev.term > term {
            return Some("entries after one out of range");
        }
        let mut before = prev;
        for e in entries {
            if e.index != before.index.next() {
                return Some("entries that do not join");
            }
            if e.term < before.term || e.term > term {
                return Some("entries whose terms do not ascend");
            }
            if e.kind == EntryKind::Config && Configuration::decode(&e.data).is_err() {
                return Some("an entry with an impossible configuration");
            }
            if e.data.len() as u64 > self.config.entry_bytes_max && e.kind == EntryKind::Normal {
                return Some("an entry larger than the limit");
            }
            before = e.id();
        }
        None
    }

    fn observe(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    fn send(&mut self, to: NodeId, body: Body) {
        if self.out.now.is_empty() {
            // Most often one for every follower, or one for the leader.
            self.out.now.reserve_exact(self.peers.len().max(1));
        }
        self.out.now.push(Message { from: self.id, to, term: self.hard.term, body });
    }

    /// Sends once everything of before now is durable.
    fn send_after_persist(&mut self, to: NodeId, body: Body) {
        if self.out.after.is_empty() {
            self.out.after.reserve_exact(1);
        }
        self.out.after.push(Message { from: self.id, to, term: self.hard.term, body });
    }

    /// Sends something that promises no more than this node's term: now if the term is durable, after it if not. So no term
    /// is ever shown that a crash could take back.
    fn send_bound_to_term(&mut self, to: NodeId, body: Body) {
        if self.is_term_durable() {
            self.send(to, body);
        } else {
            self.send_after_persist(to, body);
        }
    }

    fn is_term_durable(&self) -> bool {
        self.hard == self.hard_handed && self.hard_number <= self.out.durable_number
    }
}

/// Collects every configuration of the log after the applied entry.
fn read_configurations<S: LogStorage>(
    log: &Log<S>,
    applied: LogIndex,
    first: Configuration,
) -> Result<History, StartError> {
    const READ_BYTES: u64 = 4 << 20;
    let mut history = History::new(applied, first);
    let (mut at, last) = (applied.next(), log.last_index());
    while at <= last {
        for e in log.read(at, last, READ_BYTES)? {
            at = e.index.next();
            if e.kind == EntryKind::Config {
                let c = Configuration::decode(&e.data)
                    .map_err(|error| StartError::BadConfiguration { index: e.index, error })?;
                history.push(e.index, c);
            }
        }
    }
    Ok(history)
}
