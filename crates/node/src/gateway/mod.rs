//! The gateway: what stands between a client's requests and the data. It keeps each client's state ([`session`]), the
//! order of his replies, and his transactions ([`dispatch`]); brings his commands to the leader of the data, wherever that
//! is ([`route`]); and answers what needs no data itself: about the connection ([`connection`], [`clients`]), the node
//! ([`server`], [`config`], [`info`]), and what its clients do ([`slowlog`], [`latency`], [`monitor`]). Connections that
//! rest are in [`rest`]; commands of Redis that do not exist here in [`absent`]. What a command means to the data is
//! `dstore-kv`'s to say.

mod absent;
mod calls;
mod clients;
mod config;
mod connection;
mod dispatch;
mod info;
mod latency;
mod monitor;
mod rest;
mod route;
mod server;
mod session;
mod slowlog;

use std::collections::BTreeSet;

use dstore_raft::Time;

pub use server::{Facts, Host, LogUse, Stats, Usage};
pub use session::{ClientAddress, SessionId};

use calls::Calls;
use config::Settings;
pub(crate) use connection::DATABASES;
use info::Pace;
pub(crate) use route::{DEADLINE_INTERVAL, RETRY_INTERVAL};
pub(crate) use session::Sessions;

/// What a node keeps about its clients together. Each is described where it is used.
#[derive(Debug)]
pub(crate) struct Gateway {
    settings: Settings,
    calls: Calls,
    slow_log: slowlog::SlowLog,
    latency: latency::Latency,
    /// Sessions that are shown what others send.
    monitors: Vec<SessionId>,
    pause: Option<rest::Pause>,
    /// Sessions that a pause has stopped.
    postponed: usize,
    /// When sessions that rest are to be looked at.
    wakes: BTreeSet<(Time, SessionId)>,
    pace: Pace,
    next_pace: Time,
    /// The most memory that INFO has seen.
    peak_bytes: u64,
}

impl Gateway {
    pub(crate) fn new(now: Time) -> Gateway {
        Gateway {
            settings: Settings::default(),
            calls: Calls::default(),
            slow_log: slowlog::SlowLog::default(),
            latency: latency::Latency::default(),
            monitors: Vec::new(),
            pause: None,
            postponed: 0,
            wakes: BTreeSet::new(),
            pace: Pace::default(),
            next_pace: now,
            peak_bytes: 0,
        }
    }

    /// A session is gone: nothing of it stays behind.
    pub(crate) fn forget(&mut self, id: SessionId, wakes_at: Option<Time>) {
        if let Some(at) = wakes_at {
            self.wakes.remove(&(at, id));
        }
    }
}
