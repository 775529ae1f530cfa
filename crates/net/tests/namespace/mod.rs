//! Networks that are broken on purpose, in a network namespace of their own.
//!
//! Each test starts this test program once more inside a fresh namespace, after a shell has set the network up, to run one
//! of the `inside_*` tests (which are ignored otherwise).

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use dstore_net::*;

use crate::{Client, LONG, Raw, client_loop, fate_of_connect};

/// The ways to a namespace: as root, or as a user who becomes root in a namespace of users.
const WAYS: [&str; 2] = ["-n", "-rn"];

/// Runs test `inside` in a network namespace that `setup` (shell) has prepared. Where that is not permitted: says so.
fn in_namespace(setup: &str, inside: &str) {
    let permitted = |way: &&&str| {
        let output =
            Command::new("unshare").args([**way, "sh", "-ec", &format!("ip link set lo up; {setup}")]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let Some(way) = WAYS.iter().find(permitted) else {
        println!("skipped: no network namespace with this set-up is permitted here ({setup:?})");
        return;
    };
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args([*way, "sh", "-ec", &format!("ip link set lo up; {setup}; exec \"$0\" \"$@\"")])
        .arg(program)
        .args(["--exact", "--ignored", "--nocapture", &format!("namespace::{inside}")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "inside the namespace:\n{text}\n{errors}");
}

#[test]
fn an_unreachable_network_is_reported_as_such() {
    in_namespace("true", "inside_no_route");
}

#[test]
#[ignore = "runs inside a namespace"]
fn inside_no_route() {
    let nowhere: SocketAddr = "203.0.113.7:80".parse().unwrap();
    let error = fate_of_connect(nowhere, LONG);
    assert!(matches!(error, ConnectError::NetworkUnreachable(_)), "{error}");
}

#[test]
fn an_unreachable_host_is_reported_as_such() {
    in_namespace("ip route add unreachable 203.0.113.0/24 metric 1", "inside_no_host");
}

#[test]
#[ignore = "runs inside a namespace"]
fn inside_no_host() {
    let nobody: SocketAddr = "203.0.113.7:80".parse().unwrap();
    let error = fate_of_connect(nobody, LONG);
    assert!(matches!(error, ConnectError::HostUnreachable(_)), "{error}");
}

/// The first SYN of a connect to port 7 never arrives, nor any after it.
const DROP: &str = "nft add table inet t; nft add chain inet t i '{ type filter hook input priority 0; }'; \
                    nft add rule inet t i tcp dport 7 drop";

#[test]
fn a_swallowed_syn_ends_with_our_own_timeout_and_the_next_address_has_its_turn() {
    in_namespace(DROP, "inside_dropped_syn");
}

#[test]
#[ignore = "runs inside a namespace"]
fn inside_dropped_syn() {
    let black_hole: SocketAddr = "127.0.0.1:7".parse().unwrap();
    let error = fate_of_connect(black_hole, Duration::from_millis(200));
    assert!(matches!(error, ConnectError::Deadline(_)), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let alive = listener.local_addr().unwrap();
    let mut event_loop = client_loop(1);
    let config = ConnectionConfig { connect_timeout: Duration::from_secs(2), ..ConnectionConfig::default() };
    event_loop.net().connect(vec![Address::from(black_hole), Address::from(alive)], config, Raw);
    let server = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let client: Client = event_loop.run().unwrap();
    server.join().unwrap();
    assert_eq!(client.opened, 1, "the address that answers was reached after the one that does not");
}

#[test]
fn the_kernels_own_timeout_is_told_from_ours() {
    in_namespace(&format!("{DROP}; echo 1 > /proc/sys/net/ipv4/tcp_syn_retries"), "inside_kernel_timeout");
}

#[test]
#[ignore = "runs inside a namespace"]
fn inside_kernel_timeout() {
    let black_hole: SocketAddr = "127.0.0.1:7".parse().unwrap();
    let error = fate_of_connect(black_hole, LONG);
    assert!(matches!(error, ConnectError::TimedOut(_)), "{error}");
}
