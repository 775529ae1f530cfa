//! Timeouts and limits.

use std::time::Duration;

/// Settings of a group; the same on every member.
#[derive(Clone, Debug)]
pub struct Config {
    /// A follower that has not heard from a leader for this long, plus a random part up to as long again, stands for
    /// election; a leader that has not heard from a quorum for this long steps down.
    pub election_timeout: Duration,
    /// How often a leader proves that it lives. Several times shorter than `lease`, or leases will have gaps.
    pub heartbeat_interval: Duration,
    /// A voter that hears from a leader grants nobody its vote for this long. At most `election_timeout`. Shorter than it,
    /// it lets a follower that is told of the leader's lost connection stand sooner, without breaking its word.
    pub lease: Duration,
    /// Two members' clocks may differ in *rate* by this many parts in a million. The leader's side of the lease is
    /// shorter by as much. What the clocks show does not matter.
    pub clock_drift_ppm_max: u32,
    /// Answer reads under the leader's lease while it lasts. Otherwise every batch of reads costs a round of heartbeats.
    pub lease_reads: bool,
    /// A larger proposal is refused, a larger entry of a peer is an error: 8 MiB carries the largest sane write batch.
    pub entry_bytes_max: u64,
    /// Entries of one append message, unless the first alone is larger: enough to fill a pipe, little enough not to stall
    /// heartbeats behind it.
    pub append_bytes_max: u64,
    /// Append messages sent to one follower and not answered.
    pub inflight_appends_max: usize,
    /// Bytes of entries sent to one follower and not answered.
    pub inflight_bytes_max: u64,
    /// Bytes of entries proposed in this term and not committed: what a leader without a quorum may pile up.
    pub uncommitted_bytes_max: u64,
    /// Bytes of committed entries handed out and not reported applied; one entry may exceed it.
    pub apply_bytes_max: u64,
    /// Bytes of durable and applied entries kept in memory for followers that have not got them.
    pub log_cache_bytes_max: u64,
    /// Reads that wait for an answer.
    pub reads_pending_max: usize,
    /// The rule that a test wants broken.
    #[cfg(test)]
    pub(crate) planted_bug: Option<crate::planted::Bug>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            election_timeout: Duration::from_millis(1000),
            heartbeat_interval: Duration::from_millis(100),
            lease: Duration::from_millis(500),
            clock_drift_ppm_max: 1000,
            lease_reads: true,
            entry_bytes_max: 8 << 20,
            append_bytes_max: 1 << 20,
            inflight_appends_max: 256,
            inflight_bytes_max: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
            apply_bytes_max: 16 << 20,
            log_cache_bytes_max: 8 << 20,
            reads_pending_max: 65_536,
            #[cfg(test)]
            planted_bug: None,
        }
    }
}

/// Settings that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad raft settings: {0}")]
pub struct ConfigError(pub &'static str);

impl Config {
    /// How long, by its own clock, a leader may rely on a lease whose voters promised [`Config::lease`] by theirs.
    pub(crate) fn leader_lease(&self) -> Duration {
        // A voter's clock that runs `d` faster than the leader's ends the promise after lease / (1 + d), and 1 - d is less.
        self.lease - self.lease * self.clock_drift_ppm_max / 1_000_000
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let rules = [
            (self.clock_drift_ppm_max < 1_000_000, "clock_drift_ppm_max must be below a million"),
            (self.lease <= self.election_timeout, "lease must not exceed election_timeout"),
            (!self.heartbeat_interval.is_zero(), "heartbeat_interval must not be zero"),
            (self.heartbeat_interval < self.lease, "heartbeat_interval must be shorter than lease"),
            (self.election_timeout < Duration::from_secs(86_400), "election_timeout must be less than a day"),
            (self.inflight_appends_max > 0, "inflight_appends_max must not be zero"),
            (self.inflight_bytes_max > 0, "inflight_bytes_max must not be zero"),
            (self.apply_bytes_max > 0, "apply_bytes_max must not be zero"),
            (self.reads_pending_max > 0, "reads_pending_max must not be zero"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(ConfigError(rule)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_settings_are_sound_and_unsound_ones_are_refused() {
        assert_eq!(Config::default().check(), Ok(()));
        let long = Config { lease: Duration::from_secs(2), ..Config::default() };
        assert_eq!(long.check(), Err(ConfigError("lease must not exceed election_timeout")));
        let slow = Config { heartbeat_interval: Duration::from_secs(1), ..Config::default() };
        assert!(slow.check().is_err());
    }

    #[test]
    fn the_leaders_lease_ends_before_the_promise_of_the_fastest_voter() {
        let config = Config { clock_drift_ppm_max: 100_000, ..Config::default() };
        assert_eq!(config.leader_lease(), Duration::from_millis(450));
        assert!(config.leader_lease().as_nanos() * 11 / 10 <= config.lease.as_nanos());
    }
}
