//! `culvert verify server` and `culvert health`: nothing to say of daemons that are as they should be, and every layer that
//! is missing told, of processes that have none.
//!
//! ```text
//!  client ── web (edge; wgd, wgd-netcfg; a stranger called edge) ── wan ── services (storaged; wgd, wgd-netcfg)
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::{Culvert, PROGRAMS};
use culvert_netns::host::{Host, Place};
use culvert_netns::program::{Finished, Program, Running};
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::wait;
use serde_json::{Value, json};

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("verify_server_passes_the_daemons", passes).needs(PROGRAMS),
        Scenario::new("verify_server_tells_every_missing_layer", every_layer).needs(PROGRAMS),
        Scenario::new("verify_server_looks_at_what_stands_in_for_a_namespace", stand_in).needs(PROGRAMS),
        Scenario::new("verify_server_finds_a_way_out_of_the_tunnels_namespace", way_out).needs(PROGRAMS),
        Scenario::new("verify_server_says_when_it_cannot_tell", cannot_tell).needs(PROGRAMS),
        Scenario::new("health_is_one_table_and_follows_the_tunnel", health)
            .needs(PROGRAMS)
            .expecting(&["storaged", "tunnel", "upstream"]),
    ])
}

/// What a command found.
struct Report {
    code: i32,
    json: Value,
}

impl Report {
    /// The states of a check.
    fn states(&self, check: &str) -> Vec<&str> {
        let findings = self.json["findings"].as_array().into_iter().flatten();
        findings.filter(|one| one["check"] == check).filter_map(|one| one["state"].as_str()).collect()
    }

    fn expect(&self, check: &str, state: &str) -> Result<()> {
        let states = self.states(check);
        ensure!(states.contains(&state), "{check} is {states:?} and not {state}: {:#}", self.json);
        Ok(())
    }
}

fn ask(host: &Host, command: &[&str], processes: &[&Running]) -> Result<Report> {
    let mut words = vec!["--json".to_owned()];
    words.extend(command.iter().map(|&word| word.to_owned()));
    for process in processes {
        words.extend(["--pid".to_owned(), process.pid().to_string()]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    report(host.program("/run/bin/culvert").arguments(&words).run(Duration::from_secs(60))?)
}

fn report(finished: Finished) -> Result<Report> {
    let code = finished.status.code().context("it was ended by a signal")?;
    let (mut findings, mut last) = (Vec::new(), Value::Null);
    for line in finished.output.lines() {
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("{line}\n{}", finished.errors))?;
        if value["verdict"].is_null() { findings.push(value) } else { last = value }
    }
    let json = json!({ "findings": findings, "verdict": last["verdict"], "network": last["network"] });
    Ok(Report { code, json })
}

fn passes(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    culvert.put_payload("a.csv", 1 << 20, 1)?;
    for (host, processes) in [
        (&scene.lab.web, [&culvert.wgd_web, &culvert.edge]),
        (&scene.lab.services, [&culvert.wgd_services, &culvert.storaged]),
    ] {
        let report = ask(host, &["verify", "server"], &processes)?;
        let findings = report.json["findings"].as_array().context("no findings")?;
        let bad: Vec<_> =
            findings.iter().filter(|one| one["state"] == "fail" || one["state"] == "cannot_tell").collect();
        ensure!(bad.is_empty() && report.code == 0, "exit code {}: {bad:#?}", report.code);
        // The daemon of this host, wgd, and its helpers.
        let subjects: std::collections::BTreeSet<_> = findings
            .iter()
            .filter_map(|one| one["subject"].as_str())
            .map(|of| of.split(' ').next())
            .collect();
        ensure!(subjects.len() >= 4, "{subjects:?}");
        ensure!(report.json["network"][0]["construction"] == "namespace", "{:#}", report.json["network"]);
        // A lab is no production, and says so.
        report.expect("profile", "warn")?;
    }
    Ok(())
}

/// A process that is called like a daemon and is none: Python under another name, with everything that must not be.
fn stranger<'a>(host: &'a Host, name: &str, script: &str) -> Result<Program<'a>> {
    let path = format!("/run/strangers/{name}");
    host.write(&path, fs::read("/usr/bin/python3").context("read python3")?)?;
    fs::set_permissions(host.path(&path), fs::Permissions::from_mode(0o755)).context("let it run")?;
    // Asked for its configuration, it has none to show.
    let script =
        format!("import sys\nif '--check-config' in sys.argv: sys.exit('no configuration')\n{script}");
    Ok(host.program(&path).arguments(&["-c", &script]))
}

/// Runs until it has done what it was written for.
fn started(program: Program<'_>) -> Result<Running> {
    let mut running = program.start()?;
    let output = running.output().clone();
    running.until("be ready", Duration::from_secs(10), || {
        ensure!(output.lines().iter().any(|line| line == "ready"), "not yet");
        Ok(())
    })?;
    Ok(running)
}

const EVERYTHING_WRONG: &str = "
import mmap, os, resource, socket, time
os.setgroups([27])
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
file = open('/srv/spooled', 'w')
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
print('ready', flush=True)
time.sleep(120)
";

fn every_layer(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    let edge =
        started(stranger(web, "edge", EVERYTHING_WRONG)?.variable("INTERNAL_API_KEY", "0123456789abcdef"))?;
    let report = ask(web, &["verify", "server"], &[&edge])?;
    ensure!(report.code == 1, "exit code {}", report.code);
    for check in [
        "capabilities",
        "no_new_privs",
        "seccomp",
        "user",
        "groups",
        "core_dumps",
        "file_size",
        "descriptors",
        "sockets",
        "memory",
        "environment",
        "configuration",
        "nftables",
    ] {
        report.expect(check, "fail")?;
    }
    // It answers on no admin socket.
    report.expect("seal", "cannot_tell")?;
    let findings = report.json["findings"].as_array().context("no findings")?;
    for one in findings.iter().filter(|one| one["state"] != "pass") {
        ensure!(one["advice"].as_str().is_some_and(|advice| advice.len() > 40), "no advice: {one}");
    }
    ensure!(!report.json.to_string().contains("0123456789abcdef"), "the secret itself is told");

    // As text, with a sentence for each.
    let pid = edge.pid().to_string();
    let told = web
        .program("/run/bin/culvert")
        .arguments(&["verify", "server", "--pid", &pid])
        .run(Duration::from_secs(60))?;
    ensure!(
        told.output.contains("FAIL") && told.output.contains("\n\nseccomp: Every thread"),
        "{}",
        told.output
    );
    Ok(())
}

/// Listens on an address, bound to a device or not.
fn listening(address: &str, device: &str) -> String {
    format!(
        "
import socket, time
s = socket.socket()
if {device:?}:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, {device:?}.encode())
s.bind(({address:?}, 8001))
s.listen()
print('ready', flush=True)
time.sleep(120)
"
    )
}

fn stand_in(scene: &Scene) -> Result<()> {
    let services = &scene.lab.services;
    let address = "198.51.100.1";
    services.write(
        "/etc/culvert/storaged.toml",
        format!("profile = \"lab\"\nbind_address = \"{address}:8001\"\nroot_key_file = \"/etc/culvert/root.key\"\n"),
    )?;
    services.write("/etc/culvert/root.key", "x")?;
    fs::set_permissions(services.path("/etc/culvert/root.key"), fs::Permissions::from_mode(0o644))?;

    // Open to everybody, with nothing that stands in.
    let storaged = started(stranger(services, "storaged", &listening("0.0.0.0", ""))?)?;
    services.sysctl("ipv4/conf/all/rp_filter", "0")?;
    let report = ask(services, &["verify", "server"], &[&storaged])?;
    for check in ["listeners", "device", "nftables", "rp_filter", "secrets"] {
        report.expect(check, "fail")?;
    }
    report.expect("network", "warn")?;
    ensure!(report.json["network"][0]["construction"] == "stand_in", "{:#}", report.json["network"]);
    drop(storaged);

    // With all that stands in, each of them passes.
    fs::set_permissions(services.path("/etc/culvert/root.key"), fs::Permissions::from_mode(0o600))?;
    let storaged = started(stranger(services, "storaged", &listening(address, "wan0"))?)?;
    services.sysctl("ipv4/conf/all/rp_filter", "1")?;
    for line in [
        "nft add table inet culvert",
        "nft add chain inet culvert input { type filter hook input priority 0 ; }",
        "nft add rule inet culvert input iifname != wan0 tcp dport 8001 drop",
    ] {
        services.execute(line)?;
    }
    let report = ask(services, &["verify", "server"], &[&storaged])?;
    for check in ["listeners", "device", "nftables", "rp_filter", "secrets"] {
        report.expect(check, "pass")?;
    }
    Ok(())
}

fn way_out(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    let waiting = "import time\nprint('ready', flush=True)\ntime.sleep(120)\n";
    let edge = started(stranger(web, "edge", waiting)?.at(Place::Tunnel))?;
    // A namespace without a tunnel is no place to serve from.
    let report = ask(web, &["verify", "server"], &[&edge])?;
    report.expect("network", "fail")?;
    report.expect("routes", "pass")?;
    for command in [
        "ip tuntap add wg0 mode tun",
        "ip link add leak0 type veth peer name leak1",
        "ip link set leak1 up",
        "ip link set leak0 up",
        "ip route add default dev leak0",
    ] {
        web.run_at(Place::Tunnel, &command.split(' ').collect::<Vec<_>>())?.success()?;
    }
    let report = ask(web, &["verify", "server"], &[&edge])?;
    report.expect("network", "fail")?;
    report.expect("routes", "fail")?;
    Ok(())
}

fn cannot_tell(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    let as_nobody = |arguments: &[&str]| {
        let mut words = vec!["--reuid", "65534", "--clear-groups", "/run/bin/culvert", "verify", "server"];
        words.extend(arguments);
        web.program("setpriv").arguments(&words).run(Duration::from_secs(30))
    };
    // Nobody runs below the holder of the host.
    let (code, message) = ask_nothing(web)?;
    ensure!(code == 4 && message.contains("no daemon of Culvert"), "{code}: {message}");
    let waiting = "import time\nprint('ready', flush=True)\ntime.sleep(120)\n";
    let edge = started(stranger(web, "edge", waiting)?)?;
    let (code, message) = as_nobody(&["--pid", &edge.pid().to_string()])?.refusal()?;
    ensure!(code == 4 && message.contains("root"), "{code}: {message}");
    Ok(())
}

fn ask_nothing(host: &Host) -> Result<(i32, String)> {
    let pid = host.pid().to_string();
    host.program("/run/bin/culvert")
        .arguments(&["verify", "server", "--pid", &pid])
        .run(Duration::from_secs(30))?
        .refusal()
}

fn health(scene: &Scene) -> Result<()> {
    let mut culvert = Culvert::start(&scene.lab)?;
    let (web, services) = (&scene.lab.web, &scene.lab.services);
    let well = |culvert: &Culvert<'_>| -> Result<()> {
        let report = ask(web, &["health"], &[&culvert.wgd_web, &culvert.edge])?;
        ensure!(report.code == 0, "{:#}", report.json);
        for check in ["answers", "tunnel", "peers", "netcfg"] {
            report.expect(check, "pass")?;
        }
        ensure!(report.states("lockdown").iter().all(|state| *state != "fail"), "{:#}", report.json);
        let report = ask(services, &["health"], &[&culvert.wgd_services, &culvert.storaged])?;
        ensure!(report.code == 0, "{:#}", report.json);
        for check in ["ledger", "journal_mirror", "volume"] {
            report.expect(check, "pass")?;
        }
        Ok(())
    };
    wait::until("all to be well", Duration::from_secs(10), || well(&culvert))?;
    culvert.storaged.kill()?;
    wait::until("edge to miss storaged", Duration::from_secs(10), || {
        let report = ask(web, &["health"], &[&culvert.wgd_web, &culvert.edge])?;
        ensure!(report.code == 1, "exit code {}", report.code);
        report.expect("tunnel", "fail")
    })
}
