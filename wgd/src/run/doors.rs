//! Where others come in: listeners that were handed in, or are bound here while there is the right to.
use super::{ADMIN, EVENTS, METRICS};
use crate::config::Config;
use crate::control::UapiDoor;
use crate::events::Events;
use crate::predecessor::outwait;
use crate::socket_file::bind_for;
use anyhow::Context as _;
use daemon::{exit, fail};
use linux::ListenFds;
use linux::unix_datagram::DatagramSocket;
use linux::unix_listener::bind_unix_listener;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Where others come in.
pub(super) struct Doors {
    pub(super) uapi: UapiDoor,
    pub(super) admin: Option<UnixListener>,
    pub(super) status: Option<TcpListener>,
    pub(super) events: Option<Events>,
}

impl Doors {
    /// Takes what was handed in, and binds the rest.
    pub(super) fn open(
        config: &Config,
        listeners: &mut ListenFds,
        uapi: Option<UapiDoor>,
    ) -> anyhow::Result<Self> {
        let refuse = |path: &Path, error: std::io::Error| {
            fail(exit::OS, anyhow::Error::new(error).context(format!("socket {}", path.display())))
        };
        let uapi = match uapi {
            Some(uapi) => uapi,
            None => {
                let path = config.uapi_socket();
                let bound = outwait(|| bind_unix_listener(&path, 0o600, None), is_in_use);
                let listener = bound.map_err(|error| refuse(&path, error))?;
                UapiDoor::Listener { listener, path: Some(path) }
            }
        };
        let admin = match (listeners.unix(ADMIN)?, &config.admin_socket) {
            (Some(listener), _) => Some(listener),
            (None, Some(path)) => {
                let bind =
                    || bind_for(&config.admin_uids, |mode, owner| bind_unix_listener(path, mode, owner));
                let bound = outwait(bind, is_in_use);
                Some(bound.map_err(|error| refuse(path, error))?)
            }
            (None, None) => None,
        };
        let status = match (listeners.tcp(METRICS)?, config.metrics_listen) {
            (Some(listener), _) => Some(listener),
            (None, Some(address)) => {
                if !address.ip().is_loopback() {
                    tracing::warn!(%address, "metrics_listen: peers' keys and traffic are shown to whoever reaches it");
                }
                let listener = outwait(|| TcpListener::bind(address), is_in_use)
                    .with_context(|| format!("metrics_listen {address}"))
                    .map_err(|error| fail(exit::OS, error))?;
                listener.set_nonblocking(true)?;
                Some(listener)
            }
            (None, None) => None,
        };
        let events = match (listeners.datagrams(EVENTS)?, &config.events_socket) {
            (Some(socket), _) => Some(socket),
            (None, Some(path)) => {
                let bind =
                    || bind_for(&config.whois_uids, |mode, owner| DatagramSocket::bind(path, mode, owner));
                let bound = outwait(bind, is_in_use);
                Some(bound.map_err(|error| refuse(path, error))?)
            }
            (None, None) => None,
        };
        let events = events
            .map(|socket| Events::new(socket, config.event_listeners.clone(), config.whois_uids.clone()))
            .transpose()?;
        Ok(Self { uapi, admin, status, events })
    }
}

fn is_in_use(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AddrInUse
}
