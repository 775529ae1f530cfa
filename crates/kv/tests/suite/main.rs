//! The tests of this crate: golden scripts, a dumb model, and the real Redis.

// Comparing with a real Redis takes a process and a socket.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
// A test that cannot go on stops.
#![allow(clippy::unwrap_used)]

mod differential;
mod failures;
mod golden;
mod long;
mod model;
mod redis;
mod support;
