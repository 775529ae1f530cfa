//! Joining: how a new node becomes a member of a cluster that exists.
//!
//! ```text
//! new node                          a member                         leader of the system range
//! draws an id, IDENTITY: new
//! join? ──────────────────────────> ask there: ...
//! join? ───────────────────────────────────────────────────────────> writes the node's record
//!       <─────────────────────────────────────────────────────────── pending ... taken in, and who else is there
//! IDENTITY: joined; starts, and is caught up by the leaders
//! ```
//!
//! The cluster has written the node down before the node says so of itself, so a crash anywhere is repeated: it asks again,
//! under the same id, and is told that it is a member. The other way round it could be one that no cluster knows.
//!
//! It waits for ever for a member that answers and a leader, as a founder waits for its peers, and says what it waits for;
//! a refusal ends it.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dstore_node::{Administer, Administered, Join};
use dstore_rpc::{ClusterId, NodeId};

use super::{Founded, local_address, read_secret, start_joined};
use crate::config::{ClusterConfig, PeerAddress};
use crate::data_dir::DataDir;
use crate::identity::{Founder, Identity, Plan, Standing, node_text};
use crate::outsider::{Outsider, Silence};
use crate::random;

/// How long to wait before the same is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The first word about what is missing comes after this, so that a node that joins quickly stays silent.
const FIRST_REPORT: Duration = Duration::from_secs(1);

/// Members that name another one, one after the other, before the first is asked again.
const HOPS_MAX: usize = 4;

/// Joins the cluster of the members that the settings name.
///
/// # Errors
///
/// A member refuses the node, or is not of a kind to take it in; or the address for peers is not this machine's, or taken.
pub(super) fn join(mut dir: DataDir, config: &ClusterConfig) -> anyhow::Result<(DataDir, Founded)> {
    let mut outsider = Outsider::new(read_secret(config)?)?;
    let own = config.peer_listen.as_ref().context("a node that joins has an address for its peers")?;
    let listen = local_address(own)?;
    TcpListener::bind(listen).map(drop).with_context(|| format!("cannot listen for peers on {listen}"))?;
    let node = match dir.identity() {
        Some(identity) => identity.node,
        None => {
            let node = NodeId(random::nonzero_u64()?);
            dir.set_identity(Identity { node, standing: Standing::New })?;
            node
        }
    };
    let join = Join {
        node: node.0,
        incarnation: dir.incarnation().0,
        peer_address: own.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let request = Administer { join: Some(join), ..Administer::default() };
    let mut way = Way::new(&config.join);
    let mut report = Report { last: String::new(), from: Instant::now() + FIRST_REPORT };
    let plan = loop {
        let peer = way.next();
        let answer = outsider.ask(&peer, &request);
        match way.judge(&peer, answer)? {
            Step::Ask => {}
            Step::Wait(why) => {
                report.say(why);
                std::thread::sleep(ASK_AGAIN);
            }
            Step::Taken(cluster, founders) => break Plan { cluster, founders },
        }
    };
    if plan.place_of(node).is_none() || plan.twice().is_some() {
        bail!("the cluster has taken node {} in, but does not name it among its members", node_text(node));
    }
    let others = plan.founders.len() - 1;
    tracing::info!("joined cluster {} as node {}, beside {others} others", plan.cluster, node_text(node));
    dir.set_identity(Identity { node, standing: Standing::Joined(plan.clone()) })?;
    start_joined(dir, plan, config)
}

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Ask the next, at once.
    Ask,
    /// Ask again after a while; why, for people.
    Wait(String),
    /// The node is a member of this cluster, whose nodes are these.
    Taken(ClusterId, Vec<Founder>),
}

/// Whom to ask next.
#[derive(Debug)]
struct Way {
    contacts: Vec<PeerAddress>,
    /// The next of the contacts.
    at: usize,
    /// The one that another has named, or that is at work.
    hint: Option<PeerAddress>,
    hops: usize,
    /// Why each of the contacts did not answer, when it was last asked.
    silent: Vec<Option<Silence>>,
    /// The cluster that has heard of the node.
    cluster: Option<ClusterId>,
}

impl Way {
    fn new(contacts: &[PeerAddress]) -> Way {
        let silent = vec![None; contacts.len()];
        Way { contacts: contacts.to_vec(), at: 0, hint: None, hops: 0, silent, cluster: None }
    }

    fn next(&mut self) -> PeerAddress {
        self.hint.take().unwrap_or_else(|| self.contacts[self.at].clone())
    }

    fn judge(
        &mut self,
        peer: &PeerAddress,
        answer: Result<(ClusterId, Administered), Silence>,
    ) -> anyhow::Result<Step> {
        let (cluster, answer) = match answer {
            Ok(answer) => answer,
            Err(silence) => return self.judge_silence(peer, silence),
        };
        if let Some(known) = self.cluster.filter(|known| *known != cluster) {
            bail!("{peer} is a member of cluster {cluster}, but this node has asked cluster {known} to take it in");
        }
        if !answer.peer_address.is_empty() && self.hops < HOPS_MAX {
            self.hops += 1;
            self.hint = Some(answer.peer_address.parse()?);
            return Ok(Step::Ask);
        }
        self.hops = 0;
        if answer.pending || !answer.peer_address.is_empty() {
            self.cluster = Some(cluster);
            self.hint = Some(peer.clone());
            return Ok(Step::Wait(format!("{peer} says: {}", if answer.pending { answer.done } else { answer.error })));
        }
        if !answer.error.is_empty() {
            bail!("cluster {cluster} does not take this node in: {}", answer.error);
        }
        let member =
            |member: dstore_node::MemberAddress| Founder { node: NodeId(member.node), address: member.peer_address };
        Ok(Step::Taken(cluster, answer.members.into_iter().map(member).collect()))
    }

    /// One that another has named is forgotten; the next contact is asked, and after the last, all again.
    fn judge_silence(&mut self, peer: &PeerAddress, silence: Silence) -> anyhow::Result<Step> {
        if !silence.may_pass() {
            bail!("{peer} {silence}");
        }
        self.hops = 0;
        let Some(place) = self.contacts.iter().position(|contact| contact == peer) else { return Ok(Step::Ask) };
        self.silent[place] = Some(silence);
        self.at = (place + 1) % self.contacts.len();
        if self.at != 0 {
            return Ok(Step::Ask);
        }
        let silent = self.contacts.iter().zip(&self.silent);
        let why: Vec<String> = silent.filter_map(|(peer, why)| Some(format!("{peer} {}", why.as_ref()?))).collect();
        Ok(Step::Wait(why.join("; ")))
    }
}

/// Says what is waited for, each thing once.
struct Report {
    last: String,
    from: Instant,
}

impl Report {
    fn say(&mut self, why: String) {
        if Instant::now() >= self.from && self.last != why {
            tracing::info!("waiting to join: {why}");
            self.last = why;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> PeerAddress {
        text.parse().unwrap()
    }

    fn way() -> Way {
        Way::new(&[peer("a:1"), peer("b:1")])
    }

    const CLUSTER: ClusterId = ClusterId(5);

    fn away() -> Result<(ClusterId, Administered), Silence> {
        Err(Silence::Away("Connection refused".to_owned()))
    }

    #[test]
    fn all_contacts_are_asked_before_anything_is_waited_for() {
        let mut way = way();
        assert_eq!(way.next(), peer("a:1"));
        assert_eq!(way.judge(&peer("a:1"), away()).unwrap(), Step::Ask);
        assert_eq!(way.next(), peer("b:1"));
        let why = "a:1 does not answer (Connection refused); b:1 is not a member of a cluster yet";
        assert_eq!(way.judge(&peer("b:1"), Err(Silence::Unfounded)).unwrap(), Step::Wait(why.to_owned()));
        assert_eq!(way.next(), peer("a:1"));
    }

    #[test]
    fn the_leader_is_asked_where_a_member_says_it_is_until_it_has_done_it() {
        let mut way = way();
        let elsewhere =
            Administered { error: "another".to_owned(), peer_address: "l:1".to_owned(), ..Administered::default() };
        assert_eq!(way.judge(&peer("a:1"), Ok((CLUSTER, elsewhere))).unwrap(), Step::Ask);
        assert_eq!(way.next(), peer("l:1"));
        let pending = Administered { pending: true, done: "node x joins".to_owned(), ..Administered::default() };
        let waits = Step::Wait("l:1 says: node x joins".to_owned());
        assert_eq!(way.judge(&peer("l:1"), Ok((CLUSTER, pending.clone()))).unwrap(), waits);
        assert_eq!(way.next(), peer("l:1"), "it is at work");
        // It dies: the members know who is next.
        assert_eq!(way.judge(&peer("l:1"), away()).unwrap(), Step::Ask);
        assert_eq!(way.next(), peer("a:1"));
        let member = dstore_node::MemberAddress { node: 7, peer_address: "x:1".to_owned() };
        let done = Administered { members: vec![member], ..Administered::default() };
        let nodes = vec![Founder { node: NodeId(7), address: "x:1".to_owned() }];
        assert_eq!(way.judge(&peer("a:1"), Ok((CLUSTER, done))).unwrap(), Step::Taken(CLUSTER, nodes));
        let error = way.judge(&peer("b:1"), Ok((ClusterId(6), pending))).unwrap_err().to_string();
        assert!(error.contains("is a member of cluster"), "{error}");
    }

    #[test]
    fn members_that_point_at_each_other_are_not_asked_without_rest() {
        let mut way = way();
        let to = |address: &str| {
            Ok((
                CLUSTER,
                Administered { error: "x".to_owned(), peer_address: address.to_owned(), ..Administered::default() },
            ))
        };
        let steps: Vec<Step> =
            (0..=HOPS_MAX).map(|hop| way.judge(&peer("a:1"), to(["b:1", "a:1"][hop % 2])).unwrap()).collect();
        assert_eq!(steps.iter().filter(|step| **step == Step::Ask).count(), HOPS_MAX);
        assert!(matches!(steps[HOPS_MAX], Step::Wait(_)));
    }

    #[test]
    fn a_refusal_ends_it() {
        let refused = Administered { error: "it was removed".to_owned(), ..Administered::default() };
        let error = way().judge(&peer("a:1"), Ok((CLUSTER, refused))).unwrap_err().to_string();
        assert!(error.ends_with("does not take this node in: it was removed"), "{error}");
        for silence in
            [Silence::OtherSecret, Silence::NoNode, Silence::Ourselves, Silence::OtherVersion("2".to_owned())]
        {
            let error = way().judge(&peer("a:1"), Err(silence.clone())).unwrap_err().to_string();
            assert_eq!(error, format!("a:1 {silence}"));
        }
    }
}
