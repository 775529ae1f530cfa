//! A run of a `dstore` cluster, from the first process to the verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use dstore_testkit::namespaces::Network;
use dstore_testkit::powerloss::Style;
use dstore_testkit::process::dstore_program;
use dstore_testkit::small_disk::SmallDisk;

use crate::crew::Crew;
use crate::judge::Verdict;
use crate::judge::finally::Expected;
use crate::nemesis::plan::{Means, Plan, Step, draw};
use crate::nemesis::processes::PowerCut;
use crate::nemesis::{Nemesis, Who};
use crate::report::Report;
use crate::world::World;
use crate::world::sweep::{Directory, sweep};

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(25);

/// How long a new cluster may take until it serves, and one that is left alone until it serves again. Far more than
/// either needs: what is tested is that they do, on any machine.
const FOUNDED_WITHIN: Duration = Duration::from_secs(120);
const LIVELY_WITHIN: Duration = Duration::from_secs(120);

/// How long every node may take to let everything be read at the end.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// Between two lines that tell how it goes.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Between two blackouts of nodes whose syncs lie, and how long they are dark.
const LIES_EVERY: Duration = Duration::from_secs(6);
const DARK: Duration = Duration::from_millis(500);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Draws faults and what clients do.
    pub seed: u64,
    /// How long faults go on.
    pub length: Duration,
    /// Nodes.
    pub nodes: usize,
    /// Clients.
    pub clients: usize,
    /// What each of them waits between requests.
    pub pace: Duration,
    /// Loopback, kills and pauses alone, as where namespaces are not permitted.
    pub loopback: bool,
    /// Syncs report success and do nothing, and the power of all nodes is cut: writes must be lost, and the judge must
    /// see it.
    pub lie: bool,
    /// Another build of the program, which runs beside the first.
    pub other: Option<PathBuf>,
}

impl Options {
    /// As `make chaos` has them.
    pub fn new(seed: u64, length: Duration) -> Options {
        let pace = Duration::from_millis(4);
        Options { seed, length, nodes: 5, clients: 10, pace, loopback: false, lie: false, other: None }
    }
}

#[allow(clippy::print_stdout, reason = "how a run goes is its output")]
pub(crate) fn tell(line: &str) {
    println!("{line}");
}

/// A network, if one may be made here.
pub(crate) fn network(nodes: usize, loopback: bool) -> Option<Arc<Network>> {
    let made = if loopback { Err("loopback was asked for".to_owned()) } else { Network::new(nodes) };
    match made {
        Ok(network) => Some(Arc::new(network)),
        Err(why) => {
            tell(&format!("no network namespaces ({why}): on loopback, without faults of the network"));
            None
        }
    }
}

fn may_mount(directory: &Directory) -> bool {
    let at = directory.path().join("mount");
    let tried = std::fs::create_dir(&at).map_err(|error| error.to_string());
    match tried.and_then(|()| SmallDisk::mount(&at, 1 << 20)) {
        Ok(_taken_away_again) => true,
        Err(why) => {
            tell(&format!("nothing may be mounted ({why}): without full disks"));
            false
        }
    }
}

/// Blackouts of all nodes, again and again.
fn lies(length: Duration, nodes: usize, seed: u64) -> Vec<Step> {
    let count = (length.as_secs() / LIES_EVERY.as_secs()).max(1);
    let step = |number: u32| {
        let who = (0..nodes).map(Who::Node).collect();
        let fault = Box::new(PowerCut { who, style: Style::Worst, seed: seed.wrapping_add(u64::from(number)) });
        Step { at: LIES_EVERY * number, lasts: DARK, fault }
    };
    (1..=u32::try_from(count).unwrap_or(u32::MAX)).map(step).collect()
}

/// Makes a run. `interrupted` ends it early, and without a verdict.
///
/// # Errors
///
/// The machine lacks something, or the cluster does not come up in the first place.
pub fn run(options: &Options, interrupted: &AtomicBool) -> Result<Report> {
    sweep().iter().for_each(|what| tell(&format!("a run that was killed left {what}: taken away")));
    let mut directory = Directory::make("chaos", options.seed)?;
    let outcome = run_in(&mut directory, options, interrupted);
    if outcome.is_err() && !interrupted.load(Ordering::Relaxed) {
        directory.keep();
        tell(&format!("kept: {}", directory.path().display()));
    }
    outcome
}

fn run_in(directory: &mut Directory, options: &Options, interrupted: &AtomicBool) -> Result<Report> {
    let network = network(options.nodes, options.loopback);
    let means = Means { has_network: network.is_some(), has_mounts: !options.loopback && may_mount(directory) };
    let Plan { setting, mut steps } = draw(options.seed, options.length, options.nodes, means);
    if options.lie {
        steps = lies(options.length, options.nodes, options.seed);
    }
    tell(&format!("seed {}: {} faults in {:?}; {setting:?}", options.seed, steps.len(), options.length));
    let mut programs = vec![dstore_program()];
    if let Some(other) = &options.other {
        programs.push(other.canonicalize().with_context(|| format!("no program at {}", other.display()))?);
    }
    let mut world = World::new(&setting, programs, network.clone(), directory.path())?;
    found(&mut world, interrupted)?;
    if options.lie {
        world.let_syncs_lie().map_err(anyhow::Error::msg)?;
    }

    let crew = Crew::start(network, world.addresses(), options.clients, options.pace, options.seed, directory.path());
    let mut nemesis = Nemesis::new(steps, &directory.path().join("nemesis.log"))?;
    let mut blamed = Vec::new();
    let begun = Instant::now();
    suffer(options.length, &mut world, &mut nemesis, &crew, &mut blamed, interrupted)?;
    let faults_lasted = begun.elapsed();
    let recovered = recover(&mut world, &mut nemesis, &crew, &mut blamed, interrupted)?;
    let auditor = crew.auditor();
    let (mut verdict, expected) = crew.finish(recovered.is_some());
    blamed.into_iter().for_each(|what| verdict.blame(what));
    match recovered {
        Some(_) => audit(&world, &auditor, &expected, &mut verdict),
        None => verdict.blame(format!("no node or no client served within {LIVELY_WITHIN:?} after the last fault")),
    }
    world.end();
    if let Some(other) = &options.other {
        let [ours, others] = world.starts();
        tell(&format!("{ours} starts of this build, {others} of {}", other.display()));
    }
    let mut report = Report {
        name: "chaos",
        seed: options.seed,
        faults_lasted,
        verdict,
        faults: nemesis.counts,
        skipped: nemesis.skipped,
        failed_syncs: world.failed_syncs(),
        recovered,
        evidence: None,
    };
    if !report.is_clean() && !options.lie {
        directory.keep();
        std::fs::write(directory.path().join("violations.log"), report.verdict.told.join("\n\n"))?;
        report.evidence = Some(directory.path().to_owned());
    }
    Ok(report)
}

fn stop_if(interrupted: &AtomicBool) -> Result<()> {
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Starts all nodes, and waits until each serves.
fn found(world: &mut World, interrupted: &AtomicBool) -> Result<()> {
    for node in 0..world.len() {
        world.start(node).map_err(anyhow::Error::msg)?;
    }
    let begun = Instant::now();
    while !is_whole(world) {
        stop_if(interrupted)?;
        world.tick();
        if let Some(what) = world.take_blamed().first() {
            bail!("{what}");
        }
        if begun.elapsed() > FOUNDED_WITHIN {
            bail!("the cluster is not founded after {FOUNDED_WITHIN:?}");
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// Whether every node runs, answers, and follows one and the same leader, with no change of members going on.
fn is_whole(world: &World) -> bool {
    let infos: Option<Vec<_>> = (0..world.len()).map(|node| world.watch().fresh(node)).collect();
    let Some(infos) = infos else { return false };
    let term = infos[0].term;
    let is_member = |info: &dstore_testkit::cluster::RaftInfo| info.term == term && info.parts.len() == infos.len();
    let leaders = infos.iter().filter(|info| info.role == "leader").count();
    !world.is_changing() && leaders == 1 && infos.iter().all(is_member)
}

/// The safety phase.
fn suffer(
    length: Duration,
    world: &mut World,
    nemesis: &mut Nemesis,
    crew: &Crew,
    blamed: &mut Vec<String>,
    interrupted: &AtomicBool,
) -> Result<()> {
    let begun = Instant::now();
    let mut told = begun;
    while begun.elapsed() < length {
        stop_if(interrupted)?;
        nemesis.tick(world);
        tick(world, nemesis, blamed);
        world.start_down(false);
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let acknowledged = crew.shared().acknowledged.load(Ordering::Relaxed);
            let faults: u64 = nemesis.counts.values().sum();
            tell(&format!("{:4} s: {acknowledged} writes acknowledged, {faults} faults", begun.elapsed().as_secs()));
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

fn tick(world: &mut World, nemesis: &mut Nemesis, blamed: &mut Vec<String>) {
    world.tick();
    for what in world.take_blamed() {
        nemesis.write(&format!("BLAMED  {what}"));
        tell(&what);
        blamed.push(what);
    }
}

/// The liveness phase: no more faults, and every node and every client is served. Gives how long that took.
fn recover(
    world: &mut World,
    nemesis: &mut Nemesis,
    crew: &Crew,
    blamed: &mut Vec<String>,
    interrupted: &AtomicBool,
) -> Result<Option<Duration>> {
    nemesis.stop(world);
    world.heal().map_err(anyhow::Error::msg)?;
    nemesis.write("no more faults");
    let (begun, healed) = (Instant::now(), crew.shared().now());
    while begun.elapsed() < LIVELY_WITHIN {
        stop_if(interrupted)?;
        tick(world, nemesis, blamed);
        world.start_down(true);
        if is_whole(world) && crew.shared().waiting_since(healed).is_empty() {
            nemesis.write("everything serves");
            return Ok(Some(begun.elapsed()));
        }
        std::thread::sleep(TICK);
    }
    for node in 0..world.len() {
        let line = format!("node {node}: up {}, {:?}", world.is_up(node), world.watch().fresh(node));
        nemesis.write(&line);
        tell(&line);
    }
    tell(&format!("clients that wait: {:?}; changing {}", crew.shared().waiting_since(healed), world.is_changing()));
    Ok(None)
}

/// Reads everything through every node, and has the nodes compare their replicas.
fn audit(world: &World, auditor: &crate::auditor::Auditor, expected: &Expected, verdict: &mut Verdict) {
    let mut found = Vec::new();
    for (node, address) in world.addresses() {
        let begun = Instant::now();
        let contents = loop {
            let contents = auditor.read_all(node, address, expected);
            if contents.is_some() || begun.elapsed() > READ_WITHIN {
                break contents;
            }
            std::thread::sleep(TICK); // nobody tells when it does
        };
        match contents {
            Some(contents) => found.push((node, contents)),
            None => verdict.blame(format!("at the end node {node} does not let everything be read")),
        }
    }
    expected.judge(&found, verdict);
    if let Err(error) = world.check() {
        verdict.blame(format!("{error:#}"));
    }
}
