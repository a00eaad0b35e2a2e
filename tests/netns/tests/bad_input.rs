//! Bad input is met with an error that names the file, the line and the key, and with the exit code that fits.
//!
//! ```text
//!  web: wgd, edge                services: storaged
//! ```

use std::net::{TcpListener, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::{Culvert, PROGRAMS, Setup, VOLUME};
use culvert_netns::host::{Host, Place};
use culvert_netns::lab::at;
use culvert_netns::payload::Payload;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::wireguard::KeyPair;

/// Exit codes (sysexits.h).
const USAGE: i32 = 64;
const NO_INPUT: i32 = 66;
const OS: i32 = 71;
const TEMPORARY: i32 = 75;
const CONFIG: i32 = 78;

const BOUND: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("wgd_names_file_line_and_key", wgd).needs(&["wgd"]).expecting(STOCK),
        Scenario::new("wgd_says_which_port_is_occupied", wgd_port).needs(&["wgd"]).expecting(STOCK),
        Scenario::new("wgd_says_that_there_is_no_tun", wgd_without_tun).needs(&["wgd"]).expecting(STOCK),
        Scenario::new("edge_names_file_line_and_key", edge).needs(&["edge"]),
        Scenario::new("storaged_names_file_line_and_key", storaged)
            .needs(&["storaged", "culvert"])
            .expecting(&["run_as is not set"]),
        Scenario::new("a_full_disk_refuses_the_upload_and_keeps_nothing", full_disk)
            .needs(PROGRAMS)
            .expecting(&["the volume is full"]),
    ])
}

/// Said before the mistake is met.
const STOCK: &[&str] = &["no user is configured"];

/// Runs a daemon on a host until it refuses, and looks at code and words.
fn refuses(host: &Host, place: Place, command: &[&str], code: i32, words: &[&str]) -> Result<()> {
    let (name, arguments) = command.split_first().context("no command")?;
    let finished = host.daemon(name).arguments(arguments).at(place).run(BOUND)?;
    let (seen, message) = finished.refusal()?;
    for word in words {
        ensure!(message.contains(word), "{command:?} does not say `{word}`: {message}");
    }
    ensure!(seen == code, "{command:?} ended with {seen} instead of {code}: {message}");
    ensure!(!message.contains("panic"), "{message}");
    Ok(())
}

fn tunnel_file(key: &KeyPair, more: &str) -> String {
    format!("[Interface]\nPrivateKey = {}\n{more}\n", key.private)
}

fn wgd(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    let key = KeyPair::generate(web)?;
    let file = "/etc/wireguard/wg0.conf";
    for (content, words) in [
        (tunnel_file(&key, "ListenProt = 51820"), vec!["wg0.conf:3", "ListenProt"]),
        (tunnel_file(&key, "ListenPort = 99999"), vec!["wg0.conf:3", "ListenPort", "99999"]),
        (tunnel_file(&key, "Address = 10.0.0.300/24"), vec!["wg0.conf:3", "Address", "10.0.0.300/24"]),
        ("[Interface]\nPrivateKey = abc\n".to_owned(), vec!["wg0.conf:2", "PrivateKey"]),
        (tunnel_file(&key, "\n[Peer]\nAllowedIPs = 10.0.0.0/8"), vec!["wg0.conf:4", "PublicKey"]),
        (tunnel_file(&key, "\n[Peer]\nPublicKey = xyz"), vec!["wg0.conf:5", "PublicKey"]),
        (tunnel_file(&key, "PostUp = rm -rf /"), vec!["wg0.conf:3", "PostUp"]),
    ] {
        web.write_secret(file, content)?;
        refuses(web, Place::Outer, &["wgd", "-f", "wg0"], CONFIG, &words)?;
        refuses(web, Place::Outer, &["wgd", "--check-config", "wg0"], CONFIG, &words)?;
    }
    // No message shows a key.
    web.write_secret(file, format!("[Interface]\nPrivateKey = {}x\n", key.private))?;
    let (_, message) = web.daemon("wgd").arguments(&["-f", "wg0"]).run(BOUND)?.refusal()?;
    ensure!(!message.contains(&key.private), "the message shows the key: {message}");

    web.write_secret(file, tunnel_file(&key, ""))?;
    web.write("/etc/culvert/wgd.toml", "profile = \"lab\"\nmetric_listen = \"127.0.0.1:9586\"\n")?;
    refuses(web, Place::Outer, &["wgd", "-f", "wg0"], CONFIG, &["wgd.toml:2", "metric_listen"])?;
    web.write("/etc/culvert/wgd.toml", "")?;
    refuses(web, Place::Outer, &["wgd", "-f", "wg0", "--tun-netns", "nowhere"], NO_INPUT, &["nowhere"])?;
    refuses(web, Place::Outer, &["wgd", "-f", "wg0", "--config", "/none.toml"], NO_INPUT, &["/none.toml"])?;
    refuses(web, Place::Outer, &["wgd", "-f", "a/b"], USAGE, &["a/b"])
}

fn wgd_port(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    web.write_secret("/etc/wireguard/wg0.conf", tunnel_file(&KeyPair::generate(web)?, "ListenPort = 51820"))?;
    let _occupied = web.outer().within(|| Ok(UdpSocket::bind(at([0, 0, 0, 0], 51820))?))?;
    refuses(web, Place::Outer, &["wgd", "-f", "wg0"], OS, &["51820", "in use"])?;
    let left = web.run(&["ip", "-brief", "link"])?.success()?;
    ensure!(!left.contains("wg0"), "an interface was left: {left}");
    Ok(())
}

fn wgd_without_tun(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    web.write_secret("/etc/wireguard/wg0.conf", tunnel_file(&KeyPair::generate(web)?, ""))?;
    web.run(&["mount", "-t", "tmpfs", "none", "/dev/net"])?.success()?;
    refuses(web, Place::Outer, &["wgd", "-f", "wg0"], OS, &["/dev/net/tun"])
}

fn edge(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    let good = "name = \"web1\"\nrole = \"web\"\nprofile = \"lab\"\nplain_http = true\n\
                services_url = \"http://10.100.0.11:8001\"\ntunnel_prefix = \"10.100.0.0/24\"\n\
                internal_api_key_file = \"/etc/culvert/internal.key\"\n";
    web.write_secret("/etc/culvert/internal.key", "0123456789abcdef0123456789abcdef0123456789a\n")?;
    for (from, to, words) in [
        ("profile", "profil", vec!["edge.toml:3", "profil"]),
        ("plain_http = true\n", "", vec!["edge.toml", "tls_certificate_file", "plain_http"]),
        ("role = \"web\"\n", "", vec!["edge.toml", "role"]),
        (
            "http://10.100.0.11",
            "http://192.0.2.7",
            vec!["edge.toml", "services_url", "192.0.2.7", "10.100.0.0/24"],
        ),
        (
            "http://10.100.0.11",
            "http://storage.example",
            vec!["edge.toml", "services_url", "storage.example"],
        ),
        ("\"web1\"", "\"web 1\"", vec!["edge.toml", "name"]),
        ("plain_http = true", "plain_http = yes", vec!["edge.toml:4"]),
    ] {
        web.write("/etc/culvert/edge.toml", good.replace(from, to))?;
        refuses(web, Place::Tunnel, &["edge"], CONFIG, &words)?;
        refuses(web, Place::Tunnel, &["edge", "--check-config"], CONFIG, &words)?;
    }
    web.write("/etc/culvert/edge.toml", good.replace("internal.key", "other.key"))?;
    refuses(web, Place::Tunnel, &["edge"], CONFIG, &["internal_api_key_file", "/etc/culvert/other.key"])?;

    // All mistakes at once.
    let both = good.replace("role = \"web\"\n", "").replace("http://10.100.0.11", "http://192.0.2.7");
    web.write("/etc/culvert/edge.toml", both)?;
    refuses(web, Place::Tunnel, &["edge"], CONFIG, &["role", "services_url"])?;

    web.write("/etc/culvert/edge.toml", good)?;
    let _occupied = web.tunnel().within(|| Ok(TcpListener::bind(at([0, 0, 0, 0], 8000))?))?;
    refuses(web, Place::Tunnel, &["edge"], OS, &["listen", "8000", "in use"])
}

fn storaged(scene: &Scene) -> Result<()> {
    let services = &scene.lab.services;
    let init = |more: &[&str]| {
        services
            .program("/run/bin/culvert")
            .arguments(&[
                "init",
                "storaged",
                "--profile",
                "lab",
                "--state-dir",
                "/srv/state",
                "--edge",
                "web1",
            ])
            .arguments(&["--cohort", "c5", "--volume", &format!("main={VOLUME}")])
            .arguments(more)
            .run(BOUND)
    };
    let (_, message) = init(&["--bind-address", "192.0.2.1:8001"])?.refusal()?;
    ensure!(message.contains("bind_address") && message.contains("192.0.2.1"), "{message}");
    init(&[])?.success()?;
    let (_, message) = init(&[])?.refusal()?;
    ensure!(message.contains("/etc/culvert/storaged.toml") && message.contains("exists"), "{message}");

    let file = "/etc/culvert/storaged.toml";
    let good = services.read(file)?;
    for (from, to, words) in [
        ("state_dir", "state_directory", vec!["storaged.toml:", "state_directory"]),
        ("\"10.100.0.11:8001\"", "\"0.0.0.0:8001\"", vec!["storaged.toml", "bind_address", "0.0.0.0"]),
        ("\"10.100.0.11:8001\"", "\"192.0.2.9:8001\"", vec!["storaged.toml", "bind_address", "192.0.2.9"]),
        ("role = \"services\"", "role = \"web\"", vec!["storaged.toml", "role"]),
        ("role = \"services\"\n", "", vec!["storaged.toml", "role"]),
        ("/etc/culvert/internal.key", "/etc/culvert/none.key", vec!["internal_api_key_file", "none.key"]),
        ("[[volume]]", "[[user]]\nname = \"ann\"\n[[volume]]", vec!["storaged.toml", "culvert user add"]),
    ] {
        let wrong = good.replace(from, to);
        ensure!(wrong != good, "storaged.toml has no `{from}`");
        services.write(file, wrong)?;
        refuses(services, Place::Tunnel, &["storaged"], CONFIG, &words)?;
        refuses(services, Place::Tunnel, &["storaged", "--check-config"], CONFIG, &words)?;
    }
    services.write(file, &good)?;
    // The tunnel is not there: neither is its address.
    refuses(services, Place::Tunnel, &["storaged"], TEMPORARY, &["bind_address", "10.100.0.11"])?;
    // The volume is not mounted: its marker is missing.
    services.run_at(Place::Tunnel, &["ip", "address", "add", "10.100.0.11/24", "dev", "lo"])?.success()?;
    services.run(&["mount", "-t", "tmpfs", "none", VOLUME])?.success()?;
    let finished = services.daemon("storaged").at(Place::Tunnel).run(BOUND)?;
    let (_, message) = finished.refusal()?;
    ensure!(message.contains(VOLUME) || message.contains("wg0"), "{message}");
    Ok(())
}

fn full_disk(scene: &Scene) -> Result<()> {
    let setup = Setup { volume_bytes: Some(4 << 20), ..Setup::default() };
    let culvert = Culvert::start_with(&scene.lab, &setup)?;
    let length = 16 << 20;
    let answer = culvert.put("large.csv", length, &mut Payload::new(length, 1))?;
    ensure!(answer.status == 507, "{answer:?}");
    ensure!(answer.problem()? == "quota", "{}", answer.text());
    culvert_netns::wait::until("the temporary to be gone", BOUND, || {
        let left = culvert.stored_files()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    culvert.put_payload("small.csv", 1 << 20, 2)?;
    culvert.get("large.csv")?.expect(404)?;
    // Without its name: no file has it, so there would be no key to forget it with.
    let trail = culvert.trail()?;
    let failed = trail
        .iter()
        .find(|record| record["ending"] == "failed" && record["action"] == "file_uploaded_via_stream");
    ensure!(failed.context("the failure is not in the trail")?["path"].is_null(), "{failed:?}");
    Ok(())
}
