//! Faults: which, how often, how long. Every seed draws its own mixture, some mild, some brutal, some of one kind only
//! ("swarm testing", Groce et al., ISSTA 2012): a system that survives everything at once may still fall to one thing alone.

use dstore_node::Space;

use crate::machine::{CrashAt, Death};
use crate::network::{Machine, Quality};
use crate::random::Random;
use crate::time::{MICRO, MILLI, Moment, SECOND};

/// A kind of fault, and its place in [`Temper::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Links that let nothing through.
    Partition,
    /// A process that is gone, and everything it had not synced; later it starts again.
    Crash,
    /// All processes that are gone at once, and everything they had not synced; later they start again, one after the other.
    Blackout,
    /// A leader that was just elected, and is at once alone: those who voted for it lose power.
    Orphan,
    /// A process that is stopped, and goes on.
    Pause,
    /// Connections that break.
    Cut,
    /// Connections of which one end breaks while the bytes it sent are still on their way, and arrive when nobody expects
    /// them any more.
    Stray,
    /// Links that are slow or lose packets.
    Slow,
    /// Links that let nothing through, and let it through, over and over.
    Flap,
    /// Links with hardly any bandwidth.
    Clog,
    /// A disk that takes long.
    Stall,
    /// A date that jumps.
    Jump,
    /// An engine that refuses some writes for now.
    Busy,
    /// An engine that flushes, so that the log is cut.
    Flush,
    /// A disk that fails: a write or a sync, of the log or of the data, and then all of them.
    Broken,
    /// A disk that does not give back what was written: an entry of the log or a block of the data comes back damaged. The
    /// node has to end when it meets that, and is replaced.
    Rot,
    /// A disk that takes long for everything.
    Sluggish,
    /// A disk that is full, or nearly so.
    Full,
    /// A node that comes.
    Join,
    /// A node that goes.
    Remove,
    /// A disk that is lost with everything on it, and the node that takes its place.
    Wipe,
    /// A node that is somewhere else now.
    Move,
    /// A leader that is told to let another lead.
    HandOver,
}

/// All kinds, in the order of their weights.
pub const KINDS: [Kind; 23] = [
    Kind::Partition,
    Kind::Crash,
    Kind::Blackout,
    Kind::Orphan,
    Kind::Pause,
    Kind::Cut,
    Kind::Stray,
    Kind::Slow,
    Kind::Flap,
    Kind::Clog,
    Kind::Stall,
    Kind::Jump,
    Kind::Busy,
    Kind::Flush,
    Kind::Broken,
    Kind::Rot,
    Kind::Sluggish,
    Kind::Full,
    Kind::Join,
    Kind::Remove,
    Kind::Wipe,
    Kind::Move,
    Kind::HandOver,
];

impl Kind {
    /// As it is written in arguments and tables.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Whether it changes who belongs to the cluster, and where.
    pub fn is_about_members(self) -> bool {
        matches!(self, Kind::Join | Kind::Remove | Kind::Wipe | Kind::Rot | Kind::Move | Kind::HandOver)
    }
}

/// What happens now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing gets from the first to the second of each pair.
    Partition(Vec<(Machine, Machine)>),
    /// A process ends.
    Crash {
        /// Whose.
        machine: Machine,
        /// How.
        death: Death,
        /// Not now, but at some point of what it does.
        at: Option<CrashAt>,
    },
    /// The leader loses power, and when another leads, all but that one.
    Orphan,
    /// A process stops for a while.
    Pause {
        /// Whose.
        machine: Machine,
        /// Not between turns but within one: what it has decided leaves when it goes on.
        within_turn: bool,
        /// Its peers cannot reach it either, until a while after it goes on: so nobody tells it what it has missed.
        deaf: bool,
    },
    /// A share of all connections breaks, in parts of a thousand.
    Cut(u64),
    /// Nothing gets from one machine to the other for now, and in the midst of that the first takes its connections to
    /// the other for broken.
    Stray(Machine, Machine),
    /// Links get another quality.
    Slow(Vec<(Machine, Machine)>, Quality),
    /// Nothing gets through, in every other of these spans of time.
    Flap(Vec<(Machine, Machine)>, Moment),
    /// A disk syncs nothing for a while.
    Stall(Machine),
    /// A machine's date is wrong by so many microseconds from now on.
    Jump(Machine, i64),
    /// An engine refuses the next writes.
    Busy(Machine, u64),
    /// An engine flushes.
    Flush(Machine),
    /// A disk fails.
    Broken {
        /// Whose.
        machine: Machine,
        /// The part of it that holds the log.
        log: bool,
        /// The part of it that holds the data.
        data: bool,
    },
    /// A disk does not give back something: of the log, or of the data.
    Rot {
        /// Whose.
        machine: Machine,
        /// An entry of the log, and not a block of the data.
        log: bool,
    },
    /// A disk takes so many times as long as it should.
    Sluggish(Machine, u64),
    /// A disk has so much room.
    Full(Machine, Space),
    /// A new machine is switched on and asks to join.
    Join,
    /// An operator asks to remove a node.
    Remove(Machine),
    /// A machine's disk is lost.
    Wipe(Machine),
    /// A node ends, and starts at another address.
    Move(Machine),
    /// An operator asks whoever leads to let another lead: that one, or any.
    HandOver(Option<Machine>),
}

/// How a seed treats its cluster.
#[derive(Clone, Debug)]
pub struct Temper {
    /// How likely each kind is, in the order of [`KINDS`].
    pub weights: [u64; KINDS.len()],
    /// The mean time between faults.
    pub interval_mean: Moment,
    /// The mean time a fault lasts.
    pub duration_mean: Moment,
    /// How long faults happen.
    pub faults_until: Moment,
    /// How links are when nothing is wrong with them.
    pub quality: Quality,
    /// The mean time of a sync.
    pub sync_mean: Moment,
    /// While a snapshot is to be let in, all work of that kind takes so much longer on average.
    pub install_mean: Moment,
    /// The same while something is to be read that is not in memory.
    pub read_mean: Moment,
    /// Rates of clocks differ by at most this, in parts of a million.
    pub drift_ppm: i64,
    /// Dates differ from the truth by at most this.
    pub wall_error_us: i64,
    /// Faults seek out the leader so many times in a thousand.
    pub aim_permille: u64,
    /// How often engines flush, if they do so by themselves.
    pub flush_every: Option<Moment>,
}

impl Temper {
    /// A temper drawn from a seed. `drift_ppm_max` is how much the rates of two clocks may differ.
    /// Only a cluster that `lives` has other members later.
    pub fn draw(random: &mut Random, drift_ppm_max: u32, lives: bool) -> Temper {
        let calm = random.one_in(12); // nothing but delays, and perhaps members that come and go
        let mut weights = [0; KINDS.len()];
        for (weight, kind) in weights.iter_mut().zip(KINDS) {
            *weight = match kind.is_about_members() {
                // It needs a cluster at rest, so it is mostly turned down.
                true if lives && kind == Kind::Rot => *random.pick(&[0, 0, 10, 30]),
                true if lives => *random.pick(&[0, 1, 3, 10]),
                true => 0,
                false if calm => 0,
                false => *random.pick(&[0, 0, 1, 3, 10]),
            };
        }
        if lives && !calm && random.one_in(4) {
            // Mostly members.
            for (weight, kind) in weights.iter_mut().zip(KINDS) {
                *weight *= if kind.is_about_members() { 5 } else { 1 };
            }
        }
        Temper {
            weights,
            interval_mean: *random.pick(&[300 * MILLI, SECOND, SECOND, 3 * SECOND]),
            duration_mean: *random.pick(&[200 * MILLI, SECOND, SECOND, 4 * SECOND]),
            faults_until: random.between(8, 20) * SECOND,
            quality: Quality {
                delay_min: *random.pick(&[20 * MICRO, 200 * MICRO, 5 * MILLI]),
                jitter_mean: *random.pick(&[20 * MICRO, 200 * MICRO, 5 * MILLI, 30 * MILLI]),
                loss_permille: *random.pick(&[0, 0, 1, 10]),
                bytes_per_second: *random.pick(&[0, 0, 0, 2_000_000]),
            },
            sync_mean: *random.pick(&[100 * MICRO, MILLI, 10 * MILLI, 60 * MILLI]),
            // Half up, half down: two clocks differ by the whole at most.
            drift_ppm: i64::from(drift_ppm_max) * 49 / 100,
            wall_error_us: *random.pick(&[0, 1_000, 100_000]),
            install_mean: *random.pick(&[0, 0, 3 * SECOND]),
            read_mean: *random.pick(&[0, 0, 20 * MILLI, 500 * MILLI]),
            aim_permille: *random.pick(&[0, 300, 700]),
            flush_every: *random.pick(&[None, Some(50 * MILLI), Some(200 * MILLI), Some(SECOND)]),
        }
    }

    /// The next fault among `present` machines; `leader` is where one is thought to be.
    pub fn fault(&self, random: &mut Random, present: &[Machine], leader: Option<Machine>) -> Option<(Kind, Fault)> {
        let total: u64 = self.weights.iter().sum();
        let mut at = random.below(total);
        let mut kinds = KINDS.iter().zip(self.weights);
        let kind = kinds.find_map(|(kind, weight)| {
            let chosen = at < weight;
            at = at.saturating_sub(weight);
            chosen.then_some(*kind)
        })?;
        let machine = match leader {
            Some(leader) if random.permille(self.aim_permille) => leader,
            _ => *random.pick(present),
        };
        Some((kind, self.fault_of(kind, random, present, machine)))
    }

    fn fault_of(&self, kind: Kind, random: &mut Random, present: &[Machine], machine: Machine) -> Fault {
        let nodes = present.len();
        match kind {
            Kind::Partition => Fault::Partition(partition(random, present, machine)),
            Kind::Crash => {
                let at = [
                    None,
                    None,
                    Some(CrashAt::Write),
                    Some(CrashAt::Write),
                    Some(CrashAt::Term),
                    Some(CrashAt::Term),
                    Some(CrashAt::Chunk),
                    Some(CrashAt::Install),
                ];
                let death = *random.pick(&[Death::Kill, Death::PowerCut]);
                Fault::Crash { machine, death, at: *random.pick(&at) }
            }
            Kind::Blackout => {
                let at = [None, Some(CrashAt::Write), Some(CrashAt::Term), Some(CrashAt::Term)];
                Fault::Crash { machine, death: Death::Blackout, at: *random.pick(&at) }
            }
            Kind::Orphan => Fault::Orphan,
            Kind::Pause => Fault::Pause { machine, within_turn: random.one_in(2), deaf: nodes > 1 && random.one_in(2) },
            Kind::Cut => Fault::Cut(*random.pick(&[100, 500, 1000])),
            Kind::Stray if nodes > 1 => {
                let others: Vec<Machine> = present.iter().copied().filter(|other| *other != machine).collect();
                Fault::Stray(*random.pick(&others), machine)
            }
            Kind::Stray => Fault::Cut(1000),
            Kind::Slow => {
                let quality = Quality {
                    delay_min: *random.pick(&[MILLI, 50 * MILLI, 300 * MILLI]),
                    jitter_mean: *random.pick(&[MILLI, 50 * MILLI, 200 * MILLI]),
                    loss_permille: *random.pick(&[0, 20, 200]),
                    bytes_per_second: self.quality.bytes_per_second,
                };
                Fault::Slow(partition(random, present, machine), quality)
            }
            Kind::Flap => {
                let period = *random.pick(&[20 * MILLI, 150 * MILLI, 700 * MILLI]);
                Fault::Flap(partition(random, present, machine), period)
            }
            Kind::Clog => {
                let quality = Quality { bytes_per_second: *random.pick(&[30_000, 200_000, 1_000_000]), ..self.quality };
                Fault::Slow(partition(random, present, machine), quality)
            }
            Kind::Rot => Fault::Rot { machine, log: random.one_in(2) },
            Kind::Stall => Fault::Stall(machine),
            Kind::Jump => {
                let bound = self.wall_error_us as u64;
                Fault::Jump(machine, random.below(2 * bound + 1) as i64 - self.wall_error_us)
            }
            Kind::Busy => Fault::Busy(machine, random.between(1, 20)),
            Kind::Flush => Fault::Flush(machine),
            Kind::Broken => {
                let (log, data) = *random.pick(&[(true, false), (false, true), (true, true)]);
                Fault::Broken { machine, log, data }
            }
            Kind::Sluggish => Fault::Sluggish(machine, *random.pick(&[10, 50, 200])),
            Kind::Full => Fault::Full(machine, *random.pick(&[Space::Low, Space::Critical])),
            Kind::Join => Fault::Join,
            Kind::Remove => Fault::Remove(machine),
            Kind::Wipe => Fault::Wipe(machine),
            Kind::Move => Fault::Move(machine),
            Kind::HandOver => Fault::HandOver(random.one_in(2).then(|| *random.pick(present))),
        }
    }

    /// When the fault after one at `now` comes.
    pub fn next(&self, random: &mut Random, now: Moment) -> Moment {
        now + MILLI + random.exponential(self.interval_mean)
    }

    /// How long a fault lasts: now and then longer than any timeout.
    pub fn duration(&self, random: &mut Random) -> Moment {
        let long = if random.one_in(8) { 4 } else { 1 };
        MILLI + long * random.exponential(self.duration_mean)
    }
}

/// A set of directions between machines: around one machine, between two halves, perhaps with one that sees both, or at
/// random; both ways or one.
fn partition(random: &mut Random, present: &[Machine], machine: Machine) -> Vec<(Machine, Machine)> {
    let around = random.below(3) == 0;
    let sides: Vec<(Machine, bool)> =
        present.iter().map(|other| (*other, if around { *other == machine } else { random.one_in(2) })).collect();
    let (out, back, scattered) = match random.below(5) {
        0 => (true, false, false),
        1 => (false, true, false),
        2 => (true, true, true),
        _ => (true, true, false),
    };
    let bridge = random.one_in(5).then(|| *random.pick(present));
    let mut pairs = Vec::new();
    for (from, from_side) in &sides {
        for (to, to_side) in sides.iter().filter(|(to, _)| to != from) {
            let crosses = (out && *from_side && !to_side) || (back && !from_side && *to_side);
            if bridge.is_some_and(|bridge| bridge == *from || bridge == *to) {
                continue;
            }
            if if scattered { random.one_in(3) } else { crosses } {
                pairs.push((*from, *to));
            }
        }
    }
    pairs
}
