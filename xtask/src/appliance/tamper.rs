//! An image that is not the one that was built: each case stops before anything of it has done its work.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::machine::{Machine, Setup};
use super::pair::Pair;
use super::{SEALED, shell};
use crate::image;

const BLOCK: u64 = 4096;

/// What the first process says when it refuses, and what the kernel says when it stops.
const REFUSED: &str = "culvert: REFUSED: ";
const PANIC: &str = "Kernel panic - not syncing: dm-verity device";

/// What a machine shows that came up: the report's first line.
const UP: &str = "WHAT      FOUND";

pub(super) fn data_block(pair: &mut Pair) -> Result<()> {
    let source = image::place(SEALED).join("root.img");
    // Where the file system has the program that is started first.
    let extents = shell(&format!("dump.erofs -e --path=/usr/lib/systemd/systemd {}", source.display()))?;
    let at = first_extent(&extents).with_context(|| format!("no extent of systemd in:\n{extents}"))?;
    // Well inside its code.
    let said = boot(pair, Some(at + 64 * BLOCK), None, "")?;
    ensure!(
        said.contains("is verified and mounted"),
        "the flipped bit is not where a first look misses it\n{said}"
    );
    ensure!(said.contains(PANIC), "the kernel did not stop:\n{said}");
    Ok(())
}

pub(super) fn any_block(pair: &mut Pair) -> Result<()> {
    let said = boot(pair, Some((blocks()? - 1) * BLOCK), None, "culvert.verify=all")?;
    ensure!(said.contains(PANIC) && !said.contains("is verified and mounted"), "it went on:\n{said}");
    // The same with nothing flipped: the whole image is read and used.
    let machine = Setup {
        image: &image::place(SEALED),
        root: None,
        data: None,
        tap: None,
        replace: None,
        append: "culvert.verify=all",
    };
    let mut machine = Machine::boot("whole", &machine, pair.place())?;
    machine
        .until("all is read", |text| text.contains("of the image are as they were built").then_some(()))?;
    machine.until("it is up", |text| text.contains(UP).then_some(()))
}

pub(super) fn hash_tree(pair: &mut Pair) -> Result<()> {
    // Behind the superblock's block comes the tree's top, by which everything is read.
    let top = blocks()? + 1;
    let said = boot(pair, Some(top * BLOCK + 5), None, "")?;
    ensure!(said.contains(REFUSED) && said.contains("hash tree"), "it was not refused:\n{said}");
    // The first block of the lowest level is that of the file system's own beginning.
    let said = boot(pair, Some((top + above_the_lowest(blocks()?)) * BLOCK + 5), None, "")?;
    ensure!(said.contains(PANIC), "the kernel did not stop:\n{said}");
    Ok(())
}

/// How many blocks of a tree over `blocks` are above its lowest level: a block holds 128 hashes.
fn above_the_lowest(blocks: u64) -> u64 {
    let mut level = blocks.div_ceil(128);
    let mut above = 0;
    while level > 1 {
        level = level.div_ceil(128);
        above += level;
    }
    above
}

pub(super) fn superblock(pair: &mut Pair) -> Result<()> {
    // The first byte of its salt, which is one of its UUID, too.
    let said = boot(pair, Some(blocks()? * BLOCK + 88), None, "")?;
    ensure!(said.contains(REFUSED) && said.contains("superblock"), "it was not refused:\n{said}");
    Ok(())
}

pub(super) fn root_hash(pair: &mut Pair) -> Result<()> {
    let hash = fs::read_to_string(image::place(SEALED).join("roothash")).context("read the root hash")?;
    let hash = hash.trim();
    let last = if hash.ends_with('0') { "1" } else { "0" };
    let other = format!("{}{last}", &hash[..hash.len() - 1]);
    let said = boot(pair, None, Some((hash, &other)), "")?;
    ensure!(said.contains(REFUSED) && said.contains("culvert.roothash"), "it was not refused:\n{said}");
    Ok(())
}

/// Boots a copy of the image with a bit flipped; what it said before it ended. It never comes up.
fn boot(pair: &Pair, flip: Option<u64>, replace: Option<(&str, &str)>, append: &str) -> Result<String> {
    let image = image::place(SEALED);
    let copy: PathBuf = pair.place().join("tampered.img");
    fs::copy(image.join("root.img"), &copy).context("copy the image")?;
    if let Some(at) = flip {
        let file = File::options().read(true).write(true).open(&copy).context("open the copy")?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).context("read the byte")?;
        file.write_all_at(&[byte[0] ^ 0x10], at).context("flip the bit")?;
    }
    let setup = Setup { image: &image, root: Some(&copy), data: None, tap: None, replace, append };
    let said = Machine::boot("tampered", &setup, pair.place())?.ended()?;
    fs::remove_file(&copy).context("remove the copy")?;
    ensure!(!said.contains(UP), "it came up:\n{said}");
    Ok(said)
}

fn blocks() -> Result<u64> {
    let text =
        fs::read_to_string(image::place(SEALED).join("blocks")).context("read the number of blocks")?;
    text.trim().parse().context("the number of blocks")
}

/// Of `dump.erofs -e`: lines such as `   0:        0..  131072 | 131072 :   12288..   45056 |   32768`.
fn first_extent(text: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (_, physical) = line.split_once('|')?;
        let (_, physical) = physical.split_once(':')?;
        physical.split_once("..")?.0.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trees_levels_are_counted() {
        // One level; two; three, of which 2 + 1 are above the lowest one's 196.
        assert_eq!([100, 129, 25_000].map(above_the_lowest), [0, 1, 3]);
    }

    #[test]
    fn the_place_of_a_file_is_read() {
        let text = "File : /usr/lib/systemd/systemd\n\n Ext:   logical offset   |  length :     physical offset    |  length\n   \
            0:        0..    8192 |    8192 :   8228864..   8232960 |    4096\n";
        assert_eq!(first_extent(text), Some(8_228_864));
        assert_eq!(first_extent("nothing"), None);
    }
}
