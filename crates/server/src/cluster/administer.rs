//! What an operator has a cluster do, asked over the peers' own protocol: whoever holds the cluster's secret may.
//!
//! A tool does not know which cluster it talks to. A member refuses whoever names another cluster, and says to one that
//! holds the secret which is its own; so the first handshake asks, and the second is meant.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dstore_node::{ADMINISTER, Administer, Administered, HandOver};
use dstore_rpc::blocking::Client;
use dstore_rpc::service::Caller;
use dstore_rpc::{CallOptions, CloseReason, ClusterId, Config, Identity, Incarnation, NodeId, Refusal, Secret};

use crate::config::PeerAddress;
use crate::founding::secret_in;
use crate::random;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has the node at `peer`, or the leader that it names, hand over its leadership. Says what came of it.
///
/// # Errors
///
/// Nobody answers there, or the node will not.
pub fn transfer_leader(peer: &PeerAddress, secret_file: &Path, to: Option<NodeId>) -> anyhow::Result<String> {
    let secret = secret_in(secret_file)?;
    let hand_over = Some(HandOver { to: to.map_or(0, |to| to.0) });
    let request = Administer { hand_over, ..Administer::default() };
    let answer = ask(peer, &secret, &request)?;
    let answer = match answer.peer_address.as_str() {
        "" => answer,
        elsewhere => ask(&elsewhere.parse()?, &secret, &request)?,
    };
    if answer.error.is_empty() { Ok(answer.done) } else { bail!("{}", answer.error) }
}

fn ask(peer: &PeerAddress, secret: &Secret, request: &Administer) -> anyhow::Result<Administered> {
    let addresses = peer.look_up().with_context(|| format!("{peer}"))?;
    let address = *addresses.first().with_context(|| format!("{peer} has no address"))?;
    // No node, and never the same: its connection is its own.
    let node = NodeId(random::nonzero_u64()?);
    let client = |cluster| -> anyhow::Result<Client> {
        let identity = Identity { cluster, node, incarnation: Incarnation(1) };
        Ok(Client::new(address, Config::new(identity, secret.clone()), None, random::bytes()?))
    };
    let mut stranger = client(ClusterId(0))?;
    let met = stranger.connect();
    let cluster = match (stranger.refused(), met) {
        (Some(CloseReason::Refused(Refusal::Cluster { theirs, .. })), _) => *theirs,
        (_, Ok(_)) => bail!("{peer} is not a member of a cluster yet"),
        (_, Err(status)) => bail!("{peer}: {}", status.message),
    };
    let options = CallOptions::deadline(Instant::now() + PATIENCE);
    client(cluster)?.call(ADMINISTER, request, options).map_err(|status| anyhow::anyhow!("{peer}: {}", status.message))
}
