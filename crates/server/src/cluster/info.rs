//! What a node says of itself and of its cluster in `INFO server`, `INFO raft` and `INFO persistence`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use super::resp::Client;

/// What one node says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeInfo {
    /// Its cluster's id; empty where it does not say.
    pub cluster: String,
    /// Its id.
    pub node: String,
    /// Version of its binary.
    pub version: String,
    /// Its part: `leader`, `follower`, ...
    pub role: String,
    /// Its term.
    pub term: u64,
    /// The leader it knows.
    pub leader: Option<String>,
    /// Decided up to here, as it knows.
    pub commit: u64,
    /// Applied up to here.
    pub applied: u64,
    /// Its log on disk.
    pub log_bytes: u64,
    /// Entries of its log.
    pub log_entries: u64,
    /// Room on its disk, `ample`, `low` or `critical`; empty where it does not say.
    pub disk_space: String,
    /// Whether its disk stands still.
    pub disk_stalled: bool,
    /// The nodes of the cluster.
    pub members: Vec<Member>,
    /// Nodes that were, and were removed.
    pub removed: Vec<String>,
}

/// The part of a node that votes, in INFO.
pub const VOTER: &str = "voter";

/// The part of one that has a copy and does not vote.
pub const LEARNER: &str = "learner";

/// A node of the cluster, as another one knows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Member {
    /// Its id.
    pub node: String,
    /// Where its peers reach it.
    pub peer: String,
    /// Where clients reach it; empty where that is not known.
    pub client: String,
    /// Its part in the range of user data: `voter`, `learner` or `none`.
    pub part: String,
    /// The one who says this is sending it a snapshot.
    pub snapshot: bool,
    /// It was removed, and goes as soon as no range counts on it.
    pub leaving: bool,
}

impl NodeInfo {
    /// Asks the node at `address`.
    ///
    /// # Errors
    ///
    /// It does not answer in time, wants another password, or is no node of ours.
    pub fn ask(address: &str, password: Option<&str>, timeout: Duration) -> anyhow::Result<NodeInfo> {
        let mut client = Client::connect(address, timeout)?;
        if let Some(password) = password {
            client.call(&["AUTH", password])?;
        }
        let answers = client.call_text(&["INFO", "server"]).and_then(|server| {
            let raft = client.call_text(&["INFO", "raft"])?;
            let persistence = client.call_text(&["INFO", "persistence"])?;
            Ok([server, raft, persistence].join("\r\n"))
        });
        match answers {
            Ok(text) => NodeInfo::parse(&text),
            Err(error) if error.to_string().starts_with("NOAUTH") => {
                bail!("wants a password: give --password-file FILE")
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the text of the sections.
    ///
    /// # Errors
    ///
    /// It is not what a node of ours says.
    pub fn parse(text: &str) -> anyhow::Result<NodeInfo> {
        let lines = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        let fields: BTreeMap<&str, &str> = lines.collect();
        let Some(node) = fields.get("dstore_node_id") else { bail!("is no dstore node") };
        let word = |name: &str| fields.get(name).copied().with_context(|| format!("does not tell {name}"));
        let number =
            |name: &str| word(name)?.parse::<u64>().with_context(|| format!("tells a {name} that is no number"));
        let members = (0..).map_while(|place| fields.get(&*format!("raft_member{place}")));
        let removed = fields.get("raft_removed").copied().unwrap_or_default();
        Ok(NodeInfo {
            cluster: fields.get("raft_cluster").copied().unwrap_or_default().to_owned(),
            node: (*node).to_owned(),
            version: word("dstore_version")?.to_owned(),
            role: word("raft_role")?.to_owned(),
            term: number("raft_term")?,
            leader: fields.get("raft_leader").filter(|id| is_node(id)).map(|id| (*id).to_owned()),
            commit: number("raft_commit")?,
            applied: number("raft_applied")?,
            log_bytes: number("raft_log_bytes")?,
            log_entries: number("raft_log_entries")?,
            // Older ones do not say.
            disk_space: fields.get("dstore_disk_space").copied().unwrap_or_default().to_owned(),
            disk_stalled: fields.get("dstore_disk_stalled") == Some(&"1"),
            members: members.map(|line| Member::parse(line)).collect::<Result<_, _>>()?,
            removed: removed.split(',').filter(|id| is_node(id)).map(str::to_owned).collect(),
        })
    }
}

/// Not every word after `raft_leader:` is a node: there may be none.
fn is_node(id: &str) -> bool {
    id.len() == 16 && id.bytes().any(|byte| byte != b'0')
}

impl Member {
    /// Reads `id=...,peer=...,client=...,part=...` and what may follow. In older versions all vote.
    fn parse(line: &str) -> anyhow::Result<Member> {
        let fields: BTreeMap<&str, &str> = line.split(',').filter_map(|field| field.split_once('=')).collect();
        let field = |name: &str| fields.get(name).map(|value| (*value).to_owned());
        let node = field("id").with_context(|| format!("tells of a member without an id: {line}"))?;
        Ok(Member {
            node,
            peer: field("peer").unwrap_or_default(),
            client: field("client").unwrap_or_default(),
            part: field("part").unwrap_or_else(|| VOTER.to_owned()),
            snapshot: fields.contains_key("snapshot"),
            leaving: fields.contains_key("leaving"),
        })
    }

    /// Where to ask it. One that listens on all addresses is reached where its peers reach it.
    pub fn address(&self) -> Option<String> {
        let (host, port) = self.client.rsplit_once(':')?;
        let everywhere = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        match self.peer.rsplit_once(':') {
            Some((peer_host, _)) if everywhere => Some(format!("{peer_host}:{port}")),
            _ => Some(self.client.clone()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What node `node` of three says.
    pub fn text(node: u64, role: &str, leader: Option<u64>, applied: u64) -> String {
        let leader = leader.map(|id| format!("{id:016x}")).unwrap_or_default();
        let mut text = format!(
            "# Server\r\nredis_version:7.4.0\r\ndstore_version:0.1.0\r\ndstore_node_id:{node:016x}\r\n\r\n# Raft\r\n\
             raft_role:{role}\r\nraft_term:3\r\nraft_leader:{leader}\r\nraft_commit:{applied}\r\n\
             raft_applied:{applied}\r\nraft_log_bytes:4096\r\nraft_log_entries:7\r\n"
        );
        for member in 1..=3 {
            let place = member - 1;
            text += &format!("raft_member{place}:id={member:016x},peer=h{member}:7101,client=h{member}:7001\r\n");
        }
        text
    }

    #[test]
    fn a_node_tells_how_it_stands_and_who_the_others_are() {
        let info = NodeInfo::parse(&text(1, "leader", Some(1), 120)).unwrap();
        assert_eq!((&*info.node, &*info.role, info.term, info.applied), ("0000000000000001", "leader", 3, 120));
        assert_eq!(info.leader.as_deref(), Some("0000000000000001"));
        assert_eq!(info.members.len(), 3);
        assert_eq!(info.members[2].client, "h3:7001");
        assert_eq!(NodeInfo::parse(&text(1, "candidate", None, 1)).unwrap().leader, None);
    }

    #[test]
    fn what_a_node_says_of_others_is_read() {
        let more = text(1, "leader", Some(1), 120).replace("client=h2:7001", "client=h2:7001,part=learner,snapshot=1");
        let more = more.replace("client=h3:7001", "client=h3:7001,part=voter,leaving=1");
        let gone = "raft_removed:00000000000000aa,00000000000000ab\r\nraft_cluster:c\r\n";
        let info = NodeInfo::parse(&format!("{more}{gone}")).unwrap();
        let parts: Vec<_> =
            info.members.iter().map(|member| (&*member.part, member.snapshot, member.leaving)).collect();
        assert_eq!(parts, [("voter", false, false), ("learner", true, false), ("voter", false, true)]);
        assert_eq!((info.removed.len(), &*info.removed[1], &*info.cluster), (2, "00000000000000ab", "c"));
    }

    #[test]
    fn another_server_is_none_of_ours() {
        let error = NodeInfo::parse("# Server\r\nredis_version:8.0.0\r\n").unwrap_err().to_string();
        assert_eq!(error, "is no dstore node");
        let older = "dstore_node_id:0000000000000001\r\ndstore_version:0.0.1\r\n";
        assert_eq!(NodeInfo::parse(older).unwrap_err().to_string(), "does not tell raft_role");
    }

    #[test]
    fn a_node_that_listens_everywhere_is_reached_where_its_peers_reach_it() {
        let member = |peer: &str, client: &str| Member::parse(&format!("id=,peer={peer},client={client}")).unwrap();
        assert_eq!(member("10.0.0.2:7101", "0.0.0.0:7001").address().unwrap(), "10.0.0.2:7001");
        assert_eq!(member("[fd00::2]:7101", "[::]:7001").address().unwrap(), "[fd00::2]:7001");
        assert_eq!(member("10.0.0.2:7101", "10.1.0.2:7001").address().unwrap(), "10.1.0.2:7001");
        assert_eq!(member("", "0.0.0.0:7001").address().unwrap(), "0.0.0.0:7001", "a cluster of one");
        assert_eq!(member("10.0.0.2:7101", "").address(), None);
    }
}
