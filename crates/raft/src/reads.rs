//! Reads that wait.
//!
//! A read is served from the applied state, so two things must be known when it is answered: that the state contains
//! everything committed before the read came, and that this was all there was, i.e. that no other leader has committed more.
//! The leader notes its commit index when the read comes, and answers when it has applied that far and either its lease
//! holds *at that moment* or a round of heartbeats begun after the read came has been answered by a quorum. One round serves
//! all the reads that wait for it. Both need the first entry of the leader's term to be committed: before, its commit index
//! may be behind what earlier leaders committed.
//!
//! A follower sends all its reads that wait as one question and numbers the questions. The answer to one covers the earlier
//! ones too. An answer to a question of an earlier life of this node, from before it crashed, must not be taken for one to
//! a question of this life with the same number: that is what the incarnation is for.

use std::collections::VecDeque;

use crate::message::ReadContext;
use crate::ready::{ReadId, ReadReady};
use crate::{LogIndex, NodeId, Time};

/// A read at the leader.
#[derive(Debug)]
pub(crate) struct Waiting<W> {
    pub(crate) who: W,
    /// The commit index when it came, or when the leader's term had its first entry committed, whichever was later.
    pub(crate) index: Option<LogIndex>,
    /// The first heartbeat round that begins after it came.
    pub(crate) round: u64,
}

#[derive(Debug)]
pub(crate) struct Reads {
    /// Leader: its own reads, in order of arrival; so are their indexes and rounds.
    pub(crate) local: VecDeque<Waiting<ReadId>>,
    /// Leader: questions of followers, likewise.
    pub(crate) remote: VecDeque<Waiting<(NodeId, ReadContext)>>,
    /// Follower: reads whose index the leader has been or will be asked for, with the number of the question.
    asked: VecDeque<(ReadId, u64)>,
    /// Reads that may be answered once this node has applied so far.
    confirmed: VecDeque<ReadReady>,
    dropped: Vec<ReadId>,
    incarnation: u64,
    /// The number of the newest question.
    batch: u64,
    /// The newest that was sent.
    sent: u64,
    /// The question must be sent (again).
    ask: bool,
    /// When it was last sent.
    asked_at: Time,
}

impl Reads {
    pub(crate) fn new(incarnation: u64) -> Reads {
        Reads {
            local: VecDeque::new(),
            remote: VecDeque::new(),
            asked: VecDeque::new(),
            confirmed: VecDeque::new(),
            dropped: Vec::new(),
            incarnation,
            batch: 0,
            sent: 0,
            ask: false,
            asked_at: Time::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.local.len() + self.remote.len() + self.asked.len() + self.confirmed.len()
    }

    /// A follower's read: joins the question that was never sent. One that is only to be sent again may have its answer on the
    /// way already, from before this read came.
    pub(crate) fn ask_for(&mut self, id: ReadId) {
        if self.batch == self.sent {
            self.batch += 1;
        }
        self.asked.push_back((id, self.batch));
        self.ask = true;
    }

    /// A question sent before this, or its answer, may have been lost.
    pub(crate) fn ask_again_if_before(&mut self, then: Time) {
        self.ask |= !self.asked.is_empty() && self.asked_at < then;
    }

    /// The question to send now. Reads that come later are not part of it.
    #[inline]
    pub(crate) fn take_question(&mut self, now: Time) -> Option<ReadContext> {
        let ask = std::mem::take(&mut self.ask);
        if ask {
            (self.asked_at, self.sent) = (now, self.batch);
        }
        ask.then_some(ReadContext { incarnation: self.incarnation, batch: self.batch })
    }

    /// The leader's answer: covers that question and all before it.
    pub(crate) fn answered(&mut self, context: ReadContext, index: LogIndex, any_incarnation: bool) {
        if context.incarnation != self.incarnation && !any_incarnation {
            return;
        }
        while let Some((id, _)) = self.asked.pop_front_if(|(_, batch)| *batch <= context.batch) {
            self.confirm(id, index);
        }
    }

    pub(crate) fn confirm(&mut self, id: ReadId, index: LogIndex) {
        self.confirmed.push_back(ReadReady { id, index });
    }

    /// Leadership has moved: whatever was not confirmed will not be.
    pub(crate) fn drop_unanswered(&mut self) {
        self.dropped.extend(self.local.drain(..).map(|w| w.who));
        self.dropped.extend(self.asked.drain(..).map(|(id, _)| id));
        self.remote.clear();
        self.ask = false;
    }

    #[inline]
    pub(crate) fn has_output(&self) -> bool {
        !self.confirmed.is_empty() || !self.dropped.is_empty()
    }

    #[inline]
    pub(crate) fn take_dropped(&mut self) -> Vec<ReadId> {
        std::mem::take(&mut self.dropped)
    }

    /// Confirmed reads whose index is applied. Answers of two leaders may be confirmed out of order, so all are looked at.
    #[inline]
    pub(crate) fn take_ready(&mut self, applied: LogIndex) -> Vec<ReadReady> {
        if self.confirmed.is_empty() {
            return Vec::new();
        }
        let ready = self.confirmed.iter().filter(|r| r.index <= applied).copied().collect();
        self.confirmed.retain(|r| r.index > applied);
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_does_not_join_a_question_that_may_be_answered_already() {
        let mut reads = Reads::new(1);
        let now = Time::from_nanos(1000);
        reads.ask_for(ReadId(1));
        reads.ask_for(ReadId(2));
        let first = reads.take_question(now).unwrap();
        // The answer is slow: it is asked again, and another read comes before that has left.
        reads.ask_again_if_before(Time::from_nanos(2000));
        reads.ask_for(ReadId(3));
        reads.answered(first, LogIndex(7), false);
        let ids = |ready: Vec<ReadReady>| ready.into_iter().map(|read| read.id).collect::<Vec<_>>();
        assert_eq!(ids(reads.take_ready(LogIndex(7))), [ReadId(1), ReadId(2)]);
        let second = reads.take_question(now).unwrap();
        assert!(second.batch > first.batch);
        reads.answered(second, LogIndex(8), false);
        assert_eq!(ids(reads.take_ready(LogIndex(8))), [ReadId(3)]);
    }
}
