//! A cohort's files, a page at a time. The names are data: serving them is recorded first.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use hyper::Request;
use store_proto::limits::MAX_ATTRIBUTES;
use store_proto::limits::{DEFAULT_LIST_LIMIT, MAX_LIST_LIMIT};
use store_proto::{Action as Asked, Attribute, Cohort, FileType, Listing, LogicalPath, ProblemKind};

use crate::denial::Denial;
use crate::ledger::tables::CorruptError;
use crate::ledger::{Action, Ending, FileRow, Note};
use crate::limits::LISTED_ROWS;
use crate::serve::admission::Admitted;
use crate::serve::answer::{self, Answer, Refusal};
use crate::serve::permissions::unreadable;
use crate::serve::routes::{deny, watch};
use crate::store::Store;

/// `GET /internal/v1/cohorts/{c}/files?cursor=&limit=&type=&attribute=&from=&to=`.
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
    let (rows, last) = page.read(store, cohort).map_err(unreadable)?;
    let note = Note {
        cohort: Some(cohort.clone()),
        detail: Some(format!("{} files", rows.len())),
        ..Note::new(Action::AccessListed, Ending::Succeeded, admitted.origin.clone())
    };
    store.note(note).await?;
    let next_cursor = last.map(|index| URL_SAFE_NO_PAD.encode(index.to_be_bytes()));
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
    file_type: Option<FileType>,
    /// All of them.
    attributes: Vec<Attribute>,
    /// Milliseconds since 1970: the first of them, and the first behind them.
    from_ms: Option<u64>,
    end_ms: Option<u64>,
}

impl Page {
    /// The rows that are asked for, and the record to go on behind, if there may be more. Looks at a bounded number of
    /// rows: a page may have fewer files than were asked for, and another behind it.
    fn read(&self, store: &Store, cohort: &Cohort) -> Result<(Vec<FileRow>, Option<u64>), CorruptError> {
        let reader = store.ledger.reader();
        let (mut found, mut after, mut looked) = (Vec::new(), self.after, 0);
        loop {
            let (rows, more) = reader.list(cohort, after, self.limit)?;
            let count = rows.len();
            looked += count;
            for (number, row) in (1..).zip(rows) {
                after = Some(row.ledger_index);
                if self.takes(&row) {
                    found.push(row);
                    if found.len() == self.limit {
                        return Ok((found, after.filter(|_| more || number < count)));
                    }
                }
            }
            if !more {
                return Ok((found, None));
            }
            if looked >= LISTED_ROWS {
                return Ok((found, after));
            }
        }
    }

    fn takes(&self, row: &FileRow) -> bool {
        self.file_type.as_ref().is_none_or(|wanted| row.file_type.as_ref() == Some(wanted))
            && self.attributes.iter().all(|wanted| row.attributes.has(wanted))
            && self.from_ms.is_none_or(|from| row.created_ms >= from)
            && self.end_ms.is_none_or(|end| row.created_ms < end)
    }

    fn parse(query: &str) -> Option<Page> {
        let mut page = Page {
            after: None,
            limit: DEFAULT_LIST_LIMIT as usize,
            file_type: None,
            attributes: Vec::new(),
            from_ms: None,
            end_ms: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=')? {
                ("cursor", "") => {}
                ("cursor", cursor) => {
                    let index = URL_SAFE_NO_PAD.decode(cursor).ok()?.try_into().ok()?;
                    page.after = Some(u64::from_be_bytes(index));
                }
                ("limit", "") => {}
                ("type", text) => page.file_type = Some(FileType::parse(text).ok()?),
                ("attribute", text) if page.attributes.len() < MAX_ATTRIBUTES => {
                    page.attributes.push(Attribute::parse(text).ok()?);
                }
                ("from", day) => page.from_ms = Some(day_ms(day, 0)?),
                ("to", day) => page.end_ms = Some(day_ms(day, 1)?),
                ("limit", limit) => {
                    page.limit = limit.parse::<usize>().ok()?.clamp(1, MAX_LIST_LIMIT as usize);
                }
                _ => return None,
            }
        }
        Some(page)
    }
}

/// When a day of the form 2026-11-22 begins in UTC, so many days later.
fn day_ms(day: &str, later: i64) -> Option<u64> {
    let day: jiff::civil::Date = day.parse().ok()?;
    let day = day.checked_add(jiff::Span::new().try_days(later).ok()?).ok()?;
    let begins = day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond();
    u64::try_from(begins).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_with_cursor_and_limit() {
        let cursor = URL_SAFE_NO_PAD.encode(7_u64.to_be_bytes());
        let page = Page::parse(&format!("cursor={cursor}&limit=5")).unwrap();
        assert_eq!((page.after, page.limit), (Some(7), 5));
        assert_eq!(Page::parse("").unwrap().limit, 100);
        assert_eq!(Page::parse("limit=99999").unwrap().limit, 1000);
        assert_eq!(Page::parse("limit=0").unwrap().limit, 1);
        let page = Page::parse("type=raw_csv&from=1970-01-02&to=1970-01-02").unwrap();
        assert_eq!((page.from_ms, page.end_ms), (Some(86_400_000), Some(172_800_000)));
        assert_eq!(page.file_type, FileType::parse("raw_csv").ok());
        let page = Page::parse("attribute=year=2026&attribute=site=x").unwrap();
        assert_eq!(page.attributes, ["year=2026", "site=x"].map(|text| Attribute::parse(text).unwrap()));
        for bad in [
            "type=No",
            "attribute=year",
            "from=yesterday",
            "to=2026-02-30",
            "from=1969-01-01",
            "limit=x",
            "cursor=!!",
            "cursor=Li4",
            "order=asc",
            "limit",
        ] {
            assert_eq!(Page::parse(bad), None, "{bad}");
        }
    }
}
