//! Side by side against peers: what a stock benchmark measured, and how it is put beside another's.

pub mod usage;

use std::process::Command;

use dstore_testkit::process::{Server, run};

/// What `redis-benchmark` measured in one run of one test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Requests per second.
    pub rate: f64,
    /// Half of the requests were answered within this many milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 were.
    pub p99_ms: f64,
}

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The name of the test, `set` or `get`.
    pub test: &'static str,
    /// Connections at once.
    pub connections: u32,
    /// Requests that each has under way.
    pub pipeline: u32,
    /// Requests in all.
    pub requests: u32,
}

impl Load {
    /// Runs it once: values of 100 bytes under 100,000 random keys.
    ///
    /// # Panics
    ///
    /// When `redis-benchmark` fails or reports an error.
    pub fn run(&self, server: &Server) -> Figures {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &server.port(), "-t", self.test, "-d", "100", "-r", "100000", "-e", "--csv"]);
        command.args(["-c", &self.connections.to_string(), "-P", &self.pipeline.to_string()]);
        let printed = run(command.args(["-n", &self.requests.to_string()]), b"");
        parse(&printed).unwrap_or_else(|| panic!("redis-benchmark printed:\n{printed}"))
    }
}

/// Reads the line that follows the heads of the columns.
fn parse(csv: &str) -> Option<Figures> {
    let (heads, line) = csv.lines().zip(csv.lines().skip(1)).find(|(line, _)| line.starts_with("\"test\""))?;
    let cells = |line: &str| line.split(',').map(|cell| cell.trim_matches('"').to_string()).collect::<Vec<_>>();
    let (heads, values) = (cells(heads), cells(line));
    let value = |name: &str| values.get(heads.iter().position(|head| head == name)?)?.parse().ok();
    Some(Figures { rate: value("rps")?, p50_ms: value("p50_latency_ms")?, p99_ms: value("p99_latency_ms")? })
}

/// The run in the middle by rate: one slow or lucky run does not decide.
///
/// # Panics
///
/// When there is none.
pub fn median(runs: &[Figures]) -> Figures {
    let mut sorted = runs.to_vec();
    sorted.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    sorted[sorted.len() / 2]
}

/// The number in the middle.
///
/// # Panics
///
/// When there is none.
pub fn middle(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_redis_benchmark_are_found_by_their_heads() {
        let csv = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
            \"SET\",\"92592.59\",\"0.283\",\"0.104\",\"0.279\",\"0.375\",\"0.439\",\"0.663\"\n";
        assert_eq!(parse(csv), Some(Figures { rate: 92592.59, p50_ms: 0.279, p99_ms: 0.439 }));
        assert_eq!(parse("Error from server: ERR\n"), None);
    }

    #[test]
    fn the_median_is_the_run_in_the_middle() {
        let run = |rate| Figures { rate, p50_ms: 1.0, p99_ms: 2.0 };
        assert_eq!(median(&[run(3.0), run(1.0), run(2.0)]).rate, 2.0);
        assert_eq!(middle(&[3.0, 1.0, 2.0]), 2.0);
    }
}
