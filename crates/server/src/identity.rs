//! What a data directory says of itself: its node, and its place in a cluster.
//!
//! A text file, `IDENTITY`, of format 2:
//!
//! ```toml
//! format = 2
//! standing = "member"                           # "new", "planned" or "member"
//! node_id = "4be1c97d0a6f3328"                  # random, drawn with the directory: another disk is another node
//! cluster_id = "9f0c2b7a51d84e63a7c1e05d2f3b8846"   # random, drawn by the first of the founders; absent when new
//!
//! [[founders]]                                  # every node of the cluster when it was founded; none when new
//! node_id = "4be1c97d0a6f3328"
//! address = "10.0.0.1:7101"                     # where peers reach it; "" in a cluster of one
//! ```
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
}

/// A cluster as it is founded.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its id. Never 0.
    pub cluster: ClusterId,
    /// Its nodes, in the order of `--peers`. No id is there twice.
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
        let (standing, plan) = match &self.standing {
            Standing::New => (StandingName::New, None),
            Standing::Planned(plan) => (StandingName::Planned, Some(plan)),
            Standing::Member(plan) => (StandingName::Member, Some(plan)),
        };
        let founders = plan.iter().flat_map(|plan| &plan.founders);
        let form = Form {
            format: FORMAT,
            standing,
            node_id: node_text(self.node),
            cluster_id: plan.map(|plan| plan.cluster.to_string()),
            founders: founders
                .map(|founder| FounderForm { node_id: node_text(founder.node), address: founder.address.clone() })
                .collect(),
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
        let plan = match form.cluster_id {
            Some(cluster) => Some(Plan::of(&cluster, &form.founders)?),
            None if !form.founders.is_empty() => return Err(damaged("founders without a cluster")),
            None => None,
        };
        if plan.as_ref().is_some_and(|plan| plan.place_of(node).is_none()) {
            return Err(damaged("the node is not among the founders"));
        }
        let standing = match (form.standing, plan) {
            (StandingName::New, None) => Standing::New,
            (StandingName::Planned, Some(plan)) => Standing::Planned(plan),
            (StandingName::Member, Some(plan)) => Standing::Member(plan),
            _ => return Err(damaged("standing and cluster contradict each other")),
        };
        Ok(Identity { node, standing })
    }
}

impl Plan {
    /// The place of `node` in the list of founders.
    pub fn place_of(&self, node: NodeId) -> Option<usize> {
        self.founders.iter().position(|founder| founder.node == node)
    }

    fn of(cluster: &str, founders: &[FounderForm]) -> Result<Plan, IdentityError> {
        let cluster = u128::from_str_radix(cluster, 16).ok().filter(|id| *id != 0 && cluster.len() == 32);
        let cluster = cluster.ok_or_else(|| IdentityError::Damaged("cluster_id is no cluster's id".to_owned()))?;
        let founder = |form: &FounderForm| Ok(Founder { node: node_of(&form.node_id)?, address: form.address.clone() });
        let founders = founders.iter().map(founder).collect::<Result<Vec<_>, _>>()?;
        let plan = Plan { cluster: ClusterId(cluster), founders };
        match plan.twice() {
            Some(node) => Err(IdentityError::Damaged(format!("founder {} is there twice", node_text(node)))),
            None => Ok(plan),
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
    founders: Vec<FounderForm>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum StandingName {
    New,
    Planned,
    Member,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FounderForm {
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
        for standing in [Standing::New, Standing::Planned(plan()), Standing::Member(plan())] {
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
        for damaged in ["form", "format = 2", &twice, &stranger, &zero, &short, &new, &more] {
            assert!(matches!(Identity::decode(damaged), Err(IdentityError::Damaged(_))), "{damaged}");
        }
    }
}
