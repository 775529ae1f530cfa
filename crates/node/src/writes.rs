//! [`Writes`]: what a range has handed to the log and what waits for it.

use std::collections::VecDeque;

use dstore_raft::{Message, Time};
use dstore_storage::{LogOp, RangeId};

use crate::Output;

/// What waits for a write: its number in the group, if anything does, and the messages that may leave when it is durable.
pub(crate) type Waiting = (Option<u64>, Vec<Message>);

/// Writes of one range to the log that are not durable yet, oldest first.
///
/// While the range's data is being replaced by a snapshot, they are held back: see [`crate::transfer`].
#[derive(Debug)]
pub(crate) struct Writes {
    range: RangeId,
    last_ticket: u64,
    waiting: VecDeque<Write>,
    /// Payload of those.
    bytes: usize,
    /// Set while they are held back.
    held: Option<Vec<(u64, Vec<LogOp>)>>,
}

/// A write, and what waits for it.
#[derive(Debug)]
pub(crate) struct Write {
    ticket: u64,
    /// When it was asked for.
    since: Time,
    bytes: usize,
    /// Its number in the group; `None` where nothing waits for it.
    pub(crate) number: Option<u64>,
    pub(crate) messages: Vec<Message>,
}

impl Writes {
    pub(crate) fn new(range: RangeId) -> Writes {
        Writes { range, last_ticket: 0, waiting: VecDeque::new(), bytes: 0, held: None }
    }

    /// Asks for a write.
    pub(crate) fn submit(
        &mut self,
        now: Time,
        (number, messages): Waiting,
        ops: Vec<LogOp>,
        outputs: &mut VecDeque<Output>,
    ) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let bytes = ops.iter().map(payload_bytes).sum();
        self.bytes += bytes;
        self.waiting.push_back(Write { ticket, since: now, bytes, number, messages });
        match &mut self.held {
            Some(held) => {
                mark!(WritesHeldBack);
                held.push((ticket, ops));
            }
            None => outputs.push_back(Output::Write { range: self.range, ticket, ops }),
        }
    }

    /// Keeps back what is asked for from now on.
    pub(crate) fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Asks for what was kept back.
    pub(crate) fn let_go(&mut self, outputs: &mut VecDeque<Output>) {
        let range = self.range;
        let held = self.held.take().into_iter().flatten();
        outputs.extend(held.map(|(ticket, ops)| Output::Write { range, ticket, ops }));
    }

    /// The next write that is durable now that everything up to `ticket` is.
    pub(crate) fn pop(&mut self, ticket: u64) -> Option<Write> {
        let write = self.waiting.pop_front_if(|write| write.ticket <= ticket)?;
        self.bytes -= write.bytes;
        Some(write)
    }

    /// Since when the disk owes the oldest write; while writes are held back it owes none.
    pub(crate) fn oldest(&self) -> Option<Time> {
        self.waiting.front().filter(|_| self.held.is_none()).map(|write| write.since)
    }

    /// Payload that was handed over and is not durable.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn payload_bytes(op: &LogOp) -> usize {
    match op {
        LogOp::Append { entries, .. } => entries.iter().map(|entry| entry.payload.len()).sum(),
        _ => 0,
    }
}
