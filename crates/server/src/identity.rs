//! What a data directory says of itself: its node, and its place in a cluster.
//!
//! A text file, `IDENTITY`, of format 2:
//!
//! ```toml
//! format = 2
//! standing = "member"                           # "new", "planned", "member", "joined" or "removed"
//! node_id = "4be1c97d0a6f3328"                  # random, drawn with the directory: another disk is another node
//! cluster_id = "9f0c2b7a51d84e63a7c1e05d2f3b8846"   # random, drawn by the first of the founders; absent when new
//!
//! [[founders]]                                  # every node of the cluster when it was founded; none when new
//! node_id = "4be1c97d0a6f3328"
//! address = "10.0.0.1:7101"                     # where peers reach it; "" in a cluster of one
//! ```
//!
//! A node that joined has `contacts` in the place of `founders`: who was a member then, itself included. The cluster's own
//! records tell who is one now. Only a node's own address is kept up to date here. A removed node has neither.
//!
//! How a standing follows from the one before is told in [`crate::founding`].

use dstore_rpc::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};

/// The format of a data directory as a whole. Raised when a file in it changes in a way older binaries cannot read.
pub const FORMAT: u32 = 2;

/// A node, and its place in a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The node. Never 0.
    pub node: NodeId,
    /// How far it is on the way into its cluster.
    pub standing: Standing,
}

/// How far a node is on the way into its cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It has an id that peers may have written down, and no cluster.
    New,
    /// It has promised to be part of this cluster. Whether all others have is not known here.
    Planned(Plan),
    /// All founders have promised: the cluster exists.
    Member(Plan),
    /// It was taken in by a cluster that existed, whose members were these, itself included.
    Joined(Plan),
    /// It was a member of this cluster, and never will be again.
    Removed(ClusterId),
}

/// A cluster as it is founded, or as a node that joins it finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its id. Never 0.
    pub cluster: ClusterId,
    /// Its nodes, where it is founded in the order of `--peers`. No id is there twice.
    pub founders: Vec<Founder>,
}

/// A node of a cluster that is founded.
#[derive(Clone, Debug, PartialEq)]
pub struct Founder {
    /// Which.
    pub node: NodeId,
    /// Where its peers reach it; empty in a cluster of one.
    pub address: String,
}

impl Identity {
    /// The text of the file.
    pub fn encode(&self) -> String {
        let (standing, plan, joined) = match &self.standing {
            Standing::New => (StandingName::New, None, None),
            Standing::Planned(plan) => (StandingName::Planned, Some(plan), None),
            Standing::Member(plan) => (StandingName::Member, Some(plan), None),
            Standing::Joined(plan) => (StandingName::Joined, None, Some(plan)),
            Standing::Removed(_) => (StandingName::Removed, None, None),
        };
        let cluster = match &self.standing {
            Standing::Removed(cluster) => Some(*cluster),
            _ => plan.or(joined).map(|plan| plan.cluster),
        };
        let forms = |plan: Option<&Plan>| {
            let nodes = plan.into_iter().flat_map(|plan| &plan.founders);
            nodes.map(|node| NodeForm { node_id: node_text(node.node), address: node.address.clone() }).collect()
        };
        let form = Form {
            format: FORMAT,
            standing,
            node_id: node_text(self.node),
            cluster_id: cluster.map(|cluster| cluster.to_string()),
            founders: forms(plan),
            contacts: forms(joined),
        };
        let table = toml::to_string(&form).expect("texts and numbers have a TOML form");
        format!("# What this directory is. Do not edit.\n{table}")
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    ///
    /// It is of another format, or not what [`Identity::encode`] writes.
    pub fn decode(text: &str) -> Result<Identity, IdentityError> {
        let damaged = |why: &str| IdentityError::Damaged(why.to_owned());
        let table: toml::Table = toml::from_str(text).map_err(|error| damaged(error.message()))?;
        // The format is judged first: a newer one may have fields this binary does not know.
        match table.get("format").and_then(toml::Value::as_integer) {
            Some(format) if format == i64::from(FORMAT) => {}
            Some(format) => return Err(IdentityError::Format(format)),
            None => return Err(damaged("it names no format")),
        }
        let form: Form = table.try_into().map_err(|error: toml::de::Error| damaged(error.message()))?;
        let node = node_of(&form.node_id)?;
        let cluster = form.cluster_id.as_deref().map(cluster_of).transpose()?;
        let plan = |nodes: &[NodeForm]| match cluster {
            Some(cluster) => Plan::of(cluster, node, nodes),
            None => Err(damaged("nodes without a cluster")),
        };
        let standing = match (form.standing, &form.founders[..], &form.contacts[..]) {
            (StandingName::New, [], []) if cluster.is_none() => Standing::New,
            (StandingName::Planned, founders, []) => Standing::Planned(plan(founders)?),
            (StandingName::Member, founders, []) => Standing::Member(plan(founders)?),
            (StandingName::Joined, [], contacts) => Standing::Joined(plan(contacts)?),
            (StandingName::Removed, [], []) => {
                Standing::Removed(cluster.ok_or_else(|| damaged("removed from no cluster"))?)
            }
            _ => return Err(damaged("standing, cluster and nodes contradict each other")),
        };
        Ok(Identity { node, standing })
    }
}

impl Plan {
    /// The place of `node` in the list of founders.
    pub fn place_of(&self, node: NodeId) -> Option<usize> {
        self.founders.iter().position(|founder| founder.node == node)
    }

    /// The address of a node; empty where it has none, or is not there.
    pub fn address_of(&self, node: NodeId) -> &str {
        self.place_of(node).map_or("", |place| &self.founders[place].address)
    }

    fn of(cluster: ClusterId, own: NodeId, nodes: &[NodeForm]) -> Result<Plan, IdentityError> {
        let founder = |form: &NodeForm| Ok(Founder { node: node_of(&form.node_id)?, address: form.address.clone() });
        let founders = nodes.iter().map(founder).collect::<Result<Vec<_>, _>>()?;
        let plan = Plan { cluster, founders };
        if let Some(node) = plan.twice() {
            return Err(IdentityError::Damaged(format!("node {} is there twice", node_text(node))));
        }
        match plan.place_of(own) {
            Some(_) => Ok(plan),
            None => Err(IdentityError::Damaged("the node is not among those of its cluster".to_owned())),
        }
    }

    /// A node that has two places in the list.
    pub fn twice(&self) -> Option<NodeId> {
        let is_twice = |(place, founder): (usize, &Founder)| self.place_of(founder.node) != Some(place);
        self.founders.iter().enumerate().find(|entry| is_twice(*entry)).map(|(_, founder)| founder.node)
    }
}

/// A node id as files, commands and people write it: 16 hexadecimal digits.
pub fn node_text(node: NodeId) -> String {
    format!("{:016x}", node.0)
}

fn cluster_of(text: &str) -> Result<ClusterId, IdentityError> {
    let id = u128::from_str_radix(text, 16).ok().filter(|id| *id != 0 && text.len() == 32);
    id.map(ClusterId).ok_or_else(|| IdentityError::Damaged("cluster_id is no cluster's id".to_owned()))
}

fn node_of(text: &str) -> Result<NodeId, IdentityError> {
    let id = u64::from_str_radix(text, 16).ok().filter(|id| *id != 0 && text.len() == 16);
    id.map(NodeId).ok_or_else(|| IdentityError::Damaged(format!("`{text}` is no node's id")))
}

/// Why a text is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It is of another format than [`FORMAT`].
    #[error("format {0}")]
    Format(i64),
    /// It is not what it should be.
    #[error("{0}")]
    Damaged(String),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Form {
    format: u32,
    standing: StandingName,
    node_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    founders: Vec<NodeForm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    contacts: Vec<NodeForm>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum StandingName {
    New,
    Planned,
    Member,
    Joined,
    Removed,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct NodeForm {
    node_id: String,
    address: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let founder = |node, address: &str| Founder { node: NodeId(node), address: address.to_owned() };
        Plan { cluster: ClusterId(u128::MAX - 7), founders: vec![founder(1, "a:1"), founder(u64::MAX, "[::1]:2")] }
    }

    #[test]
    fn what_is_written_is_read() {
        let removed = Standing::Removed(ClusterId(9));
        let standings =
            [Standing::New, Standing::Planned(plan()), Standing::Member(plan()), Standing::Joined(plan()), removed];
        for standing in standings {
            let identity = Identity { node: NodeId(1), standing };
            let text = identity.encode();
            assert_eq!(Identity::decode(&text), Ok(identity), "{text}");
        }
    }

    #[test]
    fn another_format_is_told_from_damage() {
        assert_eq!(Identity::decode("format = 1\nnode_id = \"x\""), Err(IdentityError::Format(1)));
        assert_eq!(Identity::decode("format = 99\nmore = 1"), Err(IdentityError::Format(99)));
    }

    #[test]
    fn contradictions_are_damage() {
        let sound = Identity { node: NodeId(1), standing: Standing::Member(plan()) }.encode();
        let twice = sound.replace("ffffffffffffffff", "0000000000000001");
        let stranger = sound.replacen("0000000000000001", "0000000000000003", 1);
        let zero = sound.replace("0000000000000001", "0000000000000000");
        let short = sound.replace("0000000000000001", "1");
        let new = sound.replace("\"member\"", "\"new\"");
        let more = format!("{sound}\nmore = 1");
        let joined = sound.replace("\"member\"", "\"joined\"");
        let removed = sound.replace("\"member\"", "\"removed\"");
        for damaged in ["form", "format = 2", &twice, &stranger, &zero, &short, &new, &more, &joined, &removed] {
            assert!(matches!(Identity::decode(damaged), Err(IdentityError::Damaged(_))), "{damaged}");
        }
    }
}
