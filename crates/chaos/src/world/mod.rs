//! The world: nodes as processes on machines of a private network, with disks that can be filled, stalled and cut off
//! from power, and everything that can be done to them.
//!
//! ```text
//!   namespace 0        namespace 1          ...        namespace 4         hub: bridge, clients, judge
//!   dstore, nftables   dstore, nftables                dstore, nftables
//!   proxies of some links; a small disk (tmpfs) or a directory of the real one; the library of power cuts preloaded
//! ```
//!
//! Methods that do something to a node say `Err` when it makes no sense at the moment (a node that is down cannot be
//! paused): then the fault does not happen. What nobody did to a node, and happens all the same, is *blamed*: a process
//! that ends by itself, with a code that nothing explains.
//!
//! Everything ends with the value that holds it. What a run that was killed left behind is swept by the next: see [`sweep`].

pub mod place;
pub mod process;
pub mod proxy;
pub mod sweep;
pub mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use dstore_testkit::namespaces::{Drops, Network};
use dstore_testkit::ports::free_ports;
use dstore_testkit::powerloss::{Fault, Style};
use dstore_testkit::process::SMALL;

use place::Place;
use process::Process;
use proxy::Link;
use watch::Watch;

/// Ports of every node on its own machine: for clients, for peers.
const CLIENT_PORT: u16 = 7_000;
const PEER_PORT: u16 = 7_100;

/// How every node is started beside [`SMALL`]: with marks for a small disk, and a request timeout that a client outwaits.
const FLAGS: [&str; 8] = [
    "--free-bytes-floor",
    "112MiB",
    "--ballast-bytes",
    "8MiB",
    "--request-timeout-ms",
    "2000",
    "--protected-mode",
    "false",
];

/// After which a node that ended while it joined is started again, and a removal that was refused tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A command of an operator that takes longer is given up.
const COMMAND_MAX: Duration = Duration::from_secs(15);

/// Within which a node has to end of which a sync has failed, from when it last was paused.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Exit codes of a node: its disk failed; it was removed.
const EXIT_DISK: i32 = 3;
const EXIT_REMOVED: i32 = 4;

const SIGTERM: i32 = 15;
/// What a node ends with that was told to end twice.
const EXIT_AT_ONCE: i32 = 128 + SIGTERM;

/// What a world is to be like.
#[derive(Clone, Debug)]
pub struct Setting {
    /// How many nodes.
    pub nodes: usize,
    /// How many of them vote.
    pub voters: usize,
    /// Which have a small disk.
    pub small_disks: Vec<usize>,
    /// Links on which bytes can be delayed: from, to.
    pub links: Vec<(usize, usize)>,
}

/// A node that is to leave and come back as a new one.
#[derive(Debug)]
struct Removal {
    node: usize,
    id: String,
    /// The operator's command.
    command: Option<Process>,
    tried: Instant,
}

#[derive(Debug)]
struct Node {
    // Before the place it runs in.
    process: Option<Process>,
    place: Place,
    address: SocketAddr,
    peer: SocketAddr,
    /// One of its calls is to fail, whichever process makes it.
    is_armed: bool,
    /// Its process may end for that: it was armed when that began, or since.
    may_fail: bool,
    /// Since when it has to end, since one of its syncs has failed.
    must_end: Option<Instant>,
    is_paused: bool,
    /// Since it was started on an empty directory nothing was heard of it.
    is_joining: bool,
    ended: Instant,
    /// How often it was started.
    starts: usize,
}

/// All nodes, by number from 0.
#[derive(Debug)]
pub struct World {
    nodes: Vec<Node>,
    // Before the network, so that it ends before.
    watch: Watch,
    links: Vec<Link>,
    network: Option<Arc<Network>>,
    directory: PathBuf,
    /// One build of the program, or two.
    programs: Vec<PathBuf>,
    secret: PathBuf,
    voters: usize,
    /// By fault: whose packets are dropped, and which.
    drops: BTreeMap<u64, Vec<(usize, Drops)>>,
    removal: Option<Removal>,
    commands: Vec<Process>,
    blamed: Vec<String>,
    failed_syncs: FailedSyncs,
}

/// Syncs that were made to fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailedSyncs {
    /// How many.
    pub asked_for: u64,
    /// After how many of them the node ended for it, and not because of something else before.
    pub ended: u64,
}

/// An act that makes no sense at the moment, and why.
pub type Act = Result<(), String>;

impl World {
    /// Makes all places, and starts nothing. Its files are in `directory`. Of several `programs` each start of a node has the
    /// next, so that they run side by side, and one goes on with what another left.
    ///
    /// # Errors
    ///
    /// The machine lacks something that it had a moment ago.
    pub fn new(
        setting: &Setting,
        programs: Vec<PathBuf>,
        network: Option<Arc<Network>>,
        directory: &Path,
    ) -> Result<World> {
        let secret = place::write_secret(directory)?;
        let at = |port: u16| -> Vec<SocketAddr> {
            match &network {
                Some(network) => (0..setting.nodes).map(|node| SocketAddr::new(network.address(node), port)).collect(),
                None => free_ports(setting.nodes).into_iter().map(|port| ([127, 0, 0, 1], port).into()).collect(),
            }
        };
        let (addresses, peers) = (at(CLIENT_PORT), at(PEER_PORT));
        let mut nodes = Vec::new();
        for (number, (address, peer)) in addresses.iter().zip(&peers).enumerate() {
            let place = Place::make(directory, number, setting.small_disks.contains(&number))?;
            let (address, peer, ended) = (*address, *peer, Instant::now());
            nodes.push(Node {
                place,
                address,
                peer,
                process: None,
                is_armed: false,
                may_fail: false,
                must_end: None,
                is_paused: false,
                is_joining: true,
                ended,
                starts: 0,
            });
        }
        let mut links = Vec::new();
        if let Some(network) = &network {
            for (from, to) in &setting.links {
                links.push(Link::make(network, *from, *to, peers[*to]).map_err(anyhow::Error::msg)?);
            }
        }
        Ok(World {
            nodes,
            watch: Watch::start(network.clone(), addresses),
            links,
            network,
            directory: directory.to_owned(),
            programs,
            secret,
            voters: setting.voters,
            drops: BTreeMap::new(),
            removal: None,
            commands: Vec::new(),
            blamed: Vec::new(),
            failed_syncs: FailedSyncs::default(),
        })
    }

    /// Where clients find the nodes.
    pub fn addresses(&self) -> Vec<(usize, SocketAddr)> {
        self.nodes.iter().map(|node| node.address).enumerate().collect()
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What nodes were last heard to say of themselves.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Whether a node's process runs, paused or not.
    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].process.is_some()
    }

    /// Takes what happened since the last call and has no explanation.
    pub fn take_blamed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.blamed)
    }

    /// Starts a node that is down.
    pub fn start(&mut self, node: usize) -> Act {
        if self.is_up(node) {
            return Err(format!("node {node} is up"));
        }
        let entry = self.entry(node);
        let peer_listen = self.nodes[node].peer.to_string();
        if let Err(error) = self.nodes[node].place.settle(Style::Best, 0) {
            self.blamed.push(format!("node {node}: {error}"));
        }
        let mut dstore = Command::new(self.program(node, self.nodes[node].starts));
        dstore.arg("start").arg("--data-dir").arg(self.nodes[node].place.data()).args(SMALL).args(FLAGS);
        dstore.args(["--listen", &self.nodes[node].address.to_string(), "--peer-listen", &peer_listen]);
        dstore.args(&entry).arg("--cluster-secret-file").arg(&self.secret);
        dstore.args(["--voters-max", &self.voters.to_string()]);
        let place = &mut self.nodes[node].place;
        let bound = process::bound_to_us(&place.watched(&dstore));
        let command = match &self.network {
            Some(network) => network.inside(node, &bound),
            None => bound,
        };
        let process = Process::spawn(command, &place.log()).map_err(|error| error.to_string())?;
        let node = &mut self.nodes[node];
        (node.process, node.may_fail, node.is_paused) = (Some(process), node.is_armed, false);
        node.starts += 1;
        Ok(())
    }

    /// What a node's start of this number runs.
    fn program(&self, node: usize, start: usize) -> &Path {
        &self.programs[(node + start) % self.programs.len()]
    }

    /// How often each of two programs was started.
    pub fn starts(&self) -> [usize; 2] {
        let all = self.nodes.iter().enumerate().flat_map(|(node, of)| (0..of.starts).map(move |start| node + start));
        let others = all.clone().filter(|number| number % self.programs.len() == 1).count();
        [all.count() - others, others]
    }

    /// The flags by which a node finds its cluster: its founders, or for one that came later, whoever there is.
    fn entry(&self, node: usize) -> [String; 2] {
        let is_founder = self.nodes[node].place.lives() == 0;
        let peers = self.nodes.iter().enumerate().filter(|(other, _)| is_founder || *other != node);
        let peers = peers.map(|(_, node)| node.peer.to_string()).collect::<Vec<_>>().join(",");
        [if is_founder { "--peers" } else { "--join" }.to_owned(), peers]
    }

    fn process(&mut self, node: usize) -> Result<&mut Process, String> {
        self.nodes[node].process.as_mut().ok_or_else(|| format!("node {node} is down"))
    }

    /// kill -9.
    pub fn kill(&mut self, node: usize) -> Act {
        if self.process(node)?.ended().is_some() {
            return Err(format!("node {node} has ended")); // which the next look explains
        }
        self.process(node)?.kill();
        self.note_failed_sync(node);
        (self.nodes[node].process, self.nodes[node].must_end) = (None, None);
        Ok(())
    }

    /// kill -9 of several nodes at one moment, and what they never synced is lost or torn.
    pub fn cut_power(&mut self, nodes: &[usize], style: Style, seed: u64) -> Act {
        let up: Vec<usize> = nodes.iter().copied().filter(|node| self.is_up(*node)).collect();
        if up.is_empty() {
            return Err("all of them are down".to_owned());
        }
        for node in &up {
            self.kill(*node)?;
        }
        for node in up {
            if let Err(error) = self.nodes[node].place.settle(style, seed.wrapping_add(node as u64)) {
                self.blamed.push(format!("node {node}: {error}"));
            }
        }
        Ok(())
    }

    /// SIGTERM; the node hands over and ends when it has.
    pub fn terminate(&mut self, node: usize) -> Act {
        let process = self.process(node)?;
        process.terminate();
        Ok(())
    }

    /// SIGSTOP.
    pub fn pause(&mut self, node: usize) -> Act {
        self.process(node)?.pause();
        self.nodes[node].is_paused = true;
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) -> Act {
        self.process(node)?.resume();
        let node = &mut self.nodes[node];
        if std::mem::take(&mut node.is_paused) {
            node.must_end = node.must_end.map(|_| Instant::now()); // it had no time to
        }
        Ok(())
    }

    /// A fault of a node's syncs, writes and reads.
    pub fn spoil_disk(&mut self, node: usize, fault: Fault) -> Act {
        self.process(node)?;
        self.note_failed_sync(node);
        let node = &mut self.nodes[node];
        node.is_armed |= matches!(fault, Fault::SyncFails { .. } | Fault::WriteFails { .. });
        node.may_fail |= node.is_armed;
        node.place.power().inject(fault).map_err(|error| error.to_string())
    }

    /// Ends those faults.
    pub fn mend_disk(&mut self, node: usize) -> Act {
        self.note_failed_sync(node);
        self.nodes[node].is_armed = false;
        self.nodes[node].place.power().clear_faults().map_err(|error| error.to_string())
    }

    /// What became of syncs that were to fail.
    pub fn failed_syncs(&self) -> FailedSyncs {
        self.failed_syncs
    }

    /// Looks whether the sync that was to fail has: then its node has to end.
    fn note_failed_sync(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        // A journal that cannot be read shows itself elsewhere.
        if node.process.is_some() && node.place.power().take_failed_sync().unwrap_or(false) {
            self.failed_syncs.asked_for += 1;
            node.must_end = node.must_end.or(Some(Instant::now()));
        }
    }

    /// Whoever goes on although a sync of his has failed may have lost what he acknowledges.
    fn see_that_failed_nodes_end(&mut self) {
        for node in 0..self.len() {
            self.note_failed_sync(node);
            let is_late = |since: &Instant| since.elapsed() > ENDS_WITHIN;
            if !self.nodes[node].is_paused && self.nodes[node].must_end.take_if(|since| is_late(since)).is_some() {
                self.blamed.push(format!("node {node} goes on {ENDS_WITHIN:?} after one of its syncs has failed"));
            }
        }
    }

    /// All syncs of all nodes lie from now on, also of those that are started later.
    pub fn let_syncs_lie(&mut self) -> Act {
        let inject = |node: &Node| node.place.power().inject(Fault::SyncsLie).map_err(|error| error.to_string());
        self.nodes.iter().try_for_each(inject)
    }

    /// Takes up the room on a node's small disk.
    pub fn fill_disk(&mut self, node: usize) -> Act {
        self.process(node)?;
        if self.nodes[node].is_joining {
            // One that finds no room for its log when it first starts may not start.
            return Err(format!("node {node} has not joined yet"));
        }
        self.nodes[node].place.fill()
    }

    /// Gives it back.
    pub fn empty_disk(&mut self, node: usize) -> Act {
        self.nodes[node].place.empty()
    }

    /// Drops packets for the sake of a fault, beside those that others have dropped.
    pub fn drop_packets(&mut self, fault: u64, drops: Vec<(usize, Drops)>) -> Act {
        let before = self.drops.remove(&fault).unwrap_or_default();
        let mut touched: Vec<usize> = before.iter().chain(&drops).map(|(node, _)| *node).collect();
        if !drops.is_empty() {
            self.drops.insert(fault, drops);
        }
        touched.sort_unstable();
        touched.dedup();
        let Some(network) = &self.network else { return Err("there is no network to drop packets in".to_owned()) };
        for node in touched {
            let all = self.drops.values().flatten().filter(|(of, _)| *of == node).map(|(_, drops)| *drops);
            network.set_drops(node, &all.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Where a node's packets go and come from.
    pub fn ip(&self, node: usize) -> std::net::IpAddr {
        self.nodes[node].address.ip()
    }

    /// Delays bytes on the links from a node, or to it, as far as they lead through proxies.
    pub fn delay(&mut self, node: usize, delay: Duration) -> Act {
        let of_node = self.links.iter().filter(|link| link.from == node || link.to == node);
        let delayed = of_node.map(|link| link.delay(delay)).count();
        if delayed == 0 { Err(format!("no link of node {node} leads through a proxy")) } else { Ok(()) }
    }

    /// Has the leader hand over to another node.
    pub fn transfer_leader(&mut self, to: Option<usize>) -> Act {
        let id = match to {
            Some(node) => Some(self.watch.id(node).ok_or("nobody knows that node's id")?),
            None => None,
        };
        let mut words = vec!["transfer-leader".to_owned()];
        words.extend(id.into_iter().flat_map(|id| ["--to".to_owned(), id]));
        let command = self.command(&words, None).map_err(|error| error.to_string())?;
        self.commands.push(command);
        Ok(())
    }

    /// Has a node removed for good. When it has ended for that, a new one with an empty disk joins in its place.
    pub fn replace(&mut self, node: usize) -> Act {
        if self.removal.is_some() {
            return Err("another one is being removed".to_owned());
        }
        if self.nodes[node].is_joining {
            return Err(format!("node {node} has not joined yet"));
        }
        let id = self.watch.id(node).ok_or("nobody knows its id")?;
        self.removal = Some(Removal { node, id, command: None, tried: Instant::now() - AGAIN });
        Ok(())
    }

    /// Whether a node is on its way out, or a new one on its way in.
    pub fn is_changing(&self) -> bool {
        self.removal.is_some() || self.nodes.iter().any(|node| node.is_joining)
    }

    /// Runs a command of an operator where the clients are. All nodes but one are named to it.
    fn command(&self, words: &[String], besides: Option<usize>) -> std::io::Result<Process> {
        let peers = self.nodes.iter().enumerate().filter(|(node, _)| Some(*node) != besides);
        let peers = peers.map(|(_, node)| node.peer.to_string()).collect::<Vec<_>>().join(",");
        let mut dstore = Command::new(&self.programs[0]);
        dstore.arg("cluster").args(words).args(["--peer", &peers]).arg("--cluster-secret-file").arg(&self.secret);
        let bound = process::bound_to_us(&dstore);
        let command = match &self.network {
            Some(network) => network.beside_clients(&bound),
            None => bound,
        };
        Process::spawn(command, &self.directory.join("commands.log"))
    }

    /// Has all nodes compare their replicas.
    ///
    /// # Errors
    ///
    /// They differ, or one does not answer.
    pub fn check(&self) -> Result<()> {
        let mut command = self.command(&["check".to_owned()], None)?;
        let status = command.wait_within(Duration::from_secs(60)).context("dstore cluster check does not end")?;
        let log = self.directory.join("commands.log");
        anyhow::ensure!(status.success(), "dstore cluster check says no, see {}", log.display());
        Ok(())
    }

    /// Looks after what goes on by itself: processes that ended, removals, nodes that join. To be called often.
    pub fn tick(&mut self) {
        self.commands.retain_mut(|command| command.ended().is_none() && command.age() < COMMAND_MAX);
        for node in 0..self.len() {
            let Some(status) = self.nodes[node].process.as_mut().and_then(Process::ended) else { continue };
            self.note_failed_sync(node);
            let must_have_ended = self.nodes[node].must_end.take().is_some();
            self.failed_syncs.ended += u64::from(must_have_ended && status.code() == Some(EXIT_DISK));
            let times_told = self.nodes[node].process.take().map_or(0, |process| process.times_told_to_end());
            self.nodes[node].ended = Instant::now();
            self.explain(node, status, times_told);
        }
        for node in 0..self.len() {
            if self.nodes[node].is_joining {
                let is_known = self.is_up(node) && self.watch.id(node).is_some();
                self.nodes[node].is_joining = !is_known;
            }
        }
        self.see_that_failed_nodes_end();
        self.remove_again();
    }

    fn explain(&mut self, node: usize, status: std::process::ExitStatus, times_told: u32) {
        let is_leaving = self.removal.as_ref().is_some_and(|removal| removal.node == node);
        let begun = &self.nodes[node];
        match status.code() {
            Some(EXIT_REMOVED) if is_leaving => self.renew(node),
            Some(0) if times_told > 0 => {}
            Some(EXIT_AT_ONCE) if times_told > 1 => {}
            // So early in its start that it did not listen to signals yet.
            None if times_told > 0 && status.signal() == Some(SIGTERM) => {}
            // It died of what was done to its disk: nobody knows what that kept.
            Some(EXIT_DISK) if begun.may_fail => {
                if let Err(error) = self.nodes[node].place.settle(Style::Scattered, 0) {
                    self.blamed.push(format!("node {node}: {error}"));
                }
            }
            // Nobody answers a newcomer, or the old member's address is still taken.
            Some(1) if begun.is_joining && begun.place.lives() > 0 => {}
            _ => {
                let last = begun.place.last_words();
                self.blamed.push(format!("node {node} ended by itself, {status}: {last}"));
            }
        }
    }

    /// A node was removed: its directory is thrown away, and a new node begins there.
    fn renew(&mut self, node: usize) {
        self.removal = None;
        if let Err(error) = self.nodes[node].place.renew() {
            self.blamed.push(format!("node {node}: {error}"));
        }
        self.watch.forget(node);
        self.nodes[node].is_joining = true;
        if let Err(why) = self.start(node) {
            self.blamed.push(format!("node {node}: {why}"));
        }
    }

    fn remove_again(&mut self) {
        let Some(removal) = &mut self.removal else { return };
        if removal.command.as_mut().is_some_and(|command| command.ended().is_none() && command.age() < COMMAND_MAX) {
            return;
        }
        removal.command = None; // which ends it
        if removal.tried.elapsed() < AGAIN {
            return;
        }
        removal.tried = Instant::now();
        let (node, words) = (removal.node, ["remove".to_owned(), removal.id.clone()]);
        match (self.command(&words, Some(node)), &mut self.removal) {
            (Ok(command), Some(removal)) => removal.command = Some(command),
            (Err(error), _) => self.blamed.push(format!("dstore cluster remove: {error}")),
            (Ok(_), None) => {}
        }
    }

    /// Starts nodes that joined in vain, and, when all is to be well again, every other one that is down.
    pub fn start_down(&mut self, everybody: bool) {
        for node in 0..self.len() {
            let has_rested = self.nodes[node].ended.elapsed() >= AGAIN;
            let is_wanted = everybody || (self.nodes[node].is_joining && self.nodes[node].place.lives() > 0);
            if is_wanted
                && has_rested
                && !self.is_up(node)
                && let Err(why) = self.start(node)
            {
                self.blamed.push(format!("node {node} cannot be started: {why}"));
            }
        }
    }

    /// Ends every fault there is. Nodes that are down are started by [`World::start_down`].
    pub fn heal(&mut self) -> Act {
        for fault in self.drops.keys().copied().collect::<Vec<_>>() {
            self.drop_packets(fault, Vec::new())?;
        }
        self.links.iter().for_each(|link| link.delay(Duration::ZERO));
        for node in 0..self.len() {
            let _ = self.resume(node); // unless it is down
            self.mend_disk(node)?;
            let _ = self.empty_disk(node); // unless it was not full
        }
        Ok(())
    }

    /// Ends all processes, at once.
    pub fn end(&mut self) {
        for node in &mut self.nodes {
            node.process = None;
        }
    }
}
