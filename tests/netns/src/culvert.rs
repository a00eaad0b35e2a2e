//! The whole of Culvert on a lab: two wgds, edge and storaged, laid out and locked down as in production.
//!
//! ```text
//!  client ── web: public 8000 ─┐                              ┌─ services
//!                   wgd (UDP) ─┼── wan ──────────────────────┼─ wgd (UDP)
//!            ┌ tunnel: edge ───┘                              └─ tunnel: storaged ┐
//! ```
//!
//! Invariant: the daemons read the files and paths that an installation has; what is special here is only the
//! profile, because the kernel of a test machine may lack a layer.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use crate::host::{Host, Place};
use crate::http::{Request, Response};
use crate::lab::{Lab, address, at};
use crate::payload::Payload;
use crate::program::Running;
use crate::store::{RESERVE_BYTES, with_limits};
use crate::tunnel::{self, Endpoint, INTERFACE, MTU, START_BOUND, Side, Tunnel};

/// The programs that [`Culvert::start`] needs.
pub const PROGRAMS: &[&str] = &["wgd", "edge", "storaged", "culvert"];

/// The cohort of the labs.
pub const COHORT: &str = "c5";

/// The user of the labs.
pub const USER: &str = "ada";

/// Another cohort, which the user may not use.
pub const OTHER_COHORT: &str = "c6";

/// Where storaged listens, in the tunnel.
pub const STORAGED: SocketAddr = SocketAddr::new(IpAddr::V4(address::SERVICES_TUNNEL), 8001);

/// The volume's directory on services.
pub const VOLUME: &str = "/srv/volume";

/// The metrics listeners, each on its own host's loopback.
pub const WGD_METRICS: SocketAddr = at_loopback(9586);
/// edge's.
pub const EDGE_METRICS: SocketAddr = at_loopback(9587);
/// storaged's.
pub const STORAGED_METRICS: SocketAddr = at_loopback(9588);

const fn at_loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

/// The numeric users that the daemons become, where the world has more than one user: wgd's.
pub const WGD_USER: u32 = 64_010;
/// edge's.
pub const EDGE_USER: u32 = 64_011;
/// storaged's.
pub const STORAGED_USER: u32 = 64_012;

/// Time after which storaged gives up an upload that went silent: short, so that scenarios are.
pub const BODY_IDLE: Duration = Duration::from_secs(2);

/// Whether a daemon refuses to start when the kernel lacks a layer of the lock-down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// It reports what is missing.
    #[default]
    Lab,
    /// It refuses.
    Production,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Profile::Lab => "lab",
            Profile::Production => "production",
        }
    }
}

/// The certificate of web's servers, where it was made; it is its own authority.
pub const CERTIFICATE: &str = "/etc/culvert/tls.pem";
/// Its key.
pub const CERTIFICATE_KEY: &str = "/etc/culvert/tls.key";
/// Where the client has what it trusts.
pub const CLIENT_CA: &str = "/run/ca.pem";

/// Makes a certificate for web's address, and lets the client trust it.
pub fn make_certificate(lab: &Lab) -> Result<()> {
    // What openssl's own file says makes an authority of it, which rustls does not take for a server.
    let how = "/etc/culvert/tls.cnf";
    let text = format!(
        "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = server\n[name]\nCN = web\n\
         [server]\nbasicConstraints = critical,CA:FALSE\nsubjectAltName = IP:{}\n",
        address::WEB_PUBLIC
    );
    lab.web.write(how, text)?;
    let mut command = vec!["openssl", "req", "-x509", "-config", how, "-newkey", "ec"];
    command.extend(["-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    command.extend(["-keyout", CERTIFICATE_KEY, "-out", CERTIFICATE]);
    lab.web.run(&command)?.success()?;
    lab.client.write(CLIENT_CA, lab.web.read(CERTIFICATE)?)
}

/// The lines of `edge.toml` for that certificate.
pub fn tls_lines() -> String {
    format!("tls_certificate_file = \"{CERTIFICATE}\"\ntls_key_file = \"{CERTIFICATE_KEY}\"\n")
}

/// How a lab's Culvert differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// How strict the daemons are.
    pub profile: Profile,
    /// A file system of this size for the volume, in memory.
    pub volume_bytes: Option<u64>,
    /// After which storaged gives up an upload that went silent, if not [`BODY_IDLE`].
    pub body_idle: Option<Duration>,
    /// Lines added at the top of `edge.toml`.
    pub edge_lines: String,
    /// Its lines of TLS, whose files are on web already; none: plain HTTP.
    pub edge_tls: Option<String>,
}

/// A running Culvert.
#[derive(Debug)]
pub struct Culvert<'a> {
    lab: &'a Lab,
    /// The keys.
    pub tunnel: Tunnel,
    /// wgd on web.
    pub wgd_web: Running,
    /// wgd on services.
    pub wgd_services: Running,
    /// edge on web.
    pub edge: Running,
    /// storaged on services.
    pub storaged: Running,
    /// The token of the [`USER`], who may use [`COHORT`].
    pub token: String,
    /// The token of the admin.
    pub admin_token: String,
}

impl<'a> Culvert<'a> {
    /// Starts everything, and waits until edge says that it is ready.
    pub fn start(lab: &'a Lab) -> Result<Culvert<'a>> {
        Culvert::start_with(lab, &Setup::default())
    }

    /// Starts everything, some of it unusual.
    pub fn start_with(lab: &'a Lab, setup: &Setup) -> Result<Culvert<'a>> {
        let users = has_many_users()?;
        let tunnel = Tunnel::new(lab)?;
        let tokens = configure(lab, setup, users)?;
        for side in [Side::Web, Side::Services] {
            persistent_tun(side.host(lab), side, users)?;
        }
        let wgd_services = tunnel.start_wgd(lab, Side::Services, Endpoint::Learned, Place::Tunnel)?;
        let wgd_web = tunnel.start_wgd(lab, Side::Web, Endpoint::Known, Place::Tunnel)?;
        let storaged = start_storaged(lab)?;
        let edge = start_edge(lab)?;
        let [admin_token, token] = tokens;
        let mut culvert = Culvert { lab, tunnel, wgd_web, wgd_services, edge, storaged, token, admin_token };
        culvert.wait_until_ready(START_BOUND)?;
        Ok(culvert)
    }

    /// The lab.
    pub fn lab(&self) -> &'a Lab {
        self.lab
    }

    /// Where clients reach edge.
    pub fn public(&self) -> SocketAddr {
        at(address::WEB_PUBLIC, 8000)
    }

    /// Every daemon, to look at.
    pub fn daemons(&self) -> [&Running; 4] {
        [&self.wgd_web, &self.wgd_services, &self.edge, &self.storaged]
    }

    /// Waits until edge answers `/readyz` with 200.
    pub fn wait_until_ready(&mut self, bound: Duration) -> Result<()> {
        let web = &self.lab.web;
        self.edge.until("be ready", bound, || {
            Request::new("GET", "/readyz").send(web, Place::Outer, EDGE_METRICS)?.expect(200).map(drop)
        })
    }

    /// A request of the [`USER`]'s for a file of the cohort.
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::new(method, &format!("/v1/cohorts/{COHORT}/files/{path}")).token(&self.token)
    }

    /// Uploads from the client's host.
    pub fn put(&self, path: &str, length: u64, body: &mut dyn Read) -> Result<Response> {
        self.request("PUT", path).send_body(&self.lab.client, Place::Outer, self.public(), length, body)
    }

    /// Uploads a payload, and gives its SHA-256 after comparing it with the receipt's.
    pub fn put_payload(&self, path: &str, length: u64, seed: u64) -> Result<String> {
        let mut payload = Payload::new(length, seed);
        let expected = payload.sha256();
        let receipt = self.put(path, length, &mut payload)?.expect(201)?;
        let receipt: Value = serde_json::from_slice(&receipt.body).context("read the receipt")?;
        let said = receipt.get("sha256").and_then(Value::as_str).unwrap_or_default();
        ensure!(said == expected, "the receipt says {said}, sent was {expected}");
        Ok(expected)
    }

    /// Downloads to the client's host.
    pub fn get(&self, path: &str) -> Result<Response> {
        self.request("GET", path).send(&self.lab.client, Place::Outer, self.public())
    }

    /// Runs `culvert` on a host as root, and gives what it prints.
    pub fn command(&self, host: &Host, arguments: &[&str]) -> Result<String> {
        host.program("/run/bin/culvert").arguments(arguments).run(Duration::from_secs(60))?.success()
    }

    /// The audit trail, oldest first, as storaged tells it to root.
    pub fn trail(&self) -> Result<Vec<Value>> {
        let text = self.command(&self.lab.services, &["audit", "trail", "--json"])?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("read `{line}`")))
            .collect()
    }

    /// What a daemon says on its private listener.
    pub fn status(&self, host: &Host, listener: SocketAddr, path: &str) -> Result<Response> {
        Request::new("GET", path).send(host, Place::Outer, listener)
    }

    /// Every file below the volume's `objects` and `tmp` on services.
    pub fn stored_files(&self) -> Result<Vec<String>> {
        let journal = format!("{VOLUME}/.journal/*");
        let find = ["find", VOLUME, "-mindepth", "2", "-type", "f", "-not", "-path", &journal];
        let listed = self.lab.services.run(&find)?.success()?;
        Ok(listed.lines().map(str::to_owned).collect())
    }
}

/// Starts storaged on services, whose files are there, and waits until it serves.
pub fn start_storaged(lab: &Lab) -> Result<Running> {
    let mut storaged =
        lab.services.daemon("storaged").at(Place::Tunnel).listener("metrics", STORAGED_METRICS).start()?;
    storaged.until("be ready", START_BOUND, || {
        Request::new("GET", "/readyz")
            .send(&lab.services, Place::Outer, STORAGED_METRICS)?
            .expect(200)
            .map(drop)
    })?;
    Ok(storaged)
}

/// Starts edge on web, whose files are there; it may not be ready yet.
pub fn start_edge(lab: &Lab) -> Result<Running> {
    let mut edge = lab
        .web
        .daemon("edge")
        .at(Place::Tunnel)
        .listener("public", at([0, 0, 0, 0], 8000))
        .listener("metrics", EDGE_METRICS)
        .start()?;
    edge.until("answer", START_BOUND, || {
        Request::new("GET", "/healthz").send(&lab.web, Place::Outer, EDGE_METRICS)?.expect(200).map(drop)
    })?;
    Ok(edge)
}

/// Writes the configuration of all daemons; gives the tokens of `admin` and `ada`.
fn configure(lab: &Lab, setup: &Setup, users: bool) -> Result<[String; 2]> {
    let user = |key: &str, id: u32| if users { format!("{key} = \"{id}:{id}\"\n") } else { String::new() };
    let wgd = |listener: &str| {
        format!(
            "profile = \"{}\"\n{}metrics_listen = \"{WGD_METRICS}\"\nadmin_socket = \"/run/culvert/wgd.sock\"\n\
             events_socket = \"/run/culvert/wgd.events\"\nevent_listeners = [\"/run/culvert/{listener}.events\"]\n\
             probe_interval_seconds = 10\n",
            setup.profile.name(),
            user("run_as", WGD_USER)
        )
    };
    let whois = if users { format!("whois_uids = [{STORAGED_USER}]\n") } else { String::new() };
    lab.web.write("/etc/culvert/wgd.toml", wgd("edge"))?;
    lab.services.write("/etc/culvert/wgd.toml", wgd("storaged") + &whois)?;

    let tokens = init_storaged(lab, setup, users)?;

    let key = lab.services.read("/etc/culvert/internal.key")?;
    lab.web.write_secret("/etc/culvert/internal.key", key)?;
    let edge = format!(
        "{}name = \"{}\"\nrole = \"web\"\nprofile = \"{}\"\n{}services_url = \"http://{STORAGED}\"\n\
         tunnel_prefix = \"10.100.0.0/24\"\ninternal_api_key_file = \"/etc/culvert/internal.key\"\n{}{}",
        setup.edge_lines,
        Side::Web.peer_name(),
        setup.profile.name(),
        setup.edge_tls.as_deref().unwrap_or("plain_http = true\n"),
        user("run_as", EDGE_USER),
        user("wgd_user", WGD_USER)
    );
    lab.web.write("/etc/culvert/edge.toml", edge)?;
    Ok(tokens)
}

/// What `culvert init storaged` does, on services.
fn init_storaged(lab: &Lab, setup: &Setup, users: bool) -> Result<[String; 2]> {
    if let Some(bytes) = setup.volume_bytes {
        lab.services.run(&["mkdir", VOLUME])?.success()?;
        lab.services
            .run(&["mount", "-t", "tmpfs", "-o", &format!("size={bytes}"), "volume", VOLUME])?
            .success()?;
    }
    let volume = format!("main={VOLUME}");
    let mut arguments =
        vec!["--json", "init", "storaged", "--profile", setup.profile.name(), "--state-dir", "/srv/state"];
    // A root key that lives as long as its scenario.
    arguments.push("--no-recovery");
    arguments.extend(["--volume", &volume, "--edge", Side::Web.peer_name()]);
    arguments.extend(["--cohort", COHORT, "--cohort", OTHER_COHORT]);
    let ada = format!("{USER}:user={COHORT}");
    arguments.extend(["--user", &ada]);
    let (run_as, wgd_user) = (format!("{STORAGED_USER}:{STORAGED_USER}"), format!("{WGD_USER}:{WGD_USER}"));
    if users {
        arguments.extend(["--run-as", &run_as, "--wgd-user", &wgd_user]);
    }
    let report =
        lab.services.program("/run/bin/culvert").arguments(&arguments).run(START_BOUND)?.success()?;
    let report: Value = serde_json::from_str(&report).context("read what init printed")?;
    let path = "/etc/culvert/storaged.toml";
    let limits = format!(
        "body_idle_timeout_seconds = {}\nstate_reserve_bytes = {RESERVE_BYTES}\n",
        setup.body_idle.unwrap_or(BODY_IDLE).as_secs()
    );
    let text = with_limits(&lab.services.read(path)?, &limits, RESERVE_BYTES)?;
    lab.services.write(path, text)?;
    let token = |name: &str| -> Result<String> {
        let issued = report["tokens"].as_array().into_iter().flatten().find(|issued| issued["user"] == name);
        let token = issued.and_then(|issued| issued["token"].as_str());
        Ok(token.ok_or_else(|| anyhow!("no token for {name}"))?.to_owned())
    };
    Ok([token("admin")?, token(USER)?])
}

/// The interface as the unit files make it: it outlives wgd and belongs to wgd's user.
fn persistent_tun(host: &Host, side: Side, users: bool) -> Result<()> {
    let inside = |command: &[&str]| host.run_at(Place::Tunnel, command)?.success();
    let user = WGD_USER.to_string();
    let mut add = vec!["ip", "tuntap", "add", INTERFACE, "mode", "tun"];
    if users {
        add.extend(["user", &user]);
    }
    inside(&add)?;
    inside(&["ip", "address", "add", &format!("{}/24", side.inner()), "dev", INTERFACE])?;
    inside(&["ip", "link", "set", INTERFACE, "mtu", &MTU.to_string(), "up"])?;
    Ok(())
}

/// Whether there are other users than root: not in a user namespace that maps only one.
pub fn has_many_users() -> Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map").context("read the map of users")?;
    let counts = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    Ok(counts.sum::<u64>() > 1)
}

/// Starts wgd again after it was killed.
pub fn restart_wgd(host: &Host) -> Result<Running> {
    tunnel::start_wgd(host, Place::Tunnel, &[])
}
