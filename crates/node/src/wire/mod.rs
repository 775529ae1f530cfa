//! What nodes say to each other, as bytes. The bodies are protobuf messages; the frames around them are the RPC
//! library's.
//!
//! | number | kind | what |
//! |---|---|---|
//! | 1 | message | [`RAFT`]: one message of one range's group |
//! | 2 | message | [`RETAIN`]: the leader says from where on the log is still needed by somebody |
//! | 3 | message | [`ANNOUNCE`]: a node says where it is, to the leader of the system range |
//! | 4 | message | [`FORGET`]: a gateway says which of its connections are closed |
//! | 5 | message | [`REPORT`]: a node says how its disk is, to the leaders of its ranges |
//! | 6 | message | [`SUM`]: a replica tells the leader the sum of its data, at the entry of a check |
//! | 16 | call | [`EXECUTE`]: a gateway has a batch of commands executed by the leader of a range |
//! | 17 | call | [`ADMINISTER`]: an operator wants something done, or a node wants to join |
//! | 18 | call | [`GREET`]: a node says to one it has just connected to who it is, and learns who else there is |
//! | 32 | stream | [`SNAPSHOT`]: the data of a range; the opening says of which, the chunks are `dstore-storage`'s |
//!
//! Numbers are never used for something else later. A node that does not know one answers so, or passes a message over.

mod batch;
mod consensus;

pub(crate) use batch::{Execute, Executed, Refused};
pub(crate) use consensus::{RaftBody, kind_number, kind_of};

use dstore_rpc::service::{CallMethod, MessageMethod};

/// One message of one range's group.
pub(crate) const RAFT: MessageMethod<RaftBody> = MessageMethod::new(1, "raft");
/// From where on the log is still needed by somebody.
pub(crate) const RETAIN: MessageMethod<Retain> = MessageMethod::new(2, "retain");
/// Where a node is.
pub(crate) const ANNOUNCE: MessageMethod<NodeRecord> = MessageMethod::new(3, "announce");
/// Which connections of a gateway are closed.
pub(crate) const FORGET: MessageMethod<Forget> = MessageMethod::new(4, "forget");
/// How a node's disk is.
pub(crate) const REPORT: MessageMethod<Report> = MessageMethod::new(5, "report");
/// What a replica has, at the entry of a check.
pub(crate) const SUM: MessageMethod<Sum> = MessageMethod::new(6, "sum");
/// Executes a batch of commands.
pub(crate) const EXECUTE: CallMethod<Execute, Executed> = CallMethod::new(16, "execute");

/// Does what an operator wants.
pub const ADMINISTER: CallMethod<Administer, Administered> = CallMethod::new(17, "administer");

/// Two nodes that have just connected tell each other who is who.
pub(crate) const GREET: CallMethod<NodeRecord, Greeted> = CallMethod::new(18, "greet");

/// Carries a snapshot.
pub const SNAPSHOT: MessageMethod<SnapshotOpening> = MessageMethod::new(32, "snapshot");

/// What an operator wants of the node he asks; one of the following.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Administer {
    /// That it hands over its leadership.
    #[prost(message, optional, tag = "1")]
    pub hand_over: Option<HandOver>,
    /// That a node becomes a member.
    #[prost(message, optional, tag = "2")]
    pub join: Option<Join>,
    /// That a node is one no more.
    #[prost(message, optional, tag = "3")]
    pub remove: Option<Remove>,
    /// That the replicas of a range are compared.
    #[prost(message, optional, tag = "4")]
    pub check: Option<Check>,
}

/// That the replicas of a range are compared. Asked again, with the number that the answer gave, until it is not `pending`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Check {
    /// Which range.
    #[prost(uint64, tag = "1")]
    pub range: u64,
    /// The comparison asked after; 0 to begin one.
    #[prost(uint64, tag = "2")]
    pub id: u64,
}

/// That a node becomes a member of the cluster. Asked again until the answer is not `pending`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Join {
    /// Its id, drawn with its disk.
    #[prost(fixed64, tag = "1")]
    pub node: u64,
    /// Which of its starts this is.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    /// Where its peers reach it.
    #[prost(string, tag = "3")]
    pub peer_address: String,
    /// The version it runs.
    #[prost(string, tag = "4")]
    pub version: String,
}

/// That a node is a member no more. Asked again until the answer is not `pending`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Remove {
    /// Which.
    #[prost(fixed64, tag = "1")]
    pub node: u64,
    /// Even if the others do not seem to be able to go on without it.
    #[prost(bool, tag = "2")]
    pub force: bool,
}

/// Where a member is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MemberAddress {
    /// Which.
    #[prost(fixed64, tag = "1")]
    pub node: u64,
    /// Where its peers reach it.
    #[prost(string, tag = "2")]
    pub peer_address: String,
}

/// What the stream of a snapshot begins with.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotOpening {
    /// Consensus' message that goes with it, as [`RAFT`] would carry it.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) raft: bytes::Bytes,
    /// Names the snapshot; its chunks carry it too.
    #[prost(uint64, tag = "2")]
    pub(crate) id: u64,
}

/// What a node says to one that has just connected to it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Greeted {
    /// The ranges that the answering node leads and that the removed node has left: the asking one, or the one that it
    /// asked about.
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) left: Vec<u64>,
    /// All nodes that the answering one knows.
    #[prost(message, repeated, tag = "2")]
    pub(crate) nodes: Vec<NodeRecord>,
}

/// That a node hands over its leadership of every range.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HandOver {
    /// To this node; 0 for the one that is best prepared.
    #[prost(fixed64, tag = "1")]
    pub to: u64,
}

/// What came of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Administered {
    /// Why it was not done; empty if it was, or has begun.
    #[prost(string, tag = "1")]
    pub error: String,
    /// Where the node that could do it is, if another.
    #[prost(string, tag = "2")]
    pub peer_address: String,
    /// What was done, or is being done, in words.
    #[prost(string, tag = "3")]
    pub done: String,
    /// It has begun; ask again to hear of its end.
    #[prost(bool, tag = "4")]
    pub pending: bool,
    /// To a node that joined, and to whoever has one removed: the members.
    #[prost(message, repeated, tag = "5")]
    pub members: Vec<MemberAddress>,
    /// Names the comparison of replicas that was begun.
    #[prost(uint64, tag = "6")]
    pub check: u64,
}

/// What a replica has, at the entry of a check.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Sum {
    #[prost(uint64, tag = "1")]
    pub(crate) range: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) check: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) index: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) records: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) bytes: u64,
    #[prost(fixed32, tag = "7")]
    pub(crate) crc32c: u32,
}

/// Everything up to `index` is durable at every member: nobody will ask for it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Retain {
    #[prost(uint64, tag = "1")]
    pub(crate) range: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) index: u64,
}

/// How a node's disk is.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Report {
    /// 0 there is room, 1 so little that the data should not grow, 2 and above so little that only removals fit.
    #[prost(uint32, tag = "1")]
    pub(crate) space: u32,
    /// Writes to the log stand still.
    #[prost(bool, tag = "2")]
    pub(crate) stalled: bool,
}

/// What the cluster knows of a node. Also the value of its record in the system range.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub(crate) struct NodeRecord {
    #[prost(fixed64, tag = "1")]
    pub(crate) node: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) incarnation: u64,
    #[prost(string, tag = "3")]
    pub(crate) peer_address: String,
    #[prost(string, tag = "4")]
    pub(crate) client_address: String,
    #[prost(string, tag = "5")]
    pub(crate) version: String,
    /// When it was removed from the cluster, in milliseconds since the Unix epoch; 0 while it is a member. Such a record
    /// stays, so that nobody comes back under this id.
    #[prost(uint64, tag = "6")]
    pub(crate) removed_at_ms: u64,
}

impl NodeRecord {
    /// Whether the node was removed from the cluster.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed_at_ms != 0
    }
}

/// What the cluster knows of a range: the value of its descriptor in the system range.
#[derive(Clone, Eq, PartialEq, prost::Message)]
pub(crate) struct Descriptor {
    #[prost(uint64, tag = "1")]
    pub(crate) range: u64,
    /// First key; empty for the beginning of the key space.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) start: bytes::Bytes,
    /// Key behind the last; empty for the end of the key space.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) end: bytes::Bytes,
    #[prost(fixed64, repeated, tag = "4")]
    pub(crate) replicas: Vec<u64>,
    /// Grows with every change.
    #[prost(uint64, tag = "5")]
    pub(crate) generation: u64,
}

/// Connections of a gateway that are closed, so that what they had executed need not be remembered.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Forget {
    #[prost(uint64, tag = "1")]
    pub(crate) range: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) epoch: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) incarnation: u64,
    #[prost(uint64, repeated, tag = "5")]
    pub(crate) connections: Vec<u64>,
}
