//! The settings that make a node part of a cluster, and those that keep strangers out.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use dstore_net::Target;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{ByteSize, Settings, ms_in};

/// Nodes that may found a cluster together: each write goes to all of them, and more than four failures at once are
/// answered with backups rather than voters.
const PEERS_MAX: usize = 9;

/// With less, a snapshot of a few gigabytes would take days, during which its view keeps files from being removed.
const SNAPSHOT_BYTES_PER_SECOND_MIN: ByteSize = ByteSize(64 << 10);

/// What a node knows of its cluster from its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// Addresses of all founding nodes in their common order; empty where none were given.
    pub peers: Vec<PeerAddress>,
    /// Members of a cluster that a new node asks to take it in; empty where none were given, or only this node itself.
    pub join: Vec<PeerAddress>,
    /// Where this node listens for its peers, if it was told; one of `peers` where those were given.
    pub peer_listen: Option<PeerAddress>,
    /// Where the cluster's secret is; there when `peers`, `join` or `peer_listen` are.
    pub secret_file: Option<PathBuf>,
    /// How long a command may wait for a leader and a quorum.
    pub request_timeout: Duration,
    /// How long a leader may be silent before another is elected.
    pub election_timeout: Duration,
    /// How a leader makes sure that it still is one.
    pub reads: Reads,
    /// Whether followers serve reads.
    pub follower_reads: bool,
    /// Nodes that vote; more stand by.
    pub voters_max: usize,
    /// How fast a snapshot may be sent; 0 for as fast as it goes.
    pub snapshot_bytes_per_second: u64,
}

impl ClusterConfig {
    /// How often a leader proves that it lives: ten times before it is given up.
    pub fn heartbeat_interval(&self) -> Duration {
        self.election_timeout / 10
    }

    /// How long a voter that heard from the leader votes for nobody else: five heartbeats, so that a lost one leaves no
    /// gap, and half of the election timeout, so that a leader known to be dead is replaced sooner.
    pub fn lease(&self) -> Duration {
        self.election_timeout / 2
    }

    pub(super) fn resolve(settings: &Settings) -> anyhow::Result<ClusterConfig> {
        let peers = addresses("peers", settings.peers.as_deref())?;
        if peers.len() > PEERS_MAX {
            bail!("peers names {} nodes; a cluster is founded by at most {PEERS_MAX}", peers.len());
        }
        let mut join = addresses("join", settings.join.as_deref())?;
        if !peers.is_empty() && !join.is_empty() {
            bail!("peers and join contradict each other: peers found a new cluster, join is for one that exists");
        }
        let peer_listen = settings.peer_listen.as_deref().map(str::parse::<PeerAddress>).transpose()?;
        if let Some(own) = peer_listen.as_ref().filter(|own| !peers.is_empty() && !peers.contains(own)) {
            bail!("peer_listen {own} is not among the peers: they name all nodes, this one included");
        }
        if !join.is_empty() {
            let Some(own) = &peer_listen else {
                bail!("join needs an address where the members reach this node: give --peer-listen HOST:PORT");
            };
            join.retain(|member| member != own);
            if join.is_empty() {
                bail!("join names this node itself: name a member of the cluster");
            }
        }
        let secret_file = settings.cluster_secret_file.clone();
        if secret_file.is_none() && (!peers.is_empty() || peer_listen.is_some()) {
            bail!(
                "peers need a secret that all of them share: give --cluster-secret-file FILE ({HOW_TO_MAKE_A_SECRET})"
            );
        }
        let voters_max = settings.voters_max.unwrap_or(3);
        if !(1..=PEERS_MAX).contains(&voters_max) {
            bail!("voters_max is {voters_max}; it must be between 1 and {PEERS_MAX}");
        }
        let pace = settings.snapshot_bytes_per_second.unwrap_or(ByteSize(64 << 20));
        if (1..SNAPSHOT_BYTES_PER_SECOND_MIN.0).contains(&pace.0) {
            bail!(
                "snapshot_bytes_per_second is {pace}; it must be 0, for as fast as it goes, or at least \
                 {SNAPSHOT_BYTES_PER_SECOND_MIN}"
            );
        }
        Ok(ClusterConfig {
            peers,
            join,
            peer_listen,
            secret_file,
            request_timeout: ms_in("request_timeout_ms", settings.request_timeout_ms, 5000, 100, 600_000)?,
            // Below this, an ordinary pause of a shared machine would cost a leader.
            election_timeout: ms_in("election_timeout_ms", settings.election_timeout_ms, 700, 100, 60_000)?,
            reads: settings.reads.unwrap_or(Reads::Lease),
            follower_reads: settings.follower_reads.unwrap_or(false),
            voters_max,
            snapshot_bytes_per_second: pace.0,
        })
    }
}

/// The addresses of a setting that was given, each there once.
fn addresses(name: &str, given: Option<&[String]>) -> anyhow::Result<Vec<PeerAddress>> {
    let Some(given) = given else { return Ok(Vec::new()) };
    let addresses = given.iter().map(|text| text.parse()).collect::<Result<Vec<PeerAddress>, _>>()?;
    if addresses.is_empty() {
        bail!("{name} is empty: leave it out, or name nodes of the cluster");
    }
    let mut distinct = BTreeSet::new();
    match addresses.iter().find(|address| !distinct.insert(*address)) {
        Some(twice) => bail!("{name} names {twice} twice"),
        None => Ok(addresses),
    }
}

/// For every message about a missing or bad secret.
pub const HOW_TO_MAKE_A_SECRET: &str =
    "make one with: (umask 077; head -c 32 /dev/urandom | base64 > FILE), and copy it to all nodes";

/// Where a node listens for its peers, as all of them write it: `host:port`, the host a name or an address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerAddress {
    host: String,
    port: u16,
}

impl PeerAddress {
    /// The way to it.
    pub fn target(&self) -> Target {
        Target::Name(self.host.clone(), self.port)
    }

    /// The socket addresses that it stands for. Blocks while a name is looked up.
    ///
    /// # Errors
    ///
    /// The name is not known, or nobody can be asked.
    pub fn look_up(&self) -> std::io::Result<Vec<SocketAddr>> {
        let addresses = std::net::ToSocketAddrs::to_socket_addrs(&(self.host.as_str(), self.port))?;
        Ok(addresses.collect())
    }
}

impl FromStr for PeerAddress {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<PeerAddress> {
        let text = text.trim();
        let parts = text.rsplit_once(':').with_context(|| format!("peer `{text}` has no port: write host:port"))?;
        let port: u16 = parts.1.parse().ok().filter(|port| *port != 0).with_context(|| {
            format!("peer `{text}` has no usable port: peers are told it in advance, so it is a number from 1 to 65535")
        })?;
        let bracketed = parts.0.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(parts.0);
        let literal = host.parse::<std::net::IpAddr>();
        let is_v6 = matches!(literal, Ok(std::net::IpAddr::V6(_)));
        if host.is_empty() || is_v6 != bracketed.is_some() || host.contains([':', ' ']) && !is_v6 {
            bail!("peer `{text}` has no usable host: write host:port, or [address]:port for IPv6");
        }
        if literal.is_ok_and(|address| address.is_unspecified()) {
            bail!("peer `{text}` is no address that others could connect to");
        }
        Ok(PeerAddress { host: host.to_owned(), port })
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a leader makes sure, before it answers a read, that no other has been elected.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Reads {
    /// By the promise of a quorum not to elect another for a while; relies on clocks that run at the same rate.
    Lease,
    /// By asking a quorum each time; relies on no clock.
    ReadIndex,
}

/// A password of clients. Never printed.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(try_from = "PasswordForm")]
pub struct Password(String);

impl Password {
    /// The password itself, to compare with.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// What stands in the file for a password; an error of the text's own parser would quote it.
#[derive(Deserialize)]
#[serde(untagged)]
enum PasswordForm {
    Text(String),
    Other(IgnoredAny),
}

impl TryFrom<PasswordForm> for Password {
    type Error = &'static str;

    fn try_from(form: PasswordForm) -> Result<Password, &'static str> {
        match form {
            PasswordForm::Text(text) => Ok(Password(text)),
            PasswordForm::Other(IgnoredAny) => Err("a password is a text in quotes"),
        }
    }
}

impl FromStr for Password {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Password, Infallible> {
        Ok(Password(text.to_owned()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Checks that strangers are kept out.
///
/// # Errors
///
/// The node would listen beyond this machine without a password; or the password is empty.
pub(super) fn check_exposure(settings: &Settings, listen: SocketAddr) -> anyhow::Result<()> {
    match &settings.requirepass {
        Some(password) if password.reveal().is_empty() => {
            bail!("requirepass is empty: leave it out for no password")
        }
        None if settings.protected_mode.unwrap_or(true) && !listen.ip().is_loopback() => bail!(
            "{listen} can be reached from other machines and there is no password: set one (requirepass = \"...\" in the \
             configuration file, or --requirepass), or listen on 127.0.0.1, or allow everybody with --protected-mode false"
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<ClusterConfig, String> {
        let settings: Settings = toml::from_str(text).map_err(|error| error.to_string())?;
        ClusterConfig::resolve(&settings).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn without_peers_everything_has_a_default() {
        let config = resolve("").unwrap();
        assert_eq!(config.peers, []);
        assert_eq!(config.request_timeout, Duration::from_secs(5));
        assert_eq!(config.election_timeout, Duration::from_millis(700));
        assert_eq!(config.heartbeat_interval(), Duration::from_millis(70));
        assert_eq!(config.lease(), Duration::from_millis(350));
        assert_eq!((config.reads, config.follower_reads), (Reads::Lease, false));
    }

    #[test]
    fn peers_are_names_or_addresses_with_ports() {
        let config = resolve("peers = [\"a:1\", \"10.0.0.2:7\", \"[::1]:3\"]\ncluster_secret_file = \"s\"").unwrap();
        let shown: Vec<String> = config.peers.iter().map(PeerAddress::to_string).collect();
        assert_eq!(shown, ["a:1", "10.0.0.2:7", "[::1]:3"]);
        for bad in ["a", "a:", "a:0", "a:70000", ":1", "::1:3", "a b:1", "0.0.0.0:1", "[::]:1"] {
            let error = bad.parse::<PeerAddress>().unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let secret = "cluster_secret_file = \"s\"";
        let refused = |text: &str, why: &str| {
            let error = resolve(&format!("{text}\n{secret}")).unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        refused("peers = []", "peers is empty");
        refused("peers = [\"a:1\", \"a:1\"]", "a:1 twice");
        refused("peers = [\"a:1\", \"b:1\"]\npeer_listen = \"c:1\"", "peer_listen c:1 is not among the peers");
        refused("peers = [\"a:1\"]\njoin = [\"b:1\"]", "contradict each other");
        refused("join = [\"b:1\"]", "--peer-listen");
        refused("join = [\"b:1\"]\npeer_listen = \"b:1\"", "join names this node itself");
        refused("join = []", "join is empty");
        refused("snapshot_bytes_per_second = 5", "at least 64KiB");
        refused("voters_max = 0", "between 1 and 9");
        refused("election_timeout_ms = 99", "between 100 and 60000");
        refused("request_timeout_ms = 0", "between 100 and 600000");
        refused("reads = \"stale\"", "stale");
        let ten: Vec<String> = (0..10).map(|port| format!("\"a:{}\"", port + 1)).collect();
        refused(&format!("peers = [{}]", ten.join(", ")), "at most 9");
        for needs in ["peers = [\"a:1\"]", "peer_listen = \"a:1\"", "peer_listen = \"a:1\"\njoin = [\"b:1\"]"] {
            let error = resolve(needs).unwrap_err();
            assert!(error.contains("--cluster-secret-file") && error.contains("/dev/urandom"), "{error}");
        }
        let joins = resolve(&format!("join = [\"a:1\", \"b:1\"]\npeer_listen = \"b:1\"\n{secret}")).unwrap();
        assert_eq!(joins.join.iter().map(PeerAddress::to_string).collect::<Vec<_>>(), ["a:1"]);
    }

    #[test]
    fn a_password_is_never_printed() {
        let settings: Settings = toml::from_str("requirepass = \"hunter2\"").unwrap();
        assert_eq!(settings.requirepass.as_ref().map(Password::reveal), Some("hunter2"));
        assert!(!format!("{settings:?}").contains("hunter2"));
        let error = toml::from_str::<Settings>("requirepass = 4711").unwrap_err();
        assert_eq!(error.message(), "a password is a text in quotes");
    }

    #[test]
    fn beyond_this_machine_only_with_a_password_or_on_request() {
        let check = |text: &str, listen: &str| {
            let settings: Settings = toml::from_str(text).unwrap();
            check_exposure(&settings, listen.parse().unwrap()).map_err(|error| error.to_string())
        };
        check("", "127.0.0.1:1").unwrap();
        check("", "[::1]:1").unwrap();
        check("requirepass = \"x\"", "0.0.0.0:1").unwrap();
        check("protected_mode = false", "0.0.0.0:1").unwrap();
        for listen in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1"] {
            let error = check("", listen).unwrap_err();
            assert!(
                error.contains(listen) && error.contains("requirepass") && error.contains("protected-mode"),
                "{error}"
            );
        }
        assert!(check("requirepass = \"\"", "127.0.0.1:1").is_err());
    }
}
