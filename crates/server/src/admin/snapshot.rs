//! A node at one moment, as those see it who watch it from outside. Plain data; its JSON is `/status`.

use serde::Serialize;

/// Entries that a node may be behind and still be sent clients: it catches up with so few within a heartbeat.
const BEHIND_MAX: u64 = 1000;

/// A node at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// Version of the binary.
    pub version: &'static str,
    /// The cluster, 32 hexadecimal digits.
    pub cluster: String,
    /// The node, 16 hexadecimal digits.
    pub node: String,
    /// How often it was started.
    pub incarnation: u64,
    /// Since its start, in seconds.
    pub uptime_s: u64,
    /// Why it must stop, if it must.
    pub fatal: Option<String>,
    /// It was removed from its cluster, sends its clients away, and ends soon.
    pub leaving: bool,
    /// Clients connected.
    pub clients: u64,
    /// Clients' requests that wait for a leader to take them.
    pub requests_held: u64,
    /// Clients accepted since the start.
    pub connections_total: u64,
    /// Commands executed since the start, those inside of EXEC included.
    pub commands_total: u64,
    /// Replies since the start that were errors.
    pub errors_total: u64,
    /// Expired keys removed since the start.
    pub expired_keys_total: u64,
    /// Batches and sweeps that waited until what they need was in memory.
    pub rehearsals_total: u64,
    /// Log entries proposed since the start.
    pub entries_total: u64,
    /// Bytes of their payloads.
    pub entry_bytes_total: u64,
    /// Keys in all databases.
    pub keys: u64,
    /// Resident memory of the process.
    pub resident_bytes: u64,
    /// Processor time in user mode since the start.
    pub cpu_user_us: u64,
    /// Processor time in the kernel since the start.
    pub cpu_system_us: u64,
    /// The log's files on disk.
    pub log_bytes: u64,
    /// Entries in them.
    pub log_entries: u64,
    /// Room on the disk: `ample`, `low` or `critical`.
    pub disk_space: String,
    /// The same in bytes, once it was measured.
    pub disk_free_bytes: Option<u64>,
    /// Writes to the disk stand still.
    pub disk_stalled: bool,
    /// Why the node, as the leader of user data, refuses growth; if it does.
    pub growth_refused: Option<String>,
    /// The Raft groups the node is in. The one of user data decides whether it is ready.
    pub ranges: Vec<RangeSnapshot>,
    /// The nodes of the cluster.
    pub members: Vec<MemberSnapshot>,
}

/// A Raft group at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RangeSnapshot {
    /// Which range.
    pub range: u64,
    /// Whether it holds user data.
    pub is_user: bool,
    /// The node's part: `leader`, `follower` or `candidate`.
    pub role: &'static str,
    /// Its term.
    pub term: u64,
    /// The leader it knows, 16 hexadecimal digits.
    pub leader: Option<String>,
    /// Decided up to this entry, as far as this node knows.
    pub commit: u64,
    /// Applied up to this entry.
    pub applied: u64,
    /// The last entry of its log.
    pub last: u64,
    /// The last entry of its log that is on its disk.
    pub durable: u64,
    /// The entry after which its log begins.
    pub log_begin: u64,
}

/// Another node, or this one, as this one knows it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MemberSnapshot {
    /// Which, 16 hexadecimal digits.
    pub node: String,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where clients reach it, if it is known.
    pub client_address: String,
    /// Whether this node has a connection to it; true of itself.
    pub connected: bool,
}

impl Snapshot {
    /// Whether the process works.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn health(&self) -> Result<(), String> {
        match &self.fatal {
            Some(why) => Err(format!("stopping: {why}")),
            None => Ok(()),
        }
    }

    /// Whether clients can be sent here: the range of user data has a leader, and this node is it or has caught up.
    ///
    /// # Errors
    ///
    /// Why they cannot.
    pub fn readiness(&self) -> Result<(), String> {
        self.health()?;
        if self.leaving {
            return Err("this node is being removed from its cluster".to_owned());
        }
        let range = self.ranges.iter().find(|range| range.is_user).ok_or("there is no range of user data yet")?;
        if range.leader.is_none() {
            return Err(format!("no leader is known in term {}", range.term));
        }
        let behind = range.commit.saturating_sub(range.applied);
        if behind > BEHIND_MAX {
            return Err(format!("{behind} entries are still to be applied"));
        }
        Ok(())
    }
}

impl Snapshot {
    /// What is worth saying of a node that is ready.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.disk_stalled {
            remarks.push("the disk stands still".to_owned());
        }
        if !matches!(&*self.disk_space, "" | "ample") {
            let free = self.disk_free_bytes.map(|bytes| format!(", {} MiB are free", bytes >> 20)).unwrap_or_default();
            remarks.push(format!("room on the disk is {}{free}", self.disk_space));
        }
        remarks.extend(self.growth_refused.as_ref().map(|why| format!("growth is refused: {why}")));
        remarks
    }
}

/// A node in good health.
#[cfg(test)]
pub(super) fn sample() -> Snapshot {
    let range = |range, is_user| RangeSnapshot {
        range,
        is_user,
        role: "follower",
        term: 7,
        leader: Some("0000000000000002".to_owned()),
        commit: 5000,
        applied: 4990,
        last: 5001,
        durable: 5000,
        log_begin: 10,
    };
    let member = |node: u64| MemberSnapshot {
        node: format!("{node:016x}"),
        peer_address: format!("10.0.0.{node}:7379"),
        client_address: format!("10.0.0.{node}:6379"),
        connected: node != 3,
    };
    Snapshot {
        version: "0.1.0",
        cluster: "9f0c2b7a51d84e63a7c1e05d2f3b8846".to_owned(),
        node: "0000000000000001".to_owned(),
        incarnation: 3,
        commands_total: 12,
        cpu_user_us: 1_500_000,
        disk_space: "ample".to_owned(),
        disk_free_bytes: Some(5 << 30),
        ranges: vec![range(0, false), range(1, true)],
        members: vec![member(1), member(2), member(3)],
        ..Snapshot::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_in_order_has_no_remarks_and_one_with_a_bad_disk_has_some() {
        assert_eq!(sample().remarks(), Vec::<String>::new());
        let short = Snapshot {
            disk_space: "low".to_owned(),
            disk_stalled: true,
            growth_refused: Some("the disk of node 1 is nearly full".to_owned()),
            ..sample()
        };
        let expected = [
            "the disk stands still",
            "room on the disk is low, 5120 MiB are free",
            "growth is refused: the disk of node 1 is nearly full",
        ];
        assert_eq!((short.remarks(), short.readiness()), (expected.map(str::to_owned).to_vec(), Ok(())));
    }

    #[test]
    fn a_node_is_ready_when_it_knows_a_leader_and_has_caught_up() {
        assert_eq!(sample().readiness(), Ok(()));
        let with = |change: fn(&mut Snapshot)| {
            let mut snapshot = sample();
            change(&mut snapshot);
            snapshot.readiness()
        };
        assert_eq!(with(|it| it.ranges[0].leader = None), Ok(()), "another range");
        assert_eq!(with(|it| it.ranges[1].leader = None), Err("no leader is known in term 7".to_owned()));
        assert_eq!(with(|it| it.ranges[1].applied = 3999), Err("1001 entries are still to be applied".to_owned()));
        assert_eq!(with(|it| it.ranges.truncate(1)), Err("there is no range of user data yet".to_owned()));
        assert_eq!(with(|it| it.fatal = Some("disk".to_owned())), Err("stopping: disk".to_owned()));
    }
}
