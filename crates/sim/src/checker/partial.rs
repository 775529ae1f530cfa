//! What the end of a list tells, and its length. A token is appended once, so a list that ends with it, or has so many tokens, is a
//! certain beginning of the longest one that anybody read: who saw no more than that has read all of it, as far as the judgement
//! goes. What does not fit makes a list that contradicts the others.

use std::collections::BTreeMap;

use super::history::{History, Key, MicroOp, Outcome, Token, key_name};
use super::report::{Anomaly, Violation};

/// The same history with whole reads in place of partial ones; `None` if it has none. And lengths that no list ever had.
pub(super) fn complete(history: &History) -> (Option<History>, Vec<Violation>) {
    let is_partial = |op: &MicroOp| matches!(op, MicroOp::Tail { .. } | MicroOp::Length { .. });
    if !history.transactions.iter().any(|transaction| transaction.ops.iter().any(is_partial)) {
        return (None, Vec::new());
    }
    let longest = longest(history);
    let (mut completed, mut violations) = (history.clone(), Vec::new());
    for (id, transaction) in completed.transactions.iter_mut().enumerate() {
        if transaction.outcome != Outcome::Committed {
            continue;
        }
        for op in &mut transaction.ops {
            let known = longest.get(&op.key()).copied().unwrap_or_default();
            let list = match op {
                MicroOp::Tail { count, tokens: Some(tokens), .. } => whole(known, *count, tokens),
                MicroOp::Length { length: Some(length), .. } => {
                    let list = known.get(..*length).map(<[Token]>::to_vec);
                    violations.extend(list.is_none().then(|| too_long(history, id, op.key())).flatten());
                    list
                }
                _ => None,
            };
            if let Some(list) = list {
                *op = MicroOp::Read { key: op.key(), list: Some(list) };
            }
        }
    }
    (Some(completed), violations)
}

/// A list was longer than anybody found it later.
fn too_long(history: &History, id: usize, key: Key) -> Option<Violation> {
    let completed = history.transactions[id].completed?;
    let reads = |op: &MicroOp| matches!(op, MicroOp::Read { key: read, list: Some(_) } if *read == key);
    let later =
        history.transactions.iter().position(|other| other.invoked > completed && other.ops.iter().any(reads))?;
    let text = format!("{} was found longer than anybody who asked later read it", key_name(key));
    let mut violation = Violation::new(Anomaly::WrongLength, text);
    violation.show(history, [id, later]);
    Some(violation)
}

/// The longest list of each key that anybody read.
fn longest(history: &History) -> BTreeMap<Key, &[Token]> {
    let mut longest: BTreeMap<Key, &[Token]> = BTreeMap::new();
    for op in history.transactions.iter().flat_map(|transaction| &transaction.ops) {
        if let MicroOp::Read { key, list: Some(list) } = op {
            let known = longest.entry(*key).or_default();
            if list.len() > known.len() {
                *known = list;
            }
        }
    }
    longest
}

/// The list that ends with `tokens`, of which `count` were asked for; `None` if nobody read far enough to tell.
fn whole(known: &[Token], count: usize, tokens: &[Token]) -> Option<Vec<Token>> {
    let place = |token: &Token| known.iter().position(|other| other == token);
    let before = match (tokens.first(), tokens.last()) {
        // Fewer than were asked for are all there are.
        (Some(first), Some(last)) if tokens.len() >= count => match place(last) {
            Some(at) => (at + 1).saturating_sub(tokens.len()),
            None => place(first)?,
        },
        _ => 0,
    };
    let mut list = known[..before].to_vec();
    list.extend_from_slice(tokens);
    Some(list)
}
