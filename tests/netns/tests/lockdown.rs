//! What each process may still do, read from `/proc` of every one of its threads while a file is on its way.
//!
//! ```text
//!  client ── web (edge; wgd, wgd-netcfg) ── wan ── services (storaged; wgd, wgd-netcfg)
//! ```

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use culvert_netns::culvert::{
    Culvert, EDGE_METRICS, EDGE_USER, PROGRAMS, Profile, STORAGED_METRICS, STORAGED_USER, Setup, WGD_METRICS,
    WGD_USER, has_many_users,
};
use culvert_netns::host::{Host, Place};
use culvert_netns::memory::found_in_memory;
use culvert_netns::process_status::ProcessStatus;
use culvert_netns::program::{Program, Running};
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::wireguard::secrets;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// CAP_NET_ADMIN (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;
/// CAP_SYS_RESOURCE.
const SYS_RESOURCE: u64 = 1 << 24;

fn main() -> ExitCode {
    runner::main(&[
        Scenario::new("every_thread_of_every_daemon_is_locked_down", every_thread).needs(PROGRAMS),
        Scenario::new("only_wgd_netcfg_keeps_net_admin", netcfg).needs(PROGRAMS),
        Scenario::new("edge_and_storaged_reach_only_the_tunnel", only_the_tunnel).needs(PROGRAMS),
        Scenario::new("the_daemons_report_the_layers_that_proc_shows", reported).needs(PROGRAMS),
        Scenario::new("the_production_profile_has_every_layer_or_refuses", production).needs(PROGRAMS),
        Scenario::new("no_daemon_but_storaged_holds_a_regular_file", open_files).needs(PROGRAMS),
        Scenario::new("every_process_is_within_its_limits_and_holds_no_odd_memory", limits).needs(PROGRAMS),
        Scenario::new("no_key_is_found_in_memory_environment_or_log", keys).needs(PROGRAMS),
        Scenario::new("a_daemon_that_breaks_leaves_no_core_whatever_root_allows", no_core).needs(PROGRAMS),
    ])
}

fn sealed(label: &str, threads: &[ProcessStatus], capabilities: u64) -> Result<()> {
    for thread in threads {
        let [inheritable, permitted, effective, bounding, ambient] = thread.capability_sets();
        ensure!(permitted == capabilities && effective == capabilities, "{label}: {thread:?}");
        ensure!(inheritable == 0 && ambient == 0, "{label}: {thread:?}");
        ensure!(bounding & !capabilities == 0, "{label} could gain capabilities: {thread:?}");
        ensure!(thread.no_new_privileges, "{label}: {thread:?}");
        ensure!(thread.seccomp == 2, "{label} has no system-call filter: {thread:?}");
    }
    Ok(())
}

fn every_thread(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    culvert.put_payload("while-running.csv", 1 << 20, 1)?;
    for daemon in culvert.daemons() {
        sealed(daemon.label(), &daemon.threads()?, 0)?;
    }
    if has_many_users()? {
        for (daemon, user) in [
            (&culvert.wgd_web, WGD_USER),
            (&culvert.wgd_services, WGD_USER),
            (&culvert.edge, EDGE_USER),
            (&culvert.storaged, STORAGED_USER),
        ] {
            let users: BTreeSet<u32> = daemon.threads()?.iter().map(|thread| thread.uid).collect();
            ensure!(users == BTreeSet::from([user]), "{} runs as {users:?}", daemon.label());
        }
    }
    Ok(())
}

fn netcfg(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    for wgd in [&culvert.wgd_web, &culvert.wgd_services] {
        let children = wgd.children()?;
        let helper = children.iter().find(|(_, name)| name == "wgd-netcfg");
        let (pid, name) = helper.with_context(|| format!("no wgd-netcfg among {children:?}"))?;
        sealed(name, &ProcessStatus::of_threads(*pid)?, NET_ADMIN)?;
        // Whatever else it has started holds nothing at all.
        for (other, name) in children.iter().filter(|(other, _)| other != pid) {
            sealed(name, &ProcessStatus::of_threads(*other)?, 0)?;
        }
        for (grandchild, name) in children_of(*pid)? {
            sealed(&name, &ProcessStatus::of_threads(grandchild)?, 0)?;
        }
    }
    for daemon in [&culvert.edge, &culvert.storaged] {
        ensure!(daemon.children()?.is_empty(), "{} has children", daemon.label());
    }
    Ok(())
}

fn children_of(pid: u32) -> Result<Vec<(u32, String)>> {
    let listed =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).context("list children")?;
    listed
        .split_whitespace()
        .map(|child| {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).context("read a name")?;
            Ok((child.parse().context("a process number")?, name.trim().to_owned()))
        })
        .collect()
}

fn only_the_tunnel(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    for daemon in [&culvert.edge, &culvert.storaged] {
        let devices = std::fs::read_to_string(format!("/proc/{}/net/dev", daemon.pid()))?;
        let names: BTreeSet<&str> =
            devices.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
        ensure!(names == BTreeSet::from(["lo", "wg0"]), "{} sees {names:?}", daemon.label());
    }
    // wgd's packets live outside, so its own view has the links.
    let devices = std::fs::read_to_string(format!("/proc/{}/net/dev", culvert.wgd_web.pid()))?;
    ensure!(devices.contains("wan0") && !devices.contains("wg0"), "{devices}");
    Ok(())
}

fn reported(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    let lab = &scene.lab;
    for (name, host, listener) in [
        ("wgd", &lab.web, WGD_METRICS),
        ("edge", &lab.web, EDGE_METRICS),
        ("storaged", &lab.services, STORAGED_METRICS),
    ] {
        let metrics = culvert.status(host, listener, "/metrics")?.expect(200)?.text();
        for layer in ["capabilities", "no_new_privs", "seccomp"] {
            let line = format!("{name}_lockdown{{layer=\"{layer}\"}} 1");
            ensure!(
                metrics.contains(&line),
                "{name} does not report `{line}`:\n{}",
                lockdown_lines(&metrics)
            );
        }
    }
    Ok(())
}

fn production(scene: &Scene) -> Result<()> {
    let setup = Setup { profile: Profile::Production, ..Setup::default() };
    let culvert = match Culvert::start_with(&scene.lab, &setup) {
        Ok(culvert) => culvert,
        // An older kernel: the daemon that refused says which layer it misses.
        Err(error) => {
            let why = format!("{error:#}");
            ensure!(why.contains("ended with code 77"), "{why}");
            ensure!(
                ["landlock", "seccomp", "mdwe", "user"]
                    .iter()
                    .any(|layer| why.to_lowercase().contains(layer)),
                "{why}"
            );
            return Ok(());
        }
    };
    culvert.put_payload("a.csv", 1 << 20, 3)?;
    for (daemon, host, listener) in [
        (&culvert.edge, &scene.lab.web, EDGE_METRICS),
        (&culvert.storaged, &scene.lab.services, STORAGED_METRICS),
    ] {
        let metrics = culvert.status(host, listener, "/metrics")?.expect(200)?.text();
        let lines = lockdown_lines(&metrics);
        let log = daemon.log().lines().join("\n");
        for line in lines.lines().filter(|line| line.contains("_lockdown{") && line.ends_with(" 0")) {
            // What an older kernel lacks of a layer, and nothing else, may be missing; it is told.
            let told = [("mdwe", "Linux 6.3 has it"), ("landlock", "the kernel has Landlock ABI")];
            let is_told = told
                .iter()
                .any(|(layer, why)| line.contains(&format!("layer=\"{layer}\"")) && log.contains(why));
            ensure!(is_told, "{line}\n{log}");
        }
    }
    Ok(())
}

fn lockdown_lines(metrics: &str) -> String {
    metrics.lines().filter(|line| line.contains("lockdown")).collect::<Vec<_>>().join("\n")
}

fn open_files(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    culvert.put_payload("a.csv", 1 << 20, 2)?;
    for daemon in [&culvert.wgd_web, &culvert.wgd_services, &culvert.edge] {
        let open = regular_files(daemon)?;
        ensure!(open.is_empty(), "{} holds {open:?}", daemon.label());
    }
    let open = regular_files(&culvert.storaged)?;
    ensure!(open.iter().all(|path| path.starts_with("/srv/")), "storaged holds {open:?}");
    Ok(())
}

/// What a process has open besides sockets, pipes, devices and the kernel's own files.
fn regular_files(daemon: &Running) -> Result<Vec<String>> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).context("list descriptors")? {
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        if target.starts_with('/') && !target.starts_with("/proc") && !target.starts_with("/dev/") {
            open.push(target);
        }
    }
    Ok(open)
}

/// Every process of the daemons: they, and what they have started.
fn processes(culvert: &Culvert<'_>) -> Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    for daemon in culvert.daemons() {
        found.push((daemon.label().to_owned(), daemon.pid()));
        for (child, name) in daemon.children()? {
            found.push((name, child));
            found.extend(children_of(child)?.into_iter().map(|(pid, name)| (name, pid)));
        }
    }
    Ok(found)
}

fn limits(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    culvert.put_payload("a.csv", 1 << 20, 1)?;
    let processes = processes(&culvert)?;
    ensure!(processes.len() >= 8, "{processes:?}");
    for (name, pid) in processes {
        let read =
            |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| name.clone());
        let text = read("limits")?;
        let limit = |of: &str| -> Vec<&str> {
            let line = text.lines().find_map(|line| line.strip_prefix(of)).unwrap_or_default();
            line.split_whitespace().take(2).collect()
        };
        ensure!(limit("Max core file size") == ["0", "0"], "{name}: {text}");
        let writes_nothing = limit("Max file size") == ["0", "0"];
        ensure!(writes_nothing == name.starts_with("edge"), "{name}: {text}");
        let maps = read("maps")?;
        let both = maps
            .lines()
            .find(|line| line.split(' ').nth(1).is_some_and(|it| it.contains('w') && it.contains('x')));
        ensure!(both.is_none(), "{name} can write what it can run: {both:?}");
        let status = read("status")?;
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).context("no groups")?;
        ensure!(name == "wgd-netcfg" || groups.trim().is_empty(), "{name} is in groups {groups}");
    }
    Ok(())
}

fn keys(scene: &Scene) -> Result<()> {
    let culvert = Culvert::start(&scene.lab)?;
    culvert.put_payload("a.csv", 1 << 20, 1)?;
    // Configured once more, by the same way as at the start and by the stock tool's.
    scene.lab.web.execute("wg show wg0")?;
    let ask = |host: &culvert_netns::host::Host, daemon: &str| {
        daemon::admin::call(
            &host.path(&format!("/run/culvert/{daemon}.sock")),
            "status",
            json!({}),
            &[],
            |_| {},
        )
    };
    for (host, wgd) in [(&scene.lab.web, &culvert.wgd_web), (&scene.lab.services, &culvert.wgd_services)] {
        let status: Value = ask(host, "wgd")?;
        ensure!(status["keys_outside"] == 0, "{status:#}");
        let secrets = secrets(&host.read("/etc/wireguard/wg0.conf")?)?;
        ensure!(secrets.len() == 4, "a private and a pre-shared key, in two forms");
        for (at, secret) in secrets.iter().enumerate() {
            nowhere(wgd, secret, status["key_memory"] == "memfd_secret", &format!("secret {at}"))?;
        }
    }
    let text = scene.lab.services.read("/etc/culvert/root.key")?;
    let root_key = STANDARD.decode(text.trim()).context("the root key in base64")?;
    let status: Value = ask(&scene.lab.services, "storaged")?;
    for secret in [&root_key[..], text.trim().as_bytes()] {
        nowhere(&culvert.storaged, secret, status["root_key_memory"] == "memfd_secret", "the root key")?;
    }
    Ok(())
}

/// A secret is in no memory that root can read (where the kernel has some that root cannot), in no environment and no log.
fn nowhere(daemon: &Running, secret: &[u8], is_kept: bool, what: &str) -> Result<()> {
    let pid = daemon.pid();
    if is_kept {
        let found = found_in_memory(pid, secret)?;
        ensure!(found.is_none(), "{what} is in the memory of {}: {found:?}", daemon.label());
        // What is there is found: the search could miss everything.
        ensure!(
            found_in_memory(pid, b"/proc/self/status")?.is_some()
                || found_in_memory(pid, b"culvert")?.is_some()
        );
    }
    let environment = std::fs::read(format!("/proc/{pid}/environ")).context("read the environment")?;
    ensure!(memchr::memmem::find(&environment, secret).is_none(), "{what} is in the environment");
    let log = daemon.log().lines().join("\n");
    ensure!(memchr::memmem::find(log.as_bytes(), secret).is_none(), "{what} is in the log");
    Ok(())
}

/// Where a core would go: a process's own directory, unless the machine's pattern says another place.
const CORES: &str = "/run/cores";

fn no_core(scene: &Scene) -> Result<()> {
    let mut culvert = Culvert::start(&scene.lab)?;
    for host in [&scene.lab.web, &scene.lab.services] {
        std::fs::create_dir(host.path(CORES)).context("make a place for cores")?;
        std::fs::set_permissions(host.path(CORES), std::fs::Permissions::from_mode(0o777))?;
    }
    // What else leaves one here does: the look could miss everything.
    let (web, services) = (&scene.lab.web, &scene.lab.services);
    let sleeper = in_directory_for_cores(web, "echo ready; exec sleep 600").start()?;
    let output = sleeper.output().clone();
    let mut sleeper = sleeper;
    sleeper.until("begin", Duration::from_secs(20), || {
        ensure!(output.lines().iter().any(|line| line == "ready"), "not yet");
        Ok(())
    })?;
    let (dumped, _) = broken(web, sleeper)?;
    if !dumped {
        runner::say("this machine's core_pattern leaves no core of anybody here");
    }

    culvert.edge.kill()?;
    let edge = in_directory_for_cores(web, "exec /run/bin/edge")
        .at(Place::Tunnel)
        .listener("public", culvert.public())
        .listener("metrics", EDGE_METRICS)
        .start()?;
    culvert.storaged.kill()?;
    let storaged = in_directory_for_cores(services, "exec /run/bin/storaged")
        .at(Place::Tunnel)
        .listener("metrics", STORAGED_METRICS)
        .start()?;
    culvert.edge = edge;
    culvert.storaged = storaged;
    culvert.wait_until_ready(Duration::from_secs(60))?;
    culvert.put_payload("a.csv", 1 << 20, 1)?;
    culvert.wgd_web.kill()?;
    let mut wgd =
        in_directory_for_cores(web, "exec /run/bin/wgd --foreground --tun-netns tunnel wg0").start()?;
    wgd.until("be ready", Duration::from_secs(20), || {
        culvert.status(web, WGD_METRICS, "/metrics")?.expect(200).map(drop)
    })?;
    let Culvert { edge, storaged, .. } = culvert;
    for (host, daemon) in [(web, edge), (web, wgd), (services, storaged)] {
        let label = daemon.label().to_owned();
        let (dumped, files) = broken(host, daemon)?;
        ensure!(!dumped && files.is_empty(), "{label} left a core: {files:?}");
    }
    Ok(())
}

/// A shell's line that begins where a core can be written.
fn in_directory_for_cores<'a>(host: &'a Host, line: &str) -> Program<'a> {
    host.program("/bin/sh").arguments(&["-c", &format!("cd {CORES}; {line}")])
}

/// Root lifts the limit on cores, and the program breaks: whether the kernel says that it left a core, and what lies there.
fn broken(host: &Host, mut program: Running) -> Result<(bool, Vec<String>)> {
    let pid = program.pid().to_string();
    let lifted = host.run(&["prlimit", "--pid", &pid, "--core=unlimited:unlimited"])?;
    // In a container even root may be without it; the limit that the daemon has set stays then.
    if ProcessStatus::read(host.pid())?.capability_sets()[2] & SYS_RESOURCE != 0 {
        lifted.success()?;
    }
    // No handler of theirs takes it, and its default is to leave a core.
    program.signal(Signal::SIGABRT)?;
    let status = program.wait(Duration::from_secs(20))?;
    ensure!(status.signal() == Some(Signal::SIGABRT as i32), "{status}");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(host.path(CORES)).context("look for cores")? {
        let path = entry?.path();
        files.push(path.display().to_string());
        std::fs::remove_file(path)?;
    }
    Ok((status.core_dumped(), files))
}
