//! The connection machinery on the simulated operating system: no sockets, no threads, no clock.

// Helpers of tests are no tests to clippy.
#![allow(clippy::unwrap_used)]

mod connecting;
mod harness;
mod limits;
mod model;
mod transfer;
