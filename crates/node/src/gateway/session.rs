//! [`Session`]: what a node remembers of one connected client, and the queue that keeps his replies in order.

use std::collections::VecDeque;

use bytes::Bytes;
use dstore_resp::{CommandSpec, ProtocolVersion, Reply};
use dstore_storage::LogIndex;

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
    pub(crate) last_command: Option<&'static CommandSpec>,
    pub(crate) multi: Option<Multi>,
    pub(crate) watched: Vec<Watched>,
    /// Replies that wait for an entry, and those behind them. Their indexes never fall from front to back.
    pub(crate) waiting: VecDeque<Waiting>,
    /// Memory that `waiting` takes.
    pub(crate) waiting_bytes: usize,
    /// Set once `waiting` grew so much that no further request is taken; see [`Session::waits_too_much`].
    pub(crate) paused: bool,
    /// QUIT was answered: nothing more is taken, and the connection closes behind the last reply.
    pub(crate) closing: bool,
}

/// Replies of one session that may wait for the disk before its requests are read no further. Deep enough for any
/// pipeline that clients send, small enough that a flood costs kilobytes.
const WAITING_MAX: usize = 4096;

/// Memory that those replies may take before the same happens: reads behind one's own writes may be long.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// A transaction being queued.
#[derive(Debug, Default)]
pub(crate) struct Multi {
    pub(crate) commands: Vec<(&'static CommandSpec, Vec<Bytes>)>,
    pub(crate) bytes: usize,
    /// A command could not be queued: EXEC answers EXECABORT.
    pub(crate) aborted: bool,
}

/// A key whose version EXEC compares.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) db: u8,
    pub(crate) key: Bytes,
    pub(crate) version: u64,
}

/// A reply that is known but must not leave yet.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Leaves once this entry is applied.
    pub(crate) index: LogIndex,
    pub(crate) reply: Reply,
    /// Memory it takes.
    pub(crate) bytes: usize,
    pub(crate) version: ProtocolVersion,
}

impl Session {
    pub(crate) fn new(id: SessionId, address: ClientAddress, now_us: u64) -> Session {
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
            last_command: None,
            multi: None,
            watched: Vec::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            paused: false,
            closing: false,
        }
    }

    pub(crate) fn push_waiting(&mut self, waiting: Waiting) {
        self.waiting_bytes += waiting.bytes;
        self.waiting.push_back(waiting);
    }

    /// The next reply that waited for an entry up to `applied`.
    pub(crate) fn pop_waiting(&mut self, applied: LogIndex) -> Option<Waiting> {
        let waiting = self.waiting.pop_front_if(|waiting| waiting.index <= applied)?;
        self.waiting_bytes -= waiting.bytes;
        Some(waiting)
    }

    /// Whether no further request should be taken.
    pub(crate) fn waits_too_much(&self) -> bool {
        self.waiting.len() >= WAITING_MAX || self.waiting_bytes >= WAITING_BYTES_MAX
    }

    /// Whether so little waits that requests may be taken again.
    pub(crate) fn waits_little(&self) -> bool {
        self.waiting.len() < WAITING_MAX / 2 && self.waiting_bytes < WAITING_BYTES_MAX / 2
    }

    /// Forgets what was queued and watched.
    pub(crate) fn end_transaction(&mut self) {
        self.multi = None;
        self.watched.clear();
    }

    /// Back to how a connection begins, for RESET. The replies that wait stay: they are owed.
    pub(crate) fn reset(&mut self) {
        self.db = 0;
        self.resp = ProtocolVersion::Resp2;
        self.name = Bytes::new();
        self.end_transaction();
    }
}

/// The sessions of a node, found by id in constant time.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: slab::Slab<Session>,
    last_client: u64,
}

impl Sessions {
    pub(crate) fn open(&mut self, address: ClientAddress, now_us: u64) -> SessionId {
        self.last_client += 1;
        let entry = self.slots.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("connections are bounded far below 2^32");
        let id = SessionId { slot, client: self.last_client };
        entry.insert(Session::new(id, address, now_us));
        id
    }

    pub(crate) fn close(&mut self, id: SessionId) {
        if self.get(id).is_some() {
            self.slots.remove(id.slot as usize);
        }
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

    /// In the order in which they connected.
    pub(crate) fn by_age(&self) -> Vec<&Session> {
        let mut all: Vec<_> = self.slots.iter().map(|(_, session)| session).collect();
        all.sort_by_key(|session| session.id.client);
        all
    }
}
