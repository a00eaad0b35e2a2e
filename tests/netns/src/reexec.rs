//! The hidden first argument by which the harness starts its own helpers: the same executable, another role.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::{enter, holder, world};

/// First argument of every helper. The role follows.
const MARK: &str = "--culvert-netns";

/// Exit code of a helper that could not do its part.
pub const HELPER_FAILED: u8 = 125;

/// What this process is.
#[derive(Debug)]
pub enum Entered {
    /// Started by a user: nothing has been unshared yet.
    Outside,
    /// Pid 1 of a new world.
    Inside(world::World),
    /// A helper that has done its work: `main` returns this.
    Done(ExitCode),
}

/// A role of a re-executed process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Makes a world, waits for its end, removes its data directory.
    Janitor,
    /// Pid 1 of the world.
    World,
    /// Holds a host's namespaces open.
    Holder,
    /// Goes into a host and becomes the program that shall run there.
    Enter,
}

impl Role {
    const ALL: [Role; 4] = [Role::Janitor, Role::World, Role::Holder, Role::Enter];

    fn name(self) -> &'static str {
        match self {
            Role::Janitor => "janitor",
            Role::World => "world",
            Role::Holder => "holder",
            Role::Enter => "enter",
        }
    }
}

/// Must be the first statement of `main`, while one thread runs.
pub fn enter() -> Entered {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != MARK) {
        return Entered::Outside;
    }
    let name = arguments.next().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    let role = Role::ALL.into_iter().find(|role| name == role.name());
    let outcome = match role {
        Some(Role::Janitor) => world::janitor(&rest).map(Entered::Done),
        Some(Role::World) => world::become_pid_one(rest).map(Entered::Inside),
        Some(Role::Holder) => holder::hold(&rest).map(Entered::Done),
        Some(Role::Enter) => enter::enter_and_become(&rest).map(Entered::Done),
        None => Err(anyhow::anyhow!("no helper of this name")),
    };
    outcome.unwrap_or_else(|error| {
        crate::runner::complain(&format!("netns {}: {error:#}", name.display()));
        Entered::Done(ExitCode::from(HELPER_FAILED))
    })
}

/// The command that starts this executable again as `role`.
pub(crate) fn command(role: Role) -> Result<Command> {
    let path = env::current_exe().context("find the own executable")?;
    // By the kernel's link, for the file may be built anew while a long scenario runs.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(path).arg(MARK).arg(role.name());
    Ok(command)
}
