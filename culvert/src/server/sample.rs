//! A process with nothing wrong, for tests to spoil.

use super::proc_net::Route;
use super::process::{Descriptor, Mount, Process, Role};
use super::status_file::Thread;

/// The host's network namespace.
pub(super) const HOST: &str = "net:[1]";

pub(super) fn process(role: Role) -> Process {
    let (user, capabilities) = match role {
        Role::Netcfg => (0, [0, 1 << 12, 1 << 12, 1 << 12, 0]),
        Role::Wgd | Role::Resolver | Role::Edge | Role::Storaged | Role::Agent => (64_011, [0; 5]),
    };
    let thread = |id: u32| Thread {
        id,
        name: role.name().to_owned(),
        users: [user; 4],
        group: user,
        groups: Vec::new(),
        capabilities,
        no_new_privileges: true,
        seccomp: 2,
        filters: 2,
    };
    let inside = matches!(role, Role::Edge | Role::Storaged);
    let open = |number: u32, target: &str| Descriptor { number, target: target.to_owned(), writable: false };
    Process {
        pid: 100,
        role,
        replaced: false,
        arguments: vec![role.name().to_owned()],
        environment: vec![
            ("PATH".into(), "/usr/bin".into()),
            ("CREDENTIALS_DIRECTORY".into(), "/run/x".into()),
        ],
        threads: vec![thread(100), thread(101)],
        owner: 0,
        core_limit: ["0".into(), "0".into()],
        file_size_limit: ["0".into(), "0".into()],
        descriptors: vec![
            open(0, "/dev/null"),
            open(2, "pipe:[7]"),
            open(3, "socket:[8]"),
            open(4, "anon_inode:[eventpoll]"),
        ],
        code_that_can_be_written: Vec::new(),
        mounts: vec![
            Mount { target: "/".into(), read_only: true },
            Mount { target: "/dev".into(), read_only: false },
        ],
        network: if inside { "net:[2]".into() } else { HOST.into() },
        devices: if inside { vec!["lo".into(), "wg0".into()] } else { vec!["lo".into(), "eth0".into()] },
        routes: vec![Route { device: "wg0".into(), destination: [10, 100, 0, 0].into(), prefix: 24 }],
        listeners: Vec::new(),
        raw_sockets: 0,
        swap_limit: Some("0".into()),
    }
}
