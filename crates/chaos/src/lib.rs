//! Real processes under real faults: five `dstore` nodes on machines of a private network, stock Redis clients that write
//! down all they did and saw, a nemesis, and a judge.
//!
//! ```text
//!   plan (seed) ──> nemesis ──> world { processes, packets, disks }
//!                                  ^
//!   clients ──requests─────────────┘
//!      └──records──> judge ──> verdict ──> report
//! ```
//!
//! A run has a safety phase, in which faults come as the plan drew them, and a liveness phase: faults stop, and within a
//! bounded time every node serves and every client succeeds. At the end all members hold the same, and every acknowledged
//! write is there.
//!
//! To read first: [`run`] (a run from beginning to verdict), [`world`] (what can be done to nodes), [`nemesis`], then
//! [`judge`]. `docs/testing.md` says how to use it, and what it cannot show. [`redis`] lets the same clients and the same
//! judge look at a Redis primary with a replica.

pub mod auditor;
pub mod clients;
pub mod crew;
pub mod judge;
pub mod nemesis;
pub mod redis;
pub mod report;
pub mod run;
pub mod world;
