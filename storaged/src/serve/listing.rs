//! A cohort's files, a page at a time. The names are data: serving them is recorded first.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use hyper::Request;
use store_proto::limits::{DEFAULT_LIST_LIMIT, MAX_LIST_LIMIT};
use store_proto::{Action as Asked, Cohort, Listing, LogicalPath, ProblemKind};

use crate::denial::Denial;
use crate::ledger::Note;
use crate::ledger::{Action, Ending};
use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::permissions::unreadable;
use crate::serve::routes::{deny, watch};
use crate::store::Store;

/// `GET /internal/v1/cohorts/{c}/files?cursor=&limit=`.
pub async fn list<B>(
    request: &Request<B>,
    cohort: &Cohort,
    admitted: &Admitted,
    store: &Arc<Store>,
) -> Result<Answer, Refusal> {
    if let Err(denial) = admitted.authorize(cohort, Asked::List) {
        return Err(deny(store, denial, admitted.origin.clone(), Some(cohort), None).await);
    }
    watch(store, admitted, cohort).await?;
    let Some(page) = Page::parse(request.uri().query().unwrap_or("")) else {
        return Err(deny(store, Denial::Malformed, admitted.origin.clone(), Some(cohort), None).await);
    };
    let (rows, more) = store.ledger.reader().list(cohort, page.after, page.limit).map_err(unreadable)?;
    let note = Note {
        cohort: Some(cohort.clone()),
        detail: Some(format!("{} files", rows.len())),
        ..Note::new(Action::AccessListed, Ending::Succeeded, admitted.origin.clone())
    };
    store.note(note).await?;
    let next_cursor =
        rows.last().filter(|_| more).map(|row| URL_SAFE_NO_PAD.encode(row.ledger_index.to_be_bytes()));
    let files = rows.iter().map(|row| row.to_meta()).collect();
    Ok(answer::json(StatusCode::OK, &Listing { files, next_cursor }))
}

/// `GET /internal/v1/cohorts/{c}/versions?path=`: all versions of a name, the newest first.
pub async fn versions<B>(
    request: &Request<B>,
    cohort: &Cohort,
    admitted: &Admitted,
    store: &Arc<Store>,
) -> Result<Answer, Refusal> {
    if let Err(denial) = admitted.authorize(cohort, Asked::List) {
        return Err(deny(store, denial, admitted.origin.clone(), Some(cohort), None).await);
    }
    let path = request.uri().query().and_then(|query| query.strip_prefix("path="));
    let Some(Ok(path)) = path.map(LogicalPath::from_percent_encoded) else {
        return Err(deny(store, Denial::Path, admitted.origin.clone(), Some(cohort), None).await);
    };
    let rows = store.ledger.reader().versions(cohort, &path).map_err(unreadable)?;
    if rows.is_empty() {
        return Err(Refusal::of(ProblemKind::UnknownFile));
    }
    let note = Note {
        cohort: Some(cohort.clone()),
        path: Some(path),
        file_id: rows.first().map(|newest| newest.file_id),
        detail: Some(format!("{} versions", rows.len())),
        ..Note::new(Action::AccessListed, Ending::Succeeded, admitted.origin.clone())
    };
    store.note(note).await?;
    let files = rows.iter().map(|row| row.to_meta()).collect();
    Ok(answer::json(StatusCode::OK, &Listing { files, next_cursor: None }))
}

#[derive(Debug, PartialEq, Eq)]
struct Page {
    /// The record of the last file that was served: files are listed as they came.
    after: Option<u64>,
    limit: usize,
}

impl Page {
    fn parse(query: &str) -> Option<Page> {
        let mut page = Page { after: None, limit: DEFAULT_LIST_LIMIT as usize };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=')? {
                ("cursor", "") => {}
                ("cursor", cursor) => {
                    let index = URL_SAFE_NO_PAD.decode(cursor).ok()?.try_into().ok()?;
                    page.after = Some(u64::from_be_bytes(index));
                }
                ("limit", "") => {}
                ("limit", limit) => {
                    page.limit = limit.parse::<usize>().ok()?.clamp(1, MAX_LIST_LIMIT as usize);
                }
                _ => return None,
            }
        }
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_with_cursor_and_limit() {
        let cursor = URL_SAFE_NO_PAD.encode(7_u64.to_be_bytes());
        let page = Page::parse(&format!("cursor={cursor}&limit=5")).unwrap();
        assert_eq!(page, Page { after: Some(7), limit: 5 });
        assert_eq!(Page::parse("").unwrap().limit, 100);
        assert_eq!(Page::parse("limit=99999").unwrap().limit, 1000);
        assert_eq!(Page::parse("limit=0").unwrap().limit, 1);
        for bad in ["limit=x", "cursor=!!", "cursor=Li4", "order=asc", "limit"] {
            assert_eq!(Page::parse(bad), None, "{bad}");
        }
    }
}
