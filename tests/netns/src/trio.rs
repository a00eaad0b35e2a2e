//! Three namespaces and two tunnels, the shape of the kernel's own WireGuard tests.
//!
//! ```text
//!  left                                  middle                                right
//!  wg0 192.168.241.1 ─ wgd of left: UDP 1 ── lo ── UDP 2: wgd of right ─ wg0 192.168.241.2
//!      fd00::1                                                               fd00::2
//! ```
//!
//! Invariant: each wgd sees its own host's files, so both interfaces can be called `wg0`, as both sockets lie in
//! their own `/run/wireguard`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::host::Host;
use crate::lab::Lab;
use crate::program::Running;
use crate::traffic::End;
use crate::tunnel::START_BOUND;
use crate::wait;
use crate::wireguard::{self, KeyPair, ShownPeer};

/// The first interface of each side.
pub const INTERFACE: &str = "wg0";

/// Longest that one packet may take, a handshake before it included; without load it is milliseconds. Shorter than the
/// wait before a lost handshake is repeated (5 s, WireGuard's paper, 6.1), so that one which was in vain is noticed.
const PING_SECONDS: &str = "4";

/// A host with a tunnel.
#[derive(Debug)]
pub struct Station {
    /// Where it is.
    pub host: Host,
    /// Its first keys.
    pub keys: KeyPair,
    /// Its addresses in the tunnel.
    pub inner: Inner,
    /// Its first UDP port.
    pub port: u16,
}

/// Addresses in a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// IPv4, without its length.
    pub v4: &'static str,
    /// IPv6, without its length.
    pub v6: &'static str,
}

impl Inner {
    /// Both as a peer's allowed prefixes.
    pub fn allowed(self) -> String {
        format!("{}/32,{}/128", self.v4, self.v6)
    }
}

/// The left side's addresses.
pub const LEFT: Inner = Inner { v4: "192.168.241.1", v6: "fd00::1" };

/// The right side's addresses.
pub const RIGHT: Inner = Inner { v4: "192.168.241.2", v6: "fd00::2" };

impl Station {
    fn new(host: Host, inner: Inner, port: u16) -> Result<Station> {
        let keys = KeyPair::generate(&host)?;
        Ok(Station { host, keys, inner, port })
    }

    /// Starts wgd with its interface and its UDP sockets in `network`, and waits until `wg` reaches it.
    pub fn start_in(&self, network: &Host, interface: &str) -> Result<Running> {
        self.start_with(network, interface, &[])
    }

    /// The same with more arguments.
    pub fn start_with(&self, network: &Host, interface: &str, more: &[&str]) -> Result<Running> {
        let program = self.host.daemon("wgd").arguments(&["--foreground", "--log-level", "info", interface]);
        let program = program.arguments(more);
        let mut running = program.in_network_of(network).start()?;
        running.until("answer on its socket", START_BOUND, || {
            self.host.run(&["wg", "show", interface, "listen-port"])?.success()
        })?;
        Ok(running)
    }

    /// Starts wgd with everything in the own network.
    pub fn start(&self, interface: &str) -> Result<Running> {
        self.start_in(&self.host, interface)
    }

    /// Starts wgd in `birthplace` and takes the interface, and nothing else, to the own network.
    pub fn start_and_take(&self, birthplace: &Host, interface: &str) -> Result<Running> {
        let running = self.start_in(birthplace, interface)?;
        birthplace.execute(&format!("ip link set {interface} netns {}", self.host.pid()))?;
        Ok(running)
    }

    /// `wg set` on the first interface.
    pub fn set(&self, arguments: &str) -> Result<()> {
        self.set_on(INTERFACE, arguments)
    }

    /// `wg set` on an interface.
    pub fn set_on(&self, interface: &str, arguments: &str) -> Result<()> {
        self.host.execute(&format!("wg set {interface} {arguments}")).map(drop)
    }

    /// What `wg show` has to say of the first interface.
    pub fn show(&self, what: &str) -> Result<String> {
        Ok(self.host.execute(&format!("wg show {INTERFACE} {what}"))?.trim_end().to_owned())
    }

    /// Its only peer.
    pub fn only_peer(&self) -> Result<ShownPeer> {
        let shown = wireguard::show(&self.host, INTERFACE)?;
        let [peer] = &shown[..] else { bail!("{} peers on {}", shown.len(), self.host.name()) };
        Ok(peer.clone())
    }

    /// Fails unless `peer` is shown at `endpoint`.
    pub fn sees(&self, peer: &KeyPair, endpoint: &str) -> Result<()> {
        let shown = self.show("endpoints")?;
        ensure!(
            shown.lines().any(|line| line == format!("{}\t{endpoint}", peer.public)),
            "{} does not see {} at {endpoint}:\n{shown}",
            self.host.name(),
            peer.public
        );
        Ok(())
    }

    /// Its IPv4 end.
    pub fn v4(&self) -> End<'_> {
        End { host: &self.host, address: self.inner.v4 }
    }

    /// Its IPv6 end.
    pub fn v6(&self) -> End<'_> {
        End { host: &self.host, address: self.inner.v6 }
    }

    /// Writes a secret for `wg set` and gives its path.
    pub fn file(&self, name: &str, secret: &str) -> Result<String> {
        let path = format!("/run/{name}");
        self.host.write_secret(&path, secret)?;
        Ok(path)
    }
}

/// Sends one packet, without a second attempt, and waits for its answer.
pub fn ping(from: &Host, address: &str) -> Result<()> {
    ping_with(from, &[], address)
}

/// The same with more of ping's options.
pub fn ping_with(from: &Host, options: &[&str], address: &str) -> Result<()> {
    let command = [&["ping", "-c", "1", "-W", PING_SECONDS], options, &[address]].concat();
    from.run(&command)?.success().map(drop).with_context(|| format!("ping {address} from {}", from.name()))
}

/// Fails if a packet is answered within a second.
pub fn no_answer(from: &Host, address: &str) -> Result<()> {
    from.run(&["ping", "-c", "1", "-W", "1", address])?.refusal().map(drop)
}

/// The three namespaces.
#[derive(Debug)]
pub struct Trio {
    /// Where the UDP sockets are, or a router.
    pub middle: Host,
    /// One side.
    pub left: Station,
    /// The other.
    pub right: Station,
    preshared: String,
}

impl Trio {
    /// Makes the namespaces; nothing links them, and no wgd runs.
    pub fn build(lab: &Lab) -> Result<Trio> {
        let host = |name| -> Result<Host> {
            let host = lab.another_host(name)?;
            host.allow_ipv6()?;
            Ok(host)
        };
        let (middle, left, right) = (host("middle")?, host("left")?, host("right")?);
        let preshared = wireguard::generate_preshared_key(&left)?;
        Ok(Trio {
            middle,
            left: Station::new(left, LEFT, 1)?,
            right: Station::new(right, RIGHT, 2)?,
            preshared,
        })
    }

    /// The preshared key of both.
    pub fn preshared_key(&self) -> &str {
        &self.preshared
    }

    /// Starts both wgds in the middle, takes their interfaces to both sides and lets each know where the other is.
    pub fn tunnel_over_loopback(&self) -> Result<Tunnels> {
        let left = self.left.start_and_take(&self.middle, INTERFACE)?;
        let right = self.right.start_and_take(&self.middle, INTERFACE)?;
        self.configure()?;
        self.point_at("127.0.0.1")?;
        Ok(Tunnels { left, right })
    }

    /// Starts both wgds, each in its own network, and configures them but for their endpoints.
    pub fn tunnels(&self) -> Result<Tunnels> {
        let tunnels = Tunnels { left: self.left.start(INTERFACE)?, right: self.right.start(INTERFACE)? };
        self.configure()?;
        Ok(tunnels)
    }

    /// Tells both sides that the other's port is at `address`.
    pub fn point_at(&self, address: &str) -> Result<()> {
        for (station, other) in self.both_ways() {
            station.set(&format!("peer {} endpoint {address}:{}", other.keys.public, other.port))?;
        }
        Ok(())
    }

    /// Keys, ports, peers and addresses, and the interfaces up.
    pub fn configure(&self) -> Result<()> {
        for (station, other) in self.both_ways() {
            let (key, psk) =
                (station.file("key", &station.keys.private)?, station.file("psk", &self.preshared)?);
            station.set(&format!(
                "private-key {key} listen-port {} peer {} preshared-key {psk} allowed-ips {}",
                station.port,
                other.keys.public,
                other.inner.allowed()
            ))?;
            give_addresses(&station.host, INTERFACE, station.inner)?;
        }
        Ok(())
    }

    /// Links both sides directly: `veth1` on the left, `veth2` on the right, without addresses.
    pub fn cable(&self, left: &str, right: &str) -> Result<()> {
        cable((&self.left.host, left), (&self.right.host, right))
    }

    fn both_ways(&self) -> [(&Station, &Station); 2] {
        [(&self.left, &self.right), (&self.right, &self.left)]
    }
}

/// Gives an interface both addresses of a side and raises it.
pub fn give_addresses(host: &Host, interface: &str, inner: Inner) -> Result<()> {
    host.execute(&format!("ip link set {interface} up"))?;
    give_address(host, interface, &format!("{}/24", inner.v4))?;
    give_address(host, interface, &format!("{}/112", inner.v6))
}

/// Gives an interface that is up an address, and waits until it can be used: for IPv6 the kernel finds that out by and
/// by, and answers nobody before.
pub fn give_address(host: &Host, interface: &str, address: &str) -> Result<()> {
    host.execute(&format!("ip address add {address} dev {interface}"))?;
    wait::until(&format!("{address} to be usable"), Duration::from_secs(5), || {
        let tentative = host.execute(&format!("ip -oneline -6 address show dev {interface} tentative"))?;
        ensure!(tentative.is_empty(), "{tentative}");
        Ok(())
    })
}

/// Links two hosts by a veth pair, both ends up.
pub fn cable((one, one_name): (&Host, &str), (other, other_name): (&Host, &str)) -> Result<()> {
    one.execute(&format!("ip link add {one_name} type veth peer name {other_name} netns {}", other.pid()))?;
    one.execute(&format!("ip link set {one_name} up"))?;
    other.execute(&format!("ip link set {other_name} up"))?;
    for (host, name) in [(one, one_name), (other, other_name)] {
        wait::until(&format!("{name} to be up"), Duration::from_secs(5), || {
            let shown = host.execute(&format!("ip -oneline link show dev {name}"))?;
            ensure!(shown.contains("state UP"), "{shown}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Both daemons.
#[derive(Debug)]
pub struct Tunnels {
    /// Of the left side.
    pub left: Running,
    /// Of the right side.
    pub right: Running,
}

impl Tunnels {
    /// Fails with its last words if one has ended.
    pub fn still_run(&mut self) -> Result<()> {
        self.left.still_runs()?;
        self.right.still_runs()
    }
}
