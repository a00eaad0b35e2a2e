//! Role `enter`: goes into a host, binds the listeners that a service manager would hand in, and becomes the program.

use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, setns};
use nix::unistd::getpid;
use serde::{Deserialize, Serialize};

use crate::host::TUNNEL_NAMESPACE;

/// First descriptor of the listeners (sd_listen_fds(3)).
const FIRST_LISTENER: i32 = 3;

/// What the helper is told, as JSON in its only argument.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) holder: u32,
    /// The holder of the host whose network it is, if not this one's own.
    pub(crate) network_of: Option<u32>,
    pub(crate) in_tunnel: bool,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) at: ListenAt,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ListenAt {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Role `enter`.
pub(crate) fn enter_and_become(arguments: &[OsString]) -> Result<ExitCode> {
    let [entry] = arguments else { bail!("needs one argument") };
    let entry: Entry =
        serde_json::from_str(entry.to_str().context("not UTF-8")?).context("read the order")?;
    let root = PathBuf::from(format!("/proc/{}/ns", entry.holder));
    {
        let mounts = fs::File::open(root.join("mnt")).context("open the host's mount namespace")?;
        let names = fs::File::open(root.join("uts")).context("open the host's name")?;
        let network_of = entry.network_of.unwrap_or(entry.holder);
        let network =
            fs::File::open(format!("/proc/{network_of}/ns/net")).context("open the host's network")?;
        setns(network, CloneFlags::CLONE_NEWNET).context("enter the host's network")?;
        setns(names, CloneFlags::CLONE_NEWUTS).context("enter the host's name")?;
        setns(mounts, CloneFlags::CLONE_NEWNS).context("enter the host's mounts")?;
    }
    let mut names = Vec::new();
    let mut listeners = Vec::new();
    for (index, listener) in entry.listeners.iter().enumerate() {
        let socket = bind(&listener.at)?;
        let number = FIRST_LISTENER + i32::try_from(index).context("too many listeners")?;
        // Descriptors are given out lowest first and nothing else is open; only then is no dup2 needed.
        ensure!(socket.as_raw_fd() == number, "descriptor {number} was not free for a listener");
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).context("keep a listener over exec")?;
        names.push(listener.name.as_str());
        listeners.push(socket);
    }
    if entry.in_tunnel {
        let tunnel = fs::File::open(TUNNEL_NAMESPACE).context("open the tunnel's namespace")?;
        setns(tunnel, CloneFlags::CLONE_NEWNET).context("enter the tunnel's namespace")?;
    }
    let (name, rest) = entry.command.split_first().context("an empty command")?;
    let mut command = crate::trace::command(name, rest);
    crate::preload::put_ahead(name, &mut command);
    command.args(rest).current_dir("/");
    if !names.is_empty() {
        command
            .env("LISTEN_PID", getpid().to_string())
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
    }
    // Returns only if it fails.
    Err(command.exec()).with_context(|| format!("run {name}"))
}

fn bind(at: &ListenAt) -> Result<OwnedFd> {
    match at {
        ListenAt::Tcp(address) => {
            Ok(TcpListener::bind(address).with_context(|| format!("listen on {address}"))?.into())
        }
        ListenAt::Unix(path) => {
            let _ = fs::remove_file(path);
            Ok(UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?.into())
        }
    }
}
