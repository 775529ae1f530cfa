//! [`Stamp`]: the hybrid-logical time of a log entry, and the base of the versions it gives out.

/// Hybrid-logical timestamp: milliseconds since the Unix epoch in the upper 44 bits, a counter in the lower 20.
///
/// Every entry of a range carries one, and they grow along the log. An entry gives its n-th written key (from 0) the
/// *version* `stamp + n`, so an entry's stamp must be above the last version of the entry before: that is what
/// [`Stamp::next`] is for. 44 bits of milliseconds last until the year 2527; 20 bits count a million keys written
/// within one millisecond, and beyond that the counter carries into the time, which only runs ahead by as much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(u64);

impl Stamp {
    /// Before every entry.
    pub const ZERO: Stamp = Stamp(0);

    /// Bits of the logical counter.
    pub const LOGICAL_BITS: u32 = 20;

    /// Latest time that fits.
    pub const MS_MAX: u64 = u64::MAX >> Self::LOGICAL_BITS;

    /// The first stamp of a millisecond.
    ///
    /// # Panics
    /// If `ms` is above [`Stamp::MS_MAX`]: no clock shows the year 2527 by accident.
    pub fn from_ms(ms: u64) -> Stamp {
        assert!(ms <= Self::MS_MAX, "time {ms} ms does not fit a stamp");
        Stamp(ms << Self::LOGICAL_BITS)
    }

    /// A stamp from its stored form.
    pub fn from_u64(raw: u64) -> Stamp {
        Stamp(raw)
    }

    /// The stored form, which is also the version of the first key written at this stamp.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The physical part, milliseconds since the Unix epoch.
    pub fn ms(self) -> u64 {
        self.0 >> Self::LOGICAL_BITS
    }

    /// The stamp of the next entry: at or after `now_ms`, and above `last_used`, the last version given out (or the
    /// last entry's stamp if it gave out none). A clock that steps back only makes the counter run.
    pub fn next(last_used: u64, now_ms: u64) -> Stamp {
        let above = last_used.checked_add(1).expect("stamps end in the year 2527");
        Stamp::from_ms(now_ms).max(Stamp(above))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_follows_the_clock_and_never_goes_back() {
        let first = Stamp::next(0, 1_000);
        assert_eq!((first.ms(), first), (1_000, Stamp::from_ms(1_000)));
        let same_ms = Stamp::next(first.as_u64() + 2, 1_000);
        assert_eq!(same_ms.as_u64(), first.as_u64() + 3);
        let clock_stepped_back = Stamp::next(same_ms.as_u64(), 10);
        assert_eq!(clock_stepped_back.as_u64(), same_ms.as_u64() + 1);
        assert_eq!(clock_stepped_back.ms(), 1_000);
        assert_eq!(Stamp::next(clock_stepped_back.as_u64(), 1_001), Stamp::from_ms(1_001));
    }

    #[test]
    fn a_full_counter_carries_into_the_time() {
        let last_of_ms = Stamp::from_ms(8).as_u64() - 1;
        assert_eq!(Stamp::from_u64(last_of_ms).ms(), 7);
        assert_eq!(Stamp::next(last_of_ms, 7), Stamp::from_ms(8));
    }
}
