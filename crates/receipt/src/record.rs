//! What a log commits to, and what a receipt reads in a record.
//!
//! **Invariant:** the log's leaf is the commitment, never the record: who holds the log without the salts learns
//! nothing of what it records, and a record that is gone leaves the proofs of its neighbours as they were.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::merkle::{Hash, leaf_hash};

/// What stands before the salt, so that no other hash is ever taken for a commitment.
const DOMAIN: &[u8] = b"culvert record v1\n";
/// Bytes of a salt.
pub const SALT_BYTES: usize = 32;

/// The commitment to a record: `SHA-256("culvert record v1\n" ‖ salt ‖ record)`. It is the leaf of the log.
pub fn commitment(salt: &[u8; SALT_BYTES], record: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(DOMAIN).chain_update(salt).chain_update(record).finalize().into()
}

/// The hash under which a commitment stands in the tree.
pub fn commitment_leaf(commitment: &[u8; 32]) -> Hash {
    leaf_hash(commitment)
}

/// Why a record is not that of a stored file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or without what every record has.
    #[error("the record is not one of a ledger: {0}")]
    Malformed(String),
    /// It records something else.
    #[error("the record is of the action {0}, which stores no file")]
    Action(String),
    /// It was not done, or not yet.
    #[error("the record does not say that the file was stored: its phase is {phase}, its ending {ending}")]
    NotStored {
        /// Its phase.
        phase: String,
        /// Its ending.
        ending: String,
    },
    /// It lacks a key.
    #[error("the record of a stored file must hold `{0}`")]
    Missing(&'static str),
    /// Its digest is none.
    #[error("`sha256` in the record must be 64 lower-case hexadecimal digits")]
    Digest,
    /// It stands elsewhere.
    #[error("the record is number {record}, and the receipt gives it as number {receipt}")]
    OtherIndex {
        /// What the record says.
        record: u64,
        /// What the receipt says.
        receipt: u64,
    },
}

/// What a record says of the file that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its id, 32 hexadecimal digits.
    pub file_id: String,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// The cohort it belongs to.
    pub cohort: String,
    /// Its name there.
    pub path: String,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
}

/// The keys that are read; a record may have others.
#[derive(Deserialize)]
struct Raw {
    action: String,
    cohort: Option<String>,
    ending: Option<String>,
    file_id: Option<String>,
    index: u64,
    path: Option<String>,
    phase: String,
    sha256: Option<String>,
    size: Option<u64>,
    time_ms: u64,
}

impl StoredFile {
    /// Reads the record at `index` of a log.
    pub fn of(record: &[u8], index: u64) -> Result<StoredFile, RecordError> {
        let raw: Raw =
            serde_json::from_slice(record).map_err(|error| RecordError::Malformed(error.to_string()))?;
        if raw.index != index {
            return Err(RecordError::OtherIndex { record: raw.index, receipt: index });
        }
        match raw.action.as_str() {
            "nas_raw_created" | "nas_duckdb_created" | "nas_report_created" => {}
            _ => return Err(RecordError::Action(raw.action)),
        }
        if raw.phase != "outcome" || raw.ending.as_deref() != Some("succeeded") {
            let ending = raw.ending.unwrap_or_else(|| "not there".to_owned());
            return Err(RecordError::NotStored { phase: raw.phase, ending });
        }
        let sha256 = raw.sha256.ok_or(RecordError::Missing("sha256"))?;
        Ok(StoredFile {
            file_id: raw.file_id.ok_or(RecordError::Missing("file_id"))?,
            size: raw.size.ok_or(RecordError::Missing("size"))?,
            sha256: digest(&sha256).ok_or(RecordError::Digest)?,
            cohort: raw.cohort.ok_or(RecordError::Missing("cohort"))?,
            path: raw.path.ok_or(RecordError::Missing("path"))?,
            time_ms: raw.time_ms,
        })
    }
}

/// A SHA-256 in hexadecimal, as it stands in records.
pub fn digest_text(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"action":"nas_raw_created","cohort":"c5","ending":"succeeded","file_id":"00","host":{},"index":7,"path":"a.csv","phase":"outcome","sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"time_ms":5,"v":1}"#;

    #[test]
    fn a_record_of_a_stored_file_is_read() {
        let file = StoredFile::of(RECORD.as_bytes(), 7).unwrap();
        assert_eq!(
            (file.cohort.as_str(), file.path.as_str(), file.size, file.time_ms),
            ("c5", "a.csv", 0, 5)
        );
        assert_eq!(file.sha256, <[u8; 32]>::from(Sha256::digest([])));
        assert!(RECORD.contains(&digest_text(&file.sha256)));
    }

    #[test]
    fn every_other_record_is_refused_with_the_reason() {
        for (from, to, error) in [
            ("nas_raw_created", "nas_raw_deleted", RecordError::Action("nas_raw_deleted".into())),
            (
                "nas_raw_created",
                "file_downloaded_via_stream",
                RecordError::Action("file_downloaded_via_stream".into()),
            ),
            (
                "succeeded",
                "failed",
                RecordError::NotStored { phase: "outcome".into(), ending: "failed".into() },
            ),
            (
                "\"outcome\"",
                "\"intent\"",
                RecordError::NotStored { phase: "intent".into(), ending: "succeeded".into() },
            ),
            (r#""size":0,"#, "", RecordError::Missing("size")),
            (r#""cohort":"c5","#, "", RecordError::Missing("cohort")),
            (r#""path":"a.csv","#, "", RecordError::Missing("path")),
            (r#""file_id":"00","#, "", RecordError::Missing("file_id")),
            ("e3b0", "E3B0", RecordError::Digest),
            ("e3b0", "", RecordError::Digest),
            (r#""index":7"#, r#""index":8"#, RecordError::OtherIndex { record: 8, receipt: 7 }),
        ] {
            let record = RECORD.replacen(from, to, 1);
            assert_ne!(record, RECORD);
            assert_eq!(StoredFile::of(record.as_bytes(), 7), Err(error), "{record}");
        }
        for bad in ["", "{}", "[]", &RECORD[1..], &RECORD.replace("\"size\":0", "\"size\":-1")] {
            assert!(matches!(StoredFile::of(bad.as_bytes(), 7), Err(RecordError::Malformed(_))), "{bad}");
        }
        let twice = RECORD.replacen("\"size\":0", "\"size\":0,\"size\":1", 1);
        assert!(matches!(StoredFile::of(twice.as_bytes(), 7), Err(RecordError::Malformed(_))), "two sizes");
    }

    #[test]
    fn a_commitment_is_of_domain_salt_and_record() {
        let expected: [u8; 32] =
            Sha256::digest([b"culvert record v1\n", &[5; 32][..], b"{}"].concat()).into();
        assert_eq!(commitment(&[5; 32], b"{}"), expected);
        assert_eq!(commitment_leaf(&expected), leaf_hash(&expected));
    }
}
