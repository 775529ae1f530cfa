//! The client's side: connects that succeed, fail, hang, and links that come back.

use std::time::Duration;

use dstore_net::sys::sim::{Call, Outcome};
use dstore_net::*;

use crate::harness::*;

fn config() -> ConnectionConfig {
    ConnectionConfig { connect_timeout: Duration::from_secs(4), ..ConnectionConfig::default() }
}

#[test]
fn a_connect_is_established_when_the_socket_says_so_and_not_before() {
    let mut bench = Bench::new();
    let id = bench.connect(vec![there(1)], config());
    assert_eq!(bench.net().state(id), ConnectionState::Connecting);
    assert!(bench.net().write(id, b"first "));
    // The edge that registration brings is spurious: SO_ERROR is 0, and yet nobody has answered.
    bench.settle();
    assert_eq!(bench.world.calls(Call::ConnectResult), 0, "not writable, so not asked");
    assert_eq!(bench.net().state(id), ConnectionState::Connecting);
    assert!(bench.net().write(id, b"second"));
    let peer = bench.world.outbound_peers(1)[0];
    bench.world.settle_connect(peer, Ok(()));
    bench.settle();
    assert_eq!(bench.heard(id), [Heard::Open]);
    assert_eq!(bench.world.received(peer), b"first second");
    bench.world.send(peer, b"ex");
    bench.settle();
    assert_eq!(bench.heard(id), messages(b"ex"));
    assert_eq!(bench.world.received(peer), b"first seconde");
}

#[test]
fn an_immediate_success_is_told_after_connect_has_returned() {
    let mut bench = Bench::new();
    bench.world.script_connects([Outcome::Immediate]);
    let id = bench.connect(vec![there(1)], config());
    assert_eq!(bench.heard(id), []);
    bench.turn();
    assert_eq!(bench.heard(id), [Heard::Open]);
}

#[test]
fn every_failure_reaches_the_protocol_once_as_what_it_is() {
    let cases = [
        (libc::ECONNREFUSED, "connection refused".to_owned()),
        (libc::ENETUNREACH, "network unreachable".to_owned()),
        (libc::EHOSTUNREACH, "host unreachable".to_owned()),
        (libc::ETIMEDOUT, "timed out".to_owned()),
        (libc::EADDRNOTAVAIL, text(libc::EADDRNOTAVAIL)),
        (libc::EACCES, text(libc::EACCES)),
        (libc::EMFILE, text(libc::EMFILE)),
    ];
    for (errno, words) in cases {
        let expected = [close(&format!("connect failed: 127.0.0.2:1: {words}"))];
        let mut bench = Bench::new();
        bench.world.script_connects([Outcome::Fails(errno), Outcome::Pending]);
        let at_once = bench.connect(vec![there(1)], config());
        assert_eq!(bench.net().state(at_once), ConnectionState::Closed);
        bench.settle();
        assert_eq!(bench.heard(at_once), expected);
        let later = bench.connect(vec![there(1)], config());
        bench.settle();
        bench.world.settle_connect(bench.world.outbound_peers(1)[0], Err(errno));
        bench.settle();
        assert_eq!(bench.heard(later), expected);
        for call in [Call::Register, Call::ConnectResult] {
            bench.world.script_connects([Outcome::Pending]);
            bench.world.fail_next(call, errno);
            let id = bench.connect(vec![there(1)], config());
            if call == Call::ConnectResult {
                bench.world.settle_connect(*bench.world.outbound_peers(1).last().unwrap(), Ok(()));
            }
            bench.settle();
            assert_eq!(bench.heard(id), expected);
        }
        assert_eq!(bench.world.open_sockets(), 1, "only the listener");
    }
}

#[test]
fn candidates_are_tried_in_turn_and_share_the_time() {
    let mut bench = Bench::new();
    bench.world.script_connects([Outcome::Fails(libc::ENETUNREACH), Outcome::Pending, Outcome::Pending]);
    let id = bench.connect(vec![there(1), there(2), there(3)], config());
    bench.settle();
    assert_eq!(bench.net().peer(id), Some(&there(2)));
    bench.advance(1999);
    assert_eq!(bench.net().peer(id), Some(&there(2)), "two are left and share four seconds");
    bench.advance(1);
    assert_eq!(bench.net().peer(id), Some(&there(3)));
    let peers = bench.world.outbound_peers(1);
    assert_eq!(bench.world.closed(peers[0]), Some(true));
    bench.world.settle_connect(peers[1], Ok(()));
    bench.settle();
    assert_eq!(bench.heard(id), [Heard::Open]);
    bench.advance(60_000);
    assert_eq!(bench.heard(id), [], "the timeout was disarmed");
}

#[test]
fn a_connect_that_hangs_times_out() {
    let mut bench = Bench::new();
    let id = bench.connect(vec![there(1), there(2)], config());
    bench.advance(2000);
    bench.advance(1999);
    assert_eq!(bench.heard(id), []);
    bench.advance(1);
    assert_eq!(bench.heard(id), [close("connect failed: 127.0.0.2:2: no connection within the connect timeout")]);
    assert_eq!(bench.world.open_sockets(), 1);
    let none = bench.connect(vec![], config());
    bench.settle();
    assert_eq!(bench.heard(none), [close("connect failed: no address to connect to")]);
}

#[test]
fn what_is_written_while_connecting_is_bounded() {
    let mut bench = Bench::new();
    let id = bench.connect(vec![there(1)], ConnectionConfig { output_bytes_max: 10, ..config() });
    assert!(bench.net().write(id, b"0123456789"));
    bench.settle();
    assert_eq!(bench.net().state(id), ConnectionState::Connecting);
    assert!(bench.net().write(id, b"!"));
    bench.settle();
    assert_eq!(bench.heard(id), [close("more than 10 bytes of output wait")]);
}

#[test]
fn a_connection_closed_while_connecting_still_says_what_it_had_to() {
    let mut bench = Bench::new();
    let id = bench.connect(vec![there(1)], config());
    bench.net().write(id, b"farewell");
    bench.net().close(id);
    assert!(!bench.net().write(id, b"more"));
    bench.settle();
    let peer = bench.world.outbound_peers(1)[0];
    bench.world.settle_connect(peer, Ok(()));
    bench.settle();
    assert_eq!(bench.heard(id), [Heard::Open, close("closed by the application")]);
    assert_eq!(bench.world.received(peer), b"farewell");
    let aborted = bench.connect(vec![there(1)], config());
    bench.net().abort(aborted);
    bench.settle();
    assert_eq!(bench.heard(aborted), [close("aborted by the application")]);
}

#[test]
fn a_link_comes_back_after_each_loss_until_it_is_closed() {
    let mut bench = Bench::new();
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(800), 42);
    let mut expected = backoff.clone();
    let link = bench.net().link(there(1), config(), backoff, |_| Script);
    for round in 0..6 {
        bench.settle();
        let id = bench.net().link_connection(link).expect("an attempt is under way");
        let peer = *bench.world.outbound_peers(1).last().unwrap();
        if round % 2 == 0 {
            bench.world.settle_connect(peer, Err(libc::ECONNREFUSED));
        } else {
            bench.world.settle_connect(peer, Ok(()));
            bench.settle();
            bench.world.break_off(peer, libc::ECONNRESET);
        }
        bench.settle();
        assert!(matches!(bench.heard(id).last(), Some(Heard::Close(_))));
        assert_eq!(bench.net().link_connection(link), None);
        // It waits exactly as long as the seed has it, and not a nanosecond less.
        let delay = expected.next_delay();
        bench.world.advance(delay - Duration::from_nanos(1));
        bench.settle();
        assert_eq!(bench.net().link_connection(link), None);
        bench.world.advance(Duration::from_nanos(1));
    }
    bench.settle();
    let id = bench.net().link_connection(link).unwrap();
    let peer = *bench.world.outbound_peers(1).last().unwrap();
    bench.world.settle_connect(peer, Ok(()));
    bench.settle();
    bench.net().close_link(link);
    bench.settle();
    assert_eq!(bench.heard(id), [Heard::Open, close("closed by the application")]);
    bench.advance(60_000);
    assert_eq!(bench.net().link_connection(link), None);
    assert_eq!(bench.world.open_sockets(), 1);
}
