//! A wished change of a device, already validated: applying it cannot fail.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{PresharedKey, PublicKey, SecretKey};

/// A setting that can be left alone, taken away or given.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// As it is.
    #[default]
    Keep,
    /// No value any more.
    Clear,
    /// This value from now on.
    Set(T),
}

/// What a `set=1` request or a configuration file asks for.
#[derive(Clone, Default)]
pub struct DeviceUpdate {
    /// Our static key.
    pub private_key: Change<SecretKey>,
    /// The key that a rotation, interrupted, was to put in its place: handshakes are tried with both.
    pub next_private_key: Option<SecretKey>,
    /// 0 means any port. The shell binds first and then reports the real port here.
    pub listen_port: Option<u16>,
    /// 0 means none. The shell marks its sockets first.
    pub fwmark: Option<u32>,
    /// Keys that are never to be a peer's; in place of those that were given before.
    pub denied: Option<Vec<PublicKey>>,
    /// All present peers go before `peers` are looked at.
    pub replace_peers: bool,
    /// Applied in order.
    pub peers: Vec<PeerUpdate>,
}

/// What is asked of one peer.
#[derive(Clone)]
pub struct PeerUpdate {
    /// Selects the peer, or makes it.
    pub public_key: PublicKey,
    /// Take the peer away; unknown is fine.
    pub remove: bool,
    /// Do nothing if the peer is unknown.
    pub update_only: bool,
    /// Takes effect with the next handshake; the running session stays.
    pub preshared_key: Change<PresharedKey>,
    /// The key that a rotation, interrupted, was to put in its place: handshakes are tried with both.
    pub next_preshared_key: Option<PresharedKey>,
    /// Where to send from now on.
    pub endpoint: Option<SocketAddr>,
    /// Seconds; 0 turns it off.
    pub persistent_keepalive: Option<u16>,
    /// All present prefixes go before `allowed_ips` are looked at.
    pub replace_allowed_ips: bool,
    /// Applied in order.
    pub allowed_ips: Vec<AllowedIpChange>,
    /// The operator's word for the peer.
    pub friendly_name: Option<Arc<str>>,
}

/// One prefix given or taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowedIpChange {
    /// The prefix is this peer's now, whoever had it.
    Add(IpNet),
    /// The prefix is no longer this peer's.
    Remove(IpNet),
}

impl PeerUpdate {
    /// An update of this peer that asks for nothing yet.
    pub fn of(public_key: PublicKey) -> PeerUpdate {
        PeerUpdate {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: Change::Keep,
            next_preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
            friendly_name: None,
        }
    }
}
