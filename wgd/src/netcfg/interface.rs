//! The own interface over rtnetlink: addresses, MTU, link, routes.
//!
//! Invariant: every change names the index that the interface's name had at the first request; another
//! interface that takes the name later is not touched.
use super::MtuChoice;
use super::policy::Policy;
use crate::limits;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use linux::{NetNs, Privileged};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric, RouteScope};
use rtnetlink::sys::TokioSocket;
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, RouteMessageBuilder};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use tokio::runtime::Runtime;

/// One interface and the routes that were made for it.
pub(super) struct Interface {
    pub(super) name: String,
    index: Option<u32>,
    /// Netlink in the interface's namespace.
    pub(super) inside: Handle,
    /// Netlink in the namespace of the UDP sockets, for the routes to the endpoints.
    outside: Handle,
    /// Addresses that were given here; those that somebody else gave are not touched.
    addresses: BTreeSet<IpNet>,
    routes: BTreeSet<(u32, IpNet)>,
    /// The rules that are there.
    pub(super) policy: Option<Policy>,
    /// The MTU that was chosen here, by the route to the endpoints; another's choice is respected.
    chosen_mtu: Option<u32>,
}

/// A refused request: what was being done, and the kernel's word.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) what: String,
    pub(super) error: io::Error,
}

impl Interface {
    /// Opens the netlink sockets, the inner one in `namespace` if there is one.
    pub(super) fn open(
        privileged: &Privileged,
        runtime: &Runtime,
        name: &str,
        namespace: Option<&NetNs>,
    ) -> io::Result<Self> {
        let outside = connect(runtime)?;
        let inside = match namespace {
            Some(namespace) => namespace.within(privileged, || connect(runtime))??,
            None => outside.clone(),
        };
        Ok(Self::new(name, inside, outside))
    }

    /// Opens the outer netlink socket; the inner one was opened by somebody else.
    pub(super) fn handed_in(runtime: &Runtime, name: &str, inside: OwnedFd) -> io::Result<Self> {
        let outside = connect(runtime)?;
        let _guard = runtime.enter();
        let (connection, inside, _) = rtnetlink::from_socket(linux::netlink::adopt::<TokioSocket>(inside)?);
        runtime.spawn(connection);
        Ok(Self::new(name, inside, outside))
    }

    fn new(name: &str, inside: Handle, outside: Handle) -> Self {
        Self {
            name: name.to_owned(),
            index: None,
            inside,
            outside,
            addresses: BTreeSet::new(),
            routes: BTreeSet::new(),
            policy: None,
            chosen_mtu: None,
        }
    }

    /// Addresses, MTU, link. Returns the MTU and the index. Repeating it changes nothing; addresses that were
    /// given by an earlier call and are not in `addresses` any more go.
    pub(super) async fn configure(
        &mut self,
        addresses: &[IpNet],
        mtu: &MtuChoice,
        up: bool,
    ) -> Result<(u16, u32), Refused> {
        let (index, present) = self.find().await?;
        let by_somebody_else =
            present != u32::from(limits::TUN_DRIVER_MTU) && self.chosen_mtu != Some(present);
        let wanted = match mtu {
            MtuChoice::Fixed(mtu) => *mtu,
            MtuChoice::Automatic(_) if by_somebody_else => u16::try_from(present).unwrap_or(u16::MAX),
            MtuChoice::Automatic(endpoints) => self.mtu_towards(endpoints).await,
        };
        if u32::from(wanted) != present || matches!(mtu, MtuChoice::Fixed(_)) {
            self.chosen_mtu = Some(u32::from(wanted));
        }
        if u32::from(wanted) != present {
            let message = LinkUnspec::new_with_index(index).mtu(u32::from(wanted)).build();
            self.inside.link().set(message).execute().await.map_err(|e| self.refused("set mtu", &e))?;
        }
        self.set_addresses(index, addresses).await?;
        if up {
            let message = LinkUnspec::new_with_index(index).up().build();
            self.inside.link().set(message).execute().await.map_err(|e| self.refused("set up", &e))?;
        }
        Ok((wanted, index))
    }

    async fn set_addresses(&mut self, index: u32, addresses: &[IpNet]) -> Result<(), Refused> {
        let wanted: BTreeSet<IpNet> = addresses.iter().copied().collect();
        let gone: Vec<IpNet> = self.addresses.difference(&wanted).copied().collect();
        for address in gone {
            let result = self.inside.address().del(address_message(index, &address)).execute().await;
            // EADDRNOTAVAIL: somebody else removed it, which is what we want.
            if let Err(error) = result
                && errno(&error) != libc::EADDRNOTAVAIL
            {
                return Err(self.refused(&format!("delete address {address}"), &error));
            }
            self.addresses.remove(&address);
        }
        // In the order of the file: the first of a network is its primary address.
        for address in addresses {
            let request = self.inside.address().add(index, address.addr(), address.prefix_len());
            match request.replace().execute().await {
                Ok(()) => drop(self.addresses.insert(*address)),
                Err(error) if ipv6_is_off(address, &error) => self.left_out("address", address),
                Err(error) => return Err(self.refused(&format!("add address {address}"), &error)),
            }
        }
        Ok(())
    }

    /// Makes the interface's routes those of `prefixes` in `table`; others that were made here go.
    pub(super) async fn set_routes(&mut self, prefixes: &[IpNet], table: u32) -> Result<(), Refused> {
        let (index, _) = self.find().await?;
        let wanted: BTreeSet<_> = prefixes.iter().map(|prefix| (table, *prefix)).collect();
        let gone: Vec<_> = self.routes.difference(&wanted).copied().collect();
        for (table, prefix) in gone {
            let result = self.inside.route().del(route(index, table, &prefix)).execute().await;
            // ESRCH: somebody else removed it, which is what we want.
            if let Err(error) = result
                && errno(&error) != libc::ESRCH
            {
                return Err(self.refused(&format!("delete route {prefix}"), &error));
            }
            self.routes.remove(&(table, prefix));
        }
        let new: Vec<_> = wanted.difference(&self.routes).copied().collect();
        for (table, prefix) in new {
            let request = self.inside.route().add(route(index, table, &prefix));
            match request.replace().execute().await {
                Ok(()) => drop(self.routes.insert((table, prefix))),
                Err(error) if ipv6_is_off(&prefix, &error) => self.left_out("route", &prefix),
                Err(error) => return Err(self.refused(&format!("add route {prefix}"), &error)),
            }
        }
        Ok(())
    }

    pub(super) async fn find(&mut self) -> Result<(u32, u32), Refused> {
        let request = match self.index {
            Some(index) => self.inside.link().get().match_index(index),
            None => self.inside.link().get().match_name(self.name.clone()),
        };
        let link = request.execute().try_next().await.map_err(|e| self.refused("find", &e))?;
        let link = link.ok_or_else(|| Refused {
            what: format!("interface {}: find", self.name),
            error: io::Error::from_raw_os_error(libc::ENODEV),
        })?;
        self.index = Some(link.header.index);
        Ok((link.header.index, mtu_of(&link.attributes)))
    }

    /// The smallest route MTU to the endpoints minus the overhead. Not knowing it is no error.
    async fn mtu_towards(&self, endpoints: &[IpAddr]) -> u16 {
        let mut smallest: Option<u32> = None;
        for endpoint in endpoints {
            if let Some(mtu) = self.route_mtu(*endpoint).await {
                smallest = Some(smallest.map_or(mtu, |known| known.min(mtu)));
            }
        }
        smallest.map_or(limits::DEFAULT_MTU, limits::tunnel_mtu)
    }

    async fn route_mtu(&self, endpoint: IpAddr) -> Option<u32> {
        let length = if endpoint.is_ipv4() { 32 } else { 128 };
        let mut query =
            RouteMessageBuilder::<IpAddr>::new().destination_prefix(endpoint, length).ok()?.build();
        // Without the mark a default route into the tunnel would answer.
        query.attributes.extend(self.policy.map(|policy| RouteAttribute::Mark(policy.mark)));
        let route = self.outside.route().get(query).execute().try_next().await.ok()??;
        let mut interface = None;
        for attribute in &route.attributes {
            if let RouteAttribute::Metrics(metrics) = attribute {
                let mtu = metrics
                    .iter()
                    .find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None });
                if mtu.is_some() {
                    return mtu;
                }
            }
            if let RouteAttribute::Oif(index) = attribute {
                interface = Some(*index);
            }
        }
        let link = self.outside.link().get().match_index(interface?).execute().try_next().await.ok()??;
        Some(mtu_of(&link.attributes)).filter(|mtu| *mtu > 0)
    }

    /// The tunnel is of use without.
    fn left_out(&self, what: &str, prefix: &IpNet) {
        let sysctl = format!("net.ipv6.conf.{}.disable_ipv6", self.name);
        tracing::warn!(%prefix, sysctl, "IPv6 is off on the interface: no {what} made");
    }

    pub(super) fn refused(&self, action: &str, error: &rtnetlink::Error) -> Refused {
        Refused {
            what: format!("interface {}: {action}", self.name),
            error: io::Error::from_raw_os_error(errno(error)),
        }
    }
}

pub(super) fn route(index: u32, table: u32, prefix: &IpNet) -> rtnetlink::packet_route::route::RouteMessage {
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(prefix.network(), prefix.prefix_len())
        .expect("an IpNet's length suits its family");
    // A route without a gateway has link scope in IPv4, as `ip route add … dev …` makes it; IPv6 knows only one.
    let scope = if prefix.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    builder.output_interface(index).table_id(table).scope(scope).build()
}

fn connect(runtime: &Runtime) -> io::Result<Handle> {
    let _guard = runtime.enter();
    rtnetlink::new_connection().map(|(connection, handle, _)| {
        runtime.spawn(connection);
        handle
    })
}

fn address_message(index: u32, address: &IpNet) -> AddressMessage {
    match address {
        IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
    }
}

/// What the kernel says to an IPv6 address or route where `disable_ipv6` is set, or where it has no IPv6 at all. It
/// says EPERM, not EACCES, where a privilege is missing.
fn ipv6_is_off(prefix: &IpNet, error: &rtnetlink::Error) -> bool {
    prefix.addr().is_ipv6() && [libc::EACCES, libc::EAFNOSUPPORT, libc::EOPNOTSUPP].contains(&errno(error))
}

fn mtu_of(attributes: &[LinkAttribute]) -> u32 {
    let mtu = attributes
        .iter()
        .find_map(|attribute| if let LinkAttribute::Mtu(mtu) = attribute { Some(*mtu) } else { None });
    mtu.unwrap_or(0)
}

pub(super) fn errno(error: &rtnetlink::Error) -> i32 {
    if let rtnetlink::Error::NetlinkError(message) = error { message.raw_code().abs() } else { libc::EIO }
}
