//! What an operator has a cluster do, asked over the peers' own protocol: whoever holds the cluster's secret may.
//!
//! Any node may be asked: it says where the one is that can do it. What takes time goes on by itself once it has begun, and
//! is asked after until it is done; meanwhile nodes may stop to answer, the asked one too where it is the one that leaves.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use dstore_node::{Administer, Administered, Check, HandOver, Remove, SYSTEM_RANGE, USER_RANGE};
use dstore_rpc::NodeId;

use crate::config::PeerAddress;
use crate::founding::secret_in;
use crate::outsider::{Outsider, Silence};

/// How long to wait before what has begun is asked after again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// So many rounds without an answer from anybody are borne once something has begun: a leader is elected within seconds.
const SILENT_ROUNDS_MAX: usize = 50;

/// So many rounds a leader is waited for, where the one that is named does not answer.
const ELECTION_ROUNDS_MAX: usize = 50;

/// Nodes that name another one, one after the other.
const HOPS_MAX: usize = 4;

/// Nobody answered.
struct Unanswered {
    why: String,
    /// But somebody says who should.
    names_leader: bool,
}

/// Somebody with the secret of a cluster, and the addresses of some of its nodes.
pub struct Operator {
    outsider: Outsider,
    /// Given, then learnt.
    peers: Vec<PeerAddress>,
    /// The one that could do it last time.
    at_work: Option<PeerAddress>,
}

impl Operator {
    /// Whoever holds the secret in the file.
    ///
    /// # Errors
    ///
    /// There is none in it.
    pub fn new(peers: Vec<PeerAddress>, secret_file: &Path) -> anyhow::Result<Operator> {
        Ok(Operator { outsider: Outsider::new(secret_in(secret_file)?)?, peers, at_work: None })
    }

    /// Has the leader hand its leadership over. Says what came of it.
    ///
    /// # Errors
    ///
    /// Nobody answers, or the leader will not.
    pub fn transfer_leader(&mut self, to: Option<NodeId>) -> anyhow::Result<String> {
        let hand_over = Some(HandOver { to: to.map_or(0, |to| to.0) });
        self.ask(&Administer { hand_over, ..Administer::default() }).and_then(|answer| done(&answer))
    }

    /// Has a node removed, and waits until no range counts on it any more. `tell` hears how far it is.
    ///
    /// # Errors
    ///
    /// Nobody answers, or the cluster will not.
    pub fn remove(&mut self, node: NodeId, force: bool, tell: impl FnMut(&str)) -> anyhow::Result<String> {
        let remove = Some(Remove { node: node.0, force });
        let request = Administer { remove, ..Administer::default() };
        done(&self.until_done(|_| request.clone(), tell)?)
    }

    /// Has the replicas of each range compared, and waits for the outcome. Says it for each.
    ///
    /// # Errors
    ///
    /// Nobody answers; or replicas differ.
    pub fn check(&mut self, mut tell: impl FnMut(&str)) -> anyhow::Result<String> {
        let mut outcomes = Vec::new();
        for range in [SYSTEM_RANGE, USER_RANGE] {
            let ask = |id| Administer { check: Some(Check { range: range.0, id }), ..Administer::default() };
            outcomes.push(done(&self.until_done(ask, &mut tell)?)?);
        }
        Ok(outcomes.join("\n"))
    }

    /// Asks until it is done; each time with what names it, once it has a name.
    fn until_done(
        &mut self,
        request: impl Fn(u64) -> Administer,
        mut tell: impl FnMut(&str),
    ) -> anyhow::Result<Administered> {
        let (mut name, mut last, mut silent) = (0, String::new(), None);
        loop {
            match (self.ask(&request(name)), silent) {
                (Ok(answer), _) if !answer.pending => return Ok(answer),
                (Ok(answer), _) => {
                    silent = Some(0);
                    name = if answer.check == 0 { name } else { answer.check };
                    if answer.done != last && !answer.done.is_empty() {
                        tell(&answer.done);
                        last = answer.done;
                    }
                }
                (Err(error), None) => return Err(error),
                (Err(_), Some(rounds)) if rounds < SILENT_ROUNDS_MAX => silent = Some(rounds + 1),
                (Err(error), Some(_)) => {
                    return Err(
                        error.context("it has begun, and goes on by itself; nobody answers any more to tell how")
                    );
                }
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }

    /// Asks whoever can do it: first the one that could, then the nodes that are known. Where these name a leader that does not
    /// answer, it may just have died: then until there is another.
    fn ask(&mut self, request: &Administer) -> anyhow::Result<Administered> {
        let mut rounds = 0;
        loop {
            match self.ask_all(request)? {
                Ok(answer) => return Ok(answer),
                Err(unanswered) if unanswered.names_leader && rounds < ELECTION_ROUNDS_MAX => rounds += 1,
                Err(unanswered) => bail!("{}", unanswered.why),
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }

    fn ask_all(&mut self, request: &Administer) -> anyhow::Result<Result<Administered, Unanswered>> {
        let (mut silent, mut names_leader) = (Vec::new(), false);
        let at_work = self.at_work.take();
        for peer in at_work.into_iter().chain(self.peers.clone()) {
            match self.ask_from(peer.clone(), request)? {
                Ok(answer) => {
                    self.learn(&answer);
                    return Ok(Ok(answer));
                }
                Err((asked, silence)) if silence.may_pass() => {
                    names_leader |= asked != peer;
                    let named_by =
                        if asked == peer { String::new() } else { format!(", of which {peer} says that it leads") };
                    silent.push(format!("{asked} {silence}{named_by}"));
                }
                Err((asked, silence)) => bail!("{asked} {silence}"),
            }
        }
        silent.dedup();
        Ok(Err(Unanswered { why: silent.join("; "), names_leader }))
    }

    /// Asks a node, and the one that it names, and so on. Without an answer: the last that was asked, and why there is none.
    fn ask_from(
        &mut self,
        peer: PeerAddress,
        request: &Administer,
    ) -> anyhow::Result<Result<Administered, (PeerAddress, Silence)>> {
        let mut at = peer;
        for _ in 0..=HOPS_MAX {
            match self.outsider.ask(&at, request) {
                Ok((_, answer)) if answer.peer_address.is_empty() => {
                    self.at_work = Some(at);
                    return Ok(Ok(answer));
                }
                Ok((_, answer)) => at = answer.peer_address.parse()?,
                Err(silence) => return Ok(Err((at, silence))),
            }
        }
        Ok(Err((at, Silence::Refuses("the nodes do not agree on who leads".to_owned()))))
    }

    fn learn(&mut self, answer: &Administered) {
        // An address that this version cannot read is none that it could ask.
        let told = answer.members.iter().filter_map(|member| member.peer_address.parse().ok());
        for peer in told.collect::<Vec<PeerAddress>>() {
            if !self.peers.contains(&peer) {
                self.peers.push(peer);
            }
        }
    }
}

fn done(answer: &Administered) -> anyhow::Result<String> {
    if answer.error.is_empty() { Ok(answer.done.clone()) } else { bail!("{}", answer.error) }
}
