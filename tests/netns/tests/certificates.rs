//! Clients with certificates, on the whole of Culvert: both daemons have authorities and revocations of their own.
//!
//! ```text
//!  client (certificate) ══ TLS ══ web: edge (client_ca_file) ── wan ── services: storaged (client_ca_file, [[certificate_map]])
//! ```

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_netns::culvert::{COHORT, Culvert, OTHER_COHORT, PROGRAMS, Setup, USER};
use culvert_netns::host::Host;
use culvert_netns::lab::{Lab, address};
use culvert_netns::runner::{self, Scenario, Scene};
use serde_json::Value;

#[path = "../../../crates/identity/testing/authority.rs"]
mod authority;

use authority::{Authority, Client};

const BOUND: Duration = Duration::from_secs(60);
/// A year in which nothing of these tests has run out.
const LATER: i32 = 2090;

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("a_certificate_is_its_users_until_it_is_revoked", one_user).needs(PROGRAMS),
        Scenario::new("an_edge_that_trusts_another_authority_gets_nothing_for_it", captured_edge)
            .needs(PROGRAMS),
    ])
}

/// Edge with TLS, which asks clients for certificates of `clients`; storaged takes those of `ward`.
fn start<'a>(lab: &'a Lab, clients: &Authority, ward: &Authority) -> Result<Culvert<'a>> {
    let site = Authority::new("site");
    let server = site.server(IpAddr::V4(address::WEB_PUBLIC));
    lab.client.write("/etc/culvert/site.pem", &site.pem)?;
    lab.web.write("/etc/culvert/chain.pem", &server.pem)?;
    lab.web.write_secret("/etc/culvert/chain.key", server.key.serialize_pem())?;
    let lines =
        "client_ca_file = \"/etc/culvert/clients.pem\"\nclient_crl_file = \"/etc/culvert/clients.crl\"\n";
    for (host, authority) in [(&lab.web, clients), (&lab.services, ward)] {
        host.write("/etc/culvert/clients.pem", &authority.pem)?;
        host.write("/etc/culvert/clients.crl", authority.revoke(&[], LATER))?;
    }
    let tls = format!(
        "tls_certificate_file = \"/etc/culvert/chain.pem\"\ntls_key_file = \"/etc/culvert/chain.key\"\n{lines}"
    );
    let culvert = Culvert::start_with(lab, &Setup { edge_tls: Some(tls), ..Setup::default() })?;
    let path = "/etc/culvert/storaged.toml";
    let text = lab.services.read(path)?;
    let map = format!("\n[[certificate_map]]\nname = \"email:ada@example.org\"\nuser = \"{USER}\"\n");
    lab.services.write(path, format!("{lines}{text}{map}"))?;
    culvert.command(&lab.services, &["reload", "storaged"])?;
    Ok(culvert)
}

fn bring(client: &Host, name: &str, shown: &Client) -> Result<()> {
    client.write(&format!("/etc/culvert/{name}.pem"), &shown.pem)?;
    client.write_secret(&format!("/etc/culvert/{name}.key"), shown.key.serialize_pem())
}

fn url(culvert: &Culvert<'_>, path: &str) -> String {
    format!("https://{}{path}", culvert.public())
}

/// The status that curl gets with a certificate; none: the handshake failed.
fn curl(culvert: &Culvert<'_>, name: &str, more: &[&str], path: &str) -> Result<Option<u16>> {
    let (certificate, key) = (format!("/etc/culvert/{name}.pem"), format!("/etc/culvert/{name}.key"));
    let mut arguments = vec!["--silent", "--max-time", "30", "--cacert", "/etc/culvert/site.pem"];
    arguments.extend([
        "--cert",
        &certificate,
        "--key",
        &key,
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
    ]);
    arguments.extend(more);
    let url = url(culvert, path);
    arguments.push(&url);
    let ended = culvert.lab().client.program("curl").arguments(&arguments).run(BOUND)?;
    Ok(ended.success().ok().and_then(|code| code.trim().parse().ok()))
}

fn upload(culvert: &Culvert<'_>, name: &str, path: &str) -> Result<Option<u16>> {
    curl(culvert, name, &["--upload-file", "/etc/culvert/site.pem"], path)
}

fn denials(culvert: &Culvert<'_>) -> Result<Vec<String>> {
    let trail = culvert.trail()?;
    let denied = trail.iter().filter(|record| record["action"] == "access.denied");
    Ok(denied.filter_map(|record| Some(record["detail"].as_str()?.to_owned())).collect())
}

fn one_user(scene: &Scene) -> Result<()> {
    let (ward, lab) = (Authority::new("ward"), &scene.lab);
    let culvert = start(lab, &ward, &ward)?;
    let mail = ["ada@example.org"];
    for (name, shown) in [
        ("ada", ward.client(&mail, 7, LATER)),
        ("newer", ward.client(&mail, 8, LATER)),
        ("eve", ward.client(&["eve@example.org"], 9, LATER)),
        ("old", ward.client(&mail, 10, 2025)),
        ("foreign", Authority::new("ward").client(&mail, 7, LATER)),
    ] {
        bring(&lab.client, name, &shown)?;
    }
    let file = format!("/v1/cohorts/{COHORT}/files/a.pem");
    for name in ["old", "foreign"] {
        ensure!(upload(&culvert, name, &file)?.is_none(), "{name} is more than a failed handshake");
    }
    ensure!(upload(&culvert, "eve", &file)? == Some(401), "a certificate that is mapped to nobody");
    ensure!(upload(&culvert, "ada", &file)? == Some(201));
    ensure!(curl(&culvert, "ada", &["--tls-max", "1.2"], &file)?.is_none(), "TLS 1.2 was not asked for");
    let other = format!("/v1/cohorts/{OTHER_COHORT}/files/a.pem");
    ensure!(
        upload(&culvert, "ada", &other)? == Some(403),
        "a certificate has its user's rights, and no more"
    );
    // A page of another site, in a browser that shows its certificate to whomever it is led to.
    let led = [
        "--header",
        "Origin: https://elsewhere.example",
        "--form",
        "path=b.csv",
        "--form",
        "file=@/etc/culvert/site.pem",
    ];
    let form = format!("/v1/cohorts/{COHORT}/files");
    ensure!(curl(&culvert, "ada", &led, &form)? == Some(401), "another site's form was taken");

    let server = url(&culvert, "");
    let with = ["--server", &server, "--ca-file", "/etc/culvert/site.pem"];
    let shown = ["--cert", "/etc/culvert/ada.pem", "--key", "/etc/culvert/ada.key"];
    let place = format!("{COHORT}/c.pem");
    let mut put = vec!["put", "/etc/culvert/site.pem", &place];
    put.extend(with.iter().chain(&shown));
    culvert.command(&lab.client, &put)?;
    let mut get = vec!["get", &place, "/etc/culvert/back.pem"];
    get.extend(with.iter().chain(&shown));
    culvert.command(&lab.client, &get)?;
    ensure!(lab.client.read("/etc/culvert/back.pem")? == lab.client.read("/etc/culvert/site.pem")?);

    // storaged's own list counts, whatever edge still lets through; then the handshake ends it.
    lab.services.write("/etc/culvert/clients.crl", ward.revoke(&[7], LATER))?;
    culvert.command(&lab.services, &["reload", "storaged"])?;
    ensure!(
        curl(&culvert, "ada", &[], &file)? == Some(401),
        "storaged took a certificate that it knows as revoked"
    );
    ensure!(denials(&culvert)?.last().is_some_and(|detail| detail == "certificate_revoked"));
    ensure!(curl(&culvert, "newer", &[], &file)? == Some(200), "her other one was not revoked");
    lab.web.write("/etc/culvert/clients.crl", ward.revoke(&[7], LATER))?;
    culvert.command(&lab.web, &["reload", "edge"])?;
    ensure!(curl(&culvert, "ada", &[], &file)?.is_none(), "edge took a certificate that it knows as revoked");

    culvert.command(&lab.services, &["user", "disable", USER])?;
    ensure!(curl(&culvert, "newer", &[], &file)? == Some(401), "a user who is shut out has a certificate");
    let made = culvert.trail()?;
    let made: Vec<&Value> = made.iter().filter(|record| record["action"] == "nas_raw_created").collect();
    ensure!(made.len() == 2 && made.iter().all(|record| record["origin"]["user"] == USER), "{made:?}");
    for daemon in culvert.daemons() {
        ensure!(!daemon.log().contains("ada@example.org"), "{} logs a name", daemon.label());
    }
    Ok(())
}

fn captured_edge(scene: &Scene) -> Result<()> {
    let (ward, forger) = (Authority::new("ward"), Authority::new("ward"));
    // Whoever has the web host lets it trust whom they like; storaged trusts the ward.
    let culvert = start(&scene.lab, &forger, &ward)?;
    bring(&scene.lab.client, "forged", &forger.client(&["ada@example.org"], 7, LATER))?;
    let file = format!("/v1/cohorts/{COHORT}/files/a.pem");
    ensure!(upload(&culvert, "forged", &file)? == Some(401));
    ensure!(denials(&culvert)? == ["certificate"], "storaged did not see it for what it is");
    Ok(())
}
