//! All nodes of a cluster in one table, and a verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::bail;
use serde::Serialize;

use super::gathering;
use super::info::{LEARNER, Member, NodeInfo, VOTER};

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
    /// The nodes, in the order of their ids.
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
    /// Its part: `voter`, `learner` or `none`.
    pub part: String,
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
    /// The node.
    pub node: String,
    /// Where it was asked, or would have been.
    pub address: String,
    /// What it said, or why it did not.
    pub answer: Result<NodeInfo, String>,
}

impl ClusterStatus {
    /// Asks the nodes at `addresses`, and all that any of them names.
    ///
    /// # Errors
    ///
    /// None of them answers.
    pub fn gather(addresses: &[String], password: Option<&str>) -> anyhow::Result<ClusterStatus> {
        let gathered = gathering::gather(addresses, password);
        if gathered.nodes.is_empty() {
            bail!("no node answers: {}", gathered.silent.join("; "));
        }
        Ok(judge(&gathered.nodes))
    }

    /// The same, where the addresses are but guesses: the first that answers is meant, the others may be of other clusters.
    ///
    /// # Errors
    ///
    /// None of them answers.
    pub fn gather_from_first(addresses: &[String], password: Option<&str>) -> anyhow::Result<ClusterStatus> {
        match gathering::first(addresses, password) {
            Some(first) => ClusterStatus::gather(&[first], password),
            None => ClusterStatus::gather(addresses, password),
        }
    }

    /// The table and the verdict, as text.
    pub fn table(&self) -> String {
        let head = ["node", "address", "part", "role", "term", "commit", "applied", "lag", "state"].map(str::to_owned);
        let mut rows = vec![head];
        for node in &self.nodes {
            let told = |get: fn(&NodeInfo) -> String| node.info.as_ref().map_or("-".to_owned(), get);
            rows.push([
                node.node.clone(),
                node.address.clone(),
                node.part.clone(),
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

/// How a cluster stands whose nodes answered so.
pub fn judge(asked: &[Asked]) -> ClusterStatus {
    let scene = Scene::of(asked);
    let nodes: Vec<&Asked> = asked.iter().filter(|asked| scene.shows(asked)).collect();
    let voters: Vec<&Asked> = nodes.iter().copied().filter(|asked| scene.part(&asked.node) == VOTER).collect();
    let answers = || voters.iter().filter_map(|asked| asked.answer.as_ref().ok());
    let majority = voters.len() / 2 + 1;
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
    let nodes: Vec<NodeStatus> = nodes.iter().map(|asked| scene.status(asked, leader.as_ref())).collect();

    let well = nodes.iter().filter(|node| node.state == "ok").count();
    let (all, voting, answering) = (nodes.len(), voters.len(), answers().count());
    let who = if voting == all { "nodes" } else { "voters" };
    let (verdict, summary) = match &leader {
        Some(_) if well == all && voting == all => (Verdict::Healthy, format!("healthy: {well} of {all}")),
        Some(_) if well == all => (Verdict::Healthy, format!("healthy: {well} of {all}, {voting} of them vote")),
        Some(_) => (Verdict::Degraded, format!("degraded: {well} of {all} nodes are well; the cluster serves")),
        None if answering >= majority => (
            Verdict::NoQuorum,
            format!("no quorum: {answering} of {voting} {who} answer, but no majority follows one leader"),
        ),
        None => (Verdict::NoQuorum, format!("no quorum: {answering} of {voting} {who} answer, {majority} are needed")),
    };
    ClusterStatus { verdict, summary, leader: leader.map(|(_, node)| node), nodes }
}

/// What all nodes together say of each of them.
struct Scene<'a> {
    /// Of those that answer, the one that knows best who is a member: the leader of the highest term, or who is furthest.
    best: Option<&'a NodeInfo>,
    /// Known to be members no more.
    removed: BTreeSet<&'a str>,
    /// Decided in the cluster.
    commit: u64,
}

impl<'a> Scene<'a> {
    fn of(asked: &'a [Asked]) -> Scene<'a> {
        let answers = || asked.iter().filter_map(|asked| asked.answer.as_ref().ok());
        Scene {
            best: answers().max_by_key(|info| (info.role == "leader", info.term, info.applied)),
            removed: answers().flat_map(|info| &info.removed).map(String::as_str).collect(),
            commit: answers().map(|info| info.commit).max().unwrap_or(0),
        }
    }

    /// Of nodes that were removed, those that run still.
    fn shows(&self, asked: &Asked) -> bool {
        asked.answer.is_ok() || !self.removed.contains(&*asked.node)
    }

    /// A node as the one knows it who knows best.
    fn member(&self, node: &str) -> Option<&Member> {
        self.best?.members.iter().find(|member| member.node == node)
    }

    fn part(&self, node: &str) -> &str {
        match self.member(node) {
            Some(member) => &member.part,
            // A cluster of one, before it has written itself down.
            None if self.best.is_some_and(|best| best.members.is_empty()) => VOTER,
            None => "none",
        }
    }

    fn status(&self, asked: &Asked, leader: Option<&(u64, String)>) -> NodeStatus {
        let lag = asked.answer.as_ref().ok().map(|info| self.commit.saturating_sub(info.applied));
        let member = self.member(&asked.node);
        let part = self.part(&asked.node);
        let is = |what: fn(&Member) -> bool| member.is_some_and(what);
        let state = match &asked.answer {
            _ if self.removed.contains(&*asked.node) => "removed".to_owned(),
            Err(why) if is(|member| member.leaving) => format!("leaving; does not answer: {why}"),
            Err(why) => format!("does not answer: {why}"),
            Ok(_) if is(|member| member.leaving) => "leaving".to_owned(),
            Ok(_) if is(|member| member.snapshot) => "catching up by snapshot".to_owned(),
            Ok(_) if part != VOTER && part != LEARNER => "joining".to_owned(),
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
            node: asked.node.clone(),
            address: asked.address.clone(),
            part: part.to_owned(),
            state,
            lag,
            info: asked.answer.as_ref().ok().cloned(),
        }
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
            let answer = match node {
                Some((role, leader, applied)) => Ok(NodeInfo::parse(&text(id, role, leader, applied)).unwrap()),
                None => Err("Connection refused".to_owned()),
            };
            Asked { node: format!("{id:016x}"), address: format!("h{id}:7001"), answer }
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
node              address  part   role      term  commit  applied  lag  state
0000000000000001  h1:7001  voter  leader    3     5000    5000     0    ok
0000000000000002  h2:7001  voter  follower  3     4999    4999     1    ok
0000000000000003  h3:7001  voter  follower  3     4999    4999     1    ok

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

    /// The same, and what the leader says of node 3.
    fn with_third(third: Says, is: &str, removed: &str) -> ClusterStatus {
        let said = text(1, "leader", Some(1), 5000).replace("client=h3:7001", &format!("client=h3:7001{is}"));
        let mut asked = cluster([LEADER, FOLLOWER, third]);
        asked[0].answer =
            NodeInfo::parse(&format!("{said}raft_removed:{removed}\r\n")).map_err(|error| error.to_string());
        judge(&asked)
    }

    #[test]
    fn learners_stand_by_and_do_not_count_for_a_majority() {
        let well = with_third(FOLLOWER, ",part=learner", "");
        assert_eq!((well.verdict, &*well.summary), (Verdict::Healthy, "healthy: 3 of 3, 2 of them vote"));
        assert_eq!((&*well.nodes[2].part, &*well.nodes[2].state), ("learner", "ok"));
        let mut asked = cluster([LEADER, None, FOLLOWER]);
        let said = text(1, "leader", Some(1), 5000).replace("client=h3:7001", "client=h3:7001,part=learner");
        asked[0].answer = NodeInfo::parse(&said).map_err(|error| error.to_string());
        assert_eq!(judge(&asked).summary, "no quorum: 1 of 2 voters answer, 2 are needed");
    }

    #[test]
    fn who_comes_and_who_goes_is_seen() {
        let state = |status: &ClusterStatus| (status.verdict, status.nodes[2].state.clone());
        let degraded = |state: &str| (Verdict::Degraded, state.to_owned());
        assert_eq!(state(&with_third(FOLLOWER, ",part=none", "")), degraded("joining"));
        let snapshot = with_third(FOLLOWER, ",part=learner,snapshot=1", "");
        assert_eq!(state(&snapshot), degraded("catching up by snapshot"));
        assert_eq!(state(&with_third(FOLLOWER, ",part=voter,leaving=1", "")), degraded("leaving"));
        let dead = "leaving; does not answer: Connection refused";
        assert_eq!(state(&with_third(None, ",part=voter,leaving=1", "")), degraded(dead));
    }

    #[test]
    fn a_removed_node_is_shown_only_while_it_runs() {
        let gone = |third| {
            let mut asked = cluster([LEADER, FOLLOWER, third]);
            let info = asked[0].answer.as_mut().unwrap();
            info.members.pop();
            info.removed = vec!["0000000000000003".to_owned()];
            judge(&asked)
        };
        assert_eq!(gone(None).summary, "healthy: 2 of 2");
        assert_eq!(gone(FOLLOWER).nodes[2].state, "removed");
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
