//! Where a peer is, and what went to and fro, in wire bytes.
//!
//! **Invariant:** `tx_*` counts every datagram that was handed out, `rx_*` every one that
//! authenticated: handshakes (148, 92, 64), keepalives (32) and data (16 + padded + 16).

use std::net::SocketAddr;

use crate::{Endpoint, Output};

#[derive(Clone, Debug, Default)]
pub(super) struct Wire {
    pub(super) endpoint: Option<Endpoint>,
    pub(super) endpoint_changes: u64,
    pub(super) tx_bytes: u64,
    pub(super) rx_bytes: u64,
    pub(super) tx_packets: u64,
    pub(super) rx_packets: u64,
}

impl Wire {
    /// Hands out a datagram for the peer's endpoint; without one there is nowhere to send to.
    pub(super) fn transmit(&mut self, datagram: &[u8], out: &mut impl Output) {
        if let Some(endpoint) = self.endpoint {
            self.transmit_to(endpoint, datagram, out);
        }
    }

    pub(super) fn transmit_to(&mut self, to: Endpoint, datagram: &[u8], out: &mut impl Output) {
        self.tx_bytes += datagram.len() as u64;
        self.tx_packets += 1;
        out.transmit(to, datagram);
    }

    /// Hands out a datagram that `seal` writes where it leaves from. `false` if it wrote none.
    #[inline]
    pub(super) fn transmit_sealed(
        &mut self,
        bytes: usize,
        out: &mut impl Output,
        seal: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> bool {
        // Without an endpoint there is nowhere to send to, and no number to spend.
        let Some(endpoint) = self.endpoint else { return true };
        let Some(length) = out.transmit_sealed(endpoint, bytes, seal) else { return false };
        self.tx_bytes += length as u64;
        self.tx_packets += 1;
        true
    }

    /// Counts an authenticated datagram. With `from`, the endpoint follows it; gives the addresses
    /// if the peer moved from one to another.
    #[inline]
    pub(super) fn received(
        &mut self,
        bytes: usize,
        from: Option<Endpoint>,
    ) -> Option<(SocketAddr, SocketAddr)> {
        self.rx_bytes += bytes as u64;
        self.rx_packets += 1;
        let from = from?;
        let before = self.endpoint.replace(from)?;
        if before.remote == from.remote {
            return None;
        }
        self.endpoint_changes += 1;
        Some((before.remote, from.remote))
    }

    /// Lets the kernel choose our address for the next datagram.
    pub(super) fn forget_local_address(&mut self) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.local = None;
        }
    }
}
