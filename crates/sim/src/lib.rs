//! The deterministic simulator: a whole cluster in one thread, on a seed.
//!
//! It runs what production runs: the core of a node (`dstore-node`), consensus (`dstore-raft`), the protocol between nodes
//! (`dstore-rpc`) and that of clients (`dstore-resp`), over a network, disks and clocks that are made up here and misbehave
//! as a seed says. Clients append to lists and read them; what they were told is judged by a checker of strict
//! serializability, and what nodes store by an [`audit`]. The same seed and the same binary give the same run, to the last message.
//!
//! ```text
//!   workload ──bytes──> network ──> machine { process { core, peers }, disks, clocks } ──> network ──bytes──> workload
//!                          ^                            ^                                                      │
//!                          └─────────── nemesis ────────┘                        recorder ──history──> checker <┘
//! ```
//!
//! To read first: [`run`] (a seed from beginning to verdict), [`world`] (the queue of events), [`process`] (a node's turn, as
//! the server does it), [`checker`] (what a history must be like). `docs/testing.md` says how to use it.
//!
//! What it cannot see: the kernel, RocksDB, real disks, and the code of `dstore-server` and `dstore-net` around the core.

pub mod asker;
pub mod audit;
pub mod carrier;
pub mod checker;
pub mod fleet;
pub mod machine;
pub mod narrow;
pub mod nemesis;
pub mod network;
pub mod peers;
pub mod process;
pub mod random;
pub mod run;
pub mod shrink;
pub mod time;
pub mod total;
pub mod trace;
pub mod workload;
pub mod world;
