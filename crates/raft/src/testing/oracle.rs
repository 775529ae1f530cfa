//! What must always hold, watched from outside: the five properties of the paper (figure 3), and reads.

use std::collections::BTreeMap;

use super::host::{Host, hash};
use crate::*;

#[derive(Default)]
pub(crate) struct Oracle {
    /// Who led each term.
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry seen in any log, by id: the entry before it and its content.
    entries: BTreeMap<EntryId, (Term, u64)>,
    /// What was committed at each index, and the lowest term of a node that held it committed.
    committed: Vec<(EntryId, u64, Term)>,
    /// State after each applied entry.
    digests: BTreeMap<LogIndex, u64>,
    /// The log of each node as last looked at, to look only at what is new.
    seen: BTreeMap<NodeId, Seen>,
    /// For every read asked: what was committed anywhere.
    reads: BTreeMap<(NodeId, ReadId), LogIndex>,
    pub(crate) reads_answered: u64,
}

#[derive(Default, Clone)]
struct Seen {
    last: EntryId,
    commit: LogIndex,
    term: Term,
    led: Term,
}

impl Oracle {
    pub(crate) fn new() -> Oracle {
        let first = Restored::bootstrap(Configuration::default()).applied;
        Oracle { committed: vec![(first, 0, first.term)], ..Oracle::default() }
    }

    /// The highest index committed anywhere.
    pub(crate) fn commit(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    pub(crate) fn restarted(&mut self, id: NodeId) {
        self.seen.remove(&id);
        self.reads.retain(|(node, _), _| *node != id);
    }

    pub(crate) fn read_asked(&mut self, node: NodeId, id: ReadId) {
        self.reads.insert((node, id), self.commit());
    }

    pub(crate) fn read_dropped(&mut self, node: NodeId, id: ReadId) {
        self.reads.remove(&(node, id)).expect("a read is dropped once");
    }

    /// A read is answered from this state: everything committed when it was asked must be in it.
    pub(crate) fn read_answered(&mut self, host: &Host, id: ReadId) -> Result<(), String> {
        let Some(needed) = self.reads.remove(&(host.id, id)) else {
            return Err(format!("node {} answers read {} twice, or unasked", host.id, id.0));
        };
        self.reads_answered += 1;
        if host.state.last.index < needed {
            let has = host.state.last.index;
            return Err(format!("a read goes back: node {} answers from {has}, {needed} was committed", host.id));
        }
        Ok(())
    }

    /// Looks at a node after a step of it.
    pub(crate) fn check(&mut self, host: &Host) -> Result<(), String> {
        let Some(raft) = &host.raft else { return Ok(()) };
        let before = self.seen.get(&host.id).cloned().unwrap_or_default();
        let (id, term, commit) = (host.id, raft.term(), raft.commit());
        if term < before.term {
            return Err(format!("node {id} goes back from term {} to {term}", before.term));
        }
        if commit < before.commit {
            return Err(format!("node {id} goes back from commit {} to {commit}", before.commit));
        }
        // Leader append-only: what a leader has in its log stays, in that term.
        let leads_still = raft.role() == Role::Leader && before.led == term && before.term == term;
        let kept =
            before.last.index <= raft.log_base().index || raft.term_at(before.last.index) == Some(before.last.term);
        if leads_still && !kept {
            return Err(format!("leader {id} of term {term} no longer has {}", before.last));
        }
        self.check_log(host, &before)?;
        self.check_commit(host, before.commit)?;
        let mut led = before.led;
        if raft.role() == Role::Leader && led != term {
            self.check_leader(host)?;
            led = term;
        }
        self.seen.insert(id, Seen { last: raft.last(), commit, term, led });
        Ok(())
    }

    /// Log matching: an entry of one index and term is the same everywhere, and so is the one before it.
    fn check_log(&mut self, host: &Host, before: &Seen) -> Result<(), String> {
        let raft = host.raft.as_ref().unwrap();
        let last = raft.last();
        if last == before.last {
            return Ok(());
        }
        // Nothing below the commit index of before can have changed.
        let mut at = last.index;
        while at > raft.log_base().index && at > before.commit {
            let e = raft.entry(at).ok_or_else(|| format!("node {} lost entry {at}", host.id))?;
            let prev = raft.term_at(at.prev()).unwrap_or_default();
            let content = (prev, hash(0, &e));
            if *self.entries.entry(e.id()).or_insert(content) != content {
                return Err(format!("logs do not match: node {} has another {}", host.id, e.id()));
            }
            at = at.prev();
        }
        Ok(())
    }

    /// State machine safety: no two nodes commit different entries at an index.
    fn check_commit(&mut self, host: &Host, before: LogIndex) -> Result<(), String> {
        let raft = host.raft.as_ref().unwrap();
        let mut at = before.max(raft.log_base().index).next();
        while at <= raft.commit() {
            let e = raft.entry(at).ok_or_else(|| format!("node {} has no entry {at}, committed", host.id))?;
            let slot = (at.0 - 1) as usize;
            if slot < self.committed.len() {
                let known = &mut self.committed[slot];
                if (known.0, known.1) != (e.id(), hash(0, &e)) {
                    return Err(format!("node {} commits {}, {} was committed there", host.id, e.id(), known.0));
                }
                known.2 = known.2.min(raft.term());
            } else {
                assert_eq!(slot, self.committed.len(), "commits are seen in order");
                self.committed.push((e.id(), hash(0, &e), raft.term()));
            }
            at = at.next();
        }
        Ok(())
    }

    /// Election safety: one leader a term. Leader completeness: it has everything that was committed in earlier terms.
    fn check_leader(&mut self, host: &Host) -> Result<(), String> {
        let raft = host.raft.as_ref().unwrap();
        let term = raft.term();
        if let Some(other) = self.leaders.insert(term, host.id)
            && other != host.id
        {
            return Err(format!("term {term} has two leaders: {other} and {}", host.id));
        }
        for (id, _, in_term) in self.committed.iter().filter(|c| c.2 < term) {
            let has = raft.term_at(id.index);
            let below = id.index < raft.log_base().index;
            if has != Some(id.term) && !below {
                return Err(format!("leader {} of term {term} lacks {id}, committed in term {in_term}", host.id));
            }
        }
        Ok(())
    }

    /// States that have applied the same entries are the same.
    pub(crate) fn check_state(&mut self, host: &Host) -> Result<(), String> {
        let known = *self.digests.entry(host.state.last.index).or_insert(host.state.digest);
        if known != host.state.digest {
            return Err(format!("node {} has another state at {}", host.id, host.state.last.index));
        }
        Ok(())
    }
}
