//! Faults of the network, of processes, disks and clocks: how they begin and how they end.

use dstore_node::Space;

use super::{Ending, Event, World};
use crate::machine::{CrashAt, Death};
use crate::nemesis::{Fault, Kind};
use crate::network::{End, Machine as MachineId, Quality};
use crate::time::{MILLI, Moment, SECOND};

/// How long a process that is stopped and cut off stays so at least: until others lead.
const DEAF_MIN: Moment = 2 * SECOND;
/// How long after that its peers reach it again.
const DEAF_AFTER: Moment = 300 * MILLI;

impl World {
    fn leader(&mut self) -> Option<MachineId> {
        self.machines.iter().find(|machine| machine.leads()).map(|machine| machine.id)
    }

    pub(super) fn fault(&mut self) {
        if self.now >= self.temper.faults_until {
            return;
        }
        let leader = self.leader();
        let present = self.present();
        if let Some((kind, fault)) = self.temper.fault(&mut self.nemesis, &present, leader) {
            // Every fault is over when all faults are.
            let until = (self.now + self.temper.duration(&mut self.nemesis)).min(self.temper.faults_until);
            let number = self.struck;
            self.struck += 1;
            if self.narrow.lets(number, kind) {
                self.trace.note(self.now, format_args!("fault {number}"));
                if kind == Kind::Clog {
                    self.count(Kind::Clog);
                }
                self.strike(fault, until);
            }
        }
        let next = self.temper.next(&mut self.nemesis, self.now);
        self.push(next, Event::Fault);
    }

    /// The process looks at its disk now and then, and finds so much room.
    fn set_space(&mut self, number: MachineId, space: Space) {
        let machine = &mut self.machines[number];
        machine.space = space;
        machine.engine.set_full(space == Space::Critical);
        if let Some(process) = &mut machine.process {
            process.note_space(space);
            self.turn_soon(number);
        }
    }

    pub(super) fn count(&mut self, kind: Kind) {
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
            Fault::Crash { machine, death, at } => {
                if !self.machines[machine].is_up() {
                    return;
                }
                self.count(if death == Death::Blackout { Kind::Blackout } else { Kind::Crash });
                match at {
                    Some(at) => self.machines[machine].crash_later(at, death),
                    None => self.die(machine, death),
                }
                self.push(until, Event::End(Ending::Crash(machine)));
            }
            Fault::Orphan => self.orphan(until),
            Fault::Pause { machine, within_turn, deaf } => {
                if !self.machines[machine].is_up() {
                    return;
                }
                self.count(Kind::Pause);
                let mut until = until;
                if deaf {
                    until = until.max(self.now + DEAF_MIN).min(self.temper.faults_until);
                    let others = self.present().into_iter().filter(|other| *other != machine);
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
                if quality.loss_permille != self.temper.quality.loss_permille
                    || quality.delay_min != self.temper.quality.delay_min
                {
                    self.count(Kind::Slow);
                }
                pairs.iter().for_each(|(from, to)| self.network.set_quality(*from, *to, quality));
                self.push(until, Event::End(Ending::Slow(pairs)));
            }
            Fault::Flap(pairs, period) => {
                self.count(Kind::Flap);
                self.flap(pairs, period, until);
            }
            other => self.strike_machine(other, until),
        }
    }

    /// Somebody else is to be elected, and then to be alone.
    fn orphan(&mut self, until: Moment) {
        let Some(leader) = self.leader() else { return };
        self.count(Kind::Orphan);
        self.crash(leader, true);
        for machine in self.present() {
            if self.machines[machine].is_up() {
                self.machines[machine].crash_later(CrashAt::Lead, Death::PowerCut);
            }
            self.push(until, Event::End(Ending::Crash(machine)));
        }
    }

    /// Blocks links, and will do so again.
    fn flap(&mut self, pairs: Vec<(MachineId, MachineId)>, period: Moment, until: Moment) {
        if self.now < until {
            self.block(pairs.clone(), (self.now + period).min(until));
            self.push(self.now + 2 * period, Event::End(Ending::Flap(pairs, period, until)));
        }
    }

    pub(super) fn block(&mut self, pairs: Vec<(MachineId, MachineId)>, until: Moment) {
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
                self.flush(machine);
            }
            Fault::Broken { machine, log, data } if self.machines[machine].process.is_some() => {
                self.count(Kind::Broken);
                self.machines[machine].break_disk(log, data);
                self.push(until, Event::End(Ending::Broken(machine)));
            }
            Fault::Rot { machine, log } => {
                if self.can_spare_a_disk() && self.members().contains(&machine) {
                    self.rot(machine, log, until);
                }
            }
            Fault::Full(machine, space) => {
                self.count(Kind::Full);
                self.set_space(machine, space);
                self.recorder.note_full_disk();
                self.push(until, Event::End(Ending::Full(machine)));
            }
            Fault::Sluggish(machine, times) => {
                self.count(Kind::Sluggish);
                self.machines[machine].slowness = times;
                self.push(until, Event::End(Ending::Sluggish(machine)));
            }
            // An engine that is being opened has no background work to be busy with.
            Fault::Busy(..) | Fault::Broken { .. } => {}
            other => self.strike_members(&other, until),
        }
    }

    pub(super) fn end(&mut self, ending: Ending) {
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
            Ending::Flap(pairs, period, until) => self.flap(pairs, period, until),
            Ending::Rot(machine) => self.end_rot(machine),
            Ending::Slow(pairs) => {
                let quality: Quality = self.temper.quality;
                pairs.iter().for_each(|(from, to)| self.network.set_quality(*from, *to, quality));
            }
            Ending::Crash(machine) => self.start(machine),
            Ending::Broken(machine) => {
                if self.machines[machine].broken {
                    // It has not written since, and has not noticed.
                    self.crash(machine, false);
                }
                self.start(machine);
            }
            Ending::Full(machine) => {
                self.set_space(machine, Space::Ample);
                // Unless it is to be down for another reason: then a little too early.
                self.start(machine);
            }
            Ending::Sluggish(machine) => self.machines[machine].slowness = 1,
            Ending::Pause(machine) => self.resume(machine),
        }
    }
}
