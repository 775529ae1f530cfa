//! Replication of small entries among three nodes in memory, through `dstore-raft` and through the `raft` crate (TiKV's),
//! both driven by the same loop: propose a batch at the leader, carry every message, make every write durable, apply what
//! commits, until nothing moves. Nothing is encoded and nothing touches a disk, so what is measured is the two state
//! machines, their log in memory, and what they allocate.
//!
//! The two take turns, in many short rounds, and each ratio is the median of the rounds' ratios: a neighbour on the machine
//! who takes half of it slows both alike.

mod alloc;
mod ours;
mod theirs;

use std::time::{Duration, Instant};

use bytes::Bytes;

/// One member of a cluster, whichever implementation it is of. Members are numbered from 0; the first is the leader.
pub(crate) trait Member {
    type Message;

    /// A member of a cluster of three, with an empty log.
    fn new(at: usize) -> Self;

    /// Stand for election.
    fn campaign(&mut self);

    /// Propose the entries as one batch.
    fn propose(&mut self, batch: &[Bytes]);

    /// A message has come.
    fn step(&mut self, message: Self::Message);

    /// Do what there is to do: write, apply, and put what is to be sent, and to whom, into `out`. Returns how many
    /// proposals were applied.
    fn work(&mut self, out: &mut Vec<(usize, Self::Message)>) -> u64;

    /// Drop what every member has applied from the log.
    fn compact(&mut self);
}

const MEMBERS: usize = 3;
const ENTRY_BYTES: usize = 100;
const COMPACT_EVERY_BATCHES: u64 = 64;

struct Cluster<M: Member> {
    members: Vec<M>,
    out: Vec<(usize, M::Message)>,
    arriving: Vec<(usize, M::Message)>,
    batches: u64,
}

impl<M: Member> Cluster<M> {
    fn new() -> Cluster<M> {
        let mut cluster =
            Cluster { members: (0..MEMBERS).map(M::new).collect(), out: Vec::new(), arriving: Vec::new(), batches: 0 };
        // Whatever a member does when it starts, then the election.
        cluster.settle();
        cluster.members[0].campaign();
        cluster.settle();
        cluster
    }

    /// Carries messages until there are none. Returns how many proposals the leader applied.
    fn settle(&mut self) -> u64 {
        let mut applied = 0;
        loop {
            for (at, member) in self.members.iter_mut().enumerate() {
                let n = member.work(&mut self.out);
                applied += if at == 0 { n } else { 0 };
            }
            if self.out.is_empty() {
                return applied;
            }
            std::mem::swap(&mut self.out, &mut self.arriving);
            for (to, message) in self.arriving.drain(..) {
                self.members[to].step(message);
            }
        }
    }

    /// Replicates one batch on everyone.
    fn replicate(&mut self, batch: &[Bytes]) {
        self.members[0].propose(batch);
        let applied = self.settle();
        assert_eq!(applied, batch.len() as u64, "every proposal commits, once");
        self.batches += 1;
        if self.batches.is_multiple_of(COMPACT_EVERY_BATCHES) {
            self.members.iter_mut().for_each(Member::compact);
        }
    }
}

/// What replicating some batches took.
#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
    bytes: u64,
    allocations: u64,
}

fn measure<M: Member>(cluster: &mut Cluster<M>, batch: &[Bytes], times: u64) -> Cost {
    let (bytes, allocations) = alloc::counted();
    let began = Instant::now();
    for _ in 0..times {
        cluster.replicate(batch);
    }
    let time = began.elapsed();
    let (bytes_after, allocations_after) = alloc::counted();
    Cost { time, bytes: bytes_after - bytes, allocations: allocations_after - allocations }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One batch size: prints what each took for an entry, and returns how many times as fast ours was.
fn compare(batch_len: usize, rounds: usize, entries_per_round: u64) -> f64 {
    let batch: Vec<Bytes> = (0..batch_len).map(|i| Bytes::from(vec![i as u8; ENTRY_BYTES])).collect();
    let times = entries_per_round / batch_len as u64;
    let mut ours = Cluster::<ours::Node>::new();
    let mut theirs = Cluster::<theirs::Node>::new();
    measure(&mut ours, &batch, times);
    measure(&mut theirs, &batch, times);
    let (mut our_costs, mut their_costs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        our_costs.push(measure(&mut ours, &batch, times));
        their_costs.push(measure(&mut theirs, &batch, times));
    }
    let entries = (times * batch_len as u64) as f64;
    for (name, costs) in [("dstore-raft", &our_costs), ("raft crate", &their_costs)] {
        let nanos = median(costs.iter().map(|c| c.time.as_nanos() as f64 / entries).collect());
        let bytes = median(costs.iter().map(|c| c.bytes as f64 / entries).collect());
        let allocations = median(costs.iter().map(|c| c.allocations as f64 / entries).collect());
        report(&format!(
            "batch {batch_len:>3}  {name:<11}  {nanos:>8.0} ns/entry  {bytes:>7.0} bytes allocated/entry  {allocations:>6.2} allocations/entry"
        ));
    }
    let ratio = |(ours, theirs): (&Cost, &Cost)| theirs.time.as_secs_f64() / ours.time.as_secs_f64();
    median(our_costs.iter().zip(&their_costs).map(ratio).collect())
}

#[allow(clippy::print_stdout)] // a benchmark's output is its purpose
fn report(line: &str) {
    println!("{line}");
}

fn main() {
    let sizes = [1, 16, 256];
    let ratios: Vec<f64> = sizes.iter().map(|size| compare(*size, 31, 8192)).collect();
    for (size, ratio) in sizes.iter().zip(ratios) {
        report(&format!("ratio raft-b{size} {ratio:.2}"));
    }
}
