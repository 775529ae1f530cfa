//! The trace of a run: everything that happened, as text. Its hash is what "the same run" means; printed, it is what one
//! reads to understand a failure.

use std::fmt::{self, Write as _};

use crate::time::{Moment, seconds};

/// Collects lines into a hash, and prints them if asked to.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    line: String,
    print: bool,
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

impl Trace {
    /// An empty trace.
    pub fn new(print: bool) -> Trace {
        Trace { hash: FNV_OFFSET, lines: 0, line: String::new(), print }
    }

    /// One line.
    #[allow(clippy::print_stdout)]
    pub fn note(&mut self, now: Moment, what: fmt::Arguments<'_>) {
        self.line.clear();
        write!(self.line, "{} {what}", seconds(now)).expect("a string takes everything");
        // FNV-1a (Fowler, Noll, Vo), over eight bytes at a time.
        self.hash ^= self.line.len() as u64;
        for chunk in self.line.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash = (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(FNV_PRIME).rotate_left(23);
        }
        self.lines += 1;
        if self.print {
            println!("{}", self.line);
        }
    }

    /// The hash of all lines so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there are.
    pub fn lines(&self) -> u64 {
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_with_one_other_character_has_another_hash() {
        let hash = |text: &str| {
            let mut trace = Trace::new(false);
            trace.note(5, format_args!("{text}"));
            trace.hash()
        };
        assert_eq!(hash("n1 writes 7"), hash("n1 writes 7"));
        assert_ne!(hash("n1 writes 7"), hash("n1 writes 8"));
        assert_ne!(hash("a"), hash("a\0"));
    }
}
