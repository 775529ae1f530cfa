//! Speaking with members of a cluster from outside of it: an operator's tool does, and a node that wants to join. Whoever
//! holds the cluster's secret may.
//!
//! An outsider does not know which cluster it talks to. A member refuses whoever names another cluster, and says to one that
//! holds the secret which is its own; so the first handshake asks, and the second is meant.

use std::time::{Duration, Instant};

use dstore_node::{ADMINISTER, Administer, Administered};
use dstore_rpc::blocking::Client;
use dstore_rpc::service::Caller;
use dstore_rpc::{
    CallOptions, CloseReason, ClusterId, Code, Config, Identity, Incarnation, NodeId, Refusal, Secret, Status,
};

use crate::config::PeerAddress;
use crate::random;

/// How long one question may take, beside connecting.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a peer does not answer as one of ours, for people: what follows its address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// It is a member of a cluster that was not named.
    #[error("is a member of cluster {0}")]
    OtherCluster(ClusterId),
    /// It is who asks.
    #[error("is this node itself")]
    Ourselves,
    /// It proves another secret than ours.
    #[error("has another cluster secret")]
    OtherSecret,
    /// Its versions of the protocol and ours do not meet.
    #[error("runs a version of dstore that this one cannot talk to ({0})")]
    OtherVersion(String),
    /// What answers there is something else.
    #[error("does not speak as dstore nodes do among themselves: is that an address for peers?")]
    NoNode,
    /// It is still to be founded, or to join.
    #[error("is not a member of a cluster yet")]
    Unfounded,
    /// It refuses for another reason.
    #[error("does not talk to us: {0}")]
    Refuses(String),
    /// Nobody answers, or not in time.
    #[error("does not answer ({0})")]
    Away(String),
}

impl Silence {
    /// What is behind a handshake that failed, or a call that led to no reply.
    pub fn of(refused: Option<&CloseReason>, status: &str) -> Silence {
        let says = |message: &str, refusal: &str| message.contains(refusal);
        match refused {
            Some(CloseReason::Refused(Refusal::Cluster { theirs, .. })) => Silence::OtherCluster(*theirs),
            Some(CloseReason::Refused(Refusal::Ourselves(_))) => Silence::Ourselves,
            Some(CloseReason::Refused(Refusal::Secret)) => Silence::OtherSecret,
            Some(CloseReason::Refused(refusal @ Refusal::Version { .. })) => Silence::OtherVersion(refusal.to_string()),
            // The other end may be the first to notice.
            Some(CloseReason::Peer { message, .. }) if says(message, &Refusal::Secret.to_string()) => {
                Silence::OtherSecret
            }
            Some(CloseReason::Peer { message, .. }) if says(message, "no common protocol version") => {
                Silence::OtherVersion(message.clone())
            }
            Some(CloseReason::Frame(_) | CloseReason::Violation(_)) => Silence::NoNode,
            Some(reason) => Silence::Refuses(reason.to_string()),
            None => {
                let why = status.strip_prefix("unavailable: ").unwrap_or(status);
                let why = why.strip_suffix(" (not executed)").unwrap_or(why);
                let why = why.split_once(": ").map_or(why, |(_, why)| why);
                Silence::Away(why.split(" (os error").next().unwrap_or(why).to_owned())
            }
        }
    }

    /// Whether asking again later, or another member, may lead to an answer.
    pub fn may_pass(&self) -> bool {
        matches!(self, Silence::Unfounded | Silence::Refuses(_) | Silence::Away(_))
    }
}

/// Somebody outside of a cluster who holds its secret.
#[derive(Debug)]
pub struct Outsider {
    secret: Secret,
    /// Nobody: its connections are its own, and replace no node's.
    id: NodeId,
    /// The cluster of the last member that answered.
    cluster: Option<ClusterId>,
}

impl Outsider {
    /// Who holds this secret.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn new(secret: Secret) -> anyhow::Result<Outsider> {
        Ok(Outsider { secret, id: NodeId(random::nonzero_u64()?), cluster: None })
    }

    /// Asks the node at `peer`, and says which cluster answered. Waits for it.
    ///
    /// # Errors
    ///
    /// It does not answer as a member.
    pub fn ask(&mut self, peer: &PeerAddress, request: &Administer) -> Result<(ClusterId, Administered), Silence> {
        // The cluster is the same as before, unless the address is another's.
        if let Some(cluster) = self.cluster {
            match self.ask_in(cluster, peer, request) {
                Err(Silence::OtherCluster(_)) => {}
                answer => return answer.map(|answer| (cluster, answer)),
            }
        }
        let cluster = self.meet(peer)?;
        self.cluster = Some(cluster);
        Ok((cluster, self.ask_in(cluster, peer, request)?))
    }

    /// Which cluster the node at `peer` is a member of.
    ///
    /// # Errors
    ///
    /// It does not say.
    pub fn meet(&self, peer: &PeerAddress) -> Result<ClusterId, Silence> {
        let mut stranger = self.client(ClusterId(0), peer)?;
        match stranger.connect() {
            Ok(_) => Err(Silence::Unfounded),
            Err(status) => match Silence::of(stranger.refused(), &status.to_string()) {
                Silence::OtherCluster(cluster) => Ok(cluster),
                silence => Err(silence),
            },
        }
    }

    fn ask_in(&self, cluster: ClusterId, peer: &PeerAddress, request: &Administer) -> Result<Administered, Silence> {
        let mut client = self.client(cluster, peer)?;
        let options = CallOptions::deadline(Instant::now() + PATIENCE);
        client.call(ADMINISTER, request, options).map_err(|status: Status| match status.code {
            Code::UnknownMethod => Silence::OtherVersion(status.message),
            _ => Silence::of(client.refused(), &status.to_string()),
        })
    }

    /// A name may lead elsewhere next time, so each client begins with a look-up.
    fn client(&self, cluster: ClusterId, peer: &PeerAddress) -> Result<Client, Silence> {
        let addresses = peer.look_up().map_err(|error| Silence::Away(format!("cannot be looked up: {error}")))?;
        let Some(address) = addresses.into_iter().next() else {
            return Err(Silence::Away("the name has no address".to_owned()));
        };
        let identity = Identity { cluster, node: self.id, incarnation: Incarnation(1) };
        let seed = random::bytes().map_err(|error| Silence::Away(error.to_string()))?;
        Ok(Client::new(address, Config::new(identity, self.secret.clone()), None, seed))
    }
}
