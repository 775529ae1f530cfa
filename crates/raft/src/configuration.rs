//! Who belongs to a group, and how that changes: joint consensus (dissertation, section 4.3).
//!
//! A change never goes straight from one set of voters to another, because during the step each could have a majority that
//! knows nothing of the other's. Instead the leader appends a *joint* configuration, in which every decision needs a
//! majority of the old voters and a majority of the new ones; once that is committed it appends the new one alone. There is
//! no short cut for one voter at a time: one path, used always, is tested always. Learners hold no vote, so they come and
//! go in one step.
//!
//! A configuration entry holds the configuration whole, so applying one needs no earlier one. Its bytes:
//!
//! ```text
//! +---------+-----------------+-----------------+-----------------+-----------------+
//! | 1 (u8)  | voters          | outgoing        | learners        | learners_next   |
//! +---------+-----------------+-----------------+-----------------+-----------------+
//! each set:  count (u32 LE), then that many node ids (u64 LE), strictly ascending
//! ```

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::quorum::{Tally, majority_value, majority_vote};
use crate::{LogIndex, NodeId};

const ENCODING_VERSION: u8 = 1;

/// Most members a configuration may have, in all sets together: far above any sane group, far below a harmful allocation.
pub const MEMBERS_MAX: usize = 256;

/// The members of a group.
///
/// All sets are sorted and hold no id twice. `learners` shares no id with `voters` or `outgoing`; `learners_next` is part
/// of `outgoing`, disjoint from `voters`, and empty unless the configuration is joint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    voters: Vec<NodeId>,
    outgoing: Vec<NodeId>,
    learners: Vec<NodeId>,
    learners_next: Vec<NodeId>,
}

/// One wish of a membership change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Make it a voter, whatever it was.
    AddVoter(NodeId),
    /// Make it a learner, whatever it was.
    AddLearner(NodeId),
    /// Make it nothing.
    Remove(NodeId),
}

/// Why a configuration or a change of one is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// A group without voters can decide nothing, not even to have voters.
    #[error("the change would leave no voters")]
    NoVoters,
    /// The previous change is still under way.
    #[error("the configuration is joint: the previous change has not ended")]
    Joint,
    /// The change names one node twice.
    #[error("node {0} is named twice")]
    Repeated(NodeId),
    /// The change would change nothing.
    #[error("the change would change nothing")]
    Nothing,
    /// More than [`MEMBERS_MAX`] members.
    #[error("more than {MEMBERS_MAX} members")]
    TooMany,
    /// Bytes that no encoder wrote.
    #[error("not an encoded configuration: {0}")]
    Malformed(&'static str),
}

impl Configuration {
    /// A configuration that is not joint. Order and repetition of the ids do not matter; an id in both is a voter.
    pub fn new(voters: impl IntoIterator<Item = NodeId>, learners: impl IntoIterator<Item = NodeId>) -> Configuration {
        let voters = sorted(voters.into_iter().collect());
        let mut learners = sorted(learners.into_iter().collect());
        learners.retain(|id| !voters.contains(id));
        Configuration { voters, learners, ..Configuration::default() }
    }

    /// Voters; in a joint configuration, the new ones.
    #[inline]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// The old voters of a joint configuration; empty otherwise.
    pub fn outgoing(&self) -> &[NodeId] {
        &self.outgoing
    }

    /// Members that receive the log and hold no vote.
    pub fn learners(&self) -> &[NodeId] {
        &self.learners
    }

    /// Old voters that become learners when the joint configuration is left.
    pub fn learners_next(&self) -> &[NodeId] {
        &self.learners_next
    }

    /// Whether this is the transitional configuration of a change.
    #[inline]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether nobody votes here: the configuration of a node that has not heard from its group yet.
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// Whether the node votes, in either set.
    #[inline]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether the node receives the log.
    pub fn is_member(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Every member once, ascending.
    pub fn members(&self) -> Vec<NodeId> {
        let all = self.voters.iter().chain(&self.outgoing).chain(&self.learners);
        sorted(all.copied().collect())
    }

    /// The largest value that a quorum has reached.
    pub(crate) fn quorum_value(&self, mut value: impl FnMut(NodeId) -> u64) -> u64 {
        majority_value(&self.voters, &mut value).min(majority_value(&self.outgoing, &mut value))
    }

    /// How an election stands.
    pub(crate) fn quorum_vote(&self, mut vote: impl FnMut(NodeId) -> Option<bool>) -> Tally {
        match (majority_vote(&self.voters, &mut vote), majority_vote(&self.outgoing, &mut vote)) {
            (Tally::Won, Tally::Won) => Tally::Won,
            (Tally::Lost, _) | (_, Tally::Lost) => Tally::Lost,
            _ => Tally::Open,
        }
    }

    /// The configuration to append for a change: joint if the voters change, final at once if only learners do.
    pub fn change(&self, changes: &[Change]) -> Result<Configuration, ConfigurationError> {
        if self.is_joint() {
            return Err(ConfigurationError::Joint);
        }
        let (mut voters, mut learners) = (self.voters.clone(), self.learners.clone());
        let mut named = Vec::new();
        for change in changes {
            let (Change::AddVoter(id) | Change::AddLearner(id) | Change::Remove(id)) = *change;
            if named.contains(&id) {
                return Err(ConfigurationError::Repeated(id));
            }
            named.push(id);
            voters.retain(|v| *v != id);
            learners.retain(|l| *l != id);
            match change {
                Change::AddVoter(_) => voters.push(id),
                Change::AddLearner(_) => learners.push(id),
                Change::Remove(_) => {}
            }
        }
        let (voters, learners) = (sorted(voters), sorted(learners));
        if voters.is_empty() {
            return Err(ConfigurationError::NoVoters);
        }
        if voters.len() + learners.len() > MEMBERS_MAX / 2 {
            return Err(ConfigurationError::TooMany);
        }
        if voters == self.voters {
            if learners == self.learners {
                return Err(ConfigurationError::Nothing);
            }
            return Ok(Configuration { voters, learners, ..Configuration::default() });
        }
        // A voter on its way to being a learner counts as a voter until the joint configuration is left.
        let (learners_next, learners) = learners.into_iter().partition(|id| self.voters.contains(id));
        Ok(Configuration { voters, outgoing: self.voters.clone(), learners, learners_next })
    }

    /// The configuration that ends a joint one.
    pub(crate) fn leave(&self) -> Configuration {
        let learners = self.learners.iter().chain(&self.learners_next).copied().collect();
        Configuration { voters: self.voters.clone(), learners: sorted(learners), ..Configuration::default() }
    }

    /// The bytes of a configuration entry.
    pub fn encode(&self) -> Bytes {
        let sets = [&self.voters, &self.outgoing, &self.learners, &self.learners_next];
        let ids: usize = sets.iter().map(|s| s.len()).sum();
        let mut out = BytesMut::with_capacity(1 + 4 * sets.len() + 8 * ids);
        out.put_u8(ENCODING_VERSION);
        for set in sets {
            out.put_u32_le(set.len() as u32);
            set.iter().for_each(|id| out.put_u64_le(id.0));
        }
        out.freeze()
    }

    /// Reads what [`Configuration::encode`] wrote. The bytes may come from anywhere.
    pub fn decode(bytes: &[u8]) -> Result<Configuration, ConfigurationError> {
        let (version, mut rest) = bytes.split_first().ok_or(ConfigurationError::Malformed("empty"))?;
        if *version != ENCODING_VERSION {
            return Err(ConfigurationError::Malformed("unknown version"));
        }
        let voters = decode_set(&mut rest)?;
        let outgoing = decode_set(&mut rest)?;
        let learners = decode_set(&mut rest)?;
        let learners_next = decode_set(&mut rest)?;
        if !rest.is_empty() {
            return Err(ConfigurationError::Malformed("bytes after the end"));
        }
        let configuration = Configuration { voters, outgoing, learners, learners_next };
        configuration.check()?;
        Ok(configuration)
    }

    /// Whether the sets keep to the rules above. For configurations that come from outside in a struct.
    pub(crate) fn check(&self) -> Result<(), ConfigurationError> {
        let sets = [&self.voters, &self.outgoing, &self.learners, &self.learners_next];
        if sets.iter().any(|s| !s.windows(2).all(|w| w[0] < w[1])) {
            return Err(ConfigurationError::Malformed("a set is not ascending"));
        }
        if sets.iter().map(|s| s.len()).sum::<usize>() > MEMBERS_MAX * 2 {
            return Err(ConfigurationError::TooMany);
        }
        if self.voters.is_empty() {
            return Err(ConfigurationError::NoVoters);
        }
        if self.learners.iter().any(|id| self.is_voter(*id)) {
            return Err(ConfigurationError::Malformed("a learner that votes"));
        }
        if self.learners_next.iter().any(|id| !self.outgoing.contains(id) || self.voters.contains(id)) {
            return Err(ConfigurationError::Malformed("a future learner that is not an outgoing voter"));
        }
        Ok(())
    }
}

fn sorted(mut ids: Vec<NodeId>) -> Vec<NodeId> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn decode_set(rest: &mut &[u8]) -> Result<Vec<NodeId>, ConfigurationError> {
    let short = ConfigurationError::Malformed("ends early");
    let (count, tail) = rest.split_first_chunk::<4>().ok_or(short.clone())?;
    let count = u32::from_le_bytes(*count) as usize;
    if count > MEMBERS_MAX {
        return Err(ConfigurationError::TooMany);
    }
    let (ids, tail) = tail.split_at_checked(count * 8).ok_or(short)?;
    *rest = tail;
    Ok(ids.as_chunks::<8>().0.iter().map(|id| NodeId(u64::from_le_bytes(*id))).collect())
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ids: &[NodeId]| ids.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(" ");
        write!(f, "voters=({})", list(&self.voters))?;
        for (name, set) in
            [("outgoing", &self.outgoing), ("learners", &self.learners), ("learners_next", &self.learners_next)]
        {
            if !set.is_empty() {
                write!(f, " {name}=({})", list(set))?;
            }
        }
        Ok(())
    }
}

/// Every configuration that may still be in force: the one at the applied entry and each that the log holds after it.
///
/// The last one is in force from the moment its entry is appended, committed or not (dissertation, section 4.1), and one
/// whose entry is overwritten is in force no more.
#[derive(Debug)]
pub(crate) struct History {
    /// Ascending by index, never empty.
    all: Vec<(LogIndex, Configuration)>,
}

impl History {
    pub(crate) fn new(index: LogIndex, configuration: Configuration) -> History {
        History { all: vec![(index, configuration)] }
    }

    #[inline]
    pub(crate) fn current(&self) -> &Configuration {
        &self.last().1
    }

    /// Where the configuration in force stands in the log.
    #[inline]
    pub(crate) fn current_index(&self) -> LogIndex {
        self.last().0
    }

    fn last(&self) -> &(LogIndex, Configuration) {
        self.all.last().expect("a history is never empty")
    }

    /// The configuration in force at an index not before the applied one.
    pub(crate) fn at(&self, index: LogIndex) -> Option<&Configuration> {
        self.all.iter().rev().find(|(i, _)| *i <= index).map(|(_, c)| c)
    }

    /// The configuration in force at an index, and those after it.
    #[inline]
    pub(crate) fn since(&self, index: LogIndex) -> impl Iterator<Item = &Configuration> {
        let in_force = self.all.iter().rposition(|(i, _)| *i <= index).unwrap_or(0);
        self.all[in_force..].iter().map(|(_, c)| c)
    }

    pub(crate) fn push(&mut self, index: LogIndex, configuration: Configuration) {
        assert!(index > self.current_index(), "configuration at {index} after {}", self.current_index());
        self.all.push((index, configuration));
    }

    /// Forgets the entries from `index` on. True if the configuration in force changed.
    pub(crate) fn truncate_from(&mut self, index: LogIndex) -> bool {
        let before = self.all.len();
        // The first is committed, so it is never truncated.
        let keep = 1 + self.all[1..].iter().take_while(|(i, _)| *i < index).count();
        self.all.truncate(keep);
        keep != before
    }

    /// Forgets what is older than the configuration in force at `applied`.
    pub(crate) fn prune(&mut self, applied: LogIndex) {
        let in_force = self.all.len() - self.since(applied).count();
        self.all.drain(..in_force);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn a_change_of_voters_goes_through_a_joint_configuration_and_out_of_it() {
        let before = Configuration::new(ids(&[1, 2, 3]), ids(&[4]));
        let joint = before
            .change(&[Change::AddVoter(NodeId(4)), Change::AddLearner(NodeId(3)), Change::Remove(NodeId(1))])
            .unwrap();
        assert_eq!(joint.to_string(), "voters=(2 4) outgoing=(1 2 3) learners_next=(3)");
        assert_eq!(joint.members(), ids(&[1, 2, 3, 4]));
        assert_eq!(joint.leave().to_string(), "voters=(2 4) learners=(3)");
        assert_eq!(joint.change(&[Change::Remove(NodeId(2))]), Err(ConfigurationError::Joint));
    }

    #[test]
    fn a_change_of_learners_is_one_step() {
        let before = Configuration::new(ids(&[1]), []);
        let after = before.change(&[Change::AddLearner(NodeId(2))]).unwrap();
        assert!(!after.is_joint());
        assert_eq!(after.learners(), ids(&[2]));
    }

    #[test]
    fn senseless_changes_are_refused() {
        let c = Configuration::new(ids(&[1]), []);
        assert_eq!(c.change(&[Change::Remove(NodeId(1))]), Err(ConfigurationError::NoVoters));
        assert_eq!(c.change(&[Change::AddVoter(NodeId(1))]), Err(ConfigurationError::Nothing));
        let twice = [Change::AddVoter(NodeId(2)), Change::Remove(NodeId(2))];
        assert_eq!(c.change(&twice), Err(ConfigurationError::Repeated(NodeId(2))));
        let many: Vec<_> = (2..=200).map(|i| Change::AddVoter(NodeId(i))).collect();
        assert_eq!(c.change(&many), Err(ConfigurationError::TooMany));
    }

    #[test]
    fn a_joint_quorum_is_a_majority_of_both() {
        let joint = Configuration::new(ids(&[1, 2, 3]), [])
            .change(&[1, 2, 4, 5].map(|i| if i < 3 { Change::Remove(NodeId(i)) } else { Change::AddVoter(NodeId(i)) }))
            .unwrap();
        assert_eq!(joint.to_string(), "voters=(3 4 5) outgoing=(1 2 3)");
        let value = |have: &'static [u64]| joint.quorum_value(|id| u64::from(have.contains(&id.0)));
        assert_eq!(value(&[3, 4, 5]), 0);
        assert_eq!(value(&[1, 2, 3]), 0);
        assert_eq!(value(&[1, 3, 4]), 1);
    }

    #[test]
    fn encoding_returns_what_went_in_and_refuses_what_did_not() {
        let joint = Configuration::new(ids(&[1, 2, 3]), ids(&[9]))
            .change(&[Change::AddLearner(NodeId(3)), Change::AddVoter(NodeId(7))])
            .unwrap();
        let bytes = joint.encode();
        assert_eq!(Configuration::decode(&bytes), Ok(joint));
        for n in 0..bytes.len() {
            assert!(Configuration::decode(&bytes[..n]).is_err(), "{n} bytes of it");
        }
        let mut absurd = bytes.to_vec();
        absurd[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Configuration::decode(&absurd), Err(ConfigurationError::TooMany));
        absurd[0] = 2;
        assert_eq!(Configuration::decode(&absurd), Err(ConfigurationError::Malformed("unknown version")));
    }

    #[test]
    fn a_truncated_configuration_gives_way_to_the_one_before_it() {
        let (a, b, c) = (Configuration::new(ids(&[1]), []), Configuration::new(ids(&[1, 2]), []), ids(&[1, 2, 3]));
        let mut history = History::new(LogIndex(4), a.clone());
        history.push(LogIndex(6), b.clone());
        history.push(LogIndex(9), Configuration::new(c, []));
        assert!(!history.truncate_from(LogIndex(10)));
        assert!(history.truncate_from(LogIndex(9)));
        assert_eq!(history.current(), &b);
        assert_eq!(history.at(LogIndex(5)), Some(&a));
        history.prune(LogIndex(7));
        assert_eq!(history.at(LogIndex(5)), None);
        assert_eq!(history.current_index(), LogIndex(6));
    }
}
