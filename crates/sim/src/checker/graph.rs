//! The graph of dependencies: strongly connected components, and the shortest cycle of the worst kind in one.

use std::collections::{BTreeMap, VecDeque};

use super::history::{Key, Token};

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The other appended behind it.
    Ww,
    /// The other read what it appended.
    Wr,
    /// The other changed what it read.
    Rw,
    /// The other was sent later on the same connection.
    Connection,
    /// The other was sent when it was already answered.
    RealTime,
}

/// An edge, seen from where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) to: usize,
    pub(super) kind: Kind,
    /// For edges that come from lists: which list, and the append that makes the edge.
    pub(super) key: Key,
    pub(super) token: Token,
}

/// One step of a cycle: from a transaction, by an edge. The marks of real time are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) from: usize,
    pub(super) edge: Edge,
}

/// Nodes are the transactions by number, and above them the marks of real time.
#[derive(Debug)]
pub(super) struct Graph {
    transactions: usize,
    edges: Vec<Vec<Edge>>,
}

/// Which edges a search may use.
#[derive(Clone, Copy)]
struct Allowed {
    wr: bool,
    rw: bool,
    connection: bool,
    real_time: bool,
}

impl Allowed {
    fn permits(self, kind: Kind) -> bool {
        match kind {
            Kind::Ww => true,
            Kind::Wr => self.wr,
            Kind::Rw => self.rw,
            Kind::Connection => self.connection,
            Kind::RealTime => self.real_time,
        }
    }
}

impl Graph {
    pub(super) fn new(transactions: usize) -> Graph {
        Graph { transactions, edges: vec![Vec::new(); transactions] }
    }

    pub(super) fn add_mark(&mut self) -> usize {
        self.edges.push(Vec::new());
        self.edges.len() - 1
    }

    /// An edge from a transaction to itself says nothing and is not kept.
    pub(super) fn add(&mut self, from: usize, edge: Edge) {
        if from != edge.to {
            self.edges[from].push(edge);
        }
    }

    /// Components of more than one node (Tarjan 1972, without recursion).
    pub(super) fn components(&self) -> Vec<Vec<usize>> {
        const UNSEEN: usize = usize::MAX;
        let n = self.edges.len();
        let (mut number, mut low, mut on_stack) = (vec![UNSEEN; n], vec![0; n], vec![false; n]);
        let (mut stack, mut found, mut next) = (Vec::new(), Vec::new(), 0);
        for root in 0..n {
            if number[root] != UNSEEN {
                continue;
            }
            let mut path: Vec<(usize, usize)> = vec![(root, 0)];
            while let Some((node, at)) = path.last_mut() {
                let node = *node;
                if *at == 0 {
                    (number[node], low[node]) = (next, next);
                    next += 1;
                    stack.push(node);
                    on_stack[node] = true;
                }
                let to = self.edges[node].get(*at).map(|edge| edge.to);
                *at += 1;
                match to {
                    Some(to) if number[to] == UNSEEN => path.push((to, 0)),
                    Some(to) if on_stack[to] => low[node] = low[node].min(number[to]),
                    Some(_) => {}
                    None => {
                        path.pop();
                        if let Some((parent, _)) = path.last() {
                            low[*parent] = low[*parent].min(low[node]);
                        }
                        if low[node] == number[node] {
                            let start = stack.iter().rposition(|on| *on == node).expect("a node is on its own stack");
                            let component = stack.split_off(start);
                            component.iter().for_each(|on| on_stack[*on] = false);
                            if component.len() > 1 {
                                found.push(component);
                            }
                        }
                    }
                }
            }
        }
        found
    }

    /// The shortest cycle of the worst kind in a component: with as few kinds of edges as will do.
    pub(super) fn worst_cycle(&self, component: &[usize]) -> Vec<Step> {
        let inside: BTreeMap<usize, ()> = component.iter().map(|node| (*node, ())).collect();
        for (connection, real_time) in [(false, false), (true, false), (true, true)] {
            let base = Allowed { wr: false, rw: false, connection, real_time };
            let kinds = [
                self.cycle_through_any(&inside, base),
                self.cycle_through_any(&inside, Allowed { wr: true, ..base }),
                self.cycle_through_rw(&inside, Allowed { wr: true, ..base }),
                self.cycle_through_rw(&inside, Allowed { wr: true, rw: true, ..base }),
            ];
            if let Some(cycle) = kinds.into_iter().flatten().next() {
                return cycle;
            }
        }
        unreachable!("a component of several nodes holds a cycle")
    }

    fn cycle_through_any(&self, inside: &BTreeMap<usize, ()>, allowed: Allowed) -> Option<Vec<Step>> {
        let starts = inside.keys().filter(|node| **node < self.transactions);
        starts.filter_map(|start| self.path(inside, allowed, *start, *start)).min_by_key(Vec::len)
    }

    /// A cycle with an rw edge, and others only where they are allowed.
    fn cycle_through_rw(&self, inside: &BTreeMap<usize, ()>, allowed: Allowed) -> Option<Vec<Step>> {
        let mut best: Option<Vec<Step>> = None;
        for from in inside.keys() {
            for edge in self.edges[*from].iter().filter(|edge| edge.kind == Kind::Rw && inside.contains_key(&edge.to)) {
                if let Some(mut path) = self.path(inside, allowed, edge.to, *from)
                    && best.as_ref().is_none_or(|best| path.len() + 1 < best.len())
                {
                    path.insert(0, Step { from: *from, edge: *edge });
                    best = Some(path);
                }
            }
        }
        best
    }

    /// The shortest path of at least one edge. Only steps onto a transaction, or from one onto a mark, count.
    fn path(&self, inside: &BTreeMap<usize, ()>, allowed: Allowed, from: usize, to: usize) -> Option<Vec<Step>> {
        let mut came_by: BTreeMap<usize, (usize, Edge)> = BTreeMap::new();
        let mut cost: BTreeMap<usize, usize> = BTreeMap::new();
        let mut queue = VecDeque::from([(0, from)]);
        while let Some((so_far, node)) = queue.pop_front() {
            if node == to && so_far > 0 {
                return Some(self.steps(&came_by, from, to));
            }
            if node != from && cost.get(&node).is_some_and(|known| *known < so_far) {
                continue;
            }
            for edge in &self.edges[node] {
                if !allowed.permits(edge.kind) || !inside.contains_key(&edge.to) {
                    continue;
                }
                let step = usize::from(node < self.transactions);
                let total = so_far + step;
                if cost.get(&edge.to).is_none_or(|known| total < *known) {
                    cost.insert(edge.to, total);
                    came_by.insert(edge.to, (node, *edge));
                    if step == 0 {
                        queue.push_front((total, edge.to));
                    } else {
                        queue.push_back((total, edge.to));
                    }
                }
            }
        }
        None
    }

    fn steps(&self, came_by: &BTreeMap<usize, (usize, Edge)>, from: usize, to: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut at = to;
        let mut end = to;
        loop {
            let (before, edge) = came_by[&at];
            if before < self.transactions {
                steps.push(Step { from: before, edge: Edge { to: end, ..edge } });
                end = before;
            }
            at = before;
            if at == from {
                break;
            }
        }
        steps.reverse();
        steps
    }
}
