//! A node that was asked to stop: first it gives its leadership away, so that the cluster goes on; then its clients get what
//! they are owed; the peers, whom that takes, go last.

use std::time::{Duration, Instant};

use dstore_net::Net;

use super::Front;
use crate::clock::now;

/// How long a node that stops tries to hand its leadership over. A successor needs a few milliseconds.
const HAND_OVER: Duration = Duration::from_secs(1);

/// How long clients may take to receive their last replies once the node was asked to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// How long peers may take to hear the last of a node whose clients are gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a node that stops is at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stopping {
    /// It hands its leadership over, until then at the latest.
    HandingOver(Instant),
    /// Its clients get what they are owed, for which it still needs its peers; until then at the latest.
    Draining(Instant),
}

impl Front {
    /// First the leadership, so that the cluster goes on; then the clients; the peers last.
    pub(super) fn begin_to_stop(&mut self, net: &mut Net<Front>) {
        if self.stopping.is_none() {
            let begun = self.node.hand_over(now());
            let deadline = net.now() + if begun { HAND_OVER } else { Duration::ZERO };
            self.stopping = Some(Stopping::HandingOver(deadline));
            self.end_snapshots(net);
        }
    }

    /// The cluster goes on without this node. Its directory is marked when the loop has ended.
    pub(super) fn leave(&mut self, net: &mut Net<Front>) {
        tracing::warn!("this node was removed from its cluster and stops");
        self.was_removed = true;
        self.begin_to_stop(net);
    }

    pub(super) fn go_on_stopping(&mut self, net: &mut Net<Front>) {
        match self.stopping {
            Some(Stopping::HandingOver(deadline)) if !self.node.leads() || net.now() >= deadline => {
                self.stopping = Some(Stopping::Draining(net.now() + DRAIN));
                self.node.hang_up_all();
                self.carry_out(net);
            }
            Some(Stopping::Draining(deadline))
                if self.connections.iter().all(Option::is_none) || net.now() >= deadline =>
            {
                net.stop(FAREWELL);
            }
            _ => {}
        }
    }
}
