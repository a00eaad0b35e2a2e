//! What is known of a stored file, and what an upload is answered with.

use receipt::Receipt;
use serde::{Deserialize, Serialize};

use crate::{Attributes, Cohort, ContentDigest, ETag, FileId, FileType, LogicalPath};

/// A stored file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    /// Its id.
    pub file_id: FileId,
    /// The cohort it belongs to.
    pub cohort: Cohort,
    /// Its name there.
    pub path: LogicalPath,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: ContentDigest,
    /// Strong, quoted; made from `sha256`.
    pub etag: ETag,
    /// What kind of data it is, if the sender said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_type: Option<FileType>,
    /// What the sender said beside that.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Where the ledger records its arrival.
    pub ledger_index: u64,
    /// Which version of its name it is, from 1.
    #[serde(default = "first_version")]
    pub version: u32,
    /// Whether it may be read.
    #[serde(default)]
    pub state: FileState,
}

fn first_version() -> u32 {
    1
}

/// Whether a file may be read (requirement A-145). What has arrived and is not yet one of these is an open
/// upload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// Only by a scanner, whose verdict it waits for.
    Held,
    /// By everybody whom policy lets.
    #[default]
    Available,
    /// By nobody.
    Rejected,
}

impl FileState {
    /// Whether its bytes may leave, to a scanner or to anybody else.
    pub fn may_be_read(self, scanner: bool) -> bool {
        match self {
            FileState::Available => true,
            FileState::Held => scanner,
            FileState::Rejected => false,
        }
    }

    /// The word in rows and answers.
    pub fn name(self) -> &'static str {
        match self {
            FileState::Held => "held",
            FileState::Available => "available",
            FileState::Rejected => "rejected",
        }
    }
}

/// The body of `POST /internal/v1/files/{id}/verdict`: what a scanner found in a held file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Whether it may be read from now on.
    pub clean: bool,
    /// What was found: a short word of the scanner, never of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<FileType>,
}

/// The answer to an upload: durable and recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadReceipt {
    /// Its id.
    pub file_id: FileId,
    /// The cohort it belongs to.
    pub cohort: Cohort,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: ContentDigest,
    /// Strong, quoted; made from `sha256`.
    pub etag: ETag,
    /// Where the ledger records its arrival.
    pub ledger_index: u64,
    /// RFC 3339, UTC.
    pub stored_at: String,
    /// What proves all that with no server, if the store could make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// A page of a cohort's files, ordered by path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The files of this page.
    pub files: Vec<FileMeta>,
    /// Ask with this for the next page; none: this was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
