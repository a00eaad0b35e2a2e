//! Headers of the packets that travel inside the tunnel.
//!
//! **Invariant:** this crate knows bytes only: it holds no socket and no key, and never reads a clock.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod echo;
pub mod ip;
pub mod mss;
pub mod nesting;
pub mod udp;

pub use ip::{IpError, IpHeader, IpVersion};
pub use udp::Datagram;
