//! Bech32 (BIP 173) of 32 bytes: how age writes its keys.

use zeroize::Zeroizing;

const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const CHECKSUM: usize = 6;
/// 256 bits in groups of five.
const GROUPS: usize = 52;

/// `prefix`, `1`, the bytes and their checksum, in small letters.
pub fn encode(prefix: &str, bytes: &[u8; 32]) -> String {
    let mut groups = Zeroizing::new([0_u8; GROUPS]);
    for bit in 0..256 {
        groups[bit / 5] |= (bytes[bit / 8] >> (7 - bit % 8) & 1) << (4 - bit % 5);
    }
    let sum = polymod(prefix, &[&*groups, &[0; CHECKSUM][..]].concat()) ^ 1;
    let check = (0..CHECKSUM).map(|i| (sum >> (5 * (5 - i)) & 31) as usize);
    let letters = groups.iter().map(|group| usize::from(*group)).chain(check);
    letters
        .fold(format!("{prefix}1"), |text, group| text + char::from(ALPHABET[group]).encode_utf8(&mut [0; 4]))
}

/// Reads it back, in small letters or capitals but not both.
pub fn decode(prefix: &str, text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let small = Zeroizing::new(text.to_ascii_lowercase());
    if text != *small && text != text.to_ascii_uppercase() {
        return None;
    }
    let data = small.strip_prefix(prefix)?.strip_prefix('1')?;
    let mut groups = Zeroizing::new([0_u8; GROUPS + CHECKSUM]);
    if data.len() != groups.len() {
        return None;
    }
    for (group, letter) in groups.iter_mut().zip(data.bytes()) {
        *group = u8::try_from(ALPHABET.iter().position(|known| *known == letter)?).ok()?;
    }
    // 52 groups hold 260 bits: the last four are nothing.
    if polymod(prefix, &*groups) != 1 || groups[GROUPS - 1] & 0b1111 != 0 {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for bit in 0..256 {
        bytes[bit / 8] |= (groups[bit / 5] >> (4 - bit % 5) & 1) << (7 - bit % 8);
    }
    Some(bytes)
}

fn polymod(prefix: &str, groups: &[u8]) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let high = prefix.bytes().map(|byte| byte >> 5);
    let low = prefix.bytes().map(|byte| byte & 31);
    high.chain([0]).chain(low).chain(groups.iter().copied()).fold(1, |sum, group| {
        let top = sum >> 25;
        let sum = (sum & 0x01ff_ffff) << 5 ^ u32::from(group);
        GENERATOR
            .iter()
            .enumerate()
            .fold(sum, |sum, (i, value)| if top >> i & 1 == 1 { sum ^ value } else { sum })
    })
}
