//! The gateway: what stands between a client's requests and the data. It keeps each client's state ([`session`]), the
//! order of his replies, and his transactions ([`dispatch`]); brings his commands to the leader of the data, wherever that
//! is ([`route`]); and answers what needs no data itself ([`connection`], [`server`]). What a command means to the data is
//! `dstore-kv`'s to say.

mod connection;
mod dispatch;
mod route;
mod server;
mod session;

pub use server::{Facts, Host, LogUse, Stats, Usage};
pub use session::{ClientAddress, SessionId};

pub(crate) use connection::DATABASES;
pub(crate) use route::{DEADLINE_INTERVAL, RETRY_INTERVAL};
pub(crate) use server::{Report, info};
pub(crate) use session::Sessions;
