//! One line of the audit trail.
//!
//! **Invariant:** a record is written once, as JSON with its keys in alphabetical order and without
//! white space, so equal records are equal bytes. `index` counts without gaps; `time_ms` never goes back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::ledger::cleanup::Fields;
use serde::{Deserialize, Serialize};
use store_proto::{Cohort, ContentDigest, EdgeName, FileId, FileType, LogicalPath, RequestId, UserName};

use crate::ledger::access::Change;

use crate::limits::{METADATA_ENTRIES, METADATA_NAME_BYTES, METADATA_VALUE_BYTES};

/// The format of [`Record`].
pub const RECORD_VERSION: u32 = 1;

/// What happened. Fields are in alphabetical order, for that is the order on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// In a record of `access.…`: what changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Box<Change>>,
    /// What was done or tried.
    pub action: Action,
    /// What it says about something that must go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<Fields>,
    /// The cohort it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<Cohort>,
    /// A closed word or short sentence about this occurrence; never the user's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How it ended; in an intent there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The file it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_id: Option<FileId>,
    /// Its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_type: Option<FileType>,
    /// The process that wrote this.
    pub host: Host,
    /// Counts from 0 without gaps.
    pub index: u64,
    /// In an outcome: the index of its intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<u64>,
    /// What else the one who reported it wants to be remembered.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    /// Who asked, and through what.
    pub origin: Origin,
    /// The index of the record that this one follows from: of a job's end, its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// The file's name in its cohort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<LogicalPath>,
    /// Before or after.
    pub phase: Phase,
    /// SHA-256 of the file's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<ContentDigest>,
    /// The file's length; of a transfer: the bytes that went over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What it is about beside a file, as a URI: an upload, a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_ref: Option<String>,
    /// Wall clock in milliseconds since 1970, raised to the previous record's if the clock went back.
    pub time_ms: u64,
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// The program that did the work, as it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// Names and values that a record carries along, few and short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metadata(BTreeMap<String, String>);

/// Why metadata are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Too many.
    #[error("at most {METADATA_ENTRIES} entries, not {0}")]
    Entries(usize),
    /// A name that is none.
    #[error("a name must have 1 to {METADATA_NAME_BYTES} bytes of a-z, 0-9, `_`, `-`, `.`: {0:?}")]
    Name(String),
    /// A value that is too long.
    #[error("{name}: at most {METADATA_VALUE_BYTES} bytes")]
    Value {
        /// Whose.
        name: String,
    },
}

impl Metadata {
    /// Takes what somebody else said, if it is within bounds.
    pub fn parse(entries: BTreeMap<String, String>) -> Result<Metadata, MetadataError> {
        if entries.len() > METADATA_ENTRIES {
            return Err(MetadataError::Entries(entries.len()));
        }
        for (name, value) in &entries {
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
            if name.is_empty() || name.len() > METADATA_NAME_BYTES || !name.bytes().all(plain) {
                return Err(MetadataError::Name(name.chars().take(METADATA_NAME_BYTES).collect()));
            }
            if value.len() > METADATA_VALUE_BYTES {
                return Err(MetadataError::Value { name: name.clone() });
            }
        }
        Ok(Metadata(entries))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Our own: names are literals.
impl From<BTreeMap<String, String>> for Metadata {
    fn from(entries: BTreeMap<String, String>) -> Metadata {
        Metadata(entries)
    }
}

/// Where a record was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The kernel's id of this boot, if it could be read at start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The machine's name at start.
    pub hostname: String,
    /// storaged's process id.
    pub process_id: u32,
    /// The server's role.
    pub role: String,
}

/// Who asked, and through what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// For a verb on the admin socket: who called, as `uid=… pid=…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The client's address, as edge saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<IpAddr>,
    /// The edge, by its peer name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<EdgeName>,
    /// The edge's process id, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_process_id: Option<u32>,
    /// The public key of the WireGuard peer that delivered the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_public_key: Option<String>,
    /// Joins the logs of edge and storaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The tunnel address the connection came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<IpAddr>,
    /// Whom the proof stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
}

/// Before or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Durable before the first byte is written or served.
    Intent,
    /// What came of it; also the phase of what has no before.
    Outcome,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Done.
    Succeeded,
    /// Not done, by our or the disk's fault, or because the input was wrong.
    Failed,
    /// The other side went away.
    Aborted,
    /// Not allowed.
    Denied,
}

impl Ending {
    /// Every ending.
    pub const ALL: [Ending; 4] = [Ending::Succeeded, Ending::Failed, Ending::Aborted, Ending::Denied];

    /// The word on disk and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Ending::Succeeded => "succeeded",
            Ending::Failed => "failed",
            Ending::Aborted => "aborted",
            Ending::Denied => "denied",
        }
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// What was done or tried: the closed list, on disk and in metrics.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Action {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Action {
            /// Every action.
            pub const ALL: &[Action] = &[$(Action::$variant,)*];

            /// The word on disk and in metrics.
            pub fn name(self) -> &'static str {
                match self { $(Action::$variant => $name,)* }
            }

            /// Finds an action by its word.
            pub fn parse(name: &str) -> Option<Action> {
                Self::ALL.iter().copied().find(|action| action.name() == name)
            }
        }
    };
}

actions! {
    /// A file became part of the store.
    NasRawCreated = "nas_raw_created";
    /// A file left the store, verified.
    NasRawDeleted = "nas_raw_deleted";
    /// A derived DuckDB file became part of the store.
    NasDuckdbCreated = "nas_duckdb_created";
    /// A report became part of the store.
    NasReportCreated = "nas_report_created";
    /// A work copy was handed out.
    WorkCopyCreated = "work_copy_created";
    /// A work copy is gone, verified.
    WorkCopyDeleted = "work_copy_deleted";
    /// A conversion began.
    ConversionStarted = "conversion_started";
    /// A conversion ended well.
    ConversionCompleted = "conversion_completed";
    /// A conversion ended badly.
    ConversionFailed = "conversion_failed";
    /// Extraction of identifiers began.
    PatientIdExtractionStarted = "patient_id_extraction_started";
    /// Extraction of identifiers ended well.
    PatientIdExtractionCompleted = "patient_id_extraction_completed";
    /// Extraction of identifiers ended badly.
    PatientIdExtractionFailed = "patient_id_extraction_failed";
    /// Processing began.
    ProcessingStarted = "processing_started";
    /// Processing ended well.
    ProcessingCompleted = "processing_completed";
    /// Processing ended badly.
    ProcessingFailed = "processing_failed";
    /// Bytes from edge to storaged.
    FileUploadedViaStream = "file_uploaded_via_stream";
    /// Bytes from storaged to edge.
    FileDownloadedViaStream = "file_downloaded_via_stream";
    /// A temporary or partial object was removed.
    ScratchCleanup = "scratch_cleanup";
    /// A request was refused.
    AccessDenied = "access.denied";
    /// An edge listens to somebody no more for a while, after failed attempts.
    AccessLockedOut = "access.locked_out";
    /// An edge makes somebody wait who asks faster than the rate.
    AccessRateLimited = "access.rate_limited";
    /// A user asked more of a cohort within an hour than is usual.
    AccessUnusual = "access.unusual";
    /// A page of a cohort's file names was served.
    AccessListed = "access.listed";
    /// A file's metadata was served.
    AccessMetadata = "access.metadata";
    /// Nothing of a file or cohort may be deleted from here on.
    HoldPlaced = "admin.hold_placed";
    /// A hold stands no more.
    HoldReleased = "admin.hold_released";
    /// The deletions, or the certificate of one, were read.
    AdminDeletions = "admin.deletions";
    /// The trail was made into a report.
    AdminReport = "admin.report";
    /// A cohort's key was replaced.
    KeyRotated = "key.rotated";
    /// File keys have moved to their cohort's new key.
    KeyRewrapped = "key.rewrapped";
    /// The root key was replaced.
    KeyRootRotated = "key.root_rotated";
    /// A deleted file's keys are destroyed; without a file: all keys so destroyed are gone for good.
    KeyDestroyed = "key.destroyed";
    /// A backup was made, and is kept.
    AdminBackup = "admin.backup";
    /// A backup was restored elsewhere and found good.
    AdminBackupVerified = "admin.backup_verified";
    /// The state of the backups was read.
    AdminBackupStatus = "admin.backup_status";
    /// The state of the keys was read.
    AdminKekStatus = "admin.kek_status";
    /// The volumes were read.
    AdminVolumeList = "admin.volume_list";
    /// What no ledger knows was listed.
    AdminVolumeUnclaimed = "admin.volume_unclaimed";
    /// Something that no ledger knows was moved out of the way.
    AdminVolumeSetAside = "admin.volume_set_aside";
    /// What cohorts use was read.
    AdminUsage = "admin.usage";
    /// The resumable uploads were read.
    AdminUploadList = "admin.upload_list";
    /// A resumable upload was given up in its sender's place.
    AdminUploadCancel = "admin.upload_cancel";
    /// The holds were read.
    AdminHoldList = "admin.hold_list";
    /// What must go was read.
    AdminCleanupList = "admin.cleanup_list";
    /// Somebody had storaged look whether it is gone.
    AdminCleanupVerify = "admin.cleanup_verify";
    /// Everything temporary was to go at once.
    AdminCleanupEmergency = "admin.cleanup_emergency";
    /// A scanner found nothing: a held file may be read.
    AccessReleased = "access.released";
    /// A scanner found something: a held file is rejected.
    AccessRejected = "access.rejected";
    /// The store was made.
    AdminInit = "admin.init";
    /// storaged began to serve.
    AdminStarted = "admin.started";
    /// storaged ended in order.
    AdminStopped = "admin.stopped";
    /// The configuration was swapped, or refused.
    AdminReload = "admin.reload";
    /// The trail was read.
    AdminAuditTrail = "admin.audit_trail";
    /// The status was read.
    AdminStatus = "admin.status";
    /// The store was restored from a backup, and a new epoch of its log began.
    AdminEpoch = "admin.epoch";
    /// The clock went forward by more than time did: what deletes because of a date waits.
    AdminTimeHeld = "admin.time_held";
    /// Somebody has looked at the clock.
    AdminTimeConfirmed = "admin.time_confirmed";
    /// The newest checkpoint was read.
    AdminCheckpoint = "admin.checkpoint";
    /// An object is not there, or is not what was sealed.
    IntegrityFailed = "integrity.failed";
    /// An object in which something was found is what was sealed, again.
    IntegrityRestored = "integrity.restored";
    /// Each object of a volume was read once.
    IntegrityScrubbed = "integrity.scrubbed";
    /// Somebody had storaged look at the objects.
    AdminIntegrity = "admin.integrity";
    /// Somebody had storaged walk over the whole log.
    AdminLedgerVerify = "admin.ledger_verify";
    /// The admin socket was asked for something it does not know or allow.
    AdminRefused = "admin.refused";
    /// A user was made.
    AccessUserAdded = "access.user_added";
    /// A user got another role.
    AccessUserRoleSet = "access.user_role_set";
    /// A user was shut out.
    AccessUserDisabled = "access.user_disabled";
    /// A user was let in again.
    AccessUserEnabled = "access.user_enabled";
    /// A user is in a group.
    AccessGroupJoined = "access.group_joined";
    /// A user is no longer in a group.
    AccessGroupLeft = "access.group_left";
    /// A token lives.
    AccessTokenIssued = "access.token_issued";
    /// A token is dead.
    AccessTokenRevoked = "access.token_revoked";
    /// A cohort was made.
    AccessCohortAdded = "access.cohort_added";
    /// A cohort has other rules.
    AccessCohortSet = "access.cohort_set";
    /// A cohort was opened to a user.
    AccessGranted = "access.granted";
    /// A cohort was closed to a user.
    AccessRevoked = "access.revoked";
    /// An edge was registered.
    AccessEdgeAdded = "access.edge_added";
    /// An edge has other cohorts.
    AccessEdgeSet = "access.edge_set";
    /// An edge was struck out.
    AccessEdgeRemoved = "access.edge_removed";
    /// The store's settings of access changed.
    AccessSettingsSet = "access.settings_set";
    /// A link was made.
    AccessCapabilityIssued = "access.capability_issued";
    /// A link was used, before its first byte.
    AccessCapabilityUsed = "access.capability_used";
    /// A link was ended before its time.
    AccessCapabilityRevoked = "access.capability_revoked";
    /// A change of access was refused.
    AccessRefused = "access.refused";
    /// Who may do what was read.
    AccessRead = "access.read";
    /// wgd says that a peer's tunnel came up.
    TunnelUp = "tunnel.up";
    /// wgd says that a peer's tunnel went down.
    TunnelDown = "tunnel.down";
    /// wgd says that a peer came from another address.
    TunnelRoamed = "tunnel.roamed";
    /// wgd says that a peer has another key.
    TunnelKeyChanged = "tunnel.key_changed";
}

impl Record {
    /// A record without a subject yet; the writer sets `index` and `time_ms`.
    pub fn new(action: Action, phase: Phase, host: Host, origin: Origin) -> Record {
        Record {
            access: None,
            action,
            cleanup: None,
            cohort: None,
            detail: None,
            ending: None,
            error: None,
            file_id: None,
            file_type: None,
            host,
            index: 0,
            intent: None,
            metadata: Metadata::default(),
            origin,
            parent: None,
            path: None,
            phase,
            sha256: None,
            size: None,
            subject_ref: None,
            time_ms: 0,
            v: RECORD_VERSION,
            worker: None,
        }
    }

    /// The bytes on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and unit variants always serialize")
    }

    /// Reads the bytes on disk.
    pub fn from_bytes(bytes: &[u8]) -> Result<Record, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_eighteen_seed_actions_have_their_names() {
        let seeds = [
            "nas_raw_created",
            "nas_raw_deleted",
            "nas_duckdb_created",
            "nas_report_created",
            "work_copy_created",
            "work_copy_deleted",
            "conversion_started",
            "conversion_completed",
            "conversion_failed",
            "patient_id_extraction_started",
            "patient_id_extraction_completed",
            "patient_id_extraction_failed",
            "processing_started",
            "processing_completed",
            "processing_failed",
            "file_uploaded_via_stream",
            "file_downloaded_via_stream",
            "scratch_cleanup",
        ];
        assert_eq!(seeds.len(), 18);
        for name in seeds {
            let action = Action::parse(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(serde_json::to_string(&action).unwrap(), format!("\"{name}\""));
        }
    }

    #[test]
    fn a_record_is_json_with_sorted_keys() {
        let text = String::from_utf8(full().to_bytes()).unwrap();
        assert_eq!(Record::from_bytes(text.as_bytes()).unwrap(), full());
        assert!(!text.contains(": ") && !text.contains('\n'));
        let mut last = -1;
        for key in [
            "access",
            "action",
            "cohort",
            "detail",
            "ending",
            "error",
            "file_id",
            "file_type",
            "host",
            "index",
            "intent",
            "metadata",
            "origin",
            "parent",
            "path",
            "phase",
            "sha256",
            "size",
            "subject_ref",
            "time_ms",
            "v",
            "worker",
        ] {
            let at = i64::try_from(text.find(&format!("\"{key}\":")).unwrap()).unwrap();
            assert!(at > last, "{key} is out of order in {text}");
            last = at;
        }
        for object in [&text[text.find("\"host\"").unwrap()..], &text[text.find("\"origin\"").unwrap()..]] {
            let inner = &object[object.find('{').unwrap() + 1..object.find('}').unwrap()];
            let keys: Vec<&str> = inner
                .split(",\"")
                .map(|member| member.trim_start_matches('"').split('"').next().unwrap())
                .collect();
            assert!(keys.is_sorted(), "{keys:?}");
        }
    }

    #[test]
    fn metadata_are_few_and_short() {
        let one =
            |name: &str, value: &str| Metadata::parse(BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert_eq!(one("rows.read", "7").unwrap().get("rows.read"), Some("7"));
        assert_eq!(one("Rows", "7"), Err(MetadataError::Name("Rows".into())));
        assert_eq!(one("", "7"), Err(MetadataError::Name(String::new())));
        let long = "x".repeat(METADATA_VALUE_BYTES + 1);
        assert_eq!(one("a", &long), Err(MetadataError::Value { name: "a".into() }));
        let many = (0..=METADATA_ENTRIES).map(|i| (i.to_string(), String::new())).collect();
        assert_eq!(Metadata::parse(many), Err(MetadataError::Entries(METADATA_ENTRIES + 1)));
    }

    #[test]
    fn a_user_mentioned_by_name_needs_no_escape() {
        let mut record = full();
        record.error = Some("a \"quote\"\nand a line".into());
        assert!(!record.to_bytes().contains(&b'\n'));
    }

    fn full() -> Record {
        Record {
            access: Some(Box::new(Change::UserEnabled { user: UserName::parse("ada").unwrap() })),
            cohort: Some(Cohort::parse("c1").unwrap()),
            detail: Some("d".into()),
            ending: Some(Ending::Failed),
            error: Some("e".into()),
            file_id: Some(FileId::from_bytes([1; 16])),
            file_type: Some(FileType::parse("raw_csv").unwrap()),
            intent: Some(3),
            metadata: Metadata::from(BTreeMap::from([("rows".to_owned(), "7".to_owned())])),
            parent: Some(2),
            subject_ref: Some("job:7".into()),
            worker: Some("w".into()),
            path: Some(LogicalPath::parse("a/b").unwrap()),
            sha256: Some(ContentDigest::from_bytes([2; 32])),
            size: Some(4),
            ..Record::new(
                Action::FileUploadedViaStream,
                Phase::Outcome,
                Host {
                    boot_id: Some("b".into()),
                    hostname: "h".into(),
                    process_id: 1,
                    role: "services".into(),
                },
                Origin {
                    caller: Some("uid=0".into()),
                    client_address: Some("192.0.2.1".parse().unwrap()),
                    edge: Some(EdgeName::parse("web1").unwrap()),
                    edge_process_id: Some(5),
                    peer_public_key: Some("k".into()),
                    request_id: Some(RequestId::parse("r").unwrap()),
                    source_address: Some("10.100.0.10".parse().unwrap()),
                    user: Some(UserName::parse("ada").unwrap()),
                },
            )
        }
    }
}
