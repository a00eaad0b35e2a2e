//! Where static keys, pre-shared keys and sessions lie in memory: where the program that uses this crate wants them.
//!
//! **Invariant:** every copy of a key that outlives a call is allocated inside [`kept`]; what a key agreement leaves on the
//! stack is offered to the program by [`forget`].

use std::sync::OnceLock;

/// What a program does for secrets.
#[derive(Debug, Clone, Copy)]
pub struct Keeper {
    /// Runs the work so that what it allocates is kept from others.
    pub within: fn(&mut dyn FnMut()),
    /// Overwrites what calls before this one left on the stack.
    pub wipe_stack: fn(),
}

static KEEPER: OnceLock<Keeper> = OnceLock::new();

/// Says where secrets go from now on; the first word holds.
pub fn keep_with(keeper: Keeper) {
    let _ = KEEPER.set(keeper);
}

/// Runs `work` inside the program's place for secrets.
pub(crate) fn kept<T>(work: impl FnOnce() -> T) -> T {
    let Some(keeper) = KEEPER.get() else { return work() };
    let (mut work, mut made) = (Some(work), None);
    (keeper.within)(&mut || {
        if let Some(work) = work.take() {
            made = Some(work());
        }
    });
    // A keeper that does not run the work is no reason to go without a key.
    match (made, work) {
        (Some(made), _) => made,
        (None, Some(work)) => work(),
        (None, None) => unreachable!("work that was taken was run"),
    }
}

/// After a key agreement: its scalar was on the stack.
pub(crate) fn forget() {
    if let Some(keeper) = KEEPER.get() {
        (keeper.wipe_stack)();
    }
}
