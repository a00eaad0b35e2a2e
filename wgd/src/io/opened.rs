//! Packets that came out of the tunnel, on their way into the TUN device.
//!
//! Invariant: a packet is opened where it was received, and written from there. What waits is written at the end of each batch
//! at the latest, so no packet waits for another that may not come.
use super::tun::TunSide;
use crate::limits;
use packet::coalesce::{Coalescer, Joins};
use std::ops::Range;

/// What waits to be written, and what of it goes together.
pub(super) struct Opened {
    bytes: usize,
    coalescer: Coalescer,
}

impl Opened {
    /// Joins what the device takes in one piece.
    pub(super) fn for_device(tun: &TunSide) -> Self {
        let joins = match tun.offloads() {
            Some(offloads) => Joins { tcp: true, udp: offloads.udp },
            None => Joins::default(),
        };
        Self { bytes: 0, coalescer: Coalescer::new(joins) }
    }

    /// Keeps the packet at this place of the batch's memory; writes when enough waits.
    #[inline]
    pub(super) fn keep(&mut self, place: Range<usize>, memory: &mut [u8], tun: &mut TunSide) {
        tun.fit_incoming(&mut memory[place.clone()]);
        self.bytes += place.len();
        self.coalescer.push(memory, place);
        if self.bytes >= limits::OPENED_BYTES {
            self.write(memory, tun);
        }
    }

    /// Writes what waits.
    pub(super) fn write(&mut self, memory: &mut [u8], tun: &mut TunSide) {
        if !self.coalescer.is_empty() {
            self.coalescer.finish(memory, |header, pieces, memory| tun.write(&header, pieces, memory));
        }
        self.bytes = 0;
    }
}
