//! The lab itself: it routes, it can be cut without a word, its capture sees what is there, and it leaves nothing.
//!
//! ```text
//!  client ── web ── wan ── services
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use culvert_netns::host::{PROGRAMS, Place};
use culvert_netns::lab::{at, programs};
use culvert_netns::payload::MARKER;
use culvert_netns::program::Running;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::{wait, wireguard};

const BOUND: Duration = Duration::from_secs(10);

/// As first argument: makes this file the server of [`listeners`].
const SERVE: &str = "--serve-handed-in-listeners";

/// Set: makes this file the inner lab of [`ends_without_leftovers`].
const INNER_LAB: &str = "CULVERT_NETNS_INNER_LAB";

/// Where the inner lab writes how to enter it.
const ENTRY: &str = "CULVERT_NETNS_ENTRY";

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|argument| argument == SERVE) {
        return serve().map_or_else(|error| panic!("{error:#}"), |()| ExitCode::SUCCESS);
    }
    if std::env::var_os(INNER_LAB).is_some() {
        return runner::main(&[Scenario::new("inner_lab", wait_to_be_ended)]);
    }
    runner::main(&[
        Scenario::new("neighbours_reach_each_other_and_the_client_stays_out", neighbours),
        Scenario::new("a_cut_wan_drops_without_a_word", cut),
        Scenario::new("the_tunnel_namespace_holds_only_lo", tunnel_namespace),
        Scenario::new("a_host_can_write_only_in_known_places", writable_places),
        Scenario::new("plaintext_on_the_wan_is_found", plaintext_is_found),
        Scenario::new("listeners_are_handed_in", listeners),
        Scenario::new("a_lab_can_be_entered_from_outside", entered),
        Scenario::new("nothing_outlives_a_killed_lab", killed_lab),
        Scenario::new("nothing_outlives_an_interrupted_or_aborted_lab", interrupted_lab),
    ])
}

fn neighbours(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    wireguard::ping(&lab.client, Place::Outer, "203.0.113.1", BOUND)?;
    wireguard::ping(&lab.web, Place::Outer, "198.51.100.1", BOUND)?;
    let (code, _) = lab.client.run(&["ping", "-c", "1", "-W", "1", "198.51.100.1"])?.refusal()?;
    ensure!(code != 0);
    Ok(())
}

fn cut(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    wireguard::ping(&lab.web, Place::Outer, "198.51.100.1", BOUND)?;
    lab.wan.cut()?;
    let silent = lab.web.run(&["ping", "-c", "3", "-i", "0.2", "-W", "1", "198.51.100.1"])?;
    ensure!(
        silent.output.contains("0 received") && !silent.output.contains("Unreachable"),
        "{}",
        silent.output
    );
    let links = lab.web.run(&["ip", "-brief", "link", "show", "wan0"])?.success()?;
    ensure!(links.contains("LOWER_UP"), "the link went down: {links}");
    lab.wan.restore()?;
    wireguard::ping(&lab.web, Place::Outer, "198.51.100.1", BOUND)
}

fn tunnel_namespace(scene: &Scene) -> Result<()> {
    for host in [&scene.lab.web, &scene.lab.services] {
        let inside = host.run_at(Place::Tunnel, &["ip", "-oneline", "link"])?.success()?;
        ensure!(inside.lines().count() == 1 && inside.contains(" lo: <LOOPBACK,UP"), "{inside}");
        let by_name = host.run(&["ip", "netns", "list"])?.success()?;
        ensure!(by_name.contains("tunnel"), "{by_name}");
    }
    Ok(())
}

fn writable_places(scene: &Scene) -> Result<()> {
    let web = &scene.lab.web;
    let mut places = web.writable_places()?;
    places.sort();
    let known = ["/dev/shm", "/etc", "/etc/culvert", "/etc/wireguard", "/run", "/srv", "/tmp", "/var/tmp"]
        .map(PathBuf::from);
    ensure!(places == known, "{places:?}");
    web.run(&["sh", "-c", "touch /usr/x /root/x /home/x"])?.refusal()?;
    for place in ["/dev/shm", "/etc/culvert", "/etc", "/run", "/srv", "/tmp", "/var/tmp"] {
        web.run(&["sh", "-c", &format!("echo '{MARKER}' > {place}/left-over")])?.success()?;
    }
    let found = web.files_with(MARKER.as_bytes())?;
    ensure!(found.len() == 7, "{found:?}");
    let others = scene.lab.services.files_with(MARKER.as_bytes())?;
    ensure!(others.is_empty(), "{others:?}");
    Ok(())
}

fn plaintext_is_found(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let server = lab.services.outer().within(|| Ok(TcpListener::bind(at([198, 51, 100, 1], 9))?))?;
    let reader = thread::spawn(move || std::io::copy(&mut server.accept()?.0, &mut std::io::sink()));
    let capture = lab.wan.capture(MARKER.as_bytes())?;
    let mut stream = lab.web.connect(Place::Outer, at([198, 51, 100, 1], 9))?;
    stream.write_all(MARKER.repeat(2_000).as_bytes())?;
    drop(stream);
    reader.join().map_err(|_| anyhow!("the reader panicked"))??;
    let verdict = capture.finish()?;
    ensure!(verdict.frames_with_marker > 0 && verdict.other_frames > 4, "{verdict}");
    ensure!(verdict.dropped_by_kernel == 0, "{verdict}");
    ensure!(verdict.only_wireguard().is_err());
    Ok(())
}

fn listeners(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    // This very file, by the path under which the host knows it.
    let own = std::env::current_exe()?;
    let own = Path::new(PROGRAMS).join(own.strip_prefix(programs()?).context("built somewhere else")?);
    let mut server = lab
        .web
        .program(own.to_str().context("not UTF-8")?)
        .arguments(&[SERVE])
        .at(Place::Tunnel)
        .listener("public", at([0, 0, 0, 0], 8000))
        .unix_listener("admin", "/run/culvert/x.sock")
        .start()?;
    let seen = server.until("answer", BOUND, || {
        let mut text = String::new();
        lab.client.connect(Place::Outer, at([203, 0, 113, 1], 8000))?.read_to_string(&mut text)?;
        Ok(text)
    })?;
    // The listener is outside, its owner inside.
    ensure!(seen.contains("lo:") && !seen.contains("public0"), "{seen}");
    ensure!(lab.web.path("/run/culvert/x.sock").exists());
    Ok(())
}

/// What runs as the program of [`listeners`].
fn serve() -> Result<()> {
    let mut handed_in = linux::ListenFds::take(&linux::Privileged::at_startup()?)?;
    let _admin = handed_in.unix("admin")?.context("no listener named admin")?;
    let public = handed_in.tcp("public")?.context("no listener named public")?;
    // They come as daemons with a reactor want them.
    public.set_nonblocking(false)?;
    loop {
        let (mut stream, _) = public.accept()?;
        stream.write_all(fs::read_to_string("/proc/net/dev")?.as_bytes())?;
    }
}

/// Seconds that each host of the inner lab sleeps: a number to know these processes by.
const SLEEP: &str = "86399";

/// The inner lab: waits to be ended from outside.
fn wait_to_be_ended(scene: &Scene) -> Result<()> {
    if let Some(path) = std::env::var_os(ENTRY) {
        fs::write(path, scene.lab.how_to_enter(&scene.lab.web))?;
    }
    let sleepers: Result<Vec<Running>> =
        scene.lab.hosts().into_iter().map(|host| host.program("sleep").arguments(&[SLEEP]).start()).collect();
    for mut sleeper in sleepers? {
        sleeper.wait(Duration::from_secs(60))?;
    }
    Ok(())
}

fn sleepers() -> usize {
    let is_one = |entry: &fs::DirEntry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|words| words == format!("sleep\0{SLEEP}\0").as_bytes())
    };
    fs::read_dir("/proc").map_or(0, |all| all.flatten().filter(is_one).count())
}

/// The network namespaces of all processes.
fn namespaces() -> Result<BTreeSet<PathBuf>> {
    let all = fs::read_dir("/proc").context("list processes")?.flatten();
    Ok(all.filter_map(|entry| fs::read_link(entry.path().join("ns/net")).ok()).collect())
}

fn entered(scene: &Scene) -> Result<()> {
    let entry = scene.world.data().join("entry");
    let temporary = scene.world.data().join("temporary");
    fs::create_dir_all(&temporary).context("create a place for the inner lab")?;
    let mut inner = Command::new(std::env::current_exe()?)
        .env(INNER_LAB, "1")
        .env(ENTRY, &entry)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("start the inner lab")?;
    wait::until_true("the inner lab", BOUND, || sleepers() == 4)?;
    let command = fs::read_to_string(&entry)?;
    let seen =
        Command::new("sh").args(["-c", &format!("{command} -c 'hostname; ip -brief address'")]).output()?;
    let said = String::from_utf8_lossy(&seen.stdout);
    ensure!(said.starts_with("web\n") && said.contains("203.0.113.1/24"), "{command}: {seen:?}");
    inner.kill()?;
    inner.wait()?;
    wait::until_true("the processes to be gone", BOUND, || sleepers() == 0)
}

fn killed_lab(scene: &Scene) -> Result<()> {
    ends_without_leftovers(scene, "-KILL")
}

fn interrupted_lab(scene: &Scene) -> Result<()> {
    ends_without_leftovers(scene, "-INT")?;
    ends_without_leftovers(scene, "-ABRT")
}

/// Starts this very executable with a lab in it, ends it by a signal, and looks for what it made.
fn ends_without_leftovers(scene: &Scene, signal: &str) -> Result<()> {
    let before = namespaces()?;
    let temporary = scene.world.data().join("temporary");
    fs::create_dir_all(&temporary).context("create a place for the inner lab")?;
    let mut inner = Command::new(std::env::current_exe()?)
        .env(INNER_LAB, "1")
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start the inner lab")?;
    wait::until_true("the inner lab", BOUND, || sleepers() == 4)?;
    ensure!(fs::read_dir(&temporary)?.count() == 1, "the inner lab has no data directory");
    ensure!(namespaces()?.len() > before.len() + 4, "the inner lab has no namespaces");
    Command::new("kill").args([signal, &inner.id().to_string()]).status()?;
    inner.wait()?;
    wait::until_true("the processes to be gone", BOUND, || sleepers() == 0)?;
    wait::until_true("the data directory to be gone", BOUND, || {
        fs::read_dir(&temporary).is_ok_and(|entries| entries.count() == 0)
    })?;
    wait::until_true("the namespaces to be gone", BOUND, || namespaces().is_ok_and(|now| now == before))
}
