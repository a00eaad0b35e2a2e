//! Users of an identity provider, on the whole of Culvert: both daemons have keys of their own, brought while they run.
//!
//! ```text
//!  client ── web: edge (JWKS) ── wan ── services: storaged (JWKS, [[group_map]])
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_netns::culvert::{COHORT, Culvert, OTHER_COHORT, PROGRAMS};
use culvert_netns::host::{Host, Place};
use culvert_netns::http::{Request, Response};
use culvert_netns::payload::Payload;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::wait;
use serde_json::{Value, json};

#[path = "../../../crates/identity/testing/provider.rs"]
mod provider;

use provider::Provider;

const URL: &str = "https://idp.example.org/realms/clinic";
const BOUND: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("a_providers_groups_open_a_cohort_and_keys_change_by_reload", groups_and_keys)
            .needs(PROGRAMS),
        Scenario::new("an_edge_that_takes_forged_tokens_gets_nothing_for_them", captured_edge)
            .needs(PROGRAMS),
        Scenario::new("a_providers_user_is_shut_out_in_the_midst_of_an_upload", shut_out).needs(PROGRAMS),
    ])
}

fn issuer() -> String {
    format!(
        "\n[[issuer]]\nname = \"clinic\"\nurl = \"{URL}\"\naudiences = [\"culvert\"]\n\
         jwks_file = \"/etc/culvert/clinic.jwks\"\n"
    )
}

/// Brings both daemons the provider's keys, with the command that an operator has.
fn bring(culvert: &Culvert<'_>, to_edge: &str, to_storaged: &str) -> Result<()> {
    let lab = culvert.lab();
    let bring = |host: &Host, daemon: &str, keys: &str, more: &str| -> Result<()> {
        let path = format!("/etc/culvert/{daemon}.toml");
        let text = host.read(&path)?;
        if !text.contains("[[issuer]]") {
            host.write(&path, format!("{text}{}{more}", issuer()))?;
        }
        host.write("/etc/culvert/clinic.jwks", keys)?;
        culvert.command(host, &["reload", daemon]).map(drop)
    };
    let map = format!(
        "[[group_map]]\nissuer = \"clinic\"\nclaim = \"groups\"\nvalue = \"trial-7\"\ncohort = \"{COHORT}\"\nrole = \"user\"\n"
    );
    bring(&lab.services, "storaged", to_storaged, &map)?;
    bring(&lab.web, "edge", to_edge, "")
}

fn claims(groups: &[&str]) -> Value {
    let now_s = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    json!({"iss": URL, "sub": "ada", "aud": "culvert", "iat": now_s, "exp": now_s + 300, "groups": groups})
}

fn ask(culvert: &Culvert<'_>, method: &str, cohort: &str, path: &str, token: &str) -> Result<Response> {
    let request = Request::new(method, &format!("/v1/cohorts/{cohort}/files/{path}")).token(token);
    match method {
        "PUT" => {
            request.send_body(&culvert.lab().client, Place::Outer, culvert.public(), 5, &mut &b"hello"[..])
        }
        _ => request.send(&culvert.lab().client, Place::Outer, culvert.public()),
    }
}

fn groups_and_keys(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let (old, new) = (Provider::p256("2025"), Provider::ed25519("2026"));
    let token = old.sign(&claims(&["trial-7"]));
    ask(&culvert, "PUT", COHORT, "a.csv", &token)?.expect(401)?;
    bring(&culvert, &old.jwks(), &old.jwks())?;
    ask(&culvert, "PUT", COHORT, "a.csv", &token)?.expect(201)?;
    let got = ask(&culvert, "GET", COHORT, "a.csv", &token)?.expect(200)?;
    ensure!(got.body == b"hello");
    ask(&culvert, "GET", OTHER_COHORT, "", &token)?.expect(400)?;
    ask(&culvert, "PUT", OTHER_COHORT, "a.csv", &token)?.expect(403)?;
    ask(&culvert, "PUT", COHORT, "b.csv", &old.sign(&claims(&["others"])))?.expect(403)?;
    let mut left_out = claims(&[]);
    left_out["_claim_names"] = json!({"groups": "src1"});
    let told = ask(&culvert, "GET", COHORT, "a.csv", &old.sign(&left_out))?.expect(403)?.text();
    ensure!(told.contains("emit only the groups that are assigned"), "{told}");

    // The provider changes its key: both are there for a while, then the new one alone.
    let both = json!({"keys": [old.jwk(), new.jwk()]}).to_string();
    let newer = new.sign(&claims(&["trial-7"]));
    ask(&culvert, "GET", COHORT, "a.csv", &newer)?.expect(401)?;
    bring(&culvert, &both, &both)?;
    for good in [&token, &newer] {
        ask(&culvert, "GET", COHORT, "a.csv", good)?.expect(200)?;
    }
    bring(&culvert, &new.jwks(), &new.jwks())?;
    let told = ask(&culvert, "GET", COHORT, "a.csv", &token)?.expect(401)?.text();
    ensure!(told.contains("JWKS must be brought"), "{told}");
    ask(&culvert, "GET", COHORT, "a.csv", &newer)?.expect(200)?;
    // A token of ours is as good as before.
    culvert.get("a.csv")?.expect(200)?;

    let trail = culvert.trail()?;
    let made: Vec<&Value> = trail.iter().filter(|record| record["action"] == "nas_raw_created").collect();
    ensure!(made.iter().all(|record| record["origin"]["user"] == "clinic:ada"), "{made:?}");
    let reloads: Vec<&str> = trail
        .iter()
        .filter(|record| record["action"] == "admin.reload")
        .filter_map(|record| record["detail"].as_str())
        .collect();
    ensure!(
        reloads.len() == 3 && reloads.iter().all(|told| told.contains(&format!("clinic={URL}"))),
        "{reloads:?}"
    );
    for daemon in culvert.daemons() {
        for told in [&token, &newer] {
            ensure!(!daemon.log().contains(told.as_str()), "{} logs a token", daemon.label());
        }
    }
    Ok(())
}

fn captured_edge(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let (provider, forger) = (Provider::ed25519("k1"), Provider::ed25519("k1"));
    // Whoever has the web host gives edge the keys they like; storaged has the provider's.
    bring(&culvert, &forger.jwks(), &provider.jwks())?;
    ask(&culvert, "PUT", COHORT, "a.csv", &forger.sign(&claims(&["trial-7"])))?.expect(401)?;
    let trail = culvert.trail()?;
    let denied = |record: &&Value| record["action"] == "access.denied" && record["detail"] == "jwt";
    ensure!(trail.iter().filter(denied).count() == 1, "storaged did not see it for what it is");
    ensure!(!trail.iter().any(|record| record["action"] == "nas_raw_created"), "a file was made");
    Ok(())
}

fn shut_out(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let provider = Provider::ed25519("k1");
    bring(&culvert, &provider.jwks(), &provider.jwks())?;
    let token = provider.sign(&claims(&["trial-7"]));
    let length: u64 = 8 << 20;
    let mut payload = Payload::new(length, 9);
    let request = Request::new("PUT", &format!("/v1/cohorts/{COHORT}/files/big.csv")).token(&token);
    let request = request.header("Content-Length", &length.to_string());
    let mut exchange = request.begin(&scene.lab.client, Place::Outer, culvert.public())?;
    let mut half = vec![0; 4 << 20];
    std::io::Read::read_exact(&mut payload, &mut half)?;
    exchange.send(&half)?;
    wait::until_true("the upload to reach the disk", BOUND, || {
        culvert.stored_files().is_ok_and(|files| files.len() == 1)
    })?;
    let told = culvert.command(&scene.lab.services, &["--json", "user", "disable", "clinic:ada"])?;
    ensure!(told.contains("\"uploads\":1") || told.contains("\"uploads\": 1"), "{told}");
    let ended = exchange.response();
    ensure!(ended.as_ref().map_or(true, |answer| answer.status >= 400), "{ended:?}");
    ask(&culvert, "GET", COHORT, "big.csv", &token)?.expect(401)?;
    wait::until_true("the partial object to be gone", BOUND, || {
        culvert.stored_files().is_ok_and(|files| files.is_empty())
    })?;
    culvert.command(&scene.lab.services, &["user", "enable", "clinic:ada"])?;
    ask(&culvert, "GET", COHORT, "big.csv", &token)?.expect(404).map(drop)
}
