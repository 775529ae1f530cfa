//! Room taken back from what was removed, while the disk is nearly full.
//!
//! Without this a node whose growth is refused would log so little that nothing is flushed, cut or compacted any more, and
//! deletes would never give their room back. So while room is low the data is flushed every few seconds, which lets the log
//! be cut too, and compacted where that fits. RocksDB begins no compaction by itself where it might not fit, since one that
//! fails for want of room stops the node: see `dstore_storage_rocksdb`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dstore_net::Mailbox;
use dstore_node::Space;
use dstore_storage_rocksdb::{Reclaimed, RocksEngine};

use crate::front::Mail;
use crate::space::measure;
use crate::store::{self, SharedEngine};

/// Between two attempts: a flush makes a file, which should be worth it.
const INTERVAL: Duration = Duration::from_secs(5);
/// An attempt may take this part of the time, a twentieth: it looks at every table of the data.
const SHARE: u32 = 20;
/// The same while what was removed cannot be compacted away for want of room: flushes alone would pile up.
const INTERVAL_NO_ROOM: Duration = Duration::from_secs(300);

/// Takes room back, on a thread for each attempt, one at a time.
pub struct Reclaimer {
    engine: SharedEngine,
    /// Where the engine's files are.
    path: PathBuf,
    mailbox: Mailbox<Mail>,
    rest: Arc<Mutex<Rest>>,
    holds: bool,
}

/// When the next attempt is due.
#[derive(Debug, Default)]
struct Rest {
    /// An attempt is under way.
    busy: bool,
    not_before: Option<Instant>,
    /// With so much room another attempt is due at once.
    needs: Option<u64>,
}

impl Reclaimer {
    /// For the engine whose files are at `path`.
    pub fn new(engine: SharedEngine, path: PathBuf, mailbox: Mailbox<Mail>) -> Reclaimer {
        Reclaimer { engine, path, mailbox, rest: Arc::default(), holds: false }
    }

    /// Does what the level calls for, without waiting for it.
    pub fn note(&mut self, now: Instant, level: Space) {
        let free_bytes = measure(&self.path).map_or(0, |(_, free)| free);
        // If it does not tell, the next flush or compaction will.
        let hold = level == Space::Critical || !self.engine.may_compact(free_bytes).unwrap_or(true);
        let changed = (hold != self.holds).then_some(hold);
        let mut rest = lock(&self.rest);
        let has_rested = rest.not_before.is_none_or(|time| now >= time);
        let due = level != Space::Ample && (has_rested || rest.needs.is_some_and(|needs| free_bytes >= needs));
        if rest.busy || !(due || changed.is_some()) {
            return;
        }
        rest.busy = true;
        self.holds = hold;
        let (engine, mailbox, shared) = (self.engine.clone(), self.mailbox.clone(), self.rest.clone());
        let work = move || {
            if let Some(hold) = changed
                && let Err(error) = engine.hold_compactions(hold)
            {
                tracing::debug!("compactions: {error}");
            }
            let next = if due { attempt(&engine, free_bytes, &mailbox) } else { Rest::default() };
            *lock(&shared) = next;
        };
        if std::thread::Builder::new().name("reclaim".to_owned()).spawn(work).is_err() {
            rest.busy = false;
        }
    }
}

fn lock(rest: &Mutex<Rest>) -> MutexGuard<'_, Rest> {
    rest.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Flushes, and compacts if that fits. Says when to try again.
fn attempt(engine: &RocksEngine, free_bytes: u64, mailbox: &Mailbox<Mail>) -> Rest {
    let begun = Instant::now();
    let result = store::flush(engine).map_err(|error| format!("{error:#}"));
    let failed = result.is_err();
    let _ = mailbox.post(Mail::Flushed(result)); // refused only by a loop that has ended
    if failed {
        return Rest { busy: true, ..Rest::default() };
    }
    let reclaimed = engine.reclaim(free_bytes);
    let ended = Instant::now();
    let again = |interval| Rest { not_before: Some(ended + interval), ..Rest::default() };
    match reclaimed {
        Ok(Reclaimed::NoRoom { needs }) => {
            let (needs_mib, free_mib) = (needs >> 20, free_bytes >> 20);
            tracing::warn!(
                "what was removed cannot be compacted away: that may need {needs_mib} MiB, and {free_mib} MiB are free"
            );
            Rest { needs: Some(needs), ..again(INTERVAL_NO_ROOM) }
        }
        Ok(reclaimed) => {
            if let Reclaimed::Bytes(bytes) = reclaimed {
                tracing::info!("took {} MiB back from what was removed", bytes >> 20);
            }
            again(INTERVAL.max((ended - begun) * SHARE))
        }
        Err(error) => {
            let _ = mailbox.post(Mail::Flushed(Err(error.to_string())));
            Rest { busy: true, ..Rest::default() }
        }
    }
}
