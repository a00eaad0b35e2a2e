use proptest::prelude::*;

use super::*;
use crate::provider::tests::hex;

const AAD: &[u8] = b"file 7, part 0";

fn dek() -> Key256 {
    Key256::from_bytes([0x2a; 32])
}

fn small() -> Layout {
    Layout::new(100).unwrap()
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

/// The object that holds `plain`.
fn sealed(layout: Layout, plain: &[u8]) -> Vec<u8> {
    let (sealer, header) = Sealer::new(&dek(), AAD, layout).unwrap();
    finish(sealer, header, layout, plain)
}

fn finish(mut sealer: Sealer, header: [u8; HEADER_BYTES], layout: Layout, plain: &[u8]) -> Vec<u8> {
    let extent = layout.of_plain(plain.len() as u64).unwrap();
    let mut object = header.to_vec();
    for number in numbers(extent) {
        let range = extent.plain_range(number);
        let mut segment =
            plain[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].to_vec();
        segment.resize(segment.len() + SEGMENT_OVERHEAD_BYTES, 0xee);
        sealer.seal_segment(&mut segment, extent.is_last(number)).unwrap();
        object.extend(segment);
    }
    assert_eq!(object.len() as u64, extent.sealed_bytes());
    object
}

fn numbers(extent: Extent) -> std::ops::Range<u32> {
    0..u32::try_from(extent.segments()).unwrap()
}

fn open_one(opener: &Opener, object: &[u8], extent: Extent, number: u32) -> Result<Vec<u8>, OpenError> {
    let range = extent.sealed_range(number);
    let mut segment =
        object[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].to_vec();
    let plain = opener.open_segment(number, extent.is_last(number), &mut segment)?;
    segment.truncate(plain);
    Ok(segment)
}

/// What a reader gets that believes the object's own length.
fn opened(layout: Layout, aad: &[u8], object: &[u8]) -> Result<Vec<u8>, OpenError> {
    let extent = layout.of_sealed(object.len() as u64).ok_or(OpenError::Length)?;
    let opener = Opener::new(&dek(), aad, &object[..HEADER_BYTES], layout)?;
    let mut plain = Vec::new();
    for number in numbers(extent) {
        plain.extend(open_one(&opener, object, extent, number)?);
    }
    Ok(plain)
}

proptest! {
    #[test]
    fn any_content_in_any_layout_comes_back(
        plain in prop::collection::vec(any::<u8>(), 0..2000), segment_bytes in 57..400_u32, aad: Vec<u8>,
    ) {
        let layout = Layout::new(segment_bytes).unwrap();
        let (sealer, header) = Sealer::new(&dek(), &aad, layout).unwrap();
        let object = finish(sealer, header, layout, &plain);
        prop_assert_eq!(opened(layout, &aad, &object), Ok(plain));
    }

    #[test]
    fn any_range_opens_with_its_own_segments(size in 0..3000_usize, a: u16, b: u16) {
        let plain = content(size);
        let object = sealed(small(), &plain);
        let extent = small().of_sealed(object.len() as u64).unwrap();
        let opener = Opener::new(&dek(), AAD, &object[..HEADER_BYTES], small()).unwrap();
        let (start, end) = (usize::from(a.min(b)), usize::from(a.max(b)));
        let segments = extent.segments_of(start as u64..end as u64);
        let mut got = Vec::new();
        for number in segments.clone() {
            got.extend(open_one(&opener, &object, extent, u32::try_from(number).unwrap()).unwrap());
        }
        let expected = plain.get(start..end.min(size)).unwrap_or_default();
        if expected.is_empty() {
            prop_assert!(got.is_empty());
        } else {
            let first = usize::try_from(extent.plain_range(u32::try_from(segments.start).unwrap()).start).unwrap();
            prop_assert_eq!(&got[start - first..start - first + expected.len()], expected);
        }
    }

    #[test]
    fn any_flipped_bit_is_refused(size in 0..600_usize, flip: prop::sample::Index, bit in 0..8_u32) {
        let mut object = sealed(small(), &content(size));
        let length = object.len();
        object[flip.index(length)] ^= 1_u8 << bit;
        prop_assert!(opened(small(), AAD, &object).is_err());
    }

    #[test]
    fn any_cut_is_refused(size in 0..600_usize, cut: prop::sample::Index) {
        let object = sealed(small(), &content(size));
        prop_assert!(opened(small(), AAD, &object[..cut.index(object.len())]).is_err());
    }
}

#[test]
fn a_stream_cut_between_two_segments_is_refused() {
    let object = sealed(small(), &content(500));
    assert_eq!(opened(small(), AAD, &object[..300]), Err(OpenError::Refused));
}

#[test]
fn segments_that_trade_places_are_refused() {
    let mut object = sealed(small(), &content(500));
    let (one, two) = object.split_at_mut(200);
    one[100..].swap_with_slice(&mut two[..100]);
    assert_eq!(opened(small(), AAD, &object), Err(OpenError::Refused));
}

#[test]
fn a_segment_taken_twice_is_refused() {
    let object = sealed(small(), &content(500));
    let twice = [&object[..200], &object[100..]].concat();
    assert_eq!(opened(small(), AAD, &twice), Err(OpenError::Refused));
}

#[test]
fn a_segment_of_another_stream_with_the_same_key_is_refused() {
    let (mut one, other) = (sealed(small(), &content(500)), sealed(small(), &content(500)));
    one[100..200].copy_from_slice(&other[100..200]);
    assert_eq!(opened(small(), AAD, &one), Err(OpenError::Refused));
}

#[test]
fn a_stream_with_more_behind_it_is_refused() {
    let mut object = sealed(small(), &content(500));
    object.push(0);
    assert!(opened(small(), AAD, &object).is_err());
}

#[test]
fn a_stream_is_refused_for_another_file_and_with_another_key() {
    let object = sealed(small(), &content(10));
    assert_eq!(opened(small(), b"file 8, part 0", &object), Err(OpenError::Refused));
    let opener = Opener::new(&Key256::from_bytes([0; 32]), AAD, &object[..HEADER_BYTES], small()).unwrap();
    assert_eq!(opener.open_segment(0, true, &mut object[40..].to_vec()), Err(OpenError::Refused));
}

#[test]
fn a_segment_in_another_layout_is_refused() {
    let object = sealed(small(), &content(500));
    assert!(opened(Layout::new(101).unwrap(), AAD, &object).is_err());
}

#[test]
fn what_does_not_open_is_left_without_content() {
    let object = sealed(small(), &content(20));
    let opener = Opener::new(&dek(), b"another", &object[..HEADER_BYTES], small()).unwrap();
    let mut segment = object[HEADER_BYTES..].to_vec();
    opener.open_segment(0, true, &mut segment).unwrap_err();
    assert!(segment.iter().all(|byte| *byte == 0));
}

#[test]
fn headers_of_another_length_or_kind_are_refused() {
    for header in [vec![], vec![40; 39], vec![40; 41], vec![39; 40], vec![0; 40]] {
        assert_eq!(Opener::new(&dek(), AAD, &header, small()).unwrap_err(), OpenError::Header);
    }
}

#[test]
fn a_stream_that_has_ended_seals_no_more() {
    let (mut sealer, _) = Sealer::new(&dek(), AAD, small()).unwrap();
    sealer.seal_segment(&mut [0; 20], true).unwrap();
    assert_eq!(sealer.seal_segment(&mut [0; 20], true), Err(SealError::Ended));
}

#[test]
fn a_segment_of_the_wrong_length_is_not_sealed() {
    let (mut sealer, _) = Sealer::new(&dek(), AAD, small()).unwrap();
    let wrong = |bytes, full| Err(SealError::Length { bytes, full });
    assert_eq!(sealer.next_plain_bytes(), 44);
    assert_eq!(sealer.seal_segment(&mut [0; 43 + 16], false), wrong(43, 44));
    assert_eq!(sealer.seal_segment(&mut [0; 45 + 16], true), wrong(45, 44));
    assert_eq!(sealer.seal_segment(&mut [0; 15], true), wrong(0, 44));
    sealer.seal_segment(&mut [0; 44 + 16], false).unwrap();
    assert_eq!(sealer.next_plain_bytes(), 84);
    // Who has filled a segment does not know yet whether it is the last: it waits for the next byte or the end.
    assert_eq!(sealer.seal_segment(&mut [0; 16], true), wrong(0, 84));
}

#[test]
fn no_more_segments_are_sealed_than_the_nonce_can_number() {
    let (mut sealer, _) = Sealer::new(&dek(), AAD, small()).unwrap();
    sealer.next = Some(u32::MAX);
    sealer.seal_segment(&mut [0; 100], false).unwrap();
    assert_eq!(sealer.seal_segment(&mut [0; 100], false), Err(SealError::TooLong));
}

#[test]
fn no_two_streams_of_one_key_share_salt_and_prefix() {
    let headers = [0; 2].map(|_| Sealer::new(&dek(), AAD, small()).unwrap().1);
    assert_ne!(headers[0][1..33], headers[1][1..33]);
    assert_ne!(headers[0][33..], headers[1][33..]);
}

#[test]
fn sealers_and_openers_print_no_secret() {
    let (sealer, header) = Sealer::new(&dek(), AAD, small()).unwrap();
    let opener = Opener::new(&dek(), AAD, &header, small()).unwrap();
    assert_eq!(format!("{sealer:?} {opener:?}"), "Sealer { next: Some(0), .. } Opener { .. }");
}

/// Made with Python: `hmac` for HKDF, `cryptography` for AES-GCM, the rest from the description
/// of the format. It is the example of `docs/formats/sealed-object.md`.
#[test]
fn a_stream_is_what_its_format_says() {
    let salt = std::array::from_fn(|i| u8::try_from(i).unwrap());
    let prefix = [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6];
    let dek = Key256::from_bytes(std::array::from_fn(|i| u8::try_from(0x40 + i).unwrap()));
    let layout = Layout::new(80).unwrap();
    let (sealer, header) = Sealer::salted(&dek, b"example", layout, salt, prefix);
    let plain = b"Forty-two bytes of text, in two segments. ";
    let object = finish(sealer, header, layout, plain);
    assert_eq!(object, hex(EXAMPLE));
    let opener = Opener::new(&dek, b"example", &object[..HEADER_BYTES], layout).unwrap();
    let extent = layout.of_sealed(object.len() as u64).unwrap();
    assert_eq!(open_one(&opener, &object, extent, 1).unwrap(), &plain[24..]);
}

const EXAMPLE: &str = "28000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fa0a1a2a3a4a5a6a6722eb090a56ee2245cbe8bf2e565273e2f3a20e967ff37d4905be0cc412b34f7fdc6c781d5e6d1bd695951da456019ec1d1171356a32f4b8fb8d1d8881688e5023363896d70b3540b6";
