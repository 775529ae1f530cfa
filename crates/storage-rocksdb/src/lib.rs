//! The RocksDB engine: the only crate that links RocksDB's C++.
pub use rocksdb as _;
