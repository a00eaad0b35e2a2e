//! What a client's HTTP/2 frames cost beside what they carry.
//!
//! A frame that carries nothing still costs work: a PING wants an answer, so does SETTINGS; a RST_STREAM undoes
//! what was begun. **Invariant:** each of them takes from a purse that refills with time, and each window update
//! from one that refills with the bytes that were sent; an empty purse ends the connection. Frames are looked at
//! as they pass, nine bytes each, and none is kept.

use std::time::{Duration, Instant};

use crate::limits::{H2_CONTROL_BURST, H2_CONTROL_PER_SECOND, H2_UPDATE_BYTES};

/// RFC 9113 §3.4: 24 bytes before the first frame.
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const WINDOW_UPDATE: u8 = 0x8;
const END_STREAM: u8 = 0x1;

/// The client sends frames that carry nothing, faster than anyone needs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a flood of frames that carry nothing")]
pub struct Flood;

/// One connection's frames, from its first byte on.
#[derive(Debug)]
pub struct FrameWatch {
    /// Bytes until the next head: the preface's, or a payload's.
    skip: usize,
    head: [u8; HEAD_BYTES],
    have: usize,
    control: u32,
    /// Up to when `control` was refilled.
    refilled: Instant,
    updates: u64,
    sent: u64,
}

impl FrameWatch {
    /// A connection that begins now.
    pub fn new(now: Instant) -> FrameWatch {
        FrameWatch {
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            have: 0,
            control: H2_CONTROL_BURST,
            refilled: now,
            updates: u64::from(H2_CONTROL_BURST),
            sent: 0,
        }
    }

    /// So many bytes went to the client, which it will give back as windows.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        self.updates = self.updates.saturating_add(self.sent / H2_UPDATE_BYTES);
        self.sent %= H2_UPDATE_BYTES;
    }

    /// These bytes came from the client.
    pub fn came(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD_BYTES {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.skip = length;
                self.charge(kind, flags, length, now)?;
            }
        }
        Ok(())
    }

    fn charge(&mut self, kind: u8, flags: u8, length: usize, now: Instant) -> Result<(), Flood> {
        match kind {
            // How many requests may come is decided elsewhere; a body's bytes are their own worth.
            HEADERS => Ok(()),
            DATA if length > 0 || flags & END_STREAM != 0 => Ok(()),
            WINDOW_UPDATE => {
                self.updates = self.updates.checked_sub(1).ok_or(Flood)?;
                Ok(())
            }
            _ => {
                self.refill(now);
                self.control = self.control.checked_sub(1).ok_or(Flood)?;
                Ok(())
            }
        }
    }

    fn refill(&mut self, now: Instant) {
        let step = Duration::from_secs(1) / H2_CONTROL_PER_SECOND;
        let steps = now.saturating_duration_since(self.refilled).as_micros() / step.as_micros();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        // Of a longer time a burst is all that is left.
        self.refilled = if steps < H2_CONTROL_BURST { self.refilled + step * steps } else { now };
        self.control = self.control.saturating_add(steps).min(H2_CONTROL_BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const UPDATE: [u8; 13] = [0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    fn watch(now: Instant) -> FrameWatch {
        let mut watch = FrameWatch::new(now);
        watch.came(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now).unwrap();
        watch
    }

    fn many(watch: &mut FrameWatch, frame: &[u8], now: Instant) -> usize {
        (0..1_000_000).take_while(|_| watch.came(frame, now).is_ok()).count()
    }

    #[test]
    fn pings_end_a_connection_after_the_burst_and_time_gives_some_back() {
        let now = daemon::Clock.now();
        let mut watch = watch(now);
        assert_eq!(many(&mut watch, &PING, now), 256);
        let mut later = self::watch(now);
        assert_eq!(many(&mut later, &PING[..], now + Duration::from_secs(3600)), 256, "no more than a burst");
        let mut steady = self::watch(now);
        for second in 0..100 {
            for _ in 0..H2_CONTROL_PER_SECOND {
                steady.came(&PING, now + Duration::from_secs(second)).unwrap();
            }
        }
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let now = daemon::Clock.now();
        let (mut whole, mut cut) = (FrameWatch::new(now), FrameWatch::new(now));
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        (0..256).for_each(|_| bytes.extend_from_slice(&PING));
        // 300 bytes that look like pings, within a body.
        bytes.extend_from_slice(&[0, 1, 44, DATA, 0, 0, 0, 0, 1]);
        bytes.extend_from_slice(&PING.repeat(18)[..300]);
        assert_eq!(whole.came(&bytes, now), Ok(()));
        assert!(bytes.chunks(7).all(|part| cut.came(part, now).is_ok()));
        assert_eq!(whole.came(&PING, now), Err(Flood));
        assert_eq!(cut.came(&PING, now), Err(Flood));
    }

    #[test]
    fn window_updates_are_paid_for_by_what_was_sent() {
        let now = daemon::Clock.now();
        let mut watch = watch(now);
        for _ in 0..10_000 {
            watch.sent(16 * 1024);
            watch.came(&UPDATE.repeat(2), now).unwrap();
        }
        let mut idle = self::watch(now);
        assert_eq!(many(&mut idle, &UPDATE, now), 256);
    }

    #[test]
    fn an_empty_body_frame_costs_unless_it_ends_the_body() {
        let now = daemon::Clock.now();
        let mut watch = watch(now);
        assert_eq!(many(&mut watch, &[0, 0, 0, DATA, 0, 0, 0, 0, 1], now), 256);
        assert_eq!(watch.came(&[0, 0, 0, DATA, END_STREAM, 0, 0, 0, 1], now), Ok(()));
    }
}
