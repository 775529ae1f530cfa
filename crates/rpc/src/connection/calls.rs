//! The caller's half: calls that wait for their end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::deadline::Deadlines;
use crate::status::{Code, Execution, Status};

/// A call that has not ended.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: u32,
    pub(super) started: Instant,
    deadline: Option<Instant>,
    /// Whether its request was handed to the transport: then it may have been executed.
    sent: bool,
}

impl Call {
    /// Whether the peer may have executed it, when nothing came back.
    pub(super) fn execution(&self) -> Execution {
        if self.sent { Execution::MayHaveExecuted } else { Execution::NotExecuted }
    }

    /// Whether the peer knows of it.
    pub(super) fn was_sent(&self) -> bool {
        self.sent
    }
}

/// All of them, by id.
#[derive(Debug, Default)]
pub(super) struct Calls {
    waiting: BTreeMap<u64, Call>,
    deadlines: Deadlines,
}

impl Calls {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn insert(&mut self, id: u64, method: u32, started: Instant, deadline: Option<Instant>) {
        let before = self.waiting.insert(id, Call { method, started, deadline, sent: false });
        assert!(before.is_none(), "call id {id} is in use");
        if let Some(deadline) = deadline {
            let waiting = &self.waiting;
            self.deadlines.insert(deadline, id, |id| waiting.contains_key(&id));
        }
    }

    /// The call's request leaves. `None` if it ended before, or its time is up: then there is nothing to send.
    pub(super) fn sent(&mut self, id: u64, now: Instant) -> Option<Option<Duration>> {
        let call = self.waiting.get_mut(&id)?;
        let left = match call.deadline {
            None => None,
            Some(deadline) if deadline <= now => return None,
            Some(deadline) => Some(deadline - now),
        };
        call.sent = true;
        Some(left)
    }

    /// True if the call waits for a reply that may come: its request was sent.
    pub(super) fn was_sent(&self, id: u64) -> bool {
        self.waiting.get(&id).is_some_and(|call| call.sent)
    }

    /// The call ends: the caller of this function owns telling so.
    pub(super) fn remove(&mut self, id: u64) -> Option<Call> {
        self.waiting.remove(&id)
    }

    /// The next call whose deadline has passed, and its status.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(u64, Call, Status)> {
        let waiting = &self.waiting;
        let id = self.deadlines.pop_due(now, |id| waiting.contains_key(&id))?;
        let call = self.waiting.remove(&id).expect("pop_due gives live ids only");
        let status = Status::new(Code::DeadlineExceeded, call.execution(), "no reply in time");
        Some((id, call, status))
    }

    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        let waiting = &self.waiting;
        self.deadlines.next(|id| waiting.contains_key(&id))
    }

    /// The oldest call, when all of them end.
    pub(super) fn pop(&mut self) -> Option<(u64, Call)> {
        self.waiting.pop_first()
    }
}
