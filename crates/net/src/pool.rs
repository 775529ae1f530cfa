//! Threads for what may block: files, names. A loop must never wait for either.
//!
//! [`Net::run_blocking`](crate::Net::run_blocking) sends work here and gets the answer as a callback on its loop. Threads
//! start when there is work and none is free, up to a limit; the queue is bounded, and a full one refuses.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use thiserror::Error;

type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads. Clone it to share it between loops; its threads end when the last clone is gone and the queue is
/// empty.
#[derive(Clone)]
pub struct Pool {
    handle: Arc<Handle>,
}

/// The pool's queue is full (or no thread could be started at all).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the pool for blocking work is full")]
pub struct PoolFull;

struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    threads_max: usize,
    jobs_max: usize,
}

struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Threads waiting for work (or called and not awake yet: then there is a job for each).
    idle: usize,
    ended: bool,
}

impl Pool {
    /// At most `threads_max` threads (at least one) and `jobs_max` jobs waiting for one.
    pub fn new(threads_max: usize, jobs_max: usize) -> Self {
        let state = State { jobs: VecDeque::new(), threads: 0, idle: 0, ended: false };
        let shared =
            Shared { state: Mutex::new(state), work: Condvar::new(), threads_max: threads_max.max(1), jobs_max };
        Pool { handle: Arc::new(Handle { shared: Arc::new(shared) }) }
    }

    /// Runs `job` on a thread of the pool, some time. A job that panics is logged; its thread lives on.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<(), PoolFull> {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        let free = state.idle + (shared.threads_max - state.threads);
        if state.jobs.len() >= shared.jobs_max + free {
            return Err(PoolFull);
        }
        if state.jobs.len() >= state.idle && state.threads < shared.threads_max {
            let worker = shared.clone();
            match std::thread::Builder::new().name("blocking".to_owned()).spawn(move || worker.work()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    tracing::error!(%error, "cannot start a thread for blocking work");
                    return Err(PoolFull);
                }
                Err(error) => tracing::warn!(%error, "cannot start another thread for blocking work"),
            }
        }
        state.jobs.push_back(Box::new(job));
        shared.work.notify_one();
        Ok(())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.handle.shared.lock();
        f.debug_struct("Pool").field("threads", &state.threads).field("jobs", &state.jobs.len()).finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    /// Jobs run outside of the lock, so nothing under it panics half-way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A thread's life.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            while let Some(job) = state.jobs.pop_front() {
                drop(state);
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!("a job in the pool for blocking work panicked");
                }
                state = self.lock();
            }
            if state.ended {
                return;
            }
            state.idle += 1;
            while state.jobs.is_empty() && !state.ended {
                state = self.work.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_full_queue_refuses_and_takes_again_when_there_is_room() {
        let pool = Pool::new(1, 1);
        let (release, held) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        pool.run(move || {
            started.send(()).expect("the test waits");
            let _ = held.recv();
        })
        .expect("room for one");
        running.recv().expect("the thread runs it");
        let (done, finished) = mpsc::channel();
        let done_too = done.clone();
        pool.run(move || done.send(1).expect("the test waits")).expect("room in the queue");
        assert_eq!(pool.run(|| ()), Err(PoolFull));
        drop(release);
        assert_eq!(finished.recv(), Ok(1));
        pool.run(|| panic!("the pool must survive this (a message here is expected)")).expect("room again");
        while pool.run({
            let done = done_too.clone();
            move || done.send(2).expect("the test waits")
        }) == Err(PoolFull)
        {
            std::thread::yield_now();
        }
        assert_eq!(finished.recv(), Ok(2));
    }
}
