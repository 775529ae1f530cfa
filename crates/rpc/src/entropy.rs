//! Random numbers from a seed that is handed in: nonces nobody can predict without the seed, and jitter.
//!
//! HMAC-SHA256 of a counter under the seed. A driver seeds it from the operating system, a simulator from its own
//! seed, and a run repeats exactly.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::handshake::Nonce;

/// An endless source of [`Nonce`]s and numbers. Two sources with one seed give the same, so each node's start, and
/// each source in it, needs a seed of its own.
#[derive(Clone)]
pub struct Entropy {
    seed: [u8; 32],
    drawn: u64,
}

impl Entropy {
    /// A source with this seed, which has to be random and secret.
    pub fn new(seed: [u8; 32]) -> Entropy {
        Entropy { seed, drawn: 0 }
    }

    /// The next 32 bytes.
    pub fn nonce(&mut self) -> Nonce {
        self.drawn += 1;
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.seed).expect("HMAC takes keys of any length");
        mac.update(&self.drawn.to_le_bytes());
        mac.finalize().into_bytes().into()
    }

    /// A source of its own for a part of the owner.
    pub fn fork(&mut self) -> Entropy {
        Entropy::new(self.nonce())
    }

    /// A number below `bound`, or 0 if that is 0. The bias of the remainder is below 2^-32 for jitters of hours.
    pub fn below(&mut self, bound: u64) -> u64 {
        let bytes = self.nonce()[..8].try_into().expect("eight of 32 bytes");
        u64::from_le_bytes(bytes).checked_rem(bound).unwrap_or(0)
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_exactly_and_never_within_a_run() {
        let draw = |seed| {
            let mut entropy = Entropy::new([seed; 32]);
            (0..1000).map(|_| entropy.nonce()).collect::<Vec<_>>()
        };
        let mut drawn = draw(1);
        assert_eq!(drawn, draw(1));
        drawn.extend(draw(2));
        drawn.sort();
        drawn.dedup();
        assert_eq!(drawn.len(), 2000);
        assert_eq!(Entropy::new([1; 32]).below(0), 0);
    }
}
