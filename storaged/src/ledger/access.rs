//! Area *access*: who may do what, changed by recorded commands alone.
//!
//! **Invariant:** each [`Change`] stands in one record, in the same transaction as the rows that it alters; a command
//! that is refused leaves a record and alters nothing. The rows are what [`Book::take`] makes of the changes, so a book
//! read from the rows is the book replayed from the records.

mod book;
mod decide;

#[cfg(test)]
mod tests;

pub use book::{Book, Change, CohortRules, ContentRule, Misfit, Scan, Settings, TokenRow, User};
pub use decide::{Command as Wish, Refusal};

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store_proto::{Cohort, EdgeName, FileId, UserName};

use crate::ledger::application::Application;
use crate::ledger::command::Area;
use crate::ledger::read::Reader;
use crate::ledger::record::{Action, Ending, Origin, Phase};
use crate::ledger::state::{StateTable, View};
use crate::ledger::tables::CorruptError;

/// Somebody asks for a change.
#[derive(Debug, Clone)]
pub enum Command {
    /// A change of the book.
    Change {
        /// Who asks.
        origin: Origin,
        /// For what.
        wish: Box<Wish>,
    },
    /// A token was shown for the first time on a day. It changes no right and leaves no record: what was done with it
    /// does.
    TokenSeen {
        /// Which.
        token: FileId,
        /// The day, counted from 1970.
        day: u32,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is so now.
    Changed(Vec<Change>),
    /// It may not be.
    Refused(Refusal),
    /// The day is noted, unless the token is dead.
    Seen,
}

/// One row of the book: a name and what it stands for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<N, V> {
    name: N,
    v: u32,
    value: V,
}

/// A retention that was lowered, or lifted: it goes on for what was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retained {
    /// For files that came before this.
    before_ms: u64,
    /// So long.
    days: u32,
}

/// The version of [`Entry`].
const ENTRY_VERSION: u32 = 1;
const USERS: StateTable<Entry<UserName, User>> = StateTable::new("access.users");
const COHORTS: StateTable<Entry<Cohort, CohortRules>> = StateTable::new("access.cohorts");
const EDGES: StateTable<Entry<EdgeName, BTreeSet<Cohort>>> = StateTable::new("access.edges");
const TOKENS: StateTable<Entry<FileId, TokenRow>> = StateTable::new("access.tokens");
const SETTINGS: StateTable<Entry<String, Settings>> = StateTable::new("access.settings");
/// Token id → the last day on which it was shown. Apart from the book: it decides nothing.
const SEEN: StateTable<u32> = StateTable::new("access.seen");
/// Cohort → what its retention was before it was lowered. Apart from the book: it decides deletions alone.
const RETAINED: StateTable<Vec<Retained>> = StateTable::new("access.retained");
/// Index of a record that holds a change → its time. Leads to the changes without reading the whole trail.
const CHANGES: StateTable<u64> = StateTable::new("access.changes");

/// Who was let in or shut out stays so, whatever disk is lost.
impl Area for Command {
    fn waits_for_mirror(&self) -> bool {
        matches!(self, Command::Change { .. })
    }
}

impl Command {
    pub(crate) fn apply(self, app: &mut Application<'_, '_>) -> Result<Outcome, CorruptError> {
        match self {
            Command::Change { origin, wish } => {
                // From a transaction before, if one of those that committed has read it.
                let mut book = match app.book.take() {
                    Some(book) => book,
                    None => Book::read(app)?,
                };
                let outcome = match wish.decide(&book, app.now_ms()) {
                    Ok(changes) => {
                        for change in &changes {
                            retain(app, &book, change)?;
                            book.take(change)?;
                            append(app, &origin, change)?;
                            write(app, &book, change)?;
                        }
                        Outcome::Changed(changes)
                    }
                    Err(refusal) => {
                        let mut record = app.record(Action::AccessRefused, Phase::Outcome, origin);
                        record.ending = Some(Ending::Denied);
                        record.detail = Some(refusal.to_string());
                        app.append(record)?;
                        Outcome::Refused(refusal)
                    }
                };
                app.book = Some(book);
                Ok(outcome)
            }
            Command::TokenSeen { token, day } => {
                if app.get(&TOKENS, token.as_bytes())?.is_some() {
                    app.put(&SEEN, token.as_bytes(), &day)?;
                }
                Ok(Outcome::Seen)
            }
        }
    }
}

/// A retention was promised to what is there: a lower one is for what comes later.
fn retain(app: &mut Application<'_, '_>, before: &Book, change: &Change) -> Result<(), CorruptError> {
    let Change::CohortSet { cohort, rules } = change else { return Ok(()) };
    let was = before.cohorts.get(cohort).and_then(|rules| rules.retention_days).unwrap_or(0);
    if was <= rules.retention_days.unwrap_or(0) {
        return Ok(());
    }
    let key = cohort.as_str().as_bytes();
    let mut retained = app.get(&RETAINED, key)?.unwrap_or_default();
    // What was as long or shorter, and for less, is in this one.
    retained.retain(|earlier| earlier.days > was);
    // A file of this very moment may have come before the change.
    retained.push(Retained { before_ms: app.now_ms().saturating_add(1), days: was });
    app.put(&RETAINED, key, &retained)
}

/// The retention of a cohort's files that came at this moment, as far as it was longer than it is now.
pub(crate) fn retained_days(
    view: &impl View,
    cohort: &Cohort,
    created_ms: u64,
) -> Result<Option<u32>, CorruptError> {
    let retained = view.get(&RETAINED, cohort.as_str().as_bytes())?.unwrap_or_default();
    let promised = retained.iter().filter(|earlier| created_ms < earlier.before_ms);
    Ok(promised.map(|earlier| earlier.days).max())
}

fn append(app: &mut Application<'_, '_>, origin: &Origin, change: &Change) -> Result<(), CorruptError> {
    let mut record = app.record(change.action(), Phase::Outcome, origin.clone());
    record.ending = Some(Ending::Succeeded);
    record.cohort = change.cohort().cloned();
    record.access = Some(Box::new(change.clone()));
    let time_ms = record.time_ms;
    let index = app.append(record)?;
    app.put(&CHANGES, &index.to_be_bytes(), &time_ms)
}

/// Brings the rows to what the book says of the names in the change.
fn write(app: &mut Application<'_, '_>, book: &Book, change: &Change) -> Result<(), CorruptError> {
    match change {
        Change::UserAdded { user, .. }
        | Change::UserRoleSet { user, .. }
        | Change::UserDisabled { user }
        | Change::UserEnabled { user }
        | Change::GroupJoined { user, .. }
        | Change::GroupLeft { user, .. }
        | Change::Granted { user, .. }
        | Change::Revoked { user, .. } => {
            let key = user_key(app, user);
            write_row(app, &USERS, &key, user, book.users.get(user))
        }
        Change::TokenIssued { token, .. } | Change::TokenRevoked { token, .. } => {
            if !book.tokens.contains_key(token) {
                app.delete(&SEEN, token.as_bytes())?;
            }
            write_row(app, &TOKENS, token.as_bytes(), token, book.tokens.get(token))
        }
        Change::CohortAdded { cohort, .. } | Change::CohortSet { cohort, .. } => {
            write_row(app, &COHORTS, cohort.as_str().as_bytes(), cohort, book.cohorts.get(cohort))
        }
        Change::EdgeAdded { edge, .. } | Change::EdgeSet { edge, .. } | Change::EdgeRemoved { edge } => {
            write_row(app, &EDGES, edge.as_str().as_bytes(), edge, book.edges.get(edge))
        }
        Change::SettingsSet { .. } => {
            write_row(app, &SETTINGS, b"", &"store".to_owned(), Some(&book.settings))
        }
    }
}

fn write_row<N, V>(
    app: &mut Application<'_, '_>,
    table: &StateTable<Entry<N, V>>,
    key: &[u8],
    name: &N,
    value: Option<&V>,
) -> Result<(), CorruptError>
where
    N: Clone + Serialize + DeserializeOwned,
    V: Clone + Serialize + DeserializeOwned,
{
    match value {
        Some(value) => {
            app.put(table, key, &Entry { name: name.clone(), v: ENTRY_VERSION, value: value.clone() })
        }
        None => app.delete(table, key).map(drop),
    }
}

fn user_key(app: &Application<'_, '_>, user: &UserName) -> [u8; 32] {
    app.blind("access user", &[user.as_str().as_bytes()])
}

/// Rows read at once.
const BATCH: usize = 512;

fn for_each<V: DeserializeOwned>(
    view: &impl View,
    table: &StateTable<V>,
    mut with: impl FnMut(&[u8], V),
) -> Result<(), CorruptError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let batch = view.scan(table, b"", after.as_deref(), BATCH)?;
        let whole = batch.len() == BATCH;
        for (key, row) in batch {
            with(&key, row);
            after = Some(key);
        }
        if !whole {
            return Ok(());
        }
    }
}

impl Book {
    /// The book of this moment, from its rows.
    pub fn read(view: &impl View) -> Result<Book, CorruptError> {
        let mut book = Book::default();
        for_each(view, &USERS, |_, row| drop(book.users.insert(row.name, row.value)))?;
        for_each(view, &COHORTS, |_, row| drop(book.cohorts.insert(row.name, row.value)))?;
        for_each(view, &EDGES, |_, row| drop(book.edges.insert(row.name, row.value)))?;
        for_each(view, &TOKENS, |_, row| drop(book.tokens.insert(row.name, row.value)))?;
        for_each(view, &SETTINGS, |_, row| book.settings = row.value)?;
        Ok(book)
    }

    /// The book as it was at a moment, replayed from the records up to it.
    pub fn at(reader: &Reader, time_ms: u64) -> Result<Book, CorruptError> {
        let mut indices = Vec::new();
        for_each(&reader.snapshot()?, &CHANGES, |key, time| {
            if time <= time_ms {
                indices.extend(key.try_into().map(u64::from_be_bytes).ok());
            }
        })?;
        let mut book = Book::default();
        for index in indices {
            let record = reader.record(index)?;
            let change = record.and_then(|record| record.access);
            let change = change
                .ok_or_else(|| CorruptError::Row(format!("record {index} holds no change of access")))?;
            book.take(&change)?;
        }
        Ok(book)
    }
}

/// The last day on which each token was shown, counted from 1970.
pub fn last_seen(view: &impl View) -> Result<Vec<(FileId, u32)>, CorruptError> {
    let mut seen = Vec::new();
    for_each(view, &SEEN, |key, day| {
        seen.extend(key.try_into().map(|id| (FileId::from_bytes(id), day)).ok());
    })?;
    Ok(seen)
}

impl From<Misfit> for CorruptError {
    fn from(misfit: Misfit) -> CorruptError {
        CorruptError::Row(misfit.to_string())
    }
}
