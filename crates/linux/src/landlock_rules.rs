//! Landlock (`landlock(7)`): which paths and TCP ports a process can reach, however it is tricked.
//!
//! The best that the running kernel has is asked for; what was achieved is reported, never assumed.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::lockdown::LayerState;

/// The newest ABI whose rights we know how to deny. Older kernels get what they have.
const KNOWN_ABI: ABI = ABI::V6;

/// A directory or file that stays reachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRule {
    path: PathBuf,
    access: FileAccess,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileAccess {
    Read,
    ReadWrite,
    Remove,
    Replace,
}

impl FileRule {
    /// Everything beneath `path` may be read.
    pub fn read(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), access: FileAccess::Read }
    }

    /// Everything beneath `path` may be read, written, created, renamed and removed; nothing executed.
    pub fn read_write(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), access: FileAccess::ReadWrite }
    }

    /// Files beneath the directory `path` may be removed; neither read nor made.
    pub fn remove(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), access: FileAccess::Remove }
    }

    /// Files beneath the directory `path` may be read, made, written and renamed over each other.
    pub fn replace(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), access: FileAccess::Replace }
    }

    /// Where the rule begins.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Why the rules could not be put on.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// A path that should stay reachable cannot be opened.
    #[error("{0}: {1}")]
    Path(PathBuf, landlock::PathFdError),
    /// The kernel refused the rules.
    #[error(transparent)]
    Ruleset(#[from] landlock::RulesetError),
}

/// The kernel's Landlock ABI, or `None` where it has no Landlock.
pub(crate) fn kernel_abi() -> Option<u8> {
    /// `LANDLOCK_CREATE_RULESET_VERSION`, include/uapi/linux/landlock.h
    const VERSION: u32 = 1;
    // SAFETY: with a null attribute, size 0 and the VERSION flag the call only returns a number.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    u8::try_from(answer).ok().filter(|abi| *abi > 0)
}

/// Confines the calling thread (and all it will start) to `files` and the TCP ports.
pub(crate) fn restrict(
    files: &[FileRule],
    tcp_bind: &[u16],
    tcp_connect: &[u16],
) -> Result<LayerState, LandlockError> {
    let read = AccessFs::from_read(KNOWN_ABI) & !AccessFs::Execute;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN_ABI))?
        .handle_access(AccessNet::from_all(KNOWN_ABI))?
        .scope(Scope::from_all(KNOWN_ABI))?
        .create()?;
    for rule in files {
        let beneath =
            PathFd::new(&rule.path).map_err(|error| LandlockError::Path(rule.path.clone(), error))?;
        let is_file = rule.path.is_file();
        let rights = match rule.access {
            FileAccess::Read => read,
            FileAccess::ReadWrite => read | AccessFs::from_write(KNOWN_ABI),
            FileAccess::Remove => AccessFs::RemoveFile.into(),
            FileAccess::Replace => read | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile,
        };
        let rights = if is_file { rights & AccessFs::from_file(KNOWN_ABI) } else { rights };
        ruleset = ruleset.add_rule(PathBeneath::new(beneath, rights))?;
    }
    for port in tcp_bind {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    for port in tcp_connect {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    let status = ruleset.restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => LayerState::On,
        RulesetStatus::PartiallyEnforced => LayerState::Partial(format!(
            "the kernel has Landlock ABI {}, the rules use up to {}",
            kernel_abi().unwrap_or(0),
            KNOWN_ABI as u8
        )),
        RulesetStatus::NotEnforced => {
            LayerState::Off("the kernel has no Landlock, or it is switched off".into())
        }
    })
}
