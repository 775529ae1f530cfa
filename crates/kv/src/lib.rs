//! What commands mean: a pure function from a command and a view of the data to a reply and effects.
//!
//! # The contract
//!
//! [`evaluate`] takes a command of the command table, a [`View`] (get and scan) and a [`Context`] (which database, at
//! what time, within what limits) and gives an [`Outcome`]: the reply, and the effects as write operations on encoded
//! keys. It changes nothing itself. The leader of a range evaluates, logs the effects and applies them once they are
//! committed; followers apply the same effects and never evaluate.
//!
//! What must hold:
//!
//! 1. The outcome is a function of the arguments. No clock, no randomness, no global state.
//! 2. An error reply has no effects.
//! 3. A view that fails makes an `Err`, never a made-up reply: the node stops.
//! 4. Every written key gets a version of its own, above every version given before (see [`Mode::Write`]).
//! 5. After the effects are applied, the key count of a database is the number of its head records, and each head
//!    with an expiry has its record in the expiry index.
//! 6. A key whose deadline has come is invisible, and never comes back: see [`Outcome::needs_time`].
//!
//! Replies and errors are those of Redis 7.0, compared with the real one at random; `docs/kv.md` lists where and why
//! we differ. Connection-level commands (MULTI, SELECT, CLIENT, ...) are not here: they change a connection, not data.
//!
//! # Caveats
//!
//! RENAME, COPY and MOVE write the whole value anew. Counts and expiry index belong to one range; splitting a range must
//! divide them.
//!
//! Read [`Outcome`] and [`View`] first, then follow GET and SET through `strings.rs` and `evaluation.rs`.

mod bits;
mod context;
mod counters;
mod cursors;
mod draft;
mod dump;
mod evaluation;
mod expiry;
mod extended;
mod glob;
mod handlers;
mod keys;
mod lcs;
mod long;
mod number;
mod object;
mod options;
mod position;
mod random;
mod rename;
mod scan;
mod sort;
mod strings;
mod sweep;
mod value;
mod versions;
mod view;

pub use context::{Context, Limits, Mode, Outcome};
pub use cursors::{CursorTable, Cursors};
pub use evaluation::{evaluate, evaluates, key_count, version_of};
pub use long::LongRead;
pub use sweep::{Sweep, next_deadline, sweep};
pub use view::{CorruptReason, View, ViewError, Visitor};

pub use dstore_storage::Direction;
