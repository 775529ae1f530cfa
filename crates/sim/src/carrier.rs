//! Snapshots between nodes, as the driver of a node carries them: chunks are read, taken in and let in off the loop, and go
//! over a stream of the peers' bulk lane, paced by its credit.
//!
//! ```text
//!  Output::SendSnapshot ──> Job::Read ──> stream ──> Job::Take ──> Node::handle_snapshot
//!                              ^── credit ──┘          (last one)    Output::Install ──> Job::Finish ──> Node::handle_installed
//! ```
//!
//! A [`Job`] is work for another thread: it is done when the owner says so, and the loop hears of it in a later turn. A process
//! that ends before that has not done it, or has and does not know.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use dstore_node::{Now, ReadDone, Reading, SNAPSHOT, Settlement};
use dstore_rpc::{Code, Execution, NodeId, Status, StreamId as Flow};
use dstore_storage::snapshot::{Checksum, Export, Install, InstallError, SpanSum};
use dstore_storage::{EngineError, RangeId, WriteOp};

use crate::peers::{PeerEvent, Peers};
use crate::process::{Core, Fatal};

/// Work for another thread.
#[derive(Debug)]
pub enum Job {
    /// The next chunk of a snapshot that leaves.
    Read {
        /// The stream that it leaves by.
        flow: Flow,
        /// Where it comes from.
        export: Export,
    },
    /// The next chunk of a snapshot that comes.
    Take {
        /// The stream that it came by.
        flow: Flow,
        /// Where it goes.
        install: Install,
        /// The chunk.
        chunk: Bytes,
    },
    /// A snapshot that came replaces the data.
    Finish {
        /// Of which range.
        range: RangeId,
        /// All of it.
        install: Install,
        /// What goes on top.
        ops: Vec<WriteOp>,
    },
    /// What has gathered is given to the engine.
    Settle(Settlement),
    /// Something is read for a client, or for a sweep.
    Fetch(Reading),
    /// The next part of a range's data is summed up.
    Sum {
        /// Which range.
        range: RangeId,
        /// How far it is.
        checksum: Checksum,
    },
}

impl Job {
    /// What it is, for traces.
    pub fn name(&self) -> &'static str {
        match self {
            Job::Read { .. } => "a chunk is read",
            Job::Take { .. } => "a chunk is taken in",
            Job::Finish { .. } => "a snapshot replaces the data",
            Job::Settle(_) => "what has gathered settles",
            Job::Fetch(_) => "what was not in memory is read",
            Job::Sum { .. } => "a part of the data is summed up",
        }
    }
}

/// What came of a job.
#[derive(Debug)]
enum Done {
    Read { flow: Flow, export: Export, result: Result<Option<Bytes>, EngineError> },
    Taken { flow: Flow, install: Install, bytes: usize, result: Result<bool, InstallError> },
    Finished { range: RangeId, result: Result<(), EngineError> },
    Settled(Result<(), EngineError>),
    Fetched(ReadDone),
    Summed { range: RangeId, result: Result<SpanSum, EngineError> },
}

/// A snapshot that leaves.
#[derive(Debug)]
struct Leaving {
    transfer: u64,
    /// With a job while there is none here.
    export: Option<Export>,
    /// Read, and not sent for want of credit.
    chunk: Option<Bytes>,
}

/// A snapshot that comes.
#[derive(Debug)]
struct Coming {
    from: NodeId,
    body: Bytes,
    range: RangeId,
    /// With a job while there is none here.
    install: Option<Install>,
    chunks: VecDeque<Bytes>,
    /// The sender has no more.
    ended: bool,
}

/// All snapshots on their way out of a process and into it. See the [module](self).
#[derive(Debug)]
pub struct Carrier {
    chunk_bytes: usize,
    leaving: BTreeMap<Flow, Leaving>,
    coming: BTreeMap<Flow, Coming>,
    jobs: Vec<Job>,
    done: VecDeque<Done>,
}

/// Whom the carrier talks to.
pub struct Loop<'a> {
    /// The core.
    pub core: &'a mut Core,
    /// Its peers.
    pub peers: &'a mut Peers,
    /// The core's time.
    pub now: Now,
    /// The same for the peers.
    pub instant: Instant,
}

fn status(code: Code, message: impl Into<String>) -> Status {
    Status::new(code, Execution::NotExecuted, message.into())
}

impl Carrier {
    /// Nothing is on its way. Chunks have about so many bytes.
    pub fn new(chunk_bytes: usize) -> Carrier {
        Carrier {
            chunk_bytes,
            leaving: BTreeMap::new(),
            coming: BTreeMap::new(),
            jobs: Vec::new(),
            done: VecDeque::new(),
        }
    }

    /// The core wants a snapshot sent.
    ///
    /// # Errors
    ///
    /// As the core.
    pub fn send(
        &mut self,
        (to, transfer, body): (NodeId, u64, Bytes),
        mut export: Export,
        around: &mut Loop<'_>,
    ) -> Result<(), Fatal> {
        export.set_chunk_bytes(self.chunk_bytes);
        let Some(flow) = around.peers.open(around.instant, to, SNAPSHOT.number, body) else {
            return Ok(around.core.handle_snapshot_sent(
                around.now,
                transfer,
                Err(format!("there is no peer {to}")),
            )?);
        };
        self.leaving.insert(flow, Leaving { transfer, export: None, chunk: None });
        self.jobs.push(Job::Read { flow, export });
        Ok(())
    }

    /// The core wants a snapshot let in.
    pub fn install(&mut self, range: RangeId, install: Install, ops: Vec<WriteOp>) {
        self.jobs.push(Job::Finish { range, install, ops });
    }

    /// The core wants what has gathered given to the engine.
    pub fn settle(&mut self, settlement: Settlement) {
        self.jobs.push(Job::Settle(settlement));
    }

    /// The core wants something read that is not in memory.
    pub fn fetch(&mut self, reading: Reading) {
        self.jobs.push(Job::Fetch(reading));
    }

    /// The core wants a range's data summed up.
    pub fn sum(&mut self, range: RangeId, checksum: Checksum) {
        self.jobs.push(Job::Sum { range, checksum });
    }

    /// Something happened to a stream.
    ///
    /// # Errors
    ///
    /// As the core.
    pub fn handle(&mut self, event: PeerEvent, around: &mut Loop<'_>) -> Result<(), Fatal> {
        match event {
            PeerEvent::Opened { from, flow, method, body } => self.opened((from, flow), method, body, around),
            PeerEvent::Chunk { flow, body, end } => {
                if let Some(coming) = self.coming.get_mut(&flow) {
                    coming.ended |= end;
                    coming.chunks.extend(Some(body).filter(|body| !body.is_empty()));
                    self.take_next(flow, around);
                }
            }
            PeerEvent::Writable(flow) => self.send_next(flow, around),
            PeerEvent::Closed { flow, result } => {
                self.coming.remove(&flow);
                if let Some(leaving) = self.leaving.remove(&flow) {
                    let result = result.map_err(|status| status.to_string());
                    around.core.handle_snapshot_sent(around.now, leaving.transfer, result)?;
                }
            }
            other => unreachable!("{other:?} is not about a stream"),
        }
        Ok(())
    }

    fn opened(&mut self, (from, flow): (NodeId, Flow), method: u32, body: Bytes, around: &mut Loop<'_>) {
        let offered = if method == SNAPSHOT.number {
            around.core.offer_snapshot(from, &body)
        } else {
            Err(status(Code::UnknownMethod, format!("there is no stream {method} here")))
        };
        let (range, install) = match offered {
            Ok(offered) => offered,
            Err(status) => return around.peers.reset(around.instant, flow, status),
        };
        let older: Vec<Flow> =
            self.coming.iter().filter(|(_, coming)| coming.range == range).map(|(flow, _)| *flow).collect();
        for older in older {
            self.coming.remove(&older);
            around.peers.reset(around.instant, older, status(Code::Cancelled, "a newer snapshot comes"));
        }
        let coming = Coming { from, body, range, install: Some(install), chunks: VecDeque::new(), ended: false };
        self.coming.insert(flow, coming);
    }

    /// Sends the chunk at hand, if there is credit for it, and has the next one read.
    fn send_next(&mut self, flow: Flow, around: &mut Loop<'_>) {
        let Some(leaving) = self.leaving.get_mut(&flow) else { return };
        let Some(chunk) = leaving.chunk.take() else { return };
        match around.peers.send_chunk(around.instant, flow, chunk.clone()) {
            Ok(()) => self.jobs.extend(leaving.export.take().map(|export| Job::Read { flow, export })),
            Err(dstore_rpc::SendError::Blocked { .. }) => leaving.chunk = Some(chunk),
            Err(error) => around.peers.reset(around.instant, flow, status(Code::Unavailable, error.to_string())),
        }
    }

    /// Has the next chunk taken in, if no other is being taken in.
    fn take_next(&mut self, flow: Flow, around: &mut Loop<'_>) {
        let Some(coming) = self.coming.get_mut(&flow) else { return };
        let Some(install) = coming.install.take() else { return };
        match coming.chunks.pop_front() {
            Some(chunk) => self.jobs.push(Job::Take { flow, install, chunk }),
            None if coming.ended => {
                self.coming.remove(&flow);
                around.peers.reset(around.instant, flow, status(Code::InvalidRequest, "chunks are missing"));
            }
            None => coming.install = Some(install),
        }
    }

    /// How many jobs wait.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Whether one of them reads for a client, for a sweep, or for consensus.
    pub fn fetches(&self) -> bool {
        self.jobs.iter().any(|job| matches!(job, Job::Fetch(_)))
    }

    /// Whether one of them lets a snapshot in.
    pub fn lets_in(&self) -> bool {
        self.jobs.iter().any(|job| matches!(job, Job::Finish { .. }))
    }

    /// Takes a job that waits, any of them: they do not depend on each other.
    pub fn take_job(&mut self, number: usize) -> Job {
        self.jobs.swap_remove(number)
    }

    /// Does a job.
    pub fn work(&mut self, job: Job) {
        self.done.push_back(match job {
            Job::Read { flow, mut export } => {
                let result = export.next_chunk();
                Done::Read { flow, export, result }
            }
            Job::Take { flow, mut install, chunk } => {
                let result = install.add(&chunk);
                Done::Taken { flow, install, bytes: chunk.len(), result }
            }
            Job::Finish { range, install, ops } => {
                let result = match install.finish(&ops) {
                    Ok(_) => Ok(()),
                    Err(InstallError::Engine(error)) => Err(error),
                    Err(InstallError::Chunk(error)) => Err(EngineError::Failed(error.to_string())),
                };
                Done::Finished { range, result }
            }
            Job::Settle(settlement) => Done::Settled(settlement.run()),
            Job::Fetch(reading) => Done::Fetched(reading.run()),
            Job::Sum { range, mut checksum } => match checksum.step(self.chunk_bytes) {
                Ok(None) => return self.jobs.push(Job::Sum { range, checksum }),
                Ok(Some(sum)) => Done::Summed { range, result: Ok(sum) },
                Err(error) => Done::Summed { range, result: Err(error) },
            },
        });
    }

    /// Whether the loop has not heard yet of something that was done.
    pub fn has_news(&self) -> bool {
        !self.done.is_empty()
    }

    /// Tells the loop what was done.
    ///
    /// # Errors
    ///
    /// The engine failed, or as the core.
    pub fn take_news(&mut self, around: &mut Loop<'_>) -> Result<(), Fatal> {
        while let Some(done) = self.done.pop_front() {
            match done {
                Done::Read { flow, export, result } => self.read(flow, export, result, around)?,
                Done::Taken { flow, install, bytes, result } => self.taken(flow, install, (bytes, result), around)?,
                Done::Settled(result) => around.core.handle_settled(around.now, result)?,
                Done::Fetched(done) => around.core.handle_read(around.now, done)?,
                Done::Summed { range, result } => around.core.handle_checksum(around.now, range, result)?,
                Done::Finished { range, result } => around.core.handle_installed(around.now, range, result)?,
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        flow: Flow,
        export: Export,
        result: Result<Option<Bytes>, EngineError>,
        around: &mut Loop<'_>,
    ) -> Result<(), Fatal> {
        let Some(leaving) = self.leaving.get_mut(&flow) else { return Ok(()) };
        match result {
            Ok(Some(chunk)) => {
                (leaving.export, leaving.chunk) = (Some(export), Some(chunk));
                self.send_next(flow, around);
            }
            Ok(None) => around.peers.end(around.instant, flow),
            // What cannot be read for a snapshot could not be read for a client either.
            Err(error) => return Err(Fatal::Node(error.into())),
        }
        Ok(())
    }

    fn taken(
        &mut self,
        flow: Flow,
        install: Install,
        (bytes, result): (usize, Result<bool, InstallError>),
        around: &mut Loop<'_>,
    ) -> Result<(), Fatal> {
        // The stream may be over by now, and then nobody wants it.
        let Some(coming) = self.coming.get_mut(&flow) else { return Ok(()) };
        match result {
            Ok(false) => {
                coming.install = Some(install);
                around.peers.consumed(around.instant, flow, bytes);
                self.take_next(flow, around);
            }
            Ok(true) => {
                let Some(Coming { from, body, .. }) = self.coming.remove(&flow) else { return Ok(()) };
                around.core.handle_snapshot(around.now, from, &body, install);
                around.peers.consumed(around.instant, flow, bytes);
                around.peers.end(around.instant, flow);
            }
            Err(InstallError::Engine(error @ EngineError::Failed(_))) => {
                return Err(Fatal::Node(error.into()));
            }
            Err(error) => {
                self.coming.remove(&flow);
                around.peers.reset(around.instant, flow, status(Code::Unavailable, error.to_string()));
            }
        }
        Ok(())
    }
}
