//! Privileges as types: `Privileged → Confined → Sealed`.
//!
//! **Invariant:** functions that need privileges borrow [`Privileged`]; [`Privileged::confine`] consumes it,
//! while the process still has one thread, because capabilities, `no_new_privs` and Landlock belong to
//! threads. [`Confined::seal`] puts the system-call filter on all threads. A daemon's `run` demands
//! [`Sealed`], so a late privileged call does not compile.

use std::marker::PhantomData;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::landlock_rules::{self, FileRule, LandlockError};
use crate::lockdown::{Layer, LayerState, Lockdown};
use crate::seccomp::{FilterError, Filters, SyscallRule};
use crate::{Capability, User, capabilities};

/// Proof that the process still has what it was started with, and one thread only.
#[derive(Debug)]
pub struct Privileged {
    /// Neither `Send` nor `Sync`: privileged work happens on the main thread.
    not_send: PhantomData<*const ()>,
}

/// Proof that this process has given up its privileges.
#[derive(Debug)]
pub struct Confined {
    lockdown: Lockdown,
    require_all: bool,
}

/// Proof that every thread is under the system-call filter.
#[derive(Debug)]
pub struct Sealed {
    lockdown: Lockdown,
}

/// What is left after [`Privileged::confine`].
#[derive(Debug, Clone, Default)]
pub struct Confinement {
    /// The user to become; `None` stays.
    pub user: Option<User>,
    /// Capabilities to keep; empty for all that touch a packet or a request.
    pub keep: Vec<Capability>,
    /// `RLIMIT_FSIZE` 0: not one byte into a regular file, whoever opened it.
    pub forbid_file_writes: bool,
    /// Paths that stay reachable; all others are denied.
    pub files: Vec<FileRule>,
    /// TCP ports that may still be bound (kernels from Landlock ABI 4).
    pub tcp_bind: Vec<u16>,
    /// TCP ports that may still be connected to (kernels from Landlock ABI 4).
    pub tcp_connect: Vec<u16>,
    /// A layer that cannot be put on is an error; otherwise it is reported in [`Lockdown`].
    pub require_all: bool,
}

/// Why the process is not known to be privileged and single-threaded.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// `/proc` is not there.
    #[error("count this process's threads in /proc/self/task: {0}")]
    Proc(std::io::Error),
    /// Another thread already runs.
    #[error("{0} threads run already; privileges must be dropped while there is one")]
    Threads(usize),
}

/// Why the process could not give up its privileges.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A thread was started between start-up and here.
    #[error(transparent)]
    Threads(#[from] PrivilegeError),
    /// A limit could not be set.
    #[error("set limit {0}: {1}")]
    Limit(&'static str, nix::Error),
    /// The user could not be changed.
    #[error("become user {uid}:{gid}: {error}", uid = .user.uid, gid = .user.gid)]
    User {
        /// Who we wanted to become.
        user: User,
        /// The system's answer.
        error: nix::Error,
    },
    /// Capabilities could not be dropped.
    #[error("drop capabilities: {0}")]
    Capabilities(caps::errors::CapsError),
    /// Capabilities are left that should not be.
    #[error("capabilities are left after dropping them: {0}")]
    Leftover(String),
    /// A process attribute could not be set.
    #[error("set process attribute {0}: {1}")]
    Attribute(&'static str, std::io::Error),
    /// Landlock rules could not be made.
    #[error("landlock: {0}")]
    Landlock(#[from] LandlockError),
    /// A layer is missing and the profile demands all.
    #[error("this profile demands every layer, and {layer} is missing: {why}")]
    Missing {
        /// The layer's name.
        layer: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// Why the process could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The filter could not be made or installed.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

impl Privileged {
    /// Takes stock at the very start of `main`.
    pub fn at_startup() -> Result<Self, PrivilegeError> {
        assert_single_thread()?;
        Ok(Self { not_send: PhantomData })
    }

    pub(crate) fn in_forked_child() -> Self {
        Self { not_send: PhantomData }
    }

    /// Gives up everything that `confinement` does not name. The order is forced: the bounding set needs
    /// `CAP_SETPCAP`, the user change needs `CAP_SETUID`, and Landlock needs `no_new_privs`.
    pub fn confine(self, confinement: &Confinement) -> Result<Confined, ConfineError> {
        assert_single_thread()?;
        let mut lockdown = Lockdown { landlock_abi: landlock_rules::kernel_abi(), ..Lockdown::default() };
        let parent = parent_death_signal();

        limit_sizes(confinement.forbid_file_writes, &mut lockdown)?;

        capabilities::drop_bounding_except(&confinement.keep).map_err(ConfineError::Capabilities)?;
        become_user(confinement, &mut lockdown)?;
        capabilities::reduce_to(&confinement.keep).map_err(ConfineError::Capabilities)?;
        lockdown.set(Layer::Capabilities, check_capabilities(&confinement.keep)?);

        set_attribute("no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1)?;
        lockdown.set(Layer::NoNewPrivileges, LayerState::On);
        // After the user change, which sets dumpable anew.
        set_attribute("dumpable", libc::PR_SET_DUMPABLE, 0)?;
        lockdown.set(Layer::NoDump, LayerState::On);
        lockdown.set(Layer::Mdwe, deny_writable_code());
        if let Some(signal) = parent {
            // A change of user or capabilities clears it (`PR_SET_PDEATHSIG(2const)`).
            set_attribute("parent death signal", libc::PR_SET_PDEATHSIG, signal)?;
        }
        let landlock =
            landlock_rules::restrict(&confinement.files, &confinement.tcp_bind, &confinement.tcp_connect)?;
        lockdown.set(Layer::Landlock, landlock);

        if confinement.require_all
            && let Some((layer, why)) = lockdown.off()
        {
            return Err(ConfineError::Missing { layer: layer.name(), why: why.to_owned() });
        }
        Ok(Confined { lockdown, require_all: confinement.require_all })
    }
}

impl Confined {
    /// The layers so far.
    pub fn lockdown(&self) -> &Lockdown {
        &self.lockdown
    }

    /// Whether a missing layer is an error for this process.
    pub fn requires_all(&self) -> bool {
        self.require_all
    }

    /// Allows what `tables` name and kills the process for anything else, on all threads, from now on.
    pub fn seal(mut self, tables: &[&[SyscallRule]]) -> Result<Sealed, SealError> {
        let filters = Filters::compile(tables)?;
        let sum = filters.sha256();
        filters.install()?;
        self.lockdown.filter_sha256 = Some(sum);
        self.lockdown.set(Layer::Seccomp, LayerState::On);
        Ok(Sealed { lockdown: self.lockdown })
    }
}

impl Sealed {
    /// All layers.
    pub fn lockdown(&self) -> &Lockdown {
        &self.lockdown
    }
}

pub(crate) fn assert_single_thread() -> Result<(), PrivilegeError> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(PrivilegeError::Proc)?.count();
    if threads == 1 { Ok(()) } else { Err(PrivilegeError::Threads(threads)) }
}

fn limit_sizes(forbid_file_writes: bool, lockdown: &mut Lockdown) -> Result<(), ConfineError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|e| ConfineError::Limit("RLIMIT_CORE", e))?;
    if forbid_file_writes {
        // Without this a refused write would be a fatal SIGXFSZ instead of EFBIG.
        // SAFETY: ignoring a signal installs no handler that could run foreign code.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }
            .map_err(|e| ConfineError::Limit("SIGXFSZ", e))?;
        setrlimit(Resource::RLIMIT_FSIZE, 0, 0).map_err(|e| ConfineError::Limit("RLIMIT_FSIZE", e))?;
        lockdown.set(Layer::NoFileWrites, LayerState::On);
    } else {
        lockdown.set(Layer::NoFileWrites, LayerState::NotUsed);
    }
    Ok(())
}

fn become_user(confinement: &Confinement, lockdown: &mut Lockdown) -> Result<(), ConfineError> {
    let Some(user) = confinement.user else {
        let state = if Uid::effective().is_root() && confinement.keep.is_empty() {
            LayerState::Off("no user is configured, so the process stays root".into())
        } else {
            LayerState::NotUsed
        };
        lockdown.set(Layer::User, state);
        return Ok(());
    };
    if user == User::current() {
        lockdown.set(Layer::User, LayerState::On);
        return Ok(());
    }
    if !user.is_mapped() {
        let why = format!("user {} is not mapped in this user namespace", user.uid);
        lockdown.set(Layer::User, LayerState::Off(why));
        return Ok(());
    }
    if !confinement.keep.is_empty() {
        set_attribute("keep capabilities", libc::PR_SET_KEEPCAPS, 1)?;
    }
    let fail = |error| ConfineError::User { user, error };
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setgroups(&[]).map_err(fail)?;
    setresgid(gid, gid, gid).map_err(fail)?;
    setresuid(uid, uid, uid).map_err(fail)?;
    lockdown.set(Layer::User, LayerState::On);
    Ok(())
}

fn check_capabilities(keep: &[Capability]) -> Result<LayerState, ConfineError> {
    for (set, left) in capabilities::leftovers().map_err(ConfineError::Capabilities)? {
        let unwanted: Vec<_> = left.iter().filter(|c| !keep.contains(c)).collect();
        if unwanted.is_empty() {
            continue;
        }
        // Without CAP_SETPCAP nobody can shorten the bounding set; with no_new_privs and empty permitted sets
        // it is out of reach all the same, but the claim "none" would be false.
        if matches!(set, caps::CapSet::Bounding) {
            return Ok(LayerState::Off(
                "started without CAP_SETPCAP, so the bounding set is not empty".into(),
            ));
        }
        return Err(ConfineError::Leftover(format!("{set:?}: {unwanted:?}")));
    }
    Ok(LayerState::On)
}

/// `PR_SET_MDWE`, include/uapi/linux/prctl.h; kernels from 6.3.
fn deny_writable_code() -> LayerState {
    const PR_SET_MDWE: libc::c_int = 65;
    const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    match set_attribute("mdwe", PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN) {
        Ok(()) => LayerState::On,
        Err(ConfineError::Attribute(_, error)) if error.raw_os_error() == Some(libc::EINVAL) => LayerState::Partial(
            "Linux 6.3 has it; here the list of system calls alone refuses memory that is made executable".into(),
        ),
        Err(error) => LayerState::Off(error.to_string()),
    }
}

fn parent_death_signal() -> Option<libc::c_ulong> {
    let mut signal: libc::c_int = 0;
    // SAFETY: PR_GET_PDEATHSIG writes one int through the pointer, which lives on this stack frame.
    let answer = unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, std::ptr::from_mut(&mut signal)) };
    if answer == 0 { libc::c_ulong::try_from(signal).ok().filter(|s| *s != 0) } else { None }
}

fn set_attribute(name: &'static str, option: libc::c_int, value: libc::c_ulong) -> Result<(), ConfineError> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used in this file take integers, no pointers.
    let answer = unsafe { libc::prctl(option, value, zero, zero, zero) };
    if answer < 0 { Err(ConfineError::Attribute(name, std::io::Error::last_os_error())) } else { Ok(()) }
}
