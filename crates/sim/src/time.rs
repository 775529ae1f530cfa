//! Simulated time, and the clocks of machines, which do not quite agree with it.

use std::time::{Duration, Instant};

/// Nanoseconds since the simulation began.
pub type Moment = u64;

/// One microsecond.
pub const MICRO: Moment = 1_000;
/// One millisecond.
pub const MILLI: Moment = 1_000_000;
/// One second.
pub const SECOND: Moment = 1_000_000_000;

/// Where wall clocks begin: any time of this century will do.
const WALL_START_US: u64 = 1_700_000_000_000_000;
/// The same in milliseconds.
pub const WALL_START_MS: u64 = WALL_START_US / 1000;

/// A machine's clocks: one that is monotonic and runs a little too fast or too slow, and one that tells the date and may
/// be wrong by some milliseconds.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Any instant of the real clock: only differences to it are ever looked at.
    epoch: Instant,
    /// What the monotonic clock showed when the simulation began.
    start: u64,
    /// Parts in a million by which it runs too fast.
    drift_ppm: i64,
    /// By how much the date is wrong.
    wall_offset_us: i64,
}

impl Clock {
    /// A clock. `epoch` is the same for all clocks of a simulation.
    pub fn new(epoch: Instant, start: u64, drift_ppm: i64, wall_offset_us: i64) -> Clock {
        Clock { epoch, start, drift_ppm, wall_offset_us }
    }

    /// What the monotonic clock shows, in nanoseconds.
    pub fn monotonic(&self, moment: Moment) -> u64 {
        let drift = i128::from(moment) * i128::from(self.drift_ppm) / 1_000_000;
        self.start + moment.saturating_add_signed(i64::try_from(drift).expect("a simulation lasts hours at most"))
    }

    /// The same, as the protocol between nodes takes it.
    pub fn instant(&self, moment: Moment) -> Instant {
        self.epoch + Duration::from_nanos(self.monotonic(moment))
    }

    /// Microseconds since the Unix epoch, as this machine believes.
    pub fn wall_us(&self, moment: Moment) -> u64 {
        (WALL_START_US + moment / 1000).saturating_add_signed(self.wall_offset_us)
    }

    /// The first moment at which this much of the machine's own time has passed since `moment`.
    pub fn after(&self, moment: Moment, own: Duration) -> Moment {
        let own = i128::try_from(own.as_nanos()).unwrap_or(i128::MAX / 2_000_000);
        let rate = 1_000_000 + i128::from(self.drift_ppm);
        // One more than the quotient, so that rounding never wakes anybody too early.
        let wait = own * 1_000_000 / rate + 1;
        moment.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// The date jumps by so much.
    pub fn set_wall_offset_us(&mut self, offset_us: i64) {
        self.wall_offset_us = offset_us;
    }
}

/// A moment as traces print it.
pub fn seconds(moment: Moment) -> String {
    format!("{}.{:06}", moment / SECOND, moment / MICRO % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn a_clock_wakes_nobody_too_early() {
        for drift_ppm in [-900, -1, 0, 1, 900] {
            let clock = Clock::new(Instant::now(), 77, drift_ppm, 5);
            for (moment, own) in [(0, 1), (SECOND, MILLI), (3 * SECOND + 17, 999_999_999)] {
                let later = clock.after(moment, Duration::from_nanos(own));
                let passed = clock.monotonic(later) - clock.monotonic(moment);
                assert!(passed >= own && passed <= own + 3, "{passed} of {own} at {drift_ppm} ppm");
            }
        }
    }
}
