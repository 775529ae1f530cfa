//! Machines of a network that is this process's own: network namespaces joined by a bridge, with packets dropped on demand.
//!
//! ```text
//!   node 0: 10.213.0.1      node 1: 10.213.0.2      node 2: 10.213.0.3
//!         |  eth0                 |                       |
//!         +-----------------------+-----------------------+    bridge, in a namespace of its own:
//!                                                              10.213.0.254, where the clients are
//! ```
//!
//! Nothing of the host's own network is touched. It needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN), `ip` and `nft`;
//! [`Network::new`] says what is missing, so that a test can say why it was skipped.
//!
//! Packets are dropped, not refused: to everybody else the node is gone without a word, as when a cable is cut.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::run_to_end;

/// Bridge and namespaces. Dropping it removes them.
#[derive(Debug)]
pub struct Network {
    name: String,
    nodes: usize,
}

/// What a node's packets are dropped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// For its peers alone: clients still reach it.
    Peers,
    /// For everybody.
    Everybody,
}

/// Packets that a node does not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drops {
    /// With whom; nobody in particular means everybody.
    pub with: Option<IpAddr>,
    /// Those that arrive.
    pub arriving: bool,
    /// Those that leave.
    pub leaving: bool,
    /// How many of a thousand, at random.
    pub permille: u16,
}

impl Drops {
    /// The rules of one direction's chain, as `nft` reads them.
    fn rule(&self, arriving: bool) -> Option<String> {
        if !(if arriving { self.arriving } else { self.leaving }) {
            return None;
        }
        let which = match (self.with, arriving) {
            (None, true) => "iifname \"eth0\"".to_owned(),
            (None, false) => "oifname \"eth0\"".to_owned(),
            (Some(address), true) => format!("ip saddr {address}"),
            (Some(address), false) => format!("ip daddr {address}"),
        };
        let chance =
            if self.permille >= 1000 { String::new() } else { format!(" numgen random mod 1000 < {}", self.permille) };
        Some(format!("{which}{chance} drop\n"))
    }
}

impl Network {
    /// Removes the networks of processes that ended without doing so. Gives their names.
    pub fn sweep() -> Vec<String> {
        let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let is_orphan = |name: &String| {
            let owner = name.strip_prefix("dstore-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        };
        let orphans: Vec<String> = names.filter(is_orphan).collect();
        orphans.into_iter().filter(|name| tool("ip", &["netns", "del", name]).is_ok()).collect()
    }

    /// Makes a network of so many nodes, at most 250.
    ///
    /// # Errors
    ///
    /// This machine or user may not make one; the text says why.
    pub fn new(nodes: usize) -> Result<Network, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(nodes <= 250, "one byte of an address tells nodes apart");
        let name = format!("dstore-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let network = Network { name, nodes }; // from here on, dropping it cleans up
        network.make()?;
        Ok(network)
    }

    fn make(&self) -> Result<(), String> {
        let hub = self.hub();
        tool("ip", &["netns", "add", &hub])?;
        tool("ip", &["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        tool("ip", &["-n", &hub, "addr", "add", "10.213.0.254/24", "dev", "bridge"])?;
        tool("ip", &["-n", &hub, "link", "set", "bridge", "up"])?;
        tool("ip", &["-n", &hub, "link", "set", "lo", "up"])?;
        for node in 0..self.nodes {
            let (space, port) = (self.namespace(node), format!("port{node}"));
            tool("ip", &["netns", "add", &space])?;
            tool("ip", &["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            tool("ip", &["-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
            tool("ip", &["-n", &space, "addr", "add", &format!("{}/24", self.address(node)), "dev", "eth0"])?;
            tool("ip", &["-n", &space, "link", "set", "eth0", "up"])?;
            tool("ip", &["-n", &space, "link", "set", "lo", "up"])?;
        }
        // Whether packets can be dropped is better known before the test than in its middle.
        if self.nodes > 0 {
            self.cut(0, Cut::Everybody)?;
            self.heal(0)?;
        }
        self.within(|| ())
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn namespace(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    /// Where a node is found.
    pub fn address(&self, node: usize) -> IpAddr {
        let last = u8::try_from(node + 1).expect("at most 250 nodes");
        IpAddr::V4(Ipv4Addr::new(10, 213, 0, last))
    }

    /// The same command, run in a node's namespace. Its process id is that of the program itself.
    pub fn inside(&self, node: usize, command: &Command) -> Command {
        Self::inside_of(&self.namespace(node), command)
    }

    /// The same command, run where the clients are.
    pub fn beside_clients(&self, command: &Command) -> Command {
        Self::inside_of(&self.hub(), command)
    }

    fn inside_of(space: &str, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", space]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Runs `work` where the clients are. Sockets made there stay there, whoever uses them later.
    ///
    /// # Errors
    ///
    /// This thread may not enter the namespace.
    ///
    /// # Panics
    ///
    /// When `work` does.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, String> {
        Self::within_of(&self.hub(), work)
    }

    /// Runs `work` on a node's machine. Sockets made there stay there, whoever uses them later.
    ///
    /// # Errors
    ///
    /// This thread may not enter the namespace.
    ///
    /// # Panics
    ///
    /// When `work` does.
    pub fn within_node<T: Send>(&self, node: usize, work: impl FnOnce() -> T + Send) -> Result<T, String> {
        Self::within_of(&self.namespace(node), work)
    }

    fn within_of<T: Send>(space: &str, work: impl FnOnce() -> T + Send) -> Result<T, String> {
        let file = format!("/run/netns/{space}");
        let space = File::open(&file).map_err(|error| format!("{file}: {error}"))?;
        // A thread of its own, so that the caller's stays where it is.
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(|error| format!("cannot enter a network namespace: {error}"))?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Drops a node's packets, in both directions, from now on.
    ///
    /// # Errors
    ///
    /// `nft` refuses.
    pub fn cut(&self, node: usize, cut: Cut) -> Result<(), String> {
        let others: Vec<String> =
            (0..self.nodes).filter(|other| *other != node).map(|other| self.address(other).to_string()).collect();
        let (from, to) = match cut {
            Cut::Everybody => ("iifname \"eth0\"".to_owned(), "oifname \"eth0\"".to_owned()),
            Cut::Peers => {
                let set = others.join(", ");
                (format!("ip saddr {{ {set} }}"), format!("ip daddr {{ {set} }}"))
            }
        };
        let rules = format!(
            "table inet cut {{\n\
             chain in {{ type filter hook input priority 0; {from} drop; }}\n\
             chain out {{ type filter hook output priority 0; {to} drop; }}\n}}\n"
        );
        self.set_rules(node, &rules)
    }

    /// Drops exactly these of a node's packets from now on, and no others that this was asked for before.
    ///
    /// # Errors
    ///
    /// `nft` refuses.
    pub fn set_drops(&self, node: usize, drops: &[Drops]) -> Result<(), String> {
        let chain = |arriving| drops.iter().filter_map(|drops| drops.rule(arriving)).collect::<String>();
        // Declared, so that it can be deleted; all in one step.
        let rules = format!(
            "table inet drops {{\n}}\ndelete table inet drops\ntable inet drops {{\n\
             chain in {{ type filter hook input priority 0;\n{}}}\n\
             chain out {{ type filter hook output priority 0;\n{}}}\n}}\n",
            chain(true),
            chain(false)
        );
        self.set_rules(node, &rules)
    }

    /// Gives a node's `nft` these rules, beside what it has.
    ///
    /// # Errors
    ///
    /// It refuses.
    pub fn set_rules(&self, node: usize, rules: &str) -> Result<(), String> {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]);
        finish(&mut self.inside(node, &nft), rules.as_bytes())
    }

    /// Lets a node's packets through again.
    ///
    /// # Errors
    ///
    /// They were not dropped.
    pub fn heal(&self, node: usize) -> Result<(), String> {
        let mut nft = Command::new("nft");
        nft.args(["delete", "table", "inet", "cut"]);
        finish(&mut self.inside(node, &nft), b"")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let spaces = (0..self.nodes).map(|node| self.namespace(node)).chain([self.hub()]);
        for space in spaces {
            let _ = tool("ip", &["netns", "del", &space]); // some may never have been made
        }
    }
}

/// A connection attempt within a network, or on this machine when there is none.
pub(crate) fn dial<T: Send>(
    network: Option<&Network>,
    address: SocketAddr,
    connect: impl FnOnce(SocketAddr) -> io::Result<T> + Send,
) -> io::Result<T> {
    match network {
        None => connect(address),
        Some(network) => network.within(|| connect(address)).map_err(io::Error::other)?,
    }
}

fn tool(program: &str, arguments: &[&str]) -> Result<(), String> {
    finish(Command::new(program).args(arguments), b"")
}

fn finish(command: &mut Command, input: &[u8]) -> Result<(), String> {
    let program = command.get_program().to_owned();
    let present =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(&program).is_file()));
    if !present {
        return Err(format!("{} is not installed", program.display()));
    }
    let output = run_to_end(command, input);
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn packets_are_dropped_when_told_and_not_otherwise() {
        let network = match Network::new(2) {
            Ok(network) => network,
            Err(why) => return println!("skipped: {why}"),
        };
        // A connection to a port that nobody listens on is refused: that is how packets are seen to pass.
        let node = SocketAddr::new(network.address(0), 7_000);
        let answers = || {
            let attempt = network.within(|| TcpStream::connect_timeout(&node, Duration::from_millis(300))).unwrap();
            attempt.unwrap_err().kind() == io::ErrorKind::ConnectionRefused
        };
        assert!(answers());
        network.cut(0, Cut::Peers).unwrap();
        assert!(answers(), "clients still reach it");
        network.heal(0).unwrap();
        network.cut(0, Cut::Everybody).unwrap();
        assert!(!answers());
        network.heal(0).unwrap();
        assert!(answers());

        let everything = Drops { with: None, arriving: false, leaving: true, permille: 1000 };
        network.set_drops(0, &[everything]).unwrap();
        assert!(!answers(), "its answers do not leave");
        network.set_drops(0, &[Drops { with: Some(network.address(1)), arriving: true, ..everything }]).unwrap();
        assert!(answers(), "that is about another node");
        network.set_drops(0, &[Drops { permille: 0, ..everything }]).unwrap();
        assert!(answers(), "none of a thousand are dropped");
        network.set_drops(0, &[]).unwrap();
        assert!(answers());
    }

    #[test]
    fn only_networks_whose_owner_is_gone_are_swept() {
        let network = match Network::new(0) {
            Ok(network) => network,
            Err(why) => return println!("skipped: {why}"),
        };
        // No process has so high a number.
        let orphan = "dstore-4194999-0-hub";
        tool("ip", &["netns", "add", orphan]).unwrap();
        let swept = Network::sweep();
        assert!(swept.contains(&orphan.to_owned()), "{swept:?}");
        assert!(Path::new(&format!("/run/netns/{}", network.hub())).exists());
    }
}
