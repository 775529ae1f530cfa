//! What a cluster makes of disks that are full or stand still: three cores, driven by hand over a network without loss.

#![allow(clippy::unwrap_used)]

mod driver;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use driver::{Driver, Nowhere, limits};
use dstore_node::{
    ClientAddress, DiskStatus, Facts, Member, Node, NodeParts, Now, Output, SYSTEM_RANGE, SessionId, Space, USER_RANGE,
};
use dstore_raft::Time;
use dstore_resp::encode;
use dstore_rpc::{ClusterId, Code, Execution, Identity, Incarnation, NodeId, Status};
use dstore_storage::{Log, MemoryEngine, MemoryLog, RangeId};

struct Machine {
    node: Node<Arc<MemoryEngine>>,
    log: Arc<MemoryLog>,
    client: SessionId,
    /// Submitted and not durable.
    submitted: VecDeque<(RangeId, u64)>,
    /// Nothing becomes durable.
    stands_still: bool,
    replies: Vec<String>,
}

/// Nodes 1 to 3, by place from 0. Calls between them fail, so each client has to ask the node that leads.
struct Trio {
    machines: Vec<Machine>,
    now: Now,
    /// Messages on their way.
    network: VecDeque<(usize, usize, u32, Bytes)>,
    down: Vec<usize>,
}

fn machine(place: u64, now: Now) -> Machine {
    let member = |node: u64| Member { node: NodeId(node), peer_address: format!("10.0.0.{node}:7379"), moved: false };
    let log = Arc::new(MemoryLog::new());
    let parts = NodeParts {
        engine: Arc::new(MemoryEngine::new()),
        log: log.clone() as Arc<dyn Log>,
        identity: Identity { cluster: ClusterId(1), node: NodeId(place + 1), incarnation: Incarnation(1) },
        founders: (1..=3).map(member).collect(),
        contacts: Vec::new(),
        peer_address: format!("10.0.0.{}:7379", place + 1),
        limits: limits(),
        facts: Facts { client_address: format!("10.0.0.{}:6379", place + 1), ..Facts::default() },
        host: Box::new(Nowhere),
        seed: place + 1,
    };
    let mut node = Node::new(parts, now).unwrap();
    log.sync();
    let client = node.connect(now, ClientAddress::default());
    Machine { node, log, client, submitted: VecDeque::new(), stands_still: false, replies: Vec::new() }
}

impl Trio {
    fn new() -> Trio {
        let now = Now { wall_us: 1_000_000_000, mono: Time::from_millis(1000) };
        let machines = (0..3).map(|place| machine(place, now)).collect();
        let mut trio = Trio { machines, now, network: VecDeque::new(), down: Vec::new() };
        trio.pass(3000);
        for range in [SYSTEM_RANGE, USER_RANGE] {
            // Together, so that what is tested does not depend on who won which.
            trio.machines.iter().find(|machine| leads(machine, range)).expect("somebody leads");
        }
        trio
    }

    fn leader(&self) -> usize {
        let leads = |place: &usize| !self.down.contains(place) && leads(&self.machines[*place], USER_RANGE);
        (0..3).find(leads).expect("somebody leads")
    }

    fn others(&self, place: usize) -> [usize; 2] {
        [(place + 1) % 3, (place + 2) % 3]
    }

    /// Time passes, in steps small enough for everything that is timed.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.now.wall_us += 10_000;
            self.now.mono = self.now.mono + Duration::from_millis(10);
            for place in (0..3).filter(|place| !self.down.contains(place)).collect::<Vec<_>>() {
                self.machines[place].node.handle_timeout(self.now).unwrap();
                self.turn(place);
            }
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        loop {
            for place in 0..3 {
                self.sync(place);
            }
            let Some((from, to, method, body)) = self.network.pop_front() else { return };
            if self.down.contains(&from) || self.down.contains(&to) {
                continue;
            }
            let from = NodeId(from as u64 + 1);
            self.machines[to].node.handle_message(self.now, from, method, body).unwrap();
            self.turn(to);
        }
    }

    fn sync(&mut self, place: usize) {
        while !self.machines[place].stands_still && !self.down.contains(&place) {
            let Some((range, ticket)) = self.machines[place].submitted.pop_front() else { return };
            assert!(self.machines[place].log.sync_one());
            self.machines[place].node.handle_durable(self.now, range, ticket);
            self.turn(place);
        }
    }

    fn turn(&mut self, place: usize) {
        loop {
            self.machines[place].node.end_turn(self.now).unwrap();
            let mut quiet = true;
            while let Some(output) = self.machines[place].node.poll_output() {
                quiet = false;
                self.carry_out(place, output);
            }
            if quiet {
                return;
            }
        }
    }

    fn carry_out(&mut self, place: usize, output: Output) {
        let machine = &mut self.machines[place];
        match output {
            Output::Reply { reply, version, .. } => {
                let mut text = Vec::new();
                encode(&reply, version, &mut text);
                machine.replies.push(String::from_utf8(text).unwrap().replace("\r\n", " ").trim_end().to_owned());
            }
            Output::Write { range, ticket, ops } => {
                machine.log.submit(ops, Box::new(|_| {})).unwrap();
                machine.submitted.push_back((range, ticket));
            }
            Output::Send { to, method, body } => {
                self.network.push_back((place, usize::try_from(to.0).unwrap() - 1, method, body));
            }
            Output::Call { token, .. } => {
                let status = Status::new(Code::Unavailable, Execution::NotExecuted, "nobody calls here");
                machine.node.handle_reply(self.now, token, Err(status)).unwrap();
            }
            Output::Settle(settlement) => machine.node.handle_settled(self.now, settlement.run()).unwrap(),
            Output::Read(reading) => machine.node.handle_read(self.now, reading.run()).unwrap(),
            Output::Peer { .. } => {}
            other => panic!("node {place} wants {other:?}"),
        }
    }

    /// One request of the client of a node, and what he has heard when the cluster has done all it can at once.
    fn call(&mut self, place: usize, line: &str) -> String {
        let args = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let Machine { node, client, .. } = &mut self.machines[place];
        node.handle_request(self.now, *client, args).unwrap();
        self.turn(place);
        self.deliver();
        std::mem::take(&mut self.machines[place].replies).join(" | ")
    }

    fn set_space(&mut self, place: usize, space: Space) {
        let bytes = [1 << 30, 100 << 20, 10 << 20][space as usize];
        self.machines[place].node.set_space(self.now, space, bytes);
        self.turn(place);
        self.deliver();
    }

    fn disk(&self, place: usize) -> DiskStatus {
        self.machines[place].node.status().unwrap().disk
    }

    fn term(&self, place: usize) -> u64 {
        self.machines[place].node.status().unwrap().user_range().unwrap().term
    }

    fn applied(&self, place: usize) -> u64 {
        self.machines[place].node.status().unwrap().user_range().unwrap().applied
    }
}

fn leads(machine: &Machine, range: RangeId) -> bool {
    machine.node.status().unwrap().ranges.iter().any(|status| status.range == range && status.is_serving)
}

#[test]
fn a_leader_whose_disk_stands_still_goes_on_and_hands_over_once() {
    let mut trio = Trio::new();
    let (first, term) = (trio.leader(), trio.term(0));
    trio.machines[first].stands_still = true;
    assert_eq!(trio.call(first, "SET k 1"), "+OK", "the disks of the followers are a majority");
    trio.pass(600);
    let second = trio.leader();
    assert_ne!(second, first);
    assert!(trio.disk(first).stalled && !trio.disk(second).stalled);
    assert_eq!(trio.call(second, "GET k"), "$1 1");
    assert_eq!(trio.call(second, "SET k 2"), "+OK");
    trio.pass(5000);
    assert_eq!((trio.leader(), trio.term(second)), (second, term + 1), "leadership moves once, and nobody else stands");

    trio.machines[first].stands_still = false;
    trio.pass(2000);
    assert!(!trio.disk(first).stalled);
    assert_eq!((trio.leader(), trio.term(first), trio.applied(first)), (second, term + 1, trio.applied(second)));
}

#[test]
fn a_follower_whose_disk_stands_still_changes_nothing_and_is_not_chosen() {
    let mut trio = Trio::new();
    let first = trio.leader();
    let [slow, well] = trio.others(first);
    let term = trio.term(first);
    trio.machines[slow].stands_still = true;
    for _ in 0..10 {
        assert_eq!(trio.call(first, "INCR n")[..1], *":");
        trio.pass(100);
    }
    assert_eq!((trio.leader(), trio.term(first)), (first, term));
    // Nor does it stand when it hears of no leader, which by itself would be its right.
    trio.set_space(first, Space::Low);
    trio.pass(500);
    assert_eq!(trio.leader(), well, "the one whose disk moves");
    trio.down = vec![first, well];
    trio.pass(5000);
    assert_eq!(trio.machines[slow].node.status().unwrap().user_range().unwrap().role, "follower");
}

#[test]
fn disks_that_all_stand_still_move_no_leadership() {
    let mut trio = Trio::new();
    let (first, term) = (trio.leader(), trio.term(0));
    trio.machines.iter_mut().for_each(|machine| machine.stands_still = true);
    assert_eq!(trio.call(first, "SET k 1"), "");
    trio.pass(2000);
    trio.machines.iter_mut().for_each(|machine| machine.stands_still = false);
    trio.pass(100);
    assert_eq!(std::mem::take(&mut trio.machines[first].replies), ["+OK"]);
    assert_eq!((trio.leader(), trio.term(first)), (first, term));
}

#[test]
fn a_leader_with_little_room_hands_over_and_growth_goes_on() {
    let mut trio = Trio::new();
    let first = trio.leader();
    trio.set_space(first, Space::Low);
    assert_eq!(trio.call(first, "SET k 1"), "+OK", "nobody is refused while a successor is looked for");
    trio.pass(500);
    let second = trio.leader();
    assert_ne!(second, first);
    assert_eq!(trio.call(second, "SET k 2"), "+OK");
    assert_eq!(trio.disk(second).refuses, None);
    trio.pass(20_000);
    assert_eq!(trio.leader(), second);
    assert_eq!(trio.applied(first), trio.applied(second), "a follower takes entries as long as it has some room");
}

#[test]
fn a_majority_with_little_room_refuses_growth_by_name_until_one_has_room_again() {
    let mut trio = Trio::new();
    let first = trio.leader();
    let others = trio.others(first);
    trio.call(first, "SET k 1");
    others.iter().for_each(|place| trio.set_space(*place, Space::Low));
    trio.pass(100);
    assert_eq!(trio.leader(), first, "its own disk is well");
    let refused = trio.call(first, "SET k 2");
    assert!(refused.starts_with("-OOM command not allowed when the disks of nodes 000000000000000"), "{refused}");
    for place in others {
        assert!(refused.contains(&format!("{:016x}", place + 1)), "{refused}");
    }
    assert!(!refused.contains(&format!("{:016x}", first + 1)), "{refused}");
    assert_eq!(trio.call(first, "GET k"), "$1 1");
    assert_eq!(trio.call(first, "DEL k"), ":1");
    trio.set_space(others[0], Space::Ample);
    trio.pass(100);
    assert_eq!(trio.call(first, "SET k 3"), "+OK");
}

#[test]
fn with_all_disks_full_there_is_still_a_way_to_empty_them() {
    let mut trio = Trio::new();
    let first = trio.leader();
    for n in 0..5 {
        trio.call(first, &format!("SET k{n} v"));
    }
    (0..3).for_each(|place| trio.set_space(place, Space::Critical));
    trio.pass(3000);
    let leader = trio.leader();
    assert_eq!(leader, first, "nobody is better");
    assert!(trio.call(first, "SET k0 w").starts_with("-OOM "));
    assert!(trio.call(first, "EXPIRE k0 100").starts_with("-OOM "), "it would write the record anew");
    assert_eq!(trio.call(first, "DEL k0"), ":1");
    assert_eq!(trio.call(first, "GETDEL k1"), "$1 v");
    assert_eq!(trio.call(first, "FLUSHALL"), "+OK");
    (0..3).for_each(|place| trio.set_space(place, Space::Ample));
    trio.pass(500);
    assert_eq!(trio.call(first, "SET k0 w"), "+OK");
}

#[test]
fn a_follower_without_room_takes_nothing_that_grows_and_catches_up_when_it_has_room() {
    let mut trio = Trio::new();
    let first = trio.leader();
    let [full, well] = trio.others(first);
    trio.set_space(full, Space::Critical);
    trio.pass(100);
    let before = trio.applied(full);
    for n in 0..20 {
        assert_eq!(trio.call(first, &format!("SET k{n} v")), "+OK", "two disks are a majority");
        trio.pass(50);
    }
    assert_eq!((trio.leader(), trio.applied(well)), (first, trio.applied(first)));
    assert_eq!(trio.applied(full), before);
    trio.set_space(full, Space::Ample);
    trio.pass(1000);
    assert_eq!(trio.applied(full), trio.applied(first));
}

#[test]
fn one_node_without_room_and_one_away_refuse_growth_before_the_last_disk_is_full() {
    let mut trio = Trio::new();
    let first = trio.leader();
    let [short, away] = trio.others(first);
    trio.down = vec![away];
    trio.pass(1000);
    trio.set_space(short, Space::Low);
    trio.pass(5000);
    assert_eq!(trio.call(first, "SET k v"), "+OK", "one that restarts is no reason");
    trio.pass(10_000);
    assert!(trio.call(first, "SET k v").starts_with("-OOM "));
    trio.down.clear();
    trio.pass(3000);
    let leader = trio.leader();
    assert_eq!(trio.call(leader, "SET k v"), "+OK");
}

#[test]
fn a_node_alone_refuses_growth_and_transactions_that_grow_as_redis_does() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.settle(client, "SET k v");
    driver.settle(client, "SET gone v PX 50");
    driver.request(client, "MULTI");
    driver.request(client, "SET k w");
    driver.node.set_space(driver.now, Space::Low, 1 << 20);
    driver.pass(100);
    driver.sync_all();
    driver.replies(client);
    let oom = "OOM command not allowed when the disk of node 0000000000000007 is nearly full; make room there, or delete keys";
    let aborted = format!("-EXECABORT Transaction discarded because of: {oom}");
    assert_eq!(driver.settle(client, "EXEC"), aborted, "it was queued before");
    driver.settle(client, "MULTI");
    assert_eq!(driver.settle(client, "SET k w"), format!("-{oom}"));
    assert_eq!(driver.settle(client, "DEL k"), "+QUEUED");
    let aborted = "-EXECABORT Transaction discarded because of previous errors.";
    assert_eq!(driver.settle(client, "EXEC"), aborted);
    assert_eq!(driver.settle(client, "SET k w"), format!("-{oom}"));
    assert_eq!(driver.settle(client, "GET k"), "$1 v");
    for line in ["MULTI", "DEL k", "GET k"] {
        driver.settle(client, line);
    }
    assert_eq!(driver.settle(client, "EXEC"), "*2 :1 $-1");
    driver.pass(300);
    driver.sync_all();
    assert_eq!(driver.settle(client, "DBSIZE"), ":0", "what has expired is swept");
    let info = driver.settle(client, "INFO persistence");
    assert!(info.contains("dstore_disk_space:low") && info.contains("dstore_growth_refused:1"), "{info}");
    driver.node.set_space(driver.now, Space::Ample, 1 << 30);
    driver.pass(100);
    assert_eq!(driver.settle(client, "SET k w"), "+OK");
}

#[test]
fn a_node_alone_waits_for_its_disk_and_says_so() {
    let mut driver = Driver::new();
    let client = driver.connect();
    driver.settle(client, "SET k v");
    driver.pass(100);
    assert!(!driver.node.status().unwrap().disk.stalled);
    driver.call(client, "SET k w");
    driver.pass(400);
    driver.pass(50);
    assert!(driver.node.status().unwrap().disk.stalled, "the write was never durable");
    driver.sync_all();
    assert_eq!(driver.replies(client), "+OK");
    driver.pass(1100);
    driver.pass(50);
    assert!(!driver.node.status().unwrap().disk.stalled);
}
