//! The line between the hosts is cut without a word: packets vanish, links stay up.
//!
//! ```text
//!  client ── web (edge, wgd) ──✂── wan ── services (wgd, storaged)
//! ```

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use culvert_netns::culvert::{BODY_IDLE, Culvert, PROGRAMS};
use culvert_netns::host::Place;
use culvert_netns::http::Response;
use culvert_netns::payload::{MARKER, Payload};
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::wait;

/// A cut must be told to clients within this (A-075).
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// The tunnel must be back by itself within this: a handshake is tried every 5 s and its jitter, and edge asks every
/// second. A peer that forgot its session is noticed after 15 s without an answer (WireGuard's paper, 6.5:
/// Keepalive-Timeout and Rekey-Timeout).
const BACK_WITHIN: Duration = Duration::from_secs(30);

const BOUND: Duration = Duration::from_secs(10);

/// The record's word for bytes that went from edge to storaged.
const UPLOADED: &str = "file_uploaded_via_stream";

/// What edge rightly says about a cut.
const EXPECTED: &[&str] = &["no sign of life from storaged"];

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("an_idle_cut_ends_in_503_within_3_seconds", idle).needs(PROGRAMS).expecting(EXPECTED),
        Scenario::new("a_cut_in_the_middle_of_an_upload_leaves_nothing", uploading)
            .needs(PROGRAMS)
            .expecting(EXPECTED),
        Scenario::new("a_cut_in_the_middle_of_a_download_ends_it", downloading)
            .needs(PROGRAMS)
            .expecting(EXPECTED),
        Scenario::new("a_killed_wgd_comes_back_and_is_believed", killed_wgd)
            .needs(PROGRAMS)
            .expecting(EXPECTED),
        Scenario::new("a_killed_storaged_ends_in_503_and_comes_back", killed_storaged).needs(PROGRAMS),
    ])
}

/// 503, `Retry-After`, and a problem that says what.
fn says_unavailable(answer: &Response) -> Result<()> {
    ensure!(answer.status == 503, "{answer:?}");
    let after = answer.header("Retry-After").context("no Retry-After")?;
    ensure!(after.parse::<u32>().is_ok_and(|seconds| seconds > 0), "Retry-After: {after}");
    let problem = answer.problem()?;
    ensure!(problem == "tunnel-unavailable" || problem == "backend-unavailable", "{problem}");
    Ok(())
}

fn in_time(cut: Instant) -> Result<()> {
    let took = wait::now().duration_since(cut);
    ensure!(took <= TOLD_WITHIN, "it took {:.2} s", took.as_secs_f64());
    Ok(())
}

fn works_again(culvert: &Culvert<'_>, path: &str) -> Result<()> {
    wait::until("uploads to work again", BACK_WITHIN, || {
        let answer = culvert.put(path, 1 << 20, &mut Payload::new(1 << 20, 21))?;
        ensure!(answer.status == 201, "{answer:?}");
        Ok(())
    })
}

fn idle(scene: &Scene) -> Result<()> {
    let mut culvert = Culvert::start(&scene.lab)?;
    culvert.put_payload("before.csv", 1 << 20, 20)?;
    scene.lab.wan.cut()?;
    let cut = wait::now();
    // The very first request after the cut: nobody knows of it yet.
    says_unavailable(&culvert.get("before.csv")?)?;
    in_time(cut)?;
    let ready = culvert.status(&scene.lab.web, culvert_netns::culvert::EDGE_METRICS, "/readyz")?;
    ensure!(ready.status == 503, "edge says that it is ready: {ready:?}");
    // From now on it is said at once, and a body is not waited for.
    let request = culvert.request("PUT", "cut.csv").header("Content-Length", &(64_u64 << 20).to_string());
    let asked = wait::now();
    let exchange = request.begin(&scene.lab.client, Place::Outer, culvert.public())?;
    says_unavailable(&exchange.response()?)?;
    let took = wait::now().duration_since(asked);
    ensure!(took < Duration::from_millis(1_500), "a refusal took {} ms", took.as_millis());

    scene.lab.wan.restore()?;
    works_again(&culvert, "after.csv")?;
    culvert.wait_until_ready(BACK_WITHIN)
}

fn uploading(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let files = scene.lab.web.writable_files()?;
    let length: u64 = 256 << 20;
    let request = culvert.request("PUT", "cut.csv").header("Content-Length", &length.to_string());
    let exchange = request.begin(&scene.lab.client, Place::Outer, culvert.public())?;
    let mut sending = exchange.stream().try_clone()?;
    // A client that sends at its own pace and goes on doing so until it has read the answer.
    let answered = AtomicBool::new(false);
    let cut = thread::scope(|scope| -> Result<Instant> {
        let sender = scope.spawn(|| {
            let mut payload = Payload::new(length, 23);
            let mut piece = vec![0; 64 * 1024];
            while !answered.load(Ordering::Relaxed) {
                let got = std::io::Read::read(&mut payload, &mut piece)?;
                if sending.write_all(&piece[..got]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(5));
            }
            Ok::<(), std::io::Error>(())
        });
        let outcome = (|| {
            wait::until_true("the upload to reach the disk", BOUND, || {
                culvert.stored_files().is_ok_and(|files| files.len() == 1)
            })?;
            thread::sleep(Duration::from_millis(300));
            scene.lab.wan.cut()?;
            let cut = wait::now();
            exchange.bound(TOLD_WITHIN + Duration::from_secs(2))?;
            says_unavailable(&exchange.response().context("read the answer while still sending")?)?;
            in_time(cut)?;
            Ok(cut)
        })();
        answered.store(true, Ordering::Relaxed);
        sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        outcome
    })?;

    let left = scene.lab.web.files_with(MARKER.as_bytes())?;
    ensure!(left.is_empty(), "bytes of the body lie on web: {left:?}");
    let now = scene.lab.web.writable_files()?;
    ensure!(now == files, "web's files were {files:?} and are {now:?}");
    let open = open_regular_files(culvert.edge.pid())?;
    ensure!(open.is_empty(), "edge holds files: {open:?}");

    // On services the half of it goes away by itself, with the line still cut.
    wait::until("the temporary to be gone", BODY_IDLE + BOUND, || {
        let files = culvert.stored_files()?;
        ensure!(
            files.is_empty(),
            "{files:?} {:.1} s after the cut",
            wait::now().duration_since(cut).as_secs_f64()
        );
        Ok(())
    })?;
    scene.lab.wan.restore()?;
    works_again(&culvert, "cut.csv")?;
    let trail = culvert.trail()?;
    let endings: Vec<_> = trail
        .iter()
        .filter(|record| {
            record["path"] == "cut.csv" && record["phase"] == "outcome" && record["action"] == UPLOADED
        })
        .map(|record| record["ending"].clone())
        .collect();
    ensure!(endings.len() == 2 && endings[0] != "succeeded" && endings[1] == "succeeded", "{endings:?}");
    Ok(())
}

/// Regular files among a process's descriptors, save the kernel's own in `/proc`.
fn open_regular_files(pid: u32) -> Result<Vec<String>> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).context("list edge's descriptors")? {
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        if target.starts_with('/') && !target.starts_with("/proc/") && !target.starts_with("/dev/") {
            open.push(target);
        }
    }
    Ok(open)
}

fn downloading(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let length = 64 << 20;
    culvert.put_payload("big.csv", length, 24)?;
    let request = culvert.request("GET", "big.csv");
    let exchange = request.begin(&scene.lab.client, Place::Outer, culvert.public())?;
    // The client takes nothing yet: the stream stands, held by what fits into the buffers on the way.
    thread::sleep(Duration::from_millis(300));
    scene.lab.wan.cut()?;
    thread::sleep(TOLD_WITHIN);
    let error = exchange.response().err().context("a whole file came over a cut line")?;
    ensure!(
        format!("{error:#}").contains("the answer ended") || format!("{error:#}").contains("read the body"),
        "{error:#}"
    );
    scene.lab.wan.restore()?;
    works_again(&culvert, "after.csv")?;
    ensure!(culvert.get("big.csv")?.expect(200)?.body.len() as u64 == length);
    Ok(())
}

fn killed_wgd(scene: &Scene) -> Result<()> {
    let mut culvert = Culvert::start(&scene.lab)?;
    culvert.put_payload("before.csv", 1 << 20, 26)?;
    // storaged asks this one who delivers its requests, and nobody tells it that it is another now.
    culvert.wgd_services.kill()?;
    culvert.wgd_services = culvert_netns::culvert::restart_wgd(&scene.lab.services)?;
    works_again(&culvert, "after-services.csv")?;
    culvert.wgd_web.kill()?;
    culvert.wgd_web = culvert_netns::culvert::restart_wgd(&scene.lab.web)?;
    works_again(&culvert, "after-web.csv")?;
    culvert.get("before.csv")?.expect(200)?;
    culvert.edge.still_runs()?;
    culvert.storaged.still_runs()
}

fn killed_storaged(scene: &Scene) -> Result<()> {
    let mut culvert = Culvert::start(&scene.lab)?;
    culvert.put_payload("before.csv", 1 << 20, 25)?;
    culvert.storaged.kill()?;
    let killed = wait::now();
    says_unavailable(&culvert.get("before.csv")?)?;
    in_time(killed)?;
    culvert.storaged = culvert_netns::culvert::start_storaged(&scene.lab)?;
    works_again(&culvert, "after.csv")?;
    culvert.get("before.csv")?.expect(200)?;
    Ok(())
}
