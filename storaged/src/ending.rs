//! The end of the ledger and of the keys, in order.
//!
//! **Invariant:** a database is closed by whoever lets go of it last, and a process that ends in the middle of that leaves it
//! to be repaired by the next start, which reads all of it. So whoever has [`Databases`] is the last.

use std::sync::Arc;
use std::thread::JoinHandle;

use redb::Database;

use crate::keys::Keys;
use crate::limits::{CLOSE_PATIENCE, CLOSE_STEP};

/// What a store has open beside its volumes.
#[derive(Debug)]
pub struct Databases {
    pub(crate) writer: JoinHandle<()>,
    pub(crate) ledger: Arc<Database>,
    pub(crate) keys: Arc<Keys>,
}

impl Databases {
    /// Closes both. Nothing may ask the store any more: the ledger's thread ends with the last handle on it.
    pub fn close(self) {
        let Databases { writer, ledger, keys } = self;
        if writer.join().is_err() {
            tracing::error!("the ledger's thread panicked");
        }
        close("the ledger", ledger);
        close("the keys", keys);
    }
}

/// Others may be about to let go: a volume's thread at the end of its job, the journal's thread on a disk that hangs.
fn close<T>(name: &'static str, database: Arc<T>) {
    let mut patience = CLOSE_PATIENCE;
    while Arc::strong_count(&database) > 1 && !patience.is_zero() {
        std::thread::sleep(CLOSE_STEP);
        patience = patience.saturating_sub(CLOSE_STEP);
    }
    if Arc::into_inner(database).is_none() {
        tracing::warn!(name, "is still being read at the end, so the next start has to repair it");
    }
}
