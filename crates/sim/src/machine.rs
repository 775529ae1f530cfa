//! A machine: a disk that survives, clocks, and the process that runs on it, or does not.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dstore_node::{
    Administer, Applied, Facts, Join, Member, Node, NodeLimits, NodeParts, SYSTEM_RANGE, Space, USER_RANGE,
};
use dstore_raft::Configuration;
use dstore_rpc::{ClusterId, Config, Identity, Incarnation, NodeId, Secret};
use dstore_storage::layout::local;
use dstore_storage::{Caching, Direction, Engine, LogIndex, MemoryEngine, MemoryLog, RangeId, Reader};

use crate::asker::Asker;
use crate::carrier::Carrier;
use crate::network::Machine as MachineId;
use crate::peers::{Peers, node_of};
use crate::process::{Fatal, Input, NoHost, Process, Surroundings};
use crate::random::Random;
use crate::time::{Clock, Moment};

/// The ranges of a node.
pub const RANGES: [RangeId; 2] = [SYSTEM_RANGE, USER_RANGE];

/// Settings that all nodes of a cluster share.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// How many nodes found the cluster: the first so many machines.
    pub founders: usize,
    /// How many machines there ever are.
    pub machines: usize,
    /// Of every node.
    pub limits: NodeLimits,
    /// About how many bytes a chunk of a snapshot has.
    pub chunk_bytes: usize,
    /// How many versions of the program run in it.
    pub versions: u32,
    /// The window of a stream between peers.
    pub stream_window_bytes: u32,
    /// About one in so many reads finds that what it looks for is not in memory; with 0 none.
    pub cold_one_in: u64,
    /// How many of the last entries of each log are in memory.
    pub log_remembered: u64,
    /// A rule that every node breaks.
    #[cfg(feature = "planted")]
    pub planted: Option<dstore_node::Planted>,
}

/// What a machine is to the cluster, as far as its disk says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has switched it on yet.
    Absent,
    /// It has an id, and asks to be a member.
    New,
    /// A member, as far as it knows.
    Member,
    /// It was removed, and knows that.
    Removed,
    /// Its disk is lost, and it will never come back.
    Lost,
}

/// A point in what a process does at which it is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashAt {
    /// When it next writes to its log.
    Write,
    /// When it has next told others something in a term that is new to it: that it voted, or that it stands.
    Term,
    /// Not it, but all others, when it next leads.
    Lead,
    /// When the next chunk of a snapshot was read or taken in.
    Chunk,
    /// When the next snapshot has replaced its data, and nobody knows yet.
    Install,
}

/// How a process ends that does not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It is killed.
    Kill,
    /// Its machine loses power: its peers are not told.
    PowerCut,
    /// All machines lose power.
    Blackout,
}

/// A machine. See the [module](self).
pub struct Machine {
    /// Its number.
    pub id: MachineId,
    /// The data, as far as it is on disk or in memory.
    pub engine: Arc<MemoryEngine>,
    /// The log.
    pub log: Arc<MemoryLog>,
    /// Its clocks.
    pub clock: Clock,
    /// What it is to the cluster.
    pub standing: Standing,
    /// Where its peers reach it.
    pub address: String,
    /// Who was there when it joined.
    pub contacts: Vec<Member>,
    /// What runs on it.
    pub process: Option<Process>,
    /// What runs on it before it is a member, or if it is an operator's.
    pub asker: Option<Asker>,
    /// What came since the process last looked.
    pub inbox: Vec<Input>,
    /// How many pauses are under way.
    pub pauses: u32,
    /// It stopped within a turn, and owes what it decided.
    pub owes: bool,
    /// The next pause falls into a turn.
    pub pause_within_turn: bool,
    /// When it next turns, if it does.
    pub turn_at: Option<Moment>,
    /// When it turned last, for a planted bug.
    #[cfg(feature = "planted")]
    pub turned_at: Moment,
    /// A sync is under way.
    pub syncing: bool,
    /// Another thread of the process has something to do.
    pub working: bool,
    /// Nothing syncs before.
    pub stalled_until: Moment,
    /// Syncs take so many times as long as they should.
    pub slowness: u64,
    /// How much room there is on its disk.
    pub space: Space,
    /// Its disk has failed: the process has to end by itself when it next needs it.
    pub broken: bool,
    /// Its disk does not give back something that is on it: the process has to end by itself when it meets that.
    pub rotten: bool,
    /// It is to crash at some point.
    pub crash_at: Option<(CrashAt, Death)>,
    /// Its terms when it was told to crash at a new one.
    pub terms_then: Vec<u64>,
    /// It has power.
    pub has_power: bool,
    /// What runs on it is of a later version than the others.
    newer: bool,
    /// Its log does not look at checksums: a planted bug.
    trusting: bool,
    /// Its engine does not look at blocks: another.
    trusts_data: bool,
    incarnation: u64,
    random: Random,
}

impl Machine {
    /// A machine with empty disks, on which nothing runs.
    pub fn new(id: MachineId, clock: Clock, random: Random) -> Machine {
        Machine {
            id,
            engine: Arc::new(MemoryEngine::new()),
            log: Arc::new(MemoryLog::new()),
            clock,
            standing: Standing::Absent,
            address: format!("n{}:1", id + 1),
            contacts: Vec::new(),
            process: None,
            asker: None,
            inbox: Vec::new(),
            pauses: 0,
            owes: false,
            pause_within_turn: false,
            turn_at: None,
            #[cfg(feature = "planted")]
            turned_at: 0,
            syncing: false,
            working: false,
            stalled_until: 0,
            slowness: 1,
            space: Space::Ample,
            broken: false,
            rotten: false,
            crash_at: None,
            terms_then: Vec::new(),
            has_power: true,
            newer: false,
            trusting: false,
            trusts_data: false,
            incarnation: 0,
            random,
        }
    }

    /// Its name in traces.
    pub fn name(&self) -> String {
        format!("n{}", self.id + 1)
    }

    /// Starts a process on what the disks hold.
    ///
    /// # Errors
    ///
    /// The core refuses what it finds there.
    pub fn start(&mut self, settings: &ClusterSettings, around: &mut Surroundings<'_>) -> Result<(), Fatal> {
        self.incarnation += 1;
        // A cluster of two versions is one in the midst of an upgrade, or of going back.
        self.newer = settings.versions == 2 && self.random.one_in(2);
        #[cfg(feature = "planted")]
        (self.turned_at = around.moment);
        self.has_power = true;
        if self.standing == Standing::New {
            self.ask_to_join(settings, around);
            return Ok(());
        }
        self.run(settings, around)
    }

    /// A node that is no member yet asks to become one.
    fn ask_to_join(&mut self, settings: &ClusterSettings, around: &mut Surroundings<'_>) {
        let join = Join {
            node: node_of(self.id).0,
            incarnation: self.incarnation,
            peer_address: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.ask(Administer { join: Some(join), ..Administer::default() }, settings, around);
    }

    /// Somebody on this machine asks the cluster for something.
    pub fn ask(&mut self, question: Administer, settings: &ClusterSettings, around: &mut Surroundings<'_>) {
        let (name, peers, random) = (self.name(), self.peers(settings), self.random.fork());
        self.asker = Some(Asker::new(name, peers, random, question, around.clock.instant(around.moment)));
    }

    /// The node becomes a member, as what it heard says, and runs as one.
    ///
    /// # Errors
    ///
    /// The core refuses what it finds on the disks.
    pub fn join(&mut self, settings: &ClusterSettings, around: &mut Surroundings<'_>) -> Result<(), Fatal> {
        let answer = self.asker.take().and_then(|asker| asker.answer().cloned()).unwrap_or_default();
        let member = |told: &dstore_node::MemberAddress| Member {
            node: NodeId(told.node),
            peer_address: told.peer_address.clone(),
            moved: false,
        };
        self.contacts = answer.members.iter().map(member).filter(|member| member.node != node_of(self.id)).collect();
        self.standing = Standing::Member;
        self.run(settings, around)
    }

    fn peers(&mut self, settings: &ClusterSettings) -> Peers {
        let identity =
            Identity { cluster: ClusterId(1), node: node_of(self.id), incarnation: Incarnation(self.incarnation) };
        let secret = Secret::new(b"the secret of the simulated cluster").expect("it is long enough");
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.random.number().to_le_bytes());
        let mut config = Config::new(identity, secret);
        config.limits.stream_window_bytes = settings.stream_window_bytes;
        Peers::new(config, seed, self.id)
    }

    fn run(&mut self, settings: &ClusterSettings, around: &mut Surroundings<'_>) -> Result<(), Fatal> {
        if let Some(damage) = self.log.damage() {
            return Err(damage.into());
        }
        #[cfg(feature = "planted")]
        (self.trusting = settings.planted == Some(dstore_node::Planted::TrustTornFrame));
        #[cfg(feature = "planted")]
        (self.trusts_data = settings.planted == Some(dstore_node::Planted::TrustRottenBlock));
        self.engine.set_cold(settings.cold_one_in, self.random.number(), true);
        self.log.set_remembered(settings.log_remembered);
        let identity =
            Identity { cluster: ClusterId(1), node: node_of(self.id), incarnation: Incarnation(self.incarnation) };
        let founder =
            |machine| Member { node: node_of(machine), peer_address: format!("n{}:1", machine + 1), moved: false };
        let founders = if self.id < settings.founders { settings.founders } else { 0 };
        let parts = NodeParts {
            engine: self.engine.clone(),
            log: self.log.clone(),
            identity,
            founders: (0..founders).map(founder).collect(),
            contacts: self.contacts.clone(),
            peer_address: self.address.clone(),
            limits: settings.limits.clone(),
            facts: Facts {
                node_id: self.name(),
                version: env!("CARGO_PKG_VERSION"),
                client_address: format!("n{}:2", self.id + 1),
                ..Facts::default()
            },
            host: Box::new(NoHost),
            seed: self.random.number(),
        };
        #[allow(unused_mut, reason = "only the feature `planted` changes it")]
        let mut core = Node::new(parts, around.now())?;
        #[cfg(feature = "planted")]
        if let Some(bug) = settings.planted {
            core.plant(bug);
        }
        let peers = self.peers(settings);
        let carrier = Carrier::new(settings.chunk_bytes);
        let mut process = Process::new(core, peers, self.log.clone(), carrier, self.name());
        process.note_space(self.space);
        process.newer = self.newer;
        #[cfg(feature = "planted")]
        (process.ignores_failed_syncs = settings.planted == Some(dstore_node::Planted::IgnoreFailedSync));
        self.process = Some(process);
        Ok(())
    }

    /// The process is gone, and with it everything that was not synced and that luck did not save.
    pub fn crash(&mut self) {
        if self.has_leader() {
            // Where it moved and others had, it has found them. Until then whoever starts it says again where they are.
            self.contacts.iter_mut().for_each(|contact| contact.moved = false);
        }
        (self.process, self.asker) = (None, None);
        self.inbox.clear();
        self.pauses = 0;
        (self.owes, self.pause_within_turn, self.turn_at) = (false, false, None);
        (self.crash_at, self.broken) = (None, false);
        self.engine.lose_power(self.random.number());
        let seed = self.random.number();
        if self.random.one_in(2) { self.log.tear(seed, self.trusting) } else { self.log.lose_power(seed) }
    }

    /// The process is to crash at some point.
    pub fn crash_later(&mut self, at: CrashAt, death: Death) {
        self.crash_at = Some((at, death));
        self.terms_then = self.terms().into_iter().map(|(term, _)| term).collect();
    }

    /// It told others something in a term that it was not in when it was told to crash, and knows no leader of it: a vote.
    pub fn has_voted(&self) -> bool {
        self.terms().iter().zip(&self.terms_then).any(|((term, leader), then)| leader.is_none() && term > then)
    }

    /// It leads in a term that it was not in when it was told to crash.
    pub fn leads_anew(&self) -> bool {
        let own = Some(node_of(self.id).0);
        self.terms().iter().zip(&self.terms_then).any(|((term, leader), then)| *leader == own && term > then)
    }

    /// The term of each range, and who leads in it.
    fn terms(&self) -> Vec<(u64, Option<u64>)> {
        let status = self.process.as_ref().and_then(|process| process.core().status().ok());
        status.into_iter().flat_map(|status| status.ranges).map(|range| (range.term, range.leader)).collect()
    }

    fn has_leader(&self) -> bool {
        let status = self.process.as_ref().and_then(|process| process.core().status().ok());
        status.is_some_and(|status| status.ranges.iter().all(|range| range.leader.is_some()))
    }

    /// The disks are gone, with everything on them, for ever.
    pub fn lose_disk(&mut self) {
        self.crash();
        (self.engine, self.log) = (Arc::new(MemoryEngine::new()), Arc::new(MemoryLog::new()));
        self.standing = Standing::Lost;
    }

    /// The disks fail whatever is written from now on, until the process has ended.
    pub fn break_disk(&mut self, log: bool, data: bool) {
        self.broken = true;
        if log {
            self.log.fail("the simulated disk is broken");
        }
        if data {
            self.engine.fail_writes("the simulated disk is broken");
        }
    }

    /// Whether anything runs on it.
    pub fn is_up(&self) -> bool {
        self.process.is_some() || self.asker.is_some()
    }

    /// The members of a range, as far as its data here is.
    pub fn members_of(&self, range: RangeId) -> Option<Configuration> {
        let stored = self.data().get(&local::members_key(range)).expect("memory does not fail")?;
        Configuration::decode(&stored).ok()
    }

    /// Flushes some or all of the data. Says how far each range is on disk now.
    ///
    /// # Errors
    ///
    /// The engine failed.
    pub fn flush(&mut self) -> Result<Vec<(RangeId, LogIndex)>, Fatal> {
        if self.random.one_in(2) {
            self.engine.flush().map_err(dstore_node::NodeError::from)?;
        } else {
            self.engine.flush_some(self.random.number());
        }
        let mut flushed = Vec::new();
        for range in RANGES {
            let stored = self.engine.get_persisted(&Applied::key(range)).map_err(dstore_node::NodeError::from)?;
            flushed.push((range, Applied::decode(stored.as_deref())?.position.index));
        }
        Ok(flushed)
    }

    /// Whether it leads the range of user data, as far as it knows.
    pub fn leads(&self) -> bool {
        let status = self.process.as_ref().and_then(|process| process.core().status().ok());
        status.is_some_and(|status| status.user_range().is_some_and(|range| range.is_serving))
    }

    /// The data to be looked at: what the process would read, if it does not check what it reads.
    fn data(&self) -> Box<dyn Reader + Send + Sync> {
        if self.trusts_data { self.engine.freeze(Caching::Pass) } else { self.engine.sound() }
    }

    /// Everything that the replicas of a range have in common at one applied index, which is its first part.
    pub fn replica(&self, range: RangeId) -> Replica {
        let mut records = Vec::new();
        let local = dstore_storage::layout::local::span(range);
        let tags: &[u8] = if range == USER_RANGE { &[0x03, 0x04] } else { &[0x02] };
        let spans = tags.iter().map(|tag| vec![*tag]..vec![*tag + 1]);
        for span in std::iter::once(local).chain(spans) {
            let data = self.data();
            let mut cursor =
                data.scan(&span.start[..]..&span.end[..], Direction::Forward).expect("memory does not fail");
            while let Some((key, value)) = cursor.entry() {
                records.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                cursor.advance().expect("memory does not fail");
            }
        }
        Replica { applied: self.applied(range), records }
    }

    /// Whether the expiry index is empty: nothing is left that expires, and no orphaned chunk.
    pub fn is_swept(&self) -> bool {
        let index = local::expiry_span(USER_RANGE);
        let data = self.data();
        let cursor = data.scan(&index.start[..]..&index.end[..], Direction::Forward);
        cursor.expect("memory does not fail").entry().is_none()
    }

    /// How far the data of a range is, as the engine has it: what gathers above it is not there yet.
    pub fn applied(&self, range: RangeId) -> Option<Applied> {
        let stored = self.data().get(&Applied::key(range)).expect("memory does not fail")?;
        Applied::decode(Some(&stored)).ok()
    }
}

/// The data of a range at one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// How far it is.
    pub applied: Option<Applied>,
    /// Its records, in order.
    pub records: Vec<(Bytes, Bytes)>,
}

impl Replica {
    /// A checksum of everything.
    pub fn checksum(&self) -> u32 {
        self.records.iter().fold(0, |sum, (key, value)| crc32c::crc32c_append(crc32c::crc32c_append(sum, key), value))
    }

    /// The first record that another replica has otherwise.
    pub fn difference(&self, other: &Replica) -> Option<String> {
        let text = |record: Option<&(Bytes, Bytes)>| {
            record.map_or("nothing".to_owned(), |(key, value)| {
                format!("{} = {}", key.escape_ascii(), value.escape_ascii())
            })
        };
        let longest = self.records.len().max(other.records.len());
        (0..longest)
            .map(|at| (self.records.get(at), other.records.get(at)))
            .find(|(ours, theirs)| ours != theirs)
            .map(|(ours, theirs)| format!("{} here, {} there", text(ours), text(theirs)))
    }
}

/// Clocks of a machine, drawn from a seed.
pub fn draw_clock(random: &mut Random, epoch: Instant, drift_ppm: i64, wall_error_us: i64) -> Clock {
    let drift = match random.below(3) {
        0 => drift_ppm,
        1 => -drift_ppm,
        _ => random.below(2 * drift_ppm as u64 + 1) as i64 - drift_ppm,
    };
    let wall = random.below(2 * wall_error_us as u64 + 1) as i64 - wall_error_us;
    Clock::new(epoch, random.below(1 << 40), drift, wall)
}
