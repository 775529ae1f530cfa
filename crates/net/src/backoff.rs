//! Exponential backoff with full jitter, for reconnecting.
//!
//! Attempt `n` waits a uniformly random time between 0 and `min(max, base * 2^n)` ("full jitter": M. Brooker, *Exponential
//! Backoff and Jitter*, 2015). After an outage the clients of a server thus come back spread out instead of in step.
//! Pure: the seed is the caller's, so a run can be repeated.

use std::time::Duration;

/// The waiting times of one series of attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    attempts: u32,
    random: SplitMix64,
}

impl Backoff {
    /// The first wait is at most `base`, no wait is longer than `max`. Nodes should have different seeds.
    pub fn new(base: Duration, max: Duration, seed: u64) -> Self {
        Backoff { base, max, attempts: 0, random: SplitMix64(seed) }
    }

    /// How long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.attempts = self.attempts.saturating_add(1);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random.below_or_at(nanos))
    }

    /// An attempt succeeded: the next wait is short again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The longest wait.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The most that the next wait can be.
    fn ceiling(&self) -> Duration {
        let factor = 1u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        self.base.checked_mul(factor).map_or(self.max, |wait| wait.min(self.max))
    }
}

/// Steele, Lea, Flood: *Fast splittable pseudorandom number generators*, 2014. Small, and good enough to spread waits.
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..=most` (but for a bias of at most 2^-64 of it).
    fn below_or_at(&mut self, most: u64) -> u64 {
        let wide = u128::from(self.next()) * (u128::from(most) + 1);
        u64::try_from(wide >> 64).expect("less than 2^64 after the shift")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(10);
    const MAX: Duration = Duration::from_secs(1);

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum_and_reset_begins_anew() {
        let mut backoff = Backoff::new(BASE, MAX, 1);
        let mut ceilings = Vec::new();
        for _ in 0..9 {
            ceilings.push(backoff.ceiling().as_millis());
            assert!(backoff.next_delay() <= MAX);
        }
        assert_eq!(ceilings, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        for _ in 0..100 {
            assert!(backoff.next_delay() <= MAX, "no overflow after many attempts");
        }
        backoff.reset();
        assert_eq!(backoff.ceiling(), BASE);
    }

    #[test]
    fn waits_fill_the_whole_range_and_follow_the_seed() {
        let series = |seed| {
            let mut backoff = Backoff::new(MAX, MAX, seed);
            (0..1000).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(series(7), series(7));
        assert_ne!(series(7), series(8));
        let mut tenths = [0; 10];
        for wait in series(7) {
            tenths[(wait.as_secs_f64() * 10.0).min(9.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (50..200).contains(count)), "{tenths:?}");
    }
}
