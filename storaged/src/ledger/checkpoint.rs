//! What the log says of itself, signed.
//!
//! **Invariant:** a checkpoint is signed over the tree of a transaction, lies in that transaction, and is
//! shown to nobody before it is durable.

use receipt::checkpoint::{Checkpoint, SignedCheckpoint};
use receipt::merkle::Edge;
use receipt::note::{LogKey, LogSigner};
use redb::ReadableTable;

use crate::keys::{KeyStore, StorePurpose};
use crate::ledger::tables::{CorruptError, META_CHECKPOINT, StoreId};

/// Signs for one store.
pub(crate) struct Signer(LogSigner);

impl Signer {
    pub(crate) fn new(store: StoreId, keys: &dyn KeyStore) -> Result<Signer, CorruptError> {
        let seed = keys.store_key(StorePurpose::Log);
        LogSigner::from_seed(&origin(store), seed.as_bytes()).map(Signer).map_err(sign_error)
    }

    pub(crate) fn sign(&self, edge: &Edge, epoch: u64) -> Result<SignedCheckpoint, CorruptError> {
        let origin = self.0.name().to_owned();
        let checkpoint = Checkpoint { origin, size: edge.size(), root: edge.root(), epoch };
        checkpoint.sign(&self.0).map_err(sign_error)
    }

    pub(crate) fn log_key(&self) -> LogKey {
        self.0.log_key()
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.0.name()).finish()
    }
}

/// The name of a store's log.
pub fn origin(store: StoreId) -> String {
    format!("culvert/{store}")
}

/// The public key that a store's checkpoints are signed with.
pub fn log_key(store: StoreId, keys: &dyn KeyStore) -> Result<LogKey, CorruptError> {
    Signer::new(store, keys).map(|signer| signer.log_key())
}

/// The stored checkpoint.
pub(crate) fn read(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<SignedCheckpoint, CorruptError> {
    let stored = meta.get(META_CHECKPOINT)?.ok_or_else(|| CorruptError::Row("no checkpoint".into()))?;
    let text = std::str::from_utf8(stored.value()).map_err(damaged)?;
    SignedCheckpoint::parse(text).map_err(damaged)
}

/// Checks that the stored checkpoint is of this log and over exactly this tree.
pub(crate) fn check(stored: &SignedCheckpoint, key: &LogKey, edge: &Edge) -> Result<(), CorruptError> {
    let checkpoint = stored.verify(key).map_err(damaged)?;
    if (checkpoint.size, checkpoint.root) != (edge.size(), edge.root()) {
        return Err(damaged(format!(
            "it is over {} records with the head {}, and there are {} with the head {}",
            checkpoint.size,
            checkpoint.root,
            edge.size(),
            edge.root()
        )));
    }
    Ok(())
}

fn damaged(error: impl std::fmt::Display) -> CorruptError {
    CorruptError::Row(format!("the checkpoint: {error}"))
}

fn sign_error(error: impl std::fmt::Display) -> CorruptError {
    CorruptError::Sign(error.to_string())
}
