//! Where this process runs, as every record says.

use store_proto::ServerRole;

use crate::ledger::Host;

/// Read once, at start: a sealed process cannot.
pub fn describe(role: ServerRole) -> Host {
    let hostname =
        nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    Host {
        boot_id: boot_id.map(|id| id.trim().to_owned()),
        hostname,
        process_id: std::process::id(),
        role: role.name().to_owned(),
    }
}
