//! Where a peer is: endpoints follow authentic packets, replies leave from the address that was written to, and a source
//! address that is gone or that a better route avoids is not kept.
//!
//! ```text
//!  with tunnels over loopback                      with a cable
//!  left       middle            right              left                         right
//!  wg0 ─ wgd ── lo ── wgd ─ wg0                    wg0 ─ wgd: veth1 ──── veth2 :wgd ─ wg0
//!                                                        10.0.0.1        10.0.0.2
//!                                                        fd00:aa::1      fd00:aa::2
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::trio::{Trio, Tunnels, cable, give_address, ping};
use culvert_netns::wait;

/// wgd stays the user who starts it, as other implementations do, and says so.
const STOCK: &[&str] = &["no user is configured"];

const BOUND: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let scenario = |name, run: fn(&Scene) -> Result<()>| {
        Scenario::new(name, run).needs(&["wgd"]).expecting(STOCK).on_both_devices()
    };
    runner::main(&[
        scenario("a_peer_roams_to_another_ipv4_address_and_port", |scene| {
            let (trio, _tunnels) = over_loopback(scene)?;
            roam_over_ipv4(&trio)
        }),
        scenario("a_peer_roams_from_ipv4_to_ipv6", |scene| {
            let (trio, _tunnels) = over_loopback(scene)?;
            roam_over_ipv4(&trio)?;
            roam_to_ipv6(&trio)
        }),
        scenario("a_removed_ipv4_source_address_is_given_up", |scene| {
            a_removed_address_is_given_up(scene, ("10.0.0.2", "10.0.0.10/24", "10.0.0.1/24"))
        }),
        scenario("a_removed_ipv6_source_address_is_given_up", |scene| {
            a_removed_address_is_given_up(scene, ("[fd00:aa::2]", "fd00:aa::10/96", "fd00:aa::1/96"))
        }),
        scenario("replies_leave_from_the_first_ipv4_address_if_it_was_asked", |scene| {
            replies_leave_from(scene, "10.0.0.1")
        }),
        scenario("replies_leave_from_the_first_ipv6_address_if_it_was_asked", |scene| {
            replies_leave_from(scene, "[fd00:aa::1]")
        }),
        scenario("replies_leave_from_the_second_ipv4_address_if_it_was_asked", |scene| {
            replies_leave_from(scene, "10.0.0.2")
        }),
        scenario("replies_leave_from_the_second_ipv6_address_if_it_was_asked", |scene| {
            replies_leave_from(scene, "[fd00:aa::2]")
        }),
        scenario("replies_leave_from_an_address_of_another_interface", another_interface),
        scenario("the_source_follows_a_better_route", better_route),
    ])
}

fn over_loopback(scene: &Scene) -> Result<(Trio, Tunnels)> {
    let trio = Trio::build(&scene.lab)?;
    let tunnels = trio.tunnel_over_loopback()?;
    ping(&trio.left.host, trio.right.inner.v4)?;
    Ok((trio, tunnels))
}

fn roam_over_ipv4(trio: &Trio) -> Result<()> {
    trio.middle.execute("ip -4 address delete 127.0.0.1/8 dev lo")?;
    trio.middle.execute("ip -4 address add 127.212.121.99/8 dev lo")?;
    trio.left.set("listen-port 9999")?;
    trio.left.set(&format!("peer {} endpoint 127.0.0.1:2", trio.right.keys.public))?;
    ping(&trio.left.host, trio.right.inner.v6)?;
    trio.right.sees(&trio.left.keys, "127.212.121.99:9999")
}

fn roam_to_ipv6(trio: &Trio) -> Result<()> {
    trio.left.set("listen-port 9998")?;
    trio.left.set(&format!("peer {} endpoint [::1]:2", trio.right.keys.public))?;
    ping(&trio.left.host, trio.right.inner.v4)?;
    trio.right.sees(&trio.left.keys, "[::1]:9998")
}

/// Both wgds in their own networks, with a cable between them that has these addresses.
fn over_cable(scene: &Scene, left: &[&str], right: &[&str]) -> Result<(Trio, Tunnels)> {
    let trio = Trio::build(&scene.lab)?;
    let tunnels = trio.tunnels()?;
    trio.cable("veth1", "veth2")?;
    for (host, interface, addresses) in [(&trio.left.host, "veth1", left), (&trio.right.host, "veth2", right)]
    {
        for address in addresses {
            give_address(host, interface, address)?;
        }
    }
    Ok((trio, tunnels))
}

/// The left side's address, remembered as the one its peer writes to, goes; the next packet leaves all the same.
fn a_removed_address_is_given_up(scene: &Scene, (endpoint, new, old): (&str, &str, &str)) -> Result<()> {
    let (trio, _tunnels) =
        over_cable(scene, &["10.0.0.1/24", "fd00:aa::1/96"], &["10.0.0.2/24", "fd00:aa::2/96"])?;
    trio.left.host.sysctl("ipv4/conf/veth1/promote_secondaries", "1")?;
    trio.left.set(&format!("peer {} endpoint {endpoint}:2", trio.right.keys.public))?;
    ping(&trio.left.host, trio.right.inner.v4)?;
    give_address(&trio.left.host, "veth1", new)?;
    trio.left.host.execute(&format!("ip address delete {old} dev veth1"))?;
    ping(&trio.left.host, trio.right.inner.v4)
}

fn replies_leave_from(scene: &Scene, address: &str) -> Result<()> {
    let (trio, _tunnels) = over_cable(
        scene,
        &["10.0.0.1/24", "10.0.0.2/24", "fd00:aa::1/96", "fd00:aa::2/96"],
        &["10.0.0.3/24", "fd00:aa::3/96"],
    )?;
    ask_at(&trio, address)
}

/// The right side writes to one of the left side's addresses and goes on seeing its peer there.
fn ask_at(trio: &Trio, address: &str) -> Result<()> {
    trio.right.set(&format!("peer {} endpoint {address}:1", trio.left.keys.public))?;
    ping(&trio.right.host, trio.left.inner.v4)?;
    trio.right.sees(&trio.left.keys, &format!("{address}:1"))
}

/// The address that is asked for belongs to an interface that packets to the peer do not leave by.
fn another_interface(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = over_cable(scene, &["10.0.0.1/24"], &["10.0.0.3/24"])?;
    cable((&trio.left.host, "veth3"), (&trio.left.host, "veth4"))?;
    trio.left.host.execute("ip address add 10.50.0.1/24 dev veth3")?;
    trio.right.host.execute("ip route add 10.50.0.0/24 dev veth2")?;
    ask_at(&trio, "10.50.0.1")
}

/// ```text
///  left                       right
///  10.0.0.1 veth1 ──── veth2 10.0.0.2
///  10.0.0.3 veth3 ──── veth4
/// ```
fn better_route(scene: &Scene) -> Result<()> {
    let (trio, _tunnels) = over_cable(scene, &["10.0.0.1/24"], &["10.0.0.2/24"])?;
    let (left, right) = (&trio.left.host, &trio.right.host);
    trio.cable("veth3", "veth4")?;
    left.execute("ip address add 10.0.0.3/24 dev veth3")?;
    for interface in ["veth1", "veth3"] {
        left.execute(&format!("ip route flush dev {interface}"))?;
    }
    for (host, interface) in [(left, "veth1"), (left, "all"), (right, "veth4"), (right, "all")] {
        host.sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0")?;
    }
    left.execute("ip route add 10.0.0.0/24 dev veth1 src 10.0.0.1 metric 2")?;
    trio.left.set(&format!("peer {} endpoint 10.0.0.2:2", trio.right.keys.public))?;
    ping(left, trio.right.inner.v4)?;
    trio.right.sees(&trio.left.keys, "10.0.0.1:1")?;
    left.execute("ip route add 10.0.0.0/24 dev veth3 src 10.0.0.3 metric 1")?;
    // The kernel's tests look after one ping; here the news of the route goes by a socket of its own, and packets do not
    // wait for it.
    wait::until("the other source", BOUND, || {
        ping(left, trio.right.inner.v4)?;
        trio.right.sees(&trio.left.keys, "10.0.0.3:1")
    })
}
