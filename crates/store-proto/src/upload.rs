//! Uploads that resume: what edge and storaged say to each other, in the terms of tus and of the IETF draft.

use serde::{Deserialize, Serialize};

use crate::{
    Attributes, Cohort, ContentDigest, FileId, FileType, IdempotencyKey, LogicalPath, UploadReceipt,
};

/// The body of `POST /internal/v1/uploads`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUpload {
    /// Where the file goes.
    pub cohort: Cohort,
    /// Under which name.
    pub path: LogicalPath,
    /// What kind of data it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_type: Option<FileType>,
    /// What is said of it beside that.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// `Upload-Metadata` to the letter, which is told to its sender again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// What its sender calls the request: a second one with this key begins no second upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    /// How long it will be; it can be said later (`Upload-Defer-Length`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// SHA-256 that the whole must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<ContentDigest>,
    /// The content that it replaces by a new version (`If-Match`); none: the name must be free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<ContentDigest>,
}

/// How far an upload is: the answer to `POST`, `PATCH` and `GET`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadState {
    /// Its id: cannot be guessed, and is of use to the user who began it alone.
    pub upload_id: FileId,
    /// Bytes that are durable; the sender goes on here.
    pub offset: u64,
    /// How long it will be, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// RFC 3339, UTC: when it is given up, unless more arrives.
    pub expires_at: String,
    /// Whether it has become a file.
    pub complete: bool,
    /// What its sender said of it in `Upload-Metadata`; once it is a file, what that has kept of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// The file's receipt, when it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<UploadReceipt>,
}

/// The answer to `GET /internal/v1/uploads`: those of the user who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploads {
    /// Each of them.
    pub uploads: Vec<UploadState>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_json_is_the_documented_one() {
        let new: NewUpload =
            serde_json::from_value(json!({"cohort": "c1", "path": "a/b", "length": 5})).unwrap();
        assert_eq!((new.path.as_str(), new.length, new.replaces), ("a/b", Some(5), None));
        for bad in [
            json!({"cohort": "c1", "path": "../b"}),
            json!({"cohort": "../c", "path": "b"}),
            json!({"cohort": "c1", "path": "b", "length": -1}),
            json!({"cohort": "c1", "path": "b", "filename": "c"}),
        ] {
            assert!(serde_json::from_value::<NewUpload>(bad.clone()).is_err(), "{bad}");
        }
    }
}
