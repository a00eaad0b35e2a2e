//! Two stores behind one edge and one tunnel: each has its cohorts, its people and its ledger, and dies by itself.
//!
//! ```text
//!                             ┌ :8001 storaged "north": c5, c6
//!  client ── web: edge ── wan ┤
//!                             └ :8002 storaged "south": c7
//! ```

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::culvert::{
    COHORT, Culvert, EDGE_METRICS, PROGRAMS, STORAGED, STORAGED_USER, USER, WGD_USER, has_many_users,
    start_edge,
};
use culvert_netns::host::Place;
use culvert_netns::http::{Request, Response};
use culvert_netns::lab::{Lab, address};
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::tunnel::{START_BOUND, Side};
use culvert_netns::wait;
use nix::sys::signal::Signal;
use serde_json::Value;

const SOUTH: SocketAddr = SocketAddr::new(IpAddr::V4(address::SERVICES_TUNNEL), 8002);
const SOUTH_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9688);
const SOUTH_COHORT: &str = "c7";
const BOUND: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    runner::main(&[Scenario::new("two_stores_behind_one_edge_and_one_of_them_dies", two)
        .needs(PROGRAMS)
        .expecting(&["no sign of life from storaged"])])
}

/// Makes the other store, and gives the token that it issued to the same user.
fn init_south(lab: &Lab) -> Result<String> {
    let mut arguments = vec!["--json", "init", "storaged", "--profile", "lab", "--no-recovery"];
    let (bind, metrics) = (SOUTH.to_string(), SOUTH_METRICS.to_string());
    arguments.extend([
        "--bind-address",
        &bind,
        "--metrics-listen",
        &metrics,
        "--config",
        "/etc/culvert/south.toml",
    ]);
    arguments.extend(["--state-dir", "/srv/south-state", "--volume", "main=/srv/south-volume"]);
    arguments.extend(["--internal-key", "/etc/culvert/south/internal.key"]);
    arguments.extend([
        "--admin-socket",
        "/run/culvert/south.sock",
        "--events-socket",
        "/run/culvert/south.events",
    ]);
    arguments.extend(["--edge", Side::Web.peer_name(), "--cohort", SOUTH_COHORT]);
    let ada = format!("{USER}:user={SOUTH_COHORT}");
    arguments.extend(["--user", &ada]);
    let (run_as, wgd_user) = (format!("{STORAGED_USER}:{STORAGED_USER}"), format!("{WGD_USER}:{WGD_USER}"));
    if has_many_users()? {
        arguments.extend(["--run-as", &run_as, "--wgd-user", &wgd_user]);
    }
    lab.services.run(&["mkdir", "-p", "/etc/culvert/south"])?.success()?;
    let made = lab.services.program("/run/bin/culvert").arguments(&arguments).run(START_BOUND)?.success()?;
    let made: Value = serde_json::from_str(&made).context("read what init printed")?;
    // edge has one internal key for both.
    lab.services
        .write_secret("/etc/culvert/south/internal.key", lab.services.read("/etc/culvert/internal.key")?)?;
    let issued = made["tokens"].as_array().into_iter().flatten().find(|issued| issued["user"] == USER);
    let token = issued.and_then(|issued| issued["token"].as_str()).context("no token")?;
    Ok(token.to_owned())
}

fn start_south(lab: &Lab) -> Result<Running> {
    let daemon = lab.services.daemon("storaged").at(Place::Tunnel).listener("metrics", SOUTH_METRICS);
    let mut south = daemon.arguments(&["--config", "/etc/culvert/south.toml"]).start()?;
    south.until("be ready", START_BOUND, || {
        let ready = Request::new("GET", "/readyz").send(&lab.services, Place::Outer, SOUTH_METRICS)?;
        ready.expect(200).map(drop)
    })?;
    Ok(south)
}

/// Edge again, in front of both.
fn restart_edge(culvert: &mut Culvert<'_>) -> Result<()> {
    culvert.edge.signal(Signal::SIGTERM)?;
    culvert.edge.wait(BOUND)?;
    culvert.edge = start_edge(culvert.lab())?;
    let web = &culvert.lab().web;
    wait::until("both stores are there", BOUND, || {
        let told = Request::new("GET", "/metrics").send(web, Place::Outer, EDGE_METRICS)?.expect(200)?.text();
        ensure!(told.matches("edge_upstream_up{").count() == 2, "{told}");
        ensure!(up(&told, "north") && up(&told, "south"), "one is not up");
        Ok(())
    })
}

fn up(metrics: &str, name: &str) -> bool {
    metrics.contains(&format!("edge_upstream_up{{upstream=\"{name}\"}} 1"))
}

fn send(culvert: &Culvert<'_>, request: Request, body: &[u8]) -> Result<Response> {
    let length = body.len().try_into()?;
    request.send_body(&culvert.lab().client, Place::Outer, culvert.public(), length, &mut &*body)
}

fn get(culvert: &Culvert<'_>, request: Request) -> Result<Response> {
    request.send(&culvert.lab().client, Place::Outer, culvert.public())
}

fn two(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let mut culvert = Culvert::start(lab)?;
    let token = init_south(lab)?;
    let mut south = start_south(lab)?;
    let text = lab.web.read("/etc/culvert/edge.toml")?;
    let one = format!("services_url = \"http://{STORAGED}\"\n");
    ensure!(text.contains(&one), "{text}");
    let upstream = |name: &str, address: SocketAddr, cohorts: &str| {
        format!("\n[[upstream]]\nname = \"{name}\"\nurl = \"http://{address}\"\ncohorts = [{cohorts}]\n")
    };
    let tables = upstream("north", STORAGED, "\"c5\", \"c6\"")
        + &upstream("south", SOUTH, &format!("\"{SOUTH_COHORT}\""));
    lab.web.write("/etc/culvert/edge.toml", text.replace(&one, "") + &tables)?;
    restart_edge(&mut culvert)?;

    let at = |method: &str, path: &str| Request::new(method, path).token(&token);
    let file = format!("/v1/cohorts/{SOUTH_COHORT}/files/a.csv");
    let receipt: Value =
        serde_json::from_slice(&send(&culvert, at("PUT", &file), b"south")?.expect(201)?.body)?;
    culvert.put("a.csv", 5, &mut &b"north"[..])?.expect(201)?;
    let id = receipt["file_id"].as_str().context("no id")?.to_owned();
    ensure!(get(&culvert, at("GET", &format!("/v1/files/{id}")))?.expect(200)?.body == b"south");
    let made = send(&culvert, at("POST", &format!("/v1/files/{id}/presign")), br#"{"expires_in": 600}"#)?
        .expect(201)?;
    let link: Value = serde_json::from_slice(&made.body)?;
    let link = link["url"].as_str().context("no link")?.to_owned();
    let uploads = format!("/v1/cohorts/{SOUTH_COHORT}/uploads");
    let tus = |request: Request| request.header("Tus-Resumable", "1.0.0");
    let begun =
        tus(at("POST", &uploads)).header("Upload-Length", "10").header("Upload-Metadata", "path Yi5jc3Y=");
    let begun = send(&culvert, begun, b"")?.expect(201)?;
    let upload = begun.header("location").context("no location")?.to_owned();
    let piece = |offset: &str| {
        let request = tus(at("PATCH", &upload)).header("Upload-Offset", offset);
        request.header("Content-Type", "application/offset+octet-stream")
    };
    send(&culvert, piece("0"), b"01234")?.expect(204)?;

    // One dies: what it has is away at once, and nothing else.
    south.kill()?;
    let away = wait::until("its files are away", BOUND, || get(&culvert, at("GET", &file))?.expect(503))?;
    ensure!(away.problem()? == "tunnel-unavailable", "{}", away.text());
    ensure!(get(&culvert, Request::new("GET", &link))?.status == 503, "a link of a store that is away");
    culvert.put("b.csv", 5, &mut &b"north"[..])?.expect(201)?;
    culvert.get("a.csv")?.expect(200)?;
    wait::until("its circuit is open", BOUND, || {
        let told = culvert.status(&lab.web, EDGE_METRICS, "/metrics")?.expect(200)?.text();
        ensure!(up(&told, "north") && !up(&told, "south"), "{told}");
        Ok(())
    })?;
    culvert.status(&lab.web, EDGE_METRICS, "/readyz")?.expect(200)?;

    // It comes back, and another edge, as it were: nothing was remembered, and everything is found.
    let mut south = start_south(lab)?;
    restart_edge(&mut culvert)?;
    send(&culvert, piece("5"), b"56789")?.expect(204)?;
    let whole = get(&culvert, at("GET", &format!("/v1/cohorts/{SOUTH_COHORT}/files/b.csv")))?.expect(200)?;
    ensure!(whole.body == b"0123456789");
    ensure!(get(&culvert, Request::new("GET", &link))?.expect(200)?.body == b"south");
    // Each store's ledger has its own cohort's files, and was asked about no other.
    let trail = culvert.trail()?;
    let of_other = |record: &&Value| record["cohort"] == SOUTH_COHORT;
    ensure!(!trail.iter().any(|record| of_other(&record)), "north was asked about south's files");
    ensure!(trail.iter().any(|record| record["cohort"] == COHORT));
    ensure!(!trail.iter().any(|record| record["action"] == "access.denied"), "somebody was refused");
    south.signal(Signal::SIGTERM)?;
    south.wait(BOUND)?;
    Ok(())
}
