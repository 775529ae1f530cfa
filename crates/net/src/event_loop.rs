//! The loop itself: one thread, one poller, one application value.
//!
//! A turn: wait for events; deliver mail; serve ready listeners and connections, then those that have work without an
//! event (a budget used up, a pause taken back); fire due timers; `end_of_turn`; send what was written; bury the dead.
//! When the application has had enough for one turn, the ready connections that are left are served in the next, which does
//! not wait. What happens to one connection is in [`crate::driver`].

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::config::LoopConfig;
use crate::driver::Driver;
use crate::error::{CloseReason, LoopError};
use crate::mailbox::Mailbox;
use crate::net::{ConnectionId, ListenerId, Net, Stopping, TimerEvent};
use crate::protocol::Application;
use crate::sys::os::OsPoller;
use crate::sys::{Poller, Readiness};

/// One event loop with its application.
pub struct EventLoop<A: Application> {
    driver: Driver<A>,
    events: Vec<Readiness>,
    /// The first of them that was not served yet.
    next_event: usize,
    mail: Vec<A::Mail>,
    serving: Vec<ConnectionId>,
    started: bool,
}

impl<A: Application> EventLoop<A> {
    /// A loop on the operating system's sockets.
    pub fn new(config: LoopConfig, app: A) -> std::io::Result<Self> {
        Ok(Self::with_poller(config, app, Box::new(OsPoller::new()?)))
    }

    /// A loop on a poller of the caller's.
    pub fn with_poller(config: LoopConfig, app: A, poller: Box<dyn Poller>) -> Self {
        Self::from_parts(app, Net::new(config, poller))
    }

    pub(crate) fn from_parts(app: A, net: Net<A>) -> Self {
        EventLoop {
            driver: Driver { app, net },
            events: Vec::new(),
            next_event: 0,
            mail: Vec::new(),
            serving: Vec::new(),
            started: false,
        }
    }

    /// The application.
    pub fn app(&mut self) -> &mut A {
        &mut self.driver.app
    }

    /// The loop's books, to listen, connect and arm timers before it runs or between two turns. Samples the clock, so that
    /// what is armed does not count from a time long past.
    pub fn net(&mut self) -> &mut Net<A> {
        self.driver.net.tick();
        &mut self.driver.net
    }

    /// The way into the loop for other threads.
    pub fn mailbox(&self) -> Mailbox<A::Mail> {
        self.driver.net.mailbox()
    }

    /// Whether the next turn has something to do even if no event, mail or timer comes. For those who turn the loop by hand.
    pub fn has_work(&self) -> bool {
        self.has_events() || self.driver.net.has_work()
    }

    fn has_events(&self) -> bool {
        self.next_event < self.events.len()
    }

    /// Runs until [`Net::stop`] (or [`Mailbox::stop`]) has been carried out, and hands the application back.
    pub fn run(mut self) -> Result<A, LoopError> {
        while self.turn(None)? {}
        Ok(self.driver.app)
    }

    /// One turn, waiting for events at most `wait` (`None`: as long as it takes). `false` when the loop has stopped.
    ///
    /// After an error the loop is dead: every connection is reset, the mailbox refuses.
    pub fn turn(&mut self, wait: Option<Duration>) -> Result<bool, LoopError> {
        let result = self.turn_inner(wait);
        if !matches!(result, Ok(true)) {
            self.driver.net.mail.end();
        }
        if result.is_err() {
            self.driver.drop_everything();
        }
        result
    }

    fn turn_inner(&mut self, wait: Option<Duration>) -> Result<bool, LoopError> {
        if !std::mem::replace(&mut self.started, true) {
            self.driver.guard_app(|app, net| app.on_start(net));
            self.driver.settle()?;
        }
        if self.has_events() {
            self.driver.net.tick();
        } else {
            self.wait(wait)?;
        }
        self.deliver_mail();
        // What is put off from here on is for the next turn, or one busy connection would get two helpings of this one.
        std::mem::swap(&mut self.serving, &mut self.driver.net.scheduled);
        let listeners = std::mem::take(&mut self.driver.net.pending_listeners);
        self.serve_events()?;
        if self.has_events() {
            self.put_off_again(listeners);
        } else {
            self.serve_put_off(listeners)?;
        }
        self.fire_timers()?;
        self.driver.guard_app(|app, net| app.end_of_turn(net));
        self.driver.flush_dirty();
        self.driver.settle()?;
        self.advance_stop()
    }

    /// Polls, then samples the clock.
    fn wait(&mut self, wait: Option<Duration>) -> Result<(), LoopError> {
        let net = &mut self.driver.net;
        let until_stop = match net.stopping {
            Some(Stopping::Draining(deadline)) => Some(deadline),
            _ => None,
        };
        let until = net.timers.next_deadline().into_iter().chain(until_stop).min();
        let busy = net.has_work() || !net.mail.fall_asleep();
        let timeout = if busy {
            Some(Duration::ZERO)
        } else {
            let until = until.map(|deadline| deadline.saturating_duration_since(net.poller.now()));
            until.into_iter().chain(wait).min()
        };
        self.events.clear();
        self.next_event = 0;
        net.poller.poll(&mut self.events, timeout)?;
        net.tick();
        Ok(())
    }

    fn deliver_mail(&mut self) {
        let net = &mut self.driver.net;
        let mut mail = std::mem::take(&mut self.mail);
        let collected = net.mail.collect(&mut mail);
        if let Some(drain) = collected.stop {
            net.stop(drain);
        }
        for answer in collected.answers {
            if let Some(done) = self.driver.net.take_waiting(answer.number) {
                self.driver.guard_app(|app, net| done(app, net, answer.result));
            }
        }
        for message in mail.drain(..) {
            self.driver.guard_app(|app, net| app.on_mail(net, message));
        }
        self.mail = mail;
    }

    /// Serves what is ready until the application has had enough.
    fn serve_events(&mut self) -> Result<(), LoopError> {
        while let Some(&event) = self.events.get(self.next_event) {
            self.next_event += 1;
            let id = ConnectionId::from_token(event.token);
            if id.generation == 0 {
                self.driver.accept(ListenerId(id.index));
            } else {
                self.driver.on_readiness(id, event);
            }
            self.driver.settle()?;
            if self.driver.app.turn_is_full() {
                break;
            }
        }
        Ok(())
    }

    /// Ready connections are served before those that had a helping already.
    fn put_off_again(&mut self, mut listeners: BTreeSet<ListenerId>) {
        let net = &mut self.driver.net;
        std::mem::swap(&mut self.serving, &mut net.scheduled);
        net.scheduled.append(&mut self.serving);
        net.pending_listeners.append(&mut listeners);
    }

    /// Those that have work although no event tells so.
    fn serve_put_off(&mut self, listeners: BTreeSet<ListenerId>) -> Result<(), LoopError> {
        for id in listeners {
            self.driver.accept(id);
            self.driver.settle()?;
        }
        let mut serving = std::mem::take(&mut self.serving);
        for id in serving.drain(..) {
            if let Some(connection) = self.driver.net.connection_mut(id) {
                connection.scheduled = false;
                self.driver.serve(id);
                self.driver.settle()?;
            }
        }
        self.serving = serving;
        Ok(())
    }

    fn fire_timers(&mut self) -> Result<(), LoopError> {
        let mark = self.driver.net.timers.mark();
        let now = self.driver.net.now;
        while let Some((id, event)) = self.driver.net.timers.pop_due(now, mark) {
            match event {
                TimerEvent::Application(timer) => self.driver.guard_app(|app, net| app.on_timer(net, id, timer)),
                TimerEvent::Connect(id) => self.driver.connect_timed_out(id),
                TimerEvent::Idle(id) => self.driver.idle_due(id),
                TimerEvent::Quiet(id) => self.driver.quiet_due(id),
                TimerEvent::Deadline(id) => self.driver.deadline_due(id),
                TimerEvent::Close(id) => self.driver.close_due(id),
                TimerEvent::Link(id) => self.driver.link_due(id),
                TimerEvent::AcceptRetry(id) => self.driver.net.retry_accept(id),
            }
            self.driver.settle()?;
        }
        Ok(())
    }

    /// Moves a graceful stop on. `false` when nothing is left to do.
    fn advance_stop(&mut self) -> Result<bool, LoopError> {
        let now = self.driver.net.now;
        match self.driver.net.stopping {
            None => return Ok(true),
            Some(Stopping::Asked(drain)) => {
                self.driver.net.stopping = Some(Stopping::Draining(far_at_most(now, drain)));
                self.driver.begin_drain();
                self.driver.settle()?;
            }
            Some(Stopping::Draining(deadline)) if deadline <= now => {
                self.driver.doom_all(|| CloseReason::Stopped);
                self.driver.settle()?;
            }
            Some(Stopping::Draining(_)) => {}
        }
        Ok(!self.driver.net.connections.is_empty())
    }
}

/// `now + drain`, or as far ahead as the clock goes.
fn far_at_most(now: Instant, drain: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    now.checked_add(drain).unwrap_or(now + YEAR)
}
