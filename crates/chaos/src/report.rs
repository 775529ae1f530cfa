//! What a run came to, in lines.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::judge::Verdict;
use crate::world::FailedSyncs;

/// Violations that are printed, and how long their lines may be. The rest is in the evidence.
const PRINTED_MAX: usize = 5;
const LINE_CHARS_MAX: usize = 400;

/// A run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Who was looked at.
    pub name: &'static str,
    /// What repeats the plan.
    pub seed: u64,
    /// How long faults went on.
    pub faults_lasted: Duration,
    /// What the judge says.
    pub verdict: Verdict,
    /// How often each kind of fault happened.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often one was due and made no sense.
    pub skipped: u64,
    /// Syncs that were made to fail, and nodes that ended for it.
    pub failed_syncs: FailedSyncs,
    /// After the last fault: how long until everything served again. Nothing if it never did.
    pub recovered: Option<Duration>,
    /// Where the evidence is, if something was wrong.
    pub evidence: Option<PathBuf>,
}

impl Report {
    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.verdict.violations == 0 && self.verdict.lost == 0
    }
}

/// A line that fits on a screen or two.
fn shortened(line: &str) -> String {
    match line.char_indices().nth(LINE_CHARS_MAX) {
        None => line.to_owned(),
        Some((end, _)) => format!("{} ...", &line[..end]),
    }
}

/// `20 min`, or `45 s`.
fn length(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    if seconds >= 60 && seconds.is_multiple_of(60) { format!("{} min", seconds / 60) } else { format!("{seconds} s") }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { operations, answered, refused, unknown, acknowledged, generations, violations, lost, told } =
            &self.verdict;
        for (number, what) in told.iter().take(PRINTED_MAX).enumerate() {
            let lines: Vec<String> = what.lines().map(shortened).collect();
            writeln!(f, "violation {}: {}", number + 1, lines.join("\n"))?;
        }
        writeln!(
            f,
            "{answered} answered, {refused} refused, {unknown} unknown; {acknowledged} acknowledged writes; {generations} \
             generations of keys"
        )?;
        if self.failed_syncs != FailedSyncs::default() {
            let FailedSyncs { asked_for, ended } = self.failed_syncs;
            let killed = asked_for - ended;
            writeln!(
                f,
                "{asked_for} syncs failed: {ended} nodes ended for it, {killed} were killed before they could"
            )?;
        }
        match self.recovered {
            Some(after) => {
                writeln!(f, "every node and every client served {:.1} s after the last fault", after.as_secs_f64())?
            }
            None => writeln!(f, "not everything served again after the last fault")?,
        }
        if let Some(evidence) = &self.evidence {
            writeln!(f, "evidence: {}", evidence.display())?;
        }
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        write!(
            f,
            "{} {}: operations {operations} checked, violations {violations}, acknowledged writes lost {lost}, faults: {} \
             ({}), {} skipped, seed {}",
            self.name,
            length(self.faults_lasted),
            self.faults.values().sum::<u64>(),
            faults.join(", "),
            self.skipped,
            self.seed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_it_all() {
        let mut verdict = Verdict { operations: 500, ..Verdict::default() };
        let report = |verdict| Report {
            name: "chaos",
            seed: 7,
            faults_lasted: Duration::from_secs(1_200),
            verdict,
            faults: [("kill -9", 3), ("pause", 2)].into(),
            skipped: 1,
            failed_syncs: FailedSyncs { asked_for: 2, ended: 1 },
            recovered: Some(Duration::from_millis(2_500)),
            evidence: None,
        };
        assert!(report(verdict.clone()).is_clean());
        assert_eq!(
            report(verdict.clone()).to_string().lines().last(),
            Some(
                "chaos 20 min: operations 500 checked, violations 0, acknowledged writes lost 0, faults: 5 (kill -9 3, \
                 pause 2), 1 skipped, seed 7"
            )
        );
        verdict.blame("a stale read".to_owned());
        assert!(!report(verdict.clone()).is_clean());
        assert!(report(verdict).to_string().starts_with("violation 1: a stale read\n"));
        assert_eq!(length(Duration::from_secs(45)), "45 s");
    }
}
