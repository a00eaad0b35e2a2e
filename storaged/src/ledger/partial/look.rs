//! Uploads that are not files yet, as a reader sees them.

use store_proto::{FileId, UserName};

use super::{Blob, OF_USER, PARTIAL, PARTIAL_PARTS, PartialRow};
use crate::ledger::files::PartRow;
use crate::ledger::state::View;
use crate::ledger::tables::CorruptError;
use crate::limits::UPLOADS_PER_USER;

/// The parts so far, in their order.
pub(crate) fn parts(view: &impl View, upload: FileId) -> Result<Vec<PartRow>, CorruptError> {
    let found = view.scan(&PARTIAL_PARTS, upload.as_bytes(), None, usize::MAX)?;
    Ok(found.into_iter().map(|(_, part)| part).collect())
}

/// At most `limit` uploads, ended or not, from behind `after`, in the order of their ids.
pub(crate) fn some(
    view: &impl View,
    after: Option<FileId>,
    limit: usize,
) -> Result<Vec<(FileId, PartialRow)>, CorruptError> {
    let after = after.map(|after| *after.as_bytes());
    let found = view.scan(&PARTIAL, &[], after.as_ref().map(|after| after.as_slice()), limit)?;
    found
        .into_iter()
        .map(|(key, row)| {
            let key = key.try_into().map_err(|_| CorruptError::Row("the key of an upload".into()))?;
            Ok((FileId::from_bytes(key), row))
        })
        .collect()
}

/// The uploads of a user that have not ended, without their tails.
pub(crate) fn of_user(view: &impl View, user: &UserName) -> Result<Vec<(FileId, PartialRow)>, CorruptError> {
    let mut found = Vec::new();
    for (_, upload) in view.scan(&OF_USER, &of_user_prefix(view, user), None, UPLOADS_PER_USER)? {
        if let Some(row) = view.get(&PARTIAL, upload.as_bytes())? {
            found.push((upload, PartialRow { tail: Blob::default(), ..row }));
        }
    }
    Ok(found)
}

pub(super) fn of_user_prefix(view: &impl View, user: &UserName) -> [u8; 32] {
    view.blind("partial user", &[user.as_str().as_bytes()])
}

pub(super) fn part_key(upload: FileId, part: u32) -> Vec<u8> {
    [upload.as_bytes().as_slice(), &part.to_be_bytes()].concat()
}
