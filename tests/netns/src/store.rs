//! storaged alone: on the loopback of the world, from outside, with a thread that plays wgd's part of whois.
//!
//! Invariant: nothing here knows how storaged keeps things. A store is what `culvert init storaged` makes, what the
//! program answers over HTTP, and what `culvert` tells of it.

mod connection;
mod daemon;
mod edge;
pub mod exports;
pub mod faults;
pub mod fuse;
pub mod load;
mod promises;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use store_proto::Token;
use tunnel_events::{Answer, Message, PeerIdentity};

pub use connection::{Connection, Receipt, connect, read_sized, receipt};
pub use daemon::Daemon;
pub use edge::Edge;

use crate::culvert::{COHORT, STORAGED_USER, USER, has_many_users};
use crate::lab;

/// The name of the edge that everybody on loopback is taken for.
const EDGE: &str = "web1";

/// What uploads leave free in a lab. The default is a sixteenth of the disk up to a GiB, and a lab's disk is the
/// machine's own: whatever else lies there would decide whether a scenario stores anything.
pub const RESERVE_BYTES: u64 = 1 << 20;

/// Where a store's parts go, and what differs from the usual.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Holds everything that has no place of its own.
    pub folder: PathBuf,
    /// The ledger's and the keys' directory.
    pub state: PathBuf,
    /// The volume's directory.
    pub volume: PathBuf,
    /// Lines of `[limits]`.
    pub limits: String,
    /// What uploads leave free on the volume.
    pub volume_reserve_bytes: u64,
}

impl Layout {
    /// Everything below one directory, which is made.
    pub fn below(folder: &Path) -> Result<Layout> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        // The service's user passes through.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).context("open the folder")?;
        Ok(Layout {
            folder: folder.to_owned(),
            state: folder.join("state"),
            volume: folder.join("volume"),
            limits: format!("state_reserve_bytes = {RESERVE_BYTES}\n"),
            volume_reserve_bytes: RESERVE_BYTES,
        })
    }
}

/// A store that was made; it may run or not.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    programs: PathBuf,
    address: SocketAddr,
    metrics: SocketAddr,
    key: String,
    token: Token,
}

impl Store {
    /// Makes a store.
    pub fn init(layout: Layout) -> Result<Store> {
        let programs = lab::programs()?;
        lab::require_programs(&programs, &["storaged", "culvert"])?;
        let (address, metrics) = (free_address()?, free_address()?);
        let in_folder = |name: &str| layout.folder.join(name).display().to_string();
        let mut init = Command::new(programs.join("culvert"));
        init.args(["--json", "init", "storaged", "--role", "testing", "--profile", "lab"]);
        init.args(["--bind-address", &address.to_string(), "--metrics-listen", &metrics.to_string()]);
        init.args(["--state-dir".as_ref(), layout.state.as_os_str()]);
        init.args(["--volume", &format!("main={}", layout.volume.display())]);
        init.args(["--config", &in_folder("storaged.toml"), "--internal-key", &in_folder("internal.key")]);
        init.args(["--admin-socket", &in_folder("admin.sock")]);
        init.args(["--events-socket", &in_folder("storaged.events")]);
        init.args(["--wgd-socket", &in_folder("wgd.events")]);
        init.args(["--edge", EDGE, "--cohort", COHORT, "--user", &format!("{USER}:user={COHORT}")]);
        let users = has_many_users()?;
        if users {
            init.args(["--run-as", &format!("{STORAGED_USER}:{STORAGED_USER}")]);
        }
        let report: Value = serde_json::from_slice(&finished(init)?).context("read what init printed")?;
        let issued = report["tokens"].as_array().into_iter().flatten().find(|issued| issued["user"] == USER);
        let token = issued.and_then(|issued| issued["token"].as_str()).context("init printed no token")?;
        let token = Token::parse(token).context("init printed a token")?;
        let key = fs::read_to_string(layout.folder.join("internal.key")).context("read the internal key")?;
        add_limits(&layout)?;
        answer_whois(&layout.folder.join("wgd.events"), users)?;
        Ok(Store { layout, programs, address, metrics, key: key.trim().to_owned(), token })
    }

    /// What another machine, or this one before its power failed, needs to know to go on with a store.
    pub fn remember(&self) -> Value {
        json!({
            "address": self.address, "metrics": self.metrics, "key": self.key, "token": self.token.expose().to_owned(),
        })
    }

    /// A store that [`Store::init`] made before.
    pub fn recall(layout: Layout, known: &Value) -> Result<Store> {
        let text = |key: &str| known[key].as_str().with_context(|| format!("{key} is not known"));
        let socket = layout.folder.join("wgd.events");
        let _ = fs::remove_file(&socket);
        answer_whois(&socket, has_many_users()?)?;
        Ok(Store {
            programs: lab::programs()?,
            address: text("address")?.parse().context("read the address")?,
            metrics: text("metrics")?.parse().context("read the address of metrics")?,
            key: text("key")?.to_owned(),
            token: Token::parse(text("token")?).context("read the token")?,
            layout,
        })
    }

    /// Where its parts are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Starts storaged and waits until it is healthy.
    pub fn start(&self) -> Result<Daemon> {
        self.start_under(&[])
    }

    /// The same under another program, whose words come before storaged's.
    pub fn start_under(&self, words: &[&str]) -> Result<Daemon> {
        let mut daemon = self.launch_under(words)?;
        daemon.until_healthy(self)?;
        Ok(daemon)
    }

    /// Starts storaged and does not wait.
    pub fn launch_under(&self, words: &[&str]) -> Result<Daemon> {
        let program = self.programs.join("storaged");
        let mut command = match words.split_first() {
            None => Command::new(&program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&program);
                command
            }
        };
        command.args(["--config".as_ref(), self.layout.folder.join("storaged.toml").as_os_str()]);
        command.args(["--log-format", "text"]);
        Daemon::launch(command)
    }

    /// A connection for requests.
    pub fn connect(&self) -> Result<Connection> {
        Connection::open(self)
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its metrics, as text.
    pub fn metrics(&self) -> Result<String> {
        connection::plain_get(self.metrics, "/metrics")?.expect(200).map(|answer| answer.text())
    }

    /// Whether it says that it serves.
    pub fn is_healthy(&self) -> bool {
        connection::plain_get(self.address, store_proto::routes::HEALTH)
            .is_ok_and(|answer| answer.status == 200)
    }

    /// What an operator's command prints; fails if that fails.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.programs.join("culvert"));
        command.args(arguments).arg("--socket").arg(self.layout.folder.join("admin.sock"));
        Ok(String::from_utf8_lossy(&finished(command)?).into_owned())
    }

    /// Verifies a receipt against a file, as anybody could who has both.
    pub fn verify_receipt(&self, receipt: &str, file: &str) -> Result<()> {
        let mut command = Command::new(self.programs.join("culvert"));
        command.args(["receipt", "verify", receipt, file]);
        finished(command).map(drop)
    }

    /// The audit trail, oldest first. In a guest that is emulated on a busy host a disk may stand still for longer than a
    /// command waits for its answer: it is asked again.
    pub fn trail(&self) -> Result<Vec<Value>> {
        let ask = || self.command(&["audit", "trail", "--json"]);
        let silent = |error: &anyhow::Error| error.to_string().contains("Resource temporarily unavailable");
        let mut told = ask();
        for _ in 0..2 {
            if told.as_ref().is_err_and(silent) {
                told = ask();
            }
        }
        told?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("read `{line}`")))
            .collect()
    }

    /// Every file below a directory of the volume; none where there is no such directory.
    pub fn files(&self, directory: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let path = self.layout.volume.join(directory);
        if path.is_dir() {
            collect(&path, &mut found)?;
        }
        Ok(found)
    }
}

/// What a program printed; fails with its words.
fn finished(mut command: Command) -> Result<Vec<u8>> {
    let output: Output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// An address that nobody listens on now; in a world nobody else takes it meanwhile.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("look for a free port")?;
    listener.local_addr().context("look for a free port")
}

fn add_limits(layout: &Layout) -> Result<()> {
    let path = layout.folder.join("storaged.toml");
    let text = fs::read_to_string(&path).context("read storaged.toml")?;
    let text = with_limits(&text, &layout.limits, layout.volume_reserve_bytes)?;
    fs::write(&path, text).context("add limits")
}

/// What `culvert init storaged` wrote, with lines of `[limits]` and a reserve for each volume.
pub fn with_limits(text: &str, limits: &str, volume_reserve_bytes: u64) -> Result<String> {
    // A table cannot come before the keys of the top.
    let (top, tables) = text.split_once("\n[[").context("storaged.toml has no tables")?;
    let volume = format!("[[volume]]\nreserve_bytes = {volume_reserve_bytes}\n");
    let tables = format!("[[{tables}").replace("[[volume]]\n", &volume);
    ensure!(tables.contains(&volume), "storaged.toml has no volume");
    Ok(format!("{top}\n[limits]\n{limits}\n{tables}"))
}

/// Answers each question with [`EDGE`], for as long as this process lives.
fn answer_whois(path: &Path, users: bool) -> Result<()> {
    let socket = UnixDatagram::bind(path).context("take wgd's place")?;
    if users {
        chown(path, Some(STORAGED_USER), None).context("open wgd's place to storaged")?;
    }
    std::thread::spawn(move || {
        let mut buffer = [0; tunnel_events::MAX_DATAGRAM_BYTES];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Ok(Message::Question(question)) = Message::decode(&buffer[..length]) else { continue };
            let found =
                PeerIdentity { peer: EDGE.to_owned(), public_key: "bmFtZWQ=".to_owned(), since_unix_ms: 0 };
            let answer = Message::Answer(Answer { id: question.id, found: Some(found) }).encode();
            if let Some(asker) = from.as_pathname() {
                // Whoever was killed meanwhile asks again.
                let _ = socket.send_to(&answer, asker);
            }
        }
    });
    Ok(())
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, found)? } else { found.push(path) }
    }
    Ok(())
}
