//! Capability sets of the calling thread (`capabilities(7)`), through the `caps` crate.
//!
//! **Invariant:** capabilities belong to a thread. These calls are made while the process has one thread,
//! so every later thread is born with what is left.

use std::collections::HashSet;

use caps::{CapSet, Capability};

/// Empties the bounding and ambient sets. Needs `CAP_SETPCAP`, so it comes before the permitted set goes.
pub(crate) fn drop_bounding_except(keep: &[Capability]) -> Result<(), caps::errors::CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        return Ok(());
    }
    let bounding = caps::read(None, CapSet::Bounding)?;
    for capability in bounding {
        if !keep.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    Ok(())
}

/// Reduces effective, permitted and inheritable to `keep`, and empties the bounding set of the rest.
pub(crate) fn reduce_to(keep: &[Capability]) -> Result<(), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep: HashSet<Capability> = keep.iter().copied().filter(|c| permitted.contains(c)).collect();
    // Not asked for where it would change nothing: a service manager's filter may have taken `capset` away from a process
    // that was started without any.
    for (set, wanted) in
        [(CapSet::Inheritable, &HashSet::new()), (CapSet::Effective, &keep), (CapSet::Permitted, &keep)]
    {
        if caps::read(None, set)? != *wanted {
            caps::set(None, set, wanted)?;
        }
    }
    Ok(())
}

/// What is left in each set, in the order of `/proc/pid/status`.
pub(crate) fn leftovers() -> Result<Vec<(CapSet, Vec<Capability>)>, caps::errors::CapsError> {
    [CapSet::Inheritable, CapSet::Permitted, CapSet::Effective, CapSet::Bounding, CapSet::Ambient]
        .into_iter()
        .map(|set| Ok((set, caps::read(None, set)?.into_iter().collect())))
        .collect()
}
