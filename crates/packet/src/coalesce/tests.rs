//! Runs, written and cut again.
use proptest::prelude::*;

use super::*;
use crate::made::Made;
use crate::split::Split;

const BOTH: Joins = Joins { tcp: true, udp: true };

/// What would be written: the header, and the pieces one after the other.
fn join(packets: &[Vec<u8>], joins: Joins) -> Vec<(VirtioHeader, Vec<u8>)> {
    let mut coalescer = Coalescer::new(joins);
    let mut memory = Vec::new();
    for packet in packets {
        let start = memory.len() + 3; // they need not lie side by side
        memory.resize(start, 0);
        memory.extend(packet);
        coalescer.push(&memory, start..start + packet.len());
    }
    let mut writes = Vec::new();
    coalescer.finish(&mut memory, |header, pieces, memory| {
        let bytes = pieces.iter().flat_map(|place| memory[place.clone()].to_vec()).collect();
        writes.push((header, bytes));
    });
    assert!(coalescer.is_empty());
    writes
}

fn cut(writes: &[(VirtioHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (header, bytes) in writes {
        if header.segments.is_none() {
            assert_eq!(*header, VirtioHeader::default());
            packets.push(bytes.clone());
            continue;
        }
        let mut split = Split::new(header, bytes).expect("what was joined can be cut");
        let mut buffer = vec![0; split.longest()];
        while let Some(length) = split.write_next(&mut buffer) {
            packets.push(buffer[..length].to_vec());
        }
    }
    packets
}

/// A stream's packets of `size`, the last one pushed.
fn stream(first: &Made, size: usize, length: usize) -> Vec<Vec<u8>> {
    let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at % 253).unwrap()).collect();
    let chunks: Vec<&[u8]> = payload.chunks(size).collect();
    let made = chunks.iter().enumerate().map(|(at, chunk)| Made {
        number: first.number.wrapping_add(u16::try_from(at).unwrap()),
        sequence: first.sequence.wrapping_add(u32::try_from(at * size).unwrap()),
        flags: first.flags | if at + 1 == chunks.len() { tcp::PSH } else { 0 },
        payload: chunk.to_vec(),
        ..first.clone()
    });
    made.map(|made| made.packet()).collect()
}

fn alone(packets: &[Vec<u8>]) {
    let expected: Vec<_> = packets.iter().map(|packet| (VirtioHeader::default(), packet.clone())).collect();
    assert_eq!(join(packets, BOTH), expected);
}

#[test]
fn a_stream_is_one_write() {
    for is_v4 in [true, false] {
        for is_tcp in [true, false] {
            let packets = stream(&Made { is_v4, is_tcp, ..Made::default() }, 1_000, 10_500);
            let writes = join(&packets, BOTH);
            assert_eq!(writes.len(), 1);
            assert_eq!(cut(&writes), packets);
            assert_eq!(join(&packets, Joins { tcp: !is_tcp, udp: is_tcp }).len(), 11);
        }
    }
}

#[test]
fn psh_closes_the_run() {
    let first = Made { payload: vec![1; 100], flags: 0x18, ..Made::default() };
    let second = Made { sequence: 1_100, number: 8, ..first.clone() };
    alone(&[first.packet(), second.packet()]);
}

#[test]
fn a_shorter_segment_closes_the_run_and_a_longer_one_begins_another() {
    let sizes = [100, 100, 60, 100, 200];
    let mut packets = Vec::new();
    let (mut sequence, mut number) = (5, 9);
    for size in sizes {
        packets.push(Made { sequence, number, payload: vec![1; size], ..Made::default() }.packet());
        sequence += u32::try_from(size).unwrap();
        number += 1;
    }
    let writes = join(&packets, BOTH);
    assert_eq!(writes.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [300, 140, 240]);
    assert_eq!(cut(&writes), packets);
}

#[test]
fn flags_that_mean_something_pass_by_themselves() {
    for flags in [0x11, 0x12, 0x02, 0x14, 0x30, 0x90, 0x00] {
        let first = Made { payload: vec![1; 100], flags, ..Made::default() };
        let second = Made { sequence: 1_100, number: 8, ..first.clone() };
        alone(&[first.packet(), second.packet()]);
    }
}

#[test]
fn what_differs_in_a_header_is_not_joined() {
    let first = Made { payload: vec![1; 100], options: vec![1; 12], ..Made::default() };
    let second = Made { sequence: 1_100, number: 8, ..first.clone() };
    assert_eq!(join(&[first.packet(), second.packet()], BOTH).len(), 1);
    for different in [
        Made { sequence: 1_101, ..second.clone() },
        Made { flags: 0x50, ..second.clone() },
        Made { options: vec![0; 12], ..second.clone() },
        Made { options: vec![1; 8], ..second.clone() },
        Made { may_fragment: true, ..second.clone() },
        Made { number: 11, ..second.clone() },
        Made { port: 80, ..second.clone() },
        Made { is_v4: false, ..second.clone() },
        Made { is_tcp: false, ..second.clone() },
        Made { payload: Vec::new(), ..second.clone() },
    ] {
        alone(&[first.packet(), different.packet()]);
    }
    // Service, lifetime, window, acknowledgement: with the checksums mended.
    for (at, ip) in [(1, true), (8, true), (34, false), (28, false)] {
        let mut changed = second.packet();
        let (old, word) = (u16::from_be_bytes([changed[at & !1], changed[at | 1]]), at & !1);
        changed[at] ^= 2;
        let new = u16::from_be_bytes([changed[word], changed[word + 1]]);
        let field = if ip { 10 } else { 36 };
        let sum = checksum::update(u16::from_be_bytes([changed[field], changed[field + 1]]), old, new);
        changed[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        assert!(crate::made::is_right(&changed));
        alone(&[first.packet(), changed]);
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    for at in [10, 36, 45] {
        let mut packets = stream(&Made::default(), 100, 300);
        packets[1][at] ^= 1;
        alone(&packets);
    }
}

#[test]
fn datagrams_without_a_checksum_pass_by_themselves() {
    let mut packets = stream(&Made::udp(&[]), 100, 300);
    for packet in &mut packets {
        packet[26..28].fill(0);
    }
    alone(&packets);
}

#[test]
fn datagrams_that_may_not_be_fragmented_need_no_numbers() {
    let packets = vec![Made { number: 0, ..Made::udp(&[7; 100]) }.packet(); 5];
    assert_eq!(join(&packets, BOTH).len(), 1);
    alone(&vec![Made { may_fragment: true, ..Made::udp(&[7; 100]) }.packet(); 5]);
}

#[test]
fn fragments_options_and_extension_headers_pass_by_themselves() {
    let fragment = |at: usize, value: u8| {
        let mut packets = stream(&Made { may_fragment: true, ..Made::default() }, 96, 192);
        for packet in &mut packets {
            packet[at] |= value;
            packet[10..12].fill(0);
            let sum = checksum::of(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packets
    };
    alone(&fragment(6, 0x20));
    alone(&fragment(7, 0x01));
    let mut packets = stream(&Made { is_v4: false, ..Made::default() }, 100, 200);
    for packet in &mut packets {
        packet.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
        packet[6] = 60;
        packet[4..6].copy_from_slice(&128_u16.to_be_bytes());
    }
    alone(&packets);
}

#[test]
fn a_run_ends_before_it_is_longer_than_a_packet_can_be() {
    let packets = stream(&Made::default(), 1_380, 100 * 1_380);
    let writes = join(&packets, BOTH);
    assert!(writes.iter().all(|(_, bytes)| bytes.len() <= 65_535));
    assert_eq!((writes.len(), cut(&writes)), (3, packets));
    // And before it has more datagrams than the kernel takes.
    let writes = join(&stream(&Made::udp(&[]), 10, 1_000), BOTH);
    assert_eq!(writes.len(), 2);
}

proptest! {
    #[test]
    fn cutting_gives_back_what_was_joined(
        streams in proptest::collection::vec(
            (any::<bool>(), any::<bool>(), 1_usize..1_400, 1_usize..9_000, any::<u16>(), any::<u32>(), any::<bool>()),
            1..5,
        ),
        order in proptest::collection::vec(0_usize..5, 0..60),
    ) {
        let mut waiting: Vec<Vec<Vec<u8>>> = streams.iter().enumerate().map(
            |(at, (is_v4, is_tcp, size, length, number, sequence, may_fragment))| {
                let port = 100 + u16::try_from(at).unwrap();
                stream(&Made {
                    is_v4: *is_v4, is_tcp: *is_tcp, port, number: *number, sequence: *sequence,
                    may_fragment: *may_fragment, ..Made::default()
                }, *size, *length)
            },
        ).collect();
        let flows = waiting.clone();
        let mut packets = Vec::new();
        for pick in order {
            if let Some(flow) = waiting.get_mut(pick) && !flow.is_empty() {
                packets.push(flow.remove(0));
            }
        }
        packets.extend(waiting.into_iter().flatten());
        let writes = join(&packets, BOTH);
        let again = cut(&writes);
        prop_assert!(writes.len() <= packets.len());
        for flow in flows {
            let same = |packet: &&Vec<u8>| flow.contains(packet);
            let came: Vec<&Vec<u8>> = again.iter().filter(same).collect();
            prop_assert_eq!(came, flow.iter().collect::<Vec<_>>());
        }
        prop_assert_eq!(again.len(), packets.len());
    }

    #[test]
    fn junk_never_panics_and_passes_unharmed(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..100), 1..20)
    ) {
        // Whole in length, and otherwise anything; the chance of a right checksum is nil.
        alone(&packets);
    }
}
