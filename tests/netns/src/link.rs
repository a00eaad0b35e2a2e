//! Links, addresses and routes, by rtnetlink.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};
use tokio::runtime;

use crate::host::Host;
use crate::namespace::Namespace;

/// One end of a link: an interface in a host's outer namespace.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where it is.
    pub host: &'a Host,
    /// The interface's name.
    pub name: &'a str,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the prefix on the link.
    pub prefix: u8,
}

/// A cable between two hosts. It exists as long as the namespaces of its ends.
#[derive(Debug)]
pub struct Link;

impl Link {
    /// Makes a veth pair with `mtu`, gives both ends their addresses and raises them.
    pub fn connect(one: End<'_>, other: End<'_>, mtu: u32) -> Result<Link> {
        let far = other.host.outer().raw();
        let far_name = other.name.to_owned();
        let near_name = one.name.to_owned();
        with_netlink(one.host.outer(), move |netlink| async move {
            let peer =
                LinkMessageBuilder::<LinkUnspec>::new().name(far_name).setns_by_fd(far).mtu(mtu).build();
            let pair = LinkMessageBuilder::<LinkVeth>::new(&near_name, "")
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .mtu(mtu)
                .build();
            netlink.link().add(pair).execute().await.context("make a veth pair")
        })?;
        for end in [one, other] {
            set_address(end.host.outer(), end.name, end.address, end.prefix)?;
        }
        Ok(Link)
    }
}

/// Gives an interface an address and raises it.
pub fn set_address(place: &Namespace, name: &str, address: Ipv4Addr, prefix: u8) -> Result<()> {
    let context = format!("set {address}/{prefix} on {name}");
    let name = name.to_owned();
    with_netlink(place, move |netlink| async move {
        let index = index_of(&name)?;
        netlink.address().add(index, address.into(), prefix).execute().await?;
        raise(&netlink, index).await
    })
    .context(context)
}

/// Routes `destination` by `gateway`.
pub fn add_route(place: &Namespace, destination: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> Result<()> {
    with_netlink(place, move |netlink| async move {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(destination, prefix)
            .gateway(gateway)
            .build();
        netlink.route().add(route).execute().await?;
        Ok(())
    })
    .with_context(|| format!("route {destination}/{prefix} by {gateway}"))
}

/// Raises `lo` in the namespace of the calling thread.
pub(crate) fn loopback_up_here() -> Result<()> {
    run(|netlink| async move { raise(&netlink, index_of("lo")?).await }).context("raise lo")
}

async fn raise(netlink: &Handle, index: u32) -> Result<()> {
    netlink.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
    Ok(())
}

/// Names belong to the namespace of the calling thread.
fn index_of(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("look for the interface {name}"))
}

fn with_netlink<W, F>(place: &Namespace, work: W) -> Result<()>
where
    W: FnOnce(Handle) -> F + Send,
    F: Future<Output = Result<()>>,
{
    place.within(|| run(work))
}

/// A runtime on this very thread, so that the netlink socket belongs to its namespace.
fn run<W, F>(work: W) -> Result<()>
where
    W: FnOnce(Handle) -> F,
    F: Future<Output = Result<()>>,
{
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(async {
        let (connection, netlink, _messages) = new_connection().context("open a netlink socket")?;
        let driver = tokio::spawn(connection);
        let outcome = work(netlink).await;
        driver.abort();
        outcome
    })
}
