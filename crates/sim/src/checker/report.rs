//! Violations, and how they are told: a name that the literature knows, one sentence, and the few transactions that
//! show it.

use std::collections::BTreeSet;
use std::fmt;

use super::graph::{Kind, Step};
use super::history::{COUNTERS, History, REGISTERS, key_name};

/// Every kind of thing that can be wrong with a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// An acknowledged append is gone.
    Lost,
    /// One append was applied twice.
    Doubled,
    /// A token that was never appended to that key.
    Garbage,
    /// G1a: a token whose append was refused.
    AbortedRead,
    /// G1b: a part of a transaction.
    IntermediateRead,
    /// Two reads of a key contradict each other.
    IncompatibleOrder,
    /// A transaction does not see what it did itself.
    Internal,
    /// An append was answered with a length that it did not make.
    WrongLength,
    /// Two increments made the same of a counter: one is lost.
    LostIncrement,
    /// A counter is higher than anybody made it: an increment was applied twice, or one that was refused.
    CountTooHigh,
    /// Two transactions replaced the same content of a register: one did not see the other.
    LostUpdate,
    /// What was in a register came back after it was gone.
    Returned,
    /// What was in a register is gone, before its time.
    Vanished,
    /// What was in a register is there, after its time.
    Outlived,
    /// A cycle.
    Cycle(Cycle, Order),
}

/// What kind of edges a cycle needs, besides those of [`Order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cycle {
    /// Appends alone.
    G0,
    /// Appends, and reads of what was appended.
    G1c,
    /// The same and one read of a state that was then changed.
    GSingle,
    /// The same and several such reads.
    G2,
}

/// Which order a cycle contradicts beyond what the lists say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// None: not even serializable.
    Any,
    /// That of a connection.
    Connection,
    /// That of real time: serializable, but not strictly.
    RealTime,
}

impl Anomaly {
    /// A stale read: it misses what was acknowledged before it was asked.
    pub const STALE_READ: Anomaly = Anomaly::Cycle(Cycle::GSingle, Order::RealTime);
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Anomaly::Lost => "lost append",
            Anomaly::Doubled => "append applied twice",
            Anomaly::Garbage => "garbage",
            Anomaly::AbortedRead => "G1a, read of a refused append",
            Anomaly::IntermediateRead => "G1b, read of half a transaction",
            Anomaly::IncompatibleOrder => "incompatible orders",
            Anomaly::Internal => "internal inconsistency",
            Anomaly::WrongLength => "wrong length",
            Anomaly::LostIncrement => "lost increment",
            Anomaly::CountTooHigh => "increment applied twice",
            Anomaly::LostUpdate => "lost update",
            Anomaly::Returned => "an expired or removed value returned",
            Anomaly::Vanished => "a value is gone before its time",
            Anomaly::Outlived => "an expired value is still there",
            Anomaly::Cycle(cycle, order) => {
                let cycle = match cycle {
                    Cycle::G0 => "G0, cycle of appends",
                    Cycle::G1c => "G1c, cycle of appends and reads",
                    Cycle::GSingle if *order == Order::RealTime => "G-single, stale read",
                    Cycle::GSingle => "G-single, cycle with one anti-dependency",
                    Cycle::G2 => "G2, cycle of anti-dependencies",
                };
                let order = match order {
                    Order::Any => "",
                    Order::Connection => ", against the order of a connection",
                    Order::RealTime => ", against real time",
                };
                return write!(f, "{cycle}{order}");
            }
        };
        f.write_str(name)
    }
}

/// One thing that is wrong, with what shows it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What kind of thing.
    pub anomaly: Anomaly,
    /// In a sentence.
    pub text: String,
    /// The transactions that show it, one line each, then why they contradict each other.
    pub lines: Vec<String>,
}

impl Violation {
    pub(super) fn new(anomaly: Anomaly, text: String) -> Violation {
        Violation { anomaly, text, lines: Vec::new() }
    }

    pub(super) fn show(&mut self, history: &History, transactions: impl IntoIterator<Item = usize>) {
        for id in transactions {
            self.lines.push(format!("T{id}: {}", history.transactions[id]));
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.anomaly, self.text)?;
        for line in &self.lines {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

/// The violation that a cycle is.
pub(super) fn describe(history: &History, cycle: Vec<Step>) -> Violation {
    let count = |kind| cycle.iter().filter(|step| step.edge.kind == kind).count();
    let kind = match (count(Kind::Rw), count(Kind::Wr)) {
        (0, 0) => Cycle::G0,
        (0, _) => Cycle::G1c,
        (1, _) => Cycle::GSingle,
        _ => Cycle::G2,
    };
    let order = match (count(Kind::RealTime), count(Kind::Connection)) {
        (0, 0) => Order::Any,
        (0, _) => Order::Connection,
        _ => Order::RealTime,
    };
    let members: BTreeSet<usize> = cycle.iter().map(|step| step.from).collect();
    let text =
        format!("{} transactions each of which came before the next, and the last before the first", members.len());
    let mut violation = Violation::new(Anomaly::Cycle(kind, order), text);
    violation.show(history, members);
    violation.lines.extend(cycle.iter().map(why));
    violation
}

fn why(step: &Step) -> String {
    let Step { from, edge } = step;
    let (to, key, token) = (edge.to, key_name(edge.key), edge.token);
    let reason = match edge.kind {
        Kind::Ww if edge.key >= REGISTERS => format!("T{to} replaced its {token} in {key}"),
        Kind::Wr if edge.key >= REGISTERS => format!("T{to} saw its {token} in {key}"),
        Kind::Rw if edge.key >= REGISTERS => format!("it saw {token} in {key}, which T{to} replaced"),
        Kind::Ww | Kind::Wr | Kind::Rw if edge.key >= COUNTERS => format!("T{to} found {key} higher, at {token}"),
        Kind::Ww => format!("T{to} appended {token} to {key} right behind it"),
        Kind::Wr => format!("T{to} read its {token} as the last of {key}"),
        Kind::Rw => format!("it read {key} without {token}, which T{to} appended"),
        Kind::Connection => format!("T{to} was sent later on the same connection"),
        Kind::RealTime => format!("T{to} was sent after it was answered"),
    };
    format!("T{from} came before T{to}: {reason}")
}
