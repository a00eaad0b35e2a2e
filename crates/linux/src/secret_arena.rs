//! An allocator for programs with keys: what is allocated while [`within`] runs lies in [`SecretMemory`], whatever crate
//! asks for it.
//!
//! **Invariant:** memory of the arena is wiped when it is given back, and what once lay in it stays in it when it grows. What
//! does not fit lies in ordinary memory and is counted ([`missed`]); a program that needs no keys never notices this file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::Privileged;
use crate::secret_memory::{Protection, SecretMemory};

/// To be named as the program's `#[global_allocator]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct SecretAware;

/// What is given out: so many bytes, at an address that is a multiple of them.
const BLOCK_BYTES: usize = 64;
/// The most that an arena can hold.
const MOST_BLOCKS: usize = 16 * 1024;
/// How deep the calls of a key agreement write into the stack below its caller's frame: measured at under 6 KiB.
const STACK_BYTES: usize = 16 * 1024;

/// Where the arena begins and ends; 0 before [`open`].
static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
static ARENA: Mutex<Option<Arena>> = Mutex::new(None);
static PROTECTION: OnceLock<Protection> = OnceLock::new();
static MISSED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// How many calls of [`within`] this thread is in. Neither made late nor dropped, as an allocator needs it.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

struct Arena {
    memory: SecretMemory,
    /// A bit for each block that is given out.
    taken: [u64; MOST_BLOCKS / 64],
    blocks: usize,
    free: usize,
}

/// Maps the arena, once; before the seal, and after the last fork, for a forked child does not have it.
///
/// # Errors
/// When nothing can be mapped, or there is one already.
pub fn open(_privileged: &Privileged, bytes: usize) -> io::Result<&'static Protection> {
    let blocks = (bytes / BLOCK_BYTES).min(MOST_BLOCKS);
    let memory = SecretMemory::new(blocks * BLOCK_BYTES)?;
    let mut arena = arena();
    if arena.is_some() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the arena is open already"));
    }
    let start = memory.start().as_ptr() as usize;
    let protection = PROTECTION.get_or_init(|| memory.protection().clone());
    *arena = Some(Arena { memory, taken: [0; MOST_BLOCKS / 64], blocks, free: blocks });
    END.store(start + blocks * BLOCK_BYTES, Ordering::Release);
    START.store(start, Ordering::Release);
    Ok(protection)
}

/// What keeps the arena from others; `None` where none was opened.
pub fn protection() -> Option<&'static Protection> {
    PROTECTION.get()
}

/// How many allocations did not fit.
pub fn missed() -> usize {
    MISSED.load(Ordering::Relaxed)
}

/// Runs `work`; what it allocates lies in the arena, if there is one.
pub fn within<T>(work: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            let _ = DEPTH.try_with(|depth| depth.set(depth.get().saturating_sub(1)));
        }
    }
    // A thread that is ending has no depth any more, and makes no keys.
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() + 1));
    let _leave = Leave;
    work()
}

/// Overwrites what calls before this one left below the caller's frame.
#[inline(never)]
pub fn wipe_stack() {
    let mut below = [0_u64; STACK_BYTES / 8];
    for word in &mut below {
        // SAFETY: a reference to one valid word; volatile, for nobody reads it.
        unsafe { ptr::write_volatile(word, 0) };
    }
    std::hint::black_box(&below);
}

fn arena() -> MutexGuard<'static, Option<Arena>> {
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_secret() -> bool {
    DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false)
}

fn is_inside(pointer: *mut u8) -> bool {
    let (start, address) = (START.load(Ordering::Acquire), pointer as usize);
    start != 0 && address >= start && address < END.load(Ordering::Acquire)
}

/// Takes memory from the arena.
fn take(layout: Layout) -> Option<NonNull<u8>> {
    // Nobody allocates in here: the guard and the bits are where they are.
    let found = arena().as_mut().and_then(|arena| arena.take(layout));
    if found.is_none() && START.load(Ordering::Acquire) != 0 {
        MISSED.fetch_add(1, Ordering::Relaxed);
    }
    found
}

fn give_back(pointer: *mut u8, layout: Layout) {
    if let Some(arena) = arena().as_mut() {
        arena.give_back(pointer, layout);
    }
}

impl Arena {
    fn is_taken(&self, block: usize) -> bool {
        self.taken[block / 64] & (1 << (block % 64)) != 0
    }

    fn mark(&mut self, first: usize, count: usize, taken: bool) {
        for block in first..first + count {
            let bit = 1 << (block % 64);
            let word = &mut self.taken[block / 64];
            *word = if taken { *word | bit } else { *word & !bit };
        }
    }

    /// The first place that is long enough.
    fn take(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let wanted = layout.size().div_ceil(BLOCK_BYTES).max(1);
        if layout.align() > BLOCK_BYTES || wanted > self.free {
            return None;
        }
        let (mut first, mut length, mut block) = (0, 0, 0);
        while block < self.blocks {
            // 64 at once, for the arena may be nearly full.
            if block % 64 == 0 && self.taken[block / 64] == u64::MAX {
                block += 64;
                (first, length) = (block, 0);
                continue;
            }
            if self.is_taken(block) {
                (first, length) = (block + 1, 0);
            } else {
                length += 1;
                if length == wanted {
                    self.mark(first, wanted, true);
                    self.free -= wanted;
                    // SAFETY: the block is one of the mapping's.
                    return Some(unsafe { self.memory.start().add(first * BLOCK_BYTES) });
                }
            }
            block += 1;
        }
        None
    }

    fn give_back(&mut self, pointer: *mut u8, layout: Layout) {
        let count = layout.size().div_ceil(BLOCK_BYTES).max(1);
        let first = (pointer as usize - self.memory.start().as_ptr() as usize) / BLOCK_BYTES;
        for at in 0..count * BLOCK_BYTES {
            // SAFETY: these blocks were given out at `pointer`, and are its owner's until this call; volatile, for nobody
            // reads them until they are given out again.
            unsafe { ptr::write_volatile(pointer.add(at), 0) };
        }
        self.mark(first, count, false);
        self.free += count;
    }
}

// SAFETY: memory comes from `System`, or from the arena, whose blocks are given to one owner at a time, are as long as was
// asked for, aligned to 64 bytes, and never unmapped. Nothing here unwinds or allocates.
unsafe impl GlobalAlloc for SecretAware {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_secret()
            && let Some(place) = take(layout)
        {
            return place.as_ptr();
        }
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_secret()
            && let Some(place) = take(layout)
        {
            // It was wiped when it was given back, and is zero from the beginning.
            return place.as_ptr();
        }
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if is_inside(pointer) {
            give_back(pointer, layout);
            return;
        }
        // SAFETY: as in `alloc`; what is not inside came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !is_inside(pointer) && !is_secret() {
            // SAFETY: as in `dealloc`.
            return unsafe { System.realloc(pointer, layout, new_size) };
        }
        // SAFETY: the caller promises that `new_size`, rounded up to the alignment, is no overflow.
        let wanted = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let place = match take(wanted) {
            Some(place) => place.as_ptr(),
            // SAFETY: as in `alloc`.
            None => unsafe { System.alloc(wanted) },
        };
        if !place.is_null() {
            let kept = layout.size().min(new_size);
            // SAFETY: both are valid for `kept` bytes, and the new one is nobody else's.
            unsafe { ptr::copy_nonoverlapping(pointer, place, kept) };
            if !is_inside(pointer) {
                // SAFETY: the old memory, which is the caller's until the next line: a secret may have begun there.
                unsafe { ptr::write_bytes(pointer, 0, layout.size()) };
            }
            // SAFETY: the caller gives it up, and it came from this allocator.
            unsafe { self.dealloc(pointer, layout) };
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena_of(blocks: usize) -> Arena {
        let memory = SecretMemory::new(blocks * BLOCK_BYTES).unwrap();
        Arena { memory, taken: [0; MOST_BLOCKS / 64], blocks, free: blocks }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, 8).unwrap()
    }

    #[test]
    fn places_do_not_overlap_and_are_given_out_again() {
        let mut arena = arena_of(130);
        let first = arena.take(layout(100)).unwrap();
        let second = arena.take(layout(64 * 100)).unwrap();
        assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, 128);
        assert!(arena.take(layout(64 * 29)).is_none(), "28 blocks are left");
        assert!(arena.take(layout(64 * 28)).is_some());
        arena.give_back(second.as_ptr(), layout(64 * 100));
        assert_eq!(arena.take(layout(64 * 100)), Some(second));
        assert!(arena.take(Layout::from_size_align(8, 4096).unwrap()).is_none(), "no such alignment");
    }

    #[test]
    fn what_is_given_back_is_wiped() {
        let mut arena = arena_of(4);
        let place = arena.take(layout(64)).unwrap();
        arena.memory.as_mut_slice()[..64].fill(7);
        arena.give_back(place.as_ptr(), layout(64));
        assert_eq!(arena.memory.as_slice()[..64], [0; 64]);
    }

    #[test]
    fn without_an_arena_secrets_lie_in_ordinary_memory() {
        let bytes = within(|| vec![7_u8; 100]);
        assert!(!is_inside(bytes.as_ptr().cast_mut()) && protection().is_none());
        assert_eq!(missed(), 0, "nothing was promised");
    }
}
