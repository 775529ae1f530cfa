//! [`Asker`]: whoever asks the cluster for something until it is done: a node that wants to join it, or an operator.
//!
//! It asks anybody it knows of, goes where it is sent, asks again while there is no answer, and takes a refusal for the
//! state of things at that moment: what stands in the way may go away.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dstore_node::{ADMINISTER, Administer, Administered};
use dstore_rpc::NodeId;
use prost::Message as _;

use crate::peers::{PeerEvent, Peers};
use crate::process::{Input, Surroundings};
use crate::random::Random;
use crate::time::{MILLI, Moment};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How soon one that was sent elsewhere asks there.
const REDIRECTED_AFTER: Duration = Duration::from_millis(20);
/// How soon what has begun is asked for again.
const PENDING_AFTER: Duration = Duration::from_millis(200);
/// How soon one that was refused, or heard nothing, asks somebody else.
const REFUSED_AFTER: Duration = Duration::from_millis(400);

/// The ids under which it keeps those it asks, whose own it does not know.
const STRANGERS: u64 = 1 << 48;

/// Asks for one thing. See the [module](self).
pub struct Asker {
    name: String,
    peers: Peers,
    random: Random,
    question: Administer,
    /// Where somebody may be.
    contacts: Vec<String>,
    /// Where it was sent.
    sent_to: Option<String>,
    /// Somebody is being asked, the so many-th time.
    waiting: Option<u64>,
    asked: u64,
    next_at: Instant,
    /// What came of it.
    answer: Option<Administered>,
}

impl Asker {
    /// One that begins to ask now.
    pub fn new(name: String, peers: Peers, random: Random, question: Administer, now: Instant) -> Asker {
        Asker {
            name,
            peers,
            random,
            question,
            contacts: Vec::new(),
            sent_to: None,
            waiting: None,
            asked: 0,
            next_at: now,
            answer: None,
        }
    }

    /// Where somebody may be now.
    pub fn set_contacts(&mut self, contacts: Vec<String>) {
        self.contacts = contacts;
    }

    /// What it asks for.
    pub fn question(&self) -> &Administer {
        &self.question
    }

    /// The answer, once there is one that is no refusal.
    pub fn answer(&self) -> Option<&Administered> {
        self.answer.as_ref()
    }

    /// One turn of its loop. Says when the next one is due, if nothing comes before.
    pub fn turn(&mut self, inputs: Vec<Input>, around: &mut Surroundings<'_>) -> Moment {
        let now = around.clock.instant(around.moment);
        for Input { stream, end, arrival, .. } in inputs {
            self.peers.handle(now, stream, end, arrival);
        }
        self.peers.handle_timeout(now);
        if self.waiting.is_none() && self.answer.is_none() && now >= self.next_at {
            self.ask(now);
        }
        loop {
            self.peers.settle(now, around.moment, around.network);
            let Some(event) = self.peers.poll_event() else { break };
            if let PeerEvent::Reply { token, result } = event
                && self.waiting == Some(token)
            {
                self.waiting = None;
                let answer = result
                    .map_err(|status| status.to_string())
                    .and_then(|body| Administered::decode(body).map_err(|error| error.to_string()));
                around.trace.note(around.moment, format_args!("{} hears {answer:?}", self.name));
                self.heard(now, answer);
            }
        }
        let wait = match self.waiting {
            Some(_) => PATIENCE,
            None => self.next_at.saturating_duration_since(now).max(Duration::from_millis(1)),
        };
        let peers = self.peers.poll_timeout().map(|at| at.saturating_duration_since(now));
        around.clock.after(around.moment, peers.map_or(wait, |peers| peers.min(wait))).max(around.moment + MILLI / 10)
    }

    fn ask(&mut self, now: Instant) {
        let address = match self.sent_to.take() {
            Some(address) => address,
            None if self.contacts.is_empty() => {
                self.next_at = now + REFUSED_AFTER;
                return;
            }
            None => self.random.pick(&self.contacts).clone(),
        };
        self.asked += 1;
        // Each time over a connection of its own.
        let stranger = NodeId(STRANGERS + self.asked);
        self.peers.remove_peer(now, NodeId(STRANGERS + self.asked - 1));
        self.peers.set_stranger(now, stranger, &address);
        let body = Bytes::from(self.question.encode_to_vec());
        self.waiting = Some(self.asked);
        self.peers.call(now, stranger, self.asked, (ADMINISTER.number, body), PATIENCE);
    }

    fn heard(&mut self, now: Instant, answer: Result<Administered, String>) {
        self.next_at = now + REFUSED_AFTER;
        let Ok(answer) = answer else { return };
        if !answer.peer_address.is_empty() {
            self.sent_to = Some(answer.peer_address);
            self.next_at = now + REDIRECTED_AFTER;
        } else if answer.pending {
            self.next_at = now + PENDING_AFTER;
        } else if answer.error.is_empty() {
            self.answer = Some(answer);
        }
    }
}
