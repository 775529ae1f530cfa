//! The explorer's world: a cluster, its network, its disks and clocks, and the adversary who has them in hand.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::host::{Host, Snapshots};
use super::oracle::Oracle;
use crate::planted::Bug;
use crate::random::Random;
use crate::*;

/// How a seed treats its cluster: some are calm, some are cruel, each in its own way.
struct Temper {
    loss_percent: u64,
    duplicate_percent: u64,
    /// Of deliveries, those that take any message rather than the oldest.
    reorder_percent: u64,
    disk_weight: u64,
    apply_weight: u64,
    crash_weight: u64,
    pause_weight: u64,
    cut_weight: u64,
    change_weight: u64,
    transfer_weight: u64,
    compact_weight: u64,
    recover_weight: u64,
    propose_weight: u64,
    campaign_weight: u64,
    scheme_weight: u64,
    /// Of new leaders, those that are cut off or crash soon after.
    doom_percent: u64,
    /// Of nodes that are about to write a term or a vote, those that crash instead and come back at once.
    stumble_percent: u64,
    /// Of messages, those that are held back for a long time.
    delay_percent: u64,
    lease_reads: bool,
    step_millis_max: u64,
}

impl Temper {
    fn new(r: &mut Random) -> Temper {
        let mut one_of = |choices: [u64; 4]| choices[r.below(4) as usize];
        Temper {
            loss_percent: one_of([0, 1, 5, 20]),
            duplicate_percent: one_of([0, 1, 5, 10]),
            reorder_percent: one_of([0, 0, 20, 100]),
            disk_weight: one_of([10, 20, 30, 60]),
            apply_weight: one_of([5, 10, 20, 30]),
            crash_weight: one_of([0, 3, 10, 30]),
            pause_weight: one_of([0, 3, 10, 30]),
            cut_weight: one_of([0, 3, 10, 30]),
            change_weight: one_of([0, 5, 10, 40]),
            transfer_weight: one_of([0, 2, 8, 30]),
            compact_weight: one_of([0, 5, 20, 60]),
            recover_weight: one_of([5, 15, 40, 100]),
            propose_weight: one_of([3, 20, 80, 160]),
            campaign_weight: one_of([0, 3, 10, 30]),
            scheme_weight: one_of([0, 3, 10, 30]),
            doom_percent: one_of([0, 0, 30, 80]),
            stumble_percent: one_of([0, 0, 5, 20]),
            delay_percent: one_of([0, 0, 1, 3]),
            lease_reads: one_of([0, 1, 1, 1]) == 1,
            step_millis_max: one_of([10, 20, 40, 80]),
        }
    }
}

/// A plan against a leader's lease: somebody else is to lead, and commit, before the lease has ended.
struct Scheme {
    leader: usize,
    usurper: usize,
    /// When the usurper acts.
    at: u64,
    /// A permission to stand that the leader gave, and has taken back by then.
    handovers: Vec<Message>,
    /// Somebody is made to forget what it promised.
    restarts_a_voter: bool,
}

pub(super) struct World {
    random: Random,
    temper: Temper,
    pub(super) hosts: Vec<Host>,
    /// Each clock's speed in parts of a million, and what it showed at the start.
    clocks: Vec<(u64, u64)>,
    nanos: u64,
    paused: BTreeSet<usize>,
    /// Links that lose everything.
    cut: BTreeSet<(usize, usize)>,
    network: Vec<Message>,
    /// Messages held back, perhaps until nobody expects them any more.
    delayed: Vec<Message>,
    /// Leaders that something is about to happen to.
    doomed: Vec<usize>,
    schemes: Vec<Scheme>,
    /// A leader that may have been deposed and not know it: reads go there.
    suspect: Option<usize>,
    /// Nodes about to crash over what they are writing.
    stumbling: Vec<usize>,
    snapshots: Snapshots,
    /// Followers that leaders want snapshots for.
    wanted: Vec<(usize, NodeId)>,
    /// Snapshots whose transport ended, well or not; their senders have yet to be told.
    carried: Vec<(usize, NodeId, bool)>,
    pub(super) oracle: Oracle,
    next_number: u64,
    /// The end of the run: nothing bad happens any more.
    healed: bool,
    pub(super) trace: Option<Vec<String>>,
}

pub(super) type Verdict = Result<(), String>;

/// Far more than real clocks, so that forgetting it shows.
const DRIFT_PPM: u64 = 500_000;

fn config(temper: &Temper, bug: Option<Bug>, r: &mut Random) -> Config {
    Config {
        clock_drift_ppm_max: DRIFT_PPM as u32,
        lease_reads: temper.lease_reads,
        inflight_appends_max: 1 + r.below(8) as usize,
        inflight_bytes_max: 64 + r.below(400),
        append_bytes_max: 32 + r.below(200),
        apply_bytes_max: 64 + r.below(400),
        log_cache_bytes_max: r.below(400),
        planted_bug: bug,
        ..Config::default()
    }
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>, trace: bool) -> World {
        let mut random = Random::new(seed);
        let temper = Temper::new(&mut random);
        let n = 3 + random.below(5);
        let first_voters = (n / 2 + 1).max(3).min(n);
        let first = Configuration::new((1..=first_voters).map(NodeId), []);
        let mut hosts = Vec::new();
        let mut clocks = Vec::new();
        for id in 1..=n {
            let configuration = if id <= first_voters { first.clone() } else { Configuration::default() };
            hosts.push(Host::new(NodeId(id), config(&temper, bug, &mut random), configuration));
            // The fastest runs less than 1 + drift times as fast as the slowest.
            let slow = DRIFT_PPM * 39 / 100;
            let speed = match random.below(3) {
                0 => 1_000_000 - slow,
                1 => 1_000_000 + slow,
                _ => 1_000_000 - slow + random.below(2 * slow),
            };
            clocks.push((speed, random.below(1 << 40)));
        }
        let mut world = World {
            random,
            temper,
            hosts,
            clocks,
            nanos: 0,
            paused: BTreeSet::new(),
            cut: BTreeSet::new(),
            network: Vec::new(),
            delayed: Vec::new(),
            doomed: Vec::new(),
            schemes: Vec::new(),
            suspect: None,
            stumbling: Vec::new(),
            snapshots: Snapshots::new(),
            wanted: Vec::new(),
            carried: Vec::new(),
            oracle: Oracle::new(),
            next_number: 0,
            healed: false,
            trace: trace.then(Vec::new),
        };
        for i in 0..world.hosts.len() {
            world.start(i);
        }
        world
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7}ms {}", self.nanos / 1_000_000, what()));
        }
    }

    fn now(&self, i: usize) -> Time {
        let (speed, start) = self.clocks[i];
        Time::from_nanos(start + (u128::from(self.nanos) * u128::from(speed) / 1_000_000) as u64)
    }

    fn start(&mut self, i: usize) {
        let (now, seed) = (self.now(i), self.random.next_u64());
        self.hosts[i].start(now, seed);
        self.oracle.restarted(NodeId(i as u64 + 1));
        self.tell(|| format!("start {}", i + 1));
    }

    fn any_node(&mut self) -> usize {
        self.random.below(self.hosts.len() as u64) as usize
    }

    fn one_of_nodes(&mut self, such: impl Fn(&World, usize) -> bool) -> Option<usize> {
        let all: Vec<usize> = (0..self.hosts.len()).filter(|i| such(self, *i)).collect();
        (!all.is_empty()).then(|| all[self.random.below(all.len() as u64) as usize])
    }

    /// A node that can act, if the one picked can. Leaders are picked more often, where most rules are.
    fn any_able(&mut self) -> Option<usize> {
        let mut i = self.any_node();
        if self.random.below(3) > 0 {
            // Any that believes it leads, rightly or not.
            let leads = |i: &usize| self.hosts[*i].raft.as_ref().is_some_and(|r| r.role() == Role::Leader);
            let leaders: Vec<usize> = (0..self.hosts.len()).filter(leads).collect();
            if !leaders.is_empty() {
                i = leaders[self.random.below(leaders.len() as u64) as usize];
            }
        }
        self.is_able(i).then_some(i)
    }

    fn is_able(&self, i: usize) -> bool {
        self.hosts[i].is_up() && !self.paused.contains(&i)
    }

    pub(super) fn step(&mut self) -> Verdict {
        if !self.stumbling.is_empty() && self.random.below(4) == 0 {
            let i = self.stumbling.remove(0);
            if self.hosts[i].is_up() {
                self.crash_at(i, 0);
                self.start(i);
                return self.pump(i);
            }
        }
        if !self.doomed.is_empty() && self.random.below(8) == 0 {
            let i = self.doomed.remove(0);
            return if self.random.below(2) == 0 { self.isolate(i) } else { self.crash_somehow(i) };
        }
        if let Some(at) = self.schemes.iter().position(|s| s.at <= self.nanos) {
            let scheme = self.schemes.remove(at);
            return self.carry_out(scheme);
        }
        let t = &self.temper;
        let weights = [
            1600,
            t.disk_weight * 20,
            60,
            t.propose_weight,
            160,
            t.apply_weight * 20,
            t.crash_weight,
            t.pause_weight,
            t.cut_weight,
            t.change_weight,
            t.transfer_weight,
            t.compact_weight,
            t.recover_weight,
            40,
            t.campaign_weight,
            t.campaign_weight,
            t.scheme_weight,
        ];
        let mut pick = self.random.below(weights.iter().sum());
        let mut action = 0;
        while pick >= weights[action] {
            pick -= weights[action];
            action += 1;
        }
        match action {
            0 => self.deliver(),
            1 => self.complete_write(),
            2 => self.pass_time(),
            3 => self.propose(),
            4 => self.read(),
            5 => self.apply(),
            6 => self.crash(),
            7 => self.pause(),
            8 => self.cut(),
            9 => self.change(),
            10 => self.transfer(),
            11 => self.compact(),
            12 => self.recover(),
            13 => self.serve_snapshot(),
            14 => self.lose_connection(),
            15 => self.campaign(),
            _ => self.scheme(),
        }
    }

    fn deliver(&mut self) -> Verdict {
        if self.network.is_empty() {
            return self.pass_time();
        }
        let any = self.random.below(100) < self.temper.reorder_percent;
        let at = if any { self.random.below(self.network.len() as u64) as usize } else { 0 };
        let (lost, twice) = (self.random.below(100), self.random.below(100));
        if !self.healed && twice < self.temper.duplicate_percent {
            let copy = self.network[at].clone();
            self.tell(|| format!("duplicate {copy}"));
            self.network.push(copy);
        }
        let m = self.network.remove(at);
        let rare = matches!(m.body, Body::TimeoutNow { .. } | Body::Vote { .. } | Body::VoteReply { .. });
        let delay_percent = self.temper.delay_percent * if rare { 10 } else { 1 };
        if !self.healed && self.random.below(100) < delay_percent {
            self.tell(|| format!("delay {m}"));
            self.delayed.push(m);
            return Ok(());
        }
        let (from, to) = ((m.from.0 - 1) as usize, (m.to.0 - 1) as usize);
        let blocked = self.cut.contains(&(from, to)) || !self.hosts[to].is_up();
        let lost = blocked || (!self.healed && lost < self.temper.loss_percent);
        if !lost && self.paused.contains(&to) {
            // It waits in the socket.
            self.network.push(m);
            return Ok(());
        }
        self.tell(|| format!("{} {m}", if lost { "lose" } else { "deliver" }));
        if let Body::Snapshot(_) = m.body {
            self.carried.push((from, m.to, !lost));
        }
        if lost {
            return Ok(());
        }
        let now = self.now(to);
        self.hosts[to].raft().step(now, m).map_err(|e| format!("node {} refuses a message: {e}", to + 1))?;
        self.pump(to)
    }

    fn complete_write(&mut self) -> Verdict {
        match self.one_of_nodes(|w, i| w.is_able(i) && !w.hosts[i].writes.is_empty()) {
            Some(i) => self.complete_write_at(i),
            None => self.deliver(),
        }
    }

    fn complete_write_at(&mut self, i: usize) -> Verdict {
        let now = self.now(i);
        self.tell(|| format!("disk of {}", i + 1));
        let messages = self.hosts[i].complete_write(now, &self.snapshots);
        self.network.extend(messages);
        self.pump(i)
    }

    fn pass_time(&mut self) -> Verdict {
        let mut millis = 1 + self.random.below(self.temper.step_millis_max);
        if self.random.below(40) == 0 {
            millis *= 10;
        }
        self.nanos += millis * 1_000_000;
        for i in 0..self.hosts.len() {
            // Now and then a node is late to notice.
            if self.is_able(i) && (self.healed || self.random.below(4) > 0) {
                let now = self.now(i);
                self.hosts[i].raft().tick(now);
                self.pump(i)?;
            }
        }
        Ok(())
    }

    fn propose(&mut self) -> Verdict {
        let Some(i) = self.any_able() else { return Ok(()) };
        let n = 1 + self.random.below(3);
        let entries: Vec<Bytes> = (0..n).map(|k| Bytes::from(format!("{}-{k}", self.next_number))).collect();
        self.next_number += 1;
        if self.hosts[i].raft().propose(entries).is_ok() {
            self.tell(|| format!("propose {n} at {}", i + 1));
        }
        self.pump(i)
    }

    fn read(&mut self) -> Verdict {
        if let Some(i) = self.suspect.filter(|i| self.is_able(*i)) {
            if self.random.below(30) == 0 {
                self.suspect = None;
            }
            return self.read_at(i);
        }
        let i = if self.random.below(3) == 0 { Some(self.any_node()) } else { self.any_able() };
        match i.filter(|i| self.is_able(*i)) {
            Some(i) => self.read_at(i),
            None => Ok(()),
        }
    }

    fn read_at(&mut self, i: usize) -> Verdict {
        let id = ReadId(self.next_number);
        self.next_number += 1;
        self.oracle.read_asked(NodeId(i as u64 + 1), id);
        self.tell(|| format!("read {} at {}", id.0, i + 1));
        if self.hosts[i].raft().read(id).is_err() {
            self.oracle.read_dropped(NodeId(i as u64 + 1), id);
        }
        self.pump(i)
    }

    fn apply(&mut self) -> Verdict {
        let Some(i) = self.one_of_nodes(|w, i| w.is_able(i) && !w.hosts[i].to_apply.is_empty()) else {
            return self.deliver();
        };
        let max = 1 + self.random.below(8) as usize;
        self.hosts[i].apply(max);
        self.oracle.check_state(&self.hosts[i])?;
        if self.random.below(4) == 0 {
            self.hosts[i].flush();
        }
        self.pump(i)
    }

    fn crash(&mut self) -> Verdict {
        let i = self.any_node();
        self.crash_somehow(i)
    }

    fn crash_somehow(&mut self, i: usize) -> Verdict {
        if !self.hosts[i].is_up() {
            return Ok(());
        }
        let whole = self.random.below(self.hosts[i].writes.len() as u64 + 1) as usize;
        self.crash_at(i, whole);
        match self.random.below(3) {
            0 => Ok(()),
            1 => self.report_lost(i),
            _ => {
                self.start(i);
                self.pump(i)
            }
        }
    }

    fn crash_at(&mut self, i: usize, whole: usize) {
        let parts = self.random.below(6) as usize;
        self.tell(|| format!("crash {}, {whole} writes and {parts} parts survive", i + 1));
        self.hosts[i].crash(whole, parts, &self.snapshots);
        self.paused.remove(&i);
        self.wanted.retain(|(at, _)| *at != i);
        self.carried.retain(|(at, _, _)| *at != i);
    }

    /// Everybody is told that the connection to a node is lost.
    fn report_lost(&mut self, lost: usize) -> Verdict {
        for i in 0..self.hosts.len() {
            if i != lost && self.is_able(i) {
                let now = self.now(i);
                self.hosts[i].raft().peer_lost(now, NodeId(lost as u64 + 1));
                self.pump(i)?;
            }
        }
        Ok(())
    }

    fn pause(&mut self) -> Verdict {
        if let Some(i) = self.any_able() {
            self.tell(|| format!("pause {}", i + 1));
            self.paused.insert(i);
        }
        Ok(())
    }

    /// A node, a pair of nodes, or one direction between them, is cut off.
    fn cut(&mut self) -> Verdict {
        let (a, b) = (self.any_able().unwrap_or(0), self.any_node());
        match self.random.below(3) {
            0 => self.isolate(a),
            both => {
                self.tell(|| format!("cut {}->{}", a + 1, b + 1));
                self.cut.insert((a, b));
                if both == 1 {
                    self.cut.insert((b, a));
                }
                Ok(())
            }
        }
    }

    fn isolate(&mut self, i: usize) -> Verdict {
        self.tell(|| format!("isolate {}", i + 1));
        for other in 0..self.hosts.len() {
            self.cut.insert((i, other));
            self.cut.insert((other, i));
        }
        if self.random.below(2) == 0 { self.report_lost(i) } else { Ok(()) }
    }

    /// One of the bad things ends, if there are any.
    fn recover(&mut self) -> Verdict {
        let down: Vec<usize> = (0..self.hosts.len()).filter(|i| !self.hosts[*i].is_up()).collect();
        let kinds = [!self.cut.is_empty(), !self.delayed.is_empty(), !self.paused.is_empty(), !down.is_empty()];
        let kinds: Vec<usize> = (0..4).filter(|k| kinds[*k]).collect();
        if kinds.is_empty() {
            return Ok(());
        }
        match kinds[self.random.below(kinds.len() as u64) as usize] {
            0 => {
                self.tell(|| "reconnect".into());
                self.cut.clear();
                Ok(())
            }
            1 => {
                let at = self.random.below(self.delayed.len() as u64) as usize;
                let m = self.delayed.swap_remove(at);
                self.network.insert(0, m);
                Ok(())
            }
            2 => {
                let at = self.random.below(self.paused.len() as u64) as usize;
                let i = self.paused.iter().copied().nth(at).ok_or("nobody is paused")?;
                self.paused.remove(&i);
                self.tell(|| format!("resume {}", i + 1));
                // A read may be the first thing it finds.
                if self.random.below(2) == 0 { self.read_at(i) } else { Ok(()) }
            }
            _ => {
                let i = down[self.random.below(down.len() as u64) as usize];
                self.start(i);
                self.pump(i)
            }
        }
    }

    fn change(&mut self) -> Verdict {
        let Some(i) = self.any_able() else { return Ok(()) };
        let mut changes = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            let id = NodeId(self.any_node() as u64 + 1);
            changes.push(match self.random.below(5) {
                0 | 1 => Change::AddVoter(id),
                2 => Change::AddLearner(id),
                _ => Change::Remove(id),
            });
        }
        if self.hosts[i].raft().propose_change(&changes).is_ok() {
            self.tell(|| format!("change at {}: {changes:?}", i + 1));
        }
        self.pump(i)
    }

    fn transfer(&mut self) -> Verdict {
        let (Some(i), to) = (self.any_able(), NodeId(self.any_node() as u64 + 1)) else { return Ok(()) };
        let now = self.now(i);
        if self.hosts[i].raft().transfer_leadership(now, to).is_ok() {
            self.tell(|| format!("transfer {}->{to}", i + 1));
        }
        self.pump(i)?;
        if self.random.below(4) == 0 {
            // It may not hear what comes of it.
            self.tell(|| format!("deafen {}", i + 1));
            self.cut.extend((0..self.hosts.len()).map(|from| (from, i)));
        }
        Ok(())
    }

    fn compact(&mut self) -> Verdict {
        let i = self.any_node();
        if self.is_able(i) {
            let back = self.random.below(4);
            let to = LogIndex(self.hosts[i].flushed.last.index.0.saturating_sub(back));
            self.tell(|| format!("compact {} to {to}", i + 1));
            self.hosts[i].compact(to);
        }
        Ok(())
    }

    fn serve_snapshot(&mut self) -> Verdict {
        if let Some(at) = self.carried.iter().position(|(i, _, _)| self.is_able(*i)) {
            let (i, to, whole) = self.carried.remove(at);
            let raft = self.hosts[i].raft();
            if whole {
                raft.snapshot_sent(to)
            } else {
                raft.snapshot_failed(to)
            }
            self.pump(i)?;
        }
        if self.wanted.is_empty() {
            return Ok(());
        }
        let (i, to) = self.wanted.remove(0);
        if !self.is_able(i) {
            self.wanted.push((i, to));
            return Ok(());
        }
        if !self.healed && self.random.below(8) == 0 {
            self.hosts[i].raft().snapshot_failed(to);
        } else {
            let meta = self.hosts[i].snapshot(&mut self.snapshots);
            self.tell(|| format!("snapshot {}->{to} at {}", i + 1, meta.last));
            self.hosts[i].raft().snapshot_produced(to, meta);
        }
        self.pump(i)
    }

    fn lose_connection(&mut self) -> Verdict {
        let (i, peer) = (self.any_node(), NodeId(self.any_node() as u64 + 1));
        if self.is_able(i) {
            let now = self.now(i);
            self.tell(|| format!("{} loses its connection to {peer}", i + 1));
            self.hosts[i].raft().peer_lost(now, peer);
            return self.pump(i);
        }
        Ok(())
    }

    /// Cuts a leader off from one follower or from all, and has that follower stand when its promise ends, or by a handover
    /// that was taken back.
    fn scheme(&mut self) -> Verdict {
        let (Some(leader), usurper) = (self.any_able(), self.any_node()) else { return Ok(()) };
        if leader == usurper {
            return Ok(());
        }
        let mut handovers = Vec::new();
        let mut millis = 350 + self.random.below(350);
        if self.random.below(3) == 0 {
            let now = self.now(leader);
            let _may_be_refused = self.hosts[leader].raft().transfer_leadership(now, NodeId(usurper as u64 + 1));
            self.pump(leader)?;
            let to = NodeId(usurper as u64 + 1);
            let is_handover = |m: &Message| m.to == to && matches!(m.body, Body::TimeoutNow { .. });
            handovers = self.network.extract_if(.., |m| is_handover(m)).collect();
            millis += 1000;
        }
        let all = self.random.below(3) == 0;
        for other in 0..self.hosts.len() {
            if all || other == usurper {
                self.cut.insert((leader, other));
                self.cut.insert((other, leader));
            }
        }
        let restarts_a_voter = self.random.below(2) == 0;
        self.tell(|| format!("scheme: {} against {}, in {millis}ms", usurper + 1, leader + 1));
        let at = self.nanos + millis * 1_000_000;
        self.schemes.push(Scheme { leader, usurper, at, handovers, restarts_a_voter });
        Ok(())
    }

    fn carry_out(&mut self, scheme: Scheme) -> Verdict {
        let Scheme { leader, usurper, handovers, restarts_a_voter, .. } = scheme;
        self.tell(|| format!("scheme: {} stands against {}", usurper + 1, leader + 1));
        if restarts_a_voter && let Some(i) = self.one_of_nodes(|w, i| i != leader && i != usurper && w.is_able(i)) {
            self.crash_at(i, usize::MAX);
            self.start(i);
            self.pump(i)?;
        }
        if self.is_able(usurper) {
            let now = self.now(usurper);
            for m in handovers {
                self.tell(|| format!("deliver {m}"));
                self.hosts[usurper].raft().step(now, m).map_err(|e| e.to_string())?;
                self.pump(usurper)?;
            }
            self.hosts[usurper].raft().peer_lost(now, NodeId(leader as u64 + 1));
            self.hosts[usurper].raft().campaign(now);
            self.pump(usurper)?;
        }
        // The leader is not to hear of it.
        self.cut.extend((0..self.hosts.len()).map(|from| (from, leader)));
        self.suspect = Some(leader);
        Ok(())
    }

    fn campaign(&mut self) -> Verdict {
        let i = self.any_node();
        if self.is_able(i) {
            let now = self.now(i);
            self.tell(|| format!("{} is told to stand", i + 1));
            self.hosts[i].raft().campaign(now);
            return self.pump(i);
        }
        Ok(())
    }

    /// Does what a node wants done, and looks at it.
    pub(super) fn pump(&mut self, i: usize) -> Verdict {
        loop {
            let now = self.now(i);
            let Some(mut ready) = self.hosts[i].raft().ready(now) else { break };
            if let Some(l) = ready.leadership {
                self.tell(|| format!("    {} is {:?} of term {}, leader {:?}", i + 1, l.role, l.term, l.leader));
                if l.role == Role::Leader && !self.healed && self.random.below(100) < self.temper.doom_percent {
                    self.doomed.push(i);
                }
            }
            let writes_term = ready.persist.as_ref().is_some_and(|p| p.hard_state.is_some());
            if writes_term && !self.healed && self.random.below(100) < self.temper.stumble_percent {
                self.stumbling.push(i);
            }
            self.hosts[i].take_work(&mut ready);
            self.network.append(&mut ready.messages);
            self.wanted.extend(ready.snapshots_wanted.iter().map(|to| (i, *to)));
            self.oracle.check(&self.hosts[i])?;
            for r in ready.reads {
                self.tell(|| format!("    {} answers read {} at {}", i + 1, r.id.0, r.index));
                self.oracle.read_answered(&self.hosts[i], r.id)?;
            }
            for id in ready.reads_dropped {
                self.oracle.read_dropped(NodeId(i as u64 + 1), id);
            }
        }
        self.oracle.check(&self.hosts[i])
    }

    /// Everything works again. The cluster must agree, and commit something new, within so much time.
    pub(super) fn heal(&mut self) -> Verdict {
        self.healed = true;
        self.network.append(&mut self.delayed);
        self.schemes.clear();
        self.temper.reorder_percent = 0;
        self.temper.step_millis_max = 5;
        self.paused.clear();
        self.cut.clear();
        self.tell(|| "all is well".into());
        for i in 0..self.hosts.len() {
            if !self.hosts[i].is_up() {
                self.start(i);
            }
        }
        let end = self.nanos + Duration::from_secs(60).as_nanos() as u64;
        let mut proposed = None;
        while self.nanos < end {
            self.settle()?;
            let Some(leader) = self.leader() else { continue };
            match proposed {
                None => {
                    if let Ok(p) = self.hosts[leader].raft().propose([Bytes::from_static(b"last")]) {
                        proposed = Some((leader, p));
                    }
                    self.pump(leader)?;
                }
                Some((l, _)) if l != leader => proposed = None,
                Some((_, p)) => {
                    if self.agrees(leader, p.last) {
                        return Ok(());
                    }
                }
            }
        }
        let mut what = String::from("no agreement a minute after everything was healed");
        for h in &self.hosts {
            let s = h.raft.as_ref().map(Raft::status).ok_or("a node is down")?;
            what += &format!(
                "\n{} {:?} t{} vote={:?} last={} commit={} {}",
                s.id, s.role, s.term, s.vote, s.last, s.commit, s.configuration
            );
            for p in s.peers {
                what += &format!("\n    {} {:?} matched={} next={}", p.id, p.state, p.matched, p.next);
            }
        }
        Err(what)
    }

    /// The leader of the latest term, if there is one.
    fn leader(&self) -> Option<usize> {
        let leads = |h: &&Host| h.raft.as_ref().is_some_and(|r| r.role() == Role::Leader);
        let latest = self.hosts.iter().filter(leads).max_by_key(|h| h.raft.as_ref().map(Raft::term))?;
        Some((latest.id.0 - 1) as usize)
    }

    /// A millisecond or so in which everything under way gets done.
    fn settle(&mut self) -> Verdict {
        for i in 0..self.hosts.len() {
            while !self.hosts[i].writes.is_empty() {
                self.complete_write_at(i)?;
            }
            self.hosts[i].apply(usize::MAX);
            self.oracle.check_state(&self.hosts[i])?;
            self.pump(i)?;
        }
        self.serve_snapshot()?;
        for _ in 0..self.network.len() {
            self.deliver()?;
        }
        self.pass_time()
    }

    /// Whether all members have applied this entry, and the last change of membership has ended.
    fn agrees(&mut self, leader: usize, index: LogIndex) -> bool {
        let c = self.hosts[leader].raft().configuration().clone();
        let done = |id: &NodeId| self.hosts[(id.0 - 1) as usize].state.last.index >= index;
        !c.is_joint() && c.members().iter().all(done)
    }
}
