//! Policy routing: how a default route can lead into the tunnel without swallowing the tunnel's own datagrams.
//!
//! As wg-quick does it: the default route stands in a table of its own; a rule sends everything there that does
//! not carry the mark of the tunnel's UDP sockets, and a rule before it lets the main table's routes win that are
//! more than a default route.
//!
//! Invariant: the two rules are a pair at neighbouring priorities and carry our protocol number, so that they can
//! be told from everybody else's, now and after a crash.
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use wg_proto::conf::{Table, TunnelConf};

/// The mark and the table where neither `FwMark` nor `ListenPort` gives one, as with wg-quick.
const DEFAULT_TABLE: u32 = 51_820;
/// Tables up to this one belong to the system (linux/rtnetlink.h: `RT_TABLE_DEFAULT`, `MAIN`, `LOCAL`).
const LAST_SYSTEM_TABLE: u32 = 255;
/// The main routing table (linux/rtnetlink.h, `RT_TABLE_MAIN`).
const MAIN_TABLE: u8 = 254;
/// Marks our rules (`FRA_PROTOCOL`); nobody has registered it in linux/rtnetlink.h or iproute2's `rt_protos`.
const PROTOCOL: u8 = 119;
/// The lower priority of the first pair: in front of the main table, which the kernel has at 32766.
const FIRST_PRIORITY: u32 = 32_764;

/// What is to be routed by policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Of the tunnel's own datagrams.
    pub mark: u32,
    /// Where the default route stands.
    pub table: u32,
    /// Whether `0.0.0.0/0` leads into the tunnel.
    pub v4: bool,
    /// Whether `::/0` does.
    pub v6: bool,
}

impl Policy {
    /// What a configuration asks for: nothing unless a peer has a default route and `Table` is not given. Where
    /// the endpoints are reached from another namespace than the tunnel's, no rule is needed.
    #[must_use]
    pub fn of(conf: &TunnelConf, endpoints_are_elsewhere: bool) -> Option<Self> {
        if conf.table != Table::Auto || endpoints_are_elsewhere {
            return None;
        }
        let mut defaults = conf.peers.iter().flat_map(|peer| &peer.allowed_ips).filter(|net| is_default(net));
        let (v4, v6) = (defaults.clone().any(is_v4), defaults.any(|net| !is_v4(net)));
        if !v4 && !v6 {
            return None;
        }
        let by_port = conf.listen_port.map(u32::from).filter(|port| *port > LAST_SYSTEM_TABLE);
        let mark = if conf.fwmark == 0 { by_port.unwrap_or(DEFAULT_TABLE) } else { conf.fwmark };
        let table = if mark > LAST_SYSTEM_TABLE { mark } else { DEFAULT_TABLE };
        Some(Self { mark, table, v4, v6 })
    }

    /// The families with a default route, and the prefix that stands for each.
    pub(super) fn families(self) -> impl Iterator<Item = (AddressFamily, IpNet)> {
        let v4 = self.v4.then(|| (AddressFamily::Inet, IpNet::V4(ipnet::Ipv4Net::default())));
        let v6 = self.v6.then(|| (AddressFamily::Inet6, IpNet::V6(ipnet::Ipv6Net::default())));
        v4.into_iter().chain(v6)
    }

    /// The two rules of a family, at the first pair of priorities that is free in `taken`. `None`: there is none.
    pub(super) fn rules(self, family: AddressFamily, taken: &[RuleMessage]) -> Option<[RuleMessage; 2]> {
        let taken: BTreeSet<u32> = taken.iter().filter_map(priority).collect();
        let mut pairs = (1..=FIRST_PRIORITY).rev().step_by(2);
        let lower = pairs.find(|at| !taken.contains(at) && !taken.contains(&(at + 1)))?;
        let mut main = rule(family, u32::from(MAIN_TABLE), lower);
        main.attributes.push(RuleAttribute::SuppressPrefixLen(0));
        let mut unmarked = rule(family, self.table, lower + 1);
        unmarked.header.flags = RuleFlags::Invert;
        unmarked.attributes.push(RuleAttribute::FwMark(self.mark));
        Some([main, unmarked])
    }
}

/// Whether this prefix is everything.
#[must_use]
pub fn is_default(net: &IpNet) -> bool {
    net.prefix_len() == 0
}

fn is_v4(net: &IpNet) -> bool {
    net.addr().is_ipv4()
}

/// The tables that pairs of ours lead to, from a list of all rules.
pub(super) fn our_tables(rules: &[RuleMessage]) -> BTreeSet<u32> {
    rules.iter().filter(|rule| is_ours(rule)).map(table).filter(|at| *at != u32::from(MAIN_TABLE)).collect()
}

/// Of all `rules`, those of ours that lead to one of `tables`, each with the rule before it; and rules of ours that
/// have lost their other half.
pub(super) fn pairs_to(rules: &[RuleMessage], tables: &BTreeSet<u32>) -> Vec<RuleMessage> {
    let ours: Vec<&RuleMessage> = rules.iter().filter(|rule| is_ours(rule)).collect();
    let leads_on =
        |at: u32| ours.iter().find(|rule| priority(rule) == Some(at) && table(rule) != u32::from(MAIN_TABLE));
    let goes = |rule: &&&RuleMessage| match (table(rule), priority(rule)) {
        (main, Some(at)) if main == u32::from(MAIN_TABLE) => {
            leads_on(at + 1).is_none_or(|mate| tables.contains(&table(mate)))
        }
        (to, _) => tables.contains(&to),
    };
    let gone = ours.iter().filter(goes);
    gone.map(|found| rule(found.header.family, table(found), priority(found).unwrap_or(0))).collect()
}

/// What is common to both rules, and enough to delete one.
fn rule(family: AddressFamily, table: u32, priority: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family;
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Table(table),
        RuleAttribute::Priority(priority),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    rule
}

fn is_ours(rule: &RuleMessage) -> bool {
    rule.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)))
}

fn priority(rule: &RuleMessage) -> Option<u32> {
    rule.attributes
        .iter()
        .find_map(|attribute| if let RuleAttribute::Priority(at) = attribute { Some(*at) } else { None })
}

fn table(rule: &RuleMessage) -> u32 {
    let attribute = rule
        .attributes
        .iter()
        .find_map(|attribute| if let RuleAttribute::Table(table) = attribute { Some(*table) } else { None });
    attribute.unwrap_or_else(|| u32::from(rule.header.table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(interface: &str, allowed: &str) -> Option<Policy> {
        let text = format!(
            "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n{interface}\n\
             [Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nAllowedIPs = {allowed}\n"
        );
        let conf = wg_proto::conf::parse("wg0.conf", &text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Policy::of(&conf, true), None, "in a namespace of its own nothing can loop");
        Policy::of(&conf, false)
    }

    #[test]
    fn the_mark_is_configured_or_the_port_or_wg_quicks() {
        let all = |mark, table| Some(Policy { mark, table, v4: true, v6: true });
        let allowed = "0.0.0.0/0, ::/0";
        assert_eq!(policy("", allowed), all(51_820, 51_820));
        assert_eq!(policy("ListenPort = 1234", allowed), all(1_234, 1_234));
        assert_eq!(policy("ListenPort = 1234\nFwMark = 0x500", allowed), all(0x500, 0x500));
        assert_eq!(policy("FwMark = 254", allowed), all(254, 51_820), "not the main table");
        assert_eq!(policy("ListenPort = 254", allowed), all(51_820, 51_820));
    }

    #[test]
    fn only_a_default_route_in_no_table_of_its_own_needs_rules() {
        assert_eq!(policy("", "10.0.0.0/8, 0.0.0.0/1, 128.0.0.0/1"), None);
        assert_eq!(policy("Table = off", "0.0.0.0/0"), None);
        assert_eq!(policy("Table = 1000", "0.0.0.0/0"), None);
        assert!(policy("", "10.0.0.0/8, ::/0").is_some_and(|policy| policy.v6 && !policy.v4));
    }

    #[test]
    fn pairs_stack_up_below_each_other() {
        let policy = Policy { mark: 1_000, table: 1_000, v4: true, v6: false };
        let first = policy.rules(AddressFamily::Inet, &[]).expect("room");
        assert_eq!(first.each_ref().map(priority), [Some(32_764), Some(32_765)]);
        let foreign = rule(AddressFamily::Inet, 7, 32_763);
        let taken = [first[0].clone(), first[1].clone(), foreign];
        let second = policy.rules(AddressFamily::Inet, &taken).expect("room");
        assert_eq!(second.each_ref().map(priority), [Some(32_760), Some(32_761)]);
    }

    #[test]
    fn a_pair_goes_together_and_others_stay() {
        let pair = |table, taken: &[RuleMessage]| {
            Policy { mark: table, table, v4: true, v6: false }
                .rules(AddressFamily::Inet, taken)
                .expect("room")
        };
        let mut rules = pair(1_000, &[]).to_vec();
        rules.extend(pair(2_000, &rules));
        let mut foreign = pair(3_000, &rules).to_vec();
        for rule in &mut foreign {
            rule.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Protocol(_)));
        }
        rules.extend(foreign);
        assert_eq!(our_tables(&rules), [1_000, 2_000].into());
        let gone = pairs_to(&rules, &[2_000].into());
        assert_eq!(gone.iter().filter_map(priority).collect::<Vec<_>>(), [32_762, 32_763]);
        // Half of a pair is of no use to anybody.
        let half = [rules[0].clone()];
        assert_eq!(pairs_to(&half, &BTreeSet::new()).len(), 1);
    }
}
