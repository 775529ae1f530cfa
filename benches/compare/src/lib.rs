//! Side by side against peers: the load that drives both, what was measured, and how it is put beside another's.

pub mod disk;
pub mod histogram;
pub mod load;
pub mod replies;
pub mod usage;

use std::time::Duration;

use load::Figures;

/// One run of a load against one server.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// What the client saw.
    pub figures: Figures,
    /// CPU time of the server per request, in microseconds.
    pub cpu_us: f64,
}

impl Run {
    /// A run on which the server spent so much in all.
    pub fn of(figures: Figures, spent: Duration) -> Run {
        Run { figures, cpu_us: spent.as_secs_f64() * 1e6 / figures.requests as f64 }
    }
}

/// One run of each side. Who begins changes with every round.
///
/// # Errors
///
/// One of them fails.
pub fn in_turn<T, E>(
    round: usize,
    ours: impl FnOnce() -> Result<T, E>,
    theirs: impl FnOnce() -> Result<T, E>,
) -> Result<(T, T), E> {
    if round.is_multiple_of(2) {
        let ours = ours()?;
        Ok((ours, theirs()?))
    } else {
        let theirs = theirs()?;
        Ok((ours()?, theirs))
    }
}

/// The number in the middle: one slow or lucky run does not decide.
///
/// # Panics
///
/// When there is none.
pub fn middle(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The medians of each column by itself: requests per second, p50, p99, CPU time.
pub fn shown(runs: &[Run]) -> String {
    let of = |value: fn(&Run) -> f64| middle(&runs.iter().map(value).collect::<Vec<_>>());
    let (rate, cpu) = (of(|run| run.figures.rate), of(|run| run.cpu_us));
    let (p50, p99) = (of(|run| run.figures.p50_ms), of(|run| run.figures.p99_ms));
    format!("{rate:>12.0}{p50:>10.3}{p99:>10.3}{cpu:>10.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(middle(&[3.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn who_begins_changes_with_every_round() {
        for round in 0..2 {
            let order = std::cell::RefCell::new(Vec::new());
            let note = |who| {
                order.borrow_mut().push(who);
                Ok::<_, ()>(who)
            };
            assert_eq!(in_turn(round, || note("ours"), || note("theirs")), Ok(("ours", "theirs")));
            assert_eq!(order.into_inner()[0], ["ours", "theirs"][round]);
        }
    }
}
