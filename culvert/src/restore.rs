//! `culvert restore`: a backup is checked or opened, and a store that was set back comes forward again.
//!
//! Invariant: nothing that is there is overwritten, and what `--verify` wrote to look at it is gone when it ends.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use linux::User;
use receipt::merkle::Hash;
use serde_json::json;
use storaged::backup::check::{CheckError, Checked, check};
use storaged::backup::unpack::{STATE, UnpackError, Unpacked, unpack, write_new};
use storaged::config::Environment;
use storaged::keys::RootKey;
use storaged::keys::recovery;
use storaged::ledger::{Origin, tables};
use storaged::restore::{Known, NewEpoch, RESTORED_FILE, Restored};

use crate::console::{Console, human_bytes};
use crate::failure::Failure;
use crate::transfer::progress::Progress;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["verify", "into", "replay", "new_epoch"]))]
pub(crate) struct RestoreArguments {
    /// The backup
    #[arg(required_if_eq_any = [("verify", "true")], requires = "identities", conflicts_with_all = ["replay", "new_epoch"])]
    backup: Option<PathBuf>,
    /// Open it in a scratch directory, check every record, row and key, and leave nothing behind
    #[arg(long, requires = "backup")]
    verify: bool,
    /// Open it into this directory, which must be empty or not be there
    #[arg(long, value_name = "DIR", requires = "backup")]
    into: Option<PathBuf>,
    /// Do again what the journal mirror holds beyond the ledger
    #[arg(long)]
    replay: bool,
    /// The mirror is lost: begin a new epoch of the log with what is there
    #[arg(long, requires = "reason")]
    new_epoch: bool,
    /// An age identity file that opens the backup, and root-key.age in it; repeat it if these are two
    #[arg(long = "identity", value_name = "FILE")]
    identities: Vec<PathBuf>,
    /// The root key, where the backup has no root-key.age
    #[arg(long, value_name = "FILE", requires = "backup")]
    root_key: Option<PathBuf>,
    /// The user that storaged runs as, who gets what --into makes
    #[arg(long, value_name = "USER", value_parser = crate::init::parse_system_user, requires = "into")]
    owner: Option<User>,
    /// Where the scratch directory is made: a local disk with room for the ledger and the keys
    #[arg(long, value_name = "DIR", requires = "verify")]
    scratch: Option<PathBuf>,
    /// Why a new epoch begins; it is recorded
    #[arg(long, value_name = "TEXT", requires = "new_epoch")]
    reason: Option<String>,
    /// The largest log that an edge has seen: SIZE:ROOT, from `culvert checkpoint show`
    #[arg(long, value_name = "SIZE:ROOT", value_parser = parse_seen, conflicts_with = "backup")]
    seen: Option<(u64, Hash)>,
    /// The machine lost power: go on without what cannot be read at the very end of the journal mirror
    #[arg(long, requires = "replay")]
    accept_torn_end: bool,
    /// storaged's configuration
    #[arg(long, value_name = "FILE", default_value = storaged::config::DEFAULT_PATH)]
    config: PathBuf,
}

fn parse_seen(text: &str) -> Result<(u64, Hash), String> {
    let (size, root) = text.split_once(':').ok_or("say SIZE:ROOT")?;
    let size = size.parse().map_err(|error| format!("{size}: {error}"))?;
    let root = Hash::parse(root).ok_or("the root is 44 characters of base64")?;
    Ok((size, root))
}

pub(crate) fn run(arguments: &RestoreArguments, console: Console) -> Result<(), Failure> {
    match (&arguments.backup, &arguments.into) {
        (Some(backup), Some(into)) => restore(arguments, backup, into, console),
        (Some(backup), None) => verify(arguments, backup, console),
        (None, _) if arguments.replay => replay(arguments, console),
        (None, _) => new_epoch(arguments, console),
    }
}

fn replay(arguments: &RestoreArguments, console: Console) -> Result<(), Failure> {
    let known = Known { seen: arguments.seen, torn_end: arguments.accept_torn_end };
    let forward = storaged::restore::replay_mirror(&arguments.config, &Environment::of_process(), known)
        .map_err(|error| Failure::failed(error.to_string()))?;
    let replayed = forward.replayed;
    let told = json!({
        "groups": replayed.groups,
        "records_before": replayed.records_before,
        "records": replayed.records,
        "bytes_left_behind": replayed.left_behind.as_ref().map_or(0, |left| left.bytes),
        "nothing_is_missing": forward.doubt.is_none(),
    });
    console.report(&told, |_| match replayed.groups {
        0 => format!("the ledger holds all that its mirror does: {} records", replayed.records),
        groups => format!(
            "{groups} groups of commands done again: {} records before, {} now",
            replayed.records_before, replayed.records
        ),
    })?;
    match forward.doubt {
        None => Ok(()),
        Some(doubt) => Err(Failure::failed(doubt.to_string())),
    }
}

fn new_epoch(arguments: &RestoreArguments, console: Console) -> Result<(), Failure> {
    let wanted = NewEpoch {
        reason: arguments.reason.clone().unwrap_or_default(),
        seen: arguments.seen,
        origin: Origin { caller: Some(format!("uid={}", User::current().uid)), ..Origin::default() },
    };
    let opened = storaged::restore::new_epoch(&arguments.config, &Environment::of_process(), wanted)
        .map_err(|error| Failure::failed(error.to_string()))?;
    let told = json!({
        "epoch": opened.epoch,
        "record": opened.record,
        "operations_ended": opened.ended,
        "journal_aside": opened.journal_aside,
        "old_size": opened.old_size,
    });
    console.report(&told, |_| {
        let mut text = format!(
            "epoch {} of the log begins with record {}; {} open operations were ended, what they had on the volumes is \
             kept\non each edge: culvert checkpoint accept --epoch {}\nwhat this store does not know: culvert volume \
             unclaimed; then culvert backup make",
            opened.epoch, opened.record, opened.ended, opened.epoch
        );
        if let Some(aside) = &opened.journal_aside {
            text.push_str(&format!("\nthe old journal mirror is kept as {}", aside.display()));
        }
        text
    })
}

/// Opens a backup into `directory`, with its root key: from the backup, or from the file that was named.
fn open(
    arguments: &RestoreArguments,
    backup: &Path,
    directory: &Path,
    console: Console,
) -> Result<(Unpacked, Option<RootKey>), Failure> {
    let mut identities = Vec::new();
    let given = arguments.root_key.as_ref().map(|path| RootKey::read(&path.display().to_string()));
    let given = given.transpose().map_err(|error| Failure::usage(error.to_string()))?;
    for path in &arguments.identities {
        let found = recovery::identities(path).map_err(|error| Failure::usage(error.to_string()))?;
        identities.extend(found);
    }
    let total = std::fs::metadata(backup).map(|metadata| metadata.len()).ok();
    let mut progress = Progress::start("restore".to_owned(), total, console.progress_style());
    let mut read = 0;
    let unpacked = unpack(backup, &identities, directory, &mut |bytes| {
        read = bytes;
        progress.set(bytes);
    });
    let unpacked = unpacked.map_err(|error| {
        let refused = matches!(error, UnpackError::NotEmpty(_));
        if refused { Failure::refused(error.to_string()) } else { Failure::failed(error.to_string()) }
    })?;
    progress.finish(read);
    let root = match given {
        Some(root) => Some(root),
        None => unpacked.root_key(&identities).map_err(|error| {
            unpacked.discard(directory);
            Failure::failed(error.to_string())
        })?,
    };
    Ok((unpacked, root))
}

/// A directory that is gone when this is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn verify(arguments: &RestoreArguments, backup: &Path, console: Console) -> Result<(), Failure> {
    let parent = arguments.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let id = tables::random_id().map_err(|error| Failure::failed(error.to_string()))?;
    let scratch = Scratch(parent.join(format!("culvert-verify-{id}")));
    let (unpacked, root) = open(arguments, backup, &scratch.0, console)?;
    let Some(root) = root else {
        return Err(Failure::cannot_tell(
            "the backup is whole, and nothing in it can be opened: it holds no root-key.age. Say --root-key FILE",
        ));
    };
    let records = unpacked.head.records;
    let mut progress = Progress::start("check records".to_owned(), Some(records), console.progress_style());
    let checked = check(&scratch.0.join(STATE), root, &unpacked.head, &mut |done| progress.set(done));
    let checked = checked.map_err(|error| match &error {
        CheckError::Keys(_) | CheckError::Ledger(_) | CheckError::Read(_) | CheckError::FileKeys(_) => {
            Failure::failed(error.to_string())
        }
    })?;
    progress.finish(records);
    told(&unpacked, &checked, console)?;
    match checked.findings.len() as u64 + checked.more_findings {
        0 => Ok(()),
        findings => {
            Err(Failure::failed(format!("{findings} findings: this backup does not give the store back")))
        }
    }
}

fn told(unpacked: &Unpacked, checked: &Checked, console: Console) -> Result<(), Failure> {
    let head = &unpacked.head;
    let value = json!({
        "backup": head.backup_id,
        "store": head.store_id,
        "made": tables::rfc3339(head.made_ms),
        "made_by": head.made_by,
        "checkpoint": head.checkpoint,
        "log_key": head.log_key,
        "keys_epoch": head.keys_epoch,
        "records": checked.records,
        "destroyed_records": checked.destroyed_records,
        "rows": checked.rows,
        "files": checked.files,
        "file_keys": checked.file_keys,
        "parts": unpacked.manifest.parts,
        "findings": checked.findings,
        "more_findings": checked.more_findings,
    });
    console.report(&value, |_| {
        let bytes = unpacked.manifest.parts.iter().map(|part| part.bytes).sum();
        let mut text = format!(
            "backup {} of store {}, made {}, {}\n{} records are what the log committed to, and {} of deleted files are \
             leaves\n{} rows and {} file keys open; {} files have all their keys",
            head.backup_id,
            head.store_id,
            tables::rfc3339(head.made_ms),
            human_bytes(bytes),
            checked.records,
            checked.destroyed_records,
            checked.rows,
            checked.file_keys,
            checked.files
        );
        for finding in &checked.findings {
            text.push_str(&format!("\nFINDING {finding}"));
        }
        text
    })
}

fn restore(
    arguments: &RestoreArguments,
    backup: &Path,
    into: &Path,
    console: Console,
) -> Result<(), Failure> {
    let (unpacked, root) = open(arguments, backup, into, console)?;
    let failed = |error: UnpackError| Failure::failed(error.to_string());
    let head = &unpacked.head;
    let marker = Restored { backup_id: head.backup_id, made_ms: head.made_ms };
    let marker = serde_json::to_vec(&marker).map_err(|error| Failure::failed(error.to_string()))?;
    write_new(&into.join(STATE).join(RESTORED_FILE), &marker, 0o600).map_err(failed)?;
    let has_root = root.is_some();
    if let Some(root) = root {
        write_new(&into.join("root.key"), root.to_text().as_bytes(), 0o400).map_err(failed)?;
    }
    if let Some(owner) = arguments.owner {
        give(into, owner)?;
    }
    let told = json!({
        "backup": head.backup_id,
        "store": head.store_id,
        "made": tables::rfc3339(head.made_ms),
        "records": head.records,
        "into": into,
        "root_key": has_root,
    });
    console.report(&told, |_| {
        let root = if has_root { "" } else { "\nthe root key is not in it: bring root.key along" };
        format!(
            "{}: state/, storaged.toml and the keys of store {} as of {}{root}\nput them where storaged.toml says; then \
             culvert restore --replay (or, where the journal mirror is lost, --new-epoch)",
            into.display(),
            head.store_id,
            tables::rfc3339(head.made_ms)
        )
    })
}

/// Gives everything that was made to whoever runs storaged; what only root should write stays readable alone.
fn give(into: &Path, owner: User) -> Result<(), Failure> {
    let state = into.join(STATE);
    let entries = std::fs::read_dir(&state).map_err(|error| failed_on(&state, &error))?;
    let mut paths = vec![state.clone()];
    for entry in entries {
        paths.push(entry.map_err(|error| failed_on(&state, &error))?.path());
    }
    for path in &paths {
        chown(path, Some(owner.uid), Some(owner.gid)).map_err(|error| failed_on(path, &error))?;
    }
    for name in ["storaged.toml", "internal.key", "internal-next.key", "root.key"] {
        let path = into.join(name);
        if path.is_file() {
            let mode = if name == "root.key" { 0o440 } else { 0o640 };
            let given = chown(&path, None, Some(owner.gid))
                .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)));
            given.map_err(|error| failed_on(&path, &error))?;
        }
    }
    Ok(())
}

fn failed_on(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}
