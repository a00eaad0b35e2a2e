//! What a daemon is configured to be: its file, the secrets that the file names, and its own check of both.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::finding::{Finding, State};
use super::process::{Process, Role};
use crate::limits::{CONFIG_BYTES_AT_MOST, CONFIG_CHECK_LOOK, CONFIG_CHECK_TIMEOUT};
use crate::reload::file_keys;

/// What of a daemon's configuration the checks need.
#[derive(Debug, Clone, Default)]
pub(crate) struct Configured {
    table: toml::Table,
    pub(super) bind_address: Option<SocketAddr>,
    pub(crate) admin_socket: Option<PathBuf>,
    profile: Option<String>,
}

impl Configured {
    /// What its file says; nothing where there is none.
    pub(crate) fn read(process: &Process) -> Configured {
        let text = process.configuration().and_then(|path| {
            let path = process.path(&path);
            let is_small = fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= CONFIG_BYTES_AT_MOST);
            if is_small { fs::read_to_string(path).ok() } else { None }
        });
        Configured::of(process.role, &text.unwrap_or_default())
    }

    pub(super) fn of(role: Role, text: &str) -> Configured {
        let table: toml::Table = text.parse().unwrap_or_default();
        let word = |key: &str| table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        let default_socket = match role {
            Role::Edge => Some("/run/culvert/edge.sock"),
            Role::Storaged => Some("/run/culvert/storaged.sock"),
            Role::Wgd | Role::Netcfg | Role::Resolver | Role::Agent => None,
        };
        let socket = word("admin_socket").or_else(|| default_socket.map(str::to_owned));
        Configured {
            bind_address: word("bind_address").and_then(|address| address.parse().ok()),
            admin_socket: socket.filter(|path| !path.is_empty()).map(PathBuf::from),
            profile: word("profile").or_else(|| (role == Role::Edge).then(|| "production".to_owned())),
            table,
        }
    }
}

/// Where storaged keeps things.
pub(super) fn storage_places(process: &Process) -> Vec<PathBuf> {
    places(&Configured::read(process).table)
}

fn places(table: &toml::Table) -> Vec<PathBuf> {
    let word = |value: &toml::Value| value.as_str().map(PathBuf::from);
    let volumes = table.get("volume").and_then(toml::Value::as_array);
    let volumes = volumes.into_iter().flatten().filter_map(|volume| word(volume.get("path")?));
    let own = ["state_dir", "journal_mirror"].into_iter().filter_map(|key| word(table.get(key)?));
    own.chain(volumes).collect()
}

/// Where wgd keeps the time of the last handshake.
pub(super) fn state_directory(process: &Process) -> PathBuf {
    let table = Configured::read(process).table;
    PathBuf::from(table.get("state_directory").and_then(toml::Value::as_str).unwrap_or("/var/lib/wgd"))
}

pub(super) fn all(process: &Process) -> Vec<Finding> {
    if !matches!(process.role, Role::Wgd | Role::Edge | Role::Storaged) {
        return Vec::new();
    }
    let configured = Configured::read(process);
    let mut findings = vec![profile(process, &configured), secrets(process, &configured.table)];
    findings.push(own_check(process));
    findings.push(seal(process, &configured));
    findings
}

fn profile(process: &Process, configured: &Configured) -> Finding {
    match configured.profile.as_deref() {
        Some("production") => Finding::pass("profile", &process.subject(), "production"),
        other => Finding::bad(
            State::Warn,
            "profile",
            &process.subject(),
            other.unwrap_or("none").to_owned(),
            "Only profile = \"production\" refuses to start where a layer is missing: set it, and see what the daemon \
             asks for.",
        ),
    }
}

/// The files with keys in them that a configuration names.
fn secret_files(role: Role, table: &toml::Table) -> Vec<PathBuf> {
    let named =
        file_keys(table, "").into_iter().filter(|(key, _)| key.contains("key") && !key.contains("jwks"));
    let mut files: Vec<PathBuf> = named
        .map(|(_, reference)| reference)
        .chain(table.get("root_key_file").and_then(toml::Value::as_str))
        // Of credentials the service manager takes care.
        .filter(|reference| reference.starts_with('/'))
        .map(PathBuf::from)
        .collect();
    if role == Role::Wgd {
        let word = |key: &str| table.get(key).and_then(toml::Value::as_str);
        files.push(PathBuf::from(word("wireguard_dir").unwrap_or("/etc/wireguard")));
    }
    files
}

fn secrets(process: &Process, table: &toml::Table) -> Finding {
    const ADVICE: &str = "Take it from others: `chmod o= FILE`, and `chmod g-w FILE`; the daemon's group may read it, \
                          nobody else. If it was open for long, make a new key.";
    let subject = process.subject();
    let mut looked_at = 0;
    for file in secret_files(process.role, table) {
        let path = process.path(&file);
        let Ok(metadata) = fs::metadata(&path) else {
            let detail = format!("{} is not there", file.display());
            return Finding::bad(
                State::Warn,
                "secrets",
                &subject,
                detail,
                "It is read at the next start: put it back.",
            );
        };
        // A directory with keys: each file in it.
        let files = if metadata.is_dir() { children(&path) } else { vec![path] };
        for file in files {
            let Ok(metadata) = fs::metadata(&file) else { continue };
            looked_at += 1;
            if is_open_to_others(metadata.mode()) {
                let name = file.strip_prefix(format!("/proc/{}/root", process.pid)).unwrap_or(&file);
                let detail = format!("/{} has mode {:04o}", name.display(), metadata.mode() & 0o7777);
                return Finding::bad(State::Fail, "secrets", &subject, detail, ADVICE);
            }
        }
    }
    Finding::pass("secrets", &subject, format!("{looked_at} files, none of them open to others"))
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

/// Others may do nothing with it, and its group not write it.
fn is_open_to_others(mode: u32) -> bool {
    mode & 0o027 != 0
}

/// The running program, asked to check its configuration once more.
fn own_check(process: &Process) -> Finding {
    const ADVICE: &str = "The daemon runs with what it read at its start; with what stands there now it would not start \
                          again. Correct what it names.";
    let subject = process.subject();
    let program = format!("/proc/{}/exe", process.pid);
    let arguments = process.arguments.iter().skip(1).filter(|word| *word != "--print-config");
    let mut command = Command::new(program);
    command.args(arguments).arg("--check-config").env_clear();
    command.envs(process.environment.iter().map(|(name, value)| (name, value)));
    // They are descriptors of the running process.
    for handed_in in
        ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WG_TUN_FD", "WG_UAPI_FD"]
    {
        command.env_remove(handed_in);
    }
    match ended(&mut command) {
        Ok(output) if output.status.success() => {
            Finding::pass("configuration", &subject, "the daemon would start with it again")
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            Finding::bad(State::Fail, "configuration", &subject, said, ADVICE)
        }
        Err(error) => Finding::bad(State::CannotTell, "configuration", &subject, error.to_string(), ADVICE),
    }
}

/// Runs it to its end, which has to come soon.
fn ended(command: &mut Command) -> std::io::Result<std::process::Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let deadline = daemon::Clock.now() + CONFIG_CHECK_TIMEOUT;
    while child.try_wait()?.is_none() {
        if daemon::Clock.now() > deadline {
            child.kill()?;
            child.wait()?;
            let seconds = CONFIG_CHECK_TIMEOUT.as_secs();
            return Err(std::io::Error::other(format!("its check did not end within {seconds} s")));
        }
        std::thread::sleep(CONFIG_CHECK_LOOK);
    }
    child.wait_with_output()
}

/// What the daemon knew when it was sealed: its own word.
fn seal(process: &Process, configured: &Configured) -> Finding {
    let subject = process.subject();
    let Some(socket) = &configured.admin_socket else {
        return Finding::bad(
            State::Warn,
            "seal",
            &subject,
            "it has no admin socket to be asked on",
            "Set `admin_socket`, and the daemon tells which layers it put on and which filter.",
        );
    };
    let path = process.path(socket);
    match daemon::admin::call(&path, "status", json!({}), &[], |_| {}) {
        Ok(status) => judge_seal(&subject, &status["lockdown"]),
        Err(error) => Finding::bad(
            State::CannotTell,
            "seal",
            &subject,
            error.to_string(),
            "The daemon does not answer on its admin socket: is it stuck, or is the socket another one than configured?",
        ),
    }
}

pub(super) fn judge_seal(subject: &str, lockdown: &Value) -> Finding {
    let layers = lockdown["layers"].as_object();
    let said = |prefix: &str| {
        let of = |(name, state): (&String, &Value)| {
            let state = state.as_str().unwrap_or_default();
            state.starts_with(prefix).then(|| format!("{name} {state}"))
        };
        layers.into_iter().flatten().filter_map(of).collect::<Vec<_>>()
    };
    let on = layers.into_iter().flatten().filter(|(_, state)| state.as_str() == Some("on")).count();
    let (off, partial) = (said("off"), said("partial"));
    const ADVICE: &str = "The kernel, the unit or the configuration did not let the daemon put it on; the text says why. \
                          With profile = \"production\" it would not have started.";
    if !off.is_empty() || on == 0 {
        let detail = if off.is_empty() { "it tells of no layer".to_owned() } else { off.join("; ") };
        return Finding::bad(State::Fail, "seal", subject, detail, ADVICE);
    }
    if !partial.is_empty() {
        const OLDER: &str = "The kernel is older than what it lacks; everything else is on, and the system-call list holds \
                             what it can of the rest. Linux 6.12 (Debian 12: linux-image-6.12-amd64) has all of it.";
        let abi = lockdown["landlock_abi"].as_u64().map_or("none".to_owned(), |abi| abi.to_string());
        let detail = format!("{on} layers on, Landlock ABI {abi}; {}", partial.join("; "));
        return Finding::bad(State::Warn, "seal", subject, detail, OLDER);
    }
    let abi = lockdown["landlock_abi"].as_u64().map_or("none".to_owned(), |abi| abi.to_string());
    let sum = lockdown["filter_sha256"].as_str().unwrap_or("none");
    let sum = sum.get(..16).unwrap_or(sum);
    Finding::pass("seal", subject, format!("{on} layers on, Landlock ABI {abi}, filter {sum}…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_read_by_its_group_and_by_nobody_else() {
        for mode in [0o600, 0o640, 0o440, 0o400] {
            assert!(!is_open_to_others(mode), "{mode:o}");
        }
        for mode in [0o644, 0o660, 0o604, 0o601] {
            assert!(is_open_to_others(mode), "{mode:o}");
        }
    }

    #[test]
    fn secrets_are_the_files_with_keys() {
        let text = "internal_api_key_file = \"/etc/k\"\nroot_key_file = \"/etc/r\"\ntls_key_file = \"credential:x\"\n\
                    tls_certificate_file = \"/etc/c\"\n[[issuer]]\njwks_file = \"/etc/j\"\n";
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(secret_files(Role::Edge, &table), [PathBuf::from("/etc/k"), PathBuf::from("/etc/r")]);
        assert_eq!(secret_files(Role::Wgd, &toml::Table::new()), [PathBuf::from("/etc/wireguard")]);
    }

    #[test]
    fn a_layer_that_is_off_fails_and_one_that_is_partial_warns() {
        let judged = |layers: Value| {
            judge_seal("edge", &json!({"layers": layers, "landlock_abi": 6, "filter_sha256": "ab"})).state
        };
        assert_eq!(judged(json!({"seccomp": "on", "no_file_writes": "not used"})), State::Pass);
        assert_eq!(judged(json!({"seccomp": "on", "landlock": "partial: ABI 2"})), State::Warn);
        assert_eq!(judged(json!({"seccomp": "on", "mdwe": "off: Linux 6.3"})), State::Fail);
        assert_eq!(judged(json!({})), State::Fail, "a daemon that tells nothing");
    }

    #[test]
    fn storage_is_where_the_configuration_says() {
        let text = "state_dir = \"/a\"\n[[volume]]\nname = \"m\"\npath = \"/b\"\n[[volume]]\npath = \"/c\"\n";
        let found = places(&text.parse().unwrap());
        assert_eq!(found, ["/a", "/b", "/c"].map(PathBuf::from));
        let edge = Configured::of(Role::Edge, "");
        assert_eq!(edge.profile.as_deref(), Some("production"), "edge's default");
        assert_eq!(Configured::of(Role::Wgd, "").admin_socket, None);
    }
}
