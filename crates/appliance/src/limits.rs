//! Every bound of this crate, with its reason.

/// Digits of a number in a version or a file's name: it fits an `u32`.
pub const NUMBER_DIGITS: usize = 9;
/// How often a new system may be started before it has to be confirmed: once for a power cut, once for chance.
pub const TRIES: u8 = 3;
/// The boot loader counts with two digits.
pub const TRIES_AT_MOST: u8 = 99;
/// The first line of a bundle: a word and the length of the note.
pub const HEAD_BYTES: usize = 32;
/// Nothing of a bundle's note is longer than a hash and a size.
pub const MANIFEST_BYTES: usize = 1024;
/// An image is read by its blocks.
pub const BLOCK_BYTES: u64 = 4096;
/// The first process takes images of 2²² blocks, and their hash tree comes on top.
pub const ROOT_BYTES_AT_MOST: u64 = 17 << 30;
/// Kernel, initial file system and command line: a tenth of this today.
pub const BOOT_BYTES_AT_MOST: u64 = 256 << 20;
