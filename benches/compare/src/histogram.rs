//! [`Histogram`]: latencies, to within a hundredth, in constant memory.

use std::time::Duration;

/// Buckets for each doubling.
const STEPS: u64 = 128;

/// Durations in buckets that grow with them.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// Adds a duration, `times` times.
    pub fn add(&mut self, duration: Duration, times: u64) {
        let bucket = bucket(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += times;
        self.total += times;
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The duration, in milliseconds, that this part of all (0.5: half) do not exceed.
    pub fn at(&self, part: f64) -> f64 {
        let wanted = (self.total as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_ns(bucket as u64) as f64 / 1e6;
            }
        }
        0.0
    }
}

/// Below two rounds of steps a bucket is a nanosecond; then each doubling has [`STEPS`].
fn bucket(ns: u64) -> usize {
    let shift = ns.checked_ilog2().unwrap_or(0).saturating_sub(STEPS.ilog2());
    (u64::from(shift) * STEPS + (ns >> shift)) as usize
}

/// The largest duration of a bucket.
fn upper_ns(bucket: u64) -> u64 {
    let shift = (bucket / STEPS).saturating_sub(1);
    ((bucket - shift * STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_in_its_bucket_and_close_to_its_end() {
        let mut last = 0;
        for ns in (0..100_000).chain((100_000..50_000_000_000).step_by(99_999_989)) {
            let bucket = bucket(ns);
            let upper = upper_ns(bucket as u64);
            assert!(bucket >= last && ns <= upper && upper - ns <= ns / STEPS, "{ns}: {bucket} {upper}");
            last = bucket;
        }
    }

    #[test]
    fn parts_are_found() {
        let mut histogram = Histogram::default();
        (1..=100).for_each(|ms| histogram.add(Duration::from_millis(ms), 1));
        assert!((histogram.at(0.5) - 50.0).abs() < 0.5 && (histogram.at(0.99) - 99.0).abs() < 1.0);
        assert_eq!((Histogram::default().at(0.5), histogram.total()), (0.0, 100));
    }
}
