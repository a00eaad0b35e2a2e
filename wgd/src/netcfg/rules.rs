//! Carries out policy routing over rtnetlink; what the rules are is [`super::policy`]'s.
//!
//! Invariant: the default route is there before the rule that leads to it, and goes after it.
use super::interface::{Interface, Refused, errno, route};
use super::policy::{Policy, our_tables, pairs_to};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::{IpVersion, RouteMessageBuilder};
use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

impl Interface {
    /// Makes the rules and default routes those of `policy`. Pairs that lead nowhere any more, because the wgd that
    /// made them was killed, go as well.
    pub(super) async fn set_policy(&mut self, policy: Option<Policy>) -> Result<(), Refused> {
        if policy.is_some() && self.policy == policy {
            return Ok(());
        }
        // Not there any more when the interface was deleted; its routes went with it.
        let index = self.find().await.map(|(index, _)| index).ok();
        for family in FAMILIES {
            // A kernel without policy routing has no rules to clean up.
            let Ok(rules) = self.rules(family).await else { continue };
            let unused = self.unused(family, &our_tables(&rules), policy, index).await?;
            for rule in pairs_to(&rules, &unused) {
                let result = self.inside.rule().del(rule).execute().await;
                // ENOENT: somebody else removed it, which is what we want.
                if let Err(error) = result
                    && errno(&error) != libc::ENOENT
                {
                    return Err(self.refused("delete routing rule", &error));
                }
            }
        }
        if let (Some(old), Some(index)) = (self.policy.take(), index) {
            for (_, prefix) in old.families() {
                let result = self.inside.route().del(route(index, old.table, &prefix)).execute().await;
                if let Err(error) = result
                    && !matches!(errno(&error), libc::ESRCH | libc::ENODEV)
                {
                    return Err(self.refused(&format!("delete route {prefix}"), &error));
                }
            }
        }
        let Some(wanted) = policy else { return Ok(()) };
        let (index, _) = self.find().await?;
        // Noted first: what is half made is removed at the end as well.
        self.policy = policy;
        for (family, prefix) in wanted.families() {
            let request = self.inside.route().add(route(index, wanted.table, &prefix)).replace();
            let at = format!("add route {prefix} to table {}", wanted.table);
            request.execute().await.map_err(|error| {
                // The kernel says no more than EACCES (ip6_route_info_create).
                let disabled = family == AddressFamily::Inet6 && errno(&error) == libc::EACCES;
                let hint = if disabled { " (net.ipv6.conf.*.disable_ipv6 is 1 for it)" } else { "" };
                self.refused(&format!("{at}{hint}"), &error)
            })?;
            let taken = self.rules(family).await.map_err(|e| self.refused("list routing rules", &e))?;
            let rules = wanted.rules(family, &taken).ok_or_else(|| Refused {
                what: "no two neighbouring priorities are free for routing rules".into(),
                error: io::Error::from_raw_os_error(libc::ENOSPC),
            })?;
            for rule in rules {
                let mut request = self.inside.rule().add();
                *request.message_mut() = rule;
                request.execute().await.map_err(|e| self.refused("add routing rule", &e))?;
            }
        }
        Ok(())
    }

    /// Of these tables, those that our pairs need not lead to: the one that is wanted, for its pair is made anew;
    /// that of before; and those that hold no route, or only routes of this interface.
    async fn unused(
        &self,
        family: AddressFamily,
        tables: &BTreeSet<u32>,
        wanted: Option<Policy>,
        index: Option<u32>,
    ) -> Result<BTreeSet<u32>, Refused> {
        let known = [wanted, self.policy].map(|policy| policy.map(|policy| policy.table));
        let known: BTreeSet<u32> = known.into_iter().flatten().collect();
        let unknown: BTreeSet<u32> = tables.difference(&known).copied().collect();
        if unknown.is_empty() {
            return Ok(known);
        }
        let all = if family == AddressFamily::Inet {
            RouteMessageBuilder::<Ipv4Addr>::new().build()
        } else {
            RouteMessageBuilder::<Ipv6Addr>::new().build()
        };
        let mut used = BTreeSet::new();
        let mut routes = self.inside.route().get(all).execute();
        while let Some(route) = routes.try_next().await.map_err(|e| self.refused("list routes", &e))? {
            let (table, interface) = table_and_interface(&route);
            if index.is_none() || interface != index {
                used.insert(table);
            }
        }
        Ok(known.into_iter().chain(unknown.difference(&used).copied()).collect())
    }

    async fn rules(&self, family: AddressFamily) -> Result<Vec<RuleMessage>, rtnetlink::Error> {
        let version = if family == AddressFamily::Inet { IpVersion::V4 } else { IpVersion::V6 };
        self.inside.rule().get(version).execute().try_collect().await
    }
}

fn table_and_interface(route: &RouteMessage) -> (u32, Option<u32>) {
    let (mut table, mut interface) = (u32::from(route.header.table), None);
    for attribute in &route.attributes {
        if let RouteAttribute::Table(number) = attribute {
            table = *number;
        }
        if let RouteAttribute::Oif(index) = attribute {
            interface = Some(*index);
        }
    }
    (table, interface)
}
