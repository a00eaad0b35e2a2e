//! What is known of a stored file, and what an upload is answered with.

use receipt::Receipt;
use serde::{Deserialize, Serialize};

use crate::{Cohort, ContentDigest, ETag, FileId, FileType, LogicalPath};

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
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Where the ledger records its arrival.
    pub ledger_index: u64,
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
