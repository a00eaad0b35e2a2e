//! Two stores behind one edge: each has its cohorts, its people and its ledger, and dies by itself.
//!
//! ```text
//!                             ┌ services :8001 storaged "north": c5, c6
//!  client ── web: edge ── wan ┤
//!                             └ services :8002 storaged "south": c7
//! ```
//!
//! or each at the end of a tunnel of its own:
//!
//! ```text
//!                             ┌ services, 10.100.0.11: storaged "north": c5, c6
//!  client ── web: edge ── wan ┤
//!                             └ annex, 10.100.0.12: storaged "south": c7
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::capture::WIREGUARD_PORT;
use culvert_netns::culvert::{
    COHORT, Culvert, EDGE_METRICS, PROGRAMS, STORAGED, STORAGED_METRICS, STORAGED_USER, Setup, USER,
    WGD_USER, has_many_users, start_edge,
};
use culvert_netns::host::{Host, Place};
use culvert_netns::http::{Request, Response};
use culvert_netns::lab::{Lab, address};
use culvert_netns::link::{End, Link};
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::store::{RESERVE_BYTES, with_limits};
use culvert_netns::tunnel::{INTERFACE, MTU, START_BOUND, Side, start_wgd};
use culvert_netns::wait;
use culvert_netns::wireguard::{self, KeyPair};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOUTH: SocketAddr = SocketAddr::new(IpAddr::V4(address::SERVICES_TUNNEL), 8002);
const SOUTH_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9688);
const SOUTH_COHORT: &str = "c7";
const BOUND: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("two_stores_behind_one_edge_and_one_of_them_dies", two)
            .needs(PROGRAMS)
            .expecting(&["no sign of life from storaged"]),
        Scenario::new("two_stores_behind_two_tunnels_and_one_of_them_is_cut", two_tunnels)
            .needs(PROGRAMS)
            .expecting(&["no sign of life from storaged"]),
    ])
}

/// Makes the other store, and gives the token that it issued to the same user.
fn init_south(lab: &Lab) -> Result<String> {
    let mut arguments = vec!["--json", "init", "storaged", "--profile", "lab", "--no-recovery"];
    let (bind, metrics) = (SOUTH.to_string(), SOUTH_METRICS.to_string());
    arguments.extend([
        "--bind-address",
        &bind,
        "--metrics-listen",
        &metrics,
        "--config",
        "/etc/culvert/south.toml",
    ]);
    arguments.extend(["--state-dir", "/srv/south-state", "--volume", "main=/srv/south-volume"]);
    arguments.extend(["--internal-key", "/etc/culvert/south/internal.key"]);
    arguments.extend([
        "--admin-socket",
        "/run/culvert/south.sock",
        "--events-socket",
        "/run/culvert/south.events",
    ]);
    arguments.extend(["--edge", Side::Web.peer_name(), "--cohort", SOUTH_COHORT]);
    let ada = format!("{USER}:user={SOUTH_COHORT}");
    arguments.extend(["--user", &ada]);
    let (run_as, wgd_user) = (format!("{STORAGED_USER}:{STORAGED_USER}"), format!("{WGD_USER}:{WGD_USER}"));
    if has_many_users()? {
        arguments.extend(["--run-as", &run_as, "--wgd-user", &wgd_user]);
    }
    lab.services.run(&["mkdir", "-p", "/etc/culvert/south"])?.success()?;
    let made = lab.services.program("/run/bin/culvert").arguments(&arguments).run(START_BOUND)?.success()?;
    let made: Value = serde_json::from_str(&made).context("read what init printed")?;
    leave_little_free(&lab.services, "/etc/culvert/south.toml")?;
    // edge has one internal key for both.
    lab.services
        .write_secret("/etc/culvert/south/internal.key", lab.services.read("/etc/culvert/internal.key")?)?;
    let issued = made["tokens"].as_array().into_iter().flatten().find(|issued| issued["user"] == USER);
    let token = issued.and_then(|issued| issued["token"].as_str()).context("no token")?;
    Ok(token.to_owned())
}

fn leave_little_free(host: &Host, path: &str) -> Result<()> {
    let limits = format!("state_reserve_bytes = {RESERVE_BYTES}\n");
    host.write(path, with_limits(&host.read(path)?, &limits, RESERVE_BYTES)?)
}

fn start_south(lab: &Lab) -> Result<Running> {
    let daemon = lab.services.daemon("storaged").at(Place::Tunnel).listener("metrics", SOUTH_METRICS);
    let mut south = daemon.arguments(&["--config", "/etc/culvert/south.toml"]).start()?;
    south.until("be ready", START_BOUND, || {
        let ready = Request::new("GET", "/readyz").send(&lab.services, Place::Outer, SOUTH_METRICS)?;
        ready.expect(200).map(drop)
    })?;
    Ok(south)
}

/// Edge again, in front of both.
fn restart_edge(culvert: &mut Culvert<'_>) -> Result<()> {
    culvert.edge.signal(Signal::SIGTERM)?;
    culvert.edge.wait(BOUND)?;
    culvert.edge = start_edge(culvert.lab())?;
    let web = &culvert.lab().web;
    wait::until("both stores are there", BOUND, || {
        let told = Request::new("GET", "/metrics").send(web, Place::Outer, EDGE_METRICS)?.expect(200)?.text();
        ensure!(told.matches("edge_upstream_up{").count() == 2, "{told}");
        ensure!(up(&told, "north") && up(&told, "south"), "one is not up");
        Ok(())
    })
}

fn up(metrics: &str, name: &str) -> bool {
    metrics.contains(&format!("edge_upstream_up{{upstream=\"{name}\"}} 1"))
}

fn send(culvert: &Culvert<'_>, request: Request, body: &[u8]) -> Result<Response> {
    let length = body.len().try_into()?;
    request.send_body(&culvert.lab().client, Place::Outer, culvert.public(), length, &mut &*body)
}

fn get(culvert: &Culvert<'_>, request: Request) -> Result<Response> {
    request.send(&culvert.lab().client, Place::Outer, culvert.public())
}

/// Puts edge in front of north and of a south at this address.
fn put_in_front(culvert: &mut Culvert<'_>, south: SocketAddr) -> Result<()> {
    let web = &culvert.lab().web;
    let text = web.read("/etc/culvert/edge.toml")?;
    let one = format!("services_url = \"http://{STORAGED}\"\n");
    ensure!(text.contains(&one), "{text}");
    let upstream = |name: &str, address: SocketAddr, cohorts: &str| {
        format!("\n[[upstream]]\nname = \"{name}\"\nurl = \"http://{address}\"\ncohorts = [{cohorts}]\n")
    };
    let tables = upstream("north", STORAGED, "\"c5\", \"c6\"")
        + &upstream("south", south, &format!("\"{SOUTH_COHORT}\""));
    web.write("/etc/culvert/edge.toml", text.replace(&one, "") + &tables)?;
    restart_edge(culvert)
}

fn two(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let mut culvert = Culvert::start(lab)?;
    let token = init_south(lab)?;
    let mut south = start_south(lab)?;
    put_in_front(&mut culvert, SOUTH)?;

    let at = |method: &str, path: &str| Request::new(method, path).token(&token);
    let file = format!("/v1/cohorts/{SOUTH_COHORT}/files/a.csv");
    let receipt: Value =
        serde_json::from_slice(&send(&culvert, at("PUT", &file), b"south")?.expect(201)?.body)?;
    culvert.put("a.csv", 5, &mut &b"north"[..])?.expect(201)?;
    let id = receipt["file_id"].as_str().context("no id")?.to_owned();
    ensure!(get(&culvert, at("GET", &format!("/v1/files/{id}")))?.expect(200)?.body == b"south");
    let made = send(&culvert, at("POST", &format!("/v1/files/{id}/presign")), br#"{"expires_in": 600}"#)?
        .expect(201)?;
    let link: Value = serde_json::from_slice(&made.body)?;
    let link = link["url"].as_str().context("no link")?.to_owned();
    let uploads = format!("/v1/cohorts/{SOUTH_COHORT}/uploads");
    let tus = |request: Request| request.header("Tus-Resumable", "1.0.0");
    let begun =
        tus(at("POST", &uploads)).header("Upload-Length", "10").header("Upload-Metadata", "path Yi5jc3Y=");
    let begun = send(&culvert, begun, b"")?.expect(201)?;
    let upload = begun.header("location").context("no location")?.to_owned();
    let piece = |offset: &str| {
        let request = tus(at("PATCH", &upload)).header("Upload-Offset", offset);
        request.header("Content-Type", "application/offset+octet-stream")
    };
    send(&culvert, piece("0"), b"01234")?.expect(204)?;

    // One dies: what it has is away at once, and nothing else.
    south.kill()?;
    let away = wait::until("its files are away", BOUND, || get(&culvert, at("GET", &file))?.expect(503))?;
    ensure!(away.problem()? == "tunnel-unavailable", "{}", away.text());
    ensure!(get(&culvert, Request::new("GET", &link))?.status == 503, "a link of a store that is away");
    culvert.put("b.csv", 5, &mut &b"north"[..])?.expect(201)?;
    culvert.get("a.csv")?.expect(200)?;
    wait::until("its circuit is open", BOUND, || {
        let told = culvert.status(&lab.web, EDGE_METRICS, "/metrics")?.expect(200)?.text();
        ensure!(up(&told, "north") && !up(&told, "south"), "{told}");
        Ok(())
    })?;
    culvert.status(&lab.web, EDGE_METRICS, "/readyz")?.expect(200)?;

    // It comes back, and another edge, as it were: nothing was remembered, and everything is found.
    let mut south = start_south(lab)?;
    restart_edge(&mut culvert)?;
    send(&culvert, piece("5"), b"56789")?.expect(204)?;
    let whole = get(&culvert, at("GET", &format!("/v1/cohorts/{SOUTH_COHORT}/files/b.csv")))?.expect(200)?;
    ensure!(whole.body == b"0123456789");
    ensure!(get(&culvert, Request::new("GET", &link))?.expect(200)?.body == b"south");
    // Each store's ledger has its own cohort's files, and was asked about no other.
    let trail = culvert.trail()?;
    let of_other = |record: &&Value| record["cohort"] == SOUTH_COHORT;
    ensure!(!trail.iter().any(|record| of_other(&record)), "north was asked about south's files");
    ensure!(trail.iter().any(|record| record["cohort"] == COHORT));
    ensure!(!trail.iter().any(|record| record["action"] == "access.denied"), "somebody was refused");
    south.signal(Signal::SIGTERM)?;
    south.wait(BOUND)?;
    Ok(())
}

/// The annex on its link to the WAN, and in its tunnel.
const ANNEX_WAN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const WAN_TO_ANNEX: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const ANNEX_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 12);
const ANNEX: SocketAddr = SocketAddr::new(IpAddr::V4(ANNEX_TUNNEL), 8001);

/// Another host of the secure zone, with its own wgd and storaged, and a tunnel from web's wgd to it.
struct Annex {
    host: Host,
    _wgd: Running,
    _storaged: Running,
    token: String,
}

impl Annex {
    fn start(culvert: &Culvert<'_>) -> Result<Annex> {
        let lab = culvert.lab();
        let host = lab.another_host("annex")?;
        let end = |host, name, address| End { host, name, address, prefix: 24 };
        Link::connect(end(&lab.wan.host, "annex0", WAN_TO_ANNEX), end(&host, "wan0", ANNEX_WAN), 1500)?;
        lab.web.route(ANNEX_WAN.octets(), 32, [192, 0, 2, 2])?;
        host.route([192, 0, 2, 0], 24, WAN_TO_ANNEX.octets())?;
        // wgd on web gets a second peer; the annex knows web as its edge, and learns where it is.
        let keys = KeyPair::generate(&host)?;
        let preshared = wireguard::generate_preshared_key(&host)?;
        let peer = format!(
            "[Peer]\nPublicKey = {}\nPresharedKey = {preshared}\nAllowedIPs = {ANNEX_TUNNEL}/32\n\
             Endpoint = {ANNEX_WAN}:{WIREGUARD_PORT}\n",
            keys.public
        );
        lab.web.write_secret("/etc/wireguard/annex.conf", peer)?;
        lab.web.run(&["wg", "addconf", INTERFACE, "/etc/wireguard/annex.conf"])?.success()?;
        let conf = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {WIREGUARD_PORT}\nAddress = {ANNEX_TUNNEL}/24\n\
             MTU = {MTU}\n\n[Peer]\n# friendly_name = {}\nPublicKey = {}\nPresharedKey = {preshared}\n\
             AllowedIPs = {}/32\n",
            keys.private,
            Side::Web.peer_name(),
            culvert.tunnel.keys(Side::Web).public,
            Side::Web.inner()
        );
        host.write_secret(&format!("/etc/wireguard/{INTERFACE}.conf"), conf)?;
        let inside = |command: &[&str]| host.run_at(Place::Tunnel, command)?.success();
        let users = has_many_users()?;
        let (wgd_user, storaged_user) = (WGD_USER.to_string(), format!("{STORAGED_USER}:{STORAGED_USER}"));
        let mut add = vec!["ip", "tuntap", "add", INTERFACE, "mode", "tun"];
        if users {
            add.extend(["user", &wgd_user]);
        }
        inside(&add)?;
        inside(&["ip", "address", "add", &format!("{ANNEX_TUNNEL}/24"), "dev", INTERFACE])?;
        inside(&["ip", "link", "set", INTERFACE, "mtu", &MTU.to_string(), "up"])?;
        host.write("/etc/culvert/wgd.toml", lab.services.read("/etc/culvert/wgd.toml")?)?;
        let wgd = start_wgd(&host, Place::Tunnel, &[])?;

        let (bind, ada) = (ANNEX.to_string(), format!("{USER}:user={SOUTH_COHORT}"));
        let wgd_group = format!("{WGD_USER}:{WGD_USER}");
        let mut arguments = vec!["--json", "init", "storaged", "--profile", "lab", "--no-recovery"];
        arguments.extend([
            "--bind-address",
            &bind,
            "--state-dir",
            "/srv/state",
            "--volume",
            "main=/srv/volume",
        ]);
        arguments.extend(["--edge", Side::Web.peer_name(), "--cohort", SOUTH_COHORT, "--user", &ada]);
        if users {
            arguments.extend(["--run-as", &storaged_user, "--wgd-user", &wgd_group]);
        }
        let made = host.program("/run/bin/culvert").arguments(&arguments).run(START_BOUND)?.success()?;
        let made: Value = serde_json::from_str(&made).context("read what init printed")?;
        let issued = made["tokens"].as_array().into_iter().flatten().find(|issued| issued["user"] == USER);
        let token = issued.and_then(|issued| issued["token"].as_str()).context("no token")?.to_owned();
        leave_little_free(&host, "/etc/culvert/storaged.toml")?;
        // edge has one internal key for both.
        host.write_secret("/etc/culvert/internal.key", lab.services.read("/etc/culvert/internal.key")?)?;
        let daemon = host.daemon("storaged").at(Place::Tunnel).listener("metrics", STORAGED_METRICS);
        let mut storaged = daemon.start()?;
        storaged.until("be ready", START_BOUND, || {
            let ready = Request::new("GET", "/readyz").send(&host, Place::Outer, STORAGED_METRICS)?;
            ready.expect(200).map(drop)
        })?;
        Ok(Annex { host, _wgd: wgd, _storaged: storaged, token })
    }

    /// Packets to it and from it vanish, and nobody is told; or pass again.
    fn cut(&self, lab: &Lab, cut: bool) -> Result<()> {
        let verb = if cut { "add" } else { "del" };
        lab.wan.host.run(&["ip", "route", verb, "blackhole", &format!("{ANNEX_WAN}/32")])?.success()?;
        lab.wan.host.sysctl("ipv4/conf/annex0/forwarding", if cut { "0" } else { "1" })
    }

    fn trail(&self) -> Result<Vec<Value>> {
        let told = self.host.program("/run/bin/culvert").arguments(&["audit", "trail", "--json"]);
        let told = told.run(BOUND)?.success()?;
        told.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("read `{line}`")))
            .collect()
    }
}

fn two_tunnels(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    // An upload stands still while the other tunnel is looked at.
    let silence = Some(Duration::from_secs(120));
    let mut culvert = Culvert::start_with(lab, &Setup { body_idle: silence, ..Setup::default() })?;
    let annex = Annex::start(&culvert)?;
    put_in_front(&mut culvert, ANNEX)?;
    let at = |method: &str, path: &str| Request::new(method, path).token(&annex.token);
    let file = format!("/v1/cohorts/{SOUTH_COHORT}/files/a.csv");
    let receipt: Value =
        serde_json::from_slice(&send(&culvert, at("PUT", &file), b"south")?.expect(201)?.body)?;
    let north: Value =
        serde_json::from_slice(&culvert.put("a.csv", 5, &mut &b"north"[..])?.expect(201)?.body)?;
    let id = receipt["file_id"].as_str().context("no id")?.to_owned();
    let made = send(&culvert, at("POST", &format!("/v1/files/{id}/presign")), br#"{"expires_in": 600}"#)?
        .expect(201)?;
    let link: Value = serde_json::from_slice(&made.body)?;
    let link = link["url"].as_str().context("no link")?.to_owned();
    let tus = |request: Request| request.header("Tus-Resumable", "1.0.0");
    let begun = tus(at("POST", &format!("/v1/cohorts/{SOUTH_COHORT}/uploads")));
    let begun = begun.header("Upload-Length", "10").header("Upload-Metadata", "path Yi5jc3Y=");
    let begun = send(&culvert, begun, b"")?.expect(201)?;
    let upload = begun.header("location").context("no location")?.to_owned();
    let piece = |offset: &str| {
        let request = tus(at("PATCH", &upload)).header("Upload-Offset", offset);
        request.header("Content-Type", "application/offset+octet-stream")
    };
    send(&culvert, piece("0"), b"01234")?.expect(204)?;

    // Who is asked for what is another's says so, and does nothing; edge asks no second one.
    let mark = |receipt: &Value| receipt["file_id"].as_str().unwrap_or_default()[..8].to_owned();
    let key = lab.services.read("/etc/culvert/internal.key")?;
    let misled = |mark: &str| {
        let request = Request::new("GET", &format!("/internal/v1/cohorts/{SOUTH_COHORT}/files"));
        let request = request.host(ANNEX).header("X-Internal-Key", key.trim()).header("Culvert-Store", mark);
        request.send(&lab.web, Place::Tunnel, ANNEX)
    };
    let refused = misled(&mark(&north))?.expect(421)?;
    ensure!(refused.problem()? == "wrong-store", "{}", refused.text());
    ensure!(misled(&mark(&receipt))?.expect(400)?.problem()? == "bad-request", "its own, without a context");

    // One tunnel is cut, silently, while an upload runs through the other.
    let running = culvert.request("PUT", "long.csv").header("Content-Length", "10");
    let mut running = running.begin(&lab.client, Place::Outer, culvert.public())?;
    running.send(b"01234")?;
    annex.cut(lab, true)?;
    let away = wait::until("its files are away", BOUND, || get(&culvert, at("GET", &file))?.expect(503))?;
    ensure!(away.problem()? == "tunnel-unavailable", "{}", away.text());
    ensure!(away.header("retry-after").is_some(), "no Retry-After");
    wait::until("its circuit is open", BOUND, || {
        let told = culvert.status(&lab.web, EDGE_METRICS, "/metrics")?.expect(200)?.text();
        ensure!(up(&told, "north") && !up(&told, "south"), "{told}");
        Ok(())
    })?;
    ensure!(get(&culvert, Request::new("GET", &link))?.status == 503, "a link of a store that is away");
    ensure!(send(&culvert, piece("5"), b"56789")?.status == 503, "an upload to a store that is away");
    ensure!(send(&culvert, at("PUT", &file), b"south")?.status == 503);
    running.send(b"56789")?;
    running.response()?.expect(201)?;
    culvert.put("b.csv", 5, &mut &b"north"[..])?.expect(201)?;
    culvert.get("a.csv")?.expect(200)?;
    culvert.status(&lab.web, EDGE_METRICS, "/readyz")?.expect(200)?;

    // It passes again: what was begun goes on where it was, by its id alone.
    annex.cut(lab, false)?;
    wait::until("its files are back", Duration::from_secs(40), || {
        get(&culvert, at("GET", &file))?.expect(200)
    })?;
    let offset = get(&culvert, tus(at("HEAD", &upload)))?.expect(204)?;
    ensure!(offset.header("upload-offset") == Some("5"), "{offset:?}");
    send(&culvert, piece("5"), b"56789")?.expect(204)?;
    let whole = get(&culvert, at("GET", &format!("/v1/cohorts/{SOUTH_COHORT}/files/b.csv")))?.expect(200)?;
    ensure!(whole.body == b"0123456789");
    ensure!(get(&culvert, Request::new("GET", &link))?.expect(200)?.body == b"south");
    // Each ledger has its own cohort's files, and nothing of the other's.
    let (of_north, of_south) = (culvert.trail()?, annex.trail()?);
    ensure!(!of_north.iter().any(|record| record["cohort"] == SOUTH_COHORT), "north was asked about south's");
    ensure!(!of_south.iter().any(|record| record["cohort"] == COHORT), "south was asked about north's");
    ensure!(
        of_south.iter().any(|record| record["cohort"] == SOUTH_COHORT),
        "south has no record of its files"
    );
    let denied = |trail: &[Value]| trail.iter().filter(|record| record["action"] == "access.denied").count();
    ensure!((denied(&of_north), denied(&of_south)) == (0, 2), "those two that were misled on purpose");
    Ok(())
}
