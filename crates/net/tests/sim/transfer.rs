//! Bytes, half-closes, resets, water marks, closing.

use dstore_net::sys::sim::Call;
use dstore_net::*;

use crate::harness::*;

#[test]
fn a_message_in_pieces_is_decoded_when_it_is_whole() {
    let mut bench = Bench::new();
    let (peer, id) = bench.dial();
    for byte in b"_L\x03ab" {
        bench.world.send(peer, &[*byte]);
        bench.settle();
        assert_eq!(bench.heard(id), []);
    }
    bench.world.send(peer, b"cexL");
    bench.settle();
    assert_eq!(bench.heard(id), messages(b"Lex"));
    assert_eq!(bench.world.received(peer), b"L\x03abce");
}

#[test]
fn a_peer_that_takes_one_byte_at_a_time_gets_all_in_order() {
    let mut bench = Bench::new();
    bench.world.set_room(0);
    let (peer, id) = bench.dial();
    bench.world.send(peer, b"L\x05helloezw");
    bench.settle();
    bench.net().close(id);
    let expected = [&b"L\x05helloe"[..], &[b'Z'; 5000], &[b'W'; 100]].concat();
    while bench.net().state(id) != ConnectionState::Closed {
        assert_eq!(bench.net().state(id), ConnectionState::Draining);
        bench.world.give_room(peer, 1);
        bench.turn();
    }
    assert!(bench.world.received(peer) == expected);
    assert_eq!(bench.heard(id).last(), Some(&close("closed by the application")));
}

#[test]
fn a_slow_reader_is_not_read_from_above_the_high_mark() {
    let marks = ConnectionConfig { output_high_bytes: 250, output_low_bytes: 100, ..ConnectionConfig::default() };
    let mut bench = Bench::with_connections(marks);
    bench.world.set_room(0);
    let (peer, id) = bench.dial();
    bench.world.send(peer, &[b'w'; 10]);
    bench.settle();
    assert_eq!(bench.heard(id), [messages(b"www"), vec![Heard::High]].concat(), "three replies pass the mark");
    assert_eq!(bench.net().output_len(id), 300);
    let reads = bench.world.calls(Call::Read);
    bench.world.send(peer, &[b'w'; 1000]);
    bench.settle();
    assert_eq!(bench.world.calls(Call::Read), reads, "what the peer sends stays in the kernel");
    bench.world.give_room(peer, 199);
    bench.settle();
    assert_eq!(bench.heard(id), [], "101 bytes wait: not low yet");
    bench.world.give_room(peer, 1);
    bench.settle();
    assert_eq!(bench.heard(id), [vec![Heard::Low], messages(b"ww"), vec![Heard::High]].concat());
    bench.world.give_room(peer, usize::MAX);
    bench.settle();
    assert_eq!(bench.world.received(peer).len(), 1010 * 100);
}

#[test]
fn a_producer_is_called_again_however_fast_its_peer_reads_and_holds_up_nobody() {
    let marks = ConnectionConfig { output_high_bytes: 900, output_low_bytes: 100, ..ConnectionConfig::default() };
    let mut bench = Bench::with_connections(marks);
    let (peer, id) = bench.dial();
    bench.event_loop.app().supply = 50_000;
    bench.net().write(id, &[b'S'; 1000]);
    bench.turn();
    let after_a_turn = bench.world.received(peer).len();
    assert!((1000..=3000).contains(&after_a_turn), "{after_a_turn} bytes in one turn");
    bench.settle();
    assert_eq!(bench.world.received(peer).len(), 51_000);
    assert!(!bench.heard(id).contains(&Heard::High), "the socket took everything");
}

#[test]
fn output_beyond_the_limit_gives_the_connection_up() {
    let mut bench = Bench::with_connections(ConnectionConfig { output_bytes_max: 99, ..ConnectionConfig::default() });
    bench.world.set_room(1);
    let (peer, id) = bench.dial();
    bench.world.send(peer, b"w");
    bench.settle();
    assert_eq!(bench.net().output_len(id), 99);
    bench.net().write(id, b"x");
    bench.settle();
    assert_eq!(bench.heard(id), [Heard::Message(b'w'), close("more than 99 bytes of output wait")]);
}

#[test]
fn a_message_longer_than_the_input_may_be_closes_the_connection() {
    let mut bench = Bench::with_connections(ConnectionConfig { input_bytes_max: 10, ..ConnectionConfig::default() });
    let (peer, id) = bench.dial();
    bench.world.send(peer, b"L\x08exactly");
    bench.settle();
    assert_eq!(bench.heard(id), []);
    bench.world.send(peer, b"!x");
    bench.settle();
    assert_eq!(bench.heard(id), messages(b"Lx"));
    bench.world.send(peer, b"L\x09");
    bench.settle();
    assert_eq!(bench.heard(id), [close("a message of more than 10 bytes")]);
}

#[test]
fn paused_input_waits_and_resumes_without_an_event() {
    let mut bench = Bench::new();
    let (peer, id) = bench.dial();
    bench.world.send(peer, b"xpyz");
    bench.world.end(peer);
    bench.settle();
    assert_eq!(bench.heard(id), messages(b"xp"), "not even the end is told while paused");
    assert!(!bench.world.has_events());
    bench.net().resume(id);
    bench.settle();
    let z = [messages(b"yz"), vec![Heard::InputClosed, close("closed by the peer")]].concat();
    assert_eq!(bench.heard(id), z);
}

#[test]
fn after_the_peers_end_the_application_may_still_answer() {
    let mut bench = Bench::new();
    bench.event_loop.app().stays_open = true;
    let (peer, id) = bench.dial();
    bench.world.send(peer, b"xL");
    bench.world.end(peer);
    bench.settle();
    assert_eq!(bench.heard(id), [Heard::Message(b'x'), Heard::InputClosed], "the torn message is dropped");
    assert_eq!(bench.net().state(id), ConnectionState::Established);
    assert!(bench.net().write(id, b"late"));
    bench.settle();
    bench.net().close(id);
    bench.settle();
    assert_eq!(bench.world.received(peer), b"late");
    assert_eq!(bench.heard(id), [close("closed by the peer")]);
    assert_eq!(bench.world.closed(peer), Some(false));
}

#[test]
fn our_half_ends_after_the_flush_and_reading_goes_on() {
    let mut bench = Bench::new();
    bench.world.set_room(1);
    let (peer, id) = bench.dial();
    bench.world.send(peer, b"ees");
    bench.settle();
    assert!(!bench.net().write(id, b"refused"));
    assert!(!bench.world.sees_end(peer));
    bench.world.give_room(peer, 1);
    bench.settle();
    assert!(bench.world.sees_end(peer));
    assert_eq!(bench.world.received(peer), b"ee");
    bench.world.send(peer, b"xy");
    bench.settle();
    assert_eq!(bench.heard(id), messages(b"eesxy"));
    bench.world.end(peer);
    bench.settle();
    assert_eq!(bench.heard(id), [Heard::InputClosed, close("closed by the peer")]);
}

#[test]
fn a_reset_in_the_middle_of_a_write_is_reported_once() {
    for paused in [false, true] {
        let mut bench = Bench::new();
        bench.world.set_room(10);
        let (peer, id) = bench.dial();
        bench.world.send(peer, if paused { b"wp" } else { b"wx" });
        bench.settle();
        bench.heard(id);
        bench.world.break_off(peer, libc::ECONNRESET);
        bench.settle();
        assert_eq!(bench.heard(id), [close(&format!("connection failed: {}", text(libc::ECONNRESET)))]);
        bench.settle();
        assert_eq!(bench.heard(id), []);
        assert!(!bench.net().write(id, b"into the void"));
        assert_eq!(bench.world.open_sockets(), 1);
    }
}

#[test]
fn every_errno_at_every_call_ends_one_connection_and_nothing_else() {
    let errnos =
        [libc::ECONNRESET, libc::EPIPE, libc::ETIMEDOUT, libc::EBADF, libc::ENOBUFS, libc::EIO, libc::EHOSTUNREACH];
    for errno in errnos {
        for (call, script) in
            [(Call::Read, &b"x"[..]), (Call::Write, b"w"), (Call::Shutdown, b"s"), (Call::Register, b"")]
        {
            let mut bench = Bench::new();
            let (other, bystander) = bench.dial();
            let peer = bench.world.dial(&here());
            bench.world.fail_next(call, errno);
            bench.world.send(peer, script);
            bench.settle();
            let closes: Vec<_> = std::mem::take(&mut bench.event_loop.app().heard)
                .into_iter()
                .filter_map(|(_, heard)| if let Heard::Close(reason) = heard { Some(reason) } else { None })
                .collect();
            assert_eq!(closes, [format!("connection failed: {}", text(errno))], "{call:?}");
            assert_eq!(bench.world.closed(peer), Some(true));
            bench.world.send(other, b"e");
            bench.settle();
            assert_eq!(bench.heard(bystander), messages(b"e"));
        }
    }
}

#[test]
fn a_refused_message_is_answered_and_its_rest_swallowed_before_the_close() {
    let mut bench = Bench::new();
    let (peer, id) = bench.dial();
    bench.world.send(peer, b"x\xffyz");
    bench.settle();
    assert_eq!(bench.heard(id), [Heard::Message(b'x'), Heard::DecodeError]);
    assert_eq!(bench.world.received(peer), b"E");
    assert!(bench.world.sees_end(peer), "our half is ended");
    assert_eq!(bench.net().state(id), ConnectionState::Draining);
    bench.world.send(peer, &[b'y'; 100_000]);
    bench.settle();
    assert_eq!(bench.world.closed(peer), None);
    bench.world.end(peer);
    bench.settle();
    assert_eq!(bench.heard(id), [close("protocol error: refused")]);
    assert_eq!(bench.world.closed(peer), Some(false));
    // A peer that does not end its stream is left after a while.
    let (peer, id) = bench.dial();
    bench.world.send(peer, b"\xff");
    bench.advance(0);
    bench.advance(2000);
    assert_eq!(bench.heard(id), [Heard::DecodeError, close("protocol error: refused")]);
    assert_eq!(bench.world.closed(peer), Some(false));
}

#[test]
fn a_stale_id_is_harmless_even_when_its_place_is_taken() {
    let mut bench = Bench::new();
    let (peer, old) = bench.dial();
    bench.world.send(peer, b"a");
    bench.settle();
    let (peer, new) = bench.dial();
    assert_ne!(old, new);
    let net = bench.net();
    assert!(!net.write(old, b"x") && !net.write_bytes(old, vec![0; 9000].into()) && net.output(old).is_none());
    net.close(old);
    net.abort(old);
    net.pause(old);
    net.resume(old);
    net.shutdown_write(old);
    net.set_deadline(old, Some(net.now()));
    assert!(net.peer(old).is_none() && net.protocol_mut::<Script>(old).is_none());
    assert_eq!(net.state(old), ConnectionState::Closed);
    assert!(net.protocol_mut::<Script>(new).is_some());
    bench.world.send(peer, b"e");
    bench.settle();
    assert_eq!(bench.heard(new), messages(b"e"));
    assert_eq!(bench.world.received(peer), b"e");
}

#[test]
fn small_writes_of_a_turn_leave_in_one_call() {
    let mut bench = Bench::new();
    let (peer, id) = bench.dial();
    bench.world.send(peer, &[b'e'; 1000]);
    let before = bench.world.calls(Call::Write);
    bench.settle();
    assert_eq!(bench.world.calls(Call::Write), before + 1);
    for _ in 0..1000 {
        bench.net().write(id, b"from elsewhere");
    }
    bench.settle();
    assert_eq!(bench.world.calls(Call::Write), before + 2);
}
