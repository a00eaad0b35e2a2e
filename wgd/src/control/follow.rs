//! Events for operators who watch: the admin verb `events`.
//!
//! Invariant: an operator who does not read loses events and is told how many; nobody waits for one.
use crate::limits;
use daemon::admin::{AdminError, Replies};
use serde_json::{Value, json};
use tokio::sync::broadcast::{Sender, error::RecvError};

/// Where those who watch hear of events, as JSON.
pub(crate) type Watched = Sender<Value>;

/// Sends each event as an item until the caller or the daemon goes. An item of `null` says that nothing happened.
pub(super) async fn events(watched: &Watched, out: &mut Replies) -> Result<Value, AdminError> {
    let mut events = watched.subscribe();
    let mut beat = tokio::time::interval(limits::FOLLOW_BEAT);
    loop {
        let item = tokio::select! {
            () = out.closed() => return Ok(Value::Null),
            event = events.recv() => match event {
                Ok(event) => event,
                Err(RecvError::Lagged(count)) => json!({ "what": "missed", "count": count }),
                Err(RecvError::Closed) => return Ok(Value::Null),
            },
            _ = beat.tick() => Value::Null,
        };
        if out.item(item).await.is_err() || out.flush().await.is_err() {
            return Ok(Value::Null);
        }
    }
}
