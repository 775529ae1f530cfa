//! Where choices come from: a seed, or every possibility in turn.
//!
//! Code that must decide something at random asks for "a number below n". A [`Seeded`] source answers from a generator,
//! so the same seed decides the same way. An [`Exhaustive`] one counts through all answers, so a test of a small case
//! sees every outcome there is:
//!
//! ```
//! use dstore_testkit::powerloss::{Choose, Exhaustive};
//!
//! let mut seen = Vec::new();
//! let mut all = Exhaustive::new();
//! while all.another_round() {
//!     let first = all.choose(2);
//!     let second = if first == 1 { all.choose(3) } else { 0 };
//!     seen.push((first, second));
//! }
//! assert_eq!(seen, [(0, 0), (1, 0), (1, 1), (1, 2)]);
//! ```

/// A source of decisions.
pub trait Choose {
    /// A number below `options`, which is at least 1.
    fn choose(&mut self, options: usize) -> usize;
}

/// Decides by a seed: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone, Debug)]
pub struct Seeded {
    state: u64,
}

impl Seeded {
    /// The source that belongs to `seed`.
    pub fn new(seed: u64) -> Seeded {
        Seeded { state: seed }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Choose for Seeded {
    fn choose(&mut self, options: usize) -> usize {
        assert!(options > 0, "a choice among nothing");
        // The product's high half is below `options`; its bias, options / 2^64, does not matter to a test.
        ((u128::from(self.next_u64()) * options as u128) >> 64) as usize
    }
}

/// Decides every way there is, one round after the other, like an odometer whose wheels are the choices of a round.
#[derive(Clone, Debug, Default)]
pub struct Exhaustive {
    /// What was chosen in this round so far or in the last one, each with its number of options.
    wheels: Vec<(usize, usize)>,
    at: usize,
    started: bool,
}

impl Exhaustive {
    /// A source before its first round.
    pub fn new() -> Exhaustive {
        Exhaustive::default()
    }

    /// Turns to the next combination; false when all have been seen.
    pub fn another_round(&mut self) -> bool {
        self.at = 0;
        if !self.started {
            self.started = true;
            return true;
        }
        while let Some((choice, options)) = self.wheels.pop() {
            if choice + 1 < options {
                self.wheels.push((choice + 1, options));
                return true;
            }
        }
        false
    }
}

impl Choose for Exhaustive {
    fn choose(&mut self, options: usize) -> usize {
        assert!(options > 0, "a choice among nothing");
        if self.at == self.wheels.len() {
            self.wheels.push((0, options));
        }
        let (choice, among) = self.wheels[self.at];
        assert_eq!(among, options, "the code under test decided differently on the same choices");
        self.at += 1;
        choice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_same_way_every_time_and_stays_in_range() {
        let draw = |seed| {
            let mut source = Seeded::new(seed);
            (0..1_000).map(|n| source.choose(n % 7 + 1)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().enumerate().all(|(n, choice)| *choice < n % 7 + 1));
    }

    #[test]
    fn exhaustion_counts_every_combination_once() {
        let mut all = Exhaustive::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut rounds = 0;
        while all.another_round() {
            rounds += 1;
            seen.insert((all.choose(3), all.choose(1), all.choose(4)));
        }
        assert_eq!((rounds, seen.len()), (12, 12));
    }
}
