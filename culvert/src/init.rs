//! `culvert init storaged`: the first start of a store.
//!
//! Invariant: what exists is never overwritten, and a token is printed once and kept nowhere.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use linux::User;
use serde_json::json;
use storaged::config::Profile;
use storaged::init::{InitError, InitOptions, InitReport, NewEdge, NewUser, NewVolume, RecoveryOptions};
use storaged::keys::recovery::RecoveryError;
use store_proto::{Cohort, EdgeName, Role, ServerRole, UserName};

use crate::console::{Console, table};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum InitCommand {
    /// Make what a new storaged needs: configuration, internal key, ledger, volume, users
    #[command(after_help = "\
Nothing that exists is overwritten. The tokens that are printed are stored nowhere: storaged keeps their \
hashes alone. A user named admin is always made.\n\n\
Example:\n  \
  culvert init storaged --edge web1 --cohort c5 --user ann:user --volume main=/srv/culvert \\\n    \
  --run-as storaged --wgd-user wgd\n\n\
The edge needs a copy of the internal key file; its peer in /etc/wireguard/wg0.conf must carry the name that \
--edge gives (# friendly_name = web1).")]
    Storaged(Box<StoragedArguments>),
}

#[derive(Debug, Args)]
pub(crate) struct StoragedArguments {
    /// Register an edge by its WireGuard peer's name; with =C,C it may ask for these cohorts alone
    #[arg(long = "edge", value_name = "NAME[=COHORT,…]", value_parser = parse_edge)]
    edges: Vec<NewEdge>,
    /// Make a cohort
    #[arg(long = "cohort", value_name = "COHORT", value_parser = parse_cohort)]
    cohorts: Vec<Cohort>,
    /// Make a user (viewer, user, admin, auditor); with =C,C these cohorts alone are open to them
    #[arg(long = "user", value_name = "NAME:ROLE[=COHORT,…]", value_parser = parse_user)]
    users: Vec<NewUser>,
    /// Where objects go [default: main=/var/lib/culvert/volumes/main]
    #[arg(long = "volume", value_name = "NAME=DIR", value_parser = parse_volume)]
    volumes: Vec<NewVolume>,
    /// Where the ledger goes, on a local file system [default: /var/lib/culvert/storaged]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The configuration file to write [default: /etc/culvert/storaged.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The internal key file to write [default: /etc/culvert/internal.key]
    #[arg(long, value_name = "FILE")]
    internal_key: Option<PathBuf>,
    /// The root key file to write; all keys of the store hang on it [default: root.key beside the internal key]
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    /// Encrypt the root key to this age recipient (age1…), who keeps the identity off this machine; may repeat
    #[arg(long = "recovery-recipient", value_name = "RECIPIENT")]
    recovery_recipients: Vec<String>,
    /// Prove with this age identity file that the encrypted root key decrypts
    #[arg(long, value_name = "IDENTITY_FILE", requires = "recovery_recipients")]
    prove_recovery: Option<PathBuf>,
    /// Do without a recovery recipient: a lost root key then loses every file
    #[arg(long, conflicts_with = "recovery_recipients")]
    no_recovery: bool,
    /// An address of the tunnel, and the port [default: 10.100.0.11:8001]
    #[arg(long, value_name = "ADDRESS:PORT")]
    bind_address: Option<SocketAddr>,
    /// The tunnel's prefix [default: 10.100.0.0/24]
    #[arg(long, value_name = "PREFIX")]
    tunnel_prefix: Option<ipnet::IpNet>,
    /// The tunnel's interface [default: wg0]
    #[arg(long, value_name = "NAME")]
    tunnel_interface: Option<String>,
    /// The user that storaged becomes: a name, or UID:GID; demanded of root in the production profile
    #[arg(long, value_name = "USER", value_parser = parse_system_user)]
    run_as: Option<User>,
    /// The user that wgd runs as, if neither root nor the above
    #[arg(long, value_name = "USER", value_parser = parse_system_user)]
    wgd_user: Option<User>,
    /// Where metrics are served [default: 127.0.0.1:9588]
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// storaged's admin socket [default: /run/culvert/storaged.sock]
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,
    /// storaged's socket for wgd's answers [default: /run/culvert/storaged.events]
    #[arg(long, value_name = "PATH")]
    events_socket: Option<PathBuf>,
    /// wgd's socket [default: /run/culvert/wgd.events]
    #[arg(long, value_name = "PATH")]
    wgd_socket: Option<PathBuf>,
    /// production: a missing layer of the lock-down is an error; lab: it is reported
    #[arg(long, default_value = "production")]
    profile: ProfileWord,
    /// services: the storage side; testing: loopback and namespaces made for tests
    #[arg(long, default_value = "services")]
    role: RoleWord,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProfileWord {
    Production,
    Lab,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleWord {
    Services,
    Testing,
}

pub(crate) fn run(command: &InitCommand, console: Console) -> Result<(), Failure> {
    let InitCommand::Storaged(arguments) = command;
    refuse_root(arguments)?;
    refuse_no_recovery(arguments)?;
    let_the_daemon_pass();
    let report = storaged::init::run(options(arguments)).map_err(failure)?;
    if console.is_json() { console.json_line(&as_json(&report)) } else { console.line(&as_text(&report)) }
}

/// What is secret gets its mode by itself; the directories on the way to what is made for another user have to be open to
/// that one, however careful root's umask is.
pub(crate) fn let_the_daemon_pass() {
    nix::sys::stat::umask(nix::sys::stat::Mode::S_IWGRP | nix::sys::stat::Mode::S_IWOTH);
}

/// A configuration that storaged would refuse at its start is worth nothing. Where only root exists (a user
/// namespace), there is nobody else to name, and storaged says so itself.
fn refuse_root(arguments: &StoragedArguments) -> Result<(), Failure> {
    let production = matches!(arguments.profile, ProfileWord::Production);
    let others_exist = User { uid: 1, gid: 1 }.is_mapped();
    if production && arguments.run_as.is_none() && User::current().uid == 0 && others_exist {
        return Err(Failure::usage(
            "--run-as is missing: in the production profile storaged does not stay root. Make a user (useradd --system \
             storaged) and say --run-as storaged; or say --profile lab",
        ));
    }
    Ok(())
}

/// One disk holds the one copy of the root key: in production somebody has to say that this is meant.
fn refuse_no_recovery(arguments: &StoragedArguments) -> Result<(), Failure> {
    let production = matches!(arguments.profile, ProfileWord::Production);
    if production && arguments.recovery_recipients.is_empty() && !arguments.no_recovery {
        return Err(Failure::usage(
            "--recovery-recipient is missing: whoever loses the root key loses every file. Make an identity on another \
             machine (age-keygen -o identity.txt) and name its public key (age1…); or say --no-recovery",
        ));
    }
    Ok(())
}

fn options(arguments: &StoragedArguments) -> InitOptions {
    let default = InitOptions::default();
    let given = arguments.volumes.clone();
    InitOptions {
        config_path: arguments.config.clone().unwrap_or(default.config_path),
        internal_key_path: arguments.internal_key.clone().unwrap_or(default.internal_key_path),
        root_key_path: arguments.root_key.clone(),
        recovery: RecoveryOptions {
            recipients: arguments.recovery_recipients.clone(),
            prove_with: arguments.prove_recovery.clone(),
        },
        role: match arguments.role {
            RoleWord::Services => ServerRole::Services,
            RoleWord::Testing => ServerRole::Testing,
        },
        profile: match arguments.profile {
            ProfileWord::Production => Profile::Production,
            ProfileWord::Lab => Profile::Lab,
        },
        bind_address: arguments.bind_address.unwrap_or(default.bind_address),
        tunnel_interface: arguments.tunnel_interface.clone().unwrap_or(default.tunnel_interface),
        tunnel_prefix: arguments.tunnel_prefix.unwrap_or(default.tunnel_prefix),
        state_dir: arguments.state_dir.clone().unwrap_or(default.state_dir),
        volumes: if given.is_empty() { default.volumes } else { given },
        edges: arguments.edges.clone(),
        cohorts: arguments.cohorts.clone(),
        users: arguments.users.clone(),
        owner: arguments.run_as,
        wgd_user: arguments.wgd_user,
        metrics_listen: arguments.metrics_listen.unwrap_or(default.metrics_listen),
        admin_socket: arguments.admin_socket.clone().unwrap_or(default.admin_socket),
        events_socket: arguments.events_socket.clone().unwrap_or(default.events_socket),
        wgd_socket: arguments.wgd_socket.clone().unwrap_or(default.wgd_socket),
    }
}

fn failure(error: InitError) -> Failure {
    let message = error.to_string();
    match error {
        InitError::Exists(_) => Failure::refused(message),
        InitError::Options(_)
        | InitError::Config(_)
        | InitError::Network { .. }
        | InitError::Recovery(RecoveryError::Recipient { .. }) => Failure::usage(message),
        InitError::Io { .. }
        | InitError::Random(_)
        | InitError::Volume(_)
        | InitError::RootKey(_)
        | InitError::Recovery(_)
        | InitError::Keys(_)
        | InitError::Ledger(_) => Failure::failed(message),
    }
}

fn as_json(report: &InitReport) -> serde_json::Value {
    let tokens = report
        .tokens
        .iter()
        .map(|issued| json!({ "user": issued.user, "role": issued.role, "token": issued.token.expose() }));
    json!({
        "store_id": report.store_id.to_string(),
        "config": report.config_path,
        "internal_key": report.internal_key_path,
        "root_key": report.root_key_path,
        "recovery": report.recovery.as_ref().map(|made| json!({
            "path": made.path,
            "recipients": made.recipients,
            "proven": made.proven,
        })),
        "ledger": report.ledger_path,
        "tokens": tokens.collect::<Vec<_>>(),
    })
}

fn as_text(report: &InitReport) -> String {
    let rows: Vec<Vec<String>> = report
        .tokens
        .iter()
        .map(|issued| {
            vec![issued.user.to_string(), issued.role.name().to_owned(), issued.token.expose().to_owned()]
        })
        .collect();
    format!(
        "store {}\nconfiguration  {}\ninternal key   {}  (the edge needs a copy)\nroot key       {}\nrecovery       {}\nledger         {}\n\n\
         These tokens are shown once and kept nowhere:\n\n{}",
        report.store_id,
        report.config_path.display(),
        report.internal_key_path.display(),
        report.root_key_path.display(),
        recovery_text(report),
        report.ledger_path.display(),
        table(&["USER", "ROLE", "TOKEN"], &rows)
    )
}

fn recovery_text(report: &InitReport) -> String {
    let Some(made) = &report.recovery else {
        return "NONE: WHO LOSES THE ROOT KEY LOSES EVERY FILE. Keep a copy of it off this machine"
            .to_owned();
    };
    let people =
        if made.recipients == 1 { "1 recipient" } else { &format!("{} recipients", made.recipients) };
    let proven = if made.proven { "decryption proven" } else { "decryption NOT proven" };
    format!(
        "{}  (for {people}, {proven}; keep a copy off this machine; age --decrypt -i IDENTITY brings the key back)",
        made.path.display()
    )
}

fn parse_edge(text: &str) -> Result<NewEdge, String> {
    let (name, cohorts) = split_cohorts(text)?;
    let name = EdgeName::parse(name).map_err(|error| error.to_string())?;
    Ok(NewEdge { name, cohorts })
}

fn parse_user(text: &str) -> Result<NewUser, String> {
    let (who, cohorts) = split_cohorts(text)?;
    let (name, role) = who.split_once(':').ok_or("a user is written NAME:ROLE")?;
    let name = UserName::parse(name).map_err(|error| error.to_string())?;
    let role = Role::parse(role).ok_or("a role is viewer, user, admin or auditor")?;
    Ok(NewUser { name, role, cohorts })
}

/// `NAME=A,B` → (`NAME`, [A, B]); no list: no cohort of its own, which stands for all.
fn split_cohorts(text: &str) -> Result<(&str, Vec<Cohort>), String> {
    let Some((name, list)) = text.split_once('=') else { return Ok((text, Vec::new())) };
    let cohorts = list.split(',').map(parse_cohort).collect::<Result<_, _>>()?;
    Ok((name, cohorts))
}

fn parse_cohort(text: &str) -> Result<Cohort, String> {
    Cohort::parse(text).map_err(|error| error.to_string())
}

fn parse_volume(text: &str) -> Result<NewVolume, String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && path.starts_with('/') => {
            Ok(NewVolume { name: name.to_owned(), path: PathBuf::from(path) })
        }
        _ => Err("a volume is written NAME=DIR, DIR from the root".to_owned()),
    }
}

pub(crate) fn parse_system_user(text: &str) -> Result<User, String> {
    User::resolve(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_and_users_name_their_cohorts() {
        let edge = parse_edge("web1=c5,c6").unwrap();
        assert_eq!((edge.name.as_str(), edge.cohorts.len()), ("web1", 2));
        let user = parse_user("ann:viewer").unwrap();
        assert_eq!((user.name.as_str(), user.role, user.cohorts.len()), ("ann", Role::Viewer, 0));
        for bad in ["ann", "ann:king", "ann:user=", "ann:user=C5", ":user"] {
            assert!(parse_user(bad).is_err(), "{bad}");
        }
        for bad in ["main", "main=relative", "=/srv"] {
            assert!(parse_volume(bad).is_err(), "{bad}");
        }
    }
}
