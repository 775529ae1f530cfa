//! How the C library's allocator, which RocksDB's C++ uses, keeps memory. The Rust side has an allocator of its own.
//!
//! By default each thread may get a heap of its own, and what lies free in one is of no use to the others: with 5 GB of data
//! under a budget of 512 MiB that kept 50 to 100 MiB. To have large pieces mapped by themselves, so that they go back when they
//! are freed, would save some more, and cost a SET of 10 KB half as much again: every page of every memtable is new then.

#![allow(unsafe_code)]

use std::sync::Once;

/// Heaps: one for the threads that write, mostly, and one for those that read.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// Tells the allocator, once in a process. Before there are threads that use it.
pub(crate) fn bound() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(target_env = "gnu")]
        // SAFETY: `mallopt` takes plain numbers and locks what it changes. What it refuses stays as it was.
        let taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) != 0 };
        #[cfg(target_env = "gnu")]
        if !taken {
            tracing::debug!("the C library does not bound its heaps: RocksDB may take more memory than its budget");
        }
    });
}
