//! What an operator asks of a node, and what a node does before it stops: leadership handed over, so that nobody has to
//! find out by waiting that it is gone.

use dstore_storage::{Engine, RangeId};

use crate::group::HandOverError;
use crate::wire::{Administer, Administered};
use crate::{Node, NodeError, Now, USER_RANGE};

impl<E: Engine> Node<E> {
    /// Hands over the leadership of every range that this node leads, to whoever is best prepared. It comes about in
    /// the turns that follow, or is given up after an election timeout. False if there is nothing to wait for.
    pub fn hand_over(&mut self, now: Now) -> bool {
        let mut begun = false;
        for range in self.led() {
            match self.hand_over_range(now, range, None) {
                Ok(to) => {
                    tracing::info!("range {range}: handing leadership to node {to:016x}");
                    begun = true;
                }
                Err(error) => tracing::debug!("range {range}: keeping leadership: {error}"),
            }
        }
        begun
    }

    /// Whether this node leads any range, or is about to give it away.
    pub fn leads(&self) -> bool {
        !self.led().is_empty()
    }

    pub(crate) fn led(&self) -> Vec<RangeId> {
        let me = self.identity.node.0;
        let leads = |range: &&RangeId| {
            self.groups.get(range).and_then(|group| group.leader()).is_some_and(|(leader, _)| leader.0 == me)
        };
        self.groups.keys().filter(leads).copied().collect()
    }

    pub(crate) fn hand_over_range(&mut self, now: Now, range: RangeId, to: Option<u64>) -> Result<u64, HandOverError> {
        self.seal(range);
        let Some(group) = self.groups.get_mut(&range) else { return Err(HandOverError::NobodyElse) };
        group.hand_over(now.mono, to.map(dstore_raft::NodeId)).map(|to| to.0)
    }

    /// Does what an operator asks, or begins to.
    pub(crate) fn administer(&mut self, now: Now, administer: &Administer) -> Result<Administered, NodeError> {
        match administer {
            Administer { hand_over: Some(wanted), .. } => {
                Ok(self.administer_hand_over(now, (wanted.to != 0).then_some(wanted.to)))
            }
            Administer { join: Some(join), .. } => self.administer_join(now, join),
            Administer { remove: Some(remove), .. } => self.administer_remove(now, remove),
            Administer { check: Some(check), .. } => Ok(self.administer_check(now, check)),
            _ => Ok(Administered {
                error: "this version does not know what is asked".to_owned(),
                ..Administered::default()
            }),
        }
    }

    fn administer_hand_over(&mut self, now: Now, to: Option<u64>) -> Administered {
        let refused = |error: String| Administered { error, ..Administered::default() };
        let me = self.identity.node.0;
        if to == Some(me) {
            return refused("it leads already, or is not the one to give leadership to itself".to_owned());
        }
        match self.hand_over_range(now, USER_RANGE, to) {
            Ok(to) => {
                // The system range goes along where this node leads it too.
                for range in self.led().into_iter().filter(|range| *range != USER_RANGE) {
                    let _ = self.hand_over_range(now, range, Some(to));
                }
                Administered {
                    done: format!("node {me:016x} hands its leadership to node {to:016x}"),
                    ..Administered::default()
                }
            }
            Err(error) => {
                let leader = match &error {
                    HandOverError::NotLeader { leader } => *leader,
                    _ => None,
                };
                let peer_address = leader.map(|leader| self.roster.address(leader).to_owned()).unwrap_or_default();
                Administered { error: error.to_string(), peer_address, ..Administered::default() }
            }
        }
    }
}
