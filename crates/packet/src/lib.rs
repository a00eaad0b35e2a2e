//! Headers of the packets that travel inside the tunnel.
//!
//! **Invariant:** this crate knows bytes only: it holds no socket and no key, and never reads a clock.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod coalesce;
pub mod echo;
pub mod ip;
#[cfg(test)]
mod made;
pub mod mss;
pub mod nesting;
pub mod split;
pub mod tcp;
pub mod udp;
pub mod virtio;

pub use ip::{IpError, IpHeader, IpVersion};
pub use udp::Datagram;
