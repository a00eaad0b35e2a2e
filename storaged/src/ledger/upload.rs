//! Area *upload*: a file comes in, in one stretch.
//!
//! **Invariant:** the intent is durable before the first byte is written; the file's row, its place in the
//! listing and its record come in one transaction, after the object is durable under its final name. Room in
//! the cohort's quota is reserved with the intent and given back with its end.

use std::collections::BTreeMap;

use store_proto::{Attributes, Cohort, ContentDigest, DERIVED_FROM, FileId, FileType, LogicalPath};

use crate::keys::KeyChange;
use crate::ledger::application::Application;
use crate::ledger::cleanup::{self, CleanupKind, Temporary};
use crate::ledger::command::Area;
use crate::ledger::files::{self, Arrival, FileRow, PartRow, Place};
use crate::ledger::intents::{self, Claim, Content, IntentKind, IntentRow};
use crate::ledger::record::{Action, Ending, Metadata, Origin, Phase};
use crate::ledger::repeat::{self, Said};
use crate::ledger::tables::CorruptError;
use crate::ledger::usage::{self, Bytes, Quota, Wanted};
use crate::limits::{CLEANUP_GRACE_MS, RESERVE_STEP_BYTES};

/// What is asked of this area.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "it moves through the queue once; a box is dearer than that")]
pub enum Command {
    /// An object is about to be written.
    Begin {
        /// Who asked.
        origin: Origin,
        /// What it will be.
        wanted: Announced,
        /// Its id.
        file_id: FileId,
        /// The object, and the volume that will hold it.
        claim: Claim,
        /// The file's keys.
        keys: Vec<KeyChange>,
        /// What the cohort may use.
        quota: Quota,
        /// What its sender calls the request.
        said: Option<Said>,
    },
    /// More bytes arrive than are reserved.
    Extend {
        /// From `Begun`.
        intent: u64,
        /// What the cohort may use.
        quota: Quota,
    },
    /// The object is published and durable: make it a file.
    Finish {
        /// From `Begun`.
        intent: u64,
        /// The object.
        part: PartRow,
        /// SHA-256 of the file.
        sha256: ContentDigest,
    },
    /// Close the intent without a file.
    Abandon {
        /// From `Begun`.
        intent: u64,
        /// How it ended.
        ending: Ending,
        /// Why.
        error: String,
        /// Bytes that had arrived.
        received: u64,
        /// Whether the object could not be removed from the volume: then a cleanup is asked for, until it is gone.
        left: bool,
        /// The file that its sender has instead, if it holds the same.
        instead: Option<FileId>,
    },
}

/// What an upload will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Where it goes.
    pub cohort: Cohort,
    /// Under which name.
    pub path: LogicalPath,
    /// What it is.
    pub content: Content,
    /// Its type.
    pub file_type: Option<FileType>,
    /// What the sender said beside that.
    pub attributes: Attributes,
    /// Its length, if the sender said.
    pub size: Option<u64>,
    /// The content that it replaces by a new version.
    pub replaces: Option<ContentDigest>,
    /// Whether it is held for a scanner.
    pub scan_required: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The intent stands.
    Begun {
        /// Under this index.
        intent: u64,
        /// Bytes that are reserved for it.
        reserved: u64,
    },
    /// So many bytes are reserved now.
    Extended {
        /// In all.
        reserved: u64,
    },
    /// The cohort's quota is used up.
    OverQuota,
    /// A request with the same key was faster.
    KeyTaken,
    /// The file is part of the store.
    Stored(Box<FileRow>),
    /// Another file has the path. **The intent stays open** until the object is removed and the upload
    /// abandoned, so that a crash in between still finds the object.
    PathTaken(Box<FileRow>),
    /// What was to be replaced is not what is there. The intent stays open likewise.
    NotThere,
    /// Closed without a file; the index of the last record.
    Abandoned(u64),
    /// There is no such open intent.
    UnknownIntent,
}

impl Area for Command {
    fn new_keys(&self) -> &[KeyChange] {
        match self {
            Command::Begin { keys, .. } => keys,
            Command::Extend { .. } | Command::Finish { .. } | Command::Abandon { .. } => &[],
        }
    }

    /// A sender who is told that the file is stored, or that the path holds it already, may delete his own.
    fn waits_for_mirror(&self) -> bool {
        match self {
            Command::Finish { .. } | Command::Abandon { .. } => true,
            Command::Begin { .. } | Command::Extend { .. } => false,
        }
    }

    fn leads_to_waiting(&self) -> bool {
        matches!(self, Command::Begin { .. })
    }
}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        match self {
            Command::Begin { origin, wanted, file_id, claim, keys: _, quota, said } => {
                begin(app, origin, wanted, Beginning { file_id, claim, quota, said })
            }
            Command::Extend { intent, quota } => extend(app, intent, quota),
            Command::Finish { intent, part, sha256 } => finish(app, intent, part, sha256),
            Command::Abandon { intent, ending, error, received, left, instead } => {
                let Some(row) = intents::take(app, intent, IntentKind::Upload)? else {
                    return Ok(Outcome::UnknownIntent);
                };
                let objects = if left { Objects::Left } else { Objects::Gone };
                let closing = Closing { ending, error, received: Some(received), objects, instead };
                close(app, intent, &row, closing).map(Outcome::Abandoned)
            }
        }
    }
}

/// What is drawn and decided for an upload.
struct Beginning {
    file_id: FileId,
    claim: Claim,
    quota: Quota,
    said: Option<Said>,
}

fn begin(
    app: &mut Application<'_, '_>,
    origin: Origin,
    wanted: Announced,
    beginning: Beginning,
) -> Result<Outcome, CorruptError> {
    let Beginning { file_id, claim, quota, said } = beginning;
    let bytes = wanted.size.map_or(Bytes::UpTo(RESERVE_STEP_BYTES), Bytes::Exactly);
    let Some(reserved) = usage::reserve(app, &wanted.cohort, quota, Wanted { bytes, file: true })? else {
        return Ok(Outcome::OverQuota);
    };
    let key = match said {
        None => None,
        Some(said) => match repeat::claim(app, &said, file_id, None)? {
            Some(key) => Some(key),
            None => {
                usage::release(app, &wanted.cohort, reserved)?;
                return Ok(Outcome::KeyTaken);
            }
        },
    };
    let row = IntentRow {
        attributes: wanted.attributes,
        claim: Some(claim),
        cohort: wanted.cohort,
        content: wanted.content,
        file_id,
        file_type: wanted.file_type,
        key,
        kind: IntentKind::Upload,
        origin,
        path: wanted.path,
        replaces: wanted.replaces,
        reserved_bytes: reserved,
        scan_required: wanted.scan_required,
        upload: None,
        v: 1,
    };
    let intent = intents::open(app, row.content.arriving(), &row, None)?;
    Ok(Outcome::Begun { intent, reserved })
}

fn extend(app: &mut Application<'_, '_>, intent: u64, quota: Quota) -> Result<Outcome, CorruptError> {
    let Some(mut row) = intents::find(app, intent, IntentKind::Upload)? else {
        return Ok(Outcome::UnknownIntent);
    };
    let wanted = Wanted { bytes: Bytes::UpTo(RESERVE_STEP_BYTES), file: false };
    let Some(more) = usage::reserve(app, &row.cohort, quota, wanted)? else { return Ok(Outcome::OverQuota) };
    row.reserved_bytes = row.reserved_bytes.saturating_add(more);
    intents::change(app, intent, &row)?;
    Ok(Outcome::Extended { reserved: row.reserved_bytes })
}

fn finish(
    app: &mut Application<'_, '_>,
    intent: u64,
    part: PartRow,
    sha256: ContentDigest,
) -> Result<Outcome, CorruptError> {
    let Some(row) = intents::find(app, intent, IntentKind::Upload)? else {
        return Ok(Outcome::UnknownIntent);
    };
    if files::find(app, row.file_id)?.is_some() {
        return Err(CorruptError::Row(format!("file {} is stored and has an open intent", row.file_id)));
    }
    let arrival = Arrival {
        cohort: row.cohort.clone(),
        path: row.path.clone(),
        file_id: row.file_id,
        file_type: row.file_type.clone(),
        attributes: row.attributes.clone(),
        parts: vec![part],
        sha256,
        replaces: row.replaces,
        scan_required: row.scan_required,
    };
    match files::place(app, &arrival)? {
        Place::Free(version, previous) => {
            intents::take(app, intent, IntentKind::Upload)?;
            usage::release(app, &row.cohort, row.reserved_bytes)?;
            let file = store(app, intent, &row, arrival, (version, previous))?;
            Ok(Outcome::Stored(Box::new(file)))
        }
        Place::Taken(existing) => Ok(Outcome::PathTaken(existing)),
        Place::NotThere => Ok(Outcome::NotThere),
    }
}

/// Records that the file is here, and makes it one.
pub(crate) fn store(
    app: &mut Application<'_, '_>,
    intent: u64,
    row: &IntentRow,
    arrival: Arrival,
    version: (u32, Option<FileId>),
) -> Result<FileRow, CorruptError> {
    let mut created = intents::about(app, row.content.created(), Phase::Outcome, row);
    created.ending = Some(Ending::Succeeded);
    created.intent = Some(intent);
    created.size = Some(arrival.parts.iter().map(|part| part.size).sum());
    created.sha256 = Some(arrival.sha256);
    // What it was made from: its record is the one that this follows.
    let source = arrival.attributes.get(DERIVED_FROM).and_then(|id| FileId::parse(id).ok());
    if let Some(source) = source {
        created.parent = files::find(app, source)?.map(|file| file.ledger_index);
    }
    // So it stands in the receipt too.
    created.metadata = Metadata::from(BTreeMap::from(arrival.attributes.clone()));
    if version.0 > 1 {
        created.detail = Some(format!("version {}", version.0));
    }
    let mut streamed = created.clone();
    let ledger_index = app.append(created)?;
    if row.content.arriving() != row.content.created() {
        streamed.action = row.content.arriving();
        app.append(streamed)?;
    }
    let file = files::add(app, arrival, version, ledger_index)?;
    repeat::answered(app, row.key, file.file_id, repeat::State::Made)?;
    Ok(file)
}

/// What is on the volume of an upload that ends without a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Objects {
    /// Nothing.
    Gone,
    /// What could not be removed.
    Left,
}

/// The end of an upload that made no file.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) ending: Ending,
    pub(crate) error: String,
    pub(crate) received: Option<u64>,
    pub(crate) objects: Objects,
    /// The file that its sender has instead, if it holds the same.
    pub(crate) instead: Option<FileId>,
}

/// Records the end of an upload that made no file, and lets go of what it held.
pub(crate) fn close(
    app: &mut Application<'_, '_>,
    intent: u64,
    row: &IntentRow,
    Closing { ending, error, received, objects, instead }: Closing,
) -> Result<u64, CorruptError> {
    usage::release(app, &row.cohort, row.reserved_bytes)?;
    match instead {
        Some(file) => repeat::answered(app, row.key, file, repeat::State::Found)?,
        None => repeat::free(app, row.key)?,
    }
    if let Some(claim) = &row.claim {
        app.destroy_keys(KeyChange::DestroySlot { file: row.file_id, slot: claim.part });
    }
    match (objects, row.claim) {
        (Objects::Left, Some(claim)) => {
            let temporary = Temporary {
                kind: CleanupKind::UnfinishedObject,
                cohort: Some(row.cohort.clone()),
                file_id: row.file_id,
                object: claim.object,
                volume: claim.volume,
                expected_by_ms: app.now_ms().saturating_add(CLEANUP_GRACE_MS),
            };
            cleanup::require(app, row.origin.clone(), temporary)?;
        }
        (Objects::Left, None) | (Objects::Gone, _) => {
            let mut cleaned = intents::about(app, Action::ScratchCleanup, Phase::Outcome, row);
            cleaned.ending = Some(Ending::Succeeded);
            cleaned.intent = Some(intent);
            app.append(cleaned)?;
        }
    }
    let mut record = intents::about(app, row.content.arriving(), Phase::Outcome, row);
    record.ending = Some(ending);
    record.intent = Some(intent);
    record.error = Some(error);
    record.size = received;
    app.append(record)
}
