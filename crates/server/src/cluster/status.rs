//! All nodes of a cluster in one table, and a verdict.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;

use super::info::{Member, NodeInfo};

/// How long a node may take to answer. Longer than any pause that is worth calling healthy.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Entries that a healthy node may be behind.
const LAG_MAX: u64 = 1000;

/// How a cluster stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterStatus {
    /// In one word.
    pub verdict: Verdict,
    /// In one line.
    pub summary: String,
    /// The leader that a majority follows.
    pub leader: Option<String>,
    /// The nodes, in the order of the cluster's founding.
    pub nodes: Vec<NodeStatus>,
}

/// How a cluster stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every node answers, and keeps up with one leader.
    Healthy,
    /// A majority works; the cluster serves, and one more failure may stop it.
    Degraded,
    /// No majority follows one leader: the cluster serves nobody.
    NoQuorum,
}

/// How one node stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeStatus {
    /// Its id.
    pub node: String,
    /// Where it was asked, or would have been.
    pub address: String,
    /// `ok`, or what is wrong.
    pub state: String,
    /// Entries decided in the cluster that it has not applied.
    pub lag: Option<u64>,
    /// What it said.
    pub info: Option<NodeInfo>,
}

/// What came of asking a node.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The node, as the others know it.
    pub member: Member,
    /// Where it was asked.
    pub address: String,
    /// What it said, or why it did not.
    pub answer: Result<NodeInfo, String>,
}

impl ClusterStatus {
    /// Asks the first of `addresses` that answers for the members of its cluster, and then each of those.
    ///
    /// # Errors
    ///
    /// None of them answers.
    pub fn gather(addresses: &[String], password: Option<&str>) -> anyhow::Result<ClusterStatus> {
        let mut silent = BTreeMap::new();
        for address in addresses {
            match NodeInfo::ask(address, password, TIMEOUT) {
                Ok(first) => return Ok(judge(&ask_all(address, first, password, &silent))),
                Err(error) => drop(silent.insert(address.clone(), brief(&error))),
            }
        }
        let each: Vec<String> = silent.iter().map(|(address, why)| format!("{address}: {why}")).collect();
        bail!("no node answers: {}", each.join("; "))
    }

    /// The table and the verdict, as text.
    pub fn table(&self) -> String {
        let head = ["node", "address", "role", "term", "commit", "applied", "lag", "state"].map(str::to_owned);
        let mut rows = vec![head];
        for node in &self.nodes {
            let told = |get: fn(&NodeInfo) -> String| node.info.as_ref().map_or("-".to_owned(), get);
            rows.push([
                node.node.clone(),
                node.address.clone(),
                told(|info| info.role.clone()),
                told(|info| info.term.to_string()),
                told(|info| info.commit.to_string()),
                told(|info| info.applied.to_string()),
                node.lag.map_or("-".to_owned(), |lag| lag.to_string()),
                node.state.clone(),
            ]);
        }
        let mut text = aligned(&rows);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{}", self.summary);
        text
    }
}

/// Rows with their columns one below the other.
pub fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Asks all members at the same time: one that hangs holds up no other. Those that were silent before are not waited for
/// again.
fn ask_all(address: &str, first: NodeInfo, password: Option<&str>, silent: &BTreeMap<String, String>) -> Vec<Asked> {
    let members = first.members.clone();
    if members.is_empty() {
        let member = Member { node: first.node.clone(), peer: String::new(), client: address.to_owned() };
        return vec![Asked { member, address: address.to_owned(), answer: Ok(first) }];
    }
    std::thread::scope(|scope| {
        let ask = |member: Member| {
            if member.node == first.node {
                return Asked { member, address: address.to_owned(), answer: Ok(first.clone()) };
            }
            let Some(address) = member.address() else {
                let why = "its client address is not known".to_owned();
                return Asked { address: member.peer.clone(), member, answer: Err(why) };
            };
            let answer = match silent.get(&address) {
                Some(why) => Err(why.clone()),
                None => NodeInfo::ask(&address, password, TIMEOUT).map_err(|error| brief(&error)),
            };
            let answer = answer.and_then(|info| match info.node == member.node {
                true => Ok(info),
                false => Err(format!("another node answers there: {}", info.node)),
            });
            Asked { member, address, answer }
        };
        let asked: Vec<_> = members.into_iter().map(|member| scope.spawn(move || ask(member))).collect();
        asked.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// An error without the number that the system has for it.
fn brief(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// How a cluster stands whose nodes answered so.
pub fn judge(asked: &[Asked]) -> ClusterStatus {
    let answers = || asked.iter().filter_map(|asked| asked.answer.as_ref().ok());
    let majority = asked.len() / 2 + 1;
    // A leader counts when it says itself that it leads, and a majority, itself included, follows it in its term.
    let mut followed: BTreeMap<(u64, &str), usize> = BTreeMap::new();
    for info in answers() {
        if let Some(leader) = &info.leader {
            *followed.entry((info.term, leader)).or_default() += 1;
        }
    }
    let leads = |(term, node): (u64, &str)| {
        answers().any(|info| info.role == "leader" && info.node == node && info.term == term)
    };
    let quorum = followed.iter().rev().find(|(leader, count)| **count >= majority && leads(**leader));
    let leader = quorum.map(|((term, node), _)| (*term, (*node).to_owned()));
    let commit = answers().map(|info| info.commit).max().unwrap_or(0);
    let nodes: Vec<NodeStatus> = asked.iter().map(|asked| node_status(asked, leader.as_ref(), commit)).collect();

    let well = nodes.iter().filter(|node| node.state == "ok").count();
    let (all, answering) = (nodes.len(), answers().count());
    let (verdict, summary) = match &leader {
        Some(_) if well == all => (Verdict::Healthy, format!("healthy: {well} of {all}")),
        Some(_) => (Verdict::Degraded, format!("degraded: {well} of {all} nodes are well; the cluster serves")),
        None if answering >= majority => (
            Verdict::NoQuorum,
            format!("no quorum: {answering} of {all} nodes answer, but no majority follows one leader"),
        ),
        None => (Verdict::NoQuorum, format!("no quorum: {answering} of {all} nodes answer, {majority} are needed")),
    };
    ClusterStatus { verdict, summary, leader: leader.map(|(_, node)| node), nodes }
}

fn node_status(asked: &Asked, leader: Option<&(u64, String)>, commit: u64) -> NodeStatus {
    let lag = asked.answer.as_ref().ok().map(|info| commit.saturating_sub(info.applied));
    let state = match &asked.answer {
        Err(why) => format!("does not answer: {why}"),
        Ok(info) if info.leader.is_none() => "knows no leader".to_owned(),
        Ok(info) if leader.is_some_and(|(term, node)| info.leader.as_ref() != Some(node) || info.term != *term) => {
            "follows another leader".to_owned()
        }
        Ok(info) if info.disk_stalled => "disk stands still".to_owned(),
        Ok(info) if info.disk_space == "low" => "disk nearly full".to_owned(),
        Ok(info) if info.disk_space == "critical" => "disk full".to_owned(),
        Ok(_) if lag.is_some_and(|lag| lag > LAG_MAX) => "catching up".to_owned(),
        Ok(_) => "ok".to_owned(),
    };
    NodeStatus {
        node: asked.member.node.clone(),
        address: asked.address.clone(),
        state,
        lag,
        info: asked.answer.as_ref().ok().cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::info::tests::text;
    use super::*;

    /// What a node says, as (role, leader, applied); None if it does not answer.
    type Says = Option<(&'static str, Option<u64>, u64)>;

    /// Nodes 1 to 3.
    fn cluster(nodes: [Says; 3]) -> Vec<Asked> {
        let asked = |(place, node): (usize, Says)| {
            let id = place as u64 + 1;
            let member = Member { node: format!("{id:016x}"), peer: String::new(), client: format!("h{id}:7001") };
            let answer = match node {
                Some((role, leader, applied)) => Ok(NodeInfo::parse(&text(id, role, leader, applied)).unwrap()),
                None => Err("Connection refused".to_owned()),
            };
            Asked { address: member.client.clone(), member, answer }
        };
        nodes.into_iter().enumerate().map(asked).collect()
    }

    const LEADER: Says = Some(("leader", Some(1), 5000));
    const FOLLOWER: Says = Some(("follower", Some(1), 4999));

    #[test]
    fn three_of_three_are_healthy() {
        let status = judge(&cluster([LEADER, FOLLOWER, FOLLOWER]));
        assert_eq!(status.verdict, Verdict::Healthy);
        let expected = "\
node              address  role      term  commit  applied  lag  state
0000000000000001  h1:7001  leader    3     5000    5000     0    ok
0000000000000002  h2:7001  follower  3     4999    4999     1    ok
0000000000000003  h3:7001  follower  3     4999    4999     1    ok

healthy: 3 of 3
";
        assert_eq!(status.table(), expected);
    }

    #[test]
    fn a_majority_that_works_is_degraded() {
        let status = judge(&cluster([LEADER, FOLLOWER, None]));
        assert_eq!(status.verdict, Verdict::Degraded);
        assert_eq!(status.summary, "degraded: 2 of 3 nodes are well; the cluster serves");
        assert_eq!(status.nodes[2].state, "does not answer: Connection refused");
        let slow = judge(&cluster([LEADER, FOLLOWER, Some(("follower", Some(1), 100))]));
        assert_eq!(
            (slow.verdict, &*slow.nodes[2].state, slow.nodes[2].lag),
            (Verdict::Degraded, "catching up", Some(4900))
        );
        let lost = judge(&cluster([LEADER, FOLLOWER, Some(("candidate", None, 5000))]));
        assert_eq!((lost.verdict, &*lost.nodes[2].state), (Verdict::Degraded, "knows no leader"));
    }

    #[test]
    fn a_node_whose_disk_is_not_well_is_not_well() {
        let with = |change: fn(&mut NodeInfo)| {
            let mut asked = cluster([LEADER, FOLLOWER, FOLLOWER]);
            change(asked[1].answer.as_mut().unwrap());
            let status = judge(&asked);
            (status.verdict, status.nodes[1].state.clone())
        };
        let degraded = |state: &str| (Verdict::Degraded, state.to_owned());
        assert_eq!(with(|info| info.disk_space = "ample".to_owned()), (Verdict::Healthy, "ok".to_owned()));
        assert_eq!(with(|info| info.disk_space = "low".to_owned()), degraded("disk nearly full"));
        assert_eq!(with(|info| info.disk_space = "critical".to_owned()), degraded("disk full"));
        assert_eq!(with(|info| info.disk_stalled = true), degraded("disk stands still"));
    }

    #[test]
    fn without_a_majority_behind_a_leader_there_is_no_quorum() {
        let status = judge(&cluster([LEADER, None, None]));
        assert_eq!(status.summary, "no quorum: 1 of 3 nodes answer, 2 are needed");
        // The followers still name a leader that is dead.
        let headless = judge(&cluster([None, FOLLOWER, FOLLOWER]));
        assert_eq!(headless.verdict, Verdict::NoQuorum);
        assert_eq!(headless.summary, "no quorum: 2 of 3 nodes answer, but no majority follows one leader");
        // One that thinks it leads, and others that do not know it.
        let deposed = judge(&cluster([LEADER, Some(("candidate", None, 1)), Some(("candidate", None, 1))]));
        assert_eq!((deposed.verdict, deposed.leader), (Verdict::NoQuorum, None));
    }

    #[test]
    fn the_json_says_what_the_table_says() {
        let status = judge(&cluster([LEADER, FOLLOWER, None]));
        let json: serde_json::Value = serde_json::to_value(&status).unwrap();
        assert_eq!(json["verdict"], "degraded");
        assert_eq!(json["leader"], "0000000000000001");
        assert_eq!(json["nodes"][1]["info"]["role"], "follower");
        assert_eq!(json["nodes"][2]["info"], serde_json::Value::Null);
    }
}
