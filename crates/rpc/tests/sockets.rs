//! The protocol on real sockets: callbacks, futures, streams, the blocking client; peers that refuse, move, or are silent.

#[path = "common/node.rs"]
mod node;

use std::io::Read;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dstore_rpc::blocking::Client;
use dstore_rpc::service::Caller;
use dstore_rpc::{CallOptions, ClusterId, Code, Execution, Lane, NodeId, Secret, TraceId};
use node::{Blob, Notice, Running, config, echo};

fn blob(text: &'static str) -> Blob {
    Blob { bytes: Bytes::from_static(text.as_bytes()) }
}

#[allow(clippy::disallowed_methods)]
fn after(time: Duration) -> CallOptions {
    CallOptions::deadline(Instant::now() + time)
}

/// A deadline that only a broken run meets.
fn patient() -> CallOptions {
    after(Duration::from_secs(30))
}

fn pair() -> (Running, Running) {
    let (a, b) = (Running::start(config(1)), Running::start(config(2)));
    a.knows(2, b.address);
    (a, b)
}

fn said(notice: &Notice) -> Option<String> {
    match notice {
        Notice::Said(what) => Some(what.clone()),
        _ => None,
    }
}

#[test]
fn a_call_ends_in_a_callback_on_its_loop() {
    let (a, b) = pair();
    a.run(|app, net| {
        let now = net.now();
        app.rpc.call(now, NodeId(2), echo::ECHO, &blob("hello"), patient(), |app, _, result| {
            app.tell(Notice::Said(format!("{:?}", result.map(|reply| reply.bytes))));
        });
        app.rpc.call(now, NodeId(9), echo::ECHO, &blob("hello"), patient(), |app, _, result| {
            app.tell(Notice::Said(result.expect_err("nobody has this id").to_string()));
        });
        assert!(app.rpc.send(now, NodeId(2), echo::NOTE, &blob("first"), TraceId(0)));
        assert!(app.rpc.send(now, NodeId(2), echo::NOTE, &blob("second"), TraceId(0)));
    });
    assert_eq!(a.wait(said), "unavailable: there is no peer n9 (not executed)");
    assert_eq!(a.wait(said), "Ok(b\"hello\")");
    let note = |notice: &Notice| match notice {
        Notice::Note(bytes) => Some(bytes.clone()),
        _ => None,
    };
    assert_eq!((b.wait(note), b.wait(note)), (Bytes::from("first"), Bytes::from("second")));
    a.stop();
    b.stop();
}

#[test]
fn what_is_asked_for_before_the_loop_runs_is_done_when_it_does() {
    let b = Running::start(config(2));
    let address = b.address;
    let a = Running::start_with(config(1), move |app, now| {
        app.rpc.set_peer(now, NodeId(2), address);
        app.rpc.call(now, NodeId(2), echo::ECHO, &blob("early"), patient(), |app, _, result| {
            app.tell(Notice::Said(format!("{:?}", result.map(|reply| reply.bytes))));
        });
    });
    assert_eq!(a.wait(said), "Ok(b\"early\")");
    a.stop();
    b.stop();
}

#[test]
fn futures_read_as_straight_code() {
    let (a, b) = pair();
    a.run(|app, _| {
        let mut client = echo::Client(app.rpc.remote(NodeId(2)));
        let notices = app.notices.clone();
        let story = async move {
            let first = client.echo(&blob("one"), patient()).await.expect("the peer is there");
            let both = (client.echo(&first, patient()), client.echo(&blob("two"), patient()));
            let (second, third) = (both.1.await.expect("still there"), both.0.await.expect("still there"));
            client.0.sleep_until(client.0.now() + Duration::from_millis(1)).await;
            // A call that is dropped is cancelled, also at the server.
            let held = client.hold(&blob("never"), patient());
            client.echo(&blob("meanwhile"), patient()).await.expect("still there");
            drop(held);
            let said = format!("{:?} {:?} {:?}", first.bytes, second.bytes, third.bytes);
            notices.send(Notice::Said(said)).expect("the test listens");
        };
        app.rpc.spawn(story).detach();
    });
    assert_eq!(a.wait(said), "b\"one\" b\"two\" b\"one\"");
    b.wait(|notice| matches!(notice, Notice::Held).then_some(()));
    b.wait(|notice| matches!(notice, Notice::Cancelled).then_some(()));
    assert_eq!(a.ask(|app, _| app.rpc.calls_inflight()), 0);
    a.stop();
    b.stop();
}

#[test]
fn a_task_woken_by_another_thread_goes_on_without_other_events() {
    let a = Running::start(config(1));
    let (ring, rings) = std::sync::mpsc::channel::<std::task::Waker>();
    a.run(move |app, _| {
        let notices = app.notices.clone();
        let mut polls = 0;
        let waits = std::future::poll_fn(move |cx| {
            polls += 1;
            if polls == 2 {
                return std::task::Poll::Ready(());
            }
            ring.send(cx.waker().clone()).expect("the test waits");
            std::task::Poll::Pending
        });
        let story = async move {
            waits.await;
            notices.send(Notice::Said("woken".to_owned())).expect("the test listens");
        };
        app.rpc.spawn(story).detach();
    });
    rings.recv().expect("the task was polled").wake();
    assert_eq!(a.wait(said), "woken");
    a.stop();
}

#[test]
fn a_large_stream_flows_in_windows_while_calls_go_on() {
    const BYTES: usize = 400 << 20;
    let (a, b) = pair();
    a.run(|app, net| {
        let now = net.now();
        let stream = app.rpc.open_stream(now, NodeId(2), echo::COUNT, &blob(""), TraceId(0)).expect("a known peer");
        app.filling.push((stream, BYTES));
        app.fill(now);
        app.rpc.call(now, NodeId(2), echo::ECHO, &blob("x"), patient(), |app, _, result| {
            app.tell(Notice::Said(format!("{}", result.is_ok())));
        });
    });
    assert_eq!(a.wait(said), "true");
    let counted = a.wait(|notice| match notice {
        Notice::Chunk(body) if !body.is_empty() => Some(u64::from_le_bytes(body[..].try_into().expect("a number"))),
        _ => None,
    });
    assert_eq!(counted, BYTES as u64);
    assert!(a.wait(|notice| match notice {
        Notice::StreamOver(well) => Some(*well),
        _ => None,
    }));
    a.stop();
    b.stop();
}

#[test]
fn a_large_call_and_its_large_reply_arrive_whole() {
    let (a, b) = pair();
    let bytes = Bytes::from(vec![3; 8 << 20]);
    let sent = bytes.clone();
    a.run(move |app, net| {
        for _ in 0..3 {
            let request = Blob { bytes: sent.clone() };
            let expected = sent.clone();
            app.rpc.call(net.now(), NodeId(2), echo::ECHO, &request, patient(), move |app, _, result| {
                app.tell(Notice::Said(format!("{}", result.is_ok_and(|reply| reply.bytes == expected))));
            });
        }
    });
    assert_eq!([a.wait(said), a.wait(said), a.wait(said)], ["true", "true", "true"]);
    a.stop();
    b.stop();
}

#[test]
fn requests_beyond_the_bound_are_refused_at_once() {
    let mut bounded = config(2);
    bounded.limits.requests_inflight_max = 3;
    let (a, b) = (Running::start(config(1)), Running::start(bounded));
    a.knows(2, b.address);
    a.run(|app, net| {
        for _ in 0..5 {
            app.rpc.call(net.now(), NodeId(2), echo::HOLD, &blob("x"), patient(), |app, _, result| {
                app.tell(Notice::Said(result.map_or_else(|status| format!("{:?}", status.code), |_| "ok".into())));
            });
        }
    });
    assert_eq!([a.wait(said), a.wait(said)], ["Overloaded", "Overloaded"]);
    b.run(|app, net| {
        for reply in std::mem::take(&mut app.held) {
            app.rpc.answer(net.now(), reply.ok(&blob("released")));
        }
    });
    assert_eq!([a.wait(said), a.wait(said), a.wait(said)], ["ok", "ok", "ok"]);
    a.stop();
    b.stop();
}

#[test]
fn the_calls_to_a_removed_peer_end_and_nothing_of_it_is_left() {
    let (a, b) = pair();
    a.run(|app, net| {
        app.rpc.call(net.now(), NodeId(2), echo::HOLD, &blob("x"), patient(), |app, _, result| {
            app.tell(Notice::Said(result.expect_err("the peer goes").to_string()));
        });
    });
    b.wait(|notice| matches!(notice, Notice::Held).then_some(()));
    a.run(|app, net| app.rpc.remove_peer(net.now(), NodeId(2)));
    assert_eq!(a.wait(said), "unavailable: closed: the peer was removed (may have been executed)");
    b.wait(|notice| matches!(notice, Notice::Cancelled).then_some(()));
    let why = b.wait(|notice| match notice {
        Notice::Down(Some(NodeId(1)), why) => Some(why.clone()),
        _ => None,
    });
    assert_eq!(why, "closed by the peer, shutdown: the peer was removed");
    assert_eq!(b.ask(|app, _| app.rpc.accepted_connections()), 0);
    let (peers, calls, counted) = a.ask(|app, _| {
        let counted = app.rpc.metrics().called.get(echo::HOLD.number).map(|hold| (hold.started, hold.inflight));
        (app.rpc.peers().count(), app.rpc.calls_inflight(), counted)
    });
    assert_eq!((peers, calls, counted), (0, 0, Some((1, 0))));
    a.stop();
    b.stop();
}

#[test]
fn a_new_address_takes_effect_without_restart() {
    let (a, old) = pair();
    let call = |a: &Running| {
        a.run(|app, net| {
            app.rpc.call(net.now(), NodeId(2), echo::ECHO, &blob("x"), patient(), |app, _, result| {
                app.tell(Notice::Said(format!("{}", result.is_ok())));
            });
        });
    };
    call(&a);
    assert_eq!(a.wait(said), "true");
    let new = Running::start(config(2));
    a.knows(2, new.address);
    a.wait(|notice| matches!(notice, Notice::Up(NodeId(2), Lane::Messages)).then_some(()));
    call(&a);
    assert_eq!(a.wait(said), "true");
    let served = |node: &Running| node.ask(|app, _| app.rpc.metrics().served.get(1).map_or(0, |echo| echo.succeeded));
    assert_eq!((served(&old), served(&new)), (1, 1));
    a.stop();
    old.stop();
    new.stop();
}

#[test]
fn strangers_and_other_clusters_hear_a_clear_no_on_both_ends() {
    let server = Running::start(config(2));
    let down = |server: &Running| {
        server.wait(|notice| match notice {
            Notice::Down(_, why) => Some(why.clone()),
            _ => None,
        })
    };
    let mut stranger = config(1);
    stranger.secret = Secret::new(b"some other secret of theirs").expect("long enough");
    let mut foreigner = config(1);
    foreigner.identity.cluster = ClusterId(43);
    let cases = [
        (stranger, None, "the peer does not know the cluster secret"),
        (foreigner, None, "belongs to cluster"),
        (config(2), None, "the peer is node n2, as we are"),
        (config(1), Some(NodeId(3)), "the peer is node n2, not n3"),
    ];
    for (config, expected, why) in cases {
        let mut client = Client::new(server.address, config, expected, [1; 32]);
        let status = client.call(echo::ECHO, &blob("x"), patient()).expect_err("the peer refuses").to_string();
        assert!(status.contains(why), "the client heard {status:?}, not {why:?}");
        assert!(client.refused().is_some_and(|reason| reason.to_string().contains(why)), "{:?}", client.refused());
        let heard = down(&server);
        assert!(heard.contains(why), "the server heard {heard:?}, not {why:?}");
    }
    server.stop();
}

#[test]
fn the_blocking_client_waits_for_replies_and_deadlines_and_comes_back_after_a_rest() {
    let mut impatient = config(2);
    impatient.timeouts.heartbeat_interval = Duration::from_millis(20);
    impatient.timeouts.heartbeat_timeout = Duration::from_millis(20);
    let server = Running::start(impatient);
    let mut own = config(1);
    own.timeouts.heartbeat_interval = Duration::from_millis(20);
    let mut client = echo::Client(Client::new(server.address, own, Some(NodeId(2)), [1; 32]));
    assert_eq!(client.echo(&blob("hello"), patient()).expect("it is there").bytes, "hello");
    let late = client.hold(&blob("x"), after(Duration::from_millis(30))).expect_err("nobody answers");
    assert_eq!((late.code, late.execution), (Code::DeadlineExceeded, Execution::MayHaveExecuted));
    // While the client rests, the server misses its heartbeat and gives it up.
    server.wait(|notice| matches!(notice, Notice::Down(Some(NodeId(1)), _)).then_some(()));
    // A turn later the server's last words are on their way.
    server.ask(|_, _| ());
    assert_eq!(client.echo(&blob("again"), patient()).expect("it connects anew").bytes, "again");
    server.stop();
}

#[test]
#[allow(clippy::disallowed_types)]
fn one_that_accepts_and_says_nothing_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut quick = config(1);
    quick.timeouts.handshake = Duration::from_millis(50);
    let a = Running::start(quick);
    a.knows(2, listener.local_addr().expect("it is bound"));
    a.run(|app, net| {
        app.rpc.call(net.now(), NodeId(2), echo::ECHO, &blob("x"), patient(), |app, _, result| {
            app.tell(Notice::Said(result.expect_err("nobody answers").to_string()));
        });
    });
    assert_eq!(a.wait(said), "unavailable: no handshake within 50ms (not executed)");
    let (mut silent, _) = listener.accept().expect("it connected");
    let mut heard = Vec::new();
    silent.read_to_end(&mut heard).expect("and closed");
    assert!(heard.len() > 40, "a hello and a reason");
    a.stop();
}

#[test]
#[allow(clippy::disallowed_types)]
fn a_stranger_that_sends_nonsense_learns_only_that_it_is_unwelcome() {
    use std::io::Write;
    let server = Running::start(config(2));
    let mut stranger = std::net::TcpStream::connect(server.address).expect("it listens");
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: whatever-this-is.example\r\n\r\n").expect("it takes bytes");
    let mut heard = Vec::new();
    stranger.read_to_end(&mut heard).expect("the server closes");
    let reason = String::from_utf8_lossy(&heard);
    assert!(reason.contains("unknown frame version"), "{reason}");
    server.stop();
}
