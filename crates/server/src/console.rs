//! What the program says: text on its standard output, and the lines of its log on standard error.
//!
//! Standard error may be a file on the very disk that stands still, or a pipe that nobody empties. The event loop must not
//! wait for either, so once it runs, lines go through a bounded queue to a thread of their own ([`detach_lines`]). What does
//! not fit is counted and left out.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that may wait for standard error.
const LINES_MAX: usize = 1024;
/// How long a program that ends tries to get its last lines out.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Says `text`, which ends its own lines. Whoever reads it may be gone, which is no reason to stop.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

enum Piece {
    Line(Vec<u8>),
    /// Everything before was written.
    Flush(SyncSender<()>),
}

static QUEUE: OnceLock<SyncSender<Piece>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

/// Where the log's lines go. Each is one write.
#[derive(Clone, Copy, Debug)]
pub struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(queue) = QUEUE.get() else { return io::stderr().write(line) };
        match queue.try_send(Piece::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => drop(LOST.fetch_add(1, Ordering::Relaxed)),
            Err(TrySendError::Disconnected(_)) => return io::stderr().write(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on nobody waits for standard error.
///
/// # Errors
///
/// The system has no thread to give.
pub fn detach_lines() -> io::Result<()> {
    let (queue, pieces) = sync_channel(LINES_MAX);
    std::thread::Builder::new().name("lines".to_owned()).spawn(move || write_all(&pieces))?;
    // Set by an earlier call, if at all: then that one's thread works, and this one ends.
    let _ = QUEUE.set(queue);
    Ok(())
}

fn write_all(pieces: &Receiver<Piece>) {
    for piece in pieces {
        match piece {
            Piece::Line(line) => {
                let _ = io::stderr().write_all(&line);
                let lost = LOST.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(io::stderr(), "{lost} lines were left out: standard error did not take them");
                }
            }
            // Whoever asked may have stopped waiting.
            Piece::Flush(written) => drop(written.try_send(())),
        }
    }
}

/// Waits until what was said so far is written, if that is possible soon.
pub fn flush_lines() {
    let Some(queue) = QUEUE.get() else { return };
    let (written, wait) = sync_channel(1);
    if queue.try_send(Piece::Flush(written)).is_ok() {
        let _ = wait.recv_timeout(LAST_WORDS);
    }
}
