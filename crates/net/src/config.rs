//! Limits and times of loops, listeners and connections, each with its reason.

use std::time::Duration;

use bytes::Bytes;

use crate::pool::Pool;
use crate::sys::ListenOptions;

/// What to do when a callback of a connection panics.
///
/// The application value was lent to the callback as `&mut` and may be half changed. Whether it can still be trusted,
/// only its author knows; hence the cautious default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PanicPolicy {
    /// Stop the loop: [`EventLoop::run`](crate::EventLoop::run) returns [`LoopError::Panicked`](crate::LoopError).
    /// Connections are reset, no further callback runs. For state that must not be wrong.
    #[default]
    StopLoop,
    /// Close the connection, report it to [`Application::on_panic`](crate::Application::on_panic), go on. For loops whose
    /// connections share nothing that a panic could leave half done. A panic in a callback of the application itself still
    /// stops the loop: there is no connection to blame.
    CloseConnection,
}

/// Settings of one loop.
#[derive(Clone, Debug)]
pub struct LoopConfig {
    /// Connections of the whole loop, both ways. Each costs a descriptor and a few hundred bytes.
    pub connections_max: usize,
    /// Bytes read from one connection in one turn; a flood waits for the next turn behind everyone else.
    pub read_bytes_per_turn_max: usize,
    /// Connections accepted from one listener in one turn, so that a storm of connects does not stall the established.
    pub accepts_per_turn_max: usize,
    /// Size of the buffer that all connections of the loop read into.
    pub read_buffer_bytes: usize,
    /// Messages that wait in the mailbox before [`Mailbox::post`](crate::Mailbox::post) refuses.
    pub mail_max: usize,
    /// After `EMFILE` or the like, when to try accepting again (besides when a connection closes).
    pub accept_retry: Duration,
    /// See [`PanicPolicy`].
    pub panic_policy: PanicPolicy,
    /// Threads for names and for [`Net::run_blocking`](crate::Net::run_blocking). `None`: the loop makes a small pool of its
    /// own when it first needs one. Give several loops one to share.
    pub pool: Option<Pool>,
}

impl Default for LoopConfig {
    fn default() -> Self {
        LoopConfig {
            connections_max: 100_000,
            read_bytes_per_turn_max: 256 * 1024,
            accepts_per_turn_max: 128,
            read_buffer_bytes: 64 * 1024,
            mail_max: 1 << 20,
            accept_retry: Duration::from_millis(100),
            panic_policy: PanicPolicy::StopLoop,
            pool: None,
        }
    }
}

/// Settings of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// Unprocessed input that may be buffered, hence the longest message.
    pub input_bytes_max: usize,
    /// Output above which the connection is no longer read from.
    pub output_high_bytes: usize,
    /// Output at which reading resumes. At most `output_high_bytes`.
    pub output_low_bytes: usize,
    /// Output at which the connection is given up. Room for what is under way when `output_high_bytes` is passed.
    pub output_bytes_max: usize,
    /// A connection whose peer gave no sign of life for so long is closed: no byte came, and none of the output that waits
    /// was taken. (What we send into an empty socket buffer proves nothing.) A paused connection is spared: it is we who do
    /// not listen. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// [`Protocol::on_quiet`](crate::Protocol::on_quiet) is called when nothing was sent for so long: the place for a
    /// heartbeat. `None`: never.
    pub heartbeat: Option<Duration>,
    /// An outbound connect, with the look-up of the name and all its addresses, may take so long. The addresses still to
    /// try share what is left of it, so that one that swallows packets does not cost the others their turn.
    pub connect_timeout: Duration,
    /// After a close was asked for, the output may take so long to be sent.
    pub close_timeout: Duration,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        ConnectionConfig {
            input_bytes_max: 64 * 1024 * 1024,
            output_high_bytes: 1024 * 1024,
            output_low_bytes: 256 * 1024,
            output_bytes_max: 256 * 1024 * 1024,
            idle_timeout: None,
            heartbeat: None,
            connect_timeout: Duration::from_secs(5),
            close_timeout: Duration::from_secs(30),
        }
    }
}

/// Settings of one listener.
#[derive(Clone, Debug, Default)]
pub struct ListenerConfig {
    /// How the socket listens.
    pub options: ListenOptions,
    /// For the connections it accepts.
    pub connection: ConnectionConfig,
    /// What to tell a connection beyond [`LoopConfig::connections_max`] before it is closed. `None`: such connections are
    /// not accepted but wait in the kernel's queue until another one closes.
    pub refusal: Option<Bytes>,
}
