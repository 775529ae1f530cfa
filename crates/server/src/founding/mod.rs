//! How a cluster comes to be, and how a node finds its own again.
//!
//! On its first start a node draws an id and asks the others of `--peers` until all have answered. Then the first of the
//! list draws the cluster's id and plans the cluster, and the others copy the plan from it. Nobody is told to go ahead:
//! a node is a member once it has seen that *everybody* holds the plan.
//!
//! ```text
//! (empty) --draw an id--> [new] --all have answered, or one has the plan--> [planned] --all hold it--> [member]
//! ```
//!
//! Each arrow is a synced write of `IDENTITY` before anybody hears of it, so a crash anywhere is repeated from where it
//! was, and these hold:
//! * an id that may stand in a plan is on the disk of its node;
//! * if one node is a member, every founder has the plan on its disk. So a node without a plan that meets a member was
//!   not there when that cluster was founded: its disk is a new one, and it must not found another cluster in the place
//!   of the lost one.
//!
//! Nodes that are not members speak the peer protocol as members of cluster 0. A member refuses them as it refuses every
//! other cluster, and its refusal, given only to who proved the secret, says what they need to know: its cluster. Who it
//! refused may ask again in the name of that cluster, to tell the user whose place he is in.
//!
//! A member needs none of this: it knows its cluster, and where its peers were; `--peers` may say where they are now, and
//! `--peer-listen` where this node is.
//!
//! A cluster that exists takes nodes in one by one, see [`joining`]; a node that it has removed is one no more:
//!
//! ```text
//! (empty) --draw an id--> [new] --a member took it in--> [joined]      [member], [joined] --the cluster says so--> [removed]
//! ```
//!
//! [`gathering`] decides; [`meeting`] answers and [`asker`] asks over sockets; [`wire`] is what they say.

mod asker;
mod gathering;
mod joining;
mod meeting;
mod wire;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, bail};
use dstore_node::Member;
use dstore_rpc::{ClusterId, NodeId, Secret};

pub use self::wire::Founders;
use crate::config::{ClusterConfig, HOW_TO_MAKE_A_SECRET, PeerAddress};
use crate::data_dir::DataDir;
use crate::front::Fatal;
use crate::identity::{Founder, Identity, Plan, Standing};
use crate::random;

/// A node that belongs to a cluster.
#[derive(Debug)]
pub struct Founded {
    /// Who it is.
    pub identity: dstore_rpc::Identity,
    /// Who founded its cluster, itself included, and where they are; nobody where it joined later.
    pub founders: Vec<Member>,
    /// Who was a member when it joined, itself included; nobody where it is a founder.
    pub contacts: Vec<Member>,
    /// Where its peers reach it; empty for a cluster of one that nobody can join.
    pub peer_address: String,
    /// What the members prove to each other. In a cluster of one that nobody can join, nobody else knows it.
    pub secret: Secret,
    /// Where it listens for peers; nowhere in such a cluster.
    pub peer_listen: Option<SocketAddr>,
    /// What it tells those who would found another cluster in the place of one of its members.
    pub tells: Founders,
}

/// Makes the node of `dir` a member of the cluster that `config` describes, or finds that it is one. Waits for the other
/// founders, or for a member that takes it in, as long as it takes.
///
/// # Errors
///
/// The settings and the directory, or the directories of the peers, contradict each other; the cluster refuses the node;
/// or it was removed, then the error is a [`Fatal`].
pub fn found(dir: DataDir, config: &ClusterConfig) -> anyhow::Result<(DataDir, Founded)> {
    let standing = dir.identity().map(|identity| identity.standing.clone());
    match standing {
        Some(Standing::Member(plan)) => rejoin(dir, plan, config),
        Some(Standing::Joined(contacts)) => start_joined(dir, contacts, config),
        Some(Standing::Removed(cluster)) => Err(Fatal::Removed { cluster }.into()),
        Some(Standing::New) | None if !config.join.is_empty() => joining::join(dir, config),
        None if config.peers.is_empty() => found_alone(dir, config),
        _ if config.peers.is_empty() => bail!(
            "data directory {} belongs to a cluster that is still to be founded, or to be joined: start it with --peers or \
             --join as before, or remove it",
            dir.path().display()
        ),
        _ => found_together(dir, config),
    }
}

/// Notes that the node of `dir` was removed from its cluster.
///
/// # Errors
///
/// The disk refuses.
pub fn note_removed(dir: &mut DataDir, cluster: ClusterId) -> anyhow::Result<()> {
    let node = dir.identity().map(|identity| identity.node).context("a member has an identity")?;
    Ok(dir.set_identity(Identity { node, standing: Standing::Removed(cluster) })?)
}

/// A cluster of one, which others can join where it has an address for them.
fn found_alone(mut dir: DataDir, config: &ClusterConfig) -> anyhow::Result<(DataDir, Founded)> {
    let place = Place::of(config.peer_listen.as_ref(), "", config)?;
    let node = NodeId(random::nonzero_u64()?);
    let cluster = ClusterId(random::nonzero_u128()?);
    let plan = Plan { cluster, founders: vec![Founder { node, address: place.address.clone() }] };
    dir.set_identity(Identity { node, standing: Standing::Member(plan.clone()) })?;
    let founded = Founded { founders: members(&plan, node, &plan), ..founded(&dir, node, &plan, place) };
    Ok((dir, founded))
}

fn found_together(mut dir: DataDir, config: &ClusterConfig) -> anyhow::Result<(DataDir, Founded)> {
    let secret = read_secret(config)?;
    let own = own_place(&config.peers, config.peer_listen.as_ref())?;
    let listen = local_address(&config.peers[own])?;
    let node = match dir.identity() {
        Some(identity) => identity.node,
        None => {
            let node = NodeId(random::nonzero_u64()?);
            dir.set_identity(Identity { node, standing: Standing::New })?;
            node
        }
    };
    if let Some(Identity { standing: Standing::Planned(plan), .. }) = dir.identity() {
        check_plan(plan, node, own, config, dir.path())?;
    }
    let (dir, plan) =
        meeting::meet(dir, meeting::Meeting { peers: config.peers.clone(), own, listen, secret: secret.clone() })?;
    tracing::info!("founded cluster {} with {} nodes", plan.cluster, plan.founders.len());
    let place = Place { address: plan.address_of(node).to_owned(), listen: Some(listen), secret };
    let founded = Founded { founders: members(&plan, node, &plan), ..founded(&dir, node, &plan, place) };
    Ok((dir, founded))
}

/// A founding that goes on goes on as it was begun.
fn check_plan(plan: &Plan, node: NodeId, own: usize, config: &ClusterConfig, dir: &Path) -> anyhow::Result<()> {
    let planned: Vec<&str> = plan.founders.iter().map(|founder| &*founder.address).collect();
    let given: Vec<String> = config.peers.iter().map(PeerAddress::to_string).collect();
    if planned != given || plan.place_of(node) != Some(own) {
        bail!(
            "the cluster of {} is being founded with peers {}, this node being {}: start it with the same, or remove the \
             data directories of all of them and begin anew",
            dir.display(),
            planned.join(","),
            plan.place_of(node).and_then(|place| planned.get(place)).unwrap_or(&"none of them")
        );
    }
    Ok(())
}

/// A founder that starts again.
fn rejoin(mut dir: DataDir, plan: Plan, config: &ClusterConfig) -> anyhow::Result<(DataDir, Founded)> {
    let node = dir.identity().map(|identity| identity.node).context("a member has an identity")?;
    let own = plan.place_of(node).context("a member is among the founders")?;
    let mut now = plan.clone();
    if !config.peers.is_empty() {
        if config.peers.len() != plan.founders.len() {
            bail!(
                "peers names {} nodes, but the node in {} is a founder of a cluster of {}: settings do not change \
                 who is a member",
                config.peers.len(),
                dir.path().display(),
                plan.founders.len()
            );
        }
        if let Some(listen) = config.peer_listen.as_ref().filter(|listen| **listen != config.peers[own]) {
            bail!(
                "peer_listen is {listen}, but the node in {} is number {} of the cluster's founders, which peers says is at \
                 {}: leave peers out, a member does not need them",
                dir.path().display(),
                own + 1,
                config.peers[own]
            );
        }
        for (founder, peer) in now.founders.iter_mut().zip(&config.peers) {
            founder.address = peer.to_string();
        }
    }
    let place = Place::of(config.peer_listen.as_ref(), &now.founders[own].address, config)?;
    now.founders[own].address.clone_from(&place.address);
    let mut kept = plan.clone();
    kept.founders[own].address.clone_from(&place.address);
    // What peers says counts for as long as it is given.
    if kept != plan && config.peers.is_empty() {
        dir.set_identity(Identity { node, standing: Standing::Member(kept) })?;
    }
    let founded = Founded { founders: members(&now, node, &plan), ..founded(&dir, node, &now, place) };
    Ok((dir, founded))
}

/// A node that joined, and starts: again, or for the first time.
fn start_joined(mut dir: DataDir, contacts: Plan, config: &ClusterConfig) -> anyhow::Result<(DataDir, Founded)> {
    let node = dir.identity().map(|identity| identity.node).context("a member has an identity")?;
    let own = contacts.place_of(node).context("a node that joined is among the members")?;
    if !config.peers.is_empty() {
        bail!(
            "the node in {} joined its cluster after that was founded: start it without --peers",
            dir.path().display()
        );
    }
    let place = Place::of(config.peer_listen.as_ref(), contacts.address_of(node), config)?;
    let mut now = contacts.clone();
    now.founders[own].address.clone_from(&place.address);
    if now != contacts {
        dir.set_identity(Identity { node, standing: Standing::Joined(now.clone()) })?;
    }
    let founded = Founded { contacts: members(&now, node, &contacts), ..founded(&dir, node, &now, place) };
    Ok((dir, founded))
}

/// Where a node is reached by its peers.
#[derive(Debug)]
struct Place {
    /// As the peers write it; empty where nobody reaches it.
    address: String,
    /// As this machine does.
    listen: Option<SocketAddr>,
    /// What it takes.
    secret: Secret,
}

impl Place {
    /// Where the node was told to be, or else where it was.
    fn of(told: Option<&PeerAddress>, before: &str, config: &ClusterConfig) -> anyhow::Result<Place> {
        let address = match told {
            Some(address) => address.clone(),
            None if before.is_empty() => {
                return Ok(Place { address: String::new(), listen: None, secret: random_secret()? });
            }
            None => before.parse()?,
        };
        let secret = read_secret(config)?;
        let listen = local_address(&address)
            .with_context(|| "where does this node listen for its peers? say so with --peer-listen HOST:PORT")?;
        Ok(Place { address: address.to_string(), listen: Some(listen), secret })
    }
}

/// The nodes of a plan for the core: where they are now, and whether that is another place than `before`. Of itself a node
/// knows best.
fn members(now: &Plan, own: NodeId, before: &Plan) -> Vec<Member> {
    let member = |(founder, before): (&Founder, &Founder)| Member {
        node: founder.node,
        peer_address: founder.address.clone(),
        moved: founder.node == own || founder.address != before.address,
    };
    now.founders.iter().zip(&before.founders).map(member).collect()
}

/// A node at its place; who else there is is to be filled in.
fn founded(dir: &DataDir, node: NodeId, plan: &Plan, place: Place) -> Founded {
    Founded {
        identity: dstore_rpc::Identity { cluster: plan.cluster, node, incarnation: dir.incarnation() },
        founders: Vec::new(),
        contacts: Vec::new(),
        peer_address: place.address,
        secret: place.secret,
        peer_listen: place.listen,
        tells: Founders::new(plan),
    }
}

fn random_secret() -> anyhow::Result<Secret> {
    Ok(Secret::new(&random::bytes::<32>()?)?)
}

fn read_secret(config: &ClusterConfig) -> anyhow::Result<Secret> {
    let Some(path) = &config.secret_file else {
        bail!("a node of a cluster needs its secret: give --cluster-secret-file FILE");
    };
    secret_in(path)
}

/// The secret in a file.
///
/// # Errors
///
/// It cannot be read, or is too short.
pub fn secret_in(path: &Path) -> anyhow::Result<Secret> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read the cluster secret {}; {HOW_TO_MAKE_A_SECRET}", path.display()))?;
    Secret::new(bytes.trim_ascii())
        .with_context(|| format!("{} holds no secret; {HOW_TO_MAKE_A_SECRET}", path.display()))
}

/// Which of the peers this node is: the one it was told, or the only one whose address this machine has.
fn own_place(peers: &[PeerAddress], told: Option<&PeerAddress>) -> anyhow::Result<usize> {
    if let Some(told) = told {
        return peers.iter().position(|peer| peer == told).context("peer_listen was checked to be among the peers");
    }
    let local: Vec<usize> = (0..peers.len()).filter(|place| local_address(&peers[*place]).is_ok()).collect();
    match local[..] {
        [own] => Ok(own),
        [] => {
            bail!("none of the peers is at an address of this machine: say which one this node is with --peer-listen")
        }
        _ => {
            let names: Vec<String> = local.iter().map(|place| peers[*place].to_string()).collect();
            bail!(
                "{} are all addresses of this machine: say which one this node is with --peer-listen",
                names.join(", ")
            )
        }
    }
}

/// The socket address of a peer that is this node. Whether its port is free is not looked at.
fn local_address(peer: &PeerAddress) -> anyhow::Result<SocketAddr> {
    let addresses = peer.look_up().with_context(|| format!("cannot look up {peer}"))?;
    let is_local = |address: &SocketAddr| TcpListener::bind((address.ip(), 0)).is_ok();
    addresses.into_iter().find(is_local).with_context(|| format!("{peer} is not an address of this machine"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn config(text: &str) -> ClusterConfig {
        let settings: Settings = toml::from_str(&format!("data_dir = \"x\"\n{text}")).unwrap();
        settings.resolve().unwrap().cluster
    }

    fn reopened(founded: &(DataDir, Founded)) -> std::path::PathBuf {
        founded.0.path().to_path_buf()
    }

    #[test]
    fn a_node_alone_founds_its_cluster_once() {
        let scratch = tempfile::tempdir().unwrap();
        let first = found(DataDir::open(scratch.path()).unwrap(), &config("")).unwrap();
        let identity = first.1.identity;
        let alone = |address: &str| [Member { node: identity.node, peer_address: address.to_owned(), moved: true }];
        assert_eq!(first.1.founders, alone(""));
        assert_eq!(first.1.peer_listen, None);
        let path = reopened(&first);
        drop(first);
        let (_dir, again) = found(DataDir::open(&path).unwrap(), &config("")).unwrap();
        assert_eq!((again.identity.cluster, again.identity.node), (identity.cluster, identity.node));
        assert_eq!((identity.incarnation.0, again.identity.incarnation.0), (1, 2));
        drop(_dir);

        // It grows: from now on others can join it, and without the secret it does not start any more.
        let file = scratch.path().join("IDENTITY");
        let text = format!("peer_listen = \"127.0.0.1:7101\"\ncluster_secret_file = {:?}", file.display().to_string());
        let (held, open) = found(DataDir::open(&path).unwrap(), &config(&text)).unwrap();
        drop(held);
        assert_eq!(
            (&*open.peer_address, open.peer_listen),
            ("127.0.0.1:7101", Some("127.0.0.1:7101".parse().unwrap()))
        );
        assert_eq!(open.founders, alone("127.0.0.1:7101"));
        let error = found(DataDir::open(&path).unwrap(), &config("")).unwrap_err().to_string();
        assert!(error.contains("--cluster-secret-file"), "{error}");
        let (_, later) = found(DataDir::open(&path).unwrap(), &config(text.split_once('\n').unwrap().1)).unwrap();
        assert_eq!((later.peer_address, later.identity.cluster), (open.peer_address, identity.cluster));
    }

    #[test]
    fn a_removed_node_does_not_start_again() {
        let scratch = tempfile::tempdir().unwrap();
        let mut dir = member_of_two(scratch.path());
        note_removed(&mut dir, ClusterId(5)).unwrap();
        drop(dir);
        let error = found(DataDir::open(scratch.path()).unwrap(), &config("")).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Fatal::Removed { cluster: ClusterId(5) })), "{error}");
        assert!(error.to_string().contains("new data directory"), "{error}");
    }

    /// A member of a cluster of two, as its directory says.
    fn member_of_two(path: &Path) -> DataDir {
        let founder = |node, address: &str| Founder { node: NodeId(node), address: address.to_owned() };
        let founders = vec![founder(1, "127.0.0.1:7101"), founder(2, "127.0.0.1:7102")];
        let plan = Plan { cluster: ClusterId(5), founders };
        let mut dir = DataDir::open(path).unwrap();
        dir.set_identity(Identity { node: NodeId(2), standing: Standing::Member(plan) }).unwrap();
        dir
    }

    #[test]
    fn a_member_takes_new_addresses_for_the_same_members() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("secret");
        std::fs::write(&file, "  0123456789abcdef\n").unwrap();
        let secret = format!("cluster_secret_file = {:?}", file.display().to_string());
        let dir = scratch.path().join("data");
        let refused = |text: &str, why: &str| {
            let error = format!("{:#}", found(member_of_two(&dir), &config(text)).unwrap_err());
            assert!(error.contains(why) && !error.contains('\n'), "{error}");
        };

        let (held, as_founded) = found(member_of_two(&dir), &config(&secret)).unwrap();
        drop(held);
        let at = |node, address: &str, moved| Member { node: NodeId(node), peer_address: address.to_owned(), moved };
        assert_eq!(as_founded.founders[0], at(1, "127.0.0.1:7101", false));
        assert_eq!(as_founded.peer_listen, Some("127.0.0.1:7102".parse().unwrap()));

        let moved = format!("{secret}\npeers = [\"127.0.0.1:7201\", \"127.0.0.1:7202\"]");
        let (held, now) = found(member_of_two(&dir), &config(&moved)).unwrap();
        drop(held);
        assert_eq!(now.founders, [at(1, "127.0.0.1:7201", true), at(2, "127.0.0.1:7202", true)]);
        assert_eq!(now.identity.cluster, ClusterId(5));

        // This one alone has moved: it says so to the others, and finds them where they are.
        let elsewhere = format!("{secret}\npeer_listen = \"127.0.0.1:7302\"");
        for text in [&elsewhere, &secret] {
            let dir = if text == &elsewhere { member_of_two(&dir) } else { DataDir::open(&dir).unwrap() };
            let (_held, now) = found(dir, &config(text)).unwrap();
            assert_eq!(now.founders, [at(1, "127.0.0.1:7101", false), at(2, "127.0.0.1:7302", true)]);
            assert_eq!(
                (&*now.peer_address, now.peer_listen),
                ("127.0.0.1:7302", Some("127.0.0.1:7302".parse().unwrap()))
            );
        }

        refused(&format!("{moved}\npeer_listen = \"127.0.0.1:7201\""), "number 2 of the cluster's founders");
        refused(&format!("{secret}\npeers = [\"127.0.0.1:7201\"]"), "a founder of a cluster of 2");
        refused("", "--cluster-secret-file");
        std::fs::write(&file, "too short\n").unwrap();
        refused(&secret, "/dev/urandom");
        std::fs::remove_file(&file).unwrap();
        refused(&secret, "cannot read the cluster secret");
    }

    #[test]
    fn a_founding_goes_on_as_it_was_begun() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("secret");
        std::fs::write(&file, "0123456789abcdef").unwrap();
        let dir = scratch.path().join("data");
        let plan = match member_of_two(&dir).identity().unwrap().standing.clone() {
            Standing::Member(plan) => plan,
            _ => unreachable!("it was made a member"),
        };
        let begun = |standing| {
            let mut dir = DataDir::open(&dir).unwrap();
            dir.set_identity(Identity { node: NodeId(2), standing }).unwrap();
            dir
        };
        let secret = format!("cluster_secret_file = {:?}", file.display().to_string());
        for standing in [Standing::New, Standing::Planned(plan.clone())] {
            let error = found(begun(standing), &config("")).unwrap_err().to_string();
            assert!(error.contains("--peers or --join"), "{error}");
        }
        for (peers, own) in [(["127.0.0.1:7101", "127.0.0.1:7103"], 1), (["127.0.0.1:7101", "127.0.0.1:7102"], 0)] {
            let text = format!("{secret}\npeers = {peers:?}\npeer_listen = {:?}", peers[own]);
            let error = found(begun(Standing::Planned(plan.clone())), &config(&text)).unwrap_err().to_string();
            assert!(error.contains("127.0.0.1:7101,127.0.0.1:7102, this node being 127.0.0.1:7102"), "{error}");
        }
    }

    #[test]
    fn a_node_knows_its_place_or_is_told_it() {
        let peers = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<PeerAddress>>();
        // Addresses for documentation: no machine has them.
        let apart = peers(&["198.51.100.1:1", "127.0.0.1:1", "198.51.100.2:1"]);
        assert_eq!(own_place(&apart, None).unwrap(), 1);
        assert_eq!(own_place(&apart, Some(&apart[2])).unwrap(), 2);
        let together = peers(&["127.0.0.1:1", "127.0.0.1:2"]);
        assert!(own_place(&together, None).unwrap_err().to_string().contains("127.0.0.1:1, 127.0.0.1:2 are all"));
        let elsewhere = peers(&["198.51.100.1:1", "198.51.100.2:1"]);
        assert!(own_place(&elsewhere, None).unwrap_err().to_string().contains("--peer-listen"));
    }
}
