//! The table of two sides.

use dstore_bench::{Run, middle, shown};

/// All that was measured, row by row.
pub(crate) struct Report {
    names: Vec<&'static str>,
    pairs: Vec<Vec<(Run, Run)>>,
}

impl Report {
    pub(crate) fn new(names: Vec<&'static str>) -> Report {
        let pairs = vec![Vec::new(); names.len()];
        Report { names, pairs }
    }

    pub(crate) fn add(&mut self, row: usize, pair: (Run, Run)) {
        self.pairs[row].push(pair);
    }

    /// Throughput of each round, ours over theirs.
    pub(crate) fn rates(&self, row: usize) -> Vec<f64> {
        self.pairs[row].iter().map(|(ours, theirs)| ours.figures.rate / theirs.figures.rate).collect()
    }

    /// CPU time per request of each round, theirs over ours.
    pub(crate) fn cpus(&self, row: usize) -> Vec<f64> {
        self.pairs[row].iter().map(|(ours, theirs)| theirs.cpu_us / ours.cpu_us).collect()
    }

    pub(crate) fn print(&self, ours: &str, theirs: &str) {
        println!("{:<14}{ours:>42}{theirs:>42}", "");
        let heads = format!("{:>12}{:>10}{:>10}{:>10}", "req/s", "p50 ms", "p99 ms", "CPU us");
        println!("{:<14}{heads}{heads}{:>8}{:>8}   all ratios", "", "ratio", "of CPU");
        for (at, name) in self.names.iter().enumerate() {
            let (ours, theirs): (Vec<Run>, Vec<Run>) = self.pairs[at].iter().copied().unzip();
            let rates = self.rates(at);
            let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
            let most = rates.iter().copied().fold(0.0, f64::max);
            println!(
                "{name:<14}{}{}{:>8.2}{:>8.2}   {least:.2} to {most:.2}",
                shown(&ours),
                shown(&theirs),
                middle(&rates),
                middle(&self.cpus(at))
            );
        }
    }
}
