//! A real edge and storaged, examined by programs that others wrote: schemathesis against the document of the API, and
//! sslyze against its TLS.
//!
//! ```text
//!  schemathesis (PyPI), sslyze (PyPI) ── loopback ── edge ── loopback ── storaged
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::COHORT;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::store::{Edge, Layout, Store};
use serde_json::Value;

#[path = "../../../crates/identity/testing/authority.rs"]
mod authority;

use authority::Authority;

/// What the usual run has for the document; the slow one has several times as much.
const SECONDS: u64 = 15;
const LONG_SECONDS: u64 = 240;

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("the_api_is_what_its_document_says", document).needs(&["edge", "storaged", "culvert"]),
        Scenario::new("the_api_is_what_its_document_says_for_long", document_for_long)
            .needs(&["edge", "storaged", "culvert"])
            .slow(),
        Scenario::new("tls_is_modern_by_default_and_intermediate_by_choice", tls)
            .needs(&["edge", "storaged", "culvert"]),
    ])
}

fn tools() -> Result<PathBuf> {
    let tools =
        std::env::var_os("CULVERT_TOOLS").context("CULVERT_TOOLS names no directory: cargo xtask netns")?;
    Ok(PathBuf::from(tools))
}

fn document(scene: &Scene) -> Result<()> {
    schemathesis(scene, SECONDS)
}

fn document_for_long(scene: &Scene) -> Result<()> {
    schemathesis(scene, LONG_SECONDS)
}

/// Every answer must be one that the document promises: status, type, headers, schema; no 5xx; no method,
/// header or token that should be refused is taken.
fn schemathesis(scene: &Scene, seconds: u64) -> Result<()> {
    let folder = scene.world.data().join("site");
    let store = Store::init(Layout::below(&folder)?)?;
    let storaged = store.start()?;
    // A program that tries everything is locked out and slowed down elsewhere.
    let edge = store.start_edge("edge", "auth_failure_limit = 0\nrate_per_second = 0\n")?;
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    // Beside the names of the document those that are there.
    let mut ours: Value =
        serde_json::from_str(&fs::read_to_string(document)?).context("read docs/openapi.json")?;
    ours["components"]["schemas"]["Cohort"]["enum"] = serde_json::json!([COHORT, "nowhere"]);
    let there = folder.join("openapi.json");
    fs::write(&there, ours.to_string())?;
    fs::write(folder.join("schemathesis.toml"), RULES)?;
    // By its interpreter: its own first line names the directory that it was installed in, which may have moved since.
    let tool = tools()?.join("schemathesis/bin");
    let mut run = Command::new(tool.join("python"));
    run.arg(tool.join("schemathesis"));
    run.current_dir(&folder)
        .env("NO_COLOR", "1")
        .env("SCHEMATHESIS_HOOKS", HOOKS)
        .args(["run", &there.display().to_string()]);
    run.args(["--url", &format!("http://{}", edge.public()), "--checks", "all"]);
    run.args(["--header", &format!("Authorization: Bearer {}", store.token())]);
    run.args(["--max-time", &seconds.to_string(), "--seed", "7", "--generation-database", "none"]);
    run.args(["--request-timeout", "20", "--continue-on-failure", "--warnings", "off"]);
    run.args(["--exclude-checks", EXCLUDED]);
    let output = run.output().context("run schemathesis")?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{told}\n{}\n{}", String::from_utf8_lossy(&output.stderr), edge.log());
    let figures = told.lines().rev().find(|line| line.contains("generated"));
    runner::say(figures.context("schemathesis does not say how much it tried")?);
    edge.stop()?;
    drop(storaged);
    Ok(())
}

/// Read by schemathesis at its start.
const HOOKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/schemathesis_hooks.py");

/// `positive_data_acceptance`: what is right by the document may be refused for what is there (a conflict, a length).
/// `negative_data_rejection`: it takes a number in a query or a header for a wrong type of text, and calls whatever is left
/// out or added a fault; what must be refused is in tests of our own.
const EXCLUDED: &str = "positive_data_acceptance,negative_data_rejection";

/// tus wants its version looked at before all else, and 412 for another.
const RULES: &str =
    "[checks]\nmissing_required_header.expected-statuses = [400, 401, 403, 406, 412, 415, 422]\n";

struct Scanned {
    compliant: bool,
    text: String,
    result: Value,
}

fn sslyze(edge: &Edge, folder: &Path, wanted: &str) -> Result<Scanned> {
    let out = folder.join(format!("{wanted}.json"));
    let mut run = Command::new(tools()?.join("sslyze/bin/python"));
    run.args(["-W", "ignore", "-m", "sslyze", "--mozilla_config", wanted]);
    run.arg("--certinfo_ca_file").arg(folder.join("site.pem")).arg("--json_out").arg(&out);
    run.args([
        "--certinfo",
        "--sslv2",
        "--sslv3",
        "--tlsv1",
        "--tlsv1_1",
        "--tlsv1_2",
        "--tlsv1_3",
        "--early_data",
    ]);
    run.args(["--resum", "--reneg", "--heartbleed", "--robot", "--openssl_ccs", "--compression", "--ems"]);
    run.arg(format!("localhost:{}", edge.public().port()));
    let output = run.output().context("run sslyze")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let json = fs::read_to_string(&out).with_context(|| text.clone())?;
    let mut json: Value = serde_json::from_str(&json).context("read what sslyze found")?;
    let scanned = &mut json["server_scan_results"][0];
    ensure!(scanned["scan_status"] == "COMPLETED", "{text}");
    let result = scanned["scan_result"].take();
    Ok(Scanned { compliant: output.status.success() && text.contains("OK - Compliant"), text, result })
}

fn accepted(result: &Value, version: &str) -> Result<Vec<String>> {
    let suites = &result[format!("{version}_cipher_suites")]["result"]["accepted_cipher_suites"];
    let suites = suites.as_array().with_context(|| format!("{version} was not looked at"))?;
    Ok(suites.iter().filter_map(|suite| Some(suite["cipher_suite"]["name"].as_str()?.to_owned())).collect())
}

fn tls(scene: &Scene) -> Result<()> {
    let folder = scene.world.data().join("site");
    let store = Store::init(Layout::below(&folder)?)?;
    let _storaged = store.start()?;
    let site = Authority::new("site");
    let server = site.server(IpAddr::V4(Ipv4Addr::LOCALHOST));
    fs::write(folder.join("site.pem"), &site.pem)?;
    fs::write(folder.join("chain.pem"), &server.pem)?;
    let key = folder.join("chain.key");
    fs::write(&key, server.key.serialize_pem())?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let lines = format!(
        "tls_certificate_file = \"{0}/chain.pem\"\ntls_key_file = \"{0}/chain.key\"\n",
        folder.display()
    );

    let edge = store.start_edge_with("modern", &lines, "")?;
    let found = sslyze(&edge, &folder, "modern")?;
    ensure!(found.compliant, "{}", found.text);
    for old in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2"] {
        ensure!(accepted(&found.result, old)?.is_empty(), "{old} is spoken:\n{}", found.text);
    }
    let suites = accepted(&found.result, "tls_1_3")?;
    ensure!(
        suites.len() == 3 && suites.iter().all(|name| name.contains("GCM") || name.contains("CHACHA20")),
        "{suites:?}"
    );
    let early = &found.result["tls_1_3_early_data"]["result"]["supports_early_data"];
    ensure!(*early == false, "early data can be replayed: {early}");
    edge.stop()?;

    let edge = store.start_edge_with("intermediate", &format!("{lines}tls_min_version = \"1.2\"\n"), "")?;
    let found = sslyze(&edge, &folder, "intermediate")?;
    ensure!(found.compliant, "{}", found.text);
    let older = accepted(&found.result, "tls_1_2")?;
    let is_sound =
        |name: &String| name.starts_with("TLS_ECDHE_") && (name.contains("GCM") || name.contains("CHACHA20"));
    ensure!(!older.is_empty() && older.iter().all(is_sound), "{older:?}");
    for resumed in ["session_id_successful_resumptions_count", "tls_ticket_successful_resumptions_count"] {
        let count = &found.result["session_resumption"]["result"][resumed];
        ensure!(*count == 0, "a session was resumed: {resumed} {count}");
    }
    edge.stop()
}
