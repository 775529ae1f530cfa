//! Futures run by the loop: `async-task` makes the task, the loop polls it at the end of its turn.
//!
//! Tasks stay on the thread of their loop. Whoever wakes one from another thread only puts it back into the queue and
//! rings the loop's bell; the poll happens on the loop.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::ThreadId;

use async_task::{Runnable, Task};

type Bell = Box<dyn Fn() + Send + Sync>;

struct Shared {
    ready: Mutex<VecDeque<Runnable>>,
    /// The loop's thread: its own wakes need no bell, because it looks before it waits.
    home: ThreadId,
    bell: OnceLock<Bell>,
}

/// The tasks of one loop that are ready to be polled.
pub(super) struct Tasks(Arc<Shared>);

impl Tasks {
    pub(super) fn new() -> Tasks {
        let home = std::thread::current().id();
        Tasks(Arc::new(Shared { ready: Mutex::default(), home, bell: OnceLock::new() }))
    }

    /// What to do when a task is woken from another thread. Set once.
    pub(super) fn set_bell(&self, bell: impl Fn() + Send + Sync + 'static) {
        if self.0.bell.set(Box::new(bell)).is_err() {
            panic!("the bell is set once");
        }
    }

    /// Makes a task of a future; it is first polled at the end of the turn. Dropping the handle cancels it.
    pub(super) fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let shared = self.0.clone();
        let schedule = move |runnable| {
            shared.lock().push_back(runnable);
            if std::thread::current().id() != shared.home
                && let Some(bell) = shared.bell.get()
            {
                bell();
            }
        };
        let (runnable, task) = async_task::spawn_local(future, schedule);
        runnable.schedule();
        task
    }

    /// Polls the tasks that are ready now, not those that become so meanwhile. False if there were none.
    pub(super) fn run_ready(&self) -> bool {
        let batch = std::mem::take(&mut *self.0.lock());
        let any = !batch.is_empty();
        for runnable in batch {
            runnable.run();
        }
        any
    }

    pub(super) fn is_idle(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl Shared {
    /// A push or a pop cannot panic half-way, so a poisoned queue is as good as any.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Runnable>> {
        self.ready.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
