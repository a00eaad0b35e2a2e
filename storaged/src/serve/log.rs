//! `/internal/v1/ledger/…`: the log as it shows itself, and `GET /internal/storage/files/{id}/receipt`.
//!
//! Checkpoints and the proofs between them are for every registered edge, which keeps the highest one it saw; tiles and
//! proofs of single records are for auditors. All of it is hashes of salted commitments, so nothing of it is recorded:
//! a record for each look at the log would make the log grow by being looked at.
//!
//! **Invariant:** what is shown is durable; a receipt is made only of what its checkpoint covers.

use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use http::header::HeaderValue;
use receipt::Hash;
use receipt::limits::TILE_HASHES;
use receipt::merkle::tile::TileId;
use store_proto::{
    Action as Asked, ConsistencyProof, FileId, InclusionProof, ProblemKind, UploadReceipt, headers,
};

use crate::denial::Denial;
use crate::ledger::tables::CorruptError;
use crate::ledger::{Action, Ending, FileRow, Note};
use crate::serve::admission::{self, Admitted, Refused};
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::permissions::unreadable;
use crate::serve::routes::{deny, deny_file};
use crate::store::Store;

/// What an edge may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// The newest checkpoint.
    Checkpoint,
    /// The proof between two sizes; `None`: the query says nothing of the kind.
    Consistency(Option<(u64, u64)>),
}

/// What an auditor may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audited {
    /// The hashes of a tile.
    Tile(TileId),
    /// The proof of a record.
    Proof(u64),
}

/// `from=A&to=B`, in this order, and nothing else.
pub(super) fn sizes(query: Option<&str>) -> Option<(u64, u64)> {
    let (from, to) = query?.strip_prefix("from=")?.split_once("&to=")?;
    Some((number(from)?, number(to)?))
}

/// `LEVEL/INDEX`.
pub(super) fn tile_id(path: &str) -> Option<TileId> {
    let (level, index) = path.split_once('/')?;
    Some(TileId { level: u8::try_from(number(level)?).ok()?, index: number(index)? })
}

/// Digits, and no more of them than a number has.
pub(super) fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Needs only the first lock, as the health request does with which edge asks.
pub(super) async fn show(store: &Arc<Store>, source: IpAddr, shown: Shown) -> Result<Answer, Refused> {
    admission::admit_edge(store, source).await?;
    let answered = match shown {
        Shown::Checkpoint => checkpoint(store),
        Shown::Consistency(None) => Err(Refusal::because(ProblemKind::BadRequest, "ask with ?from=A&to=B")),
        Shown::Consistency(Some((from, to))) => consistency(store, from, to),
    };
    Ok(answered.unwrap_or_else(answer::problem))
}

fn checkpoint(store: &Store) -> Result<Answer, Refusal> {
    let checkpoint = store.ledger.reader().checkpoint().map_err(unreadable)?;
    let mut answer = answer::text(StatusCode::OK, checkpoint.as_str().to_owned());
    let key = HeaderValue::try_from(store.ledger.log_key().to_string());
    let key = key.map_err(|_| Refusal::of(ProblemKind::Internal))?;
    answer.headers_mut().insert(headers::CULVERT_LOG_KEY, key);
    Ok(answer)
}

fn consistency(store: &Store, from: u64, to: u64) -> Result<Answer, Refusal> {
    let snapshot = store.ledger.reader().snapshot().map_err(unreadable)?;
    let size = snapshot.checkpoint().map_err(unreadable)?.unverified().size;
    if from > to || to > size {
        return Err(Refusal::because(ProblemKind::BadRequest, format!("the log has {size} records")));
    }
    let hashes = snapshot.consistency(from, to).map_err(unreadable)?;
    Ok(answer::json(StatusCode::OK, &ConsistencyProof { from, to, hashes }))
}

/// For auditors.
pub(super) async fn audit(store: &Store, admitted: &Admitted, audited: Audited) -> Result<Answer, Refusal> {
    if !admitted.is_auditor() {
        return Err(deny(store, Denial::Role, admitted.origin.clone(), None, None).await);
    }
    match audited {
        Audited::Tile(id) => {
            let hashes = store.ledger.reader().tile(id).map_err(unreadable)?;
            if hashes.is_empty() {
                return Err(Refusal::of(ProblemKind::NotFound));
            }
            let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
            Ok(answer::bytes(StatusCode::OK, bytes))
        }
        Audited::Proof(index) => {
            let snapshot = store.ledger.reader().snapshot().map_err(unreadable)?;
            let checkpoint = snapshot.checkpoint().map_err(unreadable)?;
            let size = checkpoint.unverified().size;
            if index >= size {
                return Err(Refusal::because(ProblemKind::NotFound, format!("the log has {size} records")));
            }
            let proof = InclusionProof {
                index,
                size,
                leaf: leaf(store, index).map_err(unreadable)?,
                hashes: snapshot.inclusion(index, size).map_err(unreadable)?,
                checkpoint: checkpoint.as_str().to_owned(),
            };
            Ok(answer::json(StatusCode::OK, &proof))
        }
    }
}

fn leaf(store: &Store, index: u64) -> Result<Hash, CorruptError> {
    let tile = TileId { level: 0, index: index / TILE_HASHES as u64 };
    let place = usize::try_from(index % TILE_HASHES as u64).expect("below 256");
    let hashes = store.ledger.reader().tile(tile)?;
    hashes.get(place).copied().ok_or_else(|| CorruptError::Row(format!("record {index} has no leaf")))
}

/// `GET /internal/storage/files/{id}/receipt`.
pub(super) async fn receipt(id: FileId, admitted: &Admitted, store: &Store) -> Result<Answer, Refusal> {
    let row = store.ledger.reader().file(id).map_err(unreadable)?;
    let row = row.ok_or(Refusal::of(ProblemKind::UnknownFile))?;
    let authorized = match admitted.link() {
        // A link gives bytes; who stored them is not its matter.
        Some(_) => Err(Denial::CapabilityScope),
        None => admitted.authorize(&row.cohort, Asked::Download).map(drop),
    };
    if let Err(denial) = authorized {
        return Err(deny_file(store, denial, admitted.origin.clone(), &row).await);
    }
    let note = Note {
        cohort: Some(row.cohort.clone()),
        path: Some(row.path.clone()),
        file_id: Some(id),
        detail: Some("receipt".to_owned()),
        ..Note::new(Action::AccessMetadata, Ending::Succeeded, admitted.origin.clone())
    };
    store.note(note).await?;
    match store.ledger.receipt(row.ledger_index).map_err(unreadable)? {
        Some(receipt) => Ok(answer::json(StatusCode::OK, &receipt)),
        None => Err(Refusal::of(ProblemKind::UnknownFile)),
    }
}

/// What an upload is answered with: its receipt, too, unless that cannot be made. The file is stored all the same.
pub(super) fn upload_receipt(store: &Store, row: &FileRow) -> UploadReceipt {
    let receipt = store.ledger.receipt(row.ledger_index).unwrap_or_else(|error| {
        tracing::error!(%error, "a receipt cannot be made");
        None
    });
    UploadReceipt { receipt, ..row.to_receipt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_paths_and_queries_have_one_form() {
        assert_eq!(sizes(Some("from=3&to=17")), Some((3, 17)));
        for bad in [
            None,
            Some(""),
            Some("from=3"),
            Some("to=17&from=3"),
            Some("from=3&to=17&x=1"),
            Some("from=+3&to=4"),
        ] {
            assert_eq!(sizes(bad), None, "{bad:?}");
        }
        assert_eq!(tile_id("0/273"), Some(TileId { level: 0, index: 273 }));
        for bad in ["", "0", "0/", "/0", "256/0", "0/0/0", "0/18446744073709551616", "-1/0"] {
            assert_eq!(tile_id(bad), None, "{bad:?}");
        }
    }
}
