//! Looks at every frame that enters the WAN, and says whether it was WireGuard.
//!
//! Invariant: a verdict covers all frames or says that it does not: the kernel counts the frames it could not hand
//! over, and one of those makes the verdict void.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use linux::packet_socket::{Frame, PacketSocket};
use memchr::memmem;

use crate::host::Host;

/// The one UDP port that may be seen.
pub const WIREGUARD_PORT: u16 = 51820;

/// Room for frames that come while we look at another. What root asks for is granted; others get the system's limit.
const BUFFER_BYTES: usize = 128 << 20;

/// A data message with a packet as long as the labs' tunnels take.
const FULL_DATA_MESSAGE: usize = 32 + crate::tunnel::MTU;

/// How often a silent capture looks whether it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Offences kept with their bytes.
const KEPT_OFFENCES: usize = 5;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    watcher: JoinHandle<Result<Verdict>>,
}

impl Capture {
    /// Sees every frame that enters `host`'s outer network from now on, each once.
    pub(crate) fn start(host: &Host, marker: &[u8]) -> Result<Capture> {
        let socket = host.outer().within(|| PacketSocket::open_incoming().context("open a packet socket"))?;
        let granted = socket.grow_buffer(BUFFER_BYTES).context("grow the capture's buffer")?;
        let stop = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&stop);
        let marker = marker.to_owned();
        let watcher = thread::spawn(move || {
            let mut verdict = Verdict { buffer_bytes: granted, ..Verdict::default() };
            let finder = memmem::Finder::new(&marker);
            let mut buffer = vec![0; 128 * 1024];
            loop {
                // Read before the last drain, so that nothing sent before `finish` is missed.
                let last = watched.load(Ordering::Acquire);
                while let Some(frame) = socket.receive(&mut buffer).context("receive a frame")? {
                    verdict.look(&buffer, &frame, &finder);
                }
                if last {
                    break;
                }
                socket.wait(LOOK_EVERY).context("wait for a frame")?;
            }
            verdict.dropped_by_kernel = socket.statistics().context("ask for drops")?.dropped;
            Ok(verdict)
        });
        Ok(Capture { stop, watcher })
    }

    /// Ends the capture.
    pub fn finish(self) -> Result<Verdict> {
        self.stop.store(true, Ordering::Release);
        self.watcher.join().map_err(|_| anyhow!("the capture panicked"))?
    }
}

/// What a capture saw.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// WireGuard messages by type: initiation, response, cookie reply, data.
    pub messages: [u64; 4],
    /// Bytes of WireGuard messages.
    pub message_bytes: u64,
    /// ARP and neighbour discovery.
    pub neighbour_frames: u64,
    /// Frames in which the marker stood in clear.
    pub frames_with_marker: u64,
    /// Frames that were something else.
    pub other_frames: u64,
    /// Why, for the first few of them.
    pub offences: Vec<String>,
    /// Frames that the kernel could not hand over.
    pub dropped_by_kernel: u64,
    /// Size of the receive buffer.
    pub buffer_bytes: usize,
}

impl Verdict {
    /// WireGuard messages of all types.
    pub fn message_count(&self) -> u64 {
        self.messages.iter().sum()
    }

    /// Fails unless every frame was seen, all were WireGuard and none held the marker.
    pub fn only_wireguard(&self) -> Result<()> {
        ensure!(
            self.other_frames == 0,
            "not only WireGuard on the WAN: {self}\n{}",
            self.offences.join("\n")
        );
        ensure!(self.frames_with_marker == 0, "plaintext on the WAN: {self}\n{}", self.offences.join("\n"));
        ensure!(self.message_count() > 0, "the capture saw no WireGuard message at all: {self}");
        ensure!(self.dropped_by_kernel == 0, "the capture missed frames, so it proves nothing: {self}");
        Ok(())
    }

    fn look(&mut self, buffer: &[u8], frame: &Frame, marker: &memmem::Finder<'_>) {
        let bytes = &buffer[..frame.captured];
        if marker.find(bytes).is_some() {
            self.frames_with_marker += 1;
            self.offend("holds the marker", bytes);
        }
        if frame.captured < frame.length {
            self.other_frames += 1;
            self.offend("longer than the capture's buffer", bytes);
            return;
        }
        match classify(bytes) {
            Ok(Kind::Neighbour) => self.neighbour_frames += 1,
            Ok(Kind::Udp(payload)) => self.look_at_udp(bytes, &bytes[payload], frame.segment_bytes),
            Err(why) => {
                self.other_frames += 1;
                self.offend(why, bytes);
            }
        }
    }

    /// One datagram, or a train of equal ones that the sender left to the network card to cut (`UDP_SEGMENT`).
    fn look_at_udp(&mut self, frame: &[u8], payload: &[u8], segment_bytes: Option<u16>) {
        let step = segment_bytes.map_or(payload.len(), usize::from).max(1);
        for message in payload.chunks(step) {
            match message_type(message) {
                Ok(kind) => {
                    self.messages[kind] += 1;
                    self.message_bytes += message.len() as u64;
                }
                Err(why) => {
                    self.other_frames += 1;
                    self.offend(why, frame);
                }
            }
        }
    }

    fn offend(&mut self, why: &str, bytes: &[u8]) {
        if self.offences.len() < KEPT_OFFENCES {
            let head: String = bytes.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
            self.offences.push(format!("{why} ({} bytes): {head}", bytes.len()));
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [initiations, responses, cookies, data] = self.messages;
        write!(
            f,
            "{data} data, {initiations} initiation, {responses} response, {cookies} cookie messages ({} bytes), \
             {} neighbour frames, {} others, {} with the marker, {} not seen (buffer {} MiB)",
            self.message_bytes,
            self.neighbour_frames,
            self.other_frames,
            self.frames_with_marker,
            self.dropped_by_kernel,
            self.buffer_bytes >> 20
        )
    }
}

enum Kind {
    Neighbour,
    Udp(Range<usize>),
}

/// Takes an Ethernet frame apart as far as the UDP payload.
fn classify(frame: &[u8]) -> Result<Kind, &'static str> {
    const ETHERNET: usize = 14;
    let kind = frame.get(12..ETHERNET).ok_or("shorter than an Ethernet header")?;
    let (protocol, transport, end) = match kind {
        [0x08, 0x06] => return Ok(Kind::Neighbour),
        [0x08, 0x00] => {
            let header = frame.get(ETHERNET..ETHERNET + 20).ok_or("shorter than an IPv4 header")?;
            let fragment = u16::from_be_bytes([header[6], header[7]]);
            if fragment & 0x3fff != 0 {
                return Err("an IPv4 fragment");
            }
            let end = ETHERNET + usize::from(u16::from_be_bytes([header[2], header[3]]));
            (header[9], ETHERNET + usize::from(header[0] & 15) * 4, end)
        }
        [0x86, 0xdd] => {
            let header = frame.get(ETHERNET..ETHERNET + 40).ok_or("shorter than an IPv6 header")?;
            let end = ETHERNET + 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
            (header[6], ETHERNET + 40, end)
        }
        _ => return Err("neither ARP nor IP"),
    };
    // ICMPv6: router and neighbour discovery only (RFC 4861).
    if protocol == 58 && frame.get(transport).is_some_and(|kind| (133..=137).contains(kind)) {
        return Ok(Kind::Neighbour);
    }
    if protocol != 17 {
        return Err("IP, but not UDP");
    }
    let header = frame.get(transport..transport + 8).ok_or("shorter than a UDP header")?;
    let ports = [u16::from_be_bytes([header[0], header[1]]), u16::from_be_bytes([header[2], header[3]])];
    if !ports.contains(&WIREGUARD_PORT) {
        return Err("UDP on another port");
    }
    if end > frame.len() || end < transport + 8 {
        return Err("an IP length that does not fit the frame");
    }
    Ok(Kind::Udp(transport + 8..end))
}

/// Index of the message's type, if its form is right (WireGuard's paper, 5.4).
fn message_type(message: &[u8]) -> Result<usize, &'static str> {
    let Some(&[kind, 0, 0, 0]) = message.get(..4) else { return Err("UDP, but no WireGuard header") };
    match (kind, message.len()) {
        (1, 148) => Ok(0),
        (2, 92) => Ok(1),
        (3, 64) => Ok(2),
        (4, length) if length >= 32 && length.is_multiple_of(16) => Ok(3),
        // Padding never goes above the tunnel's MTU, which is no multiple of 16.
        (4, FULL_DATA_MESSAGE) => Ok(3),
        (1..=4, _) => Err("a WireGuard type with a wrong length"),
        _ => Err("UDP, but no WireGuard type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp_frame(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(u16::try_from(28 + payload.len()).unwrap().to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1]);
        frame.extend(port.to_be_bytes());
        frame.extend(port.to_be_bytes());
        frame.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }

    fn look(frame: &[u8], segment_bytes: Option<u16>) -> Verdict {
        let mut verdict = Verdict::default();
        let seen = Frame { captured: frame.len(), length: frame.len(), segment_bytes };
        verdict.look(frame, &seen, &memmem::Finder::new(b"marker"));
        verdict
    }

    fn data(length: usize) -> Vec<u8> {
        let mut message = vec![0; length];
        message[0] = 4;
        message
    }

    #[test]
    fn wireguard_passes() {
        look(&udp_frame(51820, &data(96)), None).only_wireguard().unwrap();
    }

    #[test]
    fn a_train_is_cut_into_its_datagrams() {
        let mut train = data(96);
        train.extend(data(96));
        train.extend(data(32));
        assert_eq!(look(&udp_frame(51820, &train), Some(96)).messages, [0, 0, 0, 3]);
    }

    #[test]
    fn everything_else_is_an_offence() {
        for (frame, why) in [
            (udp_frame(53, &data(96)), "another port"),
            (udp_frame(51820, &data(97)), "wrong length"),
            (udp_frame(51820, b"\x04\x01\x00\x00"), "no WireGuard header"),
            (udp_frame(51820, &[9, 0, 0, 0]), "no WireGuard type"),
            (vec![0; 60], "neither ARP nor IP"),
        ] {
            let verdict = look(&frame, None);
            let error = verdict.only_wireguard().unwrap_err();
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
    }

    #[test]
    fn the_marker_is_found_inside_of_a_valid_message() {
        let mut message = data(96);
        message[40..46].copy_from_slice(b"marker");
        assert!(look(&udp_frame(51820, &message), None).only_wireguard().is_err());
    }

    #[test]
    fn a_capture_that_missed_frames_proves_nothing() {
        let mut verdict = look(&udp_frame(51820, &data(96)), None);
        verdict.dropped_by_kernel = 1;
        assert!(verdict.only_wireguard().is_err());
    }
}
