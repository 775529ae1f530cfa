//! What single lists tell: the order of each key's versions, and everything that is wrong without looking at cycles.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{History, Key, MicroOp, Outcome, Token, Transaction, list_text};
use super::report::{Anomaly, Violation};

/// Where tokens come from, and what took effect.
pub(super) struct Index {
    /// The transaction that appends a token, and to which key.
    writers: BTreeMap<Token, (usize, Key)>,
    /// Tokens that somebody read.
    observed: BTreeSet<Token>,
    /// Which transactions took effect, as far as anybody can know.
    happened: Vec<bool>,
}

impl Index {
    pub(super) fn new(history: &History) -> Index {
        let mut index = Index { writers: BTreeMap::new(), observed: BTreeSet::new(), happened: Vec::new() };
        for (id, transaction) in history.transactions.iter().enumerate() {
            for op in &transaction.ops {
                if let Some(token) = op.token() {
                    let before = index.writers.insert(token, (id, op.key()));
                    assert!(before.is_none(), "token {token} is written twice: the history cannot be judged");
                }
                index.observed.extend(op.saw().flatten());
                if let MicroOp::Read { list: Some(list), .. } = op {
                    index.observed.extend(list);
                }
            }
        }
        index.happened = index.effective(history);
        index
    }

    /// What committed; what was seen; and, since a connection's commands take effect in order and none is left out unless
    /// it was refused, what was sent before such a one on its connection; see [`History::disks_were_full`].
    fn effective(&self, history: &History) -> Vec<bool> {
        let mut later = BTreeSet::new();
        let mut happened: Vec<bool> = Vec::with_capacity(history.transactions.len());
        for transaction in history.transactions.iter().rev() {
            let seen = tokens(transaction).any(|token| self.observed.contains(&token));
            let implied = transaction.outcome == Outcome::Unknown
                && later.contains(&transaction.connection)
                && !history.disks_were_full;
            let did = transaction.outcome == Outcome::Committed || seen || implied;
            if did {
                later.insert(transaction.connection);
            }
            happened.push(did);
        }
        happened.reverse();
        happened
    }

    pub(super) fn writer(&self, token: Token) -> Option<usize> {
        self.writers.get(&token).map(|(id, _)| *id)
    }

    /// Who puts a token into a register, if that is where it belongs.
    pub(super) fn writer_of(&self, key: Key, token: Token) -> Option<usize> {
        self.writers.get(&token).filter(|(_, belongs)| *belongs == key).map(|(id, _)| *id)
    }

    /// Whether a transaction took effect, as far as anybody can know.
    pub(super) fn happened(&self, id: usize) -> bool {
        self.happened[id]
    }
}

/// What a transaction appends or puts.
pub(super) fn tokens(transaction: &Transaction) -> impl Iterator<Item = Token> {
    transaction.ops.iter().filter_map(MicroOp::token)
}

/// The versions of one key.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The longest list that was read, without what does not belong there.
    pub(super) tokens: Vec<Token>,
    /// Appends that happened and are not in it: they come after everything that was read.
    pub(super) unread: Vec<Token>,
}

/// One answered read.
struct Read<'a> {
    transaction: usize,
    list: &'a [Token],
}

/// The version order of every key, and what is wrong with single lists and operations.
pub(super) fn examine(history: &History, index: &Index) -> (BTreeMap<Key, Order>, Vec<Violation>) {
    let mut reads: BTreeMap<Key, Vec<Read<'_>>> = BTreeMap::new();
    let mut violations = Vec::new();
    for (transaction, content) in history.transactions.iter().enumerate() {
        for op in &content.ops {
            let list = match op {
                MicroOp::Read { list: Some(list), .. } => &list[..],
                MicroOp::Read { list: None, .. } | MicroOp::Append { .. } => &[],
                // Not about lists.
                _ => continue,
            };
            reads.entry(op.key()).or_default().push(Read { transaction, list });
        }
        violations.extend(internal(history, transaction));
    }
    let mut orders = BTreeMap::new();
    for (key, reads) in &reads {
        let examined = Examined { history, index, key: *key, reads };
        orders.insert(*key, examined.run(&mut violations));
    }
    (orders, violations)
}

struct Examined<'a> {
    history: &'a History,
    index: &'a Index,
    key: Key,
    reads: &'a [Read<'a>],
}

impl Examined<'_> {
    fn run(&self, violations: &mut Vec<Violation>) -> Order {
        // The last of the longest: the more is known about it, the better the report.
        let Some(longest) = self.reads.iter().max_by_key(|read| read.list.len()) else { return Order::default() };
        for read in self.reads {
            violations.extend(self.foreign(read));
            violations.extend(self.intermediate(read));
            if !longest.list.starts_with(read.list) {
                violations.push(self.incompatible(longest, read));
            }
        }
        violations.extend(self.doubled());
        let mut order = Order::default();
        let mut seen = BTreeSet::new();
        let belongs = |token: &&Token| self.index.writers.get(token).is_some_and(|(_, key)| *key == self.key);
        order.tokens.extend(longest.list.iter().filter(belongs).filter(|token| seen.insert(**token)));
        self.acknowledged(longest, &mut order, violations);
        dedup(violations);
        order
    }

    /// Tokens that cannot be there: never appended, appended elsewhere, or refused.
    fn foreign(&self, read: &Read<'_>) -> Vec<Violation> {
        let mut found = Vec::new();
        for token in read.list {
            let (anomaly, what, writer) = match self.index.writers.get(token) {
                None => (Anomaly::Garbage, "which nobody ever appended", None),
                Some((id, key)) if *key != self.key => {
                    (Anomaly::Garbage, "which was appended to another key", Some(*id))
                }
                Some((id, _)) if self.history.transactions[*id].outcome == Outcome::NotExecuted => {
                    (Anomaly::AbortedRead, "whose append was refused as not executed", Some(*id))
                }
                Some(_) => continue,
            };
            let mut violation = Violation::new(anomaly, format!("k{} holds {token}, {what}", self.key));
            violation.show(self.history, writer);
            violation.show(self.history, [read.transaction]);
            found.push(violation);
        }
        found
    }

    /// A read may not end in the middle of another transaction's appends to the key.
    fn intermediate(&self, read: &Read<'_>) -> Option<Violation> {
        let last = read.list.last()?;
        let writer = self.index.writer(*last).filter(|writer| *writer != read.transaction)?;
        let of_key = |op: &&MicroOp| matches!(op, MicroOp::Append { key, .. } if *key == self.key);
        let mut own = self.history.transactions[writer].ops.iter().filter(of_key);
        let MicroOp::Append { token: newest, .. } = own.next_back()? else { return None };
        (newest != last).then(|| {
            let text = format!("k{} was read with {last}, but without {newest} of the same transaction", self.key);
            let mut violation = Violation::new(Anomaly::IntermediateRead, text);
            violation.show(self.history, [writer, read.transaction]);
            violation
        })
    }

    fn incompatible(&self, longest: &Read<'_>, read: &Read<'_>) -> Violation {
        let fork = longest.list.iter().zip(read.list).take_while(|(a, b)| a == b).count();
        let text = format!(
            "k{} was read as two lists of which neither begins with the other; they part after {fork} tokens: {} and {}",
            self.key,
            list_text(&longest.list[fork..]),
            list_text(&read.list[fork..])
        );
        let mut violation = Violation::new(Anomaly::IncompatibleOrder, text);
        violation.show(self.history, [longest.transaction, read.transaction]);
        violation
    }

    /// Tokens that stand twice in one list.
    fn doubled(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut told = BTreeSet::new();
        for read in self.reads {
            let mut seen = BTreeSet::new();
            for token in read.list {
                if !seen.insert(*token) && told.insert(*token) {
                    let text = format!("k{} holds {token} twice: one append was applied twice", self.key);
                    let mut violation = Violation::new(Anomaly::Doubled, text);
                    violation.show(self.history, self.index.writer(*token));
                    violation.show(self.history, [read.transaction]);
                    found.push(violation);
                }
            }
        }
        found
    }

    /// Appends that happened have to be there, at the place that the store told.
    fn acknowledged(&self, longest: &Read<'_>, order: &mut Order, violations: &mut Vec<Violation>) {
        let place: BTreeMap<Token, usize> =
            longest.list.iter().enumerate().map(|(at, token)| (*token, at + 1)).collect();
        for (id, transaction) in self.history.transactions.iter().enumerate() {
            for op in &transaction.ops {
                let MicroOp::Append { key, token, length } = op else { continue };
                if *key != self.key || !self.index.happened(id) {
                    continue;
                }
                match place.get(token) {
                    None => {
                        order.unread.push(*token);
                        violations.extend(self.lost(id, *token));
                    }
                    Some(at) if length.is_some_and(|length| length != *at) => {
                        let told = length.unwrap_or_default();
                        let text = format!(
                            "the append of {token} to k{key} was answered with length {told}, but it is number {at} in {}",
                            list_text(longest.list)
                        );
                        let mut violation = Violation::new(Anomaly::WrongLength, text);
                        violation.show(self.history, [id, longest.transaction]);
                        violations.push(violation);
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// A token that no list holds, although its append was answered before one was read.
    fn lost(&self, id: usize, token: Token) -> Option<Violation> {
        if self.history.transactions[id].outcome != Outcome::Committed {
            return None;
        }
        let completed = self.history.transactions[id].completed?;
        let answered = |read: &&Read<'_>| {
            let transaction = &self.history.transactions[read.transaction];
            let reads = |op: &MicroOp| matches!(op, MicroOp::Read { key, list: Some(_) } if *key == self.key);
            transaction.invoked > completed && transaction.ops.iter().any(reads)
        };
        let read = self.reads.iter().find(answered)?;
        if self.index.observed.contains(&token) {
            return None; // in a list of another order, which is reported as such
        }
        let text = format!("k{} lacks {token}, whose append was acknowledged", self.key);
        let mut violation = Violation::new(Anomaly::Lost, text);
        violation.show(self.history, [id, read.transaction]);
        Some(violation)
    }
}

/// Inside a transaction reads see earlier reads and appends of the same transaction.
fn internal(history: &History, id: usize) -> Option<Violation> {
    let transaction = &history.transactions[id];
    let mut known: BTreeMap<Key, Known> = BTreeMap::new();
    for op in &transaction.ops {
        match op {
            MicroOp::Append { key, token, .. } => known.entry(*key).or_default().appended(*token),
            MicroOp::Read { key, list: Some(list) } => {
                let known = known.entry(*key).or_default();
                if !known.agrees(list) {
                    let text =
                        format!("a read of k{key} does not see what the same transaction read and appended before");
                    let mut violation = Violation::new(Anomaly::Internal, text);
                    violation.show(history, [id]);
                    return Some(violation);
                }
                *known = Known { whole: true, tokens: list.clone() };
            }
            _ => {}
        }
    }
    None
}

/// What a transaction knows about a list while it runs.
#[derive(Default)]
struct Known {
    /// The tokens are the whole list, not only its end.
    whole: bool,
    tokens: Vec<Token>,
}

impl Known {
    fn appended(&mut self, token: Token) {
        self.tokens.push(token);
    }

    fn agrees(&self, list: &[Token]) -> bool {
        if self.whole { list == self.tokens } else { list.ends_with(&self.tokens) }
    }
}

/// One wrong token shows in every later list; its first report is enough.
fn dedup(violations: &mut Vec<Violation>) {
    let mut told = BTreeSet::new();
    violations.retain(|violation| told.insert((violation.anomaly, violation.text.clone())));
}
