//! Budgets, limits, timers, panics, stopping.

use std::time::Duration;

use dstore_net::sys::sim::Call;
use dstore_net::*;

use crate::harness::*;

#[test]
fn a_flooding_peer_starves_nobody() {
    let config = LoopConfig { read_bytes_per_turn_max: 1000, ..LoopConfig::default() };
    let mut bench = Bench::with(config, ListenerConfig::default());
    let (flood, loud) = bench.dial();
    let (peer, quiet) = bench.dial();
    bench.world.send(flood, &[b'x'; 100_000]);
    bench.world.send(peer, b"e");
    bench.turn();
    let heard = std::mem::take(&mut bench.event_loop.app().heard);
    assert_eq!(heard.iter().filter(|(id, _)| *id == loud).count(), 1000);
    assert!(heard.contains(&(quiet, Heard::Message(b'e'))), "served in the very same turn");
    bench.settle();
    assert_eq!(bench.heard(loud).len(), 99_000, "and the flood in the turns that follow, with no event");
}

#[test]
fn a_peer_that_reads_as_fast_as_the_loop_writes_starves_nobody() {
    let mut bench = Bench::new();
    bench.world.set_room(64 << 20);
    let (greedy, much) = bench.dial();
    let (peer, _) = bench.dial();
    assert!(bench.net().write_bytes(much, vec![b'x'; 5 << 20].into()));
    bench.world.send(peer, b"e");
    bench.turn();
    assert_eq!(bench.world.received(peer), b"e");
    let first = bench.world.received(greedy).len();
    assert!((1..=2 << 20).contains(&first), "{first} bytes in one turn");
    bench.settle();
    let all = bench.world.received(greedy).len();
    assert_eq!(all, 5 << 20, "and the rest in the turns that follow, with no event");
}

#[test]
fn who_is_left_of_a_full_turn_comes_before_those_who_had_it() {
    let config = LoopConfig { read_bytes_per_turn_max: 10, ..LoopConfig::default() };
    let mut bench = Bench::with(config, ListenerConfig::default());
    let (flood, loud) = bench.dial();
    let quiet: Vec<_> = (0..5).map(|_| bench.dial()).collect();
    bench.world.send(flood, &[b'x'; 100]);
    quiet.iter().for_each(|(peer, _)| bench.world.send(*peer, b"e"));
    bench.event_loop.app().enough = Some(2);
    let mut served = Vec::new();
    while served.len() < 15 {
        assert!(bench.event_loop.has_work() || served.is_empty(), "it does not wait for an event");
        bench.turn();
        served.extend(std::mem::take(&mut bench.event_loop.app().heard).into_iter().map(|(id, _)| id));
    }
    assert_eq!(served[..10], [loud; 10], "what the first turn read fills it");
    let ids: Vec<_> = quiet.iter().map(|(_, id)| *id).collect();
    assert_eq!(served[10..15], ids, "then two at a time");
    assert_eq!(bench.world.received(quiet[0].0), b"e");
    bench.event_loop.net().stop(Duration::ZERO);
    while bench.turn() {}
}

#[test]
fn the_storm_of_accepts_is_spread_over_turns() {
    let config = LoopConfig { accepts_per_turn_max: 10, ..LoopConfig::default() };
    let mut bench = Bench::with(config, ListenerConfig::default());
    for _ in 0..25 {
        bench.world.dial(&here());
    }
    bench.turn();
    let per_turn = bench.net().connection_count();
    assert!((10..=20).contains(&per_turn), "{per_turn}");
    bench.settle();
    assert_eq!(bench.net().connection_count(), 25);
}

#[test]
fn without_descriptors_the_listener_tries_again() {
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        let mut bench = Bench::new();
        let (first, _) = bench.dial();
        bench.world.fail_next(Call::Accept, errno);
        bench.world.dial(&here());
        bench.settle();
        assert_eq!(bench.net().connection_count(), 1);
        // When one closes, at once;
        bench.world.end(first);
        bench.settle();
        bench.turn();
        assert_eq!(bench.net().connection_count(), 1, "the first is gone, the second is in");
        // otherwise, by the clock.
        bench.world.fail_next(Call::Accept, errno);
        bench.world.dial(&here());
        bench.settle();
        assert_eq!(bench.net().connection_count(), 1);
        bench.advance(100);
        bench.settle();
        assert_eq!(bench.net().connection_count(), 2);
    }
    let mut bench = Bench::new();
    bench.world.fail_next(Call::Accept, libc::ECONNABORTED);
    bench.world.dial(&here());
    bench.settle();
    assert_eq!(bench.net().connection_count(), 1, "one that is gone already costs nothing");
}

#[test]
fn beyond_the_limit_connections_wait_or_are_told() {
    let config = LoopConfig { connections_max: 1, ..LoopConfig::default() };
    let mut bench = Bench::with(config.clone(), ListenerConfig::default());
    let (first, _) = bench.dial();
    let second = bench.world.dial(&here());
    bench.settle();
    assert_eq!((bench.net().connection_count(), bench.world.closed(second)), (1, None));
    bench.world.end(first);
    bench.settle();
    bench.settle();
    bench.world.send(second, b"e");
    bench.settle();
    assert_eq!(bench.world.received(second), b"e");
    let id = bench.connect(vec![there(1)], ConnectionConfig::default());
    bench.settle();
    assert_eq!(bench.heard(id), [close("connect failed: the loop has as many connections as it may")]);

    let refusal = ListenerConfig { refusal: Some("full\n".into()), ..ListenerConfig::default() };
    let mut bench = Bench::with(config, refusal);
    bench.dial();
    let second = bench.world.dial(&here());
    bench.settle();
    assert_eq!(bench.world.received(second), b"full\n");
    assert_eq!(bench.world.closed(second), Some(false));
}

#[test]
fn a_silent_peer_is_reaped_and_a_paused_one_is_spared() {
    let idle = ConnectionConfig {
        idle_timeout: Some(Duration::from_secs(10)),
        heartbeat: Some(Duration::from_secs(3)),
        ..ConnectionConfig::default()
    };
    let mut bench = Bench::with_connections(idle);
    let (talker, _) = bench.dial();
    let (listener, reaped) = bench.dial();
    let (_, paused) = bench.dial();
    bench.net().pause(paused);
    for _ in 0..9 {
        bench.advance(1000);
        bench.world.send(talker, b"x");
    }
    assert_eq!(bench.world.received(listener), b"hhh", "heartbeats go out, and prove nothing");
    assert_eq!(bench.net().connection_count(), 3);
    bench.advance(1000);
    assert_eq!(bench.heard(reaped).last(), Some(&close("idle")));
    assert_eq!(bench.world.closed(listener), Some(true));
    bench.advance(15_000);
    assert_eq!(bench.net().connection_count(), 1, "the talker fell silent and is gone; the paused one stays");
    bench.net().resume(paused);
    bench.advance(9_999);
    assert_eq!(bench.net().connection_count(), 1);
    bench.advance(1);
    assert_eq!(bench.net().connection_count(), 0);
}

#[test]
fn a_peer_that_reads_slowly_is_alive_and_one_that_does_not_read_is_not() {
    let idle = ConnectionConfig { idle_timeout: Some(Duration::from_secs(10)), ..ConnectionConfig::default() };
    let mut bench = Bench::with_connections(idle);
    bench.world.set_room(1);
    let (peer, id) = bench.dial();
    bench.world.send(peer, b"w");
    bench.settle();
    for _ in 0..20 {
        bench.advance(5000);
        bench.world.give_room(peer, 1);
        bench.settle();
    }
    assert_eq!(bench.net().state(id), ConnectionState::Established);
    bench.advance(10_000);
    assert_eq!(bench.net().state(id), ConnectionState::Closed);
}

#[test]
fn a_close_that_the_peer_does_not_take_times_out() {
    let mut bench = Bench::new();
    bench.world.set_room(1);
    let (peer, id) = bench.dial();
    bench.world.send(peer, b"wc");
    bench.settle();
    assert_eq!(bench.net().state(id), ConnectionState::Draining);
    bench.advance(29_999);
    assert_eq!(bench.net().state(id), ConnectionState::Draining);
    bench.advance(1);
    assert_eq!(bench.heard(id).last(), Some(&close("the peer did not take the last output in time")));
    assert_eq!(bench.world.closed(peer), Some(true));
}

#[test]
fn the_deadline_of_a_connection_can_be_moved_and_taken_away() {
    let mut bench = Bench::new();
    let (_, id) = bench.dial();
    let start = bench.net().now();
    let at = |millis| Some(start + Duration::from_millis(millis));
    bench.net().set_deadline(id, at(100));
    bench.net().set_deadline(id, at(200));
    bench.advance(199);
    assert_eq!(bench.heard(id), []);
    bench.advance(1);
    assert_eq!(bench.heard(id), [Heard::Deadline]);
    bench.advance(1000);
    assert_eq!(bench.heard(id), [], "once");
    bench.net().set_deadline(id, at(2000));
    bench.net().set_deadline(id, None);
    bench.advance(5000);
    assert_eq!(bench.heard(id), []);
}

#[test]
fn a_panic_costs_its_connection_or_the_loop_as_configured() {
    let gentle = LoopConfig { panic_policy: PanicPolicy::CloseConnection, ..LoopConfig::default() };
    let mut bench = Bench::with(gentle, ListenerConfig::default());
    let (other, bystander) = bench.dial();
    let (peer, id) = bench.dial();
    bench.world.send(peer, b"e!e");
    bench.settle();
    assert_eq!(bench.heard(id), messages(b"e!"), "no callback after the panic, not even on_close");
    assert_eq!(bench.event_loop.app().panics, 1);
    assert_eq!(bench.world.closed(peer), Some(true));
    bench.world.send(other, b"e");
    bench.settle();
    assert_eq!(bench.heard(bystander), messages(b"e"));

    let mut bench = Bench::new();
    let (other, _) = bench.dial();
    let (peer, _) = bench.dial();
    bench.world.send(peer, b"!");
    let result = bench.event_loop.turn(Some(Duration::ZERO));
    assert!(matches!(result, Err(LoopError::Panicked(report)) if report.message.starts_with("asked to")));
    assert_eq!(bench.world.closed(other), Some(true));
    assert_eq!(bench.world.open_sockets(), 0);
}

#[test]
fn a_drain_waits_for_output_up_to_its_deadline() {
    let mut bench = Bench::new();
    bench.world.set_room(1);
    let (slow, _) = bench.dial();
    let (stuck, _) = bench.dial();
    bench.world.send(slow, b"w");
    bench.world.send(stuck, b"w");
    bench.settle();
    bench.net().stop(Duration::from_secs(5));
    assert!(bench.turn());
    let listener = bench.listener;
    assert!(bench.net().listener_address(listener).is_none());
    bench.world.give_room(slow, 1000);
    bench.world.advance(Duration::from_millis(4999));
    assert!(bench.turn() && bench.turn());
    assert_eq!(bench.world.closed(slow), Some(false));
    assert_eq!(bench.world.received(slow).len(), 100);
    assert_eq!(bench.world.closed(stuck), None);
    bench.world.advance(Duration::from_millis(1));
    assert!(!bench.turn());
    assert_eq!(bench.world.closed(stuck), Some(true));
    let heard = &bench.event_loop.app().heard;
    assert_eq!(heard.iter().filter(|(_, heard)| *heard == Heard::Drain).count(), 2);
    assert_eq!(heard.last().map(|(_, heard)| heard), Some(&close("the loop stopped")));
    assert_eq!(bench.world.open_sockets(), 0);
    assert!(bench.event_loop.mailbox().post(1).is_err());
}

#[test]
fn mail_comes_in_order_and_the_box_is_bounded() {
    let config = LoopConfig { mail_max: 3, ..LoopConfig::default() };
    let mut bench = Bench::with(config, ListenerConfig::default());
    let mailbox = bench.event_loop.mailbox();
    for number in 0..3 {
        mailbox.post(number).unwrap();
    }
    assert!(matches!(mailbox.post(9), Err(PostError::Full(9))));
    bench.turn();
    assert_eq!(bench.event_loop.app().fired, [0, 1, 2]);
    mailbox.post(3).unwrap();
    bench.turn();
    assert_eq!(bench.event_loop.app().fired, [0, 1, 2, 3]);
}
