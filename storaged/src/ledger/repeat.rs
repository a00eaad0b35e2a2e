//! Area *repeat*: requests that their senders gave a name to, so that a second one is answered as the first was.
//!
//! A key is remembered with the request that it named, from its beginning on: while that is under way another one with
//! the same key is not begun, and when it has made a file that file is the answer, for a day. What ends in any other
//! way frees its key.
//!
//! **Invariant:** neither key nor request stands here, only what both together are blinded to: without the client's
//! own key nobody can try names against a row, so it may lie under the store's key and outlive the file. Of each user
//! as many keys are kept as a ring has places; the oldest that is over makes room, never one that is under way.

use serde::{Deserialize, Serialize};
use store_proto::{
    Attributes, Cohort, ContentDigest, FileId, FileType, IdempotencyKey, LogicalPath, UserName,
};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::state::{StateTable, View};
use crate::ledger::tables::CorruptError;
use crate::limits::{REPEATS_KEPT_MS, REPEATS_PER_USER};

/// Keys of one user. Tests use few, so that they can have more.
const RING: u32 = if cfg!(test) { 8 } else { REPEATS_PER_USER };
/// A user and a key, blinded → what it named.
pub const REPEATS: StateTable<RepeatRow> = StateTable::new("repeats");
/// A user, blinded ‖ place in the ring → the key that has it, blinded.
const PLACES: StateTable<Blinded> = StateTable::new("repeat_places");
/// A user, blinded → the next place.
const NEXT: StateTable<u32> = StateTable::new("repeat_next");

/// 32 bytes that tell nothing, hexadecimal in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Blinded(ContentDigest);

impl Blinded {
    fn of(bytes: [u8; 32]) -> Blinded {
        // The spelling of a digest, and nothing else of one.
        Blinded(ContentDigest::from_bytes(bytes))
    }

    fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

/// What a key named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepeatRow {
    /// When it is forgotten, once the request is over.
    pub expires_ms: u64,
    /// The file that it makes, made, or found there.
    pub file_id: FileId,
    /// Its place in its user's ring.
    pub place: u32,
    /// The request.
    pub request: Blinded,
    /// How far it is.
    pub state: State,
    /// The upload that it began, if it is one that resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<FileId>,
    /// Whose it is.
    pub user: Blinded,
    /// The row's format.
    pub v: u32,
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Under way.
    Open,
    /// It made the file.
    Made,
    /// The file was there.
    Found,
}

/// A request with a key, as far as it can be said before its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    user: UserName,
    key: IdempotencyKey,
    request: Vec<Vec<u8>>,
}

/// What a request says of the file that it brings.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// Where it goes.
    pub cohort: &'a Cohort,
    /// Under which name.
    pub path: &'a LogicalPath,
    /// What it replaces.
    pub replaces: Option<ContentDigest>,
    /// Its type.
    pub file_type: Option<&'a FileType>,
    /// What else is said of it.
    pub attributes: &'a Attributes,
}

impl Said {
    /// A file in one piece. Its length and its hash are compared with the file's when it is there.
    pub fn whole(user: UserName, key: IdempotencyKey, named: &Named<'_>) -> Said {
        Said { user, key, request: named.parts("whole") }
    }

    /// The beginning of an upload that resumes.
    pub fn in_stretches(
        user: UserName,
        key: IdempotencyKey,
        named: &Named<'_>,
        length: Option<u64>,
        sha256: Option<ContentDigest>,
    ) -> Said {
        let mut request = named.parts("stretches");
        request.push(length.map_or_else(Vec::new, |length| length.to_be_bytes().to_vec()));
        request.push(sha256.map_or_else(Vec::new, |sha256| sha256.as_bytes().to_vec()));
        Said { user, key, request }
    }

    fn blinded_key(&self, view: &impl View) -> Blinded {
        Blinded::of(view.blind("repeat key", &[self.user.as_str().as_bytes(), self.key.as_str().as_bytes()]))
    }

    fn blinded_request(&self, view: &impl View) -> Blinded {
        let parts = self.request.iter().map(Vec::as_slice);
        let parts: Vec<&[u8]> = std::iter::once(self.key.as_str().as_bytes()).chain(parts).collect();
        Blinded::of(view.blind("repeat request", &parts))
    }
}

impl Named<'_> {
    fn parts(&self, kind: &str) -> Vec<Vec<u8>> {
        vec![
            kind.into(),
            self.cohort.as_str().into(),
            self.path.as_str().into(),
            self.replaces.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec()),
            self.file_type.map_or_else(Vec::new, |kind| kind.as_str().into()),
            self.attributes.to_list().into(),
        ]
    }
}

/// What is known of a request before it is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    New,
    /// It is under way, or over: with this.
    Again(RepeatRow),
    /// Its key named another one.
    Other,
}

/// Looks for an earlier one.
pub fn look(view: &impl View, said: &Said, now_ms: u64) -> Result<Known, CorruptError> {
    let Some(row) = view.get(&REPEATS, said.blinded_key(view).as_bytes())? else { return Ok(Known::New) };
    if row.is_over(now_ms) {
        return Ok(Known::New);
    }
    Ok(if row.request == said.blinded_request(view) { Known::Again(row) } else { Known::Other })
}

impl RepeatRow {
    fn is_over(&self, now_ms: u64) -> bool {
        self.state != State::Open && self.expires_ms <= now_ms
    }
}

/// Takes the key for a request that begins now; none: somebody was faster.
pub(crate) fn claim(
    app: &mut Application<'_, '_>,
    said: &Said,
    file_id: FileId,
    upload: Option<FileId>,
) -> Result<Option<Blinded>, CorruptError> {
    let now_ms = app.now_ms();
    if look(app, said, now_ms)? != Known::New {
        return Ok(None);
    }
    let key = said.blinded_key(app);
    // One that is over may still have its place.
    remove(app, key)?;
    let user = Blinded::of(app.blind("repeat user", &[said.user.as_str().as_bytes()]));
    let next = app.get(&NEXT, user.as_bytes())?.unwrap_or(0);
    let Some(place) = free_place(app, user, next)? else { return Ok(None) };
    let request = said.blinded_request(app);
    let row = RepeatRow { expires_ms: 0, file_id, place, request, state: State::Open, upload, user, v: 1 };
    app.put(&REPEATS, key.as_bytes(), &row)?;
    app.put(&PLACES, &place_key(user, place), &key)?;
    app.put(&NEXT, user.as_bytes(), &((place + 1) % RING))?;
    Ok(Some(key))
}

/// The first place from `next` on whose key is not under way, emptied: the oldest of those that are over makes room. A user
/// has fewer requests under way than places (`UPLOADS_PER_USER`, and a share of `limits.transfers`); if that were not so,
/// the newcomer is refused, for whoever is under way counts on their key.
fn free_place(app: &mut Application<'_, '_>, user: Blinded, next: u32) -> Result<Option<u32>, CorruptError> {
    for place in (next..next + RING).map(|place| place % RING) {
        let Some(key) = app.get(&PLACES, &place_key(user, place))? else { return Ok(Some(place)) };
        let open = app.get(&REPEATS, key.as_bytes())?.is_some_and(|row| row.state == State::Open);
        if !open {
            remove(app, key)?;
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// The request is over, and this file is its answer.
pub(crate) fn answered(
    app: &mut Application<'_, '_>,
    key: Option<Blinded>,
    file_id: FileId,
    state: State,
) -> Result<(), CorruptError> {
    let Some(key) = key else { return Ok(()) };
    // It may have made room for newer ones.
    let Some(row) = app.get(&REPEATS, key.as_bytes())? else { return Ok(()) };
    let expires_ms = app.now_ms().saturating_add(REPEATS_KEPT_MS);
    app.put(&REPEATS, key.as_bytes(), &RepeatRow { expires_ms, file_id, state, ..row })
}

/// The request did nothing: its key is free.
pub(crate) fn free(app: &mut Application<'_, '_>, key: Option<Blinded>) -> Result<(), CorruptError> {
    key.map_or(Ok(()), |key| remove(app, key))
}

fn remove(app: &mut Application<'_, '_>, key: Blinded) -> Result<(), CorruptError> {
    let Some(row) = app.get(&REPEATS, key.as_bytes())? else { return Ok(()) };
    app.delete(&REPEATS, key.as_bytes())?;
    app.delete(&PLACES, &place_key(row.user, row.place)).map(drop)
}

fn place_key(user: Blinded, place: u32) -> Vec<u8> {
    [user.as_bytes().as_slice(), &place.to_be_bytes()].concat()
}

/// At most `limit` keys from behind `after`, and which of them are over.
pub(crate) fn some(
    view: &impl View,
    after: Option<&[u8]>,
    limit: usize,
    now_ms: u64,
) -> Result<(Option<Vec<u8>>, Vec<Blinded>), CorruptError> {
    let found = view.scan(&REPEATS, &[], after, limit)?;
    let last = found.last().map(|(key, _)| key.clone());
    let over = found.into_iter().filter(|(_, row)| row.is_over(now_ms));
    let over = over.map(|(key, _)| {
        let key = key.try_into().map_err(|_| CorruptError::Row("the key of a repeat".into()))?;
        Ok(Blinded::of(key))
    });
    Ok((last, over.collect::<Result<_, CorruptError>>()?))
}

/// What is asked of this area.
#[derive(Debug, Clone)]
pub enum Command {
    /// Forget those of these keys that are over.
    Forget {
        /// As `some` named them.
        keys: Vec<Blinded>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// They are forgotten.
    Forgotten,
}

impl Area for Command {}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        let Command::Forget { keys } = self;
        let now_ms = app.now_ms();
        for key in keys {
            if app.get(&REPEATS, key.as_bytes())?.is_some_and(|row| row.is_over(now_ms)) {
                remove(app, key)?;
            }
        }
        Ok(Outcome::Forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::{Keys, TestTime, begin_upload, finish_upload, fresh_keys, fresh_ledger};
    use crate::ledger::{Ledger, upload};

    #[test]
    fn a_request_under_way_keeps_its_key_however_many_come_after_it() {
        let (keys, time) = (fresh_keys(), TestTime::default());
        let ledger = fresh_ledger(&keys, &time);
        let first = begin(&ledger, &keys, 0, 0).unwrap();
        for number in 1..=20 {
            let intent = begin(&ledger, &keys, number, number).unwrap();
            finish(&ledger, intent, number);
        }
        assert_eq!(begin(&ledger, &keys, 0, 100), None, "it is under way");
        assert_eq!(begin(&ledger, &keys, 20, 101), None, "it made a file");
        let forgotten = begin(&ledger, &keys, 1, 102);
        assert!(forgotten.is_some(), "the oldest that were over made room");
        for number in 30..36 {
            assert!(begin(&ledger, &keys, number, number).is_some(), "{number}");
        }
        assert_eq!(begin(&ledger, &keys, 40, 40), None, "all places are of requests under way");
        finish(&ledger, first, 0);
        assert!(begin(&ledger, &keys, 40, 41).is_some(), "one is over");
    }

    fn begin(ledger: &Ledger, keys: &Keys, key: u8, file: u8) -> Option<u64> {
        let (cohort, path) = ("c1", format!("f{file}"));
        let mut command = begin_upload(keys, cohort, &path, FileId::from_bytes([file; 16]));
        if let upload::Command::Begin { wanted, said, .. } = &mut command {
            let named = Named {
                cohort: &wanted.cohort,
                path: &wanted.path,
                replaces: None,
                file_type: None,
                attributes: &wanted.attributes,
            };
            let key = IdempotencyKey::from_field(&format!("\"key-{key}\"")).unwrap();
            *said = Some(Said::whole(UserName::parse("ada").unwrap(), key, &named));
        }
        let outcome = ledger.submit_blocking(command).unwrap();
        let upload::Outcome::Begun { intent, .. } = outcome else {
            assert_eq!(outcome, upload::Outcome::KeyTaken);
            return None;
        };
        Some(intent)
    }

    fn finish(ledger: &Ledger, intent: u64, file: u8) {
        let command = finish_upload(intent, FileId::from_bytes([file; 16]), 1);
        assert!(matches!(ledger.submit_blocking(command).unwrap(), upload::Outcome::Stored(_)));
    }
}
