//! Google's Tink, from PyPI, opens our streams and seals streams that we open: given the key, an object needs
//! nothing of ours. `cargo xtask test` provides Tink below `target/tools`.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod python;

use vault::Key256;
use vault::stream::{HEADER_BYTES, Layout, Opener, SEGMENT_OVERHEAD_BYTES, Sealer};

const AAD: &[u8] = b"\x07\x07file\0part";
/// Nothing, one byte, around one segment and around two, and many, for segments of 100 sealed bytes.
const SIZES: [usize; 9] = [0, 1, 43, 44, 45, 127, 128, 129, 5000];

fn key() -> Key256 {
    Key256::from_bytes(std::array::from_fn(|i| u8::try_from(3 * i).unwrap()))
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| u8::try_from(i % 253).unwrap()).collect()
}

#[test]
fn tink_opens_what_the_vault_seals() {
    for bytes in SIZES {
        let object = seal(Layout::new(100).unwrap(), &content(bytes));
        assert_eq!(tink("open", 100, &object), Ok(content(bytes)), "{bytes} bytes");
    }
    let store = Layout::STORE;
    let large = content(3 * store.segment_bytes() as usize);
    assert_eq!(tink("open", store.segment_bytes(), &seal(store, &large)), Ok(large));
}

#[test]
fn the_vault_opens_what_tink_seals() {
    for bytes in SIZES {
        let object = tink("seal", 100, &content(bytes)).unwrap();
        assert_eq!(open(Layout::new(100).unwrap(), object), content(bytes), "{bytes} bytes");
    }
}

#[test]
fn tink_refuses_a_flipped_bit_and_a_cut() {
    let mut object = seal(Layout::new(100).unwrap(), &content(300));
    tink("open", 100, &object[..200]).unwrap_err();
    object[150] ^= 1;
    tink("open", 100, &object).unwrap_err();
}

fn seal(layout: Layout, plain: &[u8]) -> Vec<u8> {
    let extent = layout.of_plain(plain.len() as u64).unwrap();
    let (mut sealer, header) = Sealer::new(&key(), AAD, layout).unwrap();
    let mut object = header.to_vec();
    for number in 0..u32::try_from(extent.segments()).unwrap() {
        let range = extent.plain_range(number);
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let start = object.len();
        object.extend_from_slice(&plain[range]);
        object.extend_from_slice(&[0; SEGMENT_OVERHEAD_BYTES]);
        sealer.seal_segment(&mut object[start..], extent.is_last(number)).unwrap();
    }
    object
}

fn open(layout: Layout, mut object: Vec<u8>) -> Vec<u8> {
    let extent = layout.of_sealed(object.len() as u64).unwrap();
    let opener = Opener::new(&key(), AAD, &object[..HEADER_BYTES], layout).unwrap();
    let mut plain = Vec::new();
    for number in 0..u32::try_from(extent.segments()).unwrap() {
        let range = extent.sealed_range(number);
        let segment = &mut object[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        let bytes = opener.open_segment(number, extent.is_last(number), segment).unwrap();
        plain.extend_from_slice(&segment[..bytes]);
    }
    plain
}

fn tink(what: &str, segment_bytes: u32, input: &[u8]) -> Result<Vec<u8>, String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let arguments = [what, &hex(key().as_bytes()), &hex(AAD), &segment_bytes.to_string()];
    python::run("tink", "tink_stream.py", &arguments, input)
}
