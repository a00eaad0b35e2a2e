//! The paths of the internal API.

use crate::{Cohort, FileId};

/// `GET`: is the store usable?
pub const HEALTH: &str = "/internal/storage/health";
/// `POST`: stream a file in.
pub const UPLOAD: &str = "/internal/storage/upload";
/// `POST`: may this user do this?
pub const PERMISSIONS: &str = "/internal/v1/permissions";
/// `GET|HEAD` with an id behind it: stream a file out.
pub const FILES: &str = "/internal/storage/files/";
/// `GET` with `{cohort}/files` behind it: list.
pub const COHORTS: &str = "/internal/v1/cohorts/";

/// `POST`: begin an upload that can be resumed. `GET`: one's own.
pub const UPLOADS: &str = "/internal/v1/uploads";
/// `POST` with `{id}/verdict` behind it: what a scanner found.
pub const STORED: &str = "/internal/v1/files/";

/// The path of one upload.
pub fn upload(id: FileId) -> String {
    format!("{UPLOADS}/{id}")
}

/// The path of the verdict about a file.
pub fn verdict(id: FileId) -> String {
    format!("{STORED}{id}/verdict")
}

/// The path of the versions of a name; the name stands percent-encoded in the query, `path=`.
pub fn versions(cohort: &Cohort) -> String {
    format!("{COHORTS}{cohort}/versions")
}
/// `POST`: make a link; `GET`: list one's own; with `/{id}` behind it `DELETE`: end one.
pub const CAPABILITIES: &str = "/internal/v1/capabilities";

/// `GET`: what the user may upload, and how large.
pub const POLICY: &str = "/internal/v1/policy";

/// `POST`: an edge has locked somebody out; `GET`: whom it had locked out before it was started again.
pub const LOCKOUTS: &str = "/internal/v1/lockouts";

/// `GET`, with `?state=overdue`: what must go and is not gone; with `/{id}/verify` behind it `POST`: it is gone, see.
pub const CLEANUPS: &str = "/internal/v1/cleanups";

/// Where the log is shown.
pub const LEDGER: &str = "/internal/v1/ledger/";
/// `GET`: the newest signed checkpoint of the log, as a note; its key is in the header `Culvert-Log-Key`.
pub const LEDGER_CHECKPOINT: &str = "/internal/v1/ledger/checkpoint";
/// `GET` with `LEVEL/INDEX` behind it: a tile of the log, up to 256 hashes of 32 bytes.
pub const LEDGER_TILE: &str = "/internal/v1/ledger/tile/";
/// `GET` with a record's index behind it: the inclusion proof of that record in the newest checkpoint.
pub const LEDGER_PROOF: &str = "/internal/v1/ledger/proof/";
/// `GET` with `?from=&to=`: the proof that one size of the log continues another.
pub const LEDGER_CONSISTENCY: &str = "/internal/v1/ledger/consistency";

/// The path of the proof that the log of `to` records continues that of `from`.
pub fn ledger_consistency(from: u64, to: u64) -> String {
    format!("{LEDGER_CONSISTENCY}?from={from}&to={to}")
}

/// The path of a file's receipt.
pub fn file_receipt(id: FileId) -> String {
    format!("{FILES}{id}/receipt")
}

/// The path of one file.
pub fn file(id: FileId) -> String {
    format!("{FILES}{id}")
}

/// The path of a cohort's listing.
pub fn cohort_files(cohort: &Cohort) -> String {
    format!("{COHORTS}{cohort}/files")
}
