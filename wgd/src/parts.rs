//! wgd in three parts that a service manager starts: each begins with no more than it keeps, so that none has to give up
//! a right first.
//!
//! ```text
//!  wgd                    its own user, no right at all        packets
//!   │ --netcfg SOCKET
//!  --serve netcfg         root, CAP_NET_ADMIN                  files of the tunnel, addresses, routes, UDP sockets
//!   │ --inside SOCKET
//!  --serve inside         wgd's user, CAP_NET_ADMIN; started   opens the device and netlink there, hands them over, ends
//!                         in the interface's namespace
//! ```
//!
//! Invariant: a part answers the first who connects at the socket that was handed to it, and nobody after that; the service
//! manager starts it anew for the next.
use crate::conf::{ConfError, Tunnel};
use crate::config::{Cli, Config, Part, Profile};
use crate::netcfg::{self, Netcfg, NetcfgError, Request, Setup};
use crate::run::demand_preshared_keys;
use anyhow::{Context as _, anyhow};
use daemon::{exit, fail};
use linux::tun::Tun;
use linux::{ListenFds, Privileged};
use rtnetlink::sys::Socket;
use std::fs::File;
use std::os::fd::OwnedFd;

/// Serves as one of them, to the end.
///
/// # Errors
/// When no listener was handed in, or what is to be opened cannot be.
pub fn serve(part: Part, cli: &Cli, config: &Config) -> anyhow::Result<()> {
    let privileged = Privileged::at_startup().map_err(|error| fail(exit::OS, error))?;
    let mut listeners = ListenFds::take(&privileged).map_err(|error| fail(exit::CONFIG, error))?;
    let listener = listeners.descriptor(part.name()).ok_or_else(|| {
        let what =
            format!("--serve {0}: no listener called {0:?} was handed in (LISTEN_FDNAMES)", part.name());
        fail(exit::CONFIG, anyhow!(what))
    })?;
    match part {
        Part::Inside => netcfg::hand_out(&privileged, listener, config),
        Part::Netcfg => {
            let inside = cli
                .inside
                .as_deref()
                .ok_or_else(|| fail(exit::USAGE, anyhow!("--serve netcfg needs --inside SOCKET")))?;
            let setup = Setup {
                interface: config.interface.clone(),
                namespace: config.open_netns()?,
                config_path: config.tunnel_file(),
                socket_files: vec![config.uapi_socket()],
                resolver_user: None,
                low_ports: false,
                require_all: config.profile == Profile::Production,
                to_background: false,
            };
            netcfg::serve_one(&setup, privileged, listener, inside)
        }
    }
}

/// What the interface begins with, from the netcfg that can read its file.
///
/// # Errors
/// Naming file, line and key.
pub(crate) fn first_tunnel(config: &Config, netcfg: &mut Netcfg) -> anyhow::Result<Tunnel> {
    let path = config.tunnel_file();
    let opened: Vec<OwnedFd> = match netcfg.ask(Request::ReadConfig, &[]) {
        Ok((_, opened)) => opened,
        Err(NetcfgError::Refused { errno: libc::ENOENT, .. }) => return Ok(Tunnel::unconfigured()),
        Err(error) => return Err(fail(exit::NO_INPUT, error)),
    };
    let opened: Vec<File> = opened.into_iter().map(File::from).collect();
    let written = opened.iter().map(|file| file.metadata().and_then(|data| data.modified()).ok()).collect();
    let tunnel = Tunnel::opened(&path, opened, config.tun_netns.is_some()).map_err(|error| {
        let code = match &error {
            ConfError::Read { .. } => exit::NO_INPUT,
            ConfError::Content(_) => exit::CONFIG,
        };
        fail(code, error)
    })?;
    demand_preshared_keys(config, &tunnel)?;
    Ok(tunnel.last_written(written))
}

/// The device and what hears of it, opened where it is.
pub(crate) struct OpenedThere {
    pub(crate) tun: Tun,
    pub(crate) link: Socket,
}

impl OpenedThere {
    /// Fetches both from a netcfg that has them.
    ///
    /// # Errors
    /// When it has not, or they are something else.
    pub(crate) fn fetch(privileged: &Privileged, netcfg: &mut Netcfg) -> anyhow::Result<Self> {
        let (_, opened) = netcfg.ask(Request::Device, &[]).map_err(|error| fail(exit::OS, error))?;
        let [tun, link] =
            <[OwnedFd; 2]>::try_from(opened).map_err(|_| anyhow!("no device from wgd-netcfg"))?;
        let tun = Tun::from_descriptor(privileged, tun).map_err(|error| fail(exit::OS, error))?;
        Ok(Self { tun, link: linux::netlink::adopt(link).context("netlink from wgd-netcfg")? })
    }
}
