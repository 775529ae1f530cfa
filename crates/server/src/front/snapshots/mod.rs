//! Snapshots on their way out of this node and into it: the core says what is sent and what is wanted, threads read and
//! write the disk, and the loop carries bytes between them and the streams.
//!
//! ```text
//!  Output::SendSnapshot ──> reader ──chunk──> Outgoing ──as credit allows──> stream ═══> peer
//!  peer ═══> stream ──piece──> Incoming ──> taker: Install::add ──> Node::handle_snapshot ──> Output::Install ──> installer
//! ```
//!
//! What must hold:
//!
//! 1. The loop never reads or writes a disk, and never waits for one of these threads. The sender is slowed by credit, by
//!    its setting, and by how far it may read ahead; the receiver gives credit back as its thread takes bytes over.
//! 2. Memory is bounded whatever the size of the data: the sender holds [`AHEAD_CHUNKS`] and a window of the stream, the
//!    receiver a window and a chunk.
//! 3. Every `SendSnapshot` ends in one `handle_snapshot_sent`, however the stream ends; every `Install` in one
//!    `handle_installed`, unless the node ends before.
//! 4. A thread ends when the loop forgets what it works for. When the node stops it waits for them ([`Snapshots::join`]),
//!    so that none uses the engine while the process ends.
//!
//! On the stream each chunk of `dstore-storage` goes behind its length (4 bytes, little-endian), cut into pieces as credit
//! has it: so a chunk may be larger than the stream's window.

mod receiving;
mod sending;

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dstore_net::Net;
use dstore_node::{NodeError, SNAPSHOT};
use dstore_rpc::driver::StreamEvent;
use dstore_rpc::{Code, Execution, NodeId, Status, StreamId, TraceId};
use dstore_storage::snapshot::{Export, Install, InstallError};
use dstore_storage::{EngineError, RangeId, WriteOp};

use self::receiving::{Incoming, TakeError};
use self::sending::Outgoing;
use super::{Fatal, Front, Mail};
use crate::clock::now;
use crate::identity::node_text;

/// Chunks that are read before there is credit for them.
const AHEAD_CHUNKS: usize = 3;

/// Bytes of one piece on the stream: enough that frames cost little, little enough that credit is used well.
const PIECE_BYTES: usize = 256 << 10;

/// Bytes of the length in front of each chunk.
const LENGTH_BYTES: usize = 4;

/// How often a snapshot under way is spoken of.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What the threads tell the loop.
pub enum News {
    /// The next chunk of a transfer was read.
    Chunk(u64, Bytes),
    /// There are no more chunks; or the next one cannot be read.
    Read(u64, Result<(), EngineError>),
    /// So many bytes that came on a stream were taken over.
    Consumed(StreamId, usize),
    /// The last chunk was taken in: all of a snapshot is there.
    Taken(StreamId, Install),
    /// A snapshot cannot be taken in.
    Refused(StreamId, TakeError),
    /// A snapshot has replaced the data of a range; or could not.
    Installed(RangeId, Result<(), EngineError>),
}

/// How snapshots are carried.
#[derive(Clone, Copy, Debug)]
pub struct Carriage {
    /// Bytes that may be sent in a second; 0 for any number.
    pub bytes_per_second: u64,
    /// Bytes of the largest chunk that is taken.
    pub chunk_bytes_max: usize,
}

/// The snapshots of one node.
pub struct Snapshots {
    carriage: Carriage,
    outgoing: Option<Outgoing>,
    incoming: BTreeMap<StreamId, Incoming>,
    threads: Vec<JoinHandle<()>>,
}

impl Snapshots {
    pub(super) fn new(carriage: Carriage) -> Snapshots {
        Snapshots { carriage, outgoing: None, incoming: BTreeMap::new(), threads: Vec::new() }
    }

    /// Waits for the threads, which end soon because nothing is left that they could work for.
    pub fn join(self) {
        let Snapshots { outgoing, incoming, threads, .. } = self;
        drop((outgoing, incoming));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of a snapshot panicked");
            }
        }
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads.retain(|thread| !thread.is_finished());
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(work)?);
        Ok(())
    }
}

impl Front {
    // Sending.

    /// The core wants a snapshot carried to a peer.
    pub(super) fn send_snapshot(
        &mut self,
        net: &mut Net<Front>,
        to: NodeId,
        transfer: u64,
        body: Bytes,
        export: Export,
    ) {
        let stream = self.rpc.open_stream_raw(net.now(), to, SNAPSHOT.number, body, TraceId(0));
        let Some(stream) = stream else {
            return self.note_sent(net, transfer, Err("it is no peer of this node any more".to_owned()));
        };
        let (outgoing, work) =
            Outgoing::new((to, stream, transfer), export, self.snapshots.carriage, self.mailbox(net));
        self.snapshots.outgoing = Some(outgoing);
        if let Err(error) = self.snapshots.spawn("snapshot-reader", work) {
            self.end_outgoing(net, &format!("no thread to read it: {error}"));
        }
    }

    fn note_sent(&mut self, net: &mut Net<Front>, transfer: u64, result: Result<(), String>) {
        self.drive_soon(net, |node| node.handle_snapshot_sent(now(), transfer, result));
    }

    /// Sends what was read, as far as there is credit.
    fn push_chunks(&mut self, net: &mut Net<Front>) {
        if let Some(outgoing) = &mut self.snapshots.outgoing {
            outgoing.push(&mut self.rpc, net.now());
        }
    }

    /// Gives a snapshot on its way out up.
    fn end_outgoing(&mut self, net: &mut Net<Front>, why: &str) {
        if let Some(outgoing) = self.snapshots.outgoing.take() {
            let status = Status::new(Code::Cancelled, Execution::NotExecuted, why);
            self.rpc.stream_reset(net.now(), outgoing.stream, status);
            self.note_sent(net, outgoing.transfer, Err(why.to_owned()));
        }
    }

    /// The node stops: nobody sends or takes in snapshots any more. What came whole may still go in.
    pub(super) fn end_snapshots(&mut self, net: &mut Net<Front>) {
        self.end_outgoing(net, "the node that sends it stops");
        for stream in std::mem::take(&mut self.snapshots.incoming).into_keys() {
            let status = Status::new(Code::Cancelled, Execution::NotExecuted, "the node that takes it stops");
            self.rpc.stream_reset(net.now(), stream, status);
        }
    }

    // Receiving.

    /// A peer opened the stream of a snapshot.
    pub(super) fn take_snapshot(&mut self, net: &mut Net<Front>, from: NodeId, stream: StreamId, body: Bytes) {
        if self.stopping.is_some() {
            let status = Status::new(Code::Unavailable, Execution::NotExecuted, "the node stops");
            return self.rpc.stream_reset(net.now(), stream, status);
        }
        let (range, install) = match self.node.offer_snapshot(from, &body) {
            Ok(offered) => offered,
            Err(status) => return self.rpc.stream_reset(net.now(), stream, status),
        };
        let older = self.snapshots.incoming.iter().find(|(_, incoming)| incoming.range == range);
        if let Some(older) = older.map(|(stream, _)| *stream) {
            self.snapshots.incoming.remove(&older);
            let status = Status::new(Code::Cancelled, Execution::NotExecuted, "a newer snapshot comes");
            self.rpc.stream_reset(net.now(), older, status);
        }
        let chunk_bytes_max = self.snapshots.carriage.chunk_bytes_max;
        let (incoming, work) = Incoming::new((from, range, body), stream, install, chunk_bytes_max, self.mailbox(net));
        self.snapshots.incoming.insert(stream, incoming);
        if let Err(error) = self.snapshots.spawn("snapshot-taker", work) {
            self.refuse_snapshot(net, stream, Code::Overloaded, format!("no thread to take it: {error}"));
        }
    }

    fn snapshot_refused(&mut self, net: &mut Net<Front>, stream: StreamId, error: TakeError) {
        let code = match &error {
            TakeError::Install(InstallError::Engine(_)) => Code::Overloaded,
            _ => Code::InvalidRequest,
        };
        self.refuse_snapshot(net, stream, code, error.to_string());
        // With anything else the data itself is as it was, and goes on.
        if let TakeError::Install(InstallError::Engine(error @ EngineError::Failed(_))) = error {
            self.fail(net, NodeError::from(error));
        }
    }

    fn refuse_snapshot(&mut self, net: &mut Net<Front>, stream: StreamId, code: Code, why: String) {
        if let Some(incoming) = self.snapshots.incoming.remove(&stream) {
            let from = node_text(incoming.from);
            tracing::warn!("range {}: the snapshot of node {from} is refused: {why}", incoming.range);
            self.rpc.stream_reset(net.now(), stream, Status::new(code, Execution::NotExecuted, why));
        }
    }

    /// All of a snapshot is there: the core judges it, and the sender may know.
    fn snapshot_taken(&mut self, net: &mut Net<Front>, stream: StreamId, install: Install) {
        let Some(Incoming { from, body, .. }) = self.snapshots.incoming.remove(&stream) else { return };
        self.drive_soon(net, |node| {
            node.handle_snapshot(now(), from, &body, install);
            Ok(())
        });
        // Closed only where the sender has gone meanwhile; then it sends again, or does not need to.
        let _ = self.rpc.stream_end(net.now(), stream);
    }

    /// The core lets a snapshot replace the data of a range.
    pub(super) fn install_snapshot(
        &mut self,
        net: &mut Net<Front>,
        range: RangeId,
        install: Install,
        ops: Vec<WriteOp>,
    ) {
        let mailbox = self.mailbox(net);
        let work = move || {
            let began = Instant::now();
            let result = match install.finish(&ops) {
                Ok(sum) => {
                    let (records, millis) = (sum.records, began.elapsed().as_millis());
                    tracing::info!("range {range}: let a snapshot of {records} records in within {millis} ms");
                    Ok(())
                }
                Err(InstallError::Engine(error)) => Err(error),
                Err(InstallError::Chunk(error)) => Err(EngineError::Failed(error.to_string())),
            };
            // Refused only by a loop that has ended.
            let _ = mailbox.post(Mail::Snapshot(News::Installed(range, result)));
        };
        if let Err(error) = self.snapshots.spawn("snapshot-installer", work) {
            self.fail(net, Fatal::Flush(format!("no thread to let a snapshot in: {error}")));
        }
    }

    // What the streams and the threads tell.

    pub(super) fn on_snapshot_stream(&mut self, net: &mut Net<Front>, event: StreamEvent) {
        match event {
            StreamEvent::Chunk { stream, body, end } => {
                let Some(incoming) = self.snapshots.incoming.get_mut(&stream) else {
                    return self.rpc.stream_consumed(net.now(), stream, body.len());
                };
                incoming.take(body, end);
            }
            StreamEvent::Writable(_) => self.push_chunks(net),
            StreamEvent::Closed(stream, result) => {
                self.snapshots.incoming.remove(&stream);
                let ended = self.snapshots.outgoing.take_if(|outgoing| outgoing.stream == stream);
                if let Some(outgoing) = ended {
                    let result = result.map_err(|status| status.to_string());
                    self.note_sent(net, outgoing.transfer, result);
                }
            }
        }
    }

    pub(super) fn on_snapshot_news(&mut self, net: &mut Net<Front>, news: News) {
        match news {
            News::Chunk(transfer, chunk) => {
                if let Some(outgoing) = self.snapshots.outgoing.as_mut().filter(|out| out.transfer == transfer) {
                    outgoing.add(chunk);
                    self.push_chunks(net);
                }
            }
            News::Read(transfer, result) => {
                let Some(outgoing) = self.snapshots.outgoing.as_mut().filter(|out| out.transfer == transfer) else {
                    return;
                };
                match result {
                    Ok(()) => {
                        outgoing.all_read();
                        self.push_chunks(net);
                    }
                    // What cannot be read for a snapshot could not be read for a client either.
                    Err(error) => self.fail(net, NodeError::from(error)),
                }
            }
            News::Consumed(stream, bytes) => self.rpc.stream_consumed(net.now(), stream, bytes),
            News::Taken(stream, install) => self.snapshot_taken(net, stream, install),
            News::Refused(stream, error) => self.snapshot_refused(net, stream, error),
            News::Installed(range, result) => {
                self.drive_soon(net, |node| node.handle_installed(now(), range, result));
            }
        }
    }
}
