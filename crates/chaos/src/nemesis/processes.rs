//! Faults of processes and of their power.

use dstore_testkit::powerloss::Style;

use super::{Fault, Who};
use crate::world::{Act, World};

/// Starts what is down.
fn start(world: &mut World, who: Who) {
    if let Who::Node(node) = who {
        let _ = world.start(node); // unless somebody else has
    }
}

/// kill -9, and a start.
#[derive(Debug)]
pub struct Kill {
    /// Whom.
    pub who: Who,
}

impl Fault for Kill {
    fn kind(&self) -> &'static str {
        "kill -9"
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        let node = self.who.resolve(world);
        self.who = Who::Node(node);
        world.kill(node)
    }

    fn end(&mut self, _id: u64, world: &mut World) {
        start(world, self.who);
    }
}

/// kill -9 of one node or several at the same moment; what was not synced is lost or torn. Then a start.
#[derive(Debug)]
pub struct PowerCut {
    /// Whom.
    pub who: Vec<Who>,
    /// What becomes of what was not synced.
    pub style: Style,
    /// And what decides.
    pub seed: u64,
}

impl Fault for PowerCut {
    fn kind(&self) -> &'static str {
        if self.who.len() > 1 { "blackout" } else { "power cut" }
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        let nodes: Vec<usize> = self.who.iter().map(|who| who.resolve(world)).collect();
        self.who = nodes.iter().copied().map(Who::Node).collect();
        world.cut_power(&nodes, self.style, self.seed)
    }

    fn end(&mut self, _id: u64, world: &mut World) {
        self.who.iter().for_each(|who| start(world, *who));
    }
}

/// SIGSTOP, and SIGCONT.
#[derive(Debug)]
pub struct Pause {
    /// Whom.
    pub who: Who,
}

impl Fault for Pause {
    fn kind(&self) -> &'static str {
        "pause"
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        let node = self.who.resolve(world);
        self.who = Who::Node(node);
        world.pause(node)
    }

    fn end(&mut self, _id: u64, world: &mut World) {
        if let Who::Node(node) = self.who {
            let _ = world.resume(node); // unless it was killed meanwhile
        }
    }
}

/// SIGTERM, and a start when the node has ended.
#[derive(Debug)]
pub struct Restart {
    /// Whom.
    pub who: Who,
}

impl Fault for Restart {
    fn kind(&self) -> &'static str {
        "restart"
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        let node = self.who.resolve(world);
        self.who = Who::Node(node);
        world.terminate(node)
    }

    fn end(&mut self, _id: u64, world: &mut World) {
        if let Who::Node(node) = self.who {
            let _ = world.kill(node); // one that has not ended by now is made to
        }
        start(world, self.who);
    }
}
