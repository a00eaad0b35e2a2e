//! What the interface's file permits wgd to ask for.
//!
//! Invariant: netcfg reads the file itself, and nothing in here comes from wgd: whoever takes over the process
//! that touches packets cannot have an address, a route or a look-up that the operator did not write down.
use super::MtuChoice;
use super::policy::{Policy, is_default};
use crate::conf;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use wg_proto::conf::TunnelConf;

/// The bounds of requests. Without a file nothing is permitted that takes an argument.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Permitted {
    up: bool,
    addresses: BTreeSet<IpNet>,
    mtu: Option<u16>,
    routes: BTreeSet<IpNet>,
    table: Option<u32>,
    policy: Option<Policy>,
    names: BTreeSet<String>,
}

impl Permitted {
    /// Reads the file, and says in which directories its key files are. A file that is missing or wrong permits
    /// nothing; wgd reads it as well and reports what is wrong.
    pub(super) fn read(path: &Path, endpoints_are_elsewhere: bool) -> (Self, Vec<PathBuf>) {
        let text = std::fs::File::open(path).and_then(|file| conf::read_text(&file));
        let parsed =
            text.ok().and_then(|text| wg_proto::conf::parse(&path.display().to_string(), &text).ok());
        match parsed {
            Some(parsed) => (Self::by(&parsed, endpoints_are_elsewhere), conf::key_directories(&parsed)),
            None => (Self::default(), Vec::new()),
        }
    }

    /// What this configuration permits.
    pub(super) fn by(conf: &TunnelConf, endpoints_are_elsewhere: bool) -> Self {
        let policy = Policy::of(conf, endpoints_are_elsewhere);
        let allowed_ips = conf.peers.iter().flat_map(|peer| &peer.allowed_ips);
        Self {
            up: true,
            addresses: conf.addresses.iter().copied().collect(),
            mtu: conf.mtu,
            // With a policy the default route stands in a table of its own; in the main one it would make a loop.
            routes: allowed_ips
                .map(IpNet::trunc)
                .filter(|net| policy.is_none() || !is_default(net))
                .collect(),
            table: conf::table(conf),
            policy,
            names: conf::host_names(conf).into_iter().map(|name| name.host).collect(),
        }
    }

    /// Whether the interface may be configured like this; the error names what may not be.
    pub(super) fn configuration(&self, addresses: &[IpNet], mtu: &MtuChoice, up: bool) -> Result<(), String> {
        if let Some(address) = addresses.iter().find(|address| !self.addresses.contains(address)) {
            return Err(format!("address {address}"));
        }
        match mtu {
            MtuChoice::Fixed(mtu) if self.mtu != Some(*mtu) => return Err(format!("mtu {mtu}")),
            MtuChoice::Fixed(_) | MtuChoice::Automatic(_) => {}
        }
        if up && !self.up { Err("set up".into()) } else { Ok(()) }
    }

    /// Whether these routes may be made. `known` parts of the list have been looked at before.
    pub(super) fn routes(&self, known: usize, prefixes: &[IpNet], table: u32) -> Result<(), String> {
        if self.table != Some(table) && !(prefixes.is_empty() && known == 0) {
            return Err(format!("routing table {table}"));
        }
        // A list is never longer than the file's, or it could fill the memory part by part.
        if known + prefixes.len() > self.routes.len() {
            return Err(format!("{} routes", known + prefixes.len()));
        }
        match prefixes.iter().find(|prefix| !self.routes.contains(prefix)) {
            Some(prefix) => Err(format!("route {prefix}")),
            None => Ok(()),
        }
    }

    /// Whether routing may follow this policy. To have none is always permitted.
    pub(super) fn policy(&self, policy: Option<Policy>) -> Result<(), String> {
        match policy {
            Some(wanted) if self.policy != policy => Err(format!("policy routing by mark {}", wanted.mark)),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether this name may be looked up.
    pub(super) fn name(&self, host: &str) -> Result<(), String> {
        if self.names.contains(host) { Ok(()) } else { Err(format!("look up {host:?}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n\
        Address = 10.100.0.10/24\nMTU = 1400\n\
        [Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nAllowedIPs = 10.101.0.0/16\n\
        Endpoint = vpn.example:51820\n";

    fn permitted() -> Permitted {
        let conf = wg_proto::conf::parse("wg0.conf", FILE).unwrap_or_else(|error| panic!("{error}"));
        Permitted::by(&conf, false)
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("prefix")
    }

    #[test]
    fn what_the_file_says_is_permitted() {
        let permitted = permitted();
        let address = [net("10.100.0.10/24")];
        assert_eq!(permitted.configuration(&address, &MtuChoice::Fixed(1400), true), Ok(()));
        assert_eq!(permitted.routes(0, &[net("10.101.0.0/16")], 254), Ok(()));
        assert_eq!(permitted.name("vpn.example"), Ok(()));
    }

    #[test]
    fn other_addresses_routes_tables_and_names_are_not() {
        let permitted = permitted();
        let automatic = MtuChoice::Automatic(Vec::new());
        for address in ["192.0.2.1/24", "10.100.0.10/32", "10.100.0.11/24"] {
            assert!(permitted.configuration(&[net(address)], &automatic, true).is_err(), "{address}");
        }
        assert!(permitted.configuration(&[], &MtuChoice::Fixed(68), true).is_err());
        for route in ["0.0.0.0/0", "10.101.1.0/24", "8.8.8.8/32"] {
            assert!(permitted.routes(0, &[net(route)], 254).is_err(), "{route}");
        }
        assert!(permitted.routes(0, &[net("10.101.0.0/16")], 255).is_err(), "the kernel's local table");
        assert!(permitted.name("secret.attacker.example").is_err());
    }

    #[test]
    fn only_the_files_own_policy_is_permitted() {
        let file = FILE.replace("10.101.0.0/16", "10.101.0.0/16, 0.0.0.0/0");
        let conf = wg_proto::conf::parse("wg0.conf", &file).unwrap_or_else(|error| panic!("{error}"));
        let with_default = Permitted::by(&conf, false);
        let policy = Policy { mark: 51_820, table: 51_820, v4: true, v6: false };
        assert_eq!(with_default.policy(Some(policy)), Ok(()));
        assert_eq!(permitted().policy(None), Ok(()));
        assert!(permitted().policy(Some(policy)).is_err());
        for other in
            [Policy { v6: true, ..policy }, Policy { mark: 1, ..policy }, Policy { table: 254, ..policy }]
        {
            assert!(with_default.policy(Some(other)).is_err(), "{other:?}");
        }
        assert!(with_default.routes(0, &[net("0.0.0.0/0")], 254).is_err(), "in the main table it loops");
        assert_eq!(Permitted::by(&conf, true).routes(0, &[net("0.0.0.0/0")], 254), Ok(()));
    }

    #[test]
    fn a_list_of_routes_cannot_grow_beyond_the_file() {
        assert!(permitted().routes(1, &[net("10.101.0.0/16")], 254).is_err());
    }

    #[test]
    fn without_a_file_nothing_is_permitted() {
        let (nothing, keys) = Permitted::read(Path::new("/nonexistent/wg0.conf"), false);
        assert!(keys.is_empty());
        assert_eq!(nothing.configuration(&[], &MtuChoice::Automatic(Vec::new()), false), Ok(()));
        assert!(nothing.configuration(&[], &MtuChoice::Automatic(Vec::new()), true).is_err());
        assert!(nothing.routes(0, &[net("10.0.0.0/8")], 254).is_err());
        assert_eq!(nothing.routes(0, &[], 254), Ok(()));
    }
}
