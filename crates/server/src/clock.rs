//! The one place where clocks are read, and a random number taken.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use dstore_node::Now;
use dstore_raft::Time;
use rustix::time::{ClockId, clock_gettime};

/// The time. A clock of day before 1970 counts as 1970: stamps only ever grow, so they stand still until it is set.
pub fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let boot = clock_gettime(ClockId::Boottime);
    let nanos = boot.tv_sec.cast_unsigned() * 1_000_000_000 + boot.tv_nsec.cast_unsigned();
    Now { wall_us: u64::try_from(since.as_micros()).unwrap_or(u64::MAX), mono: Time::from_nanos(nanos) }
}

/// 64 random bits, from the system's source that also seeds hash maps.
pub fn random_u64() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
