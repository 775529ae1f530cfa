//! The front as it is watched: one snapshot of the node, its peers and its process.

use dstore_node::{NodeStatus, RangeStatus, USER_RANGE};
use dstore_rpc::{ChannelState, NodeId};

use super::Front;
use crate::admin::{Admin, MemberSnapshot, RangeSnapshot, Snapshot};
use crate::identity::node_text;

impl Admin for Front {
    fn snapshot(&self) -> Snapshot {
        let own = Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            cluster: self.identity.cluster.to_string(),
            node: node_text(self.identity.node),
            incarnation: self.identity.incarnation.0,
            uptime_s: self.started.elapsed().as_secs(),
            fatal: self.fatal.as_ref().map(ToString::to_string),
            ..Snapshot::default()
        };
        match self.node.status() {
            Ok(status) => Snapshot { members: self.members(&status), ..with_status(own, &status) },
            Err(error) => Snapshot { fatal: own.fatal.or_else(|| Some(error.to_string())), ..own },
        }
    }
}

impl Front {
    fn members(&self, status: &NodeStatus) -> Vec<MemberSnapshot> {
        let is_up = |node| {
            let state = self.rpc.peer_state(node).map(|state| state.messages);
            node == self.identity.node || matches!(state, Some(ChannelState::Up(_)))
        };
        let member = |member: &dstore_node::MemberStatus| MemberSnapshot {
            node: node_text(NodeId(member.node)),
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
            connected: is_up(NodeId(member.node)),
        };
        status.members.iter().map(member).collect()
    }
}

fn with_status(own: Snapshot, status: &NodeStatus) -> Snapshot {
    let NodeStatus { stats, usage, log, .. } = status;
    Snapshot {
        leaving: status.is_leaving,
        clients: status.clients as u64,
        requests_held: status.requests_held as u64,
        connections_total: stats.connections,
        commands_total: stats.commands,
        errors_total: stats.errors,
        expired_keys_total: stats.expired_keys,
        rehearsals_total: stats.rehearsals,
        entries_total: stats.entries,
        entry_bytes_total: stats.entry_bytes,
        keys: status.keys.iter().sum(),
        resident_bytes: usage.resident_bytes,
        cpu_user_us: usage.user_us,
        cpu_system_us: usage.system_us,
        log_bytes: log.bytes,
        log_entries: log.entries,
        disk_space: status.disk.space.to_string(),
        disk_free_bytes: status.disk.free_bytes,
        disk_stalled: status.disk.stalled,
        growth_refused: status.disk.refuses.clone(),
        ranges: status.ranges.iter().map(range).collect(),
        ..own
    }
}

fn range(range: &RangeStatus) -> RangeSnapshot {
    RangeSnapshot {
        range: range.range.0,
        is_user: range.range == USER_RANGE,
        role: range.role,
        term: range.term,
        leader: range.leader.map(|leader| node_text(NodeId(leader))),
        commit: range.commit,
        applied: range.applied,
        last: range.last,
        durable: range.durable,
        log_begin: range.begin,
    }
}
