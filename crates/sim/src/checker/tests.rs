//! The checker on hand-made histories, good and bad. A line is a transaction:
//!
//! ```text
//! c1 10-20 append 1 7; read 2 [5 6]      connection 1, sent at 10, answered at 20
//! c1 10-?  append 1 7                    outcome unknown
//! c1 10-20! append 1 7                   refused: not executed
//! c1 10-20 append 1 7 =3                 answered with length 3
//! c1 10-20 add 1000 =3; count 1000 =3    a counter, one higher and then read
//! c1 10-20 put 2000 7 for 50 if absent =- a register, where nothing was
//! c1 10-20 take 2000 =7; look 2000 =-    taken away, and looked at
//! c1 10-20 expire 2000 at 90 =7          another deadline; also: for 50, kept, and without any of them: never
//! c1 10-20 tail 1 2 [7 8]; length 1 =4   the last two of a list, and how long it is
//! ```
//!
//! Numbers of time are milliseconds where deadlines are judged.

use super::report::{Cycle, Order};
use super::*;

fn parse_register_op(text: &str) -> Option<MicroOp> {
    let (text, answer) = text.split_once('=').map_or((text, None), |(text, answer)| (text, Some(answer.trim())));
    let words: Vec<&str> = text.split_whitespace().collect();
    let number = |word: &str| word.parse::<u64>().unwrap();
    let key = words[1].parse().unwrap();
    let value = answer.filter(|answer| *answer != "-").map(number);
    let saw = answer.map(|answer| (answer != "-").then(|| number(answer)));
    let behind = |what: &str| words.iter().position(|word| *word == what).map(|at| number(words[at + 1]));
    let until = match (behind("for"), behind("at")) {
        (Some(ms), _) => Until::After(ms),
        (_, Some(ms)) => Until::At(ms),
        _ if words.contains(&"kept") => Until::Kept,
        _ => Until::Never,
    };
    match words[0] {
        "add" => Some(MicroOp::Add { key, value }),
        "count" => Some(MicroOp::Count { key, value }),
        "put" => {
            let if_absent = words.contains(&"absent");
            Some(MicroOp::Put { key, token: number(words[2]), until, if_absent, saw })
        }
        "take" => Some(MicroOp::Take { key, saw }),
        "expire" => Some(MicroOp::Expire { key, until, saw }),
        "length" => {
            Some(MicroOp::Length { key, again: None, length: value.and_then(|length| usize::try_from(length).ok()) })
        }
        "look" => Some(MicroOp::Look { key, saw }),
        _ => None,
    }
}

fn parse_op(text: &str) -> MicroOp {
    if let Some(op) = parse_register_op(text) {
        return op;
    }
    let (what, rest) = text.trim().split_once(' ').unwrap();
    let (key, rest) = rest.trim().split_once(' ').unwrap_or((rest, ""));
    let key = key.parse().unwrap();
    match what {
        "append" => {
            let (token, length) = rest.split_once('=').map_or((rest, None), |(token, length)| (token, Some(length)));
            MicroOp::Append {
                key,
                token: token.trim().parse().unwrap(),
                length: length.map(|length| length.parse().unwrap()),
            }
        }
        "read" => {
            let inner = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let numbers = |inner: &str| inner.split_whitespace().map(|token| token.parse().unwrap()).collect();
            MicroOp::Read { key, list: inner.map(numbers) }
        }
        "tail" => {
            let (count, list) = rest.split_once(' ').unwrap();
            let inner = list.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let numbers = |inner: &str| inner.split_whitespace().map(|token| token.parse().unwrap()).collect();
            MicroOp::Tail { key, count: count.parse().unwrap(), tokens: inner.map(numbers) }
        }
        other => panic!("unknown operation {other}"),
    }
}

fn parse_line(line: &str) -> Transaction {
    let mut words = line.trim().splitn(3, ' ');
    let connection = words.next().unwrap().strip_prefix('c').unwrap().parse().unwrap();
    let (invoked, end) = words.next().unwrap().split_once('-').unwrap();
    let ops = words.next().unwrap().split(';').map(parse_op).collect();
    let outcome = match end {
        "?" => Outcome::Unknown,
        end if end.ends_with('!') => Outcome::NotExecuted,
        _ => Outcome::Committed,
    };
    let completed = end.trim_end_matches('!').parse().ok();
    Transaction { connection, node: 1, invoked: invoked.parse().unwrap(), completed, outcome, ops }
}

pub(super) fn history(text: &str) -> History {
    let transactions = text.lines().filter(|line| !line.trim().is_empty()).map(parse_line).collect();
    History { transactions, ..History::default() }
}

pub(super) fn anomalies(text: &str) -> Vec<Anomaly> {
    let mut found: Vec<Anomaly> = check(&history(text)).into_iter().map(|violation| violation.anomaly).collect();
    found.sort();
    found.dedup();
    found
}

pub(super) fn cycle(kind: Cycle, order: Order) -> Anomaly {
    Anomaly::Cycle(kind, order)
}

/// Nothing is wrong with it.
pub(super) fn good(text: &str) {
    let violations = check(&history(text));
    assert!(violations.is_empty(), "{}", violations[0]);
}

/// Exactly this is wrong with it.
pub(super) fn bad(expected: Anomaly, text: &str) {
    assert_eq!(anomalies(text), [expected]);
}

#[test]
fn nothing_is_wrong_with_nothing() {
    good("");
}

#[test]
fn a_serial_history_is_good() {
    good(
        "c1 10-20 append 1 1 =1
         c2 30-40 append 1 2 =2; append 2 3 =1
         c1 50-60 read 1 [1 2]; read 2 [3]; append 2 4; read 2 [3 4]
         c3 70-80 read 2 [3 4]",
    );
}

#[test]
fn concurrent_operations_may_take_effect_in_any_order() {
    good(
        "c1 10-50 append 1 1
         c2 10-50 append 1 2
         c3 10-50 read 1 [2]
         c4 10-50 read 1 []
         c5 60-70 read 1 [2 1]",
    );
}

#[test]
fn what_ends_at_the_moment_another_begins_is_concurrent_with_it() {
    good(
        "c1 10-20 append 1 1
         c2 20-30 read 1 []
         c3 40-50 read 1 [1]",
    );
}

#[test]
fn an_unknown_outcome_may_have_happened_or_not_or_late() {
    good("c1 10-? append 1 1\n c2 30-40 read 1 []\n c2 50-60 read 1 []");
    good("c1 10-? append 1 1\n c2 30-40 read 1 []\n c2 50-60 read 1 [1]");
    good("c1 10-? append 1 1; append 2 2\n c2 50-60 read 1 [1]; read 2 [2]");
}

#[test]
fn an_unknown_outcome_has_no_reads_that_count() {
    good("c1 10-20 append 1 1\n c2 30-? read 1; append 2 2\n c3 50-60 read 1 [1]; read 2 [2]");
}

#[test]
fn a_lost_append_is_found_and_is_a_stale_read_too() {
    let found = anomalies("c1 10-20 append 1 1\n c2 30-40 read 1 []");
    assert_eq!(found, [Anomaly::Lost, Anomaly::STALE_READ]);
    good("c1 10-20 append 1 1\n c2 15-40 read 1 []");
    good("c1 10-? append 1 1\n c2 30-40 read 1 []");
}

#[test]
fn a_doubled_append_is_found() {
    bad(Anomaly::Doubled, "c1 10-20 append 1 1\n c2 10-20 append 1 2\n c1 30-40 read 1 [1 2 1]");
    bad(Anomaly::Doubled, "c1 10-? append 1 1\n c2 30-40 read 1 [1 1]");
}

#[test]
fn a_token_nobody_appended_there_is_found() {
    bad(Anomaly::Garbage, "c1 10-20 read 1 [9]");
    bad(Anomaly::Garbage, "c1 10-20 append 2 9\n c1 30-40 read 1 [9]");
}

#[test]
fn g1a_a_refused_append_that_shows_is_found() {
    bad(Anomaly::AbortedRead, "c1 10-20! append 1 1\n c2 30-40 read 1 [1]");
    bad(Anomaly::AbortedRead, "c2 5-15 read 1 [1]\n c1 10-20! append 1 1");
}

#[test]
fn g1b_a_read_of_half_a_transaction_is_found() {
    let found = anomalies("c1 10-40 append 1 1; append 1 2\n c2 20-30 read 1 [1]\n c3 50-60 read 1 [1 2]");
    assert_eq!(found, [Anomaly::IntermediateRead, cycle(Cycle::GSingle, Order::Any)]);
}

#[test]
fn incompatible_orders_are_found() {
    let found = anomalies(
        "c1 10-50 append 1 1
         c2 10-50 append 1 2
         c3 10-50 read 1 [1 2]
         c4 10-50 read 1 [2 1]",
    );
    assert!(found.contains(&Anomaly::IncompatibleOrder), "{found:?}");
}

#[test]
fn a_transaction_that_does_not_see_itself_is_found() {
    bad(Anomaly::Internal, "c1 10-20 append 1 1; read 1 []\n c1 30-40 read 1 [1]");
    let changed = anomalies("c1 10-30 read 1 []; read 1 [2]\n c2 10-30 append 1 2");
    assert!(changed.contains(&Anomaly::Internal));
    good("c2 10-20 append 1 2\n c1 30-40 append 1 1; read 1 [2 1]; append 1 3; read 1 [2 1 3]");
}

#[test]
fn a_wrong_length_is_found() {
    bad(Anomaly::WrongLength, "c1 10-20 append 1 1 =2\n c1 30-40 read 1 [1]");
    good("c1 10-20 append 1 1 =1\n c1 30-40 append 1 2 =2\n c1 50-60 read 1 [1 2]");
}

#[test]
fn a_command_that_was_left_out_is_found() {
    // The later of two commands took effect, the earlier did not.
    bad(cycle(Cycle::G0, Order::Connection), "c1 10-? append 1 1\n c1 11-? append 1 2\n c2 30-40 read 1 [2]");
    let over_keys = "c1 10-? append 1 1\n c1 11-? append 2 2\n c2 30-40 read 2 [2]\n c3 50-60 read 1 []";
    bad(Anomaly::STALE_READ, over_keys);
    good("c1 10-20! append 1 1\n c1 11-? append 1 2\n c2 30-40 read 1 [2]");
    good("c1 10-? append 1 1\n c1 11-? append 1 2\n c2 30-40 read 1 [1]");
    // Both took effect between the two reads.
    good("c1 10-? append 1 1\n c1 11-? append 2 2\n c3 20-30 read 1 []\n c2 50-60 read 2 [2]");
}

#[test]
fn g0_interleaved_appends_are_found() {
    bad(
        cycle(Cycle::G0, Order::Any),
        "c1 10-50 append 1 1; append 2 2
         c2 10-50 append 1 3; append 2 4
         c3 60-70 read 1 [1 3]; read 2 [4 2]",
    );
}

#[test]
fn g1c_two_transactions_that_saw_each_other_are_found() {
    bad(
        cycle(Cycle::G1c, Order::Any),
        "c1 10-50 append 1 1; read 2 [2]
         c2 10-50 append 2 2; read 1 [1]",
    );
}

#[test]
fn g_single_a_read_of_half_another_keys_is_found() {
    bad(
        cycle(Cycle::GSingle, Order::Any),
        "c1 10-50 append 1 1; append 2 2
         c2 10-50 read 1 [1]; read 2 []
         c3 60-70 read 2 [2]",
    );
}

#[test]
fn g2_write_skew_is_found() {
    bad(
        cycle(Cycle::G2, Order::Any),
        "c1 10-50 read 1 []; append 2 2
         c2 10-50 read 2 []; append 1 1
         c3 60-70 read 1 [1]; read 2 [2]",
    );
}

#[test]
fn a_stale_read_is_found() {
    bad(
        Anomaly::STALE_READ,
        "c1 10-20 append 1 1
         c2 30-40 read 1 []
         c3 50-60 read 1 [1]",
    );
}

#[test]
fn a_stale_read_is_found_over_other_keys_and_many_operations() {
    bad(
        Anomaly::STALE_READ,
        "c1 10-20 append 1 1
         c2 30-40 append 2 2
         c3 45-60 read 2 [2]
         c4 70-80 read 1 []
         c5 90-95 read 1 [1]; read 2 [2]",
    );
}

#[test]
fn reads_that_go_back_in_time_are_found() {
    bad(
        Anomaly::STALE_READ,
        "c1 10-100 append 1 1
         c2 30-40 read 1 [1]
         c3 50-60 read 1 []
         c4 110-120 read 1 [1]",
    );
}

#[test]
fn appends_out_of_real_time_are_found() {
    bad(
        cycle(Cycle::G0, Order::RealTime),
        "c1 10-20 append 1 1
         c2 30-40 append 1 2
         c3 50-60 read 1 [2 1]",
    );
}

#[test]
fn a_read_from_the_future_is_found() {
    bad(cycle(Cycle::G1c, Order::RealTime), "c1 10-20 read 1 [1]\n c2 30-40 append 1 1");
}

#[test]
fn a_reordered_pipeline_is_found() {
    bad(
        cycle(Cycle::G0, Order::Connection),
        "c1 10-50 append 1 1
         c1 11-51 append 1 2
         c2 60-70 read 1 [2 1]",
    );
    bad(
        cycle(Cycle::GSingle, Order::Connection),
        "c1 10-50 append 1 1
         c1 11-51 read 1 []
         c2 60-70 read 1 [1]",
    );
    let unknown = "c1 10-? append 1 1\n c1 11-? append 1 2\n c2 60-70 read 1 [2 1]";
    bad(cycle(Cycle::G0, Order::Connection), unknown);
}

#[test]
fn half_a_block_is_found_even_if_nobody_knows_its_outcome() {
    bad(
        Anomaly::STALE_READ,
        "c1 10-? append 1 1; append 2 2
         c2 30-40 read 1 [1]
         c3 50-60 read 2 []
         c1 70-80 read 2 [2]",
    );
    let never = anomalies("c1 10-? append 1 1; append 2 2\n c2 30-40 read 1 [1]; read 2 []");
    assert!(!never.is_empty());
}

#[test]
fn the_report_names_the_fewest_transactions_that_show_it() {
    let mut text = String::new();
    for i in 0..200 {
        text += &format!("c{} {}-{} append 3 {}\n", i % 5, 100 * i, 100 * i + 50, 1000 + i);
    }
    text += "c1 30000-30010 append 1 1\n c2 30020-30030 read 1 []\n c3 30040-30050 read 1 [1]\n";
    let all: Vec<String> = (0..200).map(|i| (1000 + i).to_string()).collect();
    text += &format!("c4 40000-40010 read 3 [{}]", all.join(" "));
    let violations = check(&history(&text));
    assert_eq!(violations.len(), 1);
    assert_eq!(
        violations[0].to_string(),
        "G-single, stale read, against real time: 2 transactions each of which came before the next, and the last \
         before the first\
         \n    T200: 0.000030 s to 0.000030 s, connection 1 at n1: append k1 1\
         \n    T201: 0.000030 s to 0.000030 s, connection 2 at n1: read k1 []\
         \n    T201 came before T200: it read k1 without 1, which T200 appended\
         \n    T200 came before T201: T201 was sent after it was answered"
    );
}

/// A store that is right by construction gives histories that are good, whatever is asked of it; and the same histories
/// with one answer changed are mostly bad.
#[test]
fn random_histories_of_a_correct_store_are_good_and_tampered_ones_are_not() {
    let seed = std::env::var("DSTORE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("DSTORE_SEED={seed}");
    let mut caught = 0;
    for round in 0..200 {
        let mut random = crate::random::Random::new(seed + round);
        let mut history = random_history(&mut random);
        let violations = check(&history);
        assert!(violations.is_empty(), "seed {}: {}", seed + round, violations[0]);
        if tamper(&mut history, &mut random) {
            caught += usize::from(!check(&history).is_empty());
        }
    }
    assert!(caught > 100, "only {caught} of 200 changed histories were found out");
}

/// Transactions take effect one after the other at moments of their own, and are invoked before and completed after.
fn random_history(random: &mut crate::random::Random) -> History {
    let mut lists = vec![Vec::new(); 4];
    let mut transactions = Vec::new();
    for number in 0..120_u64 {
        let at = 1000 + 100 * number;
        let outcome = match random.below(10) {
            0 => Outcome::NotExecuted,
            1 | 2 => Outcome::Unknown,
            _ => Outcome::Committed,
        };
        let effective = outcome == Outcome::Committed || (outcome == Outcome::Unknown && random.one_in(2));
        let mut ops = Vec::new();
        for part in 0..1 + random.below(3) {
            let key = random.below(4) as u32;
            let list = &mut lists[key as usize];
            if random.one_in(2) {
                let token = number * 10 + part;
                list.extend(effective.then_some(token));
                let length = (outcome == Outcome::Committed).then_some(list.len());
                ops.push(MicroOp::Append { key, token, length });
            } else {
                ops.push(MicroOp::Read { key, list: (outcome == Outcome::Committed).then(|| list.clone()) });
            }
        }
        let completed = (outcome != Outcome::Unknown).then(|| at + random.below(400));
        // Connections of their own: this store keeps no order but that of effects.
        transactions.push(Transaction {
            connection: number,
            node: 1,
            invoked: at - random.below(400),
            completed,
            outcome,
            ops,
        });
    }
    for (key, list) in (0..).zip(lists) {
        transactions.push(Transaction {
            connection: 1000,
            node: 1,
            invoked: 50_000,
            completed: Some(50_001),
            outcome: Outcome::Committed,
            ops: vec![MicroOp::Read { key, list: Some(list) }],
        });
    }
    History { transactions, ..History::default() }
}

/// Takes the last token from some read, or lets it stand twice.
fn tamper(history: &mut History, random: &mut crate::random::Random) -> bool {
    let reads = history.transactions.iter_mut().flat_map(|transaction| &mut transaction.ops);
    let lists = reads.filter_map(|op| match op {
        MicroOp::Read { list: Some(list), .. } if !list.is_empty() => Some(list),
        _ => None,
    });
    let mut lists: Vec<&mut Vec<Token>> = lists.collect();
    let Some(chosen) = (!lists.is_empty()).then(|| random.below(lists.len() as u64) as usize) else { return false };
    let list = &mut lists[chosen];
    match random.below(2) {
        0 => drop(list.pop()),
        _ => list.push(list[0]),
    }
    true
}
