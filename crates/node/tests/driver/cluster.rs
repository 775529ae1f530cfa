//! Several nodes whose messages arrive at once and whose disks are memory: for what nodes do to each other, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dstore_node::{
    ADMINISTER, Administer, Administered, Applied, Check, ClientAddress, Facts, Join, Member, Node, NodeLimits,
    NodeParts, Now, Output, Part, Remove, SYSTEM_RANGE, SessionId, USER_RANGE,
};
use dstore_raft::Time;
use dstore_resp::encode;
use dstore_rpc::{ClusterId, Code, Execution, Identity, Incarnation, LinkId, NodeId, RequestId, Status};
use dstore_storage::layout::tag;
use dstore_storage::{Direction, Engine, Log, LogIndex, MemoryEngine, MemoryLog, RangeId, Reader, WriteOp};

use super::{Nowhere, limits};

/// How far the clocks move between two looks at them.
const STEP: Duration = Duration::from_millis(10);

/// A node, and what is around it.
pub(crate) struct Machine {
    pub(crate) node: Node<Arc<MemoryEngine>>,
    pub(crate) engine: Arc<MemoryEngine>,
    log: Arc<MemoryLog>,
    address: String,
    incarnation: u64,
    /// Where its peers are.
    peers: BTreeMap<u64, String>,
    replies: Vec<String>,
    /// Sessions that were to be closed.
    pub(crate) closed: Vec<SessionId>,
    /// It was told to be a member no more.
    pub(crate) removed: bool,
    /// Nothing gets to it, and nothing from it to others.
    pub(crate) away: bool,
    pub(crate) snapshots_received: usize,
}

/// Nodes that talk to each other.
pub(crate) struct Cluster {
    pub(crate) machines: BTreeMap<u64, Machine>,
    now: Now,
    /// Calls that are not answered: who called, and its token.
    calls: BTreeMap<u64, (u64, u64)>,
    last_call: u64,
    /// Answers to an operator, by his call.
    administered: BTreeMap<u64, Administered>,
}

impl Cluster {
    /// A node that founded a cluster by itself, and that others can join.
    pub(crate) fn of_one() -> Cluster {
        let now = Now { wall_us: 1_000_000_000, mono: Time::from_millis(1) };
        let mut cluster = Cluster {
            machines: BTreeMap::new(),
            now,
            calls: BTreeMap::new(),
            last_call: 0,
            administered: BTreeMap::new(),
        };
        cluster.start(1, "one:1", true, (MemoryEngine::new(), MemoryLog::new()));
        cluster
    }

    fn start(&mut self, id: u64, address: &str, founds: bool, disk: (MemoryEngine, MemoryLog)) {
        self.boot(id, address, founds, (Arc::new(disk.0), Arc::new(disk.1)), 1);
    }

    fn boot(
        &mut self,
        id: u64,
        address: &str,
        founds: bool,
        (engine, log): (Arc<MemoryEngine>, Arc<MemoryLog>),
        incarnation: u64,
    ) {
        let member =
            |node, address: &str| Member { node: NodeId(node), peer_address: address.to_owned(), moved: false };
        let contacts = self.machines.iter().map(|(id, machine)| member(*id, &machine.address));
        let parts = NodeParts {
            engine: engine.clone(),
            log: log.clone() as Arc<dyn Log>,
            identity: Identity { cluster: ClusterId(1), node: NodeId(id), incarnation: Incarnation(incarnation) },
            founders: if founds { vec![member(id, address)] } else { Vec::new() },
            contacts: if founds { Vec::new() } else { contacts.collect() },
            peer_address: address.to_owned(),
            limits: NodeLimits { gathered_records_max: 5, ..limits() },
            facts: Facts { client_address: format!("client{id}:1"), ..Facts::default() },
            host: Box::new(Nowhere),
            seed: 100 * id + incarnation,
        };
        let node = Node::new(parts, self.now).unwrap();
        log.sync();
        let machine = Machine {
            node,
            engine,
            log,
            address: address.to_owned(),
            incarnation,
            peers: BTreeMap::new(),
            replies: Vec::new(),
            closed: Vec::new(),
            removed: false,
            away: false,
            snapshots_received: 0,
        };
        self.machines.insert(id, machine);
        self.settle();
    }

    /// A node loses power, and starts again, perhaps elsewhere.
    pub(crate) fn restart(&mut self, id: u64, address: &str, founded: bool) {
        let Machine { engine, log, incarnation, .. } = self.machines.remove(&id).unwrap();
        engine.lose_power(id);
        log.lose_power(id);
        self.boot(id, address, founded, (engine, log), incarnation + 1);
    }

    /// Who leads a range and takes commands.
    pub(crate) fn leader(&self, range: RangeId) -> Option<u64> {
        let serves = |machine: &Machine| {
            let status = machine.node.status().unwrap();
            status.ranges.iter().any(|status| status.range == range && status.is_serving)
        };
        self.machines.iter().find(|(_, machine)| !machine.away && serves(machine)).map(|(id, _)| *id)
    }

    /// The members of the user range, as its leader sees them.
    pub(crate) fn parts(&self) -> BTreeMap<u64, Part> {
        let Some(leader) = self.leader(USER_RANGE) else { return BTreeMap::new() };
        let members = self.machines[&leader].node.status().unwrap().members;
        members.iter().map(|member| (member.node, member.part)).collect()
    }

    /// Whether all of these vote.
    pub(crate) fn vote(&self, ids: &[u64]) -> bool {
        let parts = self.parts();
        ids.iter().all(|id| parts.get(id) == Some(&Part::Voter))
    }

    /// Lets time pass until something holds; panics if it does not come about in a minute.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Cluster) -> bool) {
        for _ in 0..6000 {
            if holds(self) {
                return;
            }
            self.pass(1);
        }
        panic!("not in a minute: {what}; members: {:?}, leader {:?}", self.parts(), self.leader(USER_RANGE));
    }

    /// Lets the clocks move so many steps.
    pub(crate) fn pass(&mut self, steps: u64) {
        for _ in 0..steps {
            self.now.wall_us += STEP.as_micros() as u64;
            self.now.mono = self.now.mono + STEP;
            for machine in self.machines.values_mut() {
                machine.node.handle_timeout(self.now).unwrap();
            }
            self.settle();
        }
    }

    /// Ends turns until nobody wants anything.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut quiet = true;
            let ids: Vec<u64> = self.machines.keys().copied().collect();
            for id in ids {
                self.machines.get_mut(&id).unwrap().node.end_turn(self.now).unwrap();
                while let Some(output) = self.machines.get_mut(&id).and_then(|machine| machine.node.poll_output()) {
                    quiet = false;
                    self.carry_out(id, output);
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// The peer of a node that has this id and is where the node thinks it is.
    fn reach(&mut self, from: u64, to: u64) -> Option<&mut Machine> {
        let address = self.machines[&from].peers.get(&to).cloned();
        let away = self.machines[&from].away;
        let machine = self.machines.get_mut(&to)?;
        (!away && !machine.away && Some(&machine.address) == address.as_ref()).then_some(machine)
    }

    /// A node can be reached again, and everybody who knows where it is does so.
    pub(crate) fn back(&mut self, id: u64) {
        self.machines.get_mut(&id).unwrap().away = false;
        let others: Vec<u64> = self.machines.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            for (from, to) in [(id, other), (other, id)] {
                if self.reach(from, to).is_some() {
                    self.machines.get_mut(&from).unwrap().node.handle_link(self.now, NodeId(to), true);
                }
            }
        }
    }

    fn carry_out(&mut self, id: u64, output: Output) {
        let now = self.now;
        match output {
            Output::Reply { reply, version, .. } => {
                let mut text = Vec::new();
                encode(&reply, version, &mut text);
                let text = String::from_utf8(text).unwrap().replace("\r\n", " ").trim_end().to_owned();
                self.machines.get_mut(&id).unwrap().replies.push(text);
            }
            Output::Write { range, ticket, ops } => {
                let machine = self.machines.get_mut(&id).unwrap();
                machine.log.submit(ops, Box::new(|_| {})).unwrap();
                machine.log.sync();
                machine.node.handle_durable(now, range, ticket);
            }
            Output::Send { to, method, body } => {
                if let Some(machine) = self.reach(id, to.0) {
                    machine.node.handle_message(now, NodeId(id), method, body).unwrap();
                }
            }
            Output::Call { to, token, method, body, .. } => self.call(id, to.0, token, method, body),
            Output::Answer { request, result } => self.answered(request.get(), result),
            Output::SendSnapshot { to, transfer, body, mut export } => {
                let result = match self.reach(id, to.0) {
                    Some(machine) => {
                        let (_, mut install) = machine.node.offer_snapshot(NodeId(id), &body).unwrap();
                        while let Some(chunk) = export.next_chunk().unwrap() {
                            install.add(&chunk).unwrap();
                        }
                        machine.node.handle_snapshot(now, NodeId(id), &body, install);
                        machine.snapshots_received += 1;
                        Ok(())
                    }
                    None => Err("out of reach".to_owned()),
                };
                let machine = self.machines.get_mut(&id).unwrap();
                machine.node.handle_snapshot_sent(now, transfer, result).unwrap();
            }
            Output::Peer { node, address: None } => {
                self.machines.get_mut(&id).unwrap().peers.remove(&node.0);
            }
            Output::Peer { node, address: Some(address) } => {
                self.machines.get_mut(&id).unwrap().peers.insert(node.0, address);
                if self.reach(id, node.0).is_some() {
                    self.machines.get_mut(&id).unwrap().node.handle_link(now, node, true);
                }
            }
            Output::Close { session } => {
                let machine = self.machines.get_mut(&id).unwrap();
                machine.node.disconnect(session);
                machine.closed.push(session);
            }
            Output::Removed => {
                // Its process ends.
                let machine = self.machines.get_mut(&id).unwrap();
                (machine.removed, machine.away) = (true, true);
            }
            Output::Pause { .. } | Output::Resume { .. } => {}
            other => self.work(id, other),
        }
    }

    /// What a node wants done on another thread.
    fn work(&mut self, id: u64, output: Output) {
        let now = self.now;
        match output {
            Output::Install { range, install, ops } => {
                let result = install.finish(&ops).map(|_| ()).map_err(|error| panic!("{error}"));
                self.machines.get_mut(&id).unwrap().node.handle_installed(now, range, result).unwrap();
            }
            Output::Settle(settlement) => {
                let result = settlement.run();
                self.machines.get_mut(&id).unwrap().node.handle_settled(now, result).unwrap();
            }
            Output::Read(reading) => {
                let done = reading.run();
                self.machines.get_mut(&id).unwrap().node.handle_read(now, done).unwrap();
            }
            Output::Checksum { range, mut checksum } => {
                let sum = loop {
                    if let Some(sum) = checksum.step(1000).unwrap() {
                        break sum;
                    }
                };
                self.machines.get_mut(&id).unwrap().node.handle_checksum(now, range, Ok(sum)).unwrap();
            }
            other => panic!("node {id} wants {other:?}"),
        }
    }

    fn call(&mut self, from: u64, to: u64, token: u64, method: u32, body: Bytes) {
        self.last_call += 1;
        let request = RequestId::new(LinkId(from), self.last_call);
        self.calls.insert(self.last_call, (from, token));
        let now = self.now;
        match self.reach(from, to) {
            Some(machine) => machine.node.handle_call(now, NodeId(from), request, method, body).unwrap(),
            None => {
                let status = Status::new(Code::Unavailable, Execution::NotExecuted, "out of reach");
                self.answered(request.get(), Err(status));
            }
        }
    }

    fn answered(&mut self, call: u64, result: Result<Bytes, Status>) {
        match self.calls.remove(&call) {
            Some((caller, token)) => {
                if let Some(machine) = self.machines.get_mut(&caller) {
                    machine.node.handle_reply(self.now, token, result).unwrap();
                }
            }
            None => {
                self.administered.insert(call, ADMINISTER.decode_reply(result).unwrap());
            }
        }
    }

    /// What a node answers an operator at once.
    pub(crate) fn administer(&mut self, at: u64, administer: &Administer) -> Administered {
        self.last_call += 1;
        let (call, body) = (self.last_call, ADMINISTER.encode(administer));
        let request = RequestId::new(LinkId(0), call);
        let machine = self.machines.get_mut(&at).unwrap();
        machine.node.handle_call(self.now, NodeId(0xffff), request, ADMINISTER.number, body).unwrap();
        self.settle();
        self.administered.remove(&call).unwrap()
    }

    /// Asks the leader of the system range, again and again, until it is done. Errors come back.
    fn have(&mut self, administer: &Administer) -> Administered {
        for _ in 0..6000 {
            if let Some(leader) = self.leader(SYSTEM_RANGE) {
                let answer = self.administer(leader, administer);
                if !answer.pending && answer.peer_address.is_empty() {
                    return answer;
                }
            }
            self.pass(1);
        }
        panic!("not in a minute: {administer:?}");
    }

    pub(crate) fn ask_to_join(&mut self, id: u64, address: &str) -> Administered {
        let join = Join { node: id, incarnation: 1, peer_address: address.to_owned(), version: String::new() };
        self.have(&Administer { join: Some(join), ..Administer::default() })
    }

    /// A node with an empty disk becomes a member, and starts.
    pub(crate) fn join(&mut self, id: u64, address: &str) {
        let answer = self.ask_to_join(id, address);
        assert_eq!(answer.error, "");
        self.start(id, address, false, (MemoryEngine::new(), MemoryLog::new()));
    }

    pub(crate) fn remove(&mut self, node: u64, force: bool) -> Administered {
        self.have(&Administer { remove: Some(Remove { node, force }), ..Administer::default() })
    }

    /// A bit of the user data of a node flips, and nobody notices.
    pub(crate) fn damage(&mut self, id: u64) {
        self.machines[&id].node.settle().unwrap();
        let engine = &self.machines[&id].engine;
        let cursor = engine.scan(&[tag::USER][..]..&[tag::USER + 1], Direction::Forward).unwrap();
        let (key, value) = cursor.entry().map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap();
        drop(cursor);
        let flipped: Vec<u8> =
            value.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at + 1 == value.len())).collect();
        engine.write(&[WriteOp::Put { key: key.into(), value: flipped.into() }]).unwrap();
    }

    /// Has the replicas of a range compared.
    pub(crate) fn check(&mut self, range: RangeId) -> Administered {
        let mut id = 0;
        for _ in 0..6000 {
            if let Some(leader) = self.leader(range) {
                let check = Check { range: range.0, id };
                let answer = self.administer(leader, &Administer { check: Some(check), ..Administer::default() });
                if !answer.pending {
                    return answer;
                }
                id = answer.check;
            }
            self.pass(1);
        }
        panic!("no end of the check of range {range}");
    }

    pub(crate) fn connect(&mut self, id: u64) -> SessionId {
        let address = ClientAddress::default();
        self.machines.get_mut(&id).unwrap().node.connect(self.now, address)
    }

    /// A request of a client that is on its way.
    pub(crate) fn send(&mut self, id: u64, session: SessionId, line: &str) {
        let args = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        self.machines.get_mut(&id).unwrap().node.handle_request(self.now, session, args).unwrap();
    }

    /// What a node has answered to its clients that nobody has looked at.
    pub(crate) fn take_replies(&mut self, id: u64) -> Vec<String> {
        std::mem::take(&mut self.machines.get_mut(&id).unwrap().replies)
    }

    /// A request of a client, and what it is answered.
    pub(crate) fn request(&mut self, id: u64, session: SessionId, line: &str) -> String {
        self.send(id, session, line);
        for _ in 0..1000 {
            self.settle();
            let replies = self.take_replies(id);
            if !replies.is_empty() {
                return replies.join(" | ");
            }
            self.pass(1);
        }
        panic!("no reply to {line}");
    }

    /// Everybody who is there makes the data durable, and cuts the log as far as nobody needs it.
    pub(crate) fn flush(&mut self) {
        self.pass(150);
        for machine in self.machines.values_mut() {
            machine.node.settle().unwrap();
            machine.engine.flush().unwrap();
            let applied = |range| {
                let stored = machine.engine.get_persisted(&Applied::key(range)).unwrap();
                (range, Applied::decode(stored.as_deref()).unwrap().position.index)
            };
            let flushed: Vec<(RangeId, LogIndex)> = [SYSTEM_RANGE, USER_RANGE].into_iter().map(applied).collect();
            machine.node.handle_flushed(self.now, &flushed);
        }
        self.settle();
    }

    /// How far the log of a range has been cut at a node.
    pub(crate) fn log_begin(&self, id: u64, range: RangeId) -> u64 {
        self.machines[&id].log.status(range).map_or(0, |status| status.begin.index.0)
    }

    /// The members whose data of a range is not that of the others.
    pub(crate) fn differing(&self, range: RangeId) -> BTreeSet<u64> {
        let sum = |machine: &Machine| {
            let spans = dstore_node::spans_of(range);
            machine.node.settle().unwrap();
            dstore_storage::snapshot::checksum(&*machine.engine, &spans).unwrap()
        };
        let members = self.machines.iter().filter(|(_, machine)| !machine.removed);
        let sums: BTreeMap<u64, _> = members.map(|(id, machine)| (*id, sum(machine))).collect();
        let first = sums.values().next().cloned();
        sums.into_iter().filter(|(_, sum)| Some(sum) != first.as_ref()).map(|(id, _)| id).collect()
    }
}
