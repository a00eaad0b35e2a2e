//! Asks storaged for its newest checkpoint and for the proof that it continues the one before.

use http::{Method, StatusCode};
use store_proto::headers::CULVERT_LOG_KEY;
use store_proto::{ConsistencyProof, routes};
use tokio::time::timeout;

use super::{Fault, Next, Witness};
use crate::limits::PERMISSION_TIMEOUT;
use crate::request::Edge;
use crate::store::Store;
use crate::store_client::Collected;
use crate::upstream::Upstream;

impl Witness {
    /// Looks once, unless a look is under way. An answer that does not come changes nothing: that storaged is there is
    /// the circuit's concern.
    pub async fn look(edge: &Edge, upstream: &Upstream) {
        let witness = &upstream.witness;
        let Ok(_asking) = witness.asking.try_lock() else { return };
        let before = witness.standing().fault;
        let Some(result) = ask(witness, &upstream.store).await else { return };
        let standing = witness.standing();
        if let Some(seen) = &standing.seen {
            let size = i64::try_from(seen.unverified().size).unwrap_or(i64::MAX);
            edge.metrics.log_records.with_label_values(&[&upstream.name]).set(size);
        }
        edge.metrics.log_refused.with_label_values(&[&upstream.name]).set(i64::from(witness.refuses()));
        match (result, before) {
            (Err(fault), before) => {
                edge.metrics.log_faults.with_label_values(&[fault.label()]).inc();
                if before.as_ref() != Some(&fault) {
                    tracing::error!(upstream = upstream.name, %fault, "THE STORE SHOWS ANOTHER HISTORY than before: uploads are refused");
                }
            }
            (Ok(()), Some(_)) => tracing::info!(
                upstream = upstream.name,
                "the store shows its first history again: uploads are taken"
            ),
            (Ok(()), None) => {}
        }
    }
}

/// `None`: there is no answer to judge.
async fn ask(witness: &Witness, store: &Store) -> Option<Result<(), Fault>> {
    let collected = get(store, routes::LEDGER_CHECKPOINT).await?;
    let named_key = collected.head.headers.get(CULVERT_LOG_KEY).and_then(|value| value.to_str().ok());
    let named_key = named_key.map(str::to_owned);
    let note = String::from_utf8_lossy(&collected.body).into_owned();
    collected.settle().await;
    match witness.offer(&note, named_key.as_deref()) {
        Err(fault) => Some(Err(fault)),
        Ok(Next::Nothing) => Some(Ok(())),
        Ok(Next::Adopted) => {
            let standing = witness.standing();
            let (key, seen) = (standing.key?, standing.seen?);
            tracing::info!(
                log_key = %key,
                records = seen.unverified().size,
                "adopted the store's log as it is now; log_key and checkpoint_floor_file would have said which"
            );
            Some(Ok(()))
        }
        Ok(Next::Prove(growth)) => {
            let collected = get(store, &routes::ledger_consistency(growth.from, growth.to)).await?;
            let proof = serde_json::from_slice::<ConsistencyProof>(&collected.body);
            collected.settle().await;
            // A proof that cannot be read is as good as none, and proves nothing.
            Some(witness.prove(growth, &proof.map(|proof| proof.hashes).unwrap_or_default()))
        }
    }
}

async fn get(store: &Store, path: &str) -> Option<Collected> {
    let request = || store.request(Method::GET, path).body(crate::store::empty());
    let asked = async { store.ask(request).await?.collect().await };
    match timeout(PERMISSION_TIMEOUT, asked).await {
        Ok(Ok(collected)) if collected.head.status == StatusCode::OK => Some(collected),
        Ok(Ok(collected)) => {
            tracing::debug!(status = collected.head.status.as_u16(), "storaged does not show its log");
            collected.settle().await;
            None
        }
        Ok(Err(_)) | Err(_) => None,
    }
}
