//! `culvert backup make|status|verified`: copies of what storaged needs beside its volumes.
//!
//! Invariant: storaged writes the file and never names it; here it is read again, and only a file that has the hash of
//! what was written gets its name and is reported as kept.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use daemon::Clock;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use storaged::backup::make::file_name;
use store_proto::{ContentDigest, FileId};

use crate::admin;
use crate::cleanup::SocketArgument;
use crate::console::{Console, human_bytes, printable, table};
use crate::failure::Failure;
use crate::limits::{CHUNK_BYTES, CONFIG_BYTES_AT_MOST};
use crate::transfer::part_file::{Existing, PartFile};
use crate::transfer::progress::Progress;

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Make one, while storaged runs and writes
    #[command(after_help = "\
It holds the ledger and the keys of one moment, storaged's configuration, the internal key and root-key.age: with the \
volumes and the recovery key a host can be rebuilt from it. The files of users are not in it; they lie on the volumes, \
sealed.\n\n\
It is encrypted to the recipients; any age program opens it, none without one of their keys. It is written beside its \
name, read again and compared, and then named.\n\n\
Make one each day, and one after each shred of keys: older ones do not hold the keys of what came later. They expire \
for another reason too: with the root key they open what was deleted since.\n\n\
Examples:\n  \
  culvert backup make --to /srv/backup --recipient age1…\n  \
  culvert backup make --to /srv/backup --recipients-file /etc/culvert/backup.recipients --json")]
    Make(MakeArguments),
    /// The backups that storaged remembers, and whether one is needed now
    #[command(after_help = "Exit codes: 0 the newest serves; 1 one is needed; 4 storaged did not answer.")]
    Status(SocketArgument),
    /// Tell storaged that a backup was restored and found whole: the journal mirror may forget what it holds
    #[command(after_help = "\
Example:\n  \
  culvert restore FILE --verify --identity KEYS && culvert backup verified ID")]
    Verified(VerifiedArguments),
}

#[derive(Debug, Args)]
pub(crate) struct MakeArguments {
    /// Who can open it: an age recipient; repeat it
    #[arg(long = "recipient", value_name = "RECIPIENT")]
    recipients: Vec<String>,
    /// A file with recipients, one a line; # begins a comment
    #[arg(long, value_name = "FILE")]
    recipients_file: Option<PathBuf>,
    /// The directory for it, where it gets a name with store and time; or the file's own name
    #[arg(long, value_name = "DIR|FILE", default_value = ".")]
    to: PathBuf,
    /// storaged's configuration, which goes into it
    #[arg(long, value_name = "FILE", default_value = storaged::config::DEFAULT_PATH)]
    config: PathBuf,
    /// The root key encrypted for recovery, which goes into it [default: root-key.age beside the configuration]
    #[arg(long, value_name = "FILE")]
    recovery_file: Option<PathBuf>,
    #[command(flatten)]
    at: SocketArgument,
}

#[derive(Debug, Args)]
pub(crate) struct VerifiedArguments {
    /// The backup's id, as `restore --verify` prints it
    #[arg(value_parser = parse_id)]
    backup: FileId,
    #[command(flatten)]
    at: SocketArgument,
}

fn parse_id(text: &str) -> Result<FileId, String> {
    FileId::parse(text).map_err(|error| error.to_string())
}

pub(crate) fn run(command: &BackupCommand, console: Console) -> Result<(), Failure> {
    match command {
        BackupCommand::Make(arguments) => make(arguments, console),
        BackupCommand::Status(at) => status(at, console),
        BackupCommand::Verified(arguments) => {
            let question = json!({ "backup": arguments.backup });
            let done = admin::call(&arguments.at.socket, "backup.verified", question, &[], |_| Ok(()))?;
            console.report(&done, |done| {
                let removed = done["journal_files_removed"].as_u64().unwrap_or(0);
                format!("recorded; {removed} files of the journal mirror were needless and are gone")
            })
        }
    }
}

fn make(arguments: &MakeArguments, console: Console) -> Result<(), Failure> {
    let recipients = recipients(arguments)?;
    let parts = parts(arguments, console)?;
    let socket = &arguments.at.socket;
    let path = target(&arguments.to, socket)?;
    let file = PartFile::create(&path, Existing::Keep)?;
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    let descriptors: Vec<_> =
        std::iter::once(file.file().as_fd()).chain(parts.iter().map(|(_, file)| file.as_fd())).collect();
    let question = json!({ "recipients": recipients, "parts": names });
    let mut progress = Progress::start("backup".to_owned(), None, console.progress_style());
    let made = admin::call(socket, "backup.make", question, &descriptors, |item| {
        progress.set(item["bytes"].as_u64().unwrap_or(0));
        Ok(())
    })?;
    let backup = &made["backup"];
    progress.finish(backup["bytes"].as_u64().unwrap_or(0));
    let read = hash(file.part())?;
    if backup["sha256"].as_str() != Some(read.to_string().as_str()) {
        return Err(Failure::failed(format!(
            "{}: what was read back is not what was written",
            path.display()
        )));
    }
    file.publish()?;
    let kept = json!({ "backup": backup["backup"], "sha256": read });
    let kept = admin::call(socket, "backup.kept", kept, &[], |_| Ok(()))?;
    let mut told = kept.clone();
    told["path"] = json!(path);
    console.report(&told, |_| {
        format!(
            "{}: {} records, {}, backup {}\ncheck it where its key is: culvert restore FILE --verify --identity KEYS",
            path.display(),
            kept["records"],
            human_bytes(kept["bytes"].as_u64().unwrap_or(0)),
            kept["backup"].as_str().unwrap_or("?"),
        )
    })
}

fn recipients(arguments: &MakeArguments) -> Result<Vec<String>, Failure> {
    let mut recipients = arguments.recipients.clone();
    if let Some(path) = &arguments.recipients_file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        recipients.extend(lines.map(str::to_owned));
    }
    if recipients.is_empty() {
        return Err(Failure::usage("nobody could open it: say --recipient age1… or --recipients-file FILE"));
    }
    Ok(recipients)
}

/// What goes into it beside ledger and keys, opened here because a sealed daemon cannot.
fn parts(arguments: &MakeArguments, console: Console) -> Result<Vec<(&'static str, File)>, Failure> {
    let config = &arguments.config;
    let failed =
        |path: &Path, error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let mut text = String::new();
    let file = File::open(config).map_err(|error| failed(config, &error))?;
    file.take(CONFIG_BYTES_AT_MOST).read_to_string(&mut text).map_err(|error| failed(config, &error))?;
    let table: toml::Table = text.parse().map_err(|error| failed(config, &error))?;
    let mut parts = vec![("storaged.toml", File::open(config).map_err(|error| failed(config, &error))?)];
    let keys =
        [("internal.key", "internal_api_key_file"), ("internal-next.key", "internal_api_key_next_file")];
    for (name, key) in keys {
        let Some(reference) = table.get(key).and_then(toml::Value::as_str) else { continue };
        let path = daemon::secret::reference_path(reference).map_err(|error| failed(config, &error))?;
        parts.push((name, File::open(&path).map_err(|error| failed(&path, &error))?));
    }
    let default = config.with_file_name("root-key.age");
    let recovery = arguments.recovery_file.as_ref().unwrap_or(&default);
    match File::open(recovery) {
        Ok(file) => parts.push(("root-key.age", file)),
        Err(error) if arguments.recovery_file.is_some() => return Err(failed(recovery, &error)),
        Err(_) => console.warn(&format!(
            "{} is not there: the backup opens only with the root key, which is not in it",
            recovery.display()
        )),
    }
    Ok(parts)
}

fn target(to: &Path, socket: &Path) -> Result<PathBuf, Failure> {
    if !to.is_dir() {
        return Ok(to.to_owned());
    }
    let status = admin::call(socket, "backup.status", Value::Null, &[], |_| Ok(()))?;
    let store = status["store"].as_str().and_then(|store| FileId::parse(store).ok());
    let store = store.ok_or_else(|| Failure::cannot_tell("storaged does not say which store it is"))?;
    Ok(to.join(file_name(store, Clock.unix_milliseconds())))
}

fn hash(path: &Path) -> Result<ContentDigest, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("read {}: {error}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    Ok(ContentDigest::from_bytes(hash.finalize().into()))
}

fn status(at: &SocketArgument, console: Console) -> Result<(), Failure> {
    let mut backups = Vec::new();
    let mut done = admin::call(&at.socket, "backup.status", Value::Null, &[], |item| {
        backups.push(item);
        Ok(())
    })?;
    let needed = done["needed"].as_str().map(printable);
    done["known"] = Value::Array(backups);
    console.report(&done, |done| {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), printable);
        let rows: Vec<Vec<String>> = done["known"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| {
                vec![
                    text(&row["made"]),
                    text(&row["records"]),
                    human_bytes(row["bytes"].as_u64().unwrap_or(0)),
                    row["verified"].as_str().map_or_else(|| "not yet".to_owned(), printable),
                    if row["keys_current"] == true { "today's" } else { "OLDER" }.to_owned(),
                    text(&row["backup"]),
                ]
            })
            .collect();
        table(&["MADE", "RECORDS", "SIZE", "VERIFIED", "KEYS", "BACKUP"], &rows)
    })?;
    match needed {
        Some(why) => Err(Failure::failed(format!("a backup is needed now: {why}"))),
        None => Ok(()),
    }
}
