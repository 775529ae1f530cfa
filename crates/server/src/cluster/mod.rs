//! `dstore cluster`: a cluster looked at and governed from outside. How the nodes stand is asked as any client could;
//! what they are to do takes the cluster's secret, see [`administer`].
//!
//! [`command`] is the command line, [`resp`] is the client, [`info`] reads what a node says of itself and of the others,
//! [`gathering`] asks all of them, [`status`] puts it together and judges.

pub mod administer;
pub mod command;
mod gathering;
pub mod info;
pub mod resp;
pub mod status;
