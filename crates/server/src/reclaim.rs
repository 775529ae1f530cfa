//! Room taken back from what was removed, while the disk is nearly full.
//!
//! Without this a node whose growth is refused would log so little that nothing is flushed, cut or compacted any more, and
//! deletes would never give their room back. So while room is low the data is flushed every few seconds, which lets the log
//! be cut too, and compacted where that fits. At [`Space::Critical`] RocksDB begins no compaction by itself: see
//! `dstore_storage_rocksdb`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dstore_net::Mailbox;
use dstore_node::Space;
use dstore_storage_rocksdb::Reclaimed;

use crate::front::Mail;
use crate::space::measure;
use crate::store::{self, SharedEngine};

/// Between two attempts: a flush makes a file, which should be worth it.
const INTERVAL: Duration = Duration::from_secs(5);

/// Takes room back, on a thread for each attempt, one at a time.
pub struct Reclaimer {
    engine: SharedEngine,
    /// Where the engine's files are.
    path: PathBuf,
    mailbox: Mailbox<Mail>,
    /// An attempt is under way.
    busy: Arc<AtomicBool>,
    /// It was said that there is no room for a compaction.
    said_no_room: Arc<AtomicBool>,
    not_before: Option<Instant>,
    holds: bool,
}

impl Reclaimer {
    /// For the engine whose files are at `path`.
    pub fn new(engine: SharedEngine, path: PathBuf, mailbox: Mailbox<Mail>) -> Reclaimer {
        let (busy, said_no_room) = (Arc::default(), Arc::default());
        Reclaimer { engine, path, mailbox, busy, said_no_room, not_before: None, holds: false }
    }

    /// Does what the level calls for, without waiting for it.
    pub fn note(&mut self, now: Instant, level: Space) {
        let hold = level == Space::Critical;
        let due = level != Space::Ample && self.not_before.is_none_or(|time| now >= time);
        if !(due || hold != self.holds) || self.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        self.not_before = Some(now + INTERVAL);
        let changed = (hold != self.holds).then_some(hold);
        self.holds = hold;
        let (engine, path, mailbox) = (self.engine.clone(), self.path.clone(), self.mailbox.clone());
        let (busy, said_no_room) = (self.busy.clone(), self.said_no_room.clone());
        let work = move || {
            if let Some(hold) = changed
                && let Err(error) = engine.hold_compactions(hold)
            {
                tracing::debug!("compactions: {error}");
            }
            if level == Space::Ample {
                said_no_room.store(false, Ordering::Relaxed);
            } else {
                let result = store::flush(&engine).map_err(|error| format!("{error:#}"));
                let failed = result.is_err();
                let _ = mailbox.post(Mail::Flushed(result)); // refused only by a loop that has ended
                if !failed && let Err(error) = take_back(&engine, &path, &said_no_room) {
                    let _ = mailbox.post(Mail::Flushed(Err(error)));
                }
            }
            busy.store(false, Ordering::Release);
        };
        if std::thread::Builder::new().name("reclaim".to_owned()).spawn(work).is_err() {
            self.busy.store(false, Ordering::Release);
        }
    }
}

fn take_back(engine: &SharedEngine, path: &std::path::Path, said_no_room: &AtomicBool) -> Result<(), String> {
    let Ok((_, free_bytes)) = measure(path) else { return Ok(()) };
    match engine.reclaim(free_bytes).map_err(|error| error.to_string())? {
        Reclaimed::Nothing => {}
        Reclaimed::Bytes(bytes) => tracing::info!("took {} MiB back from what was removed", bytes >> 20),
        Reclaimed::NoRoom { needs } => {
            if !said_no_room.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "what was removed cannot be compacted away: that may need {} MiB, and {} MiB are free",
                    needs >> 20,
                    free_bytes >> 20
                );
            }
        }
    }
    Ok(())
}
