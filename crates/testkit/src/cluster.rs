//! A cluster of real `dstore` processes: on loopback, or each on a machine of its own in a [`Network`].
//!
//! Nodes are killed, paused, cut off, deprived of their power and started again; everything ends with the value that holds
//! them. Addresses stay the same through restarts.
//!
//! What a node says of itself (`INFO raft`) is asked for again and again until it says what is waited for: there is no
//! event to wait for outside a process. No test may take such a wait for a measurement.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::namespaces::{Network, dial};
use crate::ports::free_ports;
use crate::powerloss::{Cut, PowerLoss, Style};
use crate::process::{Dstore, PATIENCE, Refused, Server, Starting, dstore_program, listens_on, run};
use crate::scratch::Scratch;

/// Between two looks at a node that is not yet where it should be.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a node that runs may take to say how it does. One that is busier than this is asked again.
const TELL_WITHIN: Duration = Duration::from_secs(5);

/// What a cluster is to be like.
#[derive(Debug)]
pub struct Plan {
    name: String,
    nodes: usize,
    flags: Vec<String>,
    is_watched: bool,
    network: Option<Arc<Network>>,
}

impl Plan {
    /// Three nodes on loopback. `name` stands in the name of the scratch directory.
    pub fn new(name: &str) -> Plan {
        Plan { name: name.to_owned(), nodes: 3, flags: Vec::new(), is_watched: false, network: None }
    }

    /// So many nodes.
    pub fn nodes(mut self, nodes: usize) -> Plan {
        self.nodes = nodes;
        self
    }

    /// More flags of `dstore start`, the same for all nodes.
    pub fn flags(mut self, flags: &[&str]) -> Plan {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// Watches the data directories, so that power can be cut.
    pub fn watched(mut self) -> Plan {
        self.is_watched = true;
        self
    }

    /// Each node on a machine of its own.
    pub fn in_network(mut self, network: Arc<Network>) -> Plan {
        self.network = Some(network);
        self
    }

    /// Starts all nodes and waits until each serves clients.
    ///
    /// # Panics
    ///
    /// When one does not.
    pub fn start(self) -> Cluster {
        let mut cluster = self.prepare();
        cluster.start_all();
        cluster
    }

    /// Decides addresses and directories and starts nothing.
    ///
    /// # Panics
    ///
    /// When the scratch directory cannot be written.
    pub fn prepare(self) -> Cluster {
        let scratch = Scratch::new(&self.name);
        let secret = write_secret(&scratch, "secret", "a secret for the nodes of one test");
        let at = |base: u16| -> Vec<SocketAddr> {
            match &self.network {
                Some(network) => (0..self.nodes).map(|node| SocketAddr::new(network.address(node), base)).collect(),
                None => free_ports(self.nodes).into_iter().map(|port| ([127, 0, 0, 1], port).into()).collect(),
            }
        };
        let (addresses, peers) = (at(7_000), at(7_100));
        let all_peers = peers.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        let mut cluster = Cluster { members: Vec::new(), plan: self, secret, scratch };
        for (address, peer) in addresses.into_iter().zip(peers) {
            cluster.add_member(address, peer, ["--peers", &all_peers]);
        }
        cluster
    }
}

/// Writes a secret that only its owner may read.
///
/// # Panics
///
/// When the scratch directory cannot be written.
pub fn write_secret(scratch: &Scratch, name: &str, secret: &str) -> PathBuf {
    let path = scratch.path().join(name);
    let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| file.write_all(secret.as_bytes()));
    written.expect("the scratch directory can be written");
    path
}

#[derive(Debug)]
struct Member {
    dstore: Dstore,
    data: PathBuf,
    address: SocketAddr,
    peer: SocketAddr,
    /// None while it is down.
    server: Option<Server>,
    is_paused: bool,
    /// It was removed from the cluster, and does not come back.
    is_gone: bool,
    power: Option<PowerLoss>,
}

/// What a node says of itself in `INFO raft`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftInfo {
    /// `leader`, `follower`, ...
    pub role: String,
    /// Its term.
    pub term: u64,
    /// Highest index that it knows to be committed.
    pub commit: u64,
    /// Highest index that is in its data.
    pub applied: u64,
    /// The entry after which its log begins.
    pub begin: u64,
    /// Its id.
    pub id: String,
    /// All nodes that it knows, and their parts: `voter`, `learner` or `none`.
    pub parts: Vec<(String, String)>,
}

impl RaftInfo {
    /// Reads the text of `INFO raft`.
    pub fn parse(text: &str) -> Option<RaftInfo> {
        let field = |name: &str| {
            text.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':')).map(str::to_owned)
        };
        let number = |name: &str| field(name)?.parse().ok();
        Some(RaftInfo {
            role: field("raft_role")?,
            term: number("raft_term")?,
            commit: number("raft_commit")?,
            applied: number("raft_applied")?,
            begin: number("raft_last")?.saturating_sub(number("raft_log_entries")?),
            id: field("raft_node")?,
            parts: text.lines().filter_map(Self::part).collect(),
        })
    }

    /// A line `raft_memberN:id=...,part=...`.
    fn part(line: &str) -> Option<(String, String)> {
        let (_, fields) = line.trim_end().strip_prefix("raft_member")?.split_once(':')?;
        let field = |name: &str| fields.split(',').find_map(|field| field.strip_prefix(name)).map(str::to_owned);
        Some((field("id=")?, field("part=")?))
    }

    /// How many of the nodes that it knows vote.
    pub fn voters(&self) -> usize {
        self.parts.iter().filter(|(_, part)| part == "voter").count()
    }
}

/// How connections to the nodes are made, from any thread.
#[derive(Clone, Debug)]
pub struct Dialer {
    network: Option<Arc<Network>>,
}

impl Dialer {
    /// A connection; neither making it nor any reply takes longer than `timeout`.
    ///
    /// # Errors
    ///
    /// Nobody listens there, or nothing answers in time.
    pub fn connect(&self, address: SocketAddr, timeout: Duration) -> io::Result<Client> {
        dial(self.network.as_deref(), address, |address| Client::connect(address, timeout))
    }
}

/// The nodes, by number from 0. Dropping it kills them.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    plan: Plan,
    secret: PathBuf,
    scratch: Scratch, // last, so that it goes when nobody writes there any more
}

impl Cluster {
    /// Makes a place for a node that is not started yet. `entry` are the flags by which it finds its cluster.
    fn add_member(&mut self, address: SocketAddr, peer: SocketAddr, entry: [&str; 2]) {
        let node = self.members.len();
        let data = self.scratch.directory(&format!("node{node}"));
        let (listen, peer_listen) = (address.to_string(), peer.to_string());
        let mut flags = vec!["--listen", &listen, "--peer-listen", &peer_listen];
        flags.extend(entry);
        flags.extend(["--cluster-secret-file", self.secret.to_str().expect("scratch paths are UTF-8")]);
        if self.plan.network.is_some() {
            flags.extend(["--protected-mode", "false"]); // nobody else is in that network
        }
        flags.extend(self.plan.flags.iter().map(String::as_str));
        let power = self.plan.is_watched.then(|| {
            let journal = self.scratch.path().join(format!("node{node}.journal"));
            // RocksDB's text log goes through stdio, which the library does not see; nobody reads it back.
            PowerLoss::watch(&data, &journal).expect("the scratch directory can be written").tolerate("LOG")
        });
        let dstore = Dstore::on(&data).flags(&flags);
        let (server, is_paused, is_gone) = (None, false, false);
        self.members.push(Member { dstore, data, address, peer, server, is_paused, is_gone, power });
    }

    /// A new node, which is to join through the node `via`. It is not started. Gives its number. On loopback only.
    pub fn prepare_to_join(&mut self, via: usize) -> usize {
        let [address, peer] = free_ports(2)[..] else { panic!("two ports were asked for") };
        let via = self.members[via].peer.to_string();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        self.add_member(at(address), at(peer), ["--join", &via]);
        self.members.len() - 1
    }

    /// A new node, which joins through the node `via`, once it serves clients. Gives its number.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn join(&mut self, via: usize) -> usize {
        let node = self.prepare_to_join(via);
        self.restart(node);
        node
    }

    /// Has the node `via` remove `node` from the cluster; one that runs then ends by itself, with exit code 4.
    ///
    /// # Panics
    ///
    /// When it is not removed, or does not end so.
    pub fn remove(&mut self, via: usize, node: usize, id: &str) {
        let peer = self.members[via].peer.to_string();
        let mut command = Command::new(dstore_program());
        command.args(["cluster", "remove", id, "--peer", &peer, "--cluster-secret-file"]).arg(&self.secret);
        run(&mut command, b"");
        if let Some(server) = self.members[node].server.take() {
            assert_eq!(server.wait().code(), Some(4), "node {node}:\n{}", self.stderr(node));
        }
        self.members[node].is_gone = true;
    }

    /// Has all nodes compare their replicas while they run, and gives what came of it.
    ///
    /// # Panics
    ///
    /// When they differ, or one does not answer.
    pub fn check(&self) -> String {
        let peers =
            self.living().into_iter().map(|node| self.members[node].peer.to_string()).collect::<Vec<_>>().join(",");
        let mut command = Command::new(dstore_program());
        run(command.args(["cluster", "check", "--peer", &peers, "--cluster-secret-file"]).arg(&self.secret), b"")
    }

    /// The numbers of the nodes that were not removed.
    pub fn living(&self) -> Vec<usize> {
        self.nodes().filter(|node| !self.members[*node].is_gone).collect()
    }

    /// A node's id; waits until it says.
    ///
    /// # Panics
    ///
    /// When it does not within [`PATIENCE`].
    pub fn id(&self, node: usize) -> String {
        self.wait("a node's id", |cluster| cluster.raft(node).map(|info| info.id))
    }

    /// Waits until every node that was not removed knows all of these and no others, `voters` of them voting.
    ///
    /// # Panics
    ///
    /// When they do not within [`PATIENCE`].
    pub fn wait_members(&self, voters: usize) {
        let living = self.living();
        self.wait("members that are as they should be", |cluster| {
            let infos: Vec<RaftInfo> = living.iter().map(|node| cluster.raft(*node)).collect::<Option<_>>()?;
            let is_right = |info: &RaftInfo| info.voters() == voters && info.parts.len() == living.len();
            infos.iter().all(is_right).then_some(())
        });
    }

    /// How many nodes it was planned with, and how many joined.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it was planned with none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The numbers of all nodes.
    pub fn nodes(&self) -> std::ops::Range<usize> {
        0..self.members.len()
    }

    /// The number of another node that was not removed, and of the one after it, and so on.
    pub fn others(&self, node: usize) -> Vec<usize> {
        let others = (1..self.len()).map(|step| (node + step) % self.len());
        others.filter(|other| !self.members[*other].is_gone).collect()
    }

    /// Where clients of a node find it.
    pub fn address(&self, node: usize) -> SocketAddr {
        self.members[node].address
    }

    /// Where clients find each of `nodes`.
    pub fn addresses(&self, nodes: impl IntoIterator<Item = usize>) -> Vec<SocketAddr> {
        nodes.into_iter().map(|node| self.address(node)).collect()
    }

    /// A node's data directory.
    pub fn data(&self, node: usize) -> &Path {
        &self.members[node].data
    }

    /// How a node is started.
    pub fn dstore(&self, node: usize) -> &Dstore {
        &self.members[node].dstore
    }

    /// The directory that holds everything of this cluster.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// How connections are made.
    pub fn dialer(&self) -> Dialer {
        Dialer { network: self.plan.network.clone() }
    }

    /// A node's process id; it must be up.
    ///
    /// # Panics
    ///
    /// When it is down.
    pub fn pid(&self, node: usize) -> u32 {
        self.server(node).pid()
    }

    /// All that a node said on standard error, through all its lives.
    pub fn stderr(&self, node: usize) -> String {
        std::fs::read_to_string(self.scratch.path().join(stderr_name(node))).unwrap_or_default()
    }

    fn server(&self, node: usize) -> &Server {
        self.members[node].server.as_ref().unwrap_or_else(|| panic!("node {node} is down"))
    }

    /// Starts a node without waiting for it.
    ///
    /// # Panics
    ///
    /// When it is up already or cannot be started.
    pub fn spawn(&self, node: usize) -> Starting {
        let member = &self.members[node];
        assert!(member.server.is_none(), "node {node} is up already");
        let mut command = member.dstore.command();
        if let Some(power) = &member.power {
            power.attach(&mut command);
        }
        let command = match &self.plan.network {
            Some(network) => network.inside(node, &command),
            None => command,
        };
        Starting::spawn(command, &self.scratch, &stderr_name(node))
    }

    /// Starts the nodes that are down, all at once, and waits until each serves clients. A node may need the others for
    /// that.
    ///
    /// # Panics
    ///
    /// When one does not.
    pub fn start_all(&mut self) {
        let down: Vec<usize> = self.living().into_iter().filter(|node| self.members[*node].server.is_none()).collect();
        let starting: Vec<(usize, Starting)> = down.into_iter().map(|node| (node, self.spawn(node))).collect();
        for (node, starting) in starting {
            let ready = starting.wait(listens_on);
            self.members[node].server = Some(ready.unwrap_or_else(|refused| panic!("node {node}: {refused:?}")));
        }
    }

    /// Starts a node that is down and waits until it serves clients.
    ///
    /// # Errors
    ///
    /// It refused to start.
    pub fn try_restart(&mut self, node: usize) -> Result<(), Refused> {
        self.members[node].server = Some(self.spawn(node).wait(listens_on)?);
        Ok(())
    }

    /// Starts a node that is down and waits until it serves clients.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn restart(&mut self, node: usize) {
        self.try_restart(node).unwrap_or_else(|refused| panic!("node {node}: {refused:?}"));
    }

    /// kill -9. The connections of a killed process are closed by the kernel, so its peers learn of it at once.
    ///
    /// # Panics
    ///
    /// When it is down already.
    pub fn kill(&mut self, node: usize) {
        let member = &mut self.members[node];
        let mut server = member.server.take().unwrap_or_else(|| panic!("node {node} is down"));
        server.kill();
        member.is_paused = false;
    }

    /// Asks a node to stop, as a service manager does, and waits until it has. Gives its exit code.
    ///
    /// # Panics
    ///
    /// When it is down, or does not end.
    pub fn stop(&mut self, node: usize) -> Option<i32> {
        self.members[node].server.take().unwrap_or_else(|| panic!("node {node} is down")).stop().code()
    }

    /// kill -9 for all that are up.
    pub fn kill_all(&mut self) {
        for node in self.nodes().filter(|node| self.members[*node].server.is_some()).collect::<Vec<_>>() {
            self.kill(node);
        }
    }

    /// The faults that a node's disk can be given.
    ///
    /// # Panics
    ///
    /// When the cluster was planned without watched directories.
    pub fn power(&self, node: usize) -> &PowerLoss {
        self.members[node].power.as_ref().expect("the cluster was planned with watched directories")
    }

    /// A field of what a node says of itself in a section of INFO; nothing when it does not answer.
    pub fn info(&self, node: usize, section: &str, field: &str) -> Option<String> {
        let mut client = self.dialer().connect(self.members[node].address, TELL_WITHIN).ok()?;
        let Reply::Bulk(text) = client.call(&[b"INFO", section.as_bytes()]).ok()? else { return None };
        let text = String::from_utf8_lossy(&text);
        text.lines().find_map(|line| line.trim_end().strip_prefix(field)?.strip_prefix(':')).map(str::to_owned)
    }

    /// Waits until a node that goes down by itself has ended, and gives its exit code.
    ///
    /// # Panics
    ///
    /// When it is down already, or does not end.
    pub fn wait_ended(&mut self, node: usize) -> Option<i32> {
        self.members[node].server.take().unwrap_or_else(|| panic!("node {node} is down")).wait().code()
    }

    /// kill -9, and then the power is cut: what was not synced is lost or torn.
    ///
    /// # Panics
    ///
    /// When the directory is not watched, or something was written that the watch did not see.
    pub fn cut_power(&mut self, node: usize, style: Style, seed: u64) -> Cut {
        self.kill(node);
        let power = self.members[node].power.as_mut().expect("the cluster was planned with watched directories");
        power.cut(style, seed).unwrap_or_else(|error| panic!("node {node}: {error}"))
    }

    /// SIGSTOP: it stands still with all connections open, as a machine that swaps or a virtual one that is moved.
    pub fn pause(&mut self, node: usize) {
        self.server(node).pause();
        self.members[node].is_paused = true;
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) {
        self.server(node).resume();
        self.members[node].is_paused = false;
    }

    /// What a node says of itself; nothing when it is down, paused, cut off or not there yet.
    pub fn raft(&self, node: usize) -> Option<RaftInfo> {
        let member = &self.members[node];
        if member.server.is_none() || member.is_paused {
            return None;
        }
        let mut client = self.dialer().connect(member.address, TELL_WITHIN).ok()?;
        match client.call(&[b"INFO", b"raft"]).ok()? {
            Reply::Bulk(text) => RaftInfo::parse(&String::from_utf8_lossy(&text)),
            _ => None,
        }
    }

    /// The node that leads; waits until there is one.
    ///
    /// # Panics
    ///
    /// When there is none within [`PATIENCE`].
    pub fn leader(&self) -> usize {
        self.wait("a leader", |cluster| cluster.newest_leader(|_| true))
    }

    /// The node that leads, waiting until it is another than `node`.
    ///
    /// # Panics
    ///
    /// When there is none within [`PATIENCE`].
    pub fn leader_besides(&self, node: usize) -> usize {
        self.wait("another leader", |cluster| cluster.newest_leader(|leader| leader != node))
    }

    /// The leader of the newest term that anybody knows of: an older one may not know yet that it is none.
    fn newest_leader(&self, is_wanted: impl Fn(usize) -> bool) -> Option<usize> {
        let known: Vec<(usize, RaftInfo)> = self.nodes().filter_map(|node| Some((node, self.raft(node)?))).collect();
        let newest = known.iter().map(|(_, info)| info.term).max()?;
        let leader = known.iter().find(|(_, info)| info.term == newest && info.role == "leader")?.0;
        is_wanted(leader).then_some(leader)
    }

    /// Waits until a node has applied all that was committed when this was called.
    ///
    /// # Panics
    ///
    /// When it has not within [`PATIENCE`].
    pub fn wait_caught_up(&self, node: usize) {
        let leader = self.leader();
        let target = self.wait("the leader's state", |cluster| Some(cluster.raft(leader)?.commit));
        self.wait("a node that catches up", |cluster| (cluster.raft(node)?.applied >= target).then_some(()));
    }

    /// Waits until all nodes have applied the same, and gives its index. There must be no writes.
    ///
    /// # Panics
    ///
    /// When they have not within [`PATIENCE`].
    pub fn wait_all_equal(&self) -> u64 {
        self.wait("nodes that have applied the same", |cluster| {
            let living = cluster.living().into_iter();
            let all: Vec<RaftInfo> = living.map(|node| cluster.raft(node)).collect::<Option<_>>()?;
            let first = all.first()?;
            all.iter().all(|info| info.applied == first.commit && info.commit == first.commit).then_some(first.commit)
        })
    }

    /// Looks again and again until `look` finds what is waited for.
    ///
    /// # Panics
    ///
    /// When it has not within [`PATIENCE`].
    pub fn wait<T>(&self, what: &str, look: impl Fn(&Cluster) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}:\n{}", self.describe());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// How each node does, for the message of a failing test.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (node, member) in self.members.iter().enumerate() {
            let state = match (&member.server, member.is_paused) {
                (None, _) => "down".to_owned(),
                (Some(_), true) => "paused".to_owned(),
                (Some(_), false) => format!("{:?}", self.raft(node)),
            };
            let _ = writeln!(text, "node {node} at {}: {state}", member.address); // strings take everything
        }
        text
    }
}

fn stderr_name(node: usize) -> String {
    format!("node{node}.stderr")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_of_itself_is_read() {
        let text = "# Raft\r\nraft_node:ab\r\nraft_role:leader\r\nraft_term:7\r\nraft_leader:1\r\nraft_commit:12\r\n\
            raft_applied:11\r\nraft_last:13\r\nraft_log_entries:3\r\nraft_members:2\r\n\
            raft_member0:id=ab,peer=:1,client=:2,part=voter\r\nraft_member1:id=cd,peer=:3,client=:4,part=learner\r\n";
        let part = |id: &str, part: &str| (id.to_owned(), part.to_owned());
        let expected = RaftInfo {
            role: "leader".into(),
            term: 7,
            commit: 12,
            applied: 11,
            begin: 10,
            id: "ab".into(),
            parts: vec![part("ab", "voter"), part("cd", "learner")],
        };
        assert_eq!(expected.voters(), 1);
        assert_eq!(RaftInfo::parse(text), Some(expected));
        assert_eq!(RaftInfo::parse("raft_role:leader\r\n"), None);
    }
}
