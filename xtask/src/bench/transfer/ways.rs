//! The two ways that files can go: through Culvert, and through what one could build from known parts.
//!
//! Invariant: both have their own tunnel between the same two hosts, their own port for clients, and the same disk behind
//! them; curl speaks to both the same way.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_netns::culvert::{
    CERTIFICATE, CERTIFICATE_KEY, COHORT, Culvert, Setup, start_edge, start_storaged, tls_lines,
};
use culvert_netns::host::{Host, Place, TOOLS};
use culvert_netns::lab::{Lab, address, at};
use culvert_netns::program::Running;
use culvert_netns::wait;
use culvert_netns::wireguard::{self, KeyPair};
use nix::sys::signal::Signal;

use super::alone::{self, NULL_PROXY};
use super::{KNOWN, OURS, Options};

const START: Duration = Duration::from_secs(20);
/// Who wants 200 clients at once configures as much.
const TRANSFERS: u32 = 512;

/// A way for files, as a client sees it, and whose processes carry them.
pub(super) struct Way {
    pub(super) name: &'static str,
    /// Where files are put; a name follows.
    pub(super) url: String,
    /// For curl.
    pub(super) headers: Vec<String>,
    /// The tunnel on web and on services, the proxy, the store.
    pub(super) processes: [Vec<u32>; 4],
}

/// The parts of Culvert.
pub(super) struct OurWay<'a> {
    pub(super) culvert: Culvert<'a>,
}

/// The known parts.
pub(super) struct KnownWay {
    tunnels: [Running; 2],
    proxy: Running,
    store: Running,
    url: String,
}

/// Starts Culvert, sized for many clients of one user.
pub(super) fn culvert<'a>(lab: &'a Lab, options: &Options) -> Result<OurWay<'a>> {
    // All clients are one user at one address.
    let edge_lines =
        "limits.rate_per_second = 0\nlimits.max_connections_per_address = 2048\nlimits.max_requests = 1024\n";
    let setup = Setup { edge_lines: edge_lines.to_owned(), ..Setup::default() };
    let mut culvert = Culvert::start_with(lab, &setup)?;
    culvert.storaged.signal(Signal::SIGTERM)?;
    culvert.storaged.wait(START)?;
    let path = "/etc/culvert/storaged.toml";
    let text = lab.services.read(path)?;
    // The lab's own limits are those of a test that waits for them.
    let (before, after) = text.split_once("[limits]\n").context("storaged.toml has no limits")?;
    let others = after.split_once('\n').context("a limit")?.1;
    lab.services.write(path, format!("{before}[limits]\ntransfers = {TRANSFERS}\n{others}"))?;
    culvert.storaged = start_storaged(lab)?;
    if options.is_tls() {
        culvert.edge.signal(Signal::SIGTERM)?;
        culvert.edge.wait(START)?;
        let path = "/etc/culvert/edge.toml";
        let text = lab.web.read(path)?;
        lab.web.write(path, text.replacen("plain_http = true\n", &tls_lines(), 1))?;
        culvert.edge = start_edge(lab)?;
    }
    culvert.wait_until_ready(START)?;
    Ok(OurWay { culvert })
}

impl OurWay<'_> {
    pub(super) fn way(&self, tls: bool) -> Result<Way> {
        let Culvert { wgd_web, wgd_services, edge, storaged, .. } = &self.culvert;
        let scheme = if tls { "https" } else { "http" };
        Ok(Way {
            name: OURS,
            url: format!("{scheme}://{}/v1/cohorts/{COHORT}/files", self.culvert.public()),
            headers: vec![format!("Authorization: Bearer {}", self.culvert.token)],
            processes: [
                with_children(wgd_web)?,
                with_children(wgd_services)?,
                vec![edge.pid()],
                vec![storaged.pid()],
            ],
        })
    }
}

/// Starts nginx, wireguard-go, wireguard-go and nginx.
pub(super) fn known(lab: &Lab, tls: bool) -> Result<KnownWay> {
    let store_at = SocketAddr::from(([10, 200, 0, 11], 8080));
    let proxy_at = at(address::WEB_PUBLIC, 8080);
    let tunnels = tunnels(lab)?;
    let common = "daemon off; worker_processes auto; user root root; error_log stderr;\n\
         events { worker_connections 4096; }\n\
         http { access_log off; client_max_body_size 0; keepalive_requests 1000000; sendfile on;\n";
    let folders = |folder: &str| {
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {folder}/temporary;"))
            .join(" ")
    };
    let store = format!(
        "pid /srv/nginx/pid; {common}{}\n server {{ listen {store_at}; root /srv/nginx/files; dav_methods PUT; }} }}\n",
        folders("/srv/nginx")
    );
    let listen = |at: SocketAddr| match tls {
        true => format!(
            "listen {at} ssl; ssl_certificate {CERTIFICATE}; ssl_certificate_key {CERTIFICATE_KEY}; ssl_protocols TLSv1.3;"
        ),
        false => format!("listen {at};"),
    };
    let mut proxy = format!("pid /srv/nginx/pid; {common}{}\n", folders("/srv/nginx"));
    let _ = write!(
        proxy,
        "{}\nupstream store {{ server {store_at}; keepalive 64; }}\n server {{ {}\n location / {{ proxy_pass http://store; \
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_request_buffering off; proxy_max_temp_file_size 0; }} }} }}\n",
        alone::nginx_server(&listen(NULL_PROXY)),
        listen(proxy_at)
    );
    let store = nginx(&lab.services, &store, store_at)?;
    let proxy = nginx(&lab.web, &proxy, proxy_at)?;
    let scheme = if tls { "https" } else { "http" };
    Ok(KnownWay { tunnels, proxy, store, url: format!("{scheme}://{proxy_at}") })
}

impl KnownWay {
    /// Its proxy before the null store.
    pub(super) fn alone(&self) -> Result<Way> {
        let scheme = self.url.split_once(':').map_or("http", |(scheme, _)| scheme);
        Ok(Way { url: format!("{scheme}://{NULL_PROXY}"), ..self.way()? })
    }

    pub(super) fn way(&self) -> Result<Way> {
        let [web, services] = &self.tunnels;
        let processes =
            [vec![web.pid()], vec![services.pid()], with_children(&self.proxy)?, with_children(&self.store)?];
        Ok(Way { name: KNOWN, url: self.url.clone(), headers: Vec::new(), processes })
    }
}

fn tunnels(lab: &Lab) -> Result<[Running; 2]> {
    let keys = [KeyPair::generate(&lab.web)?, KeyPair::generate(&lab.services)?];
    let config = |own: &KeyPair, peer: &KeyPair, inside: &str, endpoint: String| {
        format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51821\n\n[Peer]\nPublicKey = {}\nAllowedIPs = {inside}/32\n\
             Endpoint = {endpoint}:51821\n",
            own.private, peer.public
        )
    };
    let web = config(&keys[0], &keys[1], "10.200.0.11", address::SERVICES_WAN.to_string());
    let services = config(&keys[1], &keys[0], "10.200.0.10", address::WEB_WAN.to_string());
    let both = [
        wireguard::start_wireguard_go(&lab.web, "wg1", "10.200.0.10/24", &web)?,
        wireguard::start_wireguard_go(&lab.services, "wg1", "10.200.0.11/24", &services)?,
    ];
    wireguard::ping(&lab.web, Place::Outer, "10.200.0.11", Duration::from_secs(10))?;
    Ok(both)
}

fn nginx(host: &Host, configuration: &str, listens: SocketAddr) -> Result<Running> {
    host.execute("mkdir -p /srv/nginx/files /srv/nginx/temporary")?;
    host.write("/srv/nginx/nginx.conf", configuration)?;
    let program = format!("{TOOLS}/nginx/usr/sbin/nginx");
    let arguments = ["-e", "stderr", "-p", "/srv/nginx", "-c", "/srv/nginx/nginx.conf"];
    let mut running = host.program(&program).arguments(&arguments).start()?;
    running.until("listen", START, || host.connect(Place::Outer, listens).map(drop))?;
    Ok(running)
}

/// A process and those that it has made.
fn with_children(running: &Running) -> Result<Vec<u32>> {
    let pid = running.pid();
    let children = wait::until("its processes", START, || {
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).context("a process's children")
    })?;
    let children = children.split_whitespace().map(|pid| pid.parse().context("a process number"));
    std::iter::once(Ok(pid)).chain(children).collect()
}
