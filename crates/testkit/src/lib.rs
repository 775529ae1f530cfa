//! For tests alone: scratch directories, the power-loss shim, real processes.
//!
//! - [`scratch`]: directories that stay behind when a test fails.
//! - [`process`]: servers that are ready when the call returns, tools that ran to their end.
//! - [`cluster`]: several nodes, killed, paused, cut off and started again.
//! - [`namespaces`]: machines of a private network whose packets are dropped on demand.
//! - [`requests`]: random requests for comparisons; [`answer`]: what came back, to the byte.
//! - [`client`]: a small Redis client that hides nothing; [`ports`]: where servers can listen again and again.
//! - [`powerloss`]: what a power cut would have left of a killed process's files.
//! - [`small_disk`]: a filesystem that a test can fill.
//! - [`python`]: an interpreter with the packages that tests need.
//!
//! Read [`powerloss::PowerLoss`] and [`process::Server`] first. Functions here panic when the machine lacks something or
//! a process misbehaves, because that is how a test fails; they say what is missing.
//!
//! The `tidy` test in this crate watches the whole repository.

pub mod answer;
pub mod client;
pub mod cluster;
pub mod namespaces;
pub mod ports;
pub mod powerloss;
pub mod process;
pub mod python;
pub mod requests;
pub mod scratch;
pub mod small_disk;
