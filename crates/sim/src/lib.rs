//! The deterministic simulator: a cluster in one thread, on a seed.
//!
//! So far the checkers of its histories.

pub mod checker;
pub mod random;
