//! Files go from a client through edge, the tunnel and storaged onto disk and back, and nothing else is seen outside.
//!
//! ```text
//!  client ── web (edge, wgd) ── wan: capture ── services (wgd, storaged)
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::{BODY_IDLE, COHORT, Culvert, OTHER_COHORT, PROGRAMS, VOLUME};
use culvert_netns::host::Place;
use culvert_netns::http::{Request, Sent};
use culvert_netns::payload::{MARKER, Payload, sha256};
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::wait;
use serde_json::Value;

const BYTES: u64 = 32 << 20;
const BOUND: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("a_file_goes_up_and_comes_down_with_equal_hashes", up_and_down)
            .needs(PROGRAMS)
            .on_both_devices(),
        Scenario::new("the_wan_carries_only_wireguard", only_wireguard).needs(PROGRAMS).on_both_devices(),
        Scenario::new("the_command_puts_gets_and_lists", command).needs(PROGRAMS),
        Scenario::new("an_aborted_upload_leaves_nothing_but_its_record", aborted).needs(PROGRAMS),
        Scenario::new("a_body_longer_or_shorter_than_announced_is_refused", wrong_length).needs(PROGRAMS),
        Scenario::new("a_path_exists_once", write_once).needs(PROGRAMS),
    ])
}

fn up_and_down(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let sent = culvert.put_payload("2026/visits.csv", BYTES, 1)?;
    let got = culvert.get("2026/visits.csv")?.expect(200)?;
    ensure!(sha256(&got.body) == sent, "other bytes came back");
    ensure!(got.header("ETag").is_some_and(|tag| tag.contains(&sent)), "{:?}", got.header("ETag"));

    let head =
        culvert.request("HEAD", "2026/visits.csv").send(&scene.lab.client, Place::Outer, culvert.public())?;
    ensure!(head.status == 200 && head.header("Content-Length") == Some(&BYTES.to_string()), "{head:?}");

    let part = culvert.request("GET", "2026/visits.csv").header("Range", "bytes=1000-1999");
    let part = part.send(&scene.lab.client, Place::Outer, culvert.public())?.expect(206)?;
    ensure!(part.body == got.body[1000..2000], "another range came back");

    // On the disk of services lies one object, somewhat longer than these bytes and without a trace of them.
    let stored = culvert.stored_files()?;
    let [object] = &stored[..] else { anyhow::bail!("{stored:?}") };
    let length: u64 = scene.lab.services.run(&["stat", "-c", "%s", object])?.success()?.trim().parse()?;
    ensure!(length > BYTES && length < BYTES + BYTES / 1000, "{length} bytes for {BYTES}");
    let found = scene.lab.services.files_with(MARKER.as_bytes())?;
    ensure!(found.is_empty(), "the content lies on services in the clear: {found:?}");
    nothing_on_web(scene)
}

fn nothing_on_web(scene: &Scene) -> Result<()> {
    let left = scene.lab.web.files_with(MARKER.as_bytes())?;
    ensure!(left.is_empty(), "bytes of a body lie on web: {left:?}");
    Ok(())
}

fn only_wireguard(scene: &Scene) -> Result<()> {
    let capture = scene.lab.wan.capture(MARKER.as_bytes())?;
    let culvert = Culvert::start(&scene.lab)?;
    culvert.put_payload("a.csv", BYTES, 2)?;
    culvert.get("a.csv")?.expect(200)?;
    let verdict = capture.finish()?;
    verdict.only_wireguard()?;
    ensure!(verdict.message_bytes > 2 * BYTES, "the capture saw less than what went over: {verdict}");
    Ok(())
}

fn command(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let client = &scene.lab.client;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut Payload::new(1 << 20, 3), &mut bytes)?;
    client.write("/tmp/visits.csv", &bytes)?;
    client.write("/tmp/token", &culvert.token)?;
    let run = |arguments: &[&str]| {
        client
            .program("/run/bin/culvert")
            .arguments(arguments)
            .variable("CULVERT_SERVER", &format!("http://{}", culvert.public()))
            .variable("CULVERT_TOKEN_FILE", "/tmp/token")
            .run(BOUND)?
            .success()
    };
    let remote = format!("{COHORT}/2026/visits.csv");
    let receipt: Value = serde_json::from_str(&run(&["--json", "put", "/tmp/visits.csv", &remote])?)?;
    ensure!(receipt["sha256"] == sha256(&bytes) && receipt["created"] == true, "{receipt}");
    let again: Value = serde_json::from_str(&run(&["--json", "put", "/tmp/visits.csv", &remote])?)?;
    ensure!(again["created"] == false && again["file_id"] == receipt["file_id"], "{again}");
    run(&["get", &remote, "/tmp/back.csv"])?;
    ensure!(std::fs::read(client.path("/tmp/back.csv"))? == bytes, "other bytes came back");
    let listed = run(&["ls", COHORT])?;
    ensure!(listed.contains("2026/visits.csv"), "{listed}");
    let trail = culvert.command(&scene.lab.services, &["audit", "trail", "--cohort", COHORT])?;
    ensure!(trail.contains("ada"), "{trail}");
    Ok(())
}

fn aborted(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let before = culvert.trail()?.len();
    let request = culvert.request("PUT", "aborted.csv").header("Content-Length", &BYTES.to_string());
    let mut exchange = request.begin(&scene.lab.client, Place::Outer, culvert.public())?;
    ensure!(exchange.send_from(&mut Payload::new(BYTES / 4, 4))? == Sent::All);
    wait::until_true("the upload to reach the disk", BOUND, || {
        culvert.stored_files().is_ok_and(|files| files.len() == 1)
    })?;
    exchange.abort();
    wait::until("the temporary to be gone", BOUND, || {
        let left = culvert.stored_files()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    culvert.get("aborted.csv")?.expect(404)?;
    let trail = culvert.trail()?;
    let ended: Vec<&Value> = trail[before..]
        .iter()
        .filter(|record| record["path"] == "aborted.csv" && record["ending"] == "aborted")
        .collect();
    ensure!(ended.len() == 1, "{:#?}", &trail[before..]);
    // The place is free, and the bytes of before are not in it.
    culvert.put_payload("aborted.csv", 1 << 20, 5)?;
    nothing_on_web(scene)
}

fn wrong_length(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let (client, public) = (&scene.lab.client, culvert.public());
    // Shorter, and then silence: edge or storaged must not wait forever.
    let mut short = culvert.request("PUT", "short.csv").header("Content-Length", "1000").begin(
        client,
        Place::Outer,
        public,
    )?;
    short.send_from(&mut Payload::new(999, 6))?;
    short.stream().shutdown(std::net::Shutdown::Write)?;
    match short.response() {
        Ok(answer) => ensure!((400..500).contains(&answer.status), "{answer:?}"),
        // A client that closed its half cannot insist on an answer.
        Err(error) => ensure!(format!("{error:#}").contains("closed the connection"), "{error:#}"),
    }
    // Longer: what follows is no part of this request.
    let mut long = culvert.request("PUT", "long.csv").header("Content-Length", "1000").begin(
        client,
        Place::Outer,
        public,
    )?;
    long.send_from(&mut Payload::new(1001, 6))?;
    let answer = long.response()?;
    ensure!(answer.status == 201, "{answer:?}");
    wait::until("only the whole file to be there", BODY_IDLE + BOUND, || {
        let left = culvert.stored_files()?;
        ensure!(left.len() == 1, "{left:?}");
        Ok(())
    })?;
    culvert.get("short.csv")?.expect(404)?;
    ensure!(culvert.get("long.csv")?.expect(200)?.body.len() == 1000);
    // A digest that does not fit.
    let wrong = culvert
        .request("PUT", "digest.csv")
        .header("Repr-Digest", "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:");
    let answer = wrong.send_body(client, Place::Outer, public, 1000, &mut Payload::new(1000, 7))?;
    ensure!(answer.status == 400 && answer.problem()? == "digest-mismatch", "{answer:?}");
    ensure!(culvert.stored_files()?.len() == 1);
    Ok(())
}

fn write_once(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    culvert.put_payload("once.csv", 1000, 8)?;
    let same = culvert.put("once.csv", 1000, &mut Payload::new(1000, 8))?;
    ensure!(same.status == 200, "{same:?}");
    let other = culvert.put("once.csv", 1000, &mut Payload::new(1000, 9))?;
    ensure!(other.status == 409 && other.problem()? == "conflict", "{other:?}");
    ensure!(culvert.stored_files()?.len() == 1, "in {VOLUME}: {:?}", culvert.stored_files()?);
    let elsewhere = Request::new("GET", &format!("/v1/cohorts/{OTHER_COHORT}/files/once.csv"))
        .token(&culvert.token)
        .send(&scene.lab.client, Place::Outer, culvert.public())
        .context("ask for another cohort")?;
    ensure!(elsewhere.status == 403 || elsewhere.status == 404, "{elsewhere:?}");
    Ok(())
}
