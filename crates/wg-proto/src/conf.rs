//! The tunnel's configuration file, in wg-quick's format.
//!
//! On top of it `PrivateKeyFile=`, `PresharedKeyFile=` and `@credential` name keys kept elsewhere, and
//! a comment `# friendly_name = web1` names a peer. While a key is being replaced, the comments
//! `# next_private_key = …` and `# next_preshared_key = …` (in a key file: `# next = …`) hold the new one.
//! What would run a command is refused.
//!
//! **Invariant:** a [`TunnelConf`] exists only for a file without a single mistake; all mistakes of a
//! file are reported together, each with its line and key. No message quotes a key's value.

mod parse;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::{
    AllowedIpChange, Change, DeviceUpdate, KeyError, PeerUpdate, PresharedKey, PublicKey, SecretKey,
};

pub use parse::parse;

/// The comment that holds the key which a rotation is about to put in place of `PrivateKey`.
pub const NEXT_PRIVATE_KEY: &str = "next_private_key";
/// The same for `PresharedKey`.
pub const NEXT_PRESHARED_KEY: &str = "next_preshared_key";
/// The same in a file that holds a key alone.
pub const NEXT_IN_KEY_FILE: &str = "next";

/// A configuration file, understood.
#[derive(Clone)]
pub struct TunnelConf {
    /// As given to [`parse`], for messages.
    pub file: String,
    /// `PrivateKey`, `PrivateKeyFile`.
    pub private_key: KeySource<SecretKey>,
    /// What a rotation is about to put in its place.
    pub next_private_key: Option<SecretKey>,
    /// `ListenPort`; absent means any.
    pub listen_port: Option<u16>,
    /// `FwMark`; 0 is off.
    pub fwmark: u32,
    /// `Address`: ours, with the prefix length of the link. Host bits are kept.
    pub addresses: Vec<IpNet>,
    /// `DNS`: servers and search domains, as written. Nothing here sets them.
    pub dns: Vec<String>,
    /// `MTU`; absent means: from the route to the endpoint.
    pub mtu: Option<u16>,
    /// `Table`.
    pub table: Table,
    /// In the file's order.
    pub peers: Vec<PeerConf>,
}

/// A `[Peer]` section.
#[derive(Clone)]
pub struct PeerConf {
    /// The line of its `[Peer]`.
    pub line: usize,
    /// `PublicKey`.
    pub public_key: PublicKey,
    /// `PresharedKey`, `PresharedKeyFile`.
    pub preshared_key: Option<KeySource<PresharedKey>>,
    /// What a rotation is about to put in its place.
    pub next_preshared_key: Option<PresharedKey>,
    /// `AllowedIPs`, all lines together.
    pub allowed_ips: Vec<IpNet>,
    /// `Endpoint`.
    pub endpoint: Option<EndpointConf>,
    /// `PersistentKeepalive` in seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// From the comment `# friendly_name = …`.
    pub friendly_name: Option<Arc<str>>,
}

/// A secret in the file, or where it is kept.
#[derive(Clone)]
pub enum KeySource<K> {
    /// In the file itself.
    Inline(K),
    /// Elsewhere; [`TunnelConf::read_keys`] fetches it.
    Elsewhere {
        /// Where.
        place: KeyPlace,
        /// The line that says so.
        line: usize,
    },
}

/// Where a secret is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// A file with the key in base64.
    File(String),
    /// A credential of the service manager, by name (`@NAME`).
    Credential(String),
}

/// Where a peer is, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointConf {
    /// A literal address.
    Address(SocketAddr),
    /// To be resolved by the shell, again and again.
    Name {
        /// The host's name.
        host: String,
        /// Its port.
        port: u16,
    },
}

/// Where routes for the allowed IPs go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// The main table, and a table of its own with rules for a default route.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// Into this one.
    Number(u32),
}

/// One mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfError {
    /// The file.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// The key as the documentation spells it, or the section.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.key, self.message)
    }
}

/// All mistakes of a configuration file, in the order of their lines; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfErrors(pub Vec<ConfError>);

impl fmt::Display for ConfErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfErrors {}

impl TunnelConf {
    /// Fetches the keys that are kept elsewhere. `read` gives a place's text, or why it cannot.
    pub fn read_keys<E: fmt::Display>(
        &mut self,
        mut read: impl FnMut(&KeyPlace) -> Result<zeroize::Zeroizing<String>, E>,
    ) -> Result<(), ConfErrors> {
        let mut errors = Vec::new();
        let mut fetch = |place: &KeyPlace, line: usize, key: &str, accept: &mut Accept<'_>| {
            let message = match read(place) {
                Err(error) => format!("{place}: {error}"),
                Ok(text) => {
                    let (key, next) = key_and_next(&text);
                    match accept(key, next) {
                        Ok(()) => return,
                        Err(error) => format!("{place}: {error}"),
                    }
                }
            };
            errors.push(ConfError { file: self.file.clone(), line, key: key.into(), message });
        };
        if let KeySource::Elsewhere { place, line } = self.private_key.clone() {
            fetch(&place, line, "PrivateKeyFile", &mut |text, next| {
                self.private_key = KeySource::Inline(SecretKey::from_base64(text)?);
                self.next_private_key = next.map(SecretKey::from_base64).transpose()?;
                Ok(())
            });
        }
        for peer in &mut self.peers {
            if let Some(KeySource::Elsewhere { place, line }) = peer.preshared_key.clone() {
                fetch(&place, line, "PresharedKeyFile", &mut |text, next| {
                    peer.preshared_key = Some(KeySource::Inline(PresharedKey::from_base64(text)?));
                    peer.next_preshared_key = next.map(PresharedKey::from_base64).transpose()?;
                    Ok(())
                });
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(ConfErrors(errors)) }
    }

    /// Makes a device all of this and nothing else, for a first start. Keys kept elsewhere are left out:
    /// call [`TunnelConf::read_keys`] before. So are endpoints that are names.
    pub fn to_update(&self) -> DeviceUpdate {
        DeviceUpdate {
            private_key: match &self.private_key {
                KeySource::Inline(key) => Change::Set(key.clone()),
                KeySource::Elsewhere { .. } => Change::Keep,
            },
            next_private_key: self.next_private_key.clone(),
            listen_port: Some(self.listen_port.unwrap_or(0)),
            fwmark: Some(self.fwmark),
            denied: None,
            replace_peers: true,
            peers: self.peers.iter().map(PeerConf::to_update).collect(),
        }
    }

    /// Turns a running device with these peers into this, leaving the sessions of those that stay.
    pub fn to_sync_update(&self, present: &[PublicKey]) -> DeviceUpdate {
        let gone = present.iter().filter(|key| self.peers.iter().all(|peer| peer.public_key != **key));
        let removals = gone.map(|key| PeerUpdate { remove: true, ..PeerUpdate::of(*key) });
        let peers = removals.chain(self.peers.iter().map(PeerConf::to_update)).collect();
        DeviceUpdate { replace_peers: false, peers, ..self.to_update() }
    }
}

/// Takes a key's text, and that of the one to come.
type Accept<'a> = dyn FnMut(&str, Option<&str>) -> Result<(), KeyError> + 'a;

/// A key file's key, and the one that a rotation is about to put in its place.
fn key_and_next(text: &str) -> (&str, Option<&str>) {
    let text = text.trim();
    let Some((key, rest)) = text.split_once('\n') else { return (text, None) };
    let comments = rest.lines().filter_map(|line| line.trim().strip_prefix('#'));
    let mut next = comments.filter_map(|comment| parse::in_comment(comment, NEXT_IN_KEY_FILE));
    match next.next() {
        Some(next) => (key.trim(), Some(next)),
        // Whatever else stands there is no key.
        None => (text, None),
    }
}

impl PeerConf {
    fn to_update(&self) -> PeerUpdate {
        PeerUpdate {
            preshared_key: match &self.preshared_key {
                None => Change::Clear,
                Some(KeySource::Inline(key)) => Change::Set(key.clone()),
                Some(KeySource::Elsewhere { .. }) => Change::Keep,
            },
            next_preshared_key: self.next_preshared_key.clone(),
            endpoint: match &self.endpoint {
                Some(EndpointConf::Address(address)) => Some(*address),
                Some(EndpointConf::Name { .. }) | None => None,
            },
            persistent_keepalive: Some(self.persistent_keepalive),
            replace_allowed_ips: true,
            allowed_ips: self.allowed_ips.iter().copied().map(AllowedIpChange::Add).collect(),
            friendly_name: self.friendly_name.clone(),
            ..PeerUpdate::of(self.public_key)
        }
    }
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyPlace::File(path) => f.write_str(path),
            KeyPlace::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

#[cfg(test)]
mod tests;
