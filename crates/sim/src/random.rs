//! Randomness from the seed of a run, split so that one part of the simulation does not disturb another.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// A seeded generator; the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Random {
        Random(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A generator of its own for one part, so that the number of draws there changes nothing elsewhere.
    pub fn fork(&mut self) -> Random {
        Random::new(self.number())
    }

    /// Any number at all.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True once in `n` times, for 0 never.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, share: u64) -> bool {
        self.below(1000) < share
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// An exponentially distributed number with this mean, at most twenty times it.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        // -ln(u) for u in (0, 1], by a table-free and platform-independent way: the sum of coin flips in fixed point.
        let mut bits = self.number();
        let mut whole = 0;
        while bits & 1 == 0 && whole < 28 {
            whole += 1;
            bits >>= 1;
        }
        // ln 2 for every halving, and a uniform part inside the halving that is close to the logarithm.
        let fraction = self.below(1 << 16);
        let scaled = (whole << 16) + fraction;
        (u128::from(mean) * u128::from(scaled) * 45_426 / (1 << 32)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_forks_differ() {
        let draw = |mut random: Random| (0..10).map(|_| random.number()).collect::<Vec<_>>();
        assert_eq!(draw(Random::new(5)), draw(Random::new(5)));
        let mut random = Random::new(5);
        assert_ne!(draw(random.fork()), draw(random.fork()));
    }

    #[test]
    fn exponential_numbers_have_about_their_mean() {
        let mut random = Random::new(1);
        let sum: u64 = (0..100_000).map(|_| random.exponential(1000)).sum();
        let mean = sum / 100_000;
        assert!((900..1200).contains(&mean), "{mean}");
    }
}
