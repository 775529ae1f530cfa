//! What processes have spent, from `/proc`.

use std::time::Duration;

/// CPU time of all these processes together, user and system, all threads.
///
/// # Panics
///
/// When one of them has ended.
pub fn cpu(pids: &[u32]) -> Duration {
    let ticks: u64 = pids.iter().map(|pid| ticks(&read(*pid, "stat"))).sum();
    Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).expect("it is 100")
}

/// Resident memory of a process.
///
/// # Panics
///
/// When it has ended.
pub fn memory_mib(pid: u32) -> f64 {
    let status = read(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 =
        line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok()).expect("Linux tells VmRSS");
    kib / 1024.0
}

fn read(pid: u32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fields 14 and 15 of `stat`. The second field is the program's name in brackets, which may hold anything.
fn ticks(stat: &str) -> u64 {
    let after_name = stat.rsplit_once(')').expect("the name is in brackets").1;
    let number = |field: &str| field.parse::<u64>().expect("times are numbers");
    after_name.split_whitespace().skip(11).take(2).map(number).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 13 0 0 20 0 1 0 100 1000 10";
        assert_eq!(ticks(stat), 263);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(memory_mib(std::process::id()) > 0.1);
    }
}
