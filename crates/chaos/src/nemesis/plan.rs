//! What will be done, drawn from a seed before anything begins.
//!
//! A run consists of chapters. The seed draws for each which kinds of faults occur at all, how densely they follow, and how
//! long they last; so some chapters are of one kind and mild, and others brutal. Each ends with some seconds in which
//! nothing new begins, for otherwise the brutal ones would test an outage.

use std::collections::BTreeSet;
use std::time::Duration;

use dstore_testkit::powerloss::{Choose as _, Seeded, Style};

use super::disks::{Fail, Failing, FullDisk, Slow, Slowly};
use super::members::{Replace, Transfer};
use super::network::{Bridge, Delay, Flapping, Isolate, Loss, Partition};
use super::processes::{Kill, Pause, PowerCut, Restart};
use super::{Fault, Who};
use crate::world::Setting;

/// A chapter, and how long its faults go on beginning.
const CHAPTER: Duration = Duration::from_secs(20);
const FAULTS: Duration = Duration::from_secs(15);

/// What the machine permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// Namespaces: packets can be dropped and delayed.
    pub has_network: bool,
    /// Small disks can be mounted.
    pub has_mounts: bool,
}

/// One fault.
#[derive(Debug)]
pub struct Step {
    /// When it begins.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What.
    pub fault: Box<dyn Fault>,
}

/// Everything that is drawn.
#[derive(Debug)]
pub struct Plan {
    /// The world.
    pub setting: Setting,
    /// In order.
    pub steps: Vec<Step>,
}

/// The kinds that are drawn, with their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Partition,
    Bridge,
    Isolate,
    Loss,
    Flapping,
    Delay,
    Kill,
    PowerCut,
    Blackout,
    Pause,
    Restart,
    SlowSync,
    SlowRead,
    Fail,
    FullDisk,
    Replace,
    Transfer,
}

const KINDS: [(Kind, usize); 17] = [
    (Kind::Partition, 4),
    (Kind::Bridge, 2),
    (Kind::Isolate, 4),
    (Kind::Loss, 3),
    (Kind::Flapping, 2),
    (Kind::Delay, 3),
    (Kind::Kill, 4),
    (Kind::PowerCut, 4),
    (Kind::Blackout, 1),
    (Kind::Pause, 4),
    (Kind::Restart, 2),
    (Kind::SlowSync, 3),
    (Kind::SlowRead, 2),
    (Kind::Fail, 2),
    (Kind::FullDisk, 2),
    (Kind::Replace, 2),
    (Kind::Transfer, 3),
];

impl Kind {
    fn is_possible(self, means: Means, setting: &Setting) -> bool {
        match self {
            Kind::Partition | Kind::Bridge | Kind::Isolate | Kind::Loss | Kind::Flapping => means.has_network,
            Kind::Delay => !setting.links.is_empty(),
            Kind::FullDisk => !setting.small_disks.is_empty(),
            _ => true,
        }
    }
}

/// Draws the plan of a run of this length.
pub fn draw(seed: u64, length: Duration, nodes: usize, means: Means) -> Plan {
    let mut random = Seeded::new(seed);
    let setting = draw_setting(&mut random, nodes, means);
    let mut steps = Vec::new();
    let mut begins = Duration::ZERO;
    while begins < length {
        let until = (begins + FAULTS).min(length);
        chapter(&mut random, &setting, means, begins, until, &mut steps);
        begins += CHAPTER;
    }
    Plan { setting, steps }
}

fn draw_setting(random: &mut Seeded, nodes: usize, means: Means) -> Setting {
    let voters = if random.choose(3) == 0 { nodes.min(3) } else { nodes };
    let mut subset = |share: usize| (0..nodes).filter(|_| random.choose(share) == 0).collect::<Vec<usize>>();
    let small_disks = if means.has_mounts { subset(2) } else { Vec::new() };
    let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to))).filter(|(from, to)| from != to);
    // Through a proxy, or straight: half of them each.
    let links = if means.has_network { pairs.filter(|_| random.choose(2) == 0).collect() } else { Vec::new() };
    Setting { nodes, voters, small_disks, links }
}

fn chapter(
    random: &mut Seeded,
    setting: &Setting,
    means: Means,
    begins: Duration,
    until: Duration,
    steps: &mut Vec<Step>,
) {
    let possible = KINDS.iter().filter(|(kind, _)| kind.is_possible(means, setting));
    let mut kinds: Vec<(Kind, usize)> = possible.filter(|_| random.choose(2) == 0).copied().collect();
    if kinds.is_empty() {
        kinds.push((Kind::Kill, 1));
    }
    // Mild, rough, brutal: milliseconds between faults, and how long they last.
    let (gap_ms, lasts_ms) = [(3_000, 2_000), (1_500, 3_500), (600, 5_000)][random.choose(3)];
    let mut at = begins + milliseconds(random.choose(1_000));
    let mut rare = Vec::new();
    while at < until {
        let kind = weighted(random, &kinds);
        // Once a chapter: one takes as long, and after some blackouts there would be nothing left to disturb.
        let is_too_much = rare.contains(&kind);
        rare.extend(matches!(kind, Kind::Replace | Kind::Blackout).then_some(kind));
        if !is_too_much {
            let lasts = milliseconds(300 + random.choose(2 * lasts_ms));
            let fault = draw_fault(random, kind, setting);
            steps.push(Step { at, lasts, fault });
        }
        at += milliseconds(100 + random.choose(2 * gap_ms));
    }
}

fn milliseconds(number: usize) -> Duration {
    Duration::from_millis(number as u64)
}

fn weighted(random: &mut Seeded, kinds: &[(Kind, usize)]) -> Kind {
    let mut ticket = random.choose(kinds.iter().map(|(_, weight)| weight).sum());
    for (kind, weight) in kinds {
        if ticket < *weight {
            return *kind;
        }
        ticket -= weight;
    }
    unreachable!("the ticket is below the sum of all weights")
}

/// A node, or whoever leads.
fn who(random: &mut Seeded, nodes: usize) -> Who {
    if random.choose(3) == 0 { Who::Leader } else { Who::Node(random.choose(nodes)) }
}

/// Some nodes, at least one, not all.
fn side(random: &mut Seeded, nodes: usize) -> Vec<usize> {
    let count = 1 + random.choose(nodes - 1);
    let mut side = BTreeSet::new();
    while side.len() < count {
        side.insert(random.choose(nodes));
    }
    side.into_iter().collect()
}

fn draw_fault(random: &mut Seeded, kind: Kind, setting: &Setting) -> Box<dyn Fault> {
    let nodes = setting.nodes;
    match kind {
        Kind::Partition | Kind::Bridge | Kind::Isolate | Kind::Loss | Kind::Flapping | Kind::Delay => {
            draw_network_fault(random, kind, nodes)
        }
        Kind::Kill => Box::new(Kill { who: who(random, nodes) }),
        Kind::PowerCut => {
            let who = vec![who(random, nodes)];
            Box::new(PowerCut { who, style: style(random), seed: random.next_u64() })
        }
        Kind::Blackout => {
            let all = random.choose(2) == 0;
            let dark = if all { (0..nodes).collect() } else { side(random, nodes) };
            let who = dark.into_iter().map(Who::Node).collect();
            Box::new(PowerCut { who, style: style(random), seed: random.next_u64() })
        }
        Kind::Pause => Box::new(Pause { who: who(random, nodes) }),
        Kind::Restart => Box::new(Restart { who: who(random, nodes) }),
        Kind::SlowSync => {
            let milliseconds = [5, 50, 300, 3_000][random.choose(4)];
            Box::new(Slow { who: who(random, nodes), what: Slowly::Sync, milliseconds })
        }
        Kind::SlowRead => {
            let milliseconds = [1, 20, 200][random.choose(3)];
            Box::new(Slow { who: who(random, nodes), what: Slowly::Read, milliseconds })
        }
        Kind::Fail => {
            let what = [Failing::Sync, Failing::Write, Failing::ShortWrite][random.choose(3)];
            Box::new(Fail { who: who(random, nodes), what, nth: 1 + random.choose(20) as u64 })
        }
        Kind::FullDisk => Box::new(FullDisk { node: setting.small_disks[random.choose(setting.small_disks.len())] }),
        Kind::Replace => Box::new(Replace { who: who(random, nodes) }),
        Kind::Transfer => {
            let to = (random.choose(2) == 0).then(|| random.choose(nodes));
            Box::new(Transfer { to })
        }
    }
}

fn draw_network_fault(random: &mut Seeded, kind: Kind, nodes: usize) -> Box<dyn Fault> {
    match kind {
        Kind::Partition => Box::new(Partition { side: side(random, nodes) }),
        Kind::Bridge => Box::new(Bridge { bridge: random.choose(nodes), side: side(random, nodes) }),
        Kind::Isolate => {
            let (arriving, leaving) = [(true, true), (true, false), (false, true)][random.choose(3)];
            let for_clients = random.choose(3) == 0;
            Box::new(Isolate { who: who(random, nodes), arriving, leaving, for_clients })
        }
        Kind::Loss => {
            let permille = [10, 50, 150, 300][random.choose(4)];
            Box::new(Loss { who: who(random, nodes), permille })
        }
        Kind::Flapping => {
            let every = milliseconds(100 + random.choose(900));
            Box::new(Flapping { side: side(random, nodes), every, state: None })
        }
        Kind::Delay => {
            let by = milliseconds([5, 30, 100, 400, 2_000][random.choose(5)]);
            Box::new(Delay { who: who(random, nodes), by })
        }
        other => unreachable!("{other:?} is no fault of the network"),
    }
}

fn style(random: &mut Seeded) -> Style {
    [Style::Worst, Style::Scattered, Style::InOrder][random.choose(3)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Means = Means { has_network: true, has_mounts: true };

    fn text(plan: &Plan) -> String {
        format!("{plan:?}")
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let length = Duration::from_secs(120);
        assert_eq!(text(&draw(7, length, 5, ALL)), text(&draw(7, length, 5, ALL)));
        assert_ne!(text(&draw(7, length, 5, ALL)), text(&draw(8, length, 5, ALL)));
    }

    #[test]
    fn every_kind_of_fault_is_drawn_and_within_the_run() {
        let length = Duration::from_secs(3_600);
        let kinds = |means| {
            let plans: Vec<Plan> = (0..3).map(|seed| draw(seed, length, 5, means)).collect();
            assert!(plans.iter().flat_map(|plan| &plan.steps).all(|step| step.at < length));
            plans.iter().flat_map(|plan| &plan.steps).map(|step| step.fault.kind()).collect::<BTreeSet<&str>>()
        };
        assert_eq!(kinds(ALL).len(), KINDS.len() + 3, "{:?}", kinds(ALL)); // of isolation there are two, of failing calls three
        let poor = kinds(Means { has_network: false, has_mounts: false });
        for impossible in ["partition", "bridge", "isolation", "one-way", "loss", "flapping", "delay", "full disk"] {
            assert!(!poor.contains(impossible), "{impossible}");
        }
        assert!(poor.contains("kill -9") && poor.contains("pause"));
    }

    #[test]
    fn parts_of_a_partition_are_never_empty() {
        let mut random = Seeded::new(1);
        for _ in 0..1_000 {
            let side = side(&mut random, 5);
            assert!((1..5).contains(&side.len()));
        }
    }
}
