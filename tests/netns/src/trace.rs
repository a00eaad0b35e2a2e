//! The daemons under `strace`, for `cargo xtask lockdown`: every call of every thread, into a file for each process that is
//! started.
//!
//! Nothing of this happens unless the variable is set. A daemon under it is slower, and the same otherwise: the tracer is no
//! ancestor of it, its number is its own, and it holds no descriptor more.

use std::path::PathBuf;
use std::process::Command;

use crate::host::PROGRAMS;

/// The directory for traces.
const VARIABLE: &str = "CULVERT_STRACE";

/// Where hosts have it.
pub(crate) const OF_HOST: &str = "/run/strace";

/// The daemons; nothing else is traced.
const DAEMONS: [&str; 3] = ["wgd", "edge", "storaged"];
const AGENT: &str = "agent";

/// Where traces go, if they are wanted.
pub(crate) fn directory() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from)
}

/// The command that becomes `program`, by way of `strace` where that is wanted. The agent is a command of `culvert`.
pub(crate) fn command(program: &str, arguments: &[String]) -> Command {
    let daemon = DAEMONS.into_iter().find(|daemon| program == format!("{PROGRAMS}/{daemon}"));
    let is_agent =
        program == format!("{PROGRAMS}/culvert") && arguments.first().is_some_and(|word| word == AGENT);
    let daemon = daemon.or(is_agent.then_some(AGENT));
    let Some(daemon) = daemon.filter(|_| directory().is_some()) else { return Command::new(program) };
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-Y", "-s", "0", "-e", "trace=all", "-e", "signal=SIGSYS"]);
    command.args(["-e", "abbrev=all", "-o", &format!("{OF_HOST}/{daemon}.{}", id.trim()), "--", program]);
    command
}
