//! What a node keeps on disk: [`Engine`] for its applied data, [`Log`] for the entries that led there, and the key layout.
//!
//! For the node, which knows only the traits. `dstore-storage-rocksdb` has the engine for real data; this crate has the
//! segment log, and a second implementation of both traits in memory that can lose power, for the simulator and tests.
//!
//! The two halves make one promise together: **the log is the engine's write-ahead log.** An entry is durable when the
//! log says so; the engine is told of it later and may forget it in a crash; the log keeps every entry until the engine
//! has the applied position *persisted*, so that a restart replays what was forgotten.
//!
//! Read [`Engine`] and [`Log`] first; [`snapshot`] is how replicas hand each other the data itself. `docs/storage.md` draws the file formats byte by byte and argues the recovery rules.

mod batch;
pub mod engine;
mod ids;
mod join;
pub mod layout;
pub mod log;
mod mix;
pub mod snapshot;
#[cfg(feature = "suite")]
pub mod suite;

pub use batch::WriteOp;
pub use bytes::Bytes;
pub use engine::{Caching, Cursor, Direction, Engine, EngineError, EngineStats, MemoryEngine, Reader};
pub use ids::{LogIndex, Position, RangeId, Term};
pub use join::join;
pub use log::{Entry, HardState, Log, LogError, LogOp, MemoryLog, SegmentLog, SegmentOptions};
