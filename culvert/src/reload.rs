//! `culvert reload`: what a sealed daemon cannot open is opened here and handed over.
//!
//! Invariant: this side decides nothing about the content. It opens the configuration and every file that
//! the configuration names, and the daemon takes all of it or keeps what it has.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::admin;
use crate::console::{Console, printable};
use crate::failure::Failure;
use crate::limits::{CONFIG_BYTES_AT_MOST, DESCRIPTORS_AT_MOST};

const VERB: &str = "reload";
/// A key of a daemon's configuration that names a file ends like this.
const FILE_KEY_SUFFIX: &str = "_file";
/// Read at a start alone, so it is handed to nobody else.
const ROOT_KEY: &str = "root_key_file";

#[derive(Debug, Args)]
pub(crate) struct ReloadArguments {
    /// Which daemon
    daemon: Daemon,
    /// Its admin socket [default: /run/culvert/DAEMON.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Its configuration file [default: /etc/culvert/DAEMON.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Daemon {
    Edge,
    Storaged,
    Wgd,
}

impl Daemon {
    fn name(self) -> &'static str {
        match self {
            Daemon::Edge => "edge",
            Daemon::Storaged => "storaged",
            Daemon::Wgd => "wgd",
        }
    }
}

/// An open file, and the configuration's word for it.
struct Handed {
    key: String,
    /// As the configuration says it: a path, or `credential:NAME`.
    reference: String,
    path: PathBuf,
    file: File,
}

impl Handed {
    fn describe(&self) -> Value {
        json!({ "key": self.key, "reference": self.reference, "path": self.path })
    }
}

pub(crate) fn run(arguments: &ReloadArguments, console: Console) -> Result<(), Failure> {
    let name = arguments.daemon.name();
    let socket =
        arguments.socket.clone().unwrap_or_else(|| PathBuf::from(format!("/run/culvert/{name}.sock")));
    let files = match arguments.daemon {
        Daemon::Edge | Daemon::Storaged => {
            let config = arguments.config.clone();
            open_all(&config.unwrap_or_else(|| PathBuf::from(format!("/etc/culvert/{name}.toml"))))?
        }
        // wgd has a helper process that reads its configuration itself.
        Daemon::Wgd if arguments.config.is_some() => {
            return Err(Failure::usage(
                "wgd reads its configuration itself; --config is for edge and storaged",
            ));
        }
        Daemon::Wgd => Vec::new(),
    };
    let names: Vec<Value> = files.iter().map(Handed::describe).collect();
    let descriptors: Vec<_> = files.iter().map(|it| it.file.as_fd()).collect();
    let done = admin::call(&socket, VERB, json!({ "files": names }), &descriptors, |_| Ok(()))?;
    console.report(&json!({ "daemon": name, "answer": done }), |_| told(name, &done))
}

/// A daemon's yes. wgd names the file it read; storaged names what it could not change while running.
fn told(name: &str, answer: &Value) -> String {
    let mut text = format!("{name}: reloaded");
    if let Some(file) = answer["reloaded"].as_str() {
        text.push_str(&format!(" {}", printable(file)));
    }
    let keys: Vec<&str> =
        answer["restart_needed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !keys.is_empty() {
        text.push_str(&format!("; needs a restart: {}", printable(&keys.join(", "))));
    }
    text
}

/// The configuration first, then the files it names, in the order of their keys.
fn open_all(config: &Path) -> Result<Vec<Handed>, Failure> {
    let mut file = open(config)?;
    let mut text = String::new();
    let unreadable = |error| Failure::usage(format!("{}: {error}", config.display()));
    file.by_ref().take(CONFIG_BYTES_AT_MOST).read_to_string(&mut text).map_err(unreadable)?;
    // The daemon reads from where the descriptor stands.
    file.rewind().map_err(unreadable)?;
    let table: toml::Table =
        text.parse().map_err(|error| Failure::usage(format!("{}: {error}", config.display())))?;
    let mut files = vec![Handed {
        key: "config".to_owned(),
        reference: config.display().to_string(),
        path: config.to_owned(),
        file,
    }];
    for (key, reference) in file_keys(&table, "") {
        let path = daemon::secret::reference_path(reference)
            .map_err(|error| Failure::usage(format!("{}: {key}: {error}", config.display())))?;
        let file = open(&path)?;
        files.push(Handed { key, reference: reference.to_owned(), path, file });
    }
    if files.len() > DESCRIPTORS_AT_MOST {
        let message = format!("{} names more files than can be handed over", config.display());
        return Err(Failure::usage(message));
    }
    Ok(files)
}

/// `issuer[0].jwks_file` is the one of the first `[[issuer]]`.
pub(crate) fn file_keys<'a>(table: &'a toml::Table, before: &str) -> Vec<(String, &'a str)> {
    let mut found = Vec::new();
    for (key, value) in table.iter().filter(|(key, _)| *key != ROOT_KEY) {
        let name = format!("{before}{key}");
        match value {
            toml::Value::String(reference) if key.ends_with(FILE_KEY_SUFFIX) => {
                found.push((name, reference.as_str()));
            }
            toml::Value::Table(inner) => found.extend(file_keys(inner, &format!("{name}."))),
            toml::Value::Array(several) => {
                let tables = several.iter().enumerate().filter_map(|(at, one)| Some((at, one.as_table()?)));
                found.extend(tables.flat_map(|(at, inner)| file_keys(inner, &format!("{name}[{at}]."))));
            }
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_) => {}
        }
    }
    found
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_and_the_files_it_names_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("key"), "k").unwrap();
        let text = format!(
            "name = \"web1\"\ninternal_api_key_file = {:?}\nroot_key_file = \"/nonexistent\"\n",
            path("key")
        );
        std::fs::write(path("edge.toml"), &text).unwrap();
        let mut files = open_all(&path("edge.toml")).unwrap();
        let keys: Vec<_> = files.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(keys, ["config", "internal_api_key_file"]);
        let mut read = String::new();
        files[0].file.read_to_string(&mut read).unwrap();
        assert_eq!(read, text);
    }

    #[test]
    fn files_of_tables_within_are_named_by_their_place() {
        let text = "a_file = \"a\"\n[[issuer]]\njwks_file = \"b\"\n[[issuer]]\nname = \"x\"\njwks_file = \"c\"\n[t]\nd_file = \"d\"\n";
        let table: toml::Table = text.parse().unwrap();
        let names: Vec<String> = file_keys(&table, "").into_iter().map(|(key, _)| key).collect();
        assert_eq!(names, ["a_file", "issuer[0].jwks_file", "issuer[1].jwks_file", "t.d_file"]);
    }

    #[test]
    fn what_only_a_restart_can_change_is_told() {
        let answer = json!({"reloaded": true, "restart_needed": ["bind_address", "run_as"]});
        assert_eq!(told("storaged", &answer), "storaged: reloaded; needs a restart: bind_address, run_as");
        assert_eq!(told("wgd", &json!({"reloaded": "wg0.conf"})), "wgd: reloaded wg0.conf");
        assert_eq!(told("edge", &json!("taken")), "edge: reloaded");
    }

    #[test]
    fn a_missing_key_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("edge.toml");
        std::fs::write(&config, "internal_api_key_file = \"/nonexistent/key\"\n").unwrap();
        let failure = open_all(&config).err().unwrap();
        assert!(failure.message().contains("/nonexistent/key"), "{}", failure.message());
    }
}
