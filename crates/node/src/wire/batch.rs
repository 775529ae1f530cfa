//! Batches of commands and what came of them, as they travel between a gateway and a leader.

use bytes::Bytes;
use dstore_raft::Time;
use dstore_resp::{ProtocolVersion, Reply, encode, resolve};
use prost::Message;

use crate::batch::{Batch, Command, Done, Item, Watched, Work};

/// A gateway asks the leader of a range to execute a batch.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Execute {
    #[prost(uint64, tag = "1")]
    pub(crate) range: u64,
    /// The leader that is meant: whoever leads another term refuses.
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    /// The gateway's connections to peers, counted: a copy that comes late by an old one is refused.
    #[prost(uint64, tag = "3")]
    pub(crate) epoch: u64,
    /// The gateway's start.
    #[prost(uint64, tag = "4")]
    pub(crate) incarnation: u64,
    /// The gateway's connection with its client.
    #[prost(uint64, tag = "5")]
    pub(crate) connection: u64,
    /// The number of the first piece of work.
    #[prost(uint64, tag = "6")]
    pub(crate) first: u64,
    #[prost(message, repeated, tag = "7")]
    pub(crate) items: Vec<WireItem>,
}

/// What the leader answers: one of the two.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Executed {
    /// In the order of the request.
    #[prost(message, repeated, tag = "1")]
    done: Vec<WireDone>,
    /// Why nothing was done: see [`Refused`].
    #[prost(enumeration = "Refused", tag = "2")]
    pub(crate) refused: i32,
}

/// Why a leader did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Refused {
    /// It did not refuse.
    No = 0,
    /// It does not lead the term named, or not yet.
    NotLeader = 1,
    /// It has too much to do.
    Busy = 2,
    /// The request came late, after a newer one of the gateway; or this version cannot read it.
    Stale = 3,
    /// It led when it began, and does not know what will come of it.
    Lost = 4,
    /// The work was done, and the reply is not remembered any more.
    Forgotten = 5,
}

const ONE: u32 = 1;
const BLOCK: u32 = 2;
const WATCH: u32 = 3;

/// A piece of work.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireItem {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(bool, tag = "2")]
    resp3: bool,
    #[prost(message, repeated, tag = "3")]
    commands: Vec<WireCommand>,
    #[prost(message, repeated, tag = "4")]
    watched: Vec<WireWatched>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireCommand {
    #[prost(uint32, tag = "1")]
    db: u32,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    args: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireWatched {
    #[prost(uint32, tag = "1")]
    db: u32,
    #[prost(bytes = "bytes", tag = "2")]
    key: Bytes,
    #[prost(uint64, tag = "3")]
    version: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireDone {
    #[prost(uint32, tag = "1")]
    kind: u32,
    /// Encoded replies: one of a command, all of a block.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    replies: Vec<Bytes>,
    /// A block did not run, because a watched key had changed.
    #[prost(bool, tag = "3")]
    changed: bool,
    #[prost(uint64, repeated, tag = "4")]
    versions: Vec<u64>,
}

impl Execute {
    /// Puts a batch in.
    pub(crate) fn set_batch(&mut self, batch: &Batch) {
        self.first = batch.first;
        self.items = batch.items.iter().map(to_wire).collect();
    }

    /// The batch. `None` if this version cannot read it.
    pub(crate) fn batch(self, now: Time) -> Option<Batch> {
        let items: Option<Vec<Item>> = self.items.into_iter().map(|item| from_wire(item, now)).collect();
        items.filter(|items| !items.is_empty()).map(|items| Batch { first: self.first, items })
    }
}

fn to_wire(item: &Item) -> WireItem {
    let command = |command: &Command| WireCommand { db: command.db.into(), args: command.args.clone() };
    let mut wire = WireItem { resp3: item.version == ProtocolVersion::Resp3, ..WireItem::default() };
    match &item.work {
        Work::One(one) => (wire.kind, wire.commands) = (ONE, vec![command(one)]),
        Work::Block { watched, commands } => {
            let watch = |watched: &Watched| WireWatched {
                db: watched.db.into(),
                key: watched.key.clone(),
                version: watched.version,
            };
            wire.kind = BLOCK;
            wire.commands = commands.iter().map(command).collect();
            wire.watched = watched.iter().map(watch).collect();
        }
        Work::Watch { db, keys } => {
            (wire.kind, wire.commands) = (WATCH, vec![WireCommand { db: (*db).into(), args: keys.clone() }]);
        }
    }
    wire
}

fn from_wire(wire: WireItem, arrived: Time) -> Option<Item> {
    let command = |wire: WireCommand| {
        let spec = (!wire.args.is_empty()).then(|| resolve(&wire.args).ok()).flatten()?;
        Some(Command { spec, args: wire.args, db: u8::try_from(wire.db).ok()? })
    };
    let work = match wire.kind {
        ONE => Work::One(command(wire.commands.into_iter().next()?)?),
        BLOCK => {
            let watch = |wire: WireWatched| {
                Some(Watched { db: u8::try_from(wire.db).ok()?, key: wire.key, version: wire.version })
            };
            Work::Block {
                watched: wire.watched.into_iter().map(watch).collect::<Option<_>>()?,
                commands: wire.commands.into_iter().map(command).collect::<Option<_>>()?,
            }
        }
        WATCH => {
            let WireCommand { db, args } = wire.commands.into_iter().next()?;
            Work::Watch { db: u8::try_from(db).ok()?, keys: args }
        }
        _ => return None,
    };
    let version = if wire.resp3 { ProtocolVersion::Resp3 } else { ProtocolVersion::Resp2 };
    Some(Item { work, version, arrived })
}

/// A reply's bytes in a version of the protocol.
pub(crate) fn encoded(reply: &Reply, version: ProtocolVersion) -> Bytes {
    if let Reply::Encoded(bytes) = reply {
        return bytes.clone();
    }
    let mut out = Vec::new();
    encode(reply, version, &mut out);
    Bytes::from(out)
}

fn done_to_wire(version: ProtocolVersion, done: &Done) -> WireDone {
    let bytes = |reply: &Reply| encoded(reply, version);
    match done {
        Done::Reply(reply) => WireDone { kind: ONE, replies: vec![bytes(reply)], ..WireDone::default() },
        Done::Block(None) => WireDone { kind: BLOCK, changed: true, ..WireDone::default() },
        Done::Block(Some(replies)) => {
            WireDone { kind: BLOCK, replies: replies.iter().map(bytes).collect(), ..WireDone::default() }
        }
        Done::Versions(versions) => WireDone { kind: WATCH, versions: versions.clone(), ..WireDone::default() },
    }
}

impl Executed {
    /// The answer to a batch that was done.
    pub(crate) fn of(batch: &Batch, done: &[Done]) -> Executed {
        let done = batch.items.iter().zip(done).map(|(item, done)| done_to_wire(item.version, done)).collect();
        Executed { done, refused: Refused::No as i32 }
    }

    /// The answer of a leader that did nothing.
    pub(crate) fn refusal(why: Refused) -> Executed {
        Executed { done: Vec::new(), refused: why as i32 }
    }

    /// What was done. `None` if this version cannot read it.
    pub(crate) fn done(self) -> Option<Vec<Done>> {
        let read = |wire: WireDone| {
            let mut replies = wire.replies.into_iter().map(Reply::Encoded);
            Some(match wire.kind {
                ONE => Done::Reply(replies.next()?),
                BLOCK => Done::Block((!wire.changed).then(|| replies.collect())),
                WATCH => Done::Versions(wire.versions),
                _ => return None,
            })
        };
        self.done.into_iter().map(read).collect()
    }

    /// The bytes of what was done, as a range remembers it; see [`Executed::from_memory`].
    pub(crate) fn single(version: ProtocolVersion, done: &Done) -> Bytes {
        let done = vec![done_to_wire(version, done)];
        Executed { done, refused: Refused::No as i32 }.encode_to_vec().into()
    }

    /// What was done, from the bytes that [`Executed::single`] made.
    pub(crate) fn from_memory(bytes: Bytes) -> Option<Done> {
        Executed::decode(bytes).ok()?.done()?.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Command {
        let args: Vec<Bytes> = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        Command { spec: resolve(&args).unwrap(), args, db: 3 }
    }

    #[test]
    fn a_batch_and_its_outcome_come_out_as_they_went_in() {
        let watched = vec![Watched { db: 1, key: Bytes::from_static(b"w"), version: 9 }];
        let works = [
            Work::One(command("SET k v")),
            Work::Block { watched, commands: vec![command("GET k"), command("INCR n")] },
            Work::Watch { db: 2, keys: vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")] },
        ];
        let version = ProtocolVersion::Resp3;
        let items = works.into_iter().map(|work| Item { work, version, arrived: Time::from_millis(7) }).collect();
        let batch = Batch { first: 42, items };
        let mut request = Execute { range: 1, term: 2, ..Execute::default() };
        request.set_batch(&batch);
        let read = Execute::decode(&request.encode_to_vec()[..]).unwrap();
        let read = read.batch(Time::from_millis(7)).unwrap();
        assert_eq!(format!("{read:?}"), format!("{batch:?}"));

        let done = [
            Done::Reply(Reply::OK),
            Done::Block(Some(vec![Reply::Null, Reply::Integer(1)])),
            Done::Versions(vec![4, 0]),
        ];
        let answer = Executed::of(&batch, &done).encode_to_vec();
        let read = Executed::decode(&answer[..]).unwrap().done().unwrap();
        let raw = |text: &'static str| Reply::Encoded(Bytes::from_static(text.as_bytes()));
        let expected = [
            Done::Reply(raw("+OK\r\n")),
            Done::Block(Some(vec![raw("_\r\n"), raw(":1\r\n")])),
            Done::Versions(vec![4, 0]),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn a_batch_of_another_version_is_not_read() {
        let item = WireItem { kind: 9, ..WireItem::default() };
        let request = Execute { items: vec![item], ..Execute::default() };
        assert!(request.batch(Time::default()).is_none());
        assert!(Execute::default().batch(Time::default()).is_none());
    }
}
