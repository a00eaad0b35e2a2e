//! PostgreSQL with the same durability: a row per transaction, synced before the answer.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_netns::wait;

use super::super::figures::{Figures, Row};
use super::{Options, POSTGRES, row};
use crate::packages;

pub(super) const RECORDS: [(u32, Row); 3] = [
    (1, row("durable records, 1 writer, records/s", 0)),
    (16, row("durable records, 16 writers, records/s", 0)),
    (128, row("durable records, 128 writers, records/s", 0)),
];

/// It refuses to run as root, and as a user whom the machine has no name for: Debian's `nobody`.
const USER: u32 = 65_534;

/// About what a sealed record weighs.
const BODY_BYTES: usize = 700;

const PACKAGES: [&str; 2] = ["postgresql-15", "libpq5"];

/// Where Debian's package puts the programs.
const PROGRAMS: &str = "usr/lib/postgresql/15/bin";

/// Fetches the programs unless the machine has them; nothing is installed.
pub(super) fn provide() -> Result<()> {
    if !programs().join("postgres").is_file() {
        let unpacked = packages::tools_directory().join("postgresql");
        println!("Unpacking Debian's PostgreSQL into {} (not installed)", unpacked.display());
        for package in PACKAGES {
            packages::unpack(package, &unpacked)?;
        }
    }
    let works = command("postgres").arg("--version").stdout(Stdio::null()).status();
    ensure!(
        works.is_ok_and(|status| status.success()),
        "{} does not run; its libraries come with: apt-get install postgresql-15",
        programs().join("postgres").display()
    );
    Ok(())
}

fn programs() -> PathBuf {
    let installed = Path::new("/").join(PROGRAMS);
    if installed.join("postgres").is_file() {
        installed
    } else {
        packages::tools_directory().join("postgresql").join(PROGRAMS)
    }
}

fn command(name: &str) -> Command {
    let mut command = Command::new(programs().join(name));
    command.env("LD_LIBRARY_PATH", packages::tools_directory().join("postgresql/usr/lib/x86_64-linux-gnu"));
    command.stdin(Stdio::null());
    command
}

pub(super) fn measure(folder: &Path, options: &Options, figures: &mut Figures) -> Result<()> {
    let server = Server::start(folder)?;
    server.run(
        "psql",
        &[
            "--no-psqlrc",
            "--quiet",
            "-d",
            "postgres",
            "-c",
            "CREATE TABLE records (index bigserial PRIMARY KEY, time_ms bigint NOT NULL, body text NOT NULL)",
        ],
    )?;
    let script = folder.join("insert.sql");
    let body = "x".repeat(BODY_BYTES);
    fs::write(
        &script,
        format!(
            "\\set t random(1, 1000000000)\nINSERT INTO records (time_ms, body) VALUES (:t, '{body}');\n"
        ),
    )?;
    let script = script.to_str().context("a path that is not UTF-8")?;
    for (writers, row) in RECORDS {
        let (clients, threads) = (writers.to_string(), writers.min(2).to_string());
        let seconds = options.seconds().to_string();
        let said = server.run(
            "pgbench",
            &[
                "--no-vacuum",
                "--protocol=prepared",
                "--file",
                script,
                "--client",
                &clients,
                "--jobs",
                &threads,
                "--time",
                &seconds,
                "postgres",
            ],
        )?;
        let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        figures.add(row, POSTGRES, rate.with_context(|| format!("pgbench printed no rate:\n{said}"))?);
    }
    drop(server);
    fs::remove_dir_all(folder).context("tidy")
}

/// A running PostgreSQL; ended when dropped.
struct Server {
    child: Child,
    folder: PathBuf,
}

impl Server {
    fn start(folder: &Path) -> Result<Server> {
        fs::create_dir_all(folder).context("make PostgreSQL's directory")?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        chown(folder, Some(USER), Some(USER)).context("PostgreSQL needs a user of its own: run as root")?;
        let data = folder.join("data");
        let mut init = command("initdb");
        init.args(["--auth=trust", "--username=bench", "--no-locale", "--encoding=UTF8", "--pgdata"])
            .arg(&data);
        finished(init)?;
        let mut start = command("postgres");
        start.arg("-D").arg(&data).arg("-k").arg(folder);
        // Its own defaults, said aloud where they are what is compared.
        for setting in [
            "listen_addresses=",
            "max_connections=200",
            "fsync=on",
            "synchronous_commit=on",
            "logging_collector=off",
        ] {
            start.args(["-c", setting]);
        }
        start.uid(USER).gid(USER).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(folder);
        let child = start.spawn().context("start PostgreSQL")?;
        let server = Server { child, folder: folder.to_owned() };
        wait::until("PostgreSQL to answer", Duration::from_secs(30), || {
            server.run("psql", &["-d", "postgres", "-c", "SELECT 1"])
        })?;
        Ok(server)
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let mut command = command(name);
        command.env("PGHOST", &self.folder).env("PGUSER", "bench").args(arguments);
        finished(command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        // At once, without waiting for clients: there are none left that matter.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT);
        let _ = self.child.wait();
    }
}

/// Runs a program as the server's user, and gives what it printed.
fn finished(mut command: Command) -> Result<String> {
    let output = command.uid(USER).gid(USER).output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
