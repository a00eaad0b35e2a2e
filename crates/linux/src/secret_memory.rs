//! A page for keys: out of swap, of dumps and of forked children, and out of the kernel's own map where there
//! is `memfd_secret(2)`.
//!
//! **Invariant:** the bytes are wiped before the page goes back, and [`Protection`] says truly what keeps them.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::NonNull;

/// What keeps the bytes from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// `memfd_secret`: not even root reads them through `/proc/PID/mem`, and no dump of the kernel holds them.
    MemfdSecret,
    /// `mlock`, `MADV_DONTDUMP` and `MADV_DONTFORK`; the text says why there is no `memfd_secret`.
    Locked(String),
    /// Ordinary memory; the text says why it is not locked.
    Ordinary(String),
}

impl Protection {
    /// The word in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MemfdSecret => "memfd_secret",
            Self::Locked(_) => "mlock",
            Self::Ordinary(_) => "ordinary",
        }
    }
}

/// Bytes in memory of their own. They begin as zeroes.
pub struct SecretMemory {
    start: NonNull<u8>,
    bytes: usize,
    protection: Protection,
}

// SAFETY: it owns its mapping alone; shared references only read it.
unsafe impl Send for SecretMemory {}
// SAFETY: as above: writing takes `&mut self`.
unsafe impl Sync for SecretMemory {}

impl SecretMemory {
    /// Maps room for so many bytes. Call it before the seal: afterwards the kernel refuses what it needs.
    ///
    /// # Errors
    /// When nothing can be mapped at all.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let bytes = bytes.max(1);
        match map_secret(bytes) {
            Ok(start) => Ok(Self { start, bytes, protection: Protection::MemfdSecret }),
            Err(why) => Self::locked(bytes, &why),
        }
    }

    fn locked(bytes: usize, why: &io::Error) -> io::Result<Self> {
        let start = map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        let protection = match lock(start, bytes) {
            Ok(()) => Protection::Locked(format!("memfd_secret: {why}")),
            Err(error) => Protection::Ordinary(format!("memfd_secret: {why}; mlock: {error}")),
        };
        Ok(Self { start, bytes, protection })
    }

    /// What keeps the bytes from others.
    pub fn protection(&self) -> &Protection {
        &self.protection
    }

    /// Where it begins, for whoever hands out parts of it and so must make no slice of the whole.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `new` mapped `bytes` readable bytes here, zeroed by the kernel, and only `drop` unmaps them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// The bytes, to write them.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, writable, and `&mut self` is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for SecretMemory {
    fn drop(&mut self) {
        for byte in self.as_mut_slice() {
            // SAFETY: a reference to one valid byte; volatile, for nobody reads it afterwards.
            unsafe { std::ptr::write_volatile(byte, 0) };
        }
        // SAFETY: the mapping that `new` made, which nobody refers to any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

impl fmt::Debug for SecretMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretMemory({} bytes, {})", self.bytes, self.protection.name())
    }
}

/// `memfd_secret(2)`, Linux 5.14; off where `secretmem.enable=0` was the default (before 6.5).
fn map_secret(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: takes one integer of flags, and answers with a new descriptor or an error.
    let answer = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let number = libc::c_int::try_from(answer).map_err(io::Error::other)?;
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let file = unsafe { OwnedFd::from_raw_fd(number) };
    let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: two integers; the descriptor lives until the end of this function.
    if unsafe { libc::ftruncate(file.as_raw_fd(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let start = map(bytes, libc::MAP_SHARED, file.as_raw_fd())?;
    // A forked helper must not inherit it. The mapping keeps the memory when the descriptor is closed.
    advise(start, bytes, libc::MADV_DONTFORK)?;
    Ok(start)
}

fn lock(start: NonNull<u8>, bytes: usize) -> io::Result<()> {
    advise(start, bytes, libc::MADV_DONTDUMP)?;
    advise(start, bytes, libc::MADV_DONTFORK)?;
    // SAFETY: the range is the mapping that the caller has just made.
    if unsafe { libc::mlock(start.as_ptr().cast(), bytes) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn map(bytes: usize, flags: libc::c_int, descriptor: libc::c_int) -> io::Result<NonNull<u8>> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, descriptor, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))
}

fn advise(start: NonNull<u8>, bytes: usize, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the range is a mapping of this file, and none of these pieces of advice changes its content.
    if unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn secret_memory_begins_empty_and_keeps_what_is_written() {
        let mut memory = SecretMemory::new(64).unwrap();
        assert_eq!(memory.as_slice(), [0; 64]);
        memory.as_mut_slice()[7] = 9;
        assert_eq!(memory.as_slice()[7], 9);
        assert!(!format!("{memory:?}").contains('9'));
    }

    #[test]
    fn a_secret_page_is_not_readable_through_proc() {
        let mut memory = SecretMemory::new(64).unwrap();
        memory.as_mut_slice().fill(0x5a);
        let file = std::fs::File::open("/proc/self/mem").unwrap();
        let read = file.read_at(&mut [0; 8], memory.as_slice().as_ptr() as u64);
        match memory.protection() {
            Protection::MemfdSecret => assert!(read.is_err()),
            // A kernel without it: nothing is claimed of /proc.
            Protection::Locked(why) | Protection::Ordinary(why) => assert!(why.contains("memfd_secret")),
        }
    }

    #[test]
    fn without_memfd_secret_the_page_is_locked_and_says_so() {
        let why = io::Error::from_raw_os_error(libc::ENOSYS);
        let mut memory = SecretMemory::locked(64, &why).unwrap();
        memory.as_mut_slice().fill(1);
        let start = memory.as_slice().as_ptr() as usize;
        match memory.protection() {
            Protection::Locked(why) => assert!(why.contains("memfd_secret"), "{why}"),
            Protection::MemfdSecret | Protection::Ordinary(_) => panic!("RLIMIT_MEMLOCK allows no page here"),
        }
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let flags =
            smaps.split("VmFlags:").zip(smaps.split("VmFlags:").skip(1)).find_map(|(before, after)| {
                let range = before.lines().rev().find(|line| {
                    line.split_once('-').is_some_and(|(from, _)| usize::from_str_radix(from, 16).is_ok())
                })?;
                let (from, rest) = range.split_once('-')?;
                let to = rest.split(' ').next()?;
                let hex = |text| usize::from_str_radix(text, 16).ok();
                (hex(from)? <= start && start < hex(to)?)
                    .then(|| after.lines().next().unwrap_or("").to_owned())
            });
        let flags = flags.expect("the page is in smaps");
        assert!(["lo", "dd", "dc"].iter().all(|flag| flags.split(' ').any(|word| word == *flag)), "{flags}");
    }
}
