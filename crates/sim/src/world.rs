//! [`World`]: machines, network, clients and their time, and the queue of everything that is going to happen.
//!
//! One event after the other, in the order of their moments and, within one, of their making: so a seed is one run. What
//! happens at a machine waits in its inbox until the process's loop turns, some microseconds later, or as late as it is
//! stopped; so turns take one thing or many, as on a busy machine.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use dstore_node::Applied;
use dstore_storage::RangeId;

use crate::machine::{ClusterSettings, Machine, RANGES, draw_clock};
use crate::nemesis::{Fault, Kind, Temper};
use crate::network::{Arrival, End, Machine as MachineId, Network, Quality, StreamId};
use crate::process::{Fatal, Input, Surroundings, Text};
use crate::random::Random;
use crate::time::{MICRO, MILLI, Moment, SECOND};
use crate::trace::Trace;
use crate::workload::{Client, ClientAction, Habits, Recorder};

/// Something that is going to happen.
#[derive(Debug)]
enum Event {
    /// Something arrives at one end of a stream.
    Arrive(StreamId, End),
    /// The loop of a machine turns, unless it was put off.
    Turn(MachineId),
    /// A machine's disk has synced; of this start of its process.
    Sync(MachineId),
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

/// How long a process that is stopped and cut off stays so at least: until others lead.
const DEAF_MIN: Moment = 2 * SECOND;
/// How long after that its peers reach it again.
const DEAF_AFTER: Moment = 300 * MILLI;

/// Of applied positions, one in so many is compared between replicas while the run goes on.
const SAMPLED_ONE_IN: u32 = 4;

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
}

impl World {
    /// A cluster that begins to start, with clients that begin to work.
    pub fn new(
        settings: ClusterSettings,
        temper: Temper,
        habits: &Habits,
        random: &mut Random,
        epoch: Instant,
    ) -> World {
        let nodes = settings.nodes;
        let clients = random.between(3, 6) as usize;
        let readers = nodes;
        let mut network = Network::new(random.fork(), nodes + clients + readers);
        for from in 0..nodes {
            network.set_name(&format!("n{}:1", from + 1), Some(from));
            for to in (0..nodes).filter(|to| *to != from) {
                network.set_quality(from, to, temper.quality);
            }
        }
        let mut machines = Vec::new();
        for id in 0..nodes {
            let clock = draw_clock(random, epoch, temper.drift_ppm, temper.wall_error_us);
            machines.push(Machine::new(id, clock, random.fork()));
        }
        let clients = (0..clients).map(|_| Connected::new(Client::new(random.fork(), habits.clone()))).collect();
        let mut world = World {
            now: 0,
            recorder: Recorder::default(),
            trace: Trace::new(false),
            faults: BTreeMap::new(),
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
        };
        for machine in 0..nodes {
            let at = world.timing.below(200 * MILLI);
            world.push(at, Event::End(Ending::Crash(machine)));
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

    /// A client at each node reads every key.
    pub fn read_everything(&mut self, habits: &Habits) {
        self.trace.note(self.now, format_args!("every node is read"));
        for machine in 0..self.settings.nodes {
            let random = self.timing.fork();
            self.clients.push(Connected::new(Client::reader(random, habits.clone(), self.now, machine)));
            self.wake_client(self.clients.len() - 1);
        }
    }

    /// Whether every client has done what it was to do.
    pub fn clients_are_done(&self) -> bool {
        self.clients.iter().all(|client| client.client.is_done())
    }

    /// Whether all replicas of all ranges are equally far.
    pub fn replicas_are_level(&self) -> bool {
        RANGES.iter().all(|range| {
            let mut applied = self.machines.iter().map(|machine| machine.applied(*range));
            let first = applied.next().flatten();
            first.is_some() && applied.all(|other| other == first)
        })
    }

    /// Compares replicas that are equally far, byte by byte.
    pub fn compare_replicas(&mut self) {
        for range in RANGES {
            let first = self.machines[0].replica(range);
            for machine in &self.machines[1..] {
                if let Some(difference) = first.difference(&machine.replica(range)) {
                    self.failures.push(format!(
                        "range {range}: n1 and {} have applied the same and hold different data: {difference}",
                        machine.name()
                    ));
                }
            }
        }
    }

    /// How it stands with every node and client, for the report of a cluster that does not recover.
    pub fn situation(&self) -> String {
        let mut text = String::new();
        for machine in &self.machines {
            text += &format!("\n    {}: ", machine.name());
            match machine.process.as_ref().map(|process| process.core().status()) {
                None => text += "down",
                Some(Err(error)) => text += &error.to_string(),
                Some(Ok(status)) => {
                    for range in &status.ranges {
                        text += &format!(
                            "range {} {} in term {}, leader {:?}, commit {}, applied {}, last {}, durable {}; ",
                            range.range,
                            range.role,
                            range.term,
                            range.leader,
                            range.commit,
                            range.applied,
                            range.last,
                            range.durable
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
        let nodes = self.settings.nodes;
        if to >= nodes {
            return self.deliver_to_client(to - nodes, stream, arrival);
        }
        let machine = &mut self.machines[to];
        if machine.process.is_some() {
            machine.inbox.push(Input { stream, end, is_peer: dialer < nodes, arrival });
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
        let nodes = self.settings.nodes;
        while let Some(action) = self.clients[number].client.poll_action() {
            let client = &mut self.clients[number];
            match action {
                ClientAction::Connect(machine) => {
                    client.disconnect(self.now, &mut self.network);
                    let stream = self.network.dial(self.now, nodes + number, machine);
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

    // Machines.

    /// Something came for a machine: its loop turns soon.
    fn turn_soon(&mut self, machine: MachineId) {
        let delay = if self.timing.one_in(300) { self.timing.below(20 * MILLI) } else { self.timing.below(40 * MICRO) };
        self.turn_at(machine, self.now + 1 + delay);
    }

    fn turn_at(&mut self, machine: MachineId, at: Moment) {
        let known = &mut self.machines[machine].turn_at;
        if known.is_none_or(|known| at < known) {
            *known = Some(at);
            self.push(at, Event::Turn(machine));
        }
    }

    fn turn(&mut self, number: MachineId) {
        let machine = &mut self.machines[number];
        if machine.pauses > 0 {
            return;
        }
        let Some(process) = machine.process.as_mut() else { return };
        let inputs = std::mem::take(&mut machine.inbox);
        let now = self.now;
        let (network, trace) = (&mut self.network, &mut self.trace);
        let mut around = Surroundings { moment: now, clock: &machine.clock, network, trace };
        #[cfg(feature = "planted")]
        if self.settings.planted == Some(dstore_node::Planted::ReadByOldClock) {
            around.moment = std::mem::replace(&mut machine.turned_at, now);
        }
        let turn = || -> Result<Option<Moment>, Fatal> {
            process.think(inputs, &mut around)?;
            around.moment = now;
            if std::mem::take(&mut machine.pause_within_turn) {
                machine.owes = true;
                return Ok(None);
            }
            process.carry_out(None, &mut around)?;
            Ok(Some(process.next_turn(&around)))
        };
        match turn() {
            Ok(Some(next)) => self.turned(number, next),
            Ok(None) => self.pause(number),
            Err(error) => self.stopped(number, &error),
        }
    }

    /// A turn is over.
    fn turned(&mut self, number: MachineId, next: Moment) {
        let machine = &self.machines[number];
        let writes = dstore_storage::MemoryLog::waiting(&machine.log);
        if writes > 0
            && let Some(power) = machine.crash_at_write
        {
            return self.crash(number, power);
        }
        if writes > 0 && !machine.syncing {
            self.sync_later(number);
        }
        if self.machines[number].process.as_ref().is_some_and(|process| process.has_completions()) {
            self.turn_soon(number);
        }
        self.turn_at(number, next);
        self.sample(number);
    }

    fn stopped(&mut self, number: MachineId, error: &Fatal) {
        let name = self.machines[number].name();
        self.fail(format!("{name} stopped: {error}"));
    }

    fn sync_later(&mut self, number: MachineId) {
        let duration = 20 * MICRO + self.timing.exponential(self.temper.sync_mean);
        self.machines[number].syncing = true;
        self.push(self.now + duration, Event::Sync(number));
    }

    fn sync(&mut self, number: MachineId) {
        let machine = &mut self.machines[number];
        if machine.stalled_until > self.now {
            let until = machine.stalled_until;
            return self.push(until, Event::Sync(number));
        }
        machine.syncing = false;
        let waiting = machine.log.waiting() as u64;
        // All that came during the last sync shares the next one, mostly.
        let share = if self.timing.one_in(3) { self.timing.between(waiting.min(1), waiting) } else { waiting };
        for _ in 0..share {
            machine.log.sync_one();
        }
        self.trace.note(self.now, format_args!("{} has synced {share} of {waiting} writes", machine.name()));
        if machine.log.waiting() > 0 {
            self.sync_later(number);
        }
        if self.machines[number].process.is_some() {
            self.turn_soon(number);
        }
    }

    /// Replicas that are equally far must look alike. Looking at all of them would cost more than everything else.
    fn sample(&mut self, number: MachineId) {
        for range in RANGES {
            let Some(applied) = self.machines[number].applied(range).as_ref().map(Applied::encode) else { continue };
            let key = (range, applied.to_vec());
            if !crc32c::crc32c(&applied).is_multiple_of(SAMPLED_ONE_IN) {
                continue;
            }
            if self.samples.get(&key).is_some_and(|(_, first)| *first == number) {
                continue;
            }
            let checksum = self.machines[number].replica(range).checksum();
            let (expected, first) = *self.samples.entry(key).or_insert((checksum, number));
            if expected != checksum {
                let (ours, theirs) = (self.machines[number].name(), self.machines[first].name());
                self.fail(format!("range {range}: {theirs} and {ours} applied the same and hold different data"));
            }
        }
    }

    // Faults.

    fn leader(&mut self) -> Option<MachineId> {
        self.machines.iter().find(|machine| machine.leads()).map(|machine| machine.id)
    }

    fn fault(&mut self) {
        if self.now >= self.temper.faults_until {
            return;
        }
        let leader = self.leader();
        if let Some(fault) = self.temper.fault(&mut self.nemesis, self.settings.nodes, leader) {
            // Every fault is over when all faults are.
            let until = (self.now + self.temper.duration(&mut self.nemesis)).min(self.temper.faults_until);
            self.strike(fault, until);
        }
        let next = self.temper.next(&mut self.nemesis, self.now);
        self.push(next, Event::Fault);
    }

    fn count(&mut self, kind: Kind) {
        *self.faults.entry(kind).or_default() += 1;
    }

    fn strike(&mut self, fault: Fault, until: Moment) {
        self.trace.note(self.now, format_args!("fault until {}: {fault:?}", crate::time::seconds(until)));
        match fault {
            Fault::Partition(pairs) => {
                self.count(Kind::Partition);
                self.block(pairs, until);
            }
            Fault::Stray(from, to) => {
                self.count(Kind::Stray);
                self.push(self.now.midpoint(until), Event::End(Ending::Stray(from, to)));
                self.block(vec![(from, to)], until);
            }
            Fault::Crash { machine, power, at_write } => {
                if self.machines[machine].process.is_none() {
                    return;
                }
                self.count(Kind::Crash);
                if at_write {
                    self.machines[machine].crash_at_write = Some(power);
                } else {
                    self.crash(machine, power);
                }
                self.push(until, Event::End(Ending::Crash(machine)));
            }
            Fault::Pause { machine, within_turn, deaf } => {
                if self.machines[machine].process.is_none() {
                    return;
                }
                self.count(Kind::Pause);
                let mut until = until;
                if deaf {
                    until = until.max(self.now + DEAF_MIN).min(self.temper.faults_until);
                    let others = (0..self.settings.nodes).filter(|other| *other != machine);
                    let pairs = others.flat_map(|other| [(other, machine), (machine, other)]).collect();
                    self.block(pairs, (until + DEAF_AFTER).min(self.temper.faults_until));
                }
                if within_turn {
                    self.machines[machine].pause_within_turn = true;
                } else {
                    self.pause(machine);
                }
                self.push(until, Event::End(Ending::Pause(machine)));
            }
            Fault::Cut(share) => {
                self.count(Kind::Cut);
                for stream in self.network.streams() {
                    if self.nemesis.permille(share) {
                        self.network.cut(self.now, stream);
                    }
                }
            }
            Fault::Slow(pairs, quality) => {
                self.count(Kind::Slow);
                pairs.iter().for_each(|(from, to)| self.network.set_quality(*from, *to, quality));
                self.push(until, Event::End(Ending::Slow(pairs)));
            }
            other => self.strike_machine(other, until),
        }
    }

    fn block(&mut self, pairs: Vec<(MachineId, MachineId)>, until: Moment) {
        pairs.iter().for_each(|(from, to)| self.network.block(*from, *to));
        self.push(until, Event::End(Ending::Partition(pairs)));
    }

    /// Faults of a disk or a clock.
    fn strike_machine(&mut self, fault: Fault, until: Moment) {
        match fault {
            Fault::Stall(machine) => {
                self.count(Kind::Stall);
                self.machines[machine].stalled_until = until;
            }
            Fault::Jump(machine, offset_us) => {
                self.count(Kind::Jump);
                self.machines[machine].clock.set_wall_offset_us(offset_us);
            }
            Fault::Busy(machine, writes) if self.machines[machine].process.is_some() => {
                self.count(Kind::Busy);
                self.machines[machine].engine.refuse_writes(writes);
            }
            Fault::Flush(machine) => {
                self.count(Kind::Flush);
                match self.machines[machine].flush() {
                    Ok(flushed) => {
                        if let Some(process) = &mut self.machines[machine].process {
                            process.note_flushed(flushed);
                            self.turn_soon(machine);
                        }
                    }
                    Err(error) => self.stopped(machine, &error),
                }
            }
            // An engine that is being opened has no background work to be busy with.
            Fault::Busy(..) => {}
            other => unreachable!("{other:?} is no fault of a machine"),
        }
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Partition(pairs) => {
                self.trace.note(self.now, format_args!("a partition ends: {pairs:?}"));
                pairs.iter().for_each(|(from, to)| self.network.unblock(self.now, *from, *to));
            }
            Ending::Stray(from, to) => {
                for stream in self.network.streams() {
                    if self.network.machines_of(stream) == Some([from, to]) {
                        self.network.sever(self.now, stream, End::Dialer);
                    }
                }
            }
            Ending::Slow(pairs) => {
                let quality: Quality = self.temper.quality;
                pairs.iter().for_each(|(from, to)| self.network.set_quality(*from, *to, quality));
            }
            Ending::Crash(machine) => self.start(machine),
            Ending::Pause(machine) => self.resume(machine),
        }
    }

    fn crash(&mut self, number: MachineId, power: bool) {
        let name = self.machines[number].name();
        self.trace.note(self.now, format_args!("{name} {}", if power { "loses power" } else { "is killed" }));
        self.machines[number].crash();
        self.machines[number].has_power = !power;
        self.network.crash(self.now, number, power);
    }

    fn start(&mut self, number: MachineId) {
        let machine = &mut self.machines[number];
        machine.crash_at_write = None;
        if machine.process.is_some() {
            return;
        }
        self.trace.note(self.now, format_args!("{} starts", machine.name()));
        self.network.revive(self.now, number);
        let clock = machine.clock.clone();
        let (network, trace) = (&mut self.network, &mut self.trace);
        let mut around = Surroundings { moment: self.now, clock: &clock, network, trace };
        match machine.start(&self.settings, &mut around) {
            Ok(()) => {
                if machine.log.waiting() > 0 && !machine.syncing {
                    self.sync_later(number);
                }
                self.turn_soon(number);
            }
            Err(error) => self.fail(format!("n{} does not start: {error}", number + 1)),
        }
    }

    fn pause(&mut self, number: MachineId) {
        self.trace.note(self.now, format_args!("n{} is stopped", number + 1));
        self.machines[number].pauses += 1;
    }

    fn resume(&mut self, number: MachineId) {
        let machine = &mut self.machines[number];
        machine.pause_within_turn = false;
        if machine.pauses == 0 {
            return; // it crashed since, or the pause never came to be
        }
        machine.pauses -= 1;
        if machine.pauses > 0 {
            return;
        }
        self.trace.note(self.now, format_args!("n{} goes on", number + 1));
        if std::mem::take(&mut machine.owes)
            && let Some(process) = machine.process.as_mut()
        {
            let (network, trace) = (&mut self.network, &mut self.trace);
            let mut around = Surroundings { moment: self.now, clock: &machine.clock, network, trace };
            if let Err(error) = process.carry_out(None, &mut around) {
                return self.stopped(number, &error);
            }
        }
        self.turn_soon(number);
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
