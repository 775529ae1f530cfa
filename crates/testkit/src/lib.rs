//! For tests alone: scratch directories, the power-loss shim, real processes.

pub mod powerloss;
