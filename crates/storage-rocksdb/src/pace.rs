//! [`Pace`]: whether a read that may go to a file may be done by a thread that must not wait.
//!
//! The kernel keeps the files' pages in whatever memory nobody else needs. A read that finds its page there takes some 10 us
//! with everything RocksDB does about it, and to hand it to another thread and back costs as much again; so the thread does it
//! by itself. On a disk's own time it may take a thousand times longer. RocksDB cannot tell the one from the other
//! beforehand, so it is found out afterwards: the first read that had to wait for the device is the last one for a second.
//! Until then only what is in RocksDB's own memory is read, and the rest is refused
//! ([`WouldBlock`](crate::EngineError::WouldBlock)) for another thread to read. Then one read is a probe. If that waits too,
//! the next comes after twice as long.
//!
//! So a thread that must not wait waits for one read a second, and soon for one in [`REST_MS_MAX`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What takes no longer did not wait for a device; mostly a read is far below it.
const QUICK: Duration = Duration::from_micros(200);

/// A look-up that takes longer is not to happen again soon, whatever the reason was.
const SLOW: Duration = Duration::from_millis(5);

/// How long nothing is read after a first read that waited, and at most, in milliseconds.
const REST_MS_MIN: u64 = 1_000;
const REST_MS_MAX: u64 = 16_000;

/// See the [module](self). One thread asks.
pub(crate) struct Pace {
    origin: Instant,
    /// In milliseconds since `origin`; before this nothing is read from files.
    rests_until_ms: AtomicU64,
    /// How long the next rest will be.
    rest_ms: AtomicU64,
    /// What the thread had read from devices when that was last looked at.
    device_bytes: AtomicU64,
}

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace {
            origin: Instant::now(),
            rests_until_ms: AtomicU64::new(0),
            rest_ms: AtomicU64::new(REST_MS_MIN),
            device_bytes: AtomicU64::new(device_bytes().unwrap_or(0)),
        }
    }

    /// Does a read from files, if there may be one now; and notes whether it waited.
    pub(crate) fn read<T>(&self, read: impl FnOnce() -> T) -> Option<T> {
        let begun = self.begin()?;
        let result = read();
        self.end(begun, SLOW);
        Some(result)
    }

    /// When a read begins that may go to files; none if there may be none now.
    pub(crate) fn begin(&self) -> Option<Instant> {
        let now = Instant::now();
        (self.ms(now) >= self.rests_until_ms.load(Ordering::Relaxed)).then_some(now)
    }

    /// A read has ended that began then, and should not have taken so long whatever the reason.
    pub(crate) fn end(&self, begun: Instant, slow: Duration) {
        let took = begun.elapsed();
        // A thread that was not let run for a while did not wait for a device.
        if took > QUICK && (self.went_to_device() || took > slow) {
            self.rest(self.ms(Instant::now()));
        }
    }

    /// Nothing is read from files for a while.
    pub(crate) fn rest(&self, now_ms: u64) {
        let rested_until_ms = self.rests_until_ms.load(Ordering::Relaxed);
        // All went well for long: it begins anew.
        let is_first = now_ms >= rested_until_ms + REST_MS_MAX;
        let rest_ms = if is_first { REST_MS_MIN } else { self.rest_ms.load(Ordering::Relaxed) };
        self.rests_until_ms.store(now_ms + rest_ms, Ordering::Relaxed);
        self.rest_ms.store((2 * rest_ms).min(REST_MS_MAX), Ordering::Relaxed);
        if is_first {
            tracing::debug!("reads of the data wait for the disk; other threads do them");
        }
    }

    fn ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }

    fn went_to_device(&self) -> bool {
        let Some(bytes) = device_bytes() else { return true };
        self.device_bytes.swap(bytes, Ordering::Relaxed) != bytes
    }
}

/// What this thread has had read from devices so far, where the kernel counts it (`CONFIG_TASK_IO_ACCOUNTING`).
fn device_bytes() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/thread-self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("read_bytes: "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_met_a_slow_disk_probes_it_ever_less_often() {
        let pace = Pace::new();
        let mut now_ms = 20_000;
        let mut rests = Vec::new();
        for _ in 0..7 {
            pace.rest(now_ms);
            let until_ms = pace.rests_until_ms.load(Ordering::Relaxed);
            rests.push(until_ms - now_ms);
            now_ms = until_ms;
        }
        assert_eq!(rests, [1_000, 2_000, 4_000, 8_000, 16_000, 16_000, 16_000]);
        now_ms += REST_MS_MAX;
        pace.rest(now_ms);
        assert_eq!(pace.rests_until_ms.load(Ordering::Relaxed), now_ms + REST_MS_MIN, "it was quick for long");
    }

    #[test]
    fn a_read_that_waited_is_the_last_for_a_while() {
        let pace = Pace::new();
        assert_eq!(pace.read(|| 1), Some(1));
        assert_eq!(pace.read(|| 2), Some(2), "the first was quick");
        let long_ago = Instant::now().checked_sub(2 * SLOW).expect("the machine has been up for longer");
        pace.end(long_ago, SLOW);
        assert_eq!(pace.read(|| 3), None);
    }
}
