//! A large packet, as the kernel hands it over, and what must come of it.
use proptest::prelude::*;

use super::*;
use crate::made::{Made, is_right};
use crate::virtio::{PartialChecksum, Segments};

/// The header that the device puts before a made packet.
fn header(made: &Made, payload_bytes: u16) -> VirtioHeader {
    let start = if made.is_v4 { 20 } else { 40 };
    let (kind, offset) = match (made.is_tcp, made.is_v4) {
        (true, true) => (SegmentKind::TcpV4, 16),
        (true, false) => (SegmentKind::TcpV6, 16),
        (false, _) => (SegmentKind::Udp, 6),
    };
    VirtioHeader {
        checksum: Some(PartialChecksum { start, offset }),
        segments: Some(Segments { kind, header_bytes: 0, payload_bytes }),
    }
}

fn cut(header: &VirtioHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut split = Split::new(header, packet).unwrap();
    let mut buffer = vec![0xaa; split.longest()];
    let count = split.remaining();
    let mut packets = Vec::new();
    while let Some(length) = split.write_next(&mut buffer) {
        packets.push(buffer[..length].to_vec());
    }
    assert_eq!((packets.len(), split.remaining()), (count, 0));
    packets
}

proptest! {
    #[test]
    fn the_pieces_are_what_a_host_without_offloads_would_have_sent(
        is_v4: bool, is_tcp: bool, number: u16, sequence: u32, may_fragment: bool,
        flags in prop::sample::select(vec![0x10_u8, 0x18, 0x11, 0x19, 0x90, 0x50, 0xd8, 0x30]),
        options in prop::sample::select(vec![0_usize, 4, 12, 40]),
        size in 1_u16..1_500, length in 1_usize..20_000,
    ) {
        let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
        let whole = Made {
            is_v4, is_tcp, number, sequence, may_fragment, flags,
            options: vec![1; options], payload: payload.clone(), ..Made::default()
        };
        let packets = cut(&header(&whole, size), &whole.packet());
        let last = packets.len() - 1;
        for (at, (packet, payload)) in packets.iter().zip(payload.chunks(size.into())).enumerate() {
            let before = u32::try_from(at).unwrap() * u32::from(size);
            let expected = Made {
                number: number.wrapping_add(u16::try_from(at).unwrap()),
                sequence: sequence.wrapping_add(before),
                flags: flags & !(if at == last { 0 } else { 0x09 }) & !(if at == 0 { 0 } else { 0x80 }),
                payload: payload.to_vec(),
                ..whole.clone()
            };
            prop_assert!(is_right(packet));
            prop_assert_eq!(packet, &expected.packet());
        }
        prop_assert_eq!(packets.len(), length.div_ceil(size.into()));
    }

    #[test]
    fn junk_never_panics_and_never_grows(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let Ok((header, at)) = VirtioHeader::parse(&bytes) else { return Ok(()) };
        let packet = &bytes[at..];
        if let Ok(mut split) = Split::new(&header, packet) {
            let mut buffer = vec![0; split.longest()];
            prop_assert!(split.longest() <= packet.len());
            while split.write_next(&mut buffer).is_some() {}
        }
    }
}

#[test]
fn extension_headers_go_with_each_piece() {
    let whole = Made { is_v4: false, payload: vec![5; 30], ..Made::default() };
    let mut packet = whole.packet();
    // Destination options of eight bytes (RFC 8200 §4.6).
    packet.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
    packet[6] = 60;
    packet[4..6].copy_from_slice(&58_u16.to_be_bytes());
    let mut header = header(&whole, 20);
    header.checksum = Some(PartialChecksum { start: 48, offset: 16 });
    let packets = cut(&header, &packet);
    assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [88, 78]);
    for packet in packets {
        assert_eq!(packet[40..48], [6, 0, 1, 4, 0, 0, 0, 0]);
        let without: Vec<u8> = [&packet[..6], &[6], &packet[7..40], &packet[48..]].concat();
        assert!(is_right(&without), "the checksum counts the transport alone");
    }
}

#[test]
fn ipv4_options_go_with_each_piece() {
    let whole = Made { payload: vec![5; 30], ..Made::default() };
    let mut packet = whole.packet();
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    packet[2..4].copy_from_slice(&74_u16.to_be_bytes());
    let mut header = header(&whole, 20);
    header.checksum = Some(PartialChecksum { start: 24, offset: 16 });
    for packet in cut(&header, &packet) {
        assert_eq!((packet[0], &packet[20..24]), (0x46, &[1, 1, 1, 0][..]));
        assert_eq!(checksum::of(&packet[..24]), 0);
    }
}

#[test]
fn a_header_that_contradicts_the_packet_is_refused() {
    let whole = Made { payload: vec![5; 30], ..Made::default() };
    let packet = whole.packet();
    let good = header(&whole, 20);
    let refused = |header: &VirtioHeader, packet: &[u8]| Split::new(header, packet).map(|_| ()).unwrap_err();
    assert_eq!(refused(&VirtioHeader::default(), &packet), SplitError::NotSegmented);
    assert_eq!(refused(&VirtioHeader { checksum: None, ..good }, &packet), SplitError::Contradiction);
    for (start, offset) in [(24, 16), (20, 6), (60_000, 16)] {
        let checksum = Some(PartialChecksum { start, offset });
        assert_eq!(refused(&VirtioHeader { checksum, ..good }, &packet), SplitError::Contradiction);
    }
    for (at, value) in [(9, 17), (6, 0x20), (7, 1), (32, 0x40), (32, 0xf0)] {
        let mut changed = packet.clone();
        changed[at] = value;
        assert_eq!(refused(&good, &changed), SplitError::Contradiction, "byte {at}");
    }
    let longer = [&packet[..], &[0]].concat();
    assert_eq!(refused(&good, &longer), SplitError::Contradiction);
}
