//! What machines do: turns of their loops, syncs, the work of other threads; and how they start and end.

use dstore_node::{Applied, NodeError, Space, USER_RANGE};
use dstore_storage::EngineError;

use super::{Ending, Event, World};
use crate::audit::audit;
use crate::machine::{CrashAt, Death, RANGES, Standing};
use crate::network::Machine as MachineId;
use crate::process::{Fatal, Surroundings};
use crate::time::{MICRO, MILLI, Moment, SECOND};

/// Of applied positions, one in so many is compared between replicas while the run goes on.
const SAMPLED_ONE_IN: u32 = 4;

/// What a slow disk takes at most. One that stalls takes longer.
const DISK_TIME_MAX: Moment = 2 * SECOND;

impl World {
    /// Something came for a machine: its loop turns soon.
    pub(super) fn turn_soon(&mut self, machine: MachineId) {
        let delay = if self.timing.one_in(300) { self.timing.below(20 * MILLI) } else { self.timing.below(40 * MICRO) };
        self.turn_at(machine, self.now + 1 + delay);
    }

    pub(super) fn turn_at(&mut self, machine: MachineId, at: Moment) {
        let known = &mut self.machines[machine].turn_at;
        if known.is_none_or(|known| at < known) {
            *known = Some(at);
            self.push(at, Event::Turn(machine));
        }
    }

    pub(super) fn turn(&mut self, number: MachineId) {
        let machine = &mut self.machines[number];
        if machine.pauses > 0 {
            return;
        }
        if machine.asker.is_some() {
            return self.turn_asker(number);
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
        let Some(process) = &machine.process else { return };
        if process.was_removed() {
            return self.left(number);
        }
        if matches!(machine.crash_at, Some((CrashAt::Lead, _))) && machine.leads_anew() {
            self.bereave(number);
        }
        let machine = &self.machines[number];
        let Some(process) = &machine.process else { return };
        let (writes, jobs) = (dstore_storage::MemoryLog::waiting(&machine.log), process.jobs());
        match machine.crash_at {
            Some((CrashAt::Write, death)) if writes > 0 => return self.die(number, death),
            Some((CrashAt::Term, death)) if writes == 0 && machine.has_voted() => return self.die(number, death),
            _ => {}
        }
        let (works, syncs) = (jobs > 0 && !machine.working, writes > 0 && !machine.syncing);
        if works {
            self.work_later(number);
        }
        if syncs {
            self.sync_later(number);
        }
        if self.machines[number].process.as_ref().is_some_and(|process| process.has_completions()) {
            self.turn_soon(number);
        }
        self.turn_at(number, next);
        self.sample(number);
    }

    /// A process has ended by itself, as it should when its disk fails and never otherwise.
    pub(super) fn stopped(&mut self, number: MachineId, error: &Fatal) {
        let name = self.machines[number].name();
        // A snapshot that was accepted has to come in: without room for it a node cannot go on either.
        let full = self.machines[number].space == Space::Critical
            && matches!(error, Fatal::Node(NodeError::Engine(EngineError::Full(_))));
        if self.machines[number].rotten && error.is_damage() {
            self.trace.note(self.now, format_args!("{name} ends by itself: {error}"));
            self.rot_noticed += 1;
            return self.replace_rotten(number);
        }
        if !self.machines[number].broken && !full {
            return self.fail(format!("{name} stopped: {error}"));
        }
        self.trace.note(self.now, format_args!("{name} ends by itself: {error}"));
        self.crash(number, false);
    }

    /// How long a disk takes for something.
    fn disk_time(&mut self, number: MachineId) -> Moment {
        let usual = 20 * MICRO + self.timing.exponential(self.temper.sync_mean);
        (self.machines[number].slowness * usual).min(DISK_TIME_MAX.max(usual))
    }

    fn sync_later(&mut self, number: MachineId) {
        let duration = self.disk_time(number);
        self.machines[number].syncing = true;
        self.push(self.now + duration, Event::Sync(number));
    }

    fn work_later(&mut self, number: MachineId) {
        let mut duration = self.disk_time(number);
        if self.now < self.temper.faults_until
            && let Some(process) = &self.machines[number].process
        {
            if process.lets_snapshot_in() {
                duration += self.timing.exponential(self.temper.install_mean);
            }
            if process.fetches() {
                duration += self.timing.exponential(self.temper.read_mean);
            }
        }
        self.machines[number].working = true;
        self.push(self.now + duration, Event::Work(number));
    }

    /// Another thread of a process has done one of the things it was given, unless the process is stopped or gone.
    pub(super) fn work(&mut self, number: MachineId) {
        let machine = &mut self.machines[number];
        if machine.stalled_until > self.now {
            let until = machine.stalled_until;
            return self.push(until, Event::Work(number));
        }
        if machine.pauses > 0 {
            return self.push(self.now + 50 * MILLI, Event::Work(number));
        }
        machine.working = false;
        let Some(process) = machine.process.as_mut().filter(|process| process.jobs() > 0) else { return };
        let (what, replaces) = process.work(self.timing.below(process.jobs() as u64) as usize);
        let more = process.jobs() > 0;
        self.snapshots += u64::from(replaces);
        self.trace.note(self.now, format_args!("{}: {what}", machine.name()));
        match machine.crash_at {
            Some((CrashAt::Install, death)) if replaces => return self.die(number, death),
            Some((CrashAt::Chunk, death)) if !replaces => return self.die(number, death),
            _ => {}
        }
        if more {
            self.work_later(number);
        }
        self.turn_soon(number);
    }

    pub(super) fn flush_later(&mut self, number: MachineId) {
        if let Some(every) = self.temper.flush_every {
            let wait = every / 2 + self.timing.below(every);
            self.push(self.now + wait, Event::Flush(number));
        }
    }

    /// The engine flushes, and the process hears of it.
    pub(super) fn flush(&mut self, number: MachineId) {
        let machine = &mut self.machines[number];
        if machine.process.is_none() || machine.pauses > 0 {
            return;
        }
        match machine.flush() {
            Ok(flushed) => {
                if let Some(process) = &mut machine.process {
                    process.note_flushed(flushed);
                    self.turn_soon(number);
                }
            }
            Err(error) => self.stopped(number, &error),
        }
    }

    pub(super) fn sync(&mut self, number: MachineId) {
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
            let replica = self.machines[number].replica(range);
            let checksum = replica.checksum();
            let (expected, first) = *self.samples.entry(key).or_insert((checksum, number));
            if first == number
                && range == USER_RANGE
                && let Err(what) = audit(&replica, self.databases_are_cleared)
            {
                let applied = replica.applied.unwrap_or_default().position;
                self.fail(format!("{}, at entry {applied}: {what}", self.machines[number].name()));
            }
            if expected != checksum {
                let (ours, theirs) = (self.machines[number].name(), self.machines[first].name());
                self.fail(format!("range {range}: {theirs} and {ours} applied the same and hold different data"));
            }
        }
    }

    pub(super) fn die(&mut self, number: MachineId, death: Death) {
        match death {
            Death::Kill => self.crash(number, false),
            Death::PowerCut => self.crash(number, true),
            // The operator's own machine is elsewhere.
            Death::Blackout => {
                for machine in self.present() {
                    let down = self.temper.duration(&mut self.timing);
                    self.lose_power(machine, down);
                }
            }
        }
    }

    /// All others lose power for a moment, and when they are back the machine does not reach them.
    fn bereave(&mut self, number: MachineId) {
        self.machines[number].crash_at = None;
        let others: Vec<MachineId> = self.present().into_iter().filter(|other| *other != number).collect();
        for other in &others {
            let down = MILLI + self.timing.below(200 * MILLI);
            self.lose_power(*other, down);
        }
        let pairs = others.iter().flat_map(|other| [(*other, number), (number, *other)]).collect();
        let until = self.now + SECOND + self.timing.below(2 * SECOND);
        self.block(pairs, until.min(self.temper.faults_until));
    }

    fn lose_power(&mut self, number: MachineId, down: Moment) {
        self.crash(number, true);
        let until = (self.now + down).min(self.temper.faults_until);
        self.push(until, Event::End(Ending::Crash(number)));
    }

    pub(super) fn crash(&mut self, number: MachineId, power: bool) {
        let name = self.machines[number].name();
        self.trace.note(self.now, format_args!("{name} {}", if power { "loses power" } else { "is killed" }));
        self.machines[number].crash();
        self.machines[number].has_power = !power;
        self.network.crash(self.now, number, power);
    }

    pub(super) fn start(&mut self, number: MachineId) {
        let machine = &mut self.machines[number];
        machine.crash_at = None;
        if machine.is_up() || !matches!(machine.standing, Standing::New | Standing::Member) {
            return;
        }
        self.trace.note(self.now, format_args!("{} starts", machine.name()));
        self.network.revive(self.now, number);
        self.say_where_others_are(number);
        let machine = &mut self.machines[number];
        let clock = machine.clock.clone();
        let (network, trace) = (&mut self.network, &mut self.trace);
        let mut around = Surroundings { moment: self.now, clock: &clock, network, trace };
        match machine.start(&self.settings, &mut around) {
            Ok(()) => {
                if machine.log.waiting() > 0 && !machine.syncing {
                    self.sync_later(number);
                }
                self.tell_places();
                self.turn_soon(number);
            }
            Err(error) if machine.rotten && error.is_damage() => {
                self.trace.note(self.now, format_args!("n{} refuses to start: {error}", number + 1));
                self.rot_noticed += 1;
                self.replace_rotten(number);
            }
            Err(error) => self.fail(format!("n{} does not start: {error}", number + 1)),
        }
    }

    pub(super) fn pause(&mut self, number: MachineId) {
        self.trace.note(self.now, format_args!("n{} is stopped", number + 1));
        self.machines[number].pauses += 1;
    }

    pub(super) fn resume(&mut self, number: MachineId) {
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
