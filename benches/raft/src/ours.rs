//! A member that runs `dstore-raft`.

use bytes::Bytes;
use dstore_raft::{Config, Configuration, EntryKind, MemLog, Message, NodeId, Raft, Restored, Time};

use crate::{MEMBERS, Member};

pub(crate) struct Node {
    raft: Raft<MemLog>,
}

/// Time stands still: nothing here waits for any.
const NOW: Time = Time::from_millis(1000);

impl Member for Node {
    type Message = Message;

    fn new(at: usize) -> Node {
        let id = NodeId(at as u64 + 1);
        let first = Configuration::new((1..=MEMBERS as u64).map(NodeId), []);
        let restored = Restored::bootstrap(first);
        let raft = Raft::new(id, Config::default(), restored, MemLog::default(), NOW, id.0);
        Node { raft: raft.expect("a new group can start") }
    }

    fn campaign(&mut self) {
        self.raft.campaign(NOW);
    }

    fn propose(&mut self, batch: &[Bytes]) {
        self.raft.propose(batch.iter().cloned()).expect("the leader takes proposals");
    }

    fn step(&mut self, message: Message) {
        self.raft.step(NOW, message).expect("members send what they should");
    }

    fn work(&mut self, out: &mut Vec<(usize, Message)>) -> u64 {
        let mut applied = 0;
        while let Some(ready) = self.raft.ready(NOW) {
            out.extend(ready.messages.into_iter().map(|m| (m.to.0 as usize - 1, m)));
            if let Some(persist) = ready.persist {
                if let Some(base) = persist.restart_log {
                    self.raft.storage_mut().restart(base);
                }
                self.raft.storage_mut().append(persist.entries);
                out.extend(persist.messages.into_iter().map(|m| (m.to.0 as usize - 1, m)));
                self.raft.persisted(NOW, persist.number);
            }
            if let Some(last) = ready.committed.last() {
                applied += ready.committed.iter().filter(|e| e.kind == EntryKind::Normal).count() as u64;
                self.raft.applied(last.index);
            }
        }
        applied
    }

    fn compact(&mut self) {
        let to = self.raft.applied_index();
        self.raft.storage_mut().compact(to);
    }
}
