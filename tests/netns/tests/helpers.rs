//! What wgd's helpers have in hand, read from `/proc` by root: the one that parses name servers' answers has no key
//! in its memory and no descriptor of wgd's; killed, the other is missed and the tunnel stays. And the agent, which has the
//! outer network in the daemons' stead.
//!
//! ```text
//!  client (who is told; a provider) ── web (agent, edge; wgd, wgd-netcfg, wgd-resolve) ── wan ── services (storaged; wgd, …)
//! ```

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::{Culvert, EDGE_METRICS, PROGRAMS, WGD_METRICS, WGD_USER, has_many_users};
use culvert_netns::host::{Host, Place};
use culvert_netns::http::Request;
use culvert_netns::lab::address;
use culvert_netns::memory::memory_holds;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::wireguard::secrets;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tunnel_events::{Event, Message, What};

#[path = "../../../crates/identity/testing/provider.rs"]
mod provider;

use provider::Provider;

/// How long wgd may take to notice.
const NOTICED: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("the_resolver_holds_no_key_and_one_socket", resolver).needs(PROGRAMS),
        Scenario::new("a_killed_netcfg_is_missed_and_the_tunnel_stays", killed_netcfg)
            .needs(PROGRAMS)
            .expecting(&["wgd-netcfg has ended"]),
        Scenario::new("the_agent_tells_of_a_cut_tunnel_and_brings_a_providers_keys", agent)
            .needs(PROGRAMS)
            .expecting(&[
                "no sign of life from storaged",
                "alert",
                "keys not fetched",
                "a layer of the lock-down",
            ]),
    ])
}

fn resolver(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let conf = scene.lab.web.read("/etc/wireguard/wg0.conf")?;
    let keys = secrets(&conf)?;
    ensure!(keys.len() >= 4, "a private and a pre-shared key, each in two forms");
    let netcfg = child(culvert.wgd_web.pid(), "wgd-netcfg")?;
    let resolver = child(netcfg, "wgd-resolve")?;
    for key in &keys {
        ensure!(!memory_holds(resolver, key)?, "wgd-resolve has a key in its memory");
    }
    let sockets = descriptors(resolver)?.into_iter().filter(|target| target.starts_with("socket:"));
    ensure!(sockets.count() == 1, "{:?}", descriptors(resolver)?);
    Ok(())
}

fn killed_netcfg(scene: &Scene) -> Result<()> {
    let mut culvert = Culvert::start(&scene.lab)?;
    let netcfg = child(culvert.wgd_web.pid(), "wgd-netcfg")?;
    kill(Pid::from_raw(i32::try_from(netcfg)?), Signal::SIGKILL)?;
    let web = &scene.lab.web;
    culvert.wgd_web.until("say that netcfg is gone", NOTICED, || {
        let metrics = Request::new("GET", "/metrics").send(web, Place::Outer, WGD_METRICS)?;
        let text = metrics.expect(200)?.text();
        ensure!(text.contains("\nwgd_netcfg_up 0\n"), "wgd_netcfg_up is not 0");
        Ok(())
    })?;
    let refused = web.run(&["wg", "set", "wg0", "listen-port", "51999"])?;
    ensure!(refused.refusal()?.1.contains("Input/output error"));
    culvert.put_payload("after.csv", 1 << 20, 1)?;
    Ok(())
}

fn child(parent: u32, name: &str) -> Result<u32> {
    let listed = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    for pid in listed.split_whitespace() {
        if std::fs::read_to_string(format!("/proc/{pid}/comm"))?.trim() == name {
            return Ok(pid.parse()?);
        }
    }
    anyhow::bail!("{parent} has no child {name}")
}

fn descriptors(pid: u32) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).context("list descriptors")? {
        if let Ok(target) = std::fs::read_link(entry?.path()) {
            targets.push(target.to_string_lossy().into_owned());
        }
    }
    Ok(targets)
}

/// Whom the agent becomes.
const AGENT_USER: u32 = 64_014;

/// Where the agent's counterpart on the client's host listens.
const OUTSIDE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(address::CLIENT), 9000);

/// One who is told, and a provider that shows keys: until the listener is closed with the scenario's world.
struct Outside {
    alerts: Receiver<Value>,
    /// What `/jwks` answers.
    keys: Arc<Mutex<String>>,
}

impl Outside {
    fn start(host: &Host) -> Result<Outside> {
        let listener = host.outer().within(|| TcpListener::bind(OUTSIDE).context("listen outside"))?;
        let (sender, alerts) = channel();
        let keys = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&keys);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One that breaks off is tried again by the agent.
                let _ = answer(stream, &sender, &shown);
            }
        });
        Ok(Outside { alerts, keys })
    }

    fn show(&self, keys: &str) {
        *self.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = keys.to_owned();
    }

    /// The next that says so; others that come before are passed over.
    fn hears(&self, alert: &str, state: &str, subject: &str) -> Result<Value> {
        loop {
            let told =
                self.alerts.recv_timeout(HEARD).with_context(|| format!("{alert} {state} {subject}"))?;
            if told["alert"] == alert && told["state"] == state && told["subject"] == subject {
                return Ok(told);
            }
        }
    }
}

/// Every step of it has a bound of its own; this one is for a busy machine.
const HEARD: Duration = Duration::from_secs(60);

fn answer(stream: TcpStream, told: &Sender<Value>, keys: &Mutex<String>) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, content) = if first.starts_with("GET /jwks ") {
        let keys = keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        ("200 OK", keys)
    } else {
        told.send(serde_json::from_slice(&body)?)?;
        ("204 No Content", String::new())
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
    reader.get_mut().write_all(format!("{head}{content}").as_bytes())?;
    Ok(())
}

fn agent(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let web = &scene.lab.web;
    let outside = Outside::start(&scene.lab.client)?;
    let users = has_many_users()?;
    let user = |key: &str, id: u32| if users { format!("{key} = \"{id}:{id}\"\n") } else { String::new() };
    web.write(
        "/etc/culvert/agent.toml",
        format!(
            "profile = \"lab\"\nhost = \"web1\"\n{}{}events_socket = \"/run/culvert/agent.events\"\n\
             patience_seconds = 0\nkeys_directory = \"/run/agent-keys\"\nkeys_every_seconds = 1\n\
             [[watch]]\nname = \"edge\"\naddress = \"{EDGE_METRICS}\"\n\
             [[webhook]]\nurl = \"http://{OUTSIDE}/alerts\"\n\
             [[issuer]]\nname = \"corp\"\njwks_url = \"http://{OUTSIDE}/jwks\"\n",
            user("run_as", AGENT_USER),
            user("wgd_user", WGD_USER)
        ),
    )?;
    let keys = web.path("/run/agent-keys");
    std::fs::create_dir(&keys).context("make the directory of keys")?;
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o755))?;
    if users {
        std::os::unix::fs::chown(&keys, Some(AGENT_USER), Some(AGENT_USER))?;
    }
    let mut agent = web.program("/run/bin/culvert").arguments(&["agent"]).start()?;

    // Before it asks anybody it is what it shall be.
    let told = outside.hears("keys-not-fetched", "firing", "corp")?;
    ensure!(told["host"] == "web1", "{told}");
    let report = web
        .program("/run/bin/culvert")
        .arguments(&["verify", "server", "--pid", &agent.pid().to_string()])
        .run(Duration::from_secs(60))?;
    // Where there is one user, that one is root, which is told.
    ensure!(!users || report.status.success(), "{}", report.output);

    // A provider's keys, and its next ones; what is none stays outside.
    let path = web.path("/run/agent-keys/corp.jwks");
    for id in ["2025", "2026"] {
        let shown = Provider::p256(id).jwks();
        outside.show(&shown);
        agent.until("bring the provider's keys", HEARD, || {
            let kept = std::fs::read_to_string(&path)?;
            ensure!(kept == shown, "not yet: {kept}");
            Ok(())
        })?;
    }
    outside.hears("keys-not-fetched", "resolved", "corp")?;
    outside.show("<html>sign in</html>");
    outside.hears("keys-not-fetched", "firing", "corp")?;
    ensure!(std::fs::read_to_string(&path)?.contains("2026"), "the old keys are gone");

    // The line is cut without a word: it is told outside, by the host that cannot tell its peer.
    scene.lab.wan.cut()?;
    let condition = told_of_edge(&outside, "firing")?;
    scene.lab.wan.restore()?;
    loop {
        if told_of_edge(&outside, "resolved")? == condition {
            break;
        }
    }

    // wgd's own word, and nobody else's.
    let event = |what: What| {
        let message = Message::Event(Event {
            what,
            interface: "wg0".into(),
            peer: "services".into(),
            public_key: "key".into(),
            at_unix_ms: 0,
        });
        let socket = UnixDatagram::unbound()?;
        socket.send_to(&message.encode(), web.path("/run/culvert/agent.events"))?;
        anyhow::Ok(())
    };
    event(What::Down)?;
    outside.hears("tunnel-down", "firing", "services")?;
    event(What::Up)?;
    outside.hears("tunnel-down", "resolved", "services")?;
    agent.still_runs()?;
    ensure!(agent.stop()?.success(), "the agent did not end well");
    drop(culvert);
    Ok(())
}

/// The next condition of edge that is told to be so.
fn told_of_edge(outside: &Outside, state: &str) -> Result<String> {
    loop {
        let told = outside.alerts.recv_timeout(HEARD).with_context(|| format!("edge {state}"))?;
        let subject = told["subject"].as_str().unwrap_or_default();
        if told["alert"] == "daemon-not-ready" && told["state"] == state && subject.starts_with("edge: ") {
            return Ok(subject.to_owned());
        }
    }
}
