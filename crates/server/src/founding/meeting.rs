//! The founders' meeting: asking and answering over sockets, until the cluster is founded.
//!
//! One event loop answers the peers, holds the directory and decides; for each peer a thread asks, waits, and asks again,
//! and posts what it heard into the loop. Nothing else runs in the process yet, so the loop may wait for its disk.

use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use dstore_net::{Address, Application, EventLoop, LoopConfig, Net, TimerId};
use dstore_rpc::driver::{self, Host, Rpc, RpcTimer};
use dstore_rpc::service::{Incoming, Origin, Reply};
use dstore_rpc::{Admission, Answer, ClusterId, Config, Identity, NodeId, Secret};

use super::asker::Asker;
use super::gathering::{Gathering, Heard, Step};
use super::wire::{Tell, founders};
use crate::config::PeerAddress;
use crate::data_dir::DataDir;
use crate::identity::{self, Plan, Standing};
use crate::random;

/// The cluster of those who have none.
const UNFOUNDED: ClusterId = ClusterId(0);

/// The first word about what is missing comes after this, so that a founding that runs well stays silent.
const FIRST_REPORT: Duration = Duration::from_secs(1);

/// The next ones come after this each.
const NEXT_REPORT: Duration = Duration::from_secs(5);

/// How long the last answers may take to leave.
const DRAIN: Duration = Duration::from_secs(1);

/// Where and with whom a node meets.
#[derive(Debug)]
pub(super) struct Meeting {
    /// All founders.
    pub(super) peers: Vec<PeerAddress>,
    /// This node's place among them.
    pub(super) own: usize,
    /// Where it listens.
    pub(super) listen: SocketAddr,
    /// What they share.
    pub(super) secret: Secret,
}

/// Meets the other founders until the cluster is founded, and notes each step in `dir`, which has an id already.
///
/// # Errors
///
/// The peers' address cannot be listened on; the disk refuses; or the cluster cannot be founded, see
/// [`super::gathering::FoundingError`].
pub(super) fn meet(dir: DataDir, meeting: Meeting) -> anyhow::Result<(DataDir, Plan)> {
    let own = dir.identity().context("a founder has an id")?.clone();
    let planned = match own.standing {
        Standing::Planned(plan) | Standing::Member(plan) => Some(plan),
        Standing::New | Standing::Joined(_) | Standing::Removed(_) => None,
    };
    let identity = Identity { cluster: UNFOUNDED, node: own.node, incarnation: dir.incarnation() };
    let config = Config::new(identity, meeting.secret);
    let mut table = Table {
        rpc: Rpc::new(config.clone(), Admission::default(), random::bytes()?, Instant::now()),
        gathering: Gathering::new(meeting.peers.clone(), meeting.own, own.node, planned),
        peers: meeting.peers.clone(),
        own: meeting.own,
        dir,
        node: own.node,
        askers: Vec::new(),
        fresh: ClusterId(random::nonzero_u128()?),
        outcome: None,
    };
    let begun = table.gathering.begin(table.fresh);
    if let Some(result) = table.take(begun) {
        return result.map(|plan| (table.dir, plan));
    }
    let mut event_loop = EventLoop::new(LoopConfig::default(), table).context("cannot make the event loop")?;
    driver::listen(event_loop.net(), &Address::Tcp(meeting.listen))
        .with_context(|| format!("cannot listen for peers on {}", meeting.listen))?;
    for (place, peer) in meeting.peers.iter().enumerate().filter(|(place, _)| *place != meeting.own) {
        let (wake, woken) = channel();
        event_loop.app().askers.push(wake);
        let (config, tell) = (config.clone(), event_loop.app().tell());
        let asker = Asker { place, peer: peer.clone(), config, mailbox: event_loop.mailbox(), woken, tell };
        std::thread::Builder::new()
            .name(format!("ask {peer}"))
            .spawn(move || asker.run())
            .context("cannot start a thread")?;
    }
    let table = event_loop.run().context("the founding's loop broke")?;
    let plan = table.outcome.context("the founding ended without a word")??;
    Ok((table.dir, plan))
}

/// The application of the loop: answers, and decides.
struct Table {
    rpc: Rpc<Table>,
    gathering: Gathering,
    peers: Vec<PeerAddress>,
    /// This node's place among them.
    own: usize,
    dir: DataDir,
    node: NodeId,
    /// Each wakes the thread that asks a peer, and gives it something new to say.
    askers: Vec<Sender<Tell>>,
    /// A random id that no cluster has yet.
    fresh: ClusterId,
    outcome: Option<anyhow::Result<Plan>>,
}

impl Table {
    /// Takes a step as far as it goes. Some when the meeting is over.
    fn take(&mut self, mut step: Step) -> Option<anyhow::Result<Plan>> {
        loop {
            step = match step {
                Step::Wait => return None,
                Step::Write(plan) => {
                    if let Err(error) = self.note(Standing::Planned(plan.clone())) {
                        return Some(Err(error));
                    }
                    let next = self.gathering.handle_written(plan);
                    // Without this the others would learn of it when they ask again.
                    let tell = self.tell();
                    for asker in &self.askers {
                        // A thread that has ended asks no more, and will be missed by name.
                        let _ = asker.send(tell.clone());
                    }
                    next
                }
                Step::Found(plan) => return Some(self.note(Standing::Member(plan.clone())).map(|()| plan)),
            };
        }
    }

    /// What this node has to say now.
    fn tell(&self) -> Tell {
        Tell::new(&self.peers, self.own, self.gathering.plan())
    }

    /// Takes note of what was heard of a peer, and does what follows.
    fn hear(&mut self, net: &mut Net<Table>, place: usize, heard: Heard) {
        if self.outcome.is_some() {
            return;
        }
        self.outcome = match self.gathering.handle(place, heard, self.fresh) {
            Ok(step) => self.take(step),
            Err(error) => Some(Err(error.into())),
        };
        if self.outcome.is_some() {
            self.askers.clear();
            net.stop(DRAIN);
        }
    }

    fn note(&mut self, standing: Standing) -> anyhow::Result<()> {
        Ok(self.dir.set_identity(identity::Identity { node: self.node, standing })?)
    }

    fn report(&self, net: &mut Net<Table>, next: Duration) {
        net.insert_timer(net.now() + next, Timer::Report);
    }
}

enum Timer {
    Rpc(RpcTimer),
    Report,
}

impl From<RpcTimer> for Timer {
    fn from(timer: RpcTimer) -> Timer {
        Timer::Rpc(timer)
    }
}

impl Application for Table {
    type Mail = (usize, Heard);
    type Timer = Timer;

    fn on_start(&mut self, net: &mut Net<Self>) {
        self.report(net, FIRST_REPORT);
        driver::end_of_turn(self, net);
    }

    fn on_mail(&mut self, net: &mut Net<Self>, (place, heard): (usize, Heard)) {
        self.hear(net, place, heard);
    }

    fn on_timer(&mut self, net: &mut Net<Self>, _: TimerId, timer: Timer) {
        match timer {
            Timer::Rpc(RpcTimer) => driver::on_timer(self, net),
            Timer::Report => {
                if let Some(missing) = self.gathering.missing() {
                    tracing::info!("{missing}");
                }
                self.report(net, NEXT_REPORT);
            }
        }
    }

    fn end_of_turn(&mut self, net: &mut Net<Self>) {
        driver::end_of_turn(self, net);
    }
}

impl Host for Table {
    fn rpc(&mut self) -> &mut Rpc<Self> {
        &mut self.rpc
    }

    fn on_incoming(&mut self, net: &mut Net<Self>, origin: &Origin, incoming: Incoming) {
        let outcome = match founders::dispatch(self, net, origin, incoming) {
            Ok(outcome) => outcome,
            Err(unknown) => unknown.unknown(),
        };
        self.rpc.finish(net.now(), outcome);
    }
}

impl founders::Service<Net<Table>> for Table {
    fn ask(&mut self, net: &mut Net<Table>, origin: &Origin, ask: Tell, reply: Reply<Tell>) -> Option<Answer> {
        // A question tells as much as an answer. Whom we do not know by his place, we hear when we ask him.
        let place = ask.place as usize;
        if place < self.peers.len() && place != self.own {
            self.hear(net, place, ask.heard(origin.node));
        }
        Some(reply.ok(&self.tell()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::{Path, PathBuf};
    use std::sync::mpsc::Receiver;
    use std::thread::JoinHandle;

    use dstore_net::Mailbox;

    use super::*;
    use crate::identity::Founder;
    use crate::outsider::Silence;

    const SECRET: &[u8] = b"a secret of all founders";

    /// Ports that were free a moment ago.
    fn free_peers(count: usize) -> Vec<PeerAddress> {
        let holders: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        holders.iter().map(|holder| holder.local_addr().unwrap().to_string().parse().unwrap()).collect()
    }

    /// The directory of the node with this id, as it stands.
    fn open(path: &Path, node: u64) -> DataDir {
        let mut dir = DataDir::open(path).unwrap();
        if dir.identity().is_none() {
            dir.set_identity(identity::Identity { node: NodeId(node), standing: Standing::New }).unwrap();
        }
        dir
    }

    /// Nodes 10 and up, at `peers`.
    fn plan_of(cluster: u128, peers: &[PeerAddress]) -> Plan {
        let nodes = (10..).map(NodeId);
        let founders = nodes.zip(peers).map(|(node, peer)| Founder { node, address: peer.to_string() });
        Plan { cluster: ClusterId(cluster), founders: founders.collect() }
    }

    type Ended = (usize, anyhow::Result<Plan>);

    /// A node on a thread of its own, which tells `ended` what became of it.
    fn start(ended: &Sender<Ended>, dir: DataDir, peers: &[PeerAddress], own: usize) {
        let (secret, listen) = (Secret::new(SECRET).unwrap(), peers[own].look_up().unwrap()[0]);
        let meeting = Meeting { peers: peers.to_vec(), own, listen, secret };
        let ended = ended.clone();
        std::thread::spawn(move || {
            let result = meet(dir, meeting).map(|(_, plan)| plan);
            ended.send((own, result)).unwrap();
        });
    }

    /// Waits for all, and lets those that are done answer as the members they are.
    fn all_plans(ended: &Receiver<Ended>, peers: &[PeerAddress], paths: &[PathBuf]) -> Vec<Plan> {
        let mut members = Vec::new();
        let mut plans = Vec::new();
        for _ in peers {
            let (own, plan) = ended.recv().unwrap();
            let plan = plan.unwrap();
            let standing = DataDir::open(&paths[own]).unwrap().identity().unwrap().standing.clone();
            assert_eq!(standing, Standing::Member(plan.clone()));
            members.push(Member::start(&peers[own], 10 + own as u64, plan.clone()));
            plans.push(plan);
        }
        members.into_iter().for_each(Member::stop);
        plans
    }

    fn rooms(count: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
        let scratch = tempfile::tempdir().unwrap();
        let paths = (0..count).map(|place| scratch.path().join(place.to_string())).collect();
        (scratch, paths)
    }

    #[test]
    fn three_new_nodes_found_one_cluster() {
        let (_scratch, paths) = rooms(3);
        let peers = free_peers(3);
        let (tell, ended) = channel();
        (0..3).for_each(|own| start(&tell, open(&paths[own], 10 + own as u64), &peers, own));
        let plans = all_plans(&ended, &peers, &paths);
        assert!(plans.iter().all(|plan| *plan == plans[0]), "{plans:?}");
        let nodes: Vec<u64> = plans[0].founders.iter().map(|founder| founder.node.0).collect();
        assert_eq!(nodes, [10, 11, 12]);
    }

    /// A node of a cluster that exists: it refuses, and tells its own who they are.
    struct Member {
        mailbox: Mailbox<(usize, Heard)>,
        thread: JoinHandle<()>,
    }

    impl Member {
        fn start(address: &PeerAddress, node: u64, plan: Plan) -> Member {
            let (listen, cluster) = (address.look_up().unwrap()[0], plan.cluster);
            let (report, reported) = channel();
            let thread = std::thread::spawn(move || {
                let scratch = tempfile::tempdir().unwrap();
                let incarnation = dstore_rpc::Incarnation(1);
                let identity = Identity { cluster, node: NodeId(node), incarnation };
                let config = Config::new(identity, Secret::new(SECRET).unwrap());
                let table = Table {
                    rpc: Rpc::new(config, Admission::default(), [7; 32], Instant::now()),
                    gathering: Gathering::new(Vec::new(), 0, NodeId(node), Some(plan)),
                    peers: Vec::new(),
                    own: 0,
                    dir: DataDir::open(scratch.path()).unwrap(),
                    node: NodeId(node),
                    askers: Vec::new(),
                    fresh: cluster,
                    outcome: None,
                };
                let mut event_loop = EventLoop::new(LoopConfig::default(), table).unwrap();
                driver::listen(event_loop.net(), &Address::Tcp(listen)).unwrap();
                report.send(event_loop.mailbox()).unwrap();
                event_loop.run().unwrap();
            });
            Member { mailbox: reported.recv().unwrap(), thread }
        }

        fn stop(self) {
            self.mailbox.stop(Duration::ZERO);
            self.thread.join().unwrap();
        }
    }

    #[test]
    fn a_founder_that_crashed_with_the_plan_goes_on_with_it() {
        let (_scratch, paths) = rooms(2);
        let peers = free_peers(2);
        let plan = plan_of(5, &peers);
        let mut first = open(&paths[0], 10);
        first.set_identity(identity::Identity { node: NodeId(10), standing: Standing::Planned(plan.clone()) }).unwrap();
        let (tell, ended) = channel();
        start(&tell, first, &peers, 0);
        start(&tell, open(&paths[1], 11), &peers, 1);
        assert_eq!(all_plans(&ended, &peers, &paths), [plan.clone(), plan]);
    }

    #[test]
    fn a_new_node_in_the_place_of_a_member_is_sent_away() {
        let (_scratch, paths) = rooms(1);
        let peers = free_peers(2);
        let member = Member::start(&peers[0], 10, plan_of(0xabc, &peers));
        let (tell, ended) = channel();
        start(&tell, open(&paths[0], 99), &peers, 1);
        let error = ended.recv().unwrap().1.unwrap_err().to_string();
        let lost = format!("{} was node 000000000000000b of cluster 00000000000000000000000000000abc", peers[1]);
        assert!(error.contains(&lost), "{error}");
        member.stop();
    }

    #[test]
    fn who_does_not_answer_is_told_why() {
        let (_scratch, paths) = rooms(1);
        let peers = free_peers(2);
        let identity = |node| {
            let incarnation = dstore_rpc::Incarnation(1);
            Identity { cluster: UNFOUNDED, node: NodeId(node), incarnation }
        };
        let ask = |peer: &PeerAddress, node: u64, secret: &[u8]| {
            let (_wake, woken) = channel();
            let config = Config::new(identity(node), Secret::new(secret).unwrap());
            let mailbox = EventLoop::new(LoopConfig::default(), Nobody).unwrap().mailbox();
            let tell = Tell::new(&[], 0, None);
            match (Asker { place: 0, peer: peer.clone(), config, mailbox, woken, tell }).ask(&mut None) {
                Heard::Away(why) => why,
                heard => panic!("{heard:?}"),
            }
        };
        assert_eq!(ask(&peers[1], 1, SECRET), "does not answer (Connection refused)");
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let unrelated: PeerAddress = silent.local_addr().unwrap().to_string().parse().unwrap();
        let talks = std::thread::spawn(move || {
            let (mut stream, _) = silent.accept().unwrap();
            std::io::Write::write_all(&mut stream, &[b'!'; 64]).unwrap();
            let _ = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
        });
        assert_eq!(ask(&unrelated, 1, SECRET), Silence::NoNode.to_string());
        talks.join().unwrap();
        let member = Member::start(&peers[0], 10, plan_of(UNFOUNDED.0, &peers));
        assert_eq!(ask(&peers[0], 1, b"another secret of others"), "has another cluster secret");
        assert_eq!(ask(&peers[0], 10, SECRET), "is this node itself");
        member.stop();
        drop(paths);
    }

    /// The application of a loop that only lends its mailbox.
    struct Nobody;

    impl Application for Nobody {
        type Mail = (usize, Heard);
        type Timer = ();
        fn on_mail(&mut self, _: &mut Net<Self>, _: (usize, Heard)) {}
    }
}
