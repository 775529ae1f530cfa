//! TCP ports that are free and stay free while no one listens on them, for servers that must be told theirs.
//!
//! A port that the kernel picks for a listener (`bind` to 0) comes from the range from which it also picks the ports of
//! outgoing connections. While a killed server is down, another process, or a peer that tries to reach it, may be given
//! its port; a connection attempt can even meet itself. So these come from below that range.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Where the search begins and ends. Linux gives outgoing connections ports from 32768 up unless told otherwise.
const FIRST: u16 = 14_000;
const COUNT: u16 = 16_000;

/// Ports that nobody listens on, and that no other caller in this process was given. Another process on the machine that
/// searches at the same moment begins elsewhere.
///
/// # Panics
///
/// When there are no more.
pub fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % u32::from(COUNT / 97)).expect("small") * 97;
    let mut ports = Vec::new();
    while ports.len() < count {
        let tried = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(tried < COUNT, "no free port below the range of outgoing connections");
        let port = FIRST + (offset + tried) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_nor_one_in_use() {
        // Another process may take a port in the moment before this one does.
        let hold = |port| TcpListener::bind(("127.0.0.1", port)).ok().map(|holder| (port, holder));
        let (first, holder) = std::iter::repeat_with(|| free_ports(1)[0]).find_map(hold).unwrap();
        let mut more = free_ports(20);
        more.push(first);
        more.sort_unstable();
        more.dedup();
        assert_eq!(more.len(), 21);
        drop(holder);
    }
}
