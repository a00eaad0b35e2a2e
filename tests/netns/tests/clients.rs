//! Clients that nobody here wrote, against the real edge before a real store: tus-js-client, Uppy in a browser,
//! tuspy, curl.
//!
//! ```text
//!  client ── bad line (cuts) ── edge ── storaged ─┬─ ledger, keys
//!                                                 └─ volume
//! ```
//!
//! Everything is on the loopback of the world, in role testing: the tunnel is other scenarios' matter.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::COHORT;
use culvert_netns::cutter::Cutter;
use culvert_netns::lab::{self, tools};
use culvert_netns::payload::{Payload, sha256};
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::store::{Daemon, Edge, Layout, Store};
use culvert_netns::wait;
use serde_json::{Value, json};

const PROGRAMS: &[&str] = &["edge", "storaged", "culvert"];

const BOUND: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("tus_js_client_uploads_in_every_mode", tus_js_modes).needs(PROGRAMS),
        Scenario::new("tuspy_uploads_with_and_without_checksums", tuspy_modes).needs(PROGRAMS),
        Scenario::new("uppy_uploads_over_a_line_cut_10_times", |scene| uppy(scene, 10)).needs(PROGRAMS),
        Scenario::new("uppy_uploads_over_a_line_cut_100_times", |scene| uppy(scene, 100))
            .needs(PROGRAMS)
            .slow(),
        Scenario::new("uploads_cut_12_times_end_with_the_right_hash", |scene| cut(scene, 12)).needs(PROGRAMS),
        Scenario::new("uploads_cut_100_times_end_with_the_right_hash", |scene| cut(scene, 100))
            .needs(PROGRAMS)
            .slow(),
        Scenario::new("tuspy_uploads_over_a_line_cut_100_times", |scene| tuspy_cut(scene, 100))
            .needs(PROGRAMS)
            .slow(),
        Scenario::new("culvert_put_gets_over_broken_connections", put_resumes).needs(PROGRAMS),
        Scenario::new("a_killed_culvert_put_goes_on_where_it_was", killed_put).needs(PROGRAMS),
        Scenario::new("culvert_get_gets_over_broken_connections_and_a_kill", get_resumes).needs(PROGRAMS),
        Scenario::new("an_upload_goes_on_through_another_edge", other_edge).needs(PROGRAMS),
        Scenario::new("curl_uploads_downloads_and_resumes", curl).needs(PROGRAMS),
    ])
}

/// A store, an edge before it, and files to send.
struct Site {
    store: Store,
    _storaged: Daemon,
    edge: Edge,
    folder: PathBuf,
}

impl Site {
    fn start(scene: &Scene) -> Result<Site> {
        let folder = scene.world.data().join("site");
        let store = Store::init(Layout::below(&folder)?)?;
        let storaged = store.start()?;
        let edge = store.start_edge("edge", "")?;
        Ok(Site { store, _storaged: storaged, edge, folder })
    }

    /// A file of `bytes` bytes, and its SHA-256.
    fn file(&self, name: &str, bytes: u64, seed: u64) -> Result<(String, String)> {
        let path = self.folder.join(name);
        let mut payload = Payload::new(bytes, seed);
        let expected = payload.sha256();
        let mut file = fs::File::create(&path).context("make a file to send")?;
        std::io::copy(&mut payload, &mut file).context("fill a file to send")?;
        Ok((path.display().to_string(), expected))
    }

    fn url(&self, below: &str) -> String {
        format!("http://{}/v1/{below}", self.edge.public())
    }

    fn curl(&self, arguments: &[&str]) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "60"]);
        curl.args(["--header", &format!("Authorization: Bearer {}", self.store.token())]);
        run(curl.args(arguments)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What lies under a path must be what was sent.
    fn holds(&self, path: &str, expected: &str) -> Result<()> {
        let back = self.folder.join("back");
        let url = self.url(&format!("cohorts/{COHORT}/files/{path}"));
        self.curl(&["--output", &back.display().to_string(), &url]).with_context(|| self.edge.log())?;
        let found = sha256(&fs::read(&back)?);
        ensure!(found == expected, "{path} has {found}, sent was {expected}");
        Ok(())
    }
}

fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{:?} ended with {}: {}{}",
        command.get_program(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts")).join(name)
}

fn with_fields(base: Value, more: &Value) -> String {
    let mut all = base;
    if let (Some(all), Some(more)) = (all.as_object_mut(), more.as_object()) {
        all.extend(more.clone());
    }
    all.to_string()
}

/// Uploads with tus-js-client and gives what it was told at the end.
fn tus_js(site: &Site, edge: SocketAddr, file: &str, path: &str, options: &Value) -> Result<Value> {
    let asked = json!({
        "endpoint": format!("http://{edge}/v1/cohorts/{COHORT}/uploads"), "token": site.store.token(),
        "file": file, "path": path,
    });
    let mut node = Command::new("node");
    node.env("NODE_PATH", tools()?.join("tus-js-client/node_modules"));
    node.arg(script("upload_tus.cjs")).arg(with_fields(asked, options));
    let said = run(&mut node).with_context(|| site.edge.log())?;
    serde_json::from_slice(&said).context("read what tus-js-client said")
}

/// Uploads with tuspy.
fn tuspy(site: &Site, edge: SocketAddr, file: &str, path: &str, options: &Value) -> Result<()> {
    let asked = json!({
        "endpoint": format!("http://{edge}/v1/cohorts/{COHORT}/uploads"), "token": site.store.token(),
        "file": file, "path": path,
    });
    let mut python = Command::new(tools()?.join("tuspy/bin/python"));
    python.arg(script("upload_tus.py")).arg(with_fields(asked, options));
    run(&mut python).with_context(|| site.edge.log()).map(drop)
}

fn tus_js_modes(scene: &Scene) -> Result<()> {
    let site = Site::start(scene)?;
    let (file, sent) = site.file("visits.csv", 3_000_000, 1)?;
    let modes = [
        ("tus", json!({"protocol": "tus-v1"})),
        ("tus-chunks", json!({"protocol": "tus-v1", "chunkSize": 700_000})),
        (
            "tus-first",
            json!({"protocol": "tus-v1", "uploadDataDuringCreation": true, "chunkSize": 1_000_000}),
        ),
        ("tus-post", json!({"protocol": "tus-v1", "overridePatchMethod": true})),
        ("tus-deferred", json!({"protocol": "tus-v1", "uploadLengthDeferred": true, "chunkSize": 1_000_000})),
        ("draft-03", json!({"protocol": "ietf-draft-03"})),
        ("draft-03-chunks", json!({"protocol": "ietf-draft-03", "chunkSize": 700_000})),
        ("draft-05", json!({"protocol": "ietf-draft-05"})),
        ("draft-05-chunks", json!({"protocol": "ietf-draft-05", "chunkSize": 700_000})),
        ("draft-05-first", json!({"protocol": "ietf-draft-05", "uploadDataDuringCreation": true})),
    ];
    for (mode, options) in &modes {
        let path = format!("js/{mode}.csv");
        tus_js(&site, site.edge.public(), &file, &path, options).with_context(|| (*mode).to_owned())?;
        site.holds(&path, &sent).with_context(|| (*mode).to_owned())?;
    }
    let (empty, nothing) = site.file("empty", 0, 0)?;
    for (mode, options) in [&modes[0], &modes[5], &modes[7]] {
        let path = format!("js/{mode}-empty.csv");
        tus_js(&site, site.edge.public(), &empty, &path, options).with_context(|| (*mode).to_owned())?;
        site.holds(&path, &nothing).with_context(|| (*mode).to_owned())?;
    }
    site.edge.stop()
}

fn tuspy_modes(scene: &Scene) -> Result<()> {
    let site = Site::start(scene)?;
    let (file, sent) = site.file("visits.csv", 3_000_000, 2)?;
    for (path, options) in [
        ("py/whole.csv", json!({"chunk_size": 10_000_000, "checksum": false})),
        ("py/chunks.csv", json!({"chunk_size": 700_000, "checksum": false})),
        ("py/checked.csv", json!({"chunk_size": 700_000, "checksum": true})),
    ] {
        tuspy(&site, site.edge.public(), &file, path, &options).with_context(|| path.to_owned())?;
        site.holds(path, &sent).with_context(|| path.to_owned())?;
    }
    site.edge.stop()
}

fn cut(scene: &Scene, cuts: u32) -> Result<()> {
    let site = Site::start(scene)?;
    // Large enough for as many cuts, each of which lets at least one byte of the next stretch pass on average.
    let bytes = u64::from(cuts) * 400_000;
    let (file, sent) = site.file("visits.csv", bytes, 3)?;
    let modes = [("tus", json!({"protocol": "tus-v1"})), ("draft-05", json!({"protocol": "ietf-draft-05"}))];
    for (seed, (mode, options)) in (1..).zip(&modes) {
        let line = Cutter::start(site.edge.public(), seed, cuts / 2, 600_000)?;
        let path = format!("cut/{mode}.csv");
        tus_js(&site, line.address(), &file, &path, options).with_context(|| (*mode).to_owned())?;
        site.holds(&path, &sent).with_context(|| (*mode).to_owned())?;
        ensure!(line.cut_so_far() >= cuts / 2, "{mode} was cut {} times only", line.cut_so_far());
    }
    site.edge.stop()
}

/// Half of the cuts in pieces that go on where they broke, half in pieces that count as a whole or not at all.
fn tuspy_cut(scene: &Scene, cuts: u32) -> Result<()> {
    let site = Site::start(scene)?;
    let (file, sent) = site.file("visits.csv", u64::from(cuts) * 400_000, 14)?;
    let modes = [
        ("long", json!({"chunk_size": 10_000_000, "checksum": false})),
        ("checked", json!({"chunk_size": 400_000, "checksum": true})),
    ];
    for (seed, (mode, options)) in (31..).zip(&modes) {
        let line = Cutter::start(site.edge.public(), seed, cuts / 2, 600_000)?;
        let path = format!("cut/py-{mode}.csv");
        tuspy(&site, line.address(), &file, &path, options).with_context(|| (*mode).to_owned())?;
        site.holds(&path, &sent).with_context(|| (*mode).to_owned())?;
        ensure!(line.cut_so_far() >= cuts / 2, "{mode} was cut {} times only", line.cut_so_far());
    }
    site.edge.stop()
}

fn uppy(scene: &Scene, cuts: u32) -> Result<()> {
    let site = Site::start(scene)?;
    let (file, sent) = site.file("visits.csv", u64::from(cuts) * 400_000, 13)?;
    let line = Cutter::start(site.edge.public(), 17, cuts, 600_000)?;
    let origin = format!("http://{}", line.address());
    let asked = json!({
        "origin": origin, "endpoint": format!("{origin}/v1/cohorts/{COHORT}/uploads"),
        "token": site.store.token(), "file": file, "path": "uppy.csv",
        "bundle": tools()?.join("uppy/package/dist/uppy.min.js"), "profile": site.folder.join("browser"),
    });
    let mut node = Command::new("node");
    node.env("HOME", &site.folder).arg(script("upload_uppy.cjs")).arg(asked.to_string());
    run(&mut node).with_context(|| site.edge.log())?;
    site.holds("uppy.csv", &sent)?;
    ensure!(line.cut_so_far() >= cuts / 2, "the line was cut {} times only", line.cut_so_far());
    site.edge.stop()
}

fn other_edge(scene: &Scene) -> Result<()> {
    let site = Site::start(scene)?;
    let (file, sent) = site.file("visits.csv", 20_000_000, 4)?;
    let first = site.store.start_edge("first", "")?;
    // Cut once, and then led elsewhere: the first edge is gone by then.
    let line = Cutter::start(first.public(), 9, 3, 4_000_000)?;
    let (leading, public) = (line.clone(), site.edge.public());
    let killing = std::thread::spawn(move || -> Result<()> {
        wait::until_true("a cut", Duration::from_secs(30), || leading.cut_so_far() > 0)?;
        leading.lead_to(public);
        first.kill()
    });
    tus_js(&site, line.address(), &file, "other.csv", &json!({"protocol": "tus-v1"}))?;
    killing.join().map_err(|_| anyhow::anyhow!("the killing panicked"))??;
    site.holds("other.csv", &sent)?;
    site.edge.stop()
}

fn put_resumes(scene: &Scene) -> Result<()> {
    let site = Site::start(scene)?;
    let (file, sent) = site.file("visits.csv", 24_000_000, 7)?;
    let line = Cutter::start(site.edge.public(), 11, 5, 8_000_000)?;
    let mut put = Command::new(lab::programs()?.join("culvert"));
    put.env("CULVERT_SERVER", format!("http://{}", line.address())).env("CULVERT_TOKEN", site.store.token());
    put.args(["--json", "put", &file, &format!("{COHORT}/put.csv")]);
    let report: Value = serde_json::from_slice(&run(&mut put).with_context(|| site.edge.log())?)?;
    ensure!(report["sha256"] == sent.as_str() && report["created"] == true, "{report}");
    ensure!(line.cut_so_far() >= 2, "the line was cut {} times only", line.cut_so_far());
    site.holds("put.csv", &sent)?;
    // Again: it is there, and nothing else happens.
    put.env("CULVERT_SERVER", format!("http://{}", site.edge.public()));
    let again: Value = serde_json::from_slice(&run(&mut put)?)?;
    ensure!(again["created"] == false && again["file_id"] == report["file_id"], "{again}");
    site.edge.stop()
}

/// `culvert` at the user's side, with a home of its own.
fn culvert(site: &Site, server: SocketAddr, arguments: &[&str]) -> Result<Command> {
    let mut culvert = Command::new(lab::programs()?.join("culvert"));
    culvert.env("CULVERT_SERVER", format!("http://{server}")).env("CULVERT_TOKEN", site.store.token());
    culvert.env("HOME", &site.folder).env_remove("XDG_STATE_HOME").args(arguments);
    Ok(culvert)
}

/// Starts it, waits until so many bytes came through a slow line, and kills it.
fn kill_in_the_middle(mut culvert: Command, in_the_middle: impl Fn() -> bool) -> Result<()> {
    let mut child = culvert.spawn().context("start culvert")?;
    let reached = wait::until_true("culvert to be in the middle", BOUND, in_the_middle);
    let still_runs = child.try_wait()?.is_none();
    child.kill()?;
    child.wait()?;
    reached?;
    ensure!(still_runs, "it had ended before it was killed");
    Ok(())
}

fn killed_put(scene: &Scene) -> Result<()> {
    let site = Site::start(scene)?;
    let (file, sent) = site.file("patient-4711.csv", 40_000_000, 8)?;
    let line = Cutter::start(site.edge.public(), 3, 0, 1)?;
    line.slow_down(20_000_000);
    let put = ["--json", "put", &file, &format!("{COHORT}/killed.csv")];
    let under_way = || -> Result<Value> {
        let listed: Value = serde_json::from_str(&site.curl(&[&site.url("uploads")])?)?;
        Ok(listed["uploads"][0].clone())
    };
    kill_in_the_middle(culvert(&site, line.address(), &put)?, || line.passed() > 16 << 20)?;
    // What came is durable when storaged has seen the end of it.
    let first = wait::until("the first stretch to be durable", BOUND, || {
        let upload = under_way()?;
        ensure!(upload["offset"].as_u64().is_some_and(|at| at > 8 << 20), "{upload}");
        Ok(upload)
    })?;

    // On the disk is an id, and no name and no token.
    let notes: Vec<PathBuf> = fs::read_dir(site.folder.join(".local/state/culvert/uploads"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    let [note] = &notes[..] else { anyhow::bail!("{notes:?}") };
    ensure!(fs::read_to_string(note)? == first["upload_id"].as_str().unwrap_or_default());
    ensure!(!note.to_string_lossy().contains("4711"), "{}", note.display());

    let before = line.passed();
    let report: Value = serde_json::from_slice(&run(&mut culvert(&site, line.address(), &put)?)?)?;
    ensure!(report["sha256"] == sent.as_str() && report["created"] == true, "{report}");
    let again = line.passed() - before;
    let rest = 40_000_000 - first["offset"].as_u64().context("no offset")?;
    ensure!(again < rest + (1 << 20), "{again} bytes were sent for a rest of {rest}");
    site.holds("killed.csv", &sent)?;
    ensure!(!note.exists(), "the note outlived its upload");
    site.edge.stop()
}

fn get_resumes(scene: &Scene) -> Result<()> {
    let site = Site::start(scene)?;
    let (file, sent) = site.file("visits.csv", 24_000_000, 9)?;
    let remote = format!("{COHORT}/visits.csv");
    run(&mut culvert(&site, site.edge.public(), &["put", &file, &remote])?)?;
    let line = Cutter::start_towards_clients(site.edge.public(), 21, 5, 6_000_000)?;
    let to = site.folder.join("got.csv");
    let get = ["--json", "get", &remote, &to.display().to_string()];
    let report: Value = serde_json::from_slice(&run(&mut culvert(&site, line.address(), &get)?)?)?;
    ensure!(
        report["sha256"] == sent.as_str() && line.cut_so_far() >= 2,
        "{report}, {} cuts",
        line.cut_so_far()
    );
    ensure!(sha256(&fs::read(&to)?) == sent, "other bytes are in the file");

    // The next process takes over what a killed one left.
    fs::remove_file(&to)?;
    let part = site.folder.join("got.csv.part");
    let slow = Cutter::start(site.edge.public(), 3, 0, 1)?;
    slow.slow_down(20_000_000);
    let has_come = || fs::metadata(&part).is_ok_and(|part| part.len() > 4 << 20);
    kill_in_the_middle(culvert(&site, slow.address(), &get)?, has_come)?;
    let left = fs::metadata(&part)?.len();
    let before = slow.passed();
    run(&mut culvert(&site, slow.address(), &get)?)?;
    let again = slow.passed() - before;
    ensure!(again < 24_000_000 - left + (1 << 20), "{again} bytes came for a rest of {}", 24_000_000 - left);
    ensure!(
        sha256(&fs::read(&to)?) == sent && !part.exists(),
        "other bytes are in the file, or a part is left"
    );
    site.edge.stop()
}

fn curl(scene: &Scene) -> Result<()> {
    let site = Site::start(scene)?;
    let (file, sent) = site.file("visits.csv", 5_000_000, 5)?;
    let url = |path: &str| site.url(&format!("cohorts/{COHORT}/files/{path}"));
    // -T, with `Expect: 100-continue`, and from a pipe without a length.
    site.curl(&["--upload-file", &file, &url("curl/file.csv")])?;
    site.holds("curl/file.csv", &sent)?;
    let piped = "curl --silent --show-error --fail-with-body -T - -H \"$0\" \"$1\" < \"$2\"";
    let token = format!("Authorization: Bearer {}", site.store.token());
    run(Command::new("sh").args(["-c", piped, &token, &url("curl/pipe.csv"), &file]))?;
    site.holds("curl/pipe.csv", &sent)?;
    trailers(&site)?;

    // A download that broke off goes on where it was.
    let part = site.folder.join("part");
    fs::write(&part, &fs::read(&file)?[..1_234_567])?;
    let part_name = part.display().to_string();
    site.curl(&["--continue-at", "-", "--output", &part_name, &url("curl/file.csv")])?;
    ensure!(sha256(&fs::read(&part)?) == sent, "the rest does not fit");
    let first = site.curl(&["--range", "0-9", &url("curl/file.csv")])?;
    ensure!(first.as_bytes() == &fs::read(&file)?[..10], "{first}");

    // Several stretches at once, as viewers of large files ask.
    let bytes = fs::read(&file)?;
    let several = site.curl(&["--range", "0-9,4000000-4000009,-5", &url("curl/file.csv")])?;
    for stretch in [&bytes[..10], &bytes[4_000_000..4_000_010], &bytes[bytes.len() - 5..]] {
        ensure!(memchr::memmem::find(several.as_bytes(), stretch).is_some(), "{several}");
    }
    ensure!(several.matches("Content-Range: bytes ").count() == 3, "{several}");

    // -F, as browsers do it: the name in a field, or the form's own below a folder.
    let all = site.url(&format!("cohorts/{COHORT}/files"));
    let part = format!("file=@{file}");
    site.curl(&["--form", "path=curl/form.csv", "--form", &part, &all])?;
    site.holds("curl/form.csv", &sent)?;
    site.curl(&[
        "--form",
        "path=curl/folder/",
        "--form",
        "culvert-file-type=raw_csv",
        "--form",
        &part,
        &all,
    ])?;
    site.holds("curl/folder/visits.csv", &sent)?;
    let refused = site.curl(&["--form", "path=../x", "--form", &part, &all]);
    ensure!(
        format!("{:#}", refused.expect_err("the name climbs")).contains("urn:culvert:problem:invalid-path")
    );
    let listed: Value = serde_json::from_str(&site.curl(&[&format!("{all}?type=raw_csv&from=2020-01-01")])?)?;
    let files = listed["files"].as_array().context("the listing has no files")?;
    ensure!(files.len() == 1 && files[0]["path"] == "curl/folder/visits.csv", "{listed}");
    let policy: Value = serde_json::from_str(&site.curl(&[&site.url("policy")])?)?;
    ensure!(policy["cohorts"][0]["cohort"] == COHORT && policy["user"] == "ada", "{policy}");

    // The receipt stands by itself.
    let found: Value = serde_json::from_str(&site.curl(&[&site.url(&format!("cohorts/{COHORT}/files"))])?)?;
    let id = found["files"][0]["file_id"].as_str().context("the listing has no file")?;
    let receipt = site.folder.join("receipt.json");
    site.curl(&["--output", &receipt.display().to_string(), &site.url(&format!("files/{id}/receipt"))])?;
    site.store.verify_receipt(&receipt.display().to_string(), &file)?;

    // A new version is made of what is named, and the old one stays.
    let (newer, newer_sent) = site.file("newer.csv", 1_000_000, 6)?;
    let tag = format!("If-Match: \"{sent}\"");
    let refused = site.curl(&["--upload-file", &newer, &url("curl/file.csv")]);
    ensure!(
        format!("{:#}", refused.expect_err("the name is taken")).contains("urn:culvert:problem:conflict")
    );
    site.curl(&["--header", &tag, "--upload-file", &newer, &url("curl/file.csv")])?;
    site.holds("curl/file.csv", &newer_sent)?;
    site.holds("curl/file.csv?version=1", &sent)?;
    let versions = site.curl(&[&site.url(&format!("cohorts/{COHORT}/versions/curl/file.csv"))])?;
    ensure!(versions.contains(&sent) && versions.contains(&newer_sent), "{versions}");
    site.edge.stop()
}

/// A digest that follows the bytes: curl sends no trailers, so by hand.
fn trailers(site: &Site) -> Result<()> {
    let of_hello = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
    let of_other = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
    for (digest, path, expected) in [(of_hello, "hello", "HTTP/1.1 201"), (of_other, "other", "HTTP/1.1 400")]
    {
        let mut stream = TcpStream::connect(site.edge.public())?;
        let head = format!(
            "PUT /v1/cohorts/{COHORT}/files/trailers/{path} HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {}\r\n\
             Transfer-Encoding: chunked\r\nTrailer: Repr-Digest\r\nConnection: close\r\n\r\n",
            site.store.token()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(format!("5\r\nhello\r\n0\r\nRepr-Digest: {digest}\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with(expected), "{answer}");
    }
    Ok(())
}
