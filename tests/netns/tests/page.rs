//! A person with a browser alone: the page at `/`, played by headless Chromium on the client's host.
//!
//! ```text
//!  client (Chromium) ── web (edge, wgd) ──✂── wan ── services (wgd, storaged)
//! ```
//!
//! The browser gets no help from the harness: keys and files go in by its own protocol (`scripts/browser.cjs`), and what is
//! judged is what is shown.

use std::fs;
use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::{COHORT, Culvert, PROGRAMS};
use culvert_netns::payload::{MARKER, Payload, sha256};
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::wait;
use serde_json::{Value, json};

/// Long enough for a pause, a cut and a reload while the browser sends 6 MiB a second.
const BIG_BYTES: u64 = 48 << 20;

const SMALL_BYTES: u64 = 70_001;

/// A browser on a busy machine is slow.
const BOUND: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    runner::main(&[Scenario::new("the_page_uploads_resumes_verifies_and_shares", page)
        .needs(PROGRAMS)
        .expecting(&["no sign of life from storaged"])])
}

fn page(scene: &Scene) -> Result<()> {
    let (lab, client) = (&scene.lab, &scene.lab.client);
    let culvert = Culvert::start(lab)?;
    let file = |path: &str, bytes, seed| -> Result<String> {
        let mut content = Vec::new();
        Payload::new(bytes, seed).read_to_end(&mut content).context("make a file")?;
        client.write(path, &content)?;
        Ok(sha256(&content))
    };
    file("/tmp/small file (ü).csv", SMALL_BYTES, 31)?;
    let sent = file("/tmp/visits.csv", BIG_BYTES, 32)?;
    client.write("/tmp/page.cjs", include_str!("../scripts/page.cjs"))?;
    client.write("/tmp/browser.cjs", include_str!("../scripts/browser.cjs"))?;
    fs::create_dir_all(client.path("/tmp/downloads")).context("make a place for downloads")?;
    let order = json!({
        "url": format!("http://{}/", culvert.public()), "token": culvert.token,
        "small": "/tmp/small file (ü).csv", "big": "/tmp/visits.csv", "downloads": "/tmp/downloads",
        "shots": std::env::var("CULVERT_SHOTS").is_ok().then_some("/tmp"),
    });
    let mut person = client.program("node").arguments(&["/tmp/page.cjs", &order.to_string()]);
    person = person.variable("HOME", "/tmp");
    let mut person = person.start()?;
    milestone(&mut person, "cut now")?;
    lab.wan.cut()?;
    milestone(&mut person, "restore now")?;
    lab.wan.restore()?;
    let outcome = milestone(&mut person, "done");
    if let Some(kept) = std::env::var_os("CULVERT_SHOTS") {
        for (path, _) in
            client.writable_files()?.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "png"))
        {
            fs::copy(path, std::path::Path::new(&kept).join(path.file_name().context("a name")?))?;
        }
    }
    let done = outcome?;

    // What the page shows is the truth: of the file, of its receipt, of what is stored.
    ensure!(done["sha256"] == sent.as_str(), "the page says {}, sent was {sent}", done["sha256"]);
    ensure!(sha256(&culvert.get("2026/visits.csv")?.expect(200)?.body) == sent, "other bytes are stored");
    let small = culvert.get("2026/small%20file%20%28%C3%BC%29.csv")?.expect(200)?;
    ensure!(small.body.len() == usize::try_from(SMALL_BYTES)?, "{} bytes", small.body.len());
    let downloaded =
        fs::read(client.path("/tmp/downloads/visits.csv")).context("read what was downloaded")?;
    ensure!(sha256(&downloaded) == sent, "something else was downloaded");
    culvert.command(
        client,
        &["receipt", "verify", "/tmp/downloads/visits.csv.receipt.json", "/tmp/downloads/visits.csv"],
    )?;

    // The link works for whoever has it, once.
    let link = done["link"].as_str().context("no link")?;
    let fetch = || {
        client.run(&["curl", "--silent", "--show-error", "--fail-with-body", "--output", "/tmp/shared", link])
    };
    fetch()?.success()?;
    ensure!(sha256(&fs::read(client.path("/tmp/shared"))?) == sent, "the link leads to something else");
    let (_, _) = fetch()?.refusal()?;
    let again = client.read("/tmp/shared")?;
    ensure!(again.contains("urn:culvert:problem:used-capability"), "{again}");

    // One upload, resumed: a second one would have left its record.
    let trail = culvert.trail()?;
    let made = |record: &&Value| record["action"] == "nas_raw_created" && record["ending"] == "succeeded";
    ensure!(trail.iter().filter(made).count() == 2, "{trail:#?}");
    ensure!(trail.iter().any(|record| record["cohort"] == COHORT));
    let left = lab.web.files_with(MARKER.as_bytes())?;
    ensure!(left.is_empty(), "bytes of a body lie on web: {left:?}");
    Ok(())
}

/// Waits until the script says so, and gives all that it says then.
fn milestone(person: &mut Running, what: &str) -> Result<Value> {
    let output = person.output().clone();
    let outcome = person.until(&format!("say `{what}`"), BOUND, || {
        let said = output.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        said.into_iter().find(|said| said["what"] == what).with_context(|| output.lines().join("\n"))
    });
    match outcome {
        Ok(said) => Ok(said),
        // It may have said so with its last breath.
        Err(error) => wait::until("its last words", Duration::from_secs(1), || {
            let lines = output.lines();
            let said = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            said.into_iter().find(|said| said["what"] == what).context("it did not say so")
        })
        .map_err(|_| error),
    }
}
