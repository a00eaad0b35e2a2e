//! What wgd makes of its configuration: policy routing, host names, reloads, handed-in descriptors, the clock.
//!
//! ```text
//!  client ── web ──────────── wan ──────────── services
//!            wg0 10.100.0.10                   wg0 10.100.0.11, and 203.0.114.1 behind it
//! ```

use std::net::{Ipv4Addr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::host::{Host, PROGRAMS, Place};
use culvert_netns::http::Request;
use culvert_netns::lab::{address, at};
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::stream::Connection;
use culvert_netns::tunnel::{Endpoint, INTERFACE, START_BOUND, Side, Tunnel, start_wgd};
use culvert_netns::wait;
use culvert_netns::wireguard::{self, ping};
use nix::sys::signal::Signal;

/// Without a configuration of its own, wgd stays the user who starts it and says so.
const STOCK: &[&str] = &["no user is configured", "run_as is not set"];

const BOUND: Duration = Duration::from_secs(15);
const BYTES: u64 = 1 << 20;

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("a_default_route_leads_into_the_tunnel_by_policy", policy_routing)
            .needs(&["wgd"])
            .expecting(STOCK),
        Scenario::new("a_host_name_that_moved_is_found_again", moved_name).needs(&["wgd"]).expecting(STOCK),
        Scenario::new("a_reload_changes_what_changed_and_keeps_connections", reloaded)
            .needs(&["wgd"])
            .expecting(STOCK),
        Scenario::new("a_key_that_others_can_read_stops_no_lab_but_is_told", open_key)
            .needs(&["wgd"])
            .expecting(&["others can read", "no user is configured", "run_as is not set"]),
        Scenario::new("a_clock_that_went_back_is_told_and_is_not_ready", clock_behind)
            .needs(&["wgd"])
            .expecting(&["the clock has gone back", "no user is configured", "run_as is not set"]),
        Scenario::new("forwarded_connections_fit_into_the_tunnel", fitted).needs(&["wgd"]).expecting(STOCK),
        Scenario::new("a_path_that_swallows_long_packets_is_told", black_hole).needs(&["wgd"]).expecting(&[
            "longer packets do not come back",
            "no user is configured",
            "run_as is not set",
        ]),
        Scenario::new("where_ipv6_is_off_the_rest_of_the_tunnel_runs", without_ipv6)
            .needs(&["wgd"])
            .expecting(&["IPv6 is off on the interface", "no user is configured", "run_as is not set"]),
        Scenario::new("one_connection_can_be_handed_in", connection_handed_in)
            .needs(&["wgd"])
            .expecting(STOCK),
        Scenario::new("a_tun_and_a_socket_can_be_handed_in", handed_in).needs(&["wgd"]).expecting(STOCK),
    ])
}

/// Starts `services`, and writes `web`'s file with `change` made to it.
fn services_and_web(scene: &Scene, change: impl FnOnce(String) -> String) -> Result<(Tunnel, Running)> {
    let tunnel = Tunnel::new(&scene.lab)?;
    let services = tunnel.start_wgd(&scene.lab, Side::Services, Endpoint::Learned, Place::Outer)?;
    write(&scene.lab.web, change(tunnel.quick_config(Side::Web, Endpoint::Known)))?;
    Ok((tunnel, services))
}

fn write(host: &Host, config: String) -> Result<()> {
    host.write_secret(&format!("/etc/wireguard/{INTERFACE}.conf"), config)
}

fn rules(host: &Host) -> Result<String> {
    let v4 = host.run(&["ip", "-4", "rule"])?.success()?;
    Ok(v4 + &host.run(&["ip", "-6", "rule"])?.success()?)
}

fn same_rules(host: &Host, expected: &str) -> Result<()> {
    let rules = rules(host)?;
    ensure!(rules == expected, "{rules}");
    Ok(())
}

/// An IPv6 address and an IPv6 prefix in the file, and an interface that has no IPv6: both are left out and told of.
fn without_ipv6(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    web.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    let (_tunnel, _services) = services_and_web(scene, |text| {
        text.replace("Address = 10.100.0.10/24", "Address = 10.100.0.10/24, fd00:77::1/64").replace(
            "AllowedIPs = 10.100.0.11/32",
            "AllowedIPs = 10.100.0.11/32, 10.101.0.0/16, fd00:78::/64",
        )
    })?;
    let running = start_wgd(web, Place::Outer, &[])?;
    ping(web, Place::Outer, "10.100.0.11", BOUND)?;
    for told in ["no address made", "no route made", "net.ipv6.conf.wg0.disable_ipv6"] {
        ensure!(running.log().contains(told), "no {told:?} in the log");
    }
    let route = web.run(&["ip", "route", "get", "10.101.0.1"])?.success()?;
    ensure!(route.contains("dev wg0"), "the routes behind it are there: {route}");
    // Once it is on, a reload makes what was left out.
    web.sysctl("ipv6/conf/wg0/disable_ipv6", "0")?;
    running.signal(Signal::SIGHUP)?;
    wait::until("the route over IPv6", BOUND, || {
        let route = web.run(&["ip", "-6", "route", "show", "dev", INTERFACE])?.success()?;
        ensure!(route.contains("fd00:78::/64") && route.contains("fd00:77::/64"), "{route}");
        Ok(())
    })
}

/// Everything goes through the tunnel but the tunnel itself and the own networks, though web reaches its peer by a
/// default route only. At the end, and at the next start after a crash, no rule is left behind.
fn policy_routing(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    web.sysctl("ipv6/conf/default/disable_ipv6", "0")?;
    web.run(&["ip", "route", "del", "198.51.100.0/24"])?.success()?;
    web.run(&["ip", "route", "add", "default", "via", "192.0.2.2"])?.success()?;
    scene.lab.services.run(&["ip", "address", "add", "203.0.114.1/32", "dev", "lo"])?.success()?;
    let (_tunnel, _services) = services_and_web(scene, |text| {
        text.replace("AllowedIPs = 10.100.0.11/32", "AllowedIPs = 0.0.0.0/0, ::/0")
    })?;
    let before = rules(web)?;
    let mut running = start_wgd(web, Place::Outer, &[])?;
    ping(web, Place::Outer, "203.0.114.1", BOUND)?;
    ping(web, Place::Outer, "192.0.2.2", BOUND).context("the own network is reached directly")?;
    let during = rules(web)?;
    for part in ["from all lookup main suppress_prefixlength 0", "not from all fwmark 0xca6c lookup 51820"] {
        ensure!(during.matches(part).count() == 2, "one rule for each family: {part}\n{during}");
    }
    ensure!(web.run(&["wg", "show", INTERFACE, "fwmark"])?.success()?.trim() == "0xca6c");
    let route = web.run(&["ip", "route", "get", "203.0.114.1"])?.success()?;
    ensure!(route.contains("dev wg0 table 51820"), "{route}");
    let own = web.run(&["ip", "route", "get", "198.51.100.1", "mark", "51820"])?.success()?;
    ensure!(own.contains("dev wan0"), "the tunnel's own datagrams: {own}");

    // A killed wgd leaves its rules behind; the next one finds them.
    running.kill()?;
    running.wait(BOUND)?;
    ensure!(rules(web)? == during, "nobody was there to remove them");
    let running = start_wgd(web, Place::Outer, &[])?;
    ensure!(rules(web)? == during, "{}", rules(web)?);
    ping(web, Place::Outer, "203.0.114.1", BOUND)?;

    // A reload without the default route takes the rules away, and one with it brings them back.
    let config = web.read("/etc/wireguard/wg0.conf")?;
    write(web, config.replace("0.0.0.0/0, ::/0", "10.100.0.11/32"))?;
    running.signal(Signal::SIGHUP)?;
    wait::until("the rules to go", BOUND, || same_rules(web, &before))?;
    write(web, config)?;
    running.signal(Signal::SIGHUP)?;
    wait::until("the rules to come", BOUND, || same_rules(web, &during))?;
    ensure!(running.stop()?.success());
    ensure!(rules(web)? == before, "left behind: {}", rules(web)?);
    Ok(())
}

/// A name server with one name, whose address can change.
struct NameServer {
    address: Arc<Mutex<Ipv4Addr>>,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    fn start(host: &Host, address: Ipv4Addr) -> Result<NameServer> {
        let socket =
            host.outer().within(|| UdpSocket::bind(at([127, 0, 0, 1], 53)).context("bind port 53"))?;
        let server = NameServer { address: Arc::new(Mutex::new(address)), asked: Arc::default() };
        let (address, asked) = (Arc::clone(&server.address), Arc::clone(&server.asked));
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                asked.fetch_add(1, Ordering::Relaxed);
                let found = *address.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(answer) = answer(&buffer[..length], found) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        host.write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n")?;
        host.write("/etc/nsswitch.conf", "hosts: files dns\n")?;
        Ok(server)
    }

    fn say(&self, address: Ipv4Addr) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
}

/// The answer to a question for one name (RFC 1035 §4.1): an address for type A, nothing for others.
fn answer(question: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const TYPE_A: [u8; 2] = [0, 1];
    let mut at = HEADER;
    while *question.get(at)? != 0 {
        at += usize::from(question[at]) + 1;
    }
    let end = at + 5;
    let kind = question.get(at + 1..at + 3)?;
    let mut answer = question.get(..end)?.to_vec();
    answer[2..HEADER].copy_from_slice(&[0x84, 0x00, 0, 1, 0, u8::from(kind == TYPE_A), 0, 0, 0, 0]);
    if kind == TYPE_A {
        // A pointer to the name in the question, type A, class IN, no time to live, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

fn moved_name(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    // Nobody is there.
    let names = NameServer::start(web, Ipv4Addr::new(198, 51, 100, 99))?;
    let (_tunnel, _services) = services_and_web(scene, |text| {
        text.replace("Endpoint = 198.51.100.1:", "PersistentKeepalive = 1\nEndpoint = services.example:")
    })?;
    let mut running = start_wgd(web, Place::Outer, &[])?;
    running.until("look the name up", BOUND, || {
        let peers = wireguard::show(web, INTERFACE)?;
        let endpoint = peers.first().and_then(|peer| peer.endpoint.clone());
        ensure!(endpoint.as_deref() == Some("198.51.100.99:51820"), "{endpoint:?}");
        Ok(())
    })?;
    let asked = names.asked.load(Ordering::Relaxed);
    names.say(address::SERVICES_WAN);
    ping(web, Place::Outer, "10.100.0.11", Duration::from_secs(40))?;
    let asked_again = names.asked.load(Ordering::Relaxed);
    ensure!(asked_again > asked, "the name was not looked up again");
    let peers = wireguard::show(web, INTERFACE)?;
    ensure!(peers[0].endpoint.as_deref() == Some("198.51.100.1:51820"), "{peers:?}");
    // A peer that answers is left alone.
    thread::sleep(Duration::from_secs(3));
    ensure!(names.asked.load(Ordering::Relaxed) == asked_again);
    Ok(())
}

fn reloaded(scene: &Scene) -> Result<()> {
    let (web, services) = (&scene.lab.web, &scene.lab.services);
    let (_tunnel, _services) = services_and_web(scene, |text| text)?;
    let running = start_wgd(web, Place::Outer, &[])?;
    ping(web, Place::Outer, "10.100.0.11", BOUND)?;
    let mut connection = Connection::open(web, services, Place::Outer, address::SERVICES_TUNNEL.into())?;
    connection.carry(BYTES)?;
    let handshake = wireguard::show(web, INTERFACE)?[0].latest_handshake;

    let before = web.read("/etc/wireguard/wg0.conf")?;
    let more = before
        .replace("MTU = 1420", "MTU = 1380\nAddress = 10.107.0.1/32")
        .replace("AllowedIPs = 10.100.0.11/32", "AllowedIPs = 10.100.0.11/32, 10.200.0.0/24");
    for (config, there) in [(more.clone(), true), (before, false), (more, true)] {
        write(web, config)?;
        running.signal(Signal::SIGHUP)?;
        wait::until("the reload", BOUND, || {
            let address = web.run(&["ip", "address", "show", "dev", INTERFACE])?.success()?;
            ensure!(address.contains("10.107.0.1/32") == there, "{address}");
            ensure!(address.contains(if there { "mtu 1380" } else { "mtu 1420" }), "{address}");
            let routes = web.run(&["ip", "route"])?.success()?;
            ensure!(routes.contains("10.200.0.0/24 dev wg0") == there, "{routes}");
            Ok(())
        })?;
        connection.carry(BYTES)?;
        connection.echo()?;
    }
    let peers = wireguard::show(web, INTERFACE)?;
    ensure!(peers[0].latest_handshake == handshake, "a new handshake: {peers:?}");
    ensure!(running.stop()?.success());
    Ok(())
}

fn open_key(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    let tunnel = Tunnel::new(&scene.lab)?;
    let key = &tunnel.keys(Side::Web).private;
    let inline = format!("PrivateKey = {key}");
    let config = tunnel.quick_config(Side::Web, Endpoint::Known);
    web.write_secret("/etc/wireguard/own.key", format!("{key}\n"))?;
    write(web, config.replace(&inline, "PrivateKeyFile = /etc/wireguard/own.key"))?;
    let path = web.path("/etc/wireguard/own.key");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).context("chmod")?;
    let running = start_wgd(web, Place::Outer, &[])?;
    ensure!(running.log().contains("others can read"), "no warning");
    // Also when it is read again, by a process that may not look at files but at this.
    running.signal(Signal::SIGHUP)?;
    wait::until_true("the reload", BOUND, || running.log().contains("configuration read again"))?;
    ensure!(running.stop()?.success());

    web.write("/etc/culvert/wgd.toml", "profile = \"production\"\nrun_as = \"0:0\"\n")?;
    let finished = web.daemon("wgd").arguments(&["-f", INTERFACE]).run(BOUND)?;
    let (code, message) = finished.refusal()?;
    ensure!(code == 78 && message.contains("own.key") && message.contains("chmod 600"), "{code}: {message}");
    Ok(())
}

fn clock_behind(scene: &Scene) -> Result<()> {
    const AHEAD_SECONDS: u64 = 20;
    let web = &scene.lab.web;
    let (_tunnel, _services) = services_and_web(scene, |text| text)?;
    let now: u64 = web.run(&["date", "+%s"])?.success()?.trim().parse().context("date")?;
    web.write("/run/state/wg0.clock", format!("{:020}\n", (now + AHEAD_SECONDS) * 1_000))?;
    web.write(
        "/etc/culvert/wgd.toml",
        "state_directory = \"/run/state\"\nmetrics_listen = \"127.0.0.1:9586\"\n",
    )?;
    let mut running = start_wgd(web, Place::Outer, &[])?;
    let get = |path| Request::new("GET", path).send(web, Place::Outer, at([127, 0, 0, 1], 9586));
    ensure!(running.log().contains("the clock has gone back"), "no warning");
    ensure!(get("/metrics")?.text().contains("wgd_clock_behind_state 1"));
    ensure!(get("/readyz")?.status == 503);
    // The peer has no such memory, so the tunnel works; what it noted is not overwritten.
    ping(web, Place::Outer, "10.100.0.11", BOUND)?;
    running.until("catch up", Duration::from_secs(AHEAD_SECONDS + 15), || {
        ensure!(get("/metrics")?.text().contains("wgd_clock_behind_state 0"));
        get("/readyz")?.expect(200).map(drop)
    })?;
    // A handshake after that is noted.
    ensure!(running.stop()?.success());
    web.run(&["rm", "/run/state/wg0.clock"])?.success()?;
    let mut running = start_wgd(web, Place::Outer, &[])?;
    ping(web, Place::Outer, "10.100.0.11", BOUND)?;
    running.until("note the handshake", BOUND, || {
        let noted: u64 = web.read("/run/state/wg0.clock")?.trim().parse().context("the state file")?;
        ensure!(noted >= now * 1_000, "{noted}");
        Ok(())
    })
}

/// services announces more than fits (as a host far behind it would); web lowers it for the client.
fn fitted(scene: &Scene) -> Result<()> {
    let (client, web, services) = (&scene.lab.client, &scene.lab.web, &scene.lab.services);
    let (tunnel, running) = services_and_web(scene, |text| text)?;
    ensure!(running.stop()?.success());
    let config = tunnel.quick_config(Side::Services, Endpoint::Learned);
    write(
        services,
        config.replace("AllowedIPs = 10.100.0.10/32", "AllowedIPs = 10.100.0.10/32, 203.0.113.0/24"),
    )?;
    let _services = start_wgd(services, Place::Outer, &[])?;
    let _web = start_wgd(web, Place::Outer, &[])?;
    web.sysctl("ipv4/ip_forward", "1")?;
    client.run(&["ip", "route", "add", "10.100.0.0/24", "via", "203.0.113.1"])?.success()?;
    let route = ["ip", "route", "replace", "203.0.113.0/24", "dev", INTERFACE, "advmss", "1460"];
    services.run(&route)?.success()?;
    ping(web, Place::Outer, "10.100.0.11", BOUND)?;
    let mut connection = Connection::open(client, services, Place::Outer, address::SERVICES_TUNNEL.into())?;
    connection.echo()?;
    // 1420 less 40 for the headers, less 12 for the time stamps that each segment carries.
    let seen = client.run(&["ss", "--tcp", "--info", "--numeric", "--no-header"])?.success()?;
    ensure!(seen.contains(" mss:1368 "), "{seen}");
    connection.carry(BYTES)
}

/// The link behind the router takes less than both ends think, and no message that says so is believed.
fn black_hole(scene: &Scene) -> Result<()> {
    let (web, wan) = (&scene.lab.web, &scene.lab.wan.host);
    let (_tunnel, _services) = services_and_web(scene, |text| text)?;
    let config = "probe_interval_seconds = 1\nmetrics_listen = \"127.0.0.1:9586\"\n";
    web.write("/etc/culvert/wgd.toml", config)?;
    let mut running = start_wgd(web, Place::Outer, &[])?;
    // After the sockets are bound: they mark their datagrams not to be fragmented.
    web.sysctl("ipv4/ip_no_pmtu_disc", "3")?;
    wan.run(&["ip", "link", "set", "services0", "mtu", "1400"])?.success()?;
    ping(web, Place::Outer, "10.100.0.11", BOUND)?;
    running.until("find the black hole", Duration::from_secs(60), || {
        let metrics =
            Request::new("GET", "/metrics").send(web, Place::Outer, at([127, 0, 0, 1], 9586))?.text();
        let line = metrics.lines().find(|line| line.starts_with("wgd_path_mtu_bytes{"));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<u16>().ok());
        let bytes = value.context("nothing found yet")?;
        // 60 bytes around an inner packet, which is padded to 16.
        ensure!((1_320..=1_340).contains(&bytes), "{bytes}");
        Ok(())
    })?;
    ensure!(running.log().contains("longer packets do not come back"), "no warning");
    Ok(())
}

/// Opens a TUN device and a listening socket, as a privileged starter of wireguard-go does, and becomes wgd.
const STARTER: &str = "
import fcntl, os, socket, struct, sys
tun = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', b'tun7', 0x1001))
os.makedirs('/var/run/wireguard', exist_ok=True)
api = socket.socket(socket.AF_UNIX)
api.bind('/var/run/wireguard/tun7.sock')
api.listen()
for fd in tun, api.fileno():
    os.set_inheritable(fd, True)
os.environ.update(WG_TUN_FD=str(tun), WG_UAPI_FD=str(api.fileno()), WG_THREADS='4', WG_SUDO='1', LOG_LEVEL='verbose')
os.execv(sys.argv[1], [sys.argv[1], '-f', 'whatever'])
";

/// Keeps one end of a pair, hands the other to wgd as boringtun-cli takes it, and asks over it.
const ASKER: &str = "
import os, signal, socket, sys
ours, theirs = socket.socketpair()
pid = os.fork()
if pid == 0:
    os.set_inheritable(theirs.fileno(), True)
    os.execv(sys.argv[1], [sys.argv[1], '-f', '--uapi-fd', str(theirs.fileno()), 'wg0'])
theirs.close()
for request in b'set=1\\nlisten_port=51998\\n\\n', b'get=1\\n\\n':
    ours.sendall(request)
    answer = b''
    while not answer.endswith(b'\\n\\n'):
        part = ours.recv(4096)
        if not part:
            sys.exit('wgd hung up')
        answer += part
    print(answer.decode())
os.kill(pid, signal.SIGTERM)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

fn connection_handed_in(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    let wgd = format!("{PROGRAMS}/wgd");
    let answers = web.program("/usr/bin/python3").arguments(&["-c", ASKER, &wgd]).run(BOUND)?.success()?;
    ensure!(answers.contains("listen_port=51998") && answers.matches("errno=0").count() == 2, "{answers}");
    ensure!(
        !web.path("/var/run/wireguard/wg0.sock").exists(),
        "a socket of its own beside the one it was given"
    );
    Ok(())
}

fn handed_in(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    let wgd = format!("{PROGRAMS}/wgd");
    let mut running = web.program("/usr/bin/python3").arguments(&["-c", STARTER, &wgd]).start()?;
    running.until("answer on the socket it was given", START_BOUND, || {
        web.run(&["wg", "set", "tun7", "listen-port", "51999"])?.success().map(drop)
    })?;
    ensure!(web.run(&["wg", "show", "tun7", "listen-port"])?.success()?.trim() == "51999");
    for line in ["--disable-drop-privileges and WG_SUDO", "--threads and WG_THREADS"] {
        ensure!(running.log().contains(line), "not said: {line}");
    }
    // Whoever made the socket removes it, and that ends the tunnel.
    web.run(&["rm", "/var/run/wireguard/tun7.sock"])?.success()?;
    ensure!(running.wait(BOUND)?.success());
    Ok(())
}
