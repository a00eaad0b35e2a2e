//! Lock-outs and rates on their way to storaged's ledger, lock-outs also back after a restart: edge itself keeps nothing.
//!
//! **Invariant:** nobody waits for it: a lock-out holds from its own moment on, is told when storaged can be
//! reached, and of more than fit into the queue the newest is told to the log alone.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::Full;
use store_proto::headers::X_INTERNAL_KEY;
use store_proto::{Lockout, Lockouts, routes};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

use crate::limits::{LOCKOUTS_QUEUED, PERMISSION_TIMEOUT, PROBE_INTERVAL};
use crate::request::Edge;
use crate::store_client::Collected;
use crate::stream::Outgoing;
use crate::upstream::Upstream;

/// What is still to be told.
#[derive(Debug)]
pub struct Untold {
    sender: Sender<Lockout>,
    receiver: Mutex<Option<Receiver<Lockout>>>,
}

impl Default for Untold {
    fn default() -> Self {
        let (sender, receiver) = channel(LOCKOUTS_QUEUED);
        Untold { sender, receiver: Mutex::new(Some(receiver)) }
    }
}

impl Untold {
    /// To be told as soon as storaged can be reached.
    pub fn add(&self, lockout: Lockout) {
        if self.sender.try_send(lockout).is_err() {
            tracing::warn!("a lock-out or rate is not in storaged's ledger: too many wait to be told");
        }
    }
}

/// Reads back what one storaged knows to hold, then tells it what comes. Runs until the runtime ends; once for each.
pub async fn mirror(edge: Arc<Edge>, upstream: Arc<Upstream>) -> io::Result<()> {
    let receiver = upstream.untold.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut receiver) = receiver else { return Err(io::Error::other("lock-outs are mirrored already")) };
    let standing = until(|| read(&edge, &upstream)).await;
    let (now, now_ms) = (edge.clock.now(), edge.clock.unix_milliseconds());
    for lockout in &standing {
        edge.gate.restore(lockout, now, now_ms);
    }
    if !standing.is_empty() {
        tracing::info!(lockouts = standing.len(), "lock-outs from before the start hold again");
    }
    while let Some(lockout) = receiver.recv().await {
        until(|| tell(&edge, &upstream, &lockout)).await;
    }
    Ok(())
}

/// Tries until it works, once a second.
async fn until<T, F: Future<Output = Option<T>>>(mut tried: impl FnMut() -> F) -> T {
    loop {
        if let Some(done) = tried().await {
            return done;
        }
        sleep(PROBE_INTERVAL).await;
    }
}

async fn read(edge: &Edge, upstream: &Upstream) -> Option<Vec<Lockout>> {
    let collected = ask(edge, upstream, Method::GET, Bytes::new()).await?;
    let lockouts = (collected.head.status == StatusCode::OK)
        .then(|| serde_json::from_slice::<Lockouts>(&collected.body).ok())
        .flatten();
    collected.settle().await;
    lockouts.map(|told| told.lockouts)
}

async fn tell(edge: &Edge, upstream: &Upstream, lockout: &Lockout) -> Option<()> {
    let body = serde_json::to_vec(lockout).unwrap_or_default();
    let collected = ask(edge, upstream, Method::POST, body.into()).await?;
    let status = collected.head.status;
    collected.settle().await;
    // What is refused as malformed is refused the next time too.
    (status == StatusCode::CREATED || status == StatusCode::BAD_REQUEST).then_some(())
}

async fn ask(edge: &Edge, upstream: &Upstream, method: Method, body: Bytes) -> Option<Collected> {
    if !upstream.is_up() {
        return None;
    }
    let live = edge.live.load_full();
    let request = || {
        upstream
            .store
            .request(method.clone(), routes::LOCKOUTS)
            .header(X_INTERNAL_KEY, &live.internal_key)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Outgoing::Message(Full::new(body.clone())))
    };
    let asked = async { upstream.store.ask(request).await?.collect().await };
    timeout(PERMISSION_TIMEOUT, asked).await.ok()?.ok()
}
