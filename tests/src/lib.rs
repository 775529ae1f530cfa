//! What the end-to-end tests share: clients, and a load whose every acknowledgement can be checked afterwards.
//!
//! The tests themselves stand beside this folder, one file a subject. They run the `dstore` program as users do, as a
//! process of its own, and speak to it through clients that know nothing of it.

pub mod conversation;
pub mod counter;
pub mod exceptions;
pub mod load;
pub mod recorder;
pub mod retrier;
pub mod verdict;

use std::net::SocketAddr;

use dstore_testkit::process::PATIENCE;

/// A connection through the `redis` crate.
///
/// # Panics
///
/// When the server does not take it.
pub fn connect(address: SocketAddr) -> redis::Connection {
    let client = redis::Client::open(format!("redis://{address}/")).expect("an address makes a URL");
    let connection = client.get_connection().expect("the server takes connections");
    connection.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    connection
}

/// The seed of a random test: that of the environment variable `DSTORE_SEED`, to repeat a run, or a new one. It is
/// printed, so that it stands with the test's output when the test fails.
///
/// # Panics
///
/// When the variable is not a number.
#[allow(clippy::print_stderr)] // belongs to the output of a test
pub fn seed() -> u64 {
    let seed = match std::env::var("DSTORE_SEED") {
        Ok(text) => text.parse().expect("DSTORE_SEED is a number"),
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            u64::from(now.expect("the clock is past 1970").subsec_nanos())
        }
    };
    eprintln!("seed {seed} (repeat with DSTORE_SEED={seed})");
    seed
}
