//! The C library's allocator, where it needs to be told something (`mallopt(3)`).

use crate::Privileged;

/// Keeps glibc to its main arena. A thread's own arena, when it shrinks for the first time, opens
/// `/proc/sys/vm/overcommit_memory` (glibc, malloc/arena.c, `check_may_shrink_heap`): a sealed process that
/// may open nothing is killed for it, at some moment under load. Call it before any thread is started.
/// Returns whether the allocator took it; musl's has no arenas and needs nothing.
pub fn use_one_arena(_privileged: &Privileged) -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes two integers; `Privileged` shows that this is the only thread.
        let taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        taken == 1
    }
    #[cfg(not(target_env = "gnu"))]
    true
}
