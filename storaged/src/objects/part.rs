//! What a file's part is called and bound to.
//!
//! **Invariant:** a part's key and associated data are its own: a part that is taken for another, of this
//! file or of any, does not open.

use store_proto::{Cohort, FileId};
use vault::Key256;

/// The layout of sealed parts, as their associated data says.
pub const FORMAT_VERSION: u8 = 1;

/// A part that is about to be written or read.
#[derive(Debug, Clone)]
pub struct Part {
    /// The name of its object.
    pub object: FileId,
    /// Its key, for nothing else.
    pub key: Key256,
    /// What it is bound to.
    pub aad: Vec<u8>,
}

/// file id ‖ number of the part (u32 BE, from 0) ‖ cohort ‖ [`FORMAT_VERSION`]. The cohort is the only part
/// without a fixed length, so no two say the same.
pub fn associated_data(file: FileId, number: u32, cohort: &Cohort) -> Vec<u8> {
    let mut aad = Vec::with_capacity(16 + 4 + cohort.as_str().len() + 1);
    aad.extend_from_slice(file.as_bytes());
    aad.extend_from_slice(&number.to_be_bytes());
    aad.extend_from_slice(cohort.as_str().as_bytes());
    aad.push(FORMAT_VERSION);
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_associated_data_are_as_documented() {
        let aad = associated_data(FileId::from_bytes([7; 16]), 0x0102_0304, &Cohort::parse("c5").unwrap());
        let mut expected = vec![7; 16];
        expected.extend([1, 2, 3, 4, b'c', b'5', 1]);
        assert_eq!(aad, expected);
    }
}
