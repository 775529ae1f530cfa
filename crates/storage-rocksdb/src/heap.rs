//! How the C library's allocator, which RocksDB's C++ uses, keeps memory. The Rust side has an allocator of its own.
//!
//! By default each thread may get a heap of its own, and what lies free in one is of no use to the others: with 5 GB of data
//! under a budget of 512 MiB that kept 50 to 100 MiB. And the larger the pieces a program has freed, the larger are those
//! that come from the heap next time: memtables then leave holes, instead of going back to the system.

#![allow(unsafe_code)]

use std::sync::Once;

/// Heaps: one for the threads that write, mostly, and one for those that read.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// From this size on a piece is mapped by itself, and goes back when it is freed: the pieces of memtables, and buffers of
/// compactions, but not blocks.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: libc::c_int = 256 << 10;

/// Tells the allocator, once in a process. Before there are threads that use it.
pub(crate) fn bound() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(target_env = "gnu")]
        // SAFETY: `mallopt` takes plain numbers and locks what it changes. What it refuses stays as it was.
        let taken = unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) != 0
                && libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN) != 0
        };
        #[cfg(target_env = "gnu")]
        if !taken {
            tracing::debug!("the C library does not bound its heaps: RocksDB may take more memory than its budget");
        }
    });
}
