//! From version orders, connections and real time to the edges of the graph.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Edge, Graph, Kind};
use super::history::{History, Key, MicroOp, Outcome, Token};
use super::lists::{Index, Order};

/// The graph of everything that happened.
pub(super) fn build(history: &History, index: &Index, orders: &BTreeMap<Key, Order>) -> Graph {
    let mut graph = Graph::new(history.transactions.len());
    let happened: Vec<bool> = (0..history.transactions.len()).map(|id| index.happened(id)).collect();
    for (key, order) in orders {
        writes(&mut graph, index, *key, order);
    }
    for (id, _) in history.transactions.iter().enumerate().filter(|(id, _)| happened[*id]) {
        reads(&mut graph, history, index, orders, id);
    }
    connections(&mut graph, history, &happened);
    real_time(&mut graph, history, &happened);
    graph
}

/// Each append comes after the one before it; those nobody read come after all that was read.
fn writes(graph: &mut Graph, index: &Index, key: Key, order: &Order) {
    let neighbours = order.tokens.windows(2).map(|pair| (pair[0], pair[1]));
    let newest = order.tokens.last().into_iter().flat_map(|last| order.unread.iter().map(|token| (*last, *token)));
    for (before, after) in neighbours.chain(newest) {
        if let (Some(from), Some(to)) = (index.writer(before), index.writer(after)) {
            graph.add(from, Edge { to, kind: Kind::Ww, key, token: after });
        }
    }
}

/// A read comes after the append it saw last, and before those that followed.
fn reads(graph: &mut Graph, history: &History, index: &Index, orders: &BTreeMap<Key, Order>, id: usize) {
    for (key, mut list) in external_reads(history, id) {
        let Some(order) = orders.get(&key) else { continue };
        let mut seen = BTreeSet::new();
        list.retain(|token| seen.insert(*token));
        if let Some(last) = list.last()
            && let Some(writer) = index.writer(*last)
        {
            graph.add(writer, Edge { to: id, kind: Kind::Wr, key, token: *last });
        }
        let next = match list.last() {
            None => Some(0),
            // A token of another order has no place in this one; that is reported as what it is.
            Some(last) => order.tokens.iter().position(|token| token == last).map(|at| at + 1),
        };
        let Some(next) = next else { continue };
        let following = match order.tokens.get(next) {
            Some(token) => std::slice::from_ref(token),
            None => &order.unread[..],
        };
        for token in following {
            if let Some(writer) = index.writer(*token) {
                graph.add(id, Edge { to: writer, kind: Kind::Rw, key, token: *token });
            }
        }
    }
}

/// What a transaction saw of the state before it: its first read of each key, without what it had appended itself. An
/// append that tells the length would say the same; the lists say it already.
fn external_reads(history: &History, id: usize) -> Vec<(Key, Vec<Token>)> {
    let transaction = &history.transactions[id];
    if transaction.outcome != Outcome::Committed {
        return Vec::new();
    }
    let mut own: BTreeMap<Key, usize> = BTreeMap::new();
    let mut found: BTreeMap<Key, Vec<Token>> = BTreeMap::new();
    for op in &transaction.ops {
        match op {
            MicroOp::Append { key, .. } => *own.entry(*key).or_default() += 1,
            MicroOp::Read { key, list: Some(list) } if !found.contains_key(key) => {
                let before = list.len().saturating_sub(own.get(key).copied().unwrap_or(0));
                found.insert(*key, list[..before].to_vec());
            }
            _ => {}
        }
    }
    found.into_iter().collect()
}

fn connections(graph: &mut Graph, history: &History, happened: &[bool]) {
    let mut last: BTreeMap<u64, usize> = BTreeMap::new();
    for (id, transaction) in history.transactions.iter().enumerate().filter(|(id, _)| happened[*id]) {
        if let Some(before) = last.insert(transaction.connection, id) {
            graph.add(before, Edge { to: id, kind: Kind::Connection, key: 0, token: 0 });
        }
    }
}

/// Real time in linear size: a chain of marks, one for each completion. A transaction leads to the mark of its
/// completion, and the newest mark at its invocation leads to it.
fn real_time(graph: &mut Graph, history: &History, happened: &[bool]) {
    const INVOKED: u8 = 0;
    const COMPLETED: u8 = 1;
    let mut moments = Vec::new();
    for (id, transaction) in history.transactions.iter().enumerate().filter(|(id, _)| happened[*id]) {
        moments.push((transaction.invoked, INVOKED, id));
        if let Some(completed) = transaction.completed.filter(|_| transaction.outcome == Outcome::Committed) {
            moments.push((completed, COMPLETED, id));
        }
    }
    // At one and the same moment nobody came first: invocations sort before completions.
    moments.sort_unstable();
    let mut newest = None;
    for (_, what, id) in moments {
        let edge = |to| Edge { to, kind: Kind::RealTime, key: 0, token: 0 };
        if what == INVOKED {
            newest.into_iter().for_each(|mark| graph.add(mark, edge(id)));
        } else {
            let mark = graph.add_mark();
            graph.add(id, edge(mark));
            newest.into_iter().for_each(|before| graph.add(before, edge(mark)));
            newest = Some(mark);
        }
    }
}
