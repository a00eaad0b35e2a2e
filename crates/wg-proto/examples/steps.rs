//! What each step of a packet costs, beside the cipher alone: one line a step, nanoseconds a packet.
//!
//! `cargo xtask bench tunnel` runs it; built without optimisation its figures mean nothing. With two arguments, a number of
//! peers and a number of rounds, it only seals and opens the packets of that many large ones and says nothing, for a
//! program that counts its instructions.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for measuring, on input of its own")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use packet::coalesce::{Coalescer, Joins};
use packet::split::Split;
use packet::virtio::{PartialChecksum, SegmentKind, Segments, VirtioHeader};
use packet::{Datagram, checksum};
use transport_cipher::TransportKey;
use wg_proto::{Change, Device, DeviceEvent, DeviceUpdate, Endpoint, Output, SecretKey, uapi};

/// Full-sized packets of one large one: what a datagram of 64 KiB carries at the usual MTU.
const PACKETS: usize = 45;
const PAYLOAD: usize = 1_380;
const MTU: usize = PAYLOAD + 40;
const ROUNDS: usize = 400;

/// Keeps what is sent, or only writes it where it would leave from.
struct Wire {
    keep: bool,
    sent: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Output for Wire {
    fn transmit(&mut self, _: Endpoint, datagram: &[u8]) {
        self.sent.push(datagram.to_vec());
    }
    fn transmit_sealed(
        &mut self,
        to: Endpoint,
        bytes: usize,
        seal: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        let length = seal(&mut self.buffer[..bytes])?;
        if self.keep {
            let datagram = self.buffer[..length].to_vec();
            self.transmit(to, &datagram);
        }
        Some(length)
    }
    fn event(&mut self, _: DeviceEvent) {}
}

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).map(|word| word.parse().unwrap()).collect();
    let mut wire = Wire { keep: true, sent: Vec::new(), buffer: vec![0; 2_000] };
    if let [peers, rounds] = numbers[..] {
        return counted(peers, rounds, &mut wire);
    }
    let (header, whole) = large_packet();
    let (mut left, mut right) = connected(&mut wire, 1);

    cipher();
    measure("checksum of 1,420 bytes", PACKETS, || {
        for _ in 0..PACKETS {
            black_box(checksum::of(black_box(&whole[..MTU])));
        }
    });
    let mut buffer = vec![0; MTU];
    measure("split", PACKETS, || {
        let mut split = Split::new(&header, &whole).unwrap();
        while split.write_next(&mut buffer).is_some() {}
    });
    coalesce(&header, &whole);
    wire.keep = false;
    measure("split and seal", PACKETS, || {
        left.handle_tun_split(Split::new(&header, &whole).unwrap(), Instant::now(), &mut wire);
    });
    open(&mut left, &mut right, &mut wire, (&header, &whole));
    routes();
}

/// Seals and opens, no more.
fn counted(peers: u32, rounds: u32, wire: &mut Wire) {
    let (header, whole) = large_packet();
    let (mut left, mut right) = connected(wire, peers);
    let from = Endpoint::to("192.0.2.1:1".parse().unwrap());
    for _ in 0..rounds {
        let now = Instant::now();
        left.handle_tun_split(Split::new(&header, &whole).unwrap(), now, wire);
        for mut datagram in std::mem::take(&mut wire.sent) {
            let packet = right.handle_udp(&mut datagram, from, now, wire);
            assert!(packet.is_some(), "everything opens");
        }
    }
}

/// The quickest of all rounds: the others were disturbed.
fn measure(name: &str, packets: usize, mut work: impl FnMut()) {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work();
        least = least.min(start.elapsed().as_secs_f64());
    }
    say(name, least, packets);
}

fn say(name: &str, seconds: f64, packets: usize) {
    let packets = u32::try_from(packets).unwrap();
    println!("{name}\t{:.0}", seconds * 1e9 / f64::from(packets));
}

fn cipher() {
    let key = TransportKey::new(&[7; 32]);
    let mut bytes = vec![7; MTU];
    measure("cipher alone, seal 1,420 bytes", PACKETS, || {
        for _ in 0..PACKETS {
            black_box(key.seal_in_place(0, &mut bytes));
        }
    });
    let tag = key.seal_in_place(0, &mut bytes);
    let mut copy = bytes.clone();
    measure("cipher alone, open 1,420 bytes and copy them", PACKETS, || {
        for _ in 0..PACKETS {
            copy.copy_from_slice(&bytes);
            assert!(black_box(key.open_in_place(0, &mut copy, &tag)), "it is its own tag");
        }
    });
}

fn coalesce(header: &VirtioHeader, whole: &[u8]) {
    let mut split = Split::new(header, whole).unwrap();
    let mut memory = vec![0; PACKETS * 1_472];
    let mut places = Vec::new();
    while split.remaining() > 0 {
        let start = places.len() * 1_472;
        let length = split.write_next(&mut memory[start..]).unwrap();
        places.push(start..start + length);
    }
    let pristine = memory[..MTU].to_vec();
    let mut coalescer = Coalescer::new(Joins { tcp: true, udp: true });
    measure("coalesce", PACKETS, || {
        memory[..MTU].copy_from_slice(&pristine);
        for place in &places {
            coalescer.push(&memory, place.clone());
        }
        let mut runs = 0;
        coalescer.finish(&mut memory, |_, _, _| runs += 1);
        assert_eq!(runs, 1);
    });
}

fn open(left: &mut Device, right: &mut Device, wire: &mut Wire, (header, whole): (&VirtioHeader, &[u8])) {
    // Each datagram opens once.
    wire.keep = true;
    for _ in 0..ROUNDS {
        left.handle_tun_split(Split::new(header, whole).unwrap(), Instant::now(), wire);
    }
    let mut datagrams = std::mem::take(&mut wire.sent);
    let from = Endpoint::to("192.0.2.1:1".parse().unwrap());
    let mut opened = 0;
    let mut rounds = datagrams.chunks_mut(PACKETS);
    measure("open", PACKETS, || {
        let now = Instant::now();
        for datagram in rounds.next().unwrap() {
            let packet = right.handle_udp(datagram, from, now, wire);
            opened += usize::from(packet.is_some());
        }
    });
    assert_eq!(opened, ROUNDS * PACKETS, "everything opens");
}

fn routes() {
    let mut device = Device::new();
    let mut wire = Wire { keep: false, sent: Vec::new(), buffer: Vec::new() };
    device.apply(uapi::parse_set(&silent_peers(10_000)).unwrap(), Instant::now(), &mut wire);
    measure("route look-up among 10,000 peers", 256, || {
        for low in 0..=255_u8 {
            let address = IpAddr::from([10, low & 31, low, 9]);
            black_box(device.last_handshake_by_source(black_box(address)));
        }
    });
}

/// Peers that never speak, each with a network of its own.
fn silent_peers(count: u32) -> String {
    let mut body = String::new();
    for number in 0..count {
        let [_, _, high, low] = number.to_be_bytes();
        let key = format!("{:08x}{}", number + 1, "11".repeat(28));
        body.push_str(&format!("public_key={key}\nallowed_ip=10.{high}.{low}.0/24\n"));
    }
    body
}

/// As the TUN device hands it over.
fn large_packet() -> (VirtioHeader, Vec<u8>) {
    let carrier = Datagram {
        source: "10.0.0.1:5".parse().unwrap(),
        destination: "10.0.0.2:6".parse().unwrap(),
        payload: &vec![7; PACKETS * PAYLOAD + 12],
    };
    let mut whole = carrier.to_packet().unwrap();
    // The same bytes with the header of TCP: 20 in place of UDP's 8.
    (whole[9], whole[32], whole[33]) = (6, 0x50, 0x10);
    let header = VirtioHeader {
        checksum: Some(PartialChecksum { start: 20, offset: 16 }),
        segments: Some(Segments {
            kind: SegmentKind::TcpV4,
            header_bytes: 40,
            payload_bytes: u16::try_from(PAYLOAD).unwrap(),
        }),
    };
    (header, whole)
}

/// Two devices that have keys with each other, and `peers` peers each.
fn connected(wire: &mut Wire, peers: u32) -> (Device, Device) {
    let secrets = [SecretKey::generate().unwrap(), SecretKey::generate().unwrap()];
    let publics = secrets.each_ref().map(SecretKey::public_key);
    let now = Instant::now();
    let make = |secret: &SecretKey, peer: String, address: &str| {
        let mut device = Device::new();
        let own = DeviceUpdate { private_key: Change::Set(secret.clone()), ..DeviceUpdate::default() };
        let mut nowhere = Wire { keep: false, sent: Vec::new(), buffer: vec![0; 2_000] };
        device.apply(own, now, &mut nowhere);
        let body = format!("public_key={peer}\nendpoint=192.0.2.9:9\nallowed_ip={address}/32\n");
        device.apply(uapi::parse_set(&body).unwrap(), now, &mut nowhere);
        let others = silent_peers(peers.saturating_sub(1));
        device.apply(uapi::parse_set(&others).unwrap(), now, &mut nowhere);
        device
    };
    let mut left = make(&secrets[0], publics[1].to_hex(), "10.0.0.2");
    let mut right = make(&secrets[1], publics[0].to_hex(), "10.0.0.1");
    let (header, whole) = large_packet();
    left.handle_tun_split(Split::new(&header, &whole).unwrap(), now, wire);
    let from = Endpoint::to("192.0.2.1:1".parse().unwrap());
    let mut turn = 0;
    while !wire.sent.is_empty() {
        let device = if turn % 2 == 0 { &mut right } else { &mut left };
        for mut datagram in std::mem::take(&mut wire.sent) {
            device.handle_udp(&mut datagram, from, now, wire);
        }
        turn += 1;
    }
    (left, right)
}
