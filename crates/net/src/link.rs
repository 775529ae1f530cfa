//! A link: an outbound connection that is made again whenever it is lost.
//!
//! For peers that should always be connected, as the nodes of a cluster are. The loop waits with [`Backoff`] between
//! attempts; a connection that stayed up for the backoff's longest wait starts the series anew, so a peer that accepts and
//! drops at once is not hammered.

use std::rc::Rc;
use std::time::Instant;

use crate::backoff::Backoff;
use crate::config::ConnectionConfig;
use crate::connect::Target;
use crate::net::{ConnectionId, Net, TimerEvent};
use crate::protocol::{Application, Handler, Protocol};
use crate::timers::TimerId;

/// Names a link of one loop; stale once the link is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    index: u32,
    generation: u32,
}

/// Makes the protocol of the next connection.
pub(crate) type Make<A> = Box<dyn FnMut(&mut A) -> Box<dyn Handler<A>>>;

pub(crate) struct Link<A> {
    generation: u32,
    target: Target,
    config: Rc<ConnectionConfig>,
    backoff: Backoff,
    /// Taken out while it runs.
    make: Option<Make<A>>,
    connection: Option<ConnectionId>,
    /// When the connection was established.
    established: Option<Instant>,
    /// Armed between two attempts.
    retry: Option<TimerId>,
}

impl<A: Application> Net<A> {
    /// Connects to `target`, and again whenever the connection is lost or cannot be made, until [`Net::close_link`]. Each
    /// connection gets a protocol of its own from `make`. The first attempt begins in this turn or the next.
    pub fn link<P: Protocol<A>>(
        &mut self,
        target: impl Into<Target>,
        config: ConnectionConfig,
        backoff: Backoff,
        mut make: impl FnMut(&mut A) -> P + 'static,
    ) -> LinkId {
        let generation = self.next_generation();
        let index = self.links.insert(Link {
            generation,
            target: target.into(),
            config: Rc::new(config),
            backoff,
            make: Some(Box::new(move |app| Box::new(make(app)))),
            connection: None,
            established: None,
            retry: None,
        });
        let id = LinkId { index: u32::try_from(index).expect("fewer than 2^32 links"), generation };
        let now = self.now;
        self.arm_link(id, now);
        id
    }

    /// The link's present connection, established or not; `None` while it waits for the next attempt.
    pub fn link_connection(&self, id: LinkId) -> Option<ConnectionId> {
        self.links.get(id.index as usize).filter(|link| link.generation == id.generation)?.connection
    }

    /// Ends a link, and closes its connection once that has sent its output.
    pub fn close_link(&mut self, id: LinkId) {
        if self.link_mut(id).is_none() {
            return;
        }
        let link = self.links.remove(id.index as usize);
        if let Some(timer) = link.retry {
            self.timers.remove(timer);
        }
        if let Some(connection) = link.connection {
            self.close(connection);
        }
    }

    fn link_mut(&mut self, id: LinkId) -> Option<&mut Link<A>> {
        self.links.get_mut(id.index as usize).filter(|link| link.generation == id.generation)
    }

    fn arm_link(&mut self, id: LinkId, at: Instant) {
        let timer = self.timers.insert(at, TimerEvent::Link(id));
        if let Some(link) = self.link_mut(id) {
            link.retry = Some(timer);
        }
    }

    /// The time for an attempt has come: what to call (outside of the books) to make its protocol.
    pub(crate) fn take_link_maker(&mut self, id: LinkId) -> Option<Make<A>> {
        let stopping = self.is_stopping();
        let link = self.link_mut(id)?;
        link.retry = None;
        if stopping { None } else { link.make.take() }
    }

    /// Starts the attempt with the protocol that was made.
    pub(crate) fn start_link(&mut self, id: LinkId, make: Make<A>, handler: Box<dyn Handler<A>>) {
        let Some(link) = self.link_mut(id) else { return };
        link.make = Some(make);
        let (target, config) = (link.target.clone(), link.config.clone());
        let connection = self.connect_handler(target, config, handler, Some(id));
        if let Some(link) = self.link_mut(id) {
            link.connection = Some(connection);
            link.established = None;
        }
    }

    pub(crate) fn link_established(&mut self, id: LinkId) {
        let now = self.now;
        if let Some(link) = self.link_mut(id) {
            link.established = Some(now);
        }
    }

    /// The link's connection is gone: wait, then try again.
    pub(crate) fn link_lost(&mut self, id: LinkId) {
        let now = self.now;
        let stopping = self.is_stopping();
        let Some(link) = self.link_mut(id) else { return };
        link.connection = None;
        if link.established.take().is_some_and(|at| now.saturating_duration_since(at) >= link.backoff.max()) {
            link.backoff.reset();
        }
        let delay = link.backoff.next_delay();
        if !stopping {
            self.arm_link(id, now + delay);
        }
    }
}
