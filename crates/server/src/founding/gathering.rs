//! What a founder does about what it hears from the others: no sockets, no disk, no clock.

use dstore_rpc::{ClusterId, NodeId};

use crate::config::PeerAddress;
use crate::identity::{Founder, Plan, node_text};

/// A founder among the others.
#[derive(Debug)]
pub struct Gathering {
    peers: Vec<PeerAddress>,
    /// This node's place among the peers.
    own: usize,
    node: NodeId,
    /// On disk. Never changes once it is there.
    plan: Option<Plan>,
    /// The last that was heard of each peer; of its own place nothing is said.
    seen: Vec<Seen>,
}

/// How it stands with a peer.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    /// Not there, or not one of us yet: why, for people.
    Away(String),
    /// There, with this id, and without a plan when it was last asked.
    New(NodeId),
    /// It has our plan on its disk, for good.
    Holds,
}

/// What a peer has to say, or why it says nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// A founder answered.
    Founder {
        /// Its id, proved by the secret and on its disk.
        node: NodeId,
        /// The peers it was given.
        peers: Vec<String>,
        /// The plan on its disk.
        plan: Option<Plan>,
    },
    /// A member of a cluster answered.
    Member {
        /// Its cluster.
        cluster: ClusterId,
        /// Who founded that, if it told.
        founders: Vec<Founder>,
    },
    /// Nobody did, or nobody that we could listen to: why, for people.
    Away(String),
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Go on asking.
    Wait,
    /// Put this plan on disk, then tell with [`Gathering::handle_written`].
    Write(Plan),
    /// Everybody holds this plan: the node is a member.
    Found(Plan),
}

/// Why a cluster cannot be founded here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoundingError {
    /// There is a cluster already, and a member of it was where this node is.
    #[error(
        "{own} was node {node} of cluster {cluster}, says its member {peer}, but this data directory is new: the disk of that node \
         seems lost; a lost node has to be removed from its cluster, and a new one joined in its place"
    )]
    Lost {
        /// Who told.
        peer: PeerAddress,
        /// Its cluster.
        cluster: ClusterId,
        /// This node's address.
        own: PeerAddress,
        /// The node that was there.
        node: String,
    },
    /// There is a cluster already, and this node was never in it.
    #[error(
        "peer {peer} is a member of cluster {cluster} already, and this data directory is new: a cluster is founded by new nodes \
         only, and has to be asked to take another one in"
    )]
    Taken {
        /// Who told.
        peer: PeerAddress,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// The peer belongs to another cluster than the one that is being founded.
    #[error("peer {peer} is a member of cluster {theirs}, but this node has promised itself to cluster {ours}")]
    Foreign {
        /// Who told.
        peer: PeerAddress,
        /// Its cluster.
        theirs: ClusterId,
        /// The cluster of our plan.
        ours: ClusterId,
    },
    /// Somebody's disk was lost, or replaced, between the plan and the founding.
    #[error(
        "{at} stands in the plan of the new cluster as node {planned}, but it is node {found}: its data directory was lost while \
         the cluster was founded; nothing is stored yet, so remove the data directories of all its nodes and begin anew"
    )]
    Replaced {
        /// Whose.
        at: PeerAddress,
        /// The id in the plan.
        planned: String,
        /// The id it has now.
        found: String,
    },
    /// Two plans, from two foundings that were both cut short.
    #[error(
        "peer {peer} has another plan for the new cluster than this node; nothing is stored yet, so remove the data directories \
         of all its nodes and begin anew"
    )]
    OtherPlan {
        /// Who has the other one.
        peer: PeerAddress,
    },
}

impl Gathering {
    /// The node `node`, `own`th of `peers`, with the plan that is on its disk, if any.
    pub fn new(peers: Vec<PeerAddress>, own: usize, node: NodeId, plan: Option<Plan>) -> Gathering {
        let seen = vec![Seen::Away("not asked yet".to_owned()); peers.len()];
        Gathering { peers, own, node, plan, seen }
    }

    /// The plan on disk.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// What is to be done before anybody was asked: something only where there is nobody to ask.
    pub fn begin(&mut self, cluster: ClusterId) -> Step {
        self.step(cluster)
    }

    /// A peer was asked. `cluster` is a fresh random id, in case it is needed.
    ///
    /// # Errors
    ///
    /// See [`FoundingError`]: this cluster will never be.
    pub fn handle(&mut self, place: usize, heard: Heard, cluster: ClusterId) -> Result<Step, FoundingError> {
        assert_ne!(place, self.own, "nobody asks itself");
        match heard {
            Heard::Away(why) => self.note_away(place, why),
            Heard::Member { cluster, founders } => self.heard_member(place, cluster, &founders)?,
            Heard::Founder { peers, .. }
                if !self.peers.iter().map(PeerAddress::to_string).eq(peers.iter().cloned()) =>
            {
                self.note_away(place, format!("was given other peers: {}", peers.join(",")));
            }
            Heard::Founder { node, plan, .. } => {
                if let Some(plan) = self.heard_founder(place, node, plan)? {
                    return Ok(Step::Write(plan));
                }
            }
        }
        Ok(self.step(cluster))
    }

    /// The plan is on disk.
    pub fn handle_written(&mut self, plan: Plan) -> Step {
        let cluster = plan.cluster;
        assert!(self.plan.is_none(), "a plan never changes");
        assert_eq!(plan.place_of(self.node), Some(self.own), "a plan names this node in its place");
        self.plan = Some(plan);
        self.step(cluster)
    }

    /// What is still missing, for people; `None` when nothing is.
    pub fn missing(&self) -> Option<String> {
        let others = || (0..self.peers.len()).filter(|place| *place != self.own);
        let why = |place: usize| match &self.seen[place] {
            Seen::Away(why) => Some(format!("{} {why}", self.peers[place])),
            Seen::New(_) if self.plan.is_some() => Some(format!("{} has not taken the plan yet", self.peers[place])),
            Seen::New(_) | Seen::Holds => None,
        };
        let missing: Vec<String> = others().filter_map(why).collect();
        if missing.is_empty() {
            return None;
        }
        Some(format!("waiting for {} of {} peers: {}", missing.len(), self.peers.len() - 1, missing.join("; ")))
    }

    /// What was said for good is not forgotten because its sayer is away now: it is on its disk.
    fn note_away(&mut self, place: usize, why: String) {
        if self.seen[place] != Seen::Holds {
            self.seen[place] = Seen::Away(why);
        }
    }

    fn heard_member(&mut self, place: usize, theirs: ClusterId, founders: &[Founder]) -> Result<(), FoundingError> {
        let peer = self.peers[place].clone();
        match &self.plan {
            Some(plan) if plan.cluster == theirs => {
                // One that is a member has seen that everybody holds the plan.
                self.seen.fill(Seen::Holds);
                Ok(())
            }
            Some(plan) => Err(FoundingError::Foreign { peer, theirs, ours: plan.cluster }),
            None => {
                let own = self.peers[self.own].clone();
                let lost = founders.iter().find(|founder| founder.address == own.to_string());
                Err(match lost {
                    Some(lost) => FoundingError::Lost { peer, cluster: theirs, own, node: node_text(lost.node) },
                    None => FoundingError::Taken { peer, cluster: theirs },
                })
            }
        }
    }

    /// Gives the plan that is to be taken over from the peer.
    fn heard_founder(&mut self, place: usize, node: NodeId, plan: Option<Plan>) -> Result<Option<Plan>, FoundingError> {
        match (&self.plan, plan) {
            (None, None) => self.seen[place] = Seen::New(node),
            (Some(ours), None) => {
                check_place(ours, &self.peers, place, node)?;
                self.seen[place] = Seen::New(node);
            }
            (Some(ours), Some(theirs)) => {
                if *ours != theirs {
                    return Err(FoundingError::OtherPlan { peer: self.peers[place].clone() });
                }
                self.seen[place] = Seen::Holds;
            }
            (None, Some(theirs)) => {
                let addresses = theirs.founders.iter().map(|founder| founder.address.clone());
                if !self.peers.iter().map(PeerAddress::to_string).eq(addresses) || theirs.twice().is_some() {
                    return Err(FoundingError::OtherPlan { peer: self.peers[place].clone() });
                }
                check_place(&theirs, &self.peers, self.own, self.node)?;
                self.seen[place] = Seen::Holds;
                return Ok(Some(theirs));
            }
        }
        Ok(None)
    }

    fn step(&mut self, cluster: ClusterId) -> Step {
        let mut others = (0..self.peers.len()).filter(|place| *place != self.own);
        match &self.plan {
            Some(plan) if others.all(|place| self.seen[place] == Seen::Holds) => Step::Found(plan.clone()),
            Some(_) => Step::Wait,
            None if self.own == 0 => self.draw(cluster).map_or(Step::Wait, Step::Write),
            None => Step::Wait,
        }
    }

    /// The plan, drawn by the first of the list once all others are there.
    fn draw(&mut self, cluster: ClusterId) -> Option<Plan> {
        let node = |place: usize| match &self.seen[place] {
            _ if place == self.own => Some(self.node),
            Seen::New(node) => Some(*node),
            Seen::Away(_) | Seen::Holds => None,
        };
        let founder = |place: usize| Some(Founder { node: node(place)?, address: self.peers[place].to_string() });
        let founders = (0..self.peers.len()).map(founder).collect::<Option<Vec<_>>>()?;
        let plan = Plan { cluster, founders };
        if let Some(twice) = plan.twice() {
            let places = plan.founders.iter().enumerate().filter(|(_, founder)| founder.node == twice);
            for (place, _) in places.filter(|(place, _)| *place != self.own) {
                self.seen[place] = Seen::Away("is the same node as another of the peers".to_owned());
            }
            return None;
        }
        Some(plan)
    }
}

/// The node at `place` is the one that the plan says.
fn check_place(plan: &Plan, peers: &[PeerAddress], place: usize, node: NodeId) -> Result<(), FoundingError> {
    let planned = plan.founders.get(place).map(|founder| founder.node);
    if planned == Some(node) {
        return Ok(());
    }
    let planned = planned.map_or_else(|| "none".to_owned(), node_text);
    Err(FoundingError::Replaced { at: peers[place].clone(), planned, found: node_text(node) })
}

#[cfg(test)]
mod tests;
