//! Hand-made histories of counters and registers, good and bad.

use super::report::{Cycle, Order};
use super::tests::{anomalies, bad, cycle, good, history};
use super::*;

const MS: u64 = 1_000_000;

/// The same, with times in milliseconds, and clocks that may be wrong by 10.
fn timed(text: &str) -> Vec<Anomaly> {
    let mut history = history(text);
    history.clock_error_ms = Some(10);
    for transaction in &mut history.transactions {
        transaction.invoked *= MS;
        transaction.completed = transaction.completed.map(|at| at * MS);
    }
    check(&history).into_iter().map(|violation| violation.anomaly).collect()
}

#[test]
fn counters_that_go_up_one_by_one_are_good() {
    good(
        "c1 10-20 add 1000 =1; add 1000 =2
         c2 15-40 add 1000 =3
         c3 15-40 count 1000 =2
         c3 50-60 count 1000 =3; add 1000 =4; count 1000 =4",
    );
    // One of unknown outcome is in between, or never was.
    good("c1 10-? add 1000\n c2 30-40 add 1000 =2\n c3 50-60 count 1000 =2");
    good("c1 10-? add 1000\n c2 30-40 add 1000 =1\n c3 50-60 count 1000 =2");
    good("c1 10-? add 1000\n c2 30-40 count 1000 =0\n c3 50-60 count 1000 =0");
}

#[test]
fn a_lost_increment_is_found() {
    bad(Anomaly::LostIncrement, "c1 10-20 add 1000 =1\n c2 10-20 add 1000 =1");
    bad(Anomaly::STALE_READ, "c1 10-20 add 1000 =1\n c2 30-40 count 1000 =0");
}

#[test]
fn an_increment_that_is_applied_twice_or_was_refused_is_found() {
    bad(Anomaly::CountTooHigh, "c1 10-20 add 1000 =1\n c2 30-40 count 1000 =2");
    bad(Anomaly::CountTooHigh, "c1 10-20! add 1000\n c2 30-40 count 1000 =1");
    bad(Anomaly::CountTooHigh, "c1 10-20 add 1000 =2\n c2 30-? add 1000");
    good("c1 10-40 add 1000 =2\n c2 30-? add 1000");
}

#[test]
fn counters_that_go_down_are_found() {
    let found = anomalies("c1 10-? add 1000\n c2 20-30 count 1000 =1\n c2 40-50 count 1000 =0");
    assert_eq!(found, [cycle(Cycle::GSingle, Order::Connection)]);
    bad(Anomaly::Internal, "c1 10-20 add 1000 =1; count 1000 =0");
}

#[test]
fn half_a_transaction_over_a_counter_a_register_and_a_list_is_found() {
    bad(
        cycle(Cycle::GSingle, Order::Any),
        "c1 10-50 add 1000 =1; put 2000 7 =-; append 1 9
         c2 10-50 put 2000 8 =7; count 1000 =0",
    );
    bad(
        cycle(Cycle::GSingle, Order::Any),
        "c1 10-50 append 1 9; put 2000 7 =-
         c2 10-50 look 2000 =7; read 1 []",
    );
    good(
        "c1 10-50 add 1000 =1; put 2000 7 =-; append 1 9
         c2 10-50 look 2000 =-; count 1000 =0; read 1 []
         c2 60-70 look 2000 =7; count 1000 =1; read 1 [9]",
    );
}

#[test]
fn registers_that_pass_from_hand_to_hand_are_good() {
    good(
        "c1 10-20 put 2000 1 =-
         c2 30-40 put 2000 2 if absent =1
         c2 50-60 put 2000 3 =1
         c1 70-80 take 2000 =3
         c1 90-95 look 2000 =-
         c3 97-98 put 2000 4 if absent =-; look 2000 =4",
    );
    good("c1 10-? put 2000 1\n c2 30-40 look 2000 =1\n c2 50-60 put 2000 2 =1");
    good("c1 10-? put 2000 1\n c2 30-40 look 2000 =-\n c2 50-60 look 2000 =1");
}

#[test]
fn a_compare_and_set_that_missed_another_is_found() {
    bad(
        Anomaly::LostUpdate,
        "c1 10-20 put 2000 1 =-\n c1 30-60 look 2000 =1; put 2000 2 =1\n c2 30-60 look 2000 =1; put 2000 3 =1",
    );
    bad(Anomaly::Internal, "c1 10-20 put 2000 1 =-\n c1 30-60 look 2000 =1; put 2000 2 =-");
}

#[test]
fn a_token_that_is_not_the_registers_is_found() {
    bad(Anomaly::Garbage, "c1 10-20 look 2000 =9");
    bad(Anomaly::Garbage, "c1 10-20 put 2001 9 =-\n c1 30-40 look 2000 =9");
    bad(Anomaly::AbortedRead, "c1 10-20! put 2000 9\n c1 30-40 look 2000 =9");
    let kept = anomalies("c1 1-5 put 2000 1 =-\n c1 10-20 put 2000 9 if absent =1\n c2 10-20 look 2000 =9");
    assert_eq!(kept, [Anomaly::Garbage]);
}

#[test]
fn what_was_gone_and_returned_is_found() {
    let put = "c1 10-20 put 2000 1 for 5 =-\n";
    let found = anomalies(&format!("{put} c2 30-40 look 2000 =-\n c3 50-60 look 2000 =1"));
    assert_eq!(found, [Anomaly::Returned]);
    good(&format!("{put} c2 30-40 look 2000 =-\n c3 35-60 look 2000 =1"));
    good(&format!("{put} c2 15-40 look 2000 =-\n c3 50-60 look 2000 =1"));
    let taken = anomalies("c1 10-20 put 2000 1 =-\n c1 30-40 take 2000 =1\n c2 50-60 look 2000 =1");
    assert_eq!(taken, [Anomaly::STALE_READ]);
}

#[test]
fn what_goes_early_or_stays_late_is_found() {
    let put = "c1 100-110 put 2000 1 for 500 =-\n";
    assert_eq!(timed(&format!("{put} c2 300-310 look 2000 =-")), [Anomaly::Vanished]);
    assert_eq!(timed(&format!("{put} c2 590-600 look 2000 =-")), []);
    assert_eq!(timed(&format!("{put} c2 700-710 look 2000 =1")), [Anomaly::Outlived]);
    assert_eq!(timed(&format!("{put} c2 620-630 look 2000 =1")), []);
    assert_eq!(timed("c1 100-110 put 2000 1 =-\n c2 99000-99010 look 2000 =-"), [Anomaly::Vanished]);
    // Somebody may have taken it, and nobody knows.
    assert_eq!(timed(&format!("{put} c3 200-? take 2000\n c2 300-310 look 2000 =-")), []);
    assert_eq!(timed(&format!("{put} c3 200-210 take 2000 =1\n c2 300-310 look 2000 =-")), []);
    // Without knowing the clocks nobody can tell.
    assert_eq!(anomalies("c1 100-110 put 2000 1 for 500 =-\n c2 300-310 look 2000 =-"), []);
}

#[test]
fn the_last_deadline_is_the_one_that_counts() {
    let put = "c1 100-110 put 2000 1 for 500 =-\n";
    // Longer.
    let longer = format!("{put} c1 300-310 expire 2000 for 1000 =1\n");
    assert_eq!(timed(&format!("{longer} c2 900-910 look 2000 =1")), []);
    assert_eq!(timed(&format!("{longer} c2 900-910 look 2000 =-")), [Anomaly::Vanished]);
    assert_eq!(timed(&format!("{longer} c2 1400-1410 look 2000 =1")), [Anomaly::Outlived]);
    // Shorter, and at a time.
    let shorter = format!("{put} c1 200-210 expire 2000 at 300 =1\n");
    assert_eq!(timed(&format!("{shorter} c2 290-300 look 2000 =-")), []);
    assert_eq!(timed(&format!("{shorter} c2 220-230 look 2000 =-")), [Anomaly::Vanished]);
    assert_eq!(timed(&format!("{shorter} c2 390-400 look 2000 =1")), [Anomaly::Outlived]);
    // None any more.
    let persists = format!("{put} c1 200-210 expire 2000 =1\n");
    assert_eq!(timed(&format!("{persists} c2 9000-9010 look 2000 =1")), []);
    assert_eq!(timed(&format!("{persists} c2 9000-9010 look 2000 =-")), [Anomaly::Vanished]);
    // There is nothing to give a deadline to.
    assert_eq!(timed("c1 100-110 expire 2000 for 50 =-\n c1 200-210 put 2000 1 =-\n c2 900-910 look 2000 =1"), []);
}

#[test]
fn deadlines_that_were_set_at_once_may_both_be_the_last() {
    let both = "c1 100-110 put 2000 1 =-\n c1 200-260 expire 2000 for 100 =1\n c2 200-260 expire 2000 for 900 =1\n";
    assert_eq!(timed(&format!("{both} c3 500-510 look 2000 =-")), []);
    assert_eq!(timed(&format!("{both} c3 500-510 look 2000 =1")), []);
    assert_eq!(timed(&format!("{both} c3 220-230 look 2000 =-")), [Anomaly::Vanished]);
    assert_eq!(timed(&format!("{both} c3 1300-1310 look 2000 =1")), [Anomaly::Outlived]);
    // Nobody knows whether this one was set at all.
    let unknown = "c1 100-110 put 2000 1 for 100 =-\n c2 150-? expire 2000\n";
    assert_eq!(timed(&format!("{unknown} c3 900-910 look 2000 =1")), []);
    assert_eq!(timed(&format!("{unknown} c3 900-910 look 2000 =-")), []);
}

#[test]
fn a_deadline_is_taken_over_with_the_place() {
    let kept = "c1 100-110 put 2000 1 for 500 =-\n c1 200-210 put 2000 2 kept =1\n";
    assert_eq!(timed(&format!("{kept} c2 300-310 look 2000 =-")), [Anomaly::Vanished]);
    assert_eq!(timed(&format!("{kept} c2 700-710 look 2000 =2")), [Anomaly::Outlived]);
    assert_eq!(timed(&format!("{kept} c2 560-570 look 2000 =2\n c2 700-710 look 2000 =-")), []);
    let persists = format!("{kept} c2 300-310 expire 2000 =2\n");
    assert_eq!(timed(&format!("{persists} c2 700-710 look 2000 =-")), [Anomaly::Vanished]);
    assert_eq!(timed("c1 100-110 put 2000 2 kept =-\n c2 9000-9010 look 2000 =-"), [Anomaly::Vanished]);
}

#[test]
fn a_deadline_that_has_come_before_it_is_set_leaves_nothing() {
    assert_eq!(timed("c1 900-910 put 2000 1 at 100 =-; look 2000 =-\n c2 950-960 look 2000 =-"), []);
    assert_eq!(timed("c1 100-110 put 2000 1 =-\n c1 900-910 expire 2000 at 100 =1; look 2000 =-"), []);
}

#[test]
fn the_end_of_a_list_and_its_length_tell_as_much_as_all_of_it() {
    let appends = "c1 10-20 append 1 7\n c1 30-40 append 1 8\n c1 50-60 append 1 9\n c9 900-910 read 1 [7 8 9]\n";
    good(&format!("{appends} c2 70-80 tail 1 2 [8 9]; length 1 =3"));
    good(&format!("{appends} c2 35-80 tail 1 2 [7 8]; tail 1 5 [7 8]"));
    bad(Anomaly::STALE_READ, &format!("{appends} c2 70-80 tail 1 2 [7 8]"));
    bad(Anomaly::STALE_READ, &format!("{appends} c2 70-80 length 1 =2"));
    bad(Anomaly::STALE_READ, &format!("{appends} c2 70-80 tail 1 5 []"));
    let among = |anomaly: Anomaly, text: &str| {
        let found = anomalies(&format!("{appends} {text}"));
        assert!(found.contains(&anomaly), "{found:?}");
    };
    among(Anomaly::IncompatibleOrder, "c2 70-80 tail 1 2 [7 9]");
    among(Anomaly::IncompatibleOrder, "c2 70-80 tail 1 5 [8 9]");
    among(Anomaly::WrongLength, "c2 70-80 length 1 =4");
    among(Anomaly::Internal, "c2 35-80 length 1 =2; tail 1 1 [9]");
}
