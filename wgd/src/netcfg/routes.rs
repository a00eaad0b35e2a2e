//! Which routes the AllowedIPs of a configuration ask for.
//!
//! Invariant: no route is planned that would send the tunnel's own datagrams back into the tunnel by a default
//! route. Where it is made by policy ([`super::policy`]) it does not come here; what comes here with `Table = 254`
//! is left out, unless the tunnel lives in another network namespace than the UDP socket, where no loop can arise.
use ipnet::IpNet;

/// The routes to install, and those left out.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// To be routed into the interface.
    pub install: Vec<IpNet>,
    /// Default routes that would swallow the endpoints.
    pub left_out: Vec<IpNet>,
}

/// Plans the routes for `allowed_ips`. A prefix inside the interface's own networks (`addresses`) is reached by
/// the route that comes with the address.
#[must_use]
pub fn plan(allowed_ips: &[IpNet], addresses: &[IpNet], endpoints_are_elsewhere: bool) -> Plan {
    let mut plan = Plan { install: Vec::new(), left_out: Vec::new() };
    let mut wanted: Vec<IpNet> = allowed_ips.iter().map(IpNet::trunc).collect();
    wanted.sort_unstable();
    wanted.dedup();
    for prefix in wanted {
        if addresses.iter().any(|address| address.trunc().contains(&prefix)) {
            continue;
        }
        if prefix.prefix_len() == 0 && !endpoints_are_elsewhere {
            plan.left_out.push(prefix);
        } else {
            plan.install.push(prefix);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(text: &[&str]) -> Vec<IpNet> {
        text.iter().map(|net| net.parse().expect("prefix")).collect()
    }

    #[test]
    fn prefixes_are_masked_and_routed_once() {
        let plan = plan(&nets(&["10.7.0.1/24", "10.7.0.0/24", "fd00::1/64"]), &[], false);
        assert_eq!(plan.install, nets(&["10.7.0.0/24", "fd00::/64"]));
    }

    #[test]
    fn what_the_address_already_routes_is_not_routed_again() {
        let plan = plan(&nets(&["10.100.0.11/32", "10.101.0.0/16"]), &nets(&["10.100.0.10/24"]), false);
        assert_eq!(plan.install, nets(&["10.101.0.0/16"]));
    }

    #[test]
    fn a_default_route_is_left_out_where_it_would_swallow_the_endpoint() {
        let all = nets(&["0.0.0.0/0", "::/0"]);
        assert_eq!(plan(&all, &[], false).left_out, all);
        assert_eq!(plan(&all, &[], true).install, all);
    }
}
