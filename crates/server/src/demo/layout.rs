//! What a demo consists of: ports, directories, and a configuration file for each node.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Options;
use crate::config::ByteSize;
use crate::console::say;
use crate::data_dir::DataDir;
use crate::random;

/// How far the ports of peers, and those of metrics, are above those of clients.
const PEERS_ABOVE: u16 = 100;
const ADMIN_ABOVE: u16 = 200;

/// Nodes of a demo; as many as can found a cluster.
const NODES_MAX: u16 = 9;

/// The least memory that a node takes.
const NODE_MEMORY_MIN: u64 = 16 << 20;

/// What a demo consists of.
pub(super) struct Layout {
    /// Where everything lies. Absolute, so that what is printed works in any shell.
    pub(super) dir: PathBuf,
    /// The nodes.
    pub(super) nodes: Vec<Place>,
    /// This program, as the user can call it.
    pub(super) program: String,
    secret: PathBuf,
    memory_each: u64,
    /// Data is removed at the end: neither asked to be kept, nor there before.
    removes: bool,
}

/// What one node consists of.
pub(super) struct Place {
    /// 1 and up.
    pub(super) number: usize,
    /// Where clients reach it.
    pub(super) listen: SocketAddr,
    /// Where its peers do.
    pub(super) peer: SocketAddr,
    /// Where its metrics are.
    pub(super) admin: SocketAddr,
    /// Its data directory.
    pub(super) data: PathBuf,
    /// Its configuration file.
    pub(super) config: PathBuf,
    /// What it says.
    pub(super) log: PathBuf,
}

impl Layout {
    /// Where everything will be. Nothing is made yet.
    ///
    /// # Errors
    ///
    /// Too many nodes, too little memory, ports that do not exist.
    pub(super) fn new(options: &Options) -> anyhow::Result<Layout> {
        let &Options { nodes: count, port, memory: ByteSize(memory), .. } = options;
        if !(1..=NODES_MAX).contains(&count) {
            bail!("--nodes is {count}; it must be between 1 and {NODES_MAX}");
        }
        if port == 0 || port.checked_add(ADMIN_ABOVE + count).is_none() {
            bail!("--port is {port}; it must be between 1 and {}", u16::MAX - ADMIN_ABOVE - count);
        }
        let memory_each = memory / u64::from(count);
        if memory_each < NODE_MEMORY_MIN {
            bail!(
                "--memory is {}; {count} nodes need {}",
                ByteSize(memory),
                ByteSize(NODE_MEMORY_MIN * u64::from(count))
            );
        }
        let dir = options.dir.clone().unwrap_or_else(temporary_dir);
        let dir = std::path::absolute(&dir).with_context(|| format!("no directory {}", dir.display()))?;
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let place = |index: u16| {
            let number = usize::from(index) + 1;
            Place {
                number,
                listen: address(port + index),
                peer: address(port + PEERS_ABOVE + index),
                admin: address(port + ADMIN_ABOVE + index),
                data: dir.join(format!("node{number}")),
                config: dir.join(format!("node{number}.toml")),
                log: dir.join(format!("node{number}.log")),
            }
        };
        let nodes: Vec<Place> = (0..count).map(place).collect();
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let was_there = nodes.iter().any(|node| node.data.exists());
        Ok(Layout {
            secret: dir.join("secret"),
            dir,
            nodes,
            program: program.display().to_string(),
            memory_each,
            removes: !options.keep && !was_there,
        })
    }

    /// Where clients reach the nodes.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.listen.to_string()).collect()
    }

    /// What starts one more node, which is no part of the demo.
    pub(super) fn how_to_join(&self) -> String {
        let last = &self.nodes[self.nodes.len() - 1];
        let (listen, peer) = (last.listen.port() + 1, last.peer.port() + 1);
        let data = self.dir.join(format!("node{}", last.number + 1));
        format!(
            "{program} start --data-dir {data} --listen 127.0.0.1:{listen} --peer-listen 127.0.0.1:{peer} --join {first} \
             --cluster-secret-file {secret}",
            program = self.program,
            data = data.display(),
            first = self.nodes[0].peer,
            secret = self.secret.display(),
        )
    }

    /// Whether the data stays when the demo ends.
    pub(super) fn keeps(&self) -> bool {
        !self.removes
    }

    /// Checks that every port is free, before anything is started.
    ///
    /// # Errors
    ///
    /// Names the port that is not.
    pub(super) fn check_ports(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            for (address, what) in [(node.listen, "clients"), (node.peer, "peers"), (node.admin, "metrics")] {
                TcpListener::bind(address).with_context(|| {
                    format!(
                        "node {} cannot listen for {what} on {address}; does a demo run already? Choose other ports \
                         with --port",
                        node.number
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Makes directory, secret and configuration files.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))?;
        write_secret(&self.secret).with_context(|| format!("cannot write {}", self.secret.display()))?;
        for node in &self.nodes {
            let head = "# Made by `dstore demo`, which writes it anew at each start.\n";
            let text = format!("{head}{}", self.settings(node)?);
            fs::write(&node.config, text).with_context(|| format!("cannot write {}", node.config.display()))?;
        }
        Ok(())
    }

    /// The settings of a node, as TOML.
    fn settings(&self, node: &Place) -> anyhow::Result<toml::Table> {
        let text = |path: &Path| {
            let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
            Ok::<_, anyhow::Error>(toml::Value::from(text))
        };
        let mut settings = toml::Table::new();
        settings.insert("data_dir".to_owned(), text(&node.data)?);
        settings.insert("listen".to_owned(), node.listen.to_string().into());
        settings.insert("admin_listen".to_owned(), node.admin.to_string().into());
        settings.insert("memory_bytes_max".to_owned(), i64::try_from(self.memory_each)?.into());
        if self.nodes.len() > 1 {
            let peers: Vec<String> = self.nodes.iter().map(|node| node.peer.to_string()).collect();
            settings.insert("peers".to_owned(), peers.into());
            settings.insert("peer_listen".to_owned(), node.peer.to_string().into());
            settings.insert("cluster_secret_file".to_owned(), text(&self.secret)?);
        }
        Ok(settings)
    }

    /// Removes what the demo has made, unless it is to be kept or still in use.
    pub(super) fn clean_up(&self) {
        if let Some(node) = self.nodes.iter().find(|node| DataDir::is_in_use(&node.data)) {
            say(&format!("node {} was started by hand and still runs: {} stays\n", node.number, self.dir.display()));
            return;
        }
        if self.keeps() {
            say(&format!("{} stays\n", self.dir.display()));
            return;
        }
        let mut removed = Vec::new();
        for node in &self.nodes {
            removed.push(fs::remove_dir_all(&node.data));
            removed.extend([&node.config, &node.log].map(fs::remove_file));
        }
        removed.push(fs::remove_file(&self.secret));
        // Only what is empty now: the user may keep other things in a directory of his.
        let _ = fs::remove_dir(&self.dir);
        let failed = removed.into_iter().filter_map(Result::err).find(|error| error.kind() != ErrorKind::NotFound);
        if let Some(error) = failed {
            say(&format!("{} could not be removed whole: {error}\n", self.dir.display()));
        }
    }
}

/// A directory of this demo's own, on a disk: `/tmp` is often memory, where a sync costs and means nothing.
fn temporary_dir() -> PathBuf {
    let on_disk = Path::new("/var/tmp");
    let base = match std::env::var_os("TMPDIR") {
        None if on_disk.is_dir() => on_disk.to_path_buf(),
        _ => std::env::temp_dir(),
    };
    base.join(format!("dstore-demo-{}", std::process::id()))
}

/// 32 random bytes in hexadecimal, for the owner's eyes only. One that is there stays: the data may know it.
fn write_secret(path: &Path) -> anyhow::Result<()> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let secret: String = random::bytes::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    file.write_all(format!("{secret}\n").as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Settings;

    fn options(dir: &Path) -> Options {
        Options { nodes: 3, port: 7001, keep: false, dir: Some(dir.to_path_buf()), memory: ByteSize(96 << 20) }
    }

    #[test]
    fn each_node_gets_a_configuration_that_a_node_takes() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("with space and \"quote\"");
        let layout = Layout::new(&options(&dir)).unwrap();
        layout.write().unwrap();
        for (index, node) in layout.nodes.iter().enumerate() {
            let config = Settings::read(&node.config).unwrap().resolve().unwrap();
            assert_eq!(config.data_dir, dir.join(format!("node{}", index + 1)));
            assert_eq!(usize::from(config.listen.port()), 7001 + index);
            assert_eq!(config.cluster.peers.len(), 3);
            assert_eq!(config.cluster.peer_listen.as_ref(), Some(&config.cluster.peers[index]));
            assert_eq!(usize::from(config.admin_listen.unwrap().port()), 7201 + index);
            assert_eq!(config.memory_bytes_max, 32 << 20);
        }
        let secret = dir.join("secret");
        assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read(&secret).unwrap();
        layout.write().unwrap();
        assert_eq!(fs::read(&secret).unwrap(), before, "the data knows it");
        layout.clean_up();
        assert!(!dir.exists());
    }

    #[test]
    fn data_that_was_there_before_is_never_removed() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("node2")).unwrap();
        let layout = Layout::new(&options(scratch.path())).unwrap();
        layout.write().unwrap();
        layout.clean_up();
        assert!(layout.keeps() && scratch.path().join("node2").exists());
    }

    #[test]
    fn other_things_in_the_directory_stay() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("thesis.txt"), "years of work").unwrap();
        let layout = Layout::new(&options(scratch.path())).unwrap();
        layout.write().unwrap();
        layout.clean_up();
        let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["thesis.txt"]);
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_starts() {
        let scratch = tempfile::tempdir().unwrap();
        let refused = |change: fn(&mut Options), why: &str| {
            let mut options = options(scratch.path());
            change(&mut options);
            let error = Layout::new(&options).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(|it| it.nodes = 0, "between 1 and 9");
        refused(|it| it.nodes = 10, "between 1 and 9");
        refused(|it| it.port = 65_400, "between 1 and 65332");
        refused(|it| it.memory = ByteSize(40 << 20), "3 nodes need 48MiB");
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        if port < 65_000 {
            let layout = Layout::new(&Options { port, ..options(scratch.path()) }).unwrap();
            let error = format!("{:#}", layout.check_ports().unwrap_err());
            assert!(error.contains(&port.to_string()) && error.contains("--port"), "{error}");
        }
    }
}
