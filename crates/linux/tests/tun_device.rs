//! A TUN device with and without offloads, made anew or attached to, in a network namespace of its own.
//!
//! Each case is this program again, so that it has one thread when it enters its namespace.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test program talks on stdout")]

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, ExitCode};
use std::time::Duration;

use linux::Privileged;
use linux::tun::{Tun, WantedDevice};
use linux::udp::{SendBatch, UdpSockets};
use nix::sched::{CloneFlags, unshare};
use packet::Datagram;
use packet::coalesce::{Coalescer, Joins};
use packet::split::Split;
use packet::virtio::{SegmentKind, VIRTIO_HEADER_BYTES, VirtioHeader};

type Case = (&'static str, fn());

const CASES: &[Case] = &[
    ("a_device_with_offloads_hands_over_many_datagrams_in_one_piece", in_one_piece),
    ("a_plain_device_hands_over_each_by_itself", each_by_itself),
    ("a_persistent_device_is_what_each_user_makes_of_it", persistent),
    ("what_is_joined_arrives_as_it_was", joined),
    ("a_lone_datagrams_checksum_is_left_to_the_reader", partial_checksum),
    ("a_new_device_holds_a_burst_of_4000_packets", new_queue),
    ("a_queue_that_somebody_chose_is_left_as_it_is", chosen_queue),
];

const ADDRESS: &str = "10.9.0.1";
const OTHER: &str = "10.9.0.2";

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    if let Some(name) = argument.as_deref().and_then(|argument| argument.strip_prefix("case=")) {
        // Whoever is not root is root in a user namespace of its own.
        unshare(CloneFlags::CLONE_NEWNET)
            .or_else(|_| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET))
            .expect("a network namespace");
        CASES.iter().find(|case| case.0 == name).expect("the parent passes known names").1();
        return ExitCode::SUCCESS;
    }
    let filter = argument.filter(|argument| !argument.starts_with('-')).unwrap_or_default();
    let chosen: Vec<&Case> = CASES.iter().filter(|case| case.0.contains(&filter)).collect();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for (name, _) in &chosen {
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).arg(format!("case={name}")).output().unwrap();
        let passed = output.status.success();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed += 1;
            println!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out\n",
        chosen.len() - failed
    );
    ExitCode::from(u8::from(failed > 0))
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

fn privileged() -> Privileged {
    Privileged::at_startup().expect("one thread")
}

fn up(name: &str) {
    ip(&format!("addr replace {ADDRESS}/24 dev {name}"));
    ip(&format!("link set {name} up"));
}

/// The kernel begins to use a device some time after somebody attached to it. Until then what is sent is lost.
fn until_it_carries(tun: &Tun) {
    for _ in 0..100 {
        send(1);
        if next(tun).is_some() {
            while next(tun).is_some() {}
            return;
        }
    }
    panic!("the device carries nothing");
}

/// Sends `count` datagrams of 100 bytes into the device, as one message.
fn send(count: u8) {
    let sockets = UdpSockets::bind(0, 0, true).unwrap();
    let mut batch = SendBatch::new(true);
    for number in 0..count {
        batch.push(SocketAddr::new(OTHER.parse().unwrap(), 9), None, None, &[number; 100]);
    }
    assert_eq!(batch.flush(&sockets.v4).sent, usize::from(count));
}

/// The next IPv4 packet, with its header where the device has one.
fn next(tun: &Tun) -> Option<(VirtioHeader, Vec<u8>)> {
    let mut buffer = vec![0; 70_000];
    for _ in 0..20 {
        let Ok(length) = tun.receive(&mut buffer) else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let (header, start) = match tun.offloads() {
            Some(_) => VirtioHeader::parse(&buffer[..length]).unwrap(),
            None => (VirtioHeader::default(), 0),
        };
        if buffer[start] >> 4 == 4 {
            return Some((header, buffer[start..length].to_vec()));
        }
    }
    None
}

fn payloads(header: &VirtioHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut split = Split::new(header, packet).expect("the kernel's header is good");
    let mut buffer = vec![0; split.longest()];
    let mut payloads = Vec::new();
    while let Some(length) = split.write_next(&mut buffer) {
        payloads.push(Datagram::parse(&buffer[..length]).expect("a datagram").payload.to_vec());
    }
    payloads
}

fn expect_pieces(tun: &Tun, count: u8) {
    until_it_carries(tun);
    send(count);
    let expected: Vec<Vec<u8>> = (0..count).map(|number| vec![number; 100]).collect();
    if tun.offloads().is_some_and(|offloads| offloads.udp) {
        let (header, packet) = next(tun).expect("one piece");
        assert_eq!(header.segments.map(|segments| segments.kind), Some(SegmentKind::Udp));
        assert_eq!(packet.len(), 28 + 100 * usize::from(count));
        assert_eq!(payloads(&header, &packet), expected);
    } else {
        for expected in expected {
            let (header, packet) = next(tun).expect("each by itself");
            assert!(header.segments.is_none());
            assert_eq!(Datagram::parse(&packet).expect("a datagram").payload, expected);
        }
    }
    assert!(next(tun).is_none(), "nothing more");
}

fn in_one_piece() {
    let tun = Tun::create(&privileged(), "t0", WantedDevice::Offload).unwrap();
    assert!(tun.offloads().is_some());
    up("t0");
    expect_pieces(&tun, 40);
}

fn each_by_itself() {
    let tun = Tun::create(&privileged(), "t0", WantedDevice::Plain).unwrap();
    assert_eq!(tun.offloads(), None);
    up("t0");
    expect_pieces(&tun, 5);
}

fn persistent() {
    let privileged = privileged();
    ip("tuntap add dev t0 mode tun");
    up("t0");
    for wanted in [
        WantedDevice::Plain,
        WantedDevice::Offload,
        WantedDevice::Plain,
        WantedDevice::Auto,
        WantedDevice::Offload,
    ] {
        let tun = Tun::create(&privileged, "t0", wanted).unwrap();
        assert_eq!(tun.offloads().is_none(), wanted == WantedDevice::Plain);
        expect_pieces(&tun, 5);
    }
    // And as a descriptor that somebody else opened so or so.
    for wanted in [WantedDevice::Offload, WantedDevice::Plain] {
        let opened = Tun::create(&privileged, "t0", wanted).unwrap();
        let descriptor = std::os::fd::AsFd::as_fd(&opened).try_clone_to_owned().unwrap();
        let tun = Tun::from_descriptor(&privileged, descriptor).unwrap();
        assert_eq!((tun.offloads(), tun.name()), (opened.offloads(), "t0"));
        expect_pieces(&tun, 3);
    }
}

fn joined() {
    let tun = Tun::create(&privileged(), "t0", WantedDevice::Offload).unwrap();
    let udp = tun.offloads().unwrap().udp;
    up("t0");
    let listener = UdpSocket::bind((ADDRESS, 7)).unwrap();
    listener.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut memory = Vec::new();
    let mut coalescer = Coalescer::new(Joins { tcp: true, udp });
    for number in 0..30_u8 {
        let datagram = Datagram {
            source: SocketAddr::new(OTHER.parse().unwrap(), 5),
            destination: SocketAddr::new(ADDRESS.parse().unwrap(), 7),
            payload: &[number; 99],
        };
        let start = memory.len();
        memory.extend(datagram.to_packet().unwrap());
        coalescer.push(&memory, start..memory.len());
    }
    let mut writes = 0;
    coalescer.finish(&mut memory, |header, pieces, memory| {
        let header: [u8; VIRTIO_HEADER_BYTES] = header.to_bytes();
        let mut slices = vec![IoSlice::new(&header)];
        slices.extend(pieces.iter().map(|place| IoSlice::new(&memory[place.clone()])));
        tun.send_pieces(&slices).unwrap();
        writes += 1;
    });
    assert_eq!(writes, if udp { 1 } else { 30 });
    let mut buffer = [0; 2_000];
    for number in 0..30_u8 {
        let (length, from) = listener.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.port()), (&[number; 99][..], 5));
    }
}

fn partial_checksum() {
    let tun = Tun::create(&privileged(), "t0", WantedDevice::Offload).unwrap();
    up("t0");
    send(1);
    let (header, mut packet) = next(&tun).expect("a datagram");
    let partial = header.checksum.expect("left to the reader");
    partial.complete(&mut packet).unwrap();
    let datagram = Datagram::parse(&packet).expect("a datagram");
    // Written anew, with a checksum of our own, it is the same from the transport header on.
    assert_eq!(datagram.to_packet().unwrap()[20..], packet[20..]);
}

fn new_queue() {
    for wanted in [WantedDevice::Offload, WantedDevice::Plain] {
        let _tun = Tun::create(&privileged(), "t0", wanted).unwrap();
        assert_eq!(queue_packets(), "4000");
    }
}

fn chosen_queue() {
    ip("tuntap add dev t0 mode tun");
    for packets in ["20", "501", "10000"] {
        ip(&format!("link set t0 txqueuelen {packets}"));
        let _tun = Tun::create(&privileged(), "t0", WantedDevice::Auto).unwrap();
        assert_eq!(queue_packets(), packets);
    }
}

/// Of t0, as iproute2 shows it.
fn queue_packets() -> String {
    let output = Command::new("ip").args(["-oneline", "link", "show", "t0"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != "qlen");
    words.nth(1).unwrap().trim_end_matches('\\').to_owned()
}
