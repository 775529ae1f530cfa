//! A member that runs the `raft` crate.

use bytes::Bytes;
use raft::prelude::{Config, Entry, EntryType, Message, MessageType};
use raft::storage::MemStorage;
use raft::{RawNode, Storage};

use crate::{MEMBERS, Member};

pub(crate) struct Node {
    raw: RawNode<MemStorage>,
    applied: u64,
}

impl Node {
    fn apply(&mut self, entries: &[Entry]) -> u64 {
        let Some(last) = entries.last() else { return 0 };
        self.applied = last.index;
        let is_proposal = |e: &&Entry| e.get_entry_type() == EntryType::EntryNormal && !e.data.is_empty();
        entries.iter().filter(is_proposal).count() as u64
    }
}

fn addressed(messages: Vec<Message>) -> impl Iterator<Item = (usize, Message)> {
    messages.into_iter().map(|m| (m.to as usize - 1, m))
}

impl Member for Node {
    type Message = Message;

    fn new(at: usize) -> Node {
        let config = Config {
            id: at as u64 + 1,
            election_tick: 10,
            heartbeat_tick: 1,
            // As ours by default.
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let voters: Vec<u64> = (1..=MEMBERS as u64).collect();
        let storage = MemStorage::new_with_conf_state((voters, vec![]));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, storage, &logger).expect("a new group can start");
        Node { raw, applied: 0 }
    }

    fn campaign(&mut self) {
        self.raw.campaign().expect("anyone may stand");
    }

    fn propose(&mut self, batch: &[Bytes]) {
        // One message with the whole batch: cheaper for it than `RawNode::propose` entry by entry.
        let mut m = Message::default();
        m.set_msg_type(MessageType::MsgPropose);
        m.from = self.raw.raft.id;
        let entry = |data: &Bytes| Entry { data: data.clone(), ..Entry::default() };
        m.set_entries(batch.iter().map(entry).collect::<Vec<_>>().into());
        self.raw.step(m).expect("the leader takes proposals");
    }

    fn step(&mut self, message: Message) {
        self.raw.step(message).expect("members send what they should");
    }

    fn work(&mut self, out: &mut Vec<(usize, Message)>) -> u64 {
        let mut applied = 0;
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            out.extend(addressed(ready.take_messages()));
            let committed = ready.take_committed_entries();
            applied += self.apply(&committed);
            {
                let mut store = self.raw.mut_store().wl();
                store.append(ready.entries()).expect("entries join");
                if let Some(hard_state) = ready.hs() {
                    store.set_hardstate(hard_state.clone());
                }
            }
            out.extend(addressed(ready.take_persisted_messages()));
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.raw.mut_store().wl().mut_hard_state().set_commit(commit);
            }
            out.extend(addressed(light.take_messages()));
            let committed = light.take_committed_entries();
            applied += self.apply(&committed);
            self.raw.advance_apply();
        }
        applied
    }

    fn compact(&mut self) {
        // It keeps the entry at the index it is given.
        let last = self.raw.store().last_index().expect("a log in memory answers");
        self.raw.mut_store().wl().compact(self.applied.min(last)).expect("what is applied may go");
    }
}
