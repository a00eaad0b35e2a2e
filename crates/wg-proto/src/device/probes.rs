//! Questions that the device asks a peer's host inside the tunnel: how long an answer takes, and how large a packet
//! comes through.
//!
//! **Invariant:** they leave from an address of ours to one that is the peer's alone, and their answers never reach the TUN.

use std::net::IpAddr;
use std::time::Instant;

use packet::echo::Addresses;

use super::{Device, PeerId, Slot};
use crate::{Output, Probed, Probes, PublicKey};

impl Device {
    /// Measures the round trip to one peer, in the tunnel. If there are no keys a handshake begins: ask again then.
    /// `None`: there is no such peer.
    pub fn probe(&mut self, peer: &PublicKey, now: Instant, out: &mut impl Output) -> Option<Probed> {
        let id = *self.by_key.get(peer)?;
        let probed = self.probe_peer(id, now, out);
        if probed == Probed::NoSession {
            self.with_peer(id, now, out, |peer, cx| peer.initiate(cx));
        }
        Some(probed)
    }

    /// Measures the round trip to each peer that there are keys with; wakes none of the others.
    pub fn probe_all(&mut self, now: Instant, out: &mut impl Output) -> Vec<(PublicKey, Probed)> {
        let key_of = |slot: &Option<Slot>| slot.as_ref().map(|(_, peer)| peer.public_key());
        let peers: Vec<_> =
            self.peers.iter().enumerate().filter_map(|(id, slot)| Some((id, key_of(slot)?))).collect();
        peers.into_iter().map(|(id, key)| (key, self.probe_peer(id, now, out))).collect()
    }

    /// Asks the peer for an echo of `bytes`, to see whether a packet of that length comes through.
    pub fn probe_path(
        &mut self,
        peer: &PublicKey,
        bytes: u16,
        now: Instant,
        out: &mut impl Output,
    ) -> Option<Probed> {
        let id = *self.by_key.get(peer)?;
        let identifier = self.probe_identifier;
        let Some(addresses) = self.addresses_towards(id) else { return Some(Probed::NoAddress) };
        Some(self.with_peer(id, now, out, |peer, cx| peer.probe_path(addresses, identifier, bytes, cx)))
    }

    /// What has become of the questions of [`Device::probe_path`].
    pub fn path_probes(&self, now: Instant) -> impl Iterator<Item = (PublicKey, Probes)> {
        self.peers.iter().flatten().map(move |(_, peer)| (peer.public_key(), peer.path_probes(now)))
    }

    /// What the probes of each peer have shown.
    pub fn probes(&self, now: Instant) -> impl Iterator<Item = (PublicKey, Probes)> {
        self.peers.iter().flatten().map(move |(_, peer)| (peer.public_key(), peer.probes(now)))
    }

    fn probe_peer(&mut self, id: PeerId, now: Instant, out: &mut impl Output) -> Probed {
        let identifier = self.probe_identifier;
        match self.addresses_towards(id) {
            Some(addresses) => self.with_peer(id, now, out, |peer, cx| peer.probe(addresses, identifier, cx)),
            None => Probed::NoAddress,
        }
    }

    /// From one of our addresses to the peer's first host address of the same family: the ends of what this device
    /// itself has to say to the peer's.
    fn addresses_towards(&self, id: PeerId) -> Option<Addresses> {
        let hosts = self.allowed_ips.of_peer(id).filter(|ip| ip.prefix_len() == ip.max_prefix_len());
        let from_ours = |host: IpAddr| self.addresses.iter().find_map(|own| Addresses::between(*own, host));
        hosts.into_iter().find_map(|host| from_ours(host.addr()))
    }
}
