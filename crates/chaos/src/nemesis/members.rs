//! What operators do, at awkward moments.

use super::{Fault, Who};
use crate::world::{Act, World};

/// A node is removed for good, and a new one, with an empty disk, joins in its place. Both go on for as long as they take,
/// whatever else happens meanwhile.
#[derive(Debug)]
pub struct Replace {
    /// Whom.
    pub who: Who,
}

impl Fault for Replace {
    fn kind(&self) -> &'static str {
        "remove and join"
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        let node = self.who.resolve(world);
        self.who = Who::Node(node);
        world.replace(node)
    }

    fn end(&mut self, _id: u64, _world: &mut World) {}
}

/// Leadership is moved.
#[derive(Debug)]
pub struct Transfer {
    /// To this node, or to whom the leader thinks best.
    pub to: Option<usize>,
}

impl Fault for Transfer {
    fn kind(&self) -> &'static str {
        "transfer"
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        world.transfer_leader(self.to)
    }

    fn end(&mut self, _id: u64, _world: &mut World) {}
}
