//! `culvert volume …`, `culvert usage`, `culvert upload …`: where things are, and how much.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use storaged::ledger::{StoreId, tables};
use storaged::objects::NasVolume;
use store_proto::FileId;

use crate::admin;
use crate::cleanup::SocketArgument;
use crate::console::{Console, printable};
use crate::failure::Failure;
use crate::trace::upload_line;

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// The volumes, their room, and whether they can be used
    List(SocketArgument),
    /// Make a volume and add it to storaged's configuration; as root
    #[command(after_help = "\
Makes the directory, its marker and its subdirectories for the user of the volumes that exist, and appends a \
[[volume]] to the configuration. storaged uses it from its next start on.\n\n\
Example:\n  \
  culvert volume add second=/srv/culvert2 && systemctl restart storaged")]
    Add(AddArguments),
    /// What lies on the volumes and is in no ledger
    Unclaimed(SocketArgument),
    /// Move an unclaimed object out of the way, to aside/ on its volume; it is kept, and recorded
    SetAside(SetAsideArguments),
}

#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// The volume's name and directory
    #[arg(value_name = "NAME=DIR", value_parser = parse_volume)]
    volume: (String, PathBuf),
    /// Bytes that uploads leave free there [default: a sixteenth of the disk, 1 GiB at most]
    #[arg(long, value_name = "BYTES")]
    reserve_bytes: Option<u64>,
    /// The configuration file to add it to
    #[arg(long, value_name = "FILE", default_value = storaged::config::DEFAULT_PATH)]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SetAsideArguments {
    /// The volume's name
    volume: String,
    /// The object's id, as `volume unclaimed` shows it
    #[arg(value_parser = parse_id)]
    object: FileId,
    #[command(flatten)]
    at: SocketArgument,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UploadCommand {
    /// What comes in now, and what can be resumed: how far, how fast, when the last byte came, what is waited for
    #[command(after_help = "\
An upload waits for its sender (the client, the edge, the tunnel), for the volume, or for the ledger. What was received \
and is not durable yet counts; after a break it goes on at an offset that is.\n\n\
Examples:\n  \
  culvert upload list\n  \
  culvert upload list --json | jq 'select(.last_byte_seconds_ago > 30)'\n  \
  culvert upload show ID --json")]
    List(SocketArgument),
    /// One of them, with its objects
    Show(CancelArguments),
    /// Give one up in its sender's place
    Cancel(CancelArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CancelArguments {
    /// The upload's id, as `upload list` shows it
    #[arg(value_parser = parse_id)]
    upload: FileId,
    #[command(flatten)]
    at: SocketArgument,
}

fn parse_id(text: &str) -> Result<FileId, String> {
    FileId::parse(text).map_err(|error| error.to_string())
}

fn parse_volume(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("say NAME=DIR")?;
    let plain = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c));
    match plain && Path::new(path).is_absolute() {
        true => Ok((name.to_owned(), path.into())),
        false => Err("NAME is letters, digits, - and _; DIR is absolute".to_owned()),
    }
}

pub(crate) fn volume(command: &VolumeCommand, console: Console) -> Result<(), Failure> {
    match command {
        VolumeCommand::List(at) => stream(at, "volume.list", console, |item| {
            let state = if item["usable"] == true { "usable" } else { "AWAY" };
            format!(
                "{}  {state}  {} free of {}, {} for uploads",
                text(&item["volume"]),
                bytes(&item["available_bytes"]),
                bytes(&item["size_bytes"]),
                bytes(&item["room_bytes"])
            )
        }),
        VolumeCommand::Add(arguments) => add(arguments, console),
        VolumeCommand::Unclaimed(at) => stream(at, "volume.unclaimed", console, |item| {
            format!("{}  {}  {}", text(&item["volume"]), text(&item["kind"]), text(&item["what"]))
        }),
        VolumeCommand::SetAside(arguments) => {
            let question = json!({ "volume": arguments.volume, "object": arguments.object });
            let done = admin::call(&arguments.at.socket, "volume.set_aside", question, &[], |_| Ok(()))?;
            console.report(&done, |_| format!("{} lies in aside/ now", arguments.object))
        }
    }
}

pub(crate) fn usage(at: &SocketArgument, console: Console) -> Result<(), Failure> {
    stream(at, "usage", console, |item| {
        let mut line =
            format!("{}  {} files, {}", text(&item["cohort"]), item["files"], bytes(&item["bytes"]));
        if !item["quota_bytes"].is_null() {
            line.push_str(&format!(" of {}", bytes(&item["quota_bytes"])));
        }
        for there in item["volumes"].as_array().into_iter().flatten() {
            let sealed = bytes(&there["sealed_bytes"]);
            line.push_str(&format!("  {}: {sealed} in {} objects", text(&there["volume"]), there["objects"]));
        }
        line
    })
}

pub(crate) fn upload(command: &UploadCommand, console: Console) -> Result<(), Failure> {
    match command {
        UploadCommand::List(at) => stream(at, "upload.list", console, upload_line),
        UploadCommand::Show(arguments) => {
            let question = json!({ "upload": arguments.upload });
            let shown = admin::call(&arguments.at.socket, "upload.show", question, &[], |_| Ok(()))?;
            console.report(&shown, |shown| {
                let mut line = upload_line(shown);
                for part in shown["objects"].as_array().into_iter().flatten() {
                    let volume = text(&part["volume"]);
                    line.push_str(&format!(
                        "\n  part {}: {} on {volume}",
                        part["part"],
                        bytes(&part["size"])
                    ));
                }
                line
            })
        }
        UploadCommand::Cancel(arguments) => {
            let question = json!({ "upload": arguments.upload });
            let done = admin::call(&arguments.at.socket, "upload.cancel", question, &[], |_| Ok(()))?;
            console.report(&done, |_| format!("{} is given up", arguments.upload))
        }
    }
}

fn stream(
    at: &SocketArgument,
    verb: &'static str,
    console: Console,
    line: impl Fn(&Value) -> String,
) -> Result<(), Failure> {
    let mut shown = 0_u64;
    admin::call(&at.socket, verb, Value::Null, &[], |item| {
        shown += 1;
        console.report(&item, &line)
    })?;
    if shown == 0 && !console.is_json() {
        console.line("nothing")?;
    }
    Ok(())
}

/// Makes the volume first and names it in the configuration last: what fails in between leaves a directory that
/// nobody uses.
fn add(arguments: &AddArguments, console: Console) -> Result<(), Failure> {
    let config = &arguments.config;
    let fail = |step: &str, at: &Path, error: &dyn std::fmt::Display| {
        Failure::failed(format!("{step} {}: {error}", at.display()))
    };
    let written = std::fs::read_to_string(config).map_err(|error| fail("read", config, &error))?;
    let parsed: toml::Table = written.parse().map_err(|error| fail("understand", config, &error))?;
    let volumes = parsed.get("volume").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let (name, path) = &arguments.volume;
    let is_taken = |volume: &toml::Value| {
        let of = |key| volume.get(key).and_then(toml::Value::as_str);
        of("name") == Some(name) || of("path").is_some_and(|known| Path::new(known) == path)
    };
    if volumes.iter().any(is_taken) {
        return Err(Failure::refused(format!("{}: there is such a volume already", config.display())));
    }
    let first = volumes.first().and_then(|volume| volume.get("path")).and_then(toml::Value::as_str);
    let first =
        first.ok_or_else(|| fail("understand", config, &"it names no volume to take the store from"))?;
    let marker = Path::new(first).join(storaged::objects::volume::MARKER);
    let text = std::fs::read_to_string(&marker).map_err(|error| fail("read", &marker, &error))?;
    let known: Value = serde_json::from_str(&text).map_err(|error| fail("understand", &marker, &error))?;
    let store = known["store_id"].as_str().and_then(|id| FileId::parse(id).ok());
    let store = StoreId(store.ok_or_else(|| fail("understand", &marker, &"it names no store"))?);
    let id = tables::random_id().map_err(|error| fail("draw an id for", path, &error))?;
    crate::init::let_the_daemon_pass();
    NasVolume::create(name, path, store, id).map_err(|error| Failure::failed(error.to_string()))?;
    let owner = std::fs::metadata(first).map_err(|error| fail("look at", Path::new(first), &error))?;
    for part in ["", storaged::objects::volume::MARKER, "objects", "tmp"] {
        let part = if part.is_empty() { path.clone() } else { path.join(part) };
        let mode = if part.is_dir() { 0o700 } else { 0o600 };
        chown(&part, Some(owner.uid()), Some(owner.gid()))
            .and_then(|()| std::fs::set_permissions(&part, std::fs::Permissions::from_mode(mode)))
            .map_err(|error| fail("give away", &part, &error))?;
    }
    let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut more =
        format!("\n[[volume]]\nname = {}\npath = {}\n", quote(name), quote(&path.to_string_lossy()));
    if let Some(reserve) = arguments.reserve_bytes {
        more.push_str(&format!("reserve_bytes = {reserve}\n"));
    }
    let mut file = File::options().append(true).open(config).map_err(|error| fail("open", config, &error))?;
    file.write_all(more.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| fail("write", config, &error))?;
    let made = json!({ "volume": name, "path": path, "restart_needed": true });
    console.report(&made, |_| format!("{name} is made; restart storaged to use it"))
}

fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or("-")).to_string()
}

/// In the largest unit that leaves a number above one.
fn bytes(value: &Value) -> String {
    let Some(bytes) = value.as_u64() else { return "-".to_owned() };
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut whole = bytes;
    let mut tenth = 0;
    while whole >= 1024 && unit + 1 < units.len() {
        tenth = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{whole} B") } else { format!("{whole}.{tenth} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_units_that_people_read() {
        for (number, expected) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1_u64 << 40, "1.0 TiB")]
        {
            assert_eq!(bytes(&json!(number)), expected);
        }
        assert_eq!(bytes(&Value::Null), "-");
    }

    #[test]
    fn a_volume_is_named_plainly_and_lies_at_an_absolute_path() {
        assert!(parse_volume("second=/srv/second").is_ok());
        for bad in ["second", "=/srv", "a b=/srv", "second=srv", "x\"y=/srv"] {
            assert!(parse_volume(bad).is_err(), "{bad}");
        }
    }
}
