//! The system's image behind dm-verity: data blocks, then a superblock, then the tree of their hashes, in one device.
//!
//! Invariant: the root hash and the number of blocks come from the command line. The superblock has nothing to say: it has to
//! be, byte for byte, what follows from them and from the salt that the tree's root was made with.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use sha2::{Digest as _, Sha256};

use crate::arguments::Arguments;

/// Of data and of hashes: the erofs blocks and a page.
pub(crate) const BLOCK: u64 = 4096;

/// What a table counts in.
const SECTOR: u64 = 512;

/// `struct verity_sb` of cryptsetup's `lib/verity/verity.c`, as long as a sector.
const SUPERBLOCK: usize = 512;
const SALT: std::ops::Range<usize> = 88..120;
const UUID: std::ops::Range<usize> = 16..32;

/// Opens the image; the file of the verified device.
pub(crate) fn open(image: &Path, arguments: &Arguments) -> Result<PathBuf> {
    let salt = look(image, arguments)?;
    let device = image.to_str().context("the device's name is not UTF-8")?;
    let table = table(device, &salt, arguments);
    let sectors = arguments.blocks * (BLOCK / SECTOR);
    linux::device_mapper::make_read_only("culvert-root", sectors, "verity", &table)
        .context("the kernel does not take the image")
}

/// Whether it is the image of the root hash, as far as that can be told from the top of its tree; its salt. The kernel looks
/// at everything again: this is for a plain word instead of a panic, and to find the right one of two.
pub(crate) fn look(image: &Path, arguments: &Arguments) -> Result<[u8; 32]> {
    let file = File::open(image).with_context(|| format!("open {}", image.display()))?;
    let mut superblock = [0; SUPERBLOCK];
    let mut top = vec![0; usize::try_from(BLOCK).context("the size of a block")?];
    file.read_exact_at(&mut superblock, arguments.blocks * BLOCK)
        .and_then(|()| file.read_exact_at(&mut top, (arguments.blocks + 1) * BLOCK))
        .context("it ends before its hash tree")?;
    let salt = salt(&superblock, arguments.blocks)?;
    ensure!(
        hex(&Sha256::new().chain_update(salt).chain_update(&top).finalize()) == arguments.root_hash,
        "its hash tree is not that of culvert.roothash"
    );
    Ok(salt)
}

/// The salt, if the rest of the superblock is what it must be.
fn salt(superblock: &[u8; SUPERBLOCK], blocks: u64) -> Result<[u8; 32]> {
    let mut salt = [0; 32];
    salt.copy_from_slice(&superblock[SALT]);
    ensure!(*superblock == expected(&salt, blocks), "the hash tree's superblock is not that of this image");
    Ok(salt)
}

/// The superblock of an image with this salt. Its UUID is the salt's beginning: nothing in it is free.
fn expected(salt: &[u8; 32], blocks: u64) -> [u8; SUPERBLOCK] {
    let mut bytes = [0; SUPERBLOCK];
    bytes[0..8].copy_from_slice(b"verity\0\0");
    // Version, and the kind of tree that puts the salt first.
    bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&1_u32.to_le_bytes());
    bytes[UUID].copy_from_slice(&salt[..16]);
    bytes[32..38].copy_from_slice(b"sha256");
    bytes[64..68].copy_from_slice(&4096_u32.to_le_bytes());
    bytes[68..72].copy_from_slice(&4096_u32.to_le_bytes());
    bytes[72..80].copy_from_slice(&blocks.to_le_bytes());
    bytes[80..82].copy_from_slice(&32_u16.to_le_bytes());
    bytes[SALT].copy_from_slice(salt);
    bytes
}

/// The kernel's Documentation/admin-guide/device-mapper/verity.rst. Corruption stops the machine: a read error would leave
/// it to each program what to do without its own code.
fn table(device: &str, salt: &[u8], arguments: &Arguments) -> String {
    let salt = hex(salt);
    let Arguments { blocks, root_hash, .. } = arguments;
    format!(
        "1 {device} {device} {BLOCK} {BLOCK} {blocks} {} sha256 {root_hash} {salt} 1 panic_on_corruption",
        // The superblock has a block of its own.
        blocks + 1
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads all of it, which the kernel verifies on the way; how much it was.
pub(crate) fn read_all(device: &Path) -> Result<u64> {
    let mut file = File::open(device).with_context(|| format!("open {}", device.display()))?;
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(length) => total += length as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => bail!("the image is damaged behind {total} bytes: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Data, Device, Root};

    #[test]
    fn every_byte_of_the_superblock_counts() {
        let good = expected(&[7; 32], 1000);
        assert_eq!(salt(&good, 1000).unwrap(), [7; 32]);
        for at in 0..SUPERBLOCK {
            let mut bad = good;
            bad[at] ^= 1;
            let accepted = salt(&bad, 1000);
            // The second half of the salt is held by the root hash alone, with which it is hashed.
            assert!(accepted.is_err() || (SALT.start + 16..SALT.end).contains(&at), "byte {at}");
        }
        assert!(salt(&good, 1001).is_err());
    }

    #[test]
    fn the_table_is_the_kernels() {
        let arguments = Arguments {
            root: Root::On(Device::Name("vda".into())),
            root_hash: "ab".repeat(32),
            blocks: 10,
            data: Data::InMemory,
            verify_all: false,
        };
        assert_eq!(
            table("/dev/vda", &[1; 32], &arguments),
            format!(
                "1 /dev/vda /dev/vda 4096 4096 10 11 sha256 {} {} 1 panic_on_corruption",
                "ab".repeat(32),
                "01".repeat(32)
            )
        );
    }

    #[test]
    fn only_the_image_of_the_root_hash_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let salt = [9; 32];
        let mut image = vec![1; 4096];
        image.extend(expected(&salt, 1));
        image.resize(8192, 0);
        image.extend([2; 4096]);
        let root_hash = hex(&Sha256::new().chain_update(salt).chain_update([2; 4096]).finalize());
        let arguments =
            Arguments { root: Root::Slots, root_hash, blocks: 1, data: Data::InMemory, verify_all: false };
        std::fs::write(&path, &image).unwrap();
        assert_eq!(look(&path, &arguments).unwrap(), salt);
        // The second half of the salt, and the tree's top.
        for at in [4096 + SALT.end - 1, 8192, 12287] {
            let mut bad = image.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(look(&path, &arguments).unwrap_err().to_string().contains("roothash"), "byte {at}");
        }
        std::fs::write(&path, &image[..12287]).unwrap();
        assert!(look(&path, &arguments).is_err());
    }
}
