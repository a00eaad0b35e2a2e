//! Where a peer was last heard, and through which of our own addresses.

use std::net::{IpAddr, SocketAddr};

/// A peer's outer address, and the address of ours it reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The other side.
    pub remote: SocketAddr,
    /// Our side, so that an answer leaves from the address that was spoken to (sticky source).
    /// `None` lets the kernel choose.
    pub local: Option<LocalAddress>,
}

/// What `IP_PKTINFO` or `IPV6_PKTINFO` said about a datagram's arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalAddress {
    /// The address the datagram was sent to.
    pub ip: IpAddr,
    /// The interface it came in by.
    pub interface_index: u32,
}

impl Endpoint {
    /// An address given by configuration: nothing is known about our side yet.
    pub fn to(remote: SocketAddr) -> Endpoint {
        Endpoint { remote, local: None }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(remote: SocketAddr) -> Endpoint {
        Endpoint::to(remote)
    }
}
