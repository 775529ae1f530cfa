//! The same trouble for this crate and for the `raft` crate (TiKV's), and the same outcome.
//!
//! A seed makes a schedule: proposals, links cut and mended, messages lost, nodes crashed and started again. Both clusters
//! go through it. A client proposes numbered commands at whoever leads, in order, and proposes a command again when it was
//! dropped, or when the leader it was given to stepped down or crashed before committing it; the state machine applies each
//! number once, after the one before it. When the network is whole again, every member of both clusters must have applied
//! the very same sequence: every proposal, none lost, none twice, none out of order. And no command that was once reported
//! applied may be missing from any member's raw log of what it applied.
//!
//! `RAFT_DIFFERENTIAL_SEEDS` sets the seeds (a count, or `from..to`).

#![allow(clippy::unwrap_used)] // a test may stop where it stands

use bytes::Bytes;
use dstore_raft as ours;

const MEMBERS: usize = 3;
const COMMANDS: u64 = 60;
const TICK_MILLIS: u64 = 100;

/// One event of a schedule; a tick of the clock stands between any two.
#[derive(Clone, Copy, Debug)]
enum Event {
    Nothing,
    Propose,
    Cut(usize, usize),
    Mend,
    Crash(usize),
    Start(usize),
    /// Of messages, so many percent are lost from now on.
    Loss(u64),
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn schedule(seed: u64) -> Vec<Event> {
    let mut r = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let member = |r: &mut Random| r.below(MEMBERS as u64) as usize;
    (0..400)
        .map(|_| match r.below(40) {
            0..=19 => Event::Propose,
            20 => Event::Cut(member(&mut r), member(&mut r)),
            21 | 22 => Event::Mend,
            23 => Event::Crash(member(&mut r)),
            24..=26 => Event::Start(member(&mut r)),
            27 => Event::Loss(r.below(20)),
            _ => Event::Nothing,
        })
        .collect()
}

/// A member of either kind. Its disk is what survives `crash`.
trait Member {
    type Message;
    fn new(at: usize) -> Self;
    fn tick(&mut self, now_millis: u64);
    fn step(&mut self, message: Self::Message, now_millis: u64);
    /// Term, if this member leads.
    fn leads(&self) -> Option<u64>;
    /// False if the proposal was dropped.
    fn propose(&mut self, command: u64) -> bool;
    /// Writes, applies, and returns what is to be sent; applied commands go to `applied`.
    fn work(&mut self, now_millis: u64, applied: &mut Vec<u64>) -> Vec<(usize, Self::Message)>;
    /// Loses everything but the disk, and starts again, applying from the beginning.
    fn crash(&mut self, now_millis: u64);
}

struct Cluster<M: Member> {
    members: Vec<M>,
    up: [bool; MEMBERS],
    cut: Vec<(usize, usize)>,
    network: Vec<(usize, usize, M::Message)>,
    loss_percent: u64,
    random: Random,
    now_millis: u64,
    /// What each member has applied since it last started.
    raw: Vec<Vec<u64>>,
    /// The longest that any member ever reported.
    reported: Vec<u64>,
    /// The command being proposed, and to whom in which term.
    next: u64,
    waiting: Option<(usize, u64)>,
}

impl<M: Member> Cluster<M> {
    fn new(seed: u64) -> Cluster<M> {
        Cluster {
            members: (0..MEMBERS).map(M::new).collect(),
            up: [true; MEMBERS],
            cut: Vec::new(),
            network: Vec::new(),
            loss_percent: 0,
            random: Random(seed ^ 0x5555 | 1),
            now_millis: 0,
            raw: vec![Vec::new(); MEMBERS],
            reported: Vec::new(),
            next: 1,
            waiting: None,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Nothing => {}
            Event::Propose => self.propose(),
            Event::Cut(a, b) => self.cut.extend([(a, b), (b, a)]),
            Event::Mend => self.cut.clear(),
            Event::Loss(percent) => self.loss_percent = percent,
            Event::Crash(i) => self.up[i] = false,
            Event::Start(i) => {
                if !self.up[i] {
                    self.up[i] = true;
                    self.raw[i].clear();
                    self.members[i].crash(self.now_millis);
                }
            }
        }
        self.tick();
    }

    /// Proposes the next command, or the same again if it came to nothing.
    fn propose(&mut self) {
        if let Some((at, term)) = self.waiting {
            if self.raw[at].contains(&self.next) {
                self.next += 1;
            } else if self.up[at] && self.members[at].leads() == Some(term) {
                return;
            }
            self.waiting = None;
        }
        if self.next > COMMANDS {
            return;
        }
        let leads = |i: &usize| self.up[*i] && self.members[*i].leads().is_some();
        // Of two who believe they lead, the one with the later term.
        let leader = (0..MEMBERS).filter(leads).max_by_key(|i| self.members[*i].leads());
        if let Some(at) = leader
            && self.members[at].propose(self.next)
        {
            self.waiting = self.members[at].leads().map(|term| (at, term));
        }
    }

    fn tick(&mut self) {
        self.now_millis += TICK_MILLIS;
        for i in 0..MEMBERS {
            if self.up[i] {
                self.members[i].tick(self.now_millis);
            }
        }
        // A few hops in a tick.
        for _ in 0..6 {
            for i in 0..MEMBERS {
                if self.up[i] {
                    self.work(i);
                }
            }
            for (from, to, message) in std::mem::take(&mut self.network) {
                let lost = self.random.below(100) < self.loss_percent;
                if self.up[to] && !lost && !self.cut.contains(&(from, to)) {
                    self.members[to].step(message, self.now_millis);
                }
            }
        }
    }

    fn work(&mut self, i: usize) {
        let sent = self.members[i].work(self.now_millis, &mut self.raw[i]);
        self.network.extend(sent.into_iter().map(|(to, m)| (i, to, m)));
        if self.raw[i].len() > self.reported.len() {
            self.reported = self.raw[i].clone();
        }
    }

    /// Everything works; all commands get through, and everybody has them.
    fn heal(&mut self, seed: u64) {
        self.cut.clear();
        self.loss_percent = 0;
        for i in 0..MEMBERS {
            self.happen(Event::Start(i));
        }
        for _ in 0..3000 {
            self.happen(Event::Propose);
            let first = &self.raw[0];
            let caught_up = first.len() >= self.reported.len();
            if self.next > COMMANDS && caught_up && self.raw.iter().all(|raw| raw == first) {
                return;
            }
        }
        let kind = std::any::type_name::<M>();
        panic!("seed {seed}, {kind}: no agreement; next {}, applied {:?}", self.next, self.raw);
    }

    /// What the state machine made of it: each number once, in order.
    fn sequence(&self, seed: u64) -> Vec<u64> {
        assert!(self.raw[0].starts_with(&self.reported), "seed {seed}: what was applied is gone");
        let mut sequence = Vec::new();
        for command in &self.raw[0] {
            if *command == sequence.len() as u64 + 1 {
                sequence.push(*command);
            }
        }
        sequence
    }
}

struct Ours {
    at: usize,
    raft: ours::Raft<ours::MemLog>,
    hard_state: ours::HardState,
    lives: u64,
}

impl Ours {
    fn start(at: usize, log: ours::MemLog, hard_state: ours::HardState, now_millis: u64, lives: u64) -> Ours {
        let first = ours::Configuration::new((1..=MEMBERS as u64).map(ours::NodeId), []);
        let restored = ours::Restored { hard_state, ..ours::Restored::bootstrap(first) };
        let (id, now) = (ours::NodeId(at as u64 + 1), ours::Time::from_millis(now_millis));
        let seed = id.0 * 1_000_003 + lives;
        let raft = ours::Raft::new(id, ours::Config::default(), restored, log, now, seed).unwrap();
        Ours { at, raft, hard_state, lives }
    }
}

impl Member for Ours {
    type Message = ours::Message;

    fn new(at: usize) -> Ours {
        Ours::start(at, ours::MemLog::default(), ours::HardState::default(), 0, 0)
    }

    fn tick(&mut self, now_millis: u64) {
        self.raft.tick(ours::Time::from_millis(now_millis));
    }

    fn step(&mut self, message: ours::Message, now_millis: u64) {
        self.raft.step(ours::Time::from_millis(now_millis), message).unwrap();
    }

    fn leads(&self) -> Option<u64> {
        (self.raft.role() == ours::Role::Leader).then_some(self.raft.term().0)
    }

    fn propose(&mut self, command: u64) -> bool {
        self.raft.propose([Bytes::copy_from_slice(&command.to_le_bytes())]).is_ok()
    }

    fn work(&mut self, now_millis: u64, applied: &mut Vec<u64>) -> Vec<(usize, ours::Message)> {
        let now = ours::Time::from_millis(now_millis);
        let mut sent = Vec::new();
        while let Some(ready) = self.raft.ready(now) {
            sent.extend(ready.messages);
            if let Some(p) = ready.persist {
                if let Some(base) = p.restart_log {
                    self.raft.storage_mut().restart(base);
                }
                self.hard_state = p.hard_state.unwrap_or(self.hard_state);
                self.raft.storage_mut().append(p.entries);
                sent.extend(p.messages);
                self.raft.persisted(now, p.number);
            }
            for e in &ready.committed {
                if e.kind == ours::EntryKind::Normal {
                    applied.push(u64::from_le_bytes(e.data[..].try_into().unwrap()));
                }
                self.raft.applied(e.index);
            }
        }
        sent.into_iter().map(|m| (m.to.0 as usize - 1, m)).collect()
    }

    fn crash(&mut self, now_millis: u64) {
        let log = std::mem::take(self.raft.storage_mut());
        *self = Ours::start(self.at, log, self.hard_state, now_millis, self.lives + 1);
    }
}

struct Theirs {
    at: usize,
    raw: raft::RawNode<raft::storage::MemStorage>,
}

impl Theirs {
    fn start(at: usize, store: raft::storage::MemStorage) -> Theirs {
        let config = raft::Config {
            id: at as u64 + 1,
            election_tick: 10,
            heartbeat_tick: 1,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        Theirs { at, raw: raft::RawNode::new(&config, store, &logger).unwrap() }
    }

    fn apply(entries: &[raft::prelude::Entry], applied: &mut Vec<u64>) {
        for e in entries {
            if let Ok(bytes) = e.data[..].try_into() {
                applied.push(u64::from_le_bytes(bytes));
            }
        }
    }
}

impl Member for Theirs {
    type Message = raft::prelude::Message;

    fn new(at: usize) -> Theirs {
        let voters: Vec<u64> = (1..=MEMBERS as u64).collect();
        Theirs::start(at, raft::storage::MemStorage::new_with_conf_state((voters, vec![])))
    }

    fn tick(&mut self, _now_millis: u64) {
        self.raw.tick();
    }

    fn step(&mut self, message: raft::prelude::Message, _now_millis: u64) {
        // It reports messages of peers it has no use for as errors.
        let _ignored = self.raw.step(message);
    }

    fn leads(&self) -> Option<u64> {
        let r = &self.raw.raft;
        (r.state == raft::StateRole::Leader).then_some(r.term)
    }

    fn propose(&mut self, command: u64) -> bool {
        self.raw.propose(vec![], command.to_le_bytes().to_vec()).is_ok()
    }

    fn work(&mut self, _now_millis: u64, applied: &mut Vec<u64>) -> Vec<(usize, raft::prelude::Message)> {
        let mut sent = Vec::new();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            sent.extend(ready.take_messages());
            Theirs::apply(&ready.take_committed_entries(), applied);
            let mut store = self.raw.mut_store().wl();
            store.append(ready.entries()).unwrap();
            if let Some(hs) = ready.hs() {
                store.set_hardstate(hs.clone());
            }
            drop(store);
            sent.extend(ready.take_persisted_messages());
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.raw.mut_store().wl().mut_hard_state().set_commit(commit);
            }
            sent.extend(light.take_messages());
            Theirs::apply(&light.take_committed_entries(), applied);
            self.raw.advance_apply();
        }
        sent.into_iter().map(|m| (m.to as usize - 1, m)).collect()
    }

    fn crash(&mut self, _now_millis: u64) {
        let store = self.raw.store().clone();
        *self = Theirs::start(self.at, store);
    }
}

fn run<M: Member>(seed: u64) -> Vec<u64> {
    let mut cluster = Cluster::<M>::new(seed);
    for event in schedule(seed) {
        cluster.happen(event);
    }
    cluster.heal(seed);
    cluster.sequence(seed)
}

#[test]
fn both_implementations_commit_every_proposal_in_the_same_order() {
    let range = std::env::var("RAFT_DIFFERENTIAL_SEEDS").unwrap_or("200".into());
    let (from, to) = range.split_once("..").unwrap_or(("0", &range));
    let all: Vec<u64> = (1..=COMMANDS).collect();
    for seed in from.parse::<u64>().unwrap()..to.parse::<u64>().unwrap() {
        let replay = format!("replay: RAFT_DIFFERENTIAL_SEEDS={seed}..{}", seed + 1);
        let ours = run::<Ours>(seed);
        let theirs = run::<Theirs>(seed);
        assert_eq!(ours, theirs, "{replay}");
        assert_eq!(ours, all, "{replay}");
    }
}
