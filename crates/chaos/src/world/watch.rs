//! What nodes say of themselves, asked again and again by a thread of its own, so that nobody waits for a node that does
//! not answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dstore_testkit::client::{Client, Reply};
use dstore_testkit::cluster::RaftInfo;
use dstore_testkit::namespaces::Network;

use crate::clients::{beside_clients, lock};

/// Between two rounds, and how long one node may take.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
const TELL_WITHIN: Duration = Duration::from_millis(300);

#[derive(Clone, Debug, Default)]
struct Seen {
    /// Last heard.
    info: Option<RaftInfo>,
    /// Whether it answered in the last round.
    is_fresh: bool,
    /// Counts the nodes that lived there, so that an answer of the one before is not taken for the next one's.
    life: u64,
}

/// The thread, and what it heard.
#[derive(Debug)]
pub struct Watch {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to ask.
    pub fn start(network: Option<Arc<Network>>, addresses: Vec<SocketAddr>) -> Watch {
        let (seen, stop) =
            (Arc::new(Mutex::new(vec![Seen::default(); addresses.len()])), Arc::new(AtomicBool::new(false)));
        let (for_thread, is_over) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            beside_clients(network.as_deref(), || {
                while !is_over.load(Ordering::Relaxed) {
                    for (node, address) in addresses.iter().enumerate() {
                        let life = lock(&for_thread)[node].life;
                        let info = ask(*address);
                        let seen = &mut lock(&for_thread)[node];
                        seen.is_fresh = info.is_some() && seen.life == life;
                        if seen.is_fresh {
                            seen.info = info;
                        }
                    }
                    std::thread::sleep(LOOK_AGAIN); // there is no event outside of a process
                }
            });
        });
        Watch { seen, stop, thread: Some(thread) }
    }

    /// What a node said of itself, if it answered when it was last asked.
    pub fn fresh(&self, node: usize) -> Option<RaftInfo> {
        let seen = &lock(&self.seen)[node];
        seen.info.clone().filter(|_| seen.is_fresh)
    }

    /// A node's id, once it was heard.
    pub fn id(&self, node: usize) -> Option<String> {
        lock(&self.seen)[node].info.as_ref().map(|info| info.id.clone())
    }

    /// Who leads, by what was heard last.
    pub fn leader(&self) -> Option<usize> {
        let seen = lock(&self.seen);
        let known = seen.iter().enumerate().filter_map(|(node, seen)| Some((node, seen.info.as_ref()?)));
        let leaders = known.filter(|(_, info)| info.role == "leader");
        leaders.max_by_key(|(_, info)| info.term).map(|(node, _)| node)
    }

    /// Another node lives there now.
    pub fn forget(&self, node: usize) {
        let seen = &mut lock(&self.seen)[node];
        *seen = Seen { life: seen.life + 1, ..Seen::default() };
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ask(address: SocketAddr) -> Option<RaftInfo> {
    let mut client = Client::connect(address, TELL_WITHIN).ok()?;
    match client.call(&[b"INFO", b"raft"]).ok()? {
        Reply::Bulk(text) => RaftInfo::parse(&String::from_utf8_lossy(&text)),
        _ => None,
    }
}
