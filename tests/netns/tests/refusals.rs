//! Who is refused, and that it is recorded.
//!
//! ```text
//!  client ── web (edge) ── wan ── services
//!                                  ├ own network: a stranger asks storaged
//!                                  └ tunnel: storaged, and a stranger beside it
//! ```

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::{COHORT, Culvert, OTHER_COHORT, PROGRAMS, STORAGED};
use culvert_netns::host::Place;
use culvert_netns::http::{Request, Response};
use culvert_netns::lab::{address, at};
use culvert_netns::payload::Payload;
use culvert_netns::runner::{self, Scenario, Scene};
use serde_json::Value;

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("storaged_cannot_be_reached_from_its_hosts_own_network", from_outside).needs(PROGRAMS),
        Scenario::new("a_request_that_did_not_come_through_the_tunnel_is_refused", not_through_the_tunnel)
            .needs(PROGRAMS),
        Scenario::new("a_peer_without_the_internal_key_is_refused", without_key).needs(PROGRAMS),
        Scenario::new("a_wrong_token_is_refused_before_the_body", wrong_token).needs(PROGRAMS),
        Scenario::new("bad_paths_and_cohorts_are_refused", bad_targets).needs(PROGRAMS),
        Scenario::new("the_public_listener_serves_nothing_private", nothing_private).needs(PROGRAMS),
        Scenario::new("what_a_client_says_breaks_no_log_and_stands_in_none", hostile_words).needs(PROGRAMS),
    ])
}

fn from_outside(scene: &Scene) -> Result<()> {
    let _culvert = Culvert::start(&scene.lab)?;
    let services = &scene.lab.services;
    for target in [STORAGED, at(address::SERVICES_WAN, 8001), at([127, 0, 0, 1], 8001)] {
        ensure!(services.connect(Place::Outer, target).is_err(), "{target} answers in services' own network");
    }
    ensure!(scene.lab.web.connect(Place::Outer, STORAGED).is_err(), "it answers in web's own network");
    ensure!(
        scene.lab.web.connect(Place::Outer, at(address::SERVICES_WAN, 8001)).is_err(),
        "it answers on the WAN"
    );
    Ok(())
}

/// The denials since `before`.
fn denials(culvert: &Culvert<'_>, before: usize) -> Result<Vec<Value>> {
    let trail = culvert.trail()?;
    Ok(trail[before..].iter().filter(|record| record["action"] == "access.denied").cloned().collect())
}

fn not_through_the_tunnel(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let before = culvert.trail()?.len();
    let services = &scene.lab.services;
    let key = services.read("/etc/culvert/internal.key")?;
    // Beside storaged, with the right key, by its own address: whoever captured the host, but not the tunnel.
    let answer = ask_storaged(&culvert, |request| request.header("X-Internal-Key", key.trim()))?;
    ensure!(answer.status == 403 || answer.status == 503, "{answer:?}");
    let recorded = denials(&culvert, before)?;
    let [record] = &recorded[..] else { anyhow::bail!("{} records: {recorded:#?}", recorded.len()) };
    ensure!(record["origin"]["source_address"] == "10.100.0.11", "{record:#}");
    Ok(())
}

/// A listing, asked from inside services' tunnel namespace.
fn ask_storaged(culvert: &Culvert<'_>, more: impl FnOnce(Request) -> Request) -> Result<Response> {
    let request = Request::new("GET", &format!("/internal/v1/cohorts/{COHORT}/files"));
    more(request).send(&culvert.lab().services, Place::Tunnel, STORAGED)
}

fn without_key(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let before = culvert.trail()?.len();
    // Through the tunnel, from the registered peer's address: whoever captured edge's namespace, but not its key.
    let ask = |key: Option<&str>| {
        let request = Request::new("GET", &format!("/internal/v1/cohorts/{COHORT}/files"));
        let request = match key {
            Some(key) => request.header("X-Internal-Key", key),
            None => request,
        };
        request.send(&scene.lab.web, Place::Tunnel, STORAGED)
    };
    for key in [None, Some("0123456789abcdef0123456789abcdef0123456789a")] {
        let answer = ask(key)?;
        ensure!(answer.status == 403 || answer.status == 421, "{answer:?}");
    }
    let recorded = denials(&culvert, before)?;
    ensure!(recorded.len() == 2, "{recorded:#?}");
    ensure!(recorded.iter().all(|record| record["origin"]["edge"] == "web1"), "{recorded:#?}");
    Ok(())
}

fn wrong_token(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let before = culvert.trail()?.len();
    let client = &scene.lab.client;
    let path = format!("/v1/cohorts/{COHORT}/files/a.csv");
    let stranger = format!("cvt_{}", "A".repeat(43));
    for (token, recorded) in [(Some(stranger.as_str()), true), (Some("cvt_short"), false), (None, false)] {
        let mut request = Request::new("PUT", &path);
        if let Some(token) = token {
            request = request.token(token);
        }
        let records = denials(&culvert, before)?.len();
        // A body that would take long: the answer comes without it.
        let answer = request.send_body(
            client,
            Place::Outer,
            culvert.public(),
            1 << 30,
            &mut Payload::new(1 << 30, 1),
        )?;
        ensure!(answer.status == 401 && answer.problem()? == "unauthenticated", "{answer:?}");
        ensure!(answer.header("WWW-Authenticate").is_some(), "{answer:?}");
        if recorded {
            ensure!(denials(&culvert, before)?.len() == records + 1, "not recorded");
        }
    }
    ensure!(culvert.stored_files()?.is_empty());
    Ok(())
}

fn bad_targets(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let put = |target: &str| {
        let request = Request::new("PUT", target).token(&culvert.token);
        request.send_body(&scene.lab.client, Place::Outer, culvert.public(), 1000, &mut Payload::new(1000, 2))
    };
    for path in [
        "../a.csv",
        "x/../../a.csv",
        "x/%2e%2e/a.csv",
        "x%2F..%2Fa.csv",
        "x//a.csv",
        "./a.csv",
        "a%00.csv",
        "a\\b",
    ] {
        let answer = put(&format!("/v1/cohorts/{COHORT}/files/{path}"))?;
        ensure!(answer.status == 400, "{path}: {answer:?}");
        let problem = answer.problem()?;
        ensure!(
            problem == "invalid-path" || problem == "bad-request",
            "{path}: {problem}: {}",
            answer.text()
        );
    }
    let foreign = put(&format!("/v1/cohorts/{OTHER_COHORT}/files/a.csv"))?;
    ensure!(foreign.status == 403 && foreign.problem()? == "cohort-forbidden", "{foreign:?}");
    let unknown = put("/v1/cohorts/nowhere/files/a.csv")?;
    ensure!(matches!(unknown.problem()?.as_str(), "unknown-cohort" | "cohort-forbidden"), "{unknown:?}");
    let misnamed = put("/v1/cohorts/No%20Cohort/files/a.csv")?;
    ensure!((400..500).contains(&misnamed.status), "{misnamed:?}");
    ensure!(culvert.stored_files()?.is_empty());
    Ok(())
}

fn nothing_private(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let client = &scene.lab.client;
    for path in ["/metrics", "/healthz", "/readyz", "/internal/storage/health", "/internal", "/v1/edges"] {
        let answer = Request::new("GET", path).send(client, Place::Outer, culvert.public())?;
        ensure!(answer.status == 404, "{path}: {answer:?}");
        answer.problem().with_context(|| path.to_owned())?;
    }
    for port in [9586, 9587, 9588, 8001] {
        ensure!(client.connect(Place::Outer, at(address::WEB_PUBLIC, port)).is_err(), "port {port} is open");
    }
    Ok(())
}

/// Found again wherever it turns up.
const MARK: &str = "zq7mark";

fn hostile_words(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let tricks =
        ["%0d%0azq7mark", "%1b%5b31mzq7mark", "%22%2c%22level%22%3a%22ERROR%22zq7mark", "%e2%80%aezq7mark"];
    for trick in tricks {
        for (method, path) in [
            ("PUT", format!("/v1/cohorts/{COHORT}/files/{trick}")),
            ("GET", format!("/v1/cohorts/{COHORT}/files?cursor={trick}")),
            ("GET", format!("/v1/cohorts/{trick}/files/a.csv")),
            ("GET", format!("/p/{trick}")),
        ] {
            let request = Request::new(method, &path).token(&culvert.token);
            let answer = request.send(&culvert.lab().client, Place::Outer, culvert.public())?;
            // A name with quotes is a name; what it may not do is written below.
            ensure!(answer.status < 500, "{method} {path}: {}", answer.status);
        }
    }
    for header in [
        "Culvert-Reason",
        "Culvert-File-Type",
        "Upload-Metadata",
        "Repr-Digest",
        "User-Agent",
        "Idempotency-Key",
    ] {
        for trick in ["\u{1b}[31mzq7mark", "\",\"level\":\"ERROR\",\"x\":\"zq7mark", "{\"zq7mark\":1}"] {
            let request = culvert.request("PUT", "a.csv").header(header, trick);
            request.send_body(&culvert.lab().client, Place::Outer, culvert.public(), 1, &mut &b"x"[..])?;
        }
    }
    let wrong = Request::new("GET", &format!("/v1/cohorts/{COHORT}/files/zq7mark.csv")).token("zq7mark");
    wrong.send(&culvert.lab().client, Place::Outer, culvert.public())?.expect(401)?;
    // A name that is allowed, in a record and in no log.
    culvert.put("zq7mark.csv", 1, &mut &b"x"[..])?.expect(201)?;
    culvert.get("zq7mark.csv")?.expect(200)?;
    ensure!(culvert.trail()?.iter().any(|record| record.to_string().contains(MARK)), "the trail has no name");
    for daemon in culvert.daemons() {
        for line in daemon.log().lines() {
            let read: Value =
                serde_json::from_str(&line).with_context(|| format!("{}: {line:?}", daemon.label()))?;
            ensure!(read["level"].is_string() && !line.contains(MARK), "{}: {line}", daemon.label());
            ensure!(!line.contains(culvert.token.as_str()), "{} logs a token", daemon.label());
        }
    }
    Ok(())
}
