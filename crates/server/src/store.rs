//! What makes the data durable, so that the log can be cut: the one place that waits for the engine's disk.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Instant;

use dstore_net::Mailbox;
use dstore_node::{Applied, SYSTEM_RANGE, USER_RANGE};
use dstore_storage::{Engine, LogIndex, RangeId};
use dstore_storage_rocksdb::RocksEngine;

use crate::front::Mail;

/// The engine of a node, shared between its loop and its flusher.
pub type SharedEngine = Arc<RocksEngine>;

/// The thread that flushes the engine.
pub struct Flusher {
    thread: JoinHandle<()>,
}

impl Flusher {
    /// Starts the thread. It works once for each message of `woken`, and reports to `mailbox`.
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub fn start(engine: SharedEngine, mailbox: Mailbox<Mail>, woken: Receiver<()>) -> std::io::Result<Flusher> {
        let work = move || {
            while woken.recv().is_ok() {
                let result = flush(&engine).map_err(|error| format!("{error:#}"));
                if mailbox.post(Mail::Flushed(result)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("flusher".to_owned()).spawn(work)?;
        Ok(Flusher { thread })
    }

    /// Waits for the thread to end, which it does once nobody can wake it any more.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the flusher panicked");
        }
    }
}

/// Makes everything applied durable in the engine, and tells how far each range would survive a power loss right now.
///
/// # Errors
///
/// The disk failed: the node must stop.
pub fn flush(engine: &RocksEngine) -> anyhow::Result<Vec<(RangeId, LogIndex)>> {
    let started = Instant::now();
    engine.flush()?;
    let mut persisted = Vec::new();
    for range in [SYSTEM_RANGE, USER_RANGE] {
        let applied = Applied::decode(engine.get_persisted(&Applied::key(range))?.as_deref())?;
        persisted.push((range, applied.position.index));
    }
    tracing::debug!("flushed the data in {} ms: {persisted:?}", started.elapsed().as_millis());
    Ok(persisted)
}
