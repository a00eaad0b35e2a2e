//! What an operator does to a running Culvert: reads its metrics, reloads it, stops it.
//!
//! ```text
//!  client ── web (edge, wgd) ── wan ── services (wgd, storaged)
//!             culvert reload edge       culvert reload storaged
//! ```

use std::io::{self, Read, Write as _};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::{
    COHORT, Culvert, EDGE_METRICS, PROGRAMS, STORAGED_METRICS, USER, WGD_METRICS, restart_wgd,
};
use culvert_netns::host::{Host, Place};
use culvert_netns::lab::Lab;
use culvert_netns::payload::Payload;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::stream::Connection;
use culvert_netns::tunnel::{INTERFACE, Side};
use culvert_netns::wireguard;
use nix::sys::signal::Signal;

const BOUND: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("every_metrics_endpoint_passes_promtool", promtool).needs(PROGRAMS),
        Scenario::new("metrics_count_what_went_over_and_name_nobody", counted).needs(PROGRAMS),
        Scenario::new("a_token_is_changed_and_reloads_keep_the_tunnel", new_token)
            .needs(PROGRAMS)
            .expecting(&["a reload was refused; the old configuration stays"]),
        Scenario::new("a_stop_drains_and_exits_well", stopped).needs(PROGRAMS),
        Scenario::new("a_new_port_a_mark_and_a_restart_of_wgd_break_no_upload", under_an_upload)
            .needs(PROGRAMS),
    ])
}

fn endpoints(lab: &Lab) -> [(&'static str, &Host, std::net::SocketAddr); 4] {
    [
        ("wgd", &lab.web, WGD_METRICS),
        ("wgd", &lab.services, WGD_METRICS),
        ("edge", &lab.web, EDGE_METRICS),
        ("storaged", &lab.services, STORAGED_METRICS),
    ]
}

fn promtool(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let culvert = Culvert::start(lab)?;
    culvert.put_payload("a.csv", 1 << 20, 1)?;
    culvert.get("a.csv")?.expect(200)?;
    for (name, host, listener) in endpoints(lab) {
        let metrics = culvert.status(host, listener, "/metrics")?.expect(200)?;
        check_metrics(&metrics.body).context(name)?;
        for path in ["/healthz", "/readyz", "/-/healthy", "/-/ready"] {
            culvert.status(host, listener, path)?.expect(200).with_context(|| format!("{name} {path}"))?;
        }
    }
    Ok(())
}

/// Asks promtool, which is a tool of the test and not of a host.
fn check_metrics(metrics: &[u8]) -> Result<()> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start promtool, of the Debian package prometheus (`cargo xtask test` provides it)")?;
    promtool.stdin.take().context("no input")?.write_all(metrics)?;
    let checked = promtool.wait_with_output()?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    Ok(())
}

fn counted(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let culvert = Culvert::start(lab)?;
    culvert.put_payload("who-is-this.csv", 3 << 20, 2)?;
    for (name, host, listener) in endpoints(lab) {
        let metrics = culvert.status(host, listener, "/metrics")?.expect(200)?.text();
        ensure!(metrics.contains(&format!("{name}_build_info")), "{name} does not say what it is");
        for told in ["who-is-this", COHORT, USER, "203.0.113.", "192.0.2.", culvert.token.as_str()] {
            ensure!(!metrics.contains(&format!("\"{told}")), "{name}'s metrics tell {told}");
        }
    }
    // Neither do the logs.
    for daemon in culvert.daemons() {
        for told in ["who-is-this", "203.0.113.2", culvert.token.as_str(), culvert.tunnel.preshared_key()] {
            ensure!(!daemon.log().contains(told), "{} logs {told}", daemon.label());
        }
    }
    Ok(())
}

fn new_token(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let mut culvert = Culvert::start(lab)?;
    culvert.put_payload("before.csv", 1 << 20, 3)?;
    let mut connection =
        Connection::open(&lab.web, &lab.services, Place::Tunnel, Side::Services.inner().into())?;
    let handshake = wireguard::show(&lab.web, INTERFACE)?[0].latest_handshake;

    let config = lab.services.read("/etc/culvert/storaged.toml")?;
    // A file with a mistake changes nothing, and says where it is.
    lab.services.write("/etc/culvert/storaged.toml", format!("{config}\nunknown_key = 1\n"))?;
    let refused = lab.services.run(&["/run/bin/culvert", "reload", "storaged"])?;
    let (code, message) = refused.refusal()?;
    ensure!(
        code == 1 && message.contains("storaged.toml") && message.contains("unknown_key"),
        "{code}: {message}"
    );
    culvert.get("before.csv")?.expect(200)?;

    lab.services.write("/etc/culvert/storaged.toml", config)?;
    culvert.command(&lab.services, &["reload", "storaged"])?;
    let old = culvert.command(&lab.services, &["--json", "token", "list", "--user", USER])?;
    let old: serde_json::Value = serde_json::from_str(&old)?;
    let new = culvert.command(&lab.services, &["token", "issue", USER, "--label", "second"])?;
    let revoke = ["token", "revoke", old["id"].as_str().unwrap_or_default()];
    culvert.command(&lab.services, &revoke)?;
    culvert.get("before.csv")?.expect(401)?;
    culvert.token = new.trim().to_owned();
    culvert.get("before.csv")?.expect(200)?;
    culvert.command(&lab.web, &["reload", "edge"])?;
    culvert.get("before.csv")?.expect(200)?;
    culvert.command(&lab.web, &["reload", "wgd"])?;
    culvert.get("before.csv")?.expect(200)?;

    connection.echo().context("over the tunnel, after the reloads")?;
    ensure!(wireguard::show(&lab.web, INTERFACE)?[0].latest_handshake == handshake, "the tunnel began anew");
    Ok(())
}

fn stopped(scene: &Scene) -> Result<()> {
    let mut culvert = Culvert::start(&scene.lab)?;
    // An upload under way may finish.
    let length: u64 = 8 << 20;
    let mut payload = Payload::new(length, 4);
    let request = culvert.request("PUT", "draining.csv").header("Content-Length", &length.to_string());
    let mut exchange = request.begin(&scene.lab.client, Place::Outer, culvert.public())?;
    let mut half = vec![0; 4 << 20];
    std::io::Read::read_exact(&mut payload, &mut half)?;
    exchange.send(&half)?;
    culvert_netns::wait::until_true("the upload to reach the disk", BOUND, || {
        culvert.stored_files().is_ok_and(|files| files.len() == 1)
    })?;
    culvert.edge.signal(Signal::SIGTERM)?;
    culvert_netns::wait::until("edge to say that it is not ready", BOUND, || {
        culvert.status(&scene.lab.web, EDGE_METRICS, "/readyz")?.expect(503).map(drop)
    })?;
    exchange.send_from(&mut payload)?;
    exchange.response()?.expect(201)?;
    // A second signal would end edge at once, while that client still reads.
    let status = culvert.edge.wait(BOUND)?;
    ensure!(status.success(), "edge ended with {status}");
    for daemon in [culvert.storaged, culvert.wgd_web, culvert.wgd_services] {
        let label = daemon.label().to_owned();
        let status = daemon.stop()?;
        ensure!(status.success(), "{label} ended with {status}");
    }
    Ok(())
}

/// A body that does something when it has been read so far.
struct Eventful<'a> {
    payload: Payload,
    read: u64,
    events: Vec<Event<'a>>,
}

/// What happens, and at which byte.
type Event<'a> = (u64, Box<dyn FnMut() -> Result<()> + 'a>);

impl Read for Eventful<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.events.first().is_some_and(|(at, _)| self.read >= *at) {
            let (_, mut happen) = self.events.remove(0);
            happen().map_err(|error| io::Error::other(format!("{error:#}")))?;
        }
        // Small pieces, so that each event falls into the middle of the transfer.
        let most = buffer.len().min(64 << 10);
        let length = self.payload.read(&mut buffer[..most])?;
        self.read += length as u64;
        Ok(length)
    }
}

fn under_an_upload(scene: &Scene) -> Result<()> {
    const LENGTH: u64 = 32 << 20;
    let lab = &scene.lab;
    let mut culvert = Culvert::start(lab)?;
    let (edge, request, public) = (culvert.edge.pid(), culvert.request("PUT", "a.csv"), culvert.public());
    let wg = |words: &[&str]| lab.web.run(&[&["wg"], words].concat())?.success().map(drop);
    let wgd = &mut culvert.wgd_web;
    let events: Vec<Event<'_>> = vec![
        (LENGTH / 4, Box::new(|| wg(&["set", INTERFACE, "listen-port", "51999"]))),
        (LENGTH / 2, Box::new(|| wg(&["set", INTERFACE, "fwmark", "0x1234"]))),
        (
            LENGTH * 3 / 4,
            Box::new(|| {
                wgd.kill()?;
                *wgd = restart_wgd(&lab.web)?;
                Ok(())
            }),
        ),
    ];
    let payload = Payload::new(LENGTH, 7);
    let expected = payload.sha256();
    let mut body = Eventful { payload, read: 0, events };
    let receipt = request.send_body(&lab.client, Place::Outer, public, LENGTH, &mut body)?.expect(201)?;
    ensure!(body.events.is_empty(), "{} things did not happen", body.events.len());
    drop(body);
    ensure!(receipt.text().contains(&expected), "{}", receipt.text());
    culvert.edge.still_runs()?;
    ensure!(culvert.edge.pid() == edge);
    Ok(())
}
