//! What makes the data durable, so that the log can be cut: the one place that waits for the engine's disk.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dstore_net::Mailbox;
use dstore_node::{Applied, SYSTEM_RANGE, Settlement, USER_RANGE};
use dstore_storage::snapshot::Checksum;
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

/// The thread that gives the engine what has gathered above it.
pub struct Settler {
    thread: JoinHandle<()>,
}

impl Settler {
    /// Starts the thread. It works once for each message of `work`, and reports to `mailbox`.
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub fn start(mailbox: Mailbox<Mail>, work: Receiver<Settlement>) -> std::io::Result<Settler> {
        let work = move || {
            while let Ok(settlement) = work.recv() {
                if mailbox.post(Mail::Settled(settlement.run())).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("settler".to_owned()).spawn(work)?;
        Ok(Settler { thread })
    }

    /// Waits for the thread to end, which it does once nobody can give it work any more.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the settler panicked");
        }
    }
}

/// Bytes of data that are summed up at a time.
const SUM_STEP_BYTES: usize = 1 << 20;

/// How long a sum rests after each step: it is nobody's hurry, and clients read from the same disk. With it, one range is
/// summed up at 200 MB a second at most.
const SUM_REST: Duration = Duration::from_millis(5);

/// Sums up the data of a range on a thread of its own, and reports to `mailbox`.
///
/// # Errors
///
/// The system has no thread to give.
pub fn sum_up(range: RangeId, mut checksum: Checksum, mailbox: Mailbox<Mail>) -> std::io::Result<()> {
    let work = move || {
        let result = loop {
            match checksum.step(SUM_STEP_BYTES) {
                Ok(None) => std::thread::sleep(SUM_REST),
                Ok(Some(sum)) => break Ok(sum),
                Err(error) => break Err(error),
            }
        };
        // Refused only by a loop that has ended.
        let _ = mailbox.post(Mail::Summed(range, result));
    };
    std::thread::Builder::new().name("checksum".to_owned()).spawn(work).map(drop)
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
