//! The internal listener: on the tunnel's address, or not at all.
//!
//! **Invariant:** a listener that exists is bound to `bind_address`, and that address stood on
//! `tunnel_interface` when it was looked at. Only role `testing` may be on loopback instead.

use std::net::{IpAddr, SocketAddr, TcpListener};

use daemon::exit;
use linux::{ListenFds, Privileged};
use nix::ifaddrs::getifaddrs;
use socket2::{Domain, Protocol, Socket, Type};
use store_proto::ServerRole;

use crate::config::{Fixed, Profile};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is on no interface.
    #[error(
        "bind_address: {address} is not an address of tunnel_interface \"{interface}\" (no interface has it: is the \
         tunnel up?)"
    )]
    NoTunnel {
        /// What was asked for.
        address: SocketAddr,
        /// Where it should be.
        interface: String,
    },
    /// The address is on another interface.
    #[error(
        "bind_address: {address} is not an address of tunnel_interface \"{interface}\" (it is on \"{found}\")"
    )]
    NotOnTunnel {
        /// What was asked for.
        address: SocketAddr,
        /// Where it should be.
        interface: String,
        /// Where it is.
        found: String,
    },
    /// The interfaces cannot be listed.
    #[error("list the interfaces' addresses: {0}")]
    Interfaces(nix::Error),
    /// The handed-in listener is bound elsewhere.
    #[error("the listener `internal` that was handed in is bound to {found}, bind_address is {expected}")]
    HandedIn {
        /// Where it is.
        found: String,
        /// Where it should be.
        expected: SocketAddr,
    },
    /// The handed-in listener takes connections from any interface.
    #[error(
        "the listener `internal` that was handed in is bound to {found}, not to tunnel_interface \"{expected}\": \
         the socket unit needs BindToDevice={expected}"
    )]
    Device {
        /// The interface that it is bound to.
        found: String,
        /// The one it should be.
        expected: String,
    },
    /// Something is wrong with what was handed in.
    #[error(transparent)]
    ListenFds(#[from] linux::listen_fds::ListenFdsError),
    /// The address is taken.
    #[error("bind_address: {0} is in use by another process")]
    InUse(SocketAddr),
    /// Binding failed.
    #[error("bind_address: {address}: {step}: {error}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What was tried.
        step: &'static str,
        /// What the system says.
        error: std::io::Error,
    },
}

impl ListenError {
    /// The daemon's exit code. What a later start may find better is no mistake in the configuration: a service
    /// manager that does not restart after 78 has to try again.
    pub fn exit_code(&self) -> u8 {
        match self {
            ListenError::NoTunnel { .. } => exit::TEMPORARY,
            ListenError::NotOnTunnel { .. } | ListenError::HandedIn { .. } | ListenError::Device { .. } => {
                exit::CONFIG
            }
            ListenError::Interfaces(_)
            | ListenError::ListenFds(_)
            | ListenError::InUse(_)
            | ListenError::Bind { .. } => exit::OS,
        }
    }
}

/// Takes the listener `internal` that was handed in, or binds it.
pub fn internal(
    _privileged: &Privileged,
    fixed: &Fixed,
    handed_in: &mut ListenFds,
) -> Result<TcpListener, ListenError> {
    let address = fixed.bind_address;
    let on_loopback = fixed.role == ServerRole::Testing && address.ip().is_loopback();
    if !on_loopback {
        check_interface(address, &fixed.tunnel_interface)?;
    }
    if let Some(listener) = handed_in.tcp("internal")? {
        return match listener.local_addr() {
            Ok(found) if found == address => {
                match check_device(&listener, &fixed.tunnel_interface) {
                    Err(error) if fixed.profile == Profile::Lab && !on_loopback => {
                        tracing::warn!(%error, "the listener is not bound to the tunnel's interface");
                    }
                    Err(error) if !on_loopback => return Err(error),
                    Ok(()) | Err(_) => {}
                }
                Ok(listener)
            }
            Ok(found) => Err(ListenError::HandedIn { found: found.to_string(), expected: address }),
            Err(error) => Err(ListenError::HandedIn { found: error.to_string(), expected: address }),
        };
    }
    bind(fixed, address, !on_loopback)
}

fn check_interface(address: SocketAddr, interface: &str) -> Result<(), ListenError> {
    let mut holders = Vec::new();
    for entry in getifaddrs().map_err(ListenError::Interfaces)? {
        let ip: Option<IpAddr> = entry.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
        });
        if ip == Some(address.ip()) {
            holders.push(entry.interface_name);
        }
    }
    if holders.iter().any(|holder| holder == interface) {
        return Ok(());
    }
    let interface = interface.to_owned();
    Err(match holders.into_iter().next() {
        Some(found) => ListenError::NotOnTunnel { address, interface, found },
        None => ListenError::NoTunnel { address, interface },
    })
}

/// As [`bind`] does it for our own: without it Linux would take a connection to this address that arrives by
/// another interface.
fn check_device(listener: &TcpListener, interface: &str) -> Result<(), ListenError> {
    let device = socket2::SockRef::from(listener).device();
    let found = match device {
        Ok(Some(device)) if device == interface.as_bytes() => return Ok(()),
        Ok(Some(device)) => String::from_utf8_lossy(&device).into_owned(),
        Ok(None) => "no interface".to_owned(),
        Err(error) => format!("what cannot be asked ({error})"),
    };
    Err(ListenError::Device { found, expected: interface.to_owned() })
}

fn bind(fixed: &Fixed, address: SocketAddr, to_device: bool) -> Result<TcpListener, ListenError> {
    let fail = |step| move |error| ListenError::Bind { address, step, error };
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(fail("make a socket"))?;
    socket.set_reuse_address(true).map_err(fail("set SO_REUSEADDR"))?;
    if to_device {
        // Without it Linux would take a connection to this address that arrives by another interface
        // (the weak-host model).
        match socket.bind_device(Some(fixed.tunnel_interface.as_bytes())) {
            Ok(()) => {}
            Err(error) if fixed.profile == Profile::Lab => {
                tracing::warn!(%error, "the listener is not bound to the tunnel's interface");
            }
            Err(error) => return Err(fail("bind to the tunnel's interface")(error)),
        }
    }
    match socket.bind(&address.into()) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            return Err(ListenError::InUse(address));
        }
        Err(error) => return Err(fail("bind")(error)),
    }
    socket.listen(BACKLOG).map_err(fail("listen"))?;
    socket.set_nonblocking(true).map_err(fail("make it not block"))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_nobody_has_is_named() {
        let error = check_interface("192.0.2.77:8001".parse().unwrap(), "wg0").unwrap_err();
        assert_eq!(error.exit_code(), exit::TEMPORARY);
        let error = error.to_string();
        assert!(
            error.contains("192.0.2.77:8001") && error.contains("wg0") && error.contains("no interface"),
            "{error}"
        );
    }

    #[test]
    fn a_listener_that_was_handed_in_must_be_bound_to_the_tunnel() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let listener: TcpListener = socket.into();
        let error = check_device(&listener, "lo").unwrap_err();
        assert_eq!(error.exit_code(), exit::CONFIG);
        assert!(error.to_string().contains("no interface"), "{error}");
        socket2::SockRef::from(&listener).bind_device(Some(b"lo")).unwrap();
        check_device(&listener, "lo").unwrap();
        assert!(check_device(&listener, "wg0").unwrap_err().to_string().contains("bound to lo"));
    }

    #[test]
    fn an_address_of_another_interface_is_refused() {
        let error = check_interface("127.0.0.1:8001".parse().unwrap(), "wg0").unwrap_err();
        assert_eq!(error.exit_code(), exit::CONFIG);
        let error = error.to_string();
        assert!(error.contains("it is on \"lo\""), "{error}");
        check_interface("127.0.0.1:8001".parse().unwrap(), "lo").unwrap();
    }
}
