//! What a node keeps on disk, opened: the engine, the log, and the core restored from the two.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dstore_net::Mailbox;
use dstore_node::{Applied, Facts, Node, NodeLimits, USER_RANGE};
use dstore_storage::log::begin_at_applied;
use dstore_storage::{Engine, Log, LogIndex, LogOp, Position};
use dstore_storage_rocksdb::RocksEngine;

use crate::clock::{random_u64, wall_clock};
use crate::front::Mail;
use crate::host::Process;

/// Payload bytes read from the log at a time when it is replayed.
const REPLAY_BYTES: usize = 8 << 20;

/// How often a long replay says how far it is.
const REPLAY_REPORT: Duration = Duration::from_secs(2);

/// The engine of a node, shared between its loop and its flusher.
pub type SharedEngine = Arc<RocksEngine>;

/// The core of a node at the state that the engine and the log hold together. Blocks on the disk.
///
/// # Errors
///
/// The two do not fit together, or cannot be read.
pub fn restore(
    engine: SharedEngine,
    log: &dyn Log,
    limits: NodeLimits,
    facts: Facts,
) -> anyhow::Result<Node<SharedEngine>> {
    let mut node = Node::new(engine, limits, facts, Box::new(Process::new()), random_u64(), wall_clock())?;
    let applied = node.applied().position;
    let Some(status) = log.status(USER_RANGE) else {
        if applied != Position::default() {
            bail!("the data stands at entry {applied}, but there is no log: it was lost, or belongs to another node");
        }
        return Ok(node);
    };
    if status.begin.index > applied.index {
        bail!("the data ends at entry {applied}, but the log begins behind {}: entries are missing", status.begin);
    }
    if let Some(reset) = begin_at_applied(log, USER_RANGE, applied) {
        tracing::warn!(
            "the data, at entry {applied}, is ahead of the log, at {}: the log begins anew there",
            status.last
        );
        submit_and_wait(log, vec![reset])?;
        return Ok(node);
    }
    replay(&mut node, log, applied.index.next(), status.last.index)?;
    Ok(node)
}

/// Applies the entries `next..=last` of the log.
fn replay(node: &mut Node<SharedEngine>, log: &dyn Log, mut next: LogIndex, last: LogIndex) -> anyhow::Result<()> {
    let first = next;
    let started = Instant::now();
    let mut reported = started;
    while next <= last {
        let entries = log.entries(USER_RANGE, next, last.next(), REPLAY_BYTES)?;
        for entry in entries {
            node.restore(entry.position(), &entry.payload)?;
            next = entry.index.next();
        }
        node.handle_durable(LogIndex(next.0 - 1))?;
        while node.is_behind() {
            // The engine's background work is behind. A flush waits for it.
            node.engine().flush()?;
            node.handle_timeout(wall_clock())?;
        }
        if reported.elapsed() >= REPLAY_REPORT {
            reported = Instant::now();
            tracing::info!("replaying the log: entry {next} of {last}");
        }
    }
    if first <= last {
        let entries = last.0 - first.0 + 1;
        tracing::info!("replayed {entries} entries of the log in {} ms", started.elapsed().as_millis());
    }
    Ok(())
}

fn submit_and_wait(log: &dyn Log, ops: Vec<LogOp>) -> anyhow::Result<()> {
    let (sender, receiver) = sync_channel(1);
    let done = move |result| {
        // The receiver is waiting below.
        let _ = sender.send(result);
    };
    log.submit(ops, Box::new(done))?;
    receiver.recv().context("the log ended without an answer")??;
    Ok(())
}

/// The thread that makes the data durable and then cuts the log: the one place that waits for the engine's disk.
pub struct Flusher {
    thread: JoinHandle<()>,
}

impl Flusher {
    /// Starts the thread. It works once for each message of `woken`, and reports to `mailbox`.
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub fn start(
        engine: SharedEngine,
        log: Arc<dyn Log>,
        mailbox: Mailbox<Mail>,
        woken: Receiver<()>,
    ) -> std::io::Result<Flusher> {
        let work = move || {
            while woken.recv().is_ok() {
                let result = flush_and_cut(&engine, &*log).map_err(|error| format!("{error:#}"));
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

/// Makes everything applied durable in the engine, and cuts the log up to what would survive a power loss right now.
///
/// # Errors
///
/// The disk failed: the node must stop.
pub fn flush_and_cut(engine: &RocksEngine, log: &dyn Log) -> anyhow::Result<()> {
    let started = Instant::now();
    engine.flush()?;
    let persisted = Applied::decode(engine.get_persisted(&Applied::key(USER_RANGE))?.as_deref())?;
    let index = persisted.position.index;
    if log.status(USER_RANGE).is_some_and(|status| status.begin.index < index) {
        submit_and_wait(log, vec![LogOp::TruncatePrefix { range: USER_RANGE, index }])?;
    }
    tracing::debug!("flushed the data and cut the log up to entry {index} in {} ms", started.elapsed().as_millis());
    Ok(())
}
