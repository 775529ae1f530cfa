//! The network framework: event loop, timers, buffers, connections, server and client.
//!
//! A reactor: one thread waits for readiness, reads, lets the application process, and writes. An application writes
//! *decode*, *process* and *encode*; the framework owns everything else. Read [`Protocol`] and [`Application`] first, then
//! [`Net`], then [`EventLoop`].
//!
//! ```
//! use dstore_net::*;
//!
//! struct Echo;
//!
//! impl Application for Echo {
//!     type Mail = ();
//!     type Timer = ();
//!     fn on_mail(&mut self, _: &mut Net<Self>, (): ()) {}
//! }
//!
//! struct Line;
//!
//! impl Protocol<Echo> for Line {
//!     type Message<'a> = &'a [u8];
//!     type Error = std::convert::Infallible;
//!
//!     fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, Self::Error> {
//!         Ok(match input.iter().position(|byte| *byte == b'\n') {
//!             Some(end) => Decoded::Message(&input[..=end], end + 1),
//!             None => Decoded::Incomplete { needed: 0 },
//!         })
//!     }
//!
//!     fn process(&mut self, _: &mut Echo, cx: &mut Context<'_, Echo>, line: &[u8]) {
//!         cx.write(line);
//!     }
//! }
//!
//! let mut event_loop = EventLoop::new(LoopConfig::default(), Echo)?;
//! let any = Address::Tcp(([127, 0, 0, 1], 0).into());
//! event_loop.net().listen(&any, ListenerConfig::default(), |_, _| Some(Line))?;
//! event_loop.mailbox().stop(std::time::Duration::ZERO); // a real server would not, yet
//! event_loop.run()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariants: callbacks never nest; a connection is closed in one place and its protocol told once; nothing here blocks
//! but the poller; the clock is read by the poller alone.

mod accept;
mod backoff;
mod config;
mod connect;
mod connection;
mod driver;
mod error;
mod event_loop;
mod link;
mod mailbox;
mod net;
mod output;
mod pool;
mod protocol;
pub mod sys;
mod threads;
mod timers;
mod transfer;

pub use backoff::Backoff;
pub use config::{ConnectionConfig, ListenerConfig, LoopConfig, PanicPolicy};
pub use connect::Target;
pub use connection::ConnectionState;
pub use error::{CloseReason, ConnectError, LoopError, PanicReport};
pub use event_loop::EventLoop;
pub use link::LinkId;
pub use mailbox::{Mailbox, PostError};
pub use net::{ConnectionId, ListenerId, Net};
pub use output::Output;
pub use pool::{Pool, PoolFull};
pub use protocol::{Application, Context, Decoded, Protocol};
pub use sys::{Address, ListenOptions};
pub use threads::LoopThread;
pub use timers::{TimerId, Timers};
