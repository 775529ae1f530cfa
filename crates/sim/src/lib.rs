//! The deterministic simulator: a cluster in one thread, on a seed.

pub mod checker;
pub mod network;
pub mod peers;
pub mod random;
pub mod time;
