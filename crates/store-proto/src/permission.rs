//! The one round trip before a body is read: may this user do this?

use serde::{Deserialize, Serialize};

use crate::{
    Action, Attributes, Cohort, ContentDigest, FileId, FileMeta, FileType, IdempotencyKey, LogicalPath,
    UploadReceipt,
};

/// The body of `POST /internal/v1/permissions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum PermissionRequest {
    /// May this file be written?
    Upload {
        /// Where.
        cohort: Cohort,
        /// Under which name.
        path: LogicalPath,
        /// How long it will be, if the client said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        /// The content that it replaces by a new version (`If-Match`); none: the name must be free.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<ContentDigest>,
        /// What kind of data it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file_type: Option<FileType>,
        /// What is said of it beside that.
        #[serde(default, skip_serializing_if = "Attributes::is_empty")]
        attributes: Attributes,
        /// What its hash will be, if the client said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<ContentDigest>,
        /// What the client calls the request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<IdempotencyKey>,
    },
    /// May this file be read?
    Download {
        /// Where.
        cohort: Cohort,
        /// Which.
        #[serde(flatten)]
        file: FileSelector,
    },
    /// May the file with this id be read, wherever it is?
    DownloadFile {
        /// Which.
        file_id: FileId,
    },
    /// May the cohort be listed?
    List {
        /// Which.
        cohort: Cohort,
    },
}

impl PermissionRequest {
    /// What is asked for.
    pub fn action(&self) -> Action {
        match self {
            PermissionRequest::Upload { .. } => Action::Upload,
            PermissionRequest::Download { .. } | PermissionRequest::DownloadFile { .. } => Action::Download,
            PermissionRequest::List { .. } => Action::List,
        }
    }

    /// The cohort it is about; `None`: only the file's row says that.
    pub fn cohort(&self) -> Option<&Cohort> {
        match self {
            PermissionRequest::Upload { cohort, .. }
            | PermissionRequest::Download { cohort, .. }
            | PermissionRequest::List { cohort } => Some(cohort),
            PermissionRequest::DownloadFile { .. } => None,
        }
    }
}

/// A file, by name, by name and version, or by id: `"path": …`, `"version": {"path": …, "number": …}` or `"file_id": …`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileSelector {
    /// By its name in the cohort.
    Path(LogicalPath),
    /// A version of a name, from 1.
    Version {
        /// Its name in the cohort.
        path: LogicalPath,
        /// Which one.
        number: u32,
    },
    /// By its id.
    FileId(FileId),
}

/// The answer when it may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one is made for a request and read at once")]
pub enum Permission {
    /// Send the body.
    Upload(UploadPermission),
    /// It was sent before, with the same key: this was the answer.
    Stored(Box<StoredBefore>),
    /// Fetch it by its id.
    Download(FileMeta),
    /// Ask for the listing.
    List {},
}

/// The answer to a request that came before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBefore {
    /// Whether the file was made by it; else it was there already.
    pub created: bool,
    /// What it was answered with.
    pub receipt: UploadReceipt,
}

/// What an upload may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPermission {
    /// The longest body that will be taken.
    pub max_bytes: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_json_is_the_documented_one() {
        let table = [
            (
                PermissionRequest::Upload {
                    cohort: c(),
                    path: p(),
                    size: Some(5),
                    replaces: None,
                    file_type: None,
                    attributes: Attributes::default(),
                    sha256: None,
                    key: None,
                },
                json!({"action": "upload", "cohort": "c1", "path": "a/b", "size": 5}),
            ),
            (
                PermissionRequest::Download { cohort: c(), file: FileSelector::Path(p()) },
                json!({"action": "download", "cohort": "c1", "path": "a/b"}),
            ),
            (
                PermissionRequest::Download {
                    cohort: c(),
                    file: FileSelector::FileId(FileId::from_bytes([1; 16])),
                },
                json!({"action": "download", "cohort": "c1", "file_id": "01".repeat(16)}),
            ),
            (
                PermissionRequest::Download {
                    cohort: c(),
                    file: FileSelector::Version { path: p(), number: 2 },
                },
                json!({"action": "download", "cohort": "c1", "version": {"path": "a/b", "number": 2}}),
            ),
            (
                PermissionRequest::DownloadFile { file_id: FileId::from_bytes([1; 16]) },
                json!({"action": "download_file", "file_id": "01".repeat(16)}),
            ),
            (PermissionRequest::List { cohort: c() }, json!({"action": "list", "cohort": "c1"})),
        ];
        for (value, expected) in table {
            assert_eq!(serde_json::to_value(&value).unwrap(), expected);
            assert_eq!(serde_json::from_value::<PermissionRequest>(expected).unwrap(), value);
        }
        assert_eq!(
            serde_json::to_value(Permission::Upload(UploadPermission { max_bytes: 7 })).unwrap(),
            json!({"upload": {"max_bytes": 7}})
        );
        assert_eq!(serde_json::to_value(Permission::List {}).unwrap(), json!({"list": {}}));
    }

    #[test]
    fn a_climbing_path_does_not_deserialize() {
        let climbing = json!({"action": "upload", "cohort": "c1", "path": "../x"});
        let error = serde_json::from_value::<PermissionRequest>(climbing).unwrap_err().to_string();
        assert!(error.contains("`..` segment"), "{error}");
    }

    fn c() -> Cohort {
        Cohort::parse("c1").unwrap()
    }

    fn p() -> LogicalPath {
        LogicalPath::parse("a/b").unwrap()
    }
}
