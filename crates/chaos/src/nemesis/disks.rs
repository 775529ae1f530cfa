//! Faults of disks.

use dstore_testkit::powerloss;

use super::{Fault, Who};
use crate::world::{Act, World};

/// fdatasync takes longer.
#[derive(Debug)]
pub struct SlowSync {
    /// Whose.
    pub who: Who,
    /// How much.
    pub milliseconds: u64,
}

impl Fault for SlowSync {
    fn kind(&self) -> &'static str {
        "slow sync"
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        let node = self.who.resolve(world);
        self.who = Who::Node(node);
        world.spoil_disk(node, powerloss::Fault::SyncsStallMs(self.milliseconds))
    }

    fn end(&mut self, _id: u64, world: &mut World) {
        if let Who::Node(node) = self.who {
            let _ = world.mend_disk(node); // a journal that cannot be written shows itself elsewhere
        }
    }
}

/// fdatasync fails once: the node must end, and is started again.
#[derive(Debug)]
pub struct FailSync {
    /// Whose.
    pub who: Who,
    /// Counted from the next, which is 1.
    pub nth: u64,
}

/// EIO, as a dying disk has it.
const EIO: i32 = 5;

impl Fault for FailSync {
    fn kind(&self) -> &'static str {
        "failed sync"
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        let node = self.who.resolve(world);
        self.who = Who::Node(node);
        world.spoil_disk(node, powerloss::Fault::SyncFails { nth: self.nth, errno: EIO })
    }

    fn end(&mut self, _id: u64, world: &mut World) {
        if let Who::Node(node) = self.who {
            let _ = world.mend_disk(node); // as above
            let _ = world.start(node); // unless it did not end
        }
    }
}

/// A small disk is full.
#[derive(Debug)]
pub struct FullDisk {
    /// Whose.
    pub node: usize,
}

impl Fault for FullDisk {
    fn kind(&self) -> &'static str {
        "full disk"
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        world.fill_disk(self.node)
    }

    fn end(&mut self, _id: u64, world: &mut World) {
        let _ = world.empty_disk(self.node); // unless it is empty already
    }
}
