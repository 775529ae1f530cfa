//! What founders say to each other, and what a member tells who would found a cluster in its place.

use dstore_rpc::service::{Incoming, Origin, Outcome, Reply};
use dstore_rpc::{Answer, ClusterId, NodeId};
use prost::Message;

use super::gathering::Heard;
use crate::config::PeerAddress;
use crate::identity::{Founder, Plan};

/// What a founder has to say, when it asks and when it answers. Which node it is, the handshake tells.
#[derive(Clone, PartialEq, Message)]
pub struct Tell {
    /// The peers it was given.
    #[prost(string, repeated, tag = "1")]
    peers: Vec<String>,
    /// The plan on its disk: its cluster, 16 bytes big-endian; empty when there is none.
    #[prost(bytes = "vec", tag = "2")]
    cluster: Vec<u8>,
    /// The nodes of the plan, in the order of its addresses.
    #[prost(fixed64, repeated, tag = "3")]
    nodes: Vec<u64>,
    /// Their addresses.
    #[prost(string, repeated, tag = "4")]
    addresses: Vec<String>,
    /// Its own place among the peers.
    #[prost(uint32, tag = "5")]
    pub place: u32,
}

dstore_rpc::service! {
    /// Asked by founders, who speak as members of cluster 0; and, by one that has met a member, once more as one of that
    /// cluster, to learn whose place it is in.
    pub mod founders {
        calls {
            /// How far are you? I am so far.
            ASK = 900: ask(Tell) -> Tell;
        }
        messages {}
        streams {}
    }
}

impl Tell {
    /// What the `place`th of `peers` has to say, with the plan on its disk.
    pub fn new(peers: &[PeerAddress], place: usize, plan: Option<&Plan>) -> Tell {
        let founders = || plan.iter().flat_map(|plan| &plan.founders);
        Tell {
            peers: peers.iter().map(PeerAddress::to_string).collect(),
            cluster: plan.map(|plan| plan.cluster.0.to_be_bytes().to_vec()).unwrap_or_default(),
            nodes: founders().map(|founder| founder.node.0).collect(),
            addresses: founders().map(|founder| founder.address.clone()).collect(),
            place: place as u32,
        }
    }

    /// What is heard when node `node` says this.
    pub fn heard(self, node: NodeId) -> Heard {
        let plan = if self.cluster.is_empty() {
            None
        } else {
            let cluster = <[u8; 16]>::try_from(&self.cluster[..]).map(u128::from_be_bytes).ok().filter(|id| *id != 0);
            let Some(cluster) = cluster.filter(|_| self.nodes.len() == self.addresses.len()) else {
                return Heard::Away("has a plan that makes no sense".to_owned());
            };
            let founders = self.nodes.into_iter().zip(self.addresses);
            let founders = founders.map(|(node, address)| Founder { node: NodeId(node), address }).collect();
            Some(Plan { cluster: ClusterId(cluster), founders })
        };
        Heard::Founder { node, peers: self.peers, plan }
    }
}

/// What a member says when it is asked as if it was still to be founded.
#[derive(Clone, Debug)]
pub struct Founders(Tell);

impl Founders {
    /// Of a cluster that was founded so.
    pub fn new(plan: &Plan) -> Founders {
        Founders(Tell::new(&[], 0, Some(plan)))
    }

    /// Answers a peer; what is another service's comes back.
    ///
    /// # Errors
    ///
    /// It is another service's.
    pub fn answer(&mut self, origin: &Origin, incoming: Incoming) -> Result<Option<Outcome>, Incoming> {
        founders::dispatch(self, &mut (), origin, incoming)
    }
}

impl founders::Service<()> for Founders {
    fn ask(&mut self, (): &mut (), _: &Origin, _: Tell, reply: Reply<Tell>) -> Option<Answer> {
        Some(reply.ok(&self.0))
    }
}
