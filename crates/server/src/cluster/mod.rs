//! `dstore cluster status`: how the nodes of a cluster stand, asked from outside as any client could.
//!
//! [`resp`] is the client, [`info`] reads what a node says of itself and of the others, [`status`] puts it together and
//! judges.

pub mod info;
pub mod resp;
pub mod status;
