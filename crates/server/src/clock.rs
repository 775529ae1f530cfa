//! The one place where the time of day is read, and a random number taken.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use dstore_node::Now;

/// The time of day. A clock before 1970 counts as 1970: stamps only ever grow, so they stand still until it is set.
pub fn wall_clock() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { wall_us: u64::try_from(since.as_micros()).unwrap_or(u64::MAX) }
}

/// 64 random bits, from the system's source that also seeds hash maps.
pub fn random_u64() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
