//! A receipt: all that is needed to prove, with no server, that a store took a file and recorded it.
//!
//! The JSON document `culvert-receipt/1`, described in `docs/formats/receipt.md`.
//!
//! **Invariant:** a receipt that parses is well-formed and within bounds, and says nothing yet: only
//! [`verify`](fn@crate::verify) makes something of it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{CheckpointError, SignedCheckpoint};
use crate::limits::{MAX_PROOF_HASHES, MAX_RECEIPT_BYTES, MAX_RECORD_BYTES};
use crate::merkle::Hash;
use crate::note::{KeyError, LogKey};
use crate::record::SALT_BYTES;

/// The format's name and version.
pub const FORMAT: &str = "culvert-receipt/1";

/// Why a text is no receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Too long to be one.
    #[error("it has {0} bytes, and a receipt has at most {MAX_RECEIPT_BYTES}")]
    TooLong(usize),
    /// Not JSON, or not these keys.
    #[error("it is not a receipt: {0}")]
    Json(String),
    /// Another format.
    #[error("`format` is {0:?}, and only \"{FORMAT}\" is known")]
    Format(String),
    /// The record is too long.
    #[error("`record` has {0} bytes, and a record has at most {MAX_RECORD_BYTES}")]
    Record(usize),
    /// The salt is not one.
    #[error("`salt` must be base64 of {SALT_BYTES} bytes")]
    Salt,
    /// The path is too long for any tree.
    #[error("`inclusion` has {0} hashes, and no tree needs more than {MAX_PROOF_HASHES}")]
    PathLength(usize),
    /// A hash of the path is not one.
    #[error("`inclusion` must hold base64 of 32 bytes each; number {0} is something else")]
    PathHash(usize),
    /// The checkpoint is not one.
    #[error("`checkpoint`: {0}")]
    Checkpoint(CheckpointError),
    /// The key is not one.
    #[error("`log_key`: {0}")]
    LogKey(KeyError),
}

/// A well-formed receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Receipt {
    record: String,
    salt: [u8; SALT_BYTES],
    leaf_index: u64,
    inclusion: Vec<Hash>,
    checkpoint: SignedCheckpoint,
    log_key: LogKey,
}

/// What a receipt is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The canonical bytes of the record, which are JSON.
    pub record: String,
    /// The salt of its commitment.
    pub salt: [u8; SALT_BYTES],
    /// Its number in the log.
    pub leaf_index: u64,
    /// Its audit path in the tree of the checkpoint.
    pub inclusion: Vec<Hash>,
    /// A checkpoint of a tree that holds the record.
    pub checkpoint: SignedCheckpoint,
    /// The key that signed it.
    pub log_key: LogKey,
}

/// The document.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    format: String,
    record: String,
    salt: String,
    leaf_index: u64,
    inclusion: Vec<String>,
    checkpoint: String,
    log_key: String,
}

impl Receipt {
    /// Puts a receipt together.
    pub fn new(parts: Parts) -> Result<Receipt, ReceiptError> {
        let Parts { record, salt, leaf_index, inclusion, checkpoint, log_key } = parts;
        if record.len() > MAX_RECORD_BYTES {
            return Err(ReceiptError::Record(record.len()));
        }
        if inclusion.len() > MAX_PROOF_HASHES {
            return Err(ReceiptError::PathLength(inclusion.len()));
        }
        Ok(Receipt { record, salt, leaf_index, inclusion, checkpoint, log_key })
    }

    /// Reads the document.
    pub fn parse(document: &[u8]) -> Result<Receipt, ReceiptError> {
        if document.len() > MAX_RECEIPT_BYTES {
            return Err(ReceiptError::TooLong(document.len()));
        }
        let raw: Raw =
            serde_json::from_slice(document).map_err(|error| ReceiptError::Json(error.to_string()))?;
        Receipt::try_from(raw)
    }

    /// The document: one line of JSON, with its end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("strings and numbers always serialize");
        text.push('\n');
        text
    }

    /// The record's canonical bytes.
    pub fn record(&self) -> &str {
        &self.record
    }

    /// The salt of its commitment.
    pub fn salt(&self) -> &[u8; SALT_BYTES] {
        &self.salt
    }

    /// The record's number in the log.
    pub fn leaf_index(&self) -> u64 {
        self.leaf_index
    }

    /// The record's audit path.
    pub fn inclusion(&self) -> &[Hash] {
        &self.inclusion
    }

    /// What the log said of itself.
    pub fn checkpoint(&self) -> &SignedCheckpoint {
        &self.checkpoint
    }

    /// The key that the receipt itself names.
    pub fn log_key(&self) -> &LogKey {
        &self.log_key
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

impl TryFrom<Raw> for Receipt {
    type Error = ReceiptError;

    fn try_from(raw: Raw) -> Result<Receipt, ReceiptError> {
        if raw.format != FORMAT {
            return Err(ReceiptError::Format(raw.format));
        }
        if raw.inclusion.len() > MAX_PROOF_HASHES {
            return Err(ReceiptError::PathLength(raw.inclusion.len()));
        }
        let hashes = raw.inclusion.iter().enumerate();
        let inclusion: Result<Vec<Hash>, ReceiptError> =
            hashes.map(|(at, text)| Hash::parse(text).ok_or(ReceiptError::PathHash(at))).collect();
        Receipt::new(Parts {
            record: raw.record,
            // A hash and a salt are 32 bytes alike.
            salt: *Hash::parse(&raw.salt).ok_or(ReceiptError::Salt)?.as_bytes(),
            leaf_index: raw.leaf_index,
            inclusion: inclusion?,
            checkpoint: SignedCheckpoint::parse(&raw.checkpoint).map_err(ReceiptError::Checkpoint)?,
            log_key: LogKey::parse(&raw.log_key).map_err(ReceiptError::LogKey)?,
        })
    }
}

impl From<Receipt> for Raw {
    fn from(receipt: Receipt) -> Raw {
        Raw {
            format: FORMAT.to_owned(),
            record: receipt.record,
            salt: STANDARD.encode(receipt.salt),
            leaf_index: receipt.leaf_index,
            inclusion: receipt.inclusion.iter().map(Hash::to_string).collect(),
            checkpoint: receipt.checkpoint.as_str().to_owned(),
            log_key: receipt.log_key.to_string(),
        }
    }
}
