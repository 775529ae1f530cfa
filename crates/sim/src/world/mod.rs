//! [`World`]: machines, network, clients and their time, and the queue of everything that is going to happen.
//!
//! One event after the other, in the order of their moments and, within one, of their making: so a seed is one run. What
//! happens at a machine waits in its inbox until the process's loop turns, some microseconds later, or as late as it is
//! stopped; so turns take one thing or many, as on a busy machine.

mod faults;
mod machines;
mod members;

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use dstore_node::USER_RANGE;
use dstore_storage::RangeId;

use crate::audit::audit;
use crate::machine::{ClusterSettings, Machine, RANGES, Standing, draw_clock};
use crate::narrow::Narrow;
use crate::nemesis::{Kind, Temper};
use crate::network::{Arrival, End, Machine as MachineId, Network, StreamId};
use crate::process::{Input, Text};
use crate::random::Random;
use crate::time::{MILLI, Moment};
use crate::trace::Trace;
use crate::workload::{Client, ClientAction, Habits, Recorder};
use members::Operator;

/// Something that is going to happen.
#[derive(Debug)]
enum Event {
    /// Something arrives at one end of a stream.
    Arrive(StreamId, End),
    /// The loop of a machine turns, unless it was put off.
    Turn(MachineId),
    /// A machine's disk has synced; of this start of its process.
    Sync(MachineId),
    /// Another thread of a machine's process has done something.
    Work(MachineId),
    /// A machine's engine flushes by itself.
    Flush(MachineId),
    /// A client looks at the clock.
    Client(usize),
    /// The next fault.
    Fault,
    /// A fault ends.
    End(Ending),
}

/// The end of a fault.
#[derive(Debug)]
enum Ending {
    Partition(Vec<(MachineId, MachineId)>),
    /// Of connections' trust, in the midst of a partition.
    Stray(MachineId, MachineId),
    Crash(MachineId),
    Pause(MachineId),
    Slow(Vec<(MachineId, MachineId)>),
    Broken(MachineId),
    Sluggish(MachineId),
    Full(MachineId),
    /// Of a while of peace between two blockades, with their length and the end of it all.
    Flap(Vec<(MachineId, MachineId)>, Moment, Moment),
    Rot(MachineId),
}

/// A client and its connection.
struct Connected {
    client: Client,
    stream: Option<StreamId>,
    established: bool,
    /// What waits to be sent.
    pending: Vec<Bytes>,
    /// When it is to be woken.
    wake_at: Moment,
}

/// What is being compared: how the data of a range looked at an applied position, and where it was seen first.
type Samples = BTreeMap<(RangeId, Vec<u8>), (u32, MachineId)>;

/// The whole simulation. See the [module](self).
pub struct World {
    /// Now.
    pub now: Moment,
    /// The history so far.
    pub recorder: Recorder,
    /// Everything that happened.
    pub trace: Trace,
    /// How many faults of each kind there were.
    pub faults: BTreeMap<Kind, u64>,
    /// How many snapshots replaced the data of a range.
    pub snapshots: u64,
    /// How many nodes have ended by themselves, or refused to start, because their disk was rotten.
    pub rot_noticed: u64,
    /// What of the seed's faults is left out.
    pub narrow: Narrow,
    /// How many faults were drawn.
    pub struck: u64,
    /// What went wrong, apart from what the history shows.
    pub failures: Vec<String>,
    settings: ClusterSettings,
    temper: Temper,
    queue: BTreeMap<(Moment, u64), Event>,
    events: u64,
    network: Network,
    machines: Vec<Machine>,
    clients: Vec<Connected>,
    nemesis: Random,
    timing: Random,
    samples: Samples,
    operator: Operator,
    databases_are_cleared: bool,
}

impl World {
    /// A cluster that begins to start, with clients that begin to work.
    pub fn new(
        settings: ClusterSettings,
        temper: Temper,
        habits: &Habits,
        random: &mut Random,
        (epoch, narrow): (Instant, Narrow),
    ) -> World {
        // The operator has a machine of his own, behind all others.
        let machines = settings.machines + 1;
        let clients = (random.between(3, 6) as usize).min(narrow.clients_max);
        let readers = machines;
        let mut network = Network::new(random.fork(), machines + clients + readers);
        for from in 0..machines {
            for to in (0..machines).filter(|to| *to != from) {
                network.set_quality(from, to, temper.quality);
            }
        }
        let draw = |id| {
            let clock = draw_clock(random, epoch, temper.drift_ppm, temper.wall_error_us);
            Machine::new(id, clock, random.fork())
        };
        let machines = (0..machines).map(draw).collect();
        let founders: Vec<MachineId> = (0..settings.founders).collect();
        let client = |_| Connected::new(Client::new(random.fork(), habits.clone(), founders.clone()));
        let clients = (0..clients).map(client).collect();
        let mut world = World {
            now: 0,
            recorder: Recorder::default(),
            trace: Trace::new(false),
            faults: BTreeMap::new(),
            snapshots: 0,
            rot_noticed: 0,
            narrow,
            databases_are_cleared: habits.clear_permille > 0,
            struck: 0,
            failures: Vec::new(),
            settings,
            temper,
            queue: BTreeMap::new(),
            events: 0,
            network,
            machines,
            clients,
            nemesis: random.fork(),
            timing: random.fork(),
            samples: Samples::new(),
            operator: Operator::default(),
        };
        for machine in founders {
            let at = world.timing.below(200 * MILLI);
            world.machines[machine].standing = Standing::Member;
            world.name(machine);
            world.push(at, Event::End(Ending::Crash(machine)));
            world.flush_later(machine);
        }
        for client in 0..world.clients.len() {
            world.wake_client(client);
        }
        let first = world.temper.next(&mut world.nemesis, 0);
        world.push(first, Event::Fault);
        world
    }

    /// Goes on until nothing is left before `until`, something went wrong, or `done` says so.
    pub fn run(&mut self, until: Moment, done: impl Fn(&World) -> bool) {
        while !self.has_failed() && !done(self) {
            while let Some((at, stream, end)) = self.network.poll_schedule() {
                self.push(at, Event::Arrive(stream, end));
            }
            let Some(((at, _), event)) = self.queue.pop_first() else { break };
            if at > until {
                self.queue.insert((at, 0), event);
                self.now = until;
                break;
            }
            self.now = at;
            self.happen(event);
        }
    }

    /// Whether something went wrong that shows at once.
    pub fn has_failed(&self) -> bool {
        !self.failures.is_empty() || !self.recorder.problems().is_empty()
    }

    /// The faults are over: from now on clients have to succeed.
    pub fn recover(&mut self) {
        self.trace.note(self.now, format_args!("faults are over"));
        for client in &mut self.clients {
            client.client.recover(self.now);
        }
    }

    /// A client at each member reads every key.
    pub fn read_everything(&mut self, habits: &Habits) {
        self.trace.note(self.now, format_args!("every node is read"));
        for machine in self.members() {
            let random = self.timing.fork();
            self.clients.push(Connected::new(Client::reader(random, habits.clone(), self.now, machine)));
            self.wake_client(self.clients.len() - 1);
        }
    }

    /// Whether every client has done what it was to do.
    pub fn clients_are_done(&self) -> bool {
        self.clients.iter().all(|client| client.client.is_done())
    }

    /// Whether all members' replicas of all ranges are equally far.
    pub fn replicas_are_level(&self) -> bool {
        RANGES.iter().all(|range| {
            let members = self.members();
            let mut applied = members.iter().map(|member| self.machines[*member].applied(*range));
            let first = applied.next().flatten();
            first.is_some() && applied.all(|other| other == first)
        })
    }

    /// Whether all members have removed what has expired, and what is left of long values.
    pub fn is_swept(&self) -> bool {
        self.members().into_iter().all(|member| self.machines[member].is_swept())
    }

    /// Compares replicas that are equally far, byte by byte, and audits one of them.
    pub fn compare_replicas(&mut self) {
        let members = self.members();
        for range in RANGES {
            let first = self.machines[members[0]].replica(range);
            if range == USER_RANGE
                && let Err(what) = audit(&first, self.databases_are_cleared)
            {
                self.failures.push(format!("n{}, at the end: {what}", members[0] + 1));
            }
            for machine in members[1..].iter().map(|member| &self.machines[*member]) {
                if let Some(difference) = first.difference(&machine.replica(range)) {
                    self.failures.push(format!(
                        "range {range}: n{} and {} have applied the same and hold different data: {difference}",
                        members[0] + 1,
                        machine.name()
                    ));
                }
            }
        }
    }

    /// How it stands with every node and client, for the report of a cluster that does not recover.
    pub fn situation(&self) -> String {
        let mut text = String::new();
        for machine in self.machines.iter().filter(|machine| machine.standing != Standing::Absent || machine.is_up()) {
            text += &format!("\n    {} {:?} at {}: ", machine.name(), machine.standing, machine.address);
            if let Some(asker) = &machine.asker {
                text += &format!("asks for {:?}", asker.question());
                continue;
            }
            match machine.process.as_ref().map(|process| process.core().status()) {
                None => text += "down",
                Some(Err(error)) => text += &error.to_string(),
                Some(Ok(status)) => {
                    for range in &status.ranges {
                        text += &format!(
                            "range {} {} in term {}, leader {:?}, commit {}, applied {}, last {}, durable {}, members {:?}; ",
                            range.range,
                            range.role,
                            range.term,
                            range.leader,
                            range.commit,
                            range.applied,
                            range.last,
                            range.durable,
                            machine.members_of(range.range)
                        );
                    }
                    text += &format!("{} requests held", status.requests_held);
                }
            }
        }
        for (number, client) in self.clients.iter().enumerate().filter(|(_, client)| !client.client.is_done()) {
            text += &format!("\n    client {number} at {:?} is not done", client.client.machine().map(|node| node + 1));
        }
        text
    }

    fn push(&mut self, at: Moment, event: Event) {
        self.events += 1;
        self.queue.insert((at.max(self.now), self.events), event);
    }

    fn fail(&mut self, what: String) {
        self.trace.note(self.now, format_args!("FAILURE: {what}"));
        self.failures.push(what);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(stream, end) => self.arrive(stream, end),
            Event::Turn(machine) => {
                if self.machines[machine].turn_at == Some(self.now) {
                    self.machines[machine].turn_at = None;
                    self.turn(machine);
                }
            }
            Event::Sync(machine) => self.sync(machine),
            Event::Work(machine) => self.work(machine),
            Event::Flush(machine) => {
                self.flush(machine);
                self.flush_later(machine);
            }
            Event::Client(client) => {
                if self.clients[client].wake_at == self.now {
                    self.clients[client].wake_at = Moment::MAX;
                    let Connected { client: behaviour, .. } = &mut self.clients[client];
                    behaviour.handle_timeout(self.now, &mut self.recorder);
                    self.act(client);
                }
            }
            Event::Fault => self.fault(),
            Event::End(ending) => self.end(ending),
        }
    }

    // The network.

    fn arrive(&mut self, stream: StreamId, end: End) {
        let machines = self.network.machines_of(stream);
        let Some((receiver, arrival)) = self.network.arrive(self.now, stream, end) else { return };
        let Some([dialer, _]) = machines else { return };
        if let Some((sender, sending_end)) = self.network.poll_room(stream, end) {
            self.deliver(sender, dialer, (stream, sending_end), Arrival::Room);
        }
        self.deliver(receiver, dialer, (stream, end), arrival);
    }

    fn deliver(&mut self, to: MachineId, dialer: MachineId, (stream, end): (StreamId, End), arrival: Arrival) {
        let machines = self.machines.len();
        if to == self.network.nowhere() {
            if arrival == Arrival::Accepted {
                self.network.refuse(self.now, stream, true);
            }
            return;
        }
        if to >= machines {
            return self.deliver_to_client(to - machines, stream, arrival);
        }
        let machine = &mut self.machines[to];
        if machine.is_up() {
            machine.inbox.push(Input { stream, end, is_peer: dialer < machines, arrival });
            self.turn_soon(to);
        } else if arrival == Arrival::Accepted {
            self.network.refuse(self.now, stream, machine.has_power);
        }
    }

    fn deliver_to_client(&mut self, number: usize, stream: StreamId, arrival: Arrival) {
        let client = &mut self.clients[number];
        if client.stream != Some(stream) {
            return;
        }
        match arrival {
            Arrival::Connected => client.established = true,
            Arrival::Bytes(bytes) => {
                self.trace.note(self.now, format_args!("c{number} hears {}", Text(&bytes)));
                client.client.handle_bytes(self.now, &bytes, &mut self.recorder);
            }
            Arrival::Closed(why) => {
                self.trace.note(self.now, format_args!("c{number} is cut off: {why}"));
                client.disconnect(self.now, &mut self.network);
                client.client.handle_closed(self.now);
            }
            Arrival::Accepted | Arrival::Room => {}
        }
        self.act(number);
    }

    // Clients.

    fn wake_client(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let due = client.client.due().max(self.now);
        if client.wake_at != due && due < Moment::MAX {
            client.wake_at = due;
            self.push(due, Event::Client(number));
        }
    }

    /// Does what a client wants done.
    fn act(&mut self, number: usize) {
        let machines = self.machines.len();
        while let Some(action) = self.clients[number].client.poll_action() {
            let client = &mut self.clients[number];
            match action {
                ClientAction::Connect(machine) => {
                    client.disconnect(self.now, &mut self.network);
                    let stream = self.network.dial(self.now, machines + number, machine);
                    client.stream = Some(stream);
                    self.trace.note(self.now, format_args!("c{number} connects to n{}", machine + 1));
                }
                ClientAction::Send(bytes) => {
                    self.trace.note(self.now, format_args!("c{number} sends {}", Text(&bytes)));
                    client.pending.push(bytes);
                }
                ClientAction::Close => {
                    self.trace.note(self.now, format_args!("c{number} closes"));
                    client.disconnect(self.now, &mut self.network);
                }
            }
        }
        let client = &mut self.clients[number];
        if let Some(stream) = client.stream.filter(|_| client.established) {
            for bytes in client.pending.drain(..) {
                self.network.send(self.now, stream, End::Dialer, bytes);
            }
        }
        self.wake_client(number);
    }
}

impl Connected {
    fn new(client: Client) -> Connected {
        Connected { client, stream: None, established: false, pending: Vec::new(), wake_at: Moment::MAX }
    }

    fn disconnect(&mut self, now: Moment, network: &mut Network) {
        if let Some(stream) = self.stream.take() {
            network.close(now, stream, End::Dialer);
        }
        self.established = false;
        self.pending.clear();
    }
}
