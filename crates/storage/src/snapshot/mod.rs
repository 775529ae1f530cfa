//! Snapshots: how a replica gives the state in some key spans to another replica, and how that one takes it.
//!
//! For the node, which sends a follower that fell behind the log the data itself; and for comparing replicas. Nothing here
//! knows an engine: it stands on two methods of [`Engine`](crate::Engine), `freeze` (a consistent view that may go to
//! another thread) and `stage` (records that wait beside the data until one atomic step lets them in).
//!
//! ```text
//!  sender                                           receiver
//!  freeze --> Export --chunk--chunk--chunk--end-->  Install --> stage (on disk, not seen)
//!                                                   finish(applied state) --> seen and durable, in one step
//! ```
//!
//! # What must hold
//!
//! - All chunks of an [`Export`] are of one moment. Later writes are not in them.
//! - An [`Install`] takes the chunks in order, each once, unchanged, all of them; anything else is refused with the reason and
//!   changes nothing, so that the right chunk may still follow.
//! - Until `finish` nobody sees any of it; afterwards the spans hold the records sent and what the extra changes of
//!   `finish` say, nothing else, durably. A crash leaves one or the other. Dropping an [`Install`] leaves no trace.
//! - Memory: one chunk on either side, whatever the size of the data. A chunk has about [`CHUNK_BYTES`], or a single record.
//! - [`checksum`] depends on the records and their order alone, not on chunks, files or the engine.
//!
//! # Caveats
//!
//! All of this reads and writes the disk: run it off the loop. Chunks are not encrypted or compressed; that is the transport's
//! business. Checksums find damage, not malice.
//!
//! # Example
//!
//! ```
//! use dstore_storage::snapshot::{Export, Install, Spans};
//! use dstore_storage::{Bytes, Engine, MemoryEngine, Reader, WriteOp};
//!
//! let put = |key, value| WriteOp::Put { key: Bytes::from_static(key), value: Bytes::from_static(value) };
//! let (from, to) = (MemoryEngine::new(), MemoryEngine::new());
//! from.write(&[put(b"a", b"1"), put(b"b", b"2"), put(b"z", b"not sent")])?;
//! to.write(&[put(b"c", b"stale"), put(b"y", b"kept")])?;
//!
//! let spans = Spans::new(vec![Bytes::from("a")..Bytes::from("d")])?;
//! let mut export = Export::begin(&from, 7, spans.clone());
//! let mut install = Install::begin(&to, 7, spans)?;
//! while let Some(chunk) = export.next_chunk()? {
//!     install.add(&chunk)?;
//! }
//! install.finish(&[put(b"applied", b"42")])?;
//! assert_eq!(to.get(b"a")?, Some(Bytes::from("1")));
//! assert_eq!(to.get(b"c")?, None);
//! assert_eq!(to.get(b"y")?, Some(Bytes::from("kept")));
//! assert_eq!(to.get_persisted(b"applied")?, Some(Bytes::from("42")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod chunk;
mod export;
mod install;
mod spans;

pub use chunk::{CHUNK_BYTES, ChunkError};
pub use export::{Checksum, Export, checksum};
pub use install::{Install, InstallError, Stage};
pub use spans::{SpanError, SpanSum, Spans};
