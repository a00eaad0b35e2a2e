//! Whether what came out of a backup is a whole store: every record, every row, every key.
//!
//! **Invariant:** it reads all of it and changes nothing but what opening a database changes; each thing that is wrong is
//! a finding, and only what cannot be read on is an error.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use receipt::checkpoint::SignedCheckpoint;
use receipt::note::LogKey;

use super::Head;
use crate::init::LEDGER_FILE;
use crate::keys::{KeyStore, Keys, KeysError, OpenKeysError, RootKey};
use crate::ledger::files::{FILES, FileRow};
use crate::ledger::verify::{Event, verify};
use crate::ledger::{self, CorruptError, OpenError, Reader, StoreId, View as _, checkpoint};

/// Files that are read at once.
const STEP: usize = 1000;
/// Findings that are told one by one.
const FINDINGS: usize = 20;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Records that opened and are what the log committed to.
    pub records: u64,
    /// Records whose file's keys were destroyed.
    pub destroyed_records: u64,
    /// Rows of the state that opened.
    pub rows: u64,
    /// Files, all of whose parts have their keys.
    pub files: u64,
    /// File keys that unwrapped.
    pub file_keys: u64,
    /// What is wrong, the first of it.
    pub findings: Vec<String>,
    /// How much more is wrong.
    pub more_findings: u64,
}

impl Checked {
    fn finding(&mut self, what: String) {
        if self.findings.len() < FINDINGS { self.findings.push(what) } else { self.more_findings += 1 }
    }
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The ledger does not open.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// The keys do not open.
    #[error(transparent)]
    Keys(#[from] OpenKeysError),
    /// Something cannot be read.
    #[error(transparent)]
    Read(#[from] CorruptError),
    /// The file keys cannot be read.
    #[error(transparent)]
    FileKeys(#[from] KeysError),
}

/// Checks a state directory that came out of a backup. `progress` hears of records.
pub fn check(
    state: &Path,
    root: RootKey,
    head: &Head,
    progress: &mut dyn FnMut(u64),
) -> Result<Checked, CheckError> {
    let mut checked = Checked::default();
    let opened = ledger::open(&state.join(LEDGER_FILE))?;
    let keys = Arc::new(Keys::open(state, root)?);
    if opened.store != keys.store() || opened.store != StoreId(head.store_id) {
        checked.finding(format!("the ledger is of store {}, the keys are of {}", opened.store, keys.store()));
    }
    let shared: Arc<dyn KeyStore> = Arc::clone(&keys) as Arc<dyn KeyStore>;
    let reader = Reader::new(Arc::clone(&opened.database), Arc::clone(&shared));
    let log_key = checkpoint::log_key(opened.store, shared.as_ref())?;
    check_head(&mut checked, &reader, head, &log_key)?;
    check_log(&mut checked, &reader, &log_key, progress)?;
    let snapshot = reader.snapshot()?;
    match snapshot.open_all_rows() {
        Ok(rows) => checked.rows = rows,
        Err(error) => checked.finding(error.to_string()),
    }
    let mut after: Option<Vec<u8>> = None;
    loop {
        let files = snapshot.scan(&FILES, &[], after.as_deref(), STEP)?;
        let Some((last, _)) = files.last() else { break };
        after = Some(last.clone());
        for (_, file) in &files {
            check_file(&mut checked, &keys, file)?;
        }
    }
    checked.file_keys = keys.open_all()?;
    Ok(checked)
}

/// The checkpoint is the one that the head names.
fn check_head(
    checked: &mut Checked,
    reader: &Reader,
    head: &Head,
    log_key: &LogKey,
) -> Result<(), CorruptError> {
    let snapshot = reader.snapshot()?;
    let stored = snapshot.checkpoint()?;
    let said = SignedCheckpoint::parse(&head.checkpoint);
    let same = said.is_ok_and(|said| said.as_str() == stored.as_str());
    if !same || head.log_key != log_key.to_string() || head.group != snapshot.group()? {
        checked.finding("the backup's head is not that of the ledger in it".to_owned());
    }
    Ok(())
}

/// Each record is what its leaf commits to, and the leaves are the tree that was signed.
fn check_log(
    checked: &mut Checked,
    reader: &Reader,
    log_key: &LogKey,
    progress: &mut dyn FnMut(u64),
) -> Result<(), CorruptError> {
    let summary = verify(reader, log_key, &[], |event| {
        match event {
            Event::Progress { checked, .. } => progress(checked),
            Event::Finding(finding) => {
                let record = finding.record.map_or_else(String::new, |record| format!("record {record}: "));
                checked.finding(format!("{record}{}", finding.what));
            }
        }
        ControlFlow::Continue(())
    })?;
    checked.destroyed_records = summary.destroyed;
    checked.records = summary.records.saturating_sub(summary.destroyed);
    Ok(())
}

fn check_file(checked: &mut Checked, keys: &Keys, file: &FileRow) -> Result<(), KeysError> {
    for part in &file.parts {
        if keys.file_key(file.file_id, part.part)?.is_none() {
            checked.finding(format!("file {}: the key of part {} is missing", file.file_id, part.part));
            return Ok(());
        }
    }
    checked.files += 1;
    Ok(())
}
