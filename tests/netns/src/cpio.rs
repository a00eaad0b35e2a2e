//! The initial file system of a guest: an archive in the kernel's `newc` format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::path::{Component, Path};

use anyhow::{Context as _, Result};

/// An archive that grows.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
    directories: Vec<String>,
    files: Vec<String>,
}

/// File type and permissions, as in `stat`.
const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

impl Archive {
    /// Adds a directory and those above it.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        let mut so_far = String::new();
        for part in Path::new(path).components() {
            let Component::Normal(part) = part else { continue };
            if !so_far.is_empty() {
                so_far.push('/');
            }
            so_far.push_str(part.to_str().context("a path that is not UTF-8")?);
            if !self.directories.contains(&so_far) {
                self.directories.push(so_far.clone());
                self.entry(&so_far, DIRECTORY, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file, and the directories above it, that may be executed.
    pub fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let path = path.trim_start_matches('/');
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above)?;
        }
        self.files.push(path.to_owned());
        self.entry(path, EXECUTABLE, (0, 0), content)
    }

    /// Whether a file of this path is in it.
    pub fn has(&self, path: &str) -> bool {
        self.files.iter().any(|file| file == path.trim_start_matches('/'))
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[])
    }

    /// The archive with its end.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        self.inodes += 1;
        let size = u32::try_from(content.len()).context("a file of 4 GiB")?;
        let name_size = u32::try_from(name.len() + 1).context("a long name")?;
        // inode, mode, uid, gid, links, mtime, size, device (2), device it is (2), name's size, checksum
        let fields = [self.inodes, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_begins_on_a_word_and_says_its_size() {
        let mut archive = Archive::default();
        archive.file("/a/b/c", b"xyz").unwrap();
        archive.file("a/b/d", b"").unwrap();
        let bytes = archive.finish().unwrap();
        let mut names = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            assert_eq!(&rest[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&rest[6 + index * 8..14 + index * 8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6), field(11));
            names.push(String::from_utf8(rest[110..110 + name_size - 1].to_vec()).unwrap());
            rest = &rest[(110 + name_size).next_multiple_of(4) + size.next_multiple_of(4)..];
        }
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d", "TRAILER!!!"]);
    }
}
