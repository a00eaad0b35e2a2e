//! Packets that came out of the tunnel, on their way into the TUN device.
//!
//! Invariant: a packet is opened where it is written from. What waits is written at the end of each batch at the latest, so
//! no packet waits for another that may not come.
use super::tun::TunSide;
use crate::limits;
use packet::coalesce::{Coalescer, Joins};

/// Where packets are opened, and which of them go together.
pub(super) struct Opened {
    memory: Box<[u8]>,
    used: usize,
    coalescer: Coalescer,
}

impl Opened {
    /// Joins what the device takes in one piece.
    pub(super) fn for_device(tun: &TunSide) -> Self {
        let joins = match tun.offloads() {
            Some(offloads) => Joins { tcp: true, udp: offloads.udp },
            None => Joins::default(),
        };
        let memory = vec![0; limits::OPENED_BYTES].into_boxed_slice();
        Self { memory, used: 0, coalescer: Coalescer::new(joins) }
    }

    /// Space for a datagram of so many bytes; what waits is written first if there is not enough.
    #[inline]
    pub(super) fn space(&mut self, bytes: usize, tun: &mut TunSide) -> &mut [u8] {
        if self.used + bytes > self.memory.len() {
            self.write(tun);
        }
        &mut self.memory[self.used..self.used + bytes]
    }

    /// Keeps the packet at the beginning of the space that was given last.
    #[inline]
    pub(super) fn keep(&mut self, bytes: usize, tun: &TunSide) {
        let place = self.used..self.used + bytes;
        tun.fit_incoming(&mut self.memory[place.clone()]);
        self.coalescer.push(&self.memory, place.clone());
        self.used = place.end.next_multiple_of(limits::OPENED_ALIGNMENT).min(self.memory.len());
    }

    /// Writes what waits.
    pub(super) fn write(&mut self, tun: &mut TunSide) {
        if !self.coalescer.is_empty() {
            self.coalescer
                .finish(&mut self.memory, |header, pieces, memory| tun.write(&header, pieces, memory));
        }
        self.used = 0;
    }
}
