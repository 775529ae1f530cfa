//! [`Session`]: what a node remembers of one connected client: the replies he is owed, in order, and the commands that are
//! on their way to a range.
//!
//! ```text
//!  request ──plan──> Slot::Ready                                   (answered here)
//!               └──> Slot::Pending + Item in `unsent` ──batch──> outstanding ──outcome──> reply
//! ```
//!
//! Invariants: each pending slot belongs to one item of `outstanding` or `unsent`, in the same order; a reply leaves when
//! its slot is the first; one batch is outstanding at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use dstore_raft::Time;
use dstore_resp::{CommandSpec, ProtocolVersion, Reply};
use dstore_storage::Term;

use super::rest::Rest;
use crate::batch::{Batch, Command, Item, Watched, Work, bytes_of};

/// Names a session; harmless once the session is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// Place in the table of sessions; used again.
    pub(crate) slot: u32,
    /// The id that `CLIENT ID` answers; never used again while the process lives.
    pub(crate) client: u64,
}

impl SessionId {
    /// A small number that no other open session has: an index for the driver's own tables.
    pub fn slot(self) -> usize {
        self.slot as usize
    }

    /// The id that `CLIENT ID` answers.
    pub fn client(self) -> u64 {
        self.client
    }
}

/// Where a client comes from, for `CLIENT LIST`.
#[derive(Clone, Debug, Default)]
pub struct ClientAddress {
    /// His end, `ip:port`.
    pub remote: String,
    /// Our end, `ip:port`.
    pub local: String,
}

/// A client's state between his commands.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) address: ClientAddress,
    pub(crate) connected_us: u64,
    pub(crate) active_us: u64,
    pub(crate) db: u8,
    pub(crate) resp: ProtocolVersion,
    pub(crate) name: Bytes,
    pub(crate) lib_name: Bytes,
    pub(crate) lib_version: Bytes,
    pub(crate) authenticated: bool,
    pub(crate) last_command: Option<&'static CommandSpec>,
    pub(crate) multi: Option<Multi>,
    /// Keys watched, each with the transaction that it is for.
    pub(crate) watched: Vec<(u64, Watched)>,
    /// Counts transactions, and UNWATCH: what was watched for an earlier one concerns no later one.
    pub(crate) transaction: u64,
    /// WATCH commands that are not answered yet.
    pub(crate) watches_pending: usize,
    /// Replies owed, in the order of the requests.
    pub(crate) slots: VecDeque<Slot>,
    /// Work that is in no batch yet, in order.
    pub(crate) unsent: VecDeque<Unsent>,
    /// The batch that is under way.
    pub(crate) outstanding: Option<Outstanding>,
    /// The number of the next piece of work.
    pub(crate) next_number: u64,
    /// In the list of sessions to be looked at.
    pub(crate) queued: bool,
    /// The client reads his replies too slowly: none of his work is begun.
    pub(crate) stalled: bool,
    /// Bytes of replies sent in turn `burst_turn` of the loop.
    pub(crate) burst_bytes: usize,
    pub(crate) burst_turn: u64,
    /// A transaction under way will change this session when it succeeds: until then requests wait in `held`.
    pub(crate) barrier: bool,
    pub(crate) held: VecDeque<Vec<Bytes>>,
    /// Memory of what is owed and what waits.
    pub(crate) bytes: usize,
    /// Set once so much waits that no further request is taken; see [`Session::waits_too_much`].
    pub(crate) paused: bool,
    /// How its replies are wanted, and whether the request at hand is one that gets none.
    pub(crate) replies: Replies,
    pub(crate) muted: bool,
    /// It waits or sleeps; requests wait in `held`.
    pub(crate) rest: Option<Rest>,
    /// When it is to be looked at.
    pub(crate) wakes_at: Option<Time>,
    /// CLIENT PAUSE has stopped it; the same.
    pub(crate) postponed: bool,
    /// It is shown what other clients send.
    pub(crate) monitors: bool,
    /// CLIENT NO-EVICT; nothing is evicted anyway.
    pub(crate) no_evict: bool,
    /// It closes once the request at hand is answered.
    pub(crate) closes_behind_reply: bool,
    /// QUIT was answered: nothing more is taken, and the connection closes behind the last reply.
    pub(crate) closing: bool,
    /// Some leader may remember what this session had executed.
    pub(crate) recorded: bool,
}

/// Replies of one session that may be owed before its requests are read no further. Deep enough for any pipeline that
/// clients send, small enough that a flood costs kilobytes.
const SLOTS_MAX: usize = 4096;

/// Memory that those replies and their requests may take before the same happens.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// Arguments that one batch carries, unless the first alone is larger; and pieces of work. What comes behind shares the next.
const BATCH_BYTES_MAX: usize = 1 << 20;
const BATCH_ITEMS_MAX: usize = 1024;

/// A transaction being queued.
#[derive(Debug, Default)]
pub(crate) struct Multi {
    pub(crate) commands: Vec<(&'static CommandSpec, Vec<Bytes>)>,
    pub(crate) bytes: usize,
    /// How many commands it counts for: those on several keys for more than one.
    pub(crate) weight: usize,
    /// A command could not be queued: EXEC answers EXECABORT.
    pub(crate) aborted: bool,
}

/// A reply that is owed.
#[derive(Debug)]
pub(crate) enum Slot {
    /// It is known, and waits for those before it.
    Ready { reply: Reply, version: ProtocolVersion },
    /// It will be made of an outcome; and is then thrown away, if the client wants none.
    Pending { expects: Expects, version: ProtocolVersion, muted: bool },
}

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replies {
    /// To everything.
    On,
    /// To nothing.
    Off,
    /// To all but the next request.
    SkipNext,
}

/// What an outcome is for.
#[derive(Debug)]
pub(crate) enum Expects {
    /// A command's reply.
    Reply,
    /// An EXEC's replies; some of its commands may be answered here.
    Exec(Vec<Part>),
    /// The versions of keys, for the transaction of this number.
    Versions { transaction: u64, db: u8, keys: Vec<Bytes> },
}

/// A command of a transaction.
#[derive(Debug)]
pub(crate) enum Part {
    /// The range answers it.
    Range,
    /// It is answered here, when the transaction has succeeded.
    Here(Command),
}

/// Work that waits for its batch.
#[derive(Debug)]
pub(crate) struct Unsent {
    pub(crate) item: Item,
    /// For a block: whose watched keys it compares.
    pub(crate) transaction: Option<u64>,
}

/// A batch that is under way.
#[derive(Debug)]
pub(crate) struct Outstanding {
    pub(crate) batch: Arc<Batch>,
    pub(crate) bytes: usize,
    /// After this the client is answered, whatever is known.
    pub(crate) deadline: Time,
    pub(crate) place: Place,
    /// It may have been executed by a leader that gave no answer.
    pub(crate) maybe_executed: bool,
    /// It was sent to another node, which may remember it.
    pub(crate) travelled: bool,
    /// A follower could not answer it.
    pub(crate) needs_leader: bool,
}

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: no leader is known.
    Held,
    /// At this node.
    Here,
    /// At the leader of a term.
    Sent { token: u64, term: Term },
}

impl Session {
    pub(crate) fn new(id: SessionId, address: ClientAddress, now_us: u64, authenticated: bool) -> Session {
        Session {
            id,
            address,
            connected_us: now_us,
            active_us: now_us,
            db: 0,
            resp: ProtocolVersion::Resp2,
            name: Bytes::new(),
            lib_name: Bytes::new(),
            lib_version: Bytes::new(),
            authenticated,
            last_command: None,
            multi: None,
            watched: Vec::new(),
            transaction: 0,
            watches_pending: 0,
            slots: VecDeque::new(),
            unsent: VecDeque::new(),
            outstanding: None,
            next_number: 1,
            queued: false,
            stalled: false,
            burst_bytes: 0,
            burst_turn: 0,
            barrier: false,
            held: VecDeque::new(),
            bytes: 0,
            paused: false,
            replies: Replies::On,
            muted: false,
            rest: None,
            wakes_at: None,
            postponed: false,
            monitors: false,
            no_evict: false,
            closes_behind_reply: false,
            closing: false,
            recorded: false,
        }
    }

    /// Whether a request that comes now has to wait.
    pub(crate) fn holds(&self) -> bool {
        self.barrier || self.postponed || self.rest.is_some()
    }

    /// Whether nothing is owed and nothing waits.
    pub(crate) fn is_done(&self) -> bool {
        self.slots.is_empty() && self.held.is_empty() && self.rest.is_none()
    }

    /// The next request begins: decides whether it gets a reply.
    pub(crate) fn begin_request(&mut self) {
        self.muted = self.replies != Replies::On;
        if self.replies == Replies::SkipNext {
            self.replies = Replies::On;
        }
    }

    /// Whether no further request should be taken.
    pub(crate) fn waits_too_much(&self) -> bool {
        self.slots.len() + self.held.len() >= SLOTS_MAX || self.bytes >= WAITING_BYTES_MAX
    }

    /// Whether so little waits that requests may be taken again.
    pub(crate) fn waits_little(&self) -> bool {
        self.slots.len() + self.held.len() < SLOTS_MAX / 2 && self.bytes < WAITING_BYTES_MAX / 2
    }

    /// Forgets what was queued and watched.
    pub(crate) fn end_transaction(&mut self) {
        self.multi = None;
        self.unwatch();
    }

    /// Forgets what is watched for the next transaction. One that is on its way keeps what it compares.
    pub(crate) fn unwatch(&mut self) {
        let current = self.transaction;
        self.watched.retain(|(transaction, _)| *transaction != current);
        self.transaction += 1;
    }

    /// Whether anything is watched for the next transaction, or about to be.
    pub(crate) fn watches(&self) -> bool {
        self.watches_pending > 0 || self.watched.iter().any(|(transaction, _)| *transaction == self.transaction)
    }

    /// Whether some transaction still has a use for what was watched for number `transaction`.
    pub(crate) fn awaits_watched(&self, transaction: u64) -> bool {
        transaction == self.transaction || self.unsent.iter().any(|unsent| unsent.transaction == Some(transaction))
    }

    /// Forms the next batch, if there is work and none is under way.
    pub(crate) fn take_batch(&mut self, timeout: std::time::Duration) -> bool {
        if self.stalled || self.outstanding.is_some() || self.unsent.is_empty() {
            return false;
        }
        let mut items = Vec::with_capacity(self.unsent.len().min(BATCH_ITEMS_MAX));
        let (mut bytes, mut has_watch) = (0, false);
        let mut deadline = None;
        while let Some(next) = self.unsent.front() {
            let more = next.item.work.bytes();
            let full = items.len() >= BATCH_ITEMS_MAX || (bytes > 0 && bytes + more > BATCH_BYTES_MAX);
            // A read that takes long is a batch of its own: beside a write it would have to run in the log's order.
            let is_long = next.item.work.takes_long();
            // What a transaction compares must be known when it is sent.
            if full || (has_watch && next.transaction.is_some()) || (is_long && !items.is_empty()) {
                break;
            }
            let Some(Unsent { mut item, transaction }) = self.unsent.pop_front() else { break };
            deadline.get_or_insert(item.arrived + timeout);
            bytes += more;
            has_watch |= matches!(item.work, Work::Watch { .. });
            if let (Work::Block { watched, .. }, Some(wanted)) = (&mut item.work, transaction) {
                watched.extend(self.watched.extract_if(.., |(of, _)| *of == wanted).map(|(_, watched)| watched));
            }
            items.push(item);
            if is_long {
                break;
            }
        }
        let batch = Arc::new(Batch { first: self.next_number, items });
        self.outstanding = Some(Outstanding {
            batch,
            bytes,
            deadline: deadline.expect("there was work"),
            place: Place::Held,
            maybe_executed: false,
            travelled: false,
            needs_leader: false,
        });
        true
    }

    /// The first `done` pieces of the batch under way are done. What is left of it goes in front of what comes behind.
    /// Gives the bytes of what was done.
    pub(crate) fn finish_batch(&mut self, outstanding: &Outstanding, done: usize) -> usize {
        let (items, rest) = outstanding.batch.items.split_at(done);
        self.next_number = outstanding.batch.first + done as u64;
        for item in rest.iter().rev() {
            self.unsent.push_front(Unsent { item: item.clone(), transaction: None });
        }
        let bytes = items.iter().map(|item| item.work.bytes()).sum();
        self.bytes -= bytes;
        bytes
    }

    /// Back to how a connection begins, for RESET. The replies that wait stay: they are owed.
    pub(crate) fn reset(&mut self) {
        self.db = 0;
        self.resp = ProtocolVersion::Resp2;
        self.name = Bytes::new();
        (self.replies, self.muted) = (Replies::On, false);
        (self.monitors, self.no_evict) = (false, false);
        self.end_transaction();
    }

    /// Memory of a request that waits.
    pub(crate) fn hold(&mut self, args: Vec<Bytes>) {
        self.bytes += bytes_of(&args);
        self.held.push_back(args);
    }
}

/// The sessions of a node, found by id in constant time.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: slab::Slab<Session>,
    last_client: u64,
}

impl Sessions {
    pub(crate) fn open(&mut self, address: ClientAddress, now_us: u64, authenticated: bool) -> SessionId {
        self.last_client += 1;
        let entry = self.slots.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("connections are bounded far below 2^32");
        let id = SessionId { slot, client: self.last_client };
        entry.insert(Session::new(id, address, now_us, authenticated));
        id
    }

    pub(crate) fn close(&mut self, id: SessionId) -> Option<Session> {
        self.get(id).is_some().then(|| self.slots.remove(id.slot as usize))
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.slots.get(id.slot as usize).filter(|session| session.id == id)
    }

    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slots.get_mut(id.slot as usize).filter(|session| session.id == id)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// In no particular order, those that close included.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().map(|(_, session)| session)
    }

    /// In the order in which they connected.
    pub(crate) fn by_age(&self) -> Vec<&Session> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_by_key(|session| session.id.client);
        all
    }
}
