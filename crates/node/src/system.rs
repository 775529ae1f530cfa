//! The system range: what the cluster knows about itself. Nodes say where they are; the leader writes it down, together
//! with the descriptors of the ranges.
//!
//! A node announces itself until it finds its own record, as it is now, in its own copy of the range; so no answer is
//! needed, and a lost announcement costs a second.

use bytes::Bytes;
use dstore_storage::layout::system;
use dstore_storage::{Engine, Reader, WriteOp};
use prost::Message as _;

use crate::wire::{ANNOUNCE, Descriptor, NodeRecord};
use crate::{Node, NodeError, Now, Output, SYSTEM_RANGE, USER_RANGE};

impl<E: Engine> Node<E> {
    /// Says where this node is, unless the cluster knows.
    pub(crate) fn announce(&mut self, now: Now) -> Result<(), NodeError> {
        if self.facts.client_address.is_empty() {
            return Ok(());
        }
        let me = self.identity.node;
        let mine = self.own_record();
        let known = self.engine.get(&system::node_key(me.0))?;
        if known.is_some_and(|known| known == mine.encode_to_vec()) {
            return Ok(());
        }
        match self.groups.get(&SYSTEM_RANGE).and_then(|group| group.leader()) {
            Some((leader, _)) if leader.0 == me.0 => self.note_node(now, &mine),
            Some((leader, _)) => {
                let (to, body) = (dstore_rpc::NodeId(leader.0), Bytes::from(mine.encode_to_vec()));
                self.outputs.push_back(Output::Send { to, method: ANNOUNCE.number, body });
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Writes down where a member is, if this node leads the system range. An earlier start of it does not undo a later one.
    pub(crate) fn note_node(&mut self, now: Now, record: &NodeRecord) -> Result<(), NodeError> {
        let is_counted_on = self.is_counted_on(record.node) && !self.roster.is_removed(record.node);
        let Some(group) = self.groups.get_mut(&SYSTEM_RANGE).filter(|group| group.serving().is_some()) else {
            return Ok(());
        };
        let key = system::node_key(record.node);
        let known = group.replica.get(&key, &self.engine)?.and_then(|known| NodeRecord::decode(known).ok());
        let news = known.map_or(is_counted_on, |known| {
            known != *record && known.incarnation <= record.incarnation && !known.is_removed()
        });
        if news {
            group.replica.put(now, WriteOp::Put { key, value: record.encode_to_vec().into() });
        }
        Ok(())
    }

    /// Writes down the first descriptor of the user range, when this node begins to lead the system range.
    pub(crate) fn describe_ranges(&mut self, now: Now) -> Result<(), NodeError> {
        let Some(group) = self.groups.get_mut(&SYSTEM_RANGE).filter(|group| group.serving().is_some()) else {
            return Ok(());
        };
        let key = system::descriptor_key(USER_RANGE);
        if group.replica.get(&key, &self.engine)?.is_none() {
            let replicas = group.raft.configuration().members().into_iter().map(|node| node.0).collect();
            let descriptor = Descriptor { range: USER_RANGE.0, replicas, generation: 1, ..Descriptor::default() };
            group.replica.put(now, WriteOp::Put { key, value: descriptor.encode_to_vec().into() });
        }
        Ok(())
    }

    /// What the cluster knows of a node.
    pub(crate) fn node_record(&self, node: u64) -> Result<Option<NodeRecord>, NodeError> {
        let stored = self.engine.get(&system::node_key(node))?;
        Ok(stored.and_then(|stored| NodeRecord::decode(stored).ok()))
    }
}
