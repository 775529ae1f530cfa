//! From a session's work to the leader of its range, wherever that is; again when leadership moves; and what the client
//! is told when no answer comes in time.
//!
//! A batch that was executed here leaves no record: if leadership is lost before its entry is known to be committed, this
//! node waits for the log to tell (see [`Node::resolve`]). A batch that travelled does, so it is simply sent again, under
//! the same numbers, to whoever leads now, this node included.

use std::time::Duration;

use bytes::Bytes;
use dstore_resp::Reply;
use dstore_rpc::{Code, Execution, NodeId, Status};
use dstore_storage::{Engine, Term};
use prost::Message as _;

use super::session::{Place, Session, SessionId};
use crate::batch::Done;
use crate::record::RecordKey;
use crate::serve::{Task, Who};
use crate::wire::{EXECUTE, Execute, Executed, FORGET, Forget, GREET, Refused};
use crate::{Node, NodeError, Now, Output, USER_RANGE};

/// How soon a batch that nobody would take is tried again, if nothing else happens before.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How often deadlines are looked at.
pub(crate) const DEADLINE_INTERVAL: Duration = Duration::from_millis(50);

/// Bytes of replies that a session is sent in one turn before others, and its client, get theirs.
const BURST_BYTES_MAX: usize = 1 << 20;

/// Closed connections that one message names.
const FORGET_MAX: usize = 1000;

impl<E: Engine> Node<E> {
    /// Puts a session into the list of those whose work is looked at when the turn ends, or, if it has had its share of
    /// this one, when the next does.
    pub(crate) fn enqueue(&mut self, id: SessionId) {
        let turn = self.turn;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let idle = !session.queued && !session.stalled && session.outstanding.is_none();
        if !idle || session.unsent.is_empty() {
            return;
        }
        session.queued = true;
        if session.burst_turn == turn && session.burst_bytes > BURST_BYTES_MAX {
            self.later.push(id);
        } else {
            self.ready.push_back(id);
        }
    }

    /// The client reads too slowly: until [`Node::go_on`] nothing more is done for him.
    pub fn stall(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.stalled = true;
        }
    }

    /// The client has read what was sent to him.
    pub fn go_on(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.stalled = false;
        }
        self.enqueue(id);
    }

    /// Forms batches of what has gathered, and sends them on their way.
    pub(crate) fn dispatch(&mut self, now: Now) -> Result<(), NodeError> {
        while let Some(id) = self.ready.pop_front() {
            let timeout = self.limits.request_timeout;
            let Some(session) = self.sessions.get_mut(id) else { continue };
            session.queued = false;
            if session.take_batch(timeout) {
                self.route(now, id)?;
            }
        }
        Ok(())
    }

    /// Brings a session's batch to the leader, or keeps it until there is one.
    fn route(&mut self, now: Now, id: SessionId) -> Result<(), NodeError> {
        let Some(group) = self.groups.get(&USER_RANGE) else { return Ok(()) };
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        let Some(outstanding) = &mut session.outstanding else { return Ok(()) };
        let batch = outstanding.batch.clone();
        let leader = group.leader();
        let reads_here = self.limits.follower_reads && !outstanding.needs_leader && batch.only_reads();
        if group.serving().is_some() || (reads_here && leader.is_some()) {
            outstanding.place = Place::Here;
            let connection = id.client();
            let (node, incarnation) = (self.identity.node.0, self.identity.incarnation.0);
            let record = outstanding.travelled.then_some(RecordKey { node, incarnation, connection });
            return self.serve(now, USER_RANGE, Task { who: Who::Session(id), batch, record, rehearsals: 0 });
        }
        match leader {
            Some((leader, term)) if leader.0 != self.identity.node.0 => self.send_batch(now, id, leader.0, term),
            _ => {
                outstanding.place = Place::Held;
                self.held.push(id);
            }
        }
        Ok(())
    }

    fn send_batch(&mut self, now: Now, id: SessionId, leader: u64, term: Term) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(outstanding) = &mut session.outstanding else { return };
        let timeout = outstanding.deadline.since(now.mono);
        if timeout.is_zero() {
            // The deadline is about to be seen.
            outstanding.place = Place::Held;
            self.held.push(id);
            return;
        }
        self.last_token += 1;
        let token = self.last_token;
        outstanding.place = Place::Sent { token, term };
        if outstanding.batch.writes() {
            (outstanding.travelled, session.recorded) = (true, true);
        }
        let mut execute = Execute {
            range: USER_RANGE.0,
            term: term.0,
            epoch: self.epoch,
            incarnation: self.identity.incarnation.0,
            connection: id.client(),
            ..Execute::default()
        };
        execute.set_batch(&outstanding.batch);
        self.calls.insert(token, id);
        let body = Bytes::from(execute.encode_to_vec());
        self.outputs.push_back(Output::Call { to: NodeId(leader), token, method: EXECUTE.number, body, timeout });
    }

    /// A call of ours has ended.
    ///
    /// # Errors
    ///
    /// The engine failed: the node must stop.
    pub fn handle_reply(&mut self, now: Now, token: u64, result: Result<Bytes, Status>) -> Result<(), NodeError> {
        if let Some(about) = self.greeting.remove(&token) {
            if let Ok(greeted) = GREET.decode_reply(result) {
                self.greeted(about, &greeted);
            }
            return Ok(());
        }
        let Some(id) = self.calls.remove(&token) else { return Ok(()) };
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        let Some(outstanding) = &mut session.outstanding else { return Ok(()) };
        if !matches!(outstanding.place, Place::Sent { token: current, .. } if current == token) {
            // It was given up: the batch is somewhere else by now.
            return Ok(());
        }
        let first = outstanding.batch.first;
        let status = match result.map(Executed::decode) {
            Ok(Ok(executed)) if executed.refused() == Refused::No => {
                let expected = outstanding.batch.items.len();
                match executed.done().filter(|done| (1..=expected).contains(&done.len())) {
                    Some(done) => return self.complete(now, id, first, done),
                    None => Status::new(Code::InvalidReply, Execution::Executed, "the leader's answer makes no sense"),
                }
            }
            Ok(Ok(executed)) => {
                self.take_back(id, first, executed.refused());
                return Ok(());
            }
            Ok(Err(error)) => Status::new(Code::InvalidReply, Execution::Executed, error.to_string()),
            Err(status) => status,
        };
        if status.code == Code::InvalidRequest || status.code == Code::InvalidReply {
            // Sending it again would change nothing.
            let text = match status.execution {
                Execution::NotExecuted => format!("ERR not executed: the leader does not take it: {}", status.message),
                _ => format!("UNCERTAIN the leader's answer cannot be read: {}", status.message),
            };
            return self.give_up(now, id, &text, status.execution != Execution::NotExecuted);
        }
        outstanding.maybe_executed |= status.execution != Execution::NotExecuted && outstanding.batch.writes();
        outstanding.place = Place::Held;
        self.held.push(id);
        Ok(())
    }

    /// A batch was not executed where it was, or nobody knows; it is tried again.
    pub(crate) fn take_back(&mut self, id: SessionId, first: u64, why: Refused) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(outstanding) = session.outstanding.as_mut().filter(|outstanding| outstanding.batch.first == first)
        else {
            return;
        };
        if outstanding.place == Place::Here {
            outstanding.needs_leader = true;
        }
        match why {
            Refused::Lost if outstanding.travelled => outstanding.maybe_executed |= outstanding.batch.writes(),
            // It ran here, and the part of the log that could tell is gone; or there, and the answer is.
            Refused::Lost | Refused::Forgotten if outstanding.batch.writes() => {
                self.doomed.push(id);
                return;
            }
            _ => {}
        }
        outstanding.place = Place::Held;
        self.held.push(id);
    }

    /// Tries what nobody would take before.
    pub(crate) fn retry_held(&mut self, now: Now) -> Result<(), NodeError> {
        self.next_retry = now.mono + RETRY_INTERVAL;
        let mut held = std::mem::take(&mut self.held);
        held.sort_unstable();
        held.dedup();
        for id in held {
            let is_held = |session: &&mut Session| {
                session.outstanding.as_ref().is_some_and(|outstanding| outstanding.place == Place::Held)
            };
            if self.sessions.get_mut(id).filter(is_held).is_some() {
                self.route(now, id)?;
            }
        }
        for id in std::mem::take(&mut self.doomed) {
            mark!(BatchInDoubtAtOnce);
            let text = "UNCERTAIN whether the command was executed is unknown, or it was and its reply is lost; \
                        the connection closes";
            self.give_up(now, id, text, true)?;
        }
        Ok(())
    }

    /// Somebody else leads now, or another term began: what was sent to the leader before goes to the new one.
    pub(crate) fn reroute(&mut self, now: Now) -> Result<(), NodeError> {
        let current = self.groups.get(&USER_RANGE).and_then(|group| group.leader()).map(|(_, term)| term);
        if current.is_some() {
            let mut moved = Vec::new();
            self.calls.retain(|token, id| {
                let Some(outstanding) = self.sessions.get_mut(*id).and_then(|session| session.outstanding.as_mut())
                else {
                    return false;
                };
                match outstanding.place {
                    Place::Sent { token: at, term } if at == *token && Some(term) != current => {
                        mark!(BatchRerouted);
                        outstanding.maybe_executed |= outstanding.batch.writes();
                        outstanding.place = Place::Held;
                        moved.push(*id);
                        false
                    }
                    Place::Sent { token: at, .. } => at == *token,
                    _ => false,
                }
            });
            self.held.append(&mut moved);
        }
        self.retry_held(now)
    }

    /// Answers the clients whose time is up.
    pub(crate) fn expire(&mut self, now: Now) -> Result<(), NodeError> {
        self.next_expiry = now.mono + DEADLINE_INTERVAL;
        self.keep_long_reads(now);
        let late = |session: &Session| {
            session.outstanding.as_ref().is_some_and(|outstanding| outstanding.deadline <= now.mono)
        };
        let late: Vec<SessionId> = self.sessions.iter().filter(|session| late(session)).map(|s| s.id).collect();
        let timeout_ms = self.limits.request_timeout.as_millis();
        for id in late {
            let Some(outstanding) = self.sessions.get(id).and_then(|session| session.outstanding.as_ref()) else {
                continue;
            };
            let under_way = outstanding.place != Place::Held && outstanding.batch.writes();
            let uncertain = under_way || outstanding.maybe_executed;
            if uncertain && !planted!(self, CallUncertainNotExecuted) {
                mark!(BatchToldUncertain);
                let text = format!(
                    "UNCERTAIN whether the command was executed is unknown: no answer within {timeout_ms} ms; the \
                     connection closes"
                );
                self.give_up(now, id, &text, true)?;
            } else {
                mark!(BatchToldNotExecuted);
                let text = format!("NOQUORUM not executed: no quorum of nodes answered within {timeout_ms} ms");
                self.give_up(now, id, &text, false)?;
            }
        }
        Ok(())
    }

    /// Answers a batch with an error. If its outcome is uncertain the connection closes, so that nothing of it is ever
    /// tried again.
    fn give_up(&mut self, now: Now, id: SessionId, text: &str, uncertain: bool) -> Result<(), NodeError> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        let Some(outstanding) = session.outstanding.take() else { return Ok(()) };
        session.bytes -= outstanding.bytes;
        self.waiting_bytes -= outstanding.bytes;
        // Its numbers are spent: what still comes of it must not be taken for the next batch's.
        if !planted!(self, ReuseNumbers) {
            session.next_number = outstanding.batch.first + outstanding.batch.items.len() as u64;
        }
        if uncertain {
            self.fulfil(now, id, Done::Reply(Reply::error(text)))?;
            let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
            session.slots.clear();
            session.held.clear();
            self.waiting_bytes -= session.unsent.drain(..).map(|unsent| unsent.item.work.bytes()).sum::<usize>();
            session.closing = true;
            self.outputs.push_back(Output::Close { session: id });
            return Ok(());
        }
        for item in &outstanding.batch.items {
            let outcome = Done::Reply(Reply::error(text));
            self.note_done(now, id, item, &outcome);
            self.fulfil(now, id, outcome)?;
        }
        self.after_outcomes(now, id)
    }

    /// Tells the leader which of our connections are closed.
    pub(crate) fn send_forgets(&mut self, now: Now) -> Result<(), NodeError> {
        let Some((leader, term)) = self.groups.get(&USER_RANGE).and_then(|group| group.leader()) else {
            return Ok(());
        };
        while !self.closed.is_empty() {
            let some = self.closed.len().min(FORGET_MAX);
            let forget = Forget {
                range: USER_RANGE.0,
                term: term.0,
                epoch: self.epoch,
                incarnation: self.identity.incarnation.0,
                connections: self.closed.drain(..some).collect(),
            };
            if leader.0 == self.identity.node.0 {
                self.forget(now, leader.0, &forget)?;
            } else {
                let body = Bytes::from(forget.encode_to_vec());
                self.outputs.push_back(Output::Send { to: NodeId(leader.0), method: FORGET.number, body });
            }
        }
        Ok(())
    }
}
