//! A library ahead of libc in the daemons, for the one measurement that needs the same programs with and without a layer.
//!
//! Nothing of this happens unless the variable is set. Whether the library then does anything is the measurement's to say,
//! by a file on the host.

use std::process::Command;

use crate::host::{PROGRAMS, TOOLS};

/// The library's name in the directory of tools.
const VARIABLE: &str = "CULVERT_PRELOAD";

/// The daemons; nothing else has it.
const DAEMONS: [&str; 3] = ["wgd", "edge", "storaged"];

/// Puts it ahead, where that is wanted.
pub(crate) fn put_ahead(program: &str, command: &mut Command) {
    let Ok(library) = std::env::var(VARIABLE) else { return };
    if DAEMONS.into_iter().any(|daemon| program == format!("{PROGRAMS}/{daemon}")) {
        command.env("LD_PRELOAD", format!("{TOOLS}/{library}"));
    }
}
