//! [`Readers`]: the threads that wait for the disk so that the loop need not.
//!
//! They do what [`dstore_node::Output::Read`] asks for, first what consensus needs. There are none until something is asked for,
//! and then as many as there is work at a time, up to [`THREADS_MAX`]: they mostly wait, and how many wait at a time decides
//! how many reads a disk has before it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use dstore_net::Mailbox;
use dstore_node::Reading;

use crate::front::Mail;

/// Reads that a disk is given at a time. Twice as many bring little more of one disk, and take memory.
const THREADS_MAX: usize = 8;

/// See the [module](self).
pub struct Readers {
    shared: Arc<Shared>,
    mailbox: Mailbox<Mail>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// There is work, or the end.
    came: Condvar,
}

#[derive(Default)]
struct State {
    /// Bounded by the clients: each waits for one at a time.
    work: VecDeque<Reading>,
    /// Threads that wait for work, those included that were woken for what is in `work` and have not taken it yet.
    idle: usize,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can be left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next thing to read; none at the end.
    fn next(&self) -> Option<Reading> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(reading) = state.work.pop_front() {
                return Some(reading);
            }
            state.idle += 1;
            state = self.came.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

impl Readers {
    /// No threads yet. What is read goes to `mailbox`.
    pub fn new(mailbox: Mailbox<Mail>) -> Readers {
        let shared = Shared { state: Mutex::default(), came: Condvar::new() };
        Readers { shared: Arc::new(shared), mailbox, threads: Vec::new() }
    }

    /// Has it read.
    ///
    /// # Errors
    ///
    /// There is no thread, and the system has none to give.
    pub fn read(&mut self, reading: Reading) -> std::io::Result<()> {
        let finds_idle = {
            let mut state = self.shared.lock();
            if reading.is_for_consensus() {
                state.work.push_front(reading);
            } else {
                state.work.push_back(reading);
            }
            state.idle >= state.work.len()
        };
        if finds_idle {
            self.shared.came.notify_one();
        } else if self.threads.len() < THREADS_MAX {
            match self.start() {
                Ok(thread) => self.threads.push(thread),
                Err(error) if self.threads.is_empty() => return Err(error),
                // Those that are there get to it.
                Err(error) => tracing::warn!("no further thread to read with: {error}"),
            }
        }
        Ok(())
    }

    fn start(&self) -> std::io::Result<JoinHandle<()>> {
        let (shared, mailbox) = (self.shared.clone(), self.mailbox.clone());
        let work = move || {
            while let Some(reading) = shared.next() {
                if mailbox.post(Mail::Read(reading.run())).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name(format!("reader-{}", self.threads.len())).spawn(work)
    }
}

impl Drop for Readers {
    /// Waits for what is being read; what is not begun is dropped. Afterwards nothing here uses the engine any more.
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.ended = true;
            state.work.clear();
        }
        self.shared.came.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reader panicked");
            }
        }
    }
}
