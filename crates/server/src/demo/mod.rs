//! `dstore demo`: a whole cluster on loopback, a process for each node, to be tried and to be tormented.
//!
//! It starts the nodes as anybody would, with `dstore start` and a configuration file each, says how to reach and how to
//! kill them, reports when one ends, and stops those that are left. It restarts nothing: what a cluster does without one
//! of its nodes is what there is to see.
//!
//! Each node holds the other end of a pipe as its standard input, and stops when that ends; so none survives this
//! process, even one that is killed. [`layout`] says what lies where, [`node`] is one process.

mod layout;
mod node;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::layout::Layout;
use self::node::NodeProcess;
use crate::cluster::status::{ClusterStatus, Verdict, aligned};
use crate::config::ByteSize;
use crate::console::say;

/// How long the nodes may take to be ready: they open empty databases, and elect a leader.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How often they are asked whether they are.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long a node may take to stop before it is killed: what it flushes is bounded.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// What the user wants.
pub struct Options {
    /// How many nodes.
    pub nodes: u16,
    /// Port of the first one.
    pub port: u16,
    /// Keep the data.
    pub keep: bool,
    /// Where the data goes.
    pub dir: Option<PathBuf>,
    /// Memory of all nodes together.
    pub memory: ByteSize,
}

/// What the demo waits for.
enum Event {
    /// The process of this node has ended, and waits to be reaped.
    Ended(usize),
    /// The user wants an end.
    Stop,
}

/// Runs a cluster until it is told to stop.
///
/// # Errors
///
/// It cannot be started: ports are taken, a node does not start, or it does not become ready.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let layout = Layout::new(options)?;
    layout.check_ports()?;
    let (tell, events) = channel();
    watch_signals(tell.clone())?;
    layout.write()?;
    let mut demo = Demo { nodes: Vec::new(), events, stopping: false };
    let outcome = demo.start(&layout, &tell).and_then(|()| demo.serve(&layout));
    demo.stop();
    layout.clean_up();
    outcome
}

/// Ctrl-C and its kin become events.
fn watch_signals(tell: Sender<Event>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot handle signals")?;
    let wait = move || {
        for _ in signals.forever() {
            if tell.send(Event::Stop).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}

/// The nodes as they run.
struct Demo {
    nodes: Vec<NodeProcess>,
    events: Receiver<Event>,
    /// The user has asked for an end.
    stopping: bool,
}

impl Demo {
    /// Starts all nodes and waits until clients can be sent to each of them.
    fn start(&mut self, layout: &Layout, tell: &Sender<Event>) -> anyhow::Result<()> {
        for (place, node) in layout.nodes.iter().enumerate() {
            let tell = tell.clone();
            let ended = move || {
                // Nobody listens any more when the demo is over.
                let _ = tell.send(Event::Ended(place));
            };
            self.nodes.push(NodeProcess::start(node, ended)?);
        }
        let until = Instant::now() + READY_WITHIN;
        while let Some(missing) = self.missing(layout) {
            match self.events.recv_timeout(ASK_AGAIN) {
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(_) => bail!("the cluster is not ready: {missing}"),
                Ok(Event::Stop) => {
                    self.stopping = true;
                    return Ok(());
                }
                Ok(Event::Ended(place)) => bail!("{}", self.nodes[place].epitaph()),
            }
        }
        Ok(())
    }

    /// Why the cluster cannot be shown yet: a node is not ready, or the nodes do not all know each other.
    fn missing(&self, layout: &Layout) -> Option<String> {
        for (place, node) in self.nodes.iter().enumerate() {
            if let Err(why) = node.is_ready() {
                return Some(format!("node {}: {why}", place + 1));
            }
        }
        match ClusterStatus::gather(&layout.addresses(), None) {
            Ok(status) if status.verdict == Verdict::Healthy => None,
            Ok(status) => Some(status.summary),
            Err(error) => Some(format!("{error:#}")),
        }
    }

    /// Says what there is, and reports what becomes of it, until the user has seen enough.
    fn serve(&mut self, layout: &Layout) -> anyhow::Result<()> {
        if self.stopping {
            return Ok(());
        }
        say(&self.introduction(layout));
        loop {
            match self.events.recv().context("nobody is left to tell anything")? {
                Event::Stop => return Ok(()),
                Event::Ended(place) => {
                    let epitaph = self.nodes[place].epitaph();
                    let again = format!("{} start --config {}", layout.program, layout.nodes[place].config.display());
                    say(&format!("{epitaph}; to start it again:\n  {again}\n\n"));
                }
            }
        }
    }

    fn introduction(&self, layout: &Layout) -> String {
        let addresses = layout.addresses();
        let status = ClusterStatus::gather(&addresses, None).ok();
        let told = |listen: SocketAddr| {
            let nodes = status.iter().flat_map(|status| &status.nodes);
            let info = nodes.filter(|node| node.address == listen.to_string()).find_map(|node| node.info.as_ref());
            info.map_or_else(|| ("-".to_owned(), "-".to_owned()), |info| (info.node.clone(), info.role.clone()))
        };
        let mut rows = vec![["node", "id", "address", "pid", "role", "admin"].map(str::to_owned)];
        let mut victim = 0;
        for (place, (node, process)) in layout.nodes.iter().zip(&self.nodes).enumerate() {
            let (id, role) = told(node.listen);
            if role == "leader" {
                victim = place;
            }
            let admin = format!("http://{}/status", node.admin);
            rows.push([(place + 1).to_string(), id, node.listen.to_string(), process.pid().to_string(), role, admin]);
        }
        let (first, last) = (layout.nodes[0].listen.port(), layout.nodes[layout.nodes.len() - 1].listen.port());
        let stays = if layout.keeps() { "" } else { ", removed at the end unless --keep is given" };
        format!(
            "{table}\ndata in {dir}{stays}\n\ntry it, on any node:\n  redis-cli -p {first} set greeting hello\n  \
             redis-cli -p {last} get greeting\nkill one, watch, and start it again:\n  kill -9 {pid}\n  \
             {program} cluster status --node {nodes}\n  {program} start --config {config}\nadd one more (it stays when the demo ends):\n  {join}\nCtrl-C stops all.\n\n",
            join = layout.how_to_join(),
            table = aligned(&rows),
            dir = layout.dir.display(),
            pid = self.nodes[victim].pid(),
            program = layout.program,
            nodes = addresses.join(","),
            config = layout.nodes[victim].config.display(),
        )
    }

    /// Stops all nodes in order, and waits. A second request, or too much patience, kills them.
    fn stop(&mut self) {
        if self.nodes.iter().any(NodeProcess::is_running) {
            say("stopping the nodes\n");
        }
        self.nodes.iter_mut().for_each(NodeProcess::ask_to_stop);
        let until = Instant::now() + STOP_WITHIN;
        while self.nodes.iter().any(NodeProcess::is_running) {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended(place)) => self.nodes[place].reap(),
                Ok(Event::Stop) | Err(_) => {
                    self.nodes.iter_mut().for_each(NodeProcess::kill);
                    return;
                }
            }
        }
    }
}
