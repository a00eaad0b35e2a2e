//! The policy in force, and how it is swapped.
//!
//! **Invariant:** one at a time builds a policy and puts it in force, from the newest of both halves; so of two changes
//! that run at once neither undoes the other. A change of access that cannot be read back closes the store to everybody.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Mutex;

use crate::ledger::access::Book;
use crate::ledger::{CorruptError, LedgerUnavailable, Reader};
use crate::policy::{HostRules, Policy};

/// Holds the policy that requests are judged by.
#[derive(Debug)]
pub struct PolicyInForce {
    current: ArcSwap<Policy>,
    /// Held while one is built.
    building: Mutex<()>,
}

impl PolicyInForce {
    /// At a start: the host's rules, and what the ledger holds.
    pub fn open(rules: HostRules, reader: &Reader) -> Result<PolicyInForce, CorruptError> {
        let book = Book::read(&reader.snapshot()?)?;
        let policy = Policy::new(Arc::new(rules), Arc::new(book));
        Ok(PolicyInForce { current: ArcSwap::from_pointee(policy), building: Mutex::new(()) })
    }

    /// For a look.
    pub fn load(&self) -> Guard<Arc<Policy>> {
        self.current.load()
    }

    /// For a whole request: whatever changes meanwhile.
    pub fn load_full(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// Other rules of the host.
    pub async fn swap_rules(&self, rules: HostRules) {
        let _one_at_a_time = self.building.lock().await;
        let book = Arc::clone(self.load().book());
        self.current.store(Arc::new(Policy::new(Arc::new(rules), book)));
    }

    /// Takes in what the ledger holds now.
    pub async fn follow(&self, reader: &Reader) -> Result<(), LedgerUnavailable> {
        let _one_at_a_time = self.building.lock().await;
        let reader = reader.clone();
        let reading = tokio::task::spawn_blocking(move || Book::read(&reader.snapshot()?)).await;
        let (book, result) = match reading {
            Ok(Ok(book)) => (book, Ok(())),
            Ok(Err(error)) => {
                tracing::error!(%error, "read who may do what: the store is closed to everybody");
                (Book::default(), Err(LedgerUnavailable))
            }
            // Only a runtime that ends cancels it, or a panic that has been told.
            Err(_) => (Book::default(), Err(LedgerUnavailable)),
        };
        let rules = Arc::clone(self.load().rules());
        self.current.store(Arc::new(Policy::new(rules, Arc::new(book))));
        result
    }
}
