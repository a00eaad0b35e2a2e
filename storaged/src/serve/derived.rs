//! What a file says that it was made from (requirement A-094): the attribute `derived-from`.
//!
//! **Invariant:** it names a file that was there when the upload began, and that its sender could read: nobody learns from
//! a refusal which files there are.

use store_proto::{Action as Asked, Attributes, DERIVED_FROM, FileId};

use crate::serve::admission::Admitted;
use crate::serve::answer::Refusal;
use crate::serve::permissions::unreadable;
use crate::store::Store;

/// Looks whether the source that is named, if one is, may be named.
pub(super) fn is_open(attributes: &Attributes, admitted: &Admitted, store: &Store) -> Result<bool, Refusal> {
    let Some(named) = attributes.get(DERIVED_FROM) else { return Ok(true) };
    let Ok(source) = FileId::parse(named) else { return Ok(false) };
    let source = store.ledger.reader().file(source).map_err(unreadable)?;
    Ok(source.is_some_and(|file| admitted.authorize(&file.cohort, Asked::Download).is_ok()))
}

/// What whoever is refused is told.
pub(super) fn refusal(refusal: Refusal) -> Refusal {
    let detail = format!("{DERIVED_FROM}: names no file that is there and open to you");
    Refusal { detail: Some(detail), ..refusal }
}
