//! Ports for what may be down for a while: below those that Linux takes for connections, so that none of these takes the port
//! of a node or a relay before it is started again.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// The first of `net.ipv4.ip_local_port_range` is 32,768.
const PORTS: std::ops::Range<u32> = 12_000..32_000;
/// Processes begin so far from each other.
const STRIDE: u32 = 211;

/// Where nothing listens, on the loopback interface.
///
/// # Panics
/// When something listens on every port.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(STRIDE);
    let mut tried = PORTS.map(|_| {
        let turn = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + turn % (PORTS.end - PORTS.start);
        SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16))
    });
    let free = tried.find(|address| TcpListener::bind(address).is_ok());
    free.expect("a port is free")
}

/// The port of such an address.
pub fn free_port() -> u16 {
    free_address().port()
}
