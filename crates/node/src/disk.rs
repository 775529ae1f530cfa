//! The node's disk: how much room there is on it, whether it keeps up, and what the cluster makes of that.
//!
//! ```text
//!  driver: set_space ─┐                         ┌─> hand leadership to a voter whose disk is well
//!  oldest log write ──┴─> Disk ──REPORT──> leader ─> refuse growth, where nobody's disk is
//!                           └─> take no entries that grow, stand for no election
//! ```
//!
//! Every node tells the leaders of its ranges how its disk is, once a second and when that changes. A leader whose disk
//! stands still, or is nearly full, hands over to a voter that answers, has the log, and whose disk is well. Raft commits
//! with the disks of the followers meanwhile, so a slow disk costs nobody a write.
//!
//! What must hold:
//!
//! 1. A *stalled* disk is one whose oldest write is under way for longer than a limit. It counts as stalled until no write
//!    has been so old for a while, or a disk that is merely slow would be handed leadership back and forth.
//! 2. A leader refuses growth ([`CommandFlags::DENYOOM`]) while its own disk is [`Space::Low`] and nobody takes over, or
//!    while fewer voters than a quorum have room. Reads, deletes and the sweeping of expired keys go on.
//! 3. A follower at [`Space::Critical`] takes no entries that grow: to consensus, a network that loses some. It answers
//!    heartbeats, and takes what deletes, so that a cluster whose disks are all full can be emptied.
//! 4. All of it follows from what is so *now*: when room returns, or the disk moves again, nothing has to be reset.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use dstore_raft::{Body, EntryKind, Message, Role, Status, Time};
use dstore_resp::{CommandFlags, CommandId, CommandSpec};
use dstore_rpc::NodeId;
use dstore_storage::layout::tag;
use dstore_storage::{Engine, RangeId, WriteOp};

use crate::entry::Entry;
use crate::group::Event;
use crate::wire::{REPORT, Report};
use crate::{Node, NodeError, Now, Output};

/// How often a node tells how its disk is, when nothing changes.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// What was told longer ago counts for nothing: several reports were lost since.
const REPORT_COUNTS_FOR: Duration = Duration::from_secs(10);
/// A disk that stalled is well when no write has been too old for this long.
const CALM: Duration = Duration::from_secs(1);
/// How often the disk is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);
/// Between two attempts to hand a range over because of the disk: each that fails costs an election timeout of service.
const HAND_OVER_INTERVAL: Duration = Duration::from_secs(10);
/// How long a leader with little room looks for a successor before it refuses anything. Reports come within a second.
const SEARCH: Duration = Duration::from_secs(2);
/// The same for one that has next to none.
const SEARCH_CRITICAL: Duration = Duration::from_millis(500);
/// One that was silent for so long is away; until then what it told last counts. Longer than a restart takes.
const AWAY_AFTER: Duration = Duration::from_secs(10);
/// Entries that a successor may lack when a handover without haste begins.
const LACKING_MAX: u64 = 1000;

/// How much room there is on a node's disk, as its driver measures it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Enough.
    #[default]
    Ample,
    /// So little that the data should not grow.
    Low,
    /// So little that what is left must be kept for removing things.
    Critical,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Space::Ample => "ample",
            Space::Low => "low",
            Space::Critical => "critical",
        })
    }
}

/// A disk as its operators see it.
#[derive(Clone, Debug, Default)]
pub struct DiskStatus {
    /// How much room there is.
    pub space: Space,
    /// The same in bytes, if it was measured.
    pub free_bytes: Option<u64>,
    /// Whether writes stand still.
    pub stalled: bool,
    /// Why this node, as the leader of user data, refuses growth; if it does.
    pub refuses: Option<String>,
}

/// What a node knows of its own disk and those of the others.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    space: Space,
    free_bytes: Option<u64>,
    /// Since when there is little room.
    short_since: Time,
    next_look: Time,
    /// The write that was late when it was last looked.
    late: Option<Time>,
    stall: Option<Stall>,
    heard: BTreeMap<u64, Heard>,
    next_report: Time,
    /// When leadership was last given away, or that was tried.
    given_away: BTreeMap<RangeId, Time>,
    /// The ranges that are served here.
    served: BTreeMap<RangeId, Served>,
}

/// The disk stands still, or did a moment ago.
#[derive(Clone, Copy, Debug)]
struct Stall {
    since: Time,
    last_seen: Time,
}

/// What another node has told of its disk.
#[derive(Clone, Copy, Debug)]
struct Heard {
    space: Space,
    stalled: bool,
    at: Time,
}

#[derive(Debug)]
struct Served {
    since: Time,
    refusal: Option<Refusal>,
}

/// What a leader refuses, and what it says then.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    /// Everything that logs anything but removals, not only what may grow.
    all_but_removals: bool,
    /// Whose disk is nearly full.
    why: String,
}

impl Disk {
    fn is_stalled(&self) -> bool {
        self.stall.is_some()
    }

    /// Whether a node may have room for a copy of a range's data.
    pub(crate) fn has_room(&self, now: Time, node: u64) -> bool {
        self.heard(now, node).is_none_or(|heard| heard.space == Space::Ample)
    }

    /// What a node has told that still counts.
    fn heard(&self, now: Time, node: u64) -> Option<Heard> {
        self.heard.get(&node).copied().filter(|heard| now.since(heard.at) < REPORT_COUNTS_FOR)
    }
}

impl<E: Engine> Node<E> {
    /// How much room there is on the filesystem of log and data.
    pub fn set_space(&mut self, now: Now, space: Space, free_bytes: u64) {
        self.disk.free_bytes = Some(free_bytes);
        let before = std::mem::replace(&mut self.disk.space, space);
        if before == space {
            return;
        }
        if before == Space::Ample {
            self.disk.short_since = now.mono;
        }
        let free = free_bytes >> 20;
        match space {
            Space::Ample => tracing::info!("there is room on the disk again: {free} MiB are free"),
            Space::Low => tracing::warn!("the disk is nearly full, {free} MiB are free: the data should not grow"),
            Space::Critical => {
                tracing::error!("the disk is full but for {free} MiB: this node takes nothing but removals");
            }
        }
        self.tell_disk(now);
    }

    /// How the disk is.
    pub(crate) fn disk_status(&self) -> DiskStatus {
        let served = self.disk.served.get(&crate::USER_RANGE);
        DiskStatus {
            space: self.disk.space,
            free_bytes: self.disk.free_bytes,
            stalled: self.disk.is_stalled(),
            refuses: served.and_then(|served| served.refusal.as_ref()).map(|refusal| refusal.why.clone()),
        }
    }

    /// A peer tells how its disk is.
    pub(crate) fn note_report(&mut self, now: Now, from: NodeId, report: &Report) {
        if self.roster.get(from.0).is_some() {
            let Report { space, stalled } = *report;
            let space = match space {
                0 => Space::Ample,
                1 => Space::Low,
                _ => Space::Critical,
            };
            self.disk.heard.insert(from.0, Heard { space, stalled, at: now.mono });
        }
    }

    /// Looks at the disk, and does what follows.
    pub(crate) fn check_disk(&mut self, now: Now) -> Result<(), NodeError> {
        if now.mono < self.disk.next_look {
            return Ok(());
        }
        self.disk.next_look = now.mono + LOOK_INTERVAL;
        self.watch_writes(now);
        if now.mono >= self.disk.next_report {
            self.tell_disk(now);
        }
        for range in self.led() {
            self.maybe_give_away(now, range);
        }
        self.judge_growth(now);
        Ok(())
    }

    /// Leadership has moved: what this node refuses may change, and the new leader wants to be told.
    pub(crate) fn disk_event(&mut self, now: Now, event: &Event) {
        match event {
            Event::Serving | Event::Lost => self.judge_growth(now),
            Event::Leadership => self.tell_disk(now),
            _ => {}
        }
    }

    /// Notices that the disk stands still, and that it moves again.
    fn watch_writes(&mut self, now: Now) {
        let oldest = self.groups.values().filter_map(|group| group.writes.oldest()).min();
        let late = oldest.filter(|since| now.mono.since(*since) > self.limits.disk_stall);
        // Where it was this loop that stood still, the word that the write is durable is about to be heard.
        let before = std::mem::replace(&mut self.disk.late, late);
        let late = late.filter(|_| before == late);
        match (&mut self.disk.stall, late) {
            (Some(stall), Some(_)) => stall.last_seen = now.mono,
            (None, Some(since)) => {
                mark!(DiskStalled);
                let ms = now.mono.since(since).as_millis();
                tracing::warn!("the disk stands still: a write to the log is under way for {ms} ms");
                self.disk.stall = Some(Stall { since, last_seen: now.mono });
                self.stall_changed(now);
            }
            (Some(stall), None) if now.mono.since(stall.last_seen) > CALM => {
                let ms = stall.last_seen.since(stall.since).as_millis();
                tracing::info!("the disk moves again: it stood still, or was slow, for {ms} ms");
                self.disk.stall = None;
                self.stall_changed(now);
            }
            _ => {}
        }
    }

    fn stall_changed(&mut self, now: Now) {
        let stalled = self.disk.is_stalled();
        self.groups.values_mut().for_each(|group| group.raft.abstain(stalled));
        self.tell_disk(now);
    }

    /// Tells the leaders how the disk is.
    fn tell_disk(&mut self, now: Now) {
        self.disk.next_report = now.mono + REPORT_INTERVAL;
        let report = Report { space: self.disk.space as u32, stalled: self.disk.is_stalled() };
        let leaders = self.groups.values().filter_map(|group| group.leader()).map(|(leader, _)| leader.0);
        let mut leaders: Vec<u64> = leaders.filter(|leader| *leader != self.identity.node.0).collect();
        leaders.sort_unstable();
        leaders.dedup();
        for leader in leaders {
            let (method, body) = (REPORT.number, REPORT.encode(&report));
            self.outputs.push_back(Output::Send { to: NodeId(leader), method, body });
        }
    }

    /// Hands a range to somebody whose disk is well, if this node's is not.
    fn maybe_give_away(&mut self, now: Now, range: RangeId) {
        let stalled = self.disk.is_stalled();
        let tried = self.disk.given_away.get(&range).is_some_and(|at| now.mono.since(*at) < HAND_OVER_INTERVAL);
        if tried || (!stalled && self.disk.space == Space::Ample) {
            return;
        }
        let Some(to) = self.successor(now, range) else { return };
        match self.hand_over_range(now, range, Some(to)) {
            Ok(to) => {
                mark!(GivenAwayForDisk);
                let why = if stalled { "stands still" } else { "is nearly full" };
                tracing::warn!(
                    "range {range}: handing leadership to node {to:016x}, because the disk of this one {why}"
                );
                self.disk.given_away.insert(range, now.mono);
            }
            Err(error) => tracing::debug!("range {range}: keeping leadership: {error}"),
        }
    }

    /// The voter that is best prepared to lead a range instead of this node.
    fn successor(&self, now: Now, range: RangeId) -> Option<u64> {
        let group = self.groups.get(&range)?;
        group.serving()?;
        let status = group.status();
        let stalled = self.disk.is_stalled();
        let is_ready = |peer: &&dstore_raft::PeerStatus| {
            let answers = now.mono.since(peer.heard_at) <= self.limits.lease;
            // Where something waits for this disk, who has acknowledged more than this disk has certainly moves.
            let moves = !stalled || status.durable == status.last.index || peer.matched > status.durable;
            let has_log = peer.matched >= status.commit || status.last.index.0 - peer.matched.0 <= LACKING_MAX;
            peer.is_voter && answers && moves && has_log
        };
        let is_well = |peer: &&dstore_raft::PeerStatus| match self.disk.heard(now.mono, peer.id.0) {
            Some(heard) => !heard.stalled && heard.space == Space::Ample,
            // It may be of a version that does not tell. To get rid of a stall that is good enough.
            None => stalled,
        };
        let ready = status.peers.iter().filter(is_ready).filter(is_well);
        ready.max_by_key(|peer| (peer.matched, peer.heard_at)).map(|peer| peer.id.0)
    }

    /// Decides what is refused in the ranges that are served here.
    fn judge_growth(&mut self, now: Now) {
        let mut before = std::mem::take(&mut self.disk.served);
        let served = self.groups.iter().filter(|(_, group)| group.serving().is_some());
        let mut after = BTreeMap::new();
        for (range, group) in served {
            let was = before.remove(range);
            let since = was.as_ref().map_or(now.mono, |was| was.since);
            let refusal = self.refusal(now, &group.status(), since);
            match (was.and_then(|was| was.refusal), &refusal) {
                (None, Some(now)) => tracing::warn!("range {range}: growth is refused: {}", now.why),
                (Some(_), None) => tracing::info!("range {range}: growth is welcome again"),
                _ => {}
            }
            after.insert(*range, Served { since, refusal });
        }
        self.disk.served = after;
    }

    /// What this leader refuses because of full disks.
    fn refusal(&self, now: Now, status: &Status, led_since: Time) -> Option<Refusal> {
        let own = self.disk.space;
        let voters = status.configuration.voters();
        let quorum = voters.len() / 2 + 1;
        // What is known of those who answer. Who does not answer is no matter of space.
        let mut known: Vec<(u64, Option<Space>)> = vec![(self.identity.node.0, Some(own))];
        for peer in status.peers.iter().filter(|peer| peer.is_voter) {
            if now.mono.since(peer.heard_at) < AWAY_AFTER {
                known.push((peer.id.0, self.disk.heard(now.mono, peer.id.0).map(|heard| heard.space)));
            }
        }
        let count = |most: Space| known.iter().filter(|(_, space)| space.unwrap_or_default() <= most).count();
        let short: Vec<u64> =
            known.iter().filter(|(_, space)| *space > Some(Space::Ample)).map(|(node, _)| *node).collect();
        let search = if own == Space::Critical { SEARCH_CRITICAL } else { SEARCH };
        let searching = voters.len() > 1 && now.mono.since(led_since.max(self.disk.short_since)) < search;
        let too_few = count(Space::Ample) < quorum && !short.is_empty();
        if !too_few && (own == Space::Ample || searching) {
            return None;
        }
        mark!(GrowthRefused);
        let all_but_removals = own == Space::Critical || count(Space::Low) < quorum;
        if all_but_removals {
            mark!(RemovalsAloneTaken);
        }
        Some(Refusal { all_but_removals, why: self.describe_short(&short) })
    }

    fn describe_short(&self, nodes: &[u64]) -> String {
        let name = |node: &u64| {
            let own = (*node == self.identity.node.0).then_some(&self.facts.client_address);
            match own.or_else(|| self.roster.get(*node).map(|record| &record.client_address)) {
                Some(address) if !address.is_empty() => format!("{node:016x} ({address})"),
                _ => format!("{node:016x}"),
            }
        };
        let names: Vec<String> = nodes.iter().map(name).collect();
        match &names[..] {
            [one] => format!("the disk of node {one} is nearly full"),
            several => format!("the disks of nodes {} are nearly full", several.join(", ")),
        }
    }

    /// What to answer to a command instead of executing it here, if the disks have no room for what it may do.
    pub(crate) fn refuses(&self, range: RangeId, spec: &CommandSpec) -> Option<String> {
        let refusal = self.disk.served.get(&range)?.refusal.as_ref()?;
        let grows = spec.flags.has(CommandFlags::DENYOOM);
        let writes = spec.flags.has(CommandFlags::WRITE) && !removes(spec.id);
        let refused = grows || (writes && refusal.all_but_removals);
        refused.then(|| format!("OOM command not allowed when {}; make room there, or delete keys", refusal.why))
    }

    /// Whether this node takes in what a leader sends. To consensus, what is not taken was lost on the way; heartbeats pace
    /// the leader's next attempt.
    pub(crate) fn takes_in(&self, message: &Message) -> bool {
        let Body::Append { entries, .. } = &message.body else { return true };
        if entries.is_empty() {
            return true;
        }
        let backlog: usize = self.groups.values().map(|group| group.writes.bytes()).sum();
        let grows = |entry: &dstore_raft::Entry| match entry.kind {
            EntryKind::Normal => Entry::decode(&entry.data).is_ok_and(|entry| entry.ops.iter().any(is_growth)),
            EntryKind::Blank | EntryKind::Config => false,
        };
        let full = self.disk.space == Space::Critical && entries.iter().any(grows);
        if full {
            mark!(AppendNotTakenIn);
        }
        !full && backlog <= self.limits.inflight_bytes_max
    }

    /// Whether there is room for a copy of a range's data beside what is there.
    pub(crate) fn takes_snapshots(&self) -> bool {
        self.disk.space == Space::Ample
    }

    /// Bytes that ranges led here have handed to a disk that has not got them yet, whether they are decided or not.
    pub(crate) fn unwritten_bytes(&self) -> usize {
        let led = self.groups.values().filter(|group| group.raft.role() == Role::Leader);
        led.map(|group| group.writes.bytes()).sum()
    }
}

/// Commands that do nothing but remove.
fn removes(id: CommandId) -> bool {
    use CommandId::{Del, FlushAll, FlushDb, GetDel, Unlink};
    matches!(id, Del | Unlink | GetDel | FlushAll | FlushDb)
}

/// Whether an effect stores something for a client. What ranges note for themselves, such as counts of keys, is small and
/// goes along with removals.
fn is_growth(op: &WriteOp) -> bool {
    matches!(op, WriteOp::Put { key, .. } if key.first() == Some(&tag::USER))
}
