//! Timers: time per operation with a million live, ours against `tokio_util::time::DelayQueue`.
//!
//! The deadlines are what servers arm: some seconds to an hour ahead, in no order. Each batch of inserts is taken out again
//! untimed, so there are always a million.

use std::time::{Duration, Instant};

use dstore_net::Timers;
use tokio_util::time::DelayQueue;

use crate::{median, pin};

const LIVE: usize = 1_000_000;
const BATCH: usize = 100_000;
const ROUNDS: usize = 7;

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(5_000 + self.below(3_600_000) as u64)
    }
}

/// The operations both offer.
trait Set {
    type Key;
    fn insert(&mut self, deadline: Instant, value: u32) -> Self::Key;
    fn update(&mut self, key: &Self::Key, deadline: Instant);
    fn cancel(&mut self, key: Self::Key);
}

impl Set for Timers<u32> {
    type Key = dstore_net::TimerId;

    fn insert(&mut self, deadline: Instant, value: u32) -> Self::Key {
        Timers::insert(self, deadline, value)
    }

    fn update(&mut self, key: &Self::Key, deadline: Instant) {
        assert!(Timers::update(self, *key, deadline), "live");
    }

    fn cancel(&mut self, key: Self::Key) {
        assert!(self.remove(key).is_some(), "live");
    }
}

impl Set for DelayQueue<u32> {
    type Key = tokio_util::time::delay_queue::Key;

    fn insert(&mut self, deadline: Instant, value: u32) -> Self::Key {
        self.insert_at(value, deadline.into())
    }

    fn update(&mut self, key: &Self::Key, deadline: Instant) {
        self.reset_at(key, deadline.into());
    }

    fn cancel(&mut self, key: Self::Key) {
        self.remove(&key);
    }
}

/// Nanoseconds per operation: insert, update, cancel.
struct Costs([f64; 3]);

struct Contender<S: Set> {
    set: S,
    keys: Vec<S::Key>,
    random: Random,
}

impl<S: Set> Contender<S> {
    fn new(set: S) -> Self {
        let mut contender =
            Contender { set, keys: Vec::with_capacity(LIVE + BATCH), random: Random(88_172_645_463_325_252) };
        let now = Instant::now();
        for value in 0..LIVE {
            let deadline = now + contender.random.delay();
            contender.keys.push(contender.set.insert(deadline, value as u32));
        }
        contender
    }

    fn round(&mut self) -> Costs {
        let now = Instant::now();
        let deadlines: Vec<_> = (0..BATCH).map(|_| now + self.random.delay()).collect();
        let victims: Vec<_> = (0..BATCH).map(|_| self.random.below(LIVE)).collect();
        let start = Instant::now();
        for (victim, deadline) in victims.iter().zip(&deadlines) {
            self.set.update(&self.keys[*victim], *deadline);
        }
        let update = start.elapsed();
        let start = Instant::now();
        for deadline in &deadlines {
            self.keys.push(self.set.insert(*deadline, 0));
        }
        let insert = start.elapsed();
        // Old ones go, chosen at random; the new ones stay in their place.
        let chosen: Vec<_> =
            (0..BATCH).map(|_| self.random.below(LIVE - BATCH)).map(|place| self.keys.swap_remove(place)).collect();
        let start = Instant::now();
        for key in chosen {
            self.set.cancel(key);
        }
        let cancel = start.elapsed();
        Costs([insert, update, cancel].map(|time| time.as_nanos() as f64 / BATCH as f64))
    }
}

/// All operations; the ratios.
pub(crate) fn run() -> Vec<(String, f64)> {
    pin(1);
    println!("\ntimers: one million live, {BATCH} operations a round");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let mut ours = Contender::new(Timers::<u32>::new(Instant::now()));
    let mut theirs = Contender::new(DelayQueue::<u32>::new());
    let rounds: Vec<_> = (0..ROUNDS).map(|_| (ours.round(), theirs.round())).collect();
    let mut ratios = Vec::new();
    for (index, name) in ["insert", "update", "cancel"].into_iter().enumerate() {
        let cost = |pick: fn(&(Costs, Costs)) -> &Costs| median(rounds.iter().map(|r| pick(r).0[index]).collect());
        let (our_cost, their_cost) = (cost(|r| &r.0), cost(|r| &r.1));
        println!("  {name:<8} ours {our_cost:>6.0} ns   DelayQueue {their_cost:>6.0} ns");
        let ratio = median(rounds.iter().map(|(ours, theirs)| theirs.0[index] / ours.0[index]).collect());
        ratios.push((format!("timer-{name}"), ratio));
    }
    ratios
}
