//! Faults of disks.

use dstore_testkit::powerloss;

use super::{Fault, Who};
use crate::world::{Act, World};

/// What a slow disk is slow at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slowly {
    /// fsync and fdatasync.
    Sync,
    /// Reads at an offset.
    Read,
}

/// It takes longer.
#[derive(Debug)]
pub struct Slow {
    /// Whose.
    pub who: Who,
    /// What.
    pub what: Slowly,
    /// How much.
    pub milliseconds: u64,
}

impl Fault for Slow {
    fn kind(&self) -> &'static str {
        match self.what {
            Slowly::Sync => "slow sync",
            Slowly::Read => "slow read",
        }
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        let node = self.who.resolve(world);
        self.who = Who::Node(node);
        let fault = match self.what {
            Slowly::Sync => powerloss::Fault::SyncsStallMs(self.milliseconds),
            Slowly::Read => powerloss::Fault::ReadsStallMs(self.milliseconds),
        };
        world.spoil_disk(node, fault)
    }

    fn end(&mut self, _id: u64, world: &mut World) {
        if let Who::Node(node) = self.who {
            let _ = world.mend_disk(node); // a journal that cannot be written shows itself elsewhere
        }
    }
}

/// What fails of a disk that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// A sync: the node must end.
    Sync,
    /// A write, truncation or allocation: the node may end. It may also try again: a segment of the log is prepared ahead of time.
    Write,
    /// A write is short, and says so: the node must write the rest.
    ShortWrite,
}

/// A call fails once. A node that ended for that is started again.
#[derive(Debug)]
pub struct Fail {
    /// Whose.
    pub who: Who,
    /// What kind of call.
    pub what: Failing,
    /// Counted from the next, which is 1.
    pub nth: u64,
}

/// EIO, as a dying disk has it.
const EIO: i32 = 5;

impl Fault for Fail {
    fn kind(&self) -> &'static str {
        match self.what {
            Failing::Sync => "failed sync",
            Failing::Write => "failed write",
            Failing::ShortWrite => "short write",
        }
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        let node = self.who.resolve(world);
        self.who = Who::Node(node);
        let nth = self.nth;
        let fault = match self.what {
            Failing::Sync => powerloss::Fault::SyncFails { nth, errno: EIO },
            Failing::Write => powerloss::Fault::WriteFails { nth, errno: EIO },
            Failing::ShortWrite => powerloss::Fault::WriteIsShort { nth },
        };
        world.spoil_disk(node, fault)
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
