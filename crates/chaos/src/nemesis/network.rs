//! Faults of the network: packets that are dropped, in the nodes' own namespaces, and bytes that are late.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use dstore_testkit::namespaces::Drops;

use super::{Fault, Who};
use crate::world::{Act, World};

/// Packets between two nodes, in both directions, at one of the two ends.
fn between(world: &World, node: usize, other: usize) -> (usize, Drops) {
    (node, Drops { with: Some(world.ip(other)), arriving: true, leaving: true, permille: 1000 })
}

/// Drops everything between nodes for which `are_parted` says so.
fn part(world: &World, are_parted: impl Fn(usize, usize) -> bool) -> Vec<(usize, Drops)> {
    let nodes = 0..world.len();
    let pairs = nodes.clone().flat_map(|node| nodes.clone().map(move |other| (node, other)));
    pairs.filter(|(a, b)| a < b && are_parted(*a, *b)).map(|(a, b)| between(world, a, b)).collect()
}

/// Two parts that hear nothing of each other. Clients reach both.
#[derive(Debug)]
pub struct Partition {
    /// One of the parts.
    pub side: Vec<usize>,
}

impl Fault for Partition {
    fn kind(&self) -> &'static str {
        "partition"
    }

    fn begin(&mut self, id: u64, world: &mut World) -> Act {
        let drops = part(world, |a, b| self.side.contains(&a) != self.side.contains(&b));
        world.drop_packets(id, drops)
    }

    fn end(&mut self, id: u64, world: &mut World) {
        let _ = world.drop_packets(id, Vec::new()); // healed already
    }
}

/// Two parts that both hear one node between them, and nothing of each other.
#[derive(Debug)]
pub struct Bridge {
    /// The node that everybody hears.
    pub bridge: usize,
    /// One of the parts.
    pub side: Vec<usize>,
}

impl Fault for Bridge {
    fn kind(&self) -> &'static str {
        "bridge"
    }

    fn begin(&mut self, id: u64, world: &mut World) -> Act {
        let is_bridge = |node| node == self.bridge;
        let drops =
            part(world, |a, b| !is_bridge(a) && !is_bridge(b) && self.side.contains(&a) != self.side.contains(&b));
        world.drop_packets(id, drops)
    }

    fn end(&mut self, id: u64, world: &mut World) {
        let _ = world.drop_packets(id, Vec::new()); // healed already
    }
}

/// A node whose packets do not reach the others, or that does not hear theirs; perhaps its clients' neither.
#[derive(Debug)]
pub struct Isolate {
    /// Whom.
    pub who: Who,
    /// What comes is dropped.
    pub arriving: bool,
    /// What goes is dropped.
    pub leaving: bool,
    /// For clients too.
    pub for_clients: bool,
}

impl Fault for Isolate {
    fn kind(&self) -> &'static str {
        if self.arriving && self.leaving { "isolation" } else { "one-way" }
    }

    fn begin(&mut self, id: u64, world: &mut World) -> Act {
        let node = self.who.resolve(world);
        self.who = Who::Node(node);
        let Isolate { arriving, leaving, for_clients, .. } = *self;
        let drops = |with: Option<IpAddr>| (node, Drops { with, arriving, leaving, permille: 1000 });
        let others = (0..world.len()).filter(|other| *other != node).map(|other| Some(world.ip(other)));
        let all = if for_clients { vec![drops(None)] } else { others.map(drops).collect() };
        world.drop_packets(id, all)
    }

    fn end(&mut self, id: u64, world: &mut World) {
        let _ = world.drop_packets(id, Vec::new()); // healed already
    }
}

/// Packets of a node that are lost at random, its clients' included.
#[derive(Debug)]
pub struct Loss {
    /// Whose.
    pub who: Who,
    /// How many of a thousand.
    pub permille: u16,
}

impl Fault for Loss {
    fn kind(&self) -> &'static str {
        "loss"
    }

    fn begin(&mut self, id: u64, world: &mut World) -> Act {
        let node = self.who.resolve(world);
        self.who = Who::Node(node);
        world.drop_packets(
            id,
            vec![(node, Drops { with: None, arriving: true, leaving: true, permille: self.permille })],
        )
    }

    fn end(&mut self, id: u64, world: &mut World) {
        let _ = world.drop_packets(id, Vec::new()); // healed already
    }
}

/// A partition that comes and goes.
pub struct Flapping {
    /// One of the parts.
    pub side: Vec<usize>,
    /// How long each state lasts.
    pub every: Duration,
    /// When the present state began, and whether it is parted.
    pub state: Option<(Instant, bool)>,
}

impl std::fmt::Debug for Flapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flapping").field("side", &self.side).field("every", &self.every).finish_non_exhaustive()
    }
}

impl Flapping {
    fn set(&mut self, id: u64, world: &mut World, is_parted: bool) -> Act {
        self.state = Some((Instant::now(), is_parted));
        let drops = part(world, |a, b| is_parted && self.side.contains(&a) != self.side.contains(&b));
        world.drop_packets(id, drops)
    }
}

impl Fault for Flapping {
    fn kind(&self) -> &'static str {
        "flapping"
    }

    fn begin(&mut self, id: u64, world: &mut World) -> Act {
        self.set(id, world, true)
    }

    fn go_on(&mut self, id: u64, world: &mut World) {
        if let Some((since, is_parted)) = self.state
            && since.elapsed() >= self.every
        {
            let _ = self.set(id, world, !is_parted); // tried again when it is due again
        }
    }

    fn end(&mut self, id: u64, world: &mut World) {
        let _ = world.drop_packets(id, Vec::new()); // healed already
    }
}

/// Bytes to and from a node are late, on those of its links that lead through a proxy.
#[derive(Debug)]
pub struct Delay {
    /// Whose.
    pub who: Who,
    /// How late.
    pub by: Duration,
}

impl Fault for Delay {
    fn kind(&self) -> &'static str {
        "delay"
    }

    fn begin(&mut self, _id: u64, world: &mut World) -> Act {
        let node = self.who.resolve(world);
        self.who = Who::Node(node);
        world.delay(node, self.by)
    }

    fn end(&mut self, _id: u64, world: &mut World) {
        if let Who::Node(node) = self.who {
            let _ = world.delay(node, Duration::ZERO); // it had such links when it began
        }
    }
}
