//! One seed, from an empty cluster to a verdict.
//!
//! ```text
//! faults and work ──> faults end ──> every client succeeds ──> members settle ──> every node is read ──> all is swept ──> alike
//!    (safety)                                     (liveness, bounded)                                        (convergence)
//! ```
//!
//! Then the history is judged by the [checker]. A panic of the core is a failure like any other.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use dstore_node::NodeLimits;

use crate::checker;
use crate::machine::ClusterSettings;
use crate::narrow::Narrow;
use crate::nemesis::{Kind, Temper};
use crate::random::Random;
use crate::time::{MILLI, Moment, SECOND};
use crate::workload::Habits;
use crate::world::World;

/// How long after the faults every client must have succeeded: some timeouts of elections, calls and reconnecting, one
/// after the other, and the longest patience of a client.
pub const RECOVERY_MAX: Moment = 60 * SECOND;

/// How long the last reads, and then the replicas' becoming level, may take.
pub const CONVERGENCE_MAX: Moment = 30 * SECOND;

/// How long it may take, besides the longest life of a token and what clocks differ by, until nothing is left of what has expired
/// or was replaced.
pub const SWEEP_MAX: Moment = 20 * SECOND;

/// How long after a request's time is up nothing of it is under way any more.
const SETTLING: Moment = SECOND;

/// Bytes of an entry that hold any block of the clients', and yet a sweep of no more than seven records.
const ENTRY_BYTES_SMALL: usize = 2 << 20;

/// The rates of clocks that the core is told to expect.
const DRIFT_PPM_MAX: u32 = 1000;

/// How wrong clocks are where nothing depends on them.
const CLOCKS_LIE_DRIFT_PPM: i64 = 200_000;
const CLOCKS_LIE_WALL_US: i64 = 60_000_000;

/// Machines that may ever join a cluster.
const NEWCOMERS_MAX: usize = 8;

/// Violations of one history that a report shows.
const VIOLATIONS_SHOWN_MAX: usize = 5;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed that decides everything.
    pub seed: u64,
    /// Print what happens.
    pub trace: bool,
    /// Any instant, the same for all runs of a process.
    pub epoch: Instant,
    /// What of the seed happens.
    pub narrow: Narrow,
    /// A rule that every node breaks.
    #[cfg(feature = "planted")]
    pub planted: Option<dstore_node::Planted>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What went wrong; nothing if the seed passed.
    pub failures: Vec<String>,
    /// Of the trace.
    pub hash: u64,
    /// Lines of the trace.
    pub lines: u64,
    /// Simulated time.
    pub simulated: Moment,
    /// Transactions that committed, that were refused, and of unknown outcome.
    pub transactions: (usize, usize, usize),
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Snapshots that replaced the data of a range.
    pub snapshots: u64,
    /// Nodes that have noticed that their disk is rotten.
    pub rot_noticed: u64,
    /// What all transactions did.
    pub operations: usize,
    /// How many faults were drawn.
    pub struck: u64,
    /// Marked places in the code that were reached.
    #[cfg(feature = "marks")]
    pub marks: std::collections::BTreeSet<&'static str>,
}

thread_local! {
    /// Where the last panic of this thread happened, and what it said.
    static PANIC: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

/// To be made the panic hook: keeps what is to be reported with the seed, and prints nothing.
pub fn note_panic(info: &std::panic::PanicHookInfo<'_>) {
    PANIC.with(|panic| *panic.borrow_mut() = Some(info.to_string()));
}

/// Runs a seed.
pub fn run(options: Options) -> Outcome {
    #[cfg(feature = "marks")]
    drop(dstore_node::marks::take());
    let ran = catch_unwind(AssertUnwindSafe(|| run_to_verdict(options)));
    #[allow(unused_mut, reason = "only the feature `marks` changes it")]
    let mut outcome = ran.unwrap_or_else(|_| {
        let text = PANIC.with(|panic| panic.borrow_mut().take());
        let text = text.unwrap_or_else(|| "a panic whose words another hook has printed".to_owned());
        Outcome { failures: vec![text], ..Outcome::default() }
    });
    #[cfg(feature = "marks")]
    (outcome.marks = dstore_node::marks::take());
    outcome
}

fn run_to_verdict(options: Options) -> Outcome {
    let mut random = Random::new(options.seed);
    let lives = random.one_in(2);
    let founders = if lives { *random.pick(&[1, 1, 3]) } else { *random.pick(&[3, 3, 3, 3, 3, 3, 3, 3, 1, 5]) };
    let lease_reads = !random.one_in(4);
    let mut temper = Temper::draw(&mut random, DRIFT_PPM_MAX, lives);
    temper.faults_until = temper.faults_until.min(options.narrow.faults_max);
    // Without leases no clock is trusted, so all may be as wrong as they like.
    let clocks_lie = !lease_reads && random.one_in(2);
    if clocks_lie {
        (temper.drift_ppm, temper.wall_error_us) = (CLOCKS_LIE_DRIFT_PPM, CLOCKS_LIE_WALL_US);
    }
    let mut habits = Habits::draw(&mut random);
    habits.transactions_max = options.narrow.transactions_max;
    let limits = NodeLimits {
        request_timeout: Duration::from_millis(*random.pick(&[500, 1000, 3000, 5000])),
        inflight_bytes_max: *random.pick(&[64 << 20, 64 << 20, 64 << 20, 1 << 10]),
        log_cache_bytes_max: *random.pick(&[8 << 20, 1 << 10, 0]),
        gathered_records_max: *random.pick(&[0, 6, 50, 4096]),
        lease_reads,
        follower_reads: random.one_in(4),
        check_interval: Duration::from_secs(*random.pick(&[86_400, 86_400, 2])),
        // Small entries make small sweeps, so that a long value goes in several.
        entry_bytes_max: *random.pick(&[NodeLimits::default().entry_bytes_max, ENTRY_BYTES_SMALL]),
        ..NodeLimits::default()
    };
    let settings = ClusterSettings {
        founders,
        machines: founders + if lives { NEWCOMERS_MAX } else { 0 },
        limits,
        chunk_bytes: *random.pick(&[1 << 7, 1 << 10, 1 << 14]),
        versions: if random.one_in(4) { 2 } else { 1 },
        // A whole chunk has to fit, also one of a single large record.
        stream_window_bytes: *random.pick(&[1 << 17, 1 << 22]),
        cold_one_in: *random.pick(&[0, 0, 2, 10, 100]),
        log_remembered: *random.pick(&[u64::MAX, 30, 3, 0]),
        #[cfg(feature = "planted")]
        planted: options.planted,
    };
    let faults_until = temper.faults_until;
    let request_timeout = settings.limits.request_timeout.as_nanos() as Moment;
    let clock_error_ms = temper.wall_error_us.unsigned_abs().div_ceil(1000);
    let mut world = World::new(settings, temper, &habits, &mut random, (options.epoch, options.narrow));
    if !clocks_lie {
        world.recorder.note_clock_error(clock_error_ms);
    }
    world.trace = crate::trace::Trace::new(options.trace);
    world.run(faults_until, |_| false);
    world.recover();
    let patience = request_timeout + SETTLING;
    // A deadline that one clock set may be looked at by another.
    let sweep_max = SWEEP_MAX + (habits.life_ms_max + 2 * clock_error_ms) * MILLI;
    // Each goes on only if the one before came to its end.
    let _ = reach(&mut world, RECOVERY_MAX, World::clients_are_done, "clients do not succeed")
        && reach(&mut world, RECOVERY_MAX, World::members_are_settled, "members do not become what they should be")
        && {
            // What clients walked away from takes effect now, or never.
            world.run(world.now + patience, |_| false);
            world.read_everything(&habits);
            reach(&mut world, CONVERGENCE_MAX, World::clients_are_done, "not every node can be read")
        }
        && reach(&mut world, sweep_max, World::is_swept, "what has expired or was replaced is not removed")
        && reach(&mut world, CONVERGENCE_MAX, World::replicas_are_level, "replicas do not become level")
        && {
            world.compare_replicas();
            true
        };
    judge(world)
}

/// Lets the world go on until `done`. False, and a failure, if that takes longer than `bound` or something went wrong.
fn reach(world: &mut World, bound: Moment, done: fn(&World) -> bool, otherwise: &str) -> bool {
    world.run(world.now + bound, done);
    if world.has_failed() {
        return false;
    }
    if !done(world) {
        let situation = world.situation();
        world.failures.push(format!("{otherwise} within {} s without faults: {situation}", bound / SECOND));
        return false;
    }
    true
}

fn judge(world: World) -> Outcome {
    let mut failures = world.failures.clone();
    failures.extend(world.recorder.problems().iter().cloned());
    let violations = checker::check(world.recorder.history());
    failures.extend(violations.iter().take(VIOLATIONS_SHOWN_MAX).map(ToString::to_string));
    if violations.len() > VIOLATIONS_SHOWN_MAX {
        failures.push(format!("and {} more", violations.len() - VIOLATIONS_SHOWN_MAX));
    }
    Outcome {
        failures,
        hash: world.trace.hash(),
        lines: world.trace.lines(),
        simulated: world.now,
        transactions: world.recorder.counts(),
        snapshots: world.snapshots,
        rot_noticed: world.rot_noticed,
        operations: world.recorder.operations(),
        struck: world.struck,
        #[cfg(feature = "marks")]
        marks: std::collections::BTreeSet::new(),
        faults: world.faults,
    }
}
