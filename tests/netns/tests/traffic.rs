//! What the kernel's own tests send through a tunnel: pings, TCP, UDP and many streams, over both families, with small
//! and big MTUs, and through a tunnel within a tunnel.
//!
//! ```text
//!  left                              middle                              right
//!  wg0 192.168.241.1 ── wgd: UDP 1 ─── lo ─── UDP 2: wgd ── wg0 192.168.241.2
//!      fd00::1                127.0.0.1, ::1                    fd00::2
//! ```

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::host::Host;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::traffic::{Transport, everything, flood, iperf, parallel_streams};
use culvert_netns::trio::{self, INTERFACE, Station, Trio, Tunnels, give_address, ping, ping_with};
use culvert_netns::wait;
use culvert_netns::wireguard::KeyPair;

/// What the kernel's tests call big: the largest MTU of its loopback interface's default, less WireGuard's part.
const BIG_MTU: u32 = 34_736;

/// The interface of the tunnel that runs in the other.
const INNER_INTERFACE: &str = "wg1";

/// wgd stays the user who starts it, as other implementations do, and says so.
const STOCK: &[&str] = &["no user is configured"];

fn main() -> ExitCode {
    let scenario = |name, run: fn(&Scene) -> Result<()>| {
        Scenario::new(name, run).needs(&["wgd"]).expecting(STOCK).on_both_devices()
    };
    let once =
        |name, run: fn(&Scene) -> Result<()>| Scenario::new(name, run).needs(&["wgd"]).expecting(STOCK);
    runner::main(&[
        scenario("an_interface_moved_to_another_namespace_carries_packets", moved),
        scenario("ipv4_pings_flood_both_ways", |scene| {
            with_tunnel(scene, |trio| {
                flood(&trio.right.host, trio.left.inner.v4)?;
                flood(&trio.left.host, trio.right.inner.v4)
            })
        }),
        scenario("ipv6_pings_flood_both_ways", |scene| {
            with_tunnel(scene, |trio| {
                flood(&trio.right.host, trio.left.inner.v6)?;
                flood(&trio.left.host, trio.right.inner.v6)
            })
        }),
        scenario("iperf_tcp_runs_over_inner_ipv4", |scene| {
            with_tunnel(scene, |trio| iperf(trio.left.v4(), trio.right.v4(), Transport::Tcp))
        }),
        scenario("iperf_tcp_runs_over_inner_ipv6", |scene| {
            with_tunnel(scene, |trio| iperf(trio.right.v6(), trio.left.v6(), Transport::Tcp))
        }),
        scenario("iperf_udp_runs_over_inner_ipv4", |scene| {
            with_tunnel(scene, |trio| iperf(trio.right.v4(), trio.left.v4(), Transport::Udp))
        }),
        scenario("iperf_udp_runs_over_inner_ipv6", |scene| {
            with_tunnel(scene, |trio| iperf(trio.left.v6(), trio.right.v6(), Transport::Udp))
        }),
        scenario("four_five_and_fifty_tcp_streams_run_side_by_side", |scene| {
            with_tunnel(scene, |trio| {
                [4, 5, 50]
                    .into_iter()
                    .try_for_each(|count| parallel_streams(&trio.left.host, trio.right.v4(), count))
            })
        }),
        scenario("the_interface_counts_inner_bytes", inner_bytes),
        scenario("ten_pings_cost_exact_wire_bytes", wire_bytes),
        scenario("a_handshake_leaves_its_time", handshake_time),
        scenario("everything_runs_with_a_big_mtu_over_outer_ipv4", |scene| {
            with_tunnel(scene, |trio| {
                set_mtu(trio, BIG_MTU)?;
                everything(trio)
            })
        }),
        scenario("everything_runs_over_outer_ipv6", |scene| {
            with_tunnel(scene, |trio| {
                trio.point_at("[::1]")?;
                everything(trio)
            })
        }),
        scenario("everything_runs_with_a_big_mtu_over_outer_ipv6", |scene| {
            with_tunnel(scene, |trio| {
                trio.point_at("[::1]")?;
                set_mtu(trio, BIG_MTU)?;
                everything(trio)
            })
        }),
        scenario("everything_runs_over_a_line_that_cuts_no_segments", |scene| {
            over_a_line(scene, "tx-udp-segmentation off")
        }),
        scenario("everything_runs_over_a_line_that_computes_no_checksums", |scene| {
            over_a_line(scene, "tx off gso off gro off")
        }),
        scenario("everything_runs_while_the_peers_interface_cuts_and_joins_nothing", |scene| {
            with_tunnel(scene, |trio| {
                without_offloads(&trio.right)?;
                everything(trio)?;
                without_offloads(&trio.left)?;
                everything(trio)
            })
        }),
        once("everything_runs_between_a_device_with_offloads_and_one_without", unlike_devices),
        scenario("padding_stays_within_the_interface_mtu", padding),
        scenario("everything_runs_through_a_tunnel_within_a_tunnel", tunnel_in_tunnel),
        scenario("a_routing_loop_is_bounded", routing_loop),
    ])
}

/// Runs `work` over the standard tunnel; both daemons have to outlive it.
fn with_tunnel(scene: &Scene, work: fn(&Trio) -> Result<()>) -> Result<()> {
    let trio = Trio::build(&scene.lab)?;
    let mut tunnels = trio.tunnel_over_loopback()?;
    work(&trio)?;
    tunnels.still_run()
}

/// A cable between both daemons, with these features of its ends changed.
fn over_a_line(scene: &Scene, features: &str) -> Result<()> {
    let trio = Trio::build(&scene.lab)?;
    let mut tunnels = trio.tunnels()?;
    trio.cable("veth1", "veth2")?;
    let ends = [(&trio.left, "veth1", "10.0.0.1"), (&trio.right, "veth2", "10.0.0.2")];
    for (station, name, address) in ends {
        station.host.execute(&format!("ethtool -K {name} {features}"))?;
        give_address(&station.host, name, &format!("{address}/24"))?;
    }
    trio.left.set(&format!("peer {} endpoint 10.0.0.2:{}", trio.right.keys.public, trio.right.port))?;
    trio.right.set(&format!("peer {} endpoint 10.0.0.1:{}", trio.left.keys.public, trio.left.port))?;
    everything(&trio)?;
    tunnels.still_run()
}

fn unlike_devices(scene: &Scene) -> Result<()> {
    let trio = Trio::build(&scene.lab)?;
    let mut tunnels = Tunnels {
        left: trio.left.start_and_take(&trio.middle, INTERFACE)?,
        right: trio.right.start_with(&trio.middle, INTERFACE, &["--device", "plain"])?,
    };
    trio.middle.execute(&format!("ip link set {INTERFACE} netns {}", trio.right.host.pid()))?;
    trio.configure()?;
    trio.point_at("127.0.0.1")?;
    everything(&trio)?;
    tunnels.still_run()
}

/// The host is told to compute checksums and to cut its packets itself before they come to the interface.
fn without_offloads(station: &Station) -> Result<()> {
    let features = "tx off sg off tso off gso off gro off";
    station.host.execute(&format!("ethtool -K {INTERFACE} {features}"))?;
    let shown = station.host.execute(&format!("ethtool -k {INTERFACE}"))?;
    for feature in ["tx-checksumming: off", "tcp-segmentation-offload: off", "generic-receive-offload: off"] {
        ensure!(shown.contains(feature), "{feature}: {shown}");
    }
    Ok(())
}

fn set_mtu(trio: &Trio, mtu: u32) -> Result<()> {
    for station in [&trio.left, &trio.right] {
        station.host.execute(&format!("ip link set {INTERFACE} mtu {mtu}"))?;
    }
    Ok(())
}

fn moved(scene: &Scene) -> Result<()> {
    let trio = Trio::build(&scene.lab)?;
    let tunnels = trio.tunnel_over_loopback()?;
    let outside = trio.middle.execute("ip -oneline link")?;
    ensure!(!outside.contains(INTERFACE), "{outside}");
    ping(&trio.left.host, trio.right.inner.v4)?;
    ping(&trio.right.host, trio.left.inner.v6)?;
    // Its MTU is followed to where it is: padding ends there.
    set_mtu(&trio, SMALL_MTU)?;
    refuse_padding_above(&trio.middle, SMALL_MTU)?;
    wait::until("the new MTU to be known", std::time::Duration::from_secs(5), || {
        ping_with(&trio.left.host, &["-s", "1269"], trio.right.inner.v4)
    })?;
    // Where it is now, deleting it ends its daemon and frees the port.
    let Tunnels { mut left, right: _right } = tunnels;
    trio.left.host.execute(&format!("ip link delete {INTERFACE}"))?;
    let status = left.wait(std::time::Duration::from_secs(5))?;
    ensure!(status.success(), "wgd ended with {status} when its interface was deleted");
    let bound = trio.middle.execute("ss --udp --all --numeric --no-header sport = :1")?;
    ensure!(bound.is_empty(), "the port is still bound: {bound}");
    Ok(())
}

/// Received and sent, as the interface counts.
fn link_bytes(station: &Station) -> Result<(u64, u64)> {
    let read = |which: &str| -> Result<u64> {
        let shown = station.host.execute(&format!("ip -json -stats link show dev {INTERFACE}"))?;
        let shown: serde_json::Value = serde_json::from_str(&shown).context("read the statistics")?;
        shown[0]["stats64"][which]["bytes"].as_u64().context("no statistics")
    };
    Ok((read("rx")?, read("tx")?))
}

fn inner_bytes(scene: &Scene) -> Result<()> {
    let trio = Trio::build(&scene.lab)?;
    let _tunnels = trio.tunnel_over_loopback()?;
    flood(&trio.right.host, trio.left.inner.v4)?;
    for station in [&trio.left, &trio.right] {
        let (received, sent) = link_bytes(station)?;
        // Ten packets of 84 bytes. What the system itself sends (router solicitations) finds no peer.
        ensure!(received == 840, "{}: {received} bytes received", station.host.name());
        ensure!((840..2500).contains(&sent), "{}: {sent} bytes sent", station.host.name());
    }
    Ok(())
}

fn wire_bytes(scene: &Scene) -> Result<()> {
    let trio = Trio::build(&scene.lab)?;
    let _tunnels = trio.tunnel_over_loopback()?;
    flood(&trio.right.host, trio.left.inner.v4)?;
    // Ten messages of 16 + 96 + 16 bytes; 148 and 92 for the handshake; 32 if it was confirmed by a keepalive.
    let right = trio.right.only_peer()?;
    ensure!(right.received == 1372 && [1428, 1460].contains(&right.sent), "{right:?}");
    let left = trio.left.only_peer()?;
    ensure!(left.sent == 1372 && [1428, 1460].contains(&left.received), "{left:?}");
    Ok(())
}

fn handshake_time(scene: &Scene) -> Result<()> {
    let trio = Trio::build(&scene.lab)?;
    let _tunnels = trio.tunnel_over_loopback()?;
    ensure!(trio.left.only_peer()?.latest_handshake == 0);
    ping(&trio.right.host, trio.left.inner.v4)?;
    for station in [&trio.left, &trio.right] {
        let now: u64 = station.host.execute("date +%s")?.trim().parse().context("read the time")?;
        let shown = station.only_peer()?.latest_handshake;
        ensure!(shown <= now && shown + 30 > now, "{shown} at {now}");
    }
    Ok(())
}

/// The kernel's test lowers the MTU of a route, which no TUN hears of; here it is the interface's.
/// An odd one, so that padding to 16 bytes would go above it.
const SMALL_MTU: u32 = 1299;

fn refuse_padding_above(host: &Host, mtu: u32) -> Result<()> {
    // IPv4, UDP, and WireGuard's header and tag around a packet as long as the MTU.
    let longest = 20 + 8 + 32 + mtu;
    host.execute("nft add table ip filter")?;
    host.execute("nft add chain ip filter in { type filter hook input priority 0 ; }")?;
    host.execute(&format!("nft add rule ip filter in iifname != wg0 meta length > {longest} drop"))?;
    Ok(())
}

fn padding(scene: &Scene) -> Result<()> {
    let trio = Trio::build(&scene.lab)?;
    let _tunnels = trio.tunnels()?;
    trio.cable("veth1", "veth2")?;
    trio.left.host.execute("ip address add 10.0.0.1/24 dev veth1")?;
    trio.right.host.execute("ip address add 10.0.0.2/24 dev veth2")?;
    trio.left.set(&format!("peer {} endpoint 10.0.0.2:2", trio.right.keys.public))?;
    set_mtu(&trio, SMALL_MTU)?;
    for station in [&trio.left, &trio.right] {
        refuse_padding_above(&station.host, SMALL_MTU)?;
    }
    // 1297 bytes with their headers: 1312 if padded without regard to the MTU.
    ping_with(&trio.left.host, &["-s", "1269"], trio.right.inner.v4)?;
    ping_with(&trio.right.host, &["-s", "1269"], trio.left.inner.v4)
}

/// The second tunnel of [`tunnel_in_tunnel`]: each wgd's UDP socket is where the first tunnel's interface is.
struct InnerTunnel {
    left: culvert_netns::program::Running,
    right: culvert_netns::program::Running,
    left_keys: KeyPair,
    right_keys: KeyPair,
}

fn nest(trio: &Trio) -> Result<InnerTunnel> {
    for (station, other, address, peer) in [
        (&trio.left, &trio.right, "fd00::5:1", "fd00::5:2"),
        (&trio.right, &trio.left, "fd00::5:2", "fd00::5:1"),
    ] {
        station.host.execute(&format!("ip address flush dev {INTERFACE}"))?;
        trio::give_address(&station.host, INTERFACE, &format!("{address}/112"))?;
        station.set(&format!("peer {} allowed-ips {peer}/128", other.keys.public))?;
    }
    let inner = InnerTunnel {
        left: trio.left.start(INNER_INTERFACE)?,
        right: trio.right.start(INNER_INTERFACE)?,
        left_keys: KeyPair::generate(&trio.left.host)?,
        right_keys: KeyPair::generate(&trio.right.host)?,
    };
    for (station, other, own, peer, address) in [
        (&trio.left, &trio.right, &inner.left_keys, &inner.right_keys, "fd00::5:2"),
        (&trio.right, &trio.left, &inner.right_keys, &inner.left_keys, "fd00::5:1"),
    ] {
        let key = station.file("inner-key", &own.private)?;
        station.set_on(
            INNER_INTERFACE,
            &format!(
                "listen-port 5 private-key {key} peer {} allowed-ips {} endpoint [{address}]:5",
                peer.public,
                other.inner.allowed()
            ),
        )?;
        station.host.execute(&format!("ip link set {INNER_INTERFACE} mtu 1340"))?;
        trio::give_addresses(&station.host, INNER_INTERFACE, station.inner)?;
    }
    Ok(inner)
}

fn tunnel_in_tunnel(scene: &Scene) -> Result<()> {
    let trio = Trio::build(&scene.lab)?;
    let mut tunnels = trio.tunnel_over_loopback()?;
    let mut inner = nest(&trio)?;
    everything(&trio)?;
    inner.left.still_runs()?;
    inner.right.still_runs()?;
    tunnels.still_run()
}

/// The inner tunnel's interface goes to where the outer tunnel's socket is, and the outer tunnel is told to send
/// through it: each packet of one is a packet for the other.
fn routing_loop(scene: &Scene) -> Result<()> {
    let trio = Trio::build(&scene.lab)?;
    let mut tunnels = trio.tunnel_over_loopback()?;
    let mut inner = nest(&trio)?;
    let middle = &trio.middle;
    trio.left.host.execute(&format!("ip link set {INNER_INTERFACE} netns {}", middle.pid()))?;
    middle.execute(&format!("ip address add {}/24 dev {INNER_INTERFACE}", trio.left.inner.v4))?;
    middle.execute(&format!("ip link set {INNER_INTERFACE} up"))?;
    ping(middle, trio.right.inner.v4)?;
    trio.left.set(&format!("peer {} endpoint {}:7", trio.right.keys.public, trio.right.inner.v4))?;
    trio.right.host.execute(&format!("ip link delete {INTERFACE}"))?;
    trio.right.host.execute(&format!("ip link delete {INNER_INTERFACE}"))?;
    let sent = || -> Result<u64> {
        let shown = culvert_netns::wireguard::show(&trio.left.host, INNER_INTERFACE)?;
        shown.first().map(|peer| peer.sent).context("no peer")
    };
    let before = sent()?;
    middle.run(&["ping", "-W", "1", "-c", "10", "-f", trio.right.inner.v4])?.refusal()?;
    // The time in which a loop without bounds would show itself.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let grown = sent()? - before;
    ensure!(grown < 70_000, "ten pings became {grown} bytes");
    tunnels.left.still_runs()?;
    inner.left.still_runs()
}
