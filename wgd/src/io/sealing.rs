//! From the TUN device into the tunnel: what a read brought is cut, sealed where it is sent from, and queued.
//!
//! Invariant: whatever the device left undone is done before anything is sealed: checksums are complete and no packet is
//! longer than the MTU. The hop limit of a tunnel's own datagram is looked at in every datagram, for two may be joined that
//! are not of one kind.
use super::Sides;
use super::pause::Taken;
use super::tun::{Gone, Read};
use crate::limits;
use packet::nesting::{HopLimit, hop_limit};
use packet::split::Split;
use packet::virtio::VirtioHeader;
use std::time::Instant;
use wg_proto::{Device, DropReason};

/// Where packets are read to, and cut to.
pub(super) struct Sealing {
    read: Box<[u8]>,
    cut: Box<[u8]>,
}

impl Sealing {
    pub(super) fn new() -> Self {
        let buffer = || vec![0; limits::READ_BYTES].into_boxed_slice();
        Self { read: buffer(), cut: buffer() }
    }

    /// Takes what waits, but not more than a turn's share.
    pub(super) fn turn(&mut self, device: &mut Device, out: &mut Sides, now: Instant) -> Result<Taken, Gone> {
        let mut bytes = 0;
        let mut taken = Taken { more: true, ..Taken::default() };
        for _ in 0..limits::PACKETS_PER_TURN {
            match out.tun.read(&mut self.read)? {
                Read::Nothing => {
                    taken.more = false;
                    break;
                }
                Read::Malformed => device.count_drop(DropReason::Malformed),
                Read::Packet(header, place) => {
                    bytes += place.len();
                    taken.packets += 1;
                    taken.joined |= header.segments.is_some();
                    let packet = &mut self.read[place];
                    if header.segments.is_some() {
                        many(&header, packet, &mut self.cut, device, out, now);
                    } else if header.checksum.is_none_or(|partial| partial.complete(packet).is_ok()) {
                        one(packet, device, out, now);
                    } else {
                        device.count_drop(DropReason::Malformed);
                    }
                }
            }
            if bytes >= limits::BYTES_PER_TURN {
                break;
            }
        }
        Ok(taken)
    }
}

fn many(
    header: &VirtioHeader,
    packet: &[u8],
    cut: &mut [u8],
    device: &mut Device,
    out: &mut Sides,
    now: Instant,
) {
    let Ok(mut split) = Split::new(header, packet) else {
        return device.count_drop(DropReason::Malformed);
    };
    learn_mtu(split.longest(), device, out);
    if split.is_tcp() {
        return device.handle_tun_split(split, now, out);
    }
    while let Some(length) = split.write_next(cut) {
        one(&mut cut[..length], device, out, now);
    }
}

fn one(packet: &mut [u8], device: &mut Device, out: &mut Sides, now: Instant) {
    learn_mtu(packet.len(), device, out);
    out.tun.fit_outgoing(packet);
    match hop_limit(packet) {
        HopLimit::Fresh => device.handle_tun(packet, now, out),
        HopLimit::Inherited(hops) => {
            out.udp.limit_hops(Some(hops));
            device.handle_tun(packet, now, out);
            out.udp.limit_hops(None);
        }
        HopLimit::Spent => device.count_drop(DropReason::RoutingLoop),
    }
}

/// A packet is never longer than the MTU, so somebody raised it: where the interface was moved to another namespace this is
/// the only way to learn of it.
fn learn_mtu(length: usize, device: &mut Device, out: &mut Sides) {
    if length > usize::from(out.tun.mtu()) {
        let mtu = u16::try_from(length).unwrap_or(u16::MAX);
        out.tun.set_mtu(mtu);
        device.set_mtu(mtu);
    }
}
