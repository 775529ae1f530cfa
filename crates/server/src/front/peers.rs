//! The other nodes: where they are, what they say, and when they come and go.

use dstore_net::Net;
use dstore_node::SNAPSHOT;
use dstore_rpc::driver::{self, LinkEvent, Rpc, StreamEvent};
use dstore_rpc::service::{Incoming, Origin};
use dstore_rpc::{Admission, CloseCode, CloseReason as LinkEnd, Lane, NodeId, Refusal};

use super::{Fatal, Front};
use crate::clock::now;
use crate::config::PeerAddress;
use crate::identity::node_text;

impl driver::Host for Front {
    fn rpc(&mut self) -> &mut Rpc<Self> {
        &mut self.rpc
    }

    fn on_incoming(&mut self, net: &mut Net<Self>, origin: &Origin, incoming: Incoming) {
        let from = origin.node;
        let incoming = match self.founders.answer(origin, incoming) {
            Ok(outcome) => return self.rpc.finish(net.now(), outcome),
            Err(incoming) => incoming,
        };
        match incoming {
            Incoming::Message { method, body } => {
                self.drive(net, |node| node.handle_message(now(), from, method, body));
            }
            Incoming::Request { request, method, body } => {
                self.drive(net, |node| node.handle_call(now(), from, request, method, body));
            }
            Incoming::Stream { stream, method, body } if method == SNAPSHOT.number => {
                self.take_snapshot(net, from, stream, body);
            }
            stream @ Incoming::Stream { .. } => {
                let refusal = stream.unknown();
                self.rpc.finish(net.now(), refusal);
            }
        }
    }

    fn on_stream(&mut self, net: &mut Net<Self>, event: StreamEvent) {
        // Streams carry nothing but snapshots.
        self.on_snapshot_stream(net, event);
    }

    fn on_link(&mut self, net: &mut Net<Self>, event: &LinkEvent) {
        let (peer, is_up) = match event {
            LinkEvent::Up { peer, dialed: true } if peer.lane == Lane::Messages => (peer.identity.node, true),
            LinkEvent::Down { node: Some(node), lane, dialed: true, reason } if *lane != Some(Lane::Bulk) => {
                self.note_refusal(net, *node, reason);
                (*node, false)
            }
            LinkEvent::Down { dialed: false, reason: LinkEnd::Refused(why), .. } => {
                // An accepted connection's end is nobody's yet.
                if self.refusals.insert(NodeId(0), why.to_string()).as_ref() != Some(&why.to_string()) {
                    tracing::warn!("a peer was refused: {why}");
                }
                return;
            }
            _ => return,
        };
        if is_up {
            self.was_linked = true;
            self.refusals.remove(&peer);
        }
        self.drive_soon(net, |node| {
            node.handle_link(now(), peer, is_up);
            Ok(())
        });
    }
}

impl Front {
    /// Peers come, move and go as the core says.
    pub(super) fn set_peer(&mut self, net: &mut Net<Front>, node: NodeId, address: Option<&str>) {
        match address.map(str::parse::<PeerAddress>) {
            None => self.rpc.remove_peer(net.now(), node),
            Some(Ok(address)) => {
                self.rpc.set_peer(net.now(), node, address.target());
                self.rpc.connect(net.now(), node);
            }
            Some(Err(error)) => tracing::warn!("no connection with node {}: {error:#}", node_text(node)),
        }
        self.admission.resize(self.rpc.peers().count() + 1);
    }

    /// Says, once, that a peer will not talk to us, or we not to it. A node that finds, before it has found any of its
    /// peers, that they are another cluster's does not go on: its data directory is in the wrong place.
    fn note_refusal(&mut self, net: &mut Net<Front>, peer: NodeId, reason: &LinkEnd) {
        let refused = matches!(reason, LinkEnd::Refused(_) | LinkEnd::Peer { code: CloseCode::Refused, .. });
        if !refused {
            return;
        }
        let text = reason.to_string();
        if self.refusals.get(&peer) != Some(&text) {
            tracing::warn!("no connection with node {}: {text}", node_text(peer));
            self.refusals.insert(peer, text);
        }
        // Cluster 0 is that of nodes which are still looking for theirs.
        if let LinkEnd::Refused(Refusal::Cluster { theirs, ours }) = reason
            && theirs.0 != 0
            && !self.was_linked
        {
            self.fail(net, Fatal::Foreign { ours: *ours, theirs: *theirs });
        }
    }
}

/// How much peers may ask of this node at a time, all together: as much as their number makes.
pub struct PeerAdmission {
    shared: Admission,
    requests_each: usize,
    bytes_each: usize,
}

impl PeerAdmission {
    /// For so many requests and bytes of each peer; and for one peer, as long as nobody is known.
    pub fn new(requests_each: usize, bytes_each: usize) -> PeerAdmission {
        PeerAdmission { shared: Admission::new(requests_each, bytes_each), requests_each, bytes_each }
    }

    /// What connections are made with.
    pub fn shared(&self) -> Admission {
        self.shared.clone()
    }

    fn resize(&self, peers: usize) {
        self.shared.resize(peers * self.requests_each, peers * self.bytes_each);
    }
}
