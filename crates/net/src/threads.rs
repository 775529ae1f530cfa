//! Loops on threads of their own.
//!
//! A loop belongs to the thread that made it (its protocols and callbacks need not be `Send`), so it is set up *on* its
//! thread; a set-up that fails (a port that is taken) is reported to whoever asked for it.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::LoopConfig;
use crate::error::LoopError;
use crate::event_loop::EventLoop;
use crate::mailbox::Mailbox;
use crate::net::Net;
use crate::protocol::Application;
use crate::sys::os::OsPoller;

/// A loop that runs on a thread of its own.
pub struct LoopThread<A: Application> {
    mailbox: Mailbox<A::Mail>,
    thread: JoinHandle<Result<A, LoopError>>,
}

impl<A: Application + Send> LoopThread<A> {
    /// Starts a thread called `name`, lets `setup` listen, connect and make the application there, then runs the loop. Returns
    /// once `setup` has, with what it hands out (the bound addresses, say).
    pub fn spawn<R: Send + 'static>(
        name: &str,
        config: LoopConfig,
        setup: impl FnOnce(&mut Net<A>) -> io::Result<(A, R)> + Send + 'static,
    ) -> io::Result<(Self, R)> {
        let (report, reported) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let built = OsPoller::new().and_then(|poller| {
                let mut net = Net::new(config, Box::new(poller));
                setup(&mut net).map(|(app, result)| (EventLoop::from_parts(app, net), result))
            });
            // Whoever asked waits below, so somebody receives.
            match built {
                Ok((event_loop, result)) => {
                    let _ = report.send(Ok((event_loop.mailbox(), result)));
                    event_loop.run()
                }
                Err(error) => {
                    let copy = io::Error::new(error.kind(), error.to_string());
                    let _ = report.send(Err(error));
                    Err(LoopError::Poll(copy))
                }
            }
        })?;
        match reported.recv() {
            Ok(Ok((mailbox, result))) => Ok((LoopThread { mailbox, thread }, result)),
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => Err(io::Error::other(format!("the set-up of loop {name} panicked"))),
        }
    }

    /// The way into the loop.
    pub fn mailbox(&self) -> Mailbox<A::Mail> {
        self.mailbox.clone()
    }

    /// Asks the loop to stop, giving its connections `drain`.
    pub fn stop(&self, drain: Duration) {
        self.mailbox.stop(drain);
    }

    /// Waits until the loop has ended, and hands its application back.
    pub fn join(self) -> Result<A, LoopError> {
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => Err(LoopError::Poll(io::Error::other("the loop's thread panicked outside of a callback"))),
        }
    }
}
