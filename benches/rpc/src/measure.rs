//! Time, CPU and latencies of one round.

use std::time::{Duration, Instant};

/// CPU time of the whole process, user and system.
pub(crate) fn cpu() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    let usage = process_usage(&mut usage);
    let time = |value: libc::timeval| {
        Duration::from_secs(value.tv_sec.unsigned_abs()) + Duration::from_micros(value.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[allow(unsafe_code)]
fn process_usage(usage: &mut std::mem::MaybeUninit<libc::rusage>) -> libc::rusage {
    // SAFETY: the pointer is to a whole rusage; the call fills it whenever it returns 0, which is checked.
    unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0, "the process can ask for its own usage");
        usage.assume_init()
    }
}

/// A round of calls under way.
pub(crate) struct Stopwatch {
    cpu: Duration,
    begun: Instant,
    latencies: Vec<Duration>,
}

impl Stopwatch {
    pub(crate) fn start(calls: usize) -> Stopwatch {
        Stopwatch { latencies: Vec::with_capacity(calls), cpu: cpu(), begun: Instant::now() }
    }

    pub(crate) fn ended(&mut self, latency: Duration) {
        self.latencies.push(latency);
    }

    pub(crate) fn stop(mut self) -> Sample {
        let (wall, cpu) = (self.begun.elapsed(), cpu() - self.cpu);
        self.latencies.sort_unstable();
        let at = |part: f64| self.latencies[((self.latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
        Sample { calls: self.latencies.len(), wall, cpu, p50_us: at(0.5), p99_us: at(0.99) }
    }
}

/// What a round came to.
pub(crate) struct Sample {
    calls: usize,
    wall: Duration,
    cpu: Duration,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Sample {
    pub(crate) fn calls_per_cpu_second(&self) -> f64 {
        self.calls as f64 / self.cpu.as_secs_f64()
    }

    pub(crate) fn calls_per_second(&self) -> f64 {
        self.calls as f64 / self.wall.as_secs_f64()
    }
}

/// The middle one.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
