//! The tunnel between `web` and `services`: its keys, its configuration in both formats, and wgd on its hosts.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::capture::WIREGUARD_PORT;
use crate::host::{Host, Place};
use crate::lab::{Lab, address};
use crate::program::Running;
use crate::wireguard::{self, KeyPair};

/// The interface's name on both hosts.
pub const INTERFACE: &str = "wg0";

/// MTU of the tunnel: what the links carry less 80 bytes for WireGuard over IPv6.
pub const MTU: usize = 1420;

/// Longest that a daemon may take to start.
pub const START_BOUND: Duration = Duration::from_secs(10);

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where edge is.
    Web,
    /// Where storaged is.
    Services,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::Web => Side::Services,
            Side::Services => Side::Web,
        }
    }

    /// Its host.
    pub fn host(self, lab: &Lab) -> &Host {
        match self {
            Side::Web => &lab.web,
            Side::Services => &lab.services,
        }
    }

    /// Its name as a peer.
    pub fn peer_name(self) -> &'static str {
        match self {
            Side::Web => "web1",
            Side::Services => "svc1",
        }
    }

    /// Its address in the tunnel.
    pub fn inner(self) -> Ipv4Addr {
        match self {
            Side::Web => address::WEB_TUNNEL,
            Side::Services => address::SERVICES_TUNNEL,
        }
    }

    /// Its address on the WAN.
    pub fn outer(self) -> Ipv4Addr {
        match self {
            Side::Web => address::WEB_WAN,
            Side::Services => address::SERVICES_WAN,
        }
    }
}

/// Whether a side's configuration says where its peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// It does: this side can begin.
    Known,
    /// It does not: the peer has to begin.
    Learned,
}

/// Keys of both sides.
#[derive(Clone, Debug)]
pub struct Tunnel {
    web: KeyPair,
    services: KeyPair,
    preshared: String,
}

impl Tunnel {
    /// New keys.
    pub fn new(lab: &Lab) -> Result<Tunnel> {
        Ok(Tunnel {
            web: KeyPair::generate(&lab.web)?,
            services: KeyPair::generate(&lab.services)?,
            preshared: wireguard::generate_preshared_key(&lab.web)?,
        })
    }

    /// A side's keys.
    pub fn keys(&self, side: Side) -> &KeyPair {
        match side {
            Side::Web => &self.web,
            Side::Services => &self.services,
        }
    }

    /// The preshared key.
    pub fn preshared_key(&self) -> &str {
        &self.preshared
    }

    /// A side's file as wg-quick, and wgd, read it.
    pub fn quick_config(&self, side: Side, endpoint: Endpoint) -> String {
        self.config(side, endpoint, &format!("Address = {}/24\nMTU = {MTU}\n", side.inner()))
    }

    /// A side's file as `wg setconf` reads it.
    pub fn plain_config(&self, side: Side, endpoint: Endpoint) -> String {
        self.config(side, endpoint, "")
    }

    fn config(&self, side: Side, endpoint: Endpoint, more: &str) -> String {
        let (own, peer) = (self.keys(side), self.keys(side.other()));
        let mut text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {WIREGUARD_PORT}\n{more}\n\
             [Peer]\n# friendly_name = {}\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = {}/32\n",
            own.private,
            side.other().peer_name(),
            peer.public,
            self.preshared,
            side.other().inner()
        );
        if endpoint == Endpoint::Known {
            text.push_str(&format!("Endpoint = {}:{WIREGUARD_PORT}\n", side.other().outer()));
        }
        text
    }

    /// Starts wgd with its interface at `place`, configured by its own reading of `/etc/wireguard/wg0.conf`.
    pub fn start_wgd(&self, lab: &Lab, side: Side, endpoint: Endpoint, place: Place) -> Result<Running> {
        let host = side.host(lab);
        host.write_secret(&format!("/etc/wireguard/{INTERFACE}.conf"), self.quick_config(side, endpoint))?;
        start_wgd(host, place, &[])
    }

    /// Starts gotatun with its interface in the host's own network.
    pub fn start_gotatun(&self, lab: &Lab, side: Side, endpoint: Endpoint) -> Result<Running> {
        wireguard::start_gotatun(
            side.host(lab),
            INTERFACE,
            &format!("{}/24", side.inner()),
            &self.plain_config(side, endpoint),
        )
    }

    /// Starts Debian's wireguard-go with its interface in the host's own network.
    pub fn start_wireguard_go(&self, lab: &Lab, side: Side, endpoint: Endpoint) -> Result<Running> {
        wireguard::start_wireguard_go(
            side.host(lab),
            INTERFACE,
            &format!("{}/24", side.inner()),
            &self.plain_config(side, endpoint),
        )
    }
}

/// Starts wgd on a host whose files are there, and waits until it answers the stock tool and its interface is up.
pub fn start_wgd(host: &Host, place: Place, arguments: &[&str]) -> Result<Running> {
    let mut program =
        host.daemon("wgd").arguments(&["--foreground", "--log-level", "info"]).arguments(arguments);
    if place == Place::Tunnel {
        program = program.arguments(&["--tun-netns", "tunnel"]);
    }
    let mut running = program.arguments(&[INTERFACE]).start()?;
    running.until("answer on its socket", START_BOUND, || {
        host.run(&["wg", "show", INTERFACE, "listen-port"])?.success()?;
        let link = host.run_at(place, &["ip", "-oneline", "address", "show", "dev", INTERFACE])?.success()?;
        ensure!(link.contains("10.100.0."), "no address yet: {link}");
        Ok(())
    })?;
    Ok(running)
}
