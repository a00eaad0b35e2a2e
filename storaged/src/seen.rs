//! On which day each token was last shown.
//!
//! **Invariant:** the ledger is told once a day and token, so that a busy token costs nothing; what it is not told in time
//! it is told with the next request. It decides nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use store_proto::FileId;

use crate::ledger::{Ledger, access};
use crate::limits::{TOKENS_PER_USER, USERS};

/// What the ledger was told already.
#[derive(Debug, Default)]
pub struct Seen {
    days: Mutex<HashMap<FileId, u32>>,
}

impl Seen {
    /// Notes that a token was shown.
    pub async fn note(&self, token: FileId, now_ms: u64, ledger: &Ledger) {
        let Ok(day) = u32::try_from(now_ms / 86_400_000) else { return };
        {
            let mut days = self.days.lock().unwrap_or_else(PoisonError::into_inner);
            if days.get(&token) == Some(&day) {
                return;
            }
            if days.len() >= USERS * TOKENS_PER_USER {
                days.clear();
            }
            days.insert(token, day);
        }
        // A ledger that cannot take it refuses what the token is shown for, too.
        if ledger.submit(access::Command::TokenSeen { token, day }).await.is_err() {
            self.days.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
        }
    }
}
