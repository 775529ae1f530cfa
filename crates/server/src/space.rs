//! Room on the disk: how much is left, and a ballast that is thrown overboard when nearly nothing is.
//!
//! A thread looks once a second, more often where there is not much, because a filesystem may take its time to answer, and tells the loop ([`Mail::Space`]);
//! what follows is the core's to decide (`dstore_node::Space`).
//!
//! ```text
//!  free bytes, the ballast's own room not counted:
//!  0        floor / 4            floor       floor + a quarter
//!  |-- critical --|----- low -----|......?......|---- ample ---->
//!         ^ ballast given up                        ^ ballast made again
//! ```
//!
//! - The ballast's room counts as taken whether the file is there or not, so that neither giving it up nor making it again
//!   moves the level; and a level is left upward only a quarter above where it began. So nothing flaps at a mark.
//! - By default both are small shares of a small filesystem. What the user asks for is taken as it is; 0 switches it off.
//! - The log says by itself that it found no room for its next file. That counts as low, whatever the figures are, until it
//!   has been able to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use dstore_net::Mailbox;
use dstore_node::Space;
use dstore_storage::Log;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::front::Mail;
use crate::reclaim::Reclaimer;

/// Name of the ballast, in the data directory.
const BALLAST: &str = "BALLAST";

/// How often the thread looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same where there is so little room that it may be gone within a second.
const INTERVAL_NEAR: Duration = Duration::from_millis(100);
/// So little is this many times what counts as low.
const NEAR: u64 = 8;
/// How soon a ballast that could not be made is tried again.
const BALLAST_AGAIN: Duration = Duration::from_secs(60);

/// The floor, unless the user says otherwise: room for two files of the log, and for compactions on the way.
const FLOOR_BYTES: u64 = 256 << 20;
/// No more than this part of a filesystem: a twentieth.
const FLOOR_SHARE: u64 = 20;
/// The ballast, unless the user says otherwise: what a flush of all that is in memory, and a compaction, need at least.
const BALLAST_BYTES: u64 = 64 << 20;
/// No more than this part of a filesystem: a fiftieth.
const BALLAST_SHARE: u64 = 50;
/// A filesystem takes whole blocks, and some of them for itself; a smaller ballast would be none.
const ROUNDING_BYTES: u64 = 1 << 20;
/// A node that starts with less than this could not even count its start.
const START_BYTES: u64 = 4 << 20;

/// What the user wants, in bytes; what he leaves out depends on the filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceConfig {
    /// Free room below which the data should not grow.
    pub floor: Option<u64>,
    /// Size of the ballast.
    pub ballast: Option<u64>,
}

/// Where a level begins, in free bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    low: u64,
    critical: u64,
}

impl Marks {
    fn of(config: SpaceConfig, total: u64) -> Marks {
        let low = config.floor.unwrap_or_else(|| FLOOR_BYTES.min(total / FLOOR_SHARE));
        Marks { low, critical: low / 4 }
    }

    /// The level with so many free bytes, if it was `before`.
    fn level(self, before: Space, free: u64) -> Space {
        let is_below = |mark: u64, was_below: bool| free < if was_below { mark + mark / 4 } else { mark };
        if is_below(self.critical, before == Space::Critical) {
            Space::Critical
        } else if is_below(self.low, before != Space::Ample) {
            Space::Low
        } else {
            Space::Ample
        }
    }
}

/// A file whose room can be had back.
#[derive(Debug)]
struct Ballast {
    path: PathBuf,
    /// How large it should be.
    bytes: u64,
    held: u64,
    not_before: Option<Instant>,
}

impl Ballast {
    fn find(dir: &Path, bytes: u64) -> Ballast {
        let path = dir.join(BALLAST);
        // What counts is the room it takes, not the length it says it has.
        let held = fs::metadata(&path).map_or(0, |file| file.blocks() * 512);
        Ballast { path, bytes, held, not_before: None }
    }

    fn is_right(&self) -> bool {
        self.held.abs_diff(self.bytes) < ROUNDING_BYTES
    }

    /// Room that counts as taken although it is not.
    fn missing(&self) -> u64 {
        if self.is_right() { 0 } else { self.bytes.saturating_sub(self.held) }
    }

    fn give_up(&mut self) {
        if self.held == 0 {
            return;
        }
        match fs::remove_file(&self.path) {
            Ok(()) => tracing::warn!("gave up the ballast of {} MiB", self.held >> 20),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return tracing::error!("cannot give up the ballast {}: {error}", self.path.display()),
        }
        self.held = 0;
    }

    /// Makes it as large as it should be, unless that has just failed.
    fn make(&mut self, now: Instant) {
        if self.is_right() || self.not_before.is_some_and(|time| now < time) {
            return;
        }
        if self.bytes == 0 {
            return self.give_up();
        }
        match make_file(&self.path, self.bytes) {
            Ok(()) => self.held = self.bytes,
            Err(error) => {
                let _ = fs::remove_file(&self.path);
                self.held = 0;
                self.not_before = Some(now + BALLAST_AGAIN);
                tracing::warn!("cannot make a ballast of {} MiB at {}: {error}", self.bytes >> 20, self.path.display());
            }
        }
    }
}

/// A file that takes so much room. Zeros would do, but not on a filesystem that leaves them out.
fn make_file(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(file, bytes),
        Err(error) => Err(error.into()),
    }
}

fn write_zeros(mut file: File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let count = left.min(zeros.len() as u64);
        file.write_all(&zeros[..count as usize])?;
        left -= count;
    }
    file.sync_data()
}

/// A filesystem that holds something of the node's.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    marks: Marks,
    level: Space,
    /// It holds the ballast.
    has_ballast: bool,
}

/// Looks at the room there is.
pub struct Watch {
    places: Vec<Place>,
    ballast: Ballast,
    log: Arc<dyn Log>,
    complained: bool,
}

impl Watch {
    /// A watch of the data directory `dir`, with `rooms` that may be filesystems of their own.
    ///
    /// # Errors
    ///
    /// A filesystem does not tell how large it is.
    pub fn new(dir: &Path, rooms: &[PathBuf], config: SpaceConfig, log: Arc<dyn Log>) -> io::Result<Watch> {
        let mut places: Vec<(u64, Place)> = Vec::new();
        let at_dir = fs::metadata(dir)?.dev();
        for path in rooms {
            let device = fs::metadata(path)?.dev();
            if places.iter().any(|(known, _)| *known == device) {
                continue;
            }
            let (total, _) = measure(path)?;
            let marks = Marks::of(config, total);
            let place = Place { path: path.clone(), marks, level: Space::Ample, has_ballast: device == at_dir };
            places.push((device, place));
        }
        let (total, _) = measure(dir)?;
        let bytes = config.ballast.unwrap_or_else(|| BALLAST_BYTES.min(total / BALLAST_SHARE));
        let places = places.into_iter().map(|(_, place)| place).collect();
        let ballast = Ballast::find(dir, bytes);
        Ok(Watch { places, ballast, log, complained: false })
    }

    /// Whether room may be short before a second has passed.
    fn is_near(&self, free_bytes: u64) -> bool {
        self.places.iter().any(|place| free_bytes / NEAR < place.marks.low)
    }

    /// Looks, and does what has to be done about the ballast. Gives the level, and the room where there is least.
    pub fn look(&mut self, now: Instant) -> (Space, u64) {
        let mut least = u64::MAX;
        for place in &mut self.places {
            let free = match measure(&place.path) {
                Ok((_, free)) => free,
                Err(error) => {
                    if !std::mem::replace(&mut self.complained, true) {
                        tracing::error!("cannot tell how much room there is at {}: {error}", place.path.display());
                    }
                    continue;
                }
            };
            let usable = if place.has_ballast { free.saturating_sub(self.ballast.missing()) } else { free };
            place.level = place.marks.level(place.level, usable);
            least = least.min(usable);
        }
        let mut level = self.places.iter().map(|place| place.level).max().unwrap_or_default();
        match level {
            Space::Critical => self.ballast.give_up(),
            Space::Ample => self.ballast.make(now),
            Space::Low => {}
        }
        if self.log.stats().prepare_error.is_some() {
            if level == Space::Ample {
                self.log.prepare_again();
            }
            level = level.max(Space::Low);
        }
        (level, least)
    }
}

/// Size of a filesystem, and what this process may still write there.
///
/// # Errors
///
/// It does not tell.
pub fn measure(path: &Path) -> io::Result<(u64, u64)> {
    let figures = statvfs(path)?;
    Ok((figures.f_blocks.saturating_mul(figures.f_frsize), figures.f_bavail.saturating_mul(figures.f_frsize)))
}

/// Gives up the ballast of a node whose disk is so full that it could not start.
pub fn make_way(dir: &Path) {
    let mut ballast = Ballast::find(dir, 0);
    if ballast.held > 0 && measure(dir).is_ok_and(|(_, free)| free < START_BYTES) {
        ballast.give_up();
    }
}

/// The thread that looks. It ends soon after this is dropped; nobody waits for it, since the disk may not answer.
pub struct Watcher {
    _alive: SyncSender<()>,
}

impl Watcher {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub fn start(watch: Watch, reclaimer: Reclaimer, mailbox: Mailbox<Mail>) -> io::Result<Watcher> {
        let (alive, end) = sync_channel(0);
        let work = move || watch_until(watch, reclaimer, &end, &mailbox);
        std::thread::Builder::new().name("space".to_owned()).spawn(work)?;
        Ok(Watcher { _alive: alive })
    }
}

fn watch_until(mut watch: Watch, mut reclaimer: Reclaimer, end: &Receiver<()>, mailbox: &Mailbox<Mail>) {
    loop {
        let now = Instant::now();
        let (level, free_bytes) = watch.look(now);
        reclaimer.note(now, level);
        if mailbox.post(Mail::Space(level, free_bytes)).is_err() {
            return;
        }
        let interval = if watch.is_near(free_bytes) { INTERVAL_NEAR } else { INTERVAL };
        if !matches!(end.recv_timeout(interval), Err(RecvTimeoutError::Timeout)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use dstore_storage::MemoryLog;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_level_is_left_upward_only_well_above_its_mark() {
        let marks = Marks { low: 400, critical: 100 };
        let story = [
            (1000, Space::Ample),
            (400, Space::Ample),
            (399, Space::Low),
            (401, Space::Low),
            (499, Space::Low),
            (500, Space::Ample),
            (450, Space::Ample),
            (99, Space::Critical),
            (100, Space::Critical),
            (124, Space::Critical),
            (125, Space::Low),
            (100, Space::Low),
            (50, Space::Critical),
            (900, Space::Ample),
        ];
        let mut level = Space::Ample;
        for (free, expected) in story {
            level = marks.level(level, free);
            assert_eq!(level, expected, "with {free} free");
        }
    }

    #[test]
    fn marks_are_small_shares_of_small_filesystems_and_what_the_user_says() {
        let of = |floor, total| Marks::of(SpaceConfig { floor, ballast: None }, total).low;
        assert_eq!(of(None, 1 << 40), 256 * MIB);
        assert_eq!(of(None, 1000 * MIB), 50 * MIB);
        assert_eq!(of(Some(300 * MIB), 1000 * MIB), 300 * MIB);
        let off = Marks::of(SpaceConfig { floor: Some(0), ballast: None }, 1 << 40);
        assert_eq!(off.level(Space::Ample, 0), Space::Ample);
    }

    fn watch(dir: &Path, ballast: u64) -> Watch {
        let config = SpaceConfig { floor: Some(0), ballast: Some(ballast) };
        Watch::new(dir, &[dir.to_path_buf()], config, Arc::new(MemoryLog::new())).unwrap()
    }

    fn ballast_bytes(dir: &Path) -> u64 {
        fs::metadata(dir.join(BALLAST)).map_or(0, |file| file.blocks() * 512)
    }

    #[test]
    fn the_ballast_is_made_given_up_and_made_again_and_its_room_always_counts_as_taken() {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut watch = watch(dir.path(), 8 * MIB);
        assert_eq!(watch.ballast.missing(), 8 * MIB);
        assert_eq!(watch.look(now).0, Space::Ample);
        assert_eq!((watch.ballast.missing(), ballast_bytes(dir.path()) / MIB), (0, 8));
        let full = Marks { low: u64::MAX / 2, critical: u64::MAX / 2 };
        let roomy = std::mem::replace(&mut watch.places[0].marks, full);
        assert_eq!(watch.look(now).0, Space::Critical);
        assert_eq!((watch.ballast.missing(), ballast_bytes(dir.path())), (8 * MIB, 0));
        watch.places[0].marks = roomy;
        assert_eq!(watch.look(now).0, Space::Ample);
        assert_eq!(ballast_bytes(dir.path()) / MIB, 8);
    }

    #[test]
    fn a_ballast_of_another_size_is_made_anew_and_one_that_is_not_wanted_goes() {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        for (wanted, found) in [(8, 8), (3, 3), (5, 5), (0, 0)] {
            watch(dir.path(), wanted * MIB).look(now);
            assert_eq!(ballast_bytes(dir.path()) / MIB, found);
        }
        assert!(!dir.path().join(BALLAST).exists());
    }

    #[test]
    fn a_ballast_that_cannot_be_made_is_no_reason_to_stop_and_is_not_tried_all_the_time() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(BALLAST)).unwrap();
        let mut watch = watch(dir.path(), 64 * MIB);
        let now = Instant::now();
        assert_eq!(watch.look(now).0, Space::Ample);
        assert_eq!(watch.ballast.missing(), 64 * MIB);
        fs::remove_dir(dir.path().join(BALLAST)).unwrap();
        watch.look(now + INTERVAL);
        assert_eq!(ballast_bytes(dir.path()), 0, "too soon");
        watch.look(now + BALLAST_AGAIN);
        assert_eq!(ballast_bytes(dir.path()) / MIB, 64);
    }
}
