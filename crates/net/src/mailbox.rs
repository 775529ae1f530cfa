//! The way into a loop from other threads.
//!
//! One wake per batch: the loop notes under the queue's lock that it is about to sleep, and only a message that finds
//! that note rings the bell. A loop at work collects what came without any system call.
//!
//! Answers of the pool for blocking work come the same way, but are not counted: the pool's own bounds hold for them.
//!
//! Invariant: if the queue is not empty, the loop is awake and will look before it sleeps, or a wake is under way.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use thiserror::Error;

use crate::sys::Wake;

/// Posts messages into a loop. Clone it freely, send it to any thread.
pub struct Mailbox<M> {
    shared: Arc<Shared<M>>,
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Mailbox { shared: self.shared.clone() }
    }
}

/// Why a message was not taken; it comes back.
#[derive(Error)]
pub enum PostError<M> {
    /// As many messages wait as [`LoopConfig::mail_max`](crate::LoopConfig) allows.
    #[error("the mailbox is full")]
    Full(M),
    /// The loop has ended.
    #[error("the loop has ended")]
    Ended(M),
}

impl<M> std::fmt::Debug for PostError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PostError::Full(_) => "Full",
            PostError::Ended(_) => "Ended",
        })
    }
}

impl<M> Mailbox<M> {
    /// Hands a message to the loop. Never blocks on the loop.
    pub fn post(&self, message: M) -> Result<(), PostError<M>> {
        let mut state = self.shared.lock();
        if state.ended {
            return Err(PostError::Ended(message));
        }
        if state.queue.len() >= self.shared.mail_max {
            return Err(PostError::Full(message));
        }
        state.queue.push(message);
        self.shared.ring(state);
        Ok(())
    }

    /// Asks the loop to stop gracefully, giving its connections `drain` to finish; see [`Net::stop`](crate::Net::stop).
    pub fn stop(&self, drain: Duration) {
        let mut state = self.shared.lock();
        state.stop = Some(drain);
        self.shared.ring(state);
    }
}

/// What the loop finds in its mailbox.
pub(crate) struct Collected {
    pub(crate) stop: Option<Duration>,
    pub(crate) answers: Vec<Answer>,
}

/// What a job in the pool came to: the number of its callback, and its result (an error text if it panicked).
pub(crate) struct Answer {
    pub(crate) number: u64,
    pub(crate) result: Result<Box<dyn Any + Send>, String>,
}

pub(crate) struct Shared<M> {
    state: Mutex<State<M>>,
    waker: Arc<dyn Wake>,
    mail_max: usize,
}

struct State<M> {
    queue: Vec<M>,
    answers: Vec<Answer>,
    stop: Option<Duration>,
    /// The loop sleeps, or is about to: the next message must wake it.
    asleep: bool,
    ended: bool,
}

impl<M> Shared<M> {
    pub(crate) fn new(waker: Arc<dyn Wake>, mail_max: usize) -> Arc<Self> {
        let state = State { queue: Vec::new(), answers: Vec::new(), stop: None, asleep: false, ended: false };
        Arc::new(Shared { state: Mutex::new(state), waker, mail_max })
    }

    pub(crate) fn mailbox(self: &Arc<Self>) -> Mailbox<M> {
        Mailbox { shared: self.clone() }
    }

    /// Nothing runs under the lock that could panic half-way, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn ring(&self, mut state: MutexGuard<'_, State<M>>) {
        if std::mem::take(&mut state.asleep) {
            drop(state);
            if let Err(error) = self.waker.wake() {
                tracing::error!(%error, "cannot wake the loop");
            }
        }
    }

    /// The loop is about to wait. `false` if something has come, so it must not.
    pub(crate) fn fall_asleep(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.queue.is_empty() && state.answers.is_empty() && state.stop.is_none();
        state.asleep
    }

    /// Swaps what has come into `batch` (empty before).
    pub(crate) fn collect(&self, batch: &mut Vec<M>) -> Collected {
        let mut state = self.lock();
        state.asleep = false;
        std::mem::swap(&mut state.queue, batch);
        Collected { stop: state.stop.take(), answers: std::mem::take(&mut state.answers) }
    }

    /// From a thread of the pool.
    pub(crate) fn answer(&self, answer: Answer) {
        let mut state = self.lock();
        if !state.ended {
            state.answers.push(answer);
            self.ring(state);
        }
    }

    /// Refuses everything from here on, and drops what waits.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        let waiting = std::mem::take(&mut state.queue);
        drop(state);
        drop(waiting);
    }
}
