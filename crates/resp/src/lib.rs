//! The Redis protocol: codec and command table.

mod reply;

pub use reply::Reply;
