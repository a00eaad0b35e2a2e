//! The tunnel, as its control socket tells it.

pub(crate) mod check;
mod follow;
pub(crate) mod names;
pub(crate) mod status;
mod table;
pub(crate) mod uapi;
mod wgd;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::console::Console;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum TunnelCommand {
    /// Show interfaces and peers: state, handshake, transfer, loss, round trip, endpoint, allowed IPs
    #[command(after_help = "\
HANDSHAKE is the age of the last one; keys end after 3 minutes, and then a peer is down. LOSS is the share of \
the peer's recent datagrams that never came. RTT is measured by an echo in the tunnel (--probe, or \
probe_interval_seconds in wgd.toml), else it is that of the last handshake that began here. LOSS and RTT need \
wgd's admin socket.\n\n\
Examples:\n  \
  culvert tunnel status --probe\n  \
  culvert tunnel status --follow\n  \
  culvert tunnel status wg0 --json | jq '.peers[] | {name, loss_ratio, rtt_ms}'")]
    Status(status::StatusArguments),
    /// Is the tunnel up? Exit code 0 or 1, within a second; for health checks
    #[command(after_help = "\
A peer counts as up while its last handshake is younger than --max-age. A tunnel that carries traffic, or\n\
whose peers keep it alive (PersistentKeepalive), renews its handshake every two minutes; one that is idle\n\
by design is down by this measure.\n\n\
Exit codes: 0 every peer is up; 1 one is not, or no daemon answers; 4 not allowed to ask.")]
    Check(check::CheckArguments),
}

/// Where control sockets are.
#[derive(Debug, Args)]
pub(crate) struct SocketArguments {
    /// The interface [default: every one that has a control socket]
    #[arg(value_name = "INTERFACE")]
    interface: Option<String>,
    /// Directory of the control sockets
    #[arg(long, value_name = "DIR", default_value = "/run/wireguard")]
    socket_dir: PathBuf,
    /// wgd's admin socket, which knows the peers' names
    #[arg(long, value_name = "PATH", default_value = "/run/culvert/wgd.sock")]
    wgd_socket: PathBuf,
}

pub(crate) fn run(command: &TunnelCommand, console: Console) -> Result<(), Failure> {
    match command {
        TunnelCommand::Status(arguments) => status::run(arguments, console),
        TunnelCommand::Check(arguments) => check::run(arguments, console),
    }
}

impl SocketArguments {
    /// The interfaces to look at.
    fn interfaces(&self) -> Result<Vec<String>, Failure> {
        if let Some(interface) = &self.interface {
            if interface.contains('/') || interface.is_empty() {
                return Err(Failure::usage(format!("{interface:?} is not an interface's name")));
            }
            return Ok(vec![interface.clone()]);
        }
        let found = sockets_in(&self.socket_dir)?;
        if found.is_empty() {
            let message = format!("no control socket in {}: no tunnel runs here", self.socket_dir.display());
            return Err(Failure::failed(message));
        }
        Ok(found)
    }

    fn socket(&self, interface: &str) -> PathBuf {
        self.socket_dir.join(format!("{interface}.sock"))
    }
}

fn sockets_in(directory: &Path) -> Result<Vec<String>, Failure> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::cannot_tell(format!("{}: {error}", directory.display()))),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry =
            entry.map_err(|error| Failure::cannot_tell(format!("{}: {error}", directory.display())))?;
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".sock")) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
