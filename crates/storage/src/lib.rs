//! Engine and log traits, key layout, the segment log, and the memory engine with its crash model.

mod batch;
pub mod layout;

pub use batch::WriteOp;
