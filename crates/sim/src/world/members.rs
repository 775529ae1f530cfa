//! Members that come and go: what an operator does, with the same calls as a real one, and what must come of it.
//!
//! The operator does one thing after the other: while he removes a node he begins nothing else. A disk is lost for ever only
//! where the cluster can bear it: when everybody agrees on at least three voters and none of them is gone already.

use std::collections::BTreeSet;

use dstore_node::{Administer, HandOver, Remove};

use super::{Event, World};
use crate::machine::{RANGES, Standing};
use crate::nemesis::{Fault, Kind};
use crate::network::Machine as MachineId;
use crate::peers::node_of;
use crate::process::Surroundings;
use crate::time::{Moment, seconds};

/// Members that there are at most at a time.
const MEMBERS_MAX: usize = 6;

/// What the operator is at.
#[derive(Debug, Default)]
pub(super) struct Operator {
    errand: Option<Errand>,
    /// Whom he wanted removed, ever.
    doomed: BTreeSet<MachineId>,
    /// Machines whose disk was lost and in whose place there is another.
    replaced: BTreeSet<MachineId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    /// A node is to go; if its disk was lost, another takes its place.
    Remove(MachineId),
    /// Leadership is to go elsewhere, if it does so in time.
    HandOver(Moment),
    /// A disk is rotten, and its node will have to be replaced; nothing else is begun before.
    Rotten(MachineId),
}

impl World {
    /// Machines that are switched on and have not left.
    pub(super) fn present(&self) -> Vec<MachineId> {
        let here = |standing| matches!(standing, Standing::New | Standing::Member);
        self.machines.iter().filter(|machine| here(machine.standing)).map(|machine| machine.id).collect()
    }

    /// Nodes that belong to the cluster and are to stay.
    pub(super) fn members(&self) -> Vec<MachineId> {
        let stays = |machine: &MachineId| {
            self.machines[*machine].standing == Standing::Member && !self.operator.doomed.contains(machine)
        };
        self.present().into_iter().filter(stays).collect()
    }

    /// The network finds a machine by its address.
    pub(super) fn name(&mut self, number: MachineId) {
        self.network.set_name(&self.machines[number].address, Some(number));
    }

    /// Clients and those who ask for something know where the members are.
    pub(super) fn tell_places(&mut self) {
        let members = self.members();
        let places: Vec<String> = members.iter().map(|member| self.machines[*member].address.clone()).collect();
        for asker in self.machines.iter_mut().filter_map(|machine| machine.asker.as_mut()) {
            asker.set_contacts(places.clone());
        }
        self.clients.iter_mut().for_each(|client| client.client.set_nodes(&members));
    }

    fn operators_machine(&self) -> MachineId {
        self.settings.machines
    }

    /// Changes of who belongs to the cluster, and where.
    pub(super) fn strike_members(&mut self, fault: &Fault, until: Moment) {
        match fault {
            Fault::Join => self.switch_on(None),
            Fault::Remove(machine) => {
                if self.members().len() > 1 && self.members().contains(machine) && self.operator.errand.is_none() {
                    self.count(Kind::Remove);
                    self.remove(*machine);
                }
            }
            Fault::Wipe(machine) => {
                if self.can_spare_a_disk() && self.members().contains(machine) {
                    self.count(Kind::Wipe);
                    self.wipe(*machine);
                }
            }
            Fault::Move(machine) => {
                if self.members().contains(machine) && self.operator.errand.is_none() && self.all_know_all() {
                    self.count(Kind::Move);
                    self.move_away(*machine, until);
                }
            }
            Fault::HandOver(to) => {
                if self.operator.errand.is_none() {
                    self.count(Kind::HandOver);
                    let to = to.map_or(0, |to| node_of(to).0);
                    self.operator.errand = Some(Errand::HandOver(until));
                    self.operate(Administer { hand_over: Some(HandOver { to }), ..Administer::default() });
                }
            }
            other => unreachable!("{other:?} is not about members"),
        }
    }

    /// A machine that never was is switched on, and asks to join; perhaps where another one was.
    fn switch_on(&mut self, address: Option<String>) {
        let here = self.present().len() - self.operator.doomed.iter().filter(|it| self.present().contains(it)).count();
        let machines = 0..self.settings.machines;
        let Some(number) = machines.into_iter().find(|number| self.machines[*number].standing == Standing::Absent)
        else {
            return;
        };
        if here >= MEMBERS_MAX {
            return;
        }
        self.count(Kind::Join);
        let machine = &mut self.machines[number];
        machine.standing = Standing::New;
        if let Some(address) = address {
            machine.address = address;
        }
        self.name(number);
        self.start(number);
        self.flush_later(number);
    }

    fn remove(&mut self, machine: MachineId) {
        self.operator.doomed.insert(machine);
        self.operator.errand = Some(Errand::Remove(machine));
        let remove = Remove { node: node_of(machine).0, force: false };
        self.operate(Administer { remove: Some(remove), ..Administer::default() });
    }

    /// A disk is lost; the operator has its node removed, and puts another in its place.
    fn wipe(&mut self, number: MachineId) {
        self.trace.note(self.now, format_args!("n{} loses its disk", number + 1));
        self.network.crash(self.now, number, true);
        self.machines[number].lose_disk();
        #[cfg(feature = "planted")]
        if self.settings.planted == Some(dstore_node::Planted::SameIdOnNewDisk) {
            self.machines[number].standing = Standing::New;
            return self.start(number);
        }
        self.network.set_name(&self.machines[number].address, None);
        self.remove(number);
        if self.nemesis.one_in(3) {
            // In haste: it is refused where the address is still that of the lost one.
            self.replace(number);
        }
    }

    /// A disk does not give back something from now on.
    pub(super) fn rot(&mut self, number: MachineId, log: bool, until: Moment) {
        let seed = self.nemesis.number();
        #[cfg(feature = "planted")]
        let trusting = self.settings.planted == Some(dstore_node::Planted::TrustRottenBlock);
        #[cfg(not(feature = "planted"))]
        let trusting = false;
        let machine = &mut self.machines[number];
        let struck = if log { machine.log.rot(seed) } else { machine.engine.rot(seed, trusting) };
        if !struck {
            return;
        }
        machine.rotten = true;
        self.count(Kind::Rot);
        self.operator.errand = Some(Errand::Rotten(number));
        self.push(until, Event::End(super::Ending::Rot(number)));
    }

    /// A rotten disk was not noticed for long: its node is restarted, and reads more of it then than it does otherwise.
    pub(super) fn end_rot(&mut self, number: MachineId) {
        if self.operator.errand == Some(Errand::Rotten(number)) {
            if self.machines[number].is_up() {
                self.crash(number, false);
            }
            self.start(number);
            self.replace_rotten(number);
        }
    }

    /// The node of a rotten disk has ended by itself, or somebody else has found out: another takes its place.
    pub(super) fn replace_rotten(&mut self, number: MachineId) {
        if self.operator.errand == Some(Errand::Rotten(number)) {
            self.operator.errand = None;
            self.machines[number].rotten = false;
            self.wipe(number);
        }
    }

    fn replace(&mut self, lost: MachineId) {
        if !self.operator.replaced.insert(lost) {
            return;
        }
        let address = self.nemesis.one_in(2).then(|| self.machines[lost].address.clone());
        self.switch_on(address);
    }

    /// A node ends, and comes back at another address. Whoever moves it says where the others are: two who do not know where
    /// the other is, and meet nobody who does, never find each other.
    fn move_away(&mut self, number: MachineId, until: Moment) {
        if self.machines[number].is_up() {
            self.crash(number, false);
        }
        // Whoever starts it says where the others are now.
        let others = self.members().into_iter().filter(|other| *other != number);
        let contact = |other: MachineId| {
            let peer_address = self.machines[other].address.clone();
            dstore_node::Member { node: node_of(other), peer_address, moved: true }
        };
        self.machines[number].contacts = others.map(contact).collect();
        self.network.set_name(&self.machines[number].address, None);
        self.machines[number].address = format!("n{}:{}", number + 1, self.now / 1_000_000);
        self.trace.note(self.now, format_args!("n{} moves to {}", number + 1, self.machines[number].address));
        self.name(number);
        self.push(until, Event::End(super::Ending::Crash(number)));
    }

    /// Whoever starts a node that has moved, and has not found a leader since, says where the others are now.
    pub(super) fn say_where_others_are(&mut self, number: MachineId) {
        let mut contacts = std::mem::take(&mut self.machines[number].contacts);
        for contact in contacts.iter_mut().filter(|contact| contact.moved) {
            let known = self.machines.iter().find(|machine| node_of(machine.id) == contact.node);
            contact.peer_address = known.map_or_else(String::new, |machine| machine.address.clone());
        }
        self.machines[number].contacts = contacts;
    }

    fn operate(&mut self, question: Administer) {
        let number = self.operators_machine();
        self.trace.note(self.now, format_args!("the operator asks for {question:?}"));
        let machine = &mut self.machines[number];
        let clock = machine.clock.clone();
        let (network, trace) = (&mut self.network, &mut self.trace);
        let mut around = Surroundings { moment: self.now, clock: &clock, network, trace };
        machine.ask(question, &self.settings, &mut around);
        self.tell_places();
        self.turn_soon(number);
    }

    /// A turn of whoever asks for something.
    pub(super) fn turn_asker(&mut self, number: MachineId) {
        let machine = &mut self.machines[number];
        let Some(asker) = machine.asker.as_mut() else { return };
        let inputs = std::mem::take(&mut machine.inbox);
        let (network, trace) = (&mut self.network, &mut self.trace);
        let mut around = Surroundings { moment: self.now, clock: &machine.clock, network, trace };
        let next = asker.turn(inputs, &mut around);
        if asker.answer().is_some() {
            return self.answered(number);
        }
        if let Some(Errand::HandOver(until)) = self.operator.errand
            && number == self.operators_machine()
            && self.now >= until
        {
            self.trace.note(self.now, format_args!("the operator gives up at {}", seconds(until)));
            return self.errand_is_over();
        }
        self.turn_at(number, next);
    }

    fn answered(&mut self, number: MachineId) {
        if number == self.operators_machine() {
            let errand = self.operator.errand;
            self.errand_is_over();
            if let Some(Errand::Remove(gone)) = errand
                && self.machines[gone].standing == Standing::Lost
            {
                self.replace(gone);
            }
            return;
        }
        // What the asking process had under way ends with it; its successor begins anew.
        self.network.crash(self.now, number, false);
        let machine = &mut self.machines[number];
        machine.inbox.clear();
        self.trace.note(self.now, format_args!("{} is a member", machine.name()));
        let clock = machine.clock.clone();
        let (network, trace) = (&mut self.network, &mut self.trace);
        let mut around = Surroundings { moment: self.now, clock: &clock, network, trace };
        match machine.join(&self.settings, &mut around) {
            Ok(()) => {
                self.tell_places();
                self.turn_soon(number);
            }
            Err(error) => self.fail(format!("n{} does not start as a member: {error}", number + 1)),
        }
    }

    fn errand_is_over(&mut self) {
        let number = self.operators_machine();
        self.network.crash(self.now, number, false);
        self.machines[number].asker = None;
        self.machines[number].inbox.clear();
        self.operator.errand = None;
    }

    /// A node was told that it was removed, and ends for ever.
    pub(super) fn left(&mut self, number: MachineId) {
        if !self.operator.doomed.contains(&number) {
            return self.fail(format!("n{} was told that it was removed, and nobody had asked for that", number + 1));
        }
        self.crash(number, false);
        self.machines[number].standing = Standing::Removed;
    }

    /// Whether everybody is there and knows where everybody is.
    fn all_know_all(&self) -> bool {
        let members = self.members();
        let known = |member: &MachineId| -> bool {
            let status = self.machines[*member].process.as_ref().and_then(|process| process.core().status().ok());
            status.is_some_and(|status| {
                members.iter().all(|other| {
                    let mut known = status.members.iter().filter(|known| known.node == node_of(*other).0);
                    known.any(|known| known.peer_address == self.machines[*other].address)
                })
            })
        };
        members.iter().all(known)
    }

    /// Whether one disk may be lost without a majority ever being gone.
    pub(super) fn can_spare_a_disk(&self) -> bool {
        let members = self.members();
        self.operator.errand.is_none()
            && members.iter().all(|member| self.machines[*member].process.is_some())
            && self.members_agree().is_some_and(|voters| voters.iter().all(|voters| *voters >= 3))
    }

    /// How many voters each range has, if all members hold the same view of it, at rest, and nobody else belongs to it.
    fn members_agree(&self) -> Option<Vec<usize>> {
        let members = self.members();
        let mut voters = Vec::new();
        for range in RANGES {
            let mut views = members.iter().map(|member| self.machines[*member].members_of(range));
            let first = views.next()??;
            let mut belong: Vec<u64> = first.members().iter().map(|node| node.0).collect();
            belong.sort_unstable();
            let should: Vec<u64> = members.iter().map(|member| node_of(*member).0).collect();
            if first.is_joint() || belong != should || !views.all(|view| view.as_ref() == Some(&first)) {
                return None;
            }
            voters.push(first.voters().len());
        }
        Some(voters)
    }

    /// Whether everything that was asked for has come about: who was to join is a member, who was to go is none.
    pub fn members_are_settled(&self) -> bool {
        let members = self.members();
        let wanted = self.settings.limits.voters_max.min(members.len());
        self.operator.errand.is_none()
            && self.machines.iter().all(|machine| machine.standing != Standing::New)
            && self.members_agree().is_some_and(|voters| voters.iter().all(|voters| *voters >= wanted))
    }
}
