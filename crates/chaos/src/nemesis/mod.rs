//! The nemesis: does what the plan says, when it says so, and undoes it in time.
//!
//! A fault is a type of its own ([`network`], [`processes`], [`disks`], [`members`]) with a beginning and an end. Several go
//! on at once. [`plan`] draws all of them from a seed, before anything begins, so a seed tells what will be done and when;
//! only who leads at that moment it cannot know.

pub mod disks;
pub mod members;
pub mod network;
pub mod plan;
pub mod processes;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::world::{Act, World};
use plan::Step;

/// What a fault falls on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This node.
    Node(usize),
    /// Whoever leads when it begins.
    Leader,
}

impl Who {
    /// The node, at this moment.
    pub fn resolve(self, world: &World) -> usize {
        match self {
            Who::Node(node) => node,
            Who::Leader => world.watch().leader().unwrap_or(0),
        }
    }
}

/// Something terrible.
pub trait Fault: Debug + Send {
    /// Its name, as the report counts it.
    fn kind(&self) -> &'static str;

    /// Does it. `id` is its own among all faults of a run.
    ///
    /// # Errors
    ///
    /// It makes no sense at the moment; then it does not end either.
    fn begin(&mut self, id: u64, world: &mut World) -> Act;

    /// Undoes it. What others have undone already is fine.
    fn end(&mut self, id: u64, world: &mut World);

    /// Goes on with it. Called often.
    fn go_on(&mut self, _id: u64, _world: &mut World) {}
}

#[derive(Debug)]
struct Active {
    id: u64,
    ends: Duration,
    fault: Box<dyn Fault>,
}

/// The plan, and how far it is.
#[derive(Debug)]
pub struct Nemesis {
    /// The next comes last.
    steps: Vec<Step>,
    active: Vec<Active>,
    begun: Instant,
    next_id: u64,
    /// How often each kind of fault happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// How often one made no sense.
    pub skipped: u64,
    diary: File,
}

impl Nemesis {
    /// Carries out these steps from now on, and writes a diary into a file.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn new(mut steps: Vec<Step>, diary: &Path) -> std::io::Result<Nemesis> {
        steps.sort_by_key(|step| std::cmp::Reverse(step.at));
        let diary = File::create(diary)?;
        let (active, begun, counts) = (Vec::new(), Instant::now(), BTreeMap::new());
        Ok(Nemesis { steps, active, begun, next_id: 0, counts, skipped: 0, diary })
    }

    /// Begins and ends what is due. To be called often.
    pub fn tick(&mut self, world: &mut World) {
        let now = self.begun.elapsed();
        while let Some(at) = self.active.iter().position(|active| active.ends <= now) {
            let mut active = self.active.remove(at);
            self.write(&format!("ends    {:?}", active.fault));
            active.fault.end(active.id, world);
        }
        while let Some(step) = self.steps.pop_if(|step| step.at <= now) {
            self.begin(step, world);
        }
        for active in &mut self.active {
            active.fault.go_on(active.id, world);
        }
    }

    fn begin(&mut self, step: Step, world: &mut World) {
        let Step { lasts, mut fault, .. } = step;
        self.next_id += 1;
        match fault.begin(self.next_id, world) {
            Ok(()) => {
                *self.counts.entry(fault.kind()).or_default() += 1;
                self.write(&format!("begins  {fault:?} for {lasts:?}"));
                // From now on, not from when it was due: beginning may take its time.
                self.active.push(Active { id: self.next_id, ends: self.begun.elapsed() + lasts, fault });
            }
            Err(why) => {
                self.skipped += 1;
                self.write(&format!("skipped {fault:?}: {why}"));
            }
        }
    }

    /// Ends everything, and begins nothing more.
    pub fn stop(&mut self, world: &mut World) {
        self.steps.clear();
        for mut active in std::mem::take(&mut self.active) {
            self.write(&format!("ends    {:?}", active.fault));
            active.fault.end(active.id, world);
        }
    }

    /// Adds a line to the diary.
    pub fn write(&mut self, line: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        let _ = writeln!(self.diary, "{at:9.3} {line}"); // a diary that cannot be written changes no verdict
    }
}
