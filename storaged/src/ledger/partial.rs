//! Area *partial*: a file comes in in stretches, over broken connections and over starts.
//!
//! **Invariant:** the offset that a client is told is durable: behind it stand published objects and, of what
//! fills no segment yet, the tail in the row, which is sealed anew with each row. The state of the hash is of
//! exactly these bytes. A stretch that is being written is the intent's claim: a start removes its object and
//! the client goes on at the offset before it. A stretch has a part number, and so a key, that no stretch had
//! before, whether that one was kept or given up.

mod look;
mod row;

use store_proto::{ContentDigest, FileId, UserName};

use crate::keys::KeyChange;
use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::files::{self, Arrival, FileRow, OBJECTS, PartRow, Place};
use crate::ledger::intents::{self, Claim, IntentKind, IntentRow};
use crate::ledger::record::{Action, Ending, Origin};
use crate::ledger::repeat::{self, Said};
use crate::ledger::state::{StateTable, View};
use crate::ledger::tables::{CorruptError, Counter};
use crate::ledger::upload::{self, Announced, Closing};
use crate::ledger::usage::{self, Bytes, Quota, Wanted};
use crate::limits::{MAX_PARTS, RESERVE_STEP_BYTES, UPLOADS_PER_USER};

use look::{of_user_prefix, part_key};

pub(crate) use look::{of_user, parts, some};
pub use row::{Blob, PartialRow};

/// Upload id → how far it is.
pub const PARTIAL: StateTable<PartialRow> = StateTable::new("partial");
/// Upload id ‖ number of the part, big-endian → the part.
pub const PARTIAL_PARTS: StateTable<PartRow> = StateTable::new("partial_parts");
/// The user, blinded ‖ upload id → the upload id: which uploads of a user have not ended.
const OF_USER: StateTable<FileId> = StateTable::new("partial_of_user");

/// What is asked of this area. All but `Create` name an upload.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "it moves through the queue once; a box is dearer than that")]
pub enum Command {
    /// Begin.
    Create {
        /// Who asked.
        origin: Origin,
        /// Whose it is.
        user: UserName,
        /// What it will be; `size` may be unknown.
        wanted: Announced,
        /// What the whole must have, if it was said.
        sha256: Option<ContentDigest>,
        /// The upload's id.
        upload: FileId,
        /// The file's id.
        file_id: FileId,
        /// The file's record key.
        keys: Vec<KeyChange>,
        /// What the cohort may use.
        quota: Quota,
        /// When it is given up.
        expires_ms: u64,
        /// `Upload-Metadata`.
        metadata: Option<String>,
        /// What its sender calls the request.
        said: Option<Said>,
    },
    /// A stretch is about to be written.
    Start {
        /// The upload.
        upload: FileId,
        /// Where the sender goes on.
        offset: u64,
        /// The length of the file, if the sender says it only now.
        length: Option<u64>,
        /// The object and its part number.
        claim: Claim,
        /// The part's key.
        keys: Vec<KeyChange>,
        /// What the cohort may use.
        quota: Quota,
        /// Bytes that must fit: a body with a checksum is taken as a whole or not at all.
        at_least: u64,
    },
    /// A stretch has ended, well or by a break: what arrived is durable.
    Save {
        /// The upload.
        upload: FileId,
        /// The published object; none: it all fits the tail.
        part: Option<PartRow>,
        /// What is in no part.
        tail: Blob,
        /// The state of the hash.
        hash: Blob,
        /// Where the sender goes on.
        offset: u64,
        /// When it is given up.
        expires_ms: u64,
    },
    /// The stretch that was being written is removed from the volume.
    GiveUp {
        /// The upload.
        upload: FileId,
    },
    /// All bytes are there: make it a file.
    Finish {
        /// The upload.
        upload: FileId,
        /// SHA-256 of the file.
        sha256: ContentDigest,
        /// When it is forgotten.
        expires_ms: u64,
    },
    /// Its objects are about to be removed: from here on it can only be ended.
    Condemn {
        /// The upload.
        upload: FileId,
    },
    /// Nothing of it is left on the volumes: end it.
    Abandon {
        /// The upload.
        upload: FileId,
        /// How it ended.
        ending: Ending,
        /// Why.
        error: String,
        /// The file that its sender has instead, if it holds the same.
        instead: Option<FileId>,
    },
    /// A finished one has expired.
    Forget {
        /// The upload.
        upload: FileId,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It stands.
    Created(Box<PartialRow>),
    /// The stretch may be written: so many bytes of it at most.
    Started {
        /// How far it is.
        row: Box<PartialRow>,
        /// Bytes that may follow.
        room: u64,
    },
    /// The sender must go on here.
    WrongOffset(u64),
    /// A length was said before, or less than has arrived.
    WrongLength,
    /// A stretch is being written, or was when it broke; its object is to be removed first.
    Claimed(Claim),
    /// There are as many parts as a file may have: only longer stretches are taken.
    TooManyParts,
    /// The cohort's quota is used up.
    OverQuota,
    /// The user has as many uploads under way as may be.
    TooManyUploads,
    /// A request with the same key was faster.
    KeyTaken,
    /// How far it is now.
    Saved(Box<PartialRow>),
    /// The file is part of the store.
    Stored(Box<FileRow>),
    /// Another file has the path; nothing has changed.
    PathTaken(Box<FileRow>),
    /// What was to be replaced is not what is there; nothing has changed.
    NotThere,
    /// Bytes are missing.
    Incomplete(u64),
    /// Closed without a file of its own; the index of the last record.
    Abandoned(u64),
    /// The marker is gone.
    Forgotten,
    /// It has become a file.
    Finished(Box<PartialRow>),
    /// There is no such upload.
    Unknown,
}

impl Area for Command {
    fn new_keys(&self) -> &[KeyChange] {
        match self {
            Command::Create { keys, .. } | Command::Start { keys, .. } => keys,
            Command::Save { .. }
            | Command::GiveUp { .. }
            | Command::Finish { .. }
            | Command::Condemn { .. }
            | Command::Abandon { .. }
            | Command::Forget { .. } => &[],
        }
    }

    /// A sender who is told an offset may delete what is before it; what is condemned is gone, whatever becomes of
    /// the ledger.
    fn waits_for_mirror(&self) -> bool {
        match self {
            Command::Save { .. }
            | Command::Finish { .. }
            | Command::Condemn { .. }
            | Command::Abandon { .. } => true,
            Command::Create { .. }
            | Command::Start { .. }
            | Command::GiveUp { .. }
            | Command::Forget { .. } => false,
        }
    }

    fn leads_to_waiting(&self) -> bool {
        matches!(self, Command::Create { .. } | Command::Start { .. })
    }
}

/// An open upload: its row and its intent's.
struct Open {
    upload: FileId,
    row: PartialRow,
    intent: IntentRow,
}

impl Command {
    fn upload(&self) -> FileId {
        match self {
            Command::Create { upload, .. }
            | Command::Start { upload, .. }
            | Command::Save { upload, .. }
            | Command::GiveUp { upload }
            | Command::Finish { upload, .. }
            | Command::Condemn { upload }
            | Command::Abandon { upload, .. }
            | Command::Forget { upload } => *upload,
        }
    }

    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        let upload = self.upload();
        let open = match app.get(&PARTIAL, upload.as_bytes())? {
            None => None,
            Some(row) if row.finished => {
                return match self {
                    Command::Forget { .. } => {
                        app.delete(&PARTIAL, upload.as_bytes())?;
                        Ok(Outcome::Forgotten)
                    }
                    _other @ (Command::Create { .. }
                    | Command::Start { .. }
                    | Command::Save { .. }
                    | Command::GiveUp { .. }
                    | Command::Finish { .. }
                    | Command::Condemn { .. }
                    | Command::Abandon { .. }) => Ok(Outcome::Finished(Box::new(row))),
                };
            }
            Some(row) => {
                let intent = intents::find(app, row.intent, IntentKind::Partial)?;
                let intent =
                    intent.ok_or_else(|| CorruptError::Row(format!("upload {upload} has no open intent")))?;
                Some(Open { upload, row, intent })
            }
        };
        match (self, open) {
            (
                Command::Create {
                    origin,
                    user,
                    wanted,
                    sha256,
                    file_id,
                    keys: _,
                    quota,
                    expires_ms,
                    metadata,
                    said,
                    ..
                },
                None,
            ) => {
                let now = Created { user, sha256, upload, file_id, expires_ms, metadata, said };
                create(app, origin, wanted, quota, now)
            }
            (Command::Create { .. }, Some(_)) => {
                Err(CorruptError::Row(format!("upload {upload} was drawn twice")))
            }
            (_, None) => Ok(Outcome::Unknown),
            (Command::Start { .. } | Command::Save { .. } | Command::Finish { .. }, Some(open))
                if open.row.condemned =>
            {
                Ok(Outcome::Unknown)
            }
            (Command::Start { offset, length, claim, keys: _, quota, at_least, .. }, Some(open)) => {
                let wanted = Stretch { offset, length, at_least, quota };
                open.start(app, wanted, claim)
            }
            (Command::Save { part, tail, hash, offset, expires_ms, .. }, Some(open)) => {
                open.save(app, part, Saved { tail, hash, offset, expires_ms })
            }
            (Command::GiveUp { .. }, Some(mut open)) => {
                open.give_up(app)?;
                Ok(Outcome::Saved(Box::new(open.row)))
            }
            (Command::Finish { sha256, expires_ms, .. }, Some(open)) => open.finish(app, sha256, expires_ms),
            (Command::Condemn { .. }, Some(mut open)) => {
                open.row.condemned = true;
                open.write(app)?;
                Ok(Outcome::Saved(Box::new(open.row)))
            }
            (Command::Abandon { ending, error, instead, .. }, Some(open)) => {
                open.abandon(app, ending, error, instead)
            }
            (Command::Forget { .. }, Some(_)) => Ok(Outcome::Unknown),
        }
    }
}

/// What a new row begins with.
struct Created {
    user: UserName,
    sha256: Option<ContentDigest>,
    upload: FileId,
    file_id: FileId,
    expires_ms: u64,
    metadata: Option<String>,
    said: Option<Said>,
}

fn create(
    app: &mut Application<'_, '_>,
    origin: Origin,
    wanted: Announced,
    quota: Quota,
    created: Created,
) -> Result<Outcome, CorruptError> {
    let prefix = of_user_prefix(app, &created.user);
    if app.scan(&OF_USER, &prefix, None, UPLOADS_PER_USER)?.len() >= UPLOADS_PER_USER {
        return Ok(Outcome::TooManyUploads);
    }
    let bytes = wanted.size.map_or(Bytes::UpTo(RESERVE_STEP_BYTES), Bytes::Exactly);
    let Some(reserved) = usage::reserve(app, &wanted.cohort, quota, Wanted { bytes, file: true })? else {
        return Ok(Outcome::OverQuota);
    };
    let key = match &created.said {
        None => None,
        Some(said) => match repeat::claim(app, said, created.file_id, Some(created.upload))? {
            Some(key) => Some(key),
            None => {
                usage::release(app, &wanted.cohort, reserved)?;
                return Ok(Outcome::KeyTaken);
            }
        },
    };
    app.put(&OF_USER, &[prefix.as_slice(), created.upload.as_bytes()].concat(), &created.upload)?;
    let intent = IntentRow {
        attributes: wanted.attributes,
        claim: None,
        cohort: wanted.cohort,
        content: wanted.content,
        file_id: created.file_id,
        file_type: wanted.file_type,
        key,
        kind: IntentKind::Partial,
        origin,
        path: wanted.path,
        replaces: wanted.replaces,
        reserved_bytes: reserved,
        scan_required: wanted.scan_required,
        upload: Some(created.upload),
        v: 1,
    };
    let intent = intents::open(app, Action::FileUploadedViaStream, &intent, Some("resumable".into()))?;
    let row = PartialRow {
        condemned: false,
        created_ms: app.now_ms(),
        expires_ms: created.expires_ms,
        file_id: created.file_id,
        finished: false,
        hash: None,
        intent,
        length: wanted.size,
        metadata: created.metadata,
        next_part: 1,
        offset: 0,
        parts: 0,
        sha256: created.sha256,
        tail: Blob::default(),
        user: created.user,
        v: 1,
    };
    app.put_about(&PARTIAL, created.upload.as_bytes(), row.file_id, &row)?;
    app.count(Counter::PartialUploads, 1)?;
    Ok(Outcome::Created(Box::new(row)))
}

/// What is wanted of a stretch.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    offset: u64,
    length: Option<u64>,
    at_least: u64,
    quota: Quota,
}

/// What a stretch leaves.
struct Saved {
    tail: Blob,
    hash: Blob,
    offset: u64,
    expires_ms: u64,
}

impl Open {
    fn start(
        mut self,
        app: &mut Application<'_, '_>,
        wanted: Stretch,
        claim: Claim,
    ) -> Result<Outcome, CorruptError> {
        let Stretch { offset, length, at_least, quota } = wanted;
        if let Some(claim) = self.intent.claim {
            return Ok(Outcome::Claimed(claim));
        }
        if offset != self.row.offset || claim.part != self.row.next_part {
            return Ok(Outcome::WrongOffset(self.row.offset));
        }
        if self.row.parts >= MAX_PARTS {
            return Ok(Outcome::TooManyParts);
        }
        let length = match (self.row.length, length) {
            (Some(known), Some(said)) if known != said => return Ok(Outcome::WrongLength),
            (None, Some(said)) if said < offset => return Ok(Outcome::WrongLength),
            (known, said) => known.or(said),
        };
        let free = self.intent.reserved_bytes.saturating_sub(offset);
        let wanted = match length {
            Some(length) => Some(Bytes::Exactly(length.saturating_sub(self.intent.reserved_bytes))),
            None if at_least > free => Some(Bytes::Exactly(at_least - free)),
            None if free > 0 => None,
            None => Some(Bytes::UpTo(RESERVE_STEP_BYTES)),
        };
        if let Some(bytes) = wanted {
            let Some(more) = usage::reserve(app, &self.intent.cohort, quota, Wanted { bytes, file: false })?
            else {
                return Ok(Outcome::OverQuota);
            };
            self.intent.reserved_bytes = self.intent.reserved_bytes.saturating_add(more);
        }
        let room = length.unwrap_or(self.intent.reserved_bytes).saturating_sub(offset);
        self.intent.claim = Some(claim);
        self.row.length = length;
        self.row.next_part += 1;
        self.write(app)?;
        Ok(Outcome::Started { row: Box::new(self.row), room })
    }

    fn save(
        mut self,
        app: &mut Application<'_, '_>,
        part: Option<PartRow>,
        saved: Saved,
    ) -> Result<Outcome, CorruptError> {
        let claimed = self.intent.claim.map(|claim| (claim.object, claim.part, claim.volume));
        match part {
            None => self.release_claim(app),
            Some(part) if claimed == Some((part.object, part.part, part.volume)) => {
                app.put_about(&PARTIAL_PARTS, &part_key(self.upload, part.part), self.row.file_id, &part)?;
                app.put(&OBJECTS, part.object.as_bytes(), &self.row.file_id)?;
                self.row.parts += 1;
                self.intent.claim = None;
            }
            Some(part) => {
                return Err(CorruptError::Row(format!("object {} was not claimed", part.object)));
            }
        }
        self.row.tail = saved.tail;
        self.row.hash = Some(saved.hash);
        self.row.offset = saved.offset;
        self.row.expires_ms = saved.expires_ms;
        self.write(app)?;
        Ok(Outcome::Saved(Box::new(self.row)))
    }

    fn give_up(&mut self, app: &mut Application<'_, '_>) -> Result<(), CorruptError> {
        self.release_claim(app);
        self.write(app)
    }

    /// The key of a stretch that left no object opens nothing.
    fn release_claim(&mut self, app: &mut Application<'_, '_>) {
        if let Some(claim) = self.intent.claim.take() {
            app.destroy_keys(KeyChange::DestroySlot { file: self.row.file_id, slot: claim.part });
        }
    }

    fn finish(
        mut self,
        app: &mut Application<'_, '_>,
        sha256: ContentDigest,
        expires_ms: u64,
    ) -> Result<Outcome, CorruptError> {
        if let Some(claim) = self.intent.claim {
            return Ok(Outcome::Claimed(claim));
        }
        if !self.row.is_whole() {
            return Ok(Outcome::Incomplete(self.row.offset));
        }
        let arrival = Arrival {
            cohort: self.intent.cohort.clone(),
            path: self.intent.path.clone(),
            file_id: self.row.file_id,
            file_type: self.intent.file_type.clone(),
            attributes: self.intent.attributes.clone(),
            parts: parts(app, self.upload)?,
            sha256,
            replaces: self.intent.replaces,
            scan_required: self.intent.scan_required,
        };
        let version = match files::place(app, &arrival)? {
            Place::Free(version, previous) => (version, previous),
            Place::Taken(existing) => return Ok(Outcome::PathTaken(existing)),
            Place::NotThere => return Ok(Outcome::NotThere),
        };
        intents::take(app, self.row.intent, IntentKind::Partial)?;
        app.count(Counter::PartialUploads, -1)?;
        usage::release(app, &self.intent.cohort, self.intent.reserved_bytes)?;
        let file = upload::store(app, self.row.intent, &self.intent, arrival, version)?;
        self.end(app, file.file_id, expires_ms)?;
        Ok(Outcome::Stored(Box::new(file)))
    }

    fn abandon(
        mut self,
        app: &mut Application<'_, '_>,
        ending: Ending,
        error: String,
        instead: Option<FileId>,
    ) -> Result<Outcome, CorruptError> {
        let intent = self.row.intent;
        intents::take(app, intent, IntentKind::Partial)?;
        app.count(Counter::PartialUploads, -1)?;
        for part in parts(app, self.upload)? {
            app.delete(&OBJECTS, part.object.as_bytes())?;
            app.destroy_keys(KeyChange::DestroySlot { file: self.row.file_id, slot: part.part });
        }
        let row = self.intent.clone();
        let closing = Closing {
            ending,
            error,
            received: Some(self.row.offset),
            objects: upload::Objects::Gone,
            instead,
        };
        let index = upload::close(app, intent, &row, closing)?;
        match instead {
            Some(file) => {
                let expires_ms = self.row.expires_ms;
                self.end(app, file, expires_ms)?;
            }
            None => {
                self.forget_parts(app)?;
                self.forget_user(app)?;
                app.delete(&PARTIAL, self.upload.as_bytes())?;
            }
        }
        Ok(Outcome::Abandoned(index))
    }

    /// Leaves the marker that answers a client who missed the end. It outlives the file's keys if the file is
    /// deleted, so it lies under the store's and says nothing of the content.
    fn end(
        &mut self,
        app: &mut Application<'_, '_>,
        file: FileId,
        expires_ms: u64,
    ) -> Result<(), CorruptError> {
        self.forget_parts(app)?;
        self.forget_user(app)?;
        self.row.condemned = false;
        self.row.finished = true;
        self.row.file_id = file;
        self.row.hash = None;
        self.row.metadata = None;
        self.row.sha256 = None;
        self.row.tail = Blob::default();
        self.row.expires_ms = expires_ms;
        app.put(&PARTIAL, self.upload.as_bytes(), &self.row)
    }

    fn forget_user(&self, app: &mut Application<'_, '_>) -> Result<(), CorruptError> {
        let prefix = of_user_prefix(app, &self.row.user);
        app.delete(&OF_USER, &[prefix.as_slice(), self.upload.as_bytes()].concat()).map(drop)
    }

    fn forget_parts(&self, app: &mut Application<'_, '_>) -> Result<(), CorruptError> {
        for (key, _) in app.scan(&PARTIAL_PARTS, self.upload.as_bytes(), None, usize::MAX)? {
            app.delete(&PARTIAL_PARTS, &key)?;
        }
        Ok(())
    }

    fn write(&self, app: &mut Application<'_, '_>) -> Result<(), CorruptError> {
        intents::change(app, self.row.intent, &self.intent)?;
        app.put_about(&PARTIAL, self.upload.as_bytes(), self.row.file_id, &self.row)
    }
}

/// A process died in the midst of a stretch, whose object is gone: the upload goes on before it.
pub(crate) fn crashed(
    app: &mut Application<'_, '_>,
    intent: u64,
    row: &IntentRow,
) -> Result<intents::Outcome, CorruptError> {
    if let Some(claim) = row.claim {
        app.destroy_keys(KeyChange::DestroySlot { file: row.file_id, slot: claim.part });
        intents::change(app, intent, &IntentRow { claim: None, ..row.clone() })?;
    }
    Ok(intents::Outcome::Resumable)
}
