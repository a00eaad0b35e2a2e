//! `wgd-netcfg`: the second process, which may change the network and never sees a datagram.
//!
//! Invariant: it answers the closed list of [`Request`] and nothing else, for the one interface and the one
//! configuration file it was told about before it confined itself, and within what that file says (`permitted`).
//! It keeps CAP_NET_ADMIN alone (and CAP_NET_BIND_SERVICE where there is no `wgd.toml`). The process that touches
//! packets has no capability; a flaw there reaches exactly these requests. Both helpers are forked before a key is
//! read.
//!
//! Where a service manager starts it (`--serve netcfg`) it is a program of its own, and wgd begins without a right.
//!
//! One request and one answer are one message each, JSON over a `SOCK_SEQPACKET` pair; sockets and files travel
//! as descriptors beside them.
mod client;
mod inside;
mod interface;
mod permitted;
pub mod policy;
mod process;
mod resolver;
pub mod routes;
mod rules;
mod save_key;
mod worker;

pub use client::{Netcfg, NetcfgError, Running};
pub use inside::hand_out;
pub use process::{Setup, serve_one};
pub use save_key::SavedKey;
pub(crate) use save_key::denied;

use ipnet::IpNet;
use policy::Policy;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Everything that can be asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Gives the interface its addresses and MTU, and sets the link up.
    Configure {
        /// Addresses with their prefix lengths; those already there stay.
        addresses: Vec<IpNet>,
        /// Which MTU.
        mtu: MtuChoice,
        /// Whether to set the link up.
        up: bool,
    },
    /// Binds the UDP sockets of both families in the host's namespace; they come as descriptors.
    Bind {
        /// The port; 0 for any.
        port: u16,
        /// SO_MARK; 0 for none.
        mark: u32,
        /// Datagrams of one flow come as one message (UDP_GRO).
        joined: bool,
    },
    /// Sets SO_MARK on the sockets that come along as descriptors.
    Mark {
        /// The mark; 0 for none.
        mark: u32,
    },
    /// Makes the routes of the own interface those of `prefixes`. Long lists come in several parts.
    SetRoutes {
        /// Destinations.
        prefixes: Vec<IpNet>,
        /// The routing table.
        table: u32,
        /// The lists of all parts since the last `last` count together.
        last: bool,
    },
    /// Makes policy routing what it shall be. Rules that a killed wgd left behind go as well.
    SetPolicy {
        /// `None`: no rule.
        policy: Option<Policy>,
    },
    /// The device, and netlink that hears of links where it is: once, by a netcfg that wgd did not fork.
    Device,
    /// Opens the configuration file and the key files it points to; they come as descriptors.
    ReadConfig,
    /// Writes a rotated key in the place where the configuration has the old one.
    SaveKey {
        /// Which, and what.
        key: SavedKey,
        /// Only find out whether it could be written.
        rehearsal: bool,
    },
    /// Looks up a host name that stands in the configuration that was last read.
    Resolve {
        /// The name.
        host: String,
    },
    /// Unlinks the socket files that were named at the start. The last request.
    RemoveSockets,
}

/// How the MTU is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MtuChoice {
    /// As configured.
    Fixed(u16),
    /// What somebody set on a device that was there before; else the MTU of the route to these endpoints minus
    /// the tunnel's overhead; else 1420.
    Automatic(Vec<IpAddr>),
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// Done, with nothing to say.
    Done,
    /// The interface as it is now.
    Configured {
        /// Its MTU.
        mtu: u16,
        /// Its index in its namespace.
        index: u32,
    },
    /// Whether any file says something about the key.
    Saved(bool),
    /// The addresses of a name; none when it is unknown.
    Resolved(Vec<IpAddr>),
    /// Refused by the kernel or by a rule.
    Failed {
        /// A positive number of errno.h.
        errno: i32,
        /// What was being done.
        what: String,
    },
}

/// The longest message: a part of a route list is [`ROUTES_PER_PART`] × 50 bytes.
const MESSAGE_BYTES: usize = 128 * 1024;
/// How many prefixes go into one [`Request::SetRoutes`].
const ROUTES_PER_PART: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_part_of_a_route_list_fits_one_message() {
        let longest: IpNet = "2001:db8:1111:2222:3333:4444:5555:6666/128".parse().expect("prefix");
        let request =
            Request::SetRoutes { prefixes: vec![longest; ROUTES_PER_PART], table: u32::MAX, last: false };
        assert!(serde_json::to_vec(&request).expect("json").len() < MESSAGE_BYTES);
    }

    #[test]
    fn an_unknown_request_is_not_understood() {
        assert!(serde_json::from_str::<Request>(r#"{"run":{"program":"sh"}}"#).is_err());
        assert!(
            serde_json::from_str::<Request>(r#"{"bind":{"port":1,"mark":0,"joined":true,"device":"x"}}"#)
                .is_err()
        );
        assert!(serde_json::from_str::<Request>(r#"{"bind":{"port":1,"mark":0,"joined":true}}"#).is_ok());
    }
}
