//! Requests under way and those that ended of late, for an operator who asks what became of one.
//!
//! **Invariant:** bounded, and without a path, a name, an address or a token: what a request was is told by the closed
//! words that metrics use.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;
use serde_json::{Value, json};
use store_proto::RequestId;

use crate::limits::RECENT_REQUESTS;

/// What is known of a request.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    handler: &'static str,
    method: &'static str,
    began_ms: u64,
    /// The answer's status, once its head is on its way.
    status: Option<u16>,
    /// Why it was refused by edge, or that it was by storaged.
    refused: Option<&'static str>,
    /// How long it took, once its last byte was sent or its client had gone.
    seconds: Option<f64>,
}

/// The table; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Recent(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Bounded by the places for requests.
    running: HashMap<RequestId, Row>,
    ended: VecDeque<(RequestId, Row)>,
}

impl Recent {
    /// A request begins.
    pub fn begin(&self, id: &RequestId, handler: &'static str, method: &'static str, began_ms: u64) {
        let row = Row { handler, method, began_ms, status: None, refused: None, seconds: None };
        self.table().running.insert(id.clone(), row);
    }

    /// It is refused.
    pub fn refused(&self, id: &RequestId, reason: &'static str) {
        if let Some(row) = self.table().running.get_mut(id) {
            row.refused = Some(reason);
        }
    }

    /// Its answer's head is on its way.
    pub fn answered(&self, id: &RequestId, status: StatusCode) {
        if let Some(row) = self.table().running.get_mut(id) {
            row.status = Some(status.as_u16());
        }
    }

    /// It is over.
    pub fn end(&self, id: &RequestId, seconds: f64) {
        let mut table = self.table();
        let Some(row) = table.running.remove(id) else { return };
        if table.ended.len() >= RECENT_REQUESTS {
            table.ended.pop_front();
        }
        table.ended.push_back((id.clone(), Row { seconds: Some(seconds), ..row }));
    }

    /// What is known of it.
    pub fn show(&self, id: &RequestId, now_ms: u64) -> Option<Value> {
        let table = self.table();
        let ended = || table.ended.iter().rev().find(|(ended, _)| ended == id).map(|(_, row)| row);
        let row = table.running.get(id).or_else(ended)?;
        let state = match (row.seconds, row.status) {
            (Some(_), Some(_)) => "ended",
            (Some(_), None) => "client gone",
            (None, Some(_)) => "answering",
            (None, None) => "under way",
        };
        let so_far = now_ms.saturating_sub(row.began_ms) as f64 / 1000.0;
        Some(json!({
            "request": id,
            "state": state,
            "handler": row.handler,
            "method": row.method,
            "began_unix_ms": row.began_ms,
            "status": row.status,
            "refused": row.refused,
            "seconds": row.seconds.unwrap_or(so_far),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_while_it_runs_and_for_a_while_after() {
        let recent = Recent::default();
        let id = |number: usize| RequestId::parse(&format!("r-{number}")).unwrap();
        recent.begin(&id(0), "upload", "PUT", 1000);
        assert_eq!(recent.show(&id(0), 3500).unwrap()["state"], "under way");
        assert_eq!(recent.show(&id(0), 3500).unwrap()["seconds"], 2.5);
        recent.refused(&id(0), "auth");
        recent.answered(&id(0), StatusCode::UNAUTHORIZED);
        assert_eq!(recent.show(&id(0), 0).unwrap()["state"], "answering");
        recent.end(&id(0), 0.25);
        let shown = recent.show(&id(0), 99_000).unwrap();
        assert_eq!((&shown["state"], &shown["status"]), (&json!("ended"), &json!(401)));
        assert_eq!((&shown["refused"], &shown["seconds"]), (&json!("auth"), &json!(0.25)));
        // However many come, the table stays as it is, and what runs is not pushed out.
        recent.begin(&id(1), "upload", "PUT", 0);
        for number in 2..RECENT_REQUESTS + 10 {
            recent.begin(&id(number), "other", "GET", 0);
            recent.end(&id(number), 0.0);
        }
        assert!(recent.show(&id(0), 0).is_none());
        assert_eq!(recent.show(&id(1), 0).unwrap()["state"], "under way");
        assert_eq!(recent.show(&id(RECENT_REQUESTS), 0).unwrap()["state"], "client gone");
        let table = recent.table();
        assert_eq!((table.running.len(), table.ended.len()), (1, RECENT_REQUESTS));
    }
}
